//! Who may connect: the one gate of both planes.
//!
//! Owns [`Hello`], the first thing that two machines say to each other, and [`Gate`], which judges it. Main
//! invariant: nothing else is read from a peer before its enrolment was verified and found to bind the very
//! key that TLS proved. Refuses to trust what a peer says of itself: site and role come from the enrolment.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use libp2p::PeerId;
use libp2p::identity::{self, PublicKey};
use lunar_common::document::{SignedDocument, Verified};
use lunar_common::enrolment::Enrolment;
use lunar_common::ids::PeerKey;
use lunar_common::trust::Refusal;
use lunar_common::wire::{self, WireError};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Largest encoded [`Hello`]: an enrolment with all the signatures it needs, and an address. Strangers can
/// make us read this much and no more.
pub const HELLO_BYTES_MAX: usize = 64 * 1024;

/// Longest data address in a [`Hello`]: a DNS name and a port.
pub const ADDRESS_BYTES_MAX: usize = 262;

/// The first thing said on every connection, by both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The sender's enrolment.
    pub enrolment: SignedDocument,
    /// Where the sender's data plane listens, `host:port`; empty if it has none.
    pub data_address: String,
    /// Which of its lives the sender is in.
    pub life: Life,
}

/// One run of a program, from its start to its end; a later run of the same machine's has a larger number. By it
/// a connection to a program that was killed is told from one to the program that was started in its place.
///
/// Only lives of one machine are compared, never two machines' clocks. If a machine's clock went back between
/// two lives, the later one looks like the earlier: each neighbour that still believes in the dead connection
/// then refuses the living one until the dead one has stood for the gate's time-out, or has run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Life(pub u64);

impl Life {
    /// A new life: microseconds of this machine's wall clock, now. To be called once, when a program starts.
    #[must_use]
    pub fn begin() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Hello {
    /// The bytes that are sent.
    ///
    /// # Errors
    /// [`WireError`] if it is over its bound.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(self, HELLO_BYTES_MAX)
    }

    /// A hello from a stranger's bytes.
    ///
    /// # Errors
    /// [`WireError`] says why not.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::decode(bytes, HELLO_BYTES_MAX)
    }
}

/// Judges strangers, and says who we are. Implemented over the program's trust state.
pub trait Gate: Send + Sync {
    /// Whether the machine of this enrolment is a member now.
    ///
    /// # Errors
    /// [`Refusal`] names the reason.
    fn admit(&self, enrolment: &SignedDocument) -> Result<Arc<Verified<Enrolment>>, Refusal>;

    /// Our own first words.
    fn hello(&self) -> Hello;

    /// Changes whenever somebody who was admitted may be a member no more. Both planes judge all who are connected
    /// anew then, and close on those who are out.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// A peer that passed the gate.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// Its enrolment: who it is, where it stands, what it may do.
    pub enrolment: Arc<Verified<Enrolment>>,
    /// Where it says its data plane listens, `host:port`; empty if it has none.
    pub data_address: String,
    /// Which of its lives it is in, by its own word.
    pub life: Life,
}

/// Why a peer did not pass.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// What it said first is no hello.
    #[error("the peer's first message is not a hello")]
    Hello(#[source] WireError),
    /// Its data address is too long.
    #[error("the peer's data address has {0} bytes, more than {ADDRESS_BYTES_MAX}")]
    Address(usize),
    /// Its enrolment is not good.
    #[error("the peer's enrolment is refused")]
    Refused(#[source] Refusal),
    /// Its enrolment is somebody else's.
    #[error("the enrolment of {server} binds key {enrolled:.16}, but the peer proved key {proved:.16}")]
    OtherKey {
        /// Whose enrolment it showed.
        server: lunar_common::ids::ServerId,
        /// The key in it.
        enrolled: PeerKey,
        /// The key that TLS proved.
        proved: PeerKey,
    },
}

/// Judges a peer's first words against the key that TLS proved.
///
/// # Errors
/// [`GateError`]; the connection must be closed then, with nothing more read.
pub fn judge(gate: &dyn Gate, proved: PeerKey, hello: &[u8]) -> Result<Admitted, GateError> {
    let hello = Hello::decode(hello).map_err(GateError::Hello)?;
    if hello.data_address.len() > ADDRESS_BYTES_MAX {
        return Err(GateError::Address(hello.data_address.len()));
    }
    let enrolment = gate.admit(&hello.enrolment).map_err(GateError::Refused)?;
    if enrolment.key != proved {
        return Err(GateError::OtherKey {
            server: enrolment.server.clone(),
            enrolled: enrolment.key,
            proved,
        });
    }
    Ok(Admitted { enrolment, data_address: hello.data_address, life: hello.life })
}

/// The libp2p name of a machine key; `None` if the bytes are no ed25519 key.
#[must_use]
pub fn peer_id(key: &PeerKey) -> Option<PeerId> {
    let key = identity::ed25519::PublicKey::try_from_bytes(&key.0).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// The machine key behind a libp2p name; `None` if it is not an ed25519 one. Names of ed25519 keys carry the
/// key itself, not a hash of it.
#[must_use]
pub fn peer_key(peer: &PeerId) -> Option<PeerKey> {
    let public = PublicKey::try_decode_protobuf(peer.as_ref().digest()).ok()?;
    Some(PeerKey(public.try_into_ed25519().ok()?.to_bytes()))
}

/// The libp2p form of a machine's secret key.
#[must_use]
pub fn keypair(mut secret: [u8; 32]) -> Option<identity::Keypair> {
    identity::Keypair::ed25519_from_bytes(&mut secret).ok()
}

/// The machine key of a secret key; `None` if the bytes are none.
#[must_use]
pub fn public_key(secret: [u8; 32]) -> Option<PeerKey> {
    peer_key(&keypair(secret)?.public().to_peer_id())
}
