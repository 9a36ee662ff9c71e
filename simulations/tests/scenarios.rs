//! Scenarios: those that are committed are sound, and a wrong one is refused with its line and what to write.
//!
//! Owns the table of bad scenarios. Main invariant: each refusal is told where a person would look for it.

use std::fs;
use std::path::PathBuf;

use lunar_common::limits::Tier;
use lunar_simulations::Scenario;

#[expect(clippy::disallowed_methods, reason = "the committed files are what is tested; no core sees them")]
fn committed() -> Vec<(PathBuf, String)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let entries = fs::read_dir(folder).expect("the folder is committed");
    let mut found: Vec<_> = entries
        .map(|entry| entry.expect("an entry of the folder").path())
        .map(|path| (path.clone(), fs::read_to_string(path).expect("a scenario is text")))
        .collect();
    found.sort();
    found
}

#[test]
fn every_committed_scenario_is_sound_and_says_what_it_is_for() {
    let all = committed();
    assert!(!all.is_empty());
    for (path, text) in all {
        let scenario = Scenario::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert_eq!(scenario.name, name, "a scenario is called as its file");
        assert!(!scenario.description.is_empty(), "{name} has a description");
        assert!(text.starts_with("# "), "{name} begins with a comment");
        assert_eq!(Scenario::parse(&scenario.to_toml()).unwrap(), scenario, "{name} survives its own text");
    }
}

#[test]
fn seats_keep_every_count_and_the_same_scenario_has_the_same_fleet() {
    for (path, text) in committed() {
        let scenario = Scenario::parse(&text).unwrap();
        let seats = scenario.seats();
        assert_eq!(seats, scenario.seats());
        for tier in Tier::ALL {
            let count = seats.iter().filter(|seat| seat.tier == tier).count();
            assert_eq!(count, scenario.fleet.tier.of(tier) as usize, "{} {tier}", path.display());
        }
        let counts = scenario.site_counts();
        for (number, site) in scenario.site_names().iter().enumerate() {
            let count = seats.iter().filter(|seat| seat.site == number).count();
            assert_eq!(count, counts[site], "{} {site}", path.display());
        }
        let Some(groups) = &scenario.fleet.group else { continue };
        let mut members = std::collections::BTreeMap::<usize, Vec<_>>::new();
        for seat in &seats {
            assert_eq!(seat.group.is_some(), groups.tiers.contains(&seat.tier));
            if let Some(group) = seat.group {
                members.entry(group).or_default().push((seat.tier, seat.site));
            }
        }
        for group in members.values() {
            assert!(group.len() <= groups.size as usize);
            assert!(group.iter().all(|(tier, _)| *tier == group[0].0));
            let sites: std::collections::BTreeSet<_> = group.iter().map(|(_, site)| site).collect();
            assert_eq!(sites.len(), if groups.across_sites { group.len() } else { 1 }, "{}", path.display());
        }
    }
}

#[test]
fn the_small_world_is_a_pair_in_each_upper_tier_and_three_below_on_two_sites() {
    let scenario = Scenario::small(3);
    let seats: Vec<_> =
        scenario.seats().iter().map(|seat| (seat.tier.number(), seat.site, seat.group)).collect();
    let wanted = [
        (1, 0, Some(0)),
        (1, 1, Some(0)),
        (2, 0, Some(1)),
        (2, 1, Some(1)),
        (3, 0, None),
        (3, 1, None),
        (3, 0, None),
    ];
    assert_eq!(seats, wanted);
}

