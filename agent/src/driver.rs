//! The dull loop: translate, call the core, carry out its effects, arm the timer.
//!
//! Owns [`Driver`]. Main invariant: effects are carried out in the order the core gave them; a record is on
//! disk before the next one leaves, and if it cannot be put there the loop ends. Refuses to decide.

mod effects;

use std::collections::BTreeMap;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use lunar_agent_core::input::{CallId, Input};
use lunar_agent_core::node::Node;
use lunar_common::bounds::DOCUMENTS_PER_SYNC_MAX;
use lunar_common::document::Verified;
use lunar_common::enrolment::{Enrolment, Role};
use lunar_common::ids::PeerKey;
use lunar_common::message::{Gossip, Request, Response};
use lunar_host::exit::{Exit, Failure};
use lunar_host::{clock, supervisor};
use lunar_transport::mesh::{GossipReceipt, Mesh, MeshEvent, Reply};
use lunar_transport::trust_gate::TrustGate;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::applier_link::Question;
use crate::fetch::FetchEvent;
use crate::hooks::Context;
use crate::journal::NodeJournal;
use crate::local_api::{LocalCall, LocalRequest, LocalResponse, LocalStatus};
use crate::sources::{Found, Sources};
use crate::uplink::Uplink;

/// Answers from tasks that may wait for the loop.
pub const INPUTS_MAX: usize = 256;

/// Rounds of catching up with one newly met machine: at eight documents each, more than are ever kept.
const SYNC_ROUNDS_MAX: usize = 160;

/// Everything the loop works with.
pub struct Driver {
    /// The core.
    pub node: Node,
    /// Its durable records.
    pub journal: NodeJournal,
    /// This machine's key.
    pub key: SigningKey,
    /// The control plane.
    pub mesh: Mesh,
    /// What the planes see of the core's trust state.
    pub gate: Arc<TrustGate>,
    /// The way to a coordinator.
    pub uplink: Uplink,
    /// The dealings with the fetcher.
    pub sources: Sources,
    /// Questions to the applier.
    pub applier: mpsc::Sender<Question>,
    /// What plans' texts are expanded with.
    pub context: Context,
    /// Where tasks send their answers.
    pub inputs: mpsc::Sender<Input>,
    /// Who waits for which answer of the core.
    pub calls: Calls,
}

/// What comes in.
pub struct Incoming {
    /// From the mesh.
    pub mesh: mpsc::Receiver<MeshEvent>,
    /// From the fetcher.
    pub fetch: mpsc::Receiver<FetchEvent>,
    /// From this driver's own tasks.
    pub inputs: mpsc::Receiver<Input>,
    /// From look-ups.
    pub found: mpsc::Receiver<Found>,
    /// From the local socket.
    pub local: mpsc::Receiver<LocalCall>,
}

/// Who waits for an answer of the core.
enum Caller {
    Gossip(GossipReceipt),
    Peer(Reply),
    Local(oneshot::Sender<LocalResponse>),
    /// A document that this agent fetched itself.
    Nobody,
}

/// Callers by number. Each is answered by the core in the same turn, or a round of probes later.
#[derive(Default)]
pub struct Calls {
    next: u64,
    waiting: BTreeMap<CallId, Caller>,
}

impl Calls {
    fn take_in(&mut self, caller: Caller) -> CallId {
        self.next += 1;
        let call = CallId(self.next);
        self.waiting.insert(call, caller);
        call
    }
}

impl Driver {
    /// Runs until `stop` ends, or something fails that must stop the program.
    ///
    /// # Errors
    /// [`Failure`]: a record could not be written, or a plane has ended.
    pub async fn run(
        mut self,
        mut incoming: Incoming,
        stop: impl Future<Output = ()>,
    ) -> Result<(), Failure> {
        tokio::pin!(stop);
        let watchdog = supervisor::watchdog_interval();
        let mut alive_at = watchdog.map(|interval| Instant::now() + interval);
        self.carry_out().await?;
        loop {
            let deadline = self.node.poll_timeout().map(clock::instant_of);
            let look_up_at = self.sources.look_up_at();
            tokio::select! {
                () = &mut stop => break,
                event = incoming.mesh.recv() => match event {
                    Some(event) => self.mesh_event(event).await,
                    None => return Err(ended("the mesh")),
                },
                event = incoming.fetch.recv() => match event {
                    Some(event) => {
                        let progress = self.sources.fetched(event).await;
                        self.node.handle(Input::Fetched(progress), clock::now());
                    }
                    None => return Err(ended("the fetcher")),
                },
                Some(input) = incoming.inputs.recv() => self.node.handle(input, clock::now()),
                Some(found) = incoming.found.recv() => self.sources.found(found).await,
                Some(call) = incoming.local.recv() => self.local_call(call).await,
                () = clock::sleep_until_some(deadline) => self.node.handle_timeout(clock::now()),
                () = clock::sleep_until_some(look_up_at) => self.sources.look_up(),
                () = clock::sleep_until_some(alive_at) => {}
            }
            self.carry_out().await?;
            // Fed here, after a whole turn: a loop that is stuck in its work starves the watchdog.
            if let (Some(interval), Some(at)) = (watchdog, alive_at)
                && Instant::now() >= at
            {
                supervisor::alive();
                alive_at = Some(Instant::now() + interval);
            }
        }
        self.sources.stop().await;
        self.mesh.shutdown().await;
        Ok(())
    }

