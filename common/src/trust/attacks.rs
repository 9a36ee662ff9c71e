//! The attacks of DESIGN 4, each refused with an error that names its reason.
//!
//! Owns one test an attack. What needs approvals or delegations is not here: no such document exists yet.

use super::fixture::*;
use super::*;
use crate::bounds::{COUNTER_JUMP_MAX, DOCUMENT_BYTES_MAX, SIGNATURE_BYTES_MAX, SIGNATURES_MAX};
use crate::document::{ContentError, Kind, SignedDocument};
use crate::enrolment::Enrolment;
use crate::ids::CampaignId;
use crate::time::WallTime;

fn campaign() -> CampaignId {
    CampaignId::new("web-2").unwrap()
}

fn refused(state: &mut TrustState, document: &SignedDocument) -> Refusal {
    let before = state.snapshot();
    let refusal = state.accept(document, NOW).unwrap_err();
    assert_eq!(state.snapshot(), before, "a refused document changed something: {refusal}");
    refusal
}

fn machine(state: &TrustState, server: &str, seed: u8) -> Enrolment {
    Enrolment::clone(&state.verify_enrolment(&enrolment(server, seed, 1)).unwrap())
}

// Arbitrary software.

#[test]
fn a_plan_whose_artifact_was_exchanged_after_signing_is_refused() {
    let mut state = state();
    let mut document = plan(1);
    let text = String::from_utf8(document.body.clone()).unwrap();
    document.body = text.replace(&"22".repeat(32), &"33".repeat(32)).into_bytes();

    let refusal = refused(&mut state, &document);

    assert!(refusal.to_string().contains("does not match these bytes"), "{refusal}");
    assert!(matches!(refusal, Refusal::Unsigned(_)));
}

// A stolen key.

#[test]
fn one_stolen_plan_key_is_below_the_threshold() {
    let said = refused(&mut state(), &signed(Kind::Plan, &plan_text(1), &[1])).to_string();
    assert!(said.contains("1 of 2 signatures of distinct keys"), "{said}");
    assert!(said.contains("(ann)") && said.contains("bob, cem may sign"), "{said}");
}

#[test]
fn the_same_key_counts_once_however_often_and_under_however_many_names_it_signs() {
    let said = refused(&mut state(), &signed(Kind::Plan, &plan_text(1), &[1, 1, 1])).to_string();
    assert!(said.contains("1 of 2") && said.contains("ann signed already"), "{said}");

    // hal is ann by another name, and holds the plan role too.
    let mut two_names = state_with(|text| {
        let hal = format!("hal = \"{}\"", public_line(&key(8)));
        let ann = format!("hal = \"{}\"", public_line(&key(1)));
        text.replace(&hal, &ann)
            .replace("name = \"plan\"\nkeys = [\"ann\"", "name = \"plan\"\nkeys = [\"hal\", \"ann\"")
    });
    let said = refused(&mut two_names, &signed(Kind::Plan, &plan_text(1), &[1, 1])).to_string();
    assert!(said.contains("1 of 2"), "{said}");
}

#[test]
fn a_key_of_another_role_or_of_nobody_does_not_count() {
    let said = refused(&mut state(), &signed(Kind::Plan, &plan_text(1), &[1, 4])).to_string();
    assert!(said.contains("dia is in the trust root, but does not hold the plan role"), "{said}");
    let said = refused(&mut state(), &signed(Kind::Plan, &plan_text(1), &[1, 99])).to_string();
    assert!(said.contains("its key (SHA256:") && said.contains("is not in the trust root"), "{said}");
}

#[test]
fn a_plan_that_its_author_did_not_sign_is_refused() {
    let refusal = refused(&mut state(), &signed(Kind::Plan, &plan_text(1), &[2, 3]));
    assert!(matches!(refusal, Refusal::AuthorDidNotSign { .. }), "{refusal}");
}

#[test]
fn one_key_stops_and_the_threshold_resumes() {
    let mut state = state();
    state.accept(&halt("", 1), NOW).unwrap();
    let one = signed(Kind::Resume, std::str::from_utf8(&resume("", 2).body).unwrap(), &[1]);

    assert!(refused(&mut state, &one).to_string().contains("1 of 2"));
    assert!(state.halt_in_force(&campaign()).is_some());

    state.accept(&resume("", 2), NOW).unwrap();
    assert!(state.halt_in_force(&campaign()).is_none());
}

