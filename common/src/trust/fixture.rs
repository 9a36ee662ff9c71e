//! Keys, signers and documents for the tests of the gate.
//!
//! Owns a small fleet's people: a root of three keys, of which two must sign, and one key for each other role.
//! Main invariant: everything is made from fixed seeds, so that a failure is the same everywhere.

use std::fmt::Write as _;

use ed25519_dalek::Signer as _;
use ssh_key::private::Ed25519Keypair;
use ssh_key::public::{Ed25519PublicKey, KeyData, SkEd25519};
use ssh_key::{Algorithm, HashAlg, LineEnding, PrivateKey, PublicKey, Signature, SshSig};

use super::TrustState;
use crate::document::{Kind, SignedDocument, armoured_signature};
use crate::time::WallTime;

/// 2026-11-21T08:00:00Z, when these documents are made.
pub(super) const NOW: WallTime = WallTime(1_795_248_000);
pub(super) const HOUR: i64 = 3600;

pub(super) fn at(seconds: i64) -> WallTime {
    WallTime(NOW.0 + seconds)
}

/// Somebody's key, by a number.
pub(super) fn key(number: u8) -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[number; 32]))
}

pub(super) fn public_line(key: &PrivateKey) -> String {
    key.public_key().to_openssh().unwrap()
}

pub(super) fn armoured(kind: Kind, body: &[u8], key: &PrivateKey) -> String {
    armoured_signature(kind, body, key).unwrap()
}

pub(super) fn signed(kind: Kind, body: &str, keys: &[u8]) -> SignedDocument {
    let keys: Vec<PrivateKey> = keys.iter().map(|number| key(*number)).collect();
    SignedDocument::sign(kind, body, &keys).unwrap()
}

/// The public half of a hardware key with this seed.
pub(super) fn hardware_line(seed: u8) -> String {
    PublicKey::new(hardware_key(seed), "hardware").to_openssh().unwrap()
}

fn hardware_key(seed: u8) -> KeyData {
    let public = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).verifying_key().to_bytes();
    KeyData::SkEd25519(SkEd25519::new(Ed25519PublicKey(public), "ssh:"))
}

/// A signature as a hardware key makes it, with these flags.
pub(super) fn hardware_signature(kind: Kind, body: &[u8], seed: u8, flags: u8) -> String {
    let message = SshSig::signed_data(kind.namespace(), HashAlg::Sha512, body).unwrap();
    let trailer = [flags, 0, 0, 0, 7];
    let input =
        [HashAlg::Sha256.digest(b"ssh:").as_slice(), &trailer, HashAlg::Sha256.digest(&message).as_slice()]
            .concat();
    let raw = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).sign(&input).to_bytes();
    let signature = Signature::new(Algorithm::SkEd25519, [raw.as_slice(), &trailer].concat()).unwrap();
    SshSig::new(hardware_key(seed), kind.namespace(), HashAlg::Sha512, signature)
        .unwrap()
        .to_pem(LineEnding::LF)
        .unwrap()
}

/// Names of keys 1 to 9.
const NAMES: [&str; 9] = ["ann", "bob", "cem", "dia", "eve", "fay", "gus", "hal", "ida"];

/// The text of a trust root: root 2 of ann, bob, cem; plan 2 of ann, bob, cem; halt any of ann, dia; resume 2 of
/// ann, bob; enroll eve; revoke fay; reap gus. `hal` and `ida` hold nothing.
pub(super) fn root_text(version: u64) -> String {
    let mut text = format!(
        "format = 1\nfleet = \"moon\"\nversion = {version}\nissued = \"{}\"\nexpires = \"{}\"\n\n[keys]\n",
        at(-HOUR),
        at(24 * 365 * HOUR)
    );
    for (name, number) in NAMES.iter().zip(1u8..) {
        writeln!(text, "{name} = \"{}\"", public_line(&key(number))).unwrap();
    }
    for (name, keys, threshold) in [
        ("root", "\"ann\", \"bob\", \"cem\"", 2),
        ("plan", "\"ann\", \"bob\", \"cem\"", 2),
        ("halt", "\"ann\", \"dia\"", 1),
        ("resume", "\"ann\", \"bob\"", 2),
        ("enroll", "\"eve\"", 1),
        ("revoke", "\"fay\"", 1),
        ("reap", "\"gus\"", 1),
    ] {
        writeln!(text, "\n[[role]]\nname = \"{name}\"\nkeys = [{keys}]\nthreshold = {threshold}").unwrap();
    }
    text
}

