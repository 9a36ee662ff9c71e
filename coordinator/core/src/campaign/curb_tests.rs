//! What people restrain by hand: what waits for it, what ends it, and what outlives what.
//!
//! Owns the tests of [`super::curb`]. Main invariant: a curb's event comes before any grant after it, and is the only thing
//! that a curb appends.

use std::collections::BTreeSet;

use lunar_common::curb::{Curb, Lowered, Measure};
use lunar_common::ids::{FleetId, KeyName, LeaseId, PauseId, Sequence};
use lunar_common::lease::{Claim, LeaseOutcome, LimitScope, WaitReason};
use lunar_common::limits::Tier;
use lunar_common::pause::{Anomaly, Pause, PauseScope};
use lunar_common::time::WallTime;

use super::curb::ByHand;
use crate::coordinator::rig::*;
use crate::effect::{Answer, Effect};
use crate::event::EventBody;

pub(super) const FLEET: [&str; 4] = ["a 1 north n1 -", "b 1 south s1 -", "c 2 north n1 -", "d 2 south s1 -"];

pub(super) fn ann() -> BTreeSet<KeyName> {
    BTreeSet::from([KeyName::new("ann").unwrap()])
}

/// The id of the curb with this number: which one does not matter, as long as no two are the same.
pub(super) fn pause(sequence: u64) -> PauseId {
    PauseId([u8::try_from(sequence).unwrap(); 32])
}

pub(super) fn curb(sequence: u64, what: Measure) -> Curb {
    let of_a_server = matches!(what, Measure::Quarantine(_) | Measure::Release(_));
    Curb {
        format: 1,
        fleet: FleetId::new("moon").unwrap(),
        campaign: (!of_a_server).then(|| campaign("c")),
        sequence: Sequence(sequence),
        issued: WallTime(1_000),
        expires: WallTime(4_600),
        reason: "odd noises".into(),
        what,
    }
}

fn take(rig: &mut Rig, sequence: u64, what: Measure) -> Vec<Effect> {
    rig.core.take_curb(&curb(sequence, what), pause(sequence), ann());
    rig.step()
}

fn by(sequence: u64) -> ByHand {
    ByHand { id: pause(sequence), sequence: Sequence(sequence), reason: "odd noises".into(), signers: ann() }
}

/// Just this event, and nothing else.
fn noted(sequence: u64, what: Measure) -> Vec<Effect> {
    let campaign = curb(sequence, what.clone()).campaign;
    vec![Effect::Append(EventBody::Curbed { campaign, what, by: by(sequence) })]
}

fn waits(rig: &mut Rig, server: &str, nonce: u64) -> WaitReason {
    match rig.claim(server, 1, nonce) {
        Answer::Wait { reason, .. } => reason,
        other => panic!("{server} was not held back: {other:?}"),
    }
}

fn is_granted(rig: &mut Rig, server: &str, nonce: u64) -> bool {
    matches!(rig.claim(server, 1, nonce), Answer::Granted(_))
}

fn lower(scope: LimitScope, to: u32) -> Measure {
    Measure::Lower(vec![Lowered { scope, to: to.try_into().unwrap() }])
}

#[test]
fn a_pause_by_hand_holds_its_scope_and_ends_by_a_resume_that_names_it_alone() {
    let tier_one = Measure::Pause(PauseScope::Tier(Tier::One));
    let mut rig = Rig::new(&FLEET, wide());
    assert_eq!(take(&mut rig, 1, tier_one.clone()), noted(1, tier_one));
    let why = WaitReason::PausedByHand {
        scope: PauseScope::Tier(Tier::One),
        pause: pause(1),
        why: "odd noises".into(),
        signers: ann().into_iter().collect(),
    };
    assert_eq!(waits(&mut rig, "a", 1), why);
    assert!(is_granted(&mut rig, "c", 1), "tier 2 goes on");
    // Neither another resume, nor a new life, nor a new plan ends it.
    rig.resume_pauses(&[pause(9)]);
    rig.resume(Some("c"), 1);
    rig.restart();
    rig.all_report();
    rig.plan(terms("c", 2, wide()));
    let claim = Claim { plan: plan_hash(2), ..rig.claim_as("a", 1, 2) };
    assert!(matches!(answer(&rig.send(claim)), Answer::Wait { reason, .. } if reason == why));
    let effects = rig.resume_pauses(&[pause(1)]);
    assert!(
        matches!(appended(&effects)[..], [EventBody::Unpaused { .. }, EventBody::Granted(_)]),
        "{effects:?}"
    );
    assert_eq!(pushed(&effects).len(), 1);
}

