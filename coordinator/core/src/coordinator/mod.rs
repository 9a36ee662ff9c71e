//! The coordinator: routes each input to the part that decides.
//!
//! Owns [`Coordinator`]. Main invariant: the durable state changes only through [`Coordinator::apply`], which
//! replay uses too, so that a restarted coordinator cannot differ from the one that stopped; whatever rests on
//! an event comes after it in the effects.

mod claims;
pub(crate) mod documents;
mod queries;
mod reports;
pub mod shape;

#[cfg(test)]
mod returns;
#[cfg(test)]
pub(crate) mod rig;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod signed;
#[cfg(test)]
mod world;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use lunar_common::ids::{Epoch, Fence, ServerId};
use lunar_common::lease::{Grant, LeaseState, LimitScope, Occupancy};
use lunar_common::time::{Moment, Now};
use lunar_common::trust::Approvers;

use crate::campaign::gate::Gates;
use crate::campaign::window::Doors;
use crate::config::Config;
use crate::effect::{Answer, Effect};
use crate::event::EventBody;
use crate::fleet::Fleet;
use crate::input::{Input, RequestId};
use crate::ledger::occupancy::Occupancies;
use crate::ledger::waiting::Waiting;
use crate::state::State;
use crate::timers::{Timer, Timers};

/// How far a server's floor may lie above our own numbers. A restored log is behind by what was granted since
/// the copy was made; 2^32 grants are a thousand a second for fifty days. More is a lie that would use the
/// numbers up.
const RESTORE_JUMP_MAX: u64 = 1 << 32;

/// Every decision a coordinator makes.
#[derive(Debug, Clone)]
pub struct Coordinator {
    pub(crate) config: Config,
    /// The fold of the log.
    pub(crate) state: State,
    /// What servers said in this life.
    pub(crate) fleet: Fleet,
    /// Who takes a slot: follows from the two above.
    pub(crate) occupancies: Occupancies,
    /// Claims of this life that wait.
    pub(crate) waiting: Waiting,
    /// What this life knows of each lease beyond the log.
    pub(crate) watched: BTreeMap<ServerId, Watched>,
    pub(crate) timers: Timers,
    /// What this life knows of the stages' gates beyond the log.
    pub(crate) gates: Gates,
    /// Who may approve batches, by the trust root in force.
    pub(crate) approvers: Approvers,
    /// When maintenance windows open and close: follows from the log and the time.
    pub(crate) doors: Doors,
    effects: VecDeque<Effect>,
    /// A slot may have come free since the last choice.
    pub(crate) room: bool,
    begun: bool,
}

/// A lease as this life saw it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watched {
    /// Its state, and since when.
    pub(crate) state: LeaseState,
    pub(crate) since: Moment,
    /// The newest sending of its claim that was answered with it.
    pub(crate) answered: Option<u64>,
}

