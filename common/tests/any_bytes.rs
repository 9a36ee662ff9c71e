//! Arbitrary bytes at every door: whatever a stranger sends is refused or understood, and never a crash.
//!
//! Owns the property tests that stand in for the fuzz targets (`fuzz/`) where no fuzzer is at hand: the same
//! entry points, fewer tries, every run. Besides pure noise they bend documents and messages that are right.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::collections::BTreeSet;

use ed25519_dalek::SigningKey;
use lunar_common::document::{Document, Halt, Kind, Reap, Resume, SignedDocument};
use lunar_common::enrolment::{Enrolment, Revocation};
use lunar_common::ids::{ArtifactId, DocumentHash, PeerKey, ServerId};
use lunar_common::lease::{Claim, Grant, GroupAnswer, Release};
use lunar_common::manifest::{Chunk, Content, Manifest};
use lunar_common::message::{Gossip, Report, Request, Response};
use lunar_common::plan::Plan;
use lunar_common::time::WallTime;
use lunar_common::trust::{TrustRoot, TrustSnapshot, TrustState, claimed_kind};
use lunar_common::wire::{self, Signed};
use proptest::prelude::*;
use ssh_key::private::Ed25519Keypair;
use ssh_key::{HashAlg, LineEnding, PrivateKey};

const BOUND: usize = 1 << 20;

fn operator() -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[7; 32]))
}

fn sign(kind: Kind, body: &[u8]) -> SignedDocument {
    let signature = operator().sign(kind.namespace(), HashAlg::Sha256, body).unwrap();
    SignedDocument { kind, body: body.to_vec(), signatures: vec![signature.to_pem(LineEnding::LF).unwrap()] }
}

/// A trust root in which one key may sign everything.
fn trust() -> TrustState {
    let mut text = String::from(
        "format = 1\nfleet = \"moon\"\nversion = 1\nissued = \"2026-11-21T08:00:00Z\"\n\
         expires = \"2036-11-21T08:00:00Z\"\n[keys]\n",
    );
    text += &format!("ann = \"{}\"\n", operator().public_key().to_openssh().unwrap());
    for role in ["root", "plan", "halt", "resume", "enroll", "revoke", "reap"] {
        text += &format!("[[role]]\nname = \"{role}\"\nkeys = [\"ann\"]\nthreshold = 1\n");
    }
    TrustState::anchored(&sign(Kind::TrustRoot, text.as_bytes())).unwrap()
}

const HALT: &str = "format = 1\nfleet = \"moon\"\ncampaign = \"web\"\nsequence = 1\nissued = \"2026-11-21T08:00:00Z\"\nreason = \"x\"\n";

fn decode_everything(bytes: &[u8]) {
    let _ = wire::decode::<Request>(bytes, BOUND);
    let _ = wire::decode::<Response>(bytes, BOUND);
    let _ = wire::decode::<Gossip>(bytes, BOUND);
    let _ = wire::decode::<TrustSnapshot>(bytes, BOUND).map(TrustState::restore);
    let _ = wire::decode::<Manifest>(bytes, BOUND);
    let _ = Manifest::decode(bytes, Manifest::id_of(bytes));
    let _ = wire::decode::<Claim>(bytes, BOUND);
    let _ = wire::decode::<Grant>(bytes, BOUND);
    let _ = wire::decode::<Release>(bytes, BOUND);
    let _ = wire::decode::<Report>(bytes, BOUND);
    let _ = wire::decode::<GroupAnswer>(bytes, BOUND);
    if let Ok(signed) = wire::decode::<Signed>(bytes, BOUND) {
        let _ = signed.open::<Claim>();
    }
    let _ = TrustRoot::parse(bytes);
    let _ = Enrolment::parse(bytes);
    let _ = Revocation::parse(bytes);
    let _ = Plan::parse(bytes);
    let _ = Halt::parse(bytes);
    let _ = Resume::parse(bytes);
    let _ = Reap::parse(bytes);
    let text = String::from_utf8_lossy(bytes);
    let _ = claimed_kind(&text);
    let _ = claimed_kind(&format!("-----BEGIN SSH SIGNATURE-----\n{text}\n-----END SSH SIGNATURE-----\n"));
}

