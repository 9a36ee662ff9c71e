//! Batches that people approve: who waits for them, what counts, and for how long.
//!
//! Owns the tests of [`super::approval`]. Main invariant: whatever is granted is of a batch that is approved then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lunar_common::document::Approval;
use lunar_common::ids::{DocumentHash, Epoch, Fence, FleetId, KeyName, Sequence, ServerId, StageName};
use lunar_common::lease::{Claim, Lapse, WaitReason};
use lunar_common::plan::Stage;
use lunar_common::time::WallTime;
use lunar_common::trust::Approvers;

use super::approval::ApprovalTerms;
use super::rules::{Rules, StageTerms};
use crate::coordinator::documents::Also;
use crate::coordinator::rig::*;
use crate::effect::{Answer, Effect};
use crate::event::EventBody;
use crate::view::BatchState;

pub(super) const FLEET: [&str; 4] = ["a 1 north n1 -", "b 1 north n1 -", "c 1 south s1 -", "d 1 south s1 -"];

pub(super) fn name(text: &str) -> KeyName {
    KeyName::new(text).unwrap()
}

pub(super) fn approvers(root: u64) -> Approvers {
    Approvers { names: ["ann", "bob", "dia"].map(name).into(), need: 2, root }
}

/// Four servers of one stage, approved two by two; ann wrote the plan.
pub(super) fn rig() -> Rig {
    let mut rig = Rig::unheard(&FLEET, wide());
    rig.core.approvers = approvers(1);
    let stage: Stage = toml::from_str("name = \"all\"\napproval_batch = 2\n").unwrap();
    let rules = Rules { stages: StageTerms::of(&[stage]), ..Rules::default() };
    let asked = ApprovalTerms { author: name("ann"), stages: BTreeMap::from([(0, 2)]) };
    let also = Also { approvals: Some(asked), ..Also::default() };
    rig.core.accept_with(terms("c", 2, wide()), Some(rules), also, Default::default());
    rig.step();
    rig.all_report();
    rig
}

fn claim(rig: &mut Rig, server: &str, nonce: u64) -> Answer {
    let claim = Claim { plan: plan_hash(2), ..rig.claim_as(server, 1, nonce) };
    answer(&rig.send(claim))
}

pub(super) fn word(batch: u32, sequence: u64) -> Approval {
    Approval {
        format: 1,
        fleet: FleetId::new("moon").unwrap(),
        campaign: campaign("c"),
        plan: plan_hash(2),
        stage: StageName::new("all").unwrap(),
        batch,
        sequence: Sequence(sequence),
        withdraw: false,
        issued: WallTime(1_000),
        expires: WallTime(4_600),
        reason: "all quiet".into(),
    }
}

fn say(rig: &mut Rig, approval: &Approval) -> Vec<Effect> {
    rig.core.take_word(approval, ["bob", "dia"].map(name).into());
    rig.step()
}

/// Why a server's batch is not approved, and which it is.
fn waits(answer: &Answer) -> (u32, Lapse) {
    match answer {
        Answer::Wait { reason: WaitReason::Approval { batch, lapse, .. }, .. } => (*batch, *lapse),
        other => panic!("expected to wait for people, found {other:?}"),
    }
}

fn is_granted(answer: &Answer) -> bool {
    matches!(answer, Answer::Granted(_))
}

fn members(rig: &Rig, batch: u32) -> Vec<ServerId> {
    let batches = rig.core.batches(&campaign("c"), rig.now);
    batches.into_iter().find(|one| one.batch == batch).map(|one| one.servers).unwrap_or_default()
}

#[test]
fn nobody_of_a_batch_starts_before_it_is_approved_and_the_next_is_approved_while_it_runs() {
    let mut rig = rig();
    let all: BTreeSet<ServerId> = FLEET.iter().map(|line| id(&line[..1])).collect();
    let (first, second) = (members(&rig, 1), members(&rig, 2));
    assert_eq!((first.len(), second.len()), (2, 2));
    assert_eq!(first.iter().chain(&second).cloned().collect::<BTreeSet<_>>(), all);
    for server in &all {
        let (batch, lapse) = waits(&claim(&mut rig, server.as_str(), 1));
        assert_eq!((members(&rig, batch).contains(server), lapse), (true, Lapse::Never));
    }
    let effects = say(&mut rig, &word(1, 1));
    let (said, granted) = (appended(&effects), pushed(&effects));
    assert!(matches!(said[0], EventBody::Approved { batch: 1, .. }), "in the log before anybody starts");
    let of = |grants: &[lunar_common::lease::Grant]| {
        grants.iter().map(|grant| grant.server.clone()).collect::<BTreeSet<_>>()
    };
    assert_eq!(of(&granted), first.iter().cloned().collect());
    assert_eq!(of(&pushed(&say(&mut rig, &word(2, 1)))), second.iter().cloned().collect());
}

