//! Maintenance windows in the ledger: who starts when, what wakes it, and what a clock that is set changes.
//!
//! Owns the unit and property tests of windows (D3). Main invariant: what is granted is compared with the windows as
//! they are written, never with what the ledger remembers of them.

use std::time::Duration;

use lunar_common::ids::{StageName, WindowName};
use lunar_common::lease::{LeaseOutcome, WaitReason};
use lunar_common::limits::Tier;
use lunar_common::message::Transition;
use lunar_common::phase::Phase;
use lunar_common::plan::Stage;
use lunar_common::plan::windows::Windows;
use lunar_common::time::{Moment, WallTime};
use lunar_common::window::OpenTimes;
use proptest::prelude::*;

use super::rules::{Rules, StageTerms};
use super::window::{StageWindows, WindowTerms};
use crate::coordinator::documents::Also;
use crate::coordinator::rig::*;
use crate::effect::Answer;
use crate::event::{EventBody, LimitTable, Terms};

const FLEET: [&str; 5] =
    ["a 1 north n1 air", "b 1 north n1 -", "c 2 south s1 -", "d 2 south s1 -", "e 3 south s1 -"];

/// Tier 1 strictly at night, tier 2 at night if it can, tier 3 at any time, by Berlin's clock.
const NIGHTS: &str = "zone = \"Europe/Berlin\"\n[[weekly]]\nname = \"night\"\nfrom = \"22:00\"\nuntil = \"05:00\"\n\
    [tier]\n1 = { mode = \"strict\", windows = [\"night\"] }\n2 = { mode = \"preferred\", windows = [\"night\"] }\n";

/// What a start needs, in the rig: two minutes to begin, ten down, five to roll back.
const NEEDS_S: i64 = 17 * 60;

fn windows(text: &str) -> WindowTerms {
    let windows: Windows = toml::from_str(text).unwrap();
    let stages = Vec::new();
    WindowTerms { windows, stages, start_needs_s: NEEDS_S.unsigned_abs(), start_within_s: 120, hold_s: 600 }
}

fn at(text: &str) -> WallTime {
    text.parse().unwrap()
}

fn plan(generation: u64, expires: &str, limits: LimitTable) -> Terms {
    Terms { expires: at(expires), ..terms("c", generation, limits) }
}

/// Time passes until then by both clocks, and nobody does anything.
fn until(rig: &mut Rig, wall: WallTime) {
    let passed = u64::try_from(wall.0 - rig.now.wall.0).unwrap();
    rig.now = rig.now.after(Duration::from_secs(passed));
}

/// Members that have reported, at a time, under a plan with windows.
fn held(members: &[&str], wall: &str, expires: &str, limits: LimitTable, text: &str) -> Rig {
    let mut rig = Rig::unheard(members, limits.clone());
    until(&mut rig, at(wall));
    rig.plan_in_windows(plan(2, expires, limits), Some(windows(text)));
    rig.all_report();
    rig
}

fn nightly(wall: &str) -> Rig {
    held(&FLEET, wall, "2026-12-20T00:00:00Z", wide(), NIGHTS)
}

fn claim(rig: &mut Rig, server: &str, nonce: u64) -> Answer {
    let claim = lunar_common::lease::Claim { plan: plan_hash(2), ..rig.claim_as(server, 1, nonce) };
    answer(&rig.send(claim))
}

fn waits_until(answer: &Answer) -> Option<WallTime> {
    match answer {
        Answer::Wait { reason: WaitReason::OutsideWindow { opens, .. }, .. } => *opens,
        other => panic!("expected a closed window, found {other:?}"),
    }
}

fn is_granted(answer: &Answer) -> bool {
    matches!(answer, Answer::Granted(_))
}

