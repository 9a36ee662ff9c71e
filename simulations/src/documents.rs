//! A small fleet's people, machines and signed documents.
//!
//! Owns [`Documents`]. Main invariant: everything is signed for real, with keys made from fixed seeds, and passes
//! the one gate like any document; nothing in the world is trusted because it was made here.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ed25519_dalek::SigningKey;
use lunar_common::document::{Kind, SignedDocument};
use lunar_common::enrolment::{Enrolment, Role};
use lunar_common::ids::{ArtifactId, ArtifactName, GroupId, PeerKey, Sequence, ServerId, SiteId};
use lunar_common::limits::Tier;
use lunar_common::time::WallTime;
use lunar_common::trust::TrustState;
use ssh_key::private::Ed25519Keypair;
use ssh_key::{HashAlg, LineEnding, PrivateKey};

/// 2026-11-21T08:00:00Z, when everything is signed and every run begins.
pub(crate) const START: WallTime = WallTime(1_795_248_000);
/// What runs at first.
pub(crate) const OLD: ArtifactId = ArtifactId([1; 32]);
/// What is installed.
pub(crate) const NEW: ArtifactId = ArtifactId([2; 32]);

/// Most servers down at once in the whole fleet.
pub(crate) const FLEET_MAX: u32 = 3;
/// In tiers 1, 2 and 3.
pub(crate) const TIER_MAX: [u32; 3] = [1, 1, 2];
/// In each site.
pub(crate) const SITE_MAX: u32 = 2;
/// In each group.
pub(crate) const GROUP_MAX: u32 = 1;
/// Attempts that the plan allows.
pub(crate) const ATTEMPTS_MAX: u64 = 3;
/// Longest the plan expects a server down, in milliseconds.
pub(crate) const DOWN_MAX_MS: u64 = 240_000;
/// Longest from a claim to its start, in milliseconds.
pub(crate) const START_WITHIN_MS: u64 = 60_000;

const FAR: WallTime = WallTime(START.0 + 365 * 86_400);

/// A machine as it is enrolled.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) server: ServerId,
    pub(crate) tier: Tier,
    pub(crate) site: SiteId,
    pub(crate) group: Option<GroupId>,
    pub(crate) key: SigningKey,
    pub(crate) enrolment: SignedDocument,
}

/// All that people signed before a run begins.
#[derive(Debug, Clone)]
pub(crate) struct Documents {
    pub(crate) coordinator: Machine,
    pub(crate) servers: Vec<Machine>,
    pub(crate) plan: SignedDocument,
    /// Anchored, and knowing the coordinator: where every gate begins.
    pub(crate) anchor: TrustState,
}

/// The one name under which releases lie.
pub(crate) fn release_name() -> ArtifactName {
    ArtifactName::new("web").expect("a valid name")
}

impl Documents {
    pub(crate) fn new(servers: usize, wide_limits: bool) -> Self {
        let mut anchor = TrustState::anchored(&root()).expect("the root is signed by its own key");
        let coordinator = machine("coordinator", 200, Role::Coordinator, 0);
        anchor.accept(&coordinator.enrolment, START).expect("the coordinator's enrolment is genuine");
        let servers = (0..servers)
            .map(|number| {
                let seed = u8::try_from(number + 50).expect("a small fleet");
                machine(&format!("srv-{number}"), seed, Role::Agent, number)
            })
            .collect();
        Self { coordinator, servers, plan: plan(wide_limits), anchor }
    }
}

/// A pair in tier 1, a pair in tier 2, and single servers in tier 3, spread over two sites.
fn machine(name: &str, seed: u8, role: Role, number: usize) -> Machine {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let tier = Tier::ALL[(number / 2).min(2)];
    let site = SiteId::new(if number.is_multiple_of(2) { "base" } else { "rim" }).expect("a valid name");
    let group = (role == Role::Agent && tier != Tier::Three)
        .then(|| GroupId::new(&format!("pair-{}", number / 2)).expect("a valid name"));
    let enrolment = Enrolment {
        format: 1,
        fleet: "moon".parse().expect("a valid name"),
        server: ServerId::new(name).expect("a valid name"),
        sequence: Sequence(1),
        issued: START,
        expires: None,
        key: PeerKey(key.verifying_key().to_bytes()),
        role,
        hostname: name.to_owned(),
        site: site.clone(),
        cluster: "one".parse().expect("a valid name"),
        tier,
        service: "web".parse().expect("a valid name"),
        group: group.clone(),
        labels: BTreeMap::new(),
    };
    let text = toml::to_string(&enrolment).expect("an enrolment can be written");
    Machine { server: enrolment.server, tier, site, group, key, enrolment: signed(Kind::Enrolment, &text) }
}

