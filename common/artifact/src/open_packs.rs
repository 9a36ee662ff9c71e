//! The packs that a program has open, by artifact: what it serves.
//!
//! Owns the set and the answers that are the same whoever serves: what is here of an artifact, its manifest, one
//! frame. Main invariant: a frame is hashed when it is read, so that rot on this machine's disk is this machine's
//! own discovery and never something that a peer is sent. Refuses to decide what a damaged frame means: to an
//! agent it is one to fetch again, to the origin a person's work.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lunar_common::have_set::HaveSet;
use lunar_common::ids::ArtifactId;
use lunar_common::manifest::ManifestError;

use crate::pack::{Pack, PackError};

/// The packs that a program has open. Shared between threads.
#[derive(Debug, Default)]
pub struct OpenPacks {
    packs: Mutex<BTreeMap<ArtifactId, Arc<Pack>>>,
}

impl OpenPacks {
    /// Takes a pack in, in place of one of the same artifact.
    pub fn insert(&self, pack: Arc<Pack>) {
        self.packs().insert(pack.id(), pack);
    }

    /// Lets go of every pack that is not wanted.
    pub fn retain(&self, mut wanted: impl FnMut(&ArtifactId) -> bool) {
        self.packs().retain(|artifact, _| wanted(artifact));
    }

    /// The pack of an artifact.
    #[must_use]
    pub fn get(&self, artifact: ArtifactId) -> Option<Arc<Pack>> {
        self.packs().get(&artifact).cloned()
    }

    /// All of them, in the order of their artifacts.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Pack>> {
        self.packs().values().cloned().collect()
    }

    /// What is here of an artifact; `None` without its manifest.
    #[must_use]
    pub fn have(&self, artifact: ArtifactId) -> Option<HaveSet> {
        self.get(artifact).map(|pack| pack.have())
    }

    /// An artifact's encoded manifest; `None` if it is not here.
    ///
    /// # Errors
    /// [`ManifestError`], which a manifest that was decoded before does not give.
    pub fn manifest(&self, artifact: ArtifactId) -> Result<Option<Vec<u8>>, ManifestError> {
        self.get(artifact).map(|pack| pack.manifest().encode()).transpose()
    }

    /// A frame, hashed; `None` if it is not here. Blocks.
    ///
    /// # Errors
    /// [`PackError`]; [`PackError::is_damage`] tells rot from the machine's trouble.
    pub fn frame(&self, artifact: ArtifactId, chunk: u32) -> Result<Option<Vec<u8>>, PackError> {
        let Some(pack) = self.get(artifact) else { return Ok(None) };
        match pack.read_frame(chunk) {
            Ok(frame) => Ok(Some(frame)),
            Err(PackError::Missing { .. } | PackError::NoSuchChunk { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn packs(&self) -> MutexGuard<'_, BTreeMap<ArtifactId, Arc<Pack>>> {
        // A panic elsewhere leaves the map whole: each change is a single insertion or removal.
        self.packs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
