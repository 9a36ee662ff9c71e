//! The way through: drain, install, validate, commit or roll back, restore. The server counts as down.
//!
//! Owns every step from the journaled start to the lease given back. Main invariant: nothing here needs anybody
//! else's permission or presence (DESIGN 9, rule 9), and a server leaves only whole, on the old version or the
//! new, by the applier's word.

use std::sync::Arc;
use std::time::Duration;

use lunar_common::document::Verified;
use lunar_common::health::Outcome;
use lunar_common::ids::ProbeName;
use lunar_common::lease::LeaseOutcome;
use lunar_common::phase::Phase;
use lunar_common::plan::{Hook, Install, Plan};
use lunar_common::time::Now;

use super::before::retry_delay;
use super::{APPLIER_POLL, APPLIER_RETRY, Move, Next, Step, Upgrade, give_back, go};
use crate::desk::{CAUSE_BYTES_MAX, Desk, cut};
use crate::effect::{ApplierCommand, Effect};
use crate::health::{Judgement, Watch};
use crate::input::{ApplierStage, ApplierStatus, AskId};
use crate::journal::State;
use crate::timer::Timer;

/// While the new version is watched: how often the applier is asked whether its switch has gone off.
const SWITCH_POLL: Duration = Duration::from_secs(5);

/// A restore hook is run this often before the lease is given back without it: the server is whole, and its
/// own probes say whether it serves.
const RESTORE_TRIES_MAX: u32 = 3;

/// Between two runs of a restore hook that failed.
const RESTORE_RETRY: Duration = Duration::from_secs(2);

impl Upgrade {
    pub(super) fn drain(&mut self, desk: &mut Desk, plan: Arc<Verified<Plan>>, now: Now) {
        let Install::Release { drain, .. } = &plan.install;
        match drain.clone() {
            Some(hook) => self.run_hook(desk, &plan, hook),
            None => self.drained(desk, now),
        }
    }

    fn drained(&mut self, desk: &mut Desk, now: Now) {
        go(desk, Move::Install, Next::On(State::Installing), "traffic is away", now);
        self.enter(desk, now);
    }

    pub(super) fn begin(&mut self, desk: &mut Desk, plan: Arc<Verified<Plan>>) {
        let held = desk.journal.lease.held.as_ref().expect("the server is down only under a held lease");
        let (grant, claim_sent) = (held.signed.clone(), held.claim_sent);
        self.tell_applier(desk, plan, ApplierCommand::Begin { grant, claim_sent });
    }

    pub(super) fn installed(&mut self, desk: &mut Desk, stage: ApplierStage, now: Now) {
        match stage {
            ApplierStage::Applied | ApplierStage::Committed => {
                let next = Next::On(State::Validating { healthy: false });
                go(desk, Move::Validate, next, "the new version runs", now);
                self.enter(desk, now);
            }
            ApplierStage::Idle | ApplierStage::Staging | ApplierStage::Staged | ApplierStage::Applying => {
                self.wait(desk, APPLIER_POLL, "the applier is switching", now)
            }
            ApplierStage::RollingBack => self.roll_back(desk, GOING_BACK, now),
            ApplierStage::RolledBack { cause } => {
                self.roll_back(desk, &format!("the applier went back: {cause}"), now);
            }
            ApplierStage::Refused { reason } => {
                self.roll_back(desk, &format!("the applier refuses: {reason}"), now);
            }
            ApplierStage::Busy { plan } => {
                self.roll_back(desk, &format!("the applier is busy with plan {plan:.16}"), now);
            }
        }
    }

    pub(super) fn round(&mut self, desk: &mut Desk, plan: Arc<Verified<Plan>>, now: Now) {
        if self.watch.is_none() {
            desk.timers.set(Timer::Applier, now.moment.after(SWITCH_POLL));
        }
        let watch = self.watch.get_or_insert_with(|| Watch::begin(&plan.health, now.moment));
        let when = watch.next_round(&plan.health);
        self.why = "watches the new version".into();
        self.probe(desk, plan, when);
    }

