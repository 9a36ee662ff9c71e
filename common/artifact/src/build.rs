//! Making an artifact of a directory or a file.
//!
//! Owns the way in: archive, cut, compress, manifest, pack. Main invariant: the same content gives the same id
//! on any machine, with any number of cores; and an artifact is there whole and durable or not at all, so that
//! building again after a crash, or twice, does no harm. Memory: a few chunks a core, whatever the size.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use lunar_common::bounds::{ARTIFACT_BYTES_MAX, CHUNKS_MAX};
use lunar_common::ids::ArtifactId;
use lunar_common::manifest::{Chunk, Content, Manifest, ManifestError};
use nix::fcntl::{Flock, FlockArg};
use tempfile::NamedTempFile;

use crate::archive::{self, ArchiveError, NotKept};
use crate::chunker::Chunker;
use crate::directory::PackDirectory;
use crate::durable;
use crate::frame::Framed;
use crate::pack::PackError;
use crate::pipeline::{self, Broken};

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The artifact's id.
    pub id: ArtifactId,
    /// Its manifest.
    pub manifest: Manifest,
    /// Bytes of its content: of the archive, or of the file.
    pub bytes: u64,
    /// Bytes of its frames: what a whole transfer carries.
    pub frame_bytes: u64,
    /// Its chunks.
    pub chunks: usize,
    /// Extended attributes of the source that are not in it.
    pub not_kept: NotKept,
}

/// How far a build is: bytes of content done, and in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read, cut and handed to the compressors.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// Why no artifact was made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The directory cannot be archived.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The source is not there or cannot be read.
    #[error("cannot read {path}")]
    Source {
        /// The directory or file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Neither a directory nor a regular file.
    #[error("{path} is neither a directory nor a regular file")]
    Kind {
        /// What was given.
        path: PathBuf,
    },
    /// The file changed while it was read.
    #[error("{path} changed while it was read: stop what writes there, and try again")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// More than an artifact may have.
    #[error("{path} makes {bytes} bytes, and an artifact has at most {ARTIFACT_BYTES_MAX}: split it")]
    TooLong {
        /// The directory or file.
        path: PathBuf,
        /// Bytes of its content.
        bytes: u64,
    },
    /// More chunks than a manifest may have.
    #[error("the content makes more than {CHUNKS_MAX} chunks: split it")]
    TooManyChunks,
    /// A compressor failed.
    #[error("cannot compress")]
    Compress(#[source] io::Error),
    /// The manifest breaks one of its own rules.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The pack cannot be kept.
    #[error(transparent)]
    Pack(#[from] PackError),
}

/// Makes an artifact and keeps it, manifest and complete pack, in a directory of packs. One that is there
/// already is made anew, which repairs it if it was damaged.
///
/// # Errors
/// [`BuildError`]; the directory holds no part of the artifact then.
pub fn build(
    source: &Path,
    packs: &PackDirectory,
    progress: impl FnMut(Progress),
) -> Result<Built, BuildError> {
    clear_stale(packs.path());
    let failed = |what, source| PackError::Io { what, path: packs.path().to_owned(), source };
    let temporary = tempfile::Builder::new()
        .prefix(TEMPORARY_PREFIX)
        .tempfile_in(packs.path())
        .map_err(|e| failed("make a pack in", e))?;
    // Held until the process ends or the pack has its name: says that the file is being written.
    let lock = temporary.reopen().map_err(|e| failed("make a pack in", e))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, errno)| failed("lock a pack in", errno.into()))?;

    let mut out = io::BufWriter::new(temporary.as_file());
    let built = make(source, progress, |framed| {
        out.write_all(&framed.frame).map_err(|e| failed("write a pack in", e).into())
    })?;
    out.flush().map_err(|e| failed("write a pack in", e))?;
    drop(out);
    keep(&built, temporary, packs)?;
    Ok(built)
}

/// Tells what [`build`] would make, and keeps nothing.
///
/// # Errors
/// [`BuildError`].
pub fn measure(source: &Path, progress: impl FnMut(Progress)) -> Result<Built, BuildError> {
    make(source, progress, |_| Ok(()))
}

