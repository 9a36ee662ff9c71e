//! What the gate does besides refusing: time, ties, hand-over, restarts.
//!
//! Owns the tests of the rules that are no attacks.

use super::fixture::*;
use super::*;
use crate::bounds::{DOCUMENTS_PER_SYNC_MAX, MESSAGE_BYTES_MAX};
use crate::document::{Kind, SignedDocument};
use crate::ids::{CampaignId, ServerId};
use crate::message::Response;
use crate::time::WallTime;
use crate::wire;

fn campaign() -> CampaignId {
    CampaignId::new("web-2").unwrap()
}

/// One document of every kind.
fn everything() -> TrustState {
    let mut state = state();
    for document in [
        root(2),
        root(3),
        enrolment("srv-1", 50, 1),
        enrolment("srv-2", 51, 1),
        revocation(&[51], 1),
        plan(1),
        halt("", 1),
        resume("", 2),
        halt("web-2", 1),
        resume_of_pause("web-2", 1, 7),
        reap("srv-1", 1),
    ] {
        state.accept(&document, NOW).unwrap();
    }
    state
}

#[test]
fn a_restart_forgets_nothing_and_checks_everything_again() {
    let state = everything();
    let bytes = wire::encode(&state.snapshot(), 1 << 20).unwrap();

    let restored = TrustState::restore(wire::decode(&bytes, 1 << 20).unwrap()).unwrap();

    assert_eq!(restored.snapshot(), state.snapshot());
    assert_eq!(restored.root().version, 3);
    assert_eq!(restored.halts().count(), 1);
    assert_eq!(restored.machines().count(), 1);
    assert!(restored.plan(&campaign()).is_some());
    assert_eq!(restored.next_number(&Counted::Reap(ServerId::new("srv-1").unwrap())), 2);
}

#[test]
fn a_snapshot_with_one_bent_byte_in_any_document_is_refused() {
    let whole = wire::encode(&everything().snapshot(), 1 << 20).unwrap();
    // Every document's body holds the fleet's name once; another one was signed by nobody.
    let places: Vec<usize> =
        whole.windows(4).enumerate().filter(|(_, window)| window == b"moon").map(|(at, _)| at).collect();
    assert!(places.len() >= 10, "{}", places.len());
    for at in places {
        let mut bent = whole.clone();
        bent[at] = b'n';
        let refusal = TrustState::restore(wire::decode(&bent, 1 << 20).unwrap()).unwrap_err();
        assert!(matches!(refusal, Refusal::Unsigned(_)), "{refusal}");
    }
}

#[test]
fn an_empty_snapshot_is_no_trust() {
    let snapshot = state().snapshot();
    let mut bytes = wire::encode(&snapshot, 1 << 20).unwrap();
    bytes.truncate(1);
    bytes.extend_from_slice(&[0; 5]);
    let refused = wire::decode(&bytes, 1 << 20).map(TrustState::restore);
    assert!(matches!(refused, Ok(Err(Refusal::Content(_))) | Err(_)));
}

#[test]
fn one_that_is_behind_catches_up_by_asking_until_nothing_is_missing() {
    let ahead = everything();
    let mut behind = state();
    let mut rounds = 0;
    loop {
        let have: Vec<_> = behind.documents().iter().map(|document| document.hash()).collect();
        let missing = ahead.missing_from(&have);
        if missing.is_empty() {
            break;
        }
        assert!(missing.len() <= DOCUMENTS_PER_SYNC_MAX);
        wire::encode(&Response::Documents(missing.clone()), MESSAGE_BYTES_MAX).unwrap();
        for document in missing {
            behind.accept(&document, NOW).unwrap();
        }
        rounds += 1;
        assert!(rounds < 10, "it never ends");
    }
    let hashes = |state: &TrustState| state.documents().iter().map(|d| d.hash()).collect::<Vec<_>>();
    assert_eq!(hashes(&behind), hashes(&ahead));
    assert_eq!(behind.root().version, 3);
}

