//! DESIGN section 9, rule by rule: the new state and the exact effects.
//!
//! Owns the unit tests of the ledger. Main invariant: a test asserts what is in the log and what leaves, in order.

use std::time::Duration;

use lunar_common::health::Verdict;
use lunar_common::ids::{Epoch, Fence, LeaseId, SiteId};
use lunar_common::lease::{
    ClaimRefusal, Grant, Holder, LeaseOutcome, LeaseState, LimitScope, NO_CLAIM, Occupancy, WaitReason,
};
use lunar_common::limits::Tier;
use lunar_common::message::{HeldLease, ReportAnswer, Transition};
use lunar_common::phase::Phase;
use lunar_common::time::WallTime;

use super::rig::*;
use crate::effect::{Answer, Effect};
use crate::event::{EventBody, Evidence, GrantedLease, LimitTable, Task};
use crate::input::RequestId;

const TRIO: [&str; 3] = ["a 1 north n1 air", "b 1 north n1 air", "c 2 south s1 -"];
const DAY: Duration = Duration::from_secs(86_400);

fn one_each_group() -> LimitTable {
    LimitTable { group: 1, ..wide() }
}

fn one_in_fleet() -> LimitTable {
    LimitTable { fleet: 1, ..wide() }
}

fn reason(answer: &Answer) -> &WaitReason {
    match answer {
        Answer::Wait { reason, .. } => reason,
        other => panic!("expected a wait, found {other:?}"),
    }
}

fn blocking_scope(answer: &Answer) -> LimitScope {
    match reason(answer) {
        WaitReason::Limit { scope, .. } => scope.clone(),
        other => panic!("expected a limit, found {other:?}"),
    }
}

fn state_of(rig: &Rig, server: &str) -> Option<LeaseState> {
    rig.core.state.leases.get(&id(server)).map(|lease| lease.state)
}

fn rolled_back() -> LeaseOutcome {
    LeaseOutcome::RolledBack { cause: "503".into() }
}

// Rules 1 and 2.

#[test]
fn a_grant_that_nobody_starts_is_lost_and_still_takes_its_slot_for_ever() {
    let mut rig = Rig::new(&TRIO, one_in_fleet());
    let grant = rig.granted("a");
    let effects = rig.pass(Duration::from_secs(149));
    assert_eq!(appended(&effects), Vec::<&EventBody>::new());
    let effects = rig.pass(Duration::from_secs(1));
    let lost = EventBody::Lost { server: id("a"), lease: grant.lease, was: LeaseState::Granted };
    assert_eq!(effects, [Effect::Append(lost)]);
    let wall = rig.now.wall;
    rig.pass(365 * DAY);
    assert_eq!(state_of(&rig, "a"), Some(LeaseState::Lost));
    rig.now.wall = wall;
    rig.all_report();
    assert_eq!(blocking_scope(&rig.claim("c", 1, 1)), LimitScope::Fleet);
}

#[test]
fn a_start_moves_the_deadline_to_the_time_down_and_then_the_lease_is_lost() {
    let mut rig = Rig::new(&TRIO, wide());
    let grant = rig.granted("a");
    let effects = rig.report_held(&grant, true);
    assert_eq!(effects[0], Effect::Append(EventBody::Started { server: id("a"), lease: grant.lease }));
    rig.pass(Duration::from_secs(1829));
    assert_eq!(state_of(&rig, "a"), Some(LeaseState::Active));
    rig.pass(Duration::from_secs(1));
    assert_eq!(state_of(&rig, "a"), Some(LeaseState::Lost));
}

#[test]
fn a_lost_lease_is_found_by_a_report_that_names_it_and_stays_taken() {
    for started in [false, true] {
        let mut rig = Rig::new(&TRIO, one_in_fleet());
        let grant = rig.granted("a");
        rig.pass(Duration::from_secs(200));
        let effects = rig.report_held(&grant, started);
        let found = EventBody::Found { server: id("a"), lease: grant.lease, started };
        assert_eq!(appended(&effects), [&found]);
        let state = if started { LeaseState::Active } else { LeaseState::Granted };
        assert_eq!(state_of(&rig, "a"), Some(state));
        assert_eq!(rig.core.occupancies.taken(&LimitScope::Fleet), 3, "the others are silent by now");
    }
}

#[test]
fn a_report_with_the_floor_and_without_the_lease_ends_it() {
    let mut rig = Rig::new(&TRIO, wide());
    let grant = rig.granted("a");
    rig.pass(Duration::from_secs(200));
    let mut report = rig.fresh_report("a");
    report.fence_seen = grant.fence;
    report.epoch_seen = grant.epoch;
    let effects = rig.report(report);
    let released = EventBody::Released {
        server: id("a"),
        lease: grant.lease,
        fence: grant.fence,
        task: Some(task(1)),
        evidence: Evidence::Report,
    };
    assert_eq!(appended(&effects), [&released]);
    assert_eq!(state_of(&rig, "a"), None);
    // The release that was on its way still tells how it ended, and frees nothing.
    let effects = rig.release(&grant, LeaseOutcome::Completed);
    assert_eq!(appended(&effects).len(), 1);
    assert_eq!(rig.core.campaigns()[0].outcomes.completed, 1);
    assert_eq!(appended(&rig.release(&grant, LeaseOutcome::Completed)).len(), 0);
}

#[test]
fn each_lease_that_reports_ended_gets_its_own_outcome_however_late_the_releases_come() {
    // The server's releases wait, one after the other, for a coordinator; its reports overtake them.
    let mut rig = Rig::new(&TRIO, wide());
    let mut grants = Vec::new();
    for attempt in 1..=3 {
        let Answer::Granted(grant) = rig.claim("a", attempt, attempt) else { panic!("not granted") };
        let mut report = rig.fresh_report("a");
        (report.epoch_seen, report.fence_seen) = (grant.epoch, grant.fence);
        assert_eq!(appended(&rig.report(report)).len(), 1);
        grants.push(grant);
    }
    let back = || LeaseOutcome::RolledBack { cause: "not healthy".into() };
    for (grant, outcome) in grants.iter().zip([back(), back(), LeaseOutcome::Completed]) {
        let told = EventBody::Released {
            server: id("a"),
            lease: grant.lease,
            fence: grant.fence,
            task: Some(task(grant.attempt.0)),
            evidence: Evidence::Release { outcome: outcome.clone(), down_ms: 1 },
        };
        assert_eq!(appended(&rig.release(grant, outcome.clone())), [&told]);
        assert_eq!(appended(&rig.release(grant, outcome)).len(), 0, "and is counted once");
    }
    let outcomes = rig.core.campaigns()[0].outcomes;
    assert_eq!((outcomes.completed, outcomes.rolled_back), (1, 2));
}

