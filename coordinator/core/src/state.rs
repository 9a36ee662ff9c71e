//! What a coordinator remembers over its lives: the fold of the log.
//!
//! Owns [`State`]. Main invariant: it changes in [`State::apply`] and nowhere else, and what an event does
//! depends on the event and on the events before it only: neither on a clock nor on who is connected.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use lunar_common::enrolment::Role;
use lunar_common::ids::{
    Attempt, CampaignId, DocumentHash, Epoch, Fence, LeaseId, PeerKey, Sequence, ServerId,
};
use lunar_common::lease::{LeaseOutcome, LeaseState};
use lunar_common::message::Transition;
use lunar_common::pause::{Anomaly, Pause, PauseScope};
use lunar_common::phase::Phase;
use lunar_common::plan::{LeaseTerms, StopRules};
use lunar_common::time::millis;

use crate::campaign::anomaly::pause::Pauses;
use crate::campaign::anomaly::{Place, Watch};
use crate::campaign::approval::{ApprovalTerms, Approvals};
use crate::campaign::curb::Curbs;
use crate::campaign::order::Order;
use crate::campaign::rules::{Labels, Picks, Rules};
use crate::campaign::stage::{Candidate, Ending, NO_STAGE, Stages};
use crate::event::{EventBody, Evidence, Member, Task, Terms};
use crate::ledger::lease::Lease;
use crate::roll::Roll;
use crate::view::OutcomeCounts;

/// The durable state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) epoch: Epoch,
    /// The highest fence that may have been granted, in any life.
    pub(crate) fence: Fence,
    /// The log was found to be older than what was once granted, and not everyone has reported since.
    pub(crate) restored: bool,
    pub(crate) servers: Roll<ServerId, Server>,
    pub(crate) keys: Roll<PeerKey, ServerId>,
    pub(crate) campaigns: BTreeMap<CampaignId, Campaign>,
    /// Rules of plans that come with the next event of their campaign.
    pub(crate) rules_next: BTreeMap<CampaignId, (DocumentHash, Rules)>,
    /// Rules for pauses, likewise.
    pub(crate) stops_next: BTreeMap<CampaignId, (DocumentHash, Arc<StopRules>)>,
    /// Pauses in force. They outlive the plans by whose rules they came.
    pub(crate) pauses: Pauses,
    /// What people restrain by hand.
    pub(crate) curbs: Curbs,
    /// Approvals that plans ask for that come with the next event of their campaign.
    pub(crate) approvals_next: BTreeMap<CampaignId, (DocumentHash, ApprovalTerms)>,
    /// Labels of the machines that have any.
    pub(crate) labels: BTreeMap<ServerId, Arc<Labels>>,
    /// Halts in force by scope; `None`: every campaign.
    pub(crate) halts: BTreeMap<Option<CampaignId>, Halted>,
    /// The highest sequence resumed, by scope.
    pub(crate) resumed: BTreeMap<Option<CampaignId>, Sequence>,
    /// Leases that take a slot: a server holds at most one.
    pub(crate) leases: BTreeMap<ServerId, Lease>,
    /// How many of them each campaign has.
    pub(crate) live: BTreeMap<CampaignId, usize>,
    /// The place of the next claim in the queue.
    pub(crate) places_next: u64,
}

/// A halt in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Halted {
    pub(crate) sequence: Sequence,
    pub(crate) reason: String,
}

/// A campaign and its plan in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Campaign {
    pub(crate) terms: Arc<Terms>,
    pub(crate) picks: Arc<Picks>,
    /// `None`: everyone may start at once.
    pub(crate) stages: Option<Stages>,
    /// `None`: people are not asked.
    pub(crate) approvals: Option<Approvals>,
    /// `None`: nobody waits for others.
    pub(crate) order: Option<Order>,
    /// `None`: nothing pauses it. Only a log from before there were rules for that has such campaigns.
    pub(crate) watch: Option<Watch>,
    pub(crate) outcomes: OutcomeCounts,
}

