//! The way to the start: spread, fetch, stage, check, claim, check again. The server is up all along.
//!
//! Owns every step up to and including the journaled start. Main invariant: [`Upgrade::start`] is the only way
//! down, and it is reached only with a held grant in time, a plan that may start, healthy probes and every
//! other member of the group up, all found after the grant came.

use std::sync::Arc;
use std::time::Duration;

use lunar_common::document::{Kind, SignedDocument, Verified};
use lunar_common::enrolment::{Enrolment, Role};
use lunar_common::health::{Outcome, Verdict, When};
use lunar_common::ids::{Attempt, ProbeName, ServerId};
use lunar_common::lease::{Claim, ClaimAnswer, ClaimRefusal, Grant, GroupQuestion, LeaseOutcome};
use lunar_common::order::{draw, draw_below};
use lunar_common::phase::Phase;
use lunar_common::plan::{Install, Plan};
use lunar_common::retry::{self, BackOff};
use lunar_common::time::{Moment, Now};
use lunar_common::trust::Accepted;
use lunar_common::wire::Signed;

use super::{APPLIER_POLL, APPLIER_RETRY, Move, Next, Step, Upgrade, give_back, go};
use crate::desk::Desk;
use crate::effect::{ApplierCommand, Effect};
use crate::group::{GroupCheck, Standing};
use crate::health::complaint;
use crate::input::{ApplierStage, ApplierStatus, AskId, FetchProgress};
use crate::journal::{Held, State};
use crate::lease::{GrantRefusal, Taken, Wanted};
use crate::timer::Timer;

/// Waits for a coordinator, a neighbour or better health that cost no attempt.
const PATIENCE: BackOff = BackOff { base: Duration::from_secs(1), cap: Duration::from_secs(30) };

/// How often a halted or expired plan is looked at again. A resume wakes it at once; this is for clocks.
const STOPPED_RECHECK: Duration = Duration::from_secs(30);

/// Between two checks while a grant is held: its time runs.
const HELD_RECHECK: Duration = Duration::from_secs(2);

/// How long a healthy round before a claim counts, while the claim waits its turn.
const PROBED_FOR: Duration = Duration::from_secs(30);

/// The longest wait a coordinator may impose between two sendings of a claim.
const CLAIM_WAIT_MS_MAX: u64 = 60_000;

/// Claims of one start of the agent are numbered in this many bits of their nonce; its starts above them. A
/// claim each 100 ms for thirteen years.
const CLAIMS_PER_START_BITS: u32 = 32;

/// The shortest: what keeps a confused coordinator from being flooded.
const CLAIM_WAIT_MS_MIN: u64 = 100;

/// Transitions that may wait for a coordinator before nothing new is begun: what cannot be accounted for is
/// not started. Some 300 attempts.
const TRANSITIONS_WAITING_MAX: usize = 4096;

/// A server's place in the plan's spread (H4): by its id, plus a jitter drawn anew each attempt.
pub(crate) fn spread(plan: &Plan, server: &ServerId, attempt: Attempt) -> Duration {
    let server = server.as_str().as_bytes();
    let campaign = plan.campaign.as_str().as_bytes();
    let window_ms = u64::from(plan.spread.window_s) * 1000;
    let jitter_ms = u64::from(plan.spread.jitter_s) * 1000;
    let place = draw_below(window_ms, "spread", &[server, campaign]);
    let jitter = draw_below(jitter_ms, "spread-jitter", &[server, campaign, &attempt.0.to_le_bytes()]);
    Duration::from_millis(place + jitter)
}

impl Upgrade {
    pub(super) fn scheduled(&mut self, desk: &mut Desk, plan: &Arc<Verified<Plan>>, at: Moment, now: Now) {
        if now.moment < at {
            self.why = "waits for its place in the spread, or for its next try".into();
            desk.timers.set(Timer::Step, at);
        } else if desk.journal.transitions.len() > TRANSITIONS_WAITING_MAX {
            self.wait(desk, STOPPED_RECHECK, "no coordinator has taken this server's records", now);
        } else {
            self.tell_applier(desk, plan.clone(), ApplierCommand::Status);
        }
    }

