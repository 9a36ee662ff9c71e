//! Whom this machine knows, and where they are.
//!
//! Owns [`Book`], a bounded set of signed records. Main invariant: the newest record of each machine is kept,
//! by its own clock, and a full book drops those who answered longest ago. Pure: time and identity come in.

use std::collections::BTreeMap;

use lunar_common::ids::{PeerKey, SiteId};
use lunar_common::order::draw;
use lunar_common::time::Moment;

use super::codec::SAMPLE_MAX;
use super::record::SignedRecord;

/// Of a sample, at most this many from beyond the site of the one who asks.
const SAMPLE_BEYOND_MAX: usize = 6;

/// Of a sample, at most this many directories.
const SAMPLE_DIRECTORIES_MAX: usize = 4;

/// What is known of one machine.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) record: SignedRecord,
    /// When it last proved to be there, by a connection; otherwise when it was heard of.
    pub(super) seen: Moment,
    pub(super) connected: bool,
}

/// The records of other machines.
#[derive(Debug)]
pub(super) struct Book {
    entries: BTreeMap<PeerKey, Entry>,
    entries_max: usize,
}

/// What taking a record in changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Taken {
    /// The machine was not known before, or is somewhere else now.
    pub(super) news: bool,
    /// Dropped to make room.
    pub(super) dropped: Option<PeerKey>,
}

impl Book {
    pub(super) fn new(entries_max: usize) -> Self {
        Self { entries: BTreeMap::new(), entries_max }
    }

    pub(super) fn get(&self, peer: &PeerKey) -> Option<&Entry> {
        self.entries.get(peer)
    }

    pub(super) fn remove(&mut self, peer: &PeerKey) {
        self.entries.remove(peer);
    }

    /// Takes a record in. `own_word`: from the machine itself, on a connection of its own, so that it counts
    /// even if that machine's clock went back.
    pub(super) fn take(&mut self, record: SignedRecord, own_word: bool, now: Moment) -> Taken {
        let peer = record.peer;
        if let Some(entry) = self.entries.get_mut(&peer) {
            let news = entry.record.record.addresses != record.record.addresses;
            if own_word || record.record.issued_ms > entry.record.record.issued_ms {
                entry.record = record;
                if own_word {
                    entry.seen = now;
                }
                return Taken { news, dropped: None };
            }
            return Taken::default();
        }
        let mut dropped = None;
        if self.entries.len() >= self.entries_max {
            let stale = self.entries.iter().filter(|(_, entry)| !entry.connected);
            match stale.min_by_key(|(peer, entry)| (entry.seen, **peer)).map(|(peer, _)| *peer) {
                Some(stale) => {
                    self.entries.remove(&stale);
                    dropped = Some(stale);
                }
                // All are connected: nobody else is needed.
                None => return Taken::default(),
            }
        }
        self.entries.insert(peer, Entry { record, seen: now, connected: false });
        Taken { news: true, dropped }
    }

    pub(super) fn set_connected(&mut self, peer: &PeerKey, connected: bool, now: Moment) {
        if let Some(entry) = self.entries.get_mut(peer) {
            entry.connected = connected;
            entry.seen = now;
        }
    }

    /// The machines that keep others' records.
    pub(super) fn directories(&self) -> impl Iterator<Item = &SignedRecord> {
        self.entries.values().map(|entry| &entry.record).filter(|record| record.record.directory)
    }

    /// Records for a machine that looks for neighbours: those connected to us first, its own site first, drawn
    /// by who asks, so that the many who ask do not all get the same few.
    pub(super) fn sample(&self, asker: &PeerKey, site: &SiteId) -> Vec<&SignedRecord> {
        let mut entries: Vec<_> = self.entries.iter().filter(|(peer, _)| *peer != asker).collect();
        entries.sort_by_cached_key(|(peer, entry)| {
            (!entry.connected, draw("lunar.neighbour-sample", &[&asker.0, &peer.0]))
        });
        let (mut beyond, mut directories) = (0, 0);
        let mut sample = Vec::new();
        // Beyond and directories first in count, the site takes what is left.
        for (_, entry) in &entries {
            let record = &entry.record.record;
            if record.directory && directories < SAMPLE_DIRECTORIES_MAX {
                directories += 1;
                sample.push(&entry.record);
            } else if record.site != *site && beyond < SAMPLE_BEYOND_MAX {
                beyond += 1;
                sample.push(&entry.record);
            }
        }
        for (_, entry) in &entries {
            let record = &entry.record.record;
            let chosen = sample.iter().any(|other| other.peer == entry.record.peer);
            if sample.len() < SAMPLE_MAX && record.site == *site && !chosen {
                sample.push(&entry.record);
            }
        }
        sample
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use lunar_common::wire::Signed;

    use super::super::record::PeerRecord;
    use super::*;

    fn record(number: u8, site: &str, directory: bool, issued_ms: u64, port: u16) -> SignedRecord {
        let record = PeerRecord {
            issued_ms,
            site: SiteId::new(site).unwrap(),
            directory,
            addresses: vec![([127, 0, 0, 1], port).into()],
            data_address: String::new(),
        };
        SignedRecord::open(Signed::sign(&record, &SigningKey::from_bytes(&[number; 32])).unwrap()).unwrap()
    }

    #[test]
    fn the_newest_record_wins_unless_the_machine_itself_speaks() {
        let mut book = Book::new(8);
        let old = record(1, "a", false, 10, 1);
        assert!(book.take(record(1, "a", false, 20, 2), false, Moment(1)).news);
        assert_eq!(book.take(old.clone(), false, Moment(2)), Taken::default());
        assert_eq!(book.get(&old.peer).unwrap().record.record.addresses[0].port(), 2);
        assert!(book.take(old.clone(), true, Moment(3)).news);
        assert_eq!(book.get(&old.peer).unwrap().record.record.addresses[0].port(), 1);
    }

    #[test]
    fn a_full_book_drops_the_one_seen_longest_ago_but_never_a_connected_one() {
        let mut book = Book::new(2);
        let (first, second) = (record(1, "a", false, 1, 1), record(2, "a", false, 1, 2));
        book.take(first.clone(), false, Moment(1));
        book.take(second.clone(), false, Moment(2));
        book.set_connected(&first.peer, true, Moment(3));
        let taken = book.take(record(3, "a", false, 1, 3), false, Moment(4));
        assert_eq!(taken, Taken { news: true, dropped: Some(second.peer) });
        book.set_connected(&record(3, "a", false, 1, 3).peer, true, Moment(5));
        assert_eq!(book.take(second, false, Moment(6)), Taken::default());
    }

    #[test]
    fn a_sample_has_mostly_the_askers_site_some_others_and_never_the_asker() {
        let mut book = Book::new(100);
        for number in 1..=40 {
            book.take(record(number, "a", false, 1, 1), false, Moment(1));
        }
        for number in 41..=60 {
            book.take(record(number, "b", number > 55, 1, 1), false, Moment(1));
        }
        let asker = record(1, "a", false, 1, 1).peer;
        let site = SiteId::new("a").unwrap();
        let sample = book.sample(&asker, &site);
        assert_eq!(sample.len(), SAMPLE_MAX);
        assert!(sample.iter().all(|record| record.peer != asker));
        let directories = sample.iter().filter(|record| record.record.directory).count();
        assert!(directories >= SAMPLE_DIRECTORIES_MAX);
        assert_eq!(sample.iter().filter(|record| record.record.site == site).count(), SAMPLE_MAX - 10);
        let other = book.sample(&record(2, "a", false, 1, 1).peer, &site);
        assert_ne!(sample, other, "two askers get two samples");
    }
}
