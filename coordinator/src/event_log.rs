//! The event log: append-only, hash-chained, on the embedded store. It is the state, and the audit trail.
//!
//! Owns the records and their chain. Main invariant: record n carries the hash of record n−1, and the store
//! keeps the last index and hash beside them, so that a record changed, missing, out of place or cut off at the
//! end is found. Refuses to write by itself: it makes the blocks that the committer makes durable.
//!
//! What becomes durable together is one value of the store, a [`Block`]: a value for each record would cost
//! several times what all else about a commit does (docs/PERFORMANCE.md).

use std::sync::Arc;

use lunar_common::ids::{LogIndex, RecordHash};
use lunar_common::time::WallTime;
use lunar_common::wire::{self, WireError};
use lunar_coordinator_core::event::{EVENT_BYTES_MAX, EventBody};
use lunar_host::store::{Store, StoreError, Write};
use serde::{Deserialize, Serialize};

use crate::api::types::{AuditView, EventView};

/// Blocks are below this prefix, by the index of their first record.
const BLOCKS: &[u8] = b"events/";
/// The last index and hash.
const HEAD: &[u8] = b"event-head";
/// Largest head: an index and a hash.
const HEAD_BYTES_MAX: usize = 128;
/// Largest record: an event, two hashes' worth of chain, an index and a time.
const RECORD_BYTES_MAX: usize = EVENT_BYTES_MAX + 256;
/// Bytes in front of a record that say how long it is.
const LENGTH_BYTES: usize = 4;
/// Most records in one answer.
pub const EVENTS_PER_PAGE_MAX: usize = 1_000;
/// Most records that are looked at for one answer, wanted or not: some tens of milliseconds.
const LOOKED_AT_PER_PAGE_MAX: usize = 20_000;

/// Why the log cannot be read or added to.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record is not as it was written.
    #[error("the event log is damaged at record {index}: {what}; restore the whole directory from a backup")]
    Damaged {
        /// Where.
        index: LogIndex,
        /// What is wrong.
        what: String,
    },
    /// An event that does not fit a record.
    #[error("an event cannot be written")]
    Encode(#[source] WireError),
}

/// One record, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    index: LogIndex,
    previous: RecordHash,
    at: WallTime,
    event: EventBody,
}

/// Where the log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    next: LogIndex,
    hash: RecordHash,
}

impl Head {
    /// Before the first record.
    const EMPTY: Self = Self { next: LogIndex(0), hash: RecordHash([0; 32]) };

    fn read(store: &Store) -> Result<Self, LogError> {
        match store.get(HEAD)? {
            None => Ok(Self::EMPTY),
            Some(bytes) => wire::decode(&bytes, HEAD_BYTES_MAX).map_err(|error| LogError::Damaged {
                index: LogIndex(0),
                what: format!("its head: {error}"),
            }),
        }
    }
}

/// Records that follow one another, encoded and chained, on their way to the disk: one value of the store.
#[derive(Debug, PartialEq, Eq)]
pub struct Block {
    first: LogIndex,
    /// Each record behind its length.
    bytes: Vec<u8>,
    /// Where the log ends with these.
    head: Head,
}

impl Block {
    /// Bytes of its records.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Takes in the block that follows it.
    ///
    /// # Panics
    /// If another one does: records written in another order than they were chained are a damaged log.
    pub fn join(&mut self, next: &Self) {
        assert_eq!(self.head.next, next.first, "blocks become durable in the order of the log");
        self.bytes.extend_from_slice(&next.bytes);
        self.head = next.head;
    }

    /// What the store is to be told, in one commit.
    #[must_use]
    pub fn into_writes(self) -> [Write; 2] {
        let head = wire::encode(&self.head, HEAD_BYTES_MAX).expect("an index and a hash fit their bound");
        [Write::put(key_of(self.first), self.bytes), Write::put(HEAD, head)]
    }
}

/// The log's writing end. There is one.
pub struct EventLog {
    store: Arc<Store>,
    head: Head,
}