    /// What runs now decides whether there is anything to do, and whether the plan may do it.
    pub(super) fn looked(&mut self, desk: &mut Desk, status: &ApplierStatus, now: Now) {
        let Some(plan) = desk.active_plan() else { return };
        match &status.stage {
            ApplierStage::Idle
            | ApplierStage::Staging
            | ApplierStage::Staged
            | ApplierStage::Committed
            | ApplierStage::RolledBack { .. } => {}
            ApplierStage::Applying | ApplierStage::Applied => {
                // Begun by a run of this agent that has left no record: nobody validated it.
                let cause = "begun by a run of the agent that left no record".to_owned();
                self.tell_applier(desk, plan, ApplierCommand::RollBack { cause });
                return self.wait(desk, APPLIER_RETRY, "the applier goes back from an unknown start", now);
            }
            ApplierStage::RollingBack => {
                return self.wait(desk, APPLIER_RETRY, "the applier is going back", now);
            }
            ApplierStage::Refused { reason } => {
                let why = format!("the applier refuses: {reason}");
                return self.wait(desk, APPLIER_RETRY, &why, now);
            }
            ApplierStage::Busy { plan } => {
                let why = format!("the applier is busy with plan {plan:.16}");
                return self.wait(desk, APPLIER_RETRY, &why, now);
            }
        }
        match misfit(&plan, status) {
            Fit::AlreadyThere => go(desk, Move::AlreadyThere, Next::Over, "runs the plan's version", now),
            Fit::Upgradable => {
                go(desk, Move::Download, Next::On(State::Downloading), "its time has come", now);
                self.enter(desk, now);
            }
            Fit::NotReplaceable(cause) => go(desk, Move::GiveUp, Next::Over, &cause, now),
            Fit::Unknown => self.wait(desk, APPLIER_RETRY, "the applier does not say what runs", now),
        }
    }

    pub(super) fn download(&mut self, desk: &mut Desk, plan: Arc<Verified<Plan>>) {
        self.step = Step::Fetch;
        self.progress = FetchProgress::default();
        desk.emit(Effect::Want { plan });
    }

    /// The fetcher says how far it is.
    pub(crate) fn fetched(&mut self, desk: &mut Desk, progress: FetchProgress, now: Now) {
        let failure = progress.failure.clone();
        let complete = desk
            .active_plan()
            .is_some_and(|plan| plan.artifacts.iter().all(|wanted| progress.complete.contains(&wanted.id)));
        self.progress = progress;
        if desk.phase() != Some(Phase::Downloading) || !matches!(self.step, Step::Fetch) {
            return;
        }
        if let Some(cause) = failure {
            self.fail(desk, &format!("cannot fetch: {cause}"), now);
        } else if complete {
            go(desk, Move::Stage, Next::On(State::Staging), "every artifact is here", now);
            self.enter(desk, now);
        }
    }

    pub(super) fn staged(&mut self, desk: &mut Desk, stage: ApplierStage, now: Now) {
        match stage {
            ApplierStage::Staged => {
                go(desk, Move::Queue, Next::On(State::Queued), "ready beside the running version", now);
                self.enter(desk, now);
            }
            ApplierStage::Idle | ApplierStage::Staging => {
                self.wait(desk, APPLIER_POLL, "the applier is unpacking", now);
            }
            ApplierStage::Refused { reason } => self.fail(desk, &format!("cannot stage: {reason}"), now),
            ApplierStage::Busy { .. }
            | ApplierStage::Applying
            | ApplierStage::Applied
            | ApplierStage::Committed
            | ApplierStage::RollingBack
            | ApplierStage::RolledBack { .. } => {
                self.wait(desk, APPLIER_RETRY, "the applier is busy with another attempt", now);
            }
        }
    }

    pub(super) fn queued(&mut self, desk: &mut Desk, plan: Arc<Verified<Plan>>, now: Now) {
        if let Err(refusal) = self.may_start(desk, now) {
            return self.stop(desk, &refusal, now);
        }
        match self.probed {
            Some(at) if now.moment.since(at) < PROBED_FOR => self.claim(desk, now),
            Some(_) | None => self.probe(desk, plan, When::Before),
        }
    }

    /// Under a grant, with the server up: the root half's word first, then probes and the group, whose word must
    /// be fresh at the start.
    pub(super) fn pre_check(&mut self, desk: &mut Desk, plan: Arc<Verified<Plan>>, now: Now) {
        let Some(held) = &desk.journal.lease.held else {
            return self.stand_back(desk, "no lease is held", now);
        };
        let start_by = start_by(held, &plan);
        if now.moment >= start_by {
            return self.stand_back(desk, "the time to start ran out", now);
        }
        if let Err(refusal) = self.may_start(desk, now) {
            return self.stand_back(desk, &refusal, now);
        }
        let (grant, claim_sent) = (held.signed.clone(), held.claim_sent);
        desk.timers.set(Timer::StartBy, start_by);
        self.tell_applier(desk, plan, ApplierCommand::Check { grant, claim_sent });
    }

