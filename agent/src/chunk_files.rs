//! Packs on this server, as the data plane serves them.
//!
//! Owns the set of open packs. Main invariants: what is served was hashed when it was read; a partial pack is
//! served from its first chunk on; a stored frame that turns out damaged is forgotten, reported and never
//! sent. Refuses to fetch.

use std::sync::Arc;

use lunar_artifact::{OpenPacks, Pack, PackDirectory, PackError};
use lunar_common::have_set::HaveSet;
use lunar_common::ids::ArtifactId;
use lunar_common::manifest::Manifest;
use lunar_transport::data_plane::{ChunkSource, SourceError};
use tokio::sync::mpsc;

/// Reports of damage not yet looked at; more of them say nothing new.
const DAMAGE_REPORTS_MAX: usize = 16;

/// Packs on this server.
#[derive(Debug)]
pub struct ChunkFiles {
    directory: PackDirectory,
    open: OpenPacks,
    damage: mpsc::Sender<ArtifactId>,
}

/// A pack that was opened for fetching, and what it took over from others on this server.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) pack: Arc<Pack>,
    pub(crate) local_bytes: u64,
}

impl ChunkFiles {
    /// Opens every complete pack of a directory. Partial ones are opened when they are wanted. Blocks. Artifacts
    /// in which damage is found come out of the receiver.
    ///
    /// # Errors
    /// [`PackError`] if the directory cannot be read. A single damaged pack is left out, with a warning.
    pub fn open(directory: PackDirectory) -> Result<(Self, mpsc::Receiver<ArtifactId>), PackError> {
        let open = OpenPacks::default();
        for held in directory.list()?.into_iter().filter(|held| held.complete) {
            match directory.get_complete(held.id) {
                Ok(pack) => open.insert(Arc::new(pack)),
                Err(error) => {
                    tracing::warn!(artifact = %held.id, %error, "a stored artifact cannot be served")
                }
            }
        }
        let (damage, reports) = mpsc::channel(DAMAGE_REPORTS_MAX);
        Ok((Self { directory, open, damage }, reports))
    }

    /// The pack of an artifact whose manifest is on the disk; `None` without it. Hashes what a partial pack
    /// holds. Blocks.
    pub(crate) fn resume(&self, artifact: ArtifactId) -> Result<Option<Opened>, PackError> {
        if let Some(pack) = self.open.get(artifact) {
            return Ok(Some(Opened { pack, local_bytes: 0 }));
        }
        // A manifest that does not hash to the artifact's id any more is as good as none: it is fetched again.
        let pack = match self.directory.get(artifact) {
            Ok(pack) => pack,
            Err(error) if error.is_damage() => return Ok(None),
            Err(error) => return Err(error),
        };
        pack.map(|pack| self.enter(pack)).transpose()
    }

    /// The pack for a manifest that was just verified. Blocks.
    pub(crate) fn begin(&self, manifest: &Manifest) -> Result<Opened, PackError> {
        self.enter(self.directory.create(manifest)?)
    }

    /// Takes over what other packs have of it, and serves it from now on.
    fn enter(&self, pack: Pack) -> Result<Opened, PackError> {
        let pack = Arc::new(pack);
        let mut local_bytes = 0;
        for other in self.open.all().iter().filter(|other| other.is_complete() && other.id() != pack.id()) {
            local_bytes += pack.seed_from(other)?.frame_bytes;
        }
        self.open.insert(pack.clone());
        Ok(Opened { pack, local_bytes })
    }
}

impl ChunkSource for ChunkFiles {
    fn have(&self, artifact: ArtifactId) -> Option<HaveSet> {
        self.open.have(artifact)
    }

    fn manifest(&self, artifact: ArtifactId) -> Result<Option<Vec<u8>>, SourceError> {
        Ok(self.open.manifest(artifact)?)
    }

    /// A damaged frame is one that is not here any more: it is fetched again from somebody else.
    fn frame(&self, artifact: ArtifactId, chunk: u32) -> Result<Option<Vec<u8>>, SourceError> {
        match self.open.frame(artifact, chunk) {
            Err(error) if error.is_damage() => {
                tracing::warn!(%artifact, chunk, %error, "a stored frame is damaged; it will be fetched again");
                if let Some(pack) = self.open.get(artifact) {
                    pack.demote(chunk)?;
                }
                // A full queue already says that this server has damaged packs.
                let _ = self.damage.try_send(artifact);
                Ok(None)
            }
            answer => Ok(answer?),
        }
    }
}