#[test]
fn a_claim_before_the_window_waits_and_is_granted_when_it_opens_and_not_a_second_sooner() {
    // 22:00 in Berlin is 21:00Z in winter.
    let mut rig = nightly("2026-11-21T20:59:10Z");
    assert_eq!(waits_until(&claim(&mut rig, "a", 1)), Some(at("2026-11-21T21:00:00Z")));
    assert!(is_granted(&claim(&mut rig, "e", 1)), "tier 3 is held to no window");
    assert_eq!(pushed(&rig.pass(Duration::from_secs(49))), []);
    let granted = pushed(&rig.pass(Duration::from_secs(1)));
    assert_eq!(granted.iter().map(|grant| grant.server.clone()).collect::<Vec<_>>(), [id("a")]);
}

#[test]
fn a_start_needs_the_window_to_last_through_its_beginning_the_time_down_and_a_rollback() {
    // The window closes at 04:00Z.
    let last = at("2026-11-22T04:00:00Z").0 - NEEDS_S;
    let mut rig = nightly("2026-11-22T01:00:00Z");
    until(&mut rig, WallTime(last));
    assert!(is_granted(&claim(&mut rig, "a", 1)));
    until(&mut rig, WallTime(last + 1));
    assert_eq!(waits_until(&claim(&mut rig, "b", 1)), Some(at("2026-11-22T21:00:00Z")));
}

#[test]
fn a_grant_that_was_not_started_is_not_given_again_once_the_window_is_closed() {
    let mut rig = nightly("2026-11-22T01:00:00Z");
    until(&mut rig, WallTime(at("2026-11-22T04:00:00Z").0 - NEEDS_S));
    assert!(is_granted(&claim(&mut rig, "a", 1)));
    assert!(is_granted(&claim(&mut rig, "a", 2)), "sent again in time");
    rig.now = rig.now.after(Duration::from_secs(1));
    assert_eq!(waits_until(&claim(&mut rig, "a", 3)), Some(at("2026-11-22T21:00:00Z")));
}

#[test]
fn the_windows_of_a_restarted_coordinator_are_those_of_its_log() {
    let mut rig = nightly("2026-11-21T20:59:30Z");
    rig.restart();
    rig.all_report();
    assert_eq!(waits_until(&claim(&mut rig, "a", 1)), Some(at("2026-11-21T21:00:00Z")));
    assert_eq!(pushed(&rig.pass(Duration::from_secs(30))).len(), 1);
}

#[test]
fn a_plan_without_windows_lets_everyone_start_and_one_with_windows_holds_them_back_again() {
    let mut rig = nightly("2026-11-21T12:00:00Z");
    rig.plan_in_windows(plan(3, "2026-12-20T00:00:00Z", wide()), None);
    let newer = lunar_common::lease::Claim { plan: plan_hash(3), ..rig.claim_as("a", 1, 1) };
    assert!(is_granted(&answer(&rig.send(newer))));
    rig.plan_in_windows(plan(4, "2026-12-20T00:00:00Z", wide()), Some(windows(NIGHTS)));
    let newest = lunar_common::lease::Claim { plan: plan_hash(4), ..rig.claim_as("b", 1, 1) };
    assert_eq!(waits_until(&answer(&rig.send(newest))), Some(at("2026-11-21T21:00:00Z")));
}

#[test]
fn a_trusted_time_that_stands_still_opens_no_window_and_the_ledger_looks_again_until_it_does() {
    let mut rig = nightly("2026-11-21T20:59:59Z");
    waits_until(&claim(&mut rig, "a", 1));
    // The clock was set back: trusted time stays, this machine's own time goes on.
    for second in 1..=20 {
        rig.now.moment = Moment(rig.now.moment.0 + 1_000);
        rig.core.handle_timeout(rig.now);
        assert_eq!(pushed(&rig.step()), [], "after {second} s");
        let next = rig.core.poll_timeout().unwrap();
        assert!(
            next > rig.now.moment && next <= rig.now.moment.after(Duration::from_secs(1)),
            "no busy loop"
        );
    }
    rig.now.wall = at("2026-11-21T21:00:00Z");
    rig.now.moment = Moment(rig.now.moment.0 + 1_000);
    rig.core.handle_timeout(rig.now);
    assert_eq!(pushed(&rig.step()).len(), 1);
}

