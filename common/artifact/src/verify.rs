//! Whether what is installed is what was published.
//!
//! Owns two answers. [`verify_tree`] and [`verify_file`] need the manifest alone: the tree is archived again and
//! every chunk hashed. [`compare_tree`] needs the pack, goes entry by entry, and says what differs; without root it
//! leaves owners and capabilities out, as unpacking did. Main invariant: "the same" is said only when every byte was compared.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use lunar_common::manifest::{Content, Manifest};

use crate::archive::{ArchiveError, ArchiveReader, Entry, Visited, walk, write_archive};
use crate::content::{self, ContentError};
use crate::pack::Pack;

/// Why an installation is not said to be what was published.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Its bytes are others than the manifest's.
    #[error("{path} is not what was published: its archive differs at byte {offset} or soon after")]
    Differs {
        /// The directory or file.
        path: PathBuf,
        /// Where the first chunk that differs begins.
        offset: u64,
    },
    /// One thing in it is not what the pack says.
    #[error("{path:?} is not what was published: {what}")]
    Entry {
        /// Which.
        path: PathBuf,
        /// What is different.
        what: &'static str,
    },
    /// The tree cannot be read, or holds what no artifact holds.
    #[error(transparent)]
    Archive(ArchiveError),
    /// The pack cannot be read.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Checks an installed directory against a tree's manifest, owners included.
///
/// # Errors
/// [`VerifyError::Differs`] if it is another tree.
pub fn verify_tree(directory: &Path, manifest: &Manifest) -> Result<(), VerifyError> {
    if manifest.content != Content::Tree {
        return Err(VerifyError::Differs { path: directory.to_owned(), offset: 0 });
    }
    let mut checker = Checker::new(manifest);
    let written = write_archive(directory, &mut checker);
    match (checker.differs, written) {
        (Some(offset), _) => Err(VerifyError::Differs { path: directory.to_owned(), offset }),
        (None, Err(error)) => Err(VerifyError::Archive(error)),
        (None, Ok(())) => checker.finish(directory),
    }
}

/// Checks an installed file against a file's manifest.
///
/// # Errors
/// [`VerifyError::Differs`] if it is another file.
pub fn verify_file(path: &Path, manifest: &Manifest) -> Result<(), VerifyError> {
    if manifest.content != Content::File {
        return Err(VerifyError::Differs { path: path.to_owned(), offset: 0 });
    }
    let mut checker = Checker::new(manifest);
    let copied = File::open(path).and_then(|mut file| io::copy(&mut file, &mut checker));
    match (checker.differs, copied) {
        (Some(offset), _) => Err(VerifyError::Differs { path: path.to_owned(), offset }),
        (None, Err(source)) => Err(VerifyError::Read { path: path.to_owned(), source }),
        (None, Ok(_)) => checker.finish(path),
    }
}

/// Checks an installed directory against a tree's pack, entry by entry. Owners and capabilities are
/// compared only by root: nobody else could have kept them.
///
/// # Errors
/// [`VerifyError::Entry`] names the first thing that differs.
pub fn compare_tree(directory: &Path, pack: &Pack) -> Result<(), VerifyError> {
    content::expect_content(pack, Content::Tree)?;
    let mut published = ArchiveReader::new(content::reader(pack)?);
    let root = nix::unistd::geteuid().is_root();
    let mut outcome = Ok(());
    let walked = walk(directory, |Visited { entry, file, .. }| {
        outcome = compare_entry(directory, &mut published, entry, file, root);
        match outcome {
            Ok(()) => Ok(()),
            // Ends the walk; what is told is the outcome.
            Err(_) => Err(ArchiveError::Stream(io::ErrorKind::Other.into())),
        }
    });
    outcome?;
    walked.map_err(VerifyError::Archive)?;
    match published.next_entry().map_err(ContentError::streamed)? {
        None => Ok(()),
        Some(missing) => Err(different(directory, &missing, "it is missing")),
    }
}

