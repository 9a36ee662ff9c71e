//! What a mesh is started with, and why it may not start.
//!
//! Owns [`MeshConfig`], [`MeshBounds`] and [`MeshError`]. Main invariant: every number that a peer could push
//! against is here with its reason.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use lunar_common::ids::{FleetId, SiteId};

use super::address::PeerAddress;
use crate::gate::Gate;

/// What a mesh is started with.
pub struct MeshConfig {
    /// This machine's key: its identity here and on the data plane.
    pub key: SigningKey,
    /// The fleet: part of every protocol's name, so that two fleets cannot even begin to speak.
    pub fleet: FleetId,
    /// This machine's site: most of its connections stay inside.
    pub site: SiteId,
    /// Where to listen: `ip:port`, or a multiaddress such as `/ip4/0.0.0.0/udp/7000/quic-v1`. Port 0 lets the
    /// kernel choose; see [`super::Mesh::listen_addresses`].
    pub listen: Vec<String>,
    /// Addresses under which others reach this machine, `ip:port`; empty: the addresses it listens on (for
    /// an unspecified one, the machine's own interfaces').
    pub announce: Vec<String>,
    /// Whom to try first. Redialled with back-off whenever no directory is connected.
    pub bootstrap: Vec<PeerAddress>,
    /// Who is in.
    pub gate: Arc<dyn Gate>,
    /// Whether this machine keeps other machines' look-up records (Kademlia server mode) and accepts many
    /// connections: seeders, coordinators and origins do, agents do not.
    pub directory: bool,
    /// Bounds; the defaults suit an agent or, with `directory`, a directory.
    pub bounds: MeshBounds,
}

/// Numbers that bound what peers can make a mesh hold, and how patient it is.
#[derive(Debug, Clone)]
pub struct MeshBounds {
    /// Connections wanted inside the site; below it, more are sought.
    pub site_connections_low: usize,
    /// Connections kept inside the site; above it, the least useful are closed.
    pub site_connections_high: usize,
    /// Connections wanted beyond the site.
    pub beyond_connections_low: usize,
    /// Connections kept beyond the site.
    pub beyond_connections_high: usize,
    /// Most connections of all kinds at once; further ones are refused.
    pub connections_max: u32,
    /// Most connections at once that have not proved their enrolment yet.
    pub pending_connections_max: u32,
    /// Events that may wait for the program; beyond it, requests are refused and gossip is not passed on.
    pub events_max: usize,
    /// Longest wait for an answer to a request, dial and look-up included. Over the Earth link a dial takes
    /// two round trips and a request one to two: 10 s at 2.5 s each.
    pub request_timeout: Duration,
}

impl MeshBounds {
    /// For a machine that keeps few connections.
    #[must_use]
    pub fn agent() -> Self {
        Self {
            site_connections_low: 6,
            site_connections_high: 12,
            beyond_connections_low: 2,
            beyond_connections_high: 4,
            connections_max: 48,
            pending_connections_max: 32,
            events_max: 1024,
            request_timeout: Duration::from_secs(30),
        }
    }

    /// For a machine that others find one another through.
    #[must_use]
    pub fn directory() -> Self {
        Self {
            site_connections_low: 6,
            site_connections_high: 1024,
            beyond_connections_low: 3,
            beyond_connections_high: 1024,
            connections_max: 4096,
            pending_connections_max: 256,
            events_max: 8192,
            request_timeout: Duration::from_secs(30),
        }
    }
}

/// Why a mesh did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeshError {
    /// A `listen` or `announce` entry is not an address.
    #[error("{address:?} is not an address to listen on: write ip:port, for example 0.0.0.0:7000")]
    Address {
        /// The text.
        address: String,
    },
    /// Somebody else listens there.
    #[error("cannot listen on {address}: the port is in use; stop the other program or choose another port")]
    PortInUse {
        /// Where.
        address: String,
    },
    /// The machine refuses the address for another reason.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The key or the gossip settings are impossible.
    #[error("the mesh cannot be built: {0}")]
    Build(String),
}