impl EventLog {
    /// Opens the log and hands every event to `replay`, in order, each once the chain is whole up to it. `replay`
    /// says what is wrong with an event that cannot follow those before it.
    ///
    /// # Errors
    /// [`LogError::Damaged`] names the first record that is wrong; nothing is changed.
    pub fn open(
        store: Arc<Store>,
        mut replay: impl FnMut(&EventBody) -> Result<(), String>,
    ) -> Result<Self, LogError> {
        let mut head = Head::EMPTY;
        for record in Chain::new(&store) {
            let (record, hash) = record?;
            replay(&record.event).map_err(|what| LogError::Damaged { index: record.index, what })?;
            head = Head { next: record.index.next(), hash };
        }
        let kept = Head::read(&store)?;
        if kept != head {
            return Err(LogError::Damaged {
                index: head.next,
                what: format!("it ends here, but went on to {}", kept.next),
            });
        }
        Ok(Self { store, head })
    }

    /// The block that adds events; `None` if there are none. Blocks are to be made durable in the order in which
    /// they were made, each alone or joined with the next.
    ///
    /// # Errors
    /// [`LogError::Encode`]; the log is as before then.
    pub fn append(&mut self, events: Vec<EventBody>, at: WallTime) -> Result<Option<Block>, LogError> {
        let mut block = Block { first: self.head.next, bytes: Vec::new(), head: self.head };
        for event in events {
            let Head { next: index, hash: previous } = block.head;
            let start = block.bytes.len();
            block.bytes.extend_from_slice(&[0; LENGTH_BYTES]);
            let record = Record { index, previous, at, event };
            wire::encode_onto(&mut block.bytes, &record, RECORD_BYTES_MAX).map_err(LogError::Encode)?;
            let (length, record) = block.bytes[start..].split_at_mut(LENGTH_BYTES);
            let record_bytes = u32::try_from(record.len()).expect("a record is within its bound");
            length.copy_from_slice(&record_bytes.to_be_bytes());
            block.head = Head { next: index.next(), hash: hash_of(record) };
        }
        self.head = block.head;
        Ok((!block.bytes.is_empty()).then_some(block))
    }

    /// The log's reading end.
    #[must_use]
    pub fn reader(&self) -> LogReader {
        LogReader { store: self.store.clone() }
    }
}

/// The log's reading end: sees what is durable.
#[derive(Clone)]
pub struct LogReader {
    store: Arc<Store>,
}

impl LogReader {
    /// A reader of a store that nobody writes.
    #[must_use]
    pub fn new(store: Arc<Store>) -> Self {
        Self { store }
    }

