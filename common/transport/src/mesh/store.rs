//! What a directory keeps for others, and what every machine keeps of its own.
//!
//! Owns [`DirectoryStore`]. Main invariant: what one machine can make a directory keep is bounded: one record,
//! and [`PROVIDED_PER_PEER_MAX`] provider entries; entries run out by themselves. Refuses records that their
//! owner did not sign, or that lie under another key than their owner's.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{ProviderRecord, Record, RecordKey};

use super::record::RECORD_BYTES_MAX;

/// How long entries live without being renewed; four renewals may be lost.
pub(crate) const ENTRY_TTL: Duration = Duration::from_secs(2 * 60 * 60);

/// How often each machine renews its own entries.
pub(crate) const RENEWAL_INTERVAL: Duration = Duration::from_secs(25 * 60);

/// Most records (machines) in one directory: twice the largest fleet planned for.
const RECORDS_MAX: usize = 20_000;

/// Most artifacts that one machine can be listed for: several campaigns' worth.
const PROVIDED_PER_PEER_MAX: usize = 128;

/// Most machines listed for one artifact in one site: more sources than one agent will ever try.
const PROVIDERS_PER_KEY_MAX: usize = 64;

/// Most (artifact, site) pairs in one directory.
const KEYS_MAX: usize = 16_384;

/// Records and provider entries in memory; they are renewed by their owners and need not survive a restart.
pub(crate) struct DirectoryStore {
    own: PeerId,
    records: HashMap<RecordKey, Record>,
    /// Newest last; a full list drops its oldest, so that the list follows who is alive.
    providers: HashMap<RecordKey, VecDeque<ProviderRecord>>,
    keys_by_peer: HashMap<PeerId, HashSet<RecordKey>>,
    /// Where the next list begins.
    turn: Cell<usize>,
}

impl DirectoryStore {
    pub(crate) fn new(own: PeerId) -> Self {
        Self {
            own,
            records: HashMap::new(),
            providers: HashMap::new(),
            keys_by_peer: HashMap::new(),
            turn: Cell::new(0),
        }
    }

    /// Drops what has run out.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.records.retain(|_, record| !record.is_expired(now));
        let mut gone = Vec::new();
        for (key, list) in &mut self.providers {
            list.retain(|entry| {
                let expired = entry.is_expired(now);
                if expired {
                    gone.push((key.clone(), entry.provider));
                }
                !expired
            });
        }
        self.providers.retain(|_, list| !list.is_empty());
        for (key, peer) in gone {
            self.unlist(&key, &peer);
        }
    }

    /// Drops everything a machine left here.
    pub(crate) fn forget(&mut self, peer: &PeerId, record: &RecordKey) {
        self.records.remove(record);
        for key in self.keys_by_peer.remove(peer).unwrap_or_default() {
            if let Some(list) = self.providers.get_mut(&key) {
                list.retain(|entry| entry.provider != *peer);
                if list.is_empty() {
                    self.providers.remove(&key);
                }
            }
        }
    }

    fn unlist(&mut self, key: &RecordKey, peer: &PeerId) {
        if let Some(keys) = self.keys_by_peer.get_mut(peer) {
            keys.remove(key);
            if keys.is_empty() {
                self.keys_by_peer.remove(peer);
            }
        }
    }
}

impl RecordStore for DirectoryStore {
    type RecordsIter<'a> = std::vec::IntoIter<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::vec::IntoIter<Cow<'a, ProviderRecord>>;

