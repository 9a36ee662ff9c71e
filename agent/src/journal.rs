//! The node's records in the embedded store.
//!
//! Owns the two keys under which they lie. Main invariant: when [`NodeJournal::keep`] has returned, the record
//! is on disk. Refuses to start from a store whose records cannot be read: damage is told, never guessed over.

use std::path::Path;
use std::sync::Arc;

use lunar_agent_core::effect::Record;
use lunar_agent_core::journal::Journal;
use lunar_common::trust::TrustSnapshot;
use lunar_common::wire::{self, WireError};
use lunar_host::store::{CACHE_BYTES_SMALL, Store, StoreError, Write};
use serde::de::DeserializeOwned;

/// Largest journal: thousands of transitions that no coordinator has taken, each under a kilobyte.
const JOURNAL_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Largest trust snapshot: the documents kept, the larger ones being few.
const TRUST_BYTES_MAX: usize = 64 * 1024 * 1024;

const KEY_JOURNAL: &[u8] = b"journal";
const KEY_TRUST: &[u8] = b"trust";

/// Why a record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record that does not decode.
    #[error("the {what} record in {directory} cannot be read; nothing was changed")]
    Record {
        /// Which.
        what: &'static str,
        /// The store's directory.
        directory: std::path::PathBuf,
        /// Why.
        #[source]
        source: WireError,
    },
    /// A record over its bound.
    #[error("the {what} record is too large to be kept")]
    TooLarge {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        source: WireError,
    },
    /// The task that writes has ended.
    #[error("the writing of a record was cut off")]
    CutOff,
}

/// The node's durable records.
#[derive(Clone)]
pub struct NodeJournal {
    store: Arc<Store>,
}

impl NodeJournal {
    /// Opens the store in a directory, or makes a new one where there was none.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open(directory: &Path) -> Result<Self, JournalError> {
        Ok(Self { store: Arc::new(Store::open_with_cache(directory, CACHE_BYTES_SMALL)?) })
    }

    /// The journal, if one was ever written.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn journal(&self) -> Result<Option<Journal>, JournalError> {
        self.read(KEY_JOURNAL, "journal", JOURNAL_BYTES_MAX)
    }

    /// What people signed, if it was ever written.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn trust(&self) -> Result<Option<TrustSnapshot>, JournalError> {
        self.read(KEY_TRUST, "trust", TRUST_BYTES_MAX)
    }

    /// Makes a record durable. The disk is waited for on a thread of its own, so that answers to peers and the
    /// watchdog are not held up by a slow one.
    ///
    /// # Errors
    /// [`JournalError`]; the program must stop then.
    pub async fn keep(&self, record: Record) -> Result<(), JournalError> {
        let store = self.store.clone();
        let write = tokio::task::spawn_blocking(move || {
            let write = match record {
                Record::Journal(journal) => {
                    let bytes = wire::encode(&*journal, JOURNAL_BYTES_MAX)
                        .map_err(|source| JournalError::TooLarge { what: "journal", source })?;
                    Write::put(KEY_JOURNAL, bytes)
                }
                Record::Trust(trust) => {
                    let bytes = wire::encode(&*trust, TRUST_BYTES_MAX)
                        .map_err(|source| JournalError::TooLarge { what: "trust", source })?;
                    Write::put(KEY_TRUST, bytes)
                }
            };
            Ok(store.commit(&[write])?)
        });
        write.await.unwrap_or(Err(JournalError::CutOff))
    }

    fn read<T: DeserializeOwned>(
        &self,
        key: &[u8],
        what: &'static str,
        bound: usize,
    ) -> Result<Option<T>, JournalError> {
        let Some(bytes) = self.store.get(key)? else { return Ok(None) };
        let damaged =
            |source| JournalError::Record { what, directory: self.store.directory().to_owned(), source };
        wire::decode(&bytes, bound).map(Some).map_err(damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_record_is_there_again_after_the_store_was_opened_anew() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal { starts: 3, transitions_next: 9, ..Journal::default() };
        {
            let records = NodeJournal::open(directory.path()).unwrap();
            assert_eq!(records.journal().unwrap(), None);
            records.keep(Record::Journal(Box::new(journal.clone()))).await.unwrap();
        }
        let records = NodeJournal::open(directory.path()).unwrap();
        assert_eq!(records.journal().unwrap(), Some(journal));
        assert!(records.trust().unwrap().is_none());
    }
}
