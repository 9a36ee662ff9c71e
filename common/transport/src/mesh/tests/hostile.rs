//! Peers that do not keep the rules: strangers at the gate, and members that lie.

use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::core::muxing::StreamMuxerExt;
use libp2p::core::transport::{DialOpts, Transport, TransportEvent};
use libp2p::core::{Endpoint, transport::PortUse};
use libp2p::swarm::{self, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId, identity, quic, request_response};
use lunar_common::document::SignedDocument;
use lunar_common::ids::FleetId;
use lunar_common::message::{Request, Response};
use lunar_common::wire::{self, Signed};
use tokio::sync::oneshot;

use super::super::MeshBounds;
use super::super::admission::{GREETING_BYTES_MAX, Greeting, Reception};
use super::super::behaviour::{Behaviour, BehaviourEvent, transport};
use super::super::codec::{ASK_BYTES_MAX, Ask};
use super::super::record::quic_multiaddr;
use super::{Node, Shape, machine_key, public, within};
use crate::fixture::Fleet;
use crate::gate::{Hello, Life, peer_id};

fn keypair(key: &SigningKey) -> identity::Keypair {
    identity::Keypair::ed25519_from_bytes(key.to_bytes()).unwrap()
}

fn multiaddr(node: &Node) -> Multiaddr {
    quic_multiaddr(node.address.parse().unwrap())
}

/// Listens behind the gate of machine `host`, and says why it dropped the first who came.
async fn refusal_of(fleet: &Fleet) -> (Multiaddr, oneshot::Receiver<Result<PeerId, String>>) {
    let key = machine_key("host");
    let reception = Arc::new(Reception::new(fleet.gate(fleet.enrol("host", &key, "base"), "")));
    reception.gate();
    let mut listener = transport(&keypair(&key), reception);
    listener
        .listen_on(
            libp2p::core::transport::ListenerId::next(),
            "/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap(),
        )
        .unwrap();
    let address = match listener.next().await.unwrap() {
        TransportEvent::NewAddress { listen_addr, .. } => listen_addr,
        other => panic!("{other:?}"),
    };
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        let upgrade = loop {
            match listener.next().await.unwrap() {
                TransportEvent::Incoming { upgrade, .. } => break upgrade,
                _ => continue,
            }
        };
        let mut upgrade = upgrade;
        // The listener's endpoint must be driven while the connection is judged.
        let judged = loop {
            tokio::select! {
                judged = &mut upgrade => break judged,
                _ = listener.next() => {}
            }
        };
        let _ = sender.send(judged.map(|(peer, _)| peer).map_err(|error| error.to_string()));
    });
    (address, receiver)
}

fn hello(enrolment: SignedDocument) -> Vec<u8> {
    Hello { enrolment, data_address: String::new(), life: Life(1) }.encode().unwrap()
}