#[test]
fn a_machine_that_slept_over_an_opening_grants_at_the_next_claim() {
    let mut rig = nightly("2026-11-21T20:00:00Z");
    waits_until(&claim(&mut rig, "a", 1));
    until(&mut rig, at("2026-11-21T22:00:00Z"));
    assert!(is_granted(&claim(&mut rig, "a", 2)));
}

#[test]
fn a_clock_that_is_set_ahead_into_a_window_opens_nothing_before_the_time_comes() {
    let mut rig = nightly("2026-11-21T20:00:00Z");
    waits_until(&claim(&mut rig, "a", 1));
    rig.now.wall = at("2026-11-21T22:00:00Z");
    let report = rig.fresh_report("e");
    assert_eq!(pushed(&rig.report(report)), []);
    assert_eq!(waits_until(&claim(&mut rig, "a", 2)), Some(at("2026-11-21T21:00:00Z")));
    let why = rig.core.why(&id("a"), rig.now).unwrap().remove(0);
    assert!(why.text.contains("the coordinator's clock was set by 7200 s since it started"), "{}", why.text);
    let next = rig.core.poll_timeout().unwrap();
    assert!(next <= rig.now.moment.after(Duration::from_secs(60)), "the steady clock is looked at");
    until(&mut rig, at("2026-11-21T22:59:59Z"));
    assert!(!is_granted(&claim(&mut rig, "a", 3)));
    until(&mut rig, at("2026-11-21T23:00:00Z"));
    assert!(is_granted(&claim(&mut rig, "a", 4)), "open by the clock, and by the time without its step");
}

#[test]
fn a_clock_that_is_set_back_into_a_window_does_not_keep_it_open() {
    let mut rig = nightly("2026-11-22T03:40:00Z");
    rig.now.wall = at("2026-11-22T01:40:00Z");
    assert!(is_granted(&claim(&mut rig, "a", 1)), "open by both");
    until(&mut rig, at("2026-11-22T01:45:00Z"));
    assert_eq!(waits_until(&claim(&mut rig, "b", 1)), Some(at("2026-11-22T21:00:00Z")));
    // Set right again, it is the clock alone that counts.
    rig.now.wall = at("2026-11-22T03:45:00Z");
    until(&mut rig, at("2026-11-22T21:00:00Z"));
    assert!(is_granted(&claim(&mut rig, "b", 2)));
}

#[test]
fn a_clock_that_is_set_by_less_than_a_minute_is_believed() {
    let mut rig = nightly("2026-11-21T20:59:01Z");
    waits_until(&claim(&mut rig, "a", 1));
    rig.now.wall = at("2026-11-21T21:00:00Z");
    let report = rig.fresh_report("e");
    assert_eq!(pushed(&rig.report(report)).len(), 1);
}

