//! The node in a small world that lies, loses, repeats and crashes.
//!
//! Owns a model applier and a model ledger, and drives a real node against them by a seed. Main invariant of the
//! tests here: whatever happens, the server is down only under a lease that the ledger still counts, granted in
//! time and not halted; and once the faults stop, the server ends whole on one version with its lease given back
//! and its transitions known without gaps.

use std::collections::VecDeque;
use std::time::Duration;

use lunar_common::document::{Kind, SignedDocument};
use lunar_common::health::Outcome;
use lunar_common::ids::{Attempt, Epoch};
use lunar_common::lease::{ClaimAnswer, ClaimRefusal, Grant, LeaseOutcome, Release, WaitReason};
use lunar_common::message::{Report, ReportAnswer};
use lunar_common::order::draw_below;
use lunar_common::phase::Phase;
use lunar_common::time::{Moment, Now};
use lunar_common::trust::{TrustSnapshot, TrustState};
use proptest::prelude::*;

use super::fixture::*;
use super::*;
use crate::applier::fixture::WALL;
use crate::effect::{ApplierCommand, Record};
use crate::input::{ApplierStage, ApplierStatus, FetchProgress};

/// What a run of the world does badly, in percent of the occasions.
#[derive(Debug, Clone, Copy, Default)]
struct Faults {
    lose: u64,
    repeat: u64,
    crash: u64,
    reboot: u64,
    switch: u64,
    unwell: u64,
    halt: u64,
}

/// The root half, simple and right.
#[derive(Debug, Default)]
struct Applier {
    new_runs: bool,
    at: Option<(Attempt, ApplierStage)>,
    begun: u32,
}

impl Applier {
    fn stage(&self, attempt: Attempt) -> ApplierStage {
        match &self.at {
            Some((of, stage)) if *of == attempt => stage.clone(),
            _ => ApplierStage::Idle,
        }
    }

    fn told(&mut self, attempt: Attempt, command: &ApplierCommand, now: Moment) -> ApplierStatus {
        let stage = self.stage(attempt);
        match command {
            ApplierCommand::Status => {}
            ApplierCommand::Stage if stage == ApplierStage::Idle => {
                self.at = Some((attempt, ApplierStage::Staged));
            }
            ApplierCommand::Check { grant, claim_sent } if stage == ApplierStage::Staged => {
                if let Some(refused) = self.too_late(attempt, grant, *claim_sent, now) {
                    return refused;
                }
            }
            ApplierCommand::Check { .. } => {
                return self.status(ApplierStage::Refused { reason: "not staged".into() });
            }
            ApplierCommand::Begin { grant, claim_sent } if stage == ApplierStage::Staged => {
                if let Some(refused) = self.too_late(attempt, grant, *claim_sent, now) {
                    return refused;
                }
                self.begun += 1;
                self.new_runs = true;
                self.at = Some((attempt, ApplierStage::Applied));
            }
            ApplierCommand::Commit if stage == ApplierStage::Applied => {
                self.at = Some((attempt, ApplierStage::Committed));
            }
            ApplierCommand::RollBack { cause } if stage == ApplierStage::Applied => {
                self.new_runs = false;
                self.at = Some((attempt, ApplierStage::RolledBack { cause: cause.clone() }));
            }
            ApplierCommand::Stage
            | ApplierCommand::Begin { .. }
            | ApplierCommand::Commit
            | ApplierCommand::RollBack { .. } => {}
        }
        self.status(self.stage(attempt))
    }

    fn status(&self, stage: ApplierStage) -> ApplierStatus {
        ApplierStatus { running: vec![Some(if self.new_runs { NEW } else { OLD })], stage }
    }

    fn too_late(&self, attempt: Attempt, grant: &Signed, sent: Moment, now: Moment) -> Option<ApplierStatus> {
        let grant: Grant = grant.open().unwrap();
        assert_eq!(grant.attempt, attempt);
        let late = now > sent.after(Duration::from_millis(grant.start_within_ms));
        late.then(|| self.status(ApplierStage::Refused { reason: "too late".into() }))
    }

