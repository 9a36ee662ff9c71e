//! Mistakes put in on purpose: each must be noticed by the checker that is there for it.
//!
//! Owns the proof that the checkers can fail. Main invariant: each mutant is caught by an invariant that the test
//! names, within the seeds that it states; one that slips through, or is caught by chance elsewhere, fails.

use lunar_simulations::shrink::breaks;
use lunar_simulations::{Fault, FaultPlan, Mutant, Options, Strike};

/// The first invariant that a mutant breaks over these seeds.
fn noticed(mutant: Mutant, faults: &[Fault], seeds: u64) -> Option<String> {
    (1..=seeds).find_map(|seed| breaks(&Options::swarm(seed).with(faults).broken(mutant)))
}

/// Whether some of these seeds breaks this very invariant.
fn noticed_as(mutant: Mutant, faults: &[Fault], invariant: &str, seeds: u64) {
    let all: Vec<_> = (1..=seeds)
        .map_while(|seed| {
            let broken = breaks(&Options::swarm(seed).with(faults).broken(mutant));
            // The first seed that breaks it ends the search.
            (broken.as_deref() != Some(invariant)).then_some(broken)
        })
        .collect();
    assert!(all.len() < usize::try_from(seeds).expect("few seeds"), "{mutant:?} only broke {all:?}");
}

#[test]
fn a_grant_that_leaves_before_it_is_durable_is_noticed() {
    let faults = [Fault::CoordinatorCrash];
    noticed_as(Mutant::AnswersBeforeDurable, &faults, "S1 down only under a durable lease", 40);
}

#[test]
fn a_ledger_that_frees_nothing_is_noticed() {
    noticed_as(Mutant::FreesNothing, &[], "L2 no idle lease", 3);
}

#[test]
fn a_lease_that_comes_free_when_it_runs_out_is_noticed() {
    let faults = [Fault::AgentCrash, Fault::Reboot];
    noticed_as(Mutant::FreesOnExpiry, &faults, "S1 down only under a durable lease", 40);
}

#[test]
fn a_release_that_frees_whatever_its_server_holds_is_noticed() {
    // A coordinator dies before it answers a release, and gets it again after the next grant.
    let faults = [Fault::CoordinatorCrash, Fault::BadRelease];
    noticed_as(Mutant::UnfencedRelease, &faults, "S1 down only under a durable lease", 40);
}

#[test]
fn numbers_that_an_agent_forgets_are_noticed() {
    assert_eq!(noticed(Mutant::FloorsForgotten, &[], 2).as_deref(), Some("S1 numbers never fall"));
}

#[test]
fn an_old_coordinator_that_grants_what_it_cannot_write_is_noticed() {
    let faults = [Fault::TwoCoordinators];
    noticed_as(Mutant::OldCoordinatorGrants, &faults, "S1 down only under a durable lease", 40);
}

#[test]
fn an_applier_without_a_journal_is_noticed() {
    let faults = [Fault::ApplierCrash, Fault::Reboot];
    noticed_as(Mutant::NoApplierJournal, &faults, "L1 all come to an end, L2 no lease is left", 10);
}

#[test]
fn an_agent_without_a_journal_is_noticed() {
    noticed_as(Mutant::NoAgentJournal, &[Fault::AgentCrash], "S1 down only under a durable lease", 40);
}

#[test]
fn an_agent_that_keeps_nothing_that_people_signed_is_noticed() {
    let faults = [Fault::AgentCrash, Fault::NewPlan];
    noticed_as(Mutant::TrustNeverKept, &faults, "S9 generation", 40);
}

#[test]
fn a_process_that_goes_on_with_a_full_disk_is_noticed() {
    let faults = [Fault::DiskFull];
    noticed_as(Mutant::IgnoresFullDisk, &faults, "S1 down only under a durable lease", 40);
}

#[test]
fn limits_wider_than_people_meant_are_noticed() {
    assert_eq!(noticed(Mutant::WideLimits, &[], 10).as_deref(), Some("S2 limits"));
}

#[test]
fn neighbours_that_always_say_they_are_up_are_noticed() {
    noticed_as(Mutant::LyingNeighbours, &[], "S4 group", 30);
}

#[test]
fn a_group_that_asks_nobody_is_noticed_when_a_member_fails_by_itself() {
    // Nobody starts while two of four members fail; the others go ahead when they should not.
    let mut plan = FaultPlan::none();
    plan.add(1, Strike::Halt);
    [0, 2].into_iter().for_each(|server| plan.add(1_000, Strike::Outage { server, for_ms: 299_000 }));
    plan.add(150_000, Strike::Resume);
    let all: Vec<_> = (1..=20)
        .filter_map(|seed| {
            let options = Options::swarm(seed).broken(Mutant::LyingNeighbours);
            breaks(&Options { faults: plan.clone(), ..options })
        })
        .collect();
    assert!(all.iter().any(|broken| broken == "S5 redundancy"), "{all:?}");
}

#[test]
fn a_halt_that_is_acknowledged_and_not_kept_is_noticed() {
    assert_eq!(noticed(Mutant::HaltsKeptBack, &[Fault::Halt], 20).as_deref(), Some("S10 halt"));
}

#[test]
fn a_release_that_is_half_there_is_noticed() {
    noticed_as(Mutant::HalfStaged, &[], "S8 whole", 3);
}

#[test]
fn a_turned_bit_that_nobody_looks_for_is_noticed() {
    noticed_as(Mutant::SkipsVerification, &[], "S7 verified", 3);
}

#[test]
fn a_commit_that_nothing_was_looked_at_for_is_noticed() {
    noticed_as(Mutant::CommitsBlindly, &[Fault::BadRelease], "S18 works", 5);
}

#[test]
fn a_log_that_loses_transitions_is_noticed() {
    noticed_as(Mutant::LosesTransitions, &[], "S11 audit", 3);
}

#[test]
fn a_frame_that_is_kept_unverified_is_noticed() {
    noticed_as(Mutant::UnverifiedChunkPassedOn, &[Fault::HostilePeers], "S7 verified", 40);
}

#[test]
fn a_seeder_that_is_counted_twice_is_noticed() {
    noticed_as(Mutant::SeederCountedTwice, &[], "S12 Earth link", 3);
}

#[test]
fn a_halt_that_a_download_drowns_is_noticed() {
    noticed_as(Mutant::HaltIgnoredWhileDownloading, &[Fault::Halt], "S10 halt", 40);
}

#[test]
fn a_plan_that_goes_on_after_the_first_failure_in_tier_1_is_noticed() {
    let all: Vec<_> = (1..=20)
        .filter_map(|seed| {
            let options = Options::swarm(seed).with(&[Fault::BadRelease]).watched();
            breaks(&options.broken(Mutant::GoesOnAfterFailures))
        })
        .collect();
    assert!(!all.is_empty() && all.iter().all(|broken| broken == "S13 stop"), "{all:?}");
}