// A forged or skipped trust root.

#[test]
fn a_trust_root_that_the_old_threshold_did_not_sign_is_refused() {
    let mut state = state();
    let forged = root_text(2).replace("\"ann\", \"bob\", \"cem\"", "\"hal\", \"ida\", \"ann\"");

    let by_new_only = refused(&mut state, &signed(Kind::TrustRoot, &forged, &[8, 9, 1]));
    assert!(by_new_only.to_string().contains("1 of 2"), "{by_new_only}");
    assert!(by_new_only.to_string().contains("trust root 1 asks of the root role"), "{by_new_only}");

    let by_nobody = refused(&mut state, &signed(Kind::TrustRoot, &forged, &[77, 78]));
    assert!(matches!(by_nobody, Refusal::Unsigned(_)), "{by_nobody}");
}

#[test]
fn a_trust_root_that_its_own_threshold_did_not_sign_is_refused() {
    let given_away = root_text(2).replace("\"ann\", \"bob\", \"cem\"", "\"hal\", \"ida\"");
    let refusal = refused(&mut state(), &signed(Kind::TrustRoot, &given_away, &[1, 2]));
    assert!(refusal.to_string().contains("trust root 2 asks of the root role"), "{refusal}");
    let own = TrustState::anchored(&signed(Kind::TrustRoot, &given_away, &[8])).unwrap_err();
    assert!(matches!(own, Refusal::Unsigned(_)));
}

#[test]
fn a_skipped_an_older_and_a_second_trust_root_are_refused() {
    let mut state = state();
    let skipped = refused(&mut state, &root(3));
    assert_eq!(skipped, Refusal::SkippedRoot { found: 3, held: 1 });
    state.accept(&root(2), NOW).unwrap();
    state.accept(&root(3), NOW).unwrap();
    let text = |version| root_text(version).replace("eve", "eva");

    let second = refused(&mut state, &signed(Kind::TrustRoot, &text(3), &[1, 2]));
    assert!(matches!(second, Refusal::Conflict { what: Counted::TrustRoot, number: 3, .. }), "{second}");
    let older = refused(&mut state, &signed(Kind::TrustRoot, &text(2), &[1, 2]));
    assert!(matches!(older, Refusal::Replayed { found: 2, highest: 3, .. }), "{older}");
    assert!(matches!(state.accept(&root(1), NOW), Ok(Accepted::Known)));
}

// Rollback to an old plan.

#[test]
fn an_older_generation_of_a_plan_is_refused_for_ever() {
    let mut state = state();
    state.accept(&plan(1), NOW).unwrap();
    state.accept(&plan(2), NOW).unwrap();

    let refusal = refused(&mut state, &plan(1));

    assert!(matches!(refusal, Refusal::Replayed { found: 1, highest: 2, .. }), "{refusal}");
    let mut restarted = TrustState::restore(state.snapshot()).unwrap();
    assert_eq!(refused(&mut restarted, &plan(1)), refusal);
}

#[test]
fn a_second_plan_of_the_same_generation_is_refused() {
    let mut state = state();
    state.accept(&plan(1), NOW).unwrap();
    let other = plan_text(1).replace("soak_s = 60", "soak_s = 61");
    let refusal = refused(&mut state, &signed(Kind::Plan, &other, &[1, 2]));
    assert!(matches!(refusal, Refusal::Conflict { number: 1, .. }), "{refusal}");
}

// Freeze.

#[test]
fn past_its_expiry_a_plan_starts_nothing_but_is_still_held() {
    let mut state = state();
    state.accept(&plan(1), NOW).unwrap();
    let machine = machine(&state, "srv-1", 50);

    assert_eq!(state.may_start(&campaign(), &machine, at(24 * HOUR)), Ok(()));
    let refused = state.may_start(&campaign(), &machine, at(24 * HOUR + 1));

    assert_eq!(refused, Err(StartRefusal::PlanExpired { expired: at(24 * HOUR) }));
    assert!(state.plan(&campaign()).is_some());
    assert!(matches!(state.accept(&plan(1), at(25 * HOUR)), Ok(Accepted::Known)));
}

