//! The network halves: their starts and deaths, what is handed to them, and the carrying out of their effects.
//!
//! Owns the shell of a node. Main invariant: effects are carried out in order, and what is persisted is durable
//! before the next one is carried out; nothing here decides.

use lunar_agent_core::applier::protocol::Task;
use lunar_agent_core::effect::{DocumentVerdict, Effect, Record};
use lunar_agent_core::group::ANSWERS_WITHIN;
use lunar_agent_core::input::{CallId, Input};
use lunar_common::document::{Kind, SignedDocument};
use lunar_common::health::Outcome as ProbeOutcome;
use lunar_common::ids::{Epoch, Fence, Sequence};
use lunar_common::lease::{GroupAnswer, GroupQuestion};
use lunar_common::wire::Signed;

use crate::chance::Purpose;
use crate::documents::{NEW, ends_pauses};
use crate::event::{Event, ToApplier};
use crate::faults::{CrashAt, ProcessEdge};
use crate::network::{About, Request};
use crate::options::Mutant;
use crate::server::Asker;
use crate::world::World;

/// Of ten thousand inputs that anyone may send again, how many come twice to see that nothing changes (S15).
const HANDED_IN_TWICE: u64 = 500;

impl World {
    pub(crate) fn node_up(&mut self, server: usize) {
        if self.servers[server].node.is_none() {
            self.note_of(server, "node up");
            self.servers[server].start_node(&self.documents, self.at_ms);
            self.truth.touched.push(server);
            self.check_generation(server);
            self.lagging.insert(server);
            self.swarm_returns(server);
            self.carry_out_node(server);
        }
    }

    pub(crate) fn kill_node(&mut self, server: usize, up_in_ms: u64) {
        if self.servers[server].node.is_none() {
            return;
        }
        self.note_of(server, "node killed");
        self.servers[server].kill_node();
        self.swarm_dies(server);
        self.truth.touched.push(server);
        let boot = self.servers[server].boot;
        self.put_in(up_in_ms, Event::NodeUp { server, boot });
    }

    pub(crate) fn node_alarm(&mut self, server: usize) {
        let at = &mut self.servers[server];
        at.node_alarms.rang(self.at_ms);
        let now = at.now(self.at_ms);
        let Some(node) = &mut at.node else { return };
        if node.poll_timeout().is_some_and(|due| due <= now.moment) {
            node.handle_timeout(now);
        }
        self.carry_out_node(server);
    }

