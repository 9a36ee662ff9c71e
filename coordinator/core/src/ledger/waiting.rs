//! Who waits for a slot, oldest first, arranged so that full scopes cost nothing to pass over.
//!
//! Owns [`Waiting`]. Claims with the same campaign, stage, tier, site and cluster form a class: a class that is full
//! is skipped as a whole. Claims whose group is full, or that cannot start for reasons of their own, are parked
//! until that changes. Main invariant: a claim is ready, parked by its group, or parked by itself: exactly one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use lunar_common::health::Verdict;
use lunar_common::ids::{CampaignId, ClusterId, GroupId, ServerId, SiteId};
use lunar_common::limits::Tier;
use lunar_common::time::Moment;

use crate::event::{Member, Task};
use crate::ledger::places::Places;

/// One claim that waits: a server waits at most once in each campaign.
pub(crate) type Key = (ServerId, CampaignId);

/// Claims that are admitted or held back together by every limit but their group's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Class {
    pub(crate) campaign: CampaignId,
    /// The place of their stage in the plan.
    pub(crate) stage: u16,
    pub(crate) tier: Tier,
    pub(crate) site: SiteId,
    pub(crate) cluster: ClusterId,
}

impl Class {
    pub(crate) fn of(campaign: &CampaignId, stage: u16, member: &Member) -> Self {
        Self {
            campaign: campaign.clone(),
            stage,
            tier: member.tier,
            site: member.site.clone(),
            cluster: member.cluster.clone(),
        }
    }
}

/// A claim that waits, as last sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its place: lower waited longer.
    pub(crate) place: u64,
    pub(crate) task: Task,
    pub(crate) class: Class,
    pub(crate) group: Option<GroupId>,
    /// The newest sending of the claim.
    pub(crate) nonce: u64,
    /// When that arrived.
    pub(crate) claimed: Moment,
    /// When its first sending in this life of the coordinator arrived.
    pub(crate) since: Moment,
    pub(crate) verdict: Verdict,
    parked: Parked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parked {
    Ready,
    ByGroup,
    ByItself,
}

/// The claims that wait.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    entries: BTreeMap<Key, Entry>,
    order: BTreeMap<u64, Key>,
    /// The same by stage: those behind a shut gate may be thousands, and are passed over at once.
    stages: BTreeMap<(CampaignId, u16), BTreeSet<u64>>,
    ready: BTreeMap<Class, BTreeSet<u64>>,
    /// The same by campaign, stage and tier alone.
    ready_in_tier: BTreeMap<(CampaignId, u16, Tier), Places>,
    /// The places of all.
    places: Places,
    by_group: BTreeMap<GroupId, BTreeSet<Key>>,
    /// How many are parked by themselves: mostly none, and then no report need look.
    by_itself: usize,
}

/// What a claim brings.
#[derive(Debug, Clone)]
pub(crate) struct Sending {
    pub(crate) nonce: u64,
    pub(crate) at: Moment,
    pub(crate) verdict: Verdict,
}

impl Waiting {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(crate) fn count_in(&self, campaign: &CampaignId) -> usize {
        self.entries.keys().filter(|(_, of)| of == campaign).count()
    }

    /// Takes a claim in, ready, at its place. An older sending than the one known changes nothing.
    pub(crate) fn put(&mut self, member: &Member, class: Class, task: Task, place: u64, sending: Sending) {
        let key = (member.server.clone(), task.campaign.clone());
        let mut since = sending.at;
        if let Some(known) = self.entries.get_mut(&key)
            && known.task == task
        {
            if known.nonce >= sending.nonce {
                return;
            }
            if known.place == place && known.class == class {
                (known.nonce, known.claimed, known.verdict) = (sending.nonce, sending.at, sending.verdict);
                if known.parked != Parked::Ready {
                    self.park(&key, Parked::Ready);
                }
                return;
            }
            since = known.since;
        }
        self.remove(&key);
        self.list(&class, place);
        self.order.insert(place, key.clone());
        self.stages.entry((class.campaign.clone(), class.stage)).or_default().insert(place);
        self.places.insert(place);
        let entry = Entry {
            place,
            task,
            class,
            group: member.group.clone(),
            nonce: sending.nonce,
            claimed: sending.at,
            since,
            verdict: sending.verdict,
            parked: Parked::Ready,
        };
        self.entries.insert(key, entry);
    }

