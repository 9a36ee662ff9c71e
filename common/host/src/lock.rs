//! One process a directory.
//!
//! Owns [`DirectoryLock`]. Main invariant: while one is alive, no other process of ours works on the same
//! directory; the kernel drops it with the process, so a crash never leaves a stale one behind.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// A held lock on a directory.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: Flock<File>,
}

/// Why a directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error("{directory} is in use by another process (pid {holder})")]
    Held {
        /// The directory.
        directory: PathBuf,
        /// Its holder's process id, as that wrote it; `?` if unreadable.
        holder: String,
    },
    /// The lock file cannot be made.
    #[error("cannot make the lock file {path}")]
    Create {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl DirectoryLock {
    /// Takes the lock, or says who has it. Never waits.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn take(directory: &Path) -> Result<Self, LockError> {
        let path = directory.join("lock");
        let open = |path: &Path| {
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
        };
        let file = open(&path).map_err(|source| LockError::Create { path: path.clone(), source })?;
        let mut file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| LockError::Held {
            directory: directory.to_owned(),
            holder: std::fs::read_to_string(&path)
                .ok()
                .map(|text| text.trim().to_owned())
                .filter(|text| !text.is_empty())
                .unwrap_or_else(|| "?".to_owned()),
        })?;
        // The process id is for people only; failing to write it (a full disk) must not stop the program.
        let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_told_who_holds_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let held = DirectoryLock::take(directory.path()).unwrap();
        let refused = DirectoryLock::take(directory.path()).unwrap_err();
        assert!(refused.to_string().contains(&std::process::id().to_string()), "{refused}");
        drop(held);
        DirectoryLock::take(directory.path()).unwrap();
    }
}
