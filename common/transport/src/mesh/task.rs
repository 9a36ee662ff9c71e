//! The mesh's task: one dull loop between libp2p, the program and the choice of neighbours.
//!
//! Owns the swarm and who is connected. Main invariant: nobody counts as connected, and nothing is heard from
//! anybody, without having passed the gate. Refuses to decide whom to be connected to: it carries out what
//! [`super::neighbours`] says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use futures::StreamExt;
use libp2p::core::ConnectedPoint;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId};
use lunar_common::ids::{FleetId, PeerKey, SiteId};
use lunar_common::time::{Moment, millis};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::address::PeerAddress;
use super::admission::{Passed, Reception, WithCauses};
use super::behaviour::{Behaviour, BehaviourEvent};
use super::book::Book;
use super::config::MeshConfig;
use super::event::{MeshEvent, Verdict};
use super::gossip::GossipState;
use super::handle::{Command, ConnectedPeer};
use super::look_ups::LookUps;
use super::neighbours::{Action, Neighbours};
use super::outbox::Outbox;
use super::record::{SignedRecord, quic_multiaddr, socket_address};
use super::requests::Requests;
use crate::gate::{peer_id, peer_key};

/// Machines that an agent remembers: enough to replace all its neighbours many times over.
const BOOK_ENTRIES_AGENT: usize = 512;

/// Machines that a directory remembers: more than the largest fleet planned for.
const BOOK_ENTRIES_DIRECTORY: usize = 16_384;

/// How often what has run out is dropped.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// Machines remembered as evicted. Their gossip is ignored although honest neighbours pass it on.
const EVICTED_MAX: usize = 4096;

/// Longest wait for connections to close in order at the end.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// A connected machine.
pub(super) struct Connected {
    pub(super) peer: PeerId,
    pub(super) passed: Passed,
    pub(super) address: Option<SocketAddr>,
    /// Whether the program was told: once it hears what is gossiped.
    pub(super) joined: bool,
}

/// A look-up of a host name that is under way, and what for.
type Resolved = (Option<PeerKey>, Vec<SocketAddr>);

/// The state of the mesh.
pub(super) struct Task {
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) reception: Arc<Reception>,
    pub(super) key: SigningKey,
    pub(super) own: PeerKey,
    pub(super) fleet: FleetId,
    pub(super) site: SiteId,
    pub(super) directory: bool,
    pub(super) announce: Vec<SocketAddr>,
    pub(super) outbox: Outbox,
    pub(super) book: Book,
    pub(super) neighbours: Neighbours,
    pub(super) connected: BTreeMap<PeerKey, Connected>,
    pub(super) requests: Requests,
    pub(super) look_ups: LookUps,
    bootstrap: Vec<PeerAddress>,
    bootstrap_dials: BTreeSet<ConnectionId>,
    resolving: JoinSet<Resolved>,
    pub(super) evicted: BTreeSet<PeerKey>,
    pub(super) gossip: GossipState,
    commands: mpsc::Receiver<Command>,
    verdicts: mpsc::UnboundedReceiver<Verdict>,
    membership: watch::Receiver<u64>,
    connections_max: usize,
    epoch: Instant,
    housekeeping_at: Moment,
}

impl Task {
    pub(super) fn new(
        config: MeshConfig,
        announce: Vec<SocketAddr>,
        swarm: Swarm<Behaviour>,
        reception: Arc<Reception>,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<MeshEvent>,
    ) -> Self {
        let own = PeerKey(config.key.verifying_key().to_bytes());
        let (verdict_sender, verdicts) = mpsc::unbounded_channel();
        let entries_max = if config.directory { BOOK_ENTRIES_DIRECTORY } else { BOOK_ENTRIES_AGENT };
        let connections_max = usize::try_from(config.bounds.connections_max).unwrap_or(usize::MAX);
        let membership = config.gate.changes();
        Self {
            swarm,
            reception,
            own,
            key: config.key,
            fleet: config.fleet,
            site: config.site,
            directory: config.directory,
            announce,
            outbox: Outbox::new(events),
            book: Book::new(entries_max),
            neighbours: Neighbours::new(own, config.bounds, Moment(0)),
            connected: BTreeMap::new(),
            requests: Requests::default(),
            look_ups: LookUps::default(),
            bootstrap: config.bootstrap,
            bootstrap_dials: BTreeSet::new(),
            resolving: JoinSet::new(),
            evicted: BTreeSet::new(),
            gossip: GossipState::new(verdict_sender),
            commands,
            verdicts,
            membership,
            connections_max,
            epoch: Instant::now(),
            housekeeping_at: Moment(millis(HOUSEKEEPING_INTERVAL)),
        }
    }