    /// What anyone may send again: now and then it comes twice, and must change nothing the second time (S15).
    fn feed_node_twice(&mut self, server: usize, input: Input) {
        if !self.chance.happens(HANDED_IN_TWICE, server, Purpose::DuplicateCheck) {
            return self.feed_node(server, input);
        }
        self.feed_node(server, input.clone());
        if self.servers[server].node.is_some() {
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

    pub(crate) fn carry_out_node(&mut self, server: usize) {
        self.truth.acted.push(server);
        while let Some(effect) = self.servers[server].node.as_mut().and_then(|node| node.poll_effect()) {
            if let Some(crash) = CrashAt::passes(&mut self.servers[server].node_crash, ProcessEdge::Effect) {
                return self.kill_node(server, crash.for_ms);
            }
            self.carry_out_node_effect(server, effect);
        }
        let at = &mut self.servers[server];
        let due = at.node.as_ref().and_then(|node| node.poll_timeout());
        if let Some(when) = due.map(|moment| at.when(moment).max(self.at_ms))
            && at.node_alarms.set(when)
        {
            self.put_at(when, Event::NodeAlarm { server });
        }
    }

    fn carry_out_node_effect(&mut self, server: usize, effect: Effect) {
        let life = self.servers[server].life;
        match effect {
            Effect::Persist(record) => self.keep_node_record(server, record),
            Effect::Log(transition) => {
                let (from, to) = (transition.from, transition.to);
                self.note_of(server, &format!("{from} -> {to}: {}", transition.cause));
            }
            Effect::AnswerDocument { call, verdict } => match verdict {
                DocumentVerdict::Accepted | DocumentVerdict::Known => self.acknowledged(server, call),
                DocumentVerdict::Refused { .. } => {}
            },
            Effect::AnswerGroup { call, answer } => self.answer_group(server, call, answer),
            Effect::Claim(claim) => {
                let about = About::Claim { nonce: claim.nonce };
                self.ask_coordinator(server, Request::Claim(claim), about);
            }
            Effect::Release(release) => {
                let about = About::Release { lease: release.lease };
                self.ask_coordinator(server, Request::Release(release), about);
            }
            Effect::Report(report) => {
                let about = About::Report { number: report.number };
                self.ask_coordinator(server, Request::Report(report), about);
            }
            Effect::AskGroupMembers { ask } => {
                self.ask_coordinator(server, Request::GroupMembers { ask }, About::Members { ask });
            }
            Effect::AskMember { ask, member, question } => {
                let to = self.documents.numbered(&member.server);
                let caller = self.call(server, About::Member { ask, member: to });
                self.give_up(caller);
                if !self.is_deaf(to) {
                    let asker = Asker { server, life, call: caller.call, ask };
                    let question = Box::new((asker, question));
                    self.send(server, Event::GroupAsked { server: to, question });
                }
            }
            Effect::Applier { ask, plan, attempt, command } => {
                let task = Task { campaign: plan.campaign.clone(), plan: plan.hash(), attempt };
                let question = Box::new(ToApplier { life, ask, task, command });
                self.put_in(1, Event::AskApplier { server, question });
            }
            Effect::Want { .. } => self.swarm_wants(server),
            Effect::Probe { ask, plan, when } => {
                let outcome = self.probe(server);
                let probes = plan.health.probes.iter().filter(|probe| probe.when.contains(&when));
                let outcomes = probes.map(|probe| (probe.name.clone(), outcome.clone())).collect();
                let takes = self.takes(self.options.scenario.hold.probe_s, server, Purpose::Probe);
                let input = Box::new(Input::Probed { ask, outcomes });
                self.put_in(takes, Event::Node { server, life, input });
            }
            Effect::RunHook { ask, .. } => {
                let takes = self.takes(self.options.scenario.hold.drain_s, server, Purpose::Hook);
                let input = Box::new(Input::HookEnded { ask, failure: None });
                self.put_in(takes, Event::Node { server, life, input });
            }
            // Documents go round by comparison alone here, which is the slower of the two ways.
            Effect::TrustChanged | Effect::Spread { .. } | Effect::AnswerGrant { .. } => {}
        }
    }

    fn answer_group(&mut self, server: usize, call: CallId, answer: Option<GroupAnswer>) {
        let askers = &mut self.servers[server].askers;
        let Some(place) = askers.iter().position(|(asked, _)| *asked == call) else { return };
        let (_, asker) = askers.swap_remove(place);
        let lies = self.options.mutant == Some(Mutant::LyingNeighbours);
        let key = &self.documents.servers[server].key;
        let answer = answer.map(|answer| GroupAnswer { up: answer.up || lies, ..answer });
        let answer = answer.map(|answer| Signed::sign(&answer, key).expect("an answer is small"));
        let input = Input::GroupAnswered { ask: asker.ask, member: self.name(server).clone(), answer };
        if !self.is_deaf(asker.server) {
            self.send(server, Event::reply(asker.server, asker.life, asker.call, input));
        }
    }

    fn probe(&mut self, server: usize) -> ProbeOutcome {
        let rate = self.servers[server].flapping.rate(self.at_ms);
        let flaps = self.chance.happens(rate, server, Purpose::Flap);
        let at = &self.servers[server];
        let late = at.fails_late_ms.is_some_and(|after| self.at_ms >= at.restarted_ms + after);
        let found = match at.disk.service {
            Some(NEW) if self.options.mutant == Some(Mutant::CommitsBlindly) => return ProbeOutcome::Healthy,
            None => "not running",
            Some(_) if (at.broken_from..at.broken_until).contains(&self.at_ms) => "it failed by itself",
            Some(NEW) if at.bad_release || late => "the new release does not answer",
            Some(_) if self.at_ms < at.ready_ms => "still starting",
            Some(_) if flaps => "refused",
            Some(_) => return ProbeOutcome::Healthy,
        };
        ProbeOutcome::Unhealthy { found: found.to_owned() }
    }

    fn keep_node_record(&mut self, server: usize, record: Record) {
        if self.node_write_fails(server) {
            return;
        }
        let is_trust = matches!(record, Record::Trust(_));
        match record {
            Record::Journal(journal) => {
                let was_down = self.servers[server].is_down();
                let mut journal = journal;
                if self.options.mutant == Some(Mutant::FloorsForgotten) && journal.lease.held.is_none() {
                    (journal.lease.epoch_seen, journal.lease.fence_seen) = (Epoch(0), Fence(0));
                }
                if self.options.mutant != Some(Mutant::NoAgentJournal) {
                    self.servers[server].journal = Some(*journal);
                }
                if !was_down && self.servers[server].is_down() {
                    self.note_of(server, "starts");
                    self.check_start(server);
                }
            }
            Record::Trust(_) if self.options.mutant == Some(Mutant::TrustNeverKept) => {}
            Record::Trust(trust) => self.servers[server].trust = Some(trust),
        }
        if is_trust {
            // Before this write the node may know of a newer plan, and nobody has seen it act on that.
            self.check_generation(server);
        }
        self.check(server);
        self.node_written(server);
    }

    pub(crate) fn grant_arrives(&mut self, server: usize, grant: Signed) {
        self.feed_node_twice(server, Input::Grant { call: CallId(0), grant });
    }

    pub(crate) fn document_arrives(&mut self, server: usize, document: &SignedDocument) {
        if self.servers[server].node.is_none() {
            return;
        }
        let call = document_call(document);
        if document.kind == Kind::Resume && call != CallId(0) {
            // It may be kept before it is acknowledged, so it counts from here.
            let at = &mut self.servers[server];
            at.resumed = at.resumed.max(Sequence(call.0));
        }
        let ignores = match self.options.mutant {
            Some(Mutant::HaltsKeptBack) => true,
            Some(Mutant::HaltIgnoredWhileDownloading) => self.swarming.ignores_halts(server),
            Some(_) | None => false,
        };
        if document.kind == Kind::Halt && ignores {
            return self.acknowledged(server, call);
        }
        self.feed_node_twice(server, Input::Document { call, document: document.clone() });
    }

    /// A node has said that it holds a document: from here on a halt binds it.
    fn acknowledged(&mut self, server: usize, call: CallId) {
        let at = &mut self.servers[server];
        // Acknowledging a resume says nothing new: it counts already, and is the higher number.
        at.halted = at.halted.max(Sequence(call.0));
    }

    pub(crate) fn group_asked(&mut self, server: usize, asker: Asker, question: GroupQuestion) {
        if self.servers[server].node.is_none() {
            return;
        }
        // Each connection begins with both sides' enrolments, which one gate has verified for all.
        let name = self.name(asker.server);
        let enrolment = self.documents.all.machine_named(name).expect("every server is enrolled").clone();
        self.calls += 1;
        let call = CallId(self.calls);
        self.servers[server].askers.push((call, asker));
        self.feed_node(server, Input::GroupAsked { call, asker: enrolment, question });
    }
}

/// The call under which a halt or resume is handed in is its sequence: its acknowledgement then needs no table.
/// Everything else is call 0, which no halt has, the end of pauses among it: agents keep it, and it is none of theirs.
fn document_call(document: &SignedDocument) -> CallId {
    if ends_pauses(document) {
        return CallId(0);
    }
    let text = String::from_utf8_lossy(&document.body);
    let sequence = text.lines().find_map(|line| line.strip_prefix("sequence = "));
    CallId(match document.kind {
        Kind::Halt | Kind::Resume => sequence.and_then(|number| number.parse().ok()).unwrap_or_default(),
        _ => 0,
    })
}

/// The end of patience with a request must not come before a group's own deadline has its say.
const _: () = assert!(ANSWERS_WITHIN.as_secs() >= 10);
