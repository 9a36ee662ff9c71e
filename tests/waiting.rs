//! Why a server waits.
//!
//! Owns the question that an operator asks most. Main invariant: the answer is the reason that binds at that
//! moment, with the one who holds the slot.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

use lunar_tests::{Events, Fleet, wait_for};

#[test]
fn why_names_the_limit_that_a_server_waits_for_and_who_holds_it() {
    let fleet = Fleet::found(3);
    fleet.publish();

    let (holder, why) = wait_for("a server that waits for another", || {
        let events = Events::of(&fleet)?;
        let released = events.servers("Released");
        let holder = events.servers("Granted").into_iter().find(|server| !released.contains(server))?;
        let waits = events.servers("Queued").into_iter().find(|server| *server != holder)?;
        let why = fleet.ask(&["why", &waits])[0].clone();
        why["reason"].get("limit").is_some().then_some((holder, why))
    });

    // The group of three allows one; so does no other limit of this plan.
    let limit = &why["reason"]["limit"];
    assert_eq!((&limit["limit"], &limit["taken"]), (&1.into(), &1.into()), "{why}");
    assert!(limit["scope"].to_string().contains("life-support"), "{why}");
    assert!(limit["holders"].to_string().contains(&holder), "{holder} holds it: {why}");
    let text = why["text"].as_str().unwrap();
    assert!(text.contains("life-support") && text.contains(&holder), "{text}");
    let _ = fleet.wait_until_over(fleet.servers());
}
