//! Who waits for whom, server by server: a fold of the log.
//!
//! Owns [`Order`]. Main invariant: for each rule and place, those waited for are just the servers that it names, that
//! are not on the new version and not written off; they leave the set when that changes and come back when it changes
//! back. Refuses to know of stages and slots.

use std::collections::{BTreeMap, BTreeSet};

use lunar_common::ids::{CampaignId, ClusterId, GroupId, ServerId, SiteId};
use lunar_common::lease::WaitReason;
use lunar_common::plan::Within;

use crate::campaign::rules::OrderTerms;
use crate::campaign::stage::Candidate;
use crate::coordinator::Coordinator;
use crate::event::Member;
use crate::ledger::Obstacle;

/// One rule at one place.
type Instance = (u16, Near);

/// The place within which a rule holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Near {
    Campaign,
    Cluster(ClusterId),
    Group(GroupId),
    Site(SiteId),
}

/// The order of one plan's servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Order {
    rules: Vec<OrderTerms>,
    /// Those that are waited for.
    pending: BTreeMap<Instance, BTreeSet<ServerId>>,
    /// Those that wait for them.
    waiters: BTreeMap<Instance, BTreeSet<ServerId>>,
    servers: BTreeMap<ServerId, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    first: Vec<Instance>,
    waits: Vec<Instance>,
    completed: bool,
    written_off: bool,
}

impl Order {
    pub(crate) fn new(rules: Vec<OrderTerms>, servers: &[Candidate<'_>]) -> Self {
        let mut order = Self { rules, ..Self::default() };
        for server in servers {
            order.put(server, false);
        }
        order
    }

    /// A server joined, or its enrolment was replaced. What it has shown stays with the machine.
    pub(crate) fn admit(&mut self, server: &Candidate<'_>, selected: bool, same_machine: bool) {
        let known = self.servers.get(&server.member.server);
        let completed = known.is_some_and(|known| known.completed) && same_machine;
        self.remove(&server.member.server);
        if selected {
            self.put(server, completed);
        }
    }

    fn put(&mut self, server: &Candidate<'_>, completed: bool) {
        let (mut first, mut waits) = (Vec::new(), Vec::new());
        for (at, rule) in (0..).zip(&self.rules) {
            let Some(near) = near(rule.within, server.member) else { continue };
            if rule.after.matches(server.member) && rule.after_picks.matches(server.member, server.labels) {
                first.push((at, near));
            } else if rule.select.matches(server.member) && rule.picks.matches(server.member, server.labels) {
                waits.push((at, near));
            }
        }
        if first.is_empty() && waits.is_empty() {
            return;
        }
        let name = &server.member.server;
        for instance in &waits {
            self.waiters.entry(instance.clone()).or_default().insert(name.clone());
        }
        let entry = Entry { first, waits, completed, written_off: server.written_off };
        self.servers.insert(name.clone(), entry);
        self.count(name);
    }

    pub(crate) fn remove(&mut self, server: &ServerId) {
        let Some(entry) = self.servers.remove(server) else { return };
        for (instances, sets) in [(&entry.first, &mut self.pending), (&entry.waits, &mut self.waiters)] {
            for instance in instances {
                leave(sets, instance, server);
            }
        }
    }

    /// A server is on the new version.
    pub(crate) fn completed(&mut self, server: &ServerId) {
        if let Some(entry) = self.servers.get_mut(server) {
            entry.completed = true;
            self.count(server);
        }
    }

    /// A server was written off, or is back.
    pub(crate) fn write_off(&mut self, server: &ServerId, written_off: bool) {
        if let Some(entry) = self.servers.get_mut(server) {
            entry.written_off = written_off;
            self.count(server);
        }
    }

    fn count(&mut self, server: &ServerId) {
        let Some(entry) = self.servers.get(server) else { return };
        for instance in &entry.first {
            if entry.completed || entry.written_off {
                leave(&mut self.pending, instance, server);
            } else {
                self.pending.entry(instance.clone()).or_default().insert(server.clone());
            }
        }
    }

    /// The first rule that keeps a server waiting, and for whom.
    pub(crate) fn waits(&self, server: &ServerId) -> Option<(u16, &BTreeSet<ServerId>)> {
        let entry = self.servers.get(server)?;
        entry.waits.iter().find_map(|instance| Some((instance.0, self.pending.get(instance)?)))
    }

    /// Whether a server's word that it is on the new version would free others.
    pub(crate) fn awaits_word(&self, server: &ServerId) -> bool {
        self.servers.get(server).is_some_and(|entry| !entry.completed && !entry.first.is_empty())
    }

    /// What a rule says, in words.
    pub(crate) fn told(&self, rule: u16) -> &str {
        &self.rules[usize::from(rule)].told
    }

    /// Those that waited for a server and for nobody else by the same rule.
    pub(crate) fn freed_by(&self, server: &ServerId) -> impl Iterator<Item = &ServerId> {
        let first = self.servers.get(server).into_iter().flat_map(|entry| &entry.first);
        first
            .filter(|instance| !self.pending.contains_key(*instance))
            .filter_map(|instance| self.waiters.get(instance))
            .flatten()
    }
}

impl Coordinator {
    /// The rule that keeps a server waiting, if one does.
    pub(crate) fn obstacle_of_order(&self, campaign: &CampaignId, server: &ServerId) -> Option<Obstacle> {
        let order = self.state.campaigns.get(campaign)?.order.as_ref()?;
        order.waits(server).map(|_| Obstacle::Order)
    }

    pub(crate) fn explain_order(&self, campaign: &CampaignId, server: &ServerId) -> WaitReason {
        let order = self.state.campaigns.get(campaign).and_then(|found| found.order.as_ref());
        match order.and_then(|order| Some((order, order.waits(server)?))) {
            Some((order, (rule, pending))) => WaitReason::Order {
                rule: order.told(rule).to_owned(),
                pending: u32::try_from(pending.len()).unwrap_or(u32::MAX),
                first: pending.iter().take(FIRST_NAMED).cloned().collect(),
            },
            None => WaitReason::Behind { ahead: 0 },
        }
    }

    /// Something about a server has changed that others may have waited for.
    pub(crate) fn wake_those_behind(&mut self, server: &ServerId) {
        let orders = self.state.campaigns.values().filter_map(|campaign| campaign.order.as_ref());
        let freed: Vec<ServerId> = orders.flat_map(|order| order.freed_by(server)).cloned().collect();
        for server in freed {
            self.room |= self.waiting.wake_server(&server);
        }
    }

    /// A server left, or moved: whoever waited for it is not named by it any more.
    pub(crate) fn wake_everyone_in_order(&mut self) {
        if self.state.campaigns.values().any(|campaign| campaign.order.is_some()) {
            self.room |= self.waiting.wake_all();
        }
    }
}

/// Servers named in one explanation.
const FIRST_NAMED: usize = 5;

fn leave(sets: &mut BTreeMap<Instance, BTreeSet<ServerId>>, instance: &Instance, server: &ServerId) {
    if let Some(servers) = sets.get_mut(instance) {
        servers.remove(server);
        if servers.is_empty() {
            sets.remove(instance);
        }
    }
}

/// The place of a member for a rule; `None`: it has none, and the rule is not for it.
fn near(within: Option<Within>, member: &Member) -> Option<Near> {
    match within {
        None => Some(Near::Campaign),
        Some(Within::Cluster) => Some(Near::Cluster(member.cluster.clone())),
        Some(Within::Group) => member.group.clone().map(Near::Group),
        Some(Within::Site) => Some(Near::Site(member.site.clone())),
    }
}