impl Coordinator {
    /// A coordinator with an empty log. Replay with [`Self::apply`], then hand it [`Input::Started`].
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            state: State::default(),
            fleet: Fleet::default(),
            occupancies: Occupancies::default(),
            waiting: Waiting::default(),
            watched: BTreeMap::new(),
            timers: Timers::default(),
            gates: Gates::default(),
            approvers: Approvers::default(),
            doors: Doors::default(),
            effects: VecDeque::new(),
            room: false,
            begun: false,
        }
    }

    /// Folds one event of the log into the state. For replay, in the log's order, before the first input.
    ///
    /// # Panics
    /// If no coordinator could have written the event after those before it: the log is damaged.
    pub fn apply(&mut self, event: &EventBody) {
        let live = self.state.live.len();
        self.state.apply(event);
        if self.state.live.len() < live {
            // One campaign fewer has servers down: its limits bind nobody else any more.
            self.waiting.wake_groups();
            self.room = true;
        }
        self.follow(event);
    }

    /// Brings what follows from the state up to date with an event that was just folded in.
    fn follow(&mut self, event: &EventBody) {
        match event {
            EventBody::CoordinatorStarted { .. }
            | EventBody::StateRestored { .. }
            | EventBody::Halted { .. }
            | EventBody::Queued { .. }
            | EventBody::ReapSpent { .. }
            | EventBody::Transition { .. }
            | EventBody::PlanRules { .. }
            | EventBody::PlanApprovals { .. }
            | EventBody::Labelled { .. }
            | EventBody::Soaked { .. }
            | EventBody::StopRules { .. }
            | EventBody::FellSilent { .. }
            | EventBody::Paused { .. } => {}
            EventBody::PlanWindows { campaign, plan, windows } => {
                self.doors.announced(campaign, *plan, windows);
            }
            EventBody::Curbed { what, .. } => self.follow_curb(what),
            EventBody::Approved { campaign, stage, batch, .. } => self.wake_batch(campaign, *stage, *batch),
            EventBody::Resumed { .. } => self.room = true,
            EventBody::Unpaused { .. } => {
                self.waiting.wake_all();
                self.room = true;
            }
            EventBody::Recovered { .. } => {
                self.look_at_all_gates();
                self.room = true;
            }
            EventBody::GateOpened { campaign, .. } => {
                self.gates.look_at(campaign);
                self.room = true;
            }
            EventBody::PlanAccepted { terms, .. } => {
                self.reset_gates(&terms.campaign);
                self.doors.take(terms);
                self.waiting.remove_campaign(&terms.campaign);
                self.waiting.wake_groups();
                self.room = true;
            }
            EventBody::ServerEnrolled { member } => {
                self.waiting.remove_server(&member.server);
                self.forget_in_gates(&member.server);
                self.wake_everyone_in_order();
                self.recount(&member.server);
            }
            EventBody::ServerRevoked { server, .. } => {
                self.waiting.remove_server(server);
                self.forget(server);
                self.forget_in_gates(server);
                self.wake_everyone_in_order();
                self.recount(server);
            }
            EventBody::Granted(granted) => {
                self.waiting.remove(&(granted.server.clone(), granted.task.campaign.clone()));
                self.gates.look_at(&granted.task.campaign);
                self.recount(&granted.server);
            }
            EventBody::Released { server, .. }
            | EventBody::Reaped { server, .. }
            | EventBody::Adopted { server, .. }
            | EventBody::WrittenOff { server, .. }
            | EventBody::Returned { server }
            | EventBody::Arrived { server, .. } => {
                self.ended_in_stages();
                self.wake_those_behind(server);
                self.recount(server);
            }
            EventBody::Started { server, .. }
            | EventBody::Lost { server, .. }
            | EventBody::Found { server, .. } => self.recount(server),
        }
    }

    /// Takes an input in. Drain [`Self::poll_effect`] afterwards.
    ///
    /// `now.wall` decides what has expired: hand in the trust state's trusted time, which no clock set back
    /// can lower. Nothing else rests on it.
    ///
    /// # Panics
    /// If the first input is not [`Input::Started`], or it comes twice: a mistake in the shell.
    pub fn handle(&mut self, input: Input, now: Now) {
        assert_eq!(
            matches!(input, Input::Started(_)),
            !self.begun,
            "Started is the first input, and only that"
        );
        match input {
            Input::Started(in_force) => self.begin_with(now, |core| core.reconcile(in_force)),
            Input::Enrolled(enrolment) => self.enrolled(&enrolment),
            Input::MembersChanged(in_force) => self.reconcile(in_force),
            Input::Plan(plan) => self.plan(&plan),
            Input::Halt(halt) => self.halt(&halt),
            Input::Resume(resume) => self.resume(&resume),
            Input::Reap(reap) => self.reap(&reap),
            Input::Approval(approval) => self.approve(&approval),
            Input::Curb(curb) => self.curb(&curb),
            Input::Claim { request, from, claim } => self.claim(request, from, &claim, now),
            Input::Release { request, from, release } => self.release(request, from, &release, now),
            Input::Report { request, from, report } => self.report(request, from, &report, now),
        }
        self.settle(now);
    }

    /// The next thing to do, in order.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.timers.next()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(timer) = self.timers.pop(now.moment) {
            self.rung(timer, now);
        }
        self.settle(now);
    }

    /// One timer rings though its deadline has not come: how the model checker, which knows no durations, asks
    /// what would be done. A timer that is not armed rings for nobody.
    pub fn ring(&mut self, timer: Timer, now: Now) {
        if self.timers.at(&timer).is_some() {
            self.timers.disarm(&timer);
            self.rung(timer, now);
            self.settle(now);
        }
    }

    fn rung(&mut self, timer: Timer, now: Now) {
        match timer {
            Timer::Lease(server) => self.lose(&server, now),
            Timer::Silence(server) => {
                self.fleet.fall_silent(&server);
                self.recount(&server);
                self.note_silence(&server);
            }
            Timer::Announce => self.announce(now),
            // What waits for it is looked at in `settle`.
            Timer::Hold => {}
            Timer::Gate(campaign, stage) => self.gate_rung(&campaign, stage, now),
            Timer::Window => self.doors.ask(),
        }
    }

    /// A life begins: it is in the log before anything else is.
    fn begin_with(&mut self, now: Now, reconcile: impl FnOnce(&mut Self)) {
        self.begun = true;
        self.record(EventBody::CoordinatorStarted { epoch: self.state.epoch.next() });
        reconcile(self);
        let holders: Vec<ServerId> = self.state.leases.keys().cloned().collect();
        for server in &holders {
            // How long the lease has run is not known any more: it gets its whole time again, which is safe,
            // since time frees nothing.
            self.watch_lease(server, now);
            if self.is_silence_news(server) {
                // It may be that nobody hears it ever again.
                let at = now.moment.after(self.config.unreachable_after);
                self.timers.arm(Timer::Silence(server.clone()), at);
            }
        }
        if self.state.restored {
            self.hold(now);
        }
        self.announce(now);
    }

    fn announce(&mut self, now: Now) {
        self.effects.push_back(Effect::Announce { epoch: self.state.epoch });
        let every = self.config.announce_every.max(self.quiet_for());
        self.timers.arm(Timer::Announce, now.moment.after(every));
    }

    /// Time alone: the lease is LOST, and its slot stays taken (DESIGN 9, rule 1).
    fn lose(&mut self, server: &ServerId, now: Now) {
        let lease = self.state.leases.get(server).expect("a lease that runs out is held");
        assert_ne!(lease.state, LeaseState::Lost, "a lost lease has no deadline");
        let event = EventBody::Lost { server: server.clone(), lease: lease.id, was: lease.state };
        self.record(event);
        self.watch_lease(server, now);
        self.note_silence(server);
    }

    /// (Re)arms the time at which a server's lease is LOST without news, and notes since when it is what it is.
    pub(crate) fn watch_lease(&mut self, server: &ServerId, now: Now) {
        let Some(lease) = self.state.leases.get(server) else { return };
        let fresh = Watched { state: lease.state, since: now.moment, answered: lease.nonce };
        let watched = self.watched.entry(server.clone()).or_insert(fresh);
        if watched.state != lease.state {
            *watched = Watched { state: lease.state, since: now.moment, ..*watched };
        }
        match lease.due(now.moment, self.config.lost_margin) {
            Some(at) => self.timers.arm(Timer::Lease(server.clone()), at),
            None => self.timers.disarm(&Timer::Lease(server.clone())),
        }
    }

    /// After every input: what has become possible is done at once.
    fn settle(&mut self, now: Now) {
        let held_back = || self.timers.at(&Timer::Hold).is_some();
        if self.state.restored && self.fleet.unheard.is_empty() && !held_back() {
            self.record(EventBody::Recovered { epoch: self.state.epoch });
        }
        self.pause_what_is_due();
        self.look_at_gates(now);
        self.watch_windows(now);
        if std::mem::take(&mut self.room) {
            for grant in self.choose(None, now) {
                self.push(grant);
            }
        }
    }

    /// An event happens: into the state, and into the log before whatever comes after it.
    pub(crate) fn record(&mut self, event: EventBody) {
        self.apply(&event);
        self.effects.push_back(Effect::Append(event));
    }

    fn answer(&mut self, request: RequestId, answer: Answer) {
        self.effects.push_back(Effect::Answer { request, answer });
    }

    fn push(&mut self, grant: Grant) {
        let member = &self.state.servers.get(&grant.server).expect("only members are granted leases").member;
        self.effects.push_back(Effect::Push { to: grant.server.clone(), key: member.key, grant });
    }

    /// Says again whether and why a server takes a slot, and wakes what waited for the difference. Every reason
    /// is looked at here, so that none can be forgotten where it changes.
    fn recount(&mut self, server: &ServerId) {
        let record = self.state.servers.get(server).expect("only servers that were enrolled are counted");
        let seen = self.fleet.seen(server);
        let lease = self.state.leases.get(server);
        let why = match (lease, seen) {
            (Some(lease), _) => Some(lease.occupancy()),
            (None, _) if !record.is_counted() => None,
            (None, None) => (!record.written_off).then_some(Occupancy::Unreachable),
            (None, Some(seen)) if seen.silent => (!record.written_off).then_some(Occupancy::Unreachable),
            (None, Some(seen)) => seen.is_unwell(&self.config).then_some(Occupancy::Unhealthy),
        };
        if record.is_counted() && !record.written_off && seen.is_none() {
            self.fleet.unheard.insert(server.clone());
        } else {
            self.fleet.unheard.remove(server);
        }
        if lease.is_none() {
            self.watched.remove(server);
            self.timers.disarm(&Timer::Lease(server.clone()));
        }
        for scope in self.occupancies.set(server, why, record.member.scopes()) {
            self.room = true;
            if let LimitScope::Group(group) = scope {
                self.waiting.wake_group(&group);
            }
        }
        if why.is_none() && self.waiting.wake_server(server) {
            self.room = true;
        }
        self.look_at_gates_of(server, why);
    }

    fn forget(&mut self, server: &ServerId) {
        self.fleet.forget(server);
        self.timers.disarm(&Timer::Silence(server.clone()));
    }

    /// A server has seen numbers above ours: it had grants that our log does not know. From here on ours are
    /// above all it has seen, and nothing is granted until everyone has spoken (DESIGN 9, rule 7).
    fn catch_up(&mut self, evidence: &ServerId, epoch: Epoch, fence: Fence, now: Now) {
        self.record(EventBody::StateRestored {
            evidence: evidence.clone(),
            epoch: self.state.epoch.max(epoch).next(),
            fence: self.state.fence.max(fence),
        });
        self.hold(now);
    }

    /// A grant of the forgotten past may still be on its way: its holder's time to start runs out first.
    fn hold(&mut self, now: Now) {
        let longest = self.state.campaigns.values().map(|campaign| campaign.terms.start_within_ms).max();
        let within = Duration::from_millis(longest.unwrap_or_default());
        self.timers.arm(Timer::Hold, now.moment.after(within).after(self.config.lost_margin));
    }

    /// Whether numbers that a server says it has seen prove a restore; `Err` if nothing could have led there.
    fn is_above(&self, epoch: Epoch, fence: Fence) -> Result<bool, String> {
        let too_far = |seen: u64, ours: u64| seen > ours.saturating_add(RESTORE_JUMP_MAX);
        if too_far(epoch.0, self.state.epoch.0) || too_far(fence.0, self.state.fence.0) {
            return Err(format!(
                "epoch {epoch} and fence {fence} are further above epoch {} and fence {} here than any \
                 coordinator of this fleet can have come",
                self.state.epoch, self.state.fence
            ));
        }
        Ok(epoch > self.state.epoch || fence > self.state.fence)
    }
}
