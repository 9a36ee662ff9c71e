//! The origin: artifacts from Earth, the last resort among sources.
//!
//! Owns [`Origin`]: a member of the mesh that serves `HOME/artifacts` on the data plane. Main invariant: all
//! that it sends together keeps to the link's rate, whatever agents ask for; only complete packs are served.
//! Refuses to grant, to publish plans or to install: it passes signed documents on like any member.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use lunar_artifact::{OpenPacks, PackDirectory, PackError};
use lunar_common::document::SignedDocument;
use lunar_common::have_set::HaveSet;
use lunar_common::ids::{ArtifactId, FleetId, SiteId};
use lunar_common::message::{Gossip, Request, Response};
use lunar_common::trust::{Accepted, TrustState};
use lunar_host::{clock, supervisor};
use lunar_transport::data_plane::{
    BindError, ChunkSource, DataPlane, DataPlaneConfig, Link, Note, PlaneLimits, SourceError,
};
use lunar_transport::mesh::{Decision, Mesh, MeshBounds, MeshConfig, MeshError, MeshEvent, PeerAddress};
use lunar_transport::trust_gate::TrustGate;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

/// Between two looks for new artifacts. `artifact add` renames a finished pack into place.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What an origin is started with.
pub struct OriginConfig {
    /// Its key.
    pub key: SigningKey,
    /// Its enrolment, with the role `origin`.
    pub enrolment: SignedDocument,
    /// The fleet.
    pub fleet: FleetId,
    /// Its site: a name for Earth.
    pub site: SiteId,
    /// Everything people signed that is known at the start.
    pub trust: TrustState,
    /// Where the artifacts are.
    pub artifacts: PackDirectory,
    /// Where the mesh listens.
    pub listen: String,
    /// Where the data plane listens.
    pub data_listen: SocketAddr,
    /// The data plane's address as others reach it; absent: the one it listens on.
    pub data_announce: Option<String>,
    /// Whom to try first in the mesh.
    pub bootstrap: Vec<PeerAddress>,
    /// The link's rate in bits a second, headers included. Absent: not shaped.
    pub rate_bits_s: Option<u64>,
}