#[test]
fn an_approval_that_expired_or_was_withdrawn_starts_nobody() {
    let mut rig = rig();
    say(&mut rig, &Approval { expires: WallTime(1_060), ..word(1, 1) });
    let server = members(&rig, 1)[0].clone();
    rig.now = rig.now.after(Duration::from_secs(61));
    assert_eq!(waits(&claim(&mut rig, server.as_str(), 1)), (1, Lapse::Expired(WallTime(1_060))));
    say(&mut rig, &word(1, 2));
    say(&mut rig, &Approval { withdraw: true, ..word(1, 3) });
    assert_eq!(waits(&claim(&mut rig, server.as_str(), 2)), (1, Lapse::Withdrawn));
    // The approval before it is not news any more.
    assert_eq!(appended(&say(&mut rig, &word(1, 2))).len(), 0);
    assert_eq!(waits(&claim(&mut rig, server.as_str(), 3)), (1, Lapse::Withdrawn));
    say(&mut rig, &word(1, 4));
    assert!(is_granted(&claim(&mut rig, server.as_str(), 4)));
}

#[test]
fn a_grant_that_was_not_started_is_not_given_again_once_its_approval_is_withdrawn() {
    let mut rig = rig();
    say(&mut rig, &word(1, 1));
    let server = members(&rig, 1)[0].clone();
    assert!(is_granted(&claim(&mut rig, server.as_str(), 1)));
    assert!(is_granted(&claim(&mut rig, server.as_str(), 2)));
    say(&mut rig, &Approval { withdraw: true, ..word(1, 2) });
    assert_eq!(waits(&claim(&mut rig, server.as_str(), 3)), (1, Lapse::Withdrawn));
}

#[test]
fn who_joins_later_is_in_no_batch_that_people_have_looked_at() {
    let mut rig = rig();
    say(&mut rig, &word(2, 1));
    rig.core.enrol(member("e 1 south s1 -"));
    rig.core.enrol(member("f 1 south s1 -"));
    rig.core.enrol(member("g 1 south s1 -"));
    rig.step();
    assert_eq!((members(&rig, 3), members(&rig, 4)), (vec![id("e"), id("f")], vec![id("g")]));
    say(&mut rig, &word(4, 1));
    rig.core.enrol(member("h 1 south s1 -"));
    rig.step();
    assert_eq!((members(&rig, 4), members(&rig, 5)), (vec![id("g")], vec![id("h")]));
}

#[test]
fn approvals_outlive_a_restart_and_neither_a_lost_log_nor_another_trust_root() {
    let mut rig = rig();
    say(&mut rig, &word(1, 1));
    let server = members(&rig, 1)[0].clone();
    rig.restart();
    rig.core.approvers = approvers(1);
    rig.all_report();
    let state = |rig: &Rig| rig.core.batches(&campaign("c"), rig.now)[0].state;
    assert_eq!(state(&rig), BatchState::Approved);
    rig.core.approvers = approvers(2);
    assert_eq!(waits(&claim(&mut rig, server.as_str(), 1)), (1, Lapse::Void));
    rig.core.approvers = approvers(1);
    assert_eq!(state(&rig), BatchState::Approved);
    // Somebody has seen numbers above ours: what else was forgotten nobody knows.
    let mut ahead = rig.fresh_report("a");
    (ahead.epoch_seen, ahead.fence_seen) = (Epoch(9), Fence(9));
    rig.report(ahead);
    assert_eq!(state(&rig), BatchState::Void);
    say(&mut rig, &word(1, 2));
    assert_eq!(state(&rig), BatchState::Approved);
}

#[test]
fn a_word_that_would_change_nothing_is_refused_with_what_to_do() {
    let mut rig = rig();
    say(&mut rig, &word(1, 2));
    for (approval, wanted) in [
        (word(1, 2), "number 2 on batch 1 of stage all is not newer than 2"),
        (word(7, 1), "stage all of c has no batch 7: they go from 1 to 2"),
        (word(0, 1), "stage all of c has no batch 0"),
        (Approval { stage: StageName::new("some").unwrap(), ..word(1, 3) }, "stage some of c asks nobody"),
        (Approval { plan: DocumentHash([9; 32]), ..word(1, 3) }, "in force under this hash"),
        (Approval { campaign: campaign("d"), ..word(1, 3) }, "no plan of d that asks for approvals"),
    ] {
        let said = rig.core.approvable(&approval).unwrap_err();
        assert!(said.contains(wanted), "{wanted}: {said}");
        assert_eq!(appended(&say(&mut rig, &approval)).len(), 0, "{wanted}");
    }
}

#[test]
fn why_names_the_batch_and_who_may_still_approve_it() {
    let mut rig = rig();
    let server = members(&rig, 2)[0].clone();
    claim(&mut rig, server.as_str(), 1);
    let why = rig.core.why(&server, rig.now).unwrap().remove(0);
    let told =
        format!("{server} waits in stage all: batch 2 of 2 servers is not approved; it takes 2 of bob, dia");
    assert_eq!(why.text, told);
}
