//! Whole meshes in one process, on loopback.
//!
//! Owns [`Node`], a mesh with a program that takes everything in. Every wait is for an event; the time-out is
//! only there so that a failure ends.

mod hostile;
mod lives;
mod scenarios;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use lunar_common::ids::{PeerKey, SiteId};
use lunar_common::message::{Gossip, Request, Response};
use tokio::sync::mpsc;

use super::event::Decision;
use super::{Mesh, MeshBounds, MeshConfig, MeshEvent, PeerAddress};
use crate::fixture::{Fleet, TestGate};

/// Far longer than anything here takes, on a machine that does much else.
const SAFETY_NET: Duration = Duration::from_secs(90);

/// What a program saw.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Seen {
    Joined(String),
    Left(PeerKey),
    Gossip { author: PeerKey, from: String, message: Gossip },
    Request { from: String, request: Request },
}

/// One machine: its mesh, and a program that answers `Done` to every request and decides alike on all gossip.
pub(super) struct Node {
    pub(super) mesh: Mesh,
    pub(super) gate: Arc<TestGate>,
    pub(super) address: String,
    seen: mpsc::UnboundedReceiver<Seen>,
}

/// How a node differs from an agent that dials nobody.
pub(super) struct Shape<'a> {
    pub(super) site: &'a str,
    pub(super) listen: &'a str,
    pub(super) bootstrap: Vec<&'a Node>,
    pub(super) directory: bool,
    pub(super) decision: Decision,
    pub(super) bounds: MeshBounds,
}

impl Default for Shape<'_> {
    fn default() -> Self {
        Self {
            site: "base",
            listen: "127.0.0.1:0",
            bootstrap: Vec::new(),
            directory: false,
            decision: Decision::Accept,
            bounds: fixed(),
        }
    }
}

/// Bounds under which a node connects to its bootstrap peers and nobody else.
pub(super) fn fixed() -> MeshBounds {
    MeshBounds { site_connections_low: 0, beyond_connections_low: 0, ..MeshBounds::agent() }
}

pub(super) fn machine_key(name: &str) -> SigningKey {
    SigningKey::from_bytes(blake3::hash(name.as_bytes()).as_bytes())
}

pub(super) fn public(key: &SigningKey) -> PeerKey {
    PeerKey(key.verifying_key().to_bytes())
}

impl Node {
    pub(super) async fn start(fleet: &Fleet, name: &str, shape: Shape<'_>) -> Self {
        let key = machine_key(name);
        let data_address = format!("{name}.base.moon:7001");
        let gate = fleet.gate(fleet.enrol(name, &key, shape.site), &data_address);
        Self::start_with(fleet, key, gate, shape).await
    }

    pub(super) async fn start_with(
        fleet: &Fleet,
        key: SigningKey,
        gate: Arc<TestGate>,
        shape: Shape<'_>,
    ) -> Self {
        let bootstrap =
            shape.bootstrap.iter().map(|node| PeerAddress { key: None, address: node.address.clone() });
        let config = MeshConfig {
            key,
            fleet: fleet.id.clone(),
            site: SiteId::new(shape.site).unwrap(),
            listen: vec![shape.listen.to_owned()],
            announce: Vec::new(),
            bootstrap: bootstrap.collect(),
            gate: Arc::clone(&gate) as Arc<dyn crate::gate::Gate>,
            directory: shape.directory,
            bounds: shape.bounds,
        };
        let (mesh, events) = Mesh::start(config).await.unwrap();
        let address = mesh.listen_addresses().await.remove(0);
        let (sender, seen) = mpsc::unbounded_channel();
        tokio::spawn(program(events, shape.decision, sender));
        Self { mesh, gate, address, seen }
    }

    pub(super) fn key(&self) -> PeerKey {
        self.mesh.key()
    }

    /// Waits for something to be seen, passing over everything before it.
    pub(super) async fn until<T>(&mut self, what: &str, mut wanted: impl FnMut(&Seen) -> Option<T>) -> T {
        within(what, async {
            loop {
                let seen = self.seen.recv().await.unwrap_or_else(|| panic!("the mesh ended before {what}"));
                if let Some(found) = wanted(&seen) {
                    return found;
                }
            }
        })
        .await
    }

    pub(super) async fn until_joined(&mut self, name: &str) {
        let what = format!("{name} joined");
        self.until(&what, |seen| matches!(seen, Seen::Joined(other) if other == name).then_some(())).await;
    }

    pub(super) async fn until_left(&mut self, peer: PeerKey) {
        self.until("somebody left", |seen| (*seen == Seen::Left(peer)).then_some(())).await;
    }

    pub(super) async fn until_gossip(&mut self, wanted: &Gossip) -> PeerKey {
        self.until("gossip", |seen| match seen {
            Seen::Gossip { author, message, .. } if message == wanted => Some(*author),
            _ => None,
        })
        .await
    }

    /// The names of the connected machines.
    pub(super) async fn peers(&self) -> Vec<String> {
        let mut names: Vec<_> =
            self.mesh.peers().await.iter().map(|peer| peer.enrolment.server.to_string()).collect();
        names.sort();
        names
    }
}

async fn program(
    mut events: mpsc::Receiver<MeshEvent>,
    decision: Decision,
    seen: mpsc::UnboundedSender<Seen>,
) {
    while let Some(event) = events.recv().await {
        let what = match event {
            MeshEvent::Joined { enrolment, data_address } => {
                assert_eq!(data_address, format!("{}.base.moon:7001", enrolment.server));
                Seen::Joined(enrolment.server.to_string())
            }
            MeshEvent::Left { peer } => Seen::Left(peer),
            MeshEvent::Gossip { author, from, message, receipt } => {
                receipt.decide(decision);
                Seen::Gossip { author, from: from.server.to_string(), message }
            }
            MeshEvent::Request { from, request, reply } => {
                reply.send(Response::Done);
                Seen::Request { from: from.server.to_string(), request }
            }
        };
        // The test may have seen enough.
        let _ = seen.send(what);
    }
}

pub(super) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SAFETY_NET, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain: {what}"),
    }
}