/// Something right, encoded: what is bent below.
fn samples() -> Vec<Vec<u8>> {
    let key = SigningKey::from_bytes(&[9; 32]);
    let server = ServerId::new("srv-1").unwrap();
    let report = Report {
        server: server.clone(),
        boot: 1,
        number: 1,
        verdict: lunar_common::health::Verdict::Healthy,
        campaigns: Vec::new(),
        lease: None,
        epoch_seen: Default::default(),
        fence_seen: Default::default(),
        transitions: Vec::new(),
    };
    let manifest = Manifest {
        content: Content::Tree,
        bytes: 5,
        chunks: vec![Chunk {
            hash: lunar_common::ids::ChunkHash([1; 32]),
            bytes: 5,
            frame: lunar_common::ids::FrameHash([2; 32]),
            frame_bytes: 9,
        }],
    };
    let document = sign(Kind::Halt, HALT.as_bytes());
    let request = Request::Report(Signed::sign(&report, &key).unwrap());
    let trust = trust();
    vec![
        wire::encode(&request, BOUND).unwrap(),
        wire::encode(&Request::Sync { have: vec![DocumentHash([3; 32])] }, BOUND).unwrap(),
        wire::encode(&Response::Documents(vec![document.clone()]), BOUND).unwrap(),
        wire::encode(&Gossip::Document(document), BOUND).unwrap(),
        wire::encode(&trust.snapshot(), BOUND).unwrap(),
        manifest.encode().unwrap(),
        HALT.as_bytes().to_vec(),
    ]
}

#[test]
fn the_samples_are_right() {
    let samples = samples();
    assert!(matches!(wire::decode::<Request>(&samples[0], BOUND), Ok(Request::Report(_))));
    assert!(TrustState::restore(wire::decode(&samples[4], BOUND).unwrap()).is_ok());
    assert!(Manifest::decode(&samples[5], Manifest::id_of(&samples[5])).is_ok());
    assert!(Manifest::decode(&samples[5], ArtifactId([0; 32])).is_err());
    assert!(Halt::parse(&samples[6]).is_ok());
}

proptest! {
    #[test]
    fn noise_is_refused_by_every_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        decode_everything(&bytes);
        let mut versioned = vec![wire::WIRE_VERSION];
        versioned.extend_from_slice(&bytes);
        decode_everything(&versioned);
    }

    #[test]
    fn what_is_right_and_bent_is_refused_or_understood(
        which in 0usize..7,
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<proptest::sample::Index>(),
        shorten in any::<bool>(),
    ) {
        let mut bytes = samples().swap_remove(which);
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if shorten {
            bytes.truncate(cut.index(bytes.len()));
        }
        decode_everything(&bytes);
    }

    #[test]
    fn a_signed_document_of_any_bytes_changes_nothing_unless_it_is_right(
        kind in proptest::sample::select(Kind::ALL.to_vec()),
        body in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..512),
            "[a-z_]{1,12} = ([0-9]{1,20}|\"[ -~]{0,20}\"|\\[\\])\n".prop_map(String::into_bytes),
        ],
    ) {
        let mut trust = trust();
        let before = trust.snapshot();
        // Signed by a key that may sign everything: only the contents are at fault.
        prop_assert!(trust.accept(&sign(kind, &body), WallTime(0)).is_err());
        prop_assert_eq!(trust.snapshot(), before);
    }

    #[test]
    fn a_bent_signature_or_body_is_never_taken(
        at in any::<proptest::sample::Index>(),
        flip in 1u8..=255,
        in_body in any::<bool>(),
    ) {
        let mut document = sign(Kind::Halt, HALT.as_bytes());
        if in_body {
            let at = at.index(document.body.len());
            document.body[at] ^= flip;
        } else {
            let mut signature = document.signatures[0].clone().into_bytes();
            let at = at.index(signature.len());
            signature[at] ^= flip;
            document.signatures[0] = String::from_utf8_lossy(&signature).into_owned();
        }
        let taken = trust().accept(&document, WallTime(0)).is_ok();
        // White space around the armour may change; nothing else.
        let same = !in_body && document.signatures[0].trim() == sign(Kind::Halt, HALT.as_bytes()).signatures[0].trim();
        prop_assert!(!taken || same || !in_body, "a bent body was taken");
        if taken {
            let kept = claimed_kind(&document.signatures[0]);
            prop_assert_eq!(kept, Some(Kind::Halt));
        }
    }

    #[test]
    fn any_text_is_an_id_or_is_not_and_every_id_reads_back(text in ".{0,80}") {
        if let Ok(id) = ServerId::new(&text) {
            prop_assert_eq!(id.as_str(), text.as_str());
        }
        if let Ok(key) = text.parse::<PeerKey>() {
            prop_assert_eq!(key.to_string(), text.to_lowercase());
        }
    }
}

#[test]
fn kinds_and_namespaces_are_one_to_one() {
    let namespaces: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.namespace()).collect();
    assert_eq!(namespaces.len(), Kind::ALL.len());
    for kind in Kind::ALL {
        let document = sign(kind, b"x");
        assert_eq!(claimed_kind(&document.signatures[0]), Some(kind));
    }
}
