//! The coordinator's host: its log, its trust state, and the carrying out of its effects.
//!
//! Owns [`Host`] and the ledger as the durable log tells it. Main invariant: an event is in the log before
//! anything behind it leaves; a crash between two effects keeps what was before and loses what was after.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lunar_common::document::{Kind, SignedDocument};
use lunar_common::ids::{Epoch, Fence, LeaseId, ServerId};
use lunar_common::lease::{ClaimAnswer, LeaseOutcome, Release};
use lunar_common::plan::StopRules;
use lunar_common::time::{Moment, Now};
use lunar_common::trust::{Accepted, TrustSnapshot, TrustState};
use lunar_common::wire::Signed;
use lunar_coordinator_core::Coordinator;
use lunar_coordinator_core::config::Config;
use lunar_coordinator_core::effect::{Answer, Effect};
use lunar_coordinator_core::event::{EventBody, Evidence, LeaseNews, LeaseStep};
use lunar_coordinator_core::input::{InForce, Input, RequestId};

use crate::chance::Purpose;
use crate::documents::ends_pauses;
use crate::event::Event;
use crate::faults::{CoordinatorEdge, RESTART_MS};
use crate::invariants::s13_stop::Stops;
use crate::network::{Caller, Request};
use crate::options::Mutant;
use crate::world::World;

/// Copies of the log that an operator keeps.
const BACKUPS_KEPT: usize = 3;

/// Of ten thousand requests, how many are handed in twice to see that nothing changes (S15).
const HANDED_IN_TWICE: u64 = 500;

/// How long putting a backup back takes, in milliseconds: longer than any message is on its way.
const RESTORE_MS: u64 = 12_000;

/// Leases by the durable log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    pub(crate) held: BTreeMap<ServerId, (LeaseId, Epoch, Fence)>,
    pub(crate) epoch: Epoch,
    pub(crate) fence: Fence,
    /// The newest transition of each server.
    pub(crate) audited: BTreeMap<ServerId, u64>,
    /// A transition that came twice or left a gap.
    pub(crate) audit_wrong: Option<String>,
    /// An older copy was put back: what was after it is missing.
    pub(crate) restored: bool,
    /// What is paused, and what should be.
    pub(crate) stops: Stops,
}

impl Ledger {
    fn apply(&mut self, event: &EventBody) {
        self.stops.apply(event);
        if let EventBody::CoordinatorStarted { epoch } = event {
            self.epoch = *epoch;
        }
        if let EventBody::StateRestored { epoch, fence, .. } = event {
            (self.epoch, self.fence) = (*epoch, *fence);
        }
        if let EventBody::Granted(granted) = event {
            self.fence = granted.fence;
        }
        if let EventBody::Transition { server, transition } = event {
            let index = transition.index;
            let wanted = self.audited.insert(server.clone(), index).map_or(0, |last| last + 1);
            if index < wanted || index > wanted && !self.restored {
                self.audit_wrong =
                    Some(format!("transition {index} of {server} came where {wanted} was next"));
            }
        }
        if let Some(LeaseNews { server, lease, step }) = event.lease_news() {
            match step {
                LeaseStep::Held { epoch, fence } => {
                    self.held.insert(server.clone(), (lease, epoch, fence));
                }
                LeaseStep::Over => {
                    if self.held.get(server).is_some_and(|(held, _, _)| *held == lease) {
                        self.held.remove(server);
                    }
                }
                LeaseStep::Changed => {}
            }
        }
    }
}

/// The coordinator's machine.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) core: Option<Coordinator>,
    pub(crate) log: Vec<EventBody>,
    pub(crate) ledger: Ledger,
    trust: TrustState,
    durable_trust: Arc<TrustSnapshot>,
    backups: Vec<(usize, Arc<TrustSnapshot>)>,
    config: Config,
    /// It may lack a document that people gave out.
    pub(crate) lagging: bool,
    requests: BTreeMap<RequestId, Caller>,
    asked: u64,
    pub(crate) alarm: Option<u64>,
}