/// A server that is or was a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) member: Arc<Member>,
    pub(crate) revoked: bool,
    pub(crate) written_off: bool,
    /// Highest fence of a lease that is over by the server's own word: a word that it is held is old news.
    pub(crate) closed: Fence,
    /// Highest fence of a lease that an operator reaped.
    pub(crate) reaped: Fence,
    /// Leases that ended by a report, with what they were for, whose releases may still come and say how.
    pub(crate) unexplained: BTreeMap<LeaseId, Option<Task>>,
    pub(crate) reap_seen: Sequence,
    /// The highest index of its transitions that is in the log.
    pub(crate) transitions_kept: Option<u64>,
    pub(crate) progress: BTreeMap<CampaignId, Progress>,
}

/// A server in one campaign, as far as the log tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Its last journaled phase.
    pub(crate) phase: Option<Phase>,
    /// Its place in the queue.
    pub(crate) queued: Option<Queued>,
    /// Its attempts by one plan.
    pub(crate) attempts: Option<Attempts>,
}

/// A claim's place in the queue. Outlives a restart; the claim itself must be sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Queued {
    pub(crate) task: Task,
    pub(crate) place: u64,
}

/// A server's attempts by one plan. Another plan starts anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attempts {
    pub(crate) plan: DocumentHash,
    /// The highest claimed.
    pub(crate) highest: Attempt,
    /// The highest whose lease was released.
    pub(crate) over: Option<Attempt>,
    /// How many went down and came back on the old version.
    pub(crate) failures: u32,
}

impl Server {
    /// Whether it counts when it is silent or unwell.
    pub(crate) fn is_counted(&self) -> bool {
        self.member.role == Role::Agent && !self.revoked
    }
}

impl State {
    /// The server that a key belongs to, if it is a member now.
    pub(crate) fn member(&self, key: &PeerKey) -> Option<&Server> {
        self.keys.get(key).and_then(|server| self.servers.get(server)).filter(|server| !server.revoked)
    }

    /// Whether a plan in force selects a server.
    pub(crate) fn selects(&self, campaign: &Campaign, member: &Member) -> bool {
        campaign.terms.select.matches(member)
            && campaign.picks.matches(member, self.labels.get(&member.server).unwrap_or(&NO_LABELS))
    }

    /// The halt that stops a campaign: its own, or the one for all.
    pub(crate) fn halt(&self, campaign: &CampaignId) -> Option<(Option<CampaignId>, &Halted)> {
        let own = Some(campaign.clone());
        self.halts
            .get(&None)
            .map(|halt| (None, halt))
            .or_else(|| self.halts.get(&own).map(|halt| (own, halt)))
    }