/// A halt of everything, or the end of one.
pub(crate) fn stop(kind: Kind, sequence: u64) -> SignedDocument {
    let expires = match kind {
        Kind::Resume => format!("expires = \"{FAR}\"\n"),
        _ => String::new(),
    };
    let text = format!(
        "format = 1\nfleet = \"moon\"\nsequence = {sequence}\nissued = \"{START}\"\n{expires}reason = \"smoke\"\n"
    );
    signed(kind, &text)
}

fn plan(wide: bool) -> SignedDocument {
    let most = |limit: u32| if wide { 100 } else { limit };
    let mut text = format!(
        "format = 1\nfleet = \"moon\"\ncampaign = \"web-2\"\ngeneration = 1\nauthor = \"ann\"\n\
         issued = \"{START}\"\nexpires = \"{FAR}\"\n\
         [[artifact]]\nname = \"web\"\nversion = \"2\"\nid = \"{NEW}\"\nmanifest_bytes = 1000\nbytes = 9\n\
         [[artifact.from]]\nversion = \"1\"\nid = \"{OLD}\"\n\
         [install]\nkind = \"release\"\nrestart = {{ command = {{ command = [\"/bin/restart\"], timeout_s = 10 }} }}\n\
         drain = {{ command = [\"/bin/drain\"], timeout_s = 10 }}\n\
         restore = {{ command = [\"/bin/restore\"], timeout_s = 10 }}\n"
    );
    write!(
        text,
        "[limits]\nfleet = {}\ngroup = {}\n[limits.tier]\n1 = {}\n2 = {}\n3 = {}\n[limits.site]\ndefault = {}\n",
        most(FLEET_MAX),
        most(GROUP_MAX),
        most(TIER_MAX[0]),
        most(TIER_MAX[1]),
        most(TIER_MAX[2]),
        most(SITE_MAX),
    )
    .expect("a text takes a text");
    write!(
        text,
        "[lease]\nstart_within_s = {}\ndown_s_max = {}\ncommit_within_s = 60\n\
         [health]\nsoak_s = 12\ninterval_s = 4\nsettle_s = 6\n\
         [[health.probe]]\nname = \"up\"\nkind = \"tcp\"\naddress = \"127.0.0.1:8080\"\ntimeout_s = 1\n\
         [spread]\nwindow_s = 20\njitter_s = 5\n[retry]\nattempts_max = {ATTEMPTS_MAX}\nbase_s = 10\ncap_s = 40\n",
        START_WITHIN_MS / 1000,
        DOWN_MAX_MS / 1000,
    )
    .expect("a text takes a text");
    signed(Kind::Plan, &text)
}

fn root() -> SignedDocument {
    let key = ann().public_key().to_openssh().expect("a public key can be written");
    let mut text = format!(
        "format = 1\nfleet = \"moon\"\nversion = 1\nissued = \"{START}\"\nexpires = \"{FAR}\"\n[keys]\nann = \"{key}\"\n"
    );
    for role in ["root", "plan", "halt", "resume", "enroll", "revoke", "reap"] {
        write!(text, "[[role]]\nname = \"{role}\"\nkeys = [\"ann\"]\nthreshold = 1\n")
            .expect("a text takes a text");
    }
    signed(Kind::TrustRoot, &text)
}

fn ann() -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[1; 32]))
}

fn signed(kind: Kind, body: &str) -> SignedDocument {
    let signature = ann()
        .sign(kind.namespace(), HashAlg::Sha512, body.as_bytes())
        .and_then(|signature| signature.to_pem(LineEnding::LF))
        .expect("an ed25519 key signs anything");
    SignedDocument { kind, body: body.as_bytes().to_vec(), signatures: vec![signature] }
}