/// Why an origin does not start.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// The artifacts.
    #[error("cannot read the artifacts")]
    Artifacts(#[from] PackError),
    /// The data plane.
    #[error(transparent)]
    Plane(#[from] BindError),
    /// The data plane's socket.
    #[error("the data plane's socket has no address")]
    Address(#[source] std::io::Error),
    /// The mesh.
    #[error(transparent)]
    Mesh(#[from] MeshError),
}

/// A running origin.
pub struct Origin {
    mesh: Mesh,
    events: mpsc::Receiver<MeshEvent>,
    plane: DataPlane,
    links: mpsc::Receiver<Link>,
    shelf: Arc<Shelf>,
    gate: Arc<TrustGate>,
    trust: TrustState,
    enrolment: SignedDocument,
    provided: BTreeSet<ArtifactId>,
}

impl Origin {
    /// Binds both planes.
    ///
    /// # Errors
    /// [`OriginError`].
    pub async fn start(config: OriginConfig) -> Result<Self, OriginError> {
        let shelf = Arc::new(Shelf { directory: config.artifacts, open: OpenPacks::default() });
        shelf.look()?;
        let gate = Arc::new(TrustGate::new(config.trust.clone(), config.enrolment.clone(), String::new()));
        let (plane, links) = DataPlane::bind(DataPlaneConfig {
            listen: config.data_listen,
            secret: config.key.to_bytes(),
            gate: gate.clone(),
            source: shelf.clone(),
            limits: PlaneLimits::origin(config.rate_bits_s),
        })?;
        let bound = plane.address().map_err(OriginError::Address)?;
        gate.set_data_address(config.data_announce.unwrap_or_else(|| bound.to_string()));
        let (mesh, events) = Mesh::start(MeshConfig {
            key: config.key,
            fleet: config.fleet,
            site: config.site,
            listen: vec![config.listen],
            announce: Vec::new(),
            bootstrap: config.bootstrap,
            gate: gate.clone(),
            directory: true,
            bounds: MeshBounds::directory(),
        })
        .await?;
        Ok(Self {
            mesh,
            events,
            plane,
            links,
            shelf,
            gate,
            trust: config.trust,
            enrolment: config.enrolment,
            provided: BTreeSet::new(),
        })
    }

    /// Where the data plane listens.
    ///
    /// # Errors
    /// The operating system's.
    pub fn data_address(&self) -> std::io::Result<SocketAddr> {
        self.plane.address()
    }

    /// Where the mesh listens.
    pub async fn mesh_addresses(&self) -> Vec<String> {
        self.mesh.listen_addresses().await
    }

    /// Serves until `stop` is done.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut alive = interval(supervisor::watchdog_interval().unwrap_or(LOOK_EVERY));
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = &mut stop => break,
                event = self.events.recv() => match event {
                    Some(event) => self.happened(event).await,
                    None => break,
                },
                // The data plane serves them, and closes on those that are out.
                Some(_) = self.links.recv() => {}
                _ = look.tick() => self.look().await,
                _ = alive.tick() => supervisor::alive(),
            }
        }
        supervisor::stopping();
        self.plane.close().await;
        self.mesh.shutdown().await;
    }

    /// Offers what is new on the shelf.
    async fn look(&mut self) {
        let shelf = self.shelf.clone();
        let looked = tokio::task::spawn_blocking(move || shelf.look()).await;
        match looked {
            Ok(Ok(held)) => {
                for artifact in held {
                    if self.provided.insert(artifact) {
                        tracing::info!(%artifact, "serving");
                        if let Some(have) = self.shelf.have(artifact) {
                            self.plane.announce(artifact, Note::HaveSet(have));
                        }
                        self.mesh.provide_as_origin(artifact).await;
                    }
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "the artifacts cannot be listed"),
            Err(error) => tracing::warn!(%error, "looking for artifacts was interrupted"),
        }
    }

    async fn happened(&mut self, event: MeshEvent) {
        match event {
            MeshEvent::Joined { .. } | MeshEvent::Left { .. } => {}
            MeshEvent::Gossip { message, receipt, .. } => {
                let decision = match message {
                    Gossip::Document(document) => self.take_in(&document).await,
                    Gossip::Presence(_) | Gossip::Coordinator { .. } => Decision::Accept,
                };
                receipt.decide(decision);
            }
            MeshEvent::Request { request, reply, .. } => match request {
                Request::Sync { have } => reply.send(Response::Documents(self.trust.missing_from(&have))),
                Request::Document(document) => match self.take_in(&document).await {
                    Decision::Accept | Decision::Ignore => reply.send(Response::Done),
                    Decision::Reject => reply.refuse("the document is refused"),
                },
                Request::Claim(_)
                | Request::Release(_)
                | Request::Report(_)
                | Request::Grant(_)
                | Request::Group(_)
                | Request::GroupMembers => reply.refuse("an origin serves artifacts and grants nothing"),
            },
        }
    }

    /// A document that people signed: kept, and shown at the gate, which cuts off whoever is out by it.
    async fn take_in(&mut self, document: &SignedDocument) -> Decision {
        match self.trust.accept(document, clock::wall()) {
            Ok(Accepted::Known) => Decision::Ignore,
            Ok(accepted) => {
                self.gate.show(self.trust.clone(), self.enrolment.clone());
                if let Accepted::Revocation(list) = accepted {
                    for key in &list.keys {
                        self.mesh.evict(*key).await;
                    }
                }
                Decision::Accept
            }
            Err(refusal) if refusal.blames_sender() => Decision::Reject,
            Err(_) => Decision::Ignore,
        }
    }
}

/// The complete packs of a directory.
struct Shelf {
    directory: PackDirectory,
    open: OpenPacks,
}

impl Shelf {
    /// Opens what is new, lets go of what was removed, and lists what is held. Blocks.
    fn look(&self) -> Result<Vec<ArtifactId>, PackError> {
        let held: BTreeSet<ArtifactId> =
            self.directory.list()?.into_iter().filter(|held| held.complete).map(|held| held.id).collect();
        self.open.retain(|artifact| held.contains(artifact));
        for artifact in &held {
            if self.open.get(*artifact).is_some() {
                continue;
            }
            match self.directory.get_complete(*artifact) {
                Ok(pack) => self.open.insert(Arc::new(pack)),
                Err(error) => tracing::warn!(%artifact, %error, "an artifact cannot be served"),
            }
        }
        Ok(self.open.all().iter().map(|pack| pack.id()).collect())
    }
}

impl ChunkSource for Shelf {
    fn have(&self, artifact: ArtifactId) -> Option<HaveSet> {
        self.open.have(artifact)
    }

    fn manifest(&self, artifact: ArtifactId) -> Result<Option<Vec<u8>>, SourceError> {
        Ok(self.open.manifest(artifact)?)
    }

    /// There is nobody to fetch a damaged frame from again: a person must act.
    fn frame(&self, artifact: ArtifactId, chunk: u32) -> Result<Option<Vec<u8>>, SourceError> {
        Ok(self.open.frame(artifact, chunk).inspect_err(|error| {
            tracing::error!(%artifact, chunk, %error, "a stored frame cannot be served; add the artifact again");
        })?)
    }
}
