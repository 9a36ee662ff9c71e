//! Walking a directory in the archive's order.
//!
//! Owns [`walk`]. Main invariant: every step is relative to a directory that is held open and follows no link,
//! so that a tree that is changed meanwhile can make the walk fail, but never lead it out of the directory.
//! Memory: the names of the directories on the way, and one number a file with several names.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use lunar_common::bounds::ARCHIVE_ENTRIES_MAX;
use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};

use super::ArchiveError;
use super::attributes::{Attributes, names_on_link};
use super::entry::{Entry, Kind, MODE_BITS, Refusal, SYMLINK_MODE, path_of};

/// What the walk comes to.
#[derive(Debug)]
pub struct Visited {
    /// The entry, checked.
    pub entry: Entry,
    /// A regular file, open at its beginning.
    pub file: Option<File>,
    /// The names of its extended attributes that are not kept.
    pub not_kept: Vec<Vec<u8>>,
}

type Visit<'a> = &'a mut dyn FnMut(Visited) -> Result<(), ArchiveError>;

/// Visits everything inside a directory, in the order of the archive.
///
/// # Errors
/// [`ArchiveError::Refused`] for what an archive never has, [`ArchiveError::Tree`],
/// [`ArchiveError::Changed`], and whatever `visit` returns.
pub fn walk(
    directory: &Path,
    mut visit: impl FnMut(Visited) -> Result<(), ArchiveError>,
) -> Result<(), ArchiveError> {
    // The directory itself may be given by a link; nothing inside it may.
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let top = Dir::open(directory, flags, Mode::empty())
        .map_err(|errno| tree("open the directory", directory.to_owned(), errno))?;
    let mut walker = Walker { top: directory, linked: BTreeMap::new(), entries: 0, visit: &mut visit };
    walker.directory(top, &[])
}

struct Walker<'a> {
    top: &'a Path,
    /// The first path of each file that has several, by its device and inode.
    linked: BTreeMap<(u64, u64), Vec<u8>>,
    entries: usize,
    visit: Visit<'a>,
}

