//! Fetching with real endpoints on loopback, real packs and real documents.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod discovery;
mod fleet;

use std::sync::Arc;

use lunar_agent::fetch::FetchEvent;
use lunar_artifact::PackDirectory;
use lunar_transport::data_plane::{ConnectError, Distance, FetchError};
use lunar_transport::trust_gate::TrustGate;

use fleet::{
    Counting, Published, agent, complete, is_whole, origin, trust_without, trust_without_bob, until,
};

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_finish_from_each_other_with_the_origin_dead() {
    let published = Published::new(6 * 1024 * 1024);
    let middle = published.chunks() / 2;
    let (first, second) = (agent(11, "base"), agent(12, "base"));
    let first_packs = published.partial(0..middle);
    let second_packs = published.partial(middle..published.chunks());
    let (one, mut one_events) = first.fetcher(first_packs.path());
    let (two, mut two_events) = second.fetcher(second_packs.path());
    // Nobody listens at the origin's address.
    let dead = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();

    for (fetcher, other, address) in [(&one, second, two.address()), (&two, first, one.address())] {
        fetcher.peer(origin().known(dead, published.id())).await;
        fetcher.peer(other.known(address, published.id())).await;
        fetcher.want(published.id(), published.manifest_bytes()).await;
    }
    let (one_received, two_received) = (complete(&mut one_events).await, complete(&mut two_events).await);

    assert_eq!((one_received.earth, two_received.earth), (0, 0));
    assert_eq!(one_received.site + two_received.site, published.built.frame_bytes);
    one.stop().await;
    two.stop().await;
    is_whole(first_packs.path(), published.id());
    is_whole(second_packs.path(), published.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wanted_again_is_told_to_be_complete_again_and_nothing_is_fetched_for_it() {
    let published = Published::new(1024 * 1024);
    let source = Counting::new(&published);
    let (plane, _links) = origin().plane(source.clone());
    let directory = tempfile::tempdir().unwrap();
    let (fetcher, mut events) = agent(13, "base").fetcher(directory.path());
    fetcher.peer(origin().known(plane.address().unwrap(), published.id())).await;
    fetcher.want(published.id(), published.manifest_bytes()).await;
    let received = complete(&mut events).await;

    fetcher.want(published.id(), published.manifest_bytes()).await;

    assert_eq!(complete(&mut events).await, received);
    assert!(source.counts().values().all(|times| *times == 1));
    fetcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_agents_on_two_sites_take_each_frame_from_the_origin_once() {
    let published = Published::new(8 * 1024 * 1024);
    let source = Counting::new(&published);
    let (plane, _links) = origin().plane(source.clone());
    let origin_address = plane.address().unwrap();
    let machines = [agent(21, "base"), agent(22, "base"), agent(23, "ridge"), agent(24, "ridge")];
    let directories = machines.map(|_| tempfile::tempdir().unwrap());
    let mut running = Vec::new();
    for (machine, directory) in machines.iter().zip(&directories) {
        running.push(machine.fetcher(directory.path()));
    }

    for (index, (fetcher, _)) in running.iter().enumerate() {
        fetcher.want(published.id(), published.manifest_bytes()).await;
        fetcher.peer(origin().known(origin_address, published.id())).await;
        for (other, machine) in machines.iter().enumerate().filter(|(other, _)| *other != index) {
            fetcher.peer(machine.known(running[other].0.address(), published.id())).await;
        }
    }
    for (_, events) in &mut running {
        complete(events).await;
    }

    let counts = source.counts();
    assert_eq!(counts.len(), published.built.chunks);
    assert!(counts.values().all(|times| *times == 1), "{counts:?}");
    for ((fetcher, _), directory) in running.iter().zip(&directories) {
        fetcher.stop().await;
        is_whole(directory.path(), published.id());
    }
}

#[test]
fn an_agent_killed_in_mid_download_resumes_without_fetching_a_chunk_twice() {
    let published = Published::new(12 * 1024 * 1024);
    let source = Counting::new(&published);
    let directory = tempfile::tempdir().unwrap();
    let (seed, leech) = (agent(31, "base"), agent(32, "base"));
    let outside = tokio::runtime::Runtime::new().unwrap();
    let (plane, _links) = outside.block_on(async { seed.plane(source.clone()) });
    let address = plane.address().unwrap();

    // The first life ends without a word as soon as a few chunks are there: its whole runtime is torn down.
    let first_life = tokio::runtime::Runtime::new().unwrap();
    first_life.block_on(async {
        let (fetcher, mut events) = leech.fetcher(directory.path());
        fetcher.want(published.id(), published.manifest_bytes()).await;
        fetcher.peer(seed.known(address, published.id())).await;
        until(&mut events, |event| match event {
            FetchEvent::Progress { chunks, .. } => (chunks.0 >= 5).then_some(()),
            FetchEvent::Complete { .. } | FetchEvent::Failed { .. } => Some(()),
        })
        .await;
    });
    first_life.shutdown_timeout(std::time::Duration::from_secs(5));
    let held = PackDirectory::open(directory.path()).unwrap().get(published.id()).unwrap().unwrap().have();
    let before = source.counts();

    outside.block_on(async {
        let (fetcher, mut events) = leech.fetcher(directory.path());
        fetcher.want(published.id(), published.manifest_bytes()).await;
        fetcher.peer(seed.known(address, published.id())).await;
        complete(&mut events).await;
        fetcher.stop().await;
    });

    assert!(held.count() >= 5, "{} chunks survived", held.count());
    let after = source.counts();
    for chunk in held.iter() {
        assert_eq!(after.get(&chunk), before.get(&chunk), "chunk {chunk} was on the disk and fetched again");
    }
    is_whole(directory.path(), published.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_sends_corrupt_frames_is_banned_and_the_others_are_enough() {
    let published = Published::new(10 * 1024 * 1024);
    let flip = |mut frame: Vec<u8>| {
        let middle = frame.len() / 2;
        frame[middle] ^= 1;
        frame
    };
    let (evil, good) = (Counting::bent(&published, flip), Counting::new(&published));
    let (evil_machine, good_machine) = (agent(41, "base"), agent(42, "base"));
    let (evil_plane, _evil_links) = evil_machine.plane(evil.clone());
    let (good_plane, _good_links) = good_machine.plane(good.clone());
    let directory = tempfile::tempdir().unwrap();
    let (fetcher, mut events) = agent(43, "base").fetcher(directory.path());

    fetcher.want(published.id(), published.manifest_bytes()).await;
    fetcher.peer(evil_machine.known(evil_plane.address().unwrap(), published.id())).await;
    fetcher.peer(good_machine.known(good_plane.address().unwrap(), published.id())).await;
    let received = complete(&mut events).await;

    // What was in flight to it when its first frame was found corrupt, and nothing after that.
    let asked: u32 = evil.counts().values().sum();
    assert!(asked <= 8, "a banned peer was asked {asked} times");
    assert!(received.site >= published.built.frame_bytes);
    fetcher.stop().await;
    is_whole(directory.path(), published.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_are_not_members_are_refused_and_told_nothing() {
    let published = Published::new(100_000);
    let (member, revoked) = (agent(51, "base"), agent(52, "base"));
    let gate = Arc::new(TrustGate::new(trust_without(&revoked.key()), member.enrolment(), String::new()));
    let (plane, mut links) = member.plane_behind(gate, any(), Counting::new(&published));
    let address = plane.address().unwrap().to_string();

    // Revoked; and one that shows another machine's enrolment.
    let (out, _) = revoked.plane(Counting::new(&published));
    let refused = out.connect(member.key(), &address, Distance::Near).await.unwrap_err();
    assert!(matches!(refused, ConnectError::RefusedUs), "{refused}");
    let thief = agent(53, "base");
    let stolen = Arc::new(TrustGate::new(fleet::trust(), agent(54, "base").enrolment(), String::new()));
    let (out, _) = thief.plane_behind(stolen, any(), Counting::new(&published));
    let refused = out.connect(member.key(), &address, Distance::Near).await.unwrap_err();
    assert!(matches!(refused, ConnectError::RefusedUs), "{refused}");

    assert!(links.try_recv().is_err(), "a refused machine became a link");
    assert_eq!(plane.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trust_root_that_admits_a_linked_machine_no_more_cuts_its_link_and_no_other() {
    let published = Published::new(100_000);
    let (server, stays, goes) = (agent(71, "base"), agent(72, "base"), agent(73, "base"));
    let gate = server.gate();
    let (plane, mut incoming) = server.plane_behind(gate.clone(), any(), Counting::new(&published));
    let address = plane.address().unwrap().to_string();
    let (staying, _) = stays.plane(Counting::new(&published));
    let by_bob = Arc::new(TrustGate::new(fleet::trust(), goes.enrolment_by_bob(), String::new()));
    let (going, _) = goes.plane_behind(by_bob, any(), Counting::new(&published));
    let kept = staying.connect(server.key(), &address, Distance::Near).await.unwrap();
    let cut = going.connect(server.key(), &address, Distance::Near).await.unwrap();
    // A link that the server itself opened is judged as well.
    let opened =
        plane.connect(goes.key(), &going.address().unwrap().to_string(), Distance::Near).await.unwrap();
    for _ in 0..2 {
        incoming.recv().await.unwrap();
    }

    gate.show(trust_without_bob(), server.enrolment());

    cut.closed().await;
    opened.closed().await;
    let refused = going.connect(server.key(), &address, Distance::Near).await.unwrap_err();
    assert!(matches!(refused, ConnectError::RefusedUs), "{refused}");
    let frame_bytes = published.built.manifest.chunks[0].frame_bytes;
    kept.frame(published.id(), 0, frame_bytes).await.unwrap();
}

#[test]
fn a_machine_killed_and_started_again_closes_the_link_of_its_earlier_life() {
    let published = Published::new(100_000);
    let (stays, dies) = (agent(81, "base"), agent(82, "base"));
    let outside = tokio::runtime::Runtime::new().unwrap();
    let (plane, mut incoming) = outside.block_on(async { stays.plane(Counting::new(&published)) });
    let address = plane.address().unwrap().to_string();
    let first_life = tokio::runtime::Runtime::new().unwrap();
    let (dead, _) = first_life.block_on(async { dies.plane(Counting::new(&published)) });
    let dead_address = dead.address().unwrap();
    let link = first_life.block_on(dead.connect(stays.key(), &address, Distance::Near)).unwrap();
    let earlier = outside.block_on(incoming.recv()).unwrap();
    // Without a word: its whole runtime is torn down.
    first_life.shutdown_timeout(std::time::Duration::from_secs(30));
    drop((link, dead));
    assert!(!earlier.is_closed());

    outside.block_on(async {
        let (reborn, _) = dies.plane_behind(dies.gate(), dead_address, Counting::new(&published));
        let _link = reborn.connect(stays.key(), &address, Distance::Near).await.unwrap();
        let later = incoming.recv().await.unwrap();
        assert!(earlier.is_closed(), "what is asked of it would be asked in vain for a minute");
        assert!(!later.is_closed());
    });
}

/// Any port on loopback.
fn any() -> std::net::SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_another_length_than_asked_for_are_refused() {
    let published = Published::new(1_000_000);
    let longer = |mut frame: Vec<u8>| {
        frame.push(0);
        frame
    };
    let server = agent(61, "base");
    let (plane, _links) = server.plane(Counting::bent(&published, longer));
    let (client, _) = agent(62, "base").plane(Counting::new(&published));
    let address = plane.address().unwrap().to_string();
    let link = client.connect(server.key(), &address, Distance::Near).await.unwrap();

    let frame_bytes = published.built.manifest.chunks[0].frame_bytes;
    let frame = link.frame(published.id(), 0, frame_bytes).await.unwrap_err();
    assert!(matches!(frame, FetchError::Length { .. }), "{frame}");
    let manifest = link.manifest(published.id(), 16).await.unwrap_err();
    assert!(matches!(manifest, FetchError::Length { wanted: 16, .. }), "{manifest}");
    let nothing = link.manifest(lunar_common::ids::ArtifactId([1; 32]), 1024).await.unwrap_err();
    assert!(matches!(nothing, FetchError::NotHave), "{nothing}");
}