fn greeting(hello: Vec<u8>, record: Option<Signed>) -> Vec<u8> {
    wire::encode(&Greeting { hello, record }, GREETING_BYTES_MAX).unwrap()
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// Connects with a key, writes raw bytes on the first stream, and returns how the other side judged that, with
/// all that it said meanwhile.
async fn knock(fleet: &Fleet, key: &SigningKey, bytes: Vec<u8>) -> (Result<PeerId, String>, Vec<u8>) {
    let (address, judged) = refusal_of(fleet).await;
    let mut dialler = quic::tokio::Transport::new(quic::Config::new(&keypair(key)));
    let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
    let (_, mut connection) = dialler.dial(address, options).unwrap().await.unwrap();
    let mut stream = std::future::poll_fn(|cx| connection.poll_outbound_unpin(cx)).await.unwrap();
    // The other side may close before all is written.
    let _ = stream.write_all(&bytes).await;
    let mut said = Vec::new();
    let judged = within("a judgement", judged).await.unwrap();
    if judged.is_err() {
        let _ = within("the end", stream.read_to_end(&mut said)).await;
    }
    (judged, said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_not_enrolled_is_dropped_and_told_nothing() {
    let (fleet, other) = (Fleet::new("moon"), Fleet::new("mars"));
    let (key, stranger) = (machine_key("a"), machine_key("stranger"));
    let mut unsigned = fleet.enrol("a", &key, "base");
    unsigned.signatures.clear();
    let mut bent = fleet.enrol("a", &key, "base");
    bent.body.push(b'\n');
    let mut foreign_signer = fleet.enrol("a", &key, "base");
    foreign_signer.signatures =
        other.sign(foreign_signer.kind, String::from_utf8(foreign_signer.body.clone()).unwrap()).signatures;
    let own = fleet.enrol("a", &key, "base");
    let cases = [
        ("no signature", &key, greeting(hello(unsigned), None), "refused"),
        ("altered", &key, greeting(hello(bent), None), "refused"),
        ("signed by another fleet's enroller", &key, greeting(hello(foreign_signer), None), "refused"),
        ("another fleet's machine", &key, greeting(hello(other.enrol("a", &key, "base")), None), "refused"),
        ("another kind of document", &key, greeting(hello(fleet.halt(1)), None), "refused"),
        ("somebody else's enrolment", &stranger, greeting(hello(own), None), "proved key"),
        ("not a hello", &key, greeting(vec![1, 2, 3], None), "not a hello"),
        ("not a greeting", &key, vec![9; 100], "malformed"),
    ];
    for (what, key, bytes, reason) in cases {
        let (judged, said) = knock(&fleet, key, framed(&bytes)).await;
        let error = judged.expect_err(what);
        assert!(error.contains(reason), "{what}: {error}");
        assert!(said.is_empty(), "{what}: it was told {} bytes", said.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_greeting_that_lies_about_its_length_or_breaks_off_is_refused() {
    let fleet = Fleet::new("moon");
    let key = machine_key("a");
    let (judged, _) = knock(&fleet, &key, u32::MAX.to_be_bytes().to_vec()).await;
    assert!(judged.unwrap_err().contains("greeting"));
    let too_long = u32::try_from(GREETING_BYTES_MAX + 1).unwrap().to_be_bytes().to_vec();
    let (judged, _) = knock(&fleet, &key, too_long).await;
    assert!(judged.unwrap_err().contains("greeting"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_somebody_elses_is_refused_at_the_gate() {
    let fleet = Fleet::new("moon");
    let (key, other) = (machine_key("a"), machine_key("b"));
    let record = super::super::record::PeerRecord {
        issued_ms: 1,
        site: lunar_common::ids::SiteId::new("base").unwrap(),
        directory: true,
        addresses: vec!["127.0.0.1:9".parse().unwrap()],
        data_address: String::new(),
    };
    let enrolment = || hello(fleet.enrol("a", &key, "base"));
    let theirs = Signed::sign(&record, &other).unwrap();
    let (judged, _) = knock(&fleet, &key, framed(&greeting(enrolment(), Some(theirs)))).await;
    assert!(judged.unwrap_err().contains("record"));
    let mine = Signed::sign(&record, &key).unwrap();
    let (judged, _) = knock(&fleet, &key, framed(&greeting(enrolment(), Some(mine)))).await;
    assert_eq!(judged.unwrap(), peer_id(&public(&key)).unwrap(), "and its own is taken");
}

/// A member with a libp2p of its own, to say what our handle would not.
struct Member {
    swarm: Swarm<Behaviour>,
}

impl Member {
    async fn connected(fleet: &Fleet, name: &str, to: &Node) -> Self {
        let key = machine_key(name);
        let keypair = keypair(&key);
        let gate = fleet.gate(fleet.enrol(name, &key, "base"), &format!("{name}.base.moon:7001"));
        let reception = Arc::new(Reception::new(gate));
        let behaviour = Behaviour::new(&keypair, &fleet.id, false, &MeshBounds::agent()).unwrap();
        let config =
            swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(3600));
        let mut swarm =
            Swarm::new(transport(&keypair, reception), behaviour, keypair.public().to_peer_id(), config);
        swarm.dial(multiaddr(to)).unwrap();
        within("a connection", async {
            while !matches!(swarm.select_next_some().await, SwarmEvent::ConnectionEstablished { .. }) {}
        })
        .await;
        Self { swarm }
    }

    /// Sends raw bytes as a request; how that ended.
    async fn ask(&mut self, to: &Node, bytes: Vec<u8>) -> Result<Vec<u8>, String> {
        let peer = peer_id(&to.key()).unwrap();
        self.swarm.behaviour_mut().requests.send_request(&peer, bytes);
        within("an answer", async {
            loop {
                match self.swarm.select_next_some().await {
                    SwarmEvent::Behaviour(BehaviourEvent::Requests(event)) => match event {
                        request_response::Event::Message {
                            message: request_response::Message::Response { response, .. },
                            ..
                        } => return Ok(response),
                        request_response::Event::OutboundFailure { error, .. } => {
                            return Err(error.to_string());
                        }
                        _ => {}
                    },
                    SwarmEvent::ConnectionClosed { num_established: 0, .. } => return Err("closed".into()),
                    _ => {}
                }
            }
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_and_oversized_requests_are_refused_and_cost_the_sender_its_place() {
    let fleet = Fleet::new("moon");
    let mut node = Node::start(&fleet, "a", Shape::default()).await;
    let mut liar = Member::connected(&fleet, "liar", &node).await;
    node.until_joined("liar").await;
    let honest = Node::start(&fleet, "honest", Shape { bootstrap: vec![&node], ..Shape::default() }).await;
    node.until_joined("honest").await;

    let mut lying_length = vec![wire::WIRE_VERSION, 0, 6, 253];
    lying_length.extend_from_slice(&u64::MAX.to_le_bytes());
    assert!(liar.ask(&node, Vec::new()).await.is_err());
    assert!(liar.ask(&node, lying_length).await.is_err());
    let good = wire::encode(&Ask::Program(Request::GroupMembers), ASK_BYTES_MAX).unwrap();
    assert!(liar.ask(&node, good.clone()).await.is_ok(), "two misdeeds are forgiven");
    assert!(liar.ask(&node, vec![0; ASK_BYTES_MAX + 1]).await.is_err());
    node.until_left(public(&machine_key("liar"))).await;

    assert_eq!(node.peers().await, ["honest"]);
    assert_eq!(honest.mesh.request(node.key(), Request::GroupMembers).await, Ok(Response::Done));
    // Back at once, it is let through the gate, for it is a member, and dropped for what it did.
    let mut back = Member::connected(&fleet, "liar", &node).await;
    assert!(back.ask(&node, good).await.is_err());
    assert_eq!(node.peers().await, ["honest"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_gossip_goes_no_further_and_costs_the_sender_its_place() {
    let fleet = Fleet::new("moon");
    let mut node = Node::start(&fleet, "a", Shape::default()).await;
    let mut liar = Member::connected(&fleet, "liar", &node).await;
    node.until_joined("liar").await;
    let topic = super::super::behaviour::topic(&fleet.id);
    // Three different ones: the same twice is seen once.
    within("the liar's end", async {
        let mut number = 0u8;
        loop {
            if number < 3
                && liar.swarm.behaviour_mut().gossip.publish(topic.clone(), vec![255, number]).is_ok()
            {
                number += 1;
                continue;
            }
            if let SwarmEvent::ConnectionClosed { num_established: 0, .. } =
                liar.swarm.select_next_some().await
            {
                return;
            }
        }
    })
    .await;
    node.until_left(public(&machine_key("liar"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_of_another_fleet_never_meet_although_they_share_a_wire() {
    let (moon, mars) = (Fleet::new("moon"), Fleet::new("mars"));
    let node = Node::start(&moon, "a", Shape::default()).await;
    let stranger = Node::start(&mars, "b", Shape { bootstrap: vec![&node], ..Shape::default() }).await;
    let error = within("an error", stranger.mesh.request(node.key(), Request::GroupMembers)).await;
    assert!(error.is_err());
    assert!(node.peers().await.is_empty() && stranger.peers().await.is_empty());
    assert_ne!(FleetId::new("moon").unwrap(), mars.id);
}