#[test]
fn a_stage_that_is_held_to_windows_starts_in_them_only_and_in_those_of_its_tier() {
    let text = "zone = \"Europe/Berlin\"\n[[weekly]]\nname = \"night\"\nfrom = \"22:00\"\nuntil = \"05:00\"\n\
                [[weekly]]\nname = \"late\"\nfrom = \"23:00\"\nuntil = \"06:00\"\n\
                [tier]\n1 = { mode = \"strict\", windows = [\"night\"] }\n";
    let stage: Stage = toml::from_str("name = \"all\"\nwindows = [\"late\"]\n").unwrap();
    let held = StageWindows { stage: 0, name: stage.name.clone(), windows: stage.windows.clone() };
    let mut rig = Rig::unheard(&FLEET, wide());
    until(&mut rig, at("2026-11-21T20:30:00Z"));
    let rules = Rules { stages: StageTerms::of(&[stage]), ..Rules::default() };
    let windows = WindowTerms { stages: vec![held], ..windows(text) };
    let terms = plan(2, "2026-12-20T00:00:00Z", wide());
    let also = Also { windows: Some(windows), ..Also::default() };
    rig.core.accept_with(terms, Some(rules), also, Default::default());
    rig.step();
    rig.all_report();
    let stage_of = |answer: &Answer| match answer {
        Answer::Wait { reason: WaitReason::OutsideWindow { stage, .. }, .. } => stage.clone(),
        other => panic!("expected a closed window, found {other:?}"),
    };
    let all = Some(StageName::new("all").unwrap());
    // Berlin is an hour ahead.
    let said = claim(&mut rig, "a", 1);
    assert_eq!((waits_until(&said), stage_of(&said)), (Some(at("2026-11-21T21:00:00Z")), None));
    let said = claim(&mut rig, "e", 1);
    assert_eq!((waits_until(&said), stage_of(&said)), (Some(at("2026-11-21T22:00:00Z")), all.clone()));
    until(&mut rig, at("2026-11-21T21:30:00Z"));
    let said = claim(&mut rig, "a", 2);
    assert_eq!((waits_until(&said), stage_of(&said)), (Some(at("2026-11-21T22:00:00Z")), all));
    let why = rig.core.why(&id("a"), rig.now).unwrap().remove(0);
    assert!(why.text.contains("stage all starts in its maintenance windows only (late)"), "{}", why.text);
    until(&mut rig, at("2026-11-21T21:59:30Z"));
    rig.all_report();
    waits_until(&claim(&mut rig, "a", 3));
    assert_eq!(pushed(&rig.pass(Duration::from_secs(29))), []);
    assert_eq!(pushed(&rig.pass(Duration::from_secs(1))).len(), 1, "both are open");
    until(&mut rig, at("2026-11-22T04:30:00Z"));
    assert_eq!(stage_of(&claim(&mut rig, "b", 1)), None, "its tier's night is over");
    assert!(is_granted(&claim(&mut rig, "e", 2)));
}

#[test]
fn the_windows_of_a_plan_are_in_the_log_before_it() {
    let rig = nightly("2026-11-21T12:00:00Z");
    let at = rig.log.iter().position(|event| matches!(event, EventBody::PlanWindows { .. })).unwrap();
    assert!(matches!(&rig.log[at + 1], EventBody::PlanAccepted { terms, .. } if terms.plan == plan_hash(2)));
    // A crash between the two: the windows wait for their plan, and hold nobody else's.
    let mut cut = Rig::unheard(&FLEET, wide());
    cut.restart_from(&rig.log[..=at]);
    cut.all_report();
    assert!(is_granted(&cut.claim("a", 1, 1)), "the plan before it has no windows");
}

#[test]
fn why_names_the_windows_and_when_the_next_one_opens() {
    let mut rig = nightly("2026-11-21T12:00:00Z");
    claim(&mut rig, "a", 1);
    claim(&mut rig, "c", 1);
    let why = |rig: &Rig, server: &str| rig.core.why(&id(server), rig.now).unwrap().remove(0);
    let strict = why(&rig, "a");
    assert_eq!(
        strict.text,
        "a waits: tier 1 starts in its maintenance windows only (night); the next one opens at 2026-11-21T21:00:00Z"
    );
    assert_eq!(
        strict.reason,
        WaitReason::OutsideWindow {
            tier: Tier::One,
            stage: None,
            windows: vec![WindowName::new("night").unwrap()],
            strict: true,
            opens: Some(at("2026-11-21T21:00:00Z")),
            clock_set_s: 0,
        }
    );
    assert!(
        why(&rig, "c").text.contains("prefers its maintenance windows and is not behind schedule (night)")
    );
    rig.halt(Some("c"), 1);
    assert!(why(&rig, "a").text.contains("a halt is in force"), "what binds first is said first");
    // Asked later, without any input since: what is remembered is not taken for what is.
    rig.resume(Some("c"), 2);
    until(&mut rig, at("2026-11-21T21:00:00Z"));
    claim(&mut rig, "c", 2);
    until(&mut rig, at("2026-11-22T03:44:00Z"));
    waits_until(&claim(&mut rig, "a", 2));
    assert!(why(&rig, "a").text.contains("opens at 2026-11-22T21:00:00Z"));
    until(&mut rig, at("2026-12-19T12:00:00Z"));
    let last = "zone = \"UTC\"\n[[cron]]\nname = \"once\"\nopens = \"0 2 1 12 *\"\nopen_s = 3600\n\
                [tier]\n1 = { mode = \"strict\", windows = [\"once\"] }\n";
    rig.plan_in_windows(plan(5, "2026-12-20T00:00:00Z", wide()), Some(windows(last)));
    let newest = lunar_common::lease::Claim { plan: plan_hash(5), ..rig.claim_as("a", 1, 9) };
    assert_eq!(waits_until(&answer(&rig.send(newest))), None);
    assert!(why(&rig, "a").text.contains("none that is long enough opens before"), "{}", why(&rig, "a").text);
}

