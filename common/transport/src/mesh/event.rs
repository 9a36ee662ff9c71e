//! What a mesh tells its program.
//!
//! Owns [`MeshEvent`] and the handles inside it. Main invariant: whoever is named in an event has proved its
//! enrolment on the connection the event came over.

use std::fmt;
use std::sync::Arc;

use lunar_common::document::{SignedDocument, Verified};
use lunar_common::enrolment::Enrolment;
use lunar_common::ids::PeerKey;
use lunar_common::message::{Gossip, Request, Response};
use tokio::sync::{mpsc, oneshot};

use super::outbox::Held;

/// Something that happened in the mesh.
#[derive(Debug)]
pub enum MeshEvent {
    /// A machine is connected, and hears what this one publishes from now on.
    Joined {
        /// Who.
        enrolment: Arc<Verified<Enrolment>>,
        /// Its data plane's address, `host:port`, by its own word; empty: it has none.
        data_address: String,
    },
    /// The last connection of a machine that had joined is gone.
    Left {
        /// Who.
        peer: PeerKey,
    },
    /// A message for everyone. It is passed on only once `receipt` says so.
    Gossip {
        /// The machine that wrote it; its signature is verified, its enrolment is not known here.
        author: PeerKey,
        /// The neighbour that passed it on.
        from: Arc<Verified<Enrolment>>,
        /// The message.
        message: Gossip,
        /// Decides what becomes of it.
        receipt: GossipReceipt,
    },
    /// A question. Dropping `reply` unanswered fails it at the other end.
    Request {
        /// Who asks.
        from: Arc<Verified<Enrolment>>,
        /// What.
        request: Request,
        /// Answers it.
        reply: Reply,
    },
}

/// What becomes of a gossiped message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// True and useful: pass it on.
    Accept,
    /// Nothing wrong, but not to be passed on (old news, not for now).
    Ignore,
    /// False (a bad signature, a lie): not passed on, and the neighbour that sent it is penalised.
    Reject,
}

/// The handle that decides on one gossiped message. Dropped undecided, the message is ignored.
pub struct GossipReceipt {
    pub(super) verdict: Option<Verdict>,
    pub(super) verdicts: mpsc::UnboundedSender<Verdict>,
    pub(super) _held: Held,
}

/// A decision on its way to the mesh's task.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) message: libp2p::gossipsub::MessageId,
    pub(super) source: libp2p::PeerId,
    pub(super) decision: Decision,
    /// The document in the message, if it is one.
    pub(super) document: Option<SignedDocument>,
}

impl GossipReceipt {
    /// Passes the message on.
    pub fn accept(self) {
        self.decide(Decision::Accept);
    }

    /// Keeps the message to ourselves.
    pub fn ignore(self) {
        self.decide(Decision::Ignore);
    }

    /// Keeps the message to ourselves and penalises the neighbour that sent it.
    pub fn reject(self) {
        self.decide(Decision::Reject);
    }

    /// Any of the three.
    pub fn decide(mut self, decision: Decision) {
        self.send(decision);
    }

    fn send(&mut self, decision: Decision) {
        if let Some(verdict) = self.verdict.take() {
            // A mesh that is gone has nothing to pass on.
            let _ = self.verdicts.send(Verdict { decision, ..verdict });
        }
    }
}

impl Drop for GossipReceipt {
    fn drop(&mut self) {
        self.send(Decision::Ignore);
    }
}

impl fmt::Debug for GossipReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GossipReceipt").field("verdict", &self.verdict).finish_non_exhaustive()
    }
}

/// The handle that answers one request.
#[derive(Debug)]
pub struct Reply(pub(crate) oneshot::Sender<Response>);

impl Reply {
    /// Answers. Nothing happens if the one who asked has gone.
    pub fn send(self, response: Response) {
        let _ = self.0.send(response);
    }

    /// Answers with a refusal.
    pub fn refuse(self, reason: impl Into<String>) {
        self.send(Response::Refused { reason: reason.into() });
    }
}