    /// Folds one event in. Panics on an event that no coordinator could have written after those before it:
    /// such a log is damaged, and going on would be a guess.
    pub(crate) fn apply(&mut self, event: &EventBody) {
        match event {
            EventBody::CoordinatorStarted { epoch } => {
                assert!(*epoch > self.epoch, "lives are numbered upwards");
                self.epoch = *epoch;
            }
            EventBody::StateRestored { evidence: _, epoch, fence } => {
                assert!(*epoch > self.epoch && *fence >= self.fence, "a restore jumps forward");
                self.epoch = *epoch;
                self.fence = *fence;
                self.restored = true;
                self.each_campaign(|campaign| campaign.approvals.iter_mut().for_each(Approvals::void));
            }
            EventBody::Recovered { epoch: _ } => self.restored = false,
            EventBody::ServerEnrolled { member } => self.enrol(member),
            EventBody::ServerRevoked { server, key: _ } => {
                let record = self.server_mut(server);
                record.revoked = true;
                record.progress.values_mut().for_each(|progress| progress.queued = None);
                self.each_campaign(|campaign| {
                    campaign.stages.iter_mut().for_each(|stages| stages.remove(server));
                    campaign.approvals.iter_mut().for_each(|approvals| approvals.follow(server, None, true));
                    campaign.order.iter_mut().for_each(|order| order.remove(server));
                });
            }
            EventBody::PlanAccepted { terms, signers: _ } => self.accept(terms),
            EventBody::Halted { campaign, sequence, reason, signers: _ } => {
                self.halts.insert(campaign.clone(), Halted { sequence: *sequence, reason: reason.clone() });
            }
            EventBody::Resumed { campaign, sequence, reason: _, signers: _ } => {
                let floor = self.resumed.entry(campaign.clone()).or_default();
                *floor = (*floor).max(*sequence);
                let floor = *floor;
                self.halts.retain(|scope, halt| scope != campaign || halt.sequence > floor);
            }
            EventBody::Queued { server, task } => self.queue(server, task),
            EventBody::Granted(granted) => {
                assert!(granted.fence > self.fence, "fences are numbered upwards");
                assert_eq!(granted.epoch, self.epoch, "a life grants in its own epoch");
                self.fence = granted.fence;
                self.progress_mut(&granted.server, &granted.task.campaign).queued = None;
                self.opened(&granted.server, granted.lease, &granted.task);
                self.hold(&granted.server, Lease::granted(granted));
            }
            EventBody::Started { server, lease } => self.lease_mut(server, *lease).start(),
            EventBody::Released { server, lease, fence, task, evidence } => {
                self.release(server, *lease, *fence, task.as_ref(), evidence);
            }
            EventBody::Lost { server, lease, was } => self.lease_mut(server, *lease).lose(*was),
            EventBody::Found { server, lease, started } => {
                self.lease_mut(server, *lease).find(*started);
                self.heard(server);
            }
            EventBody::Adopted { server, lease, epoch, fence, started, task } => {
                self.fence = self.fence.max(*fence);
                let (start_within_ms, down_max_ms) = self.deadlines(task.as_ref());
                let adopted = Lease {
                    id: *lease,
                    epoch: *epoch,
                    fence: *fence,
                    task: task.clone(),
                    nonce: None,
                    state: if *started { LeaseState::Active } else { LeaseState::Granted },
                    started: *started,
                    start_within_ms,
                    down_max_ms,
                };
                self.hold(server, adopted);
                if let Some(task) = task {
                    self.opened(server, *lease, task);
                }
            }
            EventBody::Reaped { server, lease, sequence, reason: _, signers: _ } => {
                let reaped = self.lease_mut(server, *lease);
                assert_eq!(reaped.state, LeaseState::Lost, "only a lost lease is reaped");
                let (fence, task) = (reaped.fence, reaped.task.clone());
                self.drop_lease(server);
                self.heard(server);
                if let Some(task) = &task {
                    self.ended(server, *lease, task, Ending::Failed, None);
                }
                self.write_off(server, true);
                let record = self.server_mut(server);
                record.reaped = record.reaped.max(fence);
                record.reap_seen = *sequence;
                record.written_off = true;
            }
            EventBody::WrittenOff { server, sequence, reason: _, signers: _ } => {
                self.write_off(server, true);
                let record = self.server_mut(server);
                record.reap_seen = *sequence;
                record.written_off = true;
            }
            EventBody::ReapSpent { server, sequence, why: _ } => {
                self.server_mut(server).reap_seen = *sequence;
            }
            EventBody::Returned { server } => {
                self.server_mut(server).written_off = false;
                self.write_off(server, false);
            }
            EventBody::Transition { server, transition } => {
                self.server_mut(server).transitions_kept = Some(transition.index);
                // A campaign that is not known here gets no record: a server could name any number of them.
                if self.campaigns.contains_key(&transition.campaign) {
                    self.progress_mut(server, &transition.campaign).phase = Some(transition.to);
                }
                if transition.from == Phase::RollingBack && transition.to.is_final() {
                    self.rolled_back(server, transition);
                }
            }
            EventBody::PlanApprovals { campaign, plan, approvals } => {
                self.approvals_next.insert(campaign.clone(), (*plan, approvals.clone()));
            }
            EventBody::Approved { campaign, plan, stage, name: _, batch, word } => {
                let found = self.campaigns.get_mut(campaign).and_then(|found| found.approvals.as_mut());
                if let Some(approvals) = found {
                    approvals.said(*plan, *stage, *batch, word);
                }
            }
            // What follows from windows hangs on the time too, and is no part of the fold.
            EventBody::PlanWindows { .. } => {}
            EventBody::PlanRules { campaign, plan, rules } => {
                self.rules_next.insert(campaign.clone(), (*plan, rules.clone()));
            }
            EventBody::Labelled { server, labels } if labels.is_empty() => {
                self.labels.remove(server);
            }
            EventBody::Labelled { server, labels } => {
                self.labels.insert(server.clone(), Arc::new(labels.clone()));
            }
            EventBody::Arrived { server, campaign, plan } => {
                self.in_stages(campaign, |stages| stages.arrived(*plan, server));
                self.completed(server, campaign, *plan);
            }
            EventBody::Soaked { campaign, plan, stage, soaked_ms } => {
                self.in_stages(campaign, |stages| stages.soaked(*plan, *stage, *soaked_ms));
            }
            EventBody::GateOpened { campaign, plan, stage, name: _, demand: _, evidence: _ } => {
                self.in_stages(campaign, |stages| stages.passed(*plan, *stage));
            }
            EventBody::StopRules { campaign, plan, rules } => {
                let rules = Arc::new(rules.clone());
                match self.campaigns.get_mut(campaign).filter(|found| found.terms.plan == *plan) {
                    Some(found) => found.watch = Some(Watch::new(*plan, rules)),
                    None => {
                        self.stops_next.insert(campaign.clone(), (*plan, rules));
                    }
                }
            }
            EventBody::FellSilent { server, lease } => self.fell_silent(server, *lease),
            EventBody::Paused { pause } => self.pauses.begin(pause),
            EventBody::Curbed { campaign, what, by } => {
                let found = campaign.as_ref().and_then(|campaign| self.campaigns.get(campaign));
                let plan = found.map(|found| found.terms.plan);
                self.curbs.take(campaign.as_ref(), plan, what, by);
            }
            EventBody::Unpaused { campaign, scope, pause, .. } if self.curbs.end(campaign, scope, *pause) => {
            }
            EventBody::Unpaused { campaign, scope, pause: _, sequence: _, reason: _, signers: _ } => {
                self.pauses.end(campaign, scope);
                if let Some(watch) = self.campaigns.get_mut(campaign).and_then(|found| found.watch.as_mut()) {
                    watch.resumed(scope);
                }
            }
        }
    }

