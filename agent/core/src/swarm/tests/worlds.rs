//! Small worlds that must finish: every figure here is virtual time and repeats to the letter.

use std::collections::{BTreeMap, BTreeSet};

use super::super::Offence;
use super::world::{ARTIFACT, Manner, Specification, World, key};

const HOUR: u64 = 3_600_000;

#[test]
fn twelve_agents_finish_near_the_bound_and_each_byte_crosses_the_earth_link_once() {
    let mut world = World::new(Specification::default());
    world.run(HOUR);
    all_finish(&world);
    report("twelve agents", &world);
    // 100 MiB at 30 Mbit/s are 28.0 s; before the first byte come a second of settling, a connection, the manifest
    // and a first request, a round trip of 2.5 s each; and the last gateways' queues run dry one after the other.
    assert!(world.out_of_origin() < 1.02, "out of the origin: {}", world.out_of_origin());
    assert!(world.now < 45_000, "the last agent finished at {} ms", world.now);
    no_chunk_is_fetched_twice(&world, &[]);
}

#[test]
fn agents_that_begin_one_after_the_other_still_fetch_each_byte_once_over_the_earth_link() {
    let mut world = World::new(Specification { begins: |index| index as u64 * 1_700, ..Default::default() });
    world.run(HOUR);
    all_finish(&world);
    report("staggered", &world);
    assert!(world.out_of_origin() < 1.05, "out of the origin: {}", world.out_of_origin());
}

#[test]
fn each_chunk_enters_a_site_once() {
    let mut world = World::new(Specification::default());
    world.run(HOUR);
    all_finish(&world);
    let whole = 400 * 256 * 1024;
    for site in 0..3 {
        let members = world.nodes.iter().take(12).skip(site).step_by(3);
        let received =
            members.filter_map(|node| node.swarm.progress(ARTIFACT)).map(|progress| progress.received);
        let entered: u64 = received.map(|received| received.sites + received.earth).sum();
        let times = entered as f64 / f64::from(whole);
        println!("into site {site}: {times:.3}");
        assert!(times < 1.1, "{times} times the artifact entered site {site}");
    }
}

#[test]
fn corrupt_slow_lying_and_dying_peers_cost_no_honest_agent_its_download() {
    let manners = BTreeMap::from([
        (1, Manner::Corrupt),
        (2, Manner::Drips),
        (3, Manner::Lies),
        (4, Manner::Dies(9_000)),
        (5, Manner::Corrupt),
        (6, Manner::Dies(14_000)),
    ]);
    let mut world = World::new(Specification { manners, ..Default::default() });
    world.run(HOUR);
    all_finish(&world);
    report("bad company", &world);
    // The dead took what they had fetched with them, and what only the corrupt and the dripping hold is as good as
    // lost: 4 of 9 gateways.
    assert!(world.now < 180_000, "the last agent finished at {} ms", world.now);
    assert!(world.out_of_origin() < 1.5, "out of the origin: {}", world.out_of_origin());
    let banned: BTreeSet<_> = world.nodes.iter().flat_map(|node| node.bans.iter().copied()).collect();
    assert!(banned.contains(&(key(1), Offence::Corrupt)), "{banned:?}");
    assert!(banned.contains(&(key(3), Offence::Lied)), "{banned:?}");
    let honest = |peer| (7..12).any(|index| key(index) == peer);
    assert!(!banned.iter().any(|(peer, _)| honest(*peer)), "an honest peer was banned: {banned:?}");
}

#[test]
fn with_the_origin_dead_two_agents_finish_from_each_other() {
    let partial = BTreeMap::from([(0, (0..250).collect()), (1, (200..400).collect())]);
    let mut world =
        World::new(Specification { agents: 2, sites: 1, partial, origin: true, ..Default::default() });
    world.nodes[2].alive = false;
    world.run(HOUR);
    all_finish(&world);
    assert_eq!(world.nodes[2].sent_items, 0);
    assert_eq!(world.nodes[0].sent_items, 200);
    assert_eq!(world.nodes[1].sent_items, 150);
}

