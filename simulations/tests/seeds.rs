//! The swarm: many seeds, each with some of the faults.
//!
//! Owns the quick run of every change. Main invariant: a failure names the seed and how to have it again.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use lunar_simulations::probes::SOMETIMES;
use lunar_simulations::{Fault, Options, QueueKind, Strike, World};

/// Seeds of the quick run.
const SEEDS: u64 = 300;

fn run(options: &Options) -> lunar_simulations::Outcome {
    let hint = format!("SEED={} cargo test -p lunar-simulations --test seeds person", options.seed);
    let ended = catch_unwind(AssertUnwindSafe(|| World::new(options.clone()).run()));
    match ended {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(violation)) => panic!("{violation}\nhave it again: {hint}"),
        Err(_) => panic!("a core or the world panicked (above) in {options:?}\nhave it again: {hint}"),
    }
}

#[test]
fn without_faults_every_server_completes() {
    let outcome = run(&Options::swarm(1).with(&[]));
    assert_eq!((outcome.completed, outcome.back), (7, 0));
}

#[test]
fn three_hundred_seeds_of_faults_violate_nothing_and_reach_every_rare_thing() {
    let mut rare: BTreeMap<&str, u32> = BTreeMap::new();
    for seed in 1..=SEEDS {
        let outcome = run(&Options::swarm(seed));
        if seed.is_multiple_of(20) {
            // One in twenty is run again, on the other queue.
            let options = Options::swarm(seed);
            let queue = if options.queue == QueueKind::Heap { QueueKind::Ring } else { QueueKind::Heap };
            assert_eq!(run(&Options { queue, ..options }).trace, outcome.trace, "seed {seed}");
        }
        for happened in outcome.sometimes {
            *rare.entry(happened).or_default() += 1;
        }
    }
    println!("runs in which it happened: {rare:#?}");
    let missing: Vec<_> = SOMETIMES.iter().filter(|rare_thing| !rare.contains_key(**rare_thing)).collect();
    assert!(missing.is_empty(), "in no run: {missing:?}");
}

#[test]
fn each_fault_alone_violates_nothing() {
    for fault in Fault::ALL {
        for seed in 1..=3 {
            run(&Options::swarm(seed).with(&[fault]));
        }
    }
}

/// The seeds again, with what pauses a plan that says nothing, and people who look at each pause and go on.
#[test]
fn a_hundred_seeds_of_faults_with_pauses_violate_nothing_and_come_to_their_ends() {
    let mut gone_on = 0;
    for seed in 1..=100 {
        let outcome = run(&Options::swarm(seed).watched());
        gone_on += u32::from(outcome.sometimes.contains("people went on after a pause"));
    }
    assert!(gone_on >= 8, "people went on in {gone_on} runs");
}

#[test]
fn the_same_seed_twice_goes_the_same_way() {
    let options = Options::swarm(7).with(&Fault::ALL);
    assert_eq!(run(&options), run(&options));
    assert_ne!(run(&options).trace, run(&Options::swarm(8).with(&Fault::ALL)).trace);
}

#[test]
fn both_queues_go_the_same_way() {
    for seed in [7, 11] {
        let options = Options::swarm(seed).with(&Fault::ALL);
        let [heap, ring] =
            [QueueKind::Heap, QueueKind::Ring].map(|queue| run(&Options { queue, ..options.clone() }));
        assert_eq!(heap, ring);
    }
}

/// S17: what is safe is safe whatever the wall clocks say.
#[test]
fn wrong_clocks_change_no_verdict() {
    for seed in 1..=6 {
        let wrong =
            Options::swarm(seed).with(&[Fault::ClockStep, Fault::ClockDrift, Fault::Reboot, Fault::Loss]);
        let mut right = wrong.clone();
        right
            .faults
            .strikes
            .retain(|planned| !matches!(planned.what, Strike::ClockStep { .. } | Strike::ClockDrift { .. }));
        assert!(right.faults.len() < wrong.faults.len());
        assert_eq!(run(&wrong).completed, run(&right).completed, "seed {seed}");
    }
}

/// Seeds that found something, each with what it was.
#[test]
fn seeds_that_once_failed_violate_nothing() {
    // An agent whose group was taken from it while it asked for the members of that group waited for ever.
    run(&Options::swarm(1064));
}

/// `SEED` is the first seed and `COUNT` how many; with `ALL` set, every fault is on in each.
#[test]
fn the_seeds_that_a_person_names_violate_nothing() {
    #[expect(clippy::disallowed_methods, reason = "a person names the seeds to look at; no core sees it")]
    let named = |name: &str| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    let first = named("SEED").unwrap_or(1);
    for seed in first..first + named("COUNT").unwrap_or(1) {
        let options = Options::swarm(seed);
        run(&if named("ALL").is_some() { options.with(&Fault::ALL) } else { options });
    }
}
