//! What the applier keeps, on the embedded store.
//!
//! Owns the two records, journal and trust. Main invariant: a record is durable when [`Records::keep`]
//! returns, and a reader finds one whole state, never a mix. Refuses to start from nothing where something
//! was: a damaged store is reported, never guessed.

use std::path::Path;

use lunar_agent_core::applier::effect::Record;
use lunar_agent_core::applier::journal::Journal;
use lunar_common::trust::TrustSnapshot;
use lunar_common::wire::{WireError, decode, encode};
use lunar_host::store::{CACHE_BYTES_SMALL, Store, StoreError, Write};

const KEY_JOURNAL: &[u8] = b"journal";
const KEY_TRUST: &[u8] = b"trust";

/// Largest journal in bytes: sixteen artifacts with their history take some 40 KiB.
const JOURNAL_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Largest trust snapshot in bytes. Documents are up to a megabyte each; a fleet has a few hundred, small.
const TRUST_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Why a record could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Over its bound.
    #[error("the {what} cannot be kept")]
    Encode {
        /// Which record.
        what: &'static str,
        /// Why.
        #[source]
        source: WireError,
    },
    /// Of another version, or damaged.
    #[error("the {what} in the store cannot be read")]
    Decode {
        /// Which record.
        what: &'static str,
        /// Why.
        #[source]
        source: WireError,
    },
}

/// The applier's records.
pub(super) struct Records {
    store: Store,
}

impl Records {
    pub(super) fn open(directory: &Path) -> Result<Self, RecordError> {
        Ok(Self { store: Store::open_with_cache(directory, CACHE_BYTES_SMALL)? })
    }

    pub(super) fn journal(&self) -> Result<Option<Journal>, RecordError> {
        let Some(bytes) = self.store.get(KEY_JOURNAL)? else { return Ok(None) };
        let failed = |source| RecordError::Decode { what: "journal", source };
        decode(&bytes, JOURNAL_BYTES_MAX).map(Some).map_err(failed)
    }

    pub(super) fn trust(&self) -> Result<Option<TrustSnapshot>, RecordError> {
        let Some(bytes) = self.store.get(KEY_TRUST)? else { return Ok(None) };
        let failed = |source| RecordError::Decode { what: "trust state", source };
        decode(&bytes, TRUST_BYTES_MAX).map(Some).map_err(failed)
    }

    pub(super) fn keep(&self, record: &Record) -> Result<(), RecordError> {
        let (key, what, bytes) = match record {
            Record::Journal(journal) => (KEY_JOURNAL, "journal", encode(journal, JOURNAL_BYTES_MAX)),
            Record::Trust(trust) => (KEY_TRUST, "trust state", encode(trust, TRUST_BYTES_MAX)),
        };
        let bytes = bytes.map_err(|source| RecordError::Encode { what, source })?;
        Ok(self.store.commit(&[Write::put(key, bytes)])?)
    }

    pub(super) fn close(self) -> Result<(), RecordError> {
        Ok(self.store.close()?)
    }
}