#[test]
fn an_answer_to_one_that_is_behind_fits_into_a_message_however_large_the_documents() {
    let mut state = state();
    for number in 1..=4 {
        let text = plan_text(1).replace("web-2", &format!("web-{number}"));
        let padded = format!("{text}\n# {}\n", "x".repeat(700_000));
        state.accept(&signed(Kind::Plan, &padded, &[1, 2]), NOW).unwrap();
    }
    let mut have = vec![state.root().hash()];
    for _ in 0..4 {
        let missing = state.missing_from(&have);
        assert_eq!(missing.len(), 1);
        have.push(missing[0].hash());
        wire::encode(&Response::Documents(missing), MESSAGE_BYTES_MAX).unwrap();
    }
    assert_eq!(state.missing_from(&have), []);
}

#[test]
fn a_document_from_a_wrong_clock_moves_trusted_time_by_a_day_at_most() {
    let mut state = state();
    let text = plan_text(1)
        .replace(&format!("issued = \"{}\"", at(0)), "issued = \"2099-01-01T00:00:00Z\"")
        .replace(&format!("expires = \"{}\"", at(24 * HOUR)), "expires = \"2099-02-01T00:00:00Z\"");

    state.accept(&signed(Kind::Plan, &text, &[1, 2]), NOW).unwrap();

    assert_eq!(state.trusted_time(NOW), at(24 * HOUR));
    assert_eq!(state.trusted_time(at(30 * HOUR)), at(30 * HOUR), "the wall still counts");
}

#[test]
fn a_clock_that_is_behind_by_decades_is_no_error() {
    let mut state = state();
    state.accept(&plan(1), WallTime(0)).unwrap();
    let machine = state.verify_enrolment(&enrolment("srv-1", 50, 1)).unwrap();
    assert_eq!(state.may_start(&campaign(), &machine, WallTime(0)), Ok(()));
}

#[test]
fn an_expired_trust_root_and_an_expired_enrolment_stop_starts_and_nothing_else() {
    let mut state = state();
    let long = plan_text(1)
        .replace(&format!("expires = \"{}\"", at(24 * HOUR)), "expires = \"2099-01-01T00:00:00Z\"");
    state.accept(&signed(Kind::Plan, &long, &[1, 2]), NOW).unwrap();
    let text = format!("expires = \"{}\"\n{}", at(HOUR), enrolment_text("srv-1", 50, 1));
    let machine = signed(Kind::Enrolment, &text, &[5]);
    state.accept(&machine, NOW).unwrap();
    let years = at(24 * 365 * HOUR + 1);

    let expired = state.may_start(&campaign(), &state.verify_enrolment(&machine).unwrap(), at(HOUR + 1));
    assert!(matches!(expired, Err(StartRefusal::EnrolmentExpired { .. })), "{expired:?}");
    let forever = state.verify_enrolment(&enrolment("srv-2", 51, 1)).unwrap();
    let expired = state.may_start(&campaign(), &forever, years);
    assert!(matches!(expired, Err(StartRefusal::RootExpired { .. })), "{expired:?}");
    state.accept(&halt("", 1), years).unwrap();
    state.accept(&root(2), years).unwrap();
    assert_eq!(state.machines().count(), 1);
}

#[test]
fn halts_of_the_fleet_and_of_a_campaign_are_ended_apart() {
    let mut state = state();
    state.accept(&plan(1), NOW).unwrap();
    state.accept(&halt("", 1), NOW).unwrap();
    state.accept(&halt("web-2", 1), NOW).unwrap();
    let machine = state.verify_enrolment(&enrolment("srv-1", 50, 1)).unwrap();
    let halted = |state: &TrustState| {
        matches!(state.may_start(&campaign(), &machine, NOW), Err(StartRefusal::Halted { .. }))
    };

    assert!(halted(&state));
    state.accept(&resume("", 2), NOW).unwrap();
    assert!(halted(&state), "the campaign's own halt is still there");
    assert!(state.halt_in_force(&CampaignId::new("other").unwrap()).is_none());
    state.accept(&resume("web-2", 2), NOW).unwrap();
    assert!(!halted(&state));
}

