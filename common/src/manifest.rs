//! What an artifact is made of.
//!
//! Owns [`Manifest`]: the chunks of a canonical archive (or of a plain file) in order. Main invariant: a
//! manifest that was decoded is consistent with itself (lengths add up, every bound holds), and its id is the
//! BLAKE3 of its encoding, so that whoever holds the id can check everything below it.

use serde::{Deserialize, Serialize};

use crate::bounds::{ARTIFACT_BYTES_MAX, CHUNK_BYTES_MAX, CHUNKS_MAX, FRAME_BYTES_MAX, MANIFEST_BYTES_MAX};
use crate::ids::{ArtifactId, ChunkHash, FrameHash};
use crate::wire::{WireError, decode, encode};

/// One artifact's content, in chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// What the content is.
    pub content: Content,
    /// Its length in bytes, uncompressed.
    pub bytes: u64,
    /// Its chunks, in order.
    pub chunks: Vec<Chunk>,
}

/// What an artifact's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// A canonical archive of a directory.
    Tree,
    /// One file's bytes.
    File,
}

/// One chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// BLAKE3 of its content.
    pub hash: ChunkHash,
    /// Length of its content in bytes.
    pub bytes: u32,
    /// BLAKE3 of its zstd frame.
    pub frame: FrameHash,
    /// Length of its zstd frame in bytes.
    pub frame_bytes: u32,
}

/// Why bytes are not a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Does not decode.
    #[error("the manifest is malformed")]
    Wire(#[from] WireError),
    /// Hashes to something else than was asked for.
    #[error("the manifest hashes to {found:.16}, not to {wanted:.16}")]
    Id {
        /// What was asked for.
        wanted: ArtifactId,
        /// What came.
        found: ArtifactId,
    },
    /// Contradicts itself or a bound.
    #[error("the manifest is inconsistent: {0}")]
    Inconsistent(&'static str),
}

impl Manifest {
    /// The manifest's bytes, as stored and sent.
    ///
    /// # Errors
    /// [`ManifestError`] if it is over a bound.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        self.check()?;
        Ok(encode(self, MANIFEST_BYTES_MAX)?)
    }

    /// A manifest from its bytes, which must hash to `wanted`.
    ///
    /// # Errors
    /// [`ManifestError`] says why not.
    pub fn decode(bytes: &[u8], wanted: ArtifactId) -> Result<Self, ManifestError> {
        let found = Self::id_of(bytes);
        if found != wanted {
            return Err(ManifestError::Id { wanted, found });
        }
        let manifest: Self = decode(bytes, MANIFEST_BYTES_MAX)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The artifact id that encoded manifest bytes have.
    #[must_use]
    pub fn id_of(bytes: &[u8]) -> ArtifactId {
        ArtifactId(*blake3::hash(bytes).as_bytes())
    }

    /// Bytes of all frames: what a whole transfer carries.
    #[must_use]
    pub fn frame_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.frame_bytes)).sum()
    }

    fn check(&self) -> Result<(), ManifestError> {
        let wrong = |what| Err(ManifestError::Inconsistent(what));
        if self.chunks.len() > CHUNKS_MAX {
            return wrong("more chunks than allowed");
        }
        if self.bytes > ARTIFACT_BYTES_MAX {
            return wrong("content longer than allowed");
        }
        if self.chunks.iter().any(|chunk| chunk.bytes == 0 || chunk.bytes > CHUNK_BYTES_MAX) {
            return wrong("a chunk's length is zero or over its bound");
        }
        if self.chunks.iter().any(|chunk| chunk.frame_bytes == 0 || chunk.frame_bytes > FRAME_BYTES_MAX) {
            return wrong("a frame's length is zero or over its bound");
        }
        let sum: u64 = self.chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum();
        if sum != self.bytes {
            return wrong("the chunks' lengths do not add up to the content's");
        }
        Ok(())
    }
}
