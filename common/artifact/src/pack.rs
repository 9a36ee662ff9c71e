//! One artifact's frames in one file.
//!
//! Owns [`Pack`]: frames back to back, in the manifest's order, in `ID.part` while some are missing and in
//! `ID.pack` once all are there and on disk. Main invariant: a frame is said to be had only after its bytes
//! were hashed, on writing or on opening, and what is read is hashed again before it is handed out. What a
//! partial pack holds is found by hashing it, never believed from a list: so a crash at any instant costs
//! at most the frames that had not reached the file. Refuses to decompress; [`crate::content`] does.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lunar_common::have_set::HaveSet;
use lunar_common::ids::{ArtifactId, FrameHash};
use lunar_common::manifest::{Chunk, Manifest, ManifestError};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use crate::durable;
use crate::frame::{self, FrameError};

/// One artifact's frames. Shared by reference: reading and writing from several threads is fine.
#[derive(Debug)]
pub struct Pack {
    id: ArtifactId,
    manifest: Arc<Manifest>,
    /// Where each frame begins; one more than there are frames, so that the last is the file's length.
    offsets: Vec<u64>,
    /// Frames that occur more than once, with all their places.
    twins: BTreeMap<FrameHash, Vec<u32>>,
    paths: PackPaths,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    have: HaveSet,
    complete: bool,
    file: Arc<File>,
}

/// Where a pack lies, in either state.
#[derive(Debug, Clone)]
pub(crate) struct PackPaths {
    pub(crate) complete: PathBuf,
    pub(crate) partial: PathBuf,
}

/// What was found on this machine instead of being fetched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seeded {
    /// Chunks that need not be fetched any more.
    pub chunks: u32,
    /// Frame bytes of those.
    pub frame_bytes: u64,
}

/// What could not be done with a pack.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The disk has not the room for the whole pack; nothing was begun.
    #[error("{path} needs {needed} bytes, and its disk has {free} free")]
    NoSpace {
        /// The pack.
        path: PathBuf,
        /// Bytes of the whole pack.
        needed: u64,
        /// Bytes that may still be written there.
        free: u64,
    },
    /// The operating system refused.
    #[error("cannot {what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The stored manifest is damaged; fetching it again repairs that.
    #[error("the manifest {path} is damaged: fetch it again")]
    Manifest {
        /// The manifest's file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: ManifestError,
    },
    /// A stored frame is damaged; fetching it again repairs that.
    #[error("chunk {index} in {path} is damaged: fetch it again")]
    Corrupt {
        /// Which chunk.
        index: u32,
        /// In which pack.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: FrameError,
    },
    /// Bytes offered for a frame are not that frame; whoever sent them pays.
    #[error("the bytes offered for chunk {index} were refused")]
    Refused {
        /// Which chunk.
        index: u32,
        /// What is wrong.
        #[source]
        source: FrameError,
    },
    /// The artifact has no such chunk.
    #[error("there is no chunk {index} among the artifact's {chunks}")]
    NoSuchChunk {
        /// What was asked for.
        index: u32,
        /// Chunks in all.
        chunks: u32,
    },
    /// That chunk is not here yet.
    #[error("chunk {index} is not here yet")]
    Missing {
        /// Which chunk.
        index: u32,
    },
    /// Chunks are missing, and all are needed.
    #[error("{path} lacks {missing} of {chunks} chunks")]
    Incomplete {
        /// The pack.
        path: PathBuf,
        /// Chunks that are missing.
        missing: u32,
        /// Chunks in all.
        chunks: u32,
    },
    /// No such artifact in the directory.
    #[error("there is no artifact {id} in {directory}")]
    NotThere {
        /// What was asked for.
        id: ArtifactId,
        /// Where.
        directory: PathBuf,
    },
}

impl PackError {
    /// Whether stored bytes are damaged (and fetching them again is the cure), rather than the machine's
    /// or the caller's trouble.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Manifest { .. } | Self::Corrupt { .. } => true,
            Self::NoSpace { .. }
            | Self::Io { .. }
            | Self::Refused { .. }
            | Self::NoSuchChunk { .. }
            | Self::Missing { .. }
            | Self::Incomplete { .. }
            | Self::NotThere { .. } => false,
        }
    }
}

