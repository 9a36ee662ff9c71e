//! Each rule by name, with the exact events; what a pause keeps from starting, and what ends it.

use std::collections::BTreeMap;
use std::time::Duration;

use lunar_common::ids::PauseId;
use lunar_common::lease::{Grant, LeaseOutcome, WaitReason};
use lunar_common::limits::Tier;
use lunar_common::message::Transition;
use lunar_common::pause::{Anomaly, Pause, PauseScope};
use lunar_common::phase::Phase;
use lunar_common::plan::{HoldStop, PlaceStop, StopRules, StormStop, TierStop};

use crate::coordinator::rig::{Rig, answer, appended, campaign, id, plan_hash, pushed, terms, wide};
use crate::effect::{Answer, Effect};
use crate::event::EventBody;

/// Three of each tier: two in site `x`, one in site `y`.
pub(super) const FLEET: [&str; 9] = [
    "a1 1 x x1 -",
    "a2 1 x x1 -",
    "a3 1 y y1 -",
    "b1 2 x x1 -",
    "b2 2 x x1 -",
    "b3 2 y y1 -",
    "c1 3 x x1 -",
    "c2 3 x x1 -",
    "c3 3 y y1 -",
];

/// Rules that nothing meets but what a test changes.
fn rules(change: impl FnOnce(&mut StopRules)) -> StopRules {
    let mut rules = StopRules::never();
    change(&mut rules);
    rules
}

/// The fleet, heard and healthy, by a plan with these rules: the second generation of campaign `c`.
fn watched(rules: &StopRules) -> Rig {
    let mut rig = Rig::new(&FLEET, wide());
    rig.plan_watched(terms("c", 2, wide()), rules);
    rig
}

fn claim(rig: &mut Rig, server: &str, attempt: u64) -> Answer {
    let mut claim = rig.claim_as(server, attempt, attempt);
    claim.plan = plan_hash(2);
    answer(&rig.send(claim))
}

fn granted(rig: &mut Rig, server: &str, attempt: u64) -> Grant {
    match claim(rig, server, attempt) {
        Answer::Granted(grant) => grant,
        other => panic!("{server} was not granted: {other:?}"),
    }
}

/// What keeps a server waiting, if that is a pause.
fn paused(rig: &mut Rig, server: &str, attempt: u64) -> Option<(PauseScope, Anomaly)> {
    match claim(rig, server, attempt) {
        Answer::Granted(_) => None,
        Answer::Wait { reason: WaitReason::Paused { scope, anomaly, .. }, .. } => Some((scope, anomaly)),
        other => panic!("{server} neither starts nor is it paused: {other:?}"),
    }
}

fn ends(rig: &mut Rig, grant: &Grant, outcome: LeaseOutcome, down_s: u64) -> Vec<Effect> {
    rig.release_after(grant, outcome, down_s * 1_000)
}

fn fails(rig: &mut Rig, server: &str, attempt: u64) -> Vec<Effect> {
    let grant = granted(rig, server, attempt);
    ends(rig, &grant, LeaseOutcome::RolledBack { cause: "503".into() }, 60)
}

fn completes(rig: &mut Rig, server: &str, attempt: u64, down_s: u64) -> Vec<Effect> {
    let grant = granted(rig, server, attempt);
    ends(rig, &grant, LeaseOutcome::Completed, down_s)
}

/// The pauses that began with these effects.
fn begun(effects: &[Effect]) -> Vec<Pause> {
    let pause = |event: &&EventBody| match event {
        EventBody::Paused { pause } => Some(pause.clone()),
        _ => None,
    };
    appended(effects).iter().filter_map(pause).collect()
}

fn scopes(effects: &[Effect]) -> Vec<PauseScope> {
    begun(effects).into_iter().map(|pause| pause.scope).collect()
}

fn in_force(rig: &Rig) -> Vec<PauseId> {
    rig.core.campaigns()[0].pauses.iter().map(|pause| pause.id).collect()
}

