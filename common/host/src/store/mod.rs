//! The embedded store: keys and values that survive a power cut, on sled.
//!
//! Owns one sled tree in `DIR/store.N/`, and `DIR/store.mark`, which says which N is the store and how far it had
//! come. Main invariant: once [`Store::commit`] returned, all of its writes are on the disk, and a crash before
//! that leaves all of them or none. Refuses to open a store that is missing, emptied, cut short or changed as if
//! it were a new one: that is reported as damage, and nothing is touched.
//!
//! Three things that sled 0.34 leaves to its user are done here. Its `flush` hands bytes to the kernel without
//! waiting for the disk: every commit ends with an fdatasync. Values that do not fit its buffers go to files of
//! their own, never synced: values are cut into pieces. And while it opens, it frees parts of its file by a
//! snapshot whose name it has not synced: it is given a copy to open, which becomes the store in one step,
//! once it was read from end to end and synced. And it may never come back from a damaged tree: opening has
//! an end all the same.

mod error;
mod mark;
mod opening;
mod patience;
mod pieces;
#[cfg(test)]
mod power_cut;
mod scan;
mod tally;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::fcntl::Flock;

pub use self::error::StoreError;
use self::mark::Mark;
use self::opening::generation_path;
use self::pieces::{KEY_TALLY, ZONE_VALUES, zoned};
pub use self::scan::{KeyValue, Scan};
use self::tally::Tally;
use crate::files::FileError;

/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 1024;

/// Longest value in bytes: the largest event or snapshot, with room.
pub const VALUE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// sled's page cache for a program that keeps little: an agent's journal is a few hundred kilobytes.
pub const CACHE_BYTES_SMALL: u64 = 1024 * 1024;

/// One change in a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// The key has this value from now on.
    Put {
        /// The key.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
    },
    /// The key has no value any more.
    Remove {
        /// The key.
        key: Vec<u8>,
    },
}

impl Write {
    /// The key has this value from now on.
    pub fn put(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self::Put { key: key.into(), value: value.into() }
    }

    /// The key has no value any more.
    pub fn remove(key: impl Into<Vec<u8>>) -> Self {
        Self::Remove { key: key.into() }
    }
}

/// An open store. One process has it at a time.
pub struct Store {
    /// `None` only while it is being closed.
    db: Option<sled::Db>,
    /// sled's file, opened once more for the syncs that sled does not do.
    file: File,
    directory: PathBuf,
    generation: u64,
    _lock: Flock<File>,
    genesis: [u8; 16],
    state: Mutex<State>,
    syncing: bool,
}

struct State {
    tally: Tally,
    failed: bool,
}

#[derive(Clone, Copy)]
struct Options {
    cache_bytes: u64,
    /// Off only in the test that proves that a missing sync is noticed.
    syncing: bool,
}