fn compare_entry<R: Read>(
    directory: &Path,
    published: &mut ArchiveReader<R>,
    found: Entry,
    file: Option<File>,
    root: bool,
) -> Result<(), VerifyError> {
    let Some(expected) = published.next_entry().map_err(ContentError::streamed)? else {
        return Err(different(directory, &found, "it should not be there"));
    };
    if expected.stored_name() < found.stored_name() {
        return Err(different(directory, &expected, "it is missing"));
    }
    if expected.stored_name() > found.stored_name() {
        return Err(different(directory, &found, "it should not be there"));
    }
    if expected.kind != found.kind {
        return Err(different(directory, &found, "its type, length or target is another"));
    }
    if expected.mode != found.mode {
        return Err(different(directory, &found, "its mode is another"));
    }
    if root && (expected.uid, expected.gid) != (found.uid, found.gid) {
        return Err(different(directory, &found, "its owner or group is another"));
    }
    let same = match root {
        true => expected.attributes == found.attributes,
        false => expected.attributes.of_users() == found.attributes.of_users(),
    };
    if !same {
        return Err(different(directory, &found, "its extended attributes are others"));
    }
    let Some(mut file) = file else { return Ok(()) };
    let mut wanted = vec![0; COMPARE_BYTES];
    let mut actual = vec![0; COMPARE_BYTES];
    let mut body = published.body();
    loop {
        let read = body.read(&mut wanted).map_err(|e| ContentError::streamed(ArchiveError::Stream(e)))?;
        if read == 0 {
            return Ok(());
        }
        match file.read_exact(&mut actual[..read]) {
            Ok(()) if actual[..read] == wanted[..read] => {}
            Ok(()) => return Err(different(directory, &found, "its bytes are others")),
            Err(source) => {
                return Err(VerifyError::Read { path: shown(directory, &found), source });
            }
        }
    }
}

fn shown(directory: &Path, entry: &Entry) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    directory.join(std::ffi::OsStr::from_bytes(&entry.path))
}

fn different(directory: &Path, entry: &Entry, what: &'static str) -> VerifyError {
    VerifyError::Entry { path: shown(directory, entry), what }
}

/// Hashes what is written to it, chunk by chunk, against a manifest. Stops taking bytes at the first chunk
/// that differs.
struct Checker<'a> {
    manifest: &'a Manifest,
    next: usize,
    hasher: blake3::Hasher,
    /// Bytes of the current chunk so far.
    hashed: u32,
    /// Where the current chunk begins.
    begin: u64,
    differs: Option<u64>,
}

impl<'a> Checker<'a> {
    fn new(manifest: &'a Manifest) -> Self {
        let hasher = blake3::Hasher::new();
        Self { manifest, next: 0, hasher, hashed: 0, begin: 0, differs: None }
    }

    fn finish(self, path: &Path) -> Result<(), VerifyError> {
        // Full chunks were compared as they came: what is left is content that ended early.
        if self.hashed == 0 && self.next == self.manifest.chunks.len() {
            return Ok(());
        }
        Err(VerifyError::Differs { path: path.to_owned(), offset: self.begin })
    }
}

impl Write for Checker<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let differs = |this: &mut Self| {
            this.differs = Some(this.begin);
            Err(io::ErrorKind::InvalidData.into())
        };
        let Some(chunk) = self.manifest.chunks.get(self.next) else { return differs(self) };
        let taken = bytes.len().min((chunk.bytes - self.hashed) as usize);
        self.hasher.update(&bytes[..taken]);
        self.hashed += u32::try_from(taken).expect("at most the chunk's length");
        if self.hashed == chunk.bytes {
            if self.hasher.finalize() != blake3::Hash::from_bytes(chunk.hash.0) {
                return differs(self);
            }
            self.hasher.reset();
            self.begin += u64::from(chunk.bytes);
            self.hashed = 0;
            self.next += 1;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes compared at once.
const COMPARE_BYTES: usize = 128 * 1024;