    fn enrol(&mut self, member: &Member) {
        let member = Arc::new(member.clone());
        let mut same_machine = true;
        match self.servers.get_mut(&member.server) {
            Some(record) => {
                same_machine = record.member.key == member.key;
                if record.member.key != member.key {
                    // Another key is another machine in the same place: it counts its transitions anew, and what
                    // the one before it failed at is not held against it. Attempts stay numbered upwards.
                    self.keys.remove(&record.member.key);
                    record.transitions_kept = None;
                    for progress in record.progress.values_mut() {
                        (progress.phase, progress.queued) = (None, None);
                        if let Some(attempts) = &mut progress.attempts {
                            attempts.failures = 0;
                        }
                    }
                }
                record.member = Arc::clone(&member);
                record.revoked = false;
            }
            None => {
                let record = Server {
                    member: Arc::clone(&member),
                    revoked: false,
                    written_off: false,
                    closed: Fence::default(),
                    reaped: Fence::default(),
                    unexplained: BTreeMap::new(),
                    reap_seen: Sequence::default(),
                    transitions_kept: None,
                    progress: BTreeMap::new(),
                };
                self.servers.insert(member.server.clone(), record);
            }
        }
        self.keys.insert(member.key, member.server.clone());
        self.admit(&member, same_machine);
    }