    /// The dead man's switch.
    fn switch(&mut self) {
        if let Some((_, stage)) = &mut self.at
            && *stage == ApplierStage::Applied
        {
            *stage = ApplierStage::RolledBack { cause: "no commit in time".into() };
            self.new_runs = false;
        }
    }
}

/// One slot, counted as the ledger counts it: from the grant to the release, whatever the time.
#[derive(Debug, Default)]
struct Ledger {
    granted: u64,
    outstanding: Option<Grant>,
    over: Option<Attempt>,
    outcomes: Vec<LeaseOutcome>,
    transitions: u64,
}

impl Ledger {
    fn claim(&mut self, claim: &lunar_common::lease::Claim) -> ClaimAnswer {
        if let Some(held) = &self.outstanding {
            if held.attempt == claim.attempt {
                return ClaimAnswer::Granted(sign(held));
            }
            return ClaimAnswer::Wait { reason: WaitReason::Behind { ahead: 1 }, retry_after_ms: 500 };
        }
        if self.over >= Some(claim.attempt) {
            return ClaimAnswer::Refused(ClaimRefusal::AttemptOver(claim.attempt));
        }
        self.granted += 1;
        let grant = grant(claim, self.granted);
        self.outstanding = Some(grant.clone());
        ClaimAnswer::Granted(sign(&grant))
    }

    fn release(&mut self, release: &Release) {
        if let Some(grant) = self.outstanding.take_if(|grant| grant.lease == release.lease) {
            self.over = self.over.max(Some(grant.attempt));
            self.outcomes.push(release.outcome.clone());
        }
    }

    fn report(&mut self, report: &Report) -> ReportAnswer {
        for transition in &report.transitions {
            assert!(transition.index <= self.transitions, "a gap before transition {}", transition.index);
            if transition.index == self.transitions {
                self.transitions += 1;
            }
        }
        let transitions_kept = self.transitions.checked_sub(1);
        ReportAnswer { epoch: Epoch(1), transitions_kept, next_within_ms: 5_000 }
    }
}

struct World {
    node: Node,
    durable: (Option<Journal>, TrustSnapshot),
    now: Now,
    boot: u64,
    applier: Applier,
    ledger: Ledger,
    /// What is on its way to the node; lost with the process, but for what a coordinator pushes.
    inbox: VecDeque<Input>,
    faults: Faults,
    seed: u64,
    draws: u64,
    healthy: bool,
    halts: u64,
    halted: bool,
    effects: u64,
    /// What others hold: whoever was away is told again.
    known: Vec<SignedDocument>,
    /// Crash before carrying out this effect, once.
    crash_before: Option<u64>,
}

impl World {
    fn new(seed: u64, faults: Faults) -> Self {
        let trust = trust(false);
        let now = Now { moment: Moment(1_000_000), wall: WALL };
        let durable = (None, trust.snapshot());
        let node = Node::new(setup(&trust, 1), trust, None, now);
        let mut world = Self {
            node,
            durable,
            now,
            boot: 1,
            applier: Applier::default(),
            ledger: Ledger::default(),
            inbox: VecDeque::new(),
            faults,
            seed,
            draws: 0,
            healthy: true,
            halts: 0,
            halted: false,
            effects: 0,
            known: Vec::new(),
            crash_before: None,
        };
        world.hand_over(plan(1, false));
        world
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.draws += 1;
        draw_below(100, "world", &[&self.seed.to_le_bytes(), &self.draws.to_le_bytes()]) < percent
    }

    fn hand_over(&mut self, document: SignedDocument) {
        self.known.push(document.clone());
        self.inbox.push_back(Input::Document { call: CallId(0), document });
    }