    /// Milliseconds since this mesh started.
    pub(super) fn now(&self) -> Moment {
        Moment(millis(self.epoch.elapsed()))
    }

    /// Runs until told to stop, or until every handle is gone.
    pub(super) async fn run(mut self, early: Vec<SwarmEvent<BehaviourEvent>>) {
        self.own_addresses_changed();
        for event in early {
            self.on_swarm_event(event);
        }
        let farewell = loop {
            let wake = tokio::time::Instant::from_std(self.epoch + self.do_what_is_due());
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_swarm_event(event),
                command = self.commands.recv() => match command {
                    Some(Command::Shutdown { reply }) => break Some(reply),
                    Some(command) => self.on_command(command),
                    None => break None,
                },
                Some(verdict) = self.verdicts.recv() => self.on_verdict(verdict),
                Ok(()) = self.membership.changed() => self.judge_all_again(),
                peer = self.reception.next_outlived() => {
                    tracing::debug!(%peer, "a new life of a machine: the connections of its old one are closed");
                    // They may have gone by themselves meanwhile.
                    let _ = self.swarm.disconnect_peer_id(peer);
                }
                Some(answered) = self.requests.next_answer() => self.on_answered(answered),
                Some(resolved) = self.resolving.join_next() => {
                    // A look-up that panicked found nothing; its next try comes with the next round.
                    if let Ok(resolved) = resolved {
                        self.on_resolved(resolved);
                    }
                }
                () = self.outbox.flush_one(), if self.outbox.is_waiting() => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        };
        self.end(farewell).await;
    }

    /// Everything whose time has come; how long after the start the next thing is due.
    fn do_what_is_due(&mut self) -> Duration {
        let now = self.now();
        if self.neighbours.poll_timeout().is_some_and(|at| at <= now) {
            self.neighbours.handle_timeout(now);
        }
        while let Some(action) = self.neighbours.poll_action() {
            self.act(action, now);
        }
        if now >= self.housekeeping_at {
            self.swarm.behaviour_mut().look_up.store_mut().expire(Instant::now());
            self.housekeeping_at = now.after(HOUSEKEEPING_INTERVAL);
        }
        self.do_due_look_ups(now);
        let due = [Some(self.housekeeping_at), self.neighbours.poll_timeout(), self.look_ups.poll_timeout()];
        let next = due.into_iter().flatten().min().unwrap_or(self.housekeeping_at);
        Duration::from_millis(next.0)
    }

