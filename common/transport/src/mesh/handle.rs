//! The handle through which a program speaks to its mesh.
//!
//! Owns [`Mesh`] and what it sends to the mesh's task. Main invariant: every call ends, with an answer or an
//! error, within the configured time, also when the mesh is gone.

use std::sync::Arc;
use std::time::Duration;

use lunar_common::document::Verified;
use lunar_common::enrolment::Enrolment;
use lunar_common::ids::{ArtifactId, PeerKey, SiteId};
use lunar_common::message::{Gossip, Request, Response};
use tokio::sync::{mpsc, oneshot};

use super::config::{MeshConfig, MeshError};
use super::event::MeshEvent;
use super::record::Providing;
use super::start;

/// Calls that may wait for the mesh's task; further callers wait at their own end.
const COMMANDS_MAX: usize = 256;

/// A handle to a running mesh. Clones speak to the same one; it ends when [`Mesh::shutdown`] is called or the
/// last handle is dropped.
#[derive(Debug, Clone)]
pub struct Mesh {
    commands: mpsc::Sender<Command>,
    key: PeerKey,
    site: SiteId,
    request_timeout: Duration,
}

/// A machine this one is connected to.
#[derive(Debug, Clone)]
pub struct ConnectedPeer {
    /// Who.
    pub enrolment: Arc<Verified<Enrolment>>,
    /// Its data plane's address, `host:port`; empty: it has none.
    pub data_address: String,
    /// Where its control plane was reached or came from, `ip:port`.
    pub address: String,
    /// Whether it keeps others' look-up records.
    pub directory: bool,
}

/// Where a machine says it is, signed by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Who.
    pub peer: PeerKey,
    /// Its site, by its own word.
    pub site: SiteId,
    /// Control plane addresses, `ip:port`.
    pub addresses: Vec<String>,
    /// Its data plane's address, `host:port`; empty: it has none.
    pub data_address: String,
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Nobody knows where it is, or nothing answers there.
    #[error("machine {peer:.16} cannot be reached: {reason}")]
    Unreachable {
        /// Who.
        peer: PeerKey,
        /// What was tried.
        reason: String,
    },
    /// No answer in time. Whether the request took effect is unknown.
    #[error("machine {peer:.16} did not answer in time")]
    TimedOut {
        /// Who.
        peer: PeerKey,
    },
    /// The connection ended first. Whether the request took effect is unknown.
    #[error("the connection to machine {peer:.16} ended before it answered")]
    Disconnected {
        /// Who.
        peer: PeerKey,
    },
    /// What it sent is not an answer.
    #[error("machine {peer:.16} sent something that is not an answer")]
    Malformed {
        /// Who.
        peer: PeerKey,
    },
    /// The request is over the bound, and was not sent.
    #[error("the request is larger than a control message may be")]
    TooLarge,
    /// Too many requests wait already.
    #[error("too many requests wait for an answer")]
    Busy,
    /// The mesh has ended.
    #[error("the mesh has ended")]
    Closed,
}

/// Why a message was not gossiped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Over the bound.
    #[error("the message is larger than a control message may be")]
    TooLarge,
    /// No connection takes it: all their queues are full.
    #[error("no neighbour takes the message now: all queues are full")]
    Busy,
    /// The mesh has ended.
    #[error("the mesh has ended")]
    Closed,
}

/// What the handle asks of the task.
#[derive(Debug)]
pub(super) enum Command {
    Request { to: PeerKey, request: Box<Request>, reply: oneshot::Sender<Result<Response, RequestError>> },
    Publish { message: Box<Gossip>, reply: oneshot::Sender<Result<(), PublishError>> },
    Provide { artifact: ArtifactId, of: Providing },
    StopProviding { artifact: ArtifactId },
    Providers { artifact: ArtifactId, of: Providing, reply: oneshot::Sender<Vec<PeerKey>> },
    Locate { peer: PeerKey, reply: oneshot::Sender<Option<Located>> },
    Peers { reply: oneshot::Sender<Vec<ConnectedPeer>> },
    ListenAddresses { reply: oneshot::Sender<Vec<String>> },
    Evict { peer: PeerKey },
    Shutdown { reply: oneshot::Sender<()> },
}