#[test]
fn a_report_below_the_floor_proves_nothing_and_the_lost_grant_is_called_back() {
    let mut rig = Rig::new(&TRIO, wide());
    let grant = rig.granted("a");
    // Still granted: the grant is on its way, the report was sent before.
    let report = rig.fresh_report("a");
    assert_eq!(pushed(&rig.report(report)), []);
    rig.pass(Duration::from_secs(200));
    let report = rig.fresh_report("a");
    let effects = rig.report(report);
    assert_eq!(pushed(&effects), [Grant { nonce: NO_CLAIM, ..grant }]);
    assert_eq!(state_of(&rig, "a"), Some(LeaseState::Lost));
}

#[test]
fn a_grant_that_was_never_sent_frees_its_slot_under_a_lasting_halt_by_its_servers_word_alone() {
    let mut rig = Rig::new(&TRIO, one_in_fleet());
    rig.plan(terms("other", 1, one_in_fleet()));
    let grant = rig.granted("a");
    // Killed with the grant on disk and its answer not sent; and this campaign is stopped for good.
    rig.restart();
    rig.halt(Some("c"), 1);
    rig.all_report();
    let mut other = rig.claim_as("c", 1, 1);
    other.campaign = campaign("other");
    assert_eq!(blocking_scope(&answer(&rig.send(other.clone()))), LimitScope::Fleet);

    rig.pass(Duration::from_secs(200));
    assert_eq!(state_of(&rig, "a"), Some(LeaseState::Lost), "time alone frees nothing");
    rig.all_but_report("a");
    let report = rig.fresh_report("a");
    let called_back = Grant { nonce: NO_CLAIM, ..grant };
    assert_eq!(pushed(&rig.report(report)), std::slice::from_ref(&called_back), "by this nothing can start");
    assert_eq!(state_of(&rig, "a"), Some(LeaseState::Lost));
    other.nonce = 2;
    assert_eq!(blocking_scope(&answer(&rig.send(other))), LimitScope::Fleet);

    let never = LeaseOutcome::NeverStarted { cause: "the coordinator calls it back".into() };
    let effects = rig.release(&called_back, never);

    assert_eq!(state_of(&rig, "a"), None);
    let started: Vec<_> = pushed(&effects).into_iter().map(|grant| grant.server).collect();
    assert_eq!(started, [id("c")], "the campaign that goes on has the slot");
}

#[test]
fn a_reap_frees_the_lost_lease_it_names_and_nothing_else() {
    let mut rig = Rig::new(&TRIO, wide());
    let grant = rig.granted("a");
    assert!(matches!(appended(&rig.reap("a", Some(grant.lease.0), 1))[..], [EventBody::ReapSpent { .. }]));
    assert_eq!(state_of(&rig, "a"), Some(LeaseState::Granted), "it was not lost");
    rig.pass(Duration::from_secs(200));
    assert!(matches!(appended(&rig.reap("a", Some(99), 2))[..], [EventBody::ReapSpent { .. }]));
    assert!(matches!(appended(&rig.reap("a", None, 3))[..], [EventBody::ReapSpent { .. }]));
    assert_eq!(state_of(&rig, "a"), Some(LeaseState::Lost));
    assert!(matches!(appended(&rig.reap("a", Some(grant.lease.0), 4))[..], [EventBody::Reaped { .. }]));
    assert_eq!(rig.core.occupancies.why(&id("a")), None, "its silence takes no slot either");
    assert_eq!(rig.reap("a", Some(grant.lease.0), 4), [], "a reap is used once");
}

#[test]
fn a_reaped_server_that_reports_its_lease_takes_its_slot_again() {
    let mut rig = Rig::new(&TRIO, wide());
    let grant = rig.granted("a");
    rig.pass(Duration::from_secs(200));
    rig.reap("a", Some(grant.lease.0), 1);
    let effects = rig.report_held(&grant, true);
    assert!(matches!(appended(&effects)[..], [EventBody::Returned { .. }, EventBody::Adopted { .. }]));
    assert_eq!(rig.core.occupancies.why(&id("a")), Some(Occupancy::Active));
    assert!(!rig.core.status().restored, "we know this lease: nothing was forgotten");
}

// Rule 3.

#[test]
fn every_scope_holds_back_and_is_named() {
    let site = SiteId::new("north").unwrap();
    let member = member(TRIO[0]);
    let cases = [
        (LimitTable { fleet: 1, ..wide() }, LimitScope::Fleet),
        (LimitTable { tiers: [1, 9, 9], ..wide() }, LimitScope::Tier(Tier::One)),
        (LimitTable { site_default: Some(1), ..wide() }, LimitScope::Site(site.clone())),
        (LimitTable { sites: [(site.clone(), 1)].into(), ..wide() }, LimitScope::Site(site)),
        (LimitTable { cluster_default: Some(1), ..wide() }, LimitScope::Cluster(member.cluster.clone())),
        (
            LimitTable { clusters: [(member.cluster.clone(), 1)].into(), ..wide() },
            LimitScope::Cluster(member.cluster),
        ),
        (one_each_group(), LimitScope::Group(member.group.unwrap())),
    ];
    for (limits, scope) in cases {
        let mut rig = Rig::new(&TRIO, limits);
        let grant = rig.granted("a");
        let answer = rig.claim("b", 1, 1);
        let holders = vec![Holder { server: id("a"), why: Occupancy::Granted }];
        assert_eq!(*reason(&answer), WaitReason::Limit { scope: scope.clone(), limit: 1, taken: 1, holders });
        let why = rig.core.why(&id("b"), rig.now).unwrap();
        assert_eq!(why[0].reason, *reason(&answer), "why says what was answered");
        let effects = rig.release(&grant, LeaseOutcome::Completed);
        assert_eq!(pushed(&effects).len(), 1, "{scope} is free again");
    }
}

