//! Peers coming and going, and whom to connect to.
//!
//! Owns what happens to a peer outside of requests. Main invariant: an agent connects to few: some neighbours
//! and the gateways of its site; a gateway also to the other sites' gateways; and to the origin only when it
//! has something to fetch from it.

use lunar_common::bounds::FRAME_BYTES_MAX;
use lunar_common::ids::{ArtifactId, PeerKey, SiteId};
use lunar_common::time::Moment;

use super::artifact::ManifestState;
use super::effect::{Effect, Offence};
use super::in_flight::Flight;
use super::input::{Item, RequestId, Word};
use super::peers::{Class, Link, Peer};
use super::picker::Picker;
use super::timers::Timer;
use super::{PEERS_MAX, Swarm};

impl Swarm {
    /// A machine and its place are known.
    pub(super) fn meet(&mut self, key: PeerKey, site: SiteId, origin: bool) {
        if key == self.me {
            return;
        }
        let class = match (origin, site == self.site) {
            (true, _) => Class::Earth,
            (false, true) => Class::Site,
            (false, false) => Class::Sites,
        };
        let moved = self.peers.get(&key).is_some_and(|peer| peer.class != class || peer.site != site);
        if moved {
            self.gone(key);
        }
        if self.peers.len() < PEERS_MAX {
            if origin {
                self.origins.insert(key);
            }
            self.peers.entry(key).or_insert_with(|| Peer::new(site, class));
            self.links_changed = true;
        }
    }

    /// A machine takes part in a swarm.
    pub(super) fn member(&mut self, artifact: ArtifactId, key: PeerKey, now: Moment) {
        let (Some(state), Some(peer)) = (self.artifacts.get_mut(&artifact), self.peers.get(&key)) else {
            return;
        };
        if peer.class == Class::Earth || state.members.contains_key(&key) {
            return;
        }
        state.members.entry(key).or_default().last_said = now;
        state.reconsider(&key, peer);
        self.links_changed = true;
    }

    /// A machine is out.
    pub(super) fn gone(&mut self, key: PeerKey) {
        for request in self.in_flight.of_peer(&key) {
            self.effects.push_back(Effect::Cancel { request });
            self.release(request);
        }
        self.timers.disarm(Timer::Peer(key));
        let Some(peer) = self.peers.remove(&key) else { return };
        self.origins.remove(&key);
        for state in self.artifacts.values_mut() {
            state.remove_member(&key, &peer);
        }
        if peer.link != Link::Absent {
            self.effects.push_back(Effect::Disconnect { peer: key });
        }
        self.links_changed = true;
    }

    pub(super) fn connected(&mut self, key: PeerKey) {
        let in_site = self.peers.values().filter(|peer| peer.class == Class::Site);
        let linked_in_site = in_site.filter(|peer| peer.link == Link::Connected).count();
        let Some(peer) = self.peers.get_mut(&key) else { return };
        // Whoever is connected to is listened to. Of those that connected by themselves a few are: a gateway has
        // its whole site connected to it, and would hear everything a thousand times.
        let asked = peer.link == Link::Connecting || peer.class == Class::Sites;
        let talks = peer.class != Class::Earth && (asked || linked_in_site < self.config.neighbours_max);
        peer.reached();
        for (artifact, state) in &mut self.artifacts {
            state.reconsider(&key, peer);
            if talks
                && !state.complete
                && let Some(takings) = state.listens_anew(&key)
            {
                self.effects.push_back(Effect::Subscribe { artifact: *artifact, peer: key, takings });
            }
        }
        self.links_changed = true;
    }

