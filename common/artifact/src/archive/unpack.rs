//! Unpacking an archive into a new directory.
//!
//! Owns [`unpack`]. Main invariant: the destination appears whole, durable and at once, or not at all: the
//! tree is built beside it under another name, synced, and renamed. Every step is relative to a directory that
//! was made here and is held open, and follows no link. Refuses a destination that is there.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, fchown, fchownat, fsync, linkat, symlinkat, syncfs};

use super::attributes::Attributes;
use super::entry::{Entry, Kind, Refusal, path_of};
use super::{ArchiveError, ArchiveReader, remove_tree};
use crate::durable;

/// What was unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries.
    pub entries: usize,
    /// Bytes of files.
    pub bytes: u64,
    /// Whether everything belongs to whom it belonged when it was packed. Only root can give files away.
    pub ownership_kept: bool,
    /// Whether every file has the capabilities that it had when it was packed. Only root can give them.
    pub capabilities_kept: bool,
}

/// Unpacks an archive into a directory that is not there yet. Once this returns, the tree survives a power
/// cut; after an error or a crash there is no destination, and the next call clears what was left beside it.
///
/// # Errors
/// [`ArchiveError`]; a [`ArchiveError::Stream`] carries the source's own error.
pub fn unpack(source: impl Read, destination: &Path) -> Result<Unpacked, ArchiveError> {
    let at = |what, path: &Path| {
        let path = path.to_owned();
        move |source| ArchiveError::Tree { what, path, source }
    };
    let unnamed = || at("unpack into", destination)(io::ErrorKind::InvalidInput.into());
    let name = destination.file_name().ok_or_else(unnamed)?;
    let parent = durable::parent_of(destination);
    if destination.symlink_metadata().is_ok() {
        return Err(at("unpack into", destination)(io::ErrorKind::AlreadyExists.into()));
    }
    let mut staging = OsStr::new(".").to_owned();
    staging.push(name);
    staging.push(".unpacking");
    let staging = parent.join(staging);
    remove_tree(&staging).map_err(at("clear what a crash left of", &staging))?;

    let unpacked = build(source, &staging, destination).and_then(|unpacked| {
        durable::rename(&staging, destination).map_err(at("put in place", destination))?;
        Ok(unpacked)
    });
    if unpacked.is_err() {
        // The error at hand says more than one of clearing up; the next call clears up as well.
        let _ = remove_tree(&staging);
    }
    unpacked
}

/// A directory that is being filled.
struct Level {
    fd: OwnedFd,
    entry: Entry,
}

struct Unpacker<'a> {
    /// The directories on the way to the current entry; the first is the top.
    levels: Vec<Level>,
    /// What the person who reads an error is told instead of the staging directory.
    shown: &'a Path,
    root: bool,
    unpacked: Unpacked,
}

fn build(source: impl Read, staging: &Path, shown: &Path) -> Result<Unpacked, ArchiveError> {
    let failed = |errno: Errno| ArchiveError::Tree {
        what: "make the directory",
        path: shown.to_owned(),
        source: errno.into(),
    };
    nix::unistd::mkdir(staging, Mode::S_IRWXU).map_err(failed)?;
    let fd = nix::fcntl::open(staging, DIRECTORY, Mode::empty()).map_err(failed)?;
    // A parent's setgid bit is inherited by what is made in it; a tree is as it was packed.
    fchmod(&fd, Mode::S_IRWXU).map_err(failed)?;
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let top = Entry {
        path: Vec::new(),
        kind: Kind::Directory,
        mode: 0o755,
        uid,
        gid,
        attributes: Attributes::default(),
    };
    let mut unpacker = Unpacker {
        levels: vec![Level { fd, entry: top }],
        shown,
        root: nix::unistd::geteuid().is_root(),
        unpacked: Unpacked { ownership_kept: true, capabilities_kept: true, ..Unpacked::default() },
    };
    let mut reader = ArchiveReader::new(source);
    while let Some(entry) = reader.next_entry()? {
        unpacker.leave(entry.depth() + 1)?;
        unpacker.enter(entry, &mut reader)?;
    }
    unpacker.leave(1)?;
    let top = unpacker.levels.pop().expect("the top is left last");
    unpacker.settle(&top.fd, &top.entry)?;
    if unpacker.unpacked.entries > SINGLE_SYNCS_MAX {
        syncfs(&top.fd).map_err(|errno| ArchiveError::Tree {
            what: "sync the disk of",
            path: shown.to_owned(),
            source: errno.into(),
        })?;
    }
    Ok(unpacker.unpacked)
}

