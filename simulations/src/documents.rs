//! A fleet's people, machines and signed documents.
//!
//! Owns [`Documents`]. Main invariant: everything is signed for real, with keys made from fixed seeds, and passes
//! the one gate like any document; nothing in the world is trusted because it was made here. What ten thousand
//! gates would find alike is found once, and handed to the others as what that one gate verified.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::num::NonZeroU32;

use ed25519_dalek::SigningKey;
use lunar_common::document::{Kind, Resume, SignedDocument};
use lunar_common::enrolment::{Enrolment, Revocation, Role};
use lunar_common::ids::{ArtifactId, ArtifactName, GroupId, PauseId, PeerKey, Sequence, ServerId, SiteId};
use lunar_common::limits::{Limits, PlaceLimits, Tier, TierLimits};
use lunar_common::plan::windows::Windows;
use lunar_common::plan::{LeaseTerms, Retry, Spread, Stage, StopRules};
use lunar_common::time::WallTime;
use lunar_common::trust::TrustState;
use serde::Serialize;
use ssh_key::PrivateKey;
use ssh_key::private::Ed25519Keypair;

use crate::scenario::{Scenario, Seat};

/// 2026-11-21T08:00:00Z, when everything is signed and every run begins.
pub(crate) const START: WallTime = WallTime(1_795_248_000);
/// What runs at first.
pub(crate) const OLD: ArtifactId = ArtifactId([1; 32]);
/// What is installed.
pub(crate) const NEW: ArtifactId = ArtifactId([2; 32]);

const FAR: WallTime = WallTime(START.0 + 365 * 86_400);

/// A machine as it is enrolled.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) server: ServerId,
    pub(crate) key: SigningKey,
    pub(crate) peer: PeerKey,
    pub(crate) enrolment: SignedDocument,
}

/// All that people signed before a run begins.
#[derive(Debug)]
pub(crate) struct Documents {
    pub(crate) coordinator: Machine,
    pub(crate) servers: Vec<Machine>,
    pub(crate) plan: SignedDocument,
    /// Anchored, and knowing the coordinator; in a large fleet the plan too, which its gates would all find alike.
    pub(crate) anchor: TrustState,
    /// Knows every machine: the coordinator's.
    pub(crate) all: TrustState,
    by_name: BTreeMap<ServerId, usize>,
}

/// From how many servers on the plan is in every gate from the beginning: to take it in 20,000 times shows no
/// more than to take it in 14 times, and costs seconds.
const LARGE_FLEET: usize = 200;

/// The one name under which releases lie.
pub(crate) fn release_name() -> ArtifactName {
    ArtifactName::new("web").expect("a valid name")
}

impl Documents {
    pub(crate) fn new(scenario: &Scenario, seats: &[Seat], wide_limits: bool) -> Self {
        let mut anchor = TrustState::anchored(&root(1)).expect("the root is signed by its own key");
        let coordinator = ServerId::new("coordinator").expect("a valid name");
        let coordinator =
            machine(coordinator, u64::MAX, Role::Coordinator, &Place::of_coordinator(scenario), 1);
        anchor.accept(&coordinator.enrolment, START).expect("the coordinator's enrolment is genuine");
        let sites = scenario.site_names();
        let servers: Vec<Machine> = seats
            .iter()
            .enumerate()
            .map(|(number, seat)| {
                let place = Place::of(seat, &sites);
                machine(simulated_name(number), number as u64, Role::Agent, &place, 1)
            })
            .collect();
        let mut all = anchor.clone();
        for machine in &servers {
            all.accept(&machine.enrolment, START).expect("the enrolment is genuine");
        }
        let plan = plan(scenario, wide_limits, 1);
        if servers.len() >= LARGE_FLEET {
            anchor.accept(&plan, START).expect("the plan is genuine");
        }
        let by_name = servers.iter().enumerate().map(|(at, machine)| (machine.server.clone(), at)).collect();
        Self { coordinator, servers, plan, anchor, all, by_name }
    }

    /// Whether the plan is in every gate from the beginning.
    pub(crate) fn plan_is_known(&self) -> bool {
        self.servers.len() >= LARGE_FLEET
    }

    /// What a gate of this server knows at first: the anchor, the coordinator, and itself.
    pub(crate) fn first_trust(&self, server: usize) -> TrustState {
        let mut trust = self.anchor.clone();
        let known = trust.share_machine(&self.all, &self.servers[server].server);
        assert!(known, "every server of the fleet was enrolled under this root");
        trust
    }