#[test]
fn an_agent_that_begins_when_all_others_are_done_takes_nothing_from_earth() {
    let seeds = (0..11).collect();
    let mut world = World::new(Specification { seeds, ..Default::default() });
    world.run(HOUR);
    all_finish(&world);
    assert_eq!(world.nodes[12].sent_items, 0);
    let received = world.nodes[11].swarm.progress(ARTIFACT).unwrap().received;
    assert_eq!((received.sites, received.earth), (0, 0));
}

#[test]
fn a_whole_site_that_begins_late_imports_each_chunk_once() {
    let seeds = (0..12).filter(|index| index % 3 != 2).collect();
    let mut world = World::new(Specification { seeds, ..Default::default() });
    world.run(HOUR);
    all_finish(&world);
    let late = world.nodes.iter().take(12).skip(2).step_by(3);
    let imported: u64 = late.map(|node| node.swarm.progress(ARTIFACT).unwrap().received.sites).sum();
    assert_eq!(world.nodes[12].sent_items, 0);
    assert!(imported <= 400 * 256 * 1024 * 11 / 10, "{imported} bytes entered the site");
}

#[test]
fn rarest_first_keeps_the_copies_even() {
    // Agents 0 to 6 have the first half; only agent 0 has the second. What the other five fetch first is the
    // second half, although it has to come from one source; a random choice would take the halves alike.
    let partial = (1..7).map(|index| (index, (0..200).collect())).collect();
    let seeds = BTreeSet::from([0]);
    let mut world = World::new(Specification { sites: 1, seeds, partial, ..Default::default() });
    world.run(4_000);
    let of_leechers = |range: std::ops::Range<u32>| {
        let have = world.nodes[7..12].iter().filter_map(|node| node.swarm.have(ARTIFACT));
        have.map(|have| range.clone().filter(|chunk| have.contains(*chunk)).count()).sum::<usize>()
    };
    let (common, rare) = (of_leechers(0..200), of_leechers(200..400));
    let every = world.nodes[..12].iter().filter_map(|node| node.swarm.have(ARTIFACT)).collect::<Vec<_>>();
    let rarest = (200..400).map(|chunk| every.iter().filter(|have| have.contains(chunk)).count()).min();
    println!("fetched by leechers: {common} common, {rare} rare; the rarest chunk has {rarest:?} copies");
    assert!(rare > common, "{rare} rare, {common} common");
    world.run(HOUR);
    all_finish(&world);
}

#[test]
fn sixty_agents_finish_and_the_origin_serves_each_byte_about_once() {
    let mut world = World::new(Specification { agents: 60, sites: 5, chunks: 100, ..Default::default() });
    world.run(HOUR);
    all_finish(&world);
    report("sixty agents", &world);
    assert!(world.out_of_origin() < 1.05, "out of the origin: {}", world.out_of_origin());
}

#[test]
fn two_runs_of_the_same_world_are_the_same() {
    let run = || {
        let mut world = World::new(Specification::default());
        world.run(HOUR);
        (world.now, world.nodes.iter().map(|node| (node.completed_at, node.sent_items)).collect::<Vec<_>>())
    };
    assert_eq!(run(), run());
}

fn all_finish(world: &World) {
    for (index, node) in world.nodes.iter().enumerate().take(world.nodes.len() - 1) {
        assert!(World::is_done(node), "agent {index} did not finish: {:?}", node.swarm.progress(ARTIFACT));
    }
}

fn no_chunk_is_fetched_twice(world: &World, but: &[usize]) {
    for (index, node) in world.nodes.iter().enumerate().filter(|(index, _)| !but.contains(index)) {
        let twice = node.requested.values().filter(|times| **times > 1).count();
        assert!(twice <= 8, "agent {index} asked for {twice} chunks twice");
    }
}

fn report(name: &str, world: &World) {
    println!("{name}: last at {} ms, out of the origin {:.3} times", world.now, world.out_of_origin());
}
