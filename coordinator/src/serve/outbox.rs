//! What leaves the coordinator once it may.
//!
//! Owns [`Outgoing`] and its carrying out. Main invariant: it is given only what the disk no longer holds back,
//! and carries it out in that order. Refuses to wait for a peer: what a peer must answer goes on beside.

use std::sync::Arc;

use ed25519_dalek::SigningKey;
use lunar_common::document::SignedDocument;
use lunar_common::ids::{Epoch, PeerKey, ServerId};
use lunar_common::lease::{ClaimAnswer, Grant};
use lunar_common::message::{Gossip, Request, Response};
use lunar_common::wire::{Signed, SignedMessage};
use lunar_coordinator_core::effect::Answer;
use lunar_transport::mesh::{GossipReceipt, Mesh, Reply};
use tokio::sync::{Semaphore, oneshot};

use super::driver::DocumentAnswer;

/// Grants and gossip on their way at once. A grant that finds no place is not lost: its server's next claim is
/// answered with it.
const SENDING_MAX: usize = 512;

/// Something that leaves.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// The answer to a machine's request.
    Answer { reply: Reply, answer: Answer },
    /// A grant, pushed.
    Push { to: ServerId, key: PeerKey, grant: Grant },
    /// That this coordinator lives.
    Announce { epoch: Epoch },
    /// A document for everyone.
    Publish(Arc<SignedDocument>),
    /// A gossiped document was taken in: pass it on.
    PassOn(GossipReceipt),
    /// A machine's document was taken in.
    Taken(Reply),
    /// An operator's document was taken in.
    Told { reply: oneshot::Sender<DocumentAnswer>, answer: DocumentAnswer },
}

/// Carries out what leaves.
pub(super) struct Outbox {
    mesh: Mesh,
    key: SigningKey,
    me: ServerId,
    sending: Arc<Semaphore>,
}

impl Outbox {
    pub(super) fn new(mesh: Mesh, key: SigningKey, me: ServerId) -> Self {
        Self { mesh, key, me, sending: Arc::new(Semaphore::new(SENDING_MAX)) }
    }

    pub(super) fn send(&self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Answer { reply, answer } => reply.send(self.response(answer)),
            Outgoing::Push { to, key, grant } => {
                let (campaign, lease) = (grant.campaign.clone(), grant.lease);
                let request = Request::Grant(self.sign(&grant));
                let mesh = self.mesh.clone();
                self.beside(async move {
                    match mesh.request(key, request).await {
                        Ok(Response::Done) => {
                            tracing::debug!(%campaign, server = %to, %lease, "a grant was taken");
                        }
                        Ok(Response::Refused { reason }) => {
                            tracing::info!(%campaign, server = %to, %lease, %reason, "a grant was refused");
                        }
                        Ok(_) => {
                            tracing::info!(server = %to, %lease, "a grant was answered with something else")
                        }
                        Err(error) => {
                            tracing::info!(%campaign, server = %to, %lease, %error, "a grant did not arrive");
                        }
                    }
                });
            }
            Outgoing::Announce { epoch } => {
                self.publish(Gossip::Coordinator { server: self.me.clone(), epoch });
            }
            Outgoing::Publish(document) => self.publish(Gossip::Document(SignedDocument::clone(&document))),
            Outgoing::PassOn(receipt) => receipt.accept(),
            Outgoing::Taken(reply) => reply.send(Response::Done),
            // Whoever asked may have gone.
            Outgoing::Told { reply, answer } => drop(reply.send(answer)),
        }
    }

    fn response(&self, answer: Answer) -> Response {
        match answer {
            Answer::Granted(grant) => Response::Claim(ClaimAnswer::Granted(self.sign(&grant))),
            Answer::Wait { reason, retry_after_ms } => {
                Response::Claim(ClaimAnswer::Wait { reason, retry_after_ms })
            }
            Answer::Refused(refusal) => Response::Claim(ClaimAnswer::Refused(refusal)),
            Answer::Done => Response::Done,
            Answer::Report(answer) => Response::Report(answer),
            Answer::Invalid { reason } => Response::Refused { reason },
        }
    }

    fn sign<M: SignedMessage>(&self, message: &M) -> Signed {
        Signed::sign(message, &self.key).expect("the core keeps its messages within their bounds")
    }

    fn publish(&self, message: Gossip) {
        let mesh = self.mesh.clone();
        self.beside(async move {
            if let Err(error) = mesh.publish(message).await {
                tracing::debug!(%error, "not gossiped; neighbours catch up when they connect");
            }
        });
    }

    fn beside(&self, work: impl Future<Output = ()> + Send + 'static) {
        match self.sending.clone().try_acquire_owned() {
            Ok(place) => drop(tokio::spawn(async move {
                work.await;
                drop(place);
            })),
            Err(_) => {
                tracing::warn!("too much is on its way to peers that do not answer; one message is dropped")
            }
        }
    }
}
