//! One entry of an archive, and the rules for what an entry may say.
//!
//! Owns the header's bytes and every rule about names and links. Main invariant: an [`Entry`] that was checked
//! names a place inside the tree, and if it is a symbolic link, following it never leaves the tree. Refuses
//! rather than repairs: a name that needs cleaning is not a name.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use lunar_common::bounds::{
    ARCHIVE_ATTRIBUTES_BYTES_MAX, ARCHIVE_DEPTH_MAX, ARCHIVE_ENTRIES_MAX, ARCHIVE_PATH_BYTES_MAX,
    ARTIFACT_BYTES_MAX,
};
use tar::{EntryType, Header};

use super::attributes::Attributes;

/// Bytes of a header, and the unit that bodies are padded to.
pub(super) const BLOCK: usize = 512;
/// Bytes of the name and of the link field of a header; longer ones come in an entry of their own before it.
const NAME_FIELD: usize = 100;
/// The name that GNU tar gives to such entries.
const LONG_NAME: &[u8] = b"././@LongLink";
/// The name that is given to entries with extended attributes.
const PAX_NAME: &[u8] = b"././@PaxHeader";
/// Mode of every symbolic link: Linux has no other.
pub(super) const SYMLINK_MODE: u32 = 0o777;
/// The bits of a mode that are kept: permissions, setuid, setgid, sticky.
pub(super) const MODE_BITS: u32 = 0o7777;

/// One thing in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path in the tree, without a slash at either end.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permissions with setuid, setgid and sticky. 0 for a hard link: the file it names has them.
    pub mode: u32,
    /// Owner. 0 for a hard link.
    pub uid: u32,
    /// Group. 0 for a hard link.
    pub gid: u32,
    /// Extended attributes. None for links.
    pub attributes: Attributes,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory; what is in it follows.
    Directory,
    /// A regular file; its bytes follow.
    File {
        /// How many.
        bytes: u64,
    },
    /// A symbolic link.
    Symlink {
        /// Its target, byte for byte.
        target: Vec<u8>,
    },
    /// Another name of a file that came before.
    HardLink {
        /// That file's path in the tree.
        target: Vec<u8>,
    },
}

/// What is never archived and never unpacked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A name that could leave the tree, or that is not in its one form.
    #[error("{path:?} is refused: {problem}")]
    Path {
        /// The name.
        path: PathBuf,
        /// What is wrong with it.
        problem: PathProblem,
    },
    /// Neither file, directory nor link.
    #[error("{path:?} is {kind}: an artifact has only files, directories and links")]
    Kind {
        /// Where.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A symbolic link that could lead out of the tree.
    #[error(
        "{path:?} links to {target:?}: a link must stay inside the artifact, so its target is relative and \
         has '..' only at the front, fewer than the directories it lies in"
    )]
    Symlink {
        /// The link.
        path: PathBuf,
        /// Where it points.
        target: PathBuf,
    },
    /// A hard link to something that is not a file that came before it.
    #[error("{path:?} is a hard link to {target:?}, which is no file that came before it")]
    HardLink {
        /// The link.
        path: PathBuf,
        /// What it names.
        target: PathBuf,
    },
    /// Out of order, or there twice.
    #[error("{path:?} is there twice or out of order")]
    Order {
        /// The entry.
        path: PathBuf,
    },
    /// In something that is not a directory of the archive: a link, a file, or nothing at all.
    #[error("{path:?} lies in something that is not a directory of the archive")]
    Parent {
        /// The entry.
        path: PathBuf,
    },
    /// More entries than an archive may have.
    #[error("more than {ARCHIVE_ENTRIES_MAX} entries")]
    TooMany,
    /// A file longer than an artifact may be.
    #[error("{path:?} is longer than the {ARTIFACT_BYTES_MAX} bytes that an artifact may have")]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// Extended attributes that are never kept, or too many of them.
    #[error(
        "{path:?} has extended attributes that no artifact has: only user.* and, of files, security.capability, \
         with {ARCHIVE_ATTRIBUTES_BYTES_MAX} bytes in all"
    )]
    Attributes {
        /// What has them.
        path: PathBuf,
    },
    /// Not the bytes that we would have written for it.
    #[error("entry {number} of the archive is not in canonical form: {what}")]
    Form {
        /// Counted from 1.
        number: usize,
        /// What is not.
        what: &'static str,
    },
}