#[test]
fn a_clock_that_is_set_back_does_not_make_an_expired_plan_fresh() {
    let mut state = state();
    state.accept(&plan(1), NOW).unwrap();
    let machine = machine(&state, "srv-1", 50);
    let later = plan_text(1)
        .replace("web-2", "web-3")
        .replace(&format!("issued = \"{}\"", at(0)), &format!("issued = \"{}\"", at(30 * HOUR)))
        .replace(&format!("expires = \"{}\"", at(24 * HOUR)), &format!("expires = \"{}\"", at(40 * HOUR)));
    state.accept(&signed(Kind::Plan, &later, &[1, 2]), at(30 * HOUR)).unwrap();

    let set_back = WallTime(0);

    assert_eq!(state.trusted_time(set_back), at(30 * HOUR));
    assert!(matches!(
        state.may_start(&campaign(), &machine, set_back),
        Err(StartRefusal::PlanExpired { .. })
    ));
    let restarted = TrustState::restore(state.snapshot()).unwrap();
    assert_eq!(restarted.trusted_time(set_back), at(30 * HOUR));
}

#[test]
fn a_resume_that_was_kept_back_ends_no_later_halt() {
    let mut state = state();
    state.accept(&halt("", 1), NOW).unwrap();

    let late = state.accept(&resume("", 2), at(HOUR + 1)).unwrap_err();
    assert_eq!(late, Refusal::ResumeExpired { expired: at(HOUR), now: at(HOUR + 1) });

    state.accept(&halt("", 3), at(HOUR + 1)).unwrap();
    assert!(matches!(state.accept(&resume("", 2), NOW), Err(Refusal::Replayed { found: 2, highest: 3, .. })));
    assert!(state.halt_in_force(&campaign()).is_some());
}

// Fast-forward.

#[test]
fn a_counter_does_not_jump_to_its_end() {
    let mut state = state();
    for document in
        [plan(u64::MAX), plan(COUNTER_JUMP_MAX + 1), halt("", u64::MAX), enrolment("a", 50, u64::MAX)]
    {
        let refusal = refused(&mut state, &document);
        assert!(
            matches!(refusal, Refusal::Jumped { highest: 0, .. }) || matches!(refusal, Refusal::Content(_)),
            "{refusal}"
        );
    }
    state.accept(&plan(COUNTER_JUMP_MAX), NOW).unwrap();
}

#[test]
fn a_rotation_that_casts_out_the_thieves_resets_the_counters_they_ran_up() {
    let mut state = state();
    state.accept(&plan(9_000), NOW).unwrap();
    state.accept(&halt("web-2", 9_000), NOW).unwrap();
    let machine = machine(&state, "srv-1", 50);
    // ann, bob and dia are out; cem, hal and ida come in.
    let clean = root_text(2)
        .replace(
            "name = \"plan\"\nkeys = [\"ann\", \"bob\", \"cem\"]",
            "name = \"plan\"\nkeys = [\"cem\", \"hal\"]",
        )
        .replace("name = \"halt\"\nkeys = [\"ann\", \"dia\"]", "name = \"halt\"\nkeys = [\"ida\"]")
        .replace(
            "name = \"resume\"\nkeys = [\"ann\", \"bob\"]",
            "name = \"resume\"\nkeys = [\"cem\", \"hal\"]",
        );
    state.accept(&signed(Kind::TrustRoot, &clean, &[1, 2]), NOW).unwrap();
    let mut state = TrustState::restore(state.snapshot()).unwrap();

    assert!(state.halt_in_force(&campaign()).is_some(), "a rotation ends no halt");
    assert!(state.plan(&campaign()).is_some(), "what is under way can finish");
    let ours = plan_text(1).replace("author = \"ann\"", "author = \"cem\"");
    state.accept(&signed(Kind::Plan, &ours, &[3, 8]), NOW).unwrap();
    let text = String::from_utf8(resume("web-2", 1).body).unwrap();
    state.accept(&signed(Kind::Resume, &text, &[3, 8]), NOW).unwrap();

    assert_eq!(state.may_start(&campaign(), &machine, NOW), Ok(()));
}

#[test]
fn a_plan_of_signers_that_were_cast_out_starts_nothing() {
    let mut state = state();
    state.accept(&plan(1), NOW).unwrap();
    let machine = machine(&state, "srv-1", 50);
    let clean = root_text(2).replace(
        "name = \"plan\"\nkeys = [\"ann\", \"bob\", \"cem\"]",
        "name = \"plan\"\nkeys = [\"cem\", \"hal\"]",
    );
    state.accept(&signed(Kind::TrustRoot, &clean, &[1, 2]), NOW).unwrap();

    for state in [state.clone(), TrustState::restore(state.snapshot()).unwrap()] {
        assert_eq!(state.may_start(&campaign(), &machine, NOW), Err(StartRefusal::Withdrawn));
        assert!(state.plan(&campaign()).is_some());
    }
}

