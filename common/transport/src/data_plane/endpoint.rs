//! The data plane's endpoint: who comes in, whom we dial.
//!
//! Owns [`DataPlane`]. Main invariant: a connection that did not pass the gate carries nothing but the hello,
//! is closed, and is counted until it is; both ends of every link know each other's enrolment; a link whose other
//! end is a member no more, or has begun another life, is closed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libp2p::identity::Keypair;
use lunar_common::ids::{ArtifactId, PeerKey};
use quinn::{Connection, ConnectionError, Endpoint, Incoming, RecvStream, SendStream, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::net::lookup_host;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::config::{self, DataPlaneConfig, Distance, PlaneLimits, TlsError};
use super::link::Link;
use super::protocol::{Note, ReadError, read_bytes, write_bytes};
use super::serve::{Service, see_the_end};
use crate::gate::{self, Admitted, Gate, GateError, HELLO_BYTES_MAX, Life, judge};

/// Close code: nothing is wrong.
pub(super) const CLOSED: u32 = 0;
/// Close code: the hello was refused. Why is for our log, not for a stranger.
const REFUSED: u32 = 1;
/// Close code: no room.
const FULL: u32 = 2;

/// Incoming links not yet taken by the program.
const INCOMING_MAX: usize = 64;

/// A bound data plane. Cheap to clone; closed by [`DataPlane::close`].
#[derive(Clone)]
pub struct DataPlane {
    inner: Arc<Inner>,
}

struct Inner {
    endpoint: Endpoint,
    key: Keypair,
    gate: Arc<dyn Gate>,
    service: Arc<Service>,
    limits: PlaneLimits,
    connections: AtomicUsize,
    /// The links that stand, by peer.
    standing: Mutex<BTreeMap<PeerKey, Vec<(Life, Connection)>>>,
}

/// Why a data plane could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The machine's secret key is none.
    #[error("the machine's secret key is not an ed25519 key")]
    Key,
    /// No TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The socket.
    #[error("cannot listen on {address} for the data plane")]
    Socket {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// Why a peer could not be connected to.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Its key is none.
    #[error("{0:.16} is not an ed25519 key")]
    Key(PeerKey),
    /// Its address leads nowhere.
    #[error("{address:?} is no address")]
    Address {
        /// What was given.
        address: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// No TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// quinn cannot dial.
    #[error("cannot dial")]
    Dial(#[from] quinn::ConnectError),
    /// It did not answer in time.
    #[error("no answer in time")]
    Timeout,
    /// The connection broke before the hellos were through.
    #[error("the connection broke")]
    Broken(#[from] ConnectionError),
    /// It has no room.
    #[error("the peer has no room for another connection")]
    Full,
    /// It refused our hello.
    #[error("the peer refused our enrolment")]
    RefusedUs,
    /// It showed no usable certificate.
    #[error("the peer showed no ed25519 identity")]
    Identity,
    /// Its hello could not be read.
    #[error("the peer's hello could not be read")]
    Hello(#[source] ReadError),
    /// Ours could not be sent.
    #[error("our hello could not be sent")]
    Send(#[source] std::io::Error),
    /// It did not pass the gate.
    #[error(transparent)]
    Gate(#[from] GateError),
}

impl DataPlane {
    /// Binds the endpoint and begins to serve. Links that peers open come out of the receiver.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(config: DataPlaneConfig) -> Result<(Self, mpsc::Receiver<Link>), BindError> {
        let DataPlaneConfig { listen, secret, gate, source, limits } = config;
        let key = gate::keypair(secret).ok_or(BindError::Key)?;
        let server = config::server(&key, &limits)?;
        let endpoint = Endpoint::server(server, listen)
            .map_err(|source| BindError::Socket { address: listen, source })?;
        let service = Arc::new(Service::new(source, &limits));
        let connections = AtomicUsize::new(0);
        let inner = Inner { endpoint, key, gate, service, limits, connections, standing: Mutex::default() };
        let plane = Self { inner: Arc::new(inner) };
        let (links, incoming) = mpsc::channel(INCOMING_MAX);
        tokio::spawn(plane.clone().accept(links));
        Ok((plane, incoming))
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The operating system's.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.inner.endpoint.local_addr()
    }

    /// Connects to a peer, which must prove this key and its enrolment.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(
        &self,
        key: PeerKey,
        address: &str,
        distance: Distance,
    ) -> Result<Link, ConnectError> {
        let dialled = timeout(config::connect_timeout(distance), self.dial(key, address, distance)).await;
        let (connection, admitted) = dialled.map_err(|_| ConnectError::Timeout)??;
        self.inner.connections.fetch_add(1, Ordering::Relaxed);
        Ok(self.link(connection, key, admitted))
    }

    /// Tells everyone who listens to an artifact.
    pub fn announce(&self, artifact: ArtifactId, note: Note) {
        // Nobody listening is no error.
        self.inner.service.announce(artifact, note);
    }

    /// What is being fetched of an artifact for others from now on: by this machine; and by others, as it heard, for so
    /// long at most. Whoever begins to follow is told. Lists of at most
    /// [`CHUNKS_PER_NOTE_MAX`](lunar_common::bounds::CHUNKS_PER_NOTE_MAX) fit the note in which they go.
    pub fn fetches(&self, artifact: ArtifactId, taking: Vec<u32>, heard: Vec<(u32, Duration)>) {
        self.inner.service.fetches(artifact, taking, heard);
    }

    /// Connections that passed the gate.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.inner.connections.load(Ordering::Relaxed)
    }

    /// Closes every connection and stops listening. Waits until the peers were told.
    pub async fn close(&self) {
        self.inner.endpoint.close(VarInt::from_u32(CLOSED), b"");
        self.inner.endpoint.wait_idle().await;
    }

    async fn dial(
        &self,
        key: PeerKey,
        address: &str,
        distance: Distance,
    ) -> Result<(Connection, Admitted), ConnectError> {
        let peer = gate::peer_id(&key).ok_or(ConnectError::Key(key))?;
        let wrong = |source| ConnectError::Address { address: address.to_owned(), source };
        let to = lookup_host(address).await.map_err(wrong)?.next();
        let to = to.ok_or_else(|| wrong(std::io::ErrorKind::NotFound.into()))?;
        let client = config::client(&self.inner.key, peer, distance)?;
        let connection = self.inner.endpoint.connect_with(client, to, "lunar")?.await?;
        let admitted = match self.greet(&connection, key).await {
            Ok(admitted) => admitted,
            Err(error) => {
                // What the peer said when it closed tells more than how our stream broke.
                let closed = connection.close_reason();
                connection.close(VarInt::from_u32(REFUSED), b"");
                return Err(match closed {
                    Some(ConnectionError::ApplicationClosed(closed)) => {
                        of_close_code(closed.error_code, error)
                    }
                    _ => error,
                });
            }
        };
        Ok((connection, admitted))
    }

    /// Both hellos, ours first: who is dialled learns who dials before it says who it is.
    async fn greet(&self, connection: &Connection, key: PeerKey) -> Result<Admitted, ConnectError> {
        if proved_key(connection) != Some(key) {
            return Err(ConnectError::Identity);
        }
        let (mut send, mut receive) = connection.open_bi().await?;
        say_hello(self.inner.gate.as_ref(), &mut send).await.map_err(ConnectError::Send)?;
        let hello = read_bytes(&mut receive, HELLO_BYTES_MAX).await.map_err(ConnectError::Hello)?;
        see_the_end(&mut receive);
        Ok(judge(self.inner.gate.as_ref(), key, &hello)?)
    }

    async fn accept(self, links: mpsc::Sender<Link>) {
        let strangers = Arc::new(tokio::sync::Semaphore::new(self.inner.limits.strangers_max));
        while let Some(incoming) = self.inner.endpoint.accept().await {
            let Ok(place) = strangers.clone().try_acquire_owned() else {
                incoming.refuse();
                continue;
            };
            // Under load an address must be shown to be real before anything is kept for it.
            if strangers.available_permits() < self.inner.limits.strangers_max / 2 && incoming.may_retry() {
                let _ = incoming.retry();
                continue;
            }
            let (plane, links) = (self.clone(), links.clone());
            tokio::spawn(async move {
                let from = incoming.remote_address();
                match plane.receive(incoming).await {
                    Ok(link) => {
                        drop(place);
                        // The program is gone when nobody takes links any more.
                        let _ = links.send(link).await;
                    }
                    Err(error) => {
                        let error: &dyn std::error::Error = &error;
                        tracing::warn!(%from, error, "a peer did not pass the data plane's gate");
                    }
                }
            });
        }
    }

    async fn receive(&self, incoming: Incoming) -> Result<Link, ConnectError> {
        let handshake = config::connect_timeout(Distance::Earth);
        let connection = timeout(handshake, incoming).await.map_err(|_| ConnectError::Timeout)??;
        let greeted = timeout(handshake, self.be_greeted(&connection)).await;
        let (key, admitted) = match greeted.map_err(|_| ConnectError::Timeout).and_then(|greeted| greeted) {
            Ok(greeted) => greeted,
            Err(error) => {
                let code = if matches!(error, ConnectError::Full) { FULL } else { REFUSED };
                connection.close(VarInt::from_u32(code), b"");
                return Err(error);
            }
        };
        Ok(self.link(connection, key, admitted))
    }

    /// Both hellos, theirs first: one that does not pass is told nothing.
    async fn be_greeted(&self, connection: &Connection) -> Result<(PeerKey, Admitted), ConnectError> {
        let key = proved_key(connection).ok_or(ConnectError::Identity)?;
        let (mut send, mut receive): (SendStream, RecvStream) = connection.accept_bi().await?;
        let hello = read_bytes(&mut receive, HELLO_BYTES_MAX).await.map_err(ConnectError::Hello)?;
        see_the_end(&mut receive);
        let admitted = judge(self.inner.gate.as_ref(), key, &hello)?;
        let before = self.inner.connections.fetch_add(1, Ordering::Relaxed);
        if before >= self.inner.limits.connections_max {
            self.inner.connections.fetch_sub(1, Ordering::Relaxed);
            return Err(ConnectError::Full);
        }
        if let Err(error) = say_hello(self.inner.gate.as_ref(), &mut send).await {
            self.inner.connections.fetch_sub(1, Ordering::Relaxed);
            return Err(ConnectError::Send(error));
        }
        Ok((key, admitted))
    }

    /// A link that passed the gate and was counted: serves it until it is closed.
    fn link(&self, connection: Connection, key: PeerKey, admitted: Admitted) -> Link {
        self.enter(key, admitted.life, &connection);
        let (plane, served, enrolment) = (self.clone(), connection.clone(), admitted.enrolment.clone());
        tokio::spawn(async move {
            let mut membership = plane.inner.gate.changes();
            let mut serving = std::pin::pin!(plane.inner.service.clone().serve(served.clone()));
            loop {
                // Also at once: its membership may have ended since it was judged.
                if plane.inner.gate.admit(enrolment.document()).is_err() {
                    tracing::info!(peer = %enrolment.server, "a linked machine is a member no more");
                    served.close(VarInt::from_u32(REFUSED), b"");
                }
                tokio::select! {
                    () = &mut serving => break,
                    Ok(()) = membership.changed() => {}
                }
            }
            plane.leave(&key, &served);
            plane.inner.connections.fetch_sub(1, Ordering::Relaxed);
        });
        Link { connection, key, admitted }
    }

    /// Takes a link among those that stand. Those of an earlier life of the machine are dead ones that have not
    /// run out yet, and are closed, so that nothing is asked of them in vain.
    fn enter(&self, key: PeerKey, life: Life, connection: &Connection) {
        let mut standing = self.standing();
        let links = standing.entry(key).or_default();
        for (_, dead) in links.iter().filter(|(earlier, _)| *earlier < life) {
            dead.close(VarInt::from_u32(CLOSED), b"");
        }
        links.push((life, connection.clone()));
    }

    fn leave(&self, key: &PeerKey, connection: &Connection) {
        let mut standing = self.standing();
        if let Some(links) = standing.get_mut(key) {
            links.retain(|(_, other)| other.stable_id() != connection.stable_id());
            if links.is_empty() {
                standing.remove(key);
            }
        }
    }

    fn standing(&self) -> std::sync::MutexGuard<'_, BTreeMap<PeerKey, Vec<(Life, Connection)>>> {
        // Nothing in here can panic half-way through a change.
        self.inner.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn say_hello(gate: &dyn Gate, send: &mut SendStream) -> std::io::Result<()> {
    let hello = gate
        .hello()
        .encode()
        .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidInput, error))?;
    write_bytes(send, &hello).await?;
    send.finish()?;
    Ok(())
}

/// The key that the other end's certificate proves. The certificate was verified in the handshake.
fn proved_key(connection: &Connection) -> Option<PeerKey> {
    let certificates = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let certificate = libp2p_tls::certificate::parse(certificates.first()?).ok()?;
    gate::peer_key(&certificate.peer_id())
}

fn of_close_code(code: VarInt, otherwise: ConnectError) -> ConnectError {
    match u32::try_from(code.into_inner()) {
        Ok(FULL) => ConnectError::Full,
        Ok(REFUSED) => ConnectError::RefusedUs,
        Ok(_) | Err(_) => otherwise,
    }
}