    /// The number of a server.
    pub(crate) fn numbered(&self, server: &ServerId) -> usize {
        *self.by_name.get(server).expect("only servers of the fleet are spoken of")
    }
}

/// Where a machine stands.
struct Place {
    tier: Tier,
    site: SiteId,
    cluster: String,
    group: Option<GroupId>,
}

impl Place {
    fn of(seat: &Seat, sites: &[SiteId]) -> Self {
        let group = |number| GroupId::new(&format!("group-{number}")).expect("a valid name");
        Self {
            tier: seat.tier,
            site: sites[seat.site].clone(),
            cluster: format!("cluster-{}", seat.cluster),
            group: seat.group.map(group),
        }
    }

    fn of_coordinator(scenario: &Scenario) -> Self {
        let site = scenario.site_names().remove(0);
        Self { tier: Tier::One, site, cluster: "cluster-0".to_owned(), group: None }
    }
}

/// What the server of this number is called.
pub(crate) fn simulated_name(number: usize) -> ServerId {
    ServerId::new(&format!("srv-{number}")).expect("a valid name")
}

fn machine(server: ServerId, number: u64, role: Role, place: &Place, sequence: u64) -> Machine {
    let mut seed = [50u8; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    let key = SigningKey::from_bytes(&seed);
    let peer = PeerKey(key.verifying_key().to_bytes());
    let enrolment = Enrolment {
        format: 1,
        fleet: "moon".parse().expect("a valid name"),
        hostname: server.as_str().to_owned(),
        server,
        sequence: Sequence(sequence),
        issued: START,
        expires: None,
        key: peer,
        role,
        site: place.site.clone(),
        cluster: place.cluster.parse().expect("a valid name"),
        tier: place.tier,
        service: "web".parse().expect("a valid name"),
        group: place.group.clone(),
        labels: BTreeMap::new(),
    };
    let text = toml::to_string(&enrolment).expect("an enrolment can be written");
    Machine { server: enrolment.server, key, peer, enrolment: signed(Kind::Enrolment, &text) }
}

/// A halt of everything, or the end of one.
pub(crate) fn stop(kind: Kind, sequence: u64, signer: Signer) -> SignedDocument {
    let expires = match kind {
        Kind::Resume => format!("expires = \"{FAR}\"\n"),
        _ => String::new(),
    };
    let text = format!(
        "format = 1\nfleet = \"moon\"\nsequence = {sequence}\nissued = \"{START}\"\n{expires}reason = \"smoke\"\n"
    );
    signed_by(signer, kind, &text)
}

/// The end of these pauses.
pub(crate) fn resume_of_pauses(pauses: &BTreeSet<PauseId>, sequence: u64, signer: Signer) -> SignedDocument {
    let resume = Resume {
        format: 1,
        fleet: "moon".parse().expect("a valid name"),
        campaign: Some("web-2".parse().expect("a valid name")),
        pauses: pauses.clone(),
        sequence: Sequence(sequence),
        issued: START,
        expires: FAR,
        reason: "seen, and gone on".to_owned(),
    };
    signed_by(signer, Kind::Resume, &toml::to_string(&resume).expect("a resume can be written"))
}

/// Whether a document ends pauses, and so no halt.
pub(crate) fn ends_pauses(document: &SignedDocument) -> bool {
    document.kind == Kind::Resume && document.body.windows(8).any(|window| window == b"pauses =")
}

/// The parts of a plan that a scenario writes in the plan's own words.
#[derive(Serialize)]
struct SameWords<'a> {
    limits: &'a Limits,
    #[serde(skip_serializing_if = "Option::is_none")]
    windows: &'a Option<Windows>,
    #[serde(skip_serializing_if = "<[Stage]>::is_empty")]
    stages: &'a [Stage],
    lease: &'a LeaseTerms,
    spread: &'a Spread,
    retry: &'a Retry,
    stop: &'a StopRules,
}

