//! The way to a coordinator.
//!
//! Owns the order in which coordinators are asked. Main invariant: one that answered last is asked first, and
//! the next one only when it does not answer, so that a server's claims, releases and reports keep to one
//! coordinator while that lives. Refuses to retry: when to ask again is the core's decision.

use std::sync::{Arc, Mutex, PoisonError};

use lunar_common::enrolment::Role;
use lunar_common::ids::PeerKey;
use lunar_common::message::{Request, Response};
use lunar_transport::mesh::Mesh;
use lunar_transport::trust_gate::TrustGate;

/// Coordinators asked for one request before it counts as unanswered.
const ASKED_MAX: usize = 3;

/// The way to a coordinator.
#[derive(Clone)]
pub struct Uplink {
    mesh: Mesh,
    gate: Arc<TrustGate>,
    configured: Arc<[PeerKey]>,
    /// Connected ones and the one that answered last, the best first.
    live: Arc<Mutex<Vec<PeerKey>>>,
}

impl Uplink {
    /// A way over this mesh. `configured`: those to ask when the mesh knows none.
    #[must_use]
    pub fn new(mesh: Mesh, gate: Arc<TrustGate>, configured: Vec<PeerKey>) -> Self {
        Self { mesh, gate, configured: configured.into(), live: Arc::default() }
    }

    /// A coordinator can be reached.
    pub fn joined(&self, key: PeerKey) {
        let mut live = self.live();
        if !live.contains(&key) {
            live.push(key);
        }
    }

    /// A machine is not connected any more.
    pub fn left(&self, key: &PeerKey) {
        self.live().retain(|known| known != key);
    }

    /// The connected coordinators.
    #[must_use]
    pub fn connected(&self) -> Vec<PeerKey> {
        self.live().clone()
    }

    /// The answer of the first coordinator that gives one; a refusal is an answer.
    pub async fn ask(&self, request: Request) -> Option<Response> {
        for key in self.order() {
            match self.mesh.request(key, request.clone()).await {
                Ok(response) => {
                    self.prefer(key);
                    return Some(response);
                }
                Err(error) => tracing::debug!(%error, "a coordinator does not answer"),
            }
        }
        None
    }

    fn order(&self) -> Vec<PeerKey> {
        let mut order = self.connected();
        let trust = self.gate.trust();
        let known = trust.machines().filter(|machine| machine.role == Role::Coordinator);
        for key in known.map(|machine| machine.key).chain(self.configured.iter().copied()) {
            if !order.contains(&key) && !trust.is_revoked(&key) {
                order.push(key);
            }
        }
        order.truncate(ASKED_MAX);
        order
    }

    fn prefer(&self, key: PeerKey) {
        let mut live = self.live();
        live.retain(|known| *known != key);
        live.insert(0, key);
    }

    fn live(&self) -> std::sync::MutexGuard<'_, Vec<PeerKey>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
