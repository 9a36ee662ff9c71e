//! One artifact's swarm, as one agent sees it.
//!
//! Owns [`Artifact`]: its members, what each said it has and is taking, and the picker they feed. Main
//! invariant: a member's copies are in the picker's counters exactly while that member can be counted on, and its
//! takings exactly while it is connected, reliable and not silent; both change through `reconsider` only.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lunar_common::have_set::HaveSet;
use lunar_common::ids::{ArtifactId, PeerKey, SiteId};
use lunar_common::message::BytesBySource;
use lunar_common::time::Moment;

use super::config::Config;
use super::duty::Duty;
use super::input::Word;
use super::peers::{Class, Link, Peer};
use super::picker::{Picker, Rules};

/// The number that stands for the manifest where duties are drawn: no chunk has it.
pub(super) const MANIFEST: u32 = u32::MAX;

/// The longest between two new chunks that counts as moving: several times what one takes on a slow link.
const STANDS_STILL: Duration = Duration::from_secs(10);

/// How often the time for which a chunk from Earth waits for a taker is doubled at most.
const UNSPREAD_DOUBLINGS_MAX: usize = 5;

/// Where the manifest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ManifestState {
    /// Nowhere near.
    Missing,
    /// Requested.
    UnderWay,
    /// Received; the pack is being opened.
    Received,
}

/// One member of the swarm, besides oneself.
#[derive(Debug, Clone, Default)]
pub(super) struct Membership {
    /// What it says it has; `None` until it says so, which it does once it has the manifest.
    pub(super) told: Option<HaveSet>,
    /// It said something since it is connected.
    pub(super) answered: bool,
    /// It owes chunks and says nothing.
    pub(super) silent: bool,
    /// Since when it is sought, to be heard.
    pub(super) sought_since: Option<Moment>,
    /// When it last said something.
    pub(super) last_said: Moment,
    /// It said that it is fetching things for others, and too many of them never came: neither its word on that nor its
    /// duty counts until one does.
    pub(super) idle: bool,
    taking: BTreeMap<u32, Said>,
    /// Chunks that it took and that never came, since the last that did.
    overdue: u32,
    copies_counted: bool,
    takings_counted: bool,
}

impl Membership {
    /// Whether it said that it is fetching something into its site or the fleet.
    pub(super) fn is_taking(&self) -> bool {
        !self.taking.is_empty()
    }
}

/// When a taking was said: by the clock, and by the one that runs only while chunks come from Earth.
#[derive(Debug, Clone, Copy)]
struct Said {
    at: Moment,
    moving: Duration,
}

/// How long chunks that nobody had before have been coming, in all. Between two of them at most [`STANDS_STILL`] counts:
/// this clock stands still in a blackout, in which nobody can be blamed for what does not come.
#[derive(Debug, Clone, Copy)]
struct Moving {
    whole: Duration,
    last: Moment,
}

/// One artifact's swarm.
#[derive(Debug, Clone)]
pub(super) struct Artifact {
    pub(super) duty: Duty,
    pub(super) members: BTreeMap<PeerKey, Membership>,
    /// Members that may be asked for what they have, so that choosing a source looks at no others.
    pub(super) sources: BTreeSet<PeerKey>,
    pub(super) manifest: ManifestState,
    /// Most bytes that the manifest has.
    pub(super) manifest_bytes: u32,
    pub(super) picker: Option<Picker>,
    /// Members to whom we listen, for as long as the connection stands; and whether to what they are taking, too.
    pub(super) listened: BTreeMap<PeerKey, bool>,
    /// The Earth link may be used: whoever may be fetching from there was heard, or had time to speak.
    pub(super) settled: bool,
    /// Since when those who should be heard first are waited for.
    pub(super) settling_since: Moment,
    /// There are other gateways than before: some of them may not have been heard yet.
    pub(super) gateways_changed: bool,
    pub(super) helping_oneself: bool,
    pub(super) last_received: Moment,
    /// When a chunk last came to anybody whom we hear.
    pub(super) last_moved: Moment,
    pub(super) received: BytesBySource,
    /// What members have heard that others are fetching, and until when that may be true.
    hearsay: BTreeMap<u32, (Moment, Said)>,
    /// What anybody was heard to be fetching, at first or at second hand, and until when that may be true: whoever
    /// begins to listen is told.
    heard: BTreeMap<u32, Moment>,
    /// Chunks whose fetching for others has just come to nothing: listeners are told, unless they are asked for again
    /// at once.
    pub(super) left: BTreeSet<u32>,
    /// Chunks that are here and that listeners were not told of.
    pub(super) untold: Vec<u32>,
    /// When the first of them came.
    pub(super) untold_since: Moment,
    /// Chunks that came from Earth and that nobody else was seen to have, and until when each holds its place.
    unspread: BTreeMap<u32, Moment>,
    moving: Moving,
    pub(super) complete: bool,
}

