//! Who may connect: the one gate of both planes.
//!
//! Owns [`Hello`], the first thing that two machines say to each other, and [`Gate`], which judges it. Main
//! invariant: nothing else is read from a peer before its enrolment was verified and found to bind the very
//! key that TLS proved. Refuses to trust what a peer says of itself: site and role come from the enrolment.

use std::sync::Arc;

use libp2p::PeerId;
use libp2p::identity::{self, PublicKey};
use lunar_common::document::{SignedDocument, Verified};
use lunar_common::enrolment::Enrolment;
use lunar_common::ids::PeerKey;
use lunar_common::trust::Refusal;
use lunar_common::wire::{self, WireError};
use serde::{Deserialize, Serialize};

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
}

/// A peer that passed the gate.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// Its enrolment: who it is, where it stands, what it may do.
    pub enrolment: Arc<Verified<Enrolment>>,
    /// Where it says its data plane listens, `host:port`; empty if it has none.
    pub data_address: String,
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
    Ok(Admitted { enrolment, data_address: hello.data_address })
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