impl Walker<'_> {
    fn directory(&mut self, mut directory: Dir, path: &[u8]) -> Result<(), ArchiveError> {
        for (_, name) in self.names(&mut directory, path)? {
            let mut entry_path = path.to_vec();
            if !path.is_empty() {
                entry_path.push(b'/');
            }
            entry_path.extend_from_slice(name.as_bytes());
            self.entries += 1;
            if self.entries > ARCHIVE_ENTRIES_MAX {
                return Err(Refusal::TooMany.into());
            }
            self.entry(&directory, &name, entry_path)?;
        }
        Ok(())
    }

    /// The names in a directory, by the names they are stored under.
    fn names(&self, directory: &mut Dir, path: &[u8]) -> Result<Vec<(Vec<u8>, CString)>, ArchiveError> {
        let failed = |errno| tree("list", self.shown(path), errno);
        let mut found = Vec::new();
        for entry in directory.iter() {
            let entry = entry.map_err(failed)?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                found.push((entry.file_name().to_owned(), entry.file_type()));
            }
        }
        let mut names = Vec::with_capacity(found.len());
        for (name, kind) in found {
            let is_directory = match kind {
                Some(kind) => kind == Type::Directory,
                // Some file systems do not tell in the listing.
                None => kind_of(&look(&*directory, &name).map_err(failed)?) == SFlag::S_IFDIR,
            };
            let mut stored = name.as_bytes().to_vec();
            if is_directory {
                stored.push(b'/');
            }
            names.push((stored, name));
        }
        names.sort_unstable();
        Ok(names)
    }

    fn entry(&mut self, parent: &Dir, name: &CString, path: Vec<u8>) -> Result<(), ArchiveError> {
        let shown = self.shown(&path);
        let stat = match look(parent, name) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return Err(ArchiveError::Changed { path: shown }),
            Err(errno) => return Err(tree("look at", shown, errno)),
        };
        let kind = kind_of(&stat);
        if kind == SFlag::S_IFDIR {
            let mut entry = of(&stat, path, Kind::Directory);
            // Before anything is opened: a name may be refused because it cannot be.
            entry.check()?;
            let child = self.open(parent, name, &stat, &shown, OFlag::O_DIRECTORY)?;
            let not_kept = attributes_of(&child, &mut entry, &shown)?;
            let child = Dir::from_fd(child.into()).map_err(|errno| tree("list", shown, errno))?;
            let path = entry.path.clone();
            (self.visit)(Visited { entry, file: None, not_kept })?;
            self.directory(child, &path)
        } else if kind == SFlag::S_IFREG {
            self.file(parent, name, &stat, path, &shown)
        } else if kind == SFlag::S_IFLNK {
            let target = readlinkat(parent, name.as_c_str()).map_err(|e| tree("read the link", shown, e))?;
            let entry =
                Entry { mode: SYMLINK_MODE, ..of(&stat, path, Kind::Symlink { target: target.into_vec() }) };
            entry.check()?;
            // The one way to a link's attributes that follows no other link.
            let held = parent.as_fd().as_raw_fd();
            let link = Path::new("/proc/self/fd").join(held.to_string()).join(path_of(name.as_bytes()));
            let not_kept = names_on_link(&link);
            (self.visit)(Visited { entry, file: None, not_kept })
        } else {
            Err(Refusal::Kind { path: path_of(&path), kind: name_of(kind) }.into())
        }
    }

    fn file(
        &mut self,
        parent: &Dir,
        name: &CString,
        stat: &FileStat,
        path: Vec<u8>,
        shown: &Path,
    ) -> Result<(), ArchiveError> {
        if stat.st_nlink > 1 {
            let first = self.linked.entry((stat.st_dev, stat.st_ino)).or_insert_with(|| path.clone());
            if *first != path {
                let kind = Kind::HardLink { target: first.clone() };
                let entry = Entry { path, kind, mode: 0, uid: 0, gid: 0, attributes: Attributes::default() };
                entry.check()?;
                return (self.visit)(Visited { entry, file: None, not_kept: Vec::new() });
            }
        }
        // Without blocking, in case a pipe takes the file's place before it is opened.
        let file = self.open(parent, name, stat, shown, OFlag::O_NONBLOCK | OFlag::O_NOCTTY)?;
        let stat = fstat(&file).map_err(|errno| tree("look at", shown.to_owned(), errno))?;
        let bytes = u64::try_from(stat.st_size).unwrap_or(0);
        let mut entry = of(&stat, path, Kind::File { bytes });
        let not_kept = attributes_of(&file, &mut entry, shown)?;
        (self.visit)(Visited { entry, file: Some(file), not_kept })
    }

    /// Opens what was just looked at; anything else in its place is a tree that changes.
    fn open(
        &self,
        parent: &Dir,
        name: &CString,
        stat: &FileStat,
        shown: &Path,
        flags: OFlag,
    ) -> Result<File, ArchiveError> {
        let flags = flags | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let changed = || ArchiveError::Changed { path: shown.to_owned() };
        let file = match openat(parent, name.as_c_str(), flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR) => return Err(changed()),
            Err(errno) => return Err(tree("open", shown.to_owned(), errno)),
        };
        let opened = fstat(&file).map_err(|errno| tree("look at", shown.to_owned(), errno))?;
        if (opened.st_dev, opened.st_ino) != (stat.st_dev, stat.st_ino) {
            return Err(changed());
        }
        Ok(file)
    }

    fn shown(&self, path: &[u8]) -> PathBuf {
        self.top.join(path_of(path))
    }
}

fn look(parent: impl AsFd, name: &CString) -> nix::Result<FileStat> {
    fstatat(parent, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
}

/// Adds what is kept of an open file's or directory's attributes, and checks the entry; the names of the rest.
fn attributes_of(file: &File, entry: &mut Entry, shown: &Path) -> Result<Vec<Vec<u8>>, ArchiveError> {
    let found = Attributes::read(file, &entry.kind).map_err(|errno| ArchiveError::Tree {
        what: "read the extended attributes of",
        path: shown.to_owned(),
        source: errno.into(),
    })?;
    entry.attributes = found.kept;
    entry.check()?;
    Ok(found.not_kept)
}

fn kind_of(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

fn of(stat: &FileStat, path: Vec<u8>, kind: Kind) -> Entry {
    Entry {
        path,
        kind,
        mode: stat.st_mode & MODE_BITS,
        uid: stat.st_uid,
        gid: stat.st_gid,
        attributes: Attributes::default(),
    }
}

fn name_of(kind: SFlag) -> &'static str {
    if kind == SFlag::S_IFIFO {
        "a named pipe"
    } else if kind == SFlag::S_IFSOCK {
        "a socket"
    } else if kind == SFlag::S_IFCHR {
        "a character device"
    } else if kind == SFlag::S_IFBLK {
        "a block device"
    } else {
        "of an unknown kind"
    }
}

fn tree(what: &'static str, path: PathBuf, errno: Errno) -> ArchiveError {
    ArchiveError::Tree { what, path, source: io::Error::from(errno) }
}