    /// The root half says whether it would begin. A refusal now costs no traffic; after the drain it would.
    pub(super) fn permitted(&mut self, desk: &mut Desk, stage: ApplierStage, now: Now) {
        let cause = match stage {
            ApplierStage::Staged => {
                let Some(plan) = desk.active_plan() else { return };
                return self.probe(desk, plan, When::Before);
            }
            ApplierStage::Refused { reason } => format!("the applier would not begin: {reason}"),
            ApplierStage::Busy { plan } => format!("the applier is busy with plan {plan:.16}"),
            ApplierStage::Idle
            | ApplierStage::Staging
            | ApplierStage::Applying
            | ApplierStage::Applied
            | ApplierStage::Committed
            | ApplierStage::RollingBack
            | ApplierStage::RolledBack { .. } => {
                "the applier holds this attempt for begun or over".to_owned()
            }
        };
        if !in_time(desk, now) || self.may_start(desk, now).is_err() {
            // A grant that ran out, and a halt, are nobody's failure.
            return self.stand_back(desk, &cause, now);
        }
        self.fail(desk, &cause, now);
    }

    pub(super) fn probed_before(&mut self, desk: &mut Desk, outcomes: &[(ProbeName, Outcome)], now: Now) {
        match Verdict::over(outcomes.iter().map(|(_, outcome)| outcome)) {
            Verdict::Healthy => {
                self.probed = Some(now.moment);
                self.check_group(desk, now);
            }
            Verdict::Inconclusive => {
                let why = format!("health is not known: {}", complaint(outcomes));
                self.be_patient(desk, &why, now);
            }
            Verdict::Unhealthy => {
                self.fail(desk, &format!("not healthy before the upgrade: {}", complaint(outcomes)), now);
            }
        }
    }

    /// Waits without spending an attempt: longer each time in the queue, shortly while a grant is held.
    fn be_patient(&mut self, desk: &mut Desk, why: &str, now: Now) {
        if desk.phase() == Some(Phase::PreCheck) {
            return self.wait(desk, HELD_RECHECK, why, now);
        }
        let delay = PATIENCE.delay(self.waits, "patience", &[desk.me.server.as_str().as_bytes()]);
        self.waits = self.waits.saturating_add(1);
        self.wait(desk, delay, why, now);
    }

    fn check_group(&mut self, desk: &mut Desk, now: Now) {
        if desk.me.group.is_none() {
            self.checked(desk, now);
        } else if self.members_known && desk.phase() == Some(Phase::PreCheck) {
            self.ask_group(desk, now);
        } else {
            let ask = desk.ask();
            self.step = Step::Members(ask);
            desk.emit(Effect::AskGroupMembers { ask });
        }
    }

    /// The coordinator named the members of the own group; who they are, their enrolments prove.
    pub(crate) fn members(
        &mut self,
        desk: &mut Desk,
        ask: AskId,
        members: Option<Vec<SignedDocument>>,
        now: Now,
    ) {
        if !matches!(self.step, Step::Members(asked) if asked == ask) {
            return;
        }
        let Some(members) = members else {
            self.be_patient(desk, "no coordinator names the members of its group", now);
            self.unheard = true;
            return;
        };
        let mut changed = false;
        for document in &members {
            // Only enrolments were asked for: whatever else people signed comes by the node's own gate, which
            // acts upon it. A bad one proves nobody: it is left out, and the check asks those that remain.
            if document.kind == Kind::Enrolment
                && let Ok(Accepted::Enrolment(machine)) = desk.trust.accept(document, now.wall)
            {
                desk.enrolled(&machine);
                changed = true;
            }
        }
        if changed {
            desk.persist_trust();
        }
        self.members_known = true;
        self.ask_group(desk, now);
    }

    fn ask_group(&mut self, desk: &mut Desk, now: Now) {
        let (Some(group), Some(active)) = (desk.me.group.clone(), &desk.journal.active) else { return };
        let campaign = active.campaign.clone();
        let others = others_of_group(desk);
        let ask = desk.ask();
        let key =
            [desk.me.server.as_str().as_bytes(), &desk.journal.starts.to_le_bytes(), &ask.0.to_le_bytes()];
        let nonce = draw("group-nonce", &key);
        let check = GroupCheck::begin(ask, nonce, group.clone(), &others, now.moment);
        desk.timers.set(Timer::Group, check.deadline);
        self.step = Step::Group(check);
        for member in others {
            let question = GroupQuestion {
                asker: desk.me.server.clone(),
                group: group.clone(),
                campaign: campaign.clone(),
                nonce,
            };
            desk.emit(Effect::AskMember { ask, member, question });
        }
        self.group_standing(desk, now);
    }