    /// One turn: an input or a deadline, then effects, each of which may be the last one before a crash.
    fn turn(&mut self) {
        if self.chance(self.faults.switch) {
            self.applier.switch();
        }
        if self.chance(self.faults.halt) {
            self.toggle_halt();
        }
        if self.chance(self.faults.crash) {
            self.crash();
        }
        match self.inbox.pop_front() {
            Some(input) => {
                if self.chance(self.faults.repeat) {
                    self.inbox.push_back(input.clone());
                }
                self.node.handle(input, self.now);
            }
            None => {
                let next = self.node.poll_timeout().expect("a node always waits for something");
                let wait = next.since(self.now.moment);
                self.now = self.now.after(wait);
                self.node.handle_timeout(self.now);
            }
        }
        while let Some(effect) = self.node.poll_effect() {
            self.effects += 1;
            if self.crash_before == Some(self.effects) {
                self.crash_before = None;
                return self.crash();
            }
            self.carry_out(effect);
        }
    }

    fn toggle_halt(&mut self) {
        self.halts += 1;
        self.halted = !self.halted;
        let kind = if self.halted { Kind::Halt } else { Kind::Resume };
        self.hand_over(stop(kind, self.halts));
    }

    fn crash(&mut self) {
        if self.chance(self.faults.reboot) {
            self.boot += 1;
            self.now.moment = Moment(5_000);
        }
        let pushed = |input: &Input| matches!(input, Input::Grant { .. } | Input::Document { .. });
        self.inbox.retain(pushed);
        let (journal, trust) = self.durable.clone();
        let trust = TrustState::restore(trust).unwrap();
        self.node = Node::new(setup(&trust, self.boot), trust, journal, self.now);
        for document in self.known.clone() {
            self.inbox.push_back(Input::Document { call: CallId(0), document });
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Persist(Record::Journal(journal)) => {
                self.check_start(&journal);
                self.durable.0 = Some(*journal);
            }
            Effect::Persist(Record::Trust(trust)) => self.durable.1 = *trust,
            Effect::Claim(claim) => {
                let nonce = claim.nonce;
                let answer = self.over_network(|world| world.ledger.claim(&claim));
                if let Some(ClaimAnswer::Granted(grant)) = &answer
                    && self.chance(self.faults.repeat)
                {
                    // Pushed as well, perhaps much later.
                    self.inbox.push_back(Input::Grant { call: CallId(0), grant: grant.clone() });
                }
                self.inbox.push_back(Input::ClaimAnswered { nonce, answer });
            }
            Effect::Release(release) => {
                let lease = release.lease;
                let kept = self.over_network(|world| world.ledger.release(&release)).is_some();
                self.inbox.push_back(Input::ReleaseAnswered { lease, kept });
            }
            Effect::Report(report) => {
                let number = report.number;
                let answer = self.over_network(|world| world.ledger.report(&report));
                self.inbox.push_back(Input::ReportAnswered { number, answer });
            }
            Effect::Applier { ask, attempt, command, .. } => {
                let now = self.now.moment;
                let status = self.over_network(|world| world.applier.told(attempt, &command, now));
                self.inbox.push_back(Input::Applier { ask, status });
            }
            Effect::Want { plan } => {
                let complete = plan.artifacts.iter().map(|artifact| artifact.id).collect();
                self.inbox.push_back(Input::Fetched(FetchProgress { complete, ..FetchProgress::default() }));
            }
            Effect::Probe { ask, .. } => {
                let well = self.healthy && !self.chance(self.faults.unwell);
                let outcome = if well || !self.applier.new_runs { Outcome::Healthy } else { bad() };
                self.inbox.push_back(Input::Probed { ask, outcomes: outcomes(outcome) });
            }
            Effect::RunHook { ask, .. } => self.inbox.push_back(Input::HookEnded { ask, failure: None }),
            Effect::AskGroupMembers { .. } | Effect::AskMember { .. } => unreachable!("no group here"),
            Effect::Log(_)
            | Effect::TrustChanged
            | Effect::Spread { .. }
            | Effect::AnswerDocument { .. }
            | Effect::AnswerGrant { .. }
            | Effect::AnswerGroup { .. } => {}
        }
    }