    fn get(&self, key: &RecordKey) -> Option<Cow<'_, Record>> {
        self.records.get(key).map(Cow::Borrowed)
    }

    fn put(&mut self, record: Record) -> Result<()> {
        if record.value.len() > RECORD_BYTES_MAX {
            return Err(Error::ValueTooLarge);
        }
        if self.records.len() >= RECORDS_MAX && !self.records.contains_key(&record.key) {
            return Err(Error::MaxRecords);
        }
        self.records.insert(record.key.clone(), record);
        Ok(())
    }

    fn remove(&mut self, key: &RecordKey) {
        self.records.remove(key);
    }

    fn records(&self) -> Self::RecordsIter<'_> {
        self.records.values().map(Cow::Borrowed).collect::<Vec<_>>().into_iter()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        let listed = self.keys_by_peer.get(&record.provider);
        let known = listed.is_some_and(|keys| keys.contains(&record.key));
        if !known && listed.map_or(0, HashSet::len) >= PROVIDED_PER_PEER_MAX {
            return Err(Error::MaxProvidedKeys);
        }
        if !self.providers.contains_key(&record.key) && self.providers.len() >= KEYS_MAX {
            return Err(Error::MaxProvidedKeys);
        }
        self.keys_by_peer.entry(record.provider).or_default().insert(record.key.clone());
        let list = self.providers.entry(record.key.clone()).or_default();
        list.retain(|entry| entry.provider != record.provider);
        let key = record.key.clone();
        list.push_back(record);
        let dropped = (list.len() > PROVIDERS_PER_KEY_MAX).then(|| list.pop_front()).flatten();
        if let Some(dropped) = dropped {
            self.unlist(&key, &dropped.provider);
        }
        Ok(())
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let Some(list) = self.providers.get(key) else { return Vec::new() };
        // libp2p names the first twenty: everybody gets others, so that no provider is everybody's.
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(7));
        let start = turn % list.len().max(1);
        list.iter().skip(start).chain(list.iter().take(start)).cloned().collect()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        let keys = self.keys_by_peer.get(&self.own).into_iter().flatten();
        let own = keys.filter_map(|key| self.providers.get(key)?.iter().find(|e| e.provider == self.own));
        own.map(Cow::Borrowed).collect::<Vec<_>>().into_iter()
    }

    fn remove_provider(&mut self, key: &RecordKey, peer: &PeerId) {
        if let Some(list) = self.providers.get_mut(key) {
            list.retain(|entry| entry.provider != *peer);
            if list.is_empty() {
                self.providers.remove(key);
            }
        }
        self.unlist(key, peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> RecordKey {
        RecordKey::new(&number.to_le_bytes())
    }

    fn store() -> DirectoryStore {
        DirectoryStore::new(PeerId::random())
    }

    #[test]
    fn one_machine_is_listed_for_a_bounded_number_of_artifacts() {
        let mut store = store();
        let peer = PeerId::random();
        for number in 0..PROVIDED_PER_PEER_MAX {
            store.add_provider(ProviderRecord::new(key(number), peer, Vec::new())).unwrap();
        }
        assert!(store.add_provider(ProviderRecord::new(key(9999), peer, Vec::new())).is_err());
        assert!(store.add_provider(ProviderRecord::new(key(0), peer, Vec::new())).is_ok(), "a renewal");
        store.remove_provider(&key(1), &peer);
        assert!(store.add_provider(ProviderRecord::new(key(9999), peer, Vec::new())).is_ok());
    }

    #[test]
    fn a_full_list_of_providers_drops_its_oldest_entry() {
        let mut store = store();
        let peers: Vec<_> = (0..=PROVIDERS_PER_KEY_MAX).map(|_| PeerId::random()).collect();
        for peer in &peers {
            store.add_provider(ProviderRecord::new(key(1), *peer, Vec::new())).unwrap();
        }
        let listed: HashSet<_> = store.providers(&key(1)).into_iter().map(|entry| entry.provider).collect();
        assert_eq!(listed, peers[1..].iter().copied().collect());
        let first = |store: &DirectoryStore| store.providers(&key(1))[0].provider;
        assert_ne!(first(&store), first(&store), "everybody gets another first one");
        assert!(!store.keys_by_peer.contains_key(&peers[0]));
    }

    #[test]
    fn entries_run_out_and_leave_nothing_behind() {
        let mut store = store();
        let (peer, now) = (PeerId::random(), Instant::now());
        let mut entry = ProviderRecord::new(key(1), peer, Vec::new());
        entry.expires = Some(now + Duration::from_secs(1));
        store.add_provider(entry).unwrap();
        let mut record = Record::new(key(2), vec![1]);
        record.expires = Some(now + Duration::from_secs(1));
        store.put(record).unwrap();

        store.expire(now);
        assert_eq!((store.providers.len(), store.records.len()), (1, 1));
        store.expire(now + Duration::from_secs(2));
        assert_eq!((store.providers.len(), store.records.len(), store.keys_by_peer.len()), (0, 0, 0));
    }

    #[test]
    fn a_forgotten_machine_leaves_nothing_behind() {
        let mut store = store();
        let (peer, other) = (PeerId::random(), PeerId::random());
        for provider in [peer, other] {
            store.add_provider(ProviderRecord::new(key(1), provider, Vec::new())).unwrap();
        }
        store.put(Record::new(key(2), vec![1])).unwrap();
        store.forget(&peer, &key(2));
        assert_eq!(store.providers(&key(1)).len(), 1);
        assert!(store.get(&key(2)).is_none());
        assert!(!store.keys_by_peer.contains_key(&peer));
    }
}
