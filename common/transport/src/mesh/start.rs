//! Bringing a mesh up.
//!
//! Owns the way from [`MeshConfig`] to a running [`Task`]. Main invariant: when it returns, every address is
//! listened on, or nothing is running.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use libp2p::core::transport::{ListenerId, TransportError};
use libp2p::swarm::{self, Swarm, SwarmEvent};
use libp2p::{Multiaddr, identity};
use tokio::sync::mpsc;

use super::admission::Reception;
use super::behaviour::{Behaviour, BehaviourEvent, transport};
use super::config::{MeshConfig, MeshError};
use super::event::MeshEvent;
use super::handle::Command;
use super::record::{quic_multiaddr, socket_address};
use super::task::Task;

/// Longest wait for the kernel to say where it listens.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections are closed by our own choice of neighbours, never for being idle.
const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Listens, then spawns the task.
pub(super) async fn start(
    config: MeshConfig,
    commands: mpsc::Receiver<Command>,
) -> Result<mpsc::Receiver<MeshEvent>, MeshError> {
    let keypair = identity::Keypair::ed25519_from_bytes(config.key.to_bytes())
        .map_err(|error| MeshError::Build(error.to_string()))?;
    let announce = config.announce.iter().map(|text| announced(text)).collect::<Result<Vec<_>, _>>()?;
    let reception = Arc::new(Reception::new(Arc::clone(&config.gate)));
    let behaviour = Behaviour::new(&keypair, &config.fleet, config.directory, &config.bounds)?;
    let swarm_config = swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(NEVER)
        .with_max_negotiating_inbound_streams(32);
    let mut swarm = Swarm::new(
        transport(&keypair, Arc::clone(&reception)),
        behaviour,
        keypair.public().to_peer_id(),
        swarm_config,
    );
    let early = listen(&mut swarm, &config.listen).await?;
    let (events, received) = mpsc::channel(config.bounds.events_max);
    let task = Task::new(config, announce, swarm, reception, commands, events);
    tokio::spawn(task.run(early));
    Ok(received)
}

/// Listens everywhere, and waits until the kernel has said where that is. Returns what happened meanwhile: a
/// peer may be quicker than the kernel.
async fn listen(
    swarm: &mut Swarm<Behaviour>,
    addresses: &[String],
) -> Result<Vec<SwarmEvent<BehaviourEvent>>, MeshError> {
    let mut listeners: Vec<(ListenerId, &str)> = Vec::new();
    for text in addresses {
        let address = listenable(text)?;
        probe(text, address)?;
        let id = swarm.listen_on(quic_multiaddr(address)).map_err(|error| refused(text, error))?;
        listeners.push((id, text));
    }
    let bound = async {
        let mut early = Vec::new();
        while !listeners.is_empty() {
            let event = swarm.select_next_some().await;
            if let SwarmEvent::NewListenAddr { listener_id, .. } = &event {
                listeners.retain(|(id, _)| id != listener_id);
            }
            early.push(event);
        }
        Ok(early)
    };
    match tokio::time::timeout(LISTEN_TIMEOUT, bound).await {
        Ok(result) => result,
        Err(_) => Err(MeshError::Listen {
            address: addresses.join(", "),
            source: io::Error::new(io::ErrorKind::TimedOut, "no network interface has such an address"),
        }),
    }
}

fn listenable(text: &str) -> Result<SocketAddr, MeshError> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let address = text.parse::<Multiaddr>().ok().as_ref().and_then(socket_address);
    address.ok_or_else(|| MeshError::Address { address: text.to_owned() })
}

/// Binds and lets go again: the kernel's own word on what is wrong, which libp2p wraps beyond recognition.
fn probe(text: &str, address: SocketAddr) -> Result<(), MeshError> {
    let address_text = || text.to_owned();
    match UdpSocket::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(MeshError::PortInUse { address: address_text() })
        }
        Err(source) => Err(MeshError::Listen { address: address_text(), source }),
    }
}

fn announced(text: &str) -> Result<SocketAddr, MeshError> {
    text.parse().map_err(|_| MeshError::Address { address: text.to_owned() })
}

fn refused(address: &str, error: TransportError<io::Error>) -> MeshError {
    let address = address.to_owned();
    match error {
        TransportError::MultiaddrNotSupported(_) => MeshError::Address { address },
        TransportError::Other(source) => MeshError::Listen { address, source },
    }
}