impl Artifact {
    /// An artifact that is wanted from now on.
    pub(super) fn new(
        artifact: ArtifactId,
        me: PeerKey,
        site: &SiteId,
        config: &Config,
        now: Moment,
    ) -> Self {
        Self {
            duty: Duty::new(artifact, me, site.clone(), config.gateways_per_site),
            members: BTreeMap::new(),
            sources: BTreeSet::new(),
            manifest: ManifestState::Missing,
            manifest_bytes: 0,
            picker: None,
            listened: BTreeMap::new(),
            settled: false,
            settling_since: now,
            gateways_changed: false,
            helping_oneself: false,
            last_received: now,
            last_moved: now,
            received: BytesBySource::default(),
            hearsay: BTreeMap::new(),
            heard: BTreeMap::new(),
            left: BTreeSet::new(),
            untold: Vec::new(),
            untold_since: now,
            unspread: BTreeMap::new(),
            moving: Moving { whole: Duration::ZERO, last: now },
            complete: false,
        }
    }

    /// The picker with the rules it needs, once there is one.
    pub(super) fn picking(&mut self) -> Option<(&mut Picker, Rules<'_>)> {
        let rules = Rules { duty: &self.duty, settled: self.settled, helping_oneself: self.helping_oneself };
        self.picker.as_mut().map(|picker| (picker, rules))
    }

    /// Whom one should hear: the site's gateways; and whoever fetches for others, or may ask Earth at all, also those
    /// that were gateways until lately or will be next, in every site: what they are fetching is not to be fetched
    /// again.
    pub(super) fn sought(&self) -> Vec<PeerKey> {
        let me = self.duty.me();
        if self.fetches_for_others() {
            self.duty.near_gateways().filter(|key| *key != me).collect()
        } else {
            self.duty.gateways_of_site().filter(|key| *key != me).collect()
        }
    }

    /// Whether one should hear what others are taking: whoever fetches for others, and whoever is next to.
    pub(super) fn wants_takings(&self) -> bool {
        let me = self.duty.me();
        self.fetches_for_others() || self.duty.near_gateways().any(|near| near == me)
    }

    /// How one should listen to a member from now on; `None`: as one does.
    pub(super) fn listens_anew(&mut self, key: &PeerKey) -> Option<bool> {
        let takings = self.wants_takings();
        if self.listened.get(key).is_some_and(|before| *before || !takings) {
            return None;
        }
        if self.listened.insert(*key, takings).is_some()
            && let Some(membership) = self.members.get_mut(key)
        {
            // What it says from now on begins with all that it is taking.
            membership.answered = false;
        }
        Some(takings)
    }

    fn fetches_for_others(&self) -> bool {
        self.duty.is_gateway(&self.duty.me()) || self.helping_oneself
    }