    pub(super) fn connect_failed(&mut self, key: PeerKey, full: bool, now: Moment) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if peer.link == Link::Connected {
            return; // It connected to us meanwhile.
        }
        peer.link = Link::Absent;
        if full {
            peer.rest(&key, &self.config, now, now);
        } else {
            peer.unreached(&key, &self.config, now);
        }
        self.peer_changed(key, now);
    }

    pub(super) fn disconnected(&mut self, key: PeerKey, now: Moment) {
        let requests = self.in_flight.of_peer(&key);
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.link = Link::Absent;
        peer.rest(&key, &self.config, now, now);
        if !requests.is_empty() {
            peer.failed(&key, &self.config, now);
        }
        for request in requests {
            self.release(request);
        }
        self.peer_changed(key, now);
    }

    pub(super) fn said(&mut self, artifact: ArtifactId, key: PeerKey, word: Word, now: Moment) {
        let (Some(state), Some(peer)) = (self.artifacts.get_mut(&artifact), self.peers.get(&key)) else {
            return;
        };
        if state.complete || peer.class == Class::Earth {
            return;
        }
        // No request over the link to Earth lasts longer than its patience.
        let largest = state.picker.as_ref().map_or(FRAME_BYTES_MAX.into(), Picker::frame_bytes_max);
        let longest = now.after(self.config.patience_earth + self.config.at_the_floor(largest));
        // What it heard of others it says once, to begin with: said again, it would be believed for ever.
        let begins = state.members.get(&key).is_none_or(|member| !member.answered);
        let (mut taken, mut heard) = (Vec::new(), Vec::new());
        match &word {
            Word::Taking(chunk) => taken.push((*chunk, longest)),
            Word::Standing { taking, heard: of_others, .. } => {
                taken.extend(taking.iter().map(|chunk| (*chunk, longest)));
                let of_others = of_others.iter().filter(|_| begins);
                heard.extend(of_others.map(|(chunk, left)| (*chunk, now.after(*left).min(longest))));
            }
            Word::Nothing | Word::HaveSet(_) | Word::Have(_) | Word::Haves(_) | Word::Left(_) => {}
        }
        if !state.said(&key, peer, word, now) {
            return self.lied(key, now);
        }
        let idle = state.members.get(&key).is_some_and(|member| member.idle);
        let reliable = peer.is_reliable();
        self.give_up_what_others_brought(artifact);
        let Some(state) = self.artifacts.get_mut(&artifact) else { return };
        if idle || !reliable {
            return;
        }
        if !heard.is_empty() {
            state.hear(&heard, now);
            if let Some(first) = state.forget_hearsay(now) {
                self.timers.arm(Timer::Hearsay(artifact), first);
            }
        }
        taken.append(&mut heard);
        if !taken.is_empty() {
            state.keep_heard(&taken, now);
            self.restated.insert(artifact);
        }
    }

    /// What others have by now is not waited for from Earth: it may not have been sent from there yet.
    fn give_up_what_others_brought(&mut self, artifact: ArtifactId) {
        if self.in_flight.of_class(Class::Earth) == 0 {
            return;
        }
        let picker = self.artifacts.get(&artifact).and_then(|state| state.picker.as_ref());
        let Some(picker) = picker else { return };
        let brought = |request: &RequestId| match self.in_flight.get(*request) {
            Some(Flight { item: Item::Chunk(chunk), class: Class::Earth, .. }) => {
                picker.has_two_copies(*chunk)
            }
            Some(_) | None => false,
        };
        for request in self.in_flight.of_artifact(artifact).into_iter().filter(brought).collect::<Vec<_>>() {
            self.cancel(request);
        }
    }

    /// What was heard of others' fetching is too old to be true.
    pub(super) fn forget_hearsay(&mut self, artifact: ArtifactId, now: Moment) {
        let next = self.artifacts.get_mut(&artifact).and_then(|state| state.forget_hearsay(now));
        if let Some(next) = next {
            self.timers.arm(Timer::Hearsay(artifact), next);
        }
    }

    /// A peer was found to have said an untruth.
    pub(super) fn lied(&mut self, key: PeerKey, now: Moment) {
        if self.peers.get_mut(&key).is_some_and(|peer| peer.lied(&self.config)) {
            self.ban(key, Offence::Lied, now);
        }
    }

    /// A peer is avoided for a while.
    pub(super) fn ban(&mut self, key: PeerKey, offence: Offence, now: Moment) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let until = peer.ban(&key, &self.config, now);
        self.effects.push_back(Effect::Banned { peer: key, offence, until });
        for request in self.in_flight.of_peer(&key) {
            self.effects.push_back(Effect::Cancel { request });
            self.release(request);
        }
        self.peer_changed(key, now);
    }

    /// A peer's link, breaker, rest or ban changed, or may have ended by now.
    pub(super) fn peer_changed(&mut self, key: PeerKey, now: Moment) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        match peer.refresh(now) {
            Some(next) => self.timers.arm(Timer::Peer(key), next),
            None => self.timers.disarm(Timer::Peer(key)),
        }
        for state in self.artifacts.values_mut() {
            state.reconsider(&key, peer);
        }
        self.links_changed = true;
    }

    /// Listens to every connected peer about an artifact.
    pub(super) fn subscribe_everywhere(&mut self, artifact: ArtifactId) {
        let Some(state) = self.artifacts.get_mut(&artifact) else { return };
        for (key, peer) in &self.peers {
            if peer.link == Link::Connected
                && peer.class != Class::Earth
                && let Some(takings) = state.listens_anew(key)
            {
                self.effects.push_back(Effect::Subscribe { artifact, peer: *key, takings });
            }
        }
    }

    /// Connects to those whom the wanted artifacts need, and listens to them.
    pub(super) fn connect_to_needed(&mut self) {
        let mut needed: Vec<PeerKey> = Vec::new();
        if self.needs_earth() {
            needed.extend(&self.origins);
        }
        if std::mem::take(&mut self.links_changed) {
            for state in self.artifacts.values().filter(|state| !state.complete) {
                needed.extend(state.sought());
                needed.extend(self.neighbours_lacking(state));
            }
            self.listen_to_sought();
        }
        for key in needed {
            if let Some(peer) = self.peers.get_mut(&key)
                && peer.is_connectable()
            {
                peer.link = Link::Connecting;
                self.effects.push_back(Effect::Connect { peer: key });
            }
        }
    }

    /// Listens to those who are sought and were connected before they were: whoever connects by itself is not listened
    /// to while there are neighbours enough, nor to what it is taking by those who fetch for nobody.
    fn listen_to_sought(&mut self) {
        for (artifact, state) in self.artifacts.iter_mut().filter(|(_, state)| !state.complete) {
            for key in state.sought() {
                let connected = self.peers.get(&key).is_some_and(|peer| peer.link == Link::Connected);
                if connected && let Some(takings) = state.listens_anew(&key) {
                    self.effects.push_back(Effect::Subscribe { artifact: *artifact, peer: key, takings });
                }
            }
        }
    }

    /// Whether anything is ours to fetch over the Earth link.
    fn needs_earth(&self) -> bool {
        self.artifacts.values().filter(|state| !state.complete).any(|state| match &state.picker {
            Some(picker) => picker.is_ready(Class::Earth),
            None => {
                // Every gateway will have chunks to fetch: connecting while the manifest is on its way saves a
                // round trip of 2.5 s.
                let ours = state.duty.is_gateway(&self.me) || state.helping_oneself;
                let missing = state.manifest != ManifestState::Received;
                missing && state.settled && ours && self.nobody_has_the_manifest(state)
            }
        })
    }

    /// As many neighbours as are lacking to a full set of connections in the site.
    fn neighbours_lacking(&self, state: &super::Artifact) -> Vec<PeerKey> {
        let linked = |key: &PeerKey| self.peers.get(key).is_some_and(|peer| peer.link != Link::Absent);
        let connectable = |key: &PeerKey| self.peers.get(key).is_some_and(Peer::is_connectable);
        let in_site = self.peers.values().filter(|peer| peer.class == Class::Site);
        let linked_in_site = in_site.filter(|peer| peer.link != Link::Absent).count();
        let lacking = self.config.neighbours_max.saturating_sub(linked_in_site);
        if lacking == 0 {
            return Vec::new();
        }
        let candidates = state.duty.neighbours().into_iter().filter(|key| !linked(key) && connectable(key));
        candidates.take(lacking).collect()
    }
}
