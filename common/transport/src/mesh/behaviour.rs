//! The libp2p protocols of the mesh and how each is tuned.
//!
//! Owns [`Behaviour`] and the transport under it. Main invariant: no protocol holds more for a peer than its
//! bound here, no protocol does anything periodic that grows with the fleet, and every time-out outlives a
//! round trip of 2.5 s.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use libp2p::core::Transport;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::identity::Keypair;
use libp2p::swarm::{NetworkBehaviour, StreamProtocol};
use libp2p::{PeerId, connection_limits, gossipsub, identify, kad, ping, quic, request_response};
use lunar_common::bounds::MESSAGE_BYTES_MAX;
use lunar_common::ids::FleetId;

use super::admission::{ADMISSION_TIMEOUT, Reception};
use super::codec::FrameCodec;
use super::config::{MeshBounds, MeshError};
use super::record::RECORD_BYTES_MAX;
use super::store::{DirectoryStore, ENTRY_TTL};

/// How long a connection may be silent before it counts as dead: three keep-alives, and many round trips.
const IDLE_TIMEOUT: Duration = Duration::from_secs(36);

/// Longest wait for an answer over a connection that stands. Over the Earth link an answer takes 2.5 s, and a
/// round of probes that a member of a group makes before it answers up to 10 s. A machine that says nothing for
/// so long was killed, or is cut off: its connection is given up, long before QUIC would notice.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// How often a silent connection is kept alive. Detecting a dead neighbour is not urgent (the others pass
/// everything on), waking 1,000 processes on one machine is.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(12);

/// Unread bytes that one stream may make us hold: a whole control message in one round trip.
const STREAM_WINDOW_BYTES: u32 = 1280 * 1024;

/// Unread bytes that one connection may make us hold, its owner admitted or not.
const CONNECTION_WINDOW_BYTES: u32 = 2 * 1024 * 1024;

/// Streams that a peer may have open at once: 32 for look-ups, the rest for requests and gossip.
const STREAMS_MAX: u32 = 64;

/// Questions in flight with one peer, each way.
const REQUESTS_PER_PEER_MAX: usize = 8;

/// How often gossipsub looks after its mesh and repeats what it has to those outside of it.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// How long a message that was seen is recognised and not passed on again.
pub(super) const SEEN_FOR: Duration = Duration::from_secs(90);

#[derive(NetworkBehaviour)]
#[behaviour(prelude = "libp2p::swarm::derive_prelude")]
pub(super) struct Behaviour {
    /// First: what it denies, no other protocol hears of.
    limits: connection_limits::Behaviour,
    pub(super) gossip: gossipsub::Behaviour,
    pub(super) look_up: kad::Behaviour<DirectoryStore>,
    pub(super) requests: request_response::Behaviour<FrameCodec>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

/// QUIC, with the gate as part of establishing a connection.
pub(super) fn transport(keypair: &Keypair, reception: Arc<Reception>) -> Boxed<(PeerId, StreamMuxerBox)> {
    let mut config = quic::Config::new(keypair);
    config.handshake_timeout = ADMISSION_TIMEOUT;
    config.max_idle_timeout = u32::try_from(IDLE_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
    config.keep_alive_interval = KEEP_ALIVE_INTERVAL;
    config.max_concurrent_stream_limit = STREAMS_MAX;
    config.max_stream_data = STREAM_WINDOW_BYTES;
    config.max_connection_data = CONNECTION_WINDOW_BYTES;
    quic::tokio::Transport::new(config)
        .and_then(move |connection, point| Arc::clone(&reception).receive(connection, point))
        .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)))
        .boxed()
}

/// The topic that everything is gossiped on: gossip carries only what everyone needs.
pub(super) fn topic(fleet: &FleetId) -> gossipsub::IdentTopic {
    gossipsub::IdentTopic::new(format!("lunar/{fleet}/all/1"))
}

impl Behaviour {
    pub(super) fn new(
        keypair: &Keypair,
        fleet: &FleetId,
        directory: bool,
        bounds: &MeshBounds,
    ) -> Result<Self, MeshError> {
        Ok(Self {
            limits: limits(bounds),
            gossip: gossip(keypair, fleet)?,
            look_up: look_up(keypair.public().to_peer_id(), fleet, directory)?,
            requests: requests(fleet, bounds.request_timeout.min(ANSWER_TIMEOUT))?,
            identify: identify(keypair, fleet),
            ping: ping::Behaviour::new(
                ping::Config::new()
                    .with_interval(Duration::from_secs(60))
                    .with_timeout(Duration::from_secs(20)),
            ),
        })
    }
}

