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
//! once it was read from end to end and synced.

mod mark;
#[cfg(test)]
mod power_cut;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use crate::files::{FileError, sync_directory};
use mark::Mark;

/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 1024;

/// Longest value in bytes: the largest event or snapshot, with room.
pub const VALUE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// sled's page cache for a program that keeps little: an agent's journal is a few hundred kilobytes.
pub const CACHE_BYTES_SMALL: u64 = 1024 * 1024;

/// Bytes of a value in one sled item. A leaf holds at most 20 items (16, and what a merge adds before the next
/// split), so with the longest keys it stays below the 128 KiB beyond which sled would write a file of its own.
const PIECE_BYTES: usize = 4 * 1024;

/// How often, and how long apart, the lock is tried: a child that this very process starts holds all of its files
/// for a moment, those just closed as well.
const LOCK_TRIES: u32 = 50;
const LOCK_TRY_EVERY: Duration = Duration::from_millis(10);

/// First byte of a key: the store's own records, values (their first piece), further pieces.
const ZONE_OWN: u8 = 0;
const ZONE_VALUES: u8 = 1;
const ZONE_PIECES: u8 = 2;

const KEY_GENESIS: &[u8] = &[ZONE_OWN, b'g'];
const KEY_TALLY: &[u8] = &[ZONE_OWN, b't'];

/// Bytes of the checksum in front of every value.
const CHECKSUM_BYTES: usize = 16;

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

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// What is on the disk is not what was put there.
    #[error(
        "the store {path} is damaged: {detail}. Nothing was changed. Keep a copy of the directory, check the \
         disk, and restore the whole directory from a backup"
    )]
    Damaged {
        /// The store.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// Another process has it open.
    #[error("the store {path} is in use by another process")]
    InUse {
        /// The store.
        path: PathBuf,
    },
    /// The machine refused to open or read it.
    #[error("cannot open the store {path}")]
    Open {
        /// The store.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The machine refused a write. Nothing more is written after this one.
    #[error(
        "cannot write the store {path}; what was committed before is safe. Free space on the disk, or make it \
         writable, and start again"
    )]
    Write {
        /// The store.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An earlier write failed, and whether it reached the disk is unknown.
    #[error("the store {path} takes no more writes since one failed: start the program again")]
    Stopped {
        /// The store.
        path: PathBuf,
    },
    /// A key or value over its bound.
    #[error("a {what} of {length} bytes is over the store's bound of {bound}")]
    TooLong {
        /// Key or value.
        what: &'static str,
        /// Its length.
        length: usize,
        /// The bound.
        bound: usize,
    },
}

impl StoreError {
    /// The same, told of the store that is damaged rather than of the copy in which it was found.
    fn at(self, store: &Path) -> Self {
        match self {
            Self::Damaged { detail, .. } => Self::Damaged { path: store.to_owned(), detail },
            other => other,
        }
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

/// What the store must hold, written with every commit: a value that the library lost in silence is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Tally {
    commits: u64,
    values: u64,
    /// All values' checksums, exclusive or: the order in which they came does not matter.
    checksums: [u8; CHECKSUM_BYTES],
}

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