#[test]
fn unhealthy_and_unreachable_servers_take_slots_and_each_counts_once() {
    let mut rig = Rig::new(&TRIO, LimitTable { tiers: [1, 9, 9], ..wide() });
    let mut report = rig.fresh_report("a");
    report.verdict = Verdict::Unhealthy;
    rig.report(report);
    assert_eq!(blocking_scope(&rig.claim("b", 1, 1)), LimitScope::Tier(Tier::One));
    assert_eq!(*reason(&rig.claim("a", 1, 1)), WaitReason::NotHealthy { verdict: Verdict::Unhealthy });
    // It falls silent too: still one.
    rig.pass(Duration::from_secs(90));
    let report = rig.fresh_report("b");
    rig.report(report);
    rig.pass(Duration::from_secs(20));
    assert_eq!(rig.core.occupancies.why(&id("a")), Some(Occupancy::Unreachable));
    assert_eq!(taken(&rig, Tier::One), 1);
    // And well again: the one that waited is pushed its grant at once.
    let report = rig.fresh_report("a");
    rig.claim("b", 1, 2);
    let effects = rig.report(report);
    assert_eq!(pushed(&effects).iter().map(|grant| grant.server.clone()).collect::<Vec<_>>(), [id("b")]);
}

#[test]
fn a_silent_server_written_off_takes_no_slot_until_it_reports() {
    let mut rig = Rig::unheard(&TRIO, one_in_fleet());
    let report = rig.fresh_report("a");
    rig.report(report);
    assert_eq!(blocking_scope(&rig.claim("a", 1, 1)), LimitScope::Fleet);
    rig.reap("b", None, 1);
    let effects = rig.reap("c", None, 1);
    assert_eq!(pushed(&effects).len(), 1);
    let report = rig.fresh_report("b");
    assert_eq!(appended(&rig.report(report)), [&EventBody::Returned { server: id("b") }]);
}

#[test]
fn a_claimer_never_stands_in_its_own_way() {
    let mut rig = Rig::new(&["a 1 north n1 air"], LimitTable { fleet: 1, group: 1, ..wide() });
    rig.granted("a");
}

// Rules 4, 5 and 6.

fn task(attempt: u64) -> Task {
    Task { campaign: campaign("c"), plan: plan_hash(1), attempt: lunar_common::ids::Attempt(attempt) }
}

#[test]
fn a_grant_is_in_the_log_before_it_is_answered_and_says_all_that_its_holder_checks() {
    let mut rig = Rig::new(&TRIO, wide());
    let claim = rig.claim_as("a", 1, 41);
    let effects = rig.send(claim);
    let granted = GrantedLease {
        lease: LeaseId(1),
        server: id("a"),
        task: task(1),
        nonce: 41,
        epoch: Epoch(1),
        fence: Fence(1),
        start_within_ms: 120_000,
        down_max_ms: 1_800_000,
    };
    let grant = Grant {
        lease: LeaseId(1),
        server: id("a"),
        campaign: campaign("c"),
        plan: plan_hash(1),
        attempt: lunar_common::ids::Attempt(1),
        nonce: 41,
        epoch: Epoch(1),
        fence: Fence(1),
        start_within_ms: 120_000,
        down_max_ms: 1_800_000,
    };
    assert_eq!(
        effects,
        [
            Effect::Append(EventBody::Queued { server: id("a"), task: task(1) }),
            Effect::Append(EventBody::Granted(granted)),
            Effect::Answer { request: RequestId(7), answer: Answer::Granted(grant) },
        ]
    );
}

#[test]
fn a_claim_sent_again_gets_the_same_lease_and_no_second_one() {
    let mut rig = Rig::new(&TRIO, wide());
    let first = rig.granted("a");
    let claim = rig.claim_as("a", 1, 2);
    let effects = rig.send(claim);
    let again = Grant { nonce: 2, ..first.clone() };
    assert_eq!(effects, [Effect::Answer { request: RequestId(7), answer: Answer::Granted(again) }]);
    rig.restart();
    rig.all_report();
    let Answer::Granted(after) = rig.claim("a", 1, 3) else { panic!("the grant was lost") };
    assert_eq!((after.lease, after.fence, after.epoch), (first.lease, first.fence, first.epoch));
    assert_eq!(rig.core.leases(rig.now).len(), 1);
}

#[test]
fn an_old_sending_of_a_claim_never_gets_a_second_lease() {
    let mut rig = Rig::new(&TRIO, wide());
    let grant = rig.granted("a");
    let over = Answer::Refused(ClaimRefusal::AttemptOver(grant.attempt));
    rig.report_held(&grant, true);
    assert_eq!(rig.claim("a", 1, 1), over, "its holder has started");
    let mut report = rig.fresh_report("a");
    (report.epoch_seen, report.fence_seen) = (grant.epoch, grant.fence);
    rig.report(report);
    assert_eq!(state_of(&rig, "a"), None);
    assert_eq!(rig.claim("a", 1, 1), over, "its holder has given it back, and the release is on its way");
    rig.release(&grant, LeaseOutcome::Completed);
    assert_eq!(rig.core.status().waiting, 0);
    assert!(matches!(rig.claim("a", 2, 2), Answer::Granted(_)));
}

#[test]
fn a_newer_sending_of_the_claim_finds_a_lost_grant_and_an_old_one_does_not() {
    let mut rig = Rig::new(&TRIO, wide());
    rig.granted("a");
    rig.pass(Duration::from_secs(200));
    rig.all_report();
    assert!(matches!(rig.claim("a", 1, 1), Answer::Granted(_)));
    assert_eq!(state_of(&rig, "a"), Some(LeaseState::Lost));
    assert!(matches!(rig.claim("a", 1, 2), Answer::Granted(_)));
    assert_eq!(state_of(&rig, "a"), Some(LeaseState::Granted));
}