    fn act(&mut self, action: Action, now: Moment) {
        match action {
            Action::Dial(peer) => {
                if !self.connected.contains_key(&peer) && !self.dial_known(peer) {
                    self.neighbours.dial_failed(peer, now);
                }
            }
            Action::Close(peer) => {
                if let Some(connected) = self.connected.get(&peer) {
                    // It may have gone by itself meanwhile.
                    let _ = self.swarm.disconnect_peer_id(connected.peer);
                }
            }
            Action::Ask(peer) => self.ask_for_neighbours(peer),
            Action::Bootstrap => {
                for address in self.bootstrap.clone() {
                    self.resolve(address.key, address.address);
                }
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Request { to, request, reply } => self.request(to, &request, reply),
            Command::Publish { message, reply } => {
                // The caller may have gone.
                let _ = reply.send(self.publish(&message));
            }
            Command::Provide { artifact, of } => self.provide(artifact, of),
            Command::StopProviding { artifact } => self.stop_providing(artifact),
            Command::Providers { artifact, of, reply } => self.look_up_providers(artifact, &of, reply),
            Command::Locate { peer, reply } => self.locate(peer, reply),
            Command::Peers { reply } => {
                let _ = reply.send(self.connected.values().map(connected_peer).collect());
            }
            Command::ListenAddresses { reply } => {
                let addresses = self.swarm.listeners().filter_map(socket_address);
                let _ = reply.send(addresses.map(|address| address.to_string()).collect());
            }
            Command::Evict { peer } => self.evict(peer),
            Command::Shutdown { reply } => drop(reply),
        }
    }

    fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event),
            SwarmEvent::ConnectionEstablished {
                peer_id, connection_id, endpoint, num_established, ..
            } => {
                let bootstrap = self.bootstrap_dials.remove(&connection_id);
                if num_established.get() == 1 {
                    self.on_connected(peer_id, &endpoint, bootstrap);
                } else {
                    self.on_connected_again(&peer_id);
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, cause, .. } => {
                if let Some(cause) = &cause {
                    tracing::debug!(peer = %peer_id, reason = %WithCauses(cause), "connection ended");
                }
                self.on_disconnected(&peer_id);
            }
            SwarmEvent::OutgoingConnectionError { peer_id, connection_id, error } => {
                let bootstrap = self.bootstrap_dials.remove(&connection_id);
                tracing::debug!(peer = ?peer_id, reason = %WithCauses(&error), "cannot connect");
                if let Some(peer) = peer_id.as_ref().and_then(peer_key)
                    && !self.connected.contains_key(&peer)
                {
                    self.on_dial_failed(peer, &error);
                }
                if bootstrap && !self.is_bootstrapping() {
                    self.stop_hoping();
                }
            }
            SwarmEvent::NewListenAddr { .. } | SwarmEvent::ExpiredListenAddr { .. } => {
                self.own_addresses_changed();
            }
            SwarmEvent::ListenerClosed { addresses, reason: Err(error), .. } => {
                tracing::error!(?addresses, %error, "the mesh no longer listens here: restart the program");
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "a listener of the mesh failed for a moment");
            }
            // A foreign, non-exhaustive enum: the other events report steps on the way to those above.
            _ => {}
        }
    }

    fn on_behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Gossip(event) => self.on_gossip(event),
            BehaviourEvent::LookUp(event) => self.on_look_up_event(event),
            BehaviourEvent::Requests(event) => self.on_requests_event(event),
            // Peers' addresses come from their signed records, and a failed ping is a dead connection, which
            // QUIC notices by itself.
            BehaviourEvent::Identify(_) | BehaviourEvent::Ping(_) => {}
        }
    }

    fn on_connected(&mut self, peer: PeerId, endpoint: &ConnectedPoint, bootstrap: bool) {
        let now = self.now();
        let connections_max = self.connections_max;
        let swarm = &self.swarm;
        self.reception.retain_above(2 * connections_max, |other| swarm.is_connected(other));
        let Some((key, passed)) = peer_key(&peer).zip(self.reception.passed(&peer)) else {
            // It passed so long before the swarm heard of it that it was forgotten: it may come again.
            let _ = self.swarm.disconnect_peer_id(peer);
            return;
        };
        // It may have passed the gate just before its membership ended.
        let evicted = self.evicted.contains(&key)
            && self.reception.gate().admit(passed.admitted.enrolment.document()).is_err();
        if evicted || self.neighbours.is_banned(&key, now) {
            tracing::debug!(peer = %passed.admitted.enrolment.server, evicted, "dropped: banned or evicted");
            let _ = self.swarm.disconnect_peer_id(peer);
            return;
        }
        self.evicted.remove(&key);
        let enrolment = Arc::clone(&passed.admitted.enrolment);
        let beyond = enrolment.site != self.site;
        let directory = passed.record.as_ref().is_some_and(|record| record.record.directory);
        if let Some(record) = passed.record.clone() {
            if self.directory {
                self.keep_record(&record);
            }
            self.take_record(record, true);
            self.book.set_connected(&key, true, now);
        }
        let address = socket_address(endpoint.get_remote_address());
        self.reception.stands(peer, passed.admitted.life);
        self.connected.insert(key, Connected { peer, passed, address, joined: false });
        self.neighbours.connected(key, beyond, directory, bootstrap, now);
        tracing::debug!(peer = %enrolment.server, site = %enrolment.site, "machine connected");
        if directory {
            self.announce_soon(now);
        }
        self.send_waiting(key);
        self.reach_again();
    }

    /// A machine connects beside a connection that it has: two dials have crossed, of one life, for the gate lets
    /// no other stand beside it. Only if both lives were on their way from the gate to here at once did neither
    /// see the other there: then all are dropped, and the one that lives comes again.
    fn on_connected_again(&mut self, peer: &PeerId) {
        let Some(connected) = peer_key(peer).and_then(|key| self.connected.get(&key)) else { return };
        let life = connected.passed.admitted.life;
        if self.reception.passed(peer).is_some_and(|passed| passed.admitted.life != life) {
            tracing::debug!(peer = %connected.passed.admitted.enrolment.server, "two lives at once: both dropped");
            let _ = self.swarm.disconnect_peer_id(*peer);
        }
    }

    /// Whether bootstrap peers are being dialled.
    pub(super) fn is_bootstrapping(&self) -> bool {
        !self.resolving.is_empty() || !self.bootstrap_dials.is_empty()
    }

    fn on_disconnected(&mut self, peer: &PeerId) {
        let now = self.now();
        let Some(key) = peer_key(peer) else { return };
        let Some(connected) = self.connected.remove(&key) else { return };
        self.reception.left(peer);
        tracing::debug!(peer = %connected.passed.admitted.enrolment.server, "machine left");
        self.book.set_connected(&key, false, now);
        self.neighbours.disconnected(key, now);
        if self.book.get(&key).is_none() {
            self.neighbours.forget(&key);
        }
        if connected.joined {
            self.outbox.left(key);
        }
    }

    fn on_dial_failed(&mut self, peer: PeerKey, error: &DialError) {
        let now = self.now();
        self.neighbours.dial_failed(peer, now);
        if let Some(id) = peer_id(&peer) {
            // A look-up must not wait for a directory that is gone; it is put back before the next one.
            self.swarm.behaviour_mut().look_up.remove_peer(&id);
        }
        self.reach_failed(peer, &error.to_string());
    }

    /// Takes in where a machine is.
    pub(super) fn take_record(&mut self, record: SignedRecord, own_word: bool) {
        let now = self.now();
        if record.peer == self.own || self.evicted.contains(&record.peer) {
            return;
        }
        let (peer, beyond) = (record.peer, record.record.site != self.site);
        let directory = record.record.directory;
        let taken = self.book.take(record, own_word, now);
        if let Some(dropped) = taken.dropped {
            self.neighbours.forget(&dropped);
        }
        if taken.news && self.book.get(&peer).is_some() {
            self.neighbours.learned(peer, beyond, directory, now);
        }
        if directory {
            self.route_to_directories();
        }
    }

    /// Dials a machine where its record says it is. `false`: nothing is known, or nothing could be tried.
    pub(super) fn dial_known(&mut self, peer: PeerKey) -> bool {
        let Some(entry) = self.book.get(&peer) else { return false };
        self.dial(peer, entry.record.multiaddrs()).is_some()
    }

    /// Dials a machine at these addresses; `Some(None)`: it is connected, or being dialled already.
    fn dial(&mut self, peer: PeerKey, addresses: Vec<Multiaddr>) -> Option<Option<ConnectionId>> {
        let options = DialOpts::peer_id(peer_id(&peer)?)
            .addresses(addresses)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .build();
        let id = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => Some(Some(id)),
            Err(DialError::DialPeerConditionFalse(_)) => Some(None),
            Err(_) => None,
        }
    }

    /// Finds out where a host is, to dial it.
    fn resolve(&mut self, key: Option<PeerKey>, address: String) {
        if key == Some(self.own) || key.is_some_and(|key| self.connected.contains_key(&key)) {
            return;
        }
        self.resolving.spawn(async move {
            match tokio::net::lookup_host(&address).await {
                Ok(addresses) => (key, addresses.take(super::record::ADDRESSES_MAX).collect()),
                Err(error) => {
                    tracing::debug!(%address, %error, "cannot find out where a bootstrap peer is");
                    (key, Vec::new())
                }
            }
        });
    }

    /// Tries the configured addresses of a machine. `false`: none is configured.
    pub(super) fn dial_configured(&mut self, peer: PeerKey) -> bool {
        let configured: Vec<_> =
            self.bootstrap.iter().filter(|address| address.key == Some(peer)).cloned().collect();
        for address in &configured {
            self.resolve(address.key, address.address.clone());
        }
        !configured.is_empty()
    }

    fn on_resolved(&mut self, (key, addresses): Resolved) {
        let own: Vec<_> = self.swarm.listeners().filter_map(socket_address).collect();
        let taken = |address: &SocketAddr| {
            let here = |connected: &Connected| {
                let record = connected.passed.record.as_ref();
                connected.address == Some(*address)
                    || record.is_some_and(|record| record.record.addresses.contains(address))
            };
            own.contains(address) || self.connected.values().any(here)
        };
        match key {
            Some(key) => {
                let dialled = match addresses.is_empty() {
                    true => None,
                    false => self.dial(key, addresses.into_iter().map(quic_multiaddr).collect()),
                };
                match dialled {
                    Some(Some(id)) => {
                        self.bootstrap_dials.insert(id);
                    }
                    Some(None) => {}
                    None => self.reach_failed(key, "its configured address leads nowhere"),
                }
            }
            None => {
                let addresses: Vec<_> = addresses.into_iter().filter(|address| !taken(address)).collect();
                for address in addresses {
                    let options = DialOpts::unknown_peer_id().address(quic_multiaddr(address)).build();
                    let id = options.connection_id();
                    if self.swarm.dial(options).is_ok() {
                        self.bootstrap_dials.insert(id);
                    }
                }
            }
        }
        if !self.is_bootstrapping() {
            self.stop_hoping();
        }
    }

    fn evict(&mut self, peer: PeerKey) {
        if self.evicted.len() >= EVICTED_MAX {
            self.evicted.pop_first();
        }
        self.evicted.insert(peer);
        self.book.remove(&peer);
        self.neighbours.forget(&peer);
        let record = super::record::record_key(&self.fleet, &peer);
        if let Some(id) = peer_id(&peer) {
            self.reception.forget(&id);
            let look_up = &mut self.swarm.behaviour_mut().look_up;
            look_up.remove_peer(&id);
            look_up.store_mut().forget(&id, &record);
            // Its connections, if it has any; `Left` follows when they have closed.
            let _ = self.swarm.disconnect_peer_id(id);
        }
    }

    /// Somebody may be a member no more: whoever the gate would turn away now is dropped.
    fn judge_all_again(&mut self) {
        let gate = self.reception.gate();
        let out: Vec<(PeerKey, String)> = self
            .connected
            .iter()
            .filter_map(|(key, connected)| {
                let refusal = gate.admit(connected.passed.admitted.enrolment.document()).err()?;
                Some((*key, refusal.to_string()))
            })
            .collect();
        for (key, reason) in out {
            tracing::info!(peer = %format_args!("{key:.16}"), reason, "a connected machine is a member no more");
            self.evict(key);
        }
    }

    /// A machine sent what no honest one sends.
    pub(super) fn penalise(&mut self, peer: PeerKey, reason: &str) {
        let now = self.now();
        tracing::debug!(%peer, reason, "a machine misbehaves");
        self.neighbours.strike(peer, now);
    }

    async fn end(mut self, farewell: Option<oneshot::Sender<()>>) {
        for connected in self.connected.values() {
            let _ = self.swarm.disconnect_peer_id(connected.peer);
        }
        let closed = async {
            while self.swarm.network_info().num_peers() > 0 {
                self.swarm.select_next_some().await;
            }
        };
        // Whoever has not closed by then finds out by the silence.
        let _ = tokio::time::timeout(FAREWELL_TIMEOUT, closed).await;
        drop(self);
        if let Some(farewell) = farewell {
            let _ = farewell.send(());
        }
    }
}

fn connected_peer(connected: &Connected) -> ConnectedPeer {
    let Passed { admitted, record } = &connected.passed;
    ConnectedPeer {
        enrolment: Arc::clone(&admitted.enrolment),
        data_address: admitted.data_address.clone(),
        address: connected.address.map(|address| address.to_string()).unwrap_or_default(),
        directory: record.as_ref().is_some_and(|record| record.record.directory),
    }
}