impl Unpacker<'_> {
    fn enter<R: Read>(&mut self, entry: Entry, reader: &mut ArchiveReader<R>) -> Result<(), ArchiveError> {
        let base = entry.path.rsplit(|byte| *byte == b'/').next().unwrap_or(&entry.path);
        let name = CString::new(base).expect("a checked path has no zero byte");
        let parent = &self.levels.last().expect("the top is left last").fd;
        self.unpacked.entries += 1;
        match &entry.kind {
            Kind::Directory => {
                mkdirat(parent, name.as_c_str(), Mode::S_IRWXU)
                    .map_err(|e| self.failed("make the directory", &entry, e))?;
                let fd = openat(parent, name.as_c_str(), DIRECTORY, Mode::empty())
                    .map_err(|e| self.failed("open", &entry, e))?;
                self.levels.push(Level { fd, entry });
            }
            Kind::File { bytes } => {
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
                let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let fd = openat(parent, name.as_c_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)
                    .map_err(|e| self.failed("make", &entry, e))?;
                let mut file = File::from(fd);
                copy(&mut reader.body(), *bytes, &mut file, &self.shown_path(&entry.path))?;
                self.settle(&file, &entry)?;
                self.unpacked.bytes += bytes;
            }
            Kind::Symlink { target } => {
                symlinkat(path_of(target).as_path(), parent, name.as_c_str())
                    .map_err(|e| self.failed("make the link", &entry, e))?;
                if self.root {
                    let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
                    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
                    fchownat(parent, name.as_c_str(), Some(uid), Some(gid), flags)
                        .map_err(|e| self.failed("give away", &entry, e))?;
                }
                self.note_owner(&entry);
            }
            Kind::HardLink { target } => {
                let (directory, old) = self.first_name(&entry, target)?;
                let directory = directory.as_ref().unwrap_or(&self.levels[0].fd);
                linkat(directory, old.as_c_str(), parent, name.as_c_str(), AtFlags::empty())
                    .map_err(|e| self.failed("make the hard link", &entry, e))?;
            }
        }
        Ok(())
    }

    /// Gives the directories below this depth their owners and modes: from now on nothing is made in them.
    fn leave(&mut self, depth: usize) -> Result<(), ArchiveError> {
        while self.levels.len() > depth {
            let level = self.levels.pop().expect("longer than the depth");
            self.settle(&level.fd, &level.entry)?;
        }
        Ok(())
    }

    /// Gives a file or directory that is finished its owner, attributes and mode, and makes it durable. Owner
    /// first: changing it clears setuid, setgid and capabilities. Mode last: it may forbid what is before it.
    fn settle(&mut self, fd: impl AsFd, entry: &Entry) -> Result<(), ArchiveError> {
        if self.root {
            fchown(&fd, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
                .map_err(|e| self.failed("give away", entry, e))?;
        }
        self.note_owner(entry);
        let given = entry.attributes.write(&fd, self.root).map_err(|errno| ArchiveError::Tree {
            what: "set the extended attributes of",
            path: self.shown_path(&entry.path),
            source: errno.into(),
        })?;
        self.unpacked.capabilities_kept &= given;
        fchmod(&fd, Mode::from_bits_truncate(entry.mode))
            .map_err(|e| self.failed("set the mode of", entry, e))?;
        // The kernel drops setgid without a word when the process is not in the group.
        if entry.mode & 0o7000 != 0 {
            let stat = fstat(&fd).map_err(|e| self.failed("look at", entry, e))?;
            if stat.st_mode & 0o7777 != entry.mode {
                return Err(ArchiveError::ModeNotKept {
                    path: self.shown_path(&entry.path),
                    mode: entry.mode,
                });
            }
        }
        if self.unpacked.entries <= SINGLE_SYNCS_MAX {
            fsync(&fd).map_err(|e| self.failed("sync", entry, e))?;
        }
        Ok(())
    }

    fn note_owner(&mut self, entry: &Entry) {
        let own = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        self.unpacked.ownership_kept &= self.root || own == (entry.uid, entry.gid);
    }

    /// The directory (`None`: the top) and name of the file that a hard link names, reached through real
    /// directories only.
    fn first_name(&self, entry: &Entry, target: &[u8]) -> Result<(Option<OwnedFd>, CString), ArchiveError> {
        let refused = || Refusal::HardLink { path: path_of(&entry.path), target: path_of(target) };
        let mut parts: Vec<CString> = target
            .split(|byte| *byte == b'/')
            .map(|part| CString::new(part).expect("a checked path has no zero byte"))
            .collect();
        let name = parts.pop().expect("splitting gives at least one part");
        let mut directory: Option<OwnedFd> = None;
        for part in parts {
            let from = directory.as_ref().unwrap_or(&self.levels[0].fd);
            directory = Some(match openat(from, part.as_c_str(), PASSAGE, Mode::empty()) {
                Ok(fd) => fd,
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Err(refused().into()),
                Err(errno) => return Err(self.failed("reach the file named by", entry, errno)),
            });
        }
        let from = directory.as_ref().unwrap_or(&self.levels[0].fd);
        match fstatat(from, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits() => Ok((directory, name)),
            Ok(_) | Err(Errno::ENOENT) => Err(refused().into()),
            Err(errno) => Err(self.failed("look at the file named by", entry, errno)),
        }
    }

    fn shown_path(&self, path: &[u8]) -> PathBuf {
        self.shown.join(path_of(path))
    }

    fn failed(&self, what: &'static str, entry: &Entry, errno: Errno) -> ArchiveError {
        match errno {
            // The order refuses one name twice; a file and a directory of one name are left for here.
            Errno::EEXIST => Refusal::Order { path: path_of(&entry.path) }.into(),
            errno => ArchiveError::Tree { what, path: self.shown_path(&entry.path), source: errno.into() },
        }
    }
}

/// Copies a body, telling a source that broke off from a disk that is full.
fn copy(from: &mut impl Read, bytes: u64, to: &mut File, shown: &Path) -> Result<(), ArchiveError> {
    let mut buffer = vec![0; usize::try_from(bytes).unwrap_or(COPY_BYTES).min(COPY_BYTES)];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(ArchiveError::Stream(error)),
        };
        io::Write::write_all(to, &buffer[..read]).map_err(|source| ArchiveError::Tree {
            what: "write",
            path: shown.to_owned(),
            source,
        })?;
    }
}

const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
/// To pass through a directory that may be closed for reading already.
const PASSAGE: OFlag =
    OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
/// Bytes copied at once.
const COPY_BYTES: usize = 128 * 1024;
/// Most entries that are synced one by one. That disturbs nobody else on the disk; but 200,000 of them take
/// half an hour where seeks cost 10 ms, so a larger tree gets one barrier for its whole file system instead, which
/// also waits for what others wrote there. Since Linux 5.8 that reports write errors as fsync does.
const SINGLE_SYNCS_MAX: usize = 256;
