//! A small fleet's people, machines and documents, for the tests of both the applier's core and its process.
//!
//! Owns fixed keys: one signer `ann` for everything, the server `srv-1`, a coordinator. Main invariant:
//! everything is made from fixed seeds, so that a failure is the same everywhere. Uses nothing but the common
//! vocabulary, so that the process's tests can include this very file.

use ed25519_dalek::SigningKey;
use lunar_common::document::{Kind, SignedDocument};
use lunar_common::enrolment::{Enrolment, Role};
use lunar_common::ids::{
    ArtifactId, Attempt, CampaignId, DocumentHash, Epoch, Fence, LeaseId, PeerKey, Sequence, ServerId,
};
use lunar_common::lease::Grant;
use lunar_common::limits::Tier;
use lunar_common::time::{Moment, Now, WallTime};
use lunar_common::trust::TrustState;
use lunar_common::wire::Signed;
use ssh_key::PrivateKey;
use ssh_key::private::Ed25519Keypair;

/// 2026-11-21T08:00:00Z, when these documents are made.
pub const WALL: WallTime = WallTime(1_795_248_000);

/// When they expire: not while these tests are run, on whatever machine.
const EXPIRES: WallTime = WallTime(WALL.0 + 200 * 365 * 86_400);

/// One artifact of a plan under test.
pub struct Wanted {
    /// Its name.
    pub name: &'static str,
    /// Its id.
    pub id: ArtifactId,
    /// Its content's length.
    pub bytes: u64,
    /// What it may replace.
    pub from: Vec<ArtifactId>,
}

/// `moment_ms` after boot, at [`WALL`].
pub fn now(moment_ms: u64) -> Now {
    Now { moment: Moment(moment_ms), wall: WALL }
}

/// The one signer's key.
fn ann() -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[1; 32]))
}

/// A machine's key, by a number.
pub fn machine_key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

/// The key number of the server under test, and of its coordinator.
pub const SERVER: u8 = 51;
/// The coordinator's.
pub const COORDINATOR: u8 = 52;

/// The server under test.
pub fn server() -> ServerId {
    ServerId::new("srv-1").unwrap()
}

/// The campaign under test.
pub fn campaign() -> CampaignId {
    CampaignId::new("web-2").unwrap()
}

/// A document with ann's signature.
pub fn signed(kind: Kind, body: &str) -> SignedDocument {
    SignedDocument::sign(kind, body, [&ann()]).unwrap()
}

/// The trust root: ann may sign everything.
pub fn root() -> SignedDocument {
    let key = ann().public_key().to_openssh().unwrap();
    let mut text = format!(
        "format = 1\nfleet = \"moon\"\nversion = 1\nissued = \"{WALL}\"\nexpires = \"{}\"\n[keys]\nann = \"{key}\"\n",
        EXPIRES
    );
    for role in ["root", "plan", "halt", "resume", "enroll", "revoke", "reap"] {
        text.push_str(&format!("[[role]]\nname = \"{role}\"\nkeys = [\"ann\"]\nthreshold = 1\n"));
    }
    signed(Kind::TrustRoot, &text)
}

/// A machine's enrolment.
pub fn enrolment(name: &str, key: u8, role: Role) -> SignedDocument {
    let enrolment = Enrolment {
        format: 1,
        fleet: "moon".parse().unwrap(),
        server: ServerId::new(name).unwrap(),
        sequence: Sequence(1),
        issued: WALL,
        expires: None,
        key: PeerKey(machine_key(key).verifying_key().to_bytes()),
        role,
        hostname: "host-1".to_owned(),
        site: "base".parse().unwrap(),
        cluster: "one".parse().unwrap(),
        tier: Tier::Two,
        service: "web".parse().unwrap(),
        group: None,
        labels: [("port".to_owned(), "8080".to_owned())].into(),
    };
    signed(Kind::Enrolment, &toml::to_string(&enrolment).unwrap())
}

/// The coordinator's enrolment.
pub fn coordinator() -> SignedDocument {
    enrolment("coordinator", COORDINATOR, Role::Coordinator)
}

/// A trust state that knows the server under test.
pub fn trust() -> TrustState {
    let mut trust = TrustState::anchored(&root()).unwrap();
    trust.accept(&enrolment("srv-1", SERVER, Role::Agent), WALL).unwrap();
    trust
}

/// A plan of the campaign; `restart` is TOML.
pub fn plan(generation: u64, wanted: &[Wanted], restart: &str) -> SignedDocument {
    plan_for("tiers = [2]", generation, wanted, restart)
}

/// A plan for the servers of this selection.
pub fn plan_for(select: &str, generation: u64, wanted: &[Wanted], restart: &str) -> SignedDocument {
    let mut text = format!(
        "format = 1\nfleet = \"moon\"\ncampaign = \"web-2\"\ngeneration = {generation}\nauthor = \"ann\"\n\
         issued = \"{WALL}\"\nexpires = \"{}\"\n[select]\n{select}\n",
        EXPIRES
    );
    for Wanted { name, id, bytes, from } in wanted {
        text.push_str(&format!(
            "[[artifact]]\nname = \"{name}\"\nversion = \"2\"\nid = \"{id}\"\nmanifest_bytes = 1000\nbytes = {bytes}\n"
        ));
        for id in from {
            text.push_str(&format!("[[artifact.from]]\nversion = \"1\"\nid = \"{id}\"\n"));
        }
    }
    text.push_str(&format!(
        "[install]\nkind = \"release\"\nrestart = {restart}\n\
         [lease]\nstart_within_s = 120\ndown_s_max = 1800\ncommit_within_s = 600\n\
         [health]\n[[health.probe]]\nname = \"up\"\nkind = \"tcp\"\naddress = \"127.0.0.1:8080\"\n"
    ));
    signed(Kind::Plan, &text)
}

/// A halt of everything.
pub fn halt() -> SignedDocument {
    let text = format!(
        "format = 1\nfleet = \"moon\"\nsequence = 1\nissued = \"{WALL}\"\nreason = \"smoke in the lab\"\n"
    );
    signed(Kind::Halt, &text)
}

/// A grant for the server under test, before it is signed.
pub fn grant(plan: DocumentHash, attempt: u64, fence: u64) -> Grant {
    Grant {
        lease: LeaseId(fence),
        server: server(),
        campaign: campaign(),
        plan,
        attempt: Attempt(attempt),
        nonce: 1,
        epoch: Epoch(3),
        fence: Fence(fence),
        start_within_ms: 60_000,
        down_max_ms: 1_800_000,
    }
}

/// A grant signed by the machine of this key.
pub fn sign(grant: &Grant, key: u8) -> Signed {
    Signed::sign(grant, &machine_key(key)).unwrap()
}