    /// A request may be lost on its way, and its answer on the way back.
    fn over_network<T>(&mut self, served: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.chance(self.faults.lose) {
            return None;
        }
        let answer = served(self);
        if self.chance(self.faults.lose) { None } else { Some(answer) }
    }

    /// What must hold whenever a start becomes durable (S1, S10), and at all times while down.
    fn check_start(&self, journal: &Journal) {
        let phase = journal.active.as_ref().map(|active| active.state.phase());
        if !phase.is_some_and(Phase::is_down) {
            return;
        }
        let held = journal.lease.held.as_ref().expect("down only under a lease");
        assert!(held.started.is_some(), "down only after a journaled start");
        let counted = self.ledger.outstanding.as_ref().map(|grant| grant.lease);
        assert_eq!(counted, Some(held.grant.lease), "down under a lease that the ledger does not count");
        let before = self.durable.0.as_ref();
        let was_down =
            before.and_then(|journal| journal.active.as_ref()).is_some_and(|a| a.state.phase().is_down());
        if !was_down {
            assert!(self.now.moment < held.start_by(), "started after its time");
            let halted = self.node.trust().halts().next().is_some();
            assert!(!halted, "started under a halt");
        }
    }

    /// The faults stop; everything must come to its end.
    fn heal(&mut self) {
        self.faults = Faults::default();
        if self.halted {
            self.toggle_halt();
        }
        for _ in 0..4_000 {
            let journal = self.node.journal();
            let idle = journal.active.is_none()
                && journal.lease.releases.is_empty()
                && journal.transitions.is_empty()
                && self.inbox.is_empty();
            if idle && !journal.finished.is_empty() {
                return;
            }
            self.turn();
        }
        panic!("never came to rest: {:#?}", self.node.status());
    }

    /// What must hold at the end, whatever happened before.
    fn check_end(&self) {
        let journal = self.node.journal();
        let end = journal.finished.values().next().expect("the campaign has ended");
        assert_eq!(journal.lease.held, None);
        assert_eq!(self.ledger.outstanding, None, "the slot is free again");
        assert_eq!(self.ledger.transitions, journal.transitions_next, "every transition is known, no gaps");
        assert_eq!(self.applier.new_runs, end.phase == Phase::Complete, "whole, on the version it says");
        if end.phase == Phase::Complete {
            assert!(matches!(self.applier.at, Some((_, ApplierStage::Committed))), "{:?}", self.applier);
        }
        let used = self.ledger.outcomes.iter();
        let starts = used.filter(|outcome| !matches!(outcome, LeaseOutcome::NeverStarted { .. })).count();
        assert!(
            u32::try_from(starts).unwrap() >= self.applier.begun,
            "every begun upgrade had its own lease"
        );
    }
}

#[test]
fn a_crash_before_any_single_effect_leaves_the_server_whole_and_its_lease_accounted_for() {
    for (healthy, reboot) in [(true, 0), (true, 100), (false, 0), (false, 100)] {
        let run = |crash_before: Option<u64>| {
            let mut world = World::new(1, Faults { reboot, ..Faults::default() });
            world.healthy = healthy;
            world.crash_before = crash_before;
            for _ in 0..400 {
                if world.node.journal().active.is_none() && !world.node.journal().finished.is_empty() {
                    break;
                }
                world.turn();
            }
            world.heal();
            world.check_end();
            world
        };
        let whole = run(None);
        assert!(whole.effects > 40, "only {} effects to crash at", whole.effects);
        for effect in 1..=whole.effects {
            run(Some(effect));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_lost_repeated_halted_or_crashed_the_server_ends_whole_and_its_lease_accounted_for(
        seed in any::<u64>(),
        lose in 0..30u64,
        repeat in 0..30u64,
        crash in 0..6u64,
        reboot in 0..100u64,
        switch in 0..4u64,
        unwell in 0..20u64,
        halt in 0..5u64,
    ) {
        let mut world = World::new(seed, Faults { lose, repeat, crash, reboot, switch, unwell, halt });
        for _ in 0..250 {
            world.turn();
        }
        world.heal();
        world.check_end();
    }
}
