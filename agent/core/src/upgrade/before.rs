//! The way to the queue: spread, fetch, stage. The server is up all along.
//!
//! Owns every step before a lease is asked for, and the ways back to the first of them. Main invariant: nothing
//! here changes what runs. Refuses what the plan does not replace, and to begin what cannot be accounted for.

use std::sync::Arc;
use std::time::Duration;

use lunar_common::document::Verified;
use lunar_common::ids::{Attempt, ServerId};
use lunar_common::lease::LeaseOutcome;
use lunar_common::order::draw_below;
use lunar_common::phase::Phase;
use lunar_common::plan::Plan;
use lunar_common::retry;
use lunar_common::time::{Moment, Now};

use super::{APPLIER_POLL, APPLIER_RETRY, Move, Next, STOPPED_RECHECK, Step, Upgrade, give_back, go};
use crate::desk::Desk;
use crate::effect::{ApplierCommand, Effect};
use crate::input::{ApplierStage, ApplierStatus, FetchProgress};
use crate::journal::State;
use crate::timer::Timer;

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

/// The plan's wait after the nth failure, counted from 0.
pub(super) fn retry_delay(plan: &Plan, server: &ServerId, nth: u32) -> Duration {
    retry::delay(nth, &plan.retry, &[server.as_str().as_bytes(), plan.campaign.as_str().as_bytes()])
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
