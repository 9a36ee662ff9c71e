//! How chunks spread: what to ask for, from whom, when.
//!
//! Owns [`Swarm`], the core of all downloads of one agent. Main invariants: a chunk that is held is never asked
//! for; over the Earth link no chunk is asked for twice at once; a source that lies, drips or breaks is avoided
//! for longer each time, and tried again some day. Refuses to touch bytes: a frame is verified and written
//! before the swarm hears of it.
//!
//! Sources, in order: same site, other sites, Earth. Two duties keep the thin links idle (see `duty`): each
//! chunk has one fetcher over the Earth link, among the gateways of all sites, and one importer into each
//! site, among that site's gateways. A gateway says what it is *taking*, and one that is new to the others, or to
//! which others are new, hears them before it asks Earth, so that a change of membership fetches nothing twice. One
//! that owes chunks and falls silent is passed over; and when nothing arrives at all, members
//! help themselves, one after the other.

mod artifact;
mod config;
mod duty;
mod earth_window;
mod effect;
mod end_game;
mod in_flight;
mod input;
mod links;
mod peers;
mod picker;
mod requests;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use lunar_common::bounds::{CHUNKS_PER_NOTE_MAX, FRAME_BYTES_MAX};
use lunar_common::have_set::HaveSet;
use lunar_common::ids::{ArtifactId, PeerKey, SiteId};
use lunar_common::message::BytesBySource;
use lunar_common::time::{Moment, Now};

use artifact::{Artifact, ManifestState};
use earth_window::EarthWindow;
use in_flight::{Flight, InFlight};
use peers::{Link, Peer};
use picker::Picker;
use timers::{Timer, Timers};

pub use config::Config;
pub use effect::{Effect, Offence};
pub use input::{Input, Item, Outcome, RequestId, Word};
pub use peers::Class;

/// Most peers that are remembered; a fleet has 10,000 servers.
const PEERS_MAX: usize = 32_768;

/// Between two looks at who fell silent, and between two looks whether have-sets came.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How far an artifact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Chunks had and in all; `(0, 0)` until the manifest is here.
    pub chunks: (u32, u32),
    /// Bytes received, by class of source.
    pub received: BytesBySource,
    /// Whether all is here.
    pub complete: bool,
}

/// All downloads of one agent.
#[derive(Debug, Clone)]
pub struct Swarm {
    config: Config,
    me: PeerKey,
    site: SiteId,
    peers: BTreeMap<PeerKey, Peer>,
    /// Those of the peers that are origins.
    origins: BTreeSet<PeerKey>,
    artifacts: BTreeMap<ArtifactId, Artifact>,
    in_flight: InFlight,
    earth_window: EarthWindow,
    /// Requests to the origin that were this agent's share when it last looked.
    earth_share: u32,
    timers: Timers,
    links_changed: bool,
    /// What these are being fetched for others, or were heard to be, changed.
    restated: BTreeSet<ArtifactId>,
    effects: VecDeque<Effect>,
}

/// What is being fetched for others: whoever begins to listen must know, or it would fetch the same again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fetching {
    /// Chunks that one is fetching into the site or the fleet oneself.
    pub taking: Vec<u32>,
    /// Chunks that others were heard to be fetching, and for how long that may be true.
    pub heard: Vec<(u32, Duration)>,
}

impl Swarm {
    /// An agent's swarm, with nothing wanted and nobody known.
    #[must_use]
    pub fn new(config: Config, me: PeerKey, site: SiteId) -> Self {
        Self {
            earth_window: EarthWindow::new(config.earth_in_flight_max),
            earth_share: config.earth_in_flight_max,
            config,
            me,
            site,
            peers: BTreeMap::new(),
            origins: BTreeSet::new(),
            artifacts: BTreeMap::new(),
            in_flight: InFlight::default(),
            timers: Timers::default(),
            links_changed: false,
            restated: BTreeSet::new(),
            effects: VecDeque::new(),
        }
    }

    /// Takes something in. The effects must be drained after it.
    pub fn handle(&mut self, input: Input, now: Now) {
        let now = now.moment;
        match input {
            Input::Want { artifact, manifest_bytes } => self.want(artifact, manifest_bytes, now),
            Input::Opened { artifact, frame_bytes, have } => self.opened(artifact, frame_bytes, have, now),
            Input::Found { artifact, chunks } => self.found(artifact, &chunks),
            Input::Forget { artifact } => self.forget(artifact),
            Input::Peer { peer, site, origin } => self.meet(peer, site, origin),
            Input::Member { artifact, peer } => self.member(artifact, peer, now),
            Input::PeerGone { peer } => self.gone(peer),
            Input::Connected { peer } => self.connected(peer),
            Input::ConnectFailed { peer, full } => self.connect_failed(peer, full, now),
            Input::Disconnected { peer } => self.disconnected(peer, now),
            Input::Said { artifact, peer, word } => self.said(artifact, peer, word, now),
            Input::Answered { request, outcome } => self.answered(request, outcome, now),
        }
        self.fill(now);
    }