#[test]
fn fences_and_epochs_rise_over_restarts() {
    let mut rig = Rig::new(&TRIO, wide());
    let first = rig.granted("a");
    rig.restart();
    rig.all_report();
    let second = rig.granted("c");
    assert!(second.fence > first.fence && second.epoch > first.epoch);
}

#[test]
fn a_release_of_another_lease_frees_nothing_and_a_second_release_changes_nothing() {
    let mut rig = Rig::new(&TRIO, wide());
    let old = rig.granted("a");
    assert_eq!(answer(&rig.release(&old, rolled_back())), Answer::Done);
    let Answer::Granted(new) = rig.claim("a", 2, 2) else { panic!("the second attempt was not granted") };
    let before = rig.core.state.clone();
    assert_eq!(
        rig.release(&old, rolled_back()),
        [Effect::Answer { request: RequestId(9), answer: Answer::Done }]
    );
    let mut unfenced = new.clone();
    unfenced.fence = old.fence;
    assert_eq!(answer(&rig.release(&unfenced, LeaseOutcome::Completed)), Answer::Done);
    assert_eq!(rig.core.state, before);
    assert_eq!(state_of(&rig, "a"), Some(LeaseState::Granted));
}

#[test]
fn a_claim_for_an_attempt_that_is_over_is_refused() {
    let mut rig = Rig::new(&TRIO, wide());
    let attempt = lunar_common::ids::Attempt;
    for number in 1..=3 {
        let Answer::Granted(grant) = rig.claim("a", number, number) else { panic!("attempt {number}") };
        rig.release(&grant, rolled_back());
        let over = Answer::Refused(ClaimRefusal::AttemptOver(attempt(number)));
        assert_eq!(rig.claim("a", number, 50 + number), over);
    }
    let behind = ClaimRefusal::AttemptBehind { found: attempt(1), highest: attempt(3) };
    assert_eq!(rig.claim("a", 1, 60), Answer::Refused(behind));
    assert_eq!(rig.claim("a", 4, 61), Answer::Refused(ClaimRefusal::TooManyAttempts(3)));
    assert_eq!(rig.core.campaigns()[0].outcomes.rolled_back, 3);
}

#[test]
fn an_attempt_that_never_went_down_does_not_use_up_the_plans_attempts() {
    let mut rig = Rig::new(&TRIO, wide());
    for number in 1..=9 {
        let Answer::Granted(grant) = rig.claim("a", number, number) else { panic!("attempt {number}") };
        rig.release(&grant, LeaseOutcome::NeverStarted { cause: "too late".into() });
    }
}

#[test]
fn only_the_enrolled_key_speaks_for_a_server() {
    let mut rig = Rig::new(&TRIO, wide());
    let grant = rig.granted("a");
    let before = rig.core.state.clone();
    let mut claim = rig.claim_as("b", 1, 1);
    let from = key(&id("a"));
    let input = crate::input::Input::Claim { request: RequestId(7), from, claim: claim.clone() };
    rig.core.handle(input, rig.now);
    assert_eq!(answer(&rig.step()), Answer::Refused(ClaimRefusal::NotYourServer));
    claim.plan = plan_hash(9);
    let refusal = ClaimRefusal::OtherPlan { wanted: plan_hash(1), found: plan_hash(9) };
    assert_eq!(answer(&rig.send(claim.clone())), Answer::Refused(refusal));
    claim.campaign = campaign("other");
    assert_eq!(answer(&rig.send(claim)), Answer::Refused(ClaimRefusal::UnknownCampaign));
    let report = lunar_common::message::Report { server: id("a"), ..rig.fresh_report("b") };
    let from = key(&id("b"));
    rig.core.handle(crate::input::Input::Report { request: RequestId(8), from, report }, rig.now);
    assert!(matches!(answer(&rig.step()), Answer::Invalid { .. }));
    let release =
        lunar_common::lease::Release { server: id("a"), ..grant.release(LeaseOutcome::Completed, 0) };
    rig.core.handle(crate::input::Input::Release { request: RequestId(9), from, release }, rig.now);
    assert!(matches!(answer(&rig.step()), Answer::Invalid { .. }));
    assert_eq!(rig.core.state, before);
}

// Rule 7.

#[test]
fn after_a_restart_nobody_is_known_to_be_up_until_they_report() {
    let mut rig = Rig::new(&TRIO, one_each_group());
    rig.restart();
    let report = rig.fresh_report("a");
    rig.report(report);
    assert_eq!(blocking_scope(&rig.claim("a", 1, 1)), blocking_scope_of_group());
    assert_eq!(*reason(&rig.claim("c", 1, 1)), WaitReason::Unreachable { silent_ms: None });
    let report = rig.fresh_report("b");
    let effects = rig.report(report);
    assert_eq!(pushed(&effects).len(), 1, "the other member of the group is up");
}

fn blocking_scope_of_group() -> LimitScope {
    LimitScope::Group(lunar_common::ids::GroupId::new("air").unwrap())
}

#[test]
fn a_restored_log_is_noticed_by_a_report_and_nothing_is_granted_until_all_have_spoken() {
    let mut rig = Rig::new(&TRIO, wide());
    let copy = rig.log.clone();
    let forgotten = rig.granted("a");
    rig.restart_from(&copy);
    let effects = rig.report_held(&forgotten, true);
    assert!(matches!(
        appended(&effects)[..],
        [EventBody::StateRestored { fence: Fence(1), .. }, EventBody::Adopted { started: true, .. }]
    ));
    let report = rig.fresh_report("b");
    rig.report(report);
    assert_eq!(*reason(&rig.claim("b", 1, 1)), WaitReason::Recovering { unheard: 1 });
    rig.reap("c", None, 1);
    // All have spoken or are written off, but a forgotten grant may still be on its way.
    assert_eq!(*reason(&rig.claim("b", 1, 2)), WaitReason::Recovering { unheard: 0 });
    for number in 0..5u64 {
        rig.pass(Duration::from_secs(30));
        let report = rig.fresh_report("b");
        rig.report(report);
        rig.claim("b", 1, 3 + number);
    }
    assert!(!rig.core.status().restored);
    let Answer::Granted(grant) = rig.claim("b", 1, 99) else { panic!("recovered, and yet no grant") };
    assert!(grant.fence > forgotten.fence && grant.epoch > forgotten.epoch);
}

