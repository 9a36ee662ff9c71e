//! What is wanted, who may have it, and how far it is.
//!
//! Owns the agent's dealings with its fetcher. Main invariant: the progress told to the core is the fetcher's
//! own word, summed over exactly the artifacts of the plan that is wanted. Refuses to choose sources: every
//! machine that may have something is made known, and the swarm core chooses.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lunar_agent_core::input::FetchProgress;
use lunar_common::enrolment::{Enrolment, Role};
use lunar_common::ids::{ArtifactId, PeerKey, ServerId, SiteId};
use lunar_common::message::{BytesBySource, Gossip, Presence};
use lunar_common::plan::Plan;
use lunar_transport::mesh::{Located, Mesh};
use tokio::sync::mpsc;

use crate::fetch::{FetchEvent, Fetcher, KnownPeer};

/// Between two look-ups of who provides what is missing.
const LOOK_UP_EVERY: Duration = Duration::from_secs(20);

/// Providers found by one look-up that are made known: the swarm asks a handful at a time.
const PROVIDERS_MAX: usize = 16;

/// Machines found by a look-up.
#[derive(Debug)]
pub struct Found {
    peers: Vec<KnownPeer>,
}

/// The agent's dealings with its fetcher.
pub struct Sources {
    fetcher: Fetcher,
    mesh: Mesh,
    server: ServerId,
    site: SiteId,
    data_address: String,
    wanted: BTreeMap<ArtifactId, Wanted>,
    /// Connected machines with a data plane.
    connected: BTreeMap<PeerKey, (SiteId, Role, String)>,
    found: mpsc::Sender<Found>,
    look_up_at: Option<tokio::time::Instant>,
}

#[derive(Debug, Default)]
struct Wanted {
    complete: bool,
    chunks: (u32, u32),
    received: BytesBySource,
    failure: Option<String>,
}

impl Sources {
    /// Dealings over this fetcher and this mesh. Look-ups end in `found`.
    #[must_use]
    pub fn new(
        fetcher: Fetcher,
        mesh: Mesh,
        me: &Enrolment,
        data_address: String,
        found: mpsc::Sender<Found>,
    ) -> Self {
        Self {
            fetcher,
            mesh,
            server: me.server.clone(),
            site: me.site.clone(),
            data_address,
            wanted: BTreeMap::new(),
            connected: BTreeMap::new(),
            found,
            look_up_at: None,
        }
    }

    /// Lets it be known what lies here already, so that others find it after a restart.
    pub async fn seed(&self, complete: impl IntoIterator<Item = ArtifactId>) {
        for artifact in complete {
            self.mesh.provide(artifact).await;
        }
    }

    /// Wants the artifacts of this plan, and nothing else.
    pub async fn want(&mut self, plan: &Plan) {
        let ids: BTreeSet<ArtifactId> = plan.artifacts.iter().map(|artifact| artifact.id).collect();
        for artifact in self.wanted.keys().filter(|artifact| !ids.contains(artifact)) {
            self.fetcher.forget(*artifact).await;
        }
        self.wanted.retain(|artifact, _| ids.contains(artifact));
        for artifact in &plan.artifacts {
            self.wanted.insert(artifact.id, Wanted::default());
            self.fetcher.want(artifact.id, artifact.manifest_bytes).await;
            self.tell_connected(artifact.id).await;
            self.announce(artifact.id, false);
        }
        self.look_up_at = Some(tokio::time::Instant::now());
    }

    /// A machine is connected.
    pub async fn joined(&mut self, machine: &Enrolment, data_address: String) {
        if data_address.is_empty() || machine.role == Role::Coordinator {
            return;
        }
        self.connected.insert(machine.key, (machine.site.clone(), machine.role, data_address));
        if machine.role == Role::Origin {
            return self.tell(machine.key, None).await;
        }
        let missing: Vec<ArtifactId> = self.missing().collect();
        for artifact in missing {
            self.tell(machine.key, Some(artifact)).await;
        }
    }

    /// A machine is not connected any more. It may still be a source: the data plane has its own connections.
    pub fn left(&mut self, key: &PeerKey) {
        self.connected.remove(key);
    }

    /// A machine is out: it is cut off at once.
    pub async fn revoked(&mut self, key: PeerKey) {
        self.connected.remove(&key);
        self.fetcher.peer_gone(key).await;
    }

    /// A machine takes part in a swarm, by its own word; the data plane's gate checks who it is.
    pub async fn present(&self, author: PeerKey, presence: Presence) {
        if !self.wanted.contains_key(&presence.artifact) {
            return;
        }
        let peer = KnownPeer {
            key: author,
            site: presence.site,
            role: Role::Agent,
            data_address: presence.data_address,
            artifact: Some(presence.artifact),
        };
        self.fetcher.peer(peer).await;
    }