impl Host {
    pub(crate) fn new(trust: TrustState, report_interval_s: u32, stop: &StopRules) -> Self {
        let report_every = Duration::from_secs(report_interval_s.into());
        let defaults = Config::default();
        let unreachable_after = report_every * 3 + Duration::from_secs(10);
        let config = Config { report_every, unreachable_after, ..defaults };
        Self {
            config,
            lagging: true,
            core: None,
            log: Vec::new(),
            ledger: Ledger { stops: Stops::new(stop), ..Ledger::default() },
            durable_trust: Arc::new(trust.snapshot()),
            trust,
            backups: Vec::new(),
            requests: BTreeMap::new(),
            asked: 0,
            alarm: None,
        }
    }

    fn append(&mut self, event: EventBody, mutant: Option<Mutant>) {
        let dropped = match mutant {
            Some(Mutant::FreesNothing) => matches!(event, EventBody::Released { .. }),
            Some(Mutant::LosesTransitions) => matches!(event, EventBody::Transition { .. }),
            Some(_) | None => false,
        };
        if dropped {
            return;
        }
        let event = match event {
            EventBody::Lost { server, lease, .. } if mutant == Some(Mutant::FreesOnExpiry) => {
                let fence = self.ledger.fence;
                EventBody::Released { server, lease, fence, task: None, evidence: Evidence::Report }
            }
            other => other,
        };
        self.ledger.apply(&event);
        self.log.push(event);
    }
}

impl World {
    pub(crate) fn coordinator_now(&self) -> Now {
        Now {
            moment: Moment(self.at_ms + 1_000),
            wall: self.host.trust.trusted_time(self.edges.coordinator_clock.wall(self.at_ms)),
        }
    }

    pub(crate) fn coordinator_up(&mut self) {
        if self.host.core.is_some() {
            return;
        }
        self.note("coordinator up");
        self.host.trust = TrustState::restore(TrustSnapshot::clone(&self.host.durable_trust))
            .expect("what was persisted verifies again");
        let mut core = Coordinator::new(self.host.config.clone());
        for event in &self.host.log {
            core.apply(event);
        }
        self.host.core = Some(core);
        self.host.alarm = None;
        let in_force = InForce::of(&self.host.trust);
        self.feed_coordinator(Input::Started(in_force));
    }

    pub(crate) fn kill_coordinator(&mut self, up_in_ms: u64) {
        if self.host.core.take().is_none() {
            return;
        }
        self.note("coordinator killed");
        self.put_in(up_in_ms, Event::CoordinatorUp);
    }

    pub(crate) fn back_up(&mut self) {
        let backup = (self.host.log.len(), self.host.durable_trust.clone());
        self.host.backups.push(backup);
        if self.host.backups.len() > BACKUPS_KEPT {
            self.host.backups.remove(0);
        }
    }

    /// An operator puts an older copy back. Longer than any message is on its way: with the process its
    /// connections died, and nobody restores a machine within seconds.
    pub(crate) fn restore_backup(&mut self, age: usize) {
        if self.host.core.is_none() || self.host.backups.is_empty() {
            return;
        }
        self.kill_coordinator(RESTORE_MS);
        let chosen = self.host.backups.len().saturating_sub(1 + age);
        self.host.backups.truncate(chosen + 1);
        let (length, trust) = self.host.backups[chosen].clone();
        let before = self.host.ledger.clone();
        self.host.log.truncate(length);
        self.host.durable_trust = trust;
        let mut ledger = Ledger { restored: true, stops: before.stops.anew(), ..Ledger::default() };
        self.host.log.iter().for_each(|event| ledger.apply(event));
        for server in &mut self.servers {
            if before.held.get(&server.name) != ledger.held.get(&server.name) {
                // Until the coordinator has been told.
                server.forgotten = Some(self.at_ms + RESTORE_MS);
                self.forgotten.insert(server.number);
            }
        }
        self.note(&format!("backup restored: {length} events"));
        self.restored_floor = (ledger.epoch, ledger.fence);
        self.host.ledger = ledger;
    }

