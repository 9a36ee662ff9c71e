//! The core under documents that people really signed: what a start, a revocation and a rotation change.
//!
//! Owns a fleet of one signer, `ann`, and of machines by name. Main invariant: what is handed to the core comes
//! out of a trust state, as in the shell.

use lunar_common::document::{Kind, SignedDocument};
use lunar_common::enrolment::{Enrolment, Role};
use lunar_common::ids::{LeaseId, PeerKey, Sequence, ServerId};
use lunar_common::lease::Occupancy;
use lunar_common::limits::Tier;
use lunar_common::pause::{Anomaly, Pause, PauseScope};
use lunar_common::time::{Moment, Now, WallTime};
use lunar_common::trust::{Accepted, TrustState};
use ssh_key::PrivateKey;
use ssh_key::private::Ed25519Keypair;

use super::rig::{appended, id};
use crate::config::Config;
use crate::coordinator::Coordinator;
use crate::effect::Effect;
use crate::event::EventBody;
use crate::input::{InForce, Input};

/// 2026-11-21T08:00:00Z.
const WALL: WallTime = WallTime(1_795_248_000);
const NOW: Now = Now { moment: Moment(1_000), wall: WALL };

fn later() -> WallTime {
    WallTime(WALL.0 + 86_400)
}

fn signed(kind: Kind, signer: u8, text: &str) -> SignedDocument {
    let key = PrivateKey::from(Ed25519Keypair::from_seed(&[signer; 32]));
    SignedDocument::sign(kind, text, [&key]).unwrap()
}

/// A machine's key: which one does not matter, as long as it is a sound one of its own.
fn key(server: &ServerId) -> PeerKey {
    PeerKey(Ed25519Keypair::from_seed(&super::rig::key(server).0).public.0)
}

/// A trust root by which ann signs roots, revocations and reaps, and this key everything else.
fn root(version: u64, second: u8) -> SignedDocument {
    let line = |seed: u8| {
        PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32])).public_key().to_openssh().unwrap()
    };
    let mut text = format!(
        "format = 1\nfleet = \"moon\"\nversion = {version}\nissued = \"{WALL}\"\nexpires = \"{}\"\n\
         [keys]\nann = \"{}\"\nsecond = \"{}\"\n",
        later(),
        line(1),
        line(second)
    );
    for (role, key) in [
        ("root", "ann"),
        ("plan", "second"),
        ("halt", "second"),
        ("resume", "second"),
        ("revoke", "ann"),
        ("reap", "ann"),
        ("enroll", "second"),
    ] {
        text.push_str(&format!("[[role]]\nname = \"{role}\"\nkeys = [\"{key}\"]\nthreshold = 1\n"));
    }
    signed(Kind::TrustRoot, 1, &text)
}

fn enrolment(name: &str, sequence: u64, enroller: u8) -> SignedDocument {
    let enrolment = Enrolment {
        format: 1,
        fleet: "moon".parse().unwrap(),
        server: id(name),
        sequence: Sequence(sequence),
        issued: WALL,
        expires: None,
        key: key(&id(name)),
        role: Role::Agent,
        hostname: name.into(),
        site: "base".parse().unwrap(),
        cluster: "one".parse().unwrap(),
        tier: Tier::Two,
        service: "web".parse().unwrap(),
        group: None,
        labels: Default::default(),
    };
    signed(Kind::Enrolment, enroller, &toml::to_string(&enrolment).unwrap())
}

fn plan(generation: u64, signer: u8) -> SignedDocument {
    let id = "02".repeat(32);
    let text = format!(
        "format = 1\nfleet = \"moon\"\ncampaign = \"web-2\"\ngeneration = {generation}\nauthor = \"second\"\n\
         issued = \"{WALL}\"\nexpires = \"{}\"\n[select]\ntiers = [2]\n\
         [[artifact]]\nname = \"web\"\nversion = \"2\"\nid = \"{id}\"\nmanifest_bytes = 1000\nbytes = 9\n\
         [install]\nkind = \"release\"\nrestart = {{ unit = \"web.service\" }}\n\
         [health]\n[[health.probe]]\nname = \"up\"\nkind = \"tcp\"\naddress = \"127.0.0.1:80\"\n",
        later()
    );
    signed(Kind::Plan, signer, &text)
}

fn stop(kind: Kind, sequence: u64, signer: u8) -> SignedDocument {
    let expires = if kind == Kind::Resume { format!("expires = \"{}\"\n", later()) } else { String::new() };
    let text = format!(
        "format = 1\nfleet = \"moon\"\nsequence = {sequence}\nissued = \"{WALL}\"\n{expires}reason = \"smoke\"\n"
    );
    signed(kind, signer, &text)
}