pub(super) fn root(version: u64) -> SignedDocument {
    signed(Kind::TrustRoot, &root_text(version), &[1, 2])
}

pub(super) fn state() -> TrustState {
    TrustState::anchored(&root(1)).unwrap()
}

/// A state whose root was edited as a text first.
pub(super) fn state_with(edit: impl Fn(&str) -> String) -> TrustState {
    TrustState::anchored(&signed(Kind::TrustRoot, &edit(&root_text(1)), &[1, 2])).unwrap()
}

pub(super) fn plan_text(generation: u64) -> String {
    format!(
        r#"format = 1
fleet = "moon"
campaign = "web-2"
generation = {generation}
author = "ann"
issued = "{}"
expires = "{}"

[select]
tiers = [2, 3]
sites = ["base"]

[[artifact]]
name = "web"
version = "2"
id = "{}"
manifest_bytes = 1000
bytes = 100000

[[artifact.from]]
version = "1"
id = "{}"

[install]
kind = "release"
restart = {{ unit = "web.service" }}

[health]
soak_s = 60

[[health.probe]]
name = "up"
kind = "http"
url = "http://127.0.0.1:8080/health"
"#,
        at(0),
        at(24 * HOUR),
        "22".repeat(32),
        "11".repeat(32),
    )
}

pub(super) fn plan(generation: u64) -> SignedDocument {
    signed(Kind::Plan, &plan_text(generation), &[1, 2])
}

fn stop_text(campaign: &str, sequence: u64) -> String {
    let scope = if campaign.is_empty() { String::new() } else { format!("campaign = \"{campaign}\"\n") };
    format!(
        "format = 1\nfleet = \"moon\"\n{scope}sequence = {sequence}\nissued = \"{}\"\nreason = \"smoke\"\n",
        at(0)
    )
}

/// A halt by dia; an empty campaign means all.
pub(super) fn halt(campaign: &str, sequence: u64) -> SignedDocument {
    signed(Kind::Halt, &stop_text(campaign, sequence), &[4])
}

/// A resume by ann and bob that expires in an hour.
pub(super) fn resume(campaign: &str, sequence: u64) -> SignedDocument {
    let text = format!("{}expires = \"{}\"\n", stop_text(campaign, sequence), at(HOUR));
    signed(Kind::Resume, &text, &[1, 2])
}

/// A resume by ann and bob of the pause with this seed, which expires in an hour.
pub(super) fn resume_of_pause(campaign: &str, sequence: u64, pause: u8) -> SignedDocument {
    let pause = crate::ids::PauseId([pause; 32]);
    let text = stop_text(campaign, sequence);
    signed(Kind::Resume, &format!("{text}expires = \"{}\"\npauses = [\"{pause}\"]\n", at(HOUR)), &[1, 2])
}

/// An enrolment by eve of a server with a machine key of this seed.
pub(super) fn enrolment_text(server: &str, seed: u8, sequence: u64) -> String {
    let key = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).verifying_key();
    format!(
        "format = 1\nfleet = \"moon\"\nserver = \"{server}\"\nsequence = {sequence}\nissued = \"{}\"\nkey = \"{}\"\n\
         hostname = \"{server}.base\"\nsite = \"base\"\ncluster = \"c1\"\ntier = 2\nservice = \"web\"\n",
        at(0),
        crate::ids::PeerKey(key.to_bytes()),
    )
}

pub(super) fn enrolment(server: &str, seed: u8, sequence: u64) -> SignedDocument {
    signed(Kind::Enrolment, &enrolment_text(server, seed, sequence), &[5])
}

pub(super) fn revocation(seeds: &[u8], sequence: u64) -> SignedDocument {
    let key = |seed: &u8| {
        let key = ed25519_dalek::SigningKey::from_bytes(&[*seed; 32]).verifying_key();
        format!("\"{}\"", crate::ids::PeerKey(key.to_bytes()))
    };
    let keys = seeds.iter().map(key).collect::<Vec<_>>().join(", ");
    let text = format!(
        "format = 1\nfleet = \"moon\"\nsequence = {sequence}\nissued = \"{}\"\nkeys = [{keys}]\n",
        at(0)
    );
    signed(Kind::Revocation, &text, &[6])
}

pub(super) fn reap(server: &str, sequence: u64) -> SignedDocument {
    let text = format!(
        "format = 1\nfleet = \"moon\"\nserver = \"{server}\"\nlease = 7\nsequence = {sequence}\nissued = \"{}\"\n\
         reason = \"burnt out, seen by gus\"\n",
        at(0)
    );
    signed(Kind::Reap, &text, &[7])
}