fn tier(tier: Tier) -> PauseScope {
    PauseScope::Tier(tier)
}

fn stop(failed: u32, within: &[u32], silent: u32) -> TierStop {
    TierStop { failed, within: within.to_vec(), silent }
}

const MANY: u32 = u32::MAX;

#[test]
fn the_first_failure_in_tier_1_pauses_tier_1_and_nothing_else_by_default() {
    let mut rig = watched(&StopRules::default());
    completes(&mut rig, "a1", 1, 60);
    let grant = granted(&mut rig, "a2", 1);
    let effects = ends(&mut rig, &grant, LeaseOutcome::RolledBack { cause: "503".into() }, 60);
    let anomaly = Anomaly::Failed { failed: 1, tried: 2, stop_at: 1 };
    let pause = Pause {
        campaign: campaign("c"),
        plan: plan_hash(2),
        scope: tier(Tier::One),
        server: id("a2"),
        lease: grant.lease,
        anomaly,
    };
    assert!(matches!(
        appended(&effects)[..],
        [EventBody::Released { .. }, EventBody::Paused { pause: begun }] if *begun == pause
    ));
    assert_eq!(paused(&mut rig, "a3", 1), Some((tier(Tier::One), anomaly)));
    assert_eq!(
        paused(&mut rig, "a2", 2),
        Some((tier(Tier::One), anomaly)),
        "it tries again when people say so"
    );
    granted(&mut rig, "b1", 1);
    granted(&mut rig, "c1", 1);
    let told = rig.core.why(&id("a3"), rig.now).unwrap().remove(0).text;
    assert_eq!(
        told,
        format!(
            "a3 waits: tier 1 is paused by its failures: 1 of 2 servers tried failed, and 1 pause it; the last was a2; \
             it goes on after a signed resume of pause {}",
            pause.id()
        )
    );
}

#[test]
fn a_failure_that_its_servers_journal_tells_before_its_release_pauses_before_the_slot_is_given_on() {
    let mut rig = Rig::new(&FLEET, wide());
    let mut limits = wide();
    limits.tiers[0] = 1;
    rig.plan_watched(terms("c", 2, limits), &StopRules::default());
    let grant = granted(&mut rig, "a1", 1);
    rig.report_held(&grant, true);
    assert!(matches!(claim(&mut rig, "a2", 1), Answer::Wait { .. }));
    let mut report = rig.fresh_report("a1");
    (report.epoch_seen, report.fence_seen) = (grant.epoch, grant.fence);
    report.transitions.push(Transition {
        index: 0,
        campaign: campaign("c"),
        attempt: grant.attempt,
        from: Phase::RollingBack,
        to: Phase::RolledBack,
        cause: "503".into(),
        at: rig.now.wall,
    });
    let effects = rig.report(report);
    assert!(matches!(
        appended(&effects)[..],
        [EventBody::Released { .. }, EventBody::Transition { .. }, EventBody::Paused { .. }]
    ));
    assert_eq!(begun(&effects)[0].lease, grant.lease);
    let effects = ends(&mut rig, &grant, LeaseOutcome::RolledBack { cause: "503".into() }, 60);
    assert!(matches!(appended(&effects)[..], [EventBody::Released { .. }]), "it is one failure");
    assert!(paused(&mut rig, "a2", 1).is_some());
}

#[test]
fn an_attempt_that_never_started_is_no_failure() {
    let mut rig = watched(&StopRules::default());
    let grant = granted(&mut rig, "a1", 1);
    let effects = ends(&mut rig, &grant, LeaseOutcome::NeverStarted { cause: "late".into() }, 0);
    assert_eq!(begun(&effects), []);
}

