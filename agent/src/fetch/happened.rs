//! What the fetcher's helpers report back to it.
//!
//! Owns [`Happened`]. Main invariant: every task that the fetcher starts ends in exactly one report, unless it
//! was aborted.

use std::time::Duration;

use lunar_agent_core::swarm::{Outcome, RequestId, Word};
use lunar_artifact::PackError;
use lunar_common::ids::{ArtifactId, PeerKey};
use lunar_transport::data_plane::{ConnectError, Link, Note, ReadError};

use crate::chunk_files::Opened;

/// What the fetcher's helpers report back to it.
pub(super) enum Happened {
    /// What the disk holds of a wanted artifact is known.
    Resumed { artifact: ArtifactId, result: Result<Option<Opened>, PackError> },
    /// An attempt to connect ended.
    Dialled { peer: PeerKey, result: Box<Result<Link, ConnectError>> },
    /// One of a peer's connections is down.
    Down { peer: PeerKey },
    /// A peer said something, or can say nothing more.
    Said { artifact: ArtifactId, peer: PeerKey, note: Result<Note, ReadError> },
    /// A manifest arrived, or did not; if it did, the pack is open, or cannot be.
    Manifest {
        artifact: ArtifactId,
        request: RequestId,
        outcome: Outcome,
        opened: Option<Result<Opened, PackError>>,
    },
    /// A frame's bytes arrived, or did not.
    Frame { artifact: ArtifactId, request: RequestId, chunk: u32, frame: Result<Vec<u8>, Outcome> },
    /// A frame was verified and written, or not.
    Written { artifact: ArtifactId, request: RequestId, bytes: u64, result: Result<Vec<u32>, PackError> },
    /// A whole pack was made durable under its final name, or not.
    Completed { artifact: ArtifactId, result: Result<(), PackError> },
}

/// A note as the core takes it.
pub(super) fn word(note: Note) -> Word {
    match note {
        Note::Nothing => Word::Nothing,
        Note::HaveSet(have) => Word::HaveSet(have),
        Note::Standing { have, taking, heard } => {
            let left = |(chunk, ms): (u32, u32)| (chunk, Duration::from_millis(ms.into()));
            Word::Standing { have, taking, heard: heard.into_iter().map(left).collect() }
        }
        Note::Have(chunk) => Word::Have(chunk),
        Note::Haves(chunks) => Word::Haves(chunks),
        Note::Taking(chunk) => Word::Taking(chunk),
        Note::Left(chunk) => Word::Left(chunk),
    }
}