impl Store {
    /// Opens the store in a directory, or makes one if there never was any. Reads all of it once: what opens is
    /// whole.
    ///
    /// # Errors
    /// [`StoreError`]; a store that was there and is not as it was left is [`StoreError::Damaged`].
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        Self::open_with_cache(directory, CACHE_BYTES_SMALL)
    }

    /// The same with this many bytes of page cache.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with_cache(directory: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        Self::open_as(directory, &Options { cache_bytes, syncing: true })
    }

    /// Carries all writes out, all of them or none, in the order given, and returns once they are on the disk.
    ///
    /// # Errors
    /// [`StoreError`]. After [`StoreError::Write`] it is unknown whether the writes are there, and every
    /// further commit is refused.
    pub fn commit(&self, writes: &[Write]) -> Result<(), StoreError> {
        let mut last: BTreeMap<&[u8], Option<&[u8]>> = BTreeMap::new();
        for write in writes {
            let (key, value) = match write {
                Write::Put { key, value } => (key, Some(value.as_slice())),
                Write::Remove { key } => (key, None),
            };
            check_length("key", key.len(), KEY_BYTES_MAX)?;
            check_length("value", value.map_or(0, <[u8]>::len), VALUE_BYTES_MAX)?;
            last.insert(key, value);
        }
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.failed {
            return Err(StoreError::Stopped { path: self.path() });
        }
        // Set until all is well, so that a panic in sled counts as a failure too.
        state.failed = true;
        let mut batch = sled::Batch::default();
        let mut tally = Tally { commits: state.tally.commits + 1, ..state.tally };
        for (key, value) in last {
            self.stage(&mut batch, key, value, &mut tally)?;
        }
        batch.insert(KEY_TALLY, tally.bytes());
        self.guarded(|| {
            self.db().apply_batch(batch)?;
            self.db().flush().map(|_| ())
        })?
        .map_err(|error| self.write_failed(error))?;
        if self.syncing {
            self.file.sync_data().map_err(|source| StoreError::Write { path: self.path(), source })?;
        }
        *state = State { tally, failed: false };
        Ok(())
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it is not what was put there.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let stored = zoned(ZONE_VALUES, key);
        match self.raw(&stored)? {
            Some(head) => self.whole(key, &head).map(Some),
            None => Ok(None),
        }
    }

    /// Every key that begins with `prefix`, with its value, in the order of the keys.
    pub fn scan(&self, prefix: &[u8]) -> Scan<'_> {
        let inner = self.db().scan_prefix(zoned(ZONE_VALUES, prefix));
        Scan { store: self, inner, over: false }
    }

    /// Every key from `from` on and below `below`, with its value, in the order of the keys; backwards with
    /// `.rev()`.
    pub fn range(&self, from: &[u8], below: &[u8]) -> Scan<'_> {
        let bounds = zoned(ZONE_VALUES, from)..zoned(ZONE_VALUES, below);
        // An empty range is no mistake of the caller's, but sled panics at one that is upside down.
        let bounds = if bounds.start > bounds.end { bounds.start.clone()..bounds.start } else { bounds };
        Scan { store: self, inner: self.db().range(bounds), over: false }
    }

    /// The directory that the store is in.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// How many commits there have been since the store was made.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).tally.commits
    }

    /// Closes the store, and leaves word of how far it came: whatever is missing next time is noticed. Dropping
    /// it does the same, silently.
    ///
    /// # Errors
    /// [`StoreError::Write`] if that word could not be left; nothing committed is lost.
    pub fn close(mut self) -> Result<(), StoreError> {
        self.leave()
    }

    fn raw(&self, stored: &[u8]) -> Result<Option<sled::IVec>, StoreError> {
        self.guarded(|| self.db().get(stored))?.map_err(|error| self.read_failed(&error))
    }

    fn db(&self) -> &sled::Db {
        self.db.as_ref().expect("only closing takes the tree away")
    }

    /// sled panics at some kinds of damage; that must not take the program's other work with it.
    fn guarded<T>(&self, work: impl FnOnce() -> T) -> Result<T, StoreError> {
        catch_unwind(AssertUnwindSafe(work)).map_err(|_| self.damaged("the store's library gave up on it"))
    }

    fn leave(&mut self) -> Result<(), StoreError> {
        let Some(db) = self.db.take() else { return Ok(()) };
        let state = self.state.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (commits, failed) = (state.tally.commits, state.failed);
        let _ = catch_unwind(AssertUnwindSafe(move || drop(db)));
        if failed || !self.syncing {
            return Ok(());
        }
        let mark = Mark { generation: self.generation, genesis: self.genesis, commits };
        mark.write(&self.directory).map_err(|error| self.mark_failed(error))
    }

    fn path(&self) -> PathBuf {
        generation_path(&self.directory, self.generation)
    }

    fn damaged(&self, detail: impl Into<String>) -> StoreError {
        StoreError::Damaged { path: self.path(), detail: detail.into() }
    }

    fn write_failed(&self, error: sled::Error) -> StoreError {
        match error {
            sled::Error::Io(source) => StoreError::Write { path: self.path(), source },
            other => self.damaged(other.to_string()),
        }
    }

    fn read_failed(&self, error: &sled::Error) -> StoreError {
        self.damaged(error.to_string())
    }

    fn mark_failed(&self, error: FileError) -> StoreError {
        StoreError::Write { path: self.path(), source: io::Error::other(error) }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(error) = self.leave() {
            tracing::warn!(%error, "the store was closed without leaving word of how far it came");
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("directory", &self.directory).finish_non_exhaustive()
    }
}

fn check_length(what: &'static str, length: usize, bound: usize) -> Result<(), StoreError> {
    if length > bound { Err(StoreError::TooLong { what, length, bound }) } else { Ok(()) }
}
