//! The world: one clock, one queue, and everything in it.
//!
//! Owns [`World`] and the loop. Main invariant: after every durable change anywhere, the invariants hold on the
//! world's truth; the first violation ends the run. Refuses to decide anything that a core decides.

use std::collections::BTreeSet;

use lunar_agent_core::applier::input::RunId;
use lunar_agent_core::applier::protocol::Task;
use lunar_agent_core::effect::{ApplierCommand, DocumentVerdict, Effect, Record};
use lunar_agent_core::group::ANSWERS_WITHIN;
use lunar_agent_core::input::{AskId, CallId, FetchProgress, Input};
use lunar_common::document::{Kind, SignedDocument};
use lunar_common::health::Outcome as ProbeOutcome;
use lunar_common::ids::{Epoch, Fence, Sequence, ServerId};
use lunar_common::lease::{GroupAnswer, GroupQuestion};
use lunar_common::phase::Phase;
use lunar_common::wire::Signed;

use crate::chance::Chance;
use crate::coordinator::Host;
use crate::documents::{Documents, NEW, START};
use crate::faults::{CrashAt, Edges, Strike};
use crate::invariants::{self, Violation};
use crate::network::{About, Caller, Request};
use crate::options::{Mutant, Options};
use crate::queue::Queue;
use crate::server::{Asker, Server};
use crate::trace::Trace;

/// How often everyone compares documents with the others, in milliseconds.
const SYNC_MS: u64 = 15_000;

/// How often the coordinator's store is copied, in milliseconds.
const BACKUP_MS: u64 = 25_000;

/// Something that happens.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    NodeUp {
        server: usize,
        boot: u64,
    },
    ApplierUp {
        server: usize,
        boot: u64,
    },
    CoordinatorUp,
    NodeAlarm {
        server: usize,
    },
    ApplierAlarm {
        server: usize,
    },
    CoordinatorAlarm,
    /// A request of an agent arrives at the coordinator.
    Arrives {
        request: Request,
        caller: Caller,
    },
    /// An answer arrives, or nobody answered.
    Reply {
        server: usize,
        life: u64,
        call: u64,
        input: Input,
    },
    /// Something inside one life of an agent is over.
    Node {
        server: usize,
        life: u64,
        input: Input,
    },
    /// A pushed grant arrives.
    Grant {
        server: usize,
        grant: Signed,
    },
    /// The coordinator is heard.
    Reachable {
        server: usize,
    },
    /// A document arrives at a server.
    Document {
        server: usize,
        document: SignedDocument,
    },
    /// A document arrives at the coordinator.
    CoordinatorDocument {
        document: SignedDocument,
    },
    /// A question arrives at a member of a group.
    GroupAsked {
        server: usize,
        asker: Asker,
        question: GroupQuestion,
    },
    AskApplier {
        server: usize,
        life: u64,
        ask: AskId,
        task: Task,
        command: ApplierCommand,
    },
    StepEnded {
        server: usize,
        life: u64,
        run: RunId,
    },
    /// Everyone compares documents.
    Sync,
    BackUp,
    Strike(Strike),
    FaultsEnd,
}

/// How a run ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The hash of all that happened.
    pub trace: u64,
    /// Lines in the trace.
    pub lines: u64,
    /// When everything had settled, in milliseconds.
    pub settled_ms: u64,
    /// Servers on the new version.
    pub completed: usize,
    /// Servers back on the old one.
    pub back: usize,
    /// Rare things that happened in it: over many runs each must happen somewhere.
    pub sometimes: BTreeSet<&'static str>,
}

/// Everything.
#[derive(Debug)]
pub struct World {
    pub(crate) options: Options,
    pub(crate) documents: Documents,
    pub(crate) chance: Chance,
    queue: Queue<Event>,
    pub(crate) at_ms: u64,
    pub(crate) host: Host,
    pub(crate) servers: Vec<Server>,
    pub(crate) calls: u64,
    /// Documents that people gave out: whoever lacks one is told again.
    pub(crate) published: Vec<SignedDocument>,
    pub(crate) stops: u64,
    pub(crate) faulty: bool,
    /// Faults that wait for a message or an effect to come by.
    pub(crate) edges: Edges,
    /// Below these numbers the coordinator must never fall: those of its log when it was last restored.
    pub(crate) restored_floor: (Epoch, Fence),
    pub(crate) trace: Trace,
    pub(crate) violation: Option<Violation>,
    /// Rare things that have happened.
    pub(crate) sometimes: BTreeSet<&'static str>,
}