/// What is wrong with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathProblem {
    /// Nothing at all.
    #[error("it is empty")]
    Empty,
    /// From the root.
    #[error("it is absolute")]
    Absolute,
    /// `..`, which leaves the directory; or `.` or `//`, which give one place a second name.
    #[error("it has a component '..', '.' or nothing")]
    Component,
    /// A zero byte, at which the kernel would stop reading.
    #[error("it has a zero byte")]
    Zero,
    /// Over [`ARCHIVE_PATH_BYTES_MAX`].
    #[error("it is longer than {ARCHIVE_PATH_BYTES_MAX} bytes")]
    TooLong,
    /// Over [`ARCHIVE_DEPTH_MAX`].
    #[error("it is more than {ARCHIVE_DEPTH_MAX} directories deep")]
    TooDeep,
}

impl Entry {
    /// Checks every rule that needs no other entry.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn check(&self) -> Result<(), Refusal> {
        check_path(&self.path)?;
        if !self.attributes.allowed(&self.kind) || self.attributes.too_long() {
            return Err(Refusal::Attributes { path: path_of(&self.path) });
        }
        match &self.kind {
            Kind::Directory => Ok(()),
            Kind::File { bytes } if *bytes > ARTIFACT_BYTES_MAX => {
                Err(Refusal::TooLong { path: path_of(&self.path) })
            }
            Kind::File { .. } => Ok(()),
            Kind::Symlink { target } if symlink_stays(&self.path, target) => Ok(()),
            Kind::Symlink { target } => {
                Err(Refusal::Symlink { path: path_of(&self.path), target: path_of(target) })
            }
            Kind::HardLink { target } => {
                check_path(target)?;
                if *target < self.path {
                    return Ok(());
                }
                Err(Refusal::HardLink { path: path_of(&self.path), target: path_of(target) })
            }
        }
    }

    /// Its name as stored, which is what entries are ordered by: a directory's ends in a slash.
    #[must_use]
    pub fn stored_name(&self) -> Vec<u8> {
        let mut name = self.path.clone();
        if self.kind == Kind::Directory {
            name.push(b'/');
        }
        name
    }

    /// How many directories it lies in.
    #[must_use]
    pub fn depth(&self) -> usize {
        depth_of(&self.path)
    }

    /// Bytes that follow the header, without padding.
    #[must_use]
    pub fn body_bytes(&self) -> u64 {
        match &self.kind {
            Kind::File { bytes } => *bytes,
            Kind::Directory | Kind::Symlink { .. } | Kind::HardLink { .. } => 0,
        }
    }

    /// The header's bytes: one block, and more before it for attributes, a long name or a long target.
    #[must_use]
    pub fn header(&self) -> Vec<u8> {
        let name = self.stored_name();
        let (entry_type, target) = match &self.kind {
            Kind::Directory => (EntryType::Directory, &[][..]),
            Kind::File { .. } => (EntryType::Regular, &[][..]),
            Kind::Symlink { target } => (EntryType::Symlink, &target[..]),
            Kind::HardLink { target } => (EntryType::Link, &target[..]),
        };
        let mut bytes = Vec::with_capacity(BLOCK);
        if !self.attributes.is_empty() {
            push(&mut bytes, EntryType::XHeader, PAX_NAME, &self.attributes.records());
        }
        if name.len() > NAME_FIELD {
            push_long(&mut bytes, EntryType::GNULongName, &name);
        }
        if target.len() > NAME_FIELD {
            push_long(&mut bytes, EntryType::GNULongLink, target);
        }
        let mut header = blank(entry_type, &name, self.body_bytes());
        let gnu = header.as_gnu_mut().expect("made as a GNU header");
        let shown = target.len().min(NAME_FIELD);
        gnu.linkname[..shown].copy_from_slice(&target[..shown]);
        header.set_mode(self.mode);
        header.set_uid(u64::from(self.uid));
        header.set_gid(u64::from(self.gid));
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes
    }

    /// An entry from its last header block and what came before it. `None` if a field is no number, the type
    /// none of ours, or a mode or owner one that we never write; everything else is for [`Entry::check`] and for
    /// the comparison with [`Entry::header`].
    pub(super) fn parse(header: &Header, before: Before) -> Option<Self> {
        let name = before.name.unwrap_or_else(|| field(&header.as_old().name));
        let target = before.target.unwrap_or_else(|| field(&header.as_old().linkname));
        let attributes = before.attributes.unwrap_or_default();
        let (path, kind) = match header.entry_type() {
            EntryType::Directory => (name.strip_suffix(b"/")?.to_vec(), Kind::Directory),
            EntryType::Regular => (name, Kind::File { bytes: header.size().ok()? }),
            EntryType::Symlink => (name, Kind::Symlink { target }),
            EntryType::Link => (name, Kind::HardLink { target }),
            // The format knows many more, and tar's own enum is open: none of them is ever ours.
            _ => return None,
        };
        let id = |number: std::io::Result<u64>| u32::try_from(number.ok()?).ok();
        let (mode, uid, gid) = (header.mode().ok()?, id(header.uid())?, id(header.gid())?);
        let entry = Self { path, kind, mode, uid, gid, attributes };
        let plain = match &entry.kind {
            Kind::Directory | Kind::File { .. } => entry.mode <= MODE_BITS,
            Kind::Symlink { .. } => entry.mode == SYMLINK_MODE,
            Kind::HardLink { .. } => (entry.mode, entry.uid, entry.gid) == (0, 0, 0),
        };
        plain.then_some(entry)
    }
}