#[test]
fn a_pause_ends_by_a_resume_that_names_it_and_by_nothing_else() {
    let mut rig = watched(&StopRules::default());
    fails(&mut rig, "a1", 1);
    let pauses = in_force(&rig);
    assert_eq!(pauses.len(), 1);
    assert!(paused(&mut rig, "a2", 1).is_some());

    assert_eq!(appended(&rig.resume_pauses(&[PauseId([9; 32])])), Vec::<&EventBody>::new());
    rig.resume(Some("c"), 1);
    rig.resume(None, 1);
    rig.restart();
    rig.all_report();
    rig.plan_watched(terms("c", 3, wide()), &StopRules::never());
    assert_eq!(in_force(&rig), pauses, "neither a halt's resume, nor a new life, nor a new plan ends it");
    let mut by_new_plan = rig.claim_as("a2", 2, 9);
    by_new_plan.plan = plan_hash(3);
    assert!(matches!(answer(&rig.send(by_new_plan)), Answer::Wait { reason: WaitReason::Paused { .. }, .. }));

    let effects = rig.resume_pauses(&pauses);
    assert!(matches!(appended(&effects)[..], [EventBody::Unpaused { .. }, EventBody::Granted(_)]));
    assert_eq!(pushed(&effects)[0].server, id("a2"), "who waited is granted at once");
    assert_eq!(appended(&rig.resume_pauses(&pauses)), Vec::<&EventBody>::new());
}

#[test]
fn the_next_failure_after_a_resume_pauses_again_and_is_another_pause() {
    let mut rig = watched(&StopRules::default());
    fails(&mut rig, "a1", 1);
    let first = in_force(&rig);
    rig.resume_pauses(&first);
    completes(&mut rig, "a2", 1, 60);
    assert_eq!(in_force(&rig), []);
    assert_eq!(scopes(&fails(&mut rig, "a1", 2)), [tier(Tier::One)]);
    assert_ne!(in_force(&rig), first);
    rig.resume_pauses(&first);
    assert_eq!(in_force(&rig).len(), 1, "a resume is for what its signers had seen");
}

#[test]
fn a_sequential_test_pauses_its_tier_at_the_row_of_its_table() {
    let mut rig = watched(&rules(|rules| rules.tier.three = stop(MANY, &[0, 3], MANY)));
    completes(&mut rig, "c1", 1, 60);
    assert_eq!(begun(&fails(&mut rig, "c2", 1)), []);
    let effects = fails(&mut rig, "c3", 1);
    let anomaly = Anomaly::Rate { failed: 2, tried: 3, within: 3 };
    assert_eq!(begun(&effects)[0].anomaly, anomaly);
    assert_eq!(scopes(&effects), [tier(Tier::Three)]);
}

#[test]
fn as_many_failures_among_more_servers_pause_nothing() {
    let mut rig = watched(&rules(|rules| rules.tier.three = stop(MANY, &[0, 2], MANY)));
    completes(&mut rig, "c1", 1, 60);
    fails(&mut rig, "c2", 1);
    assert_eq!(begun(&fails(&mut rig, "c3", 1)), []);
}

#[test]
fn one_server_that_fails_again_and_again_is_one_failure_of_the_test() {
    let mut rig = watched(&rules(|rules| rules.tier.three = stop(MANY, &[0, 9], MANY)));
    for attempt in 1..=3 {
        assert_eq!(begun(&fails(&mut rig, "c1", attempt)), [], "attempt {attempt}");
    }
    assert_eq!(scopes(&fails(&mut rig, "c2", 1)), [tier(Tier::Three)]);
}

#[test]
fn the_test_begins_anew_after_a_resume_and_the_cap_does_not() {
    let mut rig = watched(&rules(|rules| {
        rules.tier.three = stop(MANY, &[0, 9], MANY);
        rules.failed = 4;
    }));
    fails(&mut rig, "c1", 1);
    fails(&mut rig, "c2", 1);
    let pauses = in_force(&rig);
    rig.resume_pauses(&pauses);
    assert_eq!(begun(&fails(&mut rig, "c3", 1)), [], "it is the first of the new test");
    let effects = fails(&mut rig, "b1", 1);
    assert_eq!(scopes(&effects), [PauseScope::Campaign]);
    assert_eq!(begun(&effects)[0].anomaly, Anomaly::Failed { failed: 4, tried: 4, stop_at: 4 });
    assert!(paused(&mut rig, "a1", 1).is_some(), "the campaign is all tiers");
}

