//! Everything a swarm can ask for.
//!
//! Owns [`Effect`]. Main invariant: a chunk that is held is never in a `Fetch`, and over the Earth link no
//! chunk is in two `Fetch`es of one process at once.

use lunar_common::ids::{ArtifactId, PeerKey};
use lunar_common::time::Moment;

use super::input::{Item, RequestId};

/// Why a peer is avoided for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Offence {
    /// It sent bytes that do not verify.
    Corrupt,
    /// Again and again it did not have what it said it had, or spoke of chunks that do not exist.
    Lied,
}

/// Everything a swarm can ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Connect to a peer. Answered by `Connected` or `ConnectFailed`.
    Connect {
        /// To whom.
        peer: PeerKey,
    },
    /// Cut a peer off.
    Disconnect {
        /// Whom.
        peer: PeerKey,
    },
    /// Listen to what a connected peer says about an artifact; in the place of listening to it before, if one did.
    Subscribe {
        /// About which.
        artifact: ArtifactId,
        /// To whom.
        peer: PeerKey,
        /// Whether to hear what it is fetching for others too: only those who do so themselves need to.
        takings: bool,
    },
    /// Stop listening about an artifact, to everyone.
    Unsubscribe {
        /// About which.
        artifact: ArtifactId,
    },
    /// Request an item. Answered by `Answered`, unless cancelled before.
    Fetch {
        /// The request's number.
        request: RequestId,
        /// Of which artifact.
        artifact: ArtifactId,
        /// What.
        item: Item,
        /// From whom.
        peer: PeerKey,
    },
    /// Give a request up; no answer to it is wanted any more.
    Cancel {
        /// Which.
        request: RequestId,
    },
    /// Tell every listener that chunks are here, in one message: they are no more than it holds.
    AnnounceHaves {
        /// Of which artifact.
        artifact: ArtifactId,
        /// Which chunks; at least one, and at most [`CHUNKS_PER_NOTE_MAX`](lunar_common::bounds::CHUNKS_PER_NOTE_MAX).
        chunks: Vec<u32>,
    },
    /// Tell those listeners who want to know that a chunk is being fetched into the site or the fleet.
    AnnounceTaking {
        /// Of which artifact.
        artifact: ArtifactId,
        /// Which chunk.
        chunk: u32,
    },
    /// Tell the same listeners that it is not any more.
    AnnounceLeft {
        /// Of which artifact.
        artifact: ArtifactId,
        /// Which chunk.
        chunk: u32,
    },
    /// For the log: a peer is not asked for anything until then.
    Banned {
        /// Who.
        peer: PeerKey,
        /// Why.
        offence: Offence,
        /// Until when.
        until: Moment,
    },
    /// Every chunk is here.
    Complete {
        /// Of which artifact.
        artifact: ArtifactId,
    },
}