    /// The fetcher tells. Returns how far everything wanted is.
    pub async fn fetched(&mut self, event: FetchEvent) -> FetchProgress {
        match event {
            FetchEvent::Progress { artifact, chunks, received } => {
                if let Some(wanted) = self.wanted.get_mut(&artifact) {
                    wanted.chunks = chunks;
                    wanted.received = received;
                }
            }
            FetchEvent::Complete { artifact, received } => {
                if let Some(wanted) = self.wanted.get_mut(&artifact) {
                    wanted.complete = true;
                    wanted.received = received;
                    wanted.chunks.0 = wanted.chunks.1;
                    tracing::info!(%artifact, ?received, "complete");
                }
                self.mesh.provide(artifact).await;
                self.announce(artifact, true);
            }
            FetchEvent::Failed { artifact, reason } => {
                tracing::warn!(%artifact, %reason, "cannot be fetched");
                if let Some(wanted) = self.wanted.get_mut(&artifact) {
                    wanted.failure = Some(reason);
                }
            }
        }
        self.progress()
    }

    fn progress(&self) -> FetchProgress {
        let mut progress = FetchProgress::default();
        for (artifact, wanted) in &self.wanted {
            if wanted.complete {
                progress.complete.push(*artifact);
            }
            progress.chunks.0 = progress.chunks.0.saturating_add(wanted.chunks.0);
            progress.chunks.1 = progress.chunks.1.saturating_add(wanted.chunks.1);
            progress.received.site += wanted.received.site;
            progress.received.sites += wanted.received.sites;
            progress.received.earth += wanted.received.earth;
            progress.received.local += wanted.received.local;
            if progress.failure.is_none() {
                progress.failure.clone_from(&wanted.failure);
            }
        }
        progress
    }

    /// When [`Self::look_up`] is due.
    #[must_use]
    pub fn look_up_at(&self) -> Option<tokio::time::Instant> {
        self.look_up_at
    }

    /// Asks the directories who of this site provides what is missing, and who is an origin of it unless one is
    /// connected; the answers come as [`Found`].
    pub fn look_up(&mut self) {
        let missing: Vec<ArtifactId> = self.missing().collect();
        if missing.is_empty() {
            self.look_up_at = None;
            return;
        }
        self.look_up_at = Some(tokio::time::Instant::now() + LOOK_UP_EVERY);
        let has_origin = self.connected.values().any(|(_, role, _)| *role == Role::Origin);
        let (mesh, site, found) = (self.mesh.clone(), self.site.clone(), self.found.clone());
        tokio::spawn(async move {
            for artifact in missing {
                let mut peers = providers(&mesh, &site, artifact).await;
                if !has_origin {
                    peers.extend(origins(&mesh, artifact).await);
                }
                if found.send(Found { peers }).await.is_err() {
                    return;
                }
            }
        });
    }

    /// A look-up ended.
    pub async fn found(&self, found: Found) {
        for peer in found.peers {
            self.fetcher.peer(peer).await;
        }
    }

    /// Ends the fetcher.
    pub async fn stop(self) {
        self.fetcher.stop().await;
    }

    fn missing(&self) -> impl Iterator<Item = ArtifactId> {
        self.wanted.iter().filter(|(_, wanted)| !wanted.complete).map(|(artifact, _)| *artifact)
    }

    async fn tell_connected(&self, artifact: ArtifactId) {
        for (key, (_, role, _)) in &self.connected {
            let artifact = if *role == Role::Origin { None } else { Some(artifact) };
            self.tell(*key, artifact).await;
        }
    }

    async fn tell(&self, key: PeerKey, artifact: Option<ArtifactId>) {
        let Some((site, role, data_address)) = self.connected.get(&key).cloned() else { return };
        self.fetcher.peer(KnownPeer { key, site, role, data_address, artifact }).await;
    }

    /// Tells everyone that this server takes part. Lost, others find it by the directories.
    fn announce(&self, artifact: ArtifactId, complete: bool) {
        let presence = Presence {
            server: self.server.clone(),
            site: self.site.clone(),
            artifact,
            data_address: self.data_address.clone(),
            complete,
        };
        let mesh = self.mesh.clone();
        tokio::spawn(async move {
            if let Err(error) = mesh.publish(Gossip::Presence(presence)).await {
                tracing::debug!(%error, "presence was not gossiped");
            }
        });
    }
}

async fn providers(mesh: &Mesh, site: &SiteId, artifact: ArtifactId) -> Vec<KnownPeer> {
    let keys = mesh.providers(artifact, site.clone()).await;
    let known = |located: Located| KnownPeer {
        key: located.peer,
        site: site.clone(),
        role: Role::Agent,
        data_address: located.data_address,
        artifact: Some(artifact),
    };
    locate(mesh, keys).await.into_iter().map(known).collect()
}

/// Machines that say that they are origins. Whether they are, their enrolments say on the data plane.
async fn origins(mesh: &Mesh, artifact: ArtifactId) -> Vec<KnownPeer> {
    let keys = mesh.origins(artifact).await;
    let known = |located: Located| KnownPeer {
        key: located.peer,
        site: located.site,
        role: Role::Origin,
        data_address: located.data_address,
        artifact: None,
    };
    locate(mesh, keys).await.into_iter().map(known).collect()
}

/// Where the data planes of these machines are, if they have one.
async fn locate(mesh: &Mesh, keys: Vec<PeerKey>) -> Vec<Located> {
    let mut found = Vec::new();
    for key in keys.into_iter().filter(|key| *key != mesh.key()).take(PROVIDERS_MAX) {
        found.extend(mesh.locate(key).await.filter(|located| !located.data_address.is_empty()));
    }
    found
}
