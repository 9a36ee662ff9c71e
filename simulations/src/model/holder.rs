//! One server: the production node, with its neighbours, its applier and its probes at its side.
//!
//! Owns every state that a holder can be in, each with a node that is in it, and what the node does there with
//! every input: worked out once by the node itself, looked up after that. Main invariant: a state is what the
//! node made durable, what it holds beyond that, and its surroundings; nothing else may bear on what it does.

use std::collections::VecDeque;

use lunar_agent_core::effect::{ApplierCommand, Effect, Record};
use lunar_agent_core::input::{ApplierStage, ApplierStatus, AskId, CallId, FetchProgress, Input};
use lunar_agent_core::journal::Journal;
use lunar_agent_core::node::{Node, Setup};
use lunar_agent_core::timer::Timer;
use lunar_common::health::Outcome;
use lunar_common::ids::{Attempt, Epoch, Fence, LeaseId};
use lunar_common::lease::{ClaimAnswer, ClaimRefusal, Grant, GroupAnswer};
use lunar_common::phase::Phase;
use lunar_common::time::{Now, millis};
use lunar_common::trust::{TrustSnapshot, TrustState};
use lunar_common::wire::Signed;

use super::Mutant;
use super::fleet::{Fleet, NEW, OLD, START, START_WITHIN_MS};
use super::message::{Down, Ended, Map, Numbered, Up};

/// What can happen to a holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HolderInput {
    /// A message arrives.
    Message(u16),
    /// A message arrives after the time to start is over.
    LateMessage(u16),
    /// The halt arrives.
    Halt,
    /// What is under way ends well: the last check before the start, the switch, the way back.
    Well,
    /// The switch fails.
    Fail,
    /// The wait for the next step is over.
    Step,
    /// The time to start runs out.
    StartBy,
    /// Nobody answers the claim.
    Unanswered,
    /// A release is durable at the ledger.
    Kept(u64),
}

/// What one input led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Went {
    pub(super) to: u16,
    pub(super) sent: Vec<Up>,
    /// The server went down, and the node knew of the halt.
    pub(super) started_halted: bool,
}

/// What others may see of a state.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub(super) down: bool,
    /// Rank and epoch of the lease held.
    pub(super) held: Option<(u64, u64)>,
    pub(super) floors: (u64, u64),
    pub(super) halted: bool,
    pub(super) ended: Option<Phase>,
    pub(super) goes_back: bool,
    pub(super) rolled_back: bool,
    /// What may happen to it, messages and crashes aside.
    pub(super) inputs: Vec<HolderInput>,
    pub(super) claim: Option<u64>,
    /// Ranks of leases that it has given back and whose release it still sends.
    pub(super) releases: Vec<u64>,
    rest: u16,
}

/// What the node waits for and the model decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pending {
    Check(AskId),
    Switch(AskId),
    WayBack(AskId),
}

/// A node in its surroundings.
#[derive(Clone)]
struct Local {
    node: Node,
    now: Now,
    boot: u64,
    journal: Journal,
    trust: TrustSnapshot,
    pending: Option<Pending>,
    /// The applier: durable, and true to its word.
    stage: ApplierStage,
    installed: bool,
}

/// Every state found, and every step worked out.
pub(super) struct Holders {
    mutant: Option<Mutant>,
    numbers: Numbered<Key>,
    /// What is left of a state without epochs and the numbers of claims.
    rests: Numbered<String>,
    locals: Vec<Local>,
    facts: Vec<Facts>,
    went: Map<(u16, HolderInput), Went>,
    crashes: Map<(u16, Option<HolderInput>), Vec<Went>>,
}

impl Holders {
    pub(super) fn new(mutant: Option<Mutant>) -> Self {
        Self {
            mutant,
            numbers: Numbered::default(),
            rests: Numbered::default(),
            locals: Vec::new(),
            facts: Vec::new(),
            went: Map::default(),
            crashes: Map::default(),
        }
    }

    /// A server that has just learnt of the plan, and what it has sent.
    pub(super) fn begin(&mut self, fleet: &Fleet) -> Went {
        let trust = fleet.trust.clone();
        let snapshot = trust.snapshot();
        let node = Node::new(setup(&trust, 1), trust, None, START);
        let local = Local {
            node,
            now: START,
            boot: 1,
            journal: Journal::default(),
            trust: snapshot,
            pending: None,
            stage: ApplierStage::Idle,
            installed: false,
        };
        let mut run = Run::new(fleet, local, None);
        run.go_on();
        self.keep(run, false)
    }

