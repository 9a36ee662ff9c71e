//! The kill switch on a real fleet, with its coordinator dead.
//!
//! Owns the story from the halt to the resume. Main invariant: after a halt nothing starts that had not started,
//! by the words of the agents and of the log; how fast it spreads is printed, not judged.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

use std::io::Write as _;
use std::time::Instant;

use lunar_tests::{CAMPAIGN, Events, Fleet, Part, wait_for, wait_until};

#[test]
fn a_halt_given_to_one_agent_stops_every_start_with_the_coordinator_dead_until_two_resume() {
    let fleet = Fleet::found(3);
    fleet.publish();
    let first = wait_for("the first start", || Events::of(&fleet)?.servers("Started").first().cloned());
    let others: Vec<_> = fleet.servers().iter().filter(|server| **server != first).cloned().collect();
    let crashed = fleet.crash(&Part::Coordinator);

    let via = format!("unix:{}", fleet.of(&others[0], "run/agent.sock").display());
    let (carol, alice, bob) = (fleet.key("carol"), fleet.key("alice"), fleet.key("bob"));
    let reason = "smoke in rack 4";
    let begun = Instant::now();
    let halted = fleet.operator(&["halt", "--all", "--reason", reason, "--key", &carol, "--via", &via]);
    assert_eq!(halted.code, 0, "{}", halted.err);
    wait_until("the halt to reach every agent", || {
        fleet.servers().iter().all(|server| {
            let status = fleet.status_of(server);
            status.is_some_and(|status| status["node"]["halts"].to_string().contains(reason))
        })
    });
    let took = begun.elapsed().as_millis();
    let _ = writeln!(std::io::stderr(), "the halt reached 3 agents within {took} ms, asking them included");
    wait_until("the one under way to finish", || {
        let finished = fleet.status_of(&first).map(|status| status["node"]["finished"].clone());
        finished.is_some_and(|finished| finished[0]["campaign"] == CAMPAIGN)
    });

    fleet.restart(&Part::Coordinator, &crashed);
    fleet.wait_until_all_heard();
    for server in &others {
        // With the slot free, only the halt is left to bind.
        let why = wait_for("the ledger to say that the halt binds", || {
            let why = fleet.ask(&["why", server])[0].clone();
            why["text"].as_str()?.contains(reason).then_some(why)
        });
        assert!(why["reason"].get("halted").is_some(), "{why}");
        assert_eq!(fleet.version_on(server), "1.0");
    }
    let events = wait_for("the first lease to be released", || {
        Events::of(&fleet).filter(|events| events.servers("Released") == std::slice::from_ref(&first))
    });
    assert_eq!(events.servers("Granted"), std::slice::from_ref(&first));
    assert_eq!(events.servers("Started"), std::slice::from_ref(&first));
    assert_eq!(events.of_kind("Halted").count(), 1, "the halt is in the log of a coordinator that was dead");

    let one =
        fleet.operator(&["resume", "--all", "--reason", "a kettle", "--key", &alice, "--output", "json"]);
    assert_eq!(one.code, 1, "one of two does not resume: {}{}", one.out, one.err);
    let half: serde_json::Value = serde_json::from_str(&one.out).unwrap();
    assert_eq!((&half["complete"], &half["published"]), (&false.into(), &serde_json::Value::Null), "{half}");
    let file = half["file"].as_str().unwrap();
    fleet.on(&others[1], &["inject", file]).is_refused(4, &["resume", "2"]);
    assert!(!fleet.ask(&["status"])["status"]["halts"].as_array().unwrap().is_empty());

    let both = fleet.operator(&["resume", "--sign", file, "--key", &bob]);
    assert_eq!(both.code, 0, "{}", both.err);
    let events = fleet.wait_until_over(fleet.servers());
    for server in fleet.servers() {
        assert_eq!(events.outcomes(server), ["completed"], "{server}");
        assert_eq!(fleet.version_on(server), "2.0");
    }
    assert_eq!(events.of_kind("Resumed").count(), 1);
    fleet.check_audit();
}