    fn open_as(directory: &Path, options: &Options) -> Result<Self, StoreError> {
        let open_failed = |source| StoreError::Open { path: directory.join("store"), source };
        std::fs::create_dir_all(directory).map_err(open_failed)?;
        let lock = lock(directory)?;
        let mark = Mark::read(directory)?;
        let current = match &mark {
            Some(mark) => mark.generation,
            // Never made; or made and not yet marked when the power went: the lowest is whole then, and a
            // higher one is an unfinished copy.
            None => match generations(directory).map_err(open_failed)?.first().copied() {
                Some(found) => found,
                None => make(directory, options)?,
            },
        };
        let old = generation_path(directory, current);
        if let Some(missing) = ["conf", "db"].iter().find(|name| is_empty(&old.join(name))) {
            let detail = format!("its file {missing} is missing or empty");
            return Err(StoreError::Damaged { path: old, detail });
        }
        let generation = current + 1;
        let path = generation_path(directory, generation);
        let opened = copy(&old, &path)
            .and_then(|()| open_sled(&path, options))
            .and_then(|db| {
                let file = File::open(path.join("db")).map_err(open_failed)?;
                let state = Mutex::new(State { tally: Tally::default(), failed: true });
                let (directory, syncing) = (directory.to_owned(), options.syncing);
                let (db, genesis, _lock) = (Some(db), [0; 16], lock);
                let mut store = Self { db, file, directory, generation, _lock, genesis, state, syncing };
                let tally = store.check_against(mark.as_ref())?;
                *store.state.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner) =
                    State { tally, failed: false };
                store.become_current(tally.commits).map_err(|error| {
                    *store.state.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner) =
                        State { tally, failed: true };
                    store.mark_failed(error)
                })?;
                Ok(store)
            })
            .map_err(|error| error.at(&old));
        // Whichever of the two is not the store now. What cannot be removed is removed by the next opening.
        let _ = std::fs::remove_dir_all(if opened.is_ok() { old } else { path });
        opened
    }

    /// Makes this copy durable, and then, in one step, the store.
    fn become_current(&self, commits: u64) -> Result<(), FileError> {
        let path = self.path();
        let failed = |source| FileError::Write { path: path.clone(), source };
        File::open(path.join("conf")).and_then(|conf| conf.sync_all()).map_err(failed)?;
        self.file.sync_all().map_err(failed)?;
        for directory in [&path.join("blobs"), &path, &self.directory] {
            sync_directory(directory).map_err(failed)?;
        }
        let mark = Mark { generation: self.generation, genesis: self.genesis, commits };
        mark.write(&self.directory)
    }

    /// Whether this is the store that the mark speaks of, has come at least as far, and holds every value it
    /// should, unchanged. Returns its tally.
    fn check_against(&mut self, mark: Option<&Mark>) -> Result<Tally, StoreError> {
        let own = |key: &'static [u8], what: &str| {
            self.raw(key)?.ok_or_else(|| self.damaged(format!("its {what} is missing")))
        };
        let genesis = own(KEY_GENESIS, "first record")?;
        let tally = own(KEY_TALLY, "tally")?;
        self.genesis = (*genesis).try_into().map_err(|_| self.damaged("its first record is not one"))?;
        let tally = Tally::parse(&tally).ok_or_else(|| self.damaged("its tally is not one"))?;
        let commits = tally.commits;
        match mark {
            Some(mark) if mark.genesis != self.genesis => {
                return Err(self.damaged("store.mark beside it belongs to another store"));
            }
            Some(mark) if mark.commits > commits => {
                return Err(self.damaged(format!(
                    "it ends at commit {commits}, but it had {} when it was last opened or closed",
                    mark.commits
                )));
            }
            // Nobody was told that a store exists before its mark did.
            None if commits > 0 => {
                let detail = format!("store.mark beside it is missing, and it has {commits} commits");
                return Err(self.damaged(detail));
            }
            Some(_) | None => {}
        }
        let mut found = Tally { commits, ..Tally::default() };
        for item in self.scan(b"") {
            let (key, value) = item?;
            found.values += 1;
            found.toggle(&checksum(&key, &value));
        }
        if found != tally {
            let detail = format!("it holds {} values that are whole, of {}", found.values, tally.values);
            return Err(self.damaged(detail));
        }
        Ok(tally)
    }

    /// Puts one change into a batch, in pieces, and takes pieces away that a longer value left.
    fn stage(
        &self,
        batch: &mut sled::Batch,
        key: &[u8],
        value: Option<&[u8]>,
        tally: &mut Tally,
    ) -> Result<(), StoreError> {
        let stored = zoned(ZONE_VALUES, key);
        let mut before = 0;
        if let Some(head) = self.raw(&stored)? {
            let (length, checksum, _) = self.head(&head)?;
            before = pieces_after_first(length);
            tally.values = tally.values.saturating_sub(1);
            tally.toggle(checksum);
        }
        let mut after = 0;
        if let Some(value) = value {
            let checksum = checksum(key, value);
            tally.values += 1;
            tally.toggle(&checksum);
            let (first, rest) = value.split_at(value.len().min(PIECE_BYTES));
            let head = [&length_bytes(value.len())[..], &checksum, first].concat();
            batch.insert(stored, head);
            for piece in rest.chunks(PIECE_BYTES) {
                batch.insert(piece_key(key, after), piece);
                after += 1;
            }
        } else {
            batch.remove(stored);
        }
        for stale in after..before {
            batch.remove(piece_key(key, stale));
        }
        Ok(())
    }

    /// A value put together from its pieces, checked.
    fn whole(&self, key: &[u8], head: &[u8]) -> Result<Vec<u8>, StoreError> {
        let (length, expected, first) = self.head(head)?;
        let mut value = Vec::with_capacity(length);
        value.extend_from_slice(first);
        for number in 0..pieces_after_first(length) {
            match self.raw(&piece_key(key, number))? {
                Some(piece) => value.extend_from_slice(&piece),
                None => return Err(self.damaged(format!("part of the value of {} is missing", name(key)))),
            }
        }
        if value.len() != length || checksum(key, &value) != expected {
            return Err(self.damaged(format!("the value of {} is not what was put there", name(key))));
        }
        Ok(value)
    }

    fn head<'a>(&self, head: &'a [u8]) -> Result<(usize, &'a [u8], &'a [u8]), StoreError> {
        let wrong = || self.damaged("a value has no readable head");
        let (length, rest) = head.split_first_chunk::<8>().ok_or_else(wrong)?;
        let (checksum, first) = rest.split_at_checked(CHECKSUM_BYTES).ok_or_else(wrong)?;
        let length = usize::try_from(u64::from_be_bytes(*length)).map_err(|_| wrong())?;
        if length > VALUE_BYTES_MAX {
            return Err(wrong());
        }
        Ok((length, checksum, first))
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

impl Tally {
    fn toggle(&mut self, checksum: &[u8]) {
        for (byte, other) in self.checksums.iter_mut().zip(checksum) {
            *byte ^= other;
        }
    }

    fn bytes(&self) -> Vec<u8> {
        [&self.commits.to_be_bytes()[..], &self.values.to_be_bytes(), &self.checksums].concat()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (commits, rest) = bytes.split_first_chunk()?;
        let (values, checksums) = rest.split_first_chunk()?;
        Some(Self {
            commits: u64::from_be_bytes(*commits),
            values: u64::from_be_bytes(*values),
            checksums: checksums.try_into().ok()?,
        })
    }
}

/// A key and its value.
pub type KeyValue = (Vec<u8>, Vec<u8>);

/// Keys with their values, in order.
pub struct Scan<'a> {
    store: &'a Store,
    inner: sled::Iter,
    over: bool,
}

