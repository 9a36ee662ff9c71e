//! Fetching between real agents: a dead origin, a kill in the middle.
//!
//! Owns what the data plane's own tests cannot show: that whole programs keep it. Main invariant: what was
//! fetched is told by the packs on disk and by the agents' own count, which must agree to the byte.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use lunar_artifact::{Pack, PackDirectory};
use lunar_common::manifest::Manifest;
use lunar_tests::{CAMPAIGN, Fleet, Part, wait_for};
use serde_json::Value;

/// Starts at once: these tests are about what comes before a start.
const AT_ONCE: &[(&str, &str)] = &[("window_s = 4", "window_s = 0"), ("jitter_s = 1", "jitter_s = 0")];

#[test]
fn two_agents_with_half_each_finish_from_each_other_while_the_origin_is_dead() {
    let fleet = Fleet::found(2);
    fleet.replan(AT_ONCE);
    let new = new_version(&fleet);
    let mut missing = Vec::new();
    for (number, server) in (0..).zip(fleet.servers()) {
        missing.push(hold_every_second_chunk(&fleet, server, &new, number));
    }
    let _dead = fleet.crash(&Part::Origin);

    fleet.publish();
    let events = fleet.wait_until_over(fleet.servers());

    for (server, missing) in fleet.servers().iter().zip(missing) {
        assert_eq!(events.outcomes(server), ["completed"]);
        assert_eq!(fleet.version_on(server), "2.0");
        let received = received(&fleet, server);
        assert_eq!(received["earth"], 0, "{server}: {received}");
        assert_eq!(total(&received), missing, "{server} fetched what it lacked, once: {received}");
    }
    fleet.check_audit();
}

#[test]
fn an_agent_killed_in_mid_download_goes_on_and_fetches_no_chunk_twice() {
    let fleet = Fleet::found(1);
    let server = &fleet.servers()[0];
    fleet.replan(AT_ONCE);
    let new = new_version(&fleet);
    fleet.slow_origin("6Mbit");
    fleet.publish();

    wait_for("an agent in mid-download", || {
        let chunks = fleet.status_of(server)?["node"]["active"]["chunks"].clone();
        let (had, all) = (chunks[0].as_u64()?, chunks[1].as_u64()?);
        assert!(had == 0 || had < all, "the link is slow enough to catch a download in the middle");
        (had >= 3).then_some(())
    });
    let agent = Part::Agent(server.clone());
    let crashed = fleet.crash(&agent);
    let held = held_bytes(&fleet.of(server, "packs"), &new);
    fleet.restart(&agent, &crashed);
    let events = fleet.wait_until_over(fleet.servers());

    assert_eq!(events.outcomes(server), ["completed"]);
    assert_eq!(fleet.version_on(server), "2.0");
    let all = new.manifest().frame_bytes();
    assert!(held > 0 && held < all, "killed in the middle: {held} of {all} bytes were on disk");
    let received = received(&fleet, server);
    assert_eq!(
        total(&received),
        all - held,
        "the second life fetches what the first had not kept: {received}"
    );
}

/// The new version as the origin has it.
fn new_version(fleet: &Fleet) -> Pack {
    let plan = fs::read_to_string(fleet.home().join(format!("plans/{CAMPAIGN}-1.toml"))).unwrap();
    let plan: toml::Table = plan.parse().unwrap();
    let id = plan["artifact"][0]["id"].as_str().unwrap().parse().unwrap();
    PackDirectory::open(&fleet.home().join("artifacts")).unwrap().get_complete(id).unwrap()
}

/// Gives an agent half of the chunks, as an earlier download that broke off would have left them. Returns the
/// bytes of the other half.
fn hold_every_second_chunk(fleet: &Fleet, server: &str, new: &Pack, first: usize) -> u64 {
    let manifest: &Manifest = new.manifest();
    let pack = PackDirectory::open(&fleet.of(server, "packs")).unwrap().create(manifest).unwrap();
    let all = 0..u32::try_from(manifest.chunks.len()).unwrap();
    let mine: BTreeSet<u32> = all.clone().skip(first).step_by(2).collect();
    for index in &mine {
        pack.write_frame(*index, &new.read_frame(*index).unwrap()).unwrap();
    }
    pack.sync().unwrap();
    all.filter(|index| !mine.contains(index)).map(|index| frame_bytes(manifest, index)).sum()
}

fn frame_bytes(manifest: &Manifest, index: u32) -> u64 {
    u64::from(manifest.chunks[usize::try_from(index).unwrap()].frame_bytes)
}

/// Bytes of the frames that are whole in a directory of packs. Looked at in a copy: opening a pack is a writer's
/// business.
fn held_bytes(packs: &Path, new: &Pack) -> u64 {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(packs).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let pack = PackDirectory::open(copy.path()).unwrap().get(new.id()).unwrap();
    let have = pack.expect("the agent opened its pack").have();
    have.iter().map(|index| frame_bytes(new.manifest(), index)).sum()
}

/// What an agent has received in its present life, by the last it reported.
fn received(fleet: &Fleet, server: &str) -> Value {
    let status = fleet.ask(&["status", "--servers"]);
    let servers = status["servers"].as_array().unwrap().clone();
    let it = servers.iter().find(|view| view["member"]["server"] == server).unwrap();
    it["campaigns"][0]["received"].clone()
}

/// Bytes that came over a network.
fn total(received: &Value) -> u64 {
    ["site", "sites", "earth"].iter().map(|source| received[source].as_u64().unwrap()).sum()
}
