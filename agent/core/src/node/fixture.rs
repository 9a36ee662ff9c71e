//! A server with a group, a plan with hooks, and effects in short words, for the node's tests.
//!
//! Owns the documents and the shorthand. Main invariant: everything is made from fixed seeds.

use std::sync::Arc;

use lunar_common::document::{Kind, SignedDocument, Verified};
use lunar_common::enrolment::{Enrolment, Role};
use lunar_common::health::Outcome;
use lunar_common::ids::{ArtifactId, Epoch, Fence, LeaseId, PeerKey, ProbeName, Sequence, ServerId};
use lunar_common::lease::{Claim, Grant, LeaseOutcome};
use lunar_common::limits::Tier;
use lunar_common::time::WallTime;
use lunar_common::trust::TrustState;
use lunar_common::wire::Signed;

use crate::applier::fixture::{COORDINATOR, SERVER, WALL, machine_key, root, signed};
use crate::effect::{ApplierCommand, Effect, Record};
use crate::node::{Node, Setup};

pub(super) const OLD: ArtifactId = ArtifactId([1; 32]);
pub(super) const NEW: ArtifactId = ArtifactId([2; 32]);
/// The key number of the other member of the group.
pub(super) const NEIGHBOUR: u8 = 53;

/// An enrolment; agents are of the group `pair` if `grouped`.
pub(super) fn enrolment(name: &str, key: u8, role: Role, grouped: bool) -> SignedDocument {
    enrolment_again(name, key, role, grouped.then_some("pair"), 1)
}

/// The same machine's enrolment of that number.
pub(super) fn enrolment_again(
    name: &str,
    key: u8,
    role: Role,
    group: Option<&str>,
    sequence: u64,
) -> SignedDocument {
    let enrolment = Enrolment {
        format: 1,
        fleet: "moon".parse().unwrap(),
        server: ServerId::new(name).unwrap(),
        sequence: Sequence(sequence),
        issued: WALL,
        expires: None,
        key: PeerKey(machine_key(key).verifying_key().to_bytes()),
        role,
        hostname: name.to_owned(),
        site: "base".parse().unwrap(),
        cluster: "one".parse().unwrap(),
        tier: Tier::Two,
        service: "web".parse().unwrap(),
        group: group.map(|group| group.parse().unwrap()),
        labels: std::collections::BTreeMap::new(),
    };
    signed(Kind::Enrolment, &toml::to_string(&enrolment).unwrap())
}

/// A plan without spread: starts at once, three attempts a minute apart, soaks for 8 s in rounds of 4 s.
pub(super) fn plan(generation: u64, hooks: bool) -> SignedDocument {
    let hooks = if hooks {
        "drain = { command = [\"/bin/drain\"], timeout_s = 10 }\nrestore = { command = [\"/bin/restore\"] }\n"
    } else {
        ""
    };
    let text = format!(
        "format = 1\nfleet = \"moon\"\ncampaign = \"web-2\"\ngeneration = {generation}\nauthor = \"ann\"\n\
         issued = \"{WALL}\"\nexpires = \"{}\"\n[select]\ntiers = [2]\n\
         [[artifact]]\nname = \"web\"\nversion = \"2\"\nid = \"{NEW}\"\nmanifest_bytes = 1000\nbytes = 9\n\
         [[artifact.from]]\nversion = \"1\"\nid = \"{OLD}\"\n\
         [install]\nkind = \"release\"\nrestart = {{ unit = \"web.service\" }}\n{hooks}\
         [lease]\nstart_within_s = 60\ndown_s_max = 1800\ncommit_within_s = 600\n\
         [health]\nsoak_s = 8\ninterval_s = 4\nsettle_s = 2\n\
         [[health.probe]]\nname = \"up\"\nkind = \"tcp\"\naddress = \"127.0.0.1:8080\"\ntimeout_s = 1\n\
         [spread]\nwindow_s = 0\njitter_s = 0\n[retry]\nattempts_max = 3\nbase_s = 60\ncap_s = 600\n",
        WallTime(WALL.0 + 86_400)
    );
    signed(Kind::Plan, &text)
}

pub(super) fn stop(kind: Kind, sequence: u64) -> SignedDocument {
    let expires = match kind {
        Kind::Resume => format!("expires = \"{}\"\n", WallTime(WALL.0 + 86_400)),
        _ => String::new(),
    };
    let text = format!(
        "format = 1\nfleet = \"moon\"\nsequence = {sequence}\nissued = \"{WALL}\"\n{expires}reason = \"smoke\"\n"
    );
    signed(kind, &text)
}

