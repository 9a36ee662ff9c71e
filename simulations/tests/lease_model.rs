//! The lease model, exhausted with stateright.
//!
//! Owns the proof that no order of events breaks the lease rules, within the budgets named here. Main invariant: a
//! run is given neither a time-out nor a target, so that it ends only when every state was looked at. Each mutant names the
//! property that catches it; cap, floors, halt, restore and settling have no mutant yet.
//!
//! One coordinator crash, one agent crash, one failed install and the halt: all at once are exhausted here for two
//! servers, and two of them at a time for four servers in two groups, where memory allows, or for three. What else
//! was exhausted, and why all at once for four was not, stands in docs/PERFORMANCE.md. Each test prints its figures.

#![expect(clippy::print_stdout, reason = "the figures are for whoever asks with --nocapture")]

use lunar_simulations::model::{Action, Always, Budget, Mutant, Sometimes, State, World};
use std::collections::{BTreeMap, BTreeSet};

use stateright::{Checker, Model, Property};

/// The production cores' world, as stateright wants it.
struct Leases(World);

/// What the task of this model names.
const ALL_AT_ONCE: Budget = Budget {
    coordinator_crashes: 1,
    agent_crashes: 1,
    failed_installs: 1,
    late_starts: 0,
    unanswered: 0,
    lost: 0,
    silences: 0,
    regrants: 2,
    halt: true,
};

macro_rules! properties {
    ($kind:ident $of:ident $ask:ident: $($one:ident)+) => {
        [$(Property::$kind($of::$one.name(), |model: &Leases, state| model.0.$ask(state, $of::$one)),)+]
    };
}

impl Model for Leases {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        self.0.begin()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.0.actions(state, actions);
    }

    fn next_state(&self, from: &State, action: Action) -> Option<State> {
        self.0.next(from, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let always = properties![always Always holds:
            Cap Group Covered OneLease Floors Halt LedgerCap NotRestored Settles];
        let sometimes = properties![sometimes Sometimes is_so:
            CapReached AllDone RollbackDone HaltedDown LostDown CrashHeld ReleaseIgnored GrantUnsent];
        assert_eq!((always.len(), sometimes.len()), (Always::ALL.len(), Sometimes::ALL.len()));
        // Stateright stops once everything is discovered: this one never is.
        let never = Property::always("the run goes on to its end", |_: &Self, _| true);
        always.into_iter().chain(sometimes).chain([never]).collect()
    }
}

/// Looks at every state; what always holds must, and these must be reached.
fn exhaust(servers: usize, budget: Budget, reached: &[Sometimes]) {
    let checker = Leases(World::new(servers, budget, None)).checker().threads(1).spawn_bfs().join();
    let world = &checker.model().0;
    println!(
        "{servers} servers, {budget:?}: {} unique states, {} transitions, depth {}; {:?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        world.figures(),
    );
    // No time-out and no target was given, and nothing stops a run whose last property is never discovered: so the
    // queue is empty.
    assert!(checker.is_done(), "the check stopped before its end");
    let found = checker.discoveries();
    for property in Always::ALL {
        if let Some(path) = found.get(property.name()) {
            let end = world.tell(path.last_state());
            panic!("{}: broken by {:#?}\nends in {end}", property.name(), path.clone().into_actions());
        }
    }
    for rare in reached {
        assert!(found.contains_key(rare.name()), "never reached: {}", rare.name());
    }
}

/// The property that notices a mutant.
fn caught(mutant: Mutant, budget: Budget) -> Vec<&'static str> {
    // Breadth first, and no further than the first state in which something is broken.
    let world = World::new(4, budget, Some(mutant));
    let mut level = world.begin();
    let mut seen: BTreeSet<State> = level.iter().copied().collect();
    for depth in 1.. {
        let mut next = Vec::new();
        for state in level {
            let mut actions = Vec::new();
            world.actions(&state, &mut actions);
            for action in actions {
                let Some(to) = world.next(&state, action) else { continue };
                let broken: Vec<_> =
                    Always::ALL.iter().filter(|one| !world.holds(&to, **one)).map(|one| one.name()).collect();
                if !broken.is_empty() {
                    println!("{mutant:?}: {broken:?} after {depth} steps and {} states", seen.len());
                    return broken;
                }
                if seen.insert(to) {
                    next.push(to);
                }
            }
        }
        assert!(!next.is_empty(), "nothing notices {mutant:?}");
        level = next;
    }
    unreachable!("the loop ends by a return or a panic")
}

