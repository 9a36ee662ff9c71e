//! Who waits for whom, with the exact reasons; and that nobody is forgotten who waits.

use lunar_common::lease::{LeaseOutcome, WaitReason};
use lunar_common::plan::Within;

use super::rules::{Labels, OrderTerms, Picks, Rules};
use crate::coordinator::rig::{Rig, answer, appended, id, member, plan_hash, pushed, terms, wide};
use crate::effect::Answer;
use crate::event::{EventBody, Selection};

const FLEET: [&str; 6] =
    ["f1 2 x x1 -", "f2 2 x x1 -", "l1 2 x x1 -", "f3 2 x x2 -", "l2 2 x x2 -", "z 3 x x1 -"];

/// Those labelled leader wait for those labelled follower.
fn leaders_last(within: Option<Within>) -> OrderTerms {
    let role = |role: &str| Picks {
        labels: [("role".to_owned(), [role.to_owned()].into())].into(),
        ..Picks::default()
    };
    OrderTerms {
        within,
        select: Selection::default(),
        picks: role("leader"),
        after: Selection::default(),
        after_picks: role("follower"),
        told: "leaders after followers".into(),
    }
}

fn ordered(within: Option<Within>) -> Rig {
    let mut rig = Rig::new(&FLEET, wide());
    for (server, role) in
        [("f1", "follower"), ("f2", "follower"), ("f3", "follower"), ("l1", "leader"), ("l2", "leader")]
    {
        rig.core.label(&id(server), &Labels::from([("role".to_owned(), role.to_owned())]));
    }
    rig.step();
    let rules = Rules { order: vec![leaders_last(within)], ..Rules::default() };
    rig.core.accept_with(terms("c", 2, wide()), Some(rules), Default::default(), Default::default());
    rig.step();
    rig
}

fn claim(rig: &mut Rig, server: &str, attempt: u64) -> Answer {
    let mut claim = rig.claim_as(server, attempt, attempt);
    claim.plan = plan_hash(2);
    answer(&rig.send(claim))
}

fn completes(rig: &mut Rig, server: &str) -> Vec<crate::effect::Effect> {
    let Answer::Granted(grant) = claim(rig, server, 1) else { panic!("{server} was not granted") };
    rig.release(&grant, LeaseOutcome::Completed)
}

#[test]
fn a_leader_waits_for_the_followers_of_its_own_cluster_and_starts_when_the_last_is_done() {
    let mut rig = ordered(Some(Within::Cluster));
    let Answer::Wait { reason, .. } = claim(&mut rig, "l1", 1) else { panic!("its followers are not done") };
    let first = vec![id("f1"), id("f2")];
    assert_eq!(reason, WaitReason::Order { rule: "leaders after followers".into(), pending: 2, first });
    assert_eq!(
        rig.core.why(&id("l1"), rig.now).unwrap()[0].text,
        "l1 waits for f1, f2 by the plan's order (leaders after followers); it goes on when they are done"
    );
    assert!(matches!(claim(&mut rig, "z", 1), Answer::Granted(_)), "no rule is about z");
    assert!(pushed(&completes(&mut rig, "f1")).is_empty());
    let effects = completes(&mut rig, "f2");
    assert_eq!(pushed(&effects)[0].server, id("l1"));
    assert!(matches!(appended(&effects)[..], [EventBody::Released { .. }, EventBody::Granted(_)]));
    assert!(matches!(
        claim(&mut rig, "l2", 1),
        Answer::Wait { reason: WaitReason::Order { pending: 1, .. }, .. }
    ));
}

#[test]
fn without_a_place_a_rule_holds_for_the_whole_campaign() {
    let mut rig = ordered(None);
    for server in ["f1", "f2"] {
        completes(&mut rig, server);
    }
    assert!(matches!(
        claim(&mut rig, "l1", 1),
        Answer::Wait { reason: WaitReason::Order { pending: 1, .. }, .. }
    ));
    assert_eq!(pushed(&completes(&mut rig, "f3"))[0].server, id("l1"));
}

#[test]
fn a_follower_that_rolled_back_keeps_its_leader_waiting() {
    let mut rig = ordered(Some(Within::Cluster));
    assert!(matches!(claim(&mut rig, "l2", 1), Answer::Wait { .. }));
    let Answer::Granted(grant) = claim(&mut rig, "f3", 1) else { panic!("f3 was not granted") };
    let effects = rig.release(&grant, LeaseOutcome::RolledBack { cause: "smoke".into() });
    assert!(pushed(&effects).is_empty());
    let Answer::Granted(grant) = claim(&mut rig, "f3", 2) else { panic!("f3 was not granted again") };
    assert_eq!(pushed(&rig.release(&grant, LeaseOutcome::Completed))[0].server, id("l2"));
}

#[test]
fn who_waited_for_a_server_that_moved_away_or_was_written_off_goes_on() {
    let mut rig = ordered(Some(Within::Cluster));
    assert!(matches!(claim(&mut rig, "l2", 1), Answer::Wait { .. }));
    let mut moved = member("f3 2 x x1 -");
    moved.sequence = lunar_common::ids::Sequence(2);
    rig.core.enrol(moved);
    assert_eq!(pushed(&rig.step())[0].server, id("l2"));
    assert!(matches!(
        claim(&mut rig, "l1", 1),
        Answer::Wait { reason: WaitReason::Order { pending: 3, .. }, .. }
    ));
    rig.pass(std::time::Duration::from_secs(200));
    for server in ["f1", "f2", "l1"] {
        let report = rig.fresh_report(server);
        rig.report(report);
    }
    completes(&mut rig, "f1");
    completes(&mut rig, "f2");
    assert!(matches!(
        claim(&mut rig, "l1", 2),
        Answer::Wait { reason: WaitReason::Order { pending: 1, .. }, .. }
    ));
    assert_eq!(pushed(&rig.reap("f3", None, 1))[0].server, id("l1"));
}

#[test]
fn a_restarted_coordinator_knows_who_is_done() {
    let mut rig = ordered(Some(Within::Cluster));
    completes(&mut rig, "f3");
    rig.restart();
    rig.all_report();
    assert!(matches!(claim(&mut rig, "l2", 1), Answer::Granted(_)));
    assert!(matches!(
        claim(&mut rig, "l1", 1),
        Answer::Wait { reason: WaitReason::Order { pending: 2, .. }, .. }
    ));
}