    async fn mesh_event(&mut self, event: MeshEvent) {
        match event {
            MeshEvent::Joined { enrolment, data_address } => self.joined(&enrolment, data_address).await,
            MeshEvent::Left { peer } => {
                self.uplink.left(&peer);
                self.sources.left(&peer);
            }
            MeshEvent::Gossip { author, message, receipt, .. } => match message {
                Gossip::Document(document) => {
                    let call = self.calls.take_in(Caller::Gossip(receipt));
                    self.node.handle(Input::Document { call, document }, clock::now());
                }
                Gossip::Presence(presence) => {
                    receipt.accept();
                    self.sources.present(author, presence).await;
                }
                Gossip::Coordinator { epoch, .. } => {
                    receipt.accept();
                    let trust = self.node.trust();
                    if trust.machine(&author).is_some_and(|machine| machine.role == Role::Coordinator) {
                        self.uplink.joined(author);
                        self.node.handle(Input::CoordinatorHeard { epoch }, clock::now());
                    }
                }
            },
            MeshEvent::Request { from, request, reply } => self.peer_request(&from, request, reply),
        }
    }

    async fn joined(&mut self, machine: &Arc<Verified<Enrolment>>, data_address: String) {
        tracing::debug!(server = %machine.server, site = %machine.site, "joined");
        self.node.handle(Input::Met { machine: machine.clone() }, clock::now());
        if machine.role == Role::Coordinator {
            self.uplink.joined(machine.key);
            self.node.handle(Input::CoordinatorReachable, clock::now());
        }
        self.sources.joined(machine, data_address).await;
        self.catch_up(machine.key);
    }

    /// Asks a newly met machine for the documents that passed while nobody could tell us.
    fn catch_up(&self, peer: PeerKey) {
        let (mesh, gate, inputs) = (self.mesh.clone(), self.gate.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let mut have: Vec<_> = gate.trust().documents().iter().map(|document| document.hash()).collect();
            for _ in 0..SYNC_ROUNDS_MAX {
                let request = Request::Sync { have: have.clone() };
                let documents = match mesh.request(peer, request).await {
                    Ok(Response::Documents(documents)) => documents,
                    Ok(other) => {
                        unanswered::<()>("sync", Some(other));
                        return;
                    }
                    Err(error) => return tracing::debug!(%error, "not caught up with a machine"),
                };
                let last = documents.len() < DOCUMENTS_PER_SYNC_MAX;
                for document in documents {
                    have.push(document.hash());
                    let input = Input::Document { call: CallId(0), document };
                    if inputs.send(input).await.is_err() {
                        return;
                    }
                }
                if last {
                    return;
                }
            }
        });
    }

    fn peer_request(&mut self, from: &Arc<Verified<Enrolment>>, request: Request, reply: Reply) {
        match request {
            Request::Sync { have } => {
                reply.send(Response::Documents(self.node.trust().missing_from(&have)));
            }
            Request::Document(document) => {
                let call = self.calls.take_in(Caller::Peer(reply));
                self.node.handle(Input::Document { call, document }, clock::now());
            }
            Request::Group(question) => {
                let call = self.calls.take_in(Caller::Peer(reply));
                self.node.handle(Input::GroupAsked { call, asker: from.clone(), question }, clock::now());
            }
            Request::Grant(grant) => {
                self.node.handle(Input::Met { machine: from.clone() }, clock::now());
                let call = self.calls.take_in(Caller::Peer(reply));
                self.node.handle(Input::Grant { call, grant }, clock::now());
            }
            Request::Claim(_) | Request::Release(_) | Request::Report(_) | Request::GroupMembers => {
                reply.refuse("this is an agent: it grants and keeps nothing");
            }
        }
    }

    async fn local_call(&mut self, call: LocalCall) {
        match call.request {
            LocalRequest::Status => {
                let response = LocalResponse::Status(Box::new(self.status().await));
                // A client that has gone needs no answer.
                let _ = call.reply.send(response);
            }
            LocalRequest::Inject(document) => {
                let call = self.calls.take_in(Caller::Local(call.reply));
                self.node.handle(Input::Document { call, document }, clock::now());
            }
        }
    }

    async fn status(&self) -> LocalStatus {
        let me = self.node.me();
        let peers = self.mesh.peers().await;
        let coordinators = peers.iter().filter(|peer| peer.enrolment.role == Role::Coordinator);
        LocalStatus {
            server: me.server.clone(),
            site: me.site.clone(),
            tier: me.tier,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            peers: u32::try_from(peers.len()).unwrap_or(u32::MAX),
            coordinators: coordinators.map(|peer| peer.enrolment.server.clone()).collect(),
            trust_root: self.node.trust().root().version,
            node: self.node.status(),
        }
    }
}

/// An answer of another kind counts as none, and is told.
fn unanswered<T>(what: &str, response: Option<Response>) -> Option<T> {
    match response {
        Some(Response::Refused { reason }) => tracing::info!(%reason, "a {what} was refused"),
        Some(_) => tracing::info!("a {what} was answered with something else"),
        None => tracing::debug!("a {what} was not answered"),
    }
    None
}

fn ended(what: &str) -> Failure {
    Failure::new(Exit::Internal, anyhow::anyhow!("{what} has ended by itself"))
}