    /// Finds a member its stage in every campaign that has stages.
    fn admit(&mut self, member: &Member, same_machine: bool) {
        let labels = Arc::clone(self.labels.get(&member.server).unwrap_or(&NO_LABELS));
        let written_off = self.servers.get(&member.server).is_some_and(|server| server.written_off);
        let candidate = Candidate { member, labels: &labels, written_off };
        for campaign in self.campaigns.values_mut() {
            let selected = campaign.terms.select.matches(member) && campaign.picks.matches(member, &labels);
            if let Some(stages) = &mut campaign.stages {
                stages.admit(&candidate, selected, same_machine);
                let stage = Some(stages.of(&member.server)).filter(|stage| *stage != NO_STAGE);
                if let Some(approvals) = &mut campaign.approvals {
                    approvals.follow(&member.server, stage, same_machine);
                }
            }
            if let Some(order) = &mut campaign.order {
                order.admit(&candidate, selected, same_machine);
            }
        }
    }

    fn accept(&mut self, terms: &Terms) {
        let terms = Arc::new(terms.clone());
        self.curbs.replan(&terms.campaign);
        let rules = self.rules_next.remove(&terms.campaign).filter(|(plan, _)| *plan == terms.plan);
        let Rules { picks, stages, order } = rules.map(|(_, rules)| rules).unwrap_or_default();
        let outcomes = match self.campaigns.get(&terms.campaign) {
            Some(campaign) => {
                assert_ne!(terms.plan, campaign.terms.plan, "a plan is accepted once");
                campaign.outcomes
            }
            None => OutcomeCounts::default(),
        };
        let stops = self.stops_next.remove(&terms.campaign).filter(|(plan, _)| *plan == terms.plan);
        let mut campaign = Campaign {
            terms: Arc::clone(&terms),
            picks: Arc::new(picks),
            stages: None,
            approvals: None,
            order: None,
            watch: stops.map(|(plan, rules)| Watch::new(plan, rules)),
            outcomes,
        };
        let asked = self.approvals_next.remove(&terms.campaign).filter(|(plan, _)| *plan == terms.plan);
        if !stages.is_empty() || !order.is_empty() {
            let selected: Vec<Candidate<'_>> = self
                .servers
                .values()
                .filter(|server| server.is_counted() && self.selects(&campaign, &server.member))
                .map(|server| Candidate {
                    member: &server.member,
                    labels: self.labels.get(&server.member.server).unwrap_or(&NO_LABELS),
                    written_off: server.written_off,
                })
                .collect();
            let (in_stages, in_order) = (!stages.is_empty(), !order.is_empty());
            campaign.stages = in_stages.then(|| Stages::deal(terms.plan, stages, &selected));
            campaign.approvals = campaign
                .stages
                .as_ref()
                .zip(asked)
                .map(|(stages, (plan, approvals))| Approvals::deal(plan, approvals, stages));
            campaign.order = in_order.then(|| Order::new(order, &selected));
        }
        self.campaigns.insert(terms.campaign.clone(), campaign);
    }

    fn in_stages(&mut self, campaign: &CampaignId, change: impl FnOnce(&mut Stages)) {
        if let Some(stages) = self.campaigns.get_mut(campaign).and_then(|found| found.stages.as_mut()) {
            change(stages);
        }
    }

    fn each_campaign(&mut self, change: impl Fn(&mut Campaign)) {
        self.campaigns.values_mut().for_each(change);
    }

    fn write_off(&mut self, server: &ServerId, written_off: bool) {
        self.each_campaign(|campaign| {
            campaign.stages.iter_mut().for_each(|stages| stages.write_off(server, written_off));
            campaign.order.iter_mut().for_each(|order| order.write_off(server, written_off));
        });
    }

    /// A server runs a plan's version.
    fn completed(&mut self, server: &ServerId, campaign: &CampaignId, plan: DocumentHash) {
        let found = self.campaigns.get_mut(campaign).filter(|found| found.terms.plan == plan);
        if let Some(order) = found.and_then(|found| found.order.as_mut()) {
            order.completed(server);
        }
    }

    fn opened(&mut self, server: &ServerId, lease: LeaseId, task: &Task) {
        self.in_stages(&task.campaign, |stages| stages.opened(task.plan, server, lease));
    }

    fn ended(
        &mut self,
        server: &ServerId,
        lease: LeaseId,
        task: &Task,
        ending: Ending,
        down_ms: Option<u64>,
    ) {
        self.in_stages(&task.campaign, |stages| stages.ended(task.plan, server, lease, ending));
        if ending == Ending::Succeeded {
            self.completed(server, &task.campaign, task.plan);
        }
        self.watch(server, lease, task, |watch, place| watch.ended(server, &place, ending, down_ms));
    }