    /// Records from an index on that `wanted` wants, at most `limit` and [`EVENTS_PER_PAGE_MAX`]; looks at so many
    /// records at most that nobody waits long for one page. Also where the next page begins, if there may be one.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn read(
        &self,
        since: LogIndex,
        limit: usize,
        wanted: impl Fn(&EventBody) -> bool,
    ) -> Result<(Vec<EventView>, Option<LogIndex>), LogError> {
        let limit = limit.clamp(1, EVENTS_PER_PAGE_MAX);
        let mut events = Vec::new();
        let mut looked_at = 0;
        // The block that holds the first of them begins at it or before it.
        let upto = key_of(LogIndex(since.0.saturating_add(1)));
        let from = match self.store.range(&key_of(LogIndex(0)), &upto).next_back() {
            Some(block) => block?.0,
            None => key_of(since),
        };
        for stored in self.store.range(&from, &key_of(LogIndex(u64::MAX))) {
            let (_, block) = stored?;
            let mut rest = block.as_slice();
            while !rest.is_empty() {
                let bytes = cut_off(since, &mut rest)?;
                let record = decode(since, bytes)?;
                if record.index < since {
                    continue;
                }
                if events.len() == limit || looked_at == LOOKED_AT_PER_PAGE_MAX {
                    return Ok((events, Some(record.index)));
                }
                looked_at += 1;
                if wanted(&record.event) {
                    events.push(view(record, bytes));
                }
            }
        }
        Ok((events, None))
    }

    /// The last records, oldest first.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn last(&self, count: usize) -> Result<Vec<EventView>, LogError> {
        let next = Head::read(&self.store)?.next.0;
        let count = count.min(EVENTS_PER_PAGE_MAX) as u64;
        Ok(self.read(LogIndex(next.saturating_sub(count)), EVENTS_PER_PAGE_MAX, |_| true)?.0)
    }

    /// Checks the whole chain. With `noted`, also that a head noted earlier is still in it: that tells a log
    /// that was cut short and written on.
    ///
    /// # Errors
    /// [`LogError::Store`] if it cannot be read; what is wrong with the chain is the answer, not an error.
    pub fn verify(&self, noted: Option<RecordHash>) -> Result<AuditView, LogError> {
        // Read first: records may be added while the chain is read.
        let kept = Head::read(&self.store)?;
        let mut head = Head::EMPTY;
        let mut noted_found = noted.is_none();
        for record in Chain::new(&self.store) {
            match record {
                Ok((record, hash)) => {
                    noted_found |= noted == Some(hash);
                    head = Head { next: record.index.next(), hash };
                }
                Err(LogError::Damaged { index, what }) => {
                    return Ok(AuditView {
                        intact: false,
                        records: head.next.0,
                        head: Some(head.hash),
                        problem: Some(format!("record {index}: {what}")),
                    });
                }
                Err(error) => return Err(error),
            }
        }
        let problem = if head.next < kept.next {
            Some(format!("the log ends at record {}, but went on to {}", head.next, kept.next))
        } else if noted_found {
            None
        } else {
            Some("the head noted earlier is not in the log: records were taken away or replaced".to_owned())
        };
        let hash = (head != Head::EMPTY).then_some(head.hash);
        Ok(AuditView { intact: problem.is_none(), records: head.next.0, head: hash, problem })
    }
}

/// Records in order, each checked against the one before. Ends after the first that is wrong.
struct Chain<'a> {
    stored: lunar_host::store::Scan<'a>,
    /// The block at hand, and how much of it has been read.
    block: Vec<u8>,
    read: usize,
    head: Head,
    over: bool,
}

impl<'a> Chain<'a> {
    fn new(store: &'a Store) -> Self {
        let stored = store.scan(BLOCKS);
        Self { stored, block: Vec::new(), read: 0, head: Head::EMPTY, over: false }
    }

    /// The next record; `None` at the end of the log.
    fn advance(&mut self) -> Result<Option<(Record, RecordHash)>, LogError> {
        let index = self.head.next;
        let damaged = |what: String| Err(LogError::Damaged { index, what });
        if self.read == self.block.len() {
            let Some(stored) = self.stored.next() else { return Ok(None) };
            let (key, block) = stored?;
            if key != key_of(index) || block.is_empty() {
                return damaged("it is missing".to_owned());
            }
            (self.block, self.read) = (block, 0);
        }
        let mut rest = &self.block[self.read..];
        let bytes = cut_off(index, &mut rest)?;
        self.read = self.block.len() - rest.len();
        let record = decode(index, bytes)?;
        if record.index != index {
            return damaged(format!("record {} is in its place", record.index));
        }
        if record.previous != self.head.hash {
            return damaged("it does not follow the record before it: one of the two was changed".to_owned());
        }
        let hash = hash_of(bytes);
        self.head = Head { next: index.next(), hash };
        Ok(Some((record, hash)))
    }
}

impl Iterator for Chain<'_> {
    type Item = Result<(Record, RecordHash), LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let next = self.advance();
        self.over = next.is_err();
        next.transpose()
    }
}

/// Takes the first record off a block's bytes.
fn cut_off<'a>(index: LogIndex, rest: &mut &'a [u8]) -> Result<&'a [u8], LogError> {
    let cut = rest.split_first_chunk::<LENGTH_BYTES>().and_then(|(length, behind)| {
        behind.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
    });
    let short = || LogError::Damaged { index, what: "its block ends inside a record".to_owned() };
    let (record, behind) = cut.ok_or_else(short)?;
    *rest = behind;
    Ok(record)
}