    /// Those who are sought because one may ask Earth, have not spoken, and may still do so.
    pub(super) fn unheard(&self, peers: &BTreeMap<PeerKey, Peer>) -> Vec<PeerKey> {
        if !self.fetches_for_others() {
            return Vec::new();
        }
        let mut sought = self.sought();
        sought.retain(|key| {
            let heard = |other: &Membership| other.answered && self.listened.get(key) == Some(&true);
            let speaks = |other: &Membership| !heard(other) && !other.silent;
            self.members.get(key).is_some_and(speaks) && peers.get(key).is_some_and(Peer::may_be_heard)
        });
        sought
    }

    /// Duties, or the right to use the Earth link, changed.
    pub(super) fn settle_all(&mut self) {
        if let Some((picker, rules)) = self.picking() {
            picker.settle_all(rules);
        }
    }

    /// The picker was made: everything that was said before is counted now. Tells which members spoke of
    /// another number of chunks than there are.
    pub(super) fn opened(&mut self, picker: Picker, peers: &BTreeMap<PeerKey, Peer>) -> Vec<PeerKey> {
        let chunks = picker.len();
        self.picker = Some(picker);
        self.hearsay.retain(|chunk, _| *chunk < chunks);
        let heard: Vec<u32> = self.hearsay.keys().copied().collect();
        self.count_hearsay(&heard, 1);
        self.settle_all();
        let mut liars = Vec::new();
        let keys: Vec<PeerKey> = self.members.keys().copied().collect();
        for key in keys {
            if let Some(membership) = self.members.get_mut(&key) {
                membership.taking.retain(|chunk, _| *chunk < chunks);
                if membership.told.as_ref().is_some_and(|told| told.chunks() != chunks) {
                    membership.told = None;
                    liars.push(key);
                }
            }
            if let Some(peer) = peers.get(&key) {
                self.reconsider(&key, peer);
            }
        }
        liars
    }

    /// A peer, or what it said, changed: counts it in or out, and gives or takes its duties.
    pub(super) fn reconsider(&mut self, key: &PeerKey, peer: &Peer) {
        let Some(membership) = self.members.get_mut(key) else { return };
        if peer.link != Link::Connected {
            membership.answered = false;
            self.listened.remove(key);
        }
        let live = peer.class != Class::Earth && !membership.silent && !membership.idle && peer.is_reliable();
        let source = self.picker.is_some() && peer.is_source() && membership.told.is_some();
        let copies = source && peer.is_counted();
        let takings = self.picker.is_some() && peer.link == Link::Connected && live;
        let duties_changed =
            if live { self.duty.add(*key, &peer.site) } else { self.duty.remove(key, &peer.site) };
        if duties_changed {
            self.gateways_changed = true;
            self.settle_all();
        }
        if source {
            self.sources.insert(*key);
        } else {
            self.sources.remove(key);
        }
        self.count_copies(key, peer.class, copies);
        self.count_takings(key, peer.class, takings);
    }

    /// A member goes: nothing of it counts any more.
    pub(super) fn remove_member(&mut self, key: &PeerKey, peer: &Peer) {
        self.count_copies(key, peer.class, false);
        self.count_takings(key, peer.class, false);
        self.sources.remove(key);
        self.members.remove(key);
        self.listened.remove(key);
        if self.duty.remove(key, &peer.site) {
            self.gateways_changed = true;
            self.settle_all();
        }
    }