#[test]
fn before_anyone_has_shown_that_the_log_is_old_the_forgotten_holders_slot_stays_taken() {
    let mut rig = Rig::new(&TRIO, one_in_fleet());
    let copy = rig.log.clone();
    let forgotten = rig.granted("a");
    rig.report_held(&forgotten, true);
    rig.restart_from(&copy);
    assert_eq!(state_of(&rig, "a"), None, "the copy knows of no lease");
    // Nobody but the holder speaks, and none of them has seen the forgotten numbers.
    for server in ["b", "c"] {
        let report = rig.fresh_report(server);
        rig.report(report);
    }
    for number in 1..4 {
        assert_eq!(blocking_scope(&rig.claim("b", 1, number)), LimitScope::Fleet);
        assert_eq!(blocking_scope(&rig.claim("c", 1, number)), LimitScope::Fleet);
        rig.pass(Duration::from_secs(30));
        rig.all_but_report("a");
    }
    assert_eq!(rig.core.occupancies.why(&id("a")), Some(Occupancy::Unreachable));

    // Under the same numbers as a lease of this life would have: that it is not known is proof enough.
    let effects = rig.report_held(&forgotten, true);

    assert!(matches!(
        appended(&effects)[..],
        [EventBody::StateRestored { .. }, EventBody::Adopted { started: true, .. }]
    ));
    assert!(pushed(&effects).is_empty());
    assert_eq!(state_of(&rig, "a"), Some(LeaseState::Active));
    rig.release(&forgotten, LeaseOutcome::Completed);
    assert!(matches!(reason(&rig.claim("b", 1, 9)), WaitReason::Recovering { .. }));
    let mut granted = Vec::new();
    for round in 0..6 {
        granted.extend(pushed(&rig.pass(Duration::from_secs(30))));
        for server in ["a", "b", "c"] {
            let report = rig.fresh_report(server);
            granted.extend(pushed(&rig.report(report)));
        }
        if let Answer::Granted(grant) = rig.claim("b", 1, 20 + round) {
            granted.push(grant);
        }
    }
    assert!(!granted.is_empty(), "recovered, it grants again");
    assert!(granted.iter().all(|grant| grant.fence > forgotten.fence && grant.epoch > forgotten.epoch));
    assert_eq!(rig.core.occupancies.taken(&LimitScope::Fleet), 1);
}

#[test]
fn a_restored_log_is_noticed_by_a_claim_and_by_a_release_too() {
    let mut rig = Rig::new(&TRIO, wide());
    let copy = rig.log.clone();
    let forgotten = rig.granted("a");
    rig.restart_from(&copy);
    rig.all_report();
    let mut claim = rig.claim_as("c", 1, 1);
    claim.fence_seen = Fence(5);
    assert!(matches!(
        appended(&rig.send(claim))[..],
        [EventBody::StateRestored { fence: Fence(5), .. }, EventBody::Queued { .. }]
    ));
    rig.restart_from(&copy);
    let effects = rig.release(&forgotten, LeaseOutcome::Completed);
    assert!(matches!(appended(&effects)[..], [EventBody::StateRestored { .. }, EventBody::Released { .. }]));
    assert_eq!(answer(&effects), Answer::Done);
    // A report from before that release is old news, and no lease.
    let effects = rig.report_held(&forgotten, true);
    assert!(appended(&effects).is_empty());
}

#[test]
fn a_server_cannot_use_the_numbers_up() {
    let mut rig = Rig::new(&TRIO, wide());
    let before = rig.core.state.clone();
    let mut claim = rig.claim_as("a", 1, 1);
    claim.fence_seen = Fence(u64::MAX);
    assert!(matches!(answer(&rig.send(claim)), Answer::Invalid { .. }));
    let mut report = rig.fresh_report("a");
    report.lease =
        Some(HeldLease { lease: LeaseId(1), epoch: Epoch(u64::MAX), fence: Fence(1), started: true });
    assert!(matches!(answer(&rig.report(report)), Answer::Invalid { .. }));
    assert_eq!(rig.core.state, before);
}

// Rule 10, and everything that stops a start.

#[test]
fn the_wall_clock_decides_expiry_and_nothing_else() {
    let run = |wall: i64| {
        let mut rig = Rig::unheard(&TRIO, one_each_group());
        rig.now.wall = WallTime(wall);
        rig.all_report();
        let grant = rig.granted("a");
        rig.claim("b", 1, 1);
        rig.report_held(&grant, true);
        rig.now.wall = WallTime(wall / 2);
        rig.pass(Duration::from_secs(2000));
        rig.release(&grant, LeaseOutcome::Completed);
        rig.log
    };
    assert_eq!(run(10), run(900_000));
}

#[test]
fn a_halt_stops_every_grant_and_a_resume_lets_the_oldest_go_first() {
    let mut rig = Rig::new(&TRIO, one_in_fleet());
    rig.halt(None, 5);
    let halted = WaitReason::Halted { why: "smoke".into() };
    assert_eq!(*reason(&rig.claim("b", 1, 1)), halted);
    assert_eq!(*reason(&rig.claim("a", 1, 1)), halted);
    assert_eq!(rig.halt(None, 5), [], "the same halt again is no news");
    assert_eq!(pushed(&rig.resume(None, 4)), [], "an older resume ends nothing");
    rig.restart();
    rig.all_report();
    assert_eq!(*reason(&rig.claim("a", 1, 2)), halted);
    assert_eq!(*reason(&rig.claim("b", 1, 2)), halted);
    let effects = rig.resume(None, 6);
    assert_eq!(pushed(&effects).iter().map(|grant| grant.server.clone()).collect::<Vec<_>>(), [id("b")]);
    // Whether a halt is old news is for the gate to say: one that comes through stops.
    assert_eq!(rig.halt(None, 5).len(), 1);
}