#[test]
fn where_a_rule_and_people_pause_the_same_each_ends_by_its_own_name() {
    let (scope, anomaly) = (PauseScope::Tier(Tier::One), Anomaly::Silent { silent: 1, stop_at: 1 });
    let found = Pause {
        campaign: campaign("c"),
        plan: plan_hash(1),
        scope: scope.clone(),
        server: id("b"),
        lease: LeaseId(1),
        anomaly,
    };
    for (first, then) in [(found.id(), pause(1)), (pause(1), found.id())] {
        let mut rig = Rig::new(&FLEET, wide());
        take(&mut rig, 1, Measure::Pause(scope.clone()));
        rig.core.record(EventBody::Paused { pause: found.clone() });
        waits(&mut rig, "a", 1);
        assert_eq!(pushed(&rig.resume_pauses(&[first])), []);
        assert_eq!(pushed(&rig.resume_pauses(&[then])).len(), 1);
    }
}

#[test]
fn every_scope_of_a_pause_holds_those_in_it_and_no_others() {
    let site = PauseScope::Site("north".parse().unwrap());
    let model = PauseScope::Model { label: "model".into(), value: "r740".into() };
    for (scope, held) in [
        (PauseScope::Campaign, ["a", "b", "c", "d"].as_slice()),
        (PauseScope::Tier(Tier::Two), &["c", "d"]),
        (site, &["a", "c"]),
        (model, &["d"]),
    ] {
        let mut rig = Rig::new(&FLEET, wide());
        rig.core.label(&id("d"), &[("model".to_owned(), "r740".to_owned())].into());
        rig.step();
        take(&mut rig, 1, Measure::Pause(scope.clone()));
        for server in ["a", "b", "c", "d"] {
            assert_eq!(is_granted(&mut rig, server, 1), !held.contains(&server), "{server} and {scope}");
        }
        let granted = pushed(&rig.resume_pauses(&[pause(1)]));
        let woken: BTreeSet<_> = granted.iter().map(|grant| grant.server.as_str()).collect();
        assert_eq!(woken, held.iter().copied().collect(), "all start at once when {scope} goes on");
    }
}

#[test]
fn a_server_in_quarantine_starts_in_no_campaign_until_it_is_released() {
    let (held, freed) = (Measure::Quarantine(id("a")), Measure::Release(id("a")));
    let mut rig = Rig::new(&FLEET, wide());
    rig.plan(crate::event::Terms { plan: plan_hash(7), ..terms("d", 1, wide()) });
    assert_eq!(take(&mut rig, 1, held.clone()), noted(1, held));
    let why = WaitReason::Quarantined { why: "odd noises".into(), signers: ann().into_iter().collect() };
    assert_eq!(waits(&mut rig, "a", 1), why);
    let claim = Claim { campaign: campaign("d"), plan: plan_hash(7), ..rig.claim_as("a", 1, 2) };
    assert!(matches!(answer(&rig.send(claim)), Answer::Wait { reason, .. } if reason == why));
    assert!(is_granted(&mut rig, "b", 1));
    rig.restart();
    rig.all_report();
    assert_eq!(waits(&mut rig, "a", 3), why);
    let told = rig.core.why(&id("a"), rig.now).unwrap().remove(0).text;
    assert_eq!(told, "a is in quarantine by ann: odd noises; it goes on after a signed release");
    let effects = take(&mut rig, 2, freed.clone());
    assert_eq!(effects[..1], noted(2, freed), "in the log before it starts");
    assert_eq!(pushed(&effects).len(), 1);
}

#[test]
fn a_grant_that_was_not_started_is_not_given_again_to_a_server_in_quarantine() {
    let mut rig = Rig::new(&FLEET, wide());
    assert!(is_granted(&mut rig, "a", 1));
    assert!(is_granted(&mut rig, "a", 2));
    take(&mut rig, 1, Measure::Quarantine(id("a")));
    assert!(matches!(waits(&mut rig, "a", 3), WaitReason::Quarantined { .. }));
}

#[test]
fn a_limit_that_was_lowered_binds_until_a_new_plan_and_is_never_raised() {
    let tier = LimitScope::Tier(Tier::One);
    let mut rig = Rig::new(&FLEET, wide());
    let measure = lower(tier.clone(), 1);
    assert_eq!(take(&mut rig, 1, measure.clone()), noted(1, measure));
    let first = rig.granted("a");
    assert!(
        matches!(waits(&mut rig, "b", 1), WaitReason::Limit { scope, limit: 1, taken: 1, .. } if scope == tier)
    );
    assert!(is_granted(&mut rig, "c", 1));
    for to in [1, 2, 200] {
        let said = rig.core.curbable(&curb(2, lower(tier.clone(), to))).unwrap_err();
        assert!(said.contains("the limit of tier 1 is 1 already, and goes up by a new generation"), "{said}");
        assert_eq!(take(&mut rig, 2, lower(tier.clone(), to)), []);
    }
    rig.restart();
    rig.all_report_held(std::slice::from_ref(&first));
    assert!(matches!(waits(&mut rig, "b", 2), WaitReason::Limit { limit: 1, .. }));
    rig.release(&first, LeaseOutcome::Completed);
    rig.plan(terms("c", 2, wide()));
    let limit = rig.core.limits(&campaign("c")).unwrap().into_iter().find(|view| view.scope == tier).unwrap();
    assert_eq!(limit.limit, Some(100), "a new plan brings its own limits");
}

