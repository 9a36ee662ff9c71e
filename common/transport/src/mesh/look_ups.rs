//! Finding machines and providers through the directories, and being found.
//!
//! Owns the queries under way, what this machine provides, and what a directory takes in from others. Main
//! invariant: every look-up is asked for by somebody (nothing walks the network by itself), ends within the
//! query time-out, and is counted against [`QUERIES_MAX`].

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::kad::{
    Event, GetProvidersOk, GetRecordOk, InboundRequest, ProviderRecord, QueryId, QueryResult, Quorum, Record,
    RecordKey, store::RecordStore,
};
use lunar_common::ids::{ArtifactId, PeerKey};
use lunar_common::time::Moment;
use lunar_common::wire::{self, Signed};
use tokio::sync::oneshot;

use super::handle::Located;
use super::record::{
    ADDRESSES_MAX, PeerRecord, Providing, RECORD_BYTES_MAX, SignedRecord, issued_now_ms, provider_key,
    quic_multiaddr, record_key, socket_address,
};
use super::store::{ENTRY_TTL, RENEWAL_INTERVAL};
use super::task::Task;
use crate::gate::{peer_id, peer_key};

/// Look-ups under way at once; further ones find nothing.
const QUERIES_MAX: usize = 64;

/// Artifacts that this machine lets be known it has: what a directory would take from one machine.
const PROVIDED_MAX: usize = 128;

/// Providers that one look-up returns at most.
const PROVIDERS_FOUND_MAX: usize = 64;

/// Once one directory has named providers, the others have this long to add theirs: one that is dead must not
/// hold a download up.
const GRACE: Duration = Duration::from_millis(250);

/// At least this long between two announcements: directories tend to come together.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(3);

/// All that is under way.
#[derive(Default)]
pub(super) struct LookUps {
    queries: HashMap<QueryId, Query>,
    provided: BTreeSet<(ArtifactId, Providing)>,
    announce_at: Option<Moment>,
    announced: Option<Moment>,
    own_addresses: Vec<SocketAddr>,
}

enum Query {
    /// Where is this machine?
    Record { peer: PeerKey, replies: Vec<oneshot::Sender<Option<Located>>> },
    /// Who has this artifact?
    Providers { found: BTreeSet<PeerKey>, reply: oneshot::Sender<Vec<PeerKey>>, finish_at: Option<Moment> },
}

impl LookUps {
    /// When something is due.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        let grace = self.queries.values().filter_map(|query| match query {
            Query::Providers { finish_at, .. } => *finish_at,
            Query::Record { .. } => None,
        });
        grace.chain(self.announce_at).min()
    }
}

impl Task {
    pub(super) fn do_due_look_ups(&mut self, now: Moment) {
        if self.look_ups.announce_at.is_some_and(|at| at <= now) {
            self.announce(now);
        }
        let due = |query: &Query| match query {
            Query::Providers { finish_at, .. } => finish_at.is_some_and(|at| at <= now),
            Query::Record { .. } => false,
        };
        let finished: Vec<_> =
            self.look_ups.queries.iter().filter(|(_, query)| due(query)).map(|(id, _)| *id).collect();
        for id in finished {
            self.finish(id);
        }
    }

    /// Where this machine listens has changed: what it says of itself follows.
    pub(super) fn own_addresses_changed(&mut self) {
        let now = self.now();
        let mut addresses: Vec<_> = if self.announce.is_empty() {
            self.swarm.listeners().filter_map(socket_address).collect()
        } else {
            self.announce.clone()
        };
        addresses.retain(|address| !address.ip().is_unspecified() && address.port() != 0);
        if addresses.iter().any(|address| !address.ip().is_loopback()) {
            addresses.retain(|address| !address.ip().is_loopback());
        }
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(ADDRESSES_MAX);
        if addresses != self.look_ups.own_addresses {
            self.look_ups.own_addresses = addresses;
            self.own_record();
            self.announce_soon(now);
        }
    }