fn revocation(sequence: u64, names: &[&str]) -> SignedDocument {
    let keys: Vec<String> = names.iter().map(|name| format!("\"{}\"", key(&id(name)))).collect();
    let text = format!(
        "format = 1\nfleet = \"moon\"\nsequence = {sequence}\nissued = \"{WALL}\"\nkeys = [{}]\n",
        keys.join(", ")
    );
    signed(Kind::Revocation, 1, &text)
}

/// A trust state that holds these, taken in one after the other.
fn trust(documents: &[SignedDocument]) -> TrustState {
    let mut trust = TrustState::anchored(&root(1, 2)).unwrap();
    for document in documents {
        trust.accept(document, WALL).unwrap();
    }
    trust
}

/// One life after the other, with the log between them.
struct Lives {
    core: Coordinator,
    log: Vec<EventBody>,
}

impl Lives {
    fn first(trust: &TrustState) -> (Self, Vec<&'static str>) {
        let mut lives = Self { core: Coordinator::new(Config::default()), log: Vec::new() };
        let events = lives.start(trust);
        (lives, events)
    }

    fn start(&mut self, trust: &TrustState) -> Vec<&'static str> {
        self.core = Coordinator::new(Config::default());
        self.log.iter().for_each(|event| self.core.apply(event));
        self.take(Input::Started(InForce::of(trust)))
    }

    /// Hands an input in; the names of the events that it led to.
    fn take(&mut self, input: Input) -> Vec<&'static str> {
        self.core.handle(input, NOW);
        let effects: Vec<Effect> = std::iter::from_fn(|| self.core.poll_effect()).collect();
        let events: Vec<EventBody> = appended(&effects).into_iter().cloned().collect();
        let names = events.iter().map(name).collect();
        self.log.extend(events);
        names
    }

    fn changed(&mut self, trust: &TrustState) -> Vec<&'static str> {
        self.take(Input::MembersChanged(InForce::of(trust)))
    }

    fn takes_slot(&self, server: &str) -> Option<Occupancy> {
        self.core.occupancies.why(&id(server))
    }
}

fn name(event: &EventBody) -> &'static str {
    match event {
        EventBody::CoordinatorStarted { .. } => "started",
        EventBody::ServerEnrolled { .. } => "enrolled",
        EventBody::ServerRevoked { .. } => "revoked",
        EventBody::StopRules { .. } => "rules",
        EventBody::PlanAccepted { .. } => "plan",
        EventBody::Halted { .. } => "halted",
        EventBody::Resumed { .. } => "resumed",
        EventBody::Unpaused { .. } => "unpaused",
        other => panic!("no document leads to {other:?}"),
    }
}

#[test]
fn a_start_catches_up_with_everything_in_force_and_the_next_one_finds_it_known() {
    let trust = trust(&[enrolment("a", 1, 2), enrolment("b", 1, 2), plan(1, 2), stop(Kind::Halt, 1, 2)]);
    let (mut lives, events) = Lives::first(&trust);
    assert_eq!(events, ["started", "enrolled", "enrolled", "rules", "plan", "halted"]);
    assert_eq!(lives.start(&trust), ["started"]);
    assert_eq!(lives.takes_slot("a"), Some(Occupancy::Unreachable), "nobody has spoken in this life");
}

#[test]
fn what_changed_while_the_coordinator_was_down_is_caught_up_with() {
    let mut trust = trust(&[enrolment("a", 1, 2), enrolment("b", 1, 2), plan(1, 2), stop(Kind::Halt, 1, 2)]);
    let (mut lives, _) = Lives::first(&trust);
    for document in [stop(Kind::Resume, 2, 2), revocation(1, &["b"]), plan(2, 2)] {
        trust.accept(&document, WALL).unwrap();
    }
    assert_eq!(lives.start(&trust), ["started", "revoked", "rules", "plan", "resumed"]);
    assert_eq!(lives.takes_slot("b"), None);
    assert_eq!(lives.start(&trust), ["started"]);
}

#[test]
fn a_resume_of_a_pause_that_came_while_the_coordinator_was_down_ends_it_at_the_next_start() {
    let mut trust = trust(&[enrolment("a", 1, 2), plan(1, 2)]);
    let (mut lives, _) = Lives::first(&trust);
    let pause = Pause {
        campaign: "web-2".parse().unwrap(),
        plan: lives.core.campaigns()[0].plan,
        scope: PauseScope::Campaign,
        server: id("a"),
        lease: LeaseId(1),
        anomaly: Anomaly::Storm { rolled_back: 5, of: 20, stop_at: 5 },
    };
    lives.log.push(EventBody::Paused { pause: pause.clone() });
    assert_eq!(lives.start(&trust), ["started"]);
    let text = format!(
        "format = 1\nfleet = \"moon\"\ncampaign = \"web-2\"\nsequence = 1\nissued = \"{WALL}\"\n\
         expires = \"{}\"\nreason = \"a bad disk\"\npauses = [\"{}\"]\n",
        later(),
        pause.id()
    );
    trust.accept(&signed(Kind::Resume, 2, &text), WALL).unwrap();
    assert_eq!(lives.start(&trust), ["started", "unpaused"]);
    assert_eq!(lives.start(&trust), ["started"]);
}

