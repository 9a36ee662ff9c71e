//! Programs killed while a campaign runs.
//!
//! Owns the kills of the coordinator and of appliers. Main invariant: whatever is killed, and when, each server
//! ends whole on one version, and the log tells exactly one end of each lease.

use std::collections::{BTreeMap, BTreeSet};

use lunar_tests::{Events, Fleet, Part, wait_for, wait_until};

#[test]
fn a_coordinator_killed_again_and_again_loses_and_doubles_nothing() {
    let fleet = Fleet::found(3);
    let coordinator = Part::Coordinator;
    fleet.publish();

    // Each time in another moment of a lease's life, told by the log itself.
    for (kind, count) in [("Queued", 1), ("Granted", 1), ("Released", 1), ("Granted", 2), ("Started", 1)] {
        wait_until("the moment to kill the coordinator", || {
            Events::of(&fleet).is_some_and(|events| events.of_kind(kind).count() >= count)
        });
        let crashed = fleet.crash(&coordinator);
        fleet.restart(&coordinator, &crashed);
    }
    let events = fleet.wait_until_over(fleet.servers());

    for server in fleet.servers() {
        assert_eq!(events.outcomes(server), ["completed"], "{server}");
        assert_eq!(fleet.version_on(server), "2.0", "{server}");
        assert_eq!(repeated(&events.transitions(server)), Vec::<String>::new(), "{server}");
    }
    assert_eq!(events.of_kind("CoordinatorStarted").count(), 6);
    let granted = events.servers("Granted");
    let once: BTreeSet<_> = granted.iter().collect();
    assert_eq!((granted.len(), once.len()), (3, 3), "each server was granted once: {granted:?}");
    assert!(most_held(&events) <= 1, "one group of three: never two leases at once");
    fleet.check_audit();
}

#[test]
fn appliers_killed_in_mid_upgrade_leave_each_server_whole_on_one_version() {
    let fleet = Fleet::found(3);
    fleet.publish();
    // The phase in which, or at the latest after which, each applier is killed.
    let phases =
        ["staging", "waiting", "installing", "validating", "complete", "rolling-back", "rolled-back"];
    let mut due: BTreeMap<&String, usize> = fleet.servers().iter().zip([0, 2, 3]).collect();

    wait_until("every applier to have had its moment", || {
        due.retain(|server, moment| {
            let phase = fleet.status_of(server).and_then(|status| {
                let phase = status["node"]["active"]["phase"].as_str().map(str::to_owned);
                phase.or_else(|| Some(status["node"]["finished"][0]["phase"].as_str()?.to_owned()))
            });
            let reached = phases.iter().position(|known| Some(*known) == phase.as_deref());
            let has_come = reached.is_some_and(|reached| reached >= *moment);
            if has_come {
                let applier = Part::Applier((*server).clone());
                let crashed = fleet.crash(&applier);
                fleet.restart(&applier, &crashed);
            }
            !has_come
        });
        due.is_empty()
    });
    let events = fleet.wait_until_over(fleet.servers());

    for server in fleet.servers() {
        let outcomes = events.outcomes(server);
        assert_eq!(outcomes.len(), 1, "one lease, one end: {outcomes:?}");
        let version = if outcomes[0] == "completed" { "2.0" } else { "1.0" };
        assert_eq!(fleet.version_on(server), version, "{server}: {outcomes:?}");
        wait_for("the service to answer with the version on disk", || {
            (fleet.served_version(server)? == version).then_some(())
        });
        if version == "2.0" {
            let verified = fleet.on(server, &["verify"]);
            assert_eq!(verified.code, 0, "{}{}", verified.out, verified.err);
        }
    }
    fleet.check_audit();
}

/// Phases that a server entered more than once.
fn repeated(transitions: &[(String, String)]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    transitions.iter().filter(|(_, to)| !seen.insert(to)).map(|(_, to)| to.clone()).collect()
}

/// Most leases held at once, by replaying the log.
fn most_held(events: &Events) -> usize {
    let (mut held, mut most) = (BTreeSet::new(), 0);
    for event in events.all() {
        if let Some(granted) = event.get("Granted") {
            held.insert(granted["server"].to_string());
        }
        if let Some(released) = event.get("Released") {
            held.remove(&released["server"].to_string());
        }
        most = most.max(held.len());
    }
    most
}