// Wrong target.

#[test]
fn a_document_for_another_fleet_is_refused() {
    for (kind, document, keys) in [
        (Kind::Plan, plan(1), vec![1, 2]),
        (Kind::Halt, halt("", 1), vec![4]),
        (Kind::Resume, resume("", 1), vec![1, 2]),
        (Kind::Enrolment, enrolment("srv-1", 50, 1), vec![5]),
        (Kind::Revocation, revocation(&[50], 1), vec![6]),
        (Kind::Reap, reap("srv-1", 1), vec![7]),
        (Kind::TrustRoot, root(2), vec![1, 2]),
    ] {
        let text = String::from_utf8(document.body).unwrap().replace("fleet = \"moon\"", "fleet = \"mars\"");
        let refusal = refused(&mut state(), &signed(kind, &text, &keys));
        assert!(matches!(refusal, Refusal::OtherFleet { .. }), "{kind}: {refusal}");
    }
}

#[test]
fn a_plan_starts_only_the_servers_it_selects() {
    let mut state = state();
    state.accept(&plan(1), NOW).unwrap();
    let mut machine = machine(&state, "srv-1", 50);
    machine.tier = crate::limits::Tier::One;
    assert_eq!(state.may_start(&campaign(), &machine, NOW), Err(StartRefusal::NotSelected));
    let other = CampaignId::new("other").unwrap();
    assert_eq!(state.may_start(&other, &machine, NOW), Err(StartRefusal::UnknownCampaign));
}

// Replayed halts, resumes, reaps, enrolments, revocations.

#[test]
fn replayed_documents_of_every_counted_kind_are_refused() {
    let mut state = state();
    for (old, new) in [
        (halt("web-2", 1), halt("web-2", 2)),
        (resume("web-2", 3), resume("web-2", 4)),
        (enrolment("srv-1", 50, 1), enrolment("srv-1", 51, 2)),
        (revocation(&[50], 1), revocation(&[], 2)),
        (reap("srv-1", 1), reap("srv-1", 2)),
    ] {
        state.accept(&old, NOW).unwrap();
        state.accept(&new, NOW).unwrap();
        let refusal = refused(&mut state, &old);
        assert!(matches!(refusal, Refusal::Replayed { .. }), "{}: {refusal}", old.kind);
        assert!(!refusal.blames_sender(), "a peer that is behind is no enemy");
        assert!(matches!(state.accept(&new, NOW), Ok(Accepted::Known)));
    }
    let refusal = state.accept(&halt("web-2", 3), NOW).unwrap_err();
    assert!(matches!(refusal, Refusal::Replayed { found: 3, highest: 4, .. }), "{refusal}");
}

// The wrong kind of document.

#[test]
fn a_signature_made_for_another_kind_of_document_does_not_count() {
    let mut document = plan(1);
    document.kind = Kind::Halt;
    let said = refused(&mut state(), &document).to_string();
    assert!(
        said.contains(
            "it was made in the namespace \"plan@lunar-upgrade\"; sign with `-n halt@lunar-upgrade`"
        ),
        "{said}"
    );

    let mut file = plan(1);
    file.signatures = vec![
        key(1)
            .sign("file", ssh_key::HashAlg::Sha512, &file.body)
            .unwrap()
            .to_pem(ssh_key::LineEnding::LF)
            .unwrap(),
    ];
    assert!(refused(&mut state(), &file).to_string().contains("namespace \"file\""));
}

// A signature without a touch.

fn hardware_state(role: &str) -> TrustState {
    state_with(|text| {
        text.replace(
            &format!("hal = \"{}\"", public_line(&key(8))),
            &format!("hal = \"{}\"", hardware_line(8)),
        )
        .replace(&format!("name = \"{role}\"\nkeys = ["), &format!("name = \"{role}\"\nkeys = [\"hal\", "))
    })
}

