//! The canonical archive of a directory.
//!
//! Owns one format: a GNU tar stream that any tar can list, of which there is exactly one for a given tree.
//! - Everything inside the directory is in it, the directory itself is not: its name, mode and owner belong
//!   to whoever unpacks.
//! - Entries come in byte order of their names, a directory's name ending in `/`. That is the order of a
//!   walk, so neither side holds more than the directories on the way.
//! - Kept: type, mode with setuid, setgid and sticky, numeric owner and group, symlink targets byte for
//!   byte, which names are one file (hard links), names of any bytes, the extended attributes `user.*` and
//!   `security.capability` (file capabilities). Not kept: times (always 0), user and group names, device and
//!   inode numbers, holes; and all other extended attributes, which [`survey`] names.
//! - Refused: devices, pipes, sockets; links that leave the tree; names that could.
//!
//! Main invariant: the reader accepts exactly what the writer would have written. Every header is made again
//! from what was read in it and compared byte by byte, so that no two programs can read one archive differently.

mod attributes;
mod entry;
mod read;
mod tree;
mod unpack;
mod walk;
mod write;

use std::io;
use std::path::PathBuf;

pub use attributes::Attributes;
pub use entry::{Entry, Kind, PathProblem, Refusal};
pub use read::ArchiveReader;
pub use tree::remove_tree;
pub use unpack::{Unpacked, unpack};
pub use walk::{Visited, walk};
pub use write::{NotKept, Survey, survey, write_archive};

/// Why a directory was not archived, or an archive not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Something in it is never archived and never unpacked.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The operating system refused something in the tree.
    #[error("cannot {what} {path:?}")]
    Tree {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Changed between looking and reading: an archive of it would be of a tree that never was.
    #[error("{path:?} changed while it was read: stop what writes there, and try again")]
    Changed {
        /// What changed.
        path: PathBuf,
    },
    /// The file system drops mode bits (setgid for a group that the process is not in).
    #[error("{path:?} cannot have the mode {mode:o} here")]
    ModeNotKept {
        /// Of what.
        path: PathBuf,
        /// The mode it should have.
        mode: u32,
    },
    /// The archive's bytes could not be read or written.
    #[error("the archive's stream broke off")]
    Stream(#[source] io::Error),
}
