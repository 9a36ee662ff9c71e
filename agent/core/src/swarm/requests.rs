//! Requests: which are made, and what their ends mean.
//!
//! Owns the way from a free slot to a request, and from its end to the peer's reward or penalty. Main
//! invariant: whatever way a request ends, its slot is free again and its item is ready for another source.

use std::time::Duration;

use lunar_common::have_set::HaveSet;
use lunar_common::ids::{ArtifactId, PeerKey};
use lunar_common::order::draw;
use lunar_common::time::Moment;

use super::Swarm;
use super::artifact::{Artifact, MANIFEST, ManifestState};
use super::effect::{Effect, Offence};
use super::in_flight::Flight;
use super::input::{Item, Outcome, RequestId};
use super::peers::{Class, Peer};
use super::picker::Picker;
use super::timers::Timer;

/// Chunks looked at for one that a source with room has. Bounds the work of one choice.
const LOOKED_AT_MAX: usize = 256;

/// Requests to one source that are always allowed, however many sources there are: one is served while the
/// next is on its way.
const PER_SOURCE_MIN: u32 = 2;

impl Swarm {
    /// Uses the free slots.
    pub(super) fn fill(&mut self, now: Moment) {
        let wanted: Vec<ArtifactId> = self
            .artifacts
            .iter()
            .filter(|(_, state)| !state.complete)
            .map(|(artifact, _)| *artifact)
            .collect();
        for artifact in wanted {
            self.hear_first(artifact, now);
            if self.artifacts.get(&artifact).is_some_and(|state| state.picker.is_some()) {
                self.fill_from_peers(artifact, now);
                self.fill_from_earth(artifact, now);
                self.try_again(artifact, now);
                self.end_game(artifact, now);
                self.tell_left(artifact);
            } else {
                self.fetch_manifest(artifact, now);
            }
        }
        self.connect_to_needed();
    }

    /// Tells listeners what is not being fetched for them any more.
    fn tell_left(&mut self, artifact: ArtifactId) {
        let Some(state) = self.artifacts.get_mut(&artifact) else { return };
        for chunk in std::mem::take(&mut state.left) {
            self.effects.push_back(Effect::AnnounceLeft { artifact, chunk });
        }
    }

    fn fill_from_peers(&mut self, artifact: ArtifactId, now: Moment) {
        while self.in_flight.to_peers() < self.config.in_flight_max {
            // What the site lacks is rarer than anything in it; but half the slots stay for the site's own.
            let imports_first = self.in_flight.of_class(Class::Sites) < self.config.in_flight_max / 2;
            let order = if imports_first { [Class::Sites, Class::Site] } else { [Class::Site, Class::Sites] };
            let Some((class, chunk, peer)) = order
                .into_iter()
                .find_map(|class| self.choose(artifact, class).map(|(chunk, peer)| (class, chunk, peer)))
            else {
                return;
            };
            self.request(artifact, Item::Chunk(chunk), class, peer, now);
        }
    }

    fn fill_from_earth(&mut self, artifact: ArtifactId, now: Moment) {
        let Some(state) = self.artifacts.get_mut(&artifact) else { return };
        if !state.picker.as_ref().is_some_and(|picker| picker.is_ready(Class::Earth)) {
            return;
        }
        // Whoever passes on nothing of what it gets, for whatever reason, is to take little for others.
        let (held, until) = state.unspread(now);
        if let Some(until) = until {
            self.timers.arm(Timer::Unspread(artifact), until);
        }
        let Some(picker) = state.picker.as_ref() else { return };
        let gateways = u64::try_from(state.duty.gateways_count()).unwrap_or(u64::MAX);
        let share = self.config.earth_bytes_in_flight / gateways;
        let share =
            share.div_ceil(picker.frame_bytes_mean()).clamp(2, self.config.earth_in_flight_max.into());
        self.earth_share = u32::try_from(share).unwrap_or(u32::MAX);
        let slots = u64::from(self.earth_share.min(self.earth_window.requests()));
        while u64::from(self.in_flight.of_class(Class::Earth)) + held < slots {
            let Some(origin) = self.origin() else { return };
            let first = self.artifacts.get(&artifact).and_then(|state| state.picker.as_ref());
            let Some(chunk) = first.and_then(|picker| picker.ready(Class::Earth).next()) else { return };
            self.request(artifact, Item::Chunk(chunk), Class::Earth, origin, now);
        }
    }