/// What headers of their own said of an entry before its own header.
#[derive(Debug, Clone, Default)]
pub(super) struct Before {
    pub(super) name: Option<Vec<u8>>,
    pub(super) target: Option<Vec<u8>>,
    pub(super) attributes: Option<Attributes>,
}

/// What an entry that is none of ours says it is, for the message.
pub(super) fn foreign_kind(header: &Header) -> &'static str {
    match header.entry_type() {
        EntryType::Char => "a character device",
        EntryType::Block => "a block device",
        EntryType::Fifo => "a named pipe",
        EntryType::GNUSparse => "a sparse file",
        EntryType::Continuous => "a contiguous file",
        // As above: an open enum, and all the rest is one to us.
        _ => "of an unknown kind",
    }
}

/// A name from a fixed field: up to the first zero byte, or all of it.
pub(super) fn field(bytes: &[u8]) -> Vec<u8> {
    bytes.split(|byte| *byte == 0).next().unwrap_or(&[]).to_vec()
}

/// Bytes of padding after a body.
pub(super) fn padding_after(bytes: u64) -> usize {
    let block = BLOCK as u64;
    usize::try_from((block - bytes % block) % block).expect("less than a block")
}

/// Bytes as a path, for messages and calls.
pub(super) fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

fn depth_of(path: &[u8]) -> usize {
    path.iter().filter(|byte| **byte == b'/').count()
}

fn check_path(path: &[u8]) -> Result<(), Refusal> {
    let problem = if path.is_empty() {
        PathProblem::Empty
    } else if path.len() > ARCHIVE_PATH_BYTES_MAX {
        PathProblem::TooLong
    } else if path.contains(&0) {
        PathProblem::Zero
    } else if path.starts_with(b"/") {
        PathProblem::Absolute
    } else if path.split(|byte| *byte == b'/').any(|part| matches!(part, b"" | b"." | b"..")) {
        PathProblem::Component
    } else if depth_of(path) > ARCHIVE_DEPTH_MAX {
        PathProblem::TooDeep
    } else {
        return Ok(());
    };
    Err(Refusal::Path { path: path_of(path), problem })
}

/// Whether following a link can never leave the tree. `..` is taken only at the front, where it steps out of
/// real directories: after a name, it would step out of wherever that name leads, if it is a link itself,
/// and two links that each look harmless could leave together. Every other component steps inwards, through
/// links that were held to the same rule.
fn symlink_stays(path: &[u8], target: &[u8]) -> bool {
    if target.is_empty() || target.len() > ARCHIVE_PATH_BYTES_MAX || target.contains(&0) {
        return false;
    }
    if target.starts_with(b"/") {
        return false;
    }
    let parts = || target.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    let ups = parts().take_while(|part| *part == b"..").count();
    ups <= depth_of(path) && parts().skip(ups).all(|part| part != b"..")
}

fn blank(entry_type: EntryType, name: &[u8], bytes: u64) -> Header {
    let mut header = Header::new_gnu();
    let shown = name.len().min(NAME_FIELD);
    header.as_gnu_mut().expect("made as a GNU header").name[..shown].copy_from_slice(&name[..shown]);
    header.set_entry_type(entry_type);
    header.set_size(bytes);
    header.set_mtime(0);
    header.set_mode(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn push_long(bytes: &mut Vec<u8>, entry_type: EntryType, text: &[u8]) {
    push(bytes, entry_type, LONG_NAME, &[text, &[0]].concat());
}

/// A header with a body that belongs to the entry after it.
fn push(bytes: &mut Vec<u8>, entry_type: EntryType, name: &[u8], body: &[u8]) {
    let length = body.len() as u64;
    let mut header = blank(entry_type, name, length);
    header.set_cksum();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(body);
    bytes.extend(std::iter::repeat_n(0, padding_after(length)));
}
