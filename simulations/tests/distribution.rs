//! What it costs to bring an artifact to a fleet: bytes over the link to Earth, and messages a chunk.
//!
//! Owns the bounds of the swarm in virtual time. Main invariant: in an ordinary run the link to Earth carries the
//! artifact once, and at most a twentieth more; and a chunk that somebody lacked costs at most five messages. That no
//! chunk is asked for while it is on its way is an invariant of every run, S12.

use std::sync::Arc;

use lunar_simulations::measure::Figures;
use lunar_simulations::{Options, Scenario, World};

/// `moon-1k` with a tenth of its servers, whose limits let it end soon.
const MOON_100: [(&str, &str); 4] = [
    ("tier = { 1 = 500, 2 = 250, 3 = 250 }", "tier = { 1 = 50, 2 = 25, 3 = 25 }"),
    ("fleet = 250", "fleet = 60"),
    ("tier = { 1 = 5, 2 = 100, 3 = 150 }", "tier = { 1 = 10, 2 = 25, 3 = 25 }"),
    ("site = { default = 60 }", "site = { default = 20 }"),
];

/// The run of a committed scenario in which some lines stand otherwise.
fn run(scenario: &str, changes: &[(&str, &str)], seed: u64) -> Figures {
    let mut text = scenario.to_owned();
    for (was, is) in changes {
        assert!(text.contains(was), "{was:?} is not in the scenario any more");
        text = text.replace(was, is);
    }
    let scenario = Scenario::parse(&text).unwrap_or_else(|error| panic!("{error}"));
    let ended = World::new(Options::of(Arc::new(scenario), seed)).run();
    ended.unwrap_or_else(|violation| panic!("seed {seed}: {violation}")).figures
}

/// What the link to Earth carried, in hundredths of the artifact.
fn hundredths_over_earth(figures: &Figures) -> u64 {
    figures.links.earth_bytes * 100 / figures.links.artifact_bytes
}

#[test]
fn an_ordinary_fleet_takes_the_artifact_over_the_link_once_in_at_most_five_messages_a_chunk() {
    for seed in 1..=3 {
        let figures = run(include_str!("../scenarios/moon-1k.toml"), &MOON_100, seed);
        let tenths = figures.swarm_messages * 10 / figures.useful_chunks;
        let hundredths = hundredths_over_earth(&figures);
        println!("seed {seed}: {hundredths} hundredths over Earth, {tenths} tenths of a message a chunk");
        assert!((100..=105).contains(&hundredths), "seed {seed}: {hundredths} hundredths");
        assert!(tenths <= 50, "seed {seed}: {tenths} tenths of a message a useful chunk");
    }
}

/// Once this asked for chunks that were on their way to a server that had been a gateway: S12, as soon as newcomers took
/// the place of those that waited for a slow link.
#[test]
fn a_slow_link_with_blackouts_is_asked_once_for_what_is_on_its_way() {
    let changes = [
        ("tier = { 1 = 500, 2 = 250, 3 = 250 }", "tier = { 1 = 50, 2 = 25, 3 = 25 }"),
        ("fleet = 250", "fleet = 60"),
        ("tier = { 1 = 5, 2 = 100, 3 = 150 }", "tier = { 1 = 10, 2 = 25, 3 = 25 }"),
        ("site = { default = 80 }", "site = { default = 20 }"),
        ("bytes = 100_000_000", "bytes = 50_000_000"),
    ];
    let figures = run(include_str!("../scenarios/blackouts.toml"), &changes, 7);
    let hundredths = hundredths_over_earth(&figures);
    println!("{hundredths} hundredths over Earth");
    // What is being sent when its asker's patience ends is sent to its end, and asked for again.
    assert!((100..=125).contains(&hundredths), "{hundredths} hundredths");
}
