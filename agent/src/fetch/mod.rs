//! Fetches artifacts: drives the swarm core over the data plane and writes packs.
//!
//! Owns the fetcher, a task of its own. Main invariant: a chunk is announced, counted and served only after its
//! frame was verified and written. Refuses to decide: the swarm core does.
//!
//! ```text
//! let (fetcher, mut events) = Fetcher::start(config)?;
//! fetcher.want(artifact, manifest_bytes).await;      // begins, or goes on with what the disk holds
//! fetcher.peer(known_peer).await;                    // a presence, or the origin; again after a change
//! fetcher.peer_gone(key).await;                      // revoked or gone: cut off at once
//! fetcher.forget(artifact).await;                    // stops fetching; the pack stays and is served
//! fetcher.address();                                 // where the data plane listens (for Presence and Hello)
//! fetcher.stop().await;
//! ```

mod api;
mod driver;
mod effects;
mod happened;

use std::net::SocketAddr;
use std::sync::Arc;

use lunar_artifact::PackError;
use lunar_common::ids::{ArtifactId, PeerKey};
use lunar_transport::data_plane::{BindError, DataPlane, DataPlaneConfig, PlaneLimits};
use lunar_transport::gate::public_key;
use tokio::sync::{mpsc, oneshot};

use crate::chunk_files::ChunkFiles;
use driver::{Command, Driver};

pub use api::{FetchConfig, FetchEvent, KnownPeer};

/// Commands not yet taken in.
const COMMANDS_MAX: usize = 256;

/// Events not yet taken by the program. Progress is dropped when it does not listen; ends are kept.
const EVENTS_MAX: usize = 256;

/// The fetcher's handle. When the last clone is dropped, fetching stops and the data plane closes.
#[derive(Debug, Clone)]
pub struct Fetcher {
    commands: mpsc::Sender<Command>,
    address: SocketAddr,
}

/// Why a fetcher could not be started.
#[derive(Debug, thiserror::Error)]
pub enum FetchStartError {
    /// The directory of packs.
    #[error("cannot open the packs")]
    Packs(#[from] PackError),
    /// The data plane.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The data plane's address.
    #[error("the data plane's socket has no address")]
    Address(#[source] std::io::Error),
}

impl Fetcher {
    /// Binds the data plane, serves every complete pack, and waits for commands. Reads the directory of packs,
    /// which hashes nothing. Must be called inside the runtime.
    ///
    /// # Errors
    /// [`FetchStartError`].
    pub fn start(config: FetchConfig) -> Result<(Self, mpsc::Receiver<FetchEvent>), FetchStartError> {
        let FetchConfig { secret, site, gate, listen, packs, tuning } = config;
        let key = public_key(secret).ok_or(BindError::Key)?;
        let (files, damage) = ChunkFiles::open(packs)?;
        let files = Arc::new(files);
        let source = files.clone();
        let (plane, incoming) =
            DataPlane::bind(DataPlaneConfig { listen, secret, gate, source, limits: PlaneLimits::agent() })?;
        let address = plane.address().map_err(FetchStartError::Address)?;
        let (commands, to_do) = mpsc::channel(COMMANDS_MAX);
        let (events, told) = mpsc::channel(EVENTS_MAX);
        let driver = Driver::new(tuning, key, site, plane, files, events);
        tokio::spawn(driver.run(to_do, incoming, damage));
        Ok((Self { commands, address }, told))
    }

    /// Where the data plane listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Fetches an artifact whose manifest has at most this many bytes, beginning with what the disk holds. Of one that
    /// is wanted already, its progress or its end is told again.
    pub async fn want(&self, artifact: ArtifactId, manifest_bytes: u64) {
        self.tell(Command::Want { artifact, manifest_bytes }).await;
    }

    /// Stops fetching an artifact. Its pack stays and is served.
    pub async fn forget(&self, artifact: ArtifactId) {
        self.tell(Command::Forget { artifact }).await;
    }

    /// Makes a machine known that may be a source.
    pub async fn peer(&self, peer: KnownPeer) {
        self.tell(Command::Peer(peer)).await;
    }

    /// Cuts a machine off: it was revoked, or the mesh gave it up.
    pub async fn peer_gone(&self, key: PeerKey) {
        self.tell(Command::PeerGone { key }).await;
    }

    /// Stops, closes every connection, and returns once that is done.
    pub async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        self.tell(Command::Stop { done }).await;
        // Dropped instead of answered: it has stopped already.
        let _ = stopped.await;
    }

    async fn tell(&self, command: Command) {
        // The driver ends only when it is told to; after that there is nobody left to tell.
        let _ = self.commands.send(command).await;
    }
}