impl Scan<'_> {
    fn read(
        &mut self,
        item: Result<Option<sled::Result<(sled::IVec, sled::IVec)>>, StoreError>,
    ) -> Option<Result<KeyValue, StoreError>> {
        if self.over {
            return None;
        }
        let read = match item {
            Ok(None) => return None,
            Ok(Some(Ok((stored, head)))) => {
                let key = stored.get(1..).unwrap_or_default();
                self.store.whole(key, &head).map(|value| (key.to_vec(), value))
            }
            Ok(Some(Err(error))) => Err(self.store.read_failed(&error)),
            Err(error) => Err(error),
        };
        // One error ends a scan: what follows damage cannot be taken for all there is.
        self.over = read.is_err();
        Some(read)
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<KeyValue, StoreError>;
    fn next(&mut self) -> Option<Self::Item> {
        let store = self.store;
        let item = store.guarded(|| self.inner.next());
        self.read(item)
    }
}

impl DoubleEndedIterator for Scan<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let store = self.store;
        let item = store.guarded(|| self.inner.next_back());
        self.read(item)
    }
}

/// Makes a store, complete and synced, under another name first: a generation never exists half made.
fn make(directory: &Path, options: &Options) -> Result<u64, StoreError> {
    const FIRST: u64 = 1;
    let path = generation_path(directory, FIRST);
    let failed = |source| StoreError::Write { path: path.clone(), source };
    let unfinished = directory.join("store.new");
    match std::fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    let mut genesis = [0u8; 16];
    getrandom::fill(&mut genesis).map_err(|error| failed(io::Error::other(error.to_string())))?;
    let db = open_sled(&unfinished, options)?;
    let mut batch = sled::Batch::default();
    batch.insert(KEY_GENESIS, &genesis);
    batch.insert(KEY_TALLY, Tally::default().bytes());
    let written = db.apply_batch(batch).and_then(|()| db.flush());
    written.map_err(|error| match error {
        sled::Error::Io(source) => failed(source),
        other => failed(io::Error::other(other)),
    })?;
    drop(db);
    for name in ["conf", "db"] {
        File::open(unfinished.join(name)).and_then(|file| file.sync_all()).map_err(failed)?;
    }
    sync_directory(&unfinished.join("blobs")).map_err(failed)?;
    sync_directory(&unfinished).map_err(failed)?;
    std::fs::rename(&unfinished, &path).map_err(failed)?;
    sync_directory(directory).map_err(failed)?;
    Ok(FIRST)
}