#[test]
fn a_site_is_paused_by_its_own_failures_in_whatever_tier() {
    let mut rig = watched(&rules(|rules| rules.place = PlaceStop { failed: MANY, within: vec![0, 3] }));
    fails(&mut rig, "a1", 1);
    fails(&mut rig, "c3", 1);
    let site = PauseScope::Site("x".parse().unwrap());
    assert_eq!(scopes(&fails(&mut rig, "b1", 1))[..], *std::slice::from_ref(&site));
    assert_eq!(paused(&mut rig, "c1", 1).unwrap().0, site);
    granted(&mut rig, "b3", 1);
}

#[test]
fn a_hardware_model_is_paused_by_its_label_and_others_beside_it_go_on() {
    let mut rig = watched(&rules(|rules| rules.place = PlaceStop { failed: 2, within: Vec::new() }));
    for server in ["a1", "b3", "c3"] {
        rig.core.label(&id(server), &BTreeMap::from([("model".to_owned(), "x9".to_owned())]));
    }
    rig.step();
    fails(&mut rig, "a1", 1);
    let model = PauseScope::Model { label: "model".into(), value: "x9".into() };
    assert_eq!(scopes(&fails(&mut rig, "b3", 1))[..], *std::slice::from_ref(&model));
    assert_eq!(paused(&mut rig, "c3", 1).unwrap().0, model);
    granted(&mut rig, "c1", 1);
    let pauses = in_force(&rig);
    let effects = rig.resume_pauses(&pauses);
    assert_eq!(pushed(&effects)[0].server, id("c3"), "what was set aside for the pause is looked at again");
}

#[test]
fn a_storm_of_rollbacks_pauses_the_campaign_whoever_makes_it() {
    let mut rig = watched(&rules(|rules| rules.storm = StormStop { rolled_back: 3, of: 4 }));
    fails(&mut rig, "c1", 1);
    fails(&mut rig, "c1", 2);
    completes(&mut rig, "b1", 1, 60);
    let effects = fails(&mut rig, "b2", 1);
    assert_eq!(begun(&effects)[0].anomaly, Anomaly::Storm { rolled_back: 3, of: 4, stop_at: 3 });
    assert_eq!(scopes(&effects), [PauseScope::Campaign]);
    let pauses = in_force(&rig);
    rig.resume_pauses(&pauses);
    assert_eq!(begun(&fails(&mut rig, "b3", 1)), [], "the weather is looked at anew");
}

#[test]
fn rollbacks_that_lie_further_apart_are_no_storm() {
    let mut rig = watched(&rules(|rules| rules.storm = StormStop { rolled_back: 2, of: 3 }));
    fails(&mut rig, "c1", 1);
    completes(&mut rig, "b1", 1, 60);
    completes(&mut rig, "b2", 1, 60);
    assert_eq!(begun(&fails(&mut rig, "c2", 1)), []);
}

#[test]
fn a_server_that_is_silent_after_its_grant_pauses_its_tier_when_its_lease_is_lost() {
    let mut rig = watched(&rules(|rules| rules.tier.two.silent = 1));
    let grant = granted(&mut rig, "b1", 1);
    rig.report_held(&grant, true);
    let effects = rig.pass(Duration::from_secs(1_800 + 31));
    let events = appended(&effects);
    let silence = events.iter().position(|event| matches!(event, EventBody::FellSilent { .. })).unwrap();
    assert!(matches!(events[silence - 1], EventBody::Lost { .. }));
    assert_eq!(begun(&effects)[0].anomaly, Anomaly::Silent { silent: 1, stop_at: 1 });
    rig.all_but_report("b1");
    assert_eq!(paused(&mut rig, "b2", 1).unwrap().0, tier(Tier::Two));
    granted(&mut rig, "c1", 1);
}

