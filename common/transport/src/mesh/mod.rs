//! The control plane: a libp2p mesh of enrolled machines over QUIC.
//!
//! Owns connections, gossip, look-ups and requests between machines. Main invariant: nothing that a peer says
//! is read before that peer has proved its enrolment on the connection's first stream, and nothing it says can
//! make us hold more than [`lunar_common::bounds`] allow. Refuses to decide what a message means: it checks
//! form, author and size, and hands the rest to the program through [`MeshEvent`].

mod address;
mod admission;
mod behaviour;
mod book;
mod codec;
mod config;
mod event;
mod gossip;
mod handle;
mod look_ups;
mod neighbours;
mod outbox;
mod record;
mod requests;
mod start;
mod store;
mod task;

pub use address::{AddressError, PeerAddress};
pub use config::{MeshBounds, MeshConfig, MeshError};
pub use event::{Decision, GossipReceipt, MeshEvent, Reply};
pub use handle::{ConnectedPeer, Located, Mesh, PublishError, RequestError};

#[cfg(test)]
mod tests;