    pub(super) fn facts(&self, state: u16) -> &Facts {
        &self.facts[usize::from(state)]
    }

    pub(super) fn tell(&self, state: u16) -> String {
        format!("{:?}", self.numbers.get(state))
    }

    /// A state without its epochs and with the numbers of claims apart.
    pub(super) fn parts(&self, state: u16) -> (u16, &Nonces) {
        (self.facts[usize::from(state)].rest, &self.numbers.get(state).nonces)
    }

    pub(super) fn len(&self) -> usize {
        self.locals.len()
    }

    pub(super) fn step(
        &mut self,
        fleet: &Fleet,
        from: u16,
        input: HolderInput,
        message: Option<&Down>,
    ) -> &Went {
        if !self.went.contains_key(&(from, input)) {
            let mut run = Run::new(fleet, self.locals[usize::from(from)].clone(), None);
            run.take(input, message, self.mutant);
            let was_down = self.facts(from).down;
            let went = self.keep(run, !was_down);
            self.went.insert((from, input), went);
        }
        &self.went[&(from, input)]
    }

    /// What may be left when the agent dies at rest, or before any effect of a step: as a process, or with its
    /// machine. It is started again at once; how long that takes, nobody can tell here.
    pub(super) fn crashes(
        &mut self,
        fleet: &Fleet,
        from: u16,
        during: Option<HolderInput>,
        message: Option<&Down>,
    ) -> &[Went] {
        if !self.crashes.contains_key(&(from, during)) {
            let mut found: Vec<Went> = Vec::new();
            for before in 0.. {
                let mut run = Run::new(fleet, self.locals[usize::from(from)].clone(), Some(before));
                match during {
                    Some(input) => run.take(input, message, self.mutant),
                    None => run.crashed = true,
                }
                if !run.crashed {
                    break;
                }
                for machine in [false, true] {
                    let went = self.restarted(fleet, &run, machine);
                    if !found.contains(&went) {
                        found.push(went);
                    }
                }
                if during.is_none() {
                    break;
                }
            }
            self.crashes.insert((from, during), found);
        }
        &self.crashes[&(from, during)]
    }

    fn restarted(&mut self, fleet: &Fleet, dead: &Run<'_>, machine: bool) -> Went {
        let mut local = dead.local.clone();
        let trust = TrustState::restore(local.trust.clone()).expect("what was persisted verifies again");
        local.boot += u64::from(machine);
        local.node = Node::new(setup(&trust, local.boot), trust, Some(local.journal.clone()), local.now);
        local.pending = None;
        let mut run = Run::new(fleet, local, None);
        run.sent.clone_from(&dead.sent);
        run.go_on();
        self.keep(run, false)
    }

    fn keep(&mut self, run: Run<'_>, was_up: bool) -> Went {
        let Run { local, mut sent, .. } = run;
        let mut facts = facts(&local);
        sent.push(report(&local.journal));
        let started_halted = was_up && facts.down && facts.halted;
        let key = key(&local);
        facts.rest = self.rests.number(key.rest.clone());
        let to = self.numbers.number(key);
        if usize::from(to) == self.locals.len() {
            self.locals.push(local);
            self.facts.push(facts);
        }
        Went { to, sent, started_halted }
    }
}

/// Everything that bears on what this node does next. Two nodes with the same are one state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    /// Starts of its agent and claims of this one: the next claim's number follows from them.
    next: (u64, u64),
    /// The highest seen, and that of the lease held.
    epochs: (Epoch, Option<Epoch>),
    nonces: Nonces,
    /// Everything else, as text.
    rest: String,
}

/// The numbers of claims that a node knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Nonces {
    /// Of the lease held, and of the claim that is waited for.
    pub(super) held: Option<u64>,
    pub(super) claim: Option<u64>,
    /// What a grant may still answer, and whether within the time to start.
    pub(super) sendings: Vec<(u64, bool)>,
}

