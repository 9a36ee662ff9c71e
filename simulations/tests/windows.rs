//! Maintenance windows in whole worlds: kept under every fault, and noticed where they are not.
//!
//! Owns the worlds with windows. Main invariant: tier 1 is held to windows strictly, and the runs begin while they are
//! closed, so that a start at once is a start outside them.

use std::sync::Arc;

use lunar_simulations::shrink::breaks;
use lunar_simulations::{Fault, Mutant, Options, Scenario, World};

/// Forty minutes of each hour, from 08:20 UTC on; a run begins at 08:00.
const WINDOWS: &str = "\n[windows]\nzone = \"Europe/Berlin\"\n\n[[windows.cron]]\nname = \"forty\"\n\
    opens = \"20 * * * *\"\nopen_s = 2400\n\n[windows.tier]\n1 = { mode = \"strict\", windows = [\"forty\"] }\n\
    2 = { mode = \"preferred\", windows = [\"forty\"] }\n";

fn small() -> String {
    format!("{}{WINDOWS}", include_str!("../scenarios/small.toml"))
}

fn run(seed: u64) -> Options {
    Options::of(Arc::new(Scenario::parse(&small()).expect("the scenario is sound")), seed)
}

#[test]
fn under_every_fault_but_wrong_clocks_nobody_of_a_strict_tier_starts_outside_its_windows() {
    for seed in 1..=12 {
        // One kind after the other, so that each is in some run.
        let kinds =
            Fault::ALL.into_iter().filter(|kind| !matches!(kind, Fault::ClockStep | Fault::ClockDrift));
        let kinds: Vec<Fault> =
            kinds.enumerate().filter(|(at, _)| *at as u64 % 6 == seed % 6).map(|(_, kind)| kind).collect();
        let options = run(seed).with(&kinds);
        if let Err(violation) = World::new(options).run() {
            panic!("{violation}");
        }
    }
}

#[test]
fn everyone_is_done_when_the_windows_have_opened_and_tier_three_before() {
    let outcome = World::new(run(1).with(&[])).run().unwrap();
    let first_down_s = |tier: usize| outcome.figures.tiers[tier].first_down_ms.unwrap() / 1_000;
    assert!((1_200..1_500).contains(&first_down_s(0)), "tier 1 from {} s on", first_down_s(0));
    assert!((1_200..1_500).contains(&first_down_s(1)), "tier 2 from {} s on", first_down_s(1));
    assert!(first_down_s(2) < 1_200, "tier 3 from {} s on", first_down_s(2));
}

#[test]
fn windows_that_the_plan_does_not_say_are_noticed() {
    let broken = breaks(&run(1).with(&[]).broken(Mutant::WindowsLeftOut));
    assert_eq!(broken.as_deref(), Some("S6 window"));
}

#[test]
fn windows_that_no_plan_may_have_are_refused_with_their_line() {
    let error = Scenario::parse(&small().replace("open_s = 2400", "open_s = 60")).unwrap_err().to_string();
    assert!(
        error.contains("windows.cron[0]") && error.contains("forty is open for 60 s at a time"),
        "{error}"
    );
}