#[test]
fn a_hardware_key_must_have_been_touched_and_for_tier_1_must_know_its_user() {
    let mut document = plan(1);
    let signature = |flags| hardware_signature(Kind::Plan, &plan(1).body, 8, flags);
    let ann = armoured(Kind::Plan, &document.body, &key(1));

    document.signatures = vec![ann.clone(), signature(0)];
    let said = refused(&mut hardware_state("plan"), &document).to_string();
    assert!(said.contains("hal's hardware key signed without a touch"), "{said}");
    document.signatures = vec![ann.clone(), signature(4)];
    assert!(refused(&mut hardware_state("plan"), &document).to_string().contains("without a touch"));

    document.signatures = vec![ann.clone(), signature(1)];
    let said = refused(&mut hardware_state("plan"), &document).to_string();
    assert!(said.contains("hal's hardware key signed without checking its user"), "{said}");

    document.signatures = vec![ann, signature(5)];
    hardware_state("plan").accept(&document, NOW).unwrap();
}

#[test]
fn a_touch_is_enough_to_halt_and_flags_cannot_be_added_afterwards() {
    let mut document = halt("", 1);
    document.signatures = vec![hardware_signature(Kind::Halt, &document.body, 8, 1)];
    hardware_state("halt").accept(&document, NOW).unwrap();

    // The flags are under the signature: setting one later breaks it.
    let untouched = hardware_signature(Kind::Halt, &document.body, 8, 0);
    let parsed = ssh_key::SshSig::from_pem(&untouched).unwrap();
    let mut bytes = parsed.signature_bytes().to_vec();
    let at = bytes.len() - 5;
    bytes[at] = 1;
    let bent = ssh_key::Signature::new(ssh_key::Algorithm::SkEd25519, bytes).unwrap();
    let bent = ssh_key::SshSig::new(parsed.public_key().clone(), parsed.namespace(), parsed.hash_alg(), bent);
    document.signatures = vec![bent.unwrap().to_pem(ssh_key::LineEnding::LF).unwrap()];
    let said = refused(&mut hardware_state("halt"), &document).to_string();
    assert!(said.contains("does not match these bytes"), "{said}");
}

// Endless data.

#[test]
fn oversized_bodies_and_signatures_are_refused_before_anything_is_parsed() {
    let mut document = plan(1);
    document.body = vec![b'#'; DOCUMENT_BYTES_MAX + 1];
    assert!(matches!(refused(&mut state(), &document), Refusal::TooLong { length: 1_048_577, .. }));

    let mut document = plan(1);
    document.signatures = vec![String::new(); SIGNATURES_MAX + 1];
    assert!(matches!(refused(&mut state(), &document), Refusal::TooManySignatures { count: 33, .. }));

    let mut document = plan(1);
    document.signatures[1] = "x".repeat(SIGNATURE_BYTES_MAX + 1);
    let said = refused(&mut state(), &document).to_string();
    assert!(said.contains("signature 2: it has 4097 bytes"), "{said}");
    assert!(refused(&mut state(), &document).to_string().contains("1 of 2"));
}

#[test]
fn junk_beside_good_signatures_neither_harms_nor_travels_on() {
    let mut document = plan(1);
    document.signatures.insert(0, "not a signature".into());
    document.signatures.push(armoured(Kind::Plan, b"other", &key(3)));
    let mut state = state();

    state.accept(&document, NOW).unwrap();

    assert_eq!(state.plan(&campaign()).unwrap().document().signatures.len(), 2);
}

// Scope, validity, membership.

#[test]
fn signers_for_some_tiers_and_sites_cannot_reach_further() {
    let narrow = |tiers: &str| {
        state_with(|text| {
            text.replace(
                "threshold = 2\n\n[[role]]\nname = \"halt\"",
                &format!("threshold = 2\n{tiers}\n[[role]]\nname = \"halt\""),
            )
        })
    };
    narrow("tiers = [2, 3]\nsites = [\"base\"]\n").accept(&plan(1), NOW).unwrap();
    let refusal = refused(&mut narrow("tiers = [3]\n"), &plan(1));
    assert_eq!(refusal, Refusal::OutOfScope { kind: Kind::Plan, role: RoleName::Plan });
    let everywhere = plan_text(1).replace("sites = [\"base\"]\n", "");
    let refusal = refused(&mut narrow("sites = [\"base\"]\n"), &signed(Kind::Plan, &everywhere, &[1, 2]));
    assert!(matches!(refusal, Refusal::OutOfScope { .. }), "{refusal}");

    let mut enroller = state_with(|text| {
        text.replace("keys = [\"eve\"]\nthreshold = 1\n", "keys = [\"eve\"]\nthreshold = 1\ntiers = [3]\n")
    });
    let refusal = refused(&mut enroller, &enrolment("srv-1", 50, 1));
    assert!(matches!(refusal, Refusal::OutOfScope { kind: Kind::Enrolment, .. }), "{refusal}");
    let mut reaper = state_with(|text| {
        text.replace(
            "keys = [\"gus\"]\nthreshold = 1\n",
            "keys = [\"gus\"]\nthreshold = 1\nsites = [\"far\"]\n",
        )
    });
    assert!(matches!(refused(&mut reaper, &reap("srv-1", 1)), Refusal::UnknownServer { .. }));
    reaper.accept(&enrolment("srv-1", 50, 1), NOW).unwrap();
    assert!(matches!(refused(&mut reaper, &reap("srv-1", 1)), Refusal::OutOfScope { .. }));
}