    /// A request of an agent arrives.
    pub(crate) fn arrives(&mut self, request: Request, caller: Caller) {
        if self.old_takes(&request, caller) {
            return;
        }
        if self.host.core.is_none() {
            return self.give_up(caller);
        }
        let from = self.documents.servers[caller.server].peer;
        self.host.asked += 1;
        let id = RequestId(self.host.asked);
        let input = match request {
            Request::Claim(claim) => Input::Claim { request: id, from, claim },
            Request::Release(release) => {
                let release = self.as_the_ledger_reads(release);
                Input::Release { request: id, from, release }
            }
            Request::Report(report) => Input::Report { request: id, from, report: *report },
            Request::GroupMembers { ask } => return self.tell_members(caller, ask),
        };
        let again = self.chance.happens(HANDED_IN_TWICE, caller.server, Purpose::DuplicateCheck);
        let again = again.then(|| input.clone());
        self.host.requests.insert(id, caller);
        self.feed_coordinator(input);
        if let Some(input) = again {
            self.check_duplicate(input, caller);
        }
        // Whoever was not answered by now never is: the coordinator died on the way.
        for (_, caller) in std::mem::take(&mut self.host.requests) {
            self.give_up(caller);
        }
    }

    /// Word for word, unless the mutant takes every release for one of what its server holds now.
    fn as_the_ledger_reads(&self, mut release: Release) -> Release {
        if self.options.mutant == Some(Mutant::UnfencedRelease)
            && let Some((lease, epoch, fence)) = self.host.ledger.held.get(&release.server)
        {
            (release.lease, release.epoch, release.fence) = (*lease, *epoch, *fence);
        }
        release
    }

    /// S15, the cheap way: the same input once more, at once, must append nothing.
    fn check_duplicate(&mut self, input: Input, caller: Caller) {
        if self.host.core.is_none() {
            return;
        }
        let before = self.host.log.len();
        self.host.asked += 1;
        let again = RequestId(self.host.asked);
        self.host.requests.insert(again, caller);
        let what = input.clone();
        self.feed_coordinator(match input {
            Input::Claim { from, claim, .. } => Input::Claim { request: again, from, claim },
            Input::Release { from, release, .. } => Input::Release { request: again, from, release },
            Input::Report { from, report, .. } => Input::Report { request: again, from, report },
            other => unreachable!("only requests are doubled: {other:?}"),
        });
        let after = self.host.log.len();
        if before != after {
            self.check_unchanged("the coordinator's log", before, after, &format!("{what:?}"));
        }
    }

    fn tell_members(&mut self, caller: Caller, ask: lunar_agent_core::input::AskId) {
        let seat = self.servers[caller.server].seat;
        let trust = &self.host.trust;
        let asking = trust.machine_named(&self.servers[caller.server].name);
        let wanted = asking.and_then(|machine| machine.group.clone());
        // By the seats, which is faster, for as long as everyone is enrolled as they stand.
        let again = &self.papers.enrolments;
        let anyone: Vec<usize> = if again.keys().any(|server| self.servers[*server].group_is_wrong) {
            (0..self.servers.len()).collect()
        } else {
            seat.group.map_or_else(Vec::new, |group| self.groups[group].clone())
        };
        let members: Vec<SignedDocument> = anyone
            .iter()
            .filter(|member| **member != caller.server)
            .filter_map(|member| trust.machine_named(&self.servers[*member].name))
            .filter(|machine| wanted.is_some() && machine.group == wanted)
            .map(|machine| (**machine.document()).clone())
            .collect();
        self.reply(caller, lunar_agent_core::input::Input::GroupMembers { ask, members: Some(members) });
    }