impl Mesh {
    /// Starts a mesh: listens, dials the bootstrap peers, and keeps itself connected.
    ///
    /// # Errors
    /// [`MeshError`] if an address is wrong or in use.
    pub async fn start(config: MeshConfig) -> Result<(Self, mpsc::Receiver<MeshEvent>), MeshError> {
        let key = PeerKey(config.key.verifying_key().to_bytes());
        let (site, request_timeout) = (config.site.clone(), config.bounds.request_timeout);
        let (commands, waiting) = mpsc::channel(COMMANDS_MAX);
        let events = start::start(config, waiting).await?;
        Ok((Self { commands, key, site, request_timeout }, events))
    }

    /// This machine's own key.
    #[must_use]
    pub fn key(&self) -> PeerKey {
        self.key
    }

    /// Asks a machine and waits for its answer. Connects first if need be: at known addresses, else at those
    /// that the directories know.
    ///
    /// # Errors
    /// [`RequestError`]; after `TimedOut` and `Disconnected` the request may have taken effect.
    pub async fn request(&self, to: PeerKey, request: Request) -> Result<Response, RequestError> {
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            let command = Command::Request { to, request: Box::new(request), reply };
            self.commands.send(command).await.map_err(|_| RequestError::Closed)?;
            answer.await.unwrap_or(Err(RequestError::Closed))
        };
        match tokio::time::timeout(self.request_timeout, exchange).await {
            Ok(result) => result,
            Err(_) => Err(RequestError::TimedOut { peer: to }),
        }
    }

    /// Sends a message to everyone. Returns once it is on its way to this machine's neighbours; with none
    /// connected, the few latest messages are kept for the first who comes. The same message again within a
    /// minute and a half goes nowhere: everyone has seen it.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish(&self, message: Gossip) -> Result<(), PublishError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Publish { message: Box::new(message), reply };
        self.commands.send(command).await.map_err(|_| PublishError::Closed)?;
        answer.await.unwrap_or(Err(PublishError::Closed))
    }

    /// Lets it be known, and keeps it known, that this machine has (part of) an artifact for its site.
    pub async fn provide(&self, artifact: ArtifactId) {
        self.tell(Command::Provide { artifact, of: Providing::Site(self.site.clone()) }).await;
    }

    /// Lets it be known, and keeps it known, that this machine is an origin of an artifact for every site.
    pub async fn provide_as_origin(&self, artifact: ArtifactId) {
        self.tell(Command::Provide { artifact, of: Providing::Origin }).await;
    }

    /// Lets that knowledge run out.
    pub async fn stop_providing(&self, artifact: ArtifactId) {
        self.tell(Command::StopProviding { artifact }).await;
    }

    /// Machines of a site that have (part of) an artifact, as far as the directories know. Empty if none
    /// answers in time.
    pub async fn providers(&self, artifact: ArtifactId, site: SiteId) -> Vec<PeerKey> {
        let of = Providing::Site(site);
        self.ask(|reply| Command::Providers { artifact, of, reply }).await.unwrap_or_default()
    }

    /// Machines that say that they are origins of an artifact, as far as the directories know. Their role is what
    /// their enrolment says, which they have to show before they are heard.
    pub async fn origins(&self, artifact: ArtifactId) -> Vec<PeerKey> {
        let of = Providing::Origin;
        self.ask(|reply| Command::Providers { artifact, of, reply }).await.unwrap_or_default()
    }

    /// Where a machine is: by its own connection, else by the record it left with the directories.
    pub async fn locate(&self, peer: PeerKey) -> Option<Located> {
        self.ask(|reply| Command::Locate { peer, reply }).await.flatten()
    }

    /// The machines this one is connected to, by key.
    pub async fn peers(&self) -> Vec<ConnectedPeer> {
        self.ask(|reply| Command::Peers { reply }).await.unwrap_or_default()
    }

    /// Where this machine listens, `ip:port`, with the ports that the kernel chose.
    pub async fn listen_addresses(&self) -> Vec<String> {
        self.ask(|reply| Command::ListenAddresses { reply }).await.unwrap_or_default()
    }

    /// Drops a machine whose membership has ended: closes its connections, forgets what is known of it. The
    /// gate must refuse it from now on; this call is for the connections that stood before.
    pub async fn evict(&self, peer: PeerKey) {
        self.tell(Command::Evict { peer }).await;
    }

    /// Ends the mesh: connections are closed, the event channel ends.
    pub async fn shutdown(&self) {
        let _ = self.ask(|reply| Command::Shutdown { reply }).await;
    }

    async fn tell(&self, command: Command) {
        // A mesh that has ended has nothing left to be told.
        let _ = self.commands.send(command).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.commands.send(command(reply)).await.ok()?;
            answer.await.ok()
        };
        tokio::time::timeout(self.request_timeout, exchange).await.ok().flatten()
    }
}