#[test]
fn in_whatever_order_a_halt_and_a_resume_of_one_number_arrive_the_fleet_is_halted() {
    let mut halt_first = state();
    halt_first.accept(&halt("", 2), NOW).unwrap();
    assert!(matches!(halt_first.accept(&resume("", 2), NOW), Err(Refusal::Conflict { number: 2, .. })));
    let mut resume_first = state();
    resume_first.accept(&resume("", 2), NOW).unwrap();
    resume_first.accept(&halt("", 2), NOW).unwrap();

    for state in [halt_first, resume_first] {
        assert!(state.halt_in_force(&campaign()).is_some());
        assert!(TrustState::restore(state.snapshot()).unwrap().halt_in_force(&campaign()).is_some());
    }
}

#[test]
fn every_order_of_the_same_halts_and_resumes_ends_in_the_same_state() {
    let documents = [halt("", 1), resume("", 2), halt("", 3), resume("", 4)];
    let mut order = [0usize, 1, 2, 3];
    // Heap's algorithm, by hand: 24 orders.
    let mut counters = [0usize; 4];
    let mut step = 1;
    let check = |order: &[usize; 4]| {
        let mut state = state();
        for index in order {
            let _ = state.accept(&documents[*index], NOW);
        }
        assert!(state.halt_in_force(&campaign()).is_none(), "{order:?}");
        assert_eq!(state.next_number(&Counted::Stop(None)), 5);
    };
    check(&order);
    while step < 4 {
        if counters[step] < step {
            order.swap(if step % 2 == 0 { 0 } else { counters[step] }, step);
            check(&order);
            counters[step] += 1;
            step = 1;
        } else {
            counters[step] = 0;
            step += 1;
        }
    }
}

#[test]
fn a_resume_of_pauses_ends_no_halt_and_overtakes_none() {
    let mut state = state();
    state.accept(&halt("web-2", 1), NOW).unwrap();
    assert!(matches!(state.accept(&resume_of_pause("web-2", 9, 7), NOW), Ok(Accepted::Resume(_))));
    assert!(state.halt_in_force(&campaign()).is_some());
    // A halt that was on its way meanwhile has a lower number, and counts.
    state.accept(&resume("web-2", 2), NOW).unwrap();
    state.accept(&halt("web-2", 3), NOW).unwrap();
    assert!(state.halt_in_force(&campaign()).is_some());
    assert_eq!(state.next_number(&Counted::Stop(Some(campaign()))), 4);
    assert_eq!(state.next_number(&Counted::Pauses(campaign())), 10);
}

#[test]
fn a_resume_of_pauses_is_taken_once_in_its_time_and_outlives_a_restart() {
    let mut state = state();
    let document = resume_of_pause("web-2", 2, 7);
    assert!(matches!(state.accept(&document, at(HOUR + 1)), Err(Refusal::ResumeExpired { .. })));
    let one = signed(Kind::Resume, std::str::from_utf8(&document.body).unwrap(), &[1]);
    assert!(matches!(state.accept(&one, NOW), Err(Refusal::Unsigned(_))));
    assert!(matches!(state.accept(&document, NOW), Ok(Accepted::Resume(_))));
    assert!(matches!(state.accept(&document, NOW), Ok(Accepted::Known)));
    let restored = TrustState::restore(state.snapshot()).unwrap();
    assert_eq!(restored.snapshot(), state.snapshot());
    assert_eq!(restored.documents().len(), state.documents().len());
    let older = resume_of_pause("web-2", 1, 8);
    assert!(matches!(state.accept(&older, NOW), Err(Refusal::Replayed { .. })));
}

#[test]
fn pauses_of_no_campaign_are_refused() {
    let refused = state().accept(&resume_of_pause("", 1, 7), NOW).unwrap_err().to_string();
    assert!(refused.contains("name the campaign whose pauses these are"), "{refused}");
}