impl Pack {
    /// A pack over an open file. `complete`: every frame is taken to be there until it is read; otherwise
    /// all that is there is hashed now.
    pub(crate) fn over(
        id: ArtifactId,
        manifest: Arc<Manifest>,
        paths: PackPaths,
        file: File,
        complete: bool,
    ) -> Self {
        let offsets = offsets_of(&manifest);
        let count = chunk_count(&manifest);
        let have = if complete { HaveSet::full(count) } else { HaveSet::empty(count) };
        let mut twins: BTreeMap<FrameHash, Vec<u32>> = BTreeMap::new();
        for (index, chunk) in (0..).zip(&manifest.chunks) {
            twins.entry(chunk.frame).or_default().push(index);
        }
        twins.retain(|_, places| places.len() > 1);
        let state = Mutex::new(State { have, complete, file: Arc::new(file) });
        let pack = Self { id, manifest, offsets, twins, paths, state };
        if !complete {
            pack.find_what_is_there();
        }
        pack
    }

    /// The artifact's id.
    #[must_use]
    pub fn id(&self) -> ArtifactId {
        self.id
    }

    /// The artifact's manifest.
    #[must_use]
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// Which chunks are here.
    #[must_use]
    pub fn have(&self) -> HaveSet {
        self.state().have.clone()
    }

