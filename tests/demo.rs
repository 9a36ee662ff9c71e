//! The main job as a new user runs it.
//!
//! Owns two runs of `lunar-coordinator demo`, one undisturbed and one with everything injected. Main invariant:
//! the demo judges itself, and the test believes it only with the report and the exit code together.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

use lunar_tests::{Ended, programs, run};

#[test]
fn the_demo_upgrades_six_servers_rolls_one_back_and_everything_holds() {
    let report = report(&[]);

    let results: Vec<_> = report["servers"].as_array().unwrap().iter().map(|line| &line["result"]).collect();
    assert_eq!(results.iter().filter(|result| **result == "complete").count(), 5, "{results:?}");
    assert_eq!(results.iter().filter(|result| **result == "rolled back").count(), 1, "{results:?}");
}

#[test]
fn the_demo_holds_while_an_agent_and_the_coordinator_are_killed_and_packs_are_corrupted() {
    let report = report(&["--inject", "kill-agent,kill-coordinator,corrupt-pack"]);

    let said = report["expectations"].to_string();
    for injected in ["agent is killed", "coordinator is killed", "pack is corrupted"] {
        assert!(said.contains(injected), "{injected}: {said}");
    }
}

/// The report of a demo in which everything held.
fn report(more: &[&str]) -> serde_json::Value {
    let nowhere = tempfile::tempdir().unwrap();
    let arguments = [&["demo", "--agents", "6", "--json"], more].concat();
    let Ended { code, out, err } = run(&programs().coordinator, nowhere.path(), arguments);
    let report: serde_json::Value =
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("exit {code}, {error}: {out}{err}"));
    let broken: Vec<_> = report["expectations"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|expectation| expectation["held"] != true)
        .collect();
    assert!(broken.is_empty(), "{broken:#?}");
    assert_eq!((code, &report["held"]), (0, &true.into()), "{err}");
    report
}