fn make(
    source: &Path,
    mut progress: impl FnMut(Progress),
    mut keep_frame: impl FnMut(&Framed) -> Result<(), BuildError> + Send,
) -> Result<Built, BuildError> {
    let (content, total, not_kept) = look(source)?;
    if total > ARTIFACT_BYTES_MAX {
        return Err(BuildError::TooLong { path: source.to_owned(), bytes: total });
    }
    let mut chunks: Vec<Chunk> = Vec::new();
    let mut bytes = 0;
    let outcome = pipeline::frames(
        |emit| {
            let mut chunker = Chunker::new(|content: &[u8]| {
                emit(content)?;
                bytes += content.len() as u64;
                progress(Progress { done: bytes, total });
                Ok(())
            });
            match content {
                Content::Tree => archive::write_archive(source, &mut chunker)?,
                Content::File => copy_file(source, total, &mut chunker)?,
            }
            chunker.finish().map_err(|e| BuildError::from(ArchiveError::Stream(e)))
        },
        |framed| {
            if chunks.len() == CHUNKS_MAX {
                return Err(BuildError::TooManyChunks);
            }
            chunks.push(framed.chunk);
            keep_frame(&framed)
        },
    );
    match outcome {
        Ok(()) => {}
        Err(Broken::Source(error) | Broken::Sink(error)) => return Err(error),
        Err(Broken::Compress(error)) => return Err(BuildError::Compress(error)),
    }
    let manifest = Manifest { content, bytes, chunks };
    Ok(Built {
        id: Manifest::id_of(&manifest.encode()?),
        bytes,
        frame_bytes: manifest.frame_bytes(),
        chunks: manifest.chunks.len(),
        manifest,
        not_kept,
    })
}

/// What the source is, how many bytes of content it makes, and what of it is left out. Refuses early what would be refused late.
fn look(source: &Path) -> Result<(Content, u64, NotKept), BuildError> {
    let unreadable = |error| BuildError::Source { path: source.to_owned(), source: error };
    let metadata = std::fs::metadata(source).map_err(unreadable)?;
    if metadata.is_dir() {
        let survey = archive::survey(source)?;
        Ok((Content::Tree, survey.bytes, survey.not_kept))
    } else if metadata.is_file() {
        Ok((Content::File, metadata.len(), NotKept::default()))
    } else {
        Err(BuildError::Kind { path: source.to_owned() })
    }
}

fn copy_file(source: &Path, total: u64, out: &mut impl Write) -> Result<(), BuildError> {
    let unreadable = |error| BuildError::Source { path: source.to_owned(), source: error };
    let mut file = File::open(source).map_err(unreadable)?;
    let written = |file: &File| file.metadata().and_then(|metadata| metadata.modified());
    let before = written(&file).map_err(unreadable)?;
    let mut buffer = vec![0; READ_BYTES];
    let mut copied = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                copied += read as u64;
                out.write_all(&buffer[..read]).map_err(ArchiveError::Stream)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error)),
        }
    }
    if copied != total || written(&file).map_err(unreadable)? != before {
        return Err(BuildError::Changed { path: source.to_owned() });
    }
    Ok(())
}

/// The pack's bytes first, then the manifest, then the pack's name: whatever a crash leaves is a build that
/// can be made again, never a pack that lacks something.
fn keep(built: &Built, temporary: NamedTempFile, packs: &PackDirectory) -> Result<(), PackError> {
    let paths = packs.paths(built.id);
    let failed = |what, source| PackError::Io { what, path: paths.complete.clone(), source };
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    temporary.as_file().set_permissions(readable).map_err(|e| failed("set the mode of", e))?;
    temporary.as_file().sync_all().map_err(|e| failed("sync", e))?;
    packs.keep_manifest(&built.manifest)?;
    temporary.persist(&paths.complete).map_err(|e| failed("put in place", e.error))?;
    match std::fs::remove_file(&paths.partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("clear", error)),
        Ok(()) | Err(_) => {}
    }
    durable::sync_directory(packs.path()).map_err(|e| failed("sync the directory of", e))
}

/// Removes what builds that were killed left behind: files of that name that nobody has locked.
fn clear_stale(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX) {
            continue;
        }
        let Ok(file) = File::open(entry.path()) else { continue };
        if Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok() {
            // It is only room that is lost if it cannot be removed; the build itself will tell of that.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// How the files of unfinished builds are named.
const TEMPORARY_PREFIX: &str = ".build-";
/// Bytes read at once.
const READ_BYTES: usize = 256 * 1024;
