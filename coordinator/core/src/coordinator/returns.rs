//! Servers that were revoked and are members again: the same machine, or another in its place.
//!
//! Owns what the ledger makes of them. Main invariant: a lease outlives revocation and return, and ends as every other
//! lease does; who returns takes a slot until it was heard.

use std::time::Duration;

use lunar_common::ids::{Attempt, PeerKey, Sequence};
use lunar_common::lease::{ClaimRefusal, Grant, LeaseOutcome, LeaseState, NO_CLAIM, Occupancy};
use lunar_common::message::Report;

use super::rig::*;
use crate::effect::{Answer, Effect};
use crate::event::{EventBody, Member};
use crate::input::{Input, RequestId};

const PAIR: [&str; 2] = ["a 1 north n1 -", "b 1 north n1 -"];

#[test]
fn a_reinstated_server_goes_on_under_the_lease_it_held() {
    let mut rig = Rig::new(&PAIR, wide());
    let grant = rig.granted("a");
    rig.report_held(&grant, true);
    revoke(&mut rig, "a");
    assert_eq!(rig.core.occupancies.why(&id("a")), Some(Occupancy::Active), "it is down all the same");

    rig.core.enrol(member(PAIR[0]));
    rig.step();

    assert_eq!(rig.core.occupancies.why(&id("a")), Some(Occupancy::Active));
    assert_eq!(appended(&rig.report_held(&grant, true)), Vec::<&EventBody>::new(), "nothing is new");
    assert_eq!(answer(&rig.release(&grant, LeaseOutcome::Completed)), Answer::Done);
    assert_eq!(rig.core.occupancies.why(&id("a")), None);
    assert_eq!(rig.core.campaigns()[0].outcomes.completed, 1);
}

#[test]
fn a_reinstated_server_takes_a_slot_until_it_was_heard_and_its_failures_stand() {
    let mut rig = Rig::new(&PAIR, wide());
    fail_three_times(&mut rig);
    revoke(&mut rig, "a");
    assert_eq!(rig.core.occupancies.why(&id("a")), None, "who is out is not counted");

    rig.core.enrol(member(PAIR[0]));
    rig.step();

    assert_eq!(rig.core.occupancies.why(&id("a")), Some(Occupancy::Unreachable));
    let report = rig.fresh_report("a");
    rig.report(report);
    assert_eq!(rig.core.occupancies.why(&id("a")), None);
    assert_eq!(rig.claim("a", 4, 9), Answer::Refused(ClaimRefusal::TooManyAttempts(3)));
}

#[test]
fn another_machine_in_the_place_of_a_revoked_one_frees_its_slot_by_its_own_word_and_may_fail_anew() {
    let mut rig = Rig::new(&PAIR, wide());
    fail_three_times(&mut rig);
    let Answer::Granted(grant) = by_next_plan(&mut rig) else { panic!("a new plan counts anew") };
    rig.report_held(&grant, true);
    revoke(&mut rig, "a");
    rig.pass(Duration::from_secs(2_000));
    rig.core.enrol(another());
    rig.step();
    let lost = |rig: &Rig| rig.core.state.leases.get(&id("a")).map(|lease| lease.state);
    assert_eq!(lost(&rig), Some(LeaseState::Lost), "its predecessor may be in flames");
    let report = rig.fresh_report("a");
    assert!(matches!(answer(&rig.report(report)), Answer::Invalid { .. }), "the old key is out");

    let report = rig.fresh_report("a");
    let effects = report_as(&mut rig, another().key, report);

    // The server is up, as another machine. It never saw the grant, is shown it, and gives it back.
    assert_eq!(pushed(&effects), [Grant { nonce: NO_CLAIM, ..grant.clone() }]);
    let never = LeaseOutcome::NeverStarted { cause: "the coordinator calls it back".into() };
    let release =
        Input::Release { request: RequestId(9), from: another().key, release: grant.release(never, 0) };
    rig.core.handle(release, rig.now);
    assert_eq!(answer(&rig.step()), Answer::Done);
    assert_eq!((lost(&rig), rig.core.occupancies.why(&id("a"))), (None, None));
    // The old attempt is over for it too, and the next is its first that may fail.
    let mut claim = rig.claim_as("a", grant.attempt.0, 20);
    claim.plan = plan_hash(2);
    let refused = claim_as(&mut rig, claim.clone());
    assert_eq!(refused, Answer::Refused(ClaimRefusal::AttemptOver(grant.attempt)));
    claim.attempt = Attempt(grant.attempt.0 + 1);
    assert!(matches!(claim_as(&mut rig, claim), Answer::Granted(_)));
}

#[test]
fn what_a_machine_failed_at_is_not_held_against_the_one_that_replaces_it() {
    let mut rig = Rig::new(&PAIR, wide());
    fail_three_times(&mut rig);
    assert_eq!(rig.claim("a", 4, 9), Answer::Refused(ClaimRefusal::TooManyAttempts(3)));
    revoke(&mut rig, "a");

    rig.core.enrol(another());
    rig.step();
    let report = rig.fresh_report("a");
    report_as(&mut rig, another().key, report);

    let first = rig.claim_as("a", 1, 10);
    let behind = ClaimRefusal::AttemptBehind { found: Attempt(1), highest: Attempt(3) };
    assert_eq!(claim_as(&mut rig, first), Answer::Refused(behind), "leases stay numbered upwards");
    let next = rig.claim_as("a", 4, 11);
    assert!(matches!(claim_as(&mut rig, next), Answer::Granted(_)));
}

fn revoke(rig: &mut Rig, server: &str) {
    rig.core.record(EventBody::ServerRevoked { server: id(server), key: key(&id(server)) });
    rig.step();
}

/// The first server's place, taken by a machine with a key of its own.
fn another() -> Member {
    Member { key: PeerKey([77; 32]), sequence: Sequence(2), ..member(PAIR[0]) }
}

fn fail_three_times(rig: &mut Rig) {
    for number in 1..=3 {
        let Answer::Granted(grant) = rig.claim("a", number, number) else { panic!("attempt {number}") };
        rig.release(&grant, LeaseOutcome::RolledBack { cause: "503".into() });
    }
}

fn by_next_plan(rig: &mut Rig) -> Answer {
    rig.plan(terms("c", 2, wide()));
    let mut claim = rig.claim_as("a", 4, 9);
    claim.plan = plan_hash(2);
    answer(&rig.send(claim))
}

fn report_as(rig: &mut Rig, from: PeerKey, report: Report) -> Vec<Effect> {
    rig.core.handle(Input::Report { request: RequestId(8), from, report }, rig.now);
    rig.step()
}

fn claim_as(rig: &mut Rig, claim: lunar_common::lease::Claim) -> Answer {
    rig.core.handle(Input::Claim { request: RequestId(7), from: another().key, claim }, rig.now);
    answer(&rig.step())
}