/// One hour each night, and one server at a time: with 605 s a server, 300 s of rollback and 120 s to begin, five
/// fit into a night.
const HOURS: &str = "zone = \"UTC\"\n[[weekly]]\nname = \"hour\"\nfrom = \"02:00\"\nuntil = \"03:00\"\n\
    [tier]\n2 = { mode = \"preferred\", windows = [\"hour\"] }\n";

#[test]
fn a_tier_that_prefers_its_windows_starts_outside_them_only_while_it_is_behind() {
    let one = LimitTable { tiers: [5, 1, 5], ..wide() };
    // Two servers are left: two, and 15 % more, fit into one night, and not into none.
    let mut rig = held(&FLEET, "2026-11-21T12:00:00Z", "2026-11-22T12:00:00Z", one.clone(), HOURS);
    assert_eq!(waits_until(&claim(&mut rig, "c", 1)), Some(at("2026-11-22T02:00:00Z")));
    let mut rig = held(&FLEET, "2026-11-22T04:00:00Z", "2026-11-22T12:00:00Z", one, HOURS);
    assert!(is_granted(&claim(&mut rig, "c", 1)), "no window is left");
}

#[test]
fn a_tier_that_has_caught_up_keeps_to_its_windows_again() {
    let members: Vec<String> = (1..=8).map(|number| format!("s{number} 2 south s1 -")).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    let one = LimitTable { tiers: [5, 1, 5], ..wide() };
    // Eight servers and one night with room for five: behind. With four, and 15 % more, it is not.
    let mut rig = held(&members, "2026-11-21T12:00:00Z", "2026-11-22T12:00:00Z", one, HOURS);
    for number in 1..=4 {
        let server = format!("s{number}");
        let grant = match claim(&mut rig, &server, 1) {
            Answer::Granted(grant) => grant,
            other => panic!("{server} waits, and {} are left: {other:?}", 9 - number),
        };
        rig.release(&grant, LeaseOutcome::Completed);
        let mut report = rig.fresh_report(&server);
        report.transitions = vec![Transition {
            campaign: campaign("c"),
            from: Phase::Validating,
            to: Phase::Complete,
            cause: "validated".into(),
            at: rig.now.wall,
            attempt: grant.attempt,
            index: 1,
        }];
        rig.report(report);
        rig.pass(Duration::from_secs(15 * 60));
        rig.all_report();
    }
    assert_eq!(waits_until(&claim(&mut rig, "s5", 1)), Some(at("2026-11-22T02:00:00Z")));
}

