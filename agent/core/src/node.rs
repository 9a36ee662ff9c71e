//! One server's agent: everything that comes in is routed here, everything that goes out comes from here.
//!
//! Owns [`Node`]. Main invariant: at most one campaign is active at a time, and the plan it goes by stays the
//! one in force here for as long as the server is down: a newer generation waits until it is up again. Refuses
//! to trust what it is handed: documents pass the one gate, grants must be signed by a coordinator.

use std::sync::Arc;

use lunar_common::document::{Kind, SignedDocument, Verified};
use lunar_common::enrolment::{Enrolment, Role};
use lunar_common::health::Verdict;
use lunar_common::ids::{Attempt, CampaignId, Generation, LeaseId};
use lunar_common::lease::{ClaimAnswer, Grant};
use lunar_common::message::{BytesBySource, HeldLease};
use lunar_common::phase::Phase;
use lunar_common::plan::Plan;
use lunar_common::time::{Moment, Now, WallTime};
use lunar_common::trust::{Accepted, TrustState};
use lunar_common::wire::Signed;
use serde::{Deserialize, Serialize};

use crate::desk::Desk;
use crate::effect::{DocumentVerdict, Effect};
use crate::input::{CallId, Input};
use crate::journal::{Campaign, Finished, Journal, State};
use crate::neighbour::Neighbour;
use crate::report::{Life, Reporter};
use crate::timer::Timer;
use crate::upgrade::{Upgrade, VolatileUpgrade, spread};

/// What a node is made with.
#[derive(Debug, Clone)]
pub struct Setup {
    /// This server's own enrolment.
    pub me: Arc<Verified<Enrolment>>,
    /// Differs between any two boots of the machine: moments of another one mean nothing.
    pub machine_boot: u64,
}

/// One server's agent.
#[derive(Debug, Clone)]
pub struct Node {
    desk: Desk,
    upgrade: Upgrade,
    reporter: Reporter,
    neighbour: Neighbour,
    /// A plan that would displace the one under way, kept until the server is up again.
    deferred: Option<Arc<SignedDocument>>,
}

/// What a node holds beyond its journal and its documents, as far as it bears on what the node does next about
/// its lease. Two nodes that agree in all three are the same to a model checker: left out are words for people,
/// the numbers of questions, and how long is left of what is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volatile {
    /// The upgrade's part.
    pub upgrade: VolatileUpgrade,
    /// The release that was sent and is not answered, and whether the next one waits for its time.
    pub release_under_way: (Option<LeaseId>, bool),
    /// What its own probes said last.
    pub verdict: Verdict,
    /// What only time can bring.
    pub armed: Vec<(Timer, Moment)>,
}

/// Where a node is, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// What its own probes said last.
    pub verdict: Verdict,
    /// What was not healthy.
    pub health: String,
    /// The campaign under way.
    pub active: Option<ActiveStatus>,
    /// How campaigns ended here.
    pub finished: Vec<FinishedStatus>,
    /// The lease held.
    pub lease: Option<HeldLease>,
    /// Leases given back that no coordinator has acknowledged.
    pub releases_waiting: usize,
    /// Transitions that no coordinator has acknowledged.
    pub transitions_waiting: usize,
    /// Halts in force, in their halters' words.
    pub halts: Vec<String>,
}

/// How a campaign ended here, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishedStatus {
    /// Which.
    pub campaign: CampaignId,
    /// In which phase.
    pub phase: Phase,
    /// Why.
    pub cause: String,
}

/// The campaign under way, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveStatus {
    /// Which.
    pub campaign: CampaignId,
    /// By which generation of its plan.
    pub generation: Generation,
    /// The number of the try.
    pub attempt: Attempt,
    /// Tries that failed.
    pub failures: u32,
    /// Where it is.
    pub phase: Phase,
    /// What it waits for.
    pub why: String,
    /// Chunks had and in all.
    pub chunks: (u32, u32),
    /// Bytes received by class of source.
    pub received: BytesBySource,
}