    pub(crate) fn remove(&mut self, key: &Key) {
        let Some(entry) = self.entries.remove(key) else { return };
        self.order.remove(&entry.place);
        let stage = (entry.class.campaign.clone(), entry.class.stage);
        if let Some(places) = self.stages.get_mut(&stage) {
            places.remove(&entry.place);
            if places.is_empty() {
                self.stages.remove(&stage);
            }
        }
        self.places.remove(entry.place);
        self.unlist(key, &entry);
    }

    /// Forgets every claim of a server: its place in the fleet has changed, or it is out.
    pub(crate) fn remove_server(&mut self, server: &ServerId) {
        for key in self.keys_of(server) {
            self.remove(&key);
        }
    }

    /// Forgets every claim of a campaign: its plan has changed.
    pub(crate) fn remove_campaign(&mut self, campaign: &CampaignId) {
        let keys: Vec<Key> = self.entries.keys().filter(|(_, of)| of == campaign).cloned().collect();
        for key in keys {
            self.remove(&key);
        }
    }

    /// Whether a claim is looked at when there is room, or set aside: by its group, or by itself.
    pub(crate) fn is_aside(&self, key: &Key) -> (bool, bool) {
        let parked = self.entries.get(key).map(|entry| entry.parked);
        (parked == Some(Parked::ByGroup), parked == Some(Parked::ByItself))
    }

    /// The oldest ready claim of each class that has any, in the order of the classes.
    pub(crate) fn heads(&self) -> impl Iterator<Item = (&Class, u64)> {
        self.ready.iter().filter_map(|(class, places)| places.first().map(|place| (class, *place)))
    }

    /// The oldest ready claim of a class from a place on.
    pub(crate) fn head_from(&self, class: &Class, place: u64) -> Option<u64> {
        self.ready.get(class)?.range(place..).next().copied()
    }

    pub(crate) fn at(&self, place: u64) -> Option<(&Key, &Entry)> {
        let key = self.order.get(&place)?;
        self.entries.get(key).map(|entry| (key, entry))
    }

    /// All claims, oldest first, parked ones included.
    #[cfg(test)]
    pub(crate) fn oldest(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.order.values().filter_map(|key| self.entries.get(key).map(|entry| (key, entry)))
    }

    /// How many ready claims of a class's campaign, stage and tier wait before a place.
    pub(crate) fn ready_before(&self, place: u64, class: &Class) -> usize {
        let of_tier = self.ready_in_tier.get(&(class.campaign.clone(), class.stage, class.tier));
        of_tier.map_or(0, |places| places.before(place))
    }

    /// How many wait before a place, parked ones included.
    pub(crate) fn before(&self, place: u64) -> usize {
        self.places.before(place)
    }

    /// The oldest claims of the stages that are open, but for paused ones, oldest first, parked ones included.
    pub(crate) fn oldest_in_open(
        &self,
        is_open: impl Fn(&CampaignId, u16) -> bool,
        is_paused: impl Fn(&Class) -> bool,
        count: usize,
    ) -> impl Iterator<Item = (&Key, &Entry)> {
        let open = self.stages.iter().filter(|((campaign, stage), _)| is_open(campaign, *stage));
        let goes_on = |place: &&u64| self.at(**place).is_some_and(|(_, entry)| !is_paused(&entry.class));
        let mut places: Vec<u64> =
            open.flat_map(|(_, places)| places.iter().filter(goes_on).take(count)).copied().collect();
        places.sort_unstable();
        places.truncate(count);
        places.into_iter().filter_map(|place| self.at(place))
    }

    /// Sets a claim aside until its group has room.
    pub(crate) fn park_by_group(&mut self, key: &Key) {
        self.park(key, Parked::ByGroup);
    }