fn limits(bounds: &MeshBounds) -> connection_limits::Behaviour {
    connection_limits::Behaviour::new(
        connection_limits::ConnectionLimits::default()
            .with_max_pending_incoming(Some(bounds.pending_connections_max))
            .with_max_pending_outgoing(Some(bounds.pending_connections_max))
            .with_max_established(Some(bounds.connections_max))
            // Two machines that dial each other at once have two for a moment.
            .with_max_established_per_peer(Some(2)),
    )
}

fn gossip(keypair: &Keypair, fleet: &FleetId) -> Result<gossipsub::Behaviour, MeshError> {
    let patience = Duration::from_secs(30);
    let config = gossipsub::ConfigBuilder::default()
        .protocol_id_prefix(format!("/lunar/{fleet}/gossip/1"))
        .validation_mode(gossipsub::ValidationMode::Strict)
        .validate_messages()
        .message_id_fn(|message| {
            // By content: the same halt injected at ten agents travels once.
            gossipsub::MessageId::new(&blake3::hash(&message.data).as_bytes()[..20])
        })
        .max_transmit_size(MESSAGE_BYTES_MAX + 1024)
        .max_publish_messages(16)
        .max_control_messages_sent(256)
        .connection_handler_queue_len(256)
        .heartbeat_interval(HEARTBEAT_INTERVAL)
        .heartbeat_initial_delay(Duration::from_secs(1))
        .mesh_outbound_min(2)
        .mesh_n_low(4)
        .mesh_n(5)
        .mesh_n_high(8)
        .gossip_lazy(3)
        // Half a minute of messages can still be asked for, and advertised, after a connection came late.
        .history_length(8)
        .history_gossip(6)
        .duplicate_cache_time(SEEN_FOR)
        // A halt starts on every connection that its first agent has, not only on its mesh.
        .flood_publish(true)
        .iwant_followup_time(Duration::from_secs(10))
        .publish_queue_duration(patience)
        .forward_queue_duration(patience)
        .build()
        .map_err(|error| MeshError::Build(error.to_string()))?;
    let authenticity = gossipsub::MessageAuthenticity::Signed(keypair.clone());
    let mut gossip = gossipsub::Behaviour::new(authenticity, config)
        .map_err(|error| MeshError::Build(error.to_owned()))?;
    gossip.subscribe(&topic(fleet)).map_err(|error| MeshError::Build(error.to_string()))?;
    Ok(gossip)
}

fn look_up(
    own: PeerId,
    fleet: &FleetId,
    directory: bool,
) -> Result<kad::Behaviour<DirectoryStore>, MeshError> {
    let mut config = kad::Config::new(protocol(&format!("/lunar/{fleet}/look-up/1"))?);
    config
        // Directories are few: one look-up reaches all of them. It is also how many providers one names.
        .set_replication_factor(NonZeroUsize::new(20).expect("20 is not zero"))
        .set_query_timeout(Duration::from_secs(25))
        .set_substreams_timeout(Duration::from_secs(12))
        .set_record_ttl(Some(ENTRY_TTL))
        .set_provider_record_ttl(Some(ENTRY_TTL))
        // Owners renew their own entries, see `look_ups`; nothing is republished on behalf of others.
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_max_packet_size(16 * RECORD_BYTES_MAX)
        // Only directories enter the routing table, and only by our own hand.
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_caching(kad::Caching::Disabled)
        .set_periodic_bootstrap_interval(None);
    let mut look_up = kad::Behaviour::with_config(own, DirectoryStore::new(own), config);
    look_up.set_mode(Some(if directory { kad::Mode::Server } else { kad::Mode::Client }));
    Ok(look_up)
}

fn requests(
    fleet: &FleetId,
    timeout: Duration,
) -> Result<request_response::Behaviour<FrameCodec>, MeshError> {
    let protocol = protocol(&format!("/lunar/{fleet}/control/1"))?;
    let config = request_response::Config::default()
        .with_request_timeout(timeout)
        .with_max_concurrent_streams(REQUESTS_PER_PEER_MAX);
    let support = request_response::ProtocolSupport::Full;
    Ok(request_response::Behaviour::with_codec(FrameCodec, [(protocol, support)], config))
}

fn identify(keypair: &Keypair, fleet: &FleetId) -> identify::Behaviour {
    identify::Behaviour::new(
        identify::Config::new(format!("/lunar/{fleet}/1"), keypair.public())
            // What peers tell of addresses is never used: signed records are.
            .with_cache_size(0)
            .with_hide_listen_addrs(true)
            .with_push_listen_addr_updates(false)
            .with_interval(Duration::from_secs(60 * 60)),
    )
}

fn protocol(name: &str) -> Result<StreamProtocol, MeshError> {
    StreamProtocol::try_from_owned(name.to_owned()).map_err(|error| MeshError::Build(error.to_string()))
}