impl World {
    /// A world in which nothing has happened yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let documents =
            Documents::new(options.scenario.servers(), options.mutant.is_some_and(Mutant::widens_limits));
        let mut trust = documents.anchor.clone();
        for machine in documents.servers.iter().chain([&documents.coordinator]) {
            trust.accept(&machine.enrolment, START).expect("the enrolment is genuine");
        }
        let servers = documents.servers.iter().map(|machine| Server::new(machine.clone(), &documents.anchor));
        let mut world = Self {
            servers: servers.collect(),
            host: Host::new(trust),
            chance: Chance::new(options.seed),
            options,
            documents,
            queue: Queue::default(),
            at_ms: 0,
            calls: 0,
            published: Vec::new(),
            stops: 0,
            faulty: true,
            edges: Edges::default(),
            restored_floor: (Epoch(0), Fence(0)),
            trace: Trace::default(),
            violation: None,
            sometimes: BTreeSet::new(),
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        self.put_at(0, Event::CoordinatorUp);
        for server in 0..self.servers.len() {
            self.put_at(10, Event::ApplierUp { server, boot: 1 });
            self.put_at(20, Event::NodeUp { server, boot: 1 });
        }
        self.published.push(self.documents.plan.clone());
        self.put_at(2_000, Event::Sync);
        self.put_at(BACKUP_MS, Event::BackUp);
        self.plan_faults();
        self.put_at(self.options.scenario.faulty_ms(), Event::FaultsEnd);
    }

    /// Runs until everything has settled, or something is violated.
    ///
    /// # Errors
    /// The [`Violation`].
    pub fn run(mut self) -> Result<Outcome, Box<Violation>> {
        let bound_ms = self.options.scenario.faulty_ms() + invariants::l1_settles::bound_ms(&self.options);
        while self.violation.is_none() {
            if !self.faulty && invariants::l1_settles::is_settled(&self) {
                return self.settled();
            }
            let Some((at_ms, event)) = self.queue.pop() else { break };
            self.at_ms = at_ms;
            if at_ms > bound_ms {
                self.violation = Some(invariants::l1_settles::not_settled(&self));
                break;
            }
            self.happen(event);
            self.check();
            self.check_not_stuck();
        }
        Err(self.violated())
    }

    fn settled(mut self) -> Result<Outcome, Box<Violation>> {
        if let Some(violation) = invariants::l1_settles::wrong_end(&self) {
            self.violation = Some(violation);
            return Err(self.violated());
        }
        let ended = |phase: Phase| {
            let journals = self.servers.iter().filter_map(|server| server.journal.as_ref());
            journals.filter(|journal| journal.finished.values().all(|end| end.phase == phase)).count()
        };
        let completed = ended(Phase::Complete);
        Ok(Outcome {
            trace: self.trace.hash,
            lines: self.trace.count,
            settled_ms: self.at_ms,
            completed,
            back: self.servers.len() - completed,
            sometimes: self.sometimes,
        })
    }