impl Node {
    /// A node as its journal left it, or a new one. Its first effects make this start durable.
    #[must_use]
    pub fn new(setup: Setup, trust: TrustState, journal: Option<Journal>, now: Now) -> Self {
        let mut journal = journal.unwrap_or_default();
        let same_boot = journal.starts > 0 && journal.machine_boot == setup.machine_boot;
        journal.starts += 1;
        journal.machine_boot = setup.machine_boot;
        if !same_boot {
            journal.lease.rebooted();
        }
        let me = trust.machine(&setup.me.key).cloned().unwrap_or(setup.me);
        let mut desk = Desk::new(me, trust, journal);
        desk.persist();
        desk.news = true;
        desk.timers.set(Timer::Health, now.moment);
        let mut node = Self {
            desk,
            upgrade: Upgrade::default(),
            reporter: Reporter::default(),
            neighbour: Neighbour::default(),
            deferred: None,
        };
        node.upgrade.restart(&mut node.desk, same_boot, now);
        node.upgrade.trust_changed(&mut node.desk, now);
        node.settle(now);
        node
    }

    /// Takes something in. Drain [`Self::poll_effect`] after every call.
    pub fn handle(&mut self, input: Input, now: Now) {
        let desk = &mut self.desk;
        match input {
            Input::Document { call, document } => self.document(call, &document, now),
            Input::Grant { call, grant } => {
                let refused = self.grant(&grant, now).err();
                self.desk.emit(Effect::AnswerGrant { call, refused });
            }
            Input::Met { machine } => self.met(&machine, now),
            Input::GroupAsked { call, asker, question } => {
                self.met(&asker, now);
                self.neighbour.asked(&mut self.desk, call, asker.key, question, now);
            }
            Input::ClaimAnswered { nonce, answer } => {
                if let Some(ClaimAnswer::Granted(grant)) = &answer
                    && let Err(reason) = self.grant(grant, now)
                {
                    self.upgrade.why = format!("a grant was refused: {reason}");
                }
                self.upgrade.claim_answered(&mut self.desk, nonce, answer, now);
            }
            Input::ReleaseAnswered { lease, kept } => {
                self.reporter.release_answered(desk, lease, kept, now);
            }
            Input::ReportAnswered { number, answer } => {
                if let Some(life) = self.reporter.report_answered(desk, number, answer.as_ref(), now) {
                    self.upgrade.heard(desk, life == Life::New, now);
                }
            }
            Input::GroupMembers { ask, members } => self.upgrade.members(desk, ask, members, now),
            Input::GroupAnswered { ask, member, answer } => {
                self.upgrade.group_answered(desk, ask, &member, answer.as_ref(), now);
            }
            Input::Applier { ask, status } => self.upgrade.applier(desk, ask, status, now),
            Input::Fetched(progress) => self.upgrade.fetched(desk, progress, now),
            Input::Probed { ask, outcomes } => {
                let upgrade = self.upgrade.asked_probe(ask);
                self.neighbour.probed(desk, ask, &outcomes, upgrade, now);
                self.upgrade.probed(desk, ask, &outcomes, now);
            }
            Input::HookEnded { ask, failure } => self.upgrade.hook_ended(desk, ask, failure, now),
            Input::CoordinatorReachable => self.reporter.reachable(desk),
            Input::CoordinatorHeard { epoch } => {
                self.reporter.announced(desk, epoch, self.upgrade.is_unheard(), now);
            }
        }
        self.settle(now);
    }

