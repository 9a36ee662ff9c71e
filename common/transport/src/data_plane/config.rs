//! The data plane's settings, and quinn's, each with its reason.
//!
//! Owns windows, time-outs and limits. Main invariant: over the Earth link (30 Mbit/s, 2.5 s there and back) the
//! window is never what limits, and no time-out is shorter than a few round trips.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use libp2p::identity::Keypair;
use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt};

use super::serve::ChunkSource;
use crate::gate::Gate;

/// What a data plane is bound with.
pub struct DataPlaneConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// This machine's secret key: the same one that the mesh uses.
    pub secret: [u8; 32],
    /// Judges every peer.
    pub gate: Arc<dyn Gate>,
    /// What is served.
    pub source: Arc<dyn ChunkSource>,
    /// Bounds on what peers may have of us.
    pub limits: PlaneLimits,
}

/// How far away the other end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distance {
    /// On the Moon: a site's network, or one between sites.
    Near,
    /// Over the Earth link.
    Earth,
}

/// Bounds on what peers may have of us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaneLimits {
    /// Connections, both ways. Beyond, newcomers are told that we are full.
    pub connections_max: usize,
    /// Connections that have not passed the gate yet.
    pub strangers_max: usize,
    /// Frames being read or sent at once, over all peers.
    pub serving_max: usize,
    /// Requests waiting for one of those places; beyond, askers are told that we are busy.
    pub waiting_max: usize,
    /// The link's rate in bits a second, headers included, shared by all peers. Absent: not shaped.
    pub rate_bits_s: Option<u64>,
    /// Where we stand, seen from most who dial us.
    pub distance: Distance,
}

impl PlaneLimits {
    /// An agent's: connections for a gateway with its neighbours and the other sites' gateways, several times.
    #[must_use]
    pub fn agent() -> Self {
        Self {
            connections_max: 128,
            strangers_max: 64,
            serving_max: 64,
            waiting_max: 512,
            rate_bits_s: None,
            distance: Distance::Near,
        }
    }

    /// The origin's: few frames at once, so that each is soon whole and can be passed on; a queue of about two
    /// round trips' worth of 256 KiB frames.
    #[must_use]
    pub fn origin(rate_bits_s: Option<u64>) -> Self {
        Self {
            connections_max: 512,
            strangers_max: 64,
            serving_max: 4,
            waiting_max: 128,
            rate_bits_s,
            distance: Distance::Earth,
        }
    }
}

/// Protocol name in the TLS handshake; another version is another name.
const ALPN: &[u8] = b"lunar-data/1";

/// 30 Mbit/s × 2.5 s, the most that can be on its way over the Earth link.
const EARTH_BYTES_ON_THE_WAY: u64 = 9_400_000;

/// Bytes that a peer may have sent on one stream before we read them: a whole largest frame.
const STREAM_WINDOW: u32 = 6 * 1024 * 1024;

/// Bytes that a peer may have sent on one connection before we read them: over the link's worth with room for
/// its jitter and for what is being written to disk.
const CONNECTION_WINDOW: u32 = 24 * 1024 * 1024;

/// Streams that a peer may have open: 8 requests, as many again in the end-game and the listening to 16
/// artifacts; and for the origin a share of the link's worth of small chunks.
const STREAMS_MAX: u32 = 96;

/// How the other end is bound to be who we dialled, and never anyone's session key is written anywhere.
///
/// # Errors
/// [`TlsError`].
pub fn client(key: &Keypair, peer: PeerId, distance: Distance) -> Result<ClientConfig, TlsError> {
    let mut tls = libp2p_tls::make_client_config(key, Some(peer))?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.key_log = Arc::new(rustls::NoKeyLog);
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport(distance)));
    Ok(config)
}

/// How we answer.
///
/// # Errors
/// [`TlsError`].
pub fn server(key: &Keypair, limits: &PlaneLimits) -> Result<ServerConfig, TlsError> {
    let mut tls = libp2p_tls::make_server_config(key)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.key_log = Arc::new(rustls::NoKeyLog);
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport(limits.distance)));
    config.max_incoming(limits.strangers_max);
    Ok(config)
}

/// Why there is no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate could be made of the machine's key.
    #[error("cannot make a certificate of the machine's key")]
    Certificate(#[from] libp2p_tls::certificate::GenError),
    /// The cipher suites lack the one that QUIC begins with.
    #[error("the TLS library lacks the cipher suite that QUIC begins with")]
    Suite(#[from] NoInitialCipherSuite),
}

fn transport(distance: Distance) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(CONNECTION_WINDOW.into())
        // A frame that is whole can be passed on, eight half ones cannot; notes have a priority of their own.
        .send_fairness(false)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle_ms(distance)))));
    match distance {
        Distance::Near => {}
        Distance::Earth => {
            // The default guess of 333 ms would take every handshake packet for lost seven times over; and from
            // the default window of ten packets it takes nine round trips, 23 s, to fill the link. The sender
            // is shaped to the link's rate, so that beginning with a full window floods nothing.
            let mut congestion = CubicConfig::default();
            congestion.initial_window(EARTH_BYTES_ON_THE_WAY);
            transport
                .initial_rtt(Duration::from_millis(2_600))
                .congestion_controller_factory(Arc::new(congestion));
        }
    }
    transport
}

/// Silence after which a connection is given up. Listeners break the silence every [`ping_interval`].
fn idle_ms(distance: Distance) -> u32 {
    match distance {
        Distance::Near => 60_000,
        Distance::Earth => 300_000,
    }
}

/// How often one who listens says that it still does: three chances within the idle time-out.
pub(super) fn ping_interval() -> Duration {
    Duration::from_secs(18)
}

/// Longest wait for a connection with both hellos: 4 round trips over the Earth link, with packets lost.
pub(super) fn connect_timeout(distance: Distance) -> Duration {
    match distance {
        Distance::Near => Duration::from_secs(5),
        Distance::Earth => Duration::from_secs(30),
    }
}