    /// Shows the rules of a task's plan something new, and proposes the pauses that follow from it.
    fn watch(
        &mut self,
        server: &ServerId,
        lease: LeaseId,
        task: &Task,
        look: impl FnOnce(&mut Watch, Place) -> Vec<(PauseScope, Anomaly)>,
    ) {
        let Some(member) = self.servers.get(server).map(|record| Arc::clone(&record.member)) else { return };
        let campaign = self.campaigns.get_mut(&task.campaign);
        let watch = campaign.and_then(|campaign| campaign.watch.as_mut());
        let Some(watch) = watch.filter(|watch| watch.plan() == task.plan) else { return };
        let labels = self.labels.get(server).map(|labels| &**labels);
        let place = Place::of(&member, labels, watch.model_label());
        for (scope, anomaly) in look(watch, place) {
            let (campaign, plan, server) = (task.campaign.clone(), task.plan, server.clone());
            self.pauses.propose(Pause { campaign, plan, scope, server, lease, anomaly });
        }
    }

    /// A server's journal says that an attempt failed. Its lease is held, or a report has just ended it.
    fn rolled_back(&mut self, server: &ServerId, transition: &Transition) {
        let held = self.leases.get(server).map(|lease| (lease.id, &lease.task));
        let record = self.servers.get(server);
        let ended =
            record.into_iter().flat_map(|record| &record.unexplained).map(|(lease, task)| (*lease, task));
        let by = |task: &Task| task.campaign == transition.campaign && task.attempt == transition.attempt;
        let mut leases = held.into_iter().chain(ended);
        let found = leases.find_map(|(lease, task)| Some((lease, task.clone().filter(|task| by(task))?)));
        if let Some((lease, task)) = found {
            self.watch(server, lease, &task, |watch, place| watch.rolled_back(server, &place));
        }
    }

    fn fell_silent(&mut self, server: &ServerId, lease: LeaseId) {
        let Some(task) = self.lease_mut(server, lease).task.clone() else { return };
        self.watch(server, lease, &task, |watch, place| {
            watch.silent(server, place.tier).into_iter().collect()
        });
    }

    /// There is news of a server that may have been silent.
    fn heard(&mut self, server: &ServerId) {
        self.each_campaign(|campaign| campaign.watch.iter_mut().for_each(|watch| watch.heard(server)));
    }

    /// A new attempt goes to the end; the same attempt, or any by a newer plan, keeps its place.
    fn queue(&mut self, server: &ServerId, task: &Task) {
        let next = self.places_next;
        let progress = self.progress_mut(server, &task.campaign);
        let place = match &progress.queued {
            Some(queued) if queued.task == *task || queued.task.plan != task.plan => queued.place,
            Some(_) | None => next,
        };
        progress.queued = Some(Queued { task: task.clone(), place });
        let attempts = attempts_by(progress, task);
        attempts.highest = attempts.highest.max(task.attempt);
        self.places_next = next.max(place + 1);
    }

