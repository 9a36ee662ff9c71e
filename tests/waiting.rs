//! Why a server waits.
//!
//! Owns the question that an operator asks most. Main invariant: the answer is the reason that binds at that
//! moment, with the one who holds the slot.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

use lunar_common::time::WallTime;
use lunar_host::clock;
use lunar_tests::{CAMPAIGN, Events, Fleet, wait_for};

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

#[test]
fn a_tier_held_to_a_window_that_is_closed_waits_and_why_says_when_it_opens_while_another_tier_goes_on() {
    let fleet = Fleet::found(4);
    // From two hours on, for an hour, whatever the time is now.
    let opens = WallTime((clock::wall().0 / 60 + 120) * 60);
    let time = |later_s: i64| WallTime(opens.0 + later_s).to_string()["2026-11-21T".len()..][..5].to_owned();
    let windows = format!(
        "[windows]\nzone = \"UTC\"\n[[windows.weekly]]\nname = \"later\"\nfrom = \"{}\"\nuntil = \"{}\"\n\
         [windows.tier]\n1 = {{ mode = \"strict\", windows = [\"later\"] }}\n\n[install]\n",
        time(0),
        time(3_600)
    );
    fleet.replan(&[("[install]\n", &windows)]);
    fleet.publish();

    // The fourth is of tier 2, the others of tier 1.
    let [held @ .., free] = fleet.servers() else { panic!("four servers") };
    let why = wait_for("everyone of tier 1 to wait for the window", || {
        let why: Vec<_> = held.iter().map(|server| fleet.ask(&["why", server])[0].clone()).collect();
        why.iter().all(|why| why["reason"].get("outside-window").is_some()).then_some(why)
    });
    for why in &why {
        let reason = &why["reason"]["outside-window"];
        assert_eq!(reason["opens"], opens.to_string().as_str(), "{why}");
        assert_eq!((&reason["windows"][0], &reason["strict"]), (&"later".into(), &true.into()), "{why}");
        let text = why["text"].as_str().unwrap();
        assert!(text.contains("tier 1 starts in its maintenance windows only (later)"), "{text}");
    }
    let events = wait_for("the server of tier 2 to be done", || {
        let events = Events::of(&fleet)?;
        let last = events.transitions(free).last().map(|(_, to)| to.clone())?;
        ["complete", "rolled-back", "failed"].contains(&last.as_str()).then_some(events)
    });
    assert_eq!(events.servers("Granted"), [free.as_str()]);
    fleet.check_audit();
}

#[test]
fn a_batch_waits_for_two_others_than_the_author_and_starts_once_they_have_signed() {
    let fleet = Fleet::found(1);
    let server = &fleet.servers()[0];
    fleet.replan(&[("[install]\n", "[[stages]]\nname = \"all\"\napproval_batch = 1\n\n[install]\n")]);
    fleet.publish();
    let why = wait_for("the server to wait for people", || {
        let why = fleet.ask(&["why", server])[0].clone();
        why["reason"].get("approval").is_some().then_some(why)
    });
    // Alice wrote the plan.
    let text = why["text"].as_str().unwrap();
    assert!(text.contains("batch 1 of 1 servers is not approved; it takes 2 of bob, carol"), "{text}");

    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|operator| fleet.key(operator));
    let what = ["approve", CAMPAIGN, "--stage", "all", "--batch", "1", "--reason", "all quiet"];
    let halfway = fleet.operator(&[&what[..], &["--key", &alice, "--key", &bob]].concat());
    assert_ne!(halfway.code, 0, "{}", halfway.out);
    assert!(halfway.out.contains("alice wrote the plan, and may not approve it too"), "{}", halfway.out);
    assert_eq!(Events::of(&fleet).unwrap().of_kind("Approved").count(), 0);
    assert_eq!(fleet.ask(&["batches", CAMPAIGN])[0]["state"], "waiting");

    let file = fleet.home().join("approvals/web-2-all-1-1.toml").display().to_string();
    let whole = fleet.operator(&["approve", "--sign", &file, "--key", &carol]);
    assert_eq!(whole.code, 0, "{}{}", whole.out, whole.err);
    let events = fleet.wait_until_over(fleet.servers());
    let said: Vec<_> = events.of_kind("Approved").collect();
    assert_eq!((said.len(), &said[0]["word"]["signers"]), (1, &vec!["bob", "carol"].into()), "{said:?}");
    // The same again is no news, and changes nothing.
    fleet.operator(&["approve", "--sign", &file, "--key", &carol]).is_refused(3, &["not newer than 1"]);
    fleet.check_audit();
}