#[test]
fn servers_that_were_written_off_put_nobody_behind() {
    let members: Vec<String> = (1..=8).map(|number| format!("s{number} 2 south s1 -")).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    let one = LimitTable { tiers: [5, 1, 5], ..wide() };
    let mut rig = held(&members, "2026-11-21T12:00:00Z", "2026-11-22T12:00:00Z", one, HOURS);
    rig.pass(Duration::from_secs(15 * 60 - 1));
    for number in 5..=8 {
        rig.reap(&format!("s{number}"), None, 1);
    }
    rig.pass(Duration::from_secs(1));
    for number in 1..=4 {
        let report = rig.fresh_report(&format!("s{number}"));
        rig.report(report);
    }
    assert_eq!(waits_until(&claim(&mut rig, "s1", 1)), Some(at("2026-11-22T02:00:00Z")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_start_is_permitted_outside_a_strict_window_or_kept_back_inside_one(
        zone in prop::sample::select(&["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"][..]),
        // Around both changes of the clocks of 2026, and a quiet week.
        week in prop::sample::select(&["2026-03-26T00:00:00Z", "2026-10-22T00:00:00Z", "2026-06-10T00:00:00Z"][..]),
        from in 0_u16..1440,
        minutes in 30_u16..1380,
        steps in prop::collection::vec((0_u64..40_000, any::<bool>()), 1..24),
    ) {
        let time = |minute: u16| format!("{:02}:{:02}", minute / 60 % 24, minute % 60);
        let text = format!(
            "zone = \"{zone}\"\n[[weekly]]\nname = \"w\"\nfrom = \"{}\"\nuntil = \"{}\"\n\
             [tier]\n1 = {{ mode = \"strict\", windows = [\"w\"] }}\n",
            time(from), time(from + minutes)
        );
        let written: Windows = toml::from_str(&text).unwrap();
        let times = OpenTimes::of_tier(&written, Tier::One).unwrap();
        let mut rig = Rig::unheard(&["a 1 north n1 -", "b 1 north n1 -"], wide());
        until(&mut rig, at(week));
        let expires = WallTime(rig.now.wall.0 + 40 * 86_400);
        rig.plan_in_windows(Terms { expires, ..terms("c", 2, wide()) }, Some(windows(&text)));
        let all: Vec<_> = times.between(rig.now.wall, expires).collect();
        let may_start = |wall: WallTime| {
            all.iter().any(|stretch| stretch.opens <= wall && wall.0 + NEEDS_S <= stretch.closes.0)
        };
        let mut attempt = 1;
        for (nonce, (seconds, timers)) in steps.into_iter().enumerate() {
            if timers {
                // Whatever the timers push is pushed while the window is open.
                let until = rig.now.after(Duration::from_secs(seconds));
                while let Some(due) = rig.core.poll_timeout().filter(|due| *due <= until.moment) {
                    rig.now = rig.now.after(due.since(rig.now.moment));
                    rig.core.handle_timeout(rig.now);
                    let pushed = pushed(&rig.step());
                    prop_assert!(pushed.is_empty() || may_start(rig.now.wall), "{:?}", rig.now);
                    if !pushed.is_empty() {
                        rig.release(&pushed[0].clone(), LeaseOutcome::NeverStarted { cause: "late".into() });
                        attempt += 1;
                    }
                }
                rig.now = until;
            } else {
                rig.now = rig.now.after(Duration::from_secs(seconds));
            }
            let report = rig.fresh_report("b");
            let mut of_a = rig.fresh_report("a");
            (of_a.epoch_seen, of_a.fence_seen) = (rig.core.status().epoch, rig.core.status().fence);
            rig.report(report);
            for grant in pushed(&rig.report(of_a)) {
                prop_assert!(may_start(rig.now.wall));
                rig.release(&grant, LeaseOutcome::NeverStarted { cause: "late".into() });
                attempt += 1;
            }
            let claim = lunar_common::lease::Claim {
                plan: plan_hash(2),
                ..rig.claim_as("a", attempt, nonce as u64 + 1)
            };
            let said = answer(&rig.send(claim));
            prop_assert_eq!(is_granted(&said), may_start(rig.now.wall), "{:?} {:?}", rig.now, said);
            match said {
                Answer::Granted(grant) => {
                    rig.release(&grant, LeaseOutcome::NeverStarted { cause: "tried".into() });
                    attempt += 1;
                }
                other => {
                    let next = all.iter().find(|s| s.opens > rig.now.wall && s.closes.0 - s.opens.0 >= NEEDS_S);
                    prop_assert_eq!(waits_until(&other), next.map(|stretch| stretch.opens));
                }
            }
        }
    }
}
