//! The event log: append-only, hash-chained, on the embedded store. It is the state, and the audit trail.
//!
//! Owns the records and their chain. Main invariant: record n carries the hash of record n−1, and the store
//! keeps the last index and hash beside them, so that a record changed, missing, out of place or cut off at the
//! end is found. Refuses to write by itself: it makes the writes that the committer makes durable.

use std::sync::Arc;

use lunar_common::ids::{LogIndex, RecordHash};
use lunar_common::time::WallTime;
use lunar_common::wire::{self, WireError};
use lunar_coordinator_core::event::{EVENT_BYTES_MAX, EventBody};
use lunar_host::store::{Store, StoreError, Write};
use serde::{Deserialize, Serialize};

use crate::api::types::{AuditView, EventView};

/// Records are below this prefix, by index.
const RECORDS: &[u8] = b"event/";
/// The last index and hash.
const HEAD: &[u8] = b"event-head";
/// Largest record: an event, two hashes' worth of chain, an index and a time.
const RECORD_BYTES_MAX: usize = EVENT_BYTES_MAX + 256;
/// Most records in one answer.
pub const EVENTS_PER_PAGE_MAX: usize = 1_000;

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
            Some(bytes) => wire::decode(&bytes, 128).map_err(|error| LogError::Damaged {
                index: LogIndex(0),
                what: format!("its head: {error}"),
            }),
        }
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

    /// The writes that add events, as one unit: to be made durable in this order, together or one after another.
    ///
    /// # Errors
    /// [`LogError::Encode`]; the log is as before then.
    pub fn append(&mut self, events: Vec<EventBody>, at: WallTime) -> Result<Vec<Write>, LogError> {
        let mut writes = Vec::with_capacity(events.len() + 1);
        let mut head = self.head;
        for event in events {
            let record = Record { index: head.next, previous: head.hash, at, event };
            let bytes = wire::encode(&record, RECORD_BYTES_MAX).map_err(LogError::Encode)?;
            head = Head { next: head.next.next(), hash: hash_of(&bytes) };
            writes.push(Write::put(key_of(record.index), bytes));
        }
        if !writes.is_empty() {
            writes.push(Write::put(HEAD, wire::encode(&head, 128).map_err(LogError::Encode)?));
        }
        self.head = head;
        Ok(writes)
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

    /// Records from an index on, at most `limit` and [`EVENTS_PER_PAGE_MAX`], that `wanted` wants.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn read(
        &self,
        since: LogIndex,
        limit: usize,
        wanted: impl Fn(&EventBody) -> bool,
    ) -> Result<Vec<EventView>, LogError> {
        let limit = limit.min(EVENTS_PER_PAGE_MAX);
        let mut events = Vec::new();
        for stored in self.store.range(&key_of(since), &key_of(LogIndex(u64::MAX))) {
            if events.len() == limit {
                break;
            }
            let (_, bytes) = stored?;
            let record = decode(since, &bytes)?;
            if wanted(&record.event) {
                events.push(view(record, &bytes));
            }
        }
        Ok(events)
    }

    /// The last records, oldest first.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn last(&self, count: usize) -> Result<Vec<EventView>, LogError> {
        let next = Head::read(&self.store)?.next.0;
        let count = count.min(EVENTS_PER_PAGE_MAX) as u64;
        self.read(LogIndex(next.saturating_sub(count)), EVENTS_PER_PAGE_MAX, |_| true)
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
    head: Head,
    over: bool,
}

impl<'a> Chain<'a> {
    fn new(store: &'a Store) -> Self {
        Self { stored: store.scan(RECORDS), head: Head::EMPTY, over: false }
    }

    fn check(&mut self, key: &[u8], bytes: &[u8]) -> Result<(Record, RecordHash), LogError> {
        let index = self.head.next;
        let damaged = |what: String| Err(LogError::Damaged { index, what });
        if key != key_of(index) {
            return damaged("it is missing".to_owned());
        }
        let record = decode(index, bytes)?;
        if record.index != index {
            return damaged(format!("record {} is in its place", record.index));
        }
        if record.previous != self.head.hash {
            return damaged("it does not follow the record before it: one of the two was changed".to_owned());
        }
        let hash = hash_of(bytes);
        self.head = Head { next: index.next(), hash };
        Ok((record, hash))
    }
}

impl Iterator for Chain<'_> {
    type Item = Result<(Record, RecordHash), LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let checked = match self.stored.next()? {
            Ok((key, bytes)) => self.check(&key, &bytes),
            Err(error) => Err(error.into()),
        };
        self.over = checked.is_err();
        Some(checked)
    }
}

fn key_of(index: LogIndex) -> Vec<u8> {
    [RECORDS, &index.0.to_be_bytes()].concat()
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
        let page = log.reader().read(LogIndex(1), 2, |_| true).unwrap();
        assert_eq!(page.iter().map(|event| event.index.0).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(log.reader().last(1).unwrap()[0].event, started(5));
    }

    #[test]
    fn a_record_changed_missing_swapped_or_cut_off_is_found_and_named() {
        type Tamper = fn(&Store);
        let cases: [(&str, Tamper, &str); 4] = [
            ("changed", |store| rewrite(store, 2, |record| record.event = started(99)), "record 3"),
            ("missing", |store| store.commit(&[Write::remove(key_of(LogIndex(2)))]).unwrap(), "record 2"),
            (
                "swapped",
                |store| {
                    let (two, three) = (raw(store, 2), raw(store, 3));
                    store
                        .commit(&[
                            Write::put(key_of(LogIndex(2)), three),
                            Write::put(key_of(LogIndex(3)), two),
                        ])
                        .unwrap();
                },
                "record 2",
            ),
            ("cut off", |store| store.commit(&[Write::remove(key_of(LogIndex(4)))]).unwrap(), "record 4"),
        ];
        for (name, tamper, place) in cases {
            let directory = tempfile::tempdir().unwrap();
            filled(directory.path(), 5);
            let store = open(directory.path());
            tamper(&store);

            let audit = LogReader::new(store.clone()).verify(None).unwrap();
            assert!(!audit.intact, "{name}");
            assert!(audit.problem.as_ref().unwrap().contains(place), "{name}: {audit:?}");
            let refused = EventLog::open(store, |_| Ok(())).map(drop).unwrap_err();
            assert!(matches!(refused, LogError::Damaged { .. }), "{name}: {refused}");
        }
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
            let writes = log.append(vec![started(epoch)], WallTime(7)).unwrap();
            store.commit(&writes).unwrap();
        }
    }

    fn raw(store: &Store, index: u64) -> Vec<u8> {
        store.get(&key_of(LogIndex(index))).unwrap().unwrap()
    }

    fn rewrite(store: &Store, index: u64, change: impl Fn(&mut Record)) {
        let mut record = decode(LogIndex(index), &raw(store, index)).unwrap();
        change(&mut record);
        let bytes = wire::encode(&record, RECORD_BYTES_MAX).unwrap();
        store.commit(&[Write::put(key_of(LogIndex(index)), bytes)]).unwrap();
    }
}