    /// The next effect to carry out, in order.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When `handle_timeout` must be called, if nothing is handled before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.timers.first()
    }

    /// Time passed. The effects must be drained after it.
    pub fn handle_timeout(&mut self, now: Now) {
        let now = now.moment;
        while let Some(timer) = self.timers.due(now) {
            match timer {
                Timer::Request(request) => self.timed_out(request, now),
                Timer::Peer(peer) => self.peer_changed(peer, now),
                Timer::Settle(artifact) => self.settle(artifact, now),
                Timer::Silence(artifact) => self.look_for_silent(artifact, now),
                // `fill` plays the end-game and sees what holds places; the timers only wake it.
                Timer::EndGame(_) | Timer::Unspread(_) => {}
                Timer::Stall(artifact) => self.stalled(artifact, now),
                Timer::Hearsay(artifact) => self.forget_hearsay(artifact, now),
                Timer::Announce(artifact) => self.announce_if_rare(artifact, now),
            }
        }
        self.fill(now);
    }

    /// How far an artifact is; `None` if it is not wanted.
    #[must_use]
    pub fn progress(&self, artifact: ArtifactId) -> Option<Progress> {
        let state = self.artifacts.get(&artifact)?;
        let chunks = state.picker.as_ref().map_or((0, 0), |picker| (picker.had(), picker.len()));
        Some(Progress { chunks, received: state.received, complete: state.complete })
    }

    /// What is held of an artifact, once its manifest is here.
    #[must_use]
    pub fn have(&self, artifact: ArtifactId) -> Option<&HaveSet> {
        self.artifacts.get(&artifact)?.picker.as_ref().map(Picker::have)
    }

    /// What is being fetched of an artifact for others, as far as one knows: what one takes oneself, and what one has heard.
    #[must_use]
    pub fn fetching(&self, artifact: ArtifactId, now: Now) -> Fetching {
        let Some(state) = self.artifacts.get(&artifact).filter(|state| !state.complete) else {
            return Fetching::default();
        };
        let flights = self.in_flight.of_artifact(artifact);
        let taking = flights.into_iter().filter_map(|request| match self.in_flight.get(request)? {
            Flight { item: Item::Chunk(chunk), class: Class::Sites | Class::Earth, .. } => Some(*chunk),
            Flight { item: Item::Manifest | Item::Chunk(_), .. } => None,
        });
        let heard = state.heard(now.moment);
        Fetching {
            taking: taking.take(CHUNKS_PER_NOTE_MAX).collect(),
            heard: heard.take(CHUNKS_PER_NOTE_MAX).collect(),
        }
    }

    /// What whoever begins to listen to an artifact is told.
    #[must_use]
    pub fn standing(&self, artifact: ArtifactId, now: Now) -> Word {
        let Some(have) = self.have(artifact) else { return Word::Nothing };
        let Fetching { taking, heard } = self.fetching(artifact, now);
        if taking.is_empty() && heard.is_empty() {
            return Word::HaveSet(have.clone());
        }
        Word::Standing { have: have.clone(), taking, heard }
    }

    /// An artifact of which something else is being fetched for others than when it was asked last. A shell that keeps
    /// what new listeners are told asks this before it carries out effects, so that nobody hears less than the truth.
    pub fn poll_fetching(&mut self) -> Option<ArtifactId> {
        self.restated.pop_first()
    }

    fn want(&mut self, artifact: ArtifactId, manifest_bytes: u64, now: Moment) {
        if self.artifacts.contains_key(&artifact) {
            return;
        }
        let mut state = Artifact::new(artifact, self.me, &self.site, &self.config, now);
        state.manifest_bytes = u32::try_from(manifest_bytes).unwrap_or(u32::MAX);
        self.artifacts.insert(artifact, state);
        self.timers.arm(Timer::Settle(artifact), now.after(self.config.settle_min));
        self.timers.arm(Timer::Silence(artifact), now.after(self.config.silence));
        self.timers.arm(Timer::Stall(artifact), now.after(self.config.stall));
        self.subscribe_everywhere(artifact);
        self.links_changed = true;
    }

    fn opened(&mut self, artifact: ArtifactId, frame_bytes: Vec<u32>, have: HaveSet, now: Moment) {
        let Some(state) = self.artifacts.get_mut(&artifact) else { return };
        if state.picker.is_some() {
            return;
        }
        assert_eq!(have.chunks() as usize, frame_bytes.len(), "a pack has as many chunks as its manifest");
        state.manifest = ManifestState::Received;
        state.last_received = now;
        let picker = Picker::new(frame_bytes, have, &[&self.me.0, &artifact.0]);
        let liars = state.opened(picker, &self.peers);
        for request in self.in_flight.of_artifact(artifact) {
            self.cancel(request);
        }
        for liar in liars {
            self.lied(liar, now);
        }
        self.complete_if_so(artifact);
    }

    /// Chunks came without being asked for: content that repeats itself, or that another version had.
    fn found(&mut self, artifact: ArtifactId, chunks: &[u32]) {
        for chunk in chunks {
            for request in self.in_flight.of_item(artifact, Item::Chunk(*chunk)).to_vec() {
                self.cancel(request);
            }
            let Some(state) = self.artifacts.get_mut(&artifact) else { return };
            let Some((picker, rules)) = state.picking() else { return };
            if *chunk < picker.len() && !picker.have().contains(*chunk) {
                let bytes = u64::from(picker.frame_bytes(*chunk));
                picker.got(*chunk, rules);
                state.received.local = state.received.local.saturating_add(bytes);
                state.untold.push(*chunk);
            }
        }
        self.announce(artifact);
        self.complete_if_so(artifact);
    }

    /// Tells listeners of what they were not told.
    fn announce(&mut self, artifact: ArtifactId) {
        self.timers.disarm(Timer::Announce(artifact));
        let Some(state) = self.artifacts.get_mut(&artifact) else { return };
        for chunks in std::mem::take(&mut state.untold).chunks(CHUNKS_PER_NOTE_MAX) {
            self.effects.push_back(Effect::AnnounceHaves { artifact, chunks: chunks.to_vec() });
        }
    }

    /// Tells listeners of what they were not told, if they miss any of it, or were not told for long.
    fn announce_if_rare(&mut self, artifact: ArtifactId, now: Moment) {
        let Some(state) = self.artifacts.get(&artifact) else { return };
        let latest = state.untold_since.after(self.config.announce_common_within);
        let rare = |chunk: &u32| state.picker.as_ref().is_some_and(|picker| picker.is_rare_in_site(*chunk));
        if now >= latest || state.untold.iter().any(rare) {
            self.announce(artifact);
        } else if !state.untold.is_empty() {
            self.timers.arm(Timer::Announce(artifact), latest);
        }
    }

    fn forget(&mut self, artifact: ArtifactId) {
        for request in self.in_flight.of_artifact(artifact) {
            if let Some(flight) = self.in_flight.remove(request) {
                self.timers.disarm(Timer::Request(request));
                self.effects.push_back(Effect::Cancel { request });
                if let (Item::Chunk(chunk), Class::Sites | Class::Earth) = (flight.item, flight.class) {
                    self.effects.push_back(Effect::AnnounceLeft { artifact, chunk });
                }
                if let Some(peer) = self.peers.get_mut(&flight.peer) {
                    peer.in_flight -= 1;
                }
            }
        }
        if let Some(state) = self.artifacts.remove(&artifact) {
            self.restated.insert(artifact);
            self.disarm_all(artifact);
            if !state.complete {
                self.effects.push_back(Effect::Unsubscribe { artifact });
            }
        }
    }

    fn complete_if_so(&mut self, artifact: ArtifactId) {
        let Some(state) = self.artifacts.get_mut(&artifact) else { return };
        if state.complete || !state.picker.as_ref().is_some_and(Picker::is_complete) {
            return;
        }
        state.complete = true;
        self.restated.insert(artifact);
        self.announce(artifact);
        self.disarm_all(artifact);
        self.effects.push_back(Effect::Unsubscribe { artifact });
        self.effects.push_back(Effect::Complete { artifact });
    }

    fn disarm_all(&mut self, artifact: ArtifactId) {
        let all = [
            Timer::Settle,
            Timer::Silence,
            Timer::EndGame,
            Timer::Stall,
            Timer::Hearsay,
            Timer::Announce,
            Timer::Unspread,
        ];
        for timer in all {
            self.timers.disarm(timer(artifact));
        }
    }

    /// Have-sets had time to arrive, or are waited for a little longer.
    fn settle(&mut self, artifact: ArtifactId, now: Moment) {
        let Some(state) = self.artifacts.get_mut(&artifact) else { return };
        let expected = |key: &PeerKey| {
            let asked = |peer: &Peer| peer.link == Link::Connecting || state.listened.contains_key(key);
            self.peers.get(key).is_some_and(|peer| peer.is_expected_to_answer() && asked(peer))
        };
        let mut waiting = now < state.settling_since.after(self.config.settle_max)
            && state.members.iter().any(|(key, membership)| !membership.answered && expected(key));
        for key in state.unheard(&self.peers) {
            let (Some(peer), Some(membership)) = (self.peers.get(&key), state.members.get_mut(&key)) else {
                continue;
            };
            // Whoever had its time and said nothing is not waited for again, nor trusted with a duty, until it speaks.
            if now >= membership.sought_since.get_or_insert(now).after(self.config.settle_max) {
                membership.silent = true;
                state.reconsider(&key, peer);
            } else {
                waiting = true;
            }
        }
        if waiting {
            self.timers.arm(Timer::Settle(artifact), now.after(LOOK_AGAIN));
            return;
        }
        state.settled = true;
        state.settle_all();
        self.links_changed = true;
    }

    /// There are other gateways than before. Whoever of them has not been heard is heard before anything is asked of
    /// Earth: it may be fetching the same from there.
    fn hear_first(&mut self, artifact: ArtifactId, now: Moment) {
        let Some(state) = self.artifacts.get_mut(&artifact) else { return };
        if !std::mem::take(&mut state.gateways_changed) {
            return;
        }
        self.links_changed = true;
        let unheard = state.unheard(&self.peers);
        for key in &unheard {
            if let Some(membership) = state.members.get_mut(key).filter(|other| other.sought_since.is_none())
            {
                // Nobody listened to it before: its silence begins now.
                (membership.sought_since, membership.last_said) = (Some(now), now);
            }
        }
        if state.settled && !unheard.is_empty() {
            state.settled = false;
            state.settling_since = now;
            self.timers.arm(Timer::Settle(artifact), now.after(LOOK_AGAIN));
            state.settle_all();
        }
    }

    /// Passes over gateways that owe chunks and say nothing.
    fn look_for_silent(&mut self, artifact: ArtifactId, now: Moment) {
        let Some(state) = self.artifacts.get_mut(&artifact) else { return };
        let largest = state.picker.as_ref().map_or(FRAME_BYTES_MAX.into(), Picker::frame_bytes_max);
        let within = self.config.patience_earth + self.config.at_the_floor(largest);
        self.links_changed |= state.forget_overdue(&self.peers, within, self.config.overdue_max, now);
        let mean = state.picker.as_ref().map_or(0, Picker::frame_bytes_mean);
        let at_the_floor = self.config.at_the_floor(mean);
        // Whom nobody listens to cannot be heard either.
        for key in state.sought().into_iter().filter(|key| state.duty.is_gateway(key)).collect::<Vec<_>>() {
            let (Some(peer), Some(membership)) = (self.peers.get(&key), state.members.get_mut(&key)) else {
                continue;
            };
            let owes = membership.told.as_ref().is_none_or(|told| !told.is_complete());
            // Whoever waits for the Earth link has nothing to say until an answer comes, or its patience ends; and may do so
            // if we do not listen to what it is taking.
            let waits = if membership.is_taking() || state.listened.get(&key) != Some(&true) {
                self.config.patience_earth + LOOK_AGAIN * 4
            } else {
                self.config.silence
            };
            // Where nothing moves at all, as in a blackout, nobody is any better: then only stalling helps.
            let until = if state.picker.is_some() { state.last_moved } else { now };
            if owes && !membership.silent && until.since(membership.last_said) >= waits + at_the_floor {
                membership.silent = true;
                state.reconsider(&key, peer);
                self.links_changed = true;
            }
        }
        self.timers.arm(Timer::Silence(artifact), now.after(self.config.silence / 4));
    }

    /// Nothing arrived for long: help oneself for a while, when it is one's turn.
    fn stalled(&mut self, artifact: ArtifactId, now: Moment) {
        let Some(state) = self.artifacts.get_mut(&artifact) else { return };
        let turn = self.config.stall.saturating_mul(state.duty.rank().saturating_add(1));
        let due = state.last_received.after(turn);
        if state.helping_oneself {
            state.helping_oneself = false;
            state.last_received = now;
            self.timers.arm(Timer::Stall(artifact), now.after(turn));
        } else if now >= due {
            state.helping_oneself = true;
            state.gateways_changed = true;
            self.timers.arm(Timer::Stall(artifact), now.after(self.config.stall_relief));
        } else {
            self.timers.arm(Timer::Stall(artifact), due);
        }
        state.settle_all();
        self.links_changed = true;
    }
}
