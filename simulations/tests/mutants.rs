//! Mistakes put in on purpose: each must be noticed by the checker that is there for it.
//!
//! Owns the proof that the checkers can fail. Main invariant: a mutant that no seed notices fails the test.

use lunar_simulations::{Fault, Mutant, Options, World};

/// The invariants that a mutant violates over these seeds; panics of a core's own assertions count too.
fn noticed(mutant: Mutant, faults: &[Fault], seeds: u64) -> Option<&'static str> {
    (1..=seeds).find_map(|seed| {
        let options = Options::swarm(seed).with(faults).broken(mutant);
        World::new(options).run().err().map(|violation| violation.invariant)
    })
}

/// The same, over the seeds that violate this very invariant first.
fn noticed_as(mutant: Mutant, invariant: &str, seeds: u64) -> Option<&'static str> {
    (1..=seeds).find_map(|seed| {
        let options = Options::swarm(seed).with(&[]).broken(mutant);
        let found = World::new(options).run().err().map(|violation| violation.invariant);
        found.filter(|found| *found == invariant)
    })
}

#[test]
fn a_grant_that_leaves_before_it_is_durable_is_noticed() {
    let faults = [Fault::CoordinatorCrash];
    let found = noticed(Mutant::AnswersBeforeDurable, &faults, 40);
    assert_eq!(found, Some("S1 down only under a durable lease"));
}

#[test]
fn a_ledger_that_frees_nothing_is_noticed() {
    let found = noticed(Mutant::FreesNothing, &[], 1);
    assert_eq!(found, Some("L1 all come to an end, L2 no lease is left"));
}

#[test]
fn an_applier_without_a_journal_is_noticed() {
    let found = noticed(Mutant::NoApplierJournal, &[Fault::ApplierCrash, Fault::Reboot], 40);
    assert!(found.is_some());
}

#[test]
fn an_agent_without_a_journal_is_noticed() {
    let found = noticed(Mutant::NoAgentJournal, &[Fault::AgentCrash], 10);
    assert!(found.is_some());
}

#[test]
fn limits_wider_than_people_meant_are_noticed() {
    assert_eq!(noticed(Mutant::WideLimits, &[], 10), Some("S2 limits"));
}

#[test]
fn neighbours_that_always_say_they_are_up_are_noticed() {
    assert_eq!(noticed_as(Mutant::LyingNeighbours, "S4 group", 30), Some("S4 group"));
}

#[test]
fn a_halt_that_is_acknowledged_and_not_kept_is_noticed() {
    assert_eq!(noticed(Mutant::HaltsKeptBack, &[Fault::Halt], 20), Some("S10 halt"));
}

#[test]
fn a_release_that_is_half_there_is_noticed() {
    assert_eq!(noticed(Mutant::HalfStaged, &[], 3), Some("S8 whole"));
}
