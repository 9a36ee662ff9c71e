//! Everything a swarm can be told.
//!
//! Owns [`Input`] and its parts. Main invariant: whatever came from a peer is already typed and bounded, and a
//! received frame was already verified against the manifest and written. Refuses to carry bytes.

use std::time::Duration;

use lunar_common::have_set::HaveSet;
use lunar_common::ids::{ArtifactId, PeerKey, SiteId};

/// A request's number, unique in one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What is requested from a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    /// The artifact's manifest.
    Manifest,
    /// One chunk's frame, by its index in the manifest.
    Chunk(u32),
}

/// What a peer says on an artifact's control stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// It takes part, but has no manifest yet.
    Nothing,
    /// All that it has; it is fetching nothing for others.
    HaveSet(HaveSet),
    /// All that it has, and the chunks that it is fetching into its site, or into the fleet. One word, because
    /// whoever heard only the half of it would fetch the other half a second time.
    Standing {
        /// What it has.
        have: HaveSet,
        /// What it is fetching for others.
        taking: Vec<u32>,
        /// What it has heard that others are fetching, and for how long that may be true: they may be gateways no
        /// more, whom nobody new listens to.
        heard: Vec<(u32, Duration)>,
    },
    /// It has one more chunk.
    Have(u32),
    /// It has these chunks more.
    Haves(Vec<u32>),
    /// It is fetching this chunk into its site, or into the fleet: others need not.
    Taking(u32),
    /// It gave that up.
    Left(u32),
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The item arrived, was verified and is written.
    Good {
        /// Bytes received.
        bytes: u64,
    },
    /// What arrived is not what the manifest, or the artifact's id, says.
    Corrupt,
    /// The peer says that it does not have it.
    NotHave,
    /// The peer has too much to do.
    Busy {
        /// When it may be asked again.
        retry_after: Duration,
    },
    /// The stream or the connection broke.
    Broken,
}

/// Everything a swarm can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Fetch this artifact.
    Want {
        /// Which.
        artifact: ArtifactId,
        /// Most bytes that its manifest has.
        manifest_bytes: u64,
    },
    /// Its manifest is here and its pack is open.
    Opened {
        /// Which.
        artifact: ArtifactId,
        /// Each chunk's frame length.
        frame_bytes: Vec<u32>,
        /// What the disk holds already.
        have: HaveSet,
    },
    /// Chunks are here that were not asked for: content that repeats itself, or that another version had.
    Found {
        /// Of which artifact.
        artifact: ArtifactId,
        /// Which chunks.
        chunks: Vec<u32>,
    },
    /// Stop fetching it.
    Forget {
        /// Which.
        artifact: ArtifactId,
    },
    /// A machine and its place, as its enrolment has it.
    Peer {
        /// Who.
        peer: PeerKey,
        /// Where.
        site: SiteId,
        /// Whether it is the origin.
        origin: bool,
    },
    /// A machine takes part in an artifact's swarm.
    Member {
        /// In which.
        artifact: ArtifactId,
        /// Who.
        peer: PeerKey,
    },
    /// A machine is gone for good: revoked, or given up by the mesh.
    PeerGone {
        /// Who.
        peer: PeerKey,
    },
    /// A connection to a peer is up and it passed the gate.
    Connected {
        /// Who.
        peer: PeerKey,
    },
    /// An attempt to connect failed.
    ConnectFailed {
        /// To whom.
        peer: PeerKey,
        /// It answered that it has no room: it is alive.
        full: bool,
    },
    /// The last connection to a peer is down.
    Disconnected {
        /// Whose.
        peer: PeerKey,
    },
    /// A peer said something on a control stream.
    Said {
        /// About which artifact.
        artifact: ArtifactId,
        /// Who.
        peer: PeerKey,
        /// What.
        word: Word,
    },
    /// A request ended.
    Answered {
        /// Which.
        request: RequestId,
        /// How.
        outcome: Outcome,
    },
}