    pub(super) fn probed_after(&mut self, desk: &mut Desk, outcomes: &[(ProbeName, Outcome)], now: Now) {
        let (Some(plan), Some(watch)) = (desk.active_plan(), &mut self.watch) else { return };
        match watch.judge(&plan.health, outcomes, now.moment) {
            Judgement::Again(at) => {
                self.step = Step::Timer;
                desk.timers.set(Timer::Step, at);
            }
            Judgement::Sick { cause } => self.roll_back(desk, &cause, now),
            Judgement::Healthy => {
                let active = desk.journal.active.as_mut().expect("a plan in force has its campaign");
                active.state = State::Validating { healthy: true };
                desk.persist();
                desk.timers.clear(Timer::Applier);
                self.enter(desk, now);
            }
        }
    }

    /// Asks the applier, beside the probes, whether its switch has gone off.
    pub(super) fn poll_applier(&mut self, desk: &mut Desk) {
        let undecided = desk.phase() == Some(Phase::Validating) && !self.is_decided(desk);
        let (true, Some(plan), Some(active)) = (undecided, desk.active_plan(), &desk.journal.active) else {
            return;
        };
        let attempt = active.attempt;
        let ask = desk.ask();
        self.applier_poll = Some(ask);
        desk.emit(Effect::Applier { ask, plan, attempt, command: ApplierCommand::Status });
    }

    pub(super) fn applier_told(&mut self, desk: &mut Desk, status: Option<ApplierStatus>, now: Now) {
        if desk.phase() != Some(Phase::Validating) || self.is_decided(desk) {
            return;
        }
        desk.timers.set(Timer::Applier, now.moment.after(SWITCH_POLL));
        let Some(status) = status else { return };
        match status.stage {
            ApplierStage::RollingBack => self.roll_back(desk, GOING_BACK, now),
            ApplierStage::RolledBack { cause } => {
                self.roll_back(desk, &format!("the applier went back by itself: {cause}"), now);
            }
            ApplierStage::Idle
            | ApplierStage::Staging
            | ApplierStage::Staged
            | ApplierStage::Applying
            | ApplierStage::Applied
            | ApplierStage::Committed
            | ApplierStage::Refused { .. }
            | ApplierStage::Busy { .. } => {}
        }
    }

    pub(super) fn committed(&mut self, desk: &mut Desk, stage: ApplierStage, now: Now) {
        match stage {
            ApplierStage::Committed => self.restore(desk, now),
            ApplierStage::RollingBack => self.roll_back(desk, GOING_BACK, now),
            ApplierStage::RolledBack { cause } => {
                self.roll_back(desk, &format!("the applier went back by itself: {cause}"), now);
            }
            ApplierStage::Applied | ApplierStage::Applying => {
                self.wait(desk, APPLIER_POLL, "the applier is committing", now);
            }
            ApplierStage::Idle
            | ApplierStage::Staging
            | ApplierStage::Staged
            | ApplierStage::Refused { .. }
            | ApplierStage::Busy { .. } => {
                self.wait(
                    desk,
                    APPLIER_RETRY,
                    "the applier does not commit; it will end on one version",
                    now,
                );
            }
        }
    }

    /// Turns back. The cause is journaled; the applier is told until it says that it is back.
    pub(super) fn roll_back(&mut self, desk: &mut Desk, cause: &str, now: Now) {
        desk.timers.clear(Timer::Applier);
        self.watch = None;
        let next = Next::On(State::RollingBack { cause: cut(cause, CAUSE_BYTES_MAX) });
        go(desk, Move::RollBack, next, cause, now);
        self.enter(desk, now);
    }

    pub(super) fn went_back(&mut self, desk: &mut Desk, stage: ApplierStage, now: Now) {
        match stage {
            // Nothing was begun, or it is undone: the old version runs either way.
            ApplierStage::Idle | ApplierStage::Staged => self.restore(desk, now),
            ApplierStage::RolledBack { cause: theirs } => {
                if let Some(active) = &mut desk.journal.active
                    && let State::RollingBack { cause } = &mut active.state
                    && cause == GOING_BACK
                {
                    // Only now does it say why; durable with the end of the attempt.
                    *cause = cut(&format!("the applier went back by itself: {theirs}"), CAUSE_BYTES_MAX);
                }
                self.restore(desk, now);
            }
            // Traffic is given back like after any other end. A restart on the way asks the applier again.
            ApplierStage::Committed => {
                self.kept = true;
                self.restore(desk, now);
            }
            ApplierStage::Staging
            | ApplierStage::Applying
            | ApplierStage::Applied
            | ApplierStage::RollingBack => self.wait(desk, APPLIER_POLL, "the applier is going back", now),
            ApplierStage::Refused { reason } => {
                let why = format!("the applier cannot go back: {reason}");
                self.wait(desk, APPLIER_RETRY, &why, now);
            }
            ApplierStage::Busy { plan } => {
                let why = format!("the applier is busy with plan {plan:.16}");
                self.wait(desk, APPLIER_RETRY, &why, now);
            }
        }
    }