#[test]
fn a_log_restored_from_a_copy_is_halted_and_without_revoked_machines_from_its_start() {
    let mut trust = trust(&[enrolment("a", 1, 2), enrolment("b", 1, 2), plan(1, 2)]);
    let (mut lives, _) = Lives::first(&trust);
    let copy = lives.log.clone();
    for document in [stop(Kind::Halt, 1, 2), revocation(1, &["b"])] {
        trust.accept(&document, WALL).unwrap();
    }
    lives.start(&trust);
    lives.log = copy;
    assert_eq!(lives.start(&trust), ["started", "revoked", "halted"]);
}

#[test]
fn a_revocation_takes_machines_out_and_the_next_list_lets_them_in_again() {
    let mut trust = trust(&[enrolment("a", 1, 2), enrolment("b", 1, 2)]);
    let (mut lives, _) = Lives::first(&trust);
    trust.accept(&revocation(1, &["a"]), WALL).unwrap();
    assert_eq!(lives.changed(&trust), ["revoked"]);
    assert_eq!(lives.takes_slot("a"), None);
    trust.accept(&revocation(2, &["b"]), WALL).unwrap();
    assert_eq!(lives.changed(&trust), ["enrolled", "revoked"]);
    assert_eq!(lives.takes_slot("a"), Some(Occupancy::Unreachable));
}

#[test]
fn a_machine_that_a_new_root_does_not_vouch_for_is_not_let_in_by_a_list_that_leaves_it_out() {
    let mut trust = trust(&[enrolment("a", 5, 2), enrolment("b", 5, 2)]);
    let (mut lives, _) = Lives::first(&trust);
    trust.accept(&root(2, 3), WALL).unwrap();
    assert_eq!(lives.changed(&trust), ["revoked", "revoked"]);
    trust.accept(&revocation(1, &["b"]), WALL).unwrap();
    assert_eq!(lives.changed(&trust), Vec::<&str>::new());
    // The new enroller numbers from the beginning.
    trust.accept(&enrolment("a", 1, 3), WALL).unwrap();
    let again = trust.machine_named(&id("a")).unwrap().clone();
    assert_eq!(lives.take(Input::Enrolled(again)), ["enrolled"]);
    assert_eq!(lives.takes_slot("a"), Some(Occupancy::Unreachable));
}

#[test]
fn a_halt_stops_though_one_with_a_higher_number_was_resumed_before_the_numbers_began_anew() {
    let mut trust = trust(&[enrolment("a", 1, 2), plan(1, 2), stop(Kind::Halt, 8, 2)]);
    let (mut lives, _) = Lives::first(&trust);
    let Accepted::Resume(resume) = trust.accept(&stop(Kind::Resume, 9, 2), WALL).unwrap() else {
        panic!("a resume is one")
    };
    assert_eq!(lives.take(Input::Resume(resume)), ["resumed"]);
    trust.accept(&root(2, 3), WALL).unwrap();
    lives.changed(&trust);
    let Accepted::Halt(halt) = trust.accept(&stop(Kind::Halt, 1, 3), WALL).unwrap() else {
        panic!("a halt is one")
    };
    assert_eq!(lives.take(Input::Halt(halt.clone())), ["halted"]);
    assert_eq!(lives.take(Input::Halt(halt)), Vec::<&str>::new());
    assert_eq!(lives.core.status().halts.len(), 1);
    let Accepted::Resume(resume) = trust.accept(&stop(Kind::Resume, 2, 3), WALL).unwrap() else {
        panic!("a resume is one")
    };
    assert_eq!(lives.take(Input::Resume(resume)), ["resumed"]);
    assert_eq!(lives.start(&trust), ["started"]);
}

#[test]
fn a_plan_that_a_new_root_numbers_from_the_beginning_is_the_one_in_force() {
    let mut trust = trust(&[plan(7, 2)]);
    let (mut lives, _) = Lives::first(&trust);
    trust.accept(&root(2, 3), WALL).unwrap();
    lives.changed(&trust);
    let Accepted::Plan(plan) = trust.accept(&plan(1, 3), WALL).unwrap() else { panic!("a plan is one") };
    assert_eq!(lives.take(Input::Plan(plan.clone())), ["rules", "plan"]);
    assert_eq!(lives.core.campaigns()[0].plan, plan.hash());
    assert_eq!(lives.start(&trust), ["started"]);
}
