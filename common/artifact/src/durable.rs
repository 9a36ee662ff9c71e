//! Files and names that survive a power cut, for packs and what comes out of them.
//!
//! Owns the order of writing, syncing and renaming. Main invariant: once a function here returns, what it did is on
//! disk; before that, what was there is untouched. Opens nothing but regular files, and follows no link to one.

use std::fs::{File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Replaces a file in one step by what `write` puts into it.
pub(crate) fn replace(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let parent = parent_of(path);
    let mut temporary = tempfile::NamedTempFile::new_in(parent)?;
    write(temporary.as_file_mut())?;
    temporary.as_file().set_permissions(Permissions::from_mode(mode))?;
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|error| error.error)?;
    sync_directory(parent)
}

/// Where the first byte at or after `from` lies that was ever written; past all ends if there is none. On a file
/// system that cannot tell, `from` itself.
pub(crate) fn next_data(file: &File, from: u64) -> u64 {
    let Ok(offset) = i64::try_from(from) else { return from };
    match nix::unistd::lseek(file, offset, nix::unistd::Whence::SeekData) {
        Ok(found) => u64::try_from(found).unwrap_or(from),
        Err(nix::errno::Errno::ENXIO) => u64::MAX,
        Err(_) => from,
    }
}

/// Renames, durably. Both names are in one directory.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)?;
    sync_directory(parent_of(to))
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Opens an existing regular file. A pipe or a link in its place (the directory may belong to a less trusted
/// process) is refused without blocking.
pub(crate) fn open_regular(path: &Path, write: bool) -> io::Result<File> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = File::options().read(true).write(write).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(file)
}

/// The beginning of a regular file, at most `most` bytes.
pub(crate) fn read_beginning(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path, false)?.take(most as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The directory that a path is in.
pub(crate) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
