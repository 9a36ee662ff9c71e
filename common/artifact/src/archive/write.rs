//! Writing the archive of a directory.
//!
//! Owns the stream: headers, bodies, padding, the end. Main invariant: what is written is the one archive of
//! the tree, or an error comes instead; a file that changes while it is read is an error. Memory: one buffer,
//! whatever the size of the tree.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use nix::sys::stat::fstat;

use super::entry::{BLOCK, Entry, padding_after, path_of};
use super::{ArchiveError, Visited, walk};

/// What an archive is going to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Entries.
    pub entries: usize,
    /// Bytes of the archive itself.
    pub bytes: u64,
    /// What the tree has and the archive will not.
    pub not_kept: NotKept,
}

/// Extended attributes that an archive does not keep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NotKept {
    /// The first of them: where, and which.
    pub first: Vec<(PathBuf, String)>,
    /// All of them.
    pub count: usize,
}

/// Looks through a directory without reading its files: refuses what [`write_archive`] would refuse, and
/// tells how long the archive will be.
///
/// # Errors
/// [`ArchiveError`].
pub fn survey(directory: &Path) -> Result<Survey, ArchiveError> {
    let mut survey = Survey { bytes: END_BYTES, ..Survey::default() };
    walk(directory, |Visited { entry, not_kept, .. }| {
        survey.entries += 1;
        for name in not_kept {
            survey.not_kept.count += 1;
            if survey.not_kept.first.len() < NOT_KEPT_NAMED_MAX {
                let name = String::from_utf8_lossy(&name).into_owned();
                survey.not_kept.first.push((path_of(&entry.path), name));
            }
        }
        let body = entry.body_bytes();
        survey.bytes += entry.header().len() as u64 + body + padding_after(body) as u64;
        Ok(())
    })?;
    Ok(survey)
}

/// Writes the canonical archive of what is inside a directory.
///
/// # Errors
/// [`ArchiveError`]; what was written until then is no archive.
pub fn write_archive(directory: &Path, out: &mut impl Write) -> Result<(), ArchiveError> {
    let mut buffer = vec![0; COPY_BYTES];
    walk(directory, |Visited { entry, file, .. }| {
        out.write_all(&entry.header()).map_err(ArchiveError::Stream)?;
        if let Some(file) = file {
            copy_file(file, &entry, &directory.join(path_of(&entry.path)), out, &mut buffer)?;
        }
        Ok(())
    })?;
    out.write_all(&[0; 2 * BLOCK]).map_err(ArchiveError::Stream)
}

fn copy_file(
    mut file: File,
    entry: &Entry,
    shown: &Path,
    out: &mut impl Write,
    buffer: &mut [u8],
) -> Result<(), ArchiveError> {
    let changed = || ArchiveError::Changed { path: shown.to_owned() };
    let failed = |source| ArchiveError::Tree { what: "read", path: PathBuf::from(shown), source };
    let look = |file: &File| fstat(file).map_err(|errno| failed(io::Error::from(errno)));
    let before = look(&file)?;
    let mut left = entry.body_bytes();
    loop {
        let read = match file.read(buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        if read == 0 {
            break;
        }
        left = left.checked_sub(read as u64).ok_or_else(changed)?;
        out.write_all(&buffer[..read]).map_err(ArchiveError::Stream)?;
    }
    let after = look(&file)?;
    let written = |stat: &nix::sys::stat::FileStat| (stat.st_mtime, stat.st_mtime_nsec);
    if left > 0 || written(&before) != written(&after) {
        return Err(changed());
    }
    out.write_all(&[0; BLOCK][..padding_after(entry.body_bytes())]).map_err(ArchiveError::Stream)
}

/// Bytes of the end marker: two blocks of zeros, and nothing after them.
const END_BYTES: u64 = 2 * BLOCK as u64;
/// Attributes that are not kept and are named one by one: where every file has one (a security label), more
/// would say no more.
const NOT_KEPT_NAMED_MAX: usize = 20;
/// Bytes read at once: long enough that system calls do not matter, short enough to stay in the cache.
const COPY_BYTES: usize = 256 * 1024;