fn key(local: &Local) -> Key {
    assert_eq!(local.journal, *local.node.journal(), "at rest everything is durable");
    let Journal { starts, lease, active, finished, .. } = &local.journal;
    let now = local.now.moment;
    let held = lease.held.as_ref();
    let of_lease = held.map(|held| {
        let grant = &held.grant;
        (&grant.lease, grant.attempt, grant.fence, held.started.is_some(), now < held.start_by())
    });
    let releases: Vec<_> = lease
        .releases
        .iter()
        .map(|release| (release.lease, release.attempt, Ended::of(&release.outcome)))
        .collect();
    let active = active.as_ref().map(|active| {
        let decided = format!("{:?}", active.state).contains("healthy: true");
        (active.attempt, active.failures, active.state.phase(), decided)
    });
    let finished: Vec<_> = finished.values().map(|end| (end.attempt, end.phase)).collect();
    let mut volatile = local.node.volatile(now);
    let upgrade = &mut volatile.upgrade;
    let nonces = Nonces {
        held: held.map(|held| held.grant.nonce),
        claim: upgrade.claim.take(),
        // Within a day or not: only that bears on a grant.
        sendings: upgrade
            .sendings
            .drain(..)
            .map(|(nonce, age)| (nonce, millis(age) <= START_WITHIN_MS))
            .collect(),
    };
    let claims = std::mem::take(&mut upgrade.claims);
    let armed: Vec<Timer> =
        volatile.armed.drain(..).map(|(timer, _)| timer).filter(|timer| lease_timer(*timer)).collect();
    let pending = local.pending.map(|pending| match pending {
        Pending::Check(_) => "check",
        Pending::Switch(_) => "switch",
        Pending::WayBack(_) => "way back",
    });
    let halted = local.node.trust().halts().count();
    let rest = format!(
        "{:?} {of_lease:?} {releases:?} {active:?} {finished:?} {volatile:?} {armed:?} {pending:?} {:?} {} {halted}",
        lease.fence_seen, local.stage, local.installed
    );
    let epochs = (lease.epoch_seen, held.map(|held| held.grant.epoch));
    Key { next: (*starts, claims), epochs, nonces, rest }
}

/// The timers that decide about a lease; the others say when to speak and when to look at one's own health.
fn lease_timer(timer: Timer) -> bool {
    match timer {
        Timer::Step | Timer::Group | Timer::StartBy | Timer::Applier => true,
        Timer::Report | Timer::Release | Timer::Health => false,
    }
}

fn facts(local: &Local) -> Facts {
    let journal = &local.journal;
    let phase = journal.active.as_ref().map(|active| active.state.phase());
    let volatile = local.node.volatile(local.now.moment);
    let armed = |timer| volatile.armed.iter().any(|(armed, _)| *armed == timer);
    let halted = local.node.trust().halts().next().is_some();
    let mut inputs = Vec::new();
    match local.pending {
        Some(Pending::Switch(_)) => inputs.extend([HolderInput::Well, HolderInput::Fail]),
        Some(Pending::Check(_) | Pending::WayBack(_)) => inputs.push(HolderInput::Well),
        None if armed(Timer::Step) => inputs.push(HolderInput::Step),
        None => {}
    }
    if armed(Timer::StartBy) {
        inputs.push(HolderInput::StartBy);
    }
    if volatile.upgrade.claim.is_some() {
        inputs.push(HolderInput::Unanswered);
    }
    let ended = journal.finished.values().next().filter(|_| journal.active.is_none()).map(|end| end.phase);
    let asks_itself = matches!(local.pending, Some(Pending::Check(_))) || inputs.contains(&HolderInput::Step);
    if !halted && asks_itself {
        // Whether it came before shows only where the node asks whether it may start or claim.
        inputs.push(HolderInput::Halt);
    }
    let lease = &journal.lease;
    Facts {
        down: phase.is_some_and(Phase::is_down),
        held: lease.held.as_ref().map(|held| (held.grant.fence.0, held.grant.epoch.0)),
        floors: (lease.epoch_seen.0, lease.fence_seen.0),
        halted,
        ended,
        goes_back: matches!(local.pending, Some(Pending::WayBack(_))),
        rolled_back: phase == Some(Phase::RolledBack),
        inputs,
        claim: volatile.upgrade.claim,
        releases: lease.releases.iter().map(|release| release.fence.0).collect(),
        rest: 0,
    }
}

/// What a report says now. Reports leave all the time, so one with this content may always be under way.
fn report(journal: &Journal) -> Up {
    let lease = journal.lease.as_reported().map(|held| (held.fence.0, held.epoch.0, held.started));
    Up::Report { epoch_seen: journal.lease.epoch_seen.0, rank_seen: journal.lease.fence_seen.0, lease }
}

fn setup(trust: &TrustState, machine_boot: u64) -> Setup {
    let me = trust.machines().find(|machine| machine.server.as_str() == "srv-0").expect("enrolled").clone();
    Setup { me, machine_boot }
}

/// One input and all that follows from it within the server.
struct Run<'a> {
    fleet: &'a Fleet,
    local: Local,
    sent: Vec<Up>,
    answers: VecDeque<Input>,
    /// Effects until the agent dies.
    left: Option<usize>,
    crashed: bool,
}

