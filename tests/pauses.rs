//! What stops a real fleet: the plan's rules, when a release does not work, and people, by hand.
//!
//! Owns the story from the first failure to the second, and that of what people hold back and let go. Main invariant: one
//! server at a time learns that the release is bad, each after two people have said so by name of the pause, and no other
//! goes down; what one key holds back, only two let go.

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

#[test]
fn one_person_holds_a_server_and_a_campaign_back_by_hand_and_two_let_them_go() {
    let fleet = Fleet::found(2);
    let [held, other] = [0, 1].map(|at: usize| fleet.servers()[at].clone());
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|operator| fleet.key(operator));
    let carried_out = |arguments: &[&str]| {
        let ended = fleet.operator(arguments);
        assert_eq!(ended.code, 0, "{arguments:?}: {}{}", ended.out, ended.err);
        ended.out
    };
    let because = ["--reason", "a disk is failing", "--key", &carol];
    let planned = carried_out(&[&["quarantine", &held, "--dry-run"][..], &because[..2]].concat());
    assert!(planned.contains("nothing was written"), "{planned}");
    carried_out(&[&["quarantine", &held][..], &because].concat());
    fleet.publish();
    let events = fleet.wait_until_over(std::slice::from_ref(&other));
    assert_eq!(events.servers("Granted"), std::slice::from_ref(&other));
    let text = |server: &str| fleet.ask(&["why", server])[0]["text"].as_str().unwrap().to_owned();
    assert_eq!(
        text(&held),
        format!("{held} is in quarantine by carol: a disk is failing; it goes on after a signed release")
    );

    // Who stops cannot let go, and neither can one of two.
    let release = ["quarantine", &held, "--release", "--reason", "a new disk"];
    let halfway = fleet.operator(&[&release[..], &["--key", &alice]].concat());
    assert_eq!(halfway.code, 1, "{}{}", halfway.out, halfway.err);
    assert!(halfway.out.contains("1 of 2 signatures"), "{}", halfway.out);
    assert!(text(&held).contains("is in quarantine"), "half a release is none");
    carried_out(&["pause", CAMPAIGN, "--reason", "a crew is docking", "--key", &carol]);
    let file = fleet.home().join("curbs/_fleet-2.toml").display().to_string();
    carried_out(&["quarantine", "--sign", &file, "--key", &bob]);
    let paused = text(&held);
    assert!(paused.contains("the campaign was paused by carol: a crew is docking"), "{paused}");
    let again = fleet.operator(&["quarantine", "--sign", &file, "--key", &bob]);
    again.is_refused(3, &["number 2 is not newer than 2"]);
    let raised = ["lower", CAMPAIGN, "--fleet", "9999", "--reason", "faster", "--key", &carol];
    fleet.operator(&raised).is_refused(3, &["goes up by a new generation of the plan only"]);

    let resume = ["resume", CAMPAIGN, "--pause", "the campaign", "--reason", "docked"];
    carried_out(&[&resume[..], &["--key", &alice, "--key", &bob]].concat());
    let events = fleet.wait_until_over(std::slice::from_ref(&held));
    assert_eq!((events.of_kind("Curbed").count(), events.of_kind("Unpaused").count()), (3, 1));
    let history = carried_out(&["history", &held]);
    assert!(history.contains("put in quarantine (sequence 1), signed by carol"), "{history}");
    carried_out(&["cancel", CAMPAIGN, "--reason", "2.1 replaces it", "--key", &carol]);
    let status = carried_out(&["status"]);
    assert!(status.contains("CANCELLED by carol: 2.1 replaces it"), "{status}");
    fleet.check_audit();
}

/// The nth pause in the log.
fn paused(fleet: &Fleet, nth: usize) -> Option<serde_json::Value> {
    let events = Events::of(fleet)?;
    events.of_kind("Paused").nth(nth - 1).map(|event| event["pause"].clone())
}