    /// This machine's record, signed now; later greetings carry it too.
    fn own_record(&mut self) -> Option<Signed> {
        let record = PeerRecord {
            issued_ms: issued_now_ms(),
            site: self.site.clone(),
            directory: self.directory,
            addresses: self.look_ups.own_addresses.clone(),
            data_address: self.reception.gate().hello().data_address,
        };
        match Signed::sign(&record, &self.key) {
            Ok(signed) => {
                self.reception.set_own_record(signed.clone());
                Some(signed)
            }
            Err(error) => {
                tracing::error!(%error, "this machine's record cannot be encoded: its data address is too long");
                None
            }
        }
    }

    /// Tells the directories where this machine is and what it has: at once, unless it did so just now.
    pub(super) fn announce_soon(&mut self, now: Moment) {
        let at = self.look_ups.announced.map_or(now, |last| now.max(last.after(ANNOUNCE_INTERVAL)));
        self.look_ups.announce_at = Some(self.look_ups.announce_at.map_or(at, |earlier| earlier.min(at)));
    }

    fn announce(&mut self, now: Moment) {
        self.look_ups.announced = Some(now);
        self.look_ups.announce_at = Some(now.after(RENEWAL_INTERVAL));
        self.route_to_directories();
        let Some(signed) = self.own_record() else { return };
        match wire::encode(&signed, RECORD_BYTES_MAX) {
            Ok(value) => {
                let record = Record::new(record_key(&self.fleet, &self.own), value);
                if let Err(error) = self.swarm.behaviour_mut().look_up.put_record(record, Quorum::One) {
                    tracing::warn!(%error, "this machine's record is not kept");
                }
            }
            Err(error) => tracing::error!(%error, "this machine's record cannot be encoded"),
        }
        for (artifact, of) in self.look_ups.provided.clone() {
            self.start_providing(&artifact, &of);
        }
    }

    pub(super) fn provide(&mut self, artifact: ArtifactId, of: Providing) {
        let provided = (artifact, of);
        if self.look_ups.provided.len() >= PROVIDED_MAX && !self.look_ups.provided.contains(&provided) {
            tracing::warn!(%artifact, "not announced: this machine provides {PROVIDED_MAX} artifacts already");
            return;
        }
        self.route_to_directories();
        self.start_providing(&provided.0, &provided.1);
        self.look_ups.provided.insert(provided);
    }

    fn start_providing(&mut self, artifact: &ArtifactId, of: &Providing) {
        let key = provider_key(&self.fleet, artifact, of);
        if let Err(error) = self.swarm.behaviour_mut().look_up.start_providing(key) {
            tracing::warn!(%error, %artifact, "what this machine provides is not announced");
        }
    }

    pub(super) fn stop_providing(&mut self, artifact: ArtifactId) {
        for of in [Providing::Site(self.site.clone()), Providing::Origin] {
            let key = provider_key(&self.fleet, &artifact, &of);
            if self.look_ups.provided.remove(&(artifact, of)) {
                self.swarm.behaviour_mut().look_up.stop_providing(&key);
            }
        }
    }

    pub(super) fn look_up_providers(
        &mut self,
        artifact: ArtifactId,
        of: &Providing,
        reply: oneshot::Sender<Vec<PeerKey>>,
    ) {
        if self.look_ups.queries.len() >= QUERIES_MAX {
            tracing::debug!(%artifact, "too many look-ups at once");
            let _ = reply.send(Vec::new());
            return;
        }
        self.route_to_directories();
        let key = provider_key(&self.fleet, &artifact, of);
        let id = self.swarm.behaviour_mut().look_up.get_providers(key);
        let query = Query::Providers { found: BTreeSet::new(), reply, finish_at: None };
        self.look_ups.queries.insert(id, query);
    }

    /// Finds out where a machine is, for a handle.
    pub(super) fn locate(&mut self, peer: PeerKey, reply: oneshot::Sender<Option<Located>>) {
        match self.book.get(&peer) {
            Some(entry) if entry.connected => {
                let _ = reply.send(Some(located(&entry.record)));
            }
            Some(_) | None => self.look_up_record(peer, Some(reply)),
        }
    }

