//! Opening a store: a copy is opened, read from end to end, synced, and becomes the store in one step.
//!
//! Owns the generations `store.N`, the lock, and the check against the mark. Main invariant: until a generation is
//! whole and durable, the one before it is untouched. Refuses to take a store that is missing, emptied, cut short
//! or changed for a new one.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use super::mark::Mark;
use super::patience::{Patience, within};
use super::pieces::{KEY_GENESIS, KEY_TALLY, checksum};
use super::tally::Tally;
use super::{Options, State, Store, StoreError};
use crate::files::{FileError, sync_directory};

/// How often, and how long apart, the lock is tried: a child that this very process starts holds all of its files
/// for a moment, those just closed as well.
const LOCK_TRIES: u32 = 50;
const LOCK_TRY_EVERY: Duration = Duration::from_millis(10);

impl Store {
    /// Opens, with an end to it: see [`super::patience`].
    pub(super) fn open_as(directory: &Path, options: &Options) -> Result<Self, StoreError> {
        let patience = Patience::for_store(bytes_of(directory));
        let (place, options) = (directory.to_owned(), *options);
        within(patience, move || Self::open_patiently(&place, &options))
            .map_err(|detail| StoreError::Damaged { path: directory.join("store"), detail })?
    }

    fn open_patiently(directory: &Path, options: &Options) -> Result<Self, StoreError> {
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
            if found.values > tally.values {
                // Also how a tree that leads back into itself looks.
                break;
            }
        }
        if found != tally {
            let detail = format!("it holds {} values that are whole, of {}", found.values, tally.values);
            return Err(self.damaged(detail));
        }
        Ok(tally)
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
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
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

/// What the largest store in a directory takes on the disk; 0 if there is none or it cannot be read, which
/// opening it will tell.
fn bytes_of(directory: &Path) -> u64 {
    let length = |generation| std::fs::metadata(generation_path(directory, generation).join("db"));
    let found = generations(directory).unwrap_or_default();
    found.into_iter().filter_map(|generation| Some(length(generation).ok()?.len())).max().unwrap_or(0)
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

pub(super) fn generation_path(directory: &Path, generation: u64) -> PathBuf {
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