    /// What a member said. `false`: it cannot be true.
    pub(super) fn said(&mut self, key: &PeerKey, peer: &Peer, word: Word, now: Moment) -> bool {
        let chunks = self.picker.as_ref().map(Picker::len);
        let membership = self.members.entry(*key).or_default();
        // Chunks alone change neither who counts as live nor whose copies are counted.
        let changes_little = membership.answered
            && !membership.silent
            && !membership.idle
            && membership.told.is_some()
            && !matches!(word, Word::HaveSet(_) | Word::Standing { .. });
        // What is said first on a stream is all that there is to say; what another stream had left behind is not it.
        membership.answered |= matches!(word, Word::Nothing | Word::HaveSet(_) | Word::Standing { .. });
        membership.silent = false;
        membership.last_said = now;
        if matches!(word, Word::Have(_) | Word::Haves(_)) {
            self.last_moved = now;
        }
        let known = chunks.or(membership.told.as_ref().map(HaveSet::chunks));
        let possible = match &word {
            Word::Nothing => true,
            Word::HaveSet(told) => chunks.is_none_or(|chunks| told.chunks() == chunks),
            Word::Standing { have, taking, heard } => {
                let mut named = taking.iter().chain(heard.iter().map(|(chunk, _)| chunk));
                chunks.is_none_or(|chunks| have.chunks() == chunks)
                    && named.all(|chunk| *chunk < have.chunks())
            }
            Word::Have(chunk) | Word::Taking(chunk) | Word::Left(chunk) => {
                known.is_none_or(|chunks| *chunk < chunks)
            }
            Word::Haves(new) => known.is_none_or(|chunks| new.iter().all(|chunk| *chunk < chunks)),
        };
        // Single chunks mean something only after a have-set; before it they are neither kept nor lies.
        if possible && (known.is_some() || matches!(word, Word::HaveSet(_) | Word::Standing { .. })) {
            match word {
                Word::Nothing => {}
                Word::HaveSet(have) => self.stands(key, peer.class, have, Vec::new(), now),
                Word::Standing { have, taking, .. } => self.stands(key, peer.class, have, taking, now),
                Word::Have(chunk) => self.has_now(key, peer.class, chunk, now),
                Word::Haves(chunks) => {
                    for chunk in chunks {
                        self.has_now(key, peer.class, chunk, now);
                    }
                }
                Word::Taking(chunk) => self.set_taking(key, peer.class, chunk, Some(now)),
                Word::Left(chunk) => self.set_taking(key, peer.class, chunk, None),
            }
        }
        if !changes_little {
            self.reconsider(key, peer);
        }
        possible
    }

    /// A member said all that there is to say of it. What it said before counts no more; what it says now will, once
    /// it is considered again.
    fn stands(&mut self, key: &PeerKey, class: Class, have: HaveSet, taking: Vec<u32>, now: Moment) {
        self.count_copies(key, class, false);
        self.count_takings(key, class, false);
        let said = Said { at: now, moving: self.moving.whole };
        let membership = self.members.entry(*key).or_default();
        // What it said before is as old as it was then.
        let before = std::mem::take(&mut membership.taking);
        let age = |chunk: u32| (chunk, before.get(&chunk).copied().unwrap_or(said));
        membership.taking = taking.into_iter().map(age).collect();
        membership.told = Some(have);
    }

    /// A member has one chunk more.
    fn has_now(&mut self, key: &PeerKey, class: Class, chunk: u32, now: Moment) {
        if let Some(membership) = self.members.get_mut(key)
            && membership.taking.contains_key(&chunk)
        {
            (membership.idle, membership.overdue) = (false, 0);
        }
        self.set_taking(key, class, chunk, None);
        let new =
            self.picker.as_ref().is_some_and(|picker| !picker.has_copies(chunk) && picker.is_idle(chunk));
        self.set_copy(key, class, chunk, true);
        if new && self.picker.as_ref().is_some_and(|picker| picker.has_copies(chunk)) {
            self.new_chunk(now);
        }
    }

    /// A chunk that nobody had before has come.
    fn new_chunk(&mut self, now: Moment) {
        self.moving.whole += now.since(self.moving.last).min(STANDS_STILL);
        self.moving.last = now;
    }

