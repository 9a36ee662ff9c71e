//! A fleet for the tests of both planes: a signer, enrolments, and the gate a program would make of them.
//!
//! Owns nothing at run time. The documents are real and the checks are the real ones of `lunar_common::trust`.

use std::sync::{Arc, Mutex};

use ed25519_dalek::SigningKey;
use lunar_common::document::{Kind, SignedDocument, Verified};
use lunar_common::enrolment::Enrolment;
use lunar_common::ids::{FleetId, PeerKey};
use lunar_common::time::WallTime;
use lunar_common::trust::{Refusal, TrustState};
use ssh_key::PrivateKey;
use ssh_key::private::Ed25519Keypair;
use tokio::sync::watch;

use crate::gate::{Gate, Hello, Life};

/// One fleet, the person who signs everything in it, and another who enrols as well, by its first trust root.
pub(crate) struct Fleet {
    pub(crate) id: FleetId,
    signer: PrivateKey,
    other: PrivateKey,
    root: SignedDocument,
}

/// The gate of one machine of a fleet.
pub(crate) struct TestGate {
    trust: Mutex<TrustState>,
    hello: Hello,
    changes: watch::Sender<u64>,
}

impl Fleet {
    pub(crate) fn new(name: &str) -> Self {
        let seed = *blake3::hash(name.as_bytes()).as_bytes();
        let signer = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
        let other = PrivateKey::from(Ed25519Keypair::from_seed(blake3::hash(&seed).as_bytes()));
        let id = FleetId::new(name).unwrap();
        let root = sign(&signer, Kind::TrustRoot, root(&id, 1, [&signer, &other], "\"alice\", \"bob\""));
        Self { id, signer, other, root }
    }

    /// The next trust root, by which the other person enrols nobody any more.
    pub(crate) fn root_without_the_other(&self) -> SignedDocument {
        self.sign(Kind::TrustRoot, root(&self.id, 2, [&self.signer, &self.other], "\"alice\""))
    }

    /// A machine's enrolment, signed by the other person.
    pub(crate) fn enrol_by_the_other(&self, server: &str, key: &SigningKey, site: &str) -> SignedDocument {
        let body = self.enrol(server, key, site).body;
        sign(&self.other, Kind::Enrolment, String::from_utf8(body).unwrap())
    }

    pub(crate) fn sign(&self, kind: Kind, body: String) -> SignedDocument {
        sign(&self.signer, kind, body)
    }

    /// A machine's enrolment.
    pub(crate) fn enrol(&self, server: &str, key: &SigningKey, site: &str) -> SignedDocument {
        let (fleet, key) = (&self.id, PeerKey(key.verifying_key().to_bytes()));
        let body = format!(
            "format = 1\nfleet = \"{fleet}\"\nserver = {server:?}\nsequence = 1\n\
             issued = \"2026-01-02T00:00:00Z\"\nkey = \"{key}\"\nhostname = {server:?}\nsite = {site:?}\n\
             cluster = \"main\"\ntier = 3\nservice = \"web\"\n"
        );
        self.sign(Kind::Enrolment, body)
    }

    /// A halt of the whole fleet.
    pub(crate) fn halt(&self, sequence: u64) -> SignedDocument {
        let fleet = &self.id;
        let body = format!(
            "format = 1\nfleet = \"{fleet}\"\nsequence = {sequence}\nissued = \"2026-01-03T00:00:00Z\"\n\
             reason = \"smoke\"\n"
        );
        self.sign(Kind::Halt, body)
    }

    /// A revocation of one machine.
    pub(crate) fn revocation(&self, key: &PeerKey) -> SignedDocument {
        let fleet = &self.id;
        let body = format!(
            "format = 1\nfleet = \"{fleet}\"\nsequence = 1\nissued = \"2026-01-03T00:00:00Z\"\n\
             keys = [\"{key}\"]\n"
        );
        self.sign(Kind::Revocation, body)
    }

    /// The gate of a machine that shows this enrolment.
    pub(crate) fn gate(&self, enrolment: SignedDocument, data_address: &str) -> Arc<TestGate> {
        self.gate_in(Life::begin(), enrolment, data_address)
    }

    /// The gate of such a machine in this life of its.
    pub(crate) fn gate_in(&self, life: Life, enrolment: SignedDocument, data_address: &str) -> Arc<TestGate> {
        let trust = Mutex::new(TrustState::anchored(&self.root).unwrap());
        let hello = Hello { enrolment, data_address: data_address.to_owned(), life };
        Arc::new(TestGate { trust, hello, changes: watch::Sender::new(0) })
    }
}

impl TestGate {
    /// Takes a document in, as a program does with what reaches it.
    pub(crate) fn accept(&self, document: &SignedDocument) {
        self.trust.lock().unwrap().accept(document, WallTime(1_800_000_000)).unwrap();
        self.changes.send_modify(|count| *count += 1);
    }
}

impl Gate for TestGate {
    fn admit(&self, enrolment: &SignedDocument) -> Result<Arc<Verified<Enrolment>>, Refusal> {
        self.trust.lock().unwrap().verify_enrolment(enrolment)
    }

    fn hello(&self) -> Hello {
        self.hello.clone()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

fn root(fleet: &FleetId, version: u64, [alice, bob]: [&PrivateKey; 2], enrollers: &str) -> String {
    let public = |key: &PrivateKey| key.public_key().to_openssh().unwrap();
    let (alice, bob) = (public(alice), public(bob));
    let role = |role: &str| {
        let keys = if role == "enroll" { enrollers } else { "\"alice\"" };
        format!("[[role]]\nname = {role:?}\nkeys = [{keys}]\nthreshold = 1\n")
    };
    let roles: String =
        ["root", "plan", "halt", "resume", "enroll", "revoke", "reap"].into_iter().map(role).collect();
    format!(
        "format = 1\nfleet = \"{fleet}\"\nversion = {version}\nissued = \"2026-01-0{version}T00:00:00Z\"\n\
         expires = \"2099-01-01T00:00:00Z\"\n\n[keys]\nalice = {alice:?}\nbob = {bob:?}\n\n{roles}"
    )
}

fn sign(signer: &PrivateKey, kind: Kind, body: String) -> SignedDocument {
    SignedDocument::sign(kind, body, [signer]).unwrap()
}