    /// Gives each source whose breaker is half-open a request by which it can prove itself: for a chunk that it alone
    /// may have, and that was asked for nowhere else.
    fn try_again(&mut self, artifact: ArtifactId, now: Moment) {
        let Some(state) = self.artifacts.get(&artifact) else { return };
        let Some(picker) = state.picker.as_ref() else { return };
        let on_trial = state.sources.iter().filter_map(|key| Some((key, self.peers.get(key)?)));
        let asked: Vec<(PeerKey, Class, u32)> = on_trial
            .filter(|(_, peer)| peer.is_on_trial() && peer.is_askable())
            .filter_map(|(key, peer)| {
                let ours = |chunk: &u32| {
                    peer.class == Class::Site || state.duty.is_importer(*chunk) || state.helping_oneself
                };
                let told = state.members.get(key)?.told.as_ref()?;
                let chunk = told.iter().find(|chunk| picker.is_idle(*chunk) && ours(chunk))?;
                Some((*key, peer.class, chunk))
            })
            .collect();
        for (key, class, chunk) in asked {
            let idle = |picker: &Picker| picker.is_idle(chunk);
            let state = self.artifacts.get(&artifact);
            let still = state.and_then(|state| state.picker.as_ref()).is_some_and(idle);
            if still && self.in_flight.to_peers() < self.config.in_flight_max {
                self.request(artifact, Item::Chunk(chunk), class, key, now);
            }
        }
    }

    fn fetch_manifest(&mut self, artifact: ArtifactId, now: Moment) {
        let Some(state) = self.artifacts.get(&artifact) else { return };
        if state.manifest != ManifestState::Missing {
            return;
        }
        let holders = |class: Class, on_trial: bool| {
            let told = state.members.iter().filter(|(_, membership)| membership.told.is_some());
            let askable = told.filter_map(|(key, _)| Some((key, self.peers.get(key)?)));
            askable
                .filter(move |(_, peer)| {
                    peer.class == class && peer.is_askable() && peer.is_on_trial() == on_trial
                })
                .min_by_key(|(key, peer)| (peer.failures(), draw("swarm manifest", &[&self.me.0, &key.0])))
                .map(|(key, _)| (class, *key))
        };
        let importer = state.duty.is_importer(MANIFEST) || state.helping_oneself;
        let fetcher = state.settled && (state.duty.is_earth_fetcher(MANIFEST) || state.helping_oneself);
        let of_peers = |on_trial: bool| {
            holders(Class::Site, on_trial)
                .or_else(|| if importer { holders(Class::Sites, on_trial) } else { None })
        };
        let source = of_peers(false)
            .or_else(|| {
                if fetcher && self.nobody_has_the_manifest(state) {
                    Some((Class::Earth, self.origin()?))
                } else {
                    None
                }
            })
            .or_else(|| of_peers(true));
        if let Some((class, peer)) = source {
            self.request(artifact, Item::Manifest, class, peer, now);
        }
    }

    /// Whether no member that can be relied on has the manifest. Whoever says that it has it and answers nothing does
    /// not count, or one such member would keep everybody from the origin for ever.
    pub(super) fn nobody_has_the_manifest(&self, state: &Artifact) -> bool {
        let mut holders = state.members.iter().filter(|(_, membership)| membership.told.is_some());
        holders.all(|(key, _)| self.peers.get(key).is_none_or(|peer| !peer.is_reliable()))
    }