impl<'a> Run<'a> {
    fn new(fleet: &'a Fleet, local: Local, left: Option<usize>) -> Self {
        Self { fleet, local, sent: Vec::new(), answers: VecDeque::new(), left, crashed: false }
    }

    fn take(&mut self, input: HolderInput, message: Option<&Down>, mutant: Option<Mutant>) {
        match input {
            HolderInput::Message(_) => self.hear(message.expect("a message is one"), mutant),
            HolderInput::LateMessage(_) => {
                self.pass(START_WITHIN_MS + 1);
                self.hear(message.expect("a message is one"), mutant);
            }
            HolderInput::Halt => {
                let document = self.fleet.halt_document.clone();
                self.feed(Input::Document { call: CallId(0), document });
            }
            HolderInput::Well => match self.local.pending.take().expect("something is under way") {
                Pending::Check(ask) => self.probed(ask),
                Pending::Switch(ask) => {
                    self.local.stage = ApplierStage::Applied;
                    self.applier_says(ask);
                }
                Pending::WayBack(ask) => {
                    if self.local.stage != ApplierStage::Committed {
                        self.local.stage = ApplierStage::RolledBack { cause: "told to".into() };
                    }
                    self.applier_says(ask);
                }
            },
            HolderInput::Fail => {
                let Some(Pending::Switch(ask)) = self.local.pending.take() else {
                    unreachable!("only a switch fails")
                };
                self.local.stage = ApplierStage::RolledBack { cause: "it does not start".into() };
                self.applier_says(ask);
            }
            HolderInput::Step => self.ring(Timer::Step),
            HolderInput::Kept(rank) => self.feed(Input::ReleaseAnswered { lease: LeaseId(rank), kept: true }),
            HolderInput::StartBy => {
                self.local.pending = None;
                self.ring(Timer::StartBy);
            }
            HolderInput::Unanswered => {
                let nonce = self.local.node.volatile(self.local.now.moment).upgrade.claim.expect("it claims");
                self.feed(Input::ClaimAnswered { nonce, answer: None });
            }
        }
        self.go_on();
    }

    fn hear(&mut self, message: &Down, mutant: Option<Mutant>) {
        let wanted = self.local.node.volatile(self.local.now.moment).upgrade.claim;
        let input = match *message {
            Down::Grant { rank, attempt, nonce, epoch } => {
                let lease = &self.local.journal.lease;
                let mut grant = Grant {
                    lease: LeaseId(rank),
                    server: self.fleet.names[0].clone(),
                    campaign: self.fleet.campaign.clone(),
                    plan: self.fleet.plan.hash(),
                    attempt: Attempt(attempt),
                    nonce,
                    epoch: Epoch(epoch),
                    fence: Fence(rank),
                    start_within_ms: START_WITHIN_MS,
                    down_max_ms: 1_800_000,
                };
                if mutant == Some(Mutant::OldGrantLooksNew) && wanted.is_some() && rank <= lease.fence_seen.0
                {
                    // The mutant: whatever a holder looks at to tell an old grant says that it is new.
                    (grant.epoch, grant.fence) = (lease.epoch_seen, lease.fence_seen.next());
                    grant.nonce = wanted.unwrap_or(nonce);
                    grant.attempt =
                        self.local.journal.active.as_ref().map_or(grant.attempt, |active| active.attempt);
                }
                let signed = Signed::sign(&grant, &self.fleet.coordinator).expect("a grant fits");
                if wanted == Some(nonce) {
                    Input::ClaimAnswered { nonce, answer: Some(ClaimAnswer::Granted(signed)) }
                } else {
                    Input::Grant { call: CallId(0), grant: signed }
                }
            }
            Down::Refused { nonce, over } => {
                let refusal = match over {
                    Some(attempt) => ClaimRefusal::AttemptOver(Attempt(attempt)),
                    None => ClaimRefusal::TooManyAttempts(2),
                };
                Input::ClaimAnswered { nonce, answer: Some(ClaimAnswer::Refused(refusal)) }
            }
            Down::Kept { .. } => unreachable!("acknowledgements come at once"),
        };
        self.feed(input);
    }

    fn feed(&mut self, input: Input) {
        let phase = self.phase();
        self.local.node.handle(input, self.local.now);
        if phase == Some(Phase::PreCheck) && self.phase() != phase {
            // Stood back: nobody waits for the check any more.
            self.local.pending = None;
        }
    }

    fn phase(&self) -> Option<Phase> {
        self.local.node.journal().active.as_ref().map(|active| active.state.phase())
    }

    fn pass(&mut self, by_ms: u64) {
        self.local.now.moment.0 += by_ms;
    }

