//! A release that does not work, on a real fleet of tier 1 whose plan pauses at the first failure.
//!
//! Owns the story from the first failure to the second. Main invariant: one server at a time learns that the release is
//! bad, each after two people have said so by name of the pause, and no other goes down.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

use lunar_tests::{CAMPAIGN, Events, Fleet, Part, wait_for, wait_until};

/// The new version never passes, and the first server of tier 1 that finds out is the last for now.
const BAD_RELEASE: &[(&str, &str)] = &[
    ("[stop.tier.1]\nfailed = 4294967295", "[stop.tier.1]\nfailed = 1"),
    ("settle_s = 15", "settle_s = 2"),
    (
        "[[health.probe]]\nname = \"disk\"",
        "[[health.probe]]\nname = \"never\"\nkind = \"http\"\nurl = \"http://127.0.0.1:${label.port}/nowhere\"\n\
         status = 201\ntimeout_s = 1\nwhen = [\"after\", \"soak\"]\n\n[[health.probe]]\nname = \"disk\"",
    ),
];

#[test]
fn the_first_failure_in_tier_1_pauses_it_until_two_people_resume_and_the_next_one_pauses_it_again() {
    let fleet = Fleet::found(3);
    fleet.replan(BAD_RELEASE);
    fleet.publish();

    let pause = wait_for("the first failure to pause tier 1", || paused(&fleet, 1));
    let first = pause["server"].as_str().unwrap().to_owned();
    let other = fleet.servers().iter().find(|server| **server != first).unwrap();
    let why = wait_for("the others to wait for the pause", || {
        let why = fleet.ask(&["why", other])[0].clone();
        why["reason"].get("paused").is_some().then_some(why)
    });
    let text = why["text"].as_str().unwrap();
    assert!(text.contains("tier 1 is paused by its failures: 1 of 1 servers tried failed"), "{text}");
    let id = why["reason"]["paused"]["pause"].as_str().unwrap().to_owned();

    let crashed = fleet.crash(&Part::Coordinator);
    fleet.restart(&Part::Coordinator, &crashed);
    fleet.wait_until_all_heard();
    let status = fleet.operator(&["status"]).out;
    assert!(status.contains("PAUSED tier 1 by its failures") && status.contains(&id), "{status}");
    assert_eq!(Events::of(&fleet).unwrap().servers("Granted"), std::slice::from_ref(&first));

    let (alice, bob) = (fleet.key("alice"), fleet.key("bob"));
    let resume = ["resume", CAMPAIGN, "--pause", "tier 1", "--reason", "a bad disk", "--key", &alice];
    let resumed = fleet.operator(&[&resume[..], &["--key", &bob]].concat());
    assert_eq!(resumed.code, 0, "{}{}", resumed.out, resumed.err);
    let again = wait_for("the next failure to pause tier 1 again", || paused(&fleet, 2));
    assert_ne!(again["server"], pause["server"]);

    wait_until("the second server to be at its end", || {
        let leases = fleet.operator(&["lease", "list", "--output", "json"]);
        leases.code == 0 && leases.json().as_array().is_some_and(Vec::is_empty)
    });
    let events = Events::of(&fleet).unwrap();
    assert_eq!(events.of_kind("Unpaused").count(), 1);
    assert_eq!(events.servers("Granted").len(), 2, "the third has not gone down");
    assert!(fleet.servers().iter().all(|server| fleet.version_on(server) == "1.0"));
    let history = fleet.operator(&["history", &first]).out;
    assert!(history.contains("PAUSE tier 1 of web-2"), "{history}");
    fleet.check_audit();
}

/// The nth pause in the log.
fn paused(fleet: &Fleet, nth: usize) -> Option<serde_json::Value> {
    let events = Events::of(fleet)?;
    events.of_kind("Paused").nth(nth - 1).map(|event| event["pause"].clone())
}