    fn release(
        &mut self,
        server: &ServerId,
        lease: LeaseId,
        fence: Fence,
        task: Option<&Task>,
        evidence: &Evidence,
    ) {
        if self.leases.get(server).is_some_and(|held| held.id == lease && held.fence == fence) {
            self.drop_lease(server);
        }
        self.heard(server);
        let record = self.server_mut(server);
        record.closed = record.closed.max(fence);
        match evidence {
            Evidence::Report => {
                record.unexplained.insert(lease, task.cloned());
                if record.unexplained.len() > UNEXPLAINED_MAX {
                    record.unexplained.pop_first();
                }
            }
            Evidence::Release { .. } | Evidence::NewerPlan => {
                record.unexplained.remove(&lease);
            }
        }
        let Some(task) = task else { return };
        let (outcome, down_ms) = match evidence {
            Evidence::Release { outcome, down_ms } => (outcome, *down_ms),
            Evidence::Report => return self.attempt_is_over(server, task),
            Evidence::NewerPlan => return,
        };
        let Some(campaign) = self.campaigns.get_mut(&task.campaign) else { return };
        campaign.outcomes.add(outcome);
        let in_force = campaign.terms.plan == task.plan;
        self.ended(server, lease, task, Ending::from(outcome), Some(down_ms));
        let progress = self.progress_mut(server, &task.campaign);
        let counted = progress.attempts.as_ref().is_some_and(|attempts| attempts.plan == task.plan);
        if !in_force && !counted {
            // An older plan's lease, ended after claims by a newer one: what those have used up stays used up.
            return;
        }
        let attempts = attempts_by(progress, task);
        attempts.highest = attempts.highest.max(task.attempt);
        attempts.over = attempts.over.max(Some(task.attempt));
        match outcome {
            LeaseOutcome::RolledBack { .. } => attempts.failures += 1,
            LeaseOutcome::Completed | LeaseOutcome::NeverStarted { .. } => {}
        }
    }

    /// How the attempt ended, its release will say. Until then, an old sending of its claim must not be granted a
    /// second lease.
    fn attempt_is_over(&mut self, server: &ServerId, task: &Task) {
        let progress = self.server_mut(server).progress.get_mut(&task.campaign);
        let attempts = progress.and_then(|progress| progress.attempts.as_mut());
        if let Some(attempts) = attempts.filter(|attempts| attempts.plan == task.plan) {
            attempts.over = attempts.over.max(Some(task.attempt));
        }
    }

    fn hold(&mut self, server: &ServerId, lease: Lease) {
        assert!(!self.leases.contains_key(server), "a server holds one lease");
        if let Some(task) = &lease.task {
            *self.live.entry(task.campaign.clone()).or_default() += 1;
        }
        self.leases.insert(server.clone(), lease);
    }

    fn drop_lease(&mut self, server: &ServerId) {
        let Some(task) = self.leases.remove(server).and_then(|lease| lease.task) else { return };
        let live = self.live.get_mut(&task.campaign).expect("a campaign with a lease is counted");
        *live -= 1;
        if *live == 0 {
            self.live.remove(&task.campaign);
        }
    }

    /// How long a lease of this task may take; the vocabulary's defaults where the plan is not known.
    fn deadlines(&self, task: Option<&Task>) -> (u64, u64) {
        match task.and_then(|task| self.campaigns.get(&task.campaign)) {
            Some(campaign) => (campaign.terms.start_within_ms, campaign.terms.down_max_ms),
            None => {
                let terms = LeaseTerms::default();
                (millis(terms.start_within()), millis(terms.down_max()))
            }
        }
    }

    fn lease_mut(&mut self, server: &ServerId, lease: LeaseId) -> &mut Lease {
        let held = self.leases.get_mut(server).expect("the log names a server that holds a lease");
        assert_eq!(held.id, lease, "the log names the lease that is held");
        held
    }

    fn server_mut(&mut self, server: &ServerId) -> &mut Server {
        self.servers.get_mut(server).expect("the log names a server that was enrolled")
    }

    fn progress_mut(&mut self, server: &ServerId, campaign: &CampaignId) -> &mut Progress {
        self.server_mut(server).progress.entry(campaign.clone()).or_default()
    }
}

/// The attempts by a task's plan; those by an older one are forgotten.
fn attempts_by<'a>(progress: &'a mut Progress, task: &Task) -> &'a mut Attempts {
    let fresh = || Attempts { plan: task.plan, highest: task.attempt, over: None, failures: 0 };
    if progress.attempts.as_ref().is_some_and(|attempts| attempts.plan != task.plan) {
        progress.attempts = None;
    }
    progress.attempts.get_or_insert_with(fresh)
}
/// Of a machine without labels.
static NO_LABELS: LazyLock<Arc<Labels>> = LazyLock::new(Arc::default);

/// Leases of one server that ended by reports and are kept for their releases: an agent lets at most as many wait.
const UNEXPLAINED_MAX: usize = 32;