/// Every state of a world that leaves nothing out, and where each leads.
fn every_state(world: &World) -> BTreeMap<State, Vec<State>> {
    let mut level = world.begin();
    let mut found = BTreeMap::new();
    while let Some(state) = level.pop() {
        if found.contains_key(&state) {
            continue;
        }
        let mut actions = Vec::new();
        world.actions(&state, &mut actions);
        let next: Vec<State> = actions.into_iter().filter_map(|action| world.next(&state, action)).collect();
        level.extend(&next);
        found.insert(state, next);
    }
    found
}

/// States that count as one must lead to the same, and what is looked at where steps are left out must end as it does
/// where none is.
fn leaves_out_nothing_that_matters(servers: usize, budget: Budget) {
    let world = World::new(servers, budget, None);
    world.leave_nothing_out(true);
    let whole = every_state(&world);
    let known = whole.keys().next().expect("there are states");
    assert!(world.is_so(known, Sometimes::ReleaseIgnored), "no release came twice");
    let mut leads_to: BTreeMap<State, BTreeSet<State>> = BTreeMap::new();
    for (state, next) in &whole {
        let merged = world.merged(state);
        let mut found: BTreeSet<State> = next.iter().map(|state| world.merged(state)).collect();
        found.remove(&merged);
        let known = leads_to.entry(merged).or_insert_with(|| found.clone());
        let differ: Vec<_> = known.symmetric_difference(&found).map(|state| world.tell(state)).collect();
        assert!(differ.is_empty(), "{} leads elsewhere: {differ:#?}", world.tell(state));
    }
    world.leave_nothing_out(false);
    let fewer = every_state(&world);
    println!(
        "{servers} servers, {budget:?}: {} states, {} different ones, {} looked at",
        whole.len(),
        leads_to.len(),
        fewer.len()
    );
    assert!(fewer.len() < whole.len(), "nothing was left out");
    assert!(fewer.keys().all(|state| leads_to.contains_key(state)), "something cannot be");
    let ends = |states: &BTreeMap<State, BTreeSet<State>>| -> BTreeSet<State> {
        states.iter().filter(|(_, next)| next.is_empty()).map(|(state, _)| *state).collect()
    };
    let fewer = fewer.into_iter().map(|(state, next)| (state, next.into_iter().collect())).collect();
    assert!(ends(&leads_to) == ends(&fewer), "some end is left out, or is none");
}

#[test]
fn what_is_left_out_of_one_server_with_all_faults_at_once_matters_to_nothing() {
    leaves_out_nothing_that_matters(1, ALL_AT_ONCE);
}

#[test]
fn what_is_left_out_of_two_servers_with_both_crashes_matters_to_nothing() {
    let budget = Budget { coordinator_crashes: 1, agent_crashes: 1, regrants: 1, ..Budget::default() };
    leaves_out_nothing_that_matters(2, budget);
}

#[test]
fn what_is_left_out_of_two_servers_with_a_failed_install_the_halt_and_a_crash_matters_to_nothing() {
    let budget =
        Budget { failed_installs: 1, agent_crashes: 1, regrants: 1, halt: true, ..Budget::default() };
    leaves_out_nothing_that_matters(2, budget);
}

#[test]
fn what_is_left_out_of_four_servers_with_a_coordinator_crash_matters_to_nothing() {
    let budget = Budget { coordinator_crashes: 1, ..Budget::default() };
    leaves_out_nothing_that_matters(4, budget);
}

#[test]
fn four_servers_with_a_failed_install_and_the_halt_hold_in_every_order() {
    let budget = Budget { failed_installs: 1, regrants: 1, halt: true, ..Budget::default() };
    let reached = [Sometimes::CapReached, Sometimes::AllDone, Sometimes::RollbackDone, Sometimes::HaltedDown];
    exhaust(4, budget, &reached);
}

#[test]
fn four_servers_with_an_agent_crash_and_a_failed_install_hold_in_every_order() {
    let budget = Budget { agent_crashes: 1, failed_installs: 1, regrants: 1, ..Budget::default() };
    let reached = [Sometimes::CapReached, Sometimes::AllDone, Sometimes::RollbackDone, Sometimes::CrashHeld];
    exhaust(4, budget, &reached);
}

#[test]
fn four_servers_with_an_agent_crash_and_the_halt_hold_in_every_order() {
    let budget = Budget { agent_crashes: 1, regrants: 1, halt: true, ..Budget::default() };
    let reached = [Sometimes::CapReached, Sometimes::AllDone, Sometimes::HaltedDown, Sometimes::CrashHeld];
    exhaust(4, budget, &reached);
}