#[test]
fn a_role_that_ended_signs_nothing_newer_and_starts_nothing_more() {
    let until = format!("threshold = 2\nvalid_until = \"{}\"\n\n[[role]]\nname = \"halt\"", at(HOUR));
    let mut state = state_with(|text| text.replace("threshold = 2\n\n[[role]]\nname = \"halt\"", &until));
    state.accept(&plan(1), NOW).unwrap();
    let machine = machine(&state, "srv-1", 50);
    assert_eq!(state.may_start(&campaign(), &machine, at(HOUR)), Ok(()));
    let refused_start = state.may_start(&campaign(), &machine, at(HOUR + 1));
    assert!(
        matches!(refused_start, Err(StartRefusal::OutOfReach { until: Some(_), .. })),
        "{refused_start:?}"
    );

    let later =
        plan_text(2).replace(&format!("issued = \"{}\"", at(0)), &format!("issued = \"{}\"", at(HOUR + 1)));
    let refusal = refused(&mut state, &signed(Kind::Plan, &later, &[1, 2]));
    assert!(matches!(refusal, Refusal::OutOfValidity { .. }), "{refusal}");
}

#[test]
fn a_revoked_machine_is_no_member_and_cannot_come_back_with_the_same_key() {
    let mut state = state();
    state.accept(&enrolment("srv-1", 50, 1), NOW).unwrap();
    state.accept(&plan(1), NOW).unwrap();
    let machine = machine(&state, "srv-1", 50);

    state.accept(&revocation(&[50], 1), NOW).unwrap();

    assert!(state.machine(&machine.key).is_none() && state.machine_named(&machine.server).is_none());
    assert_eq!(state.machines().count(), 0);
    assert_eq!(state.may_start(&campaign(), &machine, NOW), Err(StartRefusal::Revoked));
    assert!(matches!(state.verify_enrolment(&enrolment("srv-1", 50, 1)), Err(Refusal::Revoked { .. })));
    assert!(matches!(refused(&mut state, &enrolment("srv-1", 50, 2)), Refusal::Revoked { .. }));
    state.accept(&enrolment("srv-1", 51, 2), NOW).unwrap();
    assert_eq!(state.machines().count(), 1);
}

#[test]
fn one_key_is_one_server() {
    let mut state = state();
    state.accept(&enrolment("srv-1", 50, 1), NOW).unwrap();
    let refusal = refused(&mut state, &enrolment("srv-2", 50, 1));
    assert!(matches!(refusal, Refusal::KeyTaken { .. }), "{refusal}");
    assert!(matches!(state.verify_enrolment(&enrolment("srv-2", 50, 1)), Err(Refusal::KeyTaken { .. })));

    state.accept(&enrolment("srv-1", 51, 2), NOW).unwrap();
    assert!(matches!(state.verify_enrolment(&enrolment("srv-1", 50, 1)), Err(Refusal::Replayed { .. })));
    state.accept(&enrolment("srv-2", 50, 1), NOW).unwrap();
}

#[test]
fn a_signed_plan_that_is_impossible_is_refused_with_its_problems() {
    let text = plan_text(1).replace("soak_s = 60", "soak_s = 0");
    let refusal = refused(&mut state(), &signed(Kind::Plan, &text, &[1, 2]));
    assert!(matches!(&refusal, Refusal::Content(ContentError::Problems { .. })), "{refusal}");
    assert!(refusal.to_string().contains("health.soak_s"), "{refusal}");
}