    /// A member answered, or could not be reached.
    pub(crate) fn group_answered(
        &mut self,
        desk: &mut Desk,
        ask: AskId,
        member: &ServerId,
        answer: Option<&Signed>,
        now: Now,
    ) {
        match &mut self.step {
            Step::Group(check) if check.ask == ask => check.answered(member, answer),
            Step::Group(_)
            | Step::Timer
            | Step::Fetch
            | Step::Applier(_)
            | Step::Probe(_)
            | Step::Members(_)
            | Step::Claim { .. }
            | Step::Hook(_) => return,
        }
        self.group_standing(desk, now);
    }

    pub(super) fn group_standing(&mut self, desk: &mut Desk, now: Now) {
        let Step::Group(check) = &self.step else { return };
        match check.standing(now.moment) {
            Standing::Pending => {}
            Standing::AllUp => {
                desk.timers.clear(Timer::Group);
                self.checked(desk, now);
            }
            Standing::NotUp { cause } => {
                desk.timers.clear(Timer::Group);
                self.be_patient(desk, &format!("its group is not whole: {cause}"), now);
            }
        }
    }

    /// Healthy, and the group is whole: ask for a lease, or start under the one held.
    fn checked(&mut self, desk: &mut Desk, now: Now) {
        if desk.phase() == Some(Phase::PreCheck) {
            self.start(desk, now);
        } else {
            self.claim(desk, now);
        }
    }

    /// Waits in the queue for starts to be permitted again.
    fn stop(&mut self, desk: &mut Desk, refusal: &str, now: Now) {
        self.wait(desk, STOPPED_RECHECK, refusal, now);
        self.stopped = true;
    }

    fn claim(&mut self, desk: &mut Desk, now: Now) {
        // A halt may have come while probes and neighbours were asked.
        if let Err(refusal) = self.may_start(desk, now) {
            return self.stop(desk, &refusal, now);
        }
        let Some(active) = &desk.journal.active else { return };
        self.claims += 1;
        // Unique over all starts of this agent, so that a grant for a claim of an earlier run is recognised as
        // such; and rising, because the ledger takes a sending with a lower number for an older one.
        let nonce = (desk.journal.starts << CLAIMS_PER_START_BITS) | self.claims;
        self.sendings.sent(nonce, now.moment);
        self.step = Step::Claim { nonce };
        self.why = "asks for a lease".into();
        let claim = Claim {
            server: desk.me.server.clone(),
            campaign: active.campaign.clone(),
            plan: active.plan,
            attempt: active.attempt,
            nonce,
            epoch_seen: desk.journal.lease.epoch_seen,
            fence_seen: desk.journal.lease.fence_seen,
            verdict: Verdict::Healthy,
        };
        desk.emit(Effect::Claim(claim));
    }

    /// A coordinator answered a claim, or none did. A grant in the answer comes through [`Self::granted`].
    pub(crate) fn claim_answered(
        &mut self,
        desk: &mut Desk,
        nonce: u64,
        answer: Option<ClaimAnswer>,
        now: Now,
    ) {
        if !matches!(self.step, Step::Claim { nonce: sent } if sent == nonce) {
            return;
        }
        match answer {
            None => {
                self.be_patient(desk, "no coordinator answers", now);
                self.unheard = true;
            }
            Some(ClaimAnswer::Granted(_)) => self.be_patient(desk, "the grant was of no use", now),
            Some(ClaimAnswer::Wait { reason, retry_after_ms }) => {
                self.waits = 0;
                let delay = retry_after_ms.clamp(CLAIM_WAIT_MS_MIN, CLAIM_WAIT_MS_MAX);
                let why = format!("the coordinator says wait: {}", in_words(&reason));
                self.wait(desk, Duration::from_millis(delay), &why, now);
            }
            Some(ClaimAnswer::Refused(refusal)) => self.claim_refused(desk, &refusal, now),
        }
    }