#[test]
fn three_servers_with_a_coordinator_crash_and_a_failed_install_hold_in_every_order() {
    let budget = Budget { coordinator_crashes: 1, failed_installs: 1, regrants: 1, ..Budget::default() };
    let reached =
        [Sometimes::CapReached, Sometimes::AllDone, Sometimes::RollbackDone, Sometimes::GrantUnsent];
    exhaust(3, budget, &reached);
}

#[test]
fn four_servers_with_a_coordinator_crash_and_the_halt_hold_in_every_order() {
    let budget = Budget { coordinator_crashes: 1, halt: true, ..Budget::default() };
    let reached = [Sometimes::CapReached, Sometimes::AllDone, Sometimes::HaltedDown, Sometimes::GrantUnsent];
    exhaust(4, budget, &reached);
}

#[test]
fn three_servers_with_both_crashes_hold_in_every_order() {
    let budget = Budget { coordinator_crashes: 1, agent_crashes: 1, regrants: 1, ..Budget::default() };
    let reached = [Sometimes::CapReached, Sometimes::AllDone, Sometimes::CrashHeld, Sometimes::GrantUnsent];
    exhaust(3, budget, &reached);
}

/// `LEASES` are the servers, the coordinator's crashes, an agent's, failed installs, leases granted again, and halts.
#[test]
fn the_fleet_that_a_person_names_holds_in_every_order() {
    #[expect(clippy::disallowed_methods, reason = "a person names what to look at; no core sees it")]
    let named = std::env::var("LEASES").unwrap_or_else(|_| "2 1 1 1 2 1".to_owned());
    let numbers: Vec<u8> =
        named.split_whitespace().map(|number| number.parse().expect("LEASES are six numbers")).collect();
    let [servers, coordinator_crashes, agent_crashes, failed_installs, regrants, halts] = numbers[..] else {
        panic!("LEASES are six numbers, as in \"2 1 1 1 2 1\"")
    };
    let budget = Budget {
        coordinator_crashes,
        agent_crashes,
        failed_installs,
        regrants,
        halt: halts > 0,
        ..Budget::default()
    };
    exhaust(servers.into(), budget, &[Sometimes::AllDone]);
}

#[test]
fn four_servers_with_a_lost_lease_and_a_silent_server_hold_in_every_order() {
    let budget = Budget { lost: 1, silences: 1, regrants: 1, ..Budget::default() };
    exhaust(4, budget, &[Sometimes::CapReached, Sometimes::AllDone, Sometimes::LostDown]);
}

#[test]
fn four_servers_with_a_late_start_hold_in_every_order() {
    let budget = Budget { late_starts: 1, regrants: 1, ..Budget::default() };
    exhaust(4, budget, &[Sometimes::CapReached, Sometimes::AllDone]);
}

#[test]
fn one_server_with_all_faults_at_once_holds_in_every_order() {
    exhaust(
        1,
        Budget { lost: 1, ..ALL_AT_ONCE },
        &[
            Sometimes::AllDone,
            Sometimes::RollbackDone,
            Sometimes::HaltedDown,
            Sometimes::LostDown,
            Sometimes::CrashHeld,
            Sometimes::ReleaseIgnored,
            Sometimes::GrantUnsent,
        ],
    );
}

#[test]
fn a_grant_sent_before_it_is_durable_is_caught() {
    let budget = Budget { coordinator_crashes: 1, regrants: 1, ..Budget::default() };
    assert_eq!(caught(Mutant::GrantBeforePersist, budget), [Always::Covered.name()]);
}

#[test]
fn a_time_out_that_frees_is_caught() {
    let budget = Budget { lost: 1, regrants: 1, ..Budget::default() };
    assert_eq!(caught(Mutant::ExpiryFrees, budget), [Always::Covered.name()]);
}

#[test]
fn a_missing_group_limit_is_caught() {
    assert_eq!(caught(Mutant::NoGroupLimit, Budget::default()), [Always::LedgerCap.name()]);
}

#[test]
fn an_old_grant_taken_for_a_new_one_is_caught() {
    let budget = Budget { failed_installs: 1, regrants: 1, ..Budget::default() };
    assert_eq!(caught(Mutant::OldGrantLooksNew, budget), [Always::Covered.name()]);
}

#[test]
fn a_release_that_frees_whatever_is_held_is_caught() {
    let budget = Budget { failed_installs: 1, regrants: 1, ..Budget::default() };
    assert_eq!(caught(Mutant::UnfencedRelease, budget), [Always::Covered.name()]);
}