#[test]
fn a_halt_keeps_even_an_old_grant_from_being_answered_again() {
    let mut rig = Rig::new(&TRIO, wide());
    rig.granted("a");
    rig.halt(Some("c"), 1);
    assert_eq!(*reason(&rig.claim("a", 1, 2)), WaitReason::Halted { why: "smoke".into() });
    assert_eq!(state_of(&rig, "a"), Some(LeaseState::Granted));
}

#[test]
fn expiry_of_plan_and_enrolment_block_grants_only() {
    let mut rig = Rig::new(&TRIO, wide());
    let grant = rig.granted("a");
    let mut expired = member(TRIO[1]);
    expired.expires = Some(WallTime(1_000));
    expired.sequence = lunar_common::ids::Sequence(2);
    rig.core.enrol(expired);
    rig.step();
    assert_eq!(*reason(&rig.claim("b", 1, 1)), WaitReason::EnrolmentExpired);
    rig.now.wall = WallTime(1_000_000);
    assert_eq!(*reason(&rig.claim("c", 1, 1)), WaitReason::PlanExpired);
    rig.report_held(&grant, true);
    assert_eq!(state_of(&rig, "a"), Some(LeaseState::Active));
    assert_eq!(answer(&rig.release(&grant, LeaseOutcome::Completed)), Answer::Done);
    assert_eq!(state_of(&rig, "a"), None);
}

#[test]
fn a_claimer_that_is_not_sure_of_its_health_waits() {
    let mut rig = Rig::new(&TRIO, wide());
    let mut claim = rig.claim_as("a", 1, 1);
    claim.verdict = Verdict::Inconclusive;
    let waits = WaitReason::NotHealthy { verdict: Verdict::Inconclusive };
    assert_eq!(*reason(&answer(&rig.send(claim))), waits);
    assert_eq!(rig.core.occupancies.why(&id("a")), None, "but it takes no slot");
    assert!(matches!(rig.claim("a", 1, 2), Answer::Granted(_)));
}

#[test]
fn a_new_generation_refuses_the_old_plan_keeps_leases_and_places_and_lowers_limits_by_waiting() {
    let mut rig = Rig::new(&TRIO, LimitTable { fleet: 2, group: 1, ..wide() });
    let first = rig.granted("a");
    let second = rig.granted("c");
    rig.claim("b", 1, 1);
    rig.plan(terms("c", 2, one_in_fleet()));
    let refusal = ClaimRefusal::OtherPlan { wanted: plan_hash(2), found: plan_hash(1) };
    assert_eq!(rig.claim("b", 1, 2), Answer::Refused(refusal));
    assert_eq!(rig.core.leases(rig.now).len(), 2);
    let mut claim = rig.claim_as("b", 1, 3);
    claim.plan = plan_hash(2);
    rig.send(claim.clone());
    assert_eq!(pushed(&rig.release(&first, LeaseOutcome::Completed)), [], "one is still down");
    assert_eq!(pushed(&rig.release(&second, LeaseOutcome::Completed)).len(), 1);
}

#[test]
fn an_older_plans_release_takes_back_none_of_a_newer_plans_attempts() {
    let mut rig = Rig::new(&TRIO, wide());
    let old = rig.granted("a");
    let mut report = rig.fresh_report("a");
    (report.epoch_seen, report.fence_seen) = (old.epoch, old.fence);
    // Its lease is over by a report; the release that tells how is on its way.
    rig.report(report);
    rig.plan(terms("c", 2, wide()));
    let claim = |rig: &Rig, number: u64| {
        let mut claim = rig.claim_as("a", number, 10 + number);
        claim.plan = plan_hash(2);
        claim
    };
    for number in 2..=4 {
        let sent = claim(&rig, number);
        let Answer::Granted(grant) = answer(&rig.send(sent)) else { panic!("attempt {number}") };
        rig.release(&grant, rolled_back());
    }
    let allowed = claim(&rig, 5);
    let spent = Answer::Refused(ClaimRefusal::TooManyAttempts(3));
    assert_eq!(answer(&rig.send(allowed.clone())), spent);

    assert_eq!(appended(&rig.release(&old, rolled_back())).len(), 1, "it is news");

    assert_eq!(answer(&rig.send(allowed)), spent);
    let over = claim(&rig, 4);
    let answered = answer(&rig.send(over));
    assert_eq!(answered, Answer::Refused(ClaimRefusal::AttemptOver(lunar_common::ids::Attempt(4))));
    assert_eq!(rig.core.campaigns()[0].outcomes.rolled_back, 4, "and is counted");
}

#[test]
fn a_claim_by_the_newer_plan_ends_an_old_grant_that_never_started() {
    let mut rig = Rig::new(&TRIO, wide());
    let old = rig.granted("a");
    rig.plan(terms("c", 2, wide()));
    let mut claim = rig.claim_as("a", 1, 2);
    claim.plan = plan_hash(2);
    let effects = rig.send(claim);
    let Answer::Granted(new) = answer(&effects) else { panic!("{effects:?}") };
    assert!(new.fence > old.fence && new.plan == plan_hash(2));
    assert_eq!(rig.core.leases(rig.now).len(), 1);
    // Once a start was reported, the same claim waits for that to end.
    let mut rig = Rig::new(&TRIO, wide());
    let old = rig.granted("a");
    rig.report_held(&old, true);
    rig.plan(terms("c", 2, wide()));
    let mut claim = rig.claim_as("a", 1, 2);
    claim.plan = plan_hash(2);
    let held = WaitReason::HoldsLease { lease: old.lease, state: LeaseState::Active };
    assert_eq!(*reason(&answer(&rig.send(claim))), held);
}

#[test]
fn a_campaign_with_servers_down_binds_the_others_to_its_limits() {
    let mut rig = Rig::new(&TRIO, wide());
    rig.plan(terms("strict", 1, one_in_fleet()));
    let mut strict = rig.claim_as("a", 1, 1);
    strict.campaign = campaign("strict");
    let Answer::Granted(grant) = answer(&rig.send(strict)) else { panic!("nothing is down") };
    assert_eq!(blocking_scope(&rig.claim("c", 1, 1)), LimitScope::Fleet);
    assert_eq!(pushed(&rig.release(&grant, LeaseOutcome::Completed)).len(), 1);
    assert!(matches!(rig.claim("b", 1, 1), Answer::Granted(_)), "the strict campaign has nothing down now");
}