    pub(crate) fn coordinator_takes(&mut self, document: &SignedDocument) {
        let kept_back = document.kind == Kind::Halt
            && match self.options.mutant {
                Some(Mutant::HaltsKeptBack) => true,
                Some(Mutant::HaltIgnoredWhileDownloading) => self.swarming.drowns_halts(),
                Some(_) | None => false,
            };
        if self.host.core.is_none() || kept_back {
            return;
        }
        let input = match self.host.trust.accept(document, self.edges.coordinator_clock.wall(self.at_ms)) {
            Err(_) | Ok(Accepted::Known) => return,
            Ok(Accepted::TrustRoot(_) | Accepted::Revocation(_)) => {
                Input::MembersChanged(InForce::of(&self.host.trust))
            }
            Ok(Accepted::Enrolment(enrolment)) => Input::Enrolled(enrolment),
            Ok(Accepted::Plan(plan)) => Input::Plan(plan),
            Ok(Accepted::Halt(halt)) => Input::Halt(halt),
            Ok(Accepted::Resume(resume)) => Input::Resume(resume),
            Ok(Accepted::Reap(reap)) => Input::Reap(reap),
        };
        // One commit holds both in production. Here the trust state comes first, which is what an event that
        // is lost behind it looks like to the next life.
        self.host.durable_trust = Arc::new(self.host.trust.snapshot());
        if document.kind == Kind::Halt || document.kind == Kind::Resume && !ends_pauses(document) {
            self.note(&format!("coordinator takes a {}", document.kind));
        }
        self.feed_coordinator(input);
    }

    pub(crate) fn feed_coordinator(&mut self, input: Input) {
        let now = self.coordinator_now();
        let core = self.host.core.as_mut().expect("fed only while it is up");
        core.handle(input, now);
        self.carry_out_coordinator();
    }

    pub(crate) fn carry_out_coordinator(&mut self) {
        let core = self.host.core.as_mut().expect("its effects are carried out while it is up");
        let mut turned = Vec::new();
        if self.options.mutant == Some(Mutant::AnswersBeforeDurable) {
            // Stable: what leaves first, the events last.
            turned.extend(std::iter::from_fn(|| core.poll_effect()));
            turned.sort_by_key(|effect| matches!(effect, Effect::Append(_)));
        }
        let mut turned = turned.into_iter();
        while let Some(effect) =
            turned.next().or_else(|| self.host.core.as_mut().and_then(Coordinator::poll_effect))
        {
            let (before, after) = match effect {
                Effect::Append(_) => (CoordinatorEdge::BeforeAppend, CoordinatorEdge::AfterAppend),
                Effect::Answer { .. } | Effect::Push { .. } | Effect::Announce { .. } => {
                    (CoordinatorEdge::BeforeSend, CoordinatorEdge::AfterSend)
                }
            };
            if matches!(effect, Effect::Append(_)) && self.edges.coordinator_full_until > self.at_ms {
                self.sometimes.insert("the coordinator stopped because its disk was full");
                return self.kill_coordinator(RESTART_MS);
            }
            if let Some(up_in) = self.edges.coordinator_dies(before) {
                return self.kill_coordinator(up_in);
            }
            let expires = self.options.mutant == Some(Mutant::FreesOnExpiry)
                && matches!(effect, Effect::Append(EventBody::Lost { .. }));
            self.carry_out_coordinator_effect(effect);
            if expires {
                // Only a life that reads the log believes it.
                return self.kill_coordinator(100);
            }
            if let Some(up_in) = self.edges.coordinator_dies(after) {
                return self.kill_coordinator(up_in);
            }
        }
        let next = self.host.core.as_ref().and_then(Coordinator::poll_timeout);
        if let Some(at) = next.map(|moment| moment.0.saturating_sub(1_000).max(self.at_ms))
            && self.host.alarm.is_none_or(|set| at < set)
        {
            self.host.alarm = Some(at);
            self.put_at(at, Event::CoordinatorAlarm);
        }
    }