    /// Whether every chunk is here and the pack is durable under its final name.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.state().complete
    }

    /// Where the pack lies now.
    #[must_use]
    pub fn path(&self) -> &Path {
        if self.is_complete() { &self.paths.complete } else { &self.paths.partial }
    }

    /// Takes in a frame, once it is known to be the one that the manifest names. Returns the chunks that
    /// are new by it: none if it was here already, several if the content repeats itself. Not yet durable:
    /// [`Pack::sync`] and [`Pack::complete`] are.
    ///
    /// # Errors
    /// [`PackError::Refused`] for other bytes, [`PackError::NoSuchChunk`], [`PackError::Io`].
    pub fn write_frame(&self, index: u32, bytes: &[u8]) -> Result<Vec<u32>, PackError> {
        let chunk = self.chunk(index)?;
        frame::check(chunk, bytes).map_err(|source| PackError::Refused { index, source })?;
        let own = [index];
        let places = self.twins.get(&chunk.frame).map_or(&own[..], Vec::as_slice);
        let (file, wanted): (_, Vec<u32>) = {
            let state = self.state();
            let wanted = places.iter().copied().filter(|place| !state.have.contains(*place)).collect();
            (Arc::clone(&state.file), wanted)
        };
        // Written outside the lock: two writers of one frame write the same bytes to the same place.
        for place in &wanted {
            file.write_all_at(bytes, self.offsets[*place as usize]).map_err(|e| self.io("write to", e))?;
        }
        let mut state = self.state();
        Ok(wanted.into_iter().filter(|place| state.have.insert(*place)).collect())
    }

    /// One frame, hashed.
    ///
    /// # Errors
    /// [`PackError::Corrupt`] if its bytes were damaged since (see [`Pack::demote`]), [`PackError::Missing`],
    /// [`PackError::NoSuchChunk`], [`PackError::Io`].
    pub fn read_frame(&self, index: u32) -> Result<Vec<u8>, PackError> {
        let chunk = self.chunk(index)?;
        let file = self.file_with(index)?;
        let read = read_new(&file, chunk.frame_bytes as usize, self.offsets[index as usize]);
        let bytes = read.map_err(|error| self.unreadable(index, error))?;
        frame::check(chunk, &bytes).map_err(|source| self.corrupt(index, source))?;
        Ok(bytes)
    }

    /// [`Pack::read_frame`] into a buffer that is used again and again.
    ///
    /// # Errors
    /// The same.
    pub fn read_frame_into(&self, index: u32, bytes: &mut Vec<u8>) -> Result<(), PackError> {
        let chunk = self.chunk(index)?;
        let file = self.file_with(index)?;
        self.read_unchecked(&file, index, bytes)?;
        frame::check(chunk, bytes).map_err(|source| self.corrupt(index, source))
    }

    /// Forgets a frame that turned out to be damaged, so that it is fetched again. A complete pack becomes
    /// a partial one.
    ///
    /// # Errors
    /// [`PackError::NoSuchChunk`], [`PackError::Io`].
    pub fn demote(&self, index: u32) -> Result<(), PackError> {
        self.chunk(index)?;
        let mut state = self.state();
        if state.complete {
            let file = durable::open_regular(&self.paths.complete, true).map_err(|e| self.io("open", e))?;
            // A truncated file gets its length back, so that what follows the damage keeps its place.
            file.set_len(self.frame_bytes()).map_err(|e| self.io("lengthen", e))?;
            rename_durably(&self.paths.complete, &self.paths.partial)?;
            state.file = Arc::new(file);
            state.complete = false;
        }
        state.have.remove(index);
        Ok(())
    }

    /// Makes every frame written so far survive a power cut.
    ///
    /// # Errors
    /// [`PackError::Io`].
    pub fn sync(&self) -> Result<(), PackError> {
        let file = Arc::clone(&self.state().file);
        file.sync_data().map_err(|e| self.io("sync", e))
    }

    /// Makes a pack that has every chunk durable under its final name. Does nothing the second time.
    ///
    /// # Errors
    /// [`PackError::Incomplete`], [`PackError::Io`].
    pub fn complete(&self) -> Result<(), PackError> {
        let mut state = self.state();
        if state.complete {
            return Ok(());
        }
        if !state.have.is_complete() {
            let chunks = state.have.chunks();
            let missing = chunks - state.have.count();
            return Err(PackError::Incomplete { path: self.paths.partial.clone(), missing, chunks });
        }
        state.file.sync_all().map_err(|e| PackError::Io {
            what: "sync",
            path: self.paths.partial.clone(),
            source: e,
        })?;
        rename_durably(&self.paths.partial, &self.paths.complete)?;
        state.complete = true;
        Ok(())
    }

    /// Copies over every missing frame that another pack has. A damaged frame over there is skipped: it
    /// will be fetched like any other.
    ///
    /// # Errors
    /// [`PackError::Io`].
    pub fn seed_from(&self, other: &Self) -> Result<Seeded, PackError> {
        let mut wanted: BTreeMap<FrameHash, u32> = {
            let have = self.have();
            have.missing().map(|index| (self.manifest.chunks[index as usize].frame, index)).collect()
        };
        let mut seeded = Seeded::default();
        let mut bytes = Vec::new();
        let there = other.have();
        for index in there.iter() {
            let Some(own) = wanted.remove(&other.manifest.chunks[index as usize].frame) else { continue };
            match other.read_frame_into(index, &mut bytes) {
                Ok(()) => {}
                Err(PackError::Corrupt { .. } | PackError::Missing { .. }) => continue,
                Err(error) => return Err(error),
            }
            for place in self.write_frame(own, &bytes)? {
                seeded.chunks += 1;
                seeded.frame_bytes += u64::from(self.manifest.chunks[place as usize].frame_bytes);
            }
        }
        Ok(seeded)
    }

    /// Hashes every frame that is said to be here and returns the damaged ones. Changes nothing.
    ///
    /// # Errors
    /// [`PackError::Io`].
    pub fn damaged(&self, mut progress: impl FnMut(u64)) -> Result<Vec<u32>, PackError> {
        let mut damaged = Vec::new();
        let mut bytes = Vec::new();
        let mut read = 0;
        for index in self.have().iter() {
            match self.read_frame_into(index, &mut bytes) {
                Ok(()) => {}
                Err(PackError::Corrupt { .. }) => damaged.push(index),
                Err(error) => return Err(error),
            }
            read += u64::from(self.manifest.chunks[index as usize].frame_bytes);
            progress(read);
        }
        Ok(damaged)
    }

    /// Length of the whole pack.
    #[must_use]
    pub fn frame_bytes(&self) -> u64 {
        self.offsets.last().copied().unwrap_or(0)
    }

    /// What the manifest says of a chunk.
    ///
    /// # Errors
    /// [`PackError::NoSuchChunk`].
    pub fn chunk(&self, index: u32) -> Result<&Chunk, PackError> {
        let chunks = chunk_count(&self.manifest);
        self.manifest.chunks.get(index as usize).ok_or(PackError::NoSuchChunk { index, chunks })
    }

    fn find_what_is_there(&self) {
        let file = Arc::clone(&self.state().file);
        let mut bytes = Vec::new();
        let mut data_at = 0;
        for (index, chunk) in (0..).zip(&self.manifest.chunks) {
            let (begins, ends) = (self.offsets[index as usize], self.offsets[index as usize + 1]);
            if data_at < begins {
                data_at = durable::next_data(&file, begins);
            }
            // Nothing of it was ever written: a new pack is one such gap, and reading it would cost what hashing
            // and caching a whole pack of zeros costs.
            if data_at >= ends {
                continue;
            }
            // A frame that cannot be read is a frame that is not there: it is fetched, and written anew.
            let good = self.read_unchecked(&file, index, &mut bytes).is_ok();
            if good && frame::check(chunk, &bytes).is_ok() {
                self.state().have.insert(index);
            }
        }
    }

    fn read_unchecked(&self, file: &File, index: u32, bytes: &mut Vec<u8>) -> Result<(), PackError> {
        let chunk = self.chunk(index)?;
        bytes.resize(chunk.frame_bytes as usize, 0);
        let read = file.read_exact_at(bytes, self.offsets[index as usize]);
        read.map_err(|error| self.unreadable(index, error))
    }

    /// The file, if it holds this frame.
    fn file_with(&self, index: u32) -> Result<Arc<File>, PackError> {
        let state = self.state();
        if state.have.contains(index) {
            Ok(Arc::clone(&state.file))
        } else {
            Err(PackError::Missing { index })
        }
    }

    /// What it means that a frame could not be read: a file that ends before it is damaged.
    fn unreadable(&self, index: u32, error: io::Error) -> PackError {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            let expected = self.manifest.chunks[index as usize].frame_bytes;
            self.corrupt(index, FrameError::Length { expected, found: 0 })
        } else {
            self.io("read", error)
        }
    }

    fn corrupt(&self, index: u32, source: FrameError) -> PackError {
        PackError::Corrupt { index, path: self.path().to_owned(), source }
    }

    fn io(&self, what: &'static str, source: io::Error) -> PackError {
        PackError::Io { what, path: self.paths.complete.clone(), source }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics under the lock; if something did, every step leaves the state true by itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of a file in a buffer of their own, which is not filled with zeros first: that would touch every byte of
/// what a peer is sent once more.
fn read_new(file: &File, length: usize, from: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let at = from + bytes.len() as u64;
        match rustix::io::pread(file, spare_capacity(&mut bytes), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // The allocator may have given more room than was asked for.
    bytes.truncate(length);
    Ok(bytes)
}

/// Chunks of a manifest, in the type that counts them elsewhere.
pub(crate) fn chunk_count(manifest: &Manifest) -> u32 {
    u32::try_from(manifest.chunks.len()).expect("a checked manifest has at most CHUNKS_MAX chunks")
}

fn offsets_of(manifest: &Manifest) -> Vec<u64> {
    let mut end = 0;
    let mut offsets = Vec::with_capacity(manifest.chunks.len() + 1);
    offsets.push(0);
    for chunk in &manifest.chunks {
        // No overflow: CHUNKS_MAX × FRAME_BYTES_MAX is 2^40.
        end += u64::from(chunk.frame_bytes);
        offsets.push(end);
    }
    offsets
}

/// Gives a pack its other name, durably.
pub(crate) fn rename_durably(from: &Path, to: &Path) -> Result<(), PackError> {
    durable::rename(from, to).map_err(|source| PackError::Io {
        what: "give its other name to",
        path: from.to_owned(),
        source,
    })
}
