//! The lease model, exhausted with stateright.
//!
//! Owns the proof that no order of events breaks the lease rules, within the budgets named here. Main invariant: a
//! run is given neither a time-out nor a target, so that it ends only when every state was looked at. Each mutant names the
//! property that catches it; cap, floors, halt, restore and settling have no mutant yet.
//!
//! One coordinator crash, one agent crash, one failed install and the halt, all in one run of four servers, are more
//! states than a test may take. They are exhausted all at once for one server, and in the combinations below for
//! four servers in two groups. Each test prints its figures.

#![expect(clippy::print_stdout, reason = "the figures are for whoever asks with --nocapture")]

use lunar_simulations::model::{Action, Always, Budget, Mutant, Sometimes, State, World};
use stateright::{Checker, Model, Property};

/// The production cores' world, as stateright wants it.
struct Leases(World);

macro_rules! properties {
    ($kind:ident $of:ident $ask:ident: $($one:ident)+) => {
        [$(Property::$kind($of::$one.name(), |model: &Leases, state| model.0.$ask(state, $of::$one)),)+]
    };
}

impl Model for Leases {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.0.begin()]
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
    let mut seen = std::collections::BTreeSet::from([world.begin()]);
    let mut level: Vec<State> = seen.iter().copied().collect();
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

#[test]
fn four_servers_with_a_failed_install_and_the_halt_hold_in_every_order() {
    let budget = Budget { failed_installs: 1, regrants: 1, halt: true, ..Budget::default() };
    exhaust(
        4,
        budget,
        &[
            Sometimes::CapReached,
            Sometimes::AllDone,
            Sometimes::RollbackDone,
            Sometimes::HaltedDown,
            Sometimes::ReleaseIgnored,
        ],
    );
}

#[test]
fn four_servers_with_an_agent_crash_hold_in_every_order() {
    let budget = Budget { agent_crashes: 1, regrants: 1, ..Budget::default() };
    exhaust(4, budget, &[Sometimes::CapReached, Sometimes::AllDone, Sometimes::CrashHeld]);
}

#[test]
fn four_servers_with_a_coordinator_crash_hold_in_every_order() {
    let budget = Budget { coordinator_crashes: 1, ..Budget::default() };
    exhaust(4, budget, &[Sometimes::CapReached, Sometimes::AllDone, Sometimes::GrantUnsent]);
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
    let budget = Budget {
        coordinator_crashes: 1,
        agent_crashes: 1,
        failed_installs: 1,
        lost: 1,
        regrants: 2,
        halt: true,
        ..Budget::default()
    };
    exhaust(
        1,
        budget,
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
