//! What the rest of the agent says to the fetcher, and what it hears back.
//!
//! Owns the words of that conversation. Main invariant: `Complete` is said only once every frame of the
//! artifact was verified and is durable on disk. Refuses to know campaigns: artifacts are all it sees.

use std::net::SocketAddr;
use std::sync::Arc;

use lunar_agent_core::swarm;
use lunar_artifact::PackDirectory;
use lunar_common::enrolment::Role;
use lunar_common::ids::{ArtifactId, PeerKey, SiteId};
use lunar_common::message::BytesBySource;
use lunar_transport::gate::Gate;

/// What a fetcher is started with.
pub struct FetchConfig {
    /// This machine's secret key: the same one that the mesh uses.
    pub secret: [u8; 32],
    /// This machine's site, by its enrolment.
    pub site: SiteId,
    /// Judges every peer of the data plane.
    pub gate: Arc<dyn Gate>,
    /// Where the data plane listens.
    pub listen: SocketAddr,
    /// Where packs are.
    pub packs: PackDirectory,
    /// Numbers of the swarm core.
    pub tuning: swarm::Config,
}

/// A machine that may be a source, as the mesh made it known.
#[derive(Debug, Clone)]
pub struct KnownPeer {
    /// Its key.
    pub key: PeerKey,
    /// Its site, by its enrolment.
    pub site: SiteId,
    /// Its role, by its enrolment.
    pub role: Role,
    /// Its data plane, `host:port`.
    pub data_address: String,
    /// The artifact whose swarm it takes part in. Absent for the origin, which has all.
    pub artifact: Option<ArtifactId>,
}

/// What the fetcher tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchEvent {
    /// More of an artifact is here.
    Progress {
        /// Which.
        artifact: ArtifactId,
        /// Chunks had and in all; `(0, 0)` until the manifest is here.
        chunks: (u32, u32),
        /// Frame bytes received by class of source, since the artifact was first wanted by this process.
        received: BytesBySource,
    },
    /// All of it is here, verified and durable.
    Complete {
        /// Which.
        artifact: ArtifactId,
        /// Frame bytes received by class of source.
        received: BytesBySource,
    },
    /// It cannot be kept here (disk full, read-only, damaged): a person or a retry must decide. The fetcher
    /// has forgotten it; `want` starts again from what the disk holds.
    Failed {
        /// Which.
        artifact: ArtifactId,
        /// What was wrong, where.
        reason: String,
    },
}