/// A line of the small scenario, what stands there instead, the line that is named, and what is said.
const WRONG: &[(&str, &str, usize, &str)] = &[
    ("days = 1", "day = 1", 6, "unknown key `day`; did you mean `days`?"),
    ("days = 1", "days = 0", 6, "0 is out of range: write 1 to 31"),
    ("days = 1", "days = \"one\"", 6, "invalid type"),
    ("name = \"small\"", "name = \"a/b\"", 4, "letters, digits"),
    ("tier = { 1 = 2, 2 = 2, 3 = 3 }", "tier = { 4 = 2 }", 10, "unknown key `4`"),
    ("tier = { 1 = 2, 2 = 2, 3 = 3 }", "tier = { 1 = 0 }", 10, "0 is out of range: write 1 to"),
    ("share = 0.5 }, {", "share = 0.6 }, {", 11, "the shares add up to 1.100: make them 1"),
    ("share = 0.5 }, {", "share = 1.5 }, {", 11, "1.5 is no share of one"),
    ("share = 0.5 }, {", "servers = 4 }, {", 11, "has a share where the first site counts servers"),
    ("{ name = \"rim\"", "{ name = \"base\"", 11, "`base` stands here twice"),
    ("size = 2, tiers", "size = 3, tiers", 13, "3 members cannot stand on 2 different sites"),
    ("size = 2, tiers", "size = 1, tiers", 13, "1 is out of range: write 2 to 64"),
    ("tiers = [1, 2]", "tiers = [7]", 13, "tier 7 does not exist"),
    ("fleet = 3", "fleet = 0", 16, "nonzero"),
    ("fleet = 3", "fleet = 5", 16, "5 can never be used, for the sites' limits add up to 4"),
    ("group = 1", "group = 2", 17, "lets all 2 members of a group be down at once"),
    ("tier = { 1 = 1,", "tier = { 1 = 9,", 18, "9 can never be used, for the fleet's limit is 3"),
    (
        "site = { default = 2 }",
        "site = { default = 2, only = { rom = 1 } }",
        19,
        "there is no such site; there are base, rim",
    ),
    ("bytes = 4_194_304", "bytes = 0", 22, "0 is out of range"),
    ("latency_ms = [1, 40]", "latency_ms = [40, 1]", 27, "the least (40) is above the most (1): swap them"),
    ("settle_s = 0\n", "settle_s = 20\n", 37, "health.settle_s waits 6 s"),
    ("interval_s = 4", "interval_s = 40", 42, "40 is out of range: write 1 to 12"),
    ("down_s_max = 240", "down_s_max = 20", 47, "every lease would be lost"),
    ("commit_within_s = 60", "commit_within_s = 10", 48, "every upgrade would be rolled back"),
    ("fails = 0", "fails_late = 0.5", 60, "say when: write release.fails_late_after_s"),
    ("fails = 0", "fails_on_hardware = \"m7\"", 60, "no server is a `m7`"),
    ("probability = 0.25", "on = [\"los\"]", 63, "unknown value `los`; did you mean `loss`?"),
    ("for_s = 300", "for_s = 9", 64, "9 is out of range: write 60 to 86400"),
    ("for_s = 300", "for_s = 300\n[peers]\nhostile = 0.5", 66, "at most 0.34"),
    (
        "for_s = 300",
        "for_s = 300\nsite_lost = [{ site = \"rum\", from_s = 1, for_s = 9 }]",
        65,
        "there is no such site; there are base, rim",
    ),
    (
        "for_s = 300",
        "for_s = 300\ncoordinator_flaps = { every_s = 60, down_s = 60 }",
        65,
        "60 is out of range: write 1 to 59",
    ),
    (
        "[hold]",
        "[links.earth]\nblackouts = [{ from_s = 9, for_s = 9 }, { from_s = 1, for_s = 1 }]\n[hold]",
        34,
        "begins before the one above ends",
    ),
];

#[test]
fn a_wrong_scenario_is_refused_with_its_line_and_what_to_write() {
    let sound = include_str!("../scenarios/small.toml");
    for (was, is, line, said) in WRONG {
        assert!(sound.contains(was), "{was:?} is not in the small scenario any more");
        let error = Scenario::parse(&sound.replacen(was, is, 1)).expect_err(is).to_string();
        assert!(error.contains(said), "{is:?} is answered with: {error}");
        assert!(error.contains(&format!("line {line},")), "{is:?}, line {line} wanted: {error}");
    }
}

#[test]
fn a_scenario_of_another_format_says_so_before_anything_else() {
    let text = include_str!("../scenarios/small.toml").replace("format = 1", "format = 2\nplanets = 3");
    let error = Scenario::parse(&text).unwrap_err().to_string();
    assert_eq!(error, "the scenario has format 2; this version reads format 1");
}