    fn claim_refused(&mut self, desk: &mut Desk, refusal: &ClaimRefusal, now: Now) {
        let why = format!("the coordinator refuses: {refusal}");
        match refusal {
            ClaimRefusal::AttemptOver(attempt) => self.number_attempt_above(desk, *attempt, &why, now),
            ClaimRefusal::AttemptBehind { highest, .. } => {
                self.number_attempt_above(desk, *highest, &why, now);
            }
            ClaimRefusal::NotSelected => go(desk, Move::GiveUp, Next::Over, &why, now),
            ClaimRefusal::TooManyAttempts(_) => go(desk, Move::GiveUp, Next::Over, &why, now),
            // Another generation, an enrolment or the plan itself has not reached one of us yet.
            ClaimRefusal::NotYourServer | ClaimRefusal::OtherPlan { .. } | ClaimRefusal::UnknownCampaign => {
                self.be_patient(desk, &why, now)
            }
        }
    }

    /// The ledger has seen this attempt's lease come and go: leases are numbered on from there, and the applier
    /// stages under the new number. Costs no attempt.
    fn number_attempt_above(&mut self, desk: &mut Desk, highest: Attempt, cause: &str, now: Now) {
        if let Some(active) = &mut desk.journal.active {
            active.attempt = active.attempt.max(highest);
        }
        let next = Next::Again { state: State::Staging, failed: false };
        go(desk, Move::StageAgain, next, cause, now);
        self.probed = None;
        self.stopped = false;
        desk.timers.clear(Timer::Group);
        self.be_patient(desk, cause, now);
    }

    /// A grant, signed by a coordinator that is a member. `Err`: it has no effect, and why.
    pub(crate) fn granted(
        &mut self,
        desk: &mut Desk,
        signed: Signed,
        grant: Grant,
        now: Now,
    ) -> Result<(), GrantRefusal> {
        let active = desk.journal.active.as_ref().filter(|active| active.state == State::Queued);
        let task = active.map(|active| (active.campaign.clone(), active.plan, active.attempt));
        let wanted = Wanted {
            server: &desk.me.server,
            task: task.as_ref().map(|(campaign, plan, attempt)| (campaign, *plan, *attempt)),
        };
        let (campaign, attempt) = (grant.campaign.clone(), grant.attempt);
        let taken = desk.journal.lease.take(grant, signed, wanted, &self.sendings, now.moment)?;
        match taken {
            Taken::Known => {}
            Taken::Held => {
                go(desk, Move::CheckAgain, Next::On(State::PreCheck), "a lease was granted", now);
                self.enter(desk, now);
            }
            Taken::GivenBack { cause } => {
                desk.news = true;
                let over = desk.journal.active.as_ref().is_some_and(|active| {
                    (&active.campaign, active.attempt) == (&campaign, attempt)
                        && active.state == State::Queued
                });
                if over {
                    // That attempt's lease is over: the next claim needs a number of its own.
                    self.number_attempt_above(
                        desk,
                        attempt,
                        &format!("a grant was given back: {cause}"),
                        now,
                    );
                } else {
                    desk.persist();
                }
            }
        }
        Ok(())
    }

    /// Gives an unused grant back and returns to the queue. Costs no attempt.
    pub(super) fn stand_back(&mut self, desk: &mut Desk, cause: &str, now: Now) {
        desk.timers.clear(Timer::StartBy);
        give_back(desk, LeaseOutcome::NeverStarted { cause: cause.to_owned() }, now);
        let next = Next::Again { state: State::Staging, failed: false };
        go(desk, Move::StandBack, next, cause, now);
        self.probed = None;
        self.stopped = false;
        desk.timers.clear(Timer::Group);
        // Whatever was in the way may still be: do not claim again in the same breath.
        self.be_patient(desk, cause, now);
    }

    /// The first irreversible step is permitted from here on. Checks again, journals, goes down.
    fn start(&mut self, desk: &mut Desk, now: Now) {
        if let Err(refusal) = self.may_start(desk, now) {
            return self.stand_back(desk, &refusal, now);
        }
        if !in_time(desk, now) {
            return self.stand_back(desk, "the time to start ran out", now);
        }
        desk.timers.clear(Timer::StartBy);
        desk.journal.lease.start(now.moment);
        self.forget();
        go(desk, Move::Start, Next::On(State::Draining), "healthy, granted, its group whole", now);
        self.enter(desk, now);
    }