    /// A timer rings, at its time.
    fn ring(&mut self, timer: Timer) {
        let armed = self.local.node.volatile(self.local.now.moment).armed;
        let at = armed.iter().find(|(armed, _)| *armed == timer).expect("only an armed timer rings").1;
        self.local.now.moment = self.local.now.moment.max(at);
        self.local.node.ring(timer, self.local.now);
    }

    /// Carries out effects and answers what the server itself answers, until it waits for somebody else.
    fn go_on(&mut self) {
        loop {
            while let Some(effect) = self.local.node.poll_effect() {
                if let Some(left) = &mut self.left {
                    if *left == 0 {
                        self.crashed = true;
                        return;
                    }
                    *left -= 1;
                }
                self.carry_out(effect);
            }
            match self.answers.pop_front() {
                Some(answer) => self.feed(answer),
                // The soak of a good version takes its time; nobody else has a say in it.
                None if self.phase() == Some(Phase::Validating) => self.ring(Timer::Step),
                None => return,
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Persist(Record::Journal(journal)) => self.local.journal = *journal,
            Effect::Persist(Record::Trust(trust)) => self.local.trust = *trust,
            Effect::Claim(claim) => self.sent.push(Up::Claim {
                attempt: claim.attempt.0,
                nonce: claim.nonce,
                epoch_seen: claim.epoch_seen.0,
                rank_seen: claim.fence_seen.0,
            }),
            Effect::Release(release) => self.sent.push(Up::Release {
                rank: release.fence.0,
                attempt: release.attempt.0,
                epoch: release.epoch.0,
                outcome: Ended::of(&release.outcome),
            }),
            Effect::Applier { ask, command, .. } => self.tell_applier(ask, &command),
            Effect::Want { .. } => {
                let complete = vec![NEW];
                self.answers
                    .push_back(Input::Fetched(FetchProgress { complete, ..FetchProgress::default() }));
            }
            Effect::Probe { ask, .. } if self.phase() == Some(Phase::PreCheck) => {
                self.local.pending = Some(Pending::Check(ask));
            }
            Effect::Probe { ask, .. } => self.probed(ask),
            Effect::AskGroupMembers { ask } => {
                self.answers.push_back(Input::GroupMembers { ask, members: Some(Vec::new()) });
            }
            // Neighbours are always up: whatever holds the limits, it is not they.
            Effect::AskMember { ask, member, question } => {
                let answer = GroupAnswer {
                    server: member.server.clone(),
                    group: question.group,
                    nonce: question.nonce,
                    up: true,
                    detail: String::new(),
                };
                let place =
                    self.fleet.names.iter().position(|name| *name == member.server).expect("enrolled");
                let answer = Signed::sign(&answer, &self.fleet.keys[place]).expect("an answer fits");
                let member = member.server.clone();
                self.answers.push_back(Input::GroupAnswered { ask, member, answer: Some(answer) });
            }
            // What a report says is read off the journal at rest.
            Effect::Report(_)
            | Effect::Log(_)
            | Effect::TrustChanged
            | Effect::Spread { .. }
            | Effect::AnswerDocument { .. }
            | Effect::AnswerGrant { .. }
            | Effect::AnswerGroup { .. } => {}
            Effect::RunHook { .. } => unreachable!("the plan has no hooks"),
        }
    }

    fn tell_applier(&mut self, ask: AskId, command: &ApplierCommand) {
        match command {
            ApplierCommand::Status | ApplierCommand::Check { .. } => {}
            ApplierCommand::Stage => self.local.stage = ApplierStage::Staged,
            ApplierCommand::Begin { .. } => {
                self.local.pending = Some(Pending::Switch(ask));
                return;
            }
            ApplierCommand::Commit => {
                self.local.stage = ApplierStage::Committed;
                self.local.installed = true;
            }
            ApplierCommand::RollBack { .. } => {
                self.local.pending = Some(Pending::WayBack(ask));
                return;
            }
        }
        self.applier_says(ask);
    }

    fn applier_says(&mut self, ask: AskId) {
        let running = vec![Some(if self.local.installed { NEW } else { OLD })];
        let status = ApplierStatus { running, stage: self.local.stage.clone() };
        self.answers.push_back(Input::Applier { ask, status: Some(status) });
    }

    fn probed(&mut self, ask: AskId) {
        let probes = self.fleet.plan.health.probes.iter();
        let outcomes = probes.map(|probe| (probe.name.clone(), Outcome::Healthy)).collect();
        self.answers.push_back(Input::Probed { ask, outcomes });
    }
}