/// The plan, or a later generation of it.
pub(crate) fn plan(scenario: &Scenario, wide: bool, generation: u64) -> SignedDocument {
    let mut text = format!(
        "format = 1\nfleet = \"moon\"\ncampaign = \"web-2\"\ngeneration = {generation}\nauthor = \"ann\"\n\
         issued = \"{START}\"\nexpires = \"{FAR}\"\n\
         [[artifact]]\nname = \"web\"\nversion = \"2\"\nid = \"{NEW}\"\nmanifest_bytes = {}\nbytes = {}\n\
         [[artifact.from]]\nversion = \"1\"\nid = \"{OLD}\"\n\
         [install]\nkind = \"release\"\nrestart = {{ command = {{ command = [\"/bin/restart\"], timeout_s = 10 }} }}\n\
         drain = {{ command = [\"/bin/drain\"], timeout_s = 10 }}\n\
         restore = {{ command = [\"/bin/restore\"], timeout_s = 10 }}\n",
        manifest_bytes(scenario),
        scenario.artifact.bytes,
    );
    let health = &scenario.health;
    write!(
        text,
        "[health]\nsoak_s = {}\ninterval_s = {}\nsettle_s = {}\nfailures_allowed = {}\n\
         [[health.probe]]\nname = \"up\"\nkind = \"tcp\"\naddress = \"127.0.0.1:8080\"\ntimeout_s = 1\n",
        health.soak_s, health.interval_s, health.settle_s, health.failures_allowed,
    )
    .expect("a text takes a text");
    let limits = if wide { widened(&scenario.limits) } else { scenario.limits.clone() };
    let Scenario { windows, stages, lease, spread, retry, stop, .. } = scenario;
    let same = SameWords { limits: &limits, windows, stages, lease, spread, retry, stop };
    text.push_str(&toml::to_string(&same).expect("each has a form in TOML"));
    signed(Kind::Plan, &text)
}

/// A manifest's length: a fixed part, and two hashes and two lengths a chunk.
pub(crate) fn manifest_bytes(scenario: &Scenario) -> u64 {
    200 + 72 * scenario.artifact.chunks()
}

/// The mistake of a mutant: nothing is limited.
fn widened(limits: &Limits) -> Limits {
    let many = NonZeroU32::new(100).expect("not zero");
    let mut wide = limits.clone();
    (wide.fleet, wide.group) = (many, many);
    wide.tier = TierLimits { one: many, two: many, three: many };
    wide.site = PlaceLimits { default: Some(many), ..PlaceLimits::default() };
    wide.cluster = PlaceLimits::default();
    wide
}

/// Who signs. From the second trust root on, both may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signer {
    Ann,
    Ben,
}

impl Signer {
    fn key(self) -> PrivateKey {
        PrivateKey::from(Ed25519Keypair::from_seed(&match self {
            Self::Ann => [1; 32],
            Self::Ben => [2; 32],
        }))
    }

    fn line(self, name: &str) -> String {
        let key = self.key().public_key().to_openssh().expect("a public key can be written");
        format!("{name} = \"{key}\"\n")
    }
}

/// The trust root of this version.
pub(crate) fn root(version: u64) -> SignedDocument {
    let mut text = format!(
        "format = 1\nfleet = \"moon\"\nversion = {version}\nissued = \"{START}\"\nexpires = \"{FAR}\"\n[keys]\n{}",
        Signer::Ann.line("ann")
    );
    let mut holders = "\"ann\"";
    if version > 1 {
        text.push_str(&Signer::Ben.line("ben"));
        holders = "\"ann\", \"ben\"";
    }
    for role in ["root", "plan", "halt", "resume", "enroll", "revoke", "reap"] {
        write!(text, "[[role]]\nname = \"{role}\"\nkeys = [{holders}]\nthreshold = 1\n")
            .expect("a text takes a text");
    }
    signed(Kind::TrustRoot, &text)
}

/// The machines that are out.
pub(crate) fn revocation(sequence: u64, keys: Vec<PeerKey>) -> SignedDocument {
    let list = Revocation {
        format: 1,
        fleet: "moon".parse().expect("a valid name"),
        sequence: Sequence(sequence),
        issued: START,
        keys,
    };
    signed(Kind::Revocation, &toml::to_string(&list).expect("a list can be written"))
}

/// The enrolment of a server, given out once more.
pub(crate) fn enrolment_again(number: usize, seat: &Seat, sites: &[SiteId], sequence: u64) -> SignedDocument {
    let place = Place::of(seat, sites);
    machine(simulated_name(number), number as u64, Role::Agent, &place, sequence).enrolment
}

pub(crate) fn signed(kind: Kind, body: &str) -> SignedDocument {
    signed_by(Signer::Ann, kind, body)
}

fn signed_by(signer: Signer, kind: Kind, body: &str) -> SignedDocument {
    SignedDocument::sign(kind, body, [&signer.key()]).expect("an ed25519 key signs anything")
}
