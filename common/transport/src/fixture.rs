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
use ssh_key::private::Ed25519Keypair;
use ssh_key::{HashAlg, LineEnding, PrivateKey};

use crate::gate::{Gate, Hello, Life};

/// One fleet and the one person who signs everything in it.
pub(crate) struct Fleet {
    pub(crate) id: FleetId,
    signer: PrivateKey,
    root: SignedDocument,
}

/// The gate of one machine of a fleet.
pub(crate) struct TestGate {
    trust: Mutex<TrustState>,
    hello: Hello,
}

impl Fleet {
    pub(crate) fn new(name: &str) -> Self {
        let seed = *blake3::hash(name.as_bytes()).as_bytes();
        let signer = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
        let public = signer.public_key().to_openssh().unwrap();
        let role = |role: &str| format!("[[role]]\nname = {role:?}\nkeys = [\"alice\"]\nthreshold = 1\n");
        let roles: String =
            ["root", "plan", "halt", "resume", "enroll", "revoke", "reap"].into_iter().map(role).collect();
        let body = format!(
            "format = 1\nfleet = {name:?}\nversion = 1\nissued = \"2026-01-01T00:00:00Z\"\n\
             expires = \"2099-01-01T00:00:00Z\"\n\n[keys]\nalice = {public:?}\n\n{roles}"
        );
        let root = sign(&signer, Kind::TrustRoot, body);
        Self { id: FleetId::new(name).unwrap(), signer, root }
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
        Arc::new(TestGate { trust, hello: Hello { enrolment, data_address: data_address.to_owned(), life } })
    }
}

impl TestGate {
    /// Takes a document in, as a program does with what reaches it.
    pub(crate) fn accept(&self, document: &SignedDocument) {
        self.trust.lock().unwrap().accept(document, WallTime(1_800_000_000)).unwrap();
    }
}

impl Gate for TestGate {
    fn admit(&self, enrolment: &SignedDocument) -> Result<Arc<Verified<Enrolment>>, Refusal> {
        self.trust.lock().unwrap().verify_enrolment(enrolment)
    }

    fn hello(&self) -> Hello {
        self.hello.clone()
    }
}

fn sign(signer: &PrivateKey, kind: Kind, body: String) -> SignedDocument {
    let signature = signer.sign(kind.namespace(), HashAlg::Sha512, body.as_bytes()).unwrap();
    let signatures = vec![signature.to_pem(LineEnding::LF).unwrap()];
    SignedDocument { kind, body: body.into_bytes(), signatures }
}
