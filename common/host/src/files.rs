//! Files that survive a power cut, and reads that end.
//!
//! Owns atomic replacement and bounded reading. Main invariant: after [`write_atomically`] returns, the file
//! holds all of the new bytes, and a crash at any instant leaves all of the old or all of the new. Refuses to
//! read more than it was told to, whatever the file's size claims.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::exit::{Exit, Failure};

/// What could not be done to which file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Could not be written durably.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Holds more than is ever read of such a file.
    #[error("{path} has more than the {max} bytes that such a file may have")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The bound.
        max: usize,
    },
    /// Is there already, and must not be replaced.
    #[error("{path} is there already")]
    Exists {
        /// The file.
        path: PathBuf,
    },
}

impl FileError {
    /// Whether the file is simply not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// The code to end with, one rule for every file that a person names or puts in its place (a configuration, a
    /// document, a key): what is there is wrong (nothing, no file, too long, in the way), or the machine refuses
    /// (permission, disk).
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Read { source, .. } => match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidInput => {
                    Exit::BadInput
                }
                _ => Exit::Environment,
            },
            Self::Write { .. } => Exit::Environment,
            Self::TooLong { .. } | Self::Exists { .. } => Exit::BadInput,
        }
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Self::new(error.exit(), error)
    }
}

/// Replaces a file durably: a temporary one in the same directory, fsync, rename, fsync of the directory.
///
/// # Errors
/// [`FileError::Write`]; the old file is untouched then.
pub fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let failed = |source| FileError::Write { path: path.to_owned(), source };
    let temporary = written_temporary(path, bytes, mode).map_err(failed)?;
    temporary.persist(path).map_err(|error| failed(error.error))?;
    sync_directory(directory_of(path)).map_err(failed)
}

/// Makes a file durably, all of it or none; refuses to replace one.
///
/// # Errors
/// [`FileError::Exists`], or [`FileError::Write`].
pub fn create_atomically(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let failed = |source| FileError::Write { path: path.to_owned(), source };
    let temporary = written_temporary(path, bytes, mode).map_err(failed)?;
    temporary.persist_noclobber(path).map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => FileError::Exists { path: path.to_owned() },
        _ => failed(error.error),
    })?;
    sync_directory(directory_of(path)).map_err(failed)
}

fn written_temporary(path: &Path, bytes: &[u8], mode: u32) -> io::Result<tempfile::NamedTempFile> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    // Made 0600 by the library, and widened only once it is complete: a key is never readable by others.
    let mut temporary = tempfile::Builder::new().prefix(&prefix).tempfile_in(directory_of(path))?;
    temporary.write_all(bytes)?;
    temporary.as_file().set_permissions(std::fs::Permissions::from_mode(mode))?;
    temporary.as_file().sync_all()?;
    Ok(temporary)
}

/// Reads a whole file of at most `max` bytes.
///
/// # Errors
/// [`FileError::Read`] or [`FileError::TooLong`].
pub fn read_bounded(path: &Path, max: usize) -> Result<Vec<u8>, FileError> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    // Without blocking, so that a pipe put in the file's place cannot hold the program up.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC)
        .open(path)
        .map_err(failed)?;
    let kind = file.metadata().map_err(failed)?.file_type();
    if !kind.is_file() {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > max {
        return Err(FileError::TooLong { path: path.to_owned(), max });
    }
    Ok(bytes)
}

/// Makes the names in a directory durable: renames, creations, removals.
///
/// # Errors
/// As the operating system says.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_with_its_mode_and_nothing_is_left_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        write_atomically(&path, b"one", 0o600).unwrap();

        write_atomically(&path, b"two", 0o640).unwrap();

        assert_eq!(read_bounded(&path, 3).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_must_be_new_is_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        create_atomically(&path, b"first", 0o600).unwrap();

        let refused = create_atomically(&path, b"second", 0o600).unwrap_err();

        assert!(matches!(refused, FileError::Exists { .. }), "{refused}");
        assert_eq!(read_bounded(&path, 100).unwrap(), b"first");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn reading_stops_at_the_bound_and_at_anything_that_is_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("long");
        write_atomically(&path, &[7; 101], 0o600).unwrap();
        nix::unistd::mkfifo(&directory.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();

        assert!(matches!(read_bounded(&path, 100), Err(FileError::TooLong { max: 100, .. })));
        assert!(matches!(read_bounded(&directory.path().join("pipe"), 100), Err(FileError::Read { .. })));
        assert!(matches!(read_bounded(directory.path(), 100), Err(FileError::Read { .. })));
        assert!(read_bounded(&directory.path().join("none"), 100).unwrap_err().is_not_found());
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("no-such-directory").join("file");
        assert!(matches!(write_atomically(&missing, b"x", 0o600), Err(FileError::Write { .. })));
        assert!(matches!(write_atomically(Path::new("/"), b"x", 0o600), Err(FileError::Write { .. })));
    }
}