#[test]
fn of_two_limits_for_one_scope_the_lower_one_binds() {
    let fleet = |to: u32| Lowered { scope: LimitScope::Fleet, to: to.try_into().unwrap() };
    let mut rig = Rig::new(&FLEET, wide());
    take(&mut rig, 1, Measure::Lower(vec![fleet(1), fleet(9)]));
    assert!(is_granted(&mut rig, "a", 1));
    assert!(matches!(waits(&mut rig, "b", 1), WaitReason::Limit { limit: 1, .. }));
}

#[test]
fn a_limit_that_the_plan_does_not_have_can_be_set_and_binds_other_campaigns_while_servers_are_down() {
    let site = LimitScope::Site("north".parse().unwrap());
    let mut rig = Rig::new(&FLEET, wide());
    take(&mut rig, 1, lower(site.clone(), 1));
    assert!(is_granted(&mut rig, "a", 1));
    assert!(matches!(waits(&mut rig, "c", 1), WaitReason::Limit { scope, .. } if scope == site));
    rig.plan(crate::event::Terms { plan: plan_hash(7), ..terms("d", 1, wide()) });
    let claim = Claim { campaign: campaign("d"), plan: plan_hash(7), ..rig.claim_as("c", 1, 2) };
    assert!(matches!(
        answer(&rig.send(claim)),
        Answer::Wait { reason: WaitReason::Limit { limit: 1, .. }, .. }
    ));
}

#[test]
fn a_campaign_that_was_cancelled_starts_nobody_until_a_new_plan_and_leaves_what_runs() {
    let mut rig = Rig::new(&FLEET, wide());
    let first = rig.granted("a");
    assert_eq!(take(&mut rig, 1, Measure::Cancel), noted(1, Measure::Cancel));
    let why = WaitReason::Cancelled { why: "odd noises".into(), signers: ann().into_iter().collect() };
    assert_eq!(waits(&mut rig, "b", 1), why);
    // Who is under way finishes.
    let over = rig.release(&first, LeaseOutcome::Completed);
    assert!(matches!(appended(&over)[..], [EventBody::Released { .. }]), "{over:?}");
    rig.restart();
    rig.all_report();
    assert_eq!(waits(&mut rig, "b", 2), why);
    rig.plan(terms("c", 2, wide()));
    let claim = Claim { plan: plan_hash(2), ..rig.claim_as("b", 1, 3) };
    assert!(matches!(answer(&rig.send(claim)), Answer::Granted(_)));
}

#[test]
fn a_curb_that_would_change_nothing_is_refused_with_what_to_do() {
    let mut rig = Rig::new(&FLEET, wide());
    let all = Measure::Pause(PauseScope::Campaign);
    take(&mut rig, 3, all.clone());
    take(&mut rig, 3, Measure::Quarantine(id("a")));
    let elsewhere = Curb { campaign: Some(campaign("x")), ..curb(9, all.clone()) };
    for (curb, wanted) in [
        (curb(3, Measure::Cancel), "number 3 is not newer than 3, the last curb seen here"),
        (curb(4, all), "the campaign of c is paused by hand already"),
        (curb(3, Measure::Release(id("a"))), "number 3 is not newer than 3"),
        (curb(4, Measure::Quarantine(id("a"))), "a is in quarantine already"),
        (curb(4, Measure::Release(id("b"))), "b is not in quarantine"),
        (curb(4, Measure::Quarantine(id("x"))), "x is not enrolled"),
        (elsewhere, "no plan of x is known here"),
    ] {
        let said = rig.core.curbable(&curb).unwrap_err();
        assert!(said.contains(wanted), "{wanted}: {said}");
        rig.core.take_curb(&curb, pause(99), ann());
        assert_eq!(rig.step(), [], "{wanted}");
    }
    take(&mut rig, 4, Measure::Cancel);
    let said = rig.core.curbable(&curb(5, lower(LimitScope::Fleet, 1))).unwrap_err();
    assert!(said.contains("c is cancelled (odd noises): only a new generation"), "{said}");
}

#[test]
fn what_is_restrained_is_shown_with_who_did_it() {
    let mut rig = Rig::new(&FLEET, wide());
    take(&mut rig, 1, Measure::Pause(PauseScope::Tier(Tier::One)));
    take(&mut rig, 2, lower(LimitScope::Fleet, 3));
    take(&mut rig, 5, Measure::Quarantine(id("b")));
    let view = rig.core.campaign(&campaign("c")).unwrap().by_hand;
    assert_eq!((view.sequence, &view.pauses[0].by, view.lowered[0].to), (Sequence(2), &by(1), 3));
    assert_eq!(rig.core.server(&id("b"), rig.now).unwrap().quarantined, Some(by(5)));
    assert_eq!(rig.core.status().curbs, Sequence(5));
    take(&mut rig, 3, Measure::Cancel);
    assert_eq!(rig.core.campaign(&campaign("c")).unwrap().by_hand.cancelled, Some(by(3)));
}
