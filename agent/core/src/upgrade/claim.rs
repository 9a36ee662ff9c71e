//! From the queue to the start: claim, take the grant, check once more. The server is up all along.
//!
//! Owns claims, grants and the journaled start. Main invariant: [`Upgrade::start`] is the only way down, and it is
//! reached only with a held grant in time, a plan that may start, a root half that would begin, healthy probes
//! and every other member of the group up, all found after the grant came.

use std::sync::Arc;
use std::time::Duration;

use lunar_common::document::Verified;
use lunar_common::health::{Verdict, When};
use lunar_common::ids::Attempt;
use lunar_common::lease::{Claim, ClaimAnswer, ClaimRefusal, Grant, LeaseOutcome};
use lunar_common::plan::{Install, Plan};
use lunar_common::time::{Moment, Now};
use lunar_common::wire::Signed;

use super::{Line, Move, Next, STOPPED_RECHECK, Step, Upgrade, give_back, go};
use crate::desk::Desk;
use crate::effect::{ApplierCommand, Effect};
use crate::input::ApplierStage;
use crate::journal::{Held, State};
use crate::lease::{GrantRefusal, Taken, Wanted};
use crate::timer::Timer;

/// How long a healthy round before a claim counts, while the claim waits its turn.
const PROBED_FOR: Duration = Duration::from_secs(30);

/// The longest wait a coordinator may impose between two sendings of a claim: it knows who is far from the head of
/// the queue, and half an hour is nothing to those.
const CLAIM_WAIT_MS_MAX: u64 = 1_800_000;

/// Whoever is told to wait for longer than this is far from the head of the queue.
const CLAIM_NEAR_MS: u64 = 60_000;

/// Claims of one start of the agent are numbered in this many bits of their nonce; its starts above them. A
/// claim each 100 ms for thirteen years.
const CLAIMS_PER_START_BITS: u32 = 32;

/// The shortest: what keeps a confused coordinator from being flooded.
const CLAIM_WAIT_MS_MIN: u64 = 100;

impl Upgrade {
    pub(super) fn queued(&mut self, desk: &mut Desk, plan: Arc<Verified<Plan>>, now: Now) {
        if let Err(refusal) = self.may_start(desk, now) {
            return self.stop(desk, &refusal, now);
        }
        match self.probed {
            Some(at) if now.moment.since(at) < PROBED_FOR => self.claim(desk, now),
            Some(_) | None => self.probe(desk, plan, When::Before),
        }
    }

    /// Waits in the queue for starts to be permitted again.
    pub(super) fn stop(&mut self, desk: &mut Desk, refusal: &str, now: Now) {
        self.wait(desk, STOPPED_RECHECK, refusal, now);
        self.stopped = true;
    }

    pub(super) fn claim(&mut self, desk: &mut Desk, now: Now) {
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
                self.line = match (delay > CLAIM_NEAR_MS, self.line) {
                    (true, Line::Out | Line::Far | Line::Near) => Line::Far,
                    (false, Line::Far) => Line::Out,
                    (false, Line::Out | Line::Near) => Line::Near,
                };
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
    pub(super) fn number_attempt_above(&mut self, desk: &mut Desk, highest: Attempt, cause: &str, now: Now) {
        if let Some(active) = &mut desk.journal.active {
            active.attempt = active.attempt.max(highest);
        }
        let next = Next::Again { state: State::Staging, failed: false };
        go(desk, Move::StageAgain, next, cause, now);
        self.probed = None;
        self.line = Line::Out;
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

    /// Gives an unused grant back and returns to the queue. Costs no attempt.
    pub(super) fn stand_back(&mut self, desk: &mut Desk, cause: &str, now: Now) {
        desk.timers.clear(Timer::StartBy);
        give_back(desk, LeaseOutcome::NeverStarted { cause: cause.to_owned() }, now);
        let next = Next::Again { state: State::Staging, failed: false };
        go(desk, Move::StandBack, next, cause, now);
        self.probed = None;
        self.line = Line::Out;
        self.stopped = false;
        desk.timers.clear(Timer::Group);
        // Whatever was in the way may still be: do not claim again in the same breath.
        self.be_patient(desk, cause, now);
    }

    /// The first irreversible step is permitted from here on. Checks again, journals, goes down.
    pub(super) fn start(&mut self, desk: &mut Desk, now: Now) {
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
        WaitReason::Gate { before, demand, evidence, .. } => match evidence.missing(demand) {
            Some(missing) => format!("stage {before} has not passed: {missing}"),
            None => format!("stage {before} passes now"),
        },
        WaitReason::Wave { stage, size, .. } => {
            format!("the {size} starts of stage {stage}'s wave are given")
        }
        WaitReason::Order { rule, pending, .. } => format!("{pending} go first ({rule})"),
        WaitReason::NoStage => "no stage of the plan selects this server".into(),
        WaitReason::Paused { scope, anomaly, .. } => format!("{scope} is paused: {anomaly}"),
        WaitReason::PausedByHand { scope, why, .. } => format!("{scope} is paused by hand: {why}"),
        WaitReason::Quarantined { why, .. } => format!("this server is in quarantine: {why}"),
        WaitReason::Cancelled { why, .. } => format!("the campaign is cancelled: {why}"),
        WaitReason::OutsideWindow { opens: Some(opens), .. } => format!("the next window opens at {opens}"),
        WaitReason::Approval { stage, batch, .. } => {
            format!("batch {batch} of stage {stage} is not approved")
        }
        WaitReason::OutsideWindow { opens: None, .. } => "no window opens before the plan expires".into(),
    }
}