    /// Gives traffic back, whichever version runs.
    fn restore(&mut self, desk: &mut Desk, now: Now) {
        let Some(plan) = desk.active_plan() else { return };
        let Install::Release { restore, .. } = &plan.install;
        match restore.clone() {
            Some(hook) => self.run_hook(desk, &plan, hook),
            None => self.finish(desk, None, now),
        }
    }

    fn run_hook(&mut self, desk: &mut Desk, plan: &Arc<Verified<Plan>>, hook: Hook) {
        let ask = desk.ask();
        self.step = Step::Hook(ask);
        desk.emit(Effect::RunHook { ask, campaign: plan.campaign.clone(), plan: plan.hash(), hook });
    }

    /// A hook ended: the drain hook while draining, the restore hook at the end.
    pub(crate) fn hook_ended(&mut self, desk: &mut Desk, ask: AskId, failure: Option<String>, now: Now) {
        if !matches!(self.step, Step::Hook(asked) if asked == ask) {
            return;
        }
        match (desk.phase(), failure) {
            (Some(Phase::Draining), None) => self.drained(desk, now),
            (Some(Phase::Draining), Some(failure)) => {
                self.roll_back(desk, &format!("the drain hook failed: {failure}"), now);
            }
            (Some(Phase::Validating | Phase::RollingBack), None) => self.finish(desk, None, now),
            (Some(Phase::Validating | Phase::RollingBack), Some(failure)) => {
                self.hook_failures += 1;
                if self.hook_failures < RESTORE_TRIES_MAX {
                    self.wait(desk, RESTORE_RETRY, &format!("the restore hook failed: {failure}"), now);
                } else {
                    self.finish(desk, Some(failure), now);
                }
            }
            (
                Some(
                    Phase::Scheduled
                    | Phase::Downloading
                    | Phase::Staging
                    | Phase::Queued
                    | Phase::PreCheck
                    | Phase::Installing
                    | Phase::Complete
                    | Phase::RolledBack
                    | Phase::Failed,
                )
                | None,
                _,
            ) => {}
        }
    }

    /// Whole again: the lease is given back in the same record that ends the attempt.
    fn finish(&mut self, desk: &mut Desk, restore_failure: Option<String>, now: Now) {
        let Some(plan) = desk.active_plan() else { return };
        let active = desk.journal.active.as_ref().expect("a plan in force has its campaign");
        let failures = active.failures;
        let note = restore_failure.map_or_else(String::new, |failure| {
            format!("; the restore hook failed {RESTORE_TRIES_MAX} times: {failure}")
        });
        if std::mem::take(&mut self.kept) {
            give_back(desk, LeaseOutcome::Completed, now);
            let cause = format!("the applier had committed before it could go back{note}");
            go(desk, Move::Kept, Next::Over, &cause, now);
        } else if let State::RollingBack { cause } = active.state.clone() {
            let cause = cause + &note;
            give_back(desk, LeaseOutcome::RolledBack { cause: cause.clone() }, now);
            if failures + 1 >= plan.retry.attempts_max {
                go(desk, Move::RolledBack, Next::Over, &cause, now);
            } else {
                let not_before = now.moment.after(retry_delay(&plan, &desk.me.server, failures));
                let next = Next::Again { state: State::RolledBack { not_before }, failed: true };
                go(desk, Move::RolledBack, next, &cause, now);
            }
        } else {
            give_back(desk, LeaseOutcome::Completed, now);
            let cause = format!("healthy through the soak{note}");
            go(desk, Move::Complete, Next::Over, &cause, now);
            self.running = plan.artifacts.iter().map(|artifact| Some(artifact.id)).collect();
        }
        self.forget();
        self.enter(desk, now);
    }
}

/// The cause of a rollback that the applier has begun, until it says more.
const GOING_BACK: &str = "the applier is going back by itself";