// Fairness.

#[test]
fn the_oldest_goes_first_and_a_blocked_one_blocks_nobody_else() {
    let members = ["a 1 x x1 g", "b 1 x x1 g", "c 1 x x1 -", "d 1 x x1 -"];
    let mut rig = Rig::new(&members, LimitTable { fleet: 2, group: 1, ..wide() });
    let first = rig.granted("a");
    let other = rig.granted("c");
    rig.claim("b", 1, 1);
    rig.claim("d", 1, 1);
    let order =
        |effects: &[Effect]| pushed(effects).into_iter().map(|grant| grant.server).collect::<Vec<_>>();
    assert_eq!(order(&rig.release(&other, LeaseOutcome::Completed)), [id("d")], "b waits for its group");
    assert_eq!(order(&rig.release(&first, LeaseOutcome::Completed)), [id("b")]);
}

#[test]
fn others_taking_turns_cannot_starve_a_claim_that_needs_two_slots_at_once() {
    // z needs the site and the tier; y holds the site, x the tier, and there is always another of each kind.
    let members = ["z 1 moon m1 -", "x1 1 earth e1 -", "x2 1 earth e1 -", "y1 2 moon m1 -", "y2 2 moon m1 -"];
    let limits = LimitTable { tiers: [1, 9, 9], sites: [(SiteId::new("moon").unwrap(), 1)].into(), ..wide() };
    let mut rig = Rig::new(&members, limits);
    let mut attempts = std::collections::BTreeMap::from([("x1", 1), ("x2", 1), ("y1", 1), ("y2", 1)]);
    let mut nonce = 1;
    let mut holders = vec![rig.granted("x1"), rig.granted("y1")];
    for _ in 0..60 {
        for server in ["x1", "x2", "y1", "y2", "z"] {
            nonce += 1;
            let attempt = attempts.get(server).copied().unwrap_or(1);
            if !holders.iter().any(|grant| grant.server == id(server))
                && let Answer::Granted(grant) = rig.claim(server, attempt, nonce)
            {
                holders.push(grant);
            }
        }
        if holders.iter().any(|grant| grant.server == id("z")) {
            return;
        }
        let grant = holders.remove(0);
        *attempts.get_mut(grant.server.as_str()).unwrap() += 1;
        let never = LeaseOutcome::NeverStarted { cause: "test".into() };
        holders.extend(pushed(&rig.release(&grant, never)));
        rig.pass(Duration::from_secs(60));
        rig.all_report_held(&holders);
    }
    panic!("z waited an hour while others took turns");
}

#[test]
fn the_hint_grows_with_the_queue_and_only_who_is_far_from_its_head_is_sent_away_for_longer() {
    let members: Vec<String> = (0..3000).map(|n| format!("s{n} 3 x x1 -")).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    let mut rig = Rig::unheard(&members, one_in_fleet());
    // Those that take the one slot are the ones that were not heard.
    for n in 0..210 {
        let report = rig.fresh_report(&format!("s{n}"));
        rig.report(report);
    }
    let hint = |answer: Answer| match answer {
        Answer::Wait { retry_after_ms, .. } => retry_after_ms,
        other => panic!("{other:?}"),
    };
    let first = hint(rig.claim("s0", 1, 1));
    assert!((1_500..=2_003).contains(&first), "{first}");
    let all_claim = |rig: &mut Rig, members: &[&str]| {
        for member in members {
            rig.claim(member.split(' ').next().unwrap(), 1, 1);
        }
    };
    all_claim(&mut rig, &members[1..10]);
    let next = hint(rig.claim("s1", 1, 2));
    assert!((1_523..=2_030).contains(&next), "{next}");
    let later = hint(rig.claim("s9", 1, 2));
    assert!((22_500..=30_000).contains(&later), "four turns of half a minute are before it: {later}");
    rig.core.config.retry_after_each = DAY;
    let bounded = hint(rig.claim("s1", 1, 3));
    assert!((22_500..=30_000).contains(&bounded), "{bounded}");

    // One slot, and at least half a minute a turn for two at a time: the 190th's turn is 47 minutes away.
    all_claim(&mut rig, &members[10..200]);
    let farthest = hint(rig.claim("s200", 1, 1));
    assert!((1_350_000..=1_800_000).contains(&farthest), "{farthest}");
    let far = hint(rig.claim("s30", 1, 2));
    assert!((337_500..=450_000).contains(&far), "{far}");
    let near = hint(rig.claim("s5", 1, 2));
    assert!(near <= 30_000, "the same claim sent again keeps its place: {near}");
}

#[test]
fn a_claim_is_not_far_behind_those_that_are_set_aside() {
    let members: Vec<String> = (0..100).map(|n| format!("s{n} 3 x x1 -")).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    let mut rig = Rig::unheard(&members, one_in_fleet());
    // Nobody was heard: none of these could start, whatever came free.
    for n in 0..99 {
        rig.claim(&format!("s{n}"), 1, 1);
    }
    let report = rig.fresh_report("s99");
    rig.report(report);
    let Answer::Wait { retry_after_ms, .. } = rig.claim("s99", 1, 1) else { panic!("the slot is taken") };
    assert!(retry_after_ms <= 30_000, "{retry_after_ms}");
}