    /// Asks the directories where a machine is.
    pub(super) fn look_up_record(&mut self, peer: PeerKey, reply: Option<oneshot::Sender<Option<Located>>>) {
        let under_way = self.look_ups.queries.values_mut().find_map(|query| match query {
            Query::Record { peer: other, replies } if *other == peer => Some(replies),
            Query::Record { .. } | Query::Providers { .. } => None,
        });
        if let Some(replies) = under_way {
            replies.extend(reply);
            return;
        }
        if self.look_ups.queries.len() >= QUERIES_MAX {
            tracing::debug!(%peer, "too many look-ups at once");
            self.looked_up_for_requests(peer, false);
            return;
        }
        self.route_to_directories();
        let id = self.swarm.behaviour_mut().look_up.get_record(record_key(&self.fleet, &peer));
        self.look_ups.queries.insert(id, Query::Record { peer, replies: reply.into_iter().collect() });
    }

    pub(super) fn is_looking_up(&self, peer: &PeerKey) -> bool {
        self.look_ups.queries.values().any(|query| match query {
            Query::Record { peer: other, .. } => other == peer,
            Query::Providers { .. } => false,
        })
    }

    /// Puts the known directories into the routing table: failed dials take them out.
    pub(super) fn route_to_directories(&mut self) {
        let look_up = &mut self.swarm.behaviour_mut().look_up;
        for record in self.book.directories() {
            let Some(peer) = peer_id(&record.peer) else { continue };
            for address in &record.record.addresses {
                look_up.add_address(&peer, quic_multiaddr(*address));
            }
        }
    }

    pub(super) fn on_look_up_event(&mut self, event: Event) {
        match event {
            Event::OutboundQueryProgressed { id, result, step, .. } => {
                self.on_progress(id, result);
                if step.last {
                    self.finish(id);
                }
            }
            Event::InboundRequest { request } => self.on_entry(request),
            // A foreign, non-exhaustive enum: the rest speaks of the routing table, which is filled by hand.
            _ => {}
        }
    }

    fn on_progress(&mut self, id: QueryId, result: QueryResult) {
        let now = self.now();
        match result {
            QueryResult::GetRecord(Ok(GetRecordOk::FoundRecord(found))) => {
                let Some(Query::Record { peer, .. }) = self.look_ups.queries.get(&id) else { return };
                let peer = *peer;
                let opened = wire::decode::<Signed>(&found.record.value, RECORD_BYTES_MAX)
                    .ok()
                    .and_then(SignedRecord::open)
                    .filter(|record| record.peer == peer);
                match opened {
                    Some(record) => {
                        self.take_record(record, false);
                        self.finish_record(id, true);
                    }
                    None => {
                        if let Some(liar) = found.peer.as_ref().and_then(peer_key) {
                            self.penalise(liar, "it keeps false records");
                        }
                    }
                }
            }
            QueryResult::GetProviders(Ok(GetProvidersOk::FoundProviders { providers, .. })) => {
                let own = self.own;
                let Some(Query::Providers { found, finish_at, .. }) = self.look_ups.queries.get_mut(&id)
                else {
                    return;
                };
                let room = PROVIDERS_FOUND_MAX.saturating_sub(found.len());
                found.extend(providers.iter().filter_map(peer_key).filter(|peer| *peer != own).take(room));
                if !found.is_empty() && finish_at.is_none() {
                    *finish_at = Some(now.after(GRACE));
                }
            }
            // A foreign enum: the other results are failures, which `step.last` ends, and our own puts, which
            // are repeated anyway.
            _ => {}
        }
    }

    /// Ends a query with what was found.
    fn finish(&mut self, id: QueryId) {
        match self.look_ups.queries.get(&id) {
            Some(Query::Record { .. }) => self.finish_record(id, false),
            Some(Query::Providers { .. }) => {
                self.stop_query(id);
                if let Some(Query::Providers { found, reply, .. }) = self.look_ups.queries.remove(&id) {
                    let _ = reply.send(found.into_iter().collect());
                }
            }
            None => {}
        }
    }