    fn violated(self) -> Box<Violation> {
        let mut violation = self.violation.expect("a run ends settled or violated");
        violation.at_ms = self.at_ms;
        violation.options = Some(self.options);
        violation.trace = self.trace.last();
        Box::new(violation)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::NodeUp { server, boot } if self.servers[server].boot == boot => self.node_up(server),
            Event::ApplierUp { server, boot } if self.servers[server].boot == boot => self.applier_up(server),
            // The machine lost its power meanwhile: another start is on its way.
            Event::NodeUp { .. } | Event::ApplierUp { .. } => {}
            Event::CoordinatorUp => self.coordinator_up(),
            Event::NodeAlarm { server } => self.node_alarm(server),
            Event::ApplierAlarm { server } => self.applier_alarm(server),
            Event::CoordinatorAlarm => self.coordinator_alarm(),
            Event::Arrives { request, caller } => {
                if !self.is_cut_off(caller.server) {
                    self.arrives(request, caller);
                }
            }
            Event::Reply { server, life, call, input } => self.replied(server, life, call, input),
            Event::Node { server, life, input } => {
                if self.servers[server].life == life && self.servers[server].node.is_some() {
                    self.feed_node(server, input);
                }
            }
            Event::Grant { server, grant } => {
                self.feed_node_twice(server, Input::Grant { call: CallId(0), grant });
            }
            Event::Reachable { server } => self.feed_node(server, Input::CoordinatorReachable),
            Event::Document { server, document } => self.document_arrives(server, document),
            Event::CoordinatorDocument { document } => self.coordinator_takes(&document),
            Event::GroupAsked { server, asker, question } => self.group_asked(server, asker, question),
            Event::AskApplier { server, life, ask, task, command } => {
                self.ask_applier(server, life, ask, task, command);
            }
            Event::StepEnded { server, life, run } => self.step_ended(server, life, run),
            Event::Sync => self.sync(),
            Event::BackUp => {
                self.back_up();
                self.put_in(BACKUP_MS, Event::BackUp);
            }
            Event::Strike(strike) => self.strike(strike),
            Event::FaultsEnd => self.end_faults(),
        }
    }

    fn node_up(&mut self, server: usize) {
        if self.servers[server].node.is_none() {
            self.note(&format!("{server} node up"));
            self.servers[server].start_node(self.at_ms);
            self.carry_out_node(server);
        }
    }

    pub(crate) fn kill_node(&mut self, server: usize, up_in_ms: u64) {
        if self.servers[server].node.is_none() {
            return;
        }
        self.note(&format!("{server} node killed"));
        self.servers[server].kill_node();
        let boot = self.servers[server].boot;
        self.put_in(up_in_ms, Event::NodeUp { server, boot });
    }

    fn node_alarm(&mut self, server: usize) {
        let at = &mut self.servers[server];
        let now = at.now(self.at_ms);
        let Some(node) = &mut at.node else { return };
        at.node_alarm = None;
        if node.poll_timeout().is_some_and(|due| due <= now.moment) {
            node.handle_timeout(now);
        }
        self.carry_out_node(server);
    }

    fn coordinator_alarm(&mut self) {
        let now = self.coordinator_now();
        let Some(core) = &mut self.host.core else { return };
        self.host.alarm = None;
        if core.poll_timeout().is_some_and(|due| due <= now.moment) {
            core.handle_timeout(now);
        }
        self.carry_out_coordinator();
    }

    /// What anyone may send again: now and then it comes twice, and must change nothing the second time (S15).
    fn feed_node_twice(&mut self, server: usize, input: Input) {
        self.feed_node(server, input.clone());
        if self.servers[server].node.is_some() && self.chance.happens(500, server, "duplicate-check") {
            let what = format!("{input:?}");
            let before = self.servers[server].journal.clone();
            self.feed_node(server, input);
            if self.servers[server].node.is_some() {
                let after = self.servers[server].journal.clone();
                self.check_unchanged("an agent's journal", before, after, &what);
            }
        }
    }

    pub(crate) fn feed_node(&mut self, server: usize, input: Input) {
        let at = &mut self.servers[server];
        let now = at.now(self.at_ms);
        if let Some(node) = &mut at.node {
            node.handle(input, now);
            self.carry_out_node(server);
        }
    }

    fn carry_out_node(&mut self, server: usize) {
        while let Some(effect) = self.servers[server].node.as_mut().and_then(|node| node.poll_effect()) {
            if let Some(crash) = CrashAt::passes(&mut self.servers[server].node_crash) {
                return self.kill_node(server, crash.for_ms);
            }
            self.carry_out_node_effect(server, effect);
        }
        let at = &mut self.servers[server];
        let due = at.node.as_ref().and_then(|node| node.poll_timeout());
        if let Some(when) = due.map(|moment| at.when(moment).max(self.at_ms))
            && at.node_alarm != Some(when)
        {
            at.node_alarm = Some(when);
            self.put_at(when, Event::NodeAlarm { server });
        }
    }

    fn carry_out_node_effect(&mut self, server: usize, effect: Effect) {
        let life = self.servers[server].life;
        match effect {
            Effect::Persist(record) => self.keep_node_record(server, record),
            Effect::Log(transition) => {
                let (from, to) = (transition.from, transition.to);
                self.note(&format!("{server} {from} -> {to}: {}", transition.cause));
            }
            Effect::AnswerDocument { call, verdict } => match verdict {
                DocumentVerdict::Accepted | DocumentVerdict::Known => self.acknowledged(server, call),
                DocumentVerdict::Refused { .. } => {}
            },
            Effect::AnswerGroup { call, answer } => {
                let Some(asker) = self.servers[server].askers.remove(&call) else { return };
                let lies = self.options.mutant == Some(Mutant::LyingNeighbours);
                let key = &self.servers[server].enrolled.key;
                let answer = answer.map(|answer| GroupAnswer { up: answer.up || lies, ..answer });
                let answer = answer.map(|answer| Signed::sign(&answer, key).expect("an answer is small"));
                let member = self.servers[server].enrolled.server.clone();
                let input = Input::GroupAnswered { ask: asker.ask, member, answer };
                let Asker { server: to, life, call, .. } = asker;
                if !self.is_cut_off(to) {
                    self.send(server, to + 1, Event::Reply { server: to, life, call, input });
                }
            }
            Effect::Claim(claim) => {
                let nonce = claim.nonce;
                let none = Input::ClaimAnswered { nonce, answer: None };
                self.ask_coordinator(server, Request::Claim(claim), About::Claim { nonce }, none);
            }
            Effect::Release(release) => {
                let lease = release.lease;
                let none = Input::ReleaseAnswered { lease, kept: false };
                self.ask_coordinator(server, Request::Release(release), About::Release { lease }, none);
            }
            Effect::Report(report) => {
                let number = report.number;
                let none = Input::ReportAnswered { number, answer: None };
                self.ask_coordinator(server, Request::Report(report), About::Report { number }, none);
            }
            Effect::AskGroupMembers { ask } => {
                let none = Input::GroupMembers { ask, members: None };
                self.ask_coordinator(server, Request::GroupMembers { ask }, About::Members, none);
            }
            Effect::AskMember { ask, member, question } => {
                let none = Input::GroupAnswered { ask, member: member.server.clone(), answer: None };
                let (call, life) = self.call(server, none);
                let asker = Asker { server, life, call, ask };
                let to = self.numbered(&member.server);
                if !self.is_cut_off(to) {
                    self.send(server, to + 1, Event::GroupAsked { server: to, asker, question });
                }
            }
            Effect::Applier { ask, plan, attempt, command } => {
                let task = Task { campaign: plan.campaign.clone(), plan: plan.hash(), attempt };
                self.put_in(1, Event::AskApplier { server, life, ask, task, command });
            }
            Effect::Want { plan } => {
                let complete = plan.artifacts.iter().map(|artifact| artifact.id).collect();
                let progress = FetchProgress { complete, ..FetchProgress::default() };
                let takes = self.chance.between(500, 20_000, server, "fetch");
                self.put_in(takes, Event::Node { server, life, input: Input::Fetched(progress) });
            }
            Effect::Probe { ask, plan, when } => {
                let outcome = self.probe(server);
                let probes = plan.health.probes.iter().filter(|probe| probe.when.contains(&when));
                let outcomes = probes.map(|probe| (probe.name.clone(), outcome.clone())).collect();
                let takes = self.chance.between(5, 300, server, "probe");
                self.put_in(takes, Event::Node { server, life, input: Input::Probed { ask, outcomes } });
            }
            Effect::RunHook { ask, .. } => {
                let takes = self.chance.between(50, 2_000, server, "hook");
                let input = Input::HookEnded { ask, failure: None };
                self.put_in(takes, Event::Node { server, life, input });
            }
            // Documents go round by comparison alone here, which is the slower of the two ways.
            Effect::TrustChanged | Effect::Spread { .. } | Effect::AnswerGrant { .. } => {}
        }
    }

    fn probe(&mut self, server: usize) -> ProbeOutcome {
        let rate = self.servers[server].flapping.rate(self.at_ms);
        let flaps = self.chance.happens(rate, server, "flap");
        let at = &self.servers[server];
        let found = match at.disk.service {
            None => "not running",
            Some(NEW) if at.bad_release => "the new release does not answer",
            Some(_) if flaps => "refused",
            Some(_) => return ProbeOutcome::Healthy,
        };
        ProbeOutcome::Unhealthy { found: found.to_owned() }
    }

    fn keep_node_record(&mut self, server: usize, record: Record) {
        match record {
            Record::Journal(journal) => {
                let was_down = self.servers[server].is_down();
                if self.options.mutant != Some(Mutant::NoAgentJournal) {
                    self.servers[server].journal = Some(*journal);
                }
                if !was_down && self.servers[server].is_down() {
                    self.note(&format!("{server} starts"));
                    self.check_start(server);
                }
            }
            Record::Trust(trust) => self.servers[server].trust = *trust,
        }
        self.check();
    }

    fn document_arrives(&mut self, server: usize, document: SignedDocument) {
        if self.servers[server].node.is_none() {
            return;
        }
        let call = document_call(&document);
        if document.kind == Kind::Resume {
            // It may be kept before it is acknowledged, so it counts from here.
            let at = &mut self.servers[server];
            at.resumed = at.resumed.max(Sequence(call.0));
        }
        if document.kind == Kind::Halt && self.options.mutant == Some(Mutant::HaltsKeptBack) {
            return self.acknowledged(server, call);
        }
        self.feed_node_twice(server, Input::Document { call, document });
    }

    /// A node has said that it holds a document: from here on a halt binds it.
    fn acknowledged(&mut self, server: usize, call: CallId) {
        let at = &mut self.servers[server];
        // Acknowledging a resume says nothing new: it counts already, and is the higher number.
        at.halted = at.halted.max(Sequence(call.0));
    }

    fn group_asked(&mut self, server: usize, asker: Asker, question: GroupQuestion) {
        if self.servers[server].node.is_none() {
            return;
        }
        // Each connection begins with both sides' enrolments.
        let document = &self.servers[asker.server].enrolled.enrolment;
        let trust = self.servers[server].node.as_ref().expect("it is up").trust();
        let enrolment = trust.verify_enrolment(document).expect("nobody is revoked here");
        self.calls += 1;
        let call = CallId(self.calls);
        self.servers[server].askers.insert(call, asker);
        self.feed_node(server, Input::GroupAsked { call, asker: enrolment, question });
    }

    /// Everyone compares documents with the people's: a lost one comes again.
    fn sync(&mut self) {
        for document in self.published.clone() {
            let hash = document.hash();
            for server in 0..self.servers.len() {
                let Some(node) = &self.servers[server].node else { continue };
                if !node.trust().documents().iter().any(|known| known.hash() == hash) {
                    self.send(server, 99, Event::Document { server, document: document.clone() });
                }
            }
            self.put_in(1, Event::CoordinatorDocument { document });
        }
        self.put_in(SYNC_MS, Event::Sync);
    }

    pub(crate) fn numbered(&self, server: &ServerId) -> usize {
        let mut all = self.servers.iter();
        all.position(|other| other.enrolled.server == *server).expect("only members are spoken of")
    }

    pub(crate) fn put_at(&mut self, at_ms: u64, event: Event) {
        self.queue.put(at_ms, event);
    }

    pub(crate) fn put_in(&mut self, in_ms: u64, event: Event) {
        self.queue.put(self.at_ms + in_ms, event);
    }

    pub(crate) fn note(&mut self, text: &str) {
        self.trace.line(self.at_ms, text);
    }
}

/// The call under which a halt or resume is handed in is its sequence: its acknowledgement then needs no table.
/// Everything else is call 0, which no halt has.
fn document_call(document: &SignedDocument) -> CallId {
    let text = String::from_utf8_lossy(&document.body);
    let sequence = text.lines().find_map(|line| line.strip_prefix("sequence = "));
    CallId(match document.kind {
        Kind::Halt | Kind::Resume => sequence.and_then(|number| number.parse().ok()).unwrap_or_default(),
        _ => 0,
    })
}

/// The end of patience with a request must not come before a group's own deadline has its say.
const _: () = assert!(ANSWERS_WITHIN.as_secs() >= 10);