#[test]
fn a_quiet_server_is_asked_for_reports_less_often_the_larger_the_fleet_is_and_may_be_silent_as_much_longer() {
    let members: Vec<String> = (0..1980).map(|n| format!("s{n} 3 x x1 -")).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    let mut rig = Rig::unheard(&members, LimitTable { fleet: 5000, tiers: [5000; 3], group: 5, ..wide() });
    let next = |effects: &[Effect]| match answer(effects) {
        Answer::Report(answer) => answer.next_within_ms,
        other => panic!("{other:?}"),
    };
    let well = rig.fresh_report("s1");
    assert_eq!(next(&rig.report(well)), 60_000, "1,980 servers at 33 reports a second");
    let mut unwell = rig.fresh_report("s2");
    unwell.verdict = Verdict::Unhealthy;
    assert_eq!(next(&rig.report(unwell)), 30_000, "who may be down is watched closely");
    let before = rig.fresh_report("s3");
    rig.report(before);
    let grant = rig.granted("s3");
    assert_eq!(next(&rig.report_held(&grant, true)), 30_000, "and so is who holds a lease");

    // Three reports may be missed, however far apart.
    rig.pass(Duration::from_secs(100));
    assert_eq!(rig.core.occupancies.why(&id("s2")), Some(Occupancy::Unreachable));
    assert_eq!(rig.core.occupancies.why(&id("s1")), None);
    rig.pass(Duration::from_secs(90));
    assert_eq!(rig.core.occupancies.why(&id("s1")), Some(Occupancy::Unreachable));
}

#[test]
fn a_coordinator_makes_itself_known_less_often_to_a_large_fleet() {
    let announced_after = |servers: usize| {
        let members: Vec<String> = (0..servers).map(|n| format!("s{n} 3 x x1 -")).collect();
        let members: Vec<&str> = members.iter().map(String::as_str).collect();
        let mut rig = Rig::unheard(&members, wide());
        let since = rig.now.moment;
        rig.core.handle_timeout(rig.now.after(Duration::from_secs(30)));
        rig.core.poll_timeout().map(|at| at.since(since))
    };
    assert_eq!(announced_after(3), Some(Duration::from_secs(60)));
    assert_eq!(announced_after(1980), Some(Duration::from_secs(90)));
}

#[test]
fn a_claim_too_old_to_start_by_is_not_granted_until_it_is_sent_again() {
    let mut rig = Rig::new(&TRIO, one_in_fleet());
    let grant = rig.granted("a");
    rig.claim("c", 1, 1);
    rig.pass(Duration::from_secs(61));
    assert_eq!(pushed(&rig.release(&grant, LeaseOutcome::Completed)), []);
    assert!(matches!(rig.claim("c", 1, 2), Answer::Granted(_)));
}

// Reports and the log.

#[test]
fn a_duplicate_or_late_report_changes_nothing_and_transitions_are_kept_once() {
    let mut rig = Rig::new(&TRIO, wide());
    let mut report = rig.fresh_report("a");
    let transition = |index| Transition {
        index,
        campaign: campaign("c"),
        attempt: lunar_common::ids::Attempt(1),
        from: Phase::Scheduled,
        to: Phase::Downloading,
        cause: "its turn".into(),
        at: WallTime(5),
    };
    report.transitions = vec![transition(3), transition(4), transition(6)];
    let effects = rig.report(report.clone());
    assert_eq!(appended(&effects).len(), 2, "what follows a gap is not taken");
    let kept = ReportAnswer { epoch: Epoch(1), transitions_kept: Some(4), next_within_ms: 30_000 };
    assert_eq!(answer(&effects), Answer::Report(kept.clone()));
    let mut old = report.clone();
    old.verdict = Verdict::Unhealthy;
    let effects = rig.report(old);
    assert_eq!(effects, [Effect::Answer { request: RequestId(8), answer: Answer::Report(kept) }]);
    // After a restart of the agent, what its former run sent is old news.
    let mut next = rig.fresh_report("a");
    next.boot = 2;
    next.number = 1;
    rig.report(next);
    let mut late = rig.fresh_report("a");
    late.verdict = Verdict::Unhealthy;
    rig.report(late);
    assert_eq!(rig.core.occupancies.why(&id("a")), None);
}

#[test]
fn a_server_is_shown_in_the_campaign_that_it_is_in_and_not_in_an_older_one() {
    let mut rig = Rig::new(&TRIO, wide());
    let mut report = rig.fresh_report("a");
    report.campaigns = [("now", Phase::Queued), ("before", Phase::Complete)]
        .map(|(name, phase)| lunar_common::message::CampaignStatus {
            campaign: campaign(name),
            plan: plan_hash(1),
            attempt: lunar_common::ids::Attempt(1),
            phase,
            running: Vec::new(),
            chunks: (0, 0),
            received: Default::default(),
        })
        .into();
    rig.report(report);
    let view = rig.core.server(&id("a"), rig.now).unwrap();
    assert_eq!(view.campaign().map(|status| &status.campaign), Some(&campaign("now")));
}

#[test]
fn a_revoked_server_is_heard_no_more_and_its_lease_stays_taken() {
    let mut rig = Rig::new(&TRIO, wide());
    let grant = rig.granted("a");
    rig.core.record(EventBody::ServerRevoked { server: id("a"), key: key(&id("a")) });
    rig.core.record(EventBody::ServerRevoked { server: id("b"), key: key(&id("b")) });
    rig.step();
    assert_eq!(rig.core.occupancies.why(&id("a")), Some(Occupancy::Granted));
    assert_eq!(rig.core.occupancies.why(&id("b")), None);
    assert!(matches!(answer(&rig.release(&grant, LeaseOutcome::Completed)), Answer::Invalid { .. }));
    rig.pass(Duration::from_secs(200));
    rig.reap("a", Some(grant.lease.0), 1);
    assert_eq!(rig.core.occupancies.why(&id("a")), None);
}

#[test]
fn every_reason_reads_as_a_sentence_that_names_the_server() {
    let mut rig = Rig::new(&TRIO, one_each_group());
    let grant = rig.granted("a");
    rig.claim("b", 1, 1);
    let text = |rig: &Rig, server: &str| rig.core.why(&id(server), rig.now).unwrap()[0].text.clone();
    assert_eq!(text(&rig, "a"), format!("a may start: it was granted lease {}", grant.lease));
    assert_eq!(
        text(&rig, "b"),
        "b waits: 1 of 1 slots of group air are taken by a (about to start); it goes on when one is free"
    );
    assert_eq!(text(&rig, "c"), "c has not asked for a slot: it is scheduled by its own word");
    assert_eq!(rig.core.why(&id("nobody"), rig.now), None);
}