    /// The rarest chunk that a source of this class can be asked for now, and the least busy such source.
    fn choose(&self, artifact: ArtifactId, class: Class) -> Option<(u32, PeerKey)> {
        let state = self.artifacts.get(&artifact)?;
        if !state.picker.as_ref()?.is_ready(class) {
            return None;
        }
        // The rarest chunks are often all at one source: waiting in its queue must not take every slot.
        let count = u32::try_from(state.sources.len()).unwrap_or(u32::MAX).max(1);
        let room = (self.config.in_flight_max / count).max(PER_SOURCE_MIN);
        let sources = self.sources_with_room(state, class, room);
        if sources.is_empty() {
            return None;
        }
        let mut ready = state.picker.as_ref()?.ready(class).take(LOOKED_AT_MAX);
        ready.find_map(|chunk| Some((chunk, self.source(chunk, &sources, None)?)))
    }

    /// The sources of a class with less than `room` in flight to them.
    pub(super) fn sources_with_room<'a>(
        &'a self,
        state: &'a Artifact,
        class: Class,
        room: u32,
    ) -> Vec<Source<'a>> {
        let sources = state.sources.iter().filter_map(|key| Some((key, self.peers.get(key)?)));
        sources
            .filter(|(_, peer)| peer.class == class && peer.in_flight < room && peer.is_askable())
            .filter_map(|(key, peer)| {
                let told = state.members.get(key)?.told.as_ref()?;
                Some(Source { key: *key, in_flight: peer.in_flight, told })
            })
            .collect()
    }

    /// The least busy of some sources that has a chunk, other than `except`.
    pub(super) fn source(
        &self,
        chunk: u32,
        sources: &[Source<'_>],
        except: Option<PeerKey>,
    ) -> Option<PeerKey> {
        let offering =
            sources.iter().filter(|source| Some(source.key) != except && source.told.contains(chunk));
        offering
            .min_by_key(|source| (source.in_flight, tie(&self.me, &source.key, chunk)))
            .map(|source| source.key)
    }

    /// The least busy origin that can be asked now.
    fn origin(&self) -> Option<PeerKey> {
        let origins = self.origins.iter().filter_map(|key| Some((key, self.peers.get(key)?)));
        let askable = origins.filter(|(_, peer)| peer.is_askable());
        askable.min_by_key(|(key, peer)| (peer.in_flight, **key)).map(|(key, _)| *key)
    }

    /// Makes a request.
    pub(super) fn request(
        &mut self,
        artifact: ArtifactId,
        item: Item,
        class: Class,
        key: PeerKey,
        now: Moment,
    ) {
        let Some(state) = self.artifacts.get_mut(&artifact) else { return };
        let mut bytes = state.manifest_bytes;
        let mut announced = false;
        match item {
            Item::Manifest => state.manifest = ManifestState::UnderWay,
            Item::Chunk(chunk) => {
                if let Some((picker, rules)) = state.picking() {
                    assert!(!picker.have().contains(chunk), "a chunk that is held is never asked for");
                    picker.set_under_way(chunk, true, rules);
                    bytes = picker.frame_bytes(chunk);
                }
                let again = !self.in_flight.of_item(artifact, item).is_empty();
                assert!(!(again && class == Class::Earth), "nothing is asked for twice over the Earth link");
                // Of what is asked for again as soon as it came to nothing, nothing need be said.
                announced = class != Class::Site && !again && !state.left.remove(&chunk);
            }
        }
        let request = self.in_flight.add(Flight { artifact, item, peer: key, class, sent: now });
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.in_flight += 1;
        }
        self.timers.arm(Timer::Request(request), now.after(self.patience(class, bytes)));
        self.effects.push_back(Effect::Fetch { request, artifact, item, peer: key });
        if class != Class::Site {
            self.restated.insert(artifact);
        }
        if let (true, Item::Chunk(chunk)) = (announced, item) {
            self.effects.push_back(Effect::AnnounceTaking { artifact, chunk });
        }
    }

    /// How long a request may take: a time for its distance, and its bytes at the rate floor.
    fn patience(&self, class: Class, bytes: u32) -> Duration {
        let base = match class {
            Class::Site => self.config.patience_site,
            Class::Sites => self.config.patience_sites,
            Class::Earth => self.config.patience_earth,
        };
        base + self.config.at_the_floor(u64::from(bytes))
    }

    /// A request ended.
    pub(super) fn answered(&mut self, request: RequestId, outcome: Outcome, now: Moment) {
        // Cancelled before: its slot is free already.
        let Some(flight) = self.in_flight.get(request).copied() else { return };
        match outcome {
            Outcome::Good { bytes } => self.good(request, flight, bytes, now),
            Outcome::Corrupt => {
                self.release(request);
                self.ban(flight.peer, Offence::Corrupt, now);
            }
            Outcome::NotHave => {
                self.release(request);
                self.not_had(flight, now);
            }
            Outcome::Busy { retry_after } => {
                self.release(request);
                if let Some(peer) = self.peers.get_mut(&flight.peer) {
                    peer.rest(&flight.peer, &self.config, now.after(retry_after), now);
                }
                self.peer_changed(flight.peer, now);
            }
            Outcome::Broken => {
                self.release(request);
                self.failed(flight.peer, now);
            }
        }
    }

    /// A request was slower than the rate floor.
    pub(super) fn timed_out(&mut self, request: RequestId, now: Moment) {
        let Some(flight) = self.in_flight.get(request).copied() else { return };
        self.effects.push_back(Effect::Cancel { request });
        self.release(request);
        if flight.class == Class::Earth {
            self.earth_window.timed_out(flight.sent, self.earth_share, now);
        }
        if let Some(peer) = self.peers.get_mut(&flight.peer) {
            peer.dripped(&flight.peer, &self.config, now);
        }
        self.peer_changed(flight.peer, now);
    }

    /// An item is here: whatever else was asked for it is cancelled.
    fn good(&mut self, request: RequestId, flight: Flight, bytes: u64, now: Moment) {
        self.free_slot(request);
        if self.peers.get_mut(&flight.peer).is_some_and(Peer::succeeded) {
            self.peer_changed(flight.peer, now);
        }
        for other in self.in_flight.of_item(flight.artifact, flight.item).to_vec() {
            self.effects.push_back(Effect::Cancel { request: other });
            self.free_slot(other);
        }
        let Some(state) = self.artifacts.get_mut(&flight.artifact) else { return };
        (state.last_received, state.last_moved) = (now, now);
        let received = match flight.class {
            Class::Site => &mut state.received.site,
            Class::Sites => &mut state.received.sites,
            Class::Earth => &mut state.received.earth,
        };
        *received = received.saturating_add(bytes);
        match flight.item {
            Item::Manifest => state.manifest = ManifestState::Received,
            Item::Chunk(chunk) => {
                if flight.class == Class::Earth {
                    self.earth_window.answered(flight.sent, self.earth_share, now);
                }
                if let Some((picker, rules)) = state.picking() {
                    picker.got(chunk, rules);
                }
                if std::mem::take(&mut state.helping_oneself) {
                    state.settle_all();
                }
                if flight.class == Class::Earth {
                    let bytes = state.picker.as_ref().map_or(0, Picker::frame_bytes_max);
                    let patience = self.config.patience_site + self.config.at_the_floor(bytes);
                    state.came_from_earth(chunk, patience, &self.peers, now);
                }
                if state.untold.is_empty() {
                    state.untold_since = now;
                }
                state.untold.push(chunk);
                let enough = state.untold.len() >= self.config.haves_per_message;
                if flight.class != Class::Site || enough {
                    self.announce(flight.artifact);
                } else {
                    let within = match &state.picker {
                        Some(picker) if picker.is_rare_in_site(chunk) => {
                            picker.part_of(self.config.announce_within, chunk)
                        }
                        Some(_) | None => self.config.announce_common_within,
                    };
                    self.timers.arm_no_later(Timer::Announce(flight.artifact), now.after(within));
                }
                self.complete_if_so(flight.artifact);
            }
        }
    }

    /// A peer does not have what it said it had.
    fn not_had(&mut self, flight: Flight, now: Moment) {
        match (flight.class, flight.item) {
            // The origin says nothing of what it has; not having it is a failure like another.
            (Class::Earth, _) => self.failed(flight.peer, now),
            (Class::Site | Class::Sites, Item::Manifest) => {
                let state = self.artifacts.get_mut(&flight.artifact);
                if let Some(told) = state.and_then(|state| state.members.get_mut(&flight.peer)) {
                    told.told = None;
                }
                self.lied(flight.peer, now);
            }
            (Class::Site | Class::Sites, Item::Chunk(chunk)) => {
                if let Some(state) = self.artifacts.get_mut(&flight.artifact) {
                    state.retract(&flight.peer, flight.class, chunk);
                }
                self.lied(flight.peer, now);
            }
        }
    }

    fn failed(&mut self, key: PeerKey, now: Moment) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.failed(&key, &self.config, now);
        }
        self.peer_changed(key, now);
    }

    /// Gives a request up.
    pub(super) fn cancel(&mut self, request: RequestId) {
        self.effects.push_back(Effect::Cancel { request });
        self.release(request);
    }

    /// Frees a request's slot and makes its item ready for another source.
    pub(super) fn release(&mut self, request: RequestId) {
        let Some(flight) = self.free_slot(request) else { return };
        if !self.in_flight.of_item(flight.artifact, flight.item).is_empty() {
            return;
        }
        let Some(state) = self.artifacts.get_mut(&flight.artifact) else { return };
        match flight.item {
            Item::Manifest if state.manifest == ManifestState::UnderWay => {
                state.manifest = ManifestState::Missing;
            }
            Item::Manifest => {}
            Item::Chunk(chunk) => {
                if let Some((picker, rules)) = state.picking() {
                    picker.set_under_way(chunk, false, rules);
                }
                if flight.class != Class::Site {
                    state.left.insert(chunk);
                }
            }
        }
    }

    fn free_slot(&mut self, request: RequestId) -> Option<Flight> {
        let flight = self.in_flight.remove(request)?;
        if flight.class != Class::Site {
            self.restated.insert(flight.artifact);
        }
        self.timers.disarm(Timer::Request(request));
        if let Some(peer) = self.peers.get_mut(&flight.peer) {
            peer.in_flight -= 1;
        }
        Some(flight)
    }
}

/// A source that may be asked, with what it says it has: looked up once for all chunks that are looked at.
pub(super) struct Source<'a> {
    key: PeerKey,
    in_flight: u32,
    told: &'a HaveSet,
}

/// Breaks ties between sources that are equally busy, differently for each member and chunk. Keys are random
/// already; a multiplication spreads their difference.
fn tie(me: &PeerKey, other: &PeerKey, chunk: u32) -> u64 {
    let word = |key: &PeerKey| {
        key.0.chunks_exact(8).fold(0u64, |mixed, eight| {
            let word = eight.iter().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
            mixed.rotate_left(23) ^ word
        })
    };
    let mixed = word(me).rotate_left(17) ^ word(other) ^ u64::from(chunk).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// Whether everything that is missing of an artifact is under way.
pub(super) fn all_under_way(picker: &Picker) -> bool {
    ![Class::Site, Class::Sites, Class::Earth].into_iter().any(|class| picker.is_ready(class))
}

impl Peer {
    /// Whether its have-set is still to come.
    pub(super) fn is_expected_to_answer(&self) -> bool {
        self.class != Class::Earth
            && matches!(self.link, super::peers::Link::Connecting | super::peers::Link::Connected)
    }
}