/// A trust state that knows this server and the coordinator.
pub(super) fn trust(grouped: bool) -> TrustState {
    let mut trust = TrustState::anchored(&root()).unwrap();
    trust.accept(&enrolment("srv-1", SERVER, Role::Agent, grouped), WALL).unwrap();
    trust.accept(&enrolment("coordinator", COORDINATOR, Role::Coordinator, false), WALL).unwrap();
    trust
}

pub(super) fn me(trust: &TrustState) -> Arc<Verified<Enrolment>> {
    trust.machine_named(&ServerId::new("srv-1").unwrap()).unwrap().clone()
}

pub(super) fn setup(trust: &TrustState, machine_boot: u64) -> Setup {
    Setup { me: me(trust), machine_boot }
}

/// The grant that answers a claim.
pub(super) fn grant(claim: &Claim, number: u64) -> Grant {
    Grant {
        lease: LeaseId(number),
        server: claim.server.clone(),
        campaign: claim.campaign.clone(),
        plan: claim.plan,
        attempt: claim.attempt,
        nonce: claim.nonce,
        epoch: Epoch(1),
        fence: Fence(number),
        start_within_ms: 60_000,
        down_max_ms: 1_800_000,
    }
}

pub(super) fn sign(grant: &Grant) -> Signed {
    Signed::sign(grant, &machine_key(COORDINATOR)).unwrap()
}

pub(super) fn outcomes(outcome: Outcome) -> Vec<(ProbeName, Outcome)> {
    vec![(ProbeName::new("up").unwrap(), outcome)]
}

pub(super) fn bad() -> Outcome {
    Outcome::Unhealthy { found: "refused".into() }
}

pub(super) fn unknown() -> Outcome {
    Outcome::Inconclusive { reason: "timed out".into() }
}

/// All effects that wait.
pub(super) fn drain(node: &mut Node) -> Vec<Effect> {
    std::iter::from_fn(|| node.poll_effect()).collect()
}

/// Effects in short words, reports left out: they are due after every change, and have tests of their own.
pub(super) fn words(effects: &[Effect]) -> Vec<String> {
    effects.iter().filter(|effect| !matches!(effect, Effect::Report(_))).map(word).collect()
}

fn word(effect: &Effect) -> String {
    match effect {
        Effect::Persist(Record::Journal(journal)) => {
            let phase = journal.active.as_ref().map_or("-".into(), |active| active.state.phase().to_string());
            let lease = match &journal.lease.held {
                None => "",
                Some(held) if held.started.is_some() => " +started",
                Some(_) => " +lease",
            };
            format!("persist {phase}{lease}")
        }
        Effect::Persist(Record::Trust(_)) => "persist trust".into(),
        Effect::Log(transition) => format!("log {} -> {}", transition.from, transition.to),
        Effect::TrustChanged => "trust changed".into(),
        Effect::Spread { document, .. } => format!("spread {}", document.kind),
        Effect::AnswerDocument { verdict, .. } => format!("answer {verdict:?}"),
        Effect::AnswerGrant { refused, .. } => format!("answer grant {refused:?}"),
        Effect::AnswerGroup { answer, .. } => match answer {
            Some(answer) => format!("answer up={} {}", answer.up, answer.detail),
            None => "answer nothing".into(),
        },
        Effect::Claim(claim) => format!("claim attempt {}", claim.attempt),
        Effect::Release(release) => {
            let how = match &release.outcome {
                LeaseOutcome::Completed => "completed",
                LeaseOutcome::RolledBack { .. } => "rolled back",
                LeaseOutcome::NeverStarted { .. } => "never started",
            };
            format!("release {} {how}", release.lease)
        }
        Effect::Report(_) => "report".into(),
        Effect::AskGroupMembers { .. } => "ask members".into(),
        Effect::AskMember { member, .. } => format!("ask {}", member.server),
        Effect::Applier { command, .. } => match command {
            ApplierCommand::Status => "applier status".into(),
            ApplierCommand::Stage => "applier stage".into(),
            ApplierCommand::Check { .. } => "applier check".into(),
            ApplierCommand::Begin { .. } => "applier begin".into(),
            ApplierCommand::Commit => "applier commit".into(),
            ApplierCommand::RollBack { .. } => "applier roll back".into(),
        },
        Effect::Want { .. } => "want".into(),
        Effect::Probe { when, .. } => format!("probe {when:?}").to_lowercase(),
        Effect::RunHook { hook, .. } => format!("hook {}", hook.command[0]),
    }
}