    /// Sets a claim aside until there is news of its server.
    pub(crate) fn park_by_itself(&mut self, key: &Key) {
        self.park(key, Parked::ByItself);
    }

    fn park(&mut self, key: &Key, parked: Parked) {
        let Some(mut entry) = self.entries.remove(key) else { return };
        self.unlist(key, &entry);
        entry.parked = parked;
        match (parked, &entry.group) {
            (Parked::Ready, _) => {
                self.list(&entry.class, entry.place);
            }
            (Parked::ByGroup, Some(group)) => {
                self.by_group.entry(group.clone()).or_default().insert(key.clone());
            }
            (Parked::ByGroup, None) => unreachable!("only a group's member is parked by its group"),
            (Parked::ByItself, _) => self.by_itself += 1,
        }
        self.entries.insert(key.clone(), entry);
    }

    /// A group has room: its members are ready again.
    pub(crate) fn wake_group(&mut self, group: &GroupId) {
        for key in self.by_group.get(group).cloned().unwrap_or_default() {
            self.park(&key, Parked::Ready);
        }
    }

    /// Limits have changed: whoever was parked by a group is ready again.
    pub(crate) fn wake_groups(&mut self) {
        let groups: Vec<GroupId> = self.by_group.keys().cloned().collect();
        for group in groups {
            self.wake_group(&group);
        }
    }

    /// There is news of a server: its claims are ready again. Whether any was parked by itself.
    pub(crate) fn wake_server(&mut self, server: &ServerId) -> bool {
        let mut woken = false;
        if self.by_itself == 0 {
            return woken;
        }
        for key in self.keys_of(server) {
            if self.entries.get(&key).is_some_and(|entry| entry.parked == Parked::ByItself) {
                self.park(&key, Parked::Ready);
                woken = true;
            }
        }
        woken
    }

    /// Anything may have changed: whoever was parked by itself is ready again. Whether any was.
    pub(crate) fn wake_all(&mut self) -> bool {
        let parked = self.entries.iter().filter(|(_, entry)| entry.parked == Parked::ByItself);
        let keys: Vec<Key> = parked.map(|(key, _)| key.clone()).collect();
        for key in &keys {
            self.park(key, Parked::Ready);
        }
        !keys.is_empty()
    }

    fn keys_of(&self, server: &ServerId) -> Vec<Key> {
        let from = self.entries.range((server.clone(), LOWEST_CAMPAIGN.clone())..);
        from.map(|(key, _)| key).take_while(|(of, _)| of == server).cloned().collect()
    }

    fn list(&mut self, class: &Class, place: u64) {
        self.ready.entry(class.clone()).or_default().insert(place);
        self.ready_in_tier
            .entry((class.campaign.clone(), class.stage, class.tier))
            .or_default()
            .insert(place);
    }

    fn unlist(&mut self, key: &Key, entry: &Entry) {
        match (entry.parked, &entry.group) {
            (Parked::Ready, _) => {
                if let Some(places) = self.ready.get_mut(&entry.class) {
                    places.remove(&entry.place);
                    if places.is_empty() {
                        self.ready.remove(&entry.class);
                    }
                }
                let of_tier = (entry.class.campaign.clone(), entry.class.stage, entry.class.tier);
                if let Some(places) = self.ready_in_tier.get_mut(&of_tier) {
                    places.remove(entry.place);
                    if places.is_empty() {
                        self.ready_in_tier.remove(&of_tier);
                    }
                }
            }
            (Parked::ByGroup, Some(group)) => {
                if let Some(keys) = self.by_group.get_mut(group) {
                    keys.remove(key);
                    if keys.is_empty() {
                        self.by_group.remove(group);
                    }
                }
            }
            (Parked::ByGroup, None) => {}
            (Parked::ByItself, _) => self.by_itself -= 1,
        }
    }
}

/// A campaign id that sorts before every other: ids begin with a letter or a digit, and `0` is the first.
static LOWEST_CAMPAIGN: LazyLock<CampaignId> = LazyLock::new(|| CampaignId::new("0").expect("0 is an id"));