#[test]
fn a_lost_lease_whose_server_still_speaks_is_no_silence_until_it_falls_silent() {
    let mut rig = watched(&rules(|rules| rules.tier.two.silent = 1));
    granted(&mut rig, "b1", 1);
    rig.pass(Duration::from_secs(100));
    let report = rig.fresh_report("b1");
    rig.report(report);
    let effects = rig.pass(Duration::from_secs(60));
    assert!(appended(&effects).iter().any(|event| matches!(event, EventBody::Lost { .. })));
    assert_eq!(begun(&effects), [], "the grant may have been lost on its way");
    assert_eq!(scopes(&rig.pass(Duration::from_secs(60))), [tier(Tier::Two)]);
}

#[test]
fn silence_counts_those_that_are_silent_now_and_is_noticed_by_a_coordinator_that_was_away() {
    let mut rig = watched(&rules(|rules| rules.tier.three.silent = 2));
    let first = granted(&mut rig, "c1", 1);
    rig.report_held(&first, true);
    rig.pass(Duration::from_secs(1_900));
    rig.report_held(&first, true);
    let second = granted_after_report(&mut rig, "c2");
    rig.report_held(&second, true);
    let effects = rig.pass(Duration::from_secs(1_800));
    assert_eq!(begun(&effects), [], "c1 was found, and c2 is not lost yet");
    let effects = rig.pass(Duration::from_secs(200));
    assert_eq!(scopes(&effects), [tier(Tier::Three)], "both are silent now");

    // A life that ends between a lease's loss and the silence of its server.
    let mut rig = watched(&rules(|rules| rules.tier.three.silent = 1));
    granted(&mut rig, "c1", 1);
    rig.pass(Duration::from_secs(100));
    let report = rig.fresh_report("c1");
    rig.report(report);
    assert_eq!(begun(&rig.pass(Duration::from_secs(60))), []);
    rig.restart();
    assert_eq!(scopes(&rig.pass(Duration::from_secs(101))), [tier(Tier::Three)]);
}

fn granted_after_report(rig: &mut Rig, server: &str) -> Grant {
    let report = rig.fresh_report(server);
    rig.report(report);
    granted(rig, server, 1)
}

#[test]
fn a_reaped_lease_is_a_failure() {
    let mut rig = watched(&rules(|rules| rules.tier.one.failed = 1));
    let grant = granted(&mut rig, "a1", 1);
    rig.pass(Duration::from_secs(1_000));
    let effects = rig.reap("a1", Some(grant.lease.0), 1);
    assert_eq!(scopes(&effects), [tier(Tier::One)]);
}

#[test]
fn hold_times_beyond_twice_the_median_pause_their_tier() {
    let hold = HoldStop { percent: 200, slow: 2, of: 3, samples: 3, floor_s: 10 };
    let mut rig = watched(&rules(|rules| rules.hold = hold));
    for (server, attempt, down_s) in [("c1", 1, 90), ("c2", 1, 100), ("c3", 1, 110), ("c1", 2, 200)] {
        assert_eq!(begun(&completes(&mut rig, server, attempt, down_s)), [], "{server} {down_s}");
    }
    assert_eq!(begun(&completes(&mut rig, "b1", 1, 900)), [], "another tier has another median");
    assert_eq!(begun(&completes(&mut rig, "c2", 2, 250)), [], "once is an accident");
    let effects = completes(&mut rig, "c3", 2, 201);
    let slow =
        Anomaly::Slow { slow: 2, of: 3, stop_at: 2, hold_ms: 201_000, median_ms: 100_000, percent: 200 };
    assert_eq!(begun(&effects)[0].anomaly, slow);
    assert_eq!(scopes(&effects), [tier(Tier::Three)]);
}