/// Copies all that sled needs of a store. Snapshots that were never finished are left behind: sled takes them
/// for finished ones.
fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    let copied = || {
        match std::fs::remove_dir_all(to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        std::fs::create_dir_all(to.join("blobs"))?;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            let name = entry.file_name();
            let unfinished = name.as_encoded_bytes().ends_with(b".generating");
            if entry.file_type()?.is_file() && !unfinished {
                std::fs::copy(entry.path(), to.join(name))?;
            }
        }
        Ok(())
    };
    copied().map_err(|source| StoreError::Write { path: to.to_owned(), source })
}

/// One process a store: held until the store is closed, or the process ends in any way.
fn lock(directory: &Path) -> Result<Flock<File>, StoreError> {
    let path = directory.join("store.lock");
    let open = || File::options().create(true).append(true).mode(0o600).open(&path);
    let mut file = open().map_err(|source| StoreError::Open { path: path.clone(), source })?;
    for _ in 0..LOCK_TRIES {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((unlocked, _)) => file = unlocked,
        }
        std::thread::sleep(LOCK_TRY_EVERY);
    }
    Err(StoreError::InUse { path: directory.join("store") })
}

/// The generations that lie in a directory, lowest first.
fn generations(directory: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        found.extend(name.to_str().and_then(|name| name.strip_prefix("store.")?.parse::<u64>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

fn generation_path(directory: &Path, generation: u64) -> PathBuf {
    directory.join(format!("store.{generation}"))
}

fn open_sled(path: &Path, options: &Options) -> Result<sled::Db, StoreError> {
    let damaged = |detail: String| StoreError::Damaged { path: path.to_owned(), detail };
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(options.cache_bytes)
        // Commits flush; a thread that flushes in between would only wake an idle program.
        .flush_every_ms(None);
    match catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(sled::Error::Io(error))) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(damaged("one of its files ends too early".into()))
        }
        Ok(Err(sled::Error::Io(source))) => Err(StoreError::Open { path: path.to_owned(), source }),
        Ok(Err(other)) => Err(damaged(other.to_string())),
        Err(_) => Err(damaged("the store's library gave up on it".into())),
    }
}

fn is_empty(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.len() == 0) || !path.exists()
}

fn zoned(zone: u8, key: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(1 + key.len());
    stored.push(zone);
    stored.extend_from_slice(key);
    stored
}

/// Fixed lengths around the key, so that no two pieces of any two keys are the same.
fn piece_key(key: &[u8], number: usize) -> Vec<u8> {
    let mut stored = zoned(ZONE_PIECES, &length_bytes(key.len()));
    stored.extend_from_slice(key);
    stored.extend_from_slice(&length_bytes(number));
    stored
}

fn pieces_after_first(length: usize) -> usize {
    length.saturating_sub(PIECE_BYTES).div_ceil(PIECE_BYTES)
}

fn length_bytes(length: usize) -> [u8; 8] {
    u64::try_from(length).expect("usize has at most 64 bits").to_be_bytes()
}

fn checksum(key: &[u8], value: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&length_bytes(key.len())).update(key).update(value);
    let mut short = [0; CHECKSUM_BYTES];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..CHECKSUM_BYTES]);
    short
}

fn check_length(what: &'static str, length: usize, bound: usize) -> Result<(), StoreError> {
    if length > bound { Err(StoreError::TooLong { what, length, bound }) } else { Ok(()) }
}

fn name(key: &[u8]) -> String {
    key.escape_ascii().take(80).map(char::from).collect()
}

#[cfg(test)]
mod tests;