fn key_of(index: LogIndex) -> Vec<u8> {
    [BLOCKS, &index.0.to_be_bytes()].concat()
}

/// The encoding holds the index, the hash before, the time and the event: all of it is chained.
fn hash_of(bytes: &[u8]) -> RecordHash {
    RecordHash(*blake3::hash(bytes).as_bytes())
}

fn decode(index: LogIndex, bytes: &[u8]) -> Result<Record, LogError> {
    wire::decode(bytes, RECORD_BYTES_MAX)
        .map_err(|error| LogError::Damaged { index, what: error.to_string() })
}

fn view(record: Record, bytes: &[u8]) -> EventView {
    EventView { index: record.index, at: record.at, hash: hash_of(bytes), event: record.event }
}

#[cfg(test)]
mod tests {
    use lunar_common::ids::Epoch;

    use super::*;

    #[test]
    fn what_was_appended_is_replayed_in_order_and_verifies() {
        let directory = tempfile::tempdir().unwrap();
        filled(directory.path(), 5);

        let mut replayed = Vec::new();
        let log = EventLog::open(open(directory.path()), |event| {
            replayed.push(event.clone());
            Ok(())
        })
        .unwrap();

        assert_eq!(replayed, (1..=5).map(started).collect::<Vec<_>>());
        let audit = log.reader().verify(None).unwrap();
        assert!(audit.intact && audit.records == 5, "{audit:?}");
        let (page, next) = log.reader().read(LogIndex(1), 2, |_| true).unwrap();
        assert_eq!(page.iter().map(|event| event.index.0).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(next, Some(LogIndex(3)));
        let (page, next) = log.reader().read(LogIndex(3), 2, |_| true).unwrap();
        assert_eq!((page.len(), next), (2, None), "the last page says that it is");
        assert_eq!(log.reader().last(1).unwrap()[0].event, started(5));
    }

    #[test]
    fn a_record_changed_missing_swapped_or_cut_off_is_found_and_named() {
        type Tamper = fn(&mut Vec<Vec<u8>>);
        let cases: [(&str, Tamper, &str); 4] = [
            (
                "changed",
                |records| {
                    let mut record = decode(LogIndex(2), &records[2]).unwrap();
                    record.event = started(99);
                    records[2] = wire::encode(&record, RECORD_BYTES_MAX).unwrap();
                },
                "record 3",
            ),
            ("missing", |records| drop(records.remove(2)), "record 2"),
            ("swapped", |records| records.swap(2, 3), "record 2"),
            ("cut off", |records| drop(records.pop()), "record 4"),
        ];
        for (name, tamper, place) in cases {
            // Each record a block, all of them one, and blocks of two: what happens at the edges is found too.
            for block_records in [1, 5, 2] {
                let directory = tempfile::tempdir().unwrap();
                filled(directory.path(), 5);
                let store = open(directory.path());
                let mut records = raw(&store);
                tamper(&mut records);
                rewrite(&store, &records, block_records);

                let audit = LogReader::new(store.clone()).verify(None).unwrap();
                assert!(!audit.intact, "{name}");
                assert!(audit.problem.as_ref().unwrap().contains(place), "{name}: {audit:?}");
                let refused = EventLog::open(store, |_| Ok(())).map(drop).unwrap_err();
                assert!(matches!(refused, LogError::Damaged { .. }), "{name}: {refused}");
            }
        }
    }

    #[test]
    fn a_block_that_ends_inside_a_record_or_is_not_there_is_found_and_named() {
        // Blocks of two: the second holds records 2 and 3, the third record 4.
        for (block, cut_short, gone) in [(1, "record 3", "record 2"), (2, "record 4", "record 4")] {
            for (lost, place) in
                [(Some(1), cut_short), (Some(5), cut_short), (Some(usize::MAX), gone), (None, gone)]
            {
                let directory = tempfile::tempdir().unwrap();
                filled(directory.path(), 5);
                let store = open(directory.path());
                let records = raw(&store);
                rewrite(&store, &records, 2);
                let (key, value) = store.scan(BLOCKS).nth(block).unwrap().unwrap();
                let damage = match lost {
                    Some(bytes) => Write::put(key, &value[..value.len().saturating_sub(bytes)]),
                    None => Write::remove(key),
                };
                store.commit(&[damage]).unwrap();

                let audit = LogReader::new(store.clone()).verify(None).unwrap();
                let problem = audit.problem.unwrap();
                assert!(problem.contains(place), "block {block} without {lost:?}: {problem}");
                assert!(EventLog::open(store, |_| Ok(())).is_err());
            }
        }
    }

    #[test]
    fn blocks_joined_on_the_way_to_the_disk_read_as_if_each_had_gone_alone() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let mut log = EventLog::open(store.clone(), |_| Ok(())).unwrap();
        let mut append =
            |epochs: std::ops::Range<u64>| log.append(epochs.map(started).collect(), WallTime(7)).unwrap();
        let mut group = append(1..3).unwrap();
        assert_eq!(append(3..3), None);
        group.join(&append(3..4).unwrap());
        store.commit(&group.into_writes()).unwrap();
        store.commit(&append(4..9).unwrap().into_writes()).unwrap();

        let reader = LogReader::new(store.clone());
        assert!(reader.verify(None).unwrap().intact);
        for since in 0..9 {
            for limit in [1, 3, 100] {
                let (page, _) = reader.read(LogIndex(since), limit, |_| true).unwrap();
                let indices: Vec<u64> = page.iter().map(|event| event.index.0).collect();
                assert_eq!(indices, (since..8).take(limit).collect::<Vec<_>>(), "{limit} from {since} on");
            }
        }
        let last: Vec<_> = reader.last(2).unwrap().into_iter().map(|event| event.event).collect();
        assert_eq!(last, [started(7), started(8)]);
        let log = EventLog::open(store, |_| Ok(())).unwrap();
        assert_eq!(log.head.next, LogIndex(8));
    }