#[test]
fn what_is_short_in_itself_is_never_slow() {
    let hold = HoldStop { percent: 200, slow: 1, of: 1, samples: 1, floor_s: 300 };
    let mut rig = watched(&rules(|rules| rules.hold = hold));
    completes(&mut rig, "c1", 1, 1);
    assert_eq!(begun(&completes(&mut rig, "c2", 1, 300)), []);
    assert_eq!(scopes(&completes(&mut rig, "c3", 1, 301)), [tier(Tier::Three)]);
}

#[test]
fn what_one_failure_is_the_last_straw_of_is_paused_all_at_once_and_resumed_by_one_document() {
    let mut rig = watched(&rules(|rules| {
        rules.tier.one.failed = 1;
        rules.place.failed = 1;
        rules.storm = StormStop { rolled_back: 1, of: 1 };
    }));
    let effects = fails(&mut rig, "a3", 1);
    let site = PauseScope::Site("y".parse().unwrap());
    assert_eq!(scopes(&effects), [PauseScope::Campaign, tier(Tier::One), site]);
    let pauses = in_force(&rig);
    assert_eq!(paused(&mut rig, "c1", 1).unwrap().0, PauseScope::Campaign, "the widest is told");
    rig.resume_pauses(&pauses[..1]);
    assert_eq!(in_force(&rig), pauses[1..]);
    rig.resume_pauses(&pauses);
    assert_eq!(in_force(&rig), []);
}

#[test]
fn a_grant_that_was_not_used_is_not_given_again_in_a_pause() {
    let mut rig = watched(&StopRules::default());
    let grant = granted(&mut rig, "a1", 1);
    fails(&mut rig, "a2", 1);
    let mut again = rig.claim_as("a1", 1, 2);
    again.plan = plan_hash(2);
    assert!(matches!(
        answer(&rig.send(again.clone())),
        Answer::Wait { reason: WaitReason::Paused { .. }, .. }
    ));
    let pauses = in_force(&rig);
    rig.resume_pauses(&pauses);
    again.nonce = 3;
    assert!(matches!(answer(&rig.send(again)), Answer::Granted(same) if same.lease == grant.lease));
}

#[test]
fn a_crash_between_the_evidence_and_the_pause_loses_nothing() {
    let mut rig = watched(&StopRules::default());
    fails(&mut rig, "a1", 1);
    let mut log = rig.log.clone();
    assert!(matches!(log.pop(), Some(EventBody::Paused { .. })));
    let effects = rig.restart_from(&log);
    assert_eq!(scopes(&effects), [tier(Tier::One)]);
}

#[test]
fn a_plan_from_before_there_were_rules_is_watched_from_the_next_start_on() {
    let mut rig = Rig::new(&FLEET, wide());
    rig.plan(terms("c", 2, wide()));
    assert_eq!(begun(&fails(&mut rig, "a1", 1)), []);
    rig.core.watch_by(&campaign("c"), plan_hash(2), &StopRules::default());
    rig.step();
    assert_eq!(in_force(&rig), []);
    assert_eq!(scopes(&fails(&mut rig, "a1", 2)), [tier(Tier::One)]);
    rig.core.watch_by(&campaign("c"), plan_hash(2), &StopRules::default());
    assert_eq!(appended(&rig.step()), Vec::<&EventBody>::new());
}

#[test]
fn an_attempt_by_an_older_plan_says_nothing_about_the_newer_one() {
    let mut rig = watched(&StopRules::default());
    let grant = granted(&mut rig, "a1", 1);
    rig.report_held(&grant, true);
    rig.plan_watched(terms("c", 3, wide()), &StopRules::default());
    assert_eq!(begun(&ends(&mut rig, &grant, LeaseOutcome::RolledBack { cause: "503".into() }, 60)), []);
}