    /// The attempt failed with the server untouched.
    pub(super) fn fail(&mut self, desk: &mut Desk, cause: &str, now: Now) {
        let Some(plan) = desk.active_plan() else { return };
        desk.timers.clear(Timer::StartBy);
        give_back(desk, LeaseOutcome::NeverStarted { cause: cause.to_owned() }, now);
        let failures = desk.journal.active.as_ref().map_or(0, |active| active.failures);
        if failures + 1 >= plan.retry.attempts_max {
            go(desk, Move::GiveUp, Next::Over, cause, now);
        } else {
            let not_before = now.moment.after(retry_delay(&plan, &desk.me.server, failures));
            let next = Next::Again { state: State::Scheduled { not_before }, failed: true };
            go(desk, Move::TryAgain, next, cause, now);
        }
        self.forget();
        self.enter(desk, now);
    }

    pub(super) fn rolled_back(&mut self, desk: &mut Desk, _plan: &Arc<Verified<Plan>>, at: Moment, now: Now) {
        if now.moment < at {
            self.why = "rolled back; waits for its next try".into();
            desk.timers.set(Timer::Step, at);
        } else {
            let next = Next::On(State::Scheduled { not_before: now.moment });
            go(desk, Move::TryAgain, next, "its next try", now);
            self.enter(desk, now);
        }
    }
}

/// The last moment to start. What the drain may take is kept free behind it: the root half counts the same time,
/// and would not begin once it is over.
fn start_by(held: &Held, plan: &Plan) -> Moment {
    let Install::Release { drain, .. } = &plan.install;
    let drain = drain.as_ref().map_or(Duration::ZERO, |hook| Duration::from_secs(hook.timeout_s.into()));
    let within = Duration::from_millis(held.grant.start_within_ms).min(plan.lease.start_within());
    held.claim_sent.after(within.saturating_sub(drain))
}

fn in_time(desk: &Desk, now: Now) -> bool {
    let (Some(held), Some(plan)) = (&desk.journal.lease.held, desk.active_plan()) else { return false };
    now.moment < start_by(held, &plan)
}

/// The plan's wait after the nth failure, counted from 0.
pub(super) fn retry_delay(plan: &Plan, server: &ServerId, nth: u32) -> Duration {
    retry::delay(nth, &plan.retry, &[server.as_str().as_bytes(), plan.campaign.as_str().as_bytes()])
}

/// The other members of the own group, by the enrolments known.
pub(crate) fn others_of_group(desk: &Desk) -> Vec<Arc<Verified<Enrolment>>> {
    desk.trust
        .machines()
        .filter(|machine| {
            machine.role == Role::Agent
                && machine.group == desk.me.group
                && machine.group.is_some()
                && machine.server != desk.me.server
        })
        .cloned()
        .collect()
}

/// Whether the plan has anything to do here, and may.
enum Fit {
    AlreadyThere,
    Upgradable,
    NotReplaceable(String),
    Unknown,
}

fn misfit(plan: &Plan, status: &ApplierStatus) -> Fit {
    if status.running.len() != plan.artifacts.len() {
        return Fit::Unknown;
    }
    let pairs = || plan.artifacts.iter().zip(&status.running);
    if pairs().all(|(wanted, running)| *running == Some(wanted.id)) {
        return Fit::AlreadyThere;
    }
    for (wanted, running) in pairs() {
        if !wanted.may_replace(*running) {
            let runs = running.map_or_else(|| "nothing".to_owned(), |id| format!("{id:.16}"));
            return Fit::NotReplaceable(format!(
                "{} runs {runs}, which the plan does not replace",
                wanted.name
            ));
        }
    }
    Fit::Upgradable
}

/// A wait reason, shortly.
fn in_words(reason: &lunar_common::lease::WaitReason) -> String {
    use lunar_common::lease::WaitReason;
    match reason {
        WaitReason::Limit { scope, limit, taken, .. } => {
            format!("{scope} has {taken} of {limit} slots taken")
        }
        WaitReason::Behind { ahead } => format!("{ahead} waited longer"),
        WaitReason::Halted { why } => format!("halted: {why}"),
        WaitReason::PlanExpired => "the plan has expired".into(),
        WaitReason::EnrolmentExpired => "the enrolment has expired".into(),
        WaitReason::NotHealthy { verdict } => format!("this server is {verdict}"),
        WaitReason::Recovering { unheard } => format!("it has not heard from {unheard} servers yet"),
        WaitReason::NotClaimed { phase } => format!("this server is {phase}"),
        WaitReason::Unreachable { .. } => "it has not heard from this server".into(),
        WaitReason::HoldsLease { lease, state } => format!("lease {lease} is {state}"),
        WaitReason::Done { phase } => format!("this server is {phase}"),
        WaitReason::NoCampaign => "no campaign selects this server".into(),
    }
}