    /// The next effect to carry out, in order.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.desk.poll()
    }

    /// When [`Self::handle_timeout`] is to be called, if nothing comes in before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.desk.timers.next()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(timer) = self.desk.timers.due(now.moment) {
            self.rung(timer, now);
        }
    }

    /// One timer rings though its deadline has not come: how the model checker, which knows no durations, asks
    /// what would be done. A timer that is not armed rings for nobody.
    pub fn ring(&mut self, timer: Timer, now: Now) {
        if self.desk.timers.take(timer) {
            self.rung(timer, now);
        }
    }

    fn rung(&mut self, timer: Timer, now: Now) {
        match timer {
            Timer::Step | Timer::Group | Timer::StartBy | Timer::Applier => {
                self.upgrade.timer(&mut self.desk, timer, now);
            }
            Timer::Report => self.reporter.report_due(&mut self.desk),
            Timer::Release => self.reporter.release_due(),
            Timer::Health => self.neighbour.pulse(&mut self.desk, now),
        }
        self.settle(now);
    }

    /// What people signed, as this node holds it.
    #[must_use]
    pub fn trust(&self) -> &TrustState {
        &self.desk.trust
    }

    /// This server's enrolment in force.
    #[must_use]
    pub fn me(&self) -> &Arc<Verified<Enrolment>> {
        &self.desk.me
    }

    /// What this node must not forget, as it is now.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.desk.journal
    }

    /// Where this node is, for people.
    #[must_use]
    pub fn status(&self) -> Status {
        let journal = &self.desk.journal;
        let active = journal.active.as_ref().map(|active| ActiveStatus {
            campaign: active.campaign.clone(),
            generation: active.generation,
            attempt: active.attempt,
            failures: active.failures,
            phase: active.state.phase(),
            why: self.upgrade.why.clone(),
            chunks: self.upgrade.progress.chunks,
            received: self.upgrade.progress.received,
        });
        let ended = |(campaign, end): (&CampaignId, &Finished)| FinishedStatus {
            campaign: campaign.clone(),
            phase: end.phase,
            cause: end.cause.clone(),
        };
        Status {
            verdict: self.neighbour.verdict(),
            health: self.neighbour.detail().to_owned(),
            active,
            finished: journal.finished.iter().map(ended).collect(),
            lease: journal.lease.as_reported(),
            releases_waiting: journal.lease.releases.len(),
            transitions_waiting: journal.transitions.len(),
            halts: self.desk.trust.halts().map(|halt| halt.reason.clone()).collect(),
        }
    }

    /// What this node holds beyond its journal and its documents.
    #[must_use]
    pub fn volatile(&self, now: Moment) -> Volatile {
        Volatile {
            upgrade: self.upgrade.volatile(now),
            release_under_way: self.reporter.release_under_way(),
            verdict: self.neighbour.verdict(),
            armed: self.desk.timers.armed().collect(),
        }
    }

    /// After every input: take up what may be taken up, tell what is to be told.
    fn settle(&mut self, now: Now) {
        if !self.desk.is_down()
            && let Some(document) = self.deferred.take()
        {
            // Refused only if something newer came since; then there is nothing left to do for it.
            if let Ok(accepted) = self.desk.trust.accept(&document, now.wall) {
                self.accepted(&accepted, now);
            }
        }
        self.choose(now);
        self.reporter.flush(&mut self.desk, &self.upgrade, self.neighbour.verdict());
    }

    /// Takes up the oldest plan that selects this server and is not done here. One that was taken up and can
    /// start no more gives way to it.
    fn choose(&mut self, now: Now) {
        let time = self.desk.trust.trusted_time(now.wall);
        if self.desk.chosen_until.is_some_and(|until| time < until) {
            return;
        }
        let hindrance = self.hindrance(now);
        let desk = &mut self.desk;
        if desk.journal.active.is_some() && hindrance.is_none() {
            // Once the server is down, nothing but its own journal ends that.
            let expires = desk.active_plan_held().map(|plan| plan.expires);
            desk.chosen_until = if desk.is_down() { Some(WallTime(i64::MAX)) } else { expires };
            return;
        }
        let finished = &desk.journal.finished;
        let is_over =
            |plan: &Verified<Plan>| finished.get(&plan.campaign).is_some_and(|end| end.plan == plan.hash());
        let plan = desk
            .trust
            .plans()
            .filter(|plan| !is_over(plan) && may_begin(plan, desk, now))
            .min_by_key(|plan| (plan.issued, plan.campaign.clone()))
            .cloned();
        let Some(plan) = plan else {
            // What has expired may not have, by a clock that is put right.
            let for_nobody = |plan: &Verified<Plan>| is_over(plan) || !plan.select.matches(&desk.me);
            if desk.journal.active.is_none() && desk.trust.plans().all(|plan| for_nobody(plan)) {
                desk.chosen_until = Some(WallTime(i64::MAX));
            }
            return;
        };
        if let Some(cause) = hindrance {
            self.upgrade.give_up(desk, cause, now);
        }
        let finished = &desk.journal.finished;
        // Leases are numbered on over the generations of a campaign.
        let attempt = finished.get(&plan.campaign).map_or(Attempt(1), |end| end.attempt.next());
        let not_before = now.moment.after(spread(&plan, &desk.me.server, attempt));
        desk.journal.active = Some(Campaign {
            campaign: plan.campaign.clone(),
            plan: plan.hash(),
            generation: plan.generation,
            attempt,
            failures: 0,
            state: State::Scheduled { not_before },
        });
        desk.persist();
        desk.news = true;
        desk.timers.set(Timer::Health, now.moment);
        self.upgrade.begin_campaign();
        self.upgrade.enter(desk, now);
    }

    /// Why the campaign taken up cannot start any more, with the server up. Without another one to take up it is
    /// only waited: a clock may be wrong, an enrolment renewed.
    fn hindrance(&self, now: Now) -> Option<&'static str> {
        if self.desk.journal.active.is_none() || self.desk.is_down() {
            return None;
        }
        match self.desk.active_plan_held() {
            None => Some("its plan was dropped to make room for others"),
            Some(plan) if !may_begin(plan, &self.desk, now) => {
                Some("its plan has expired or does not select this server any more, and another one waits")
            }
            Some(_) => None,
        }
    }

    /// Who may sign grants, and who stands in for this server, must be known whenever it matters; everyone else's
    /// enrolment is verified on each connection and forgotten with it.
    fn met(&mut self, machine: &Verified<Enrolment>, now: Now) {
        let group = &self.desk.me.group;
        let mine = group.is_some() && machine.group == *group;
        if machine.role != Role::Coordinator && !mine || self.desk.trust.holds(machine) {
            return;
        }
        match self.desk.trust.accept(machine.document(), now.wall) {
            Ok(Accepted::Known) => {}
            Ok(accepted) => self.accepted(&accepted, now),
            // Revoked or renewed since it connected: the one in force counts, which is known by another way.
            Err(_) => {}
        }
    }

    fn document(&mut self, call: CallId, document: &SignedDocument, now: Now) {
        let mut trust = self.desk.trust.clone();
        let verdict = match trust.accept(document, now.wall) {
            Ok(Accepted::Known) => DocumentVerdict::Known,
            Ok(Accepted::Plan(plan)) if self.displaces_what_is_under_way(&trust) => {
                // Good, but not now: what the server is down for is finished under its own plan.
                let document = plan.document().clone();
                self.deferred = Some(document.clone());
                self.desk.emit(Effect::Spread { call, document });
                DocumentVerdict::Accepted
            }
            Ok(accepted) => {
                self.desk.trust = trust;
                self.accepted(&accepted, now);
                if document.kind != Kind::Enrolment {
                    self.desk.emit(Effect::Spread { call, document: Arc::new(document.clone()) });
                }
                DocumentVerdict::Accepted
            }
            Err(refusal) => DocumentVerdict::Refused {
                reason: refusal.to_string(),
                blames_sender: refusal.blames_sender(),
            },
        };
        self.desk.emit(Effect::AnswerDocument { call, verdict });
    }

    /// Whether the plan that this server is down for would be gone: replaced by a newer generation, or dropped
    /// to make room.
    fn displaces_what_is_under_way(&self, trust: &TrustState) -> bool {
        let lacks = |active: &Campaign| {
            trust.plan(&active.campaign).is_none_or(|in_force| in_force.hash() != active.plan)
        };
        self.desk.is_down() && self.desk.journal.active.as_ref().is_some_and(lacks)
    }

    /// Something new is in force: durable first, then acted upon.
    fn accepted(&mut self, accepted: &Accepted, now: Now) {
        if let Accepted::Enrolment(machine) = accepted {
            self.desk.enrolled(machine);
        }
        self.desk.persist_trust();
        self.upgrade.trust_changed(&mut self.desk, now);
    }

    /// A grant counts only if a coordinator that is a member signed it.
    fn grant(&mut self, signed: &Signed, now: Now) -> Result<(), String> {
        let signer = self.desk.trust.machine(&signed.signer);
        if signer.is_none_or(|signer| signer.role != Role::Coordinator) {
            return Err(format!("{:.16} is no coordinator of this fleet", signed.signer));
        }
        let grant: Grant = signed.open().map_err(|error| error.to_string())?;
        self.upgrade.granted(&mut self.desk, signed.clone(), grant, now).map_err(|error| error.to_string())
    }
}

/// Whether a plan is for this server and has not expired.
fn may_begin(plan: &Plan, desk: &Desk, now: Now) -> bool {
    plan.select.matches(&desk.me) && plan.expires > desk.trust.trusted_time(now.wall)
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;
