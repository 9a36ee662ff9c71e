//! Machines that end without a word and begin again.

use std::sync::Arc;
use std::time::Duration;

use lunar_common::ids::{Epoch, ServerId};
use lunar_common::message::{Gossip, Request, Response};
use tokio::runtime::Runtime;

use super::super::RequestError;
use super::{Node, Shape, fixed, machine_key};
use crate::fixture::Fleet;
use crate::gate::Life;

fn up(number: u64) -> Gossip {
    Gossip::Coordinator { server: ServerId::new("base-1").unwrap(), epoch: Epoch(number) }
}

/// Ends a program as `kill -9` does: its sockets are closed, and nobody is told.
fn kill(runtime: Runtime) {
    runtime.shutdown_timeout(Duration::from_secs(30));
}

#[test]
fn a_machine_killed_and_started_again_at_once_on_its_port_hears_gossip_and_is_heard() {
    let fleet = Fleet::new("moon");
    let outside = Runtime::new().unwrap();
    let mut stays = outside.block_on(Node::start(&fleet, "stays", Shape::default()));
    let first_life = Runtime::new().unwrap();
    let shape = Shape { bootstrap: vec![&stays], ..Shape::default() };
    let mut hub = first_life.block_on(Node::start(&fleet, "hub", shape));
    first_life.block_on(hub.until_joined("stays"));
    outside.block_on(stays.until_joined("hub"));
    let (key, address) = (hub.key(), hub.address.clone());
    kill(first_life);

    // `stays` believes in the old connection for half a minute yet, and does not dial.
    let second_life = Runtime::new().unwrap();
    let shape = Shape { bootstrap: vec![&stays], listen: &address, ..Shape::default() };
    let mut hub = second_life.block_on(Node::start(&fleet, "hub", shape));
    assert_eq!(hub.address, address);

    outside.block_on(stays.until_left(key));
    outside.block_on(stays.until_joined("hub"));
    second_life.block_on(hub.until_joined("stays"));
    outside.block_on(stays.mesh.publish(up(1))).unwrap();
    assert_eq!(second_life.block_on(hub.until_gossip(&up(1))), stays.key());
    second_life.block_on(hub.mesh.publish(up(2))).unwrap();
    assert_eq!(outside.block_on(stays.until_gossip(&up(2))), key);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_of_an_earlier_life_takes_no_place_from_a_later_one() {
    let fleet = Fleet::new("moon");
    let mut base = Node::start(&fleet, "base", Shape::default()).await;
    let in_life = |life| {
        let key = machine_key("twice");
        let gate = fleet.gate_in(Life(life), fleet.enrol("twice", &key, "base"), "twice.base.moon:7001");
        (key, gate)
    };
    let (key, gate) = in_life(2);
    let shape = Shape { bootstrap: vec![&base], ..Shape::default() };
    let mut later = Node::start_with(&fleet, key, gate, shape).await;
    base.until_joined("twice").await;
    later.until_joined("base").await;

    let (key, gate) = in_life(1);
    let shape = Shape { bootstrap: vec![&base], bounds: fixed(), ..Shape::default() };
    let earlier = Node::start_with(&fleet, key, Arc::clone(&gate), shape).await;
    let refused = earlier.mesh.request(base.key(), Request::GroupMembers).await.unwrap_err();
    assert!(matches!(refused, RequestError::Unreachable { .. }), "{refused}");
    assert!(earlier.peers().await.is_empty());
    assert_eq!(later.mesh.request(base.key(), Request::GroupMembers).await, Ok(Response::Done));
    assert_eq!(base.peers().await, ["twice"]);
}