    fn carry_out_coordinator_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Append(event) => {
                if let EventBody::Granted(granted) = &event {
                    self.starved_since = None;
                    self.note(&format!("granted {} {}", granted.server, granted.lease));
                }
                self.remember_rare(&event);
                self.check_gate(&event);
                let about = server_of(&event).map(|server| self.documents.numbered(server));
                let mutant = self.options.mutant;
                self.host.append(event, mutant);
                self.check_log(about);
            }
            Effect::Answer { request, answer } => {
                let Some(caller) = self.host.requests.remove(&request) else { return };
                match self.translate(caller, answer) {
                    Some(input) => self.reply(caller, input),
                    None => self.give_up(caller),
                }
            }
            Effect::Push { to, grant, .. } => {
                let grant = self.sign_grant(&grant);
                let server = self.documents.numbered(&to);
                self.send(server, Event::Grant { server, grant: Box::new(grant) });
            }
            Effect::Announce { epoch } => {
                for server in 0..self.servers.len() {
                    self.send(server, Event::Announced { server, epoch });
                }
            }
        }
    }

    fn remember_rare(&mut self, event: &EventBody) {
        match event {
            EventBody::Reaped { server, .. } => {
                let number = self.documents.numbered(server);
                self.servers[number].written_off = true;
            }
            // Nobody need have known of a lease: an old copy of the log may have forgotten it.
            EventBody::ServerRevoked { server, .. } => {
                let number = self.documents.numbered(server);
                self.servers[number].written_off |= self.servers[number].gone;
            }
            _ => {}
        }
        let rare = match event {
            EventBody::Lost { .. } => "a lease was lost",
            EventBody::Found { .. } => "a lost lease was found",
            EventBody::Adopted { .. } => "an unknown lease was adopted",
            EventBody::StateRestored { .. } => "a restored log was noticed",
            EventBody::Recovered { .. } => "a restored log was recovered from",
            EventBody::Unpaused { .. } => "people went on after a pause",
            EventBody::Released { evidence: Evidence::Report, .. } => "a report ended a lease",
            EventBody::Released { evidence: Evidence::Release { outcome, .. }, .. } => match outcome {
                LeaseOutcome::Completed => "a server completed",
                LeaseOutcome::RolledBack { .. } => "a server rolled back",
                LeaseOutcome::NeverStarted { .. } => "a lease was given back unused",
            },
            _ => return,
        };
        self.sometimes.insert(rare);
    }

    pub(crate) fn sign_grant(&self, grant: &lunar_common::lease::Grant) -> Signed {
        Signed::sign(grant, &self.documents.coordinator.key).expect("a grant is small")
    }

    pub(crate) fn translate(&self, caller: Caller, answer: Answer) -> Option<lunar_agent_core::input::Input> {
        use lunar_agent_core::input::Input as NodeInput;

        use crate::network::About;
        Some(match (caller.about, answer) {
            (About::Claim { nonce }, Answer::Granted(grant)) => {
                let answer = Some(ClaimAnswer::Granted(self.sign_grant(&grant)));
                NodeInput::ClaimAnswered { nonce, answer }
            }
            (About::Claim { nonce }, Answer::Wait { reason, retry_after_ms }) => {
                NodeInput::ClaimAnswered { nonce, answer: Some(ClaimAnswer::Wait { reason, retry_after_ms }) }
            }
            (About::Claim { nonce }, Answer::Refused(refusal)) => {
                NodeInput::ClaimAnswered { nonce, answer: Some(ClaimAnswer::Refused(refusal)) }
            }
            (About::Release { lease }, Answer::Done) => NodeInput::ReleaseAnswered { lease, kept: true },
            (About::Report { number }, Answer::Report(answer)) => {
                NodeInput::ReportAnswered { number, answer: Some(answer) }
            }
            (_, Answer::Invalid { .. }) => return None,
            (about, answer) => unreachable!("{about:?} is not answered by {answer:?}"),
        })
    }
}

/// Whom an event of the log is about, as far as the truth of a server can change with it.
fn server_of(event: &EventBody) -> Option<&ServerId> {
    if let EventBody::ServerRevoked { server, .. } = event {
        return Some(server);
    }
    event.lease_news().map(|news| news.server)
}
