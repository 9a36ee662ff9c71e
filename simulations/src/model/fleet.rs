//! Four servers in two groups, a limit of two, one plan, one halt.
//!
//! Owns what people signed for the model's fleet. Main invariant: the documents are signed for real and pass the
//! one gate, since the production cores accept nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use lunar_common::document::{Halt, Kind, SignedDocument, Verified};
use lunar_common::enrolment::{Enrolment, Role};
use lunar_common::ids::{ArtifactId, CampaignId, PeerKey, Sequence, ServerId};
use lunar_common::limits::Tier;
use lunar_common::plan::{Plan, StopRules};
use lunar_common::time::{Moment, Now, WallTime};
use lunar_common::trust::{Accepted, TrustState};
use lunar_coordinator_core::input::InForce;
use ssh_key::PrivateKey;
use ssh_key::private::Ed25519Keypair;

/// Most servers.
pub(super) const SERVERS: usize = 4;
/// The one tier's limit.
pub(super) const TIER_MAX: usize = 2;
/// The group of a server: two of two.
pub(super) const fn group_of(server: usize) -> usize {
    server / 2
}
/// What runs at first.
pub(super) const OLD: ArtifactId = ArtifactId([1; 32]);
/// What is installed.
pub(super) const NEW: ArtifactId = ArtifactId([2; 32]);
/// The time to start. A day: no other wait in the model comes near it, so it runs out only when the model says so.
pub(super) const START_WITHIN_MS: u64 = 86_400_000;

const WALL: WallTime = WallTime(1_795_248_000);
/// When everything begins.
pub(super) const START: Now = Now { moment: Moment(1_000_000), wall: WALL };

/// The fleet on paper.
pub(super) struct Fleet {
    pub(super) names: Vec<ServerId>,
    pub(super) keys: Vec<SigningKey>,
    pub(super) coordinator: SigningKey,
    /// Knows every machine and the plan.
    pub(super) trust: TrustState,
    pub(super) plan: Arc<Verified<Plan>>,
    pub(super) campaign: CampaignId,
    pub(super) halt: Arc<Verified<Halt>>,
    pub(super) halt_document: SignedDocument,
}

impl Fleet {
    /// With `groups` false the plan's group limit binds nobody.
    pub(super) fn new(servers: usize, groups: bool) -> Self {
        let names: Vec<ServerId> = (0..servers).map(|number| name(&format!("srv-{number}"))).collect();
        let keys = (10u8..).take(servers).map(|seed| SigningKey::from_bytes(&[seed; 32])).collect::<Vec<_>>();
        let coordinator = SigningKey::from_bytes(&[9; 32]);
        let mut trust = TrustState::anchored(&root()).expect("the root is signed by its own key");
        let mut accept = |document| trust.accept(&document, WALL).expect("the document is genuine");
        accept(enrolment(&name("coordinator"), &coordinator, Role::Coordinator, 0));
        for (number, (server, key)) in names.iter().zip(&keys).enumerate() {
            accept(enrolment(server, key, Role::Agent, group_of(number)));
        }
        let Accepted::Plan(plan) = accept(plan(groups)) else { unreachable!("a plan is one") };
        let halt_document = signed(
            Kind::Halt,
            &format!("format = 1\nfleet = \"moon\"\nsequence = 1\nissued = \"{WALL}\"\nreason = \"smoke\"\n"),
        );
        let Ok(Accepted::Halt(halt)) = trust.clone().accept(&halt_document, WALL) else {
            unreachable!("a halt is one")
        };
        let campaign = plan.campaign.clone();
        Self { names, keys, coordinator, trust, plan, campaign, halt, halt_document }
    }

    /// What a coordinator starts with.
    pub(super) fn in_force(&self, halted: bool) -> InForce {
        InForce {
            machines: self.trust.machines().cloned().collect(),
            plans: vec![Arc::clone(&self.plan)],
            halts: halted.then(|| Arc::clone(&self.halt)).into_iter().collect(),
            resumes: Vec::new(),
            approvers: self.trust.approvers(),
        }
    }

