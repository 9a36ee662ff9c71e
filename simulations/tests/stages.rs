//! Stages in whole worlds: kept under every fault that lets them end, and noticed where they are not.
//!
//! Owns the worlds with stages. Main invariant: a stage that shows too little keeps the others waiting, so that what is
//! sure to end here is what cannot spoil a release or take a server out for good.

use std::sync::Arc;

use lunar_common::limits::Tier;
use lunar_simulations::shrink::breaks;
use lunar_simulations::{Fault, Mutant, Options, Scenario, World};

fn scenario() -> Scenario {
    Scenario::parse(include_str!("../scenarios/five-stages.toml")).expect("the scenario is sound")
}

/// A small world in two stages: a canary, then everyone.
fn small(seed: u64) -> Options {
    let text = "\n[[stages]]\nname = \"canary\"\nsize = 2\nsuccess_per_10000 = 5_000\nsoak_s = 120\n\n[[stages]]\nname = \"all\"\nwave_max = 4\n";
    let text = format!("{}{text}", include_str!("../scenarios/small.toml"));
    Options::of(Arc::new(Scenario::parse(&text).expect("the scenario is sound")), seed)
}

#[test]
fn five_stages_come_one_after_the_other_and_everyone_is_done() {
    let outcome = World::new(Options::of(Arc::new(scenario()), 1).with(&[])).run().unwrap();
    assert_eq!((outcome.completed, outcome.back), (200, 0));
    let tier = |tier: Tier| outcome.figures.tiers.iter().find(|found| found.tier == tier).unwrap();
    let first_down = |of: Tier| tier(of).first_down_ms.unwrap();
    // Two soaks lie before the first of tier 1, and all of tiers 2 and 3.
    assert!(first_down(Tier::One) > first_down(Tier::Two) + (600 + 1_800) * 1_000);
    for of in [Tier::Two, Tier::Three] {
        assert!(tier(of).done_ms.unwrap() < first_down(Tier::One), "tier {of} is done before tier 1 begins");
    }
}

#[test]
fn faults_that_pass_neither_open_a_gate_early_nor_keep_one_shut() {
    let passing = [
        Fault::Loss,
        Fault::Duplication,
        Fault::Delay,
        Fault::Partition,
        Fault::CoordinatorCrash,
        Fault::AgentCrash,
        Fault::ApplierCrash,
        Fault::ClockStep,
    ];
    for (seed, kind) in (1..).zip(passing) {
        if let Err(violation) = World::new(small(seed).with(&[kind])).run() {
            panic!("{violation}");
        }
    }
}

#[test]
fn stages_that_the_plan_does_not_say_are_noticed() {
    let broken = breaks(&small(1).with(&[]).broken(Mutant::StagesLeftOut));
    assert_eq!(broken.as_deref(), Some("S14 order"));
}

#[test]
fn gates_that_ask_for_less_than_people_meant_are_noticed() {
    let broken = breaks(&Options::of(Arc::new(scenario()), 1).with(&[]).broken(Mutant::GatesLeftAjar));
    assert_eq!(broken.as_deref(), Some("S14 order"));
}

#[test]
fn stages_that_no_simulated_campaign_can_pass_are_refused_with_their_line() {
    let text = scenario().to_toml();
    for (from, to, key, words) in [
        ("size = 10", "size = 0", "stages[1].size", "0 servers show nothing"),
        (
            "wave_max = 4",
            "wave_max = 4\napproval_batch = 5",
            "stages[4].approval_batch",
            "nobody approves here",
        ),
    ] {
        let error = Scenario::parse(&text.replace(from, to)).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains(words), "{error}");
    }
}