    /// Takings that should have become haves `within` a time in which chunks came from Earth are forgotten: whoever said
    /// them died, or says so of everything to keep others from it. Of whoever does that more than `often` in a row nothing of
    /// the kind is believed, and it has no duty, until it brings what it takes. One who helps itself, because nothing comes
    /// at all, goes by the clock if nothing ever came: that is not a blackout that cut off what came before.
    pub(super) fn forget_overdue(
        &mut self,
        peers: &BTreeMap<PeerKey, Peer>,
        within: Duration,
        often: u32,
        now: Moment,
    ) -> bool {
        let (moving, helping) = (self.moving.whole, self.helping_oneself);
        let is_overdue = |said: &Said, by_the_clock: bool| {
            moving.saturating_sub(said.moving) >= within || by_the_clock && now.since(said.at) >= within
        };
        let nothing_came = helping && moving == Duration::ZERO;
        let old = self.hearsay.iter().filter(|(_, (_, said))| is_overdue(said, nothing_came));
        let old: Vec<u32> = old.map(|(chunk, _)| *chunk).collect();
        self.drop_hearsay(&old);
        let is_late = |said: &Said| is_overdue(said, nothing_came);
        let late = |member: &Membership| member.taking.values().any(is_late);
        let keys: Vec<PeerKey> =
            self.members.iter().filter(|(_, member)| late(member)).map(|(key, _)| *key).collect();
        for key in &keys {
            let Some(peer) = peers.get(key) else { continue };
            let Some(member) = self.members.get(key) else { continue };
            let taking = member.taking.iter().filter(|(_, said)| is_late(said));
            let overdue: Vec<u32> = taking.map(|(chunk, _)| *chunk).collect();
            for chunk in &overdue {
                self.set_taking(key, peer.class, *chunk, None);
            }
            if let Some(member) = self.members.get_mut(key) {
                member.overdue =
                    member.overdue.saturating_add(u32::try_from(overdue.len()).unwrap_or(u32::MAX));
                member.idle = member.overdue > often;
            }
            self.reconsider(key, peer);
        }
        !keys.is_empty()
    }

    /// A chunk came from Earth: if anybody is there to take it, it holds its place until somebody does, or for `patience`,
    /// twice as long for each that came before it and went nowhere.
    pub(super) fn came_from_earth(
        &mut self,
        chunk: u32,
        patience: Duration,
        peers: &BTreeMap<PeerKey, Peer>,
        now: Moment,
    ) {
        self.new_chunk(now);
        let takes = |(key, member): (&PeerKey, &Membership)| {
            let lacks = member.told.as_ref().is_some_and(|told| !told.is_complete());
            lacks && peers.get(key).is_some_and(Peer::is_counted)
        };
        if !self.members.iter().any(takes) {
            return;
        }
        let stuck = self.unspread.values().filter(|until| **until <= now).count();
        let doubled = 1 << stuck.min(UNSPREAD_DOUBLINGS_MAX);
        self.unspread.insert(chunk, now.after(patience * doubled));
    }

    /// How many chunks from Earth hold a place, and until when the first does. None, while one helps oneself.
    pub(super) fn unspread(&mut self, now: Moment) -> (u64, Option<Moment>) {
        if let Some(picker) = &self.picker {
            self.unspread.retain(|chunk, _| !picker.has_copies(*chunk));
        }
        let held = self.unspread.values().filter(|until| **until > now);
        match held.clone().min() {
            Some(first) if !self.helping_oneself => (held.count() as u64, Some(*first)),
            Some(_) | None => (0, None),
        }
    }

    /// Somebody was heard to be fetching these.
    pub(super) fn keep_heard(&mut self, heard: &[(u32, Moment)], now: Moment) {
        self.heard.retain(|_, until| *until > now);
        let all = self.picker.as_ref().map_or(0, Picker::len);
        for (chunk, until) in heard.iter().filter(|(chunk, _)| *chunk < all) {
            let known = self.heard.entry(*chunk).or_insert(*until);
            *known = (*known).max(*until);
        }
    }