    pub(super) fn key(&self, server: usize) -> PeerKey {
        PeerKey(self.keys[server].verifying_key().to_bytes())
    }
}

fn name(text: &str) -> ServerId {
    ServerId::new(text).expect("a valid name")
}

fn enrolment(server: &ServerId, key: &SigningKey, role: Role, group: usize) -> SignedDocument {
    let enrolment = Enrolment {
        format: 1,
        fleet: "moon".parse().expect("a valid name"),
        server: server.clone(),
        sequence: Sequence(1),
        issued: WALL,
        expires: None,
        key: PeerKey(key.verifying_key().to_bytes()),
        role,
        hostname: server.to_string(),
        site: "base".parse().expect("a valid name"),
        cluster: "one".parse().expect("a valid name"),
        tier: Tier::One,
        service: "web".parse().expect("a valid name"),
        group: (role == Role::Agent).then(|| format!("pair-{group}").parse().expect("a valid name")),
        labels: BTreeMap::new(),
    };
    signed(Kind::Enrolment, &toml::to_string(&enrolment).expect("an enrolment can be written"))
}

fn plan(groups: bool) -> SignedDocument {
    let group_max = if groups { 1 } else { SERVERS };
    let text = format!(
        "format = 1\nfleet = \"moon\"\ncampaign = \"web-2\"\ngeneration = 1\nauthor = \"ann\"\n\
         issued = \"{WALL}\"\nexpires = \"{}\"\n\
         [[artifact]]\nname = \"web\"\nversion = \"2\"\nid = \"{NEW}\"\nmanifest_bytes = 1000\nbytes = 9\n\
         [[artifact.from]]\nversion = \"1\"\nid = \"{OLD}\"\n\
         [install]\nkind = \"release\"\nrestart = {{ unit = \"web.service\" }}\n\
         [limits]\nfleet = {SERVERS}\ngroup = {group_max}\n[limits.tier]\n1 = {TIER_MAX}\n2 = 1\n3 = 1\n\
         [lease]\nstart_within_s = {}\ndown_s_max = 1800\ncommit_within_s = 600\n\
         [health]\nsoak_s = 8\ninterval_s = 4\nsettle_s = 2\n\
         [[health.probe]]\nname = \"up\"\nkind = \"tcp\"\naddress = \"127.0.0.1:8080\"\ntimeout_s = 1\n\
         [spread]\nwindow_s = 0\njitter_s = 0\n[retry]\nattempts_max = 2\nbase_s = 60\ncap_s = 600\n",
        WallTime(WALL.0 + 365 * 86_400),
        START_WITHIN_MS / 1000,
    );
    // Every order of events is looked at to their end: nobody is there to go on after a pause.
    let stop =
        toml::to_string(&BTreeMap::from([("stop", StopRules::never())])).expect("rules can be written");
    signed(Kind::Plan, &format!("{text}{stop}"))
}

fn root() -> SignedDocument {
    let key = ann().public_key().to_openssh().expect("a public key can be written");
    let mut text = format!(
        "format = 1\nfleet = \"moon\"\nversion = 1\nissued = \"{WALL}\"\nexpires = \"{}\"\n[keys]\nann = \"{key}\"\n",
        WallTime(WALL.0 + 365 * 86_400)
    );
    for role in ["root", "plan", "halt", "resume", "enroll", "revoke", "reap"] {
        text += &format!("[[role]]\nname = \"{role}\"\nkeys = [\"ann\"]\nthreshold = 1\n");
    }
    signed(Kind::TrustRoot, &text)
}

fn ann() -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[1; 32]))
}

fn signed(kind: Kind, body: &str) -> SignedDocument {
    SignedDocument::sign(kind, body, [&ann()]).expect("an ed25519 key signs anything")
}