    fn finish_record(&mut self, id: QueryId, found: bool) {
        self.stop_query(id);
        if let Some(Query::Record { peer, replies }) = self.look_ups.queries.remove(&id) {
            let known = self.book.get(&peer).filter(|_| found).map(|entry| located(&entry.record));
            for reply in replies {
                let _ = reply.send(known.clone());
            }
            self.looked_up_for_requests(peer, found);
        }
    }

    fn stop_query(&mut self, id: QueryId) {
        if let Some(mut query) = self.swarm.behaviour_mut().look_up.query_mut(&id) {
            query.finish();
        }
    }

    /// Takes in, as a directory, what a machine says of itself.
    fn on_entry(&mut self, request: InboundRequest) {
        match request {
            InboundRequest::PutRecord { source, record: Some(record), .. } => {
                self.on_record_entry(&source, &record);
            }
            InboundRequest::AddProvider { record: Some(entry) } => {
                let Some(source) = peer_key(&entry.provider) else { return };
                if entry.key.as_ref().len() != blake3::OUT_LEN {
                    return self.penalise(source, "it provides under a key that is no look-up key");
                }
                // libp2p names only providers with an address, although we look the address up elsewhere.
                let Some(known) = self.book.get(&source).filter(|known| known.connected) else { return };
                let entry = ProviderRecord {
                    addresses: known.record.multiaddrs().into_iter().take(1).collect(),
                    ..entry
                };
                if !entry.addresses.is_empty()
                    && let Err(error) = self.swarm.behaviour_mut().look_up.store_mut().add_provider(entry)
                {
                    tracing::debug!(peer = %source, %error, "a provider's entry is not kept");
                }
            }
            InboundRequest::PutRecord { record: None, .. }
            | InboundRequest::AddProvider { record: None }
            | InboundRequest::FindNode { .. }
            | InboundRequest::GetProvider { .. }
            | InboundRequest::GetRecord { .. } => {}
        }
    }

    fn on_record_entry(&mut self, source: &PeerId, record: &Record) {
        let Some(source) = peer_key(source) else { return };
        let opened =
            wire::decode::<Signed>(&record.value, RECORD_BYTES_MAX).ok().and_then(SignedRecord::open);
        let Some(opened) =
            opened.filter(|opened| opened.peer == source && record.key == self.key_of(&source))
        else {
            return self.penalise(source, "it leaves records that are not its own");
        };
        if self.connected.contains_key(&source) {
            let now = self.now();
            self.keep_record(&opened);
            self.take_record(opened, true);
            self.book.set_connected(&source, true, now);
        }
    }

    /// Keeps, as a directory, a machine's record for those who look it up.
    pub(super) fn keep_record(&mut self, opened: &SignedRecord) {
        let Ok(value) = wire::encode(&opened.signed, RECORD_BYTES_MAX) else { return };
        let mut record = Record::new(self.key_of(&opened.peer), value);
        record.expires = Some(Instant::now() + ENTRY_TTL);
        if let Err(error) = self.swarm.behaviour_mut().look_up.store_mut().put(record) {
            tracing::debug!(peer = %opened.peer, %error, "a machine's record is not kept");
        }
    }

    fn key_of(&self, peer: &PeerKey) -> RecordKey {
        record_key(&self.fleet, peer)
    }
}

fn located(record: &SignedRecord) -> Located {
    Located {
        peer: record.peer,
        site: record.record.site.clone(),
        addresses: record.record.addresses.iter().map(ToString::to_string).collect(),
        data_address: record.record.data_address.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_thing_due_is_the_earliest_of_all() {
        let mut look_ups = LookUps::default();
        assert_eq!(look_ups.poll_timeout(), None);
        look_ups.announce_at = Some(Moment(5));
        assert_eq!(look_ups.poll_timeout(), Some(Moment(5)));
    }

    #[test]
    fn renewal_comes_often_enough_for_entries_to_live() {
        assert!(RENEWAL_INTERVAL * 4 < ENTRY_TTL);
    }
}