    #[test]
    fn a_log_that_was_rewritten_whole_no_longer_has_the_head_noted_before() {
        let directory = tempfile::tempdir().unwrap();
        filled(directory.path(), 3);
        let noted = LogReader::new(open(directory.path())).verify(None).unwrap().head;
        let other = tempfile::tempdir().unwrap();
        filled(other.path(), 2);

        let reader = LogReader::new(open(other.path()));

        assert!(reader.verify(None).unwrap().intact);
        assert!(!reader.verify(noted).unwrap().intact);
    }

    fn started(epoch: u64) -> EventBody {
        EventBody::CoordinatorStarted { epoch: Epoch(epoch) }
    }

    fn open(directory: &std::path::Path) -> Arc<Store> {
        Arc::new(Store::open(directory).unwrap())
    }

    fn filled(directory: &std::path::Path, count: u64) {
        let store = open(directory);
        let mut log = EventLog::open(store.clone(), |_| Ok(())).unwrap();
        for epoch in 1..=count {
            let block = log.append(vec![started(epoch)], WallTime(7)).unwrap().unwrap();
            store.commit(&block.into_writes()).unwrap();
        }
    }

    /// Every record's bytes, in order.
    fn raw(store: &Store) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        for block in store.scan(BLOCKS) {
            let block = block.unwrap().1;
            let mut rest = block.as_slice();
            while !rest.is_empty() {
                records.push(cut_off(LogIndex(0), &mut rest).unwrap().to_vec());
            }
        }
        records
    }

    /// Puts these records in the place of those that are there, so many to a block.
    fn rewrite(store: &Store, records: &[Vec<u8>], block_records: usize) {
        let mut writes: Vec<Write> =
            store.scan(BLOCKS).map(|block| Write::remove(block.unwrap().0)).collect();
        for (number, block) in records.chunks(block_records).enumerate() {
            let framed = block.iter().flat_map(|record| {
                let length = u32::try_from(record.len()).unwrap().to_be_bytes();
                length.into_iter().chain(record.iter().copied())
            });
            let first = LogIndex((number * block_records) as u64);
            writes.push(Write::put(key_of(first), framed.collect::<Vec<u8>>()));
        }
        store.commit(&writes).unwrap();
    }
}