    /// What may still be true of what was heard, and for how long.
    pub(super) fn heard(&self, now: Moment) -> impl Iterator<Item = (u32, Duration)> + '_ {
        let lacking = |chunk: &u32| self.picker.as_ref().is_some_and(|picker| !picker.has_copies(*chunk));
        let still = self.heard.iter().filter(move |(chunk, until)| **until > now && lacking(chunk));
        still.map(move |(chunk, until)| (*chunk, until.since(now)))
    }

    /// Somebody is fetching these, as a member heard. Nobody is believed for longer than whoever said it first.
    pub(super) fn hear(&mut self, heard: &[(u32, Moment)], now: Moment) {
        let said = Said { at: now, moving: self.moving.whole };
        let mut new = Vec::new();
        for (chunk, until) in heard {
            let known = self.hearsay.entry(*chunk).or_insert_with(|| {
                new.push(*chunk);
                (*until, said)
            });
            known.0 = known.0.max(*until);
        }
        self.count_hearsay(&new, 1);
    }

    /// What was heard and is too old to be true is forgotten. Tells when the next will be.
    pub(super) fn forget_hearsay(&mut self, now: Moment) -> Option<Moment> {
        let old: Vec<u32> =
            self.hearsay.iter().filter(|(_, (until, _))| *until <= now).map(|(chunk, _)| *chunk).collect();
        self.drop_hearsay(&old);
        self.hearsay.values().map(|(until, _)| *until).min()
    }

    fn drop_hearsay(&mut self, chunks: &[u32]) {
        for chunk in chunks {
            self.hearsay.remove(chunk);
        }
        self.count_hearsay(chunks, -1);
    }

    fn count_hearsay(&mut self, chunks: &[u32], by: i16) {
        if let Some((picker, rules)) = self.picking() {
            let all = picker.len();
            for chunk in chunks.iter().filter(|chunk| **chunk < all) {
                picker.taking(*chunk, Class::Sites, by, rules);
            }
        }
    }

    /// A member does not have a chunk after all.
    pub(super) fn retract(&mut self, key: &PeerKey, class: Class, chunk: u32) {
        self.set_copy(key, class, chunk, false);
    }

    fn set_copy(&mut self, key: &PeerKey, class: Class, chunk: u32, has: bool) {
        let Some(membership) = self.members.get_mut(key) else { return };
        let counted = membership.copies_counted;
        let Some(told) = membership.told.as_mut() else { return };
        let changed = if has { told.insert(chunk) } else { told.remove(chunk) };
        if changed
            && counted
            && let Some((picker, rules)) = self.picking()
        {
            picker.copy(chunk, class, if has { 1 } else { -1 }, rules);
        }
    }

    fn set_taking(&mut self, key: &PeerKey, class: Class, chunk: u32, since: Option<Moment>) {
        let said = since.map(|at| Said { at, moving: self.moving.whole });
        let Some(membership) = self.members.get_mut(key) else { return };
        let counted = membership.takings_counted;
        let changed = match (said, membership.taking.contains_key(&chunk)) {
            (Some(said), false) => membership.taking.insert(chunk, said).is_none(),
            (None, true) => membership.taking.remove(&chunk).is_some(),
            // Said again, it is no younger.
            (Some(_), true) | (None, false) => false,
        };
        if changed
            && counted
            && let Some((picker, rules)) = self.picking()
        {
            picker.taking(chunk, class, if since.is_some() { 1 } else { -1 }, rules);
        }
    }

    fn count_copies(&mut self, key: &PeerKey, class: Class, count: bool) {
        let Some(membership) = self.members.get_mut(key) else { return };
        if membership.copies_counted == count {
            return;
        }
        membership.copies_counted = count;
        let chunks: Vec<u32> = membership.told.iter().flat_map(HaveSet::iter).collect();
        if let Some((picker, rules)) = self.picking() {
            for chunk in chunks {
                picker.copy(chunk, class, if count { 1 } else { -1 }, rules);
            }
        }
    }

    fn count_takings(&mut self, key: &PeerKey, class: Class, count: bool) {
        let Some(membership) = self.members.get_mut(key) else { return };
        if membership.takings_counted == count {
            return;
        }
        membership.takings_counted = count;
        let chunks: Vec<u32> = membership.taking.keys().copied().collect();
        if let Some((picker, rules)) = self.picking() {
            for chunk in chunks {
                picker.taking(chunk, class, if count { 1 } else { -1 }, rules);
            }
        }
    }
}
