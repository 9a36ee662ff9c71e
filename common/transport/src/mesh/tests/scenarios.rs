//! What the mesh is for: who is in, what reaches everyone, who is found.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lunar_common::document::Kind;
use lunar_common::ids::{ArtifactId, Epoch, ServerId, SiteId};
use lunar_common::message::{Gossip, Request, Response};

use super::super::event::Decision;
use super::super::{Mesh, MeshBounds, MeshConfig, MeshError, PeerAddress, RequestError};
use super::{Node, Seen, Shape, fixed, machine_key, public, within};
use crate::fixture::Fleet;

/// A chain of machines, each connected to the one before it only.
async fn chain(fleet: &Fleet, length: usize) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for number in 0..length {
        let before: Vec<&Node> = nodes.last().into_iter().collect();
        let shape = Shape { bootstrap: before, ..Shape::default() };
        let mut node = Node::start(fleet, &format!("srv-{number}"), shape).await;
        if number > 0 {
            node.until_joined(&format!("srv-{}", number - 1)).await;
            nodes[number - 1].until_joined(&format!("srv-{number}")).await;
        }
        nodes.push(node);
    }
    nodes
}

fn sync() -> Request {
    Request::Sync { have: Vec::new() }
}

fn up(number: u64) -> Gossip {
    Gossip::Coordinator { server: ServerId::new("base-1").unwrap(), epoch: Epoch(number) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_halt_and_a_plan_travel_a_chain_of_eight_and_keep_their_author() {
    let fleet = Fleet::new("moon");
    let mut nodes = chain(&fleet, 8).await;
    for node in &nodes[1..7] {
        assert_eq!(node.mesh.peers().await.len(), 2, "a chain, not a clique");
    }
    // The mesh carries documents whole and unread: a plan that no gate would accept travels as well.
    let plan = Gossip::Document(fleet.sign(Kind::Plan, "campaign = \"spring\"\n".repeat(4000)));
    let halt = Gossip::Document(fleet.halt(1));
    nodes[0].mesh.publish(plan.clone()).await.unwrap();
    nodes[7].mesh.publish(halt.clone()).await.unwrap();
    let (first, last) = (nodes[0].key(), nodes[7].key());
    for node in &mut nodes[1..7] {
        let mut wanted = vec![(plan.clone(), first), (halt.clone(), last)];
        while !wanted.is_empty() {
            let (author, message) = node
                .until("the plan and the halt", |seen| match seen {
                    Seen::Gossip { author, message, .. } => Some((*author, message.clone())),
                    _ => None,
                })
                .await;
            let place = wanted.iter().position(|(other, by)| *other == message && *by == author).unwrap();
            wanted.remove(place);
        }
    }
    assert_eq!(nodes[7].until_gossip(&plan).await, first);
    assert_eq!(nodes[0].until_gossip(&halt).await, last);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_program_does_not_accept_goes_no_further() {
    let fleet = Fleet::new("moon");
    let mut first = Node::start(&fleet, "a", Shape::default()).await;
    let ignoring = Shape { bootstrap: vec![&first], decision: Decision::Ignore, ..Shape::default() };
    let mut middle = Node::start(&fleet, "b", ignoring).await;
    middle.until_joined("a").await;
    let mut last = Node::start(&fleet, "c", Shape { bootstrap: vec![&middle], ..Shape::default() }).await;
    last.until_joined("b").await;
    first.until_joined("b").await;
    middle.until_joined("c").await;

    first.mesh.publish(up(1)).await.unwrap();
    middle.until_gossip(&up(1)).await;
    // A later message of the middle's own overtakes nothing: had the first gone on, it would be seen first.
    middle.mesh.publish(up(2)).await.unwrap();
    let heard = last.until("gossip", |seen| match seen {
        Seen::Gossip { message, .. } => Some(message.clone()),
        _ => None,
    });
    assert_eq!(heard.await, up(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_published_alone_reaches_the_first_who_comes() {
    let fleet = Fleet::new("moon");
    let alone = Node::start(&fleet, "a", Shape::default()).await;
    alone.mesh.publish(up(7)).await.unwrap();
    let mut late = Node::start(&fleet, "b", Shape { bootstrap: vec![&alone], ..Shape::default() }).await;
    assert_eq!(late.until_gossip(&up(7)).await, alone.key());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_halt_of_a_moment_ago_is_handed_to_a_machine_that_joins() {
    let fleet = Fleet::new("moon");
    let mut first = Node::start(&fleet, "a", Shape::default()).await;
    let mut middle = Node::start(&fleet, "b", Shape { bootstrap: vec![&first], ..Shape::default() }).await;
    first.until_joined("b").await;
    let halt = fleet.halt(1);
    first.mesh.publish(Gossip::Document(halt.clone())).await.unwrap();
    middle.until_gossip(&Gossip::Document(halt.clone())).await;
    let mut late = Node::start(&fleet, "c", Shape { bootstrap: vec![&middle], ..Shape::default() }).await;
    let handed = late.until("the halt", |seen| match seen {
        Seen::Request { from, request: Request::Document(document) } => {
            Some((from.clone(), document.clone()))
        }
        _ => None,
    });
    assert_eq!(handed.await, ("b".to_owned(), halt));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_machines_death_does_not_part_the_others() {
    let fleet = Fleet::new("moon");
    let bounds = MeshBounds { site_connections_low: 3, beyond_connections_low: 0, ..MeshBounds::agent() };
    let mut hub = Node::start(&fleet, "hub", Shape { directory: true, ..Shape::default() }).await;
    let mut nodes = Vec::new();
    for number in 0..6 {
        let shape = Shape { bootstrap: vec![&hub], bounds: bounds.clone(), ..Shape::default() };
        let mut node = Node::start(&fleet, &format!("srv-{number}"), shape).await;
        node.until_joined("hub").await;
        hub.until_joined(&format!("srv-{number}")).await;
        nodes.push(node);
    }
    // They learn of one another from the hub, the only one they were told of; then the hub dies.
    for node in &mut nodes {
        while node.mesh.peers().await.iter().filter(|peer| peer.enrolment.server.as_str() != "hub").count()
            < 2
        {
            node.until("a neighbour", |seen| matches!(seen, Seen::Joined(_)).then_some(())).await;
        }
    }
    let gone = hub.key();
    within("the hub's end", hub.mesh.shutdown()).await;
    for node in &mut nodes {
        node.until_left(gone).await;
    }
    nodes[0].mesh.publish(up(1)).await.unwrap();
    for node in &mut nodes[1..] {
        node.until_gossip(&up(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_answered_and_a_late_joiner_is_found_by_its_key_alone() {
    let fleet = Fleet::new("moon");
    let mut hub = Node::start(&fleet, "hub", Shape { directory: true, ..Shape::default() }).await;
    let early = Node::start(&fleet, "early", Shape { bootstrap: vec![&hub], ..Shape::default() }).await;
    hub.until_joined("early").await;
    assert_eq!(early.mesh.request(hub.key(), sync()).await, Ok(Response::Done));

    let mut late = Node::start(&fleet, "late", Shape { bootstrap: vec![&hub], ..Shape::default() }).await;
    hub.until_joined("late").await;
    late.until_joined("hub").await;
    assert_eq!(early.peers().await, ["hub"]);
    assert_eq!(early.mesh.request(late.key(), sync()).await, Ok(Response::Done));
    let from = late.until("the request", |seen| match seen {
        Seen::Request { from, request } => Some((from.clone(), request.clone())),
        _ => None,
    });
    assert_eq!(from.await, ("early".to_owned(), sync()));
    let located = early.mesh.locate(late.key()).await.unwrap();
    assert_eq!(located.addresses, [late.address.clone()]);
    assert_eq!(located.data_address, "late.base.moon:7001");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_nobody_knows_cannot_be_reached_and_the_error_says_so() {
    let fleet = Fleet::new("moon");
    let mut hub = Node::start(&fleet, "hub", Shape { directory: true, ..Shape::default() }).await;
    let node = Node::start(&fleet, "a", Shape { bootstrap: vec![&hub], ..Shape::default() }).await;
    hub.until_joined("a").await;
    let nobody = public(&machine_key("nobody"));
    let error = within("an error", node.mesh.request(nobody, sync())).await.unwrap_err();
    assert!(matches!(&error, RequestError::Unreachable { peer, .. } if *peer == nobody), "{error}");
    let error = within("an error", node.mesh.request(node.key(), sync())).await.unwrap_err();
    assert!(error.to_string().contains("this machine itself"), "{error}");
    assert_eq!(within("nothing", node.mesh.locate(nobody)).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configured_machine_is_reached_by_its_address_before_anyone_was_connected() {
    let fleet = Fleet::new("moon");
    let target = Node::start(&fleet, "target", Shape::default()).await;
    let key = machine_key("a");
    let gate = fleet.gate(fleet.enrol("a", &key, "base"), "a.base.moon:7001");
    let (mesh, _events) = Mesh::start(MeshConfig {
        key,
        fleet: fleet.id.clone(),
        site: SiteId::new("base").unwrap(),
        listen: Vec::new(),
        announce: Vec::new(),
        bootstrap: vec![PeerAddress { key: Some(target.key()), address: target.address.clone() }],
        gate,
        directory: false,
        bounds: fixed(),
    })
    .await
    .unwrap();
    assert_eq!(mesh.request(target.key(), sync()).await, Ok(Response::Done));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn providers_are_found_by_artifact_and_site() {
    let fleet = Fleet::new("moon");
    let mut hub = Node::start(&fleet, "hub", Shape { directory: true, ..Shape::default() }).await;
    let shape = |site| Shape { site, bootstrap: vec![&hub], ..Shape::default() };
    let base = Node::start(&fleet, "at-base", shape("base")).await;
    let mine = Node::start(&fleet, "at-mine", shape("mine")).await;
    let seeker = Node::start(&fleet, "seeker", shape("base")).await;
    for _ in 0..3 {
        hub.until("a machine", |seen| matches!(seen, Seen::Joined(_)).then_some(())).await;
    }
    let (artifact, other) = (ArtifactId([7; 32]), ArtifactId([8; 32]));
    let site = |name: &str| SiteId::new(name).unwrap();
    base.mesh.provide(artifact).await;
    mine.mesh.provide(artifact).await;
    // What is provided becomes known within moments; there is no event for it at the one who seeks.
    let find = async |artifact, at: &str| {
        within("providers", async {
            loop {
                let found = seeker.mesh.providers(artifact, site(at)).await;
                if !found.is_empty() {
                    return found;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    };
    assert_eq!(find(artifact, "base").await, [base.key()]);
    assert_eq!(find(artifact, "mine").await, [mine.key()]);
    assert!(seeker.mesh.providers(other, site("base")).await.is_empty());
    assert!(seeker.mesh.providers(artifact, site("orbit")).await.is_empty());
    assert_eq!(hub.mesh.providers(artifact, site("base")).await, [base.key()], "a directory finds too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evicted_machine_is_dropped_and_does_not_come_back() {
    let fleet = Fleet::new("moon");
    let mut base = Node::start(&fleet, "base", Shape::default()).await;
    let mut rogue = Node::start(&fleet, "rogue", Shape { bootstrap: vec![&base], ..Shape::default() }).await;
    base.until_joined("rogue").await;
    rogue.until_joined("base").await;

    base.gate.accept(&fleet.revocation(&rogue.key()));
    base.mesh.evict(rogue.key()).await;
    base.until_left(rogue.key()).await;
    rogue.until_left(base.key()).await;
    // It tries again, and again finds the gate closed.
    let error = rogue.mesh.request(base.key(), sync()).await.unwrap_err();
    assert!(matches!(error, RequestError::Unreachable { .. }), "{error}");
    assert!(base.peers().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trust_root_that_admits_a_connected_machine_no_more_cuts_it_off_and_no_other() {
    let fleet = Fleet::new("moon");
    let mut base = Node::start(&fleet, "base", Shape::default()).await;
    let shape = || Shape { bootstrap: vec![&base], ..Shape::default() };
    let mut stays = Node::start(&fleet, "stays", shape()).await;
    let key = machine_key("goes");
    let gate = fleet.gate(fleet.enrol_by_the_other("goes", &key, "base"), "goes.base.moon:7001");
    let mut goes = Node::start_with(&fleet, key, gate, shape()).await;
    stays.until_joined("base").await;
    goes.until_joined("base").await;
    base.until_joined("goes").await;

    // Nobody names the machine: the new root says by its absence who is out.
    base.gate.accept(&fleet.root_without_the_other());
    base.until_left(goes.key()).await;
    goes.until_left(base.key()).await;
    let refused = goes.mesh.request(base.key(), sync()).await.unwrap_err();
    assert!(matches!(refused, RequestError::Unreachable { .. }), "{refused}");
    assert_eq!(stays.mesh.request(base.key(), sync()).await, Ok(Response::Done));
    assert_eq!(base.peers().await, ["stays"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_a_clear_error() {
    let fleet = Fleet::new("moon");
    let first = Node::start(&fleet, "a", Shape::default()).await;
    let start = |listen: &str| {
        let key = machine_key("b");
        let gate = fleet.gate(fleet.enrol("b", &key, "base"), "");
        Mesh::start(MeshConfig {
            key,
            fleet: fleet.id.clone(),
            site: SiteId::new("base").unwrap(),
            listen: vec![listen.to_owned()],
            announce: Vec::new(),
            bootstrap: Vec::new(),
            gate,
            directory: false,
            bounds: fixed(),
        })
    };
    let error = start(&first.address).await.unwrap_err();
    assert!(matches!(&error, MeshError::PortInUse { address } if *address == first.address), "{error:?}");
    for wrong in ["nonsense", "/ip4/127.0.0.1/tcp/80", "localhost:80"] {
        let error = start(wrong).await.unwrap_err();
        assert!(matches!(&error, MeshError::Address { address } if address == wrong), "{error:?}");
    }
    let error = start("203.0.113.1:7000").await.unwrap_err();
    assert!(matches!(&error, MeshError::Listen { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_whose_handles_are_gone_ends_and_says_goodbye() {
    let fleet = Fleet::new("moon");
    let mut stays = Node::start(&fleet, "stays", Shape::default()).await;
    let goes = Node::start(&fleet, "goes", Shape { bootstrap: vec![&stays], ..Shape::default() }).await;
    stays.until_joined("goes").await;
    let (key, mesh) = (goes.key(), goes.mesh.clone());
    drop(goes);
    assert_eq!(mesh.request(stays.key(), sync()).await, Ok(Response::Done), "one handle is left");
    drop(mesh);
    stays.until_left(key).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_does_not_listen_stalls_nobody() {
    let fleet = Fleet::new("moon");
    let key = machine_key("deaf");
    let gate = fleet.gate(fleet.enrol("deaf", &key, "base"), "deaf.base.moon:7001");
    let (deaf, events) = Mesh::start(MeshConfig {
        key,
        fleet: fleet.id.clone(),
        site: SiteId::new("base").unwrap(),
        listen: vec!["127.0.0.1:0".into()],
        announce: Vec::new(),
        bootstrap: Vec::new(),
        gate: Arc::clone(&gate) as Arc<dyn crate::gate::Gate>,
        directory: false,
        bounds: MeshBounds { events_max: 1, ..fixed() },
    })
    .await
    .unwrap();
    let address = deaf.listen_addresses().await.remove(0);
    let shape = Shape::default();
    let fake = Node { mesh: deaf.clone(), gate, address, seen: tokio::sync::mpsc::unbounded_channel().1 };
    let node = Node::start(&fleet, "a", Shape { bootstrap: vec![&fake], ..shape }).await;
    // The first event fills the queue, whichever it is; requests are turned away then, not left hanging.
    let mut requests: FuturesUnordered<_> = (0..3).map(|_| node.mesh.request(deaf.key(), sync())).collect();
    for _ in 0..2 {
        let answer = within("an answer", requests.next()).await.unwrap().unwrap();
        assert!(matches!(&answer, Response::Refused { reason } if reason.contains("busy")), "{answer:?}");
    }
    drop(events);
}