#[test]
fn a_rotation_that_casts_an_enroller_out_drops_its_machines() {
    let mut state = state();
    state.accept(&enrolment("srv-1", 50, 1), NOW).unwrap();
    let text = root_text(2).replace("keys = [\"eve\"]", "keys = [\"ida\"]");
    state.accept(&signed(Kind::TrustRoot, &text, &[1, 2]), NOW).unwrap();

    assert_eq!(state.machines().count(), 0);
    assert!(state.verify_enrolment(&enrolment("srv-1", 50, 1)).is_err());
    let again = signed(Kind::Enrolment, &enrolment_text("srv-1", 50, 1), &[9]);
    state.accept(&again, NOW).unwrap();
    assert_eq!(TrustState::restore(state.snapshot()).unwrap().machines().count(), 1);
}

#[test]
fn the_status_of_signatures_says_who_is_missing() {
    let state = state();
    let status = state.signature_status(&signed(Kind::Plan, &plan_text(1), &[2, 4]));
    assert!(!status.complete);
    assert_eq!((status.have.len(), status.need), (1, 2));
    let could: Vec<&str> = status.could.iter().map(|name| name.as_str()).collect();
    assert_eq!(could, ["ann", "cem"]);
    assert_eq!(status.defects.len(), 1, "dia holds no plan role");
    assert!(state.signature_status(&plan(1)).complete);
    assert_eq!(state.signing_requirements(Kind::Plan).count(), 1);
}

#[test]
fn a_trust_root_that_could_lock_its_owners_out_is_refused() {
    let cases: [(&str, &str, &str); 8] = [
        (
            "threshold = 2\n\n[[role]]\nname = \"plan\"",
            "threshold = 4\n\n[[role]]\nname = \"plan\"",
            "4 can never be met by 3 distinct keys",
        ),
        ("name = \"root\"", "name = \"reap\"", "exactly one entry named root"),
        (
            "name = \"halt\"\nkeys = [\"ann\", \"dia\"]\nthreshold = 1",
            "name = \"halt\"\nkeys = [\"ann\", \"dia\"]\nthreshold = 2",
            "a halt needs one key",
        ),
        ("threshold = 1\n", "threshold = 0\n", "0 would let anyone sign"),
        ("keys = [\"gus\"]", "keys = [\"guz\"]", "guz is not in [keys]"),
        (
            "name = \"root\"\n",
            "name = \"root\"\nvalid_until = 2030-01-01T00:00:00Z\n",
            "expected a time in quotes",
        ),
        (
            "name = \"root\"\n",
            "name = \"root\"\nvalid_until = \"2030-01-01T00:00:00Z\"\n",
            "the root role must not end",
        ),
        ("name = \"halt\"\n", "name = \"halt\"\ntiers = [3]\n", "acts on the whole fleet"),
    ];
    for (from, to, wanted) in cases {
        let text = root_text(1).replacen(from, to, if wanted.contains("0 would") { 9 } else { 1 });
        let said = TrustState::anchored(&signed(Kind::TrustRoot, &text, &[1, 2])).unwrap_err().to_string();
        assert!(said.contains(wanted), "wanted {wanted:?}, got {said}");
    }
}

#[test]
fn keys_that_prove_nothing_are_refused() {
    for line in [
        "ssh-rsa AAAA",
        "",
        "nonsense",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA weak",
    ] {
        let text = root_text(1)
            .replace(&format!("ida = \"{}\"", public_line(&key(9))), &format!("ida = \"{line}\""));
        let said = TrustState::anchored(&signed(Kind::TrustRoot, &text, &[1, 2])).unwrap_err().to_string();
        assert!(said.contains("keys.ida"), "{said}");
    }
}

#[test]
fn an_unsigned_document_of_every_kind_is_refused() {
    for kind in Kind::ALL {
        let document = SignedDocument { kind, body: b"format = 1".to_vec(), signatures: Vec::new() };
        assert!(matches!(state().accept(&document, NOW), Err(Refusal::Unsigned(_))), "{kind}");
    }
}
