//! The applier's state machine.
//!
//! Owns [`Machine`]. Main invariant: whatever is asked, and wherever it is killed, a server ends whole on
//! exactly one set of versions: every step is journaled before it runs, the whole set goes forward or back
//! together, and without a `Commit` in time the dead man's switch takes it back. Refuses to begin what
//! [`super::permission`] does not permit; never refuses to go back before the commit.
//!
//! ```text
//!            Stage             staged           Begin                 switched, restarted
//!   (idle) ────────▶ Staging ────────▶ Staged ────────▶ Applying ────────────────────────▶ AwaitingCommit
//!     ▲  ▲   failed    │                 │                 │ failed, RollBack,                 │      │ Commit
//!     │  └─────────────┘◀── RollBack ────┘                 │ deadline, reboot                  │      ▼
//!     │                                                    ▼           RollBack, deadline,     │  Committing
//!     └────────────────────────────────────────────── RollingBack ◀────────── reboot ──────────┘      │
//!     └────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! The deadline is a moment of this machine's boot and survives a restart of the applier. After a reboot no
//! moment from before it means anything, and nobody knows how long the machine was off: what was begun and not
//! committed goes back. (An installer that reboots on purpose would have to say so in the journal first.)

use std::collections::VecDeque;
use std::time::Duration;

use lunar_common::ids::{ArtifactName, ServerId};
use lunar_common::lease::Grant;
use lunar_common::retry::BackOff;
use lunar_common::time::{Moment, Now, millis};
use lunar_common::trust::{Accepted, TrustState};

use super::effect::{Effect, Level, Record};
use super::input::{Found, Input, RunId};
use super::journal::{End, Ended, Journal, Progress, Work};
use super::permission::{self, NotPermitted};
use super::protocol::{Permission, Reply, Request, Task, cause};
use super::work::{missing, new_work, remember, steps};
use crate::input::{ApplierStage, ApplierStatus};

/// How a failed step of a roll-back is tried again: for ever, because nothing else is left to do.
const ROLL_BACK_AGAIN: BackOff = BackOff { base: Duration::from_secs(1), cap: Duration::from_secs(60) };

/// Failures in a row of one roll-back step after which a person is called.
const ROLL_BACK_FAILURES_QUIET: u32 = 3;

/// The root half, decided.
#[derive(Debug)]
pub struct Machine {
    server: ServerId,
    trust: TrustState,
    journal: Journal,
    effects: VecDeque<Effect>,
    /// The run under way, and whether its end still matters.
    in_flight: Option<InFlight>,
    runs: u64,
    /// A roll-back step that failed is tried again at this moment.
    again_at: Option<Moment>,
    failures: u32,
}

#[derive(Debug, Clone, Copy)]
struct InFlight {
    run: RunId,
    wanted: bool,
}

impl Machine {
    /// The machine as its journal says, going on with what was under way. `boot` names this boot of the
    /// machine. Drain the effects before anything else.
    #[must_use]
    pub fn new(server: ServerId, trust: TrustState, journal: Journal, boot: u64, now: Now) -> Self {
        let mut machine = Self {
            server,
            trust,
            journal,
            effects: VecDeque::new(),
            in_flight: None,
            runs: 0,
            again_at: None,
            failures: 0,
        };
        let rebooted = machine.journal.boot != boot;
        machine.journal.boot = boot;
        if rebooted {
            let uncommitted = machine.journal.work.as_ref().is_some_and(|work| {
                matches!(work.progress, Progress::Applying { .. } | Progress::AwaitingCommit { .. })
            });
            if uncommitted {
                machine.roll_back("the machine restarted before the upgrade was committed");
            } else {
                machine.persist();
            }
        }
        machine.check_deadline(now);
        machine.advance();
        machine
    }

    /// Takes in what happened.
    pub fn handle(&mut self, input: Input, now: Now) {
        self.handle_timeout(now);
        match input {
            Input::Asked { call, request, found } => {
                let reply = self.answer(request, &found, now);
                self.effects.push_back(Effect::Reply { call, reply });
                self.advance();
            }
            Input::StepEnded { run, failure } => self.step_ended(run, failure, now),
        }
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Self::handle_timeout`] must be called at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.deadline().into_iter().chain(self.again_at).min()
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Now) {
        self.check_deadline(now);
        if self.again_at.is_some_and(|at| now.moment >= at) {
            self.again_at = None;
        }
        self.advance();
    }

    /// What is durable, for a look.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// What people signed, as this half holds it.
    #[must_use]
    pub fn trust(&self) -> &TrustState {
        &self.trust
    }

    fn answer(&mut self, request: Request, found: &Found, now: Now) -> Reply {
        match request {
            Request::Hello => Reply::Hello { server: self.server.clone(), documents: self.trust.hashes() },
            Request::Document(document) => match self.trust.accept(&document, now.wall) {
                Ok(Accepted::Known) => Reply::Document { refused: None },
                Ok(_) => {
                    let snapshot = Box::new(self.trust.snapshot());
                    self.effects.push_back(Effect::Persist(Record::Trust(snapshot)));
                    Reply::Document { refused: None }
                }
                Err(refusal) => Reply::Document { refused: Some(cause(&refusal.to_string())) },
            },
            Request::Status(task) => self.status(&task, found, None),
            Request::Stage(task) => {
                let refused = self.stage(&task, found);
                self.status(&task, found, refused)
            }
            Request::Begin(task, permission) => {
                let refused = self.begin(&task, &permission, found, now).err();
                self.status(&task, found, refused)
            }
            Request::Check(task, permission) => {
                let refused = self.may_begin(&task, &permission, found, now).err();
                self.status(&task, found, refused)
            }
            Request::Commit(task) => {
                let refused = self.commit(&task);
                self.status(&task, found, refused)
            }
            Request::RollBack { task, cause: why } => {
                self.roll_back_asked(&task, &why);
                self.status(&task, found, None)
            }
        }
    }

    /// Where a task is, as the network half is told.
    fn status(&mut self, task: &Task, found: &Found, refused: Option<String>) -> Reply {
        let stage = match refused {
            Some(reason) => {
                self.log(Level::Warn, task.clone(), format!("refused: {reason}"));
                ApplierStage::Refused { reason: cause(&reason) }
            }
            None => self.stage_of(task),
        };
        // In the plan's order; what stands under other names is nobody's business here.
        let names: Vec<ArtifactName> = match (&self.journal.work, self.trust.plan(&task.campaign)) {
            (Some(work), _) if work.task == *task => {
                work.pieces.iter().map(|piece| piece.bundle.name.clone()).collect()
            }
            (_, Some(plan)) => plan.artifacts.iter().map(|artifact| artifact.name.clone()).collect(),
            (_, None) => Vec::new(),
        };
        let running = names.iter().map(|name| found.running(name).unwrap_or(None)).collect();
        Reply::Status(ApplierStatus { running, stage })
    }

    fn stage_of(&self, task: &Task) -> ApplierStage {
        match (&self.journal.work, &self.journal.ended) {
            (Some(work), _) if work.task == *task => match &work.progress {
                Progress::Staging { .. } => ApplierStage::Staging,
                Progress::Staged => ApplierStage::Staged,
                Progress::Applying { .. } => ApplierStage::Applying,
                Progress::AwaitingCommit { .. } => ApplierStage::Applied,
                Progress::Committing { .. } => ApplierStage::Committed,
                Progress::RollingBack { .. } => ApplierStage::RollingBack,
            },
            (Some(work), _) if work.progress.begun() => ApplierStage::Busy { plan: work.task.plan },
            (_, Some(ended)) if ended.task == *task => match &ended.how {
                End::Committed => ApplierStage::Committed,
                End::RolledBack { cause } => ApplierStage::RolledBack { cause: cause.clone() },
                End::NotStaged { reason } => ApplierStage::Refused { reason: reason.clone() },
            },
            (_, _) => ApplierStage::Idle,
        }
    }

    /// Starts unpacking, unless something that began is under way or this task is over. Why not, if refused.
    fn stage(&mut self, task: &Task, found: &Found) -> Option<String> {
        if self.is_over(task) {
            return None;
        }
        if let Some(work) = &self.journal.work
            && (work.task == *task || work.progress.begun())
        {
            return None;
        }
        let (plan, _) = match permission::plan_for(&self.trust, &self.server, task) {
            Ok(permitted) => permitted,
            Err(refusal) => return Some(refusal.to_string()),
        };
        match &mut self.journal.work {
            // The same set for the next attempt: what lies ready stays ready.
            Some(work)
                if work.task.plan == task.plan
                    && (work.progress != Progress::Staged || missing(work, found).is_none()) =>
            {
                work.task = task.clone();
            }
            _ => {
                let work = match new_work(task, plan, found) {
                    Ok(work) => work,
                    Err(reason) => return Some(reason),
                };
                self.journal.work = Some(work);
                self.disown_run();
            }
        }
        self.persist();
        None
    }

    /// What would be done under which grant, if it may begin now; `None`: it began or ended before. The error
    /// says why it may not. Changes nothing.
    fn may_begin(
        &self,
        task: &Task,
        permission: &Permission,
        found: &Found,
        now: Now,
    ) -> Result<Option<(Work, Grant)>, String> {
        if self.is_over(task) {
            return Ok(None);
        }
        match &self.journal.work {
            Some(work) if work.progress.begun() => return Ok(None),
            Some(work) if work.task == *task => match work.progress {
                Progress::Staged => {}
                _ => return Err("the set is still being unpacked".to_owned()),
            },
            _ => return Err("nothing was staged for this plan and attempt".to_owned()),
        }
        let used = (self.journal.epoch_used, self.journal.fence_used);
        let refused = |refusal: NotPermitted| refusal.to_string();
        let grant =
            permission::check(&self.trust, &self.server, task, permission, used, now).map_err(refused)?;
        let (plan, _) = permission::plan_for(&self.trust, &self.server, task).map_err(refused)?;
        // What runs may have changed since it was staged: what is gone back to is what runs now.
        let work = new_work(task, plan, found)?;
        match missing(&work, found) {
            Some(bundle) => Err(format!("the staged release {:.16} of {} is gone", bundle.id, bundle.name)),
            None => Ok(Some((work, grant))),
        }
    }

    /// Begins, if it is permitted. Why not, if refused.
    fn begin(&mut self, task: &Task, permission: &Permission, found: &Found, now: Now) -> Result<(), String> {
        let Some((mut work, grant)) = self.may_begin(task, permission, found, now)? else { return Ok(()) };
        let deadline = now.moment.after(Duration::from_millis(work.commit_within_ms));
        work.progress = Progress::Applying { step: 0, deadline };
        self.journal.work = Some(work);
        self.journal.epoch_used = grant.epoch;
        self.journal.fence_used = grant.fence;
        self.persist();
        self.log(Level::Info, task.clone(), format!("begun under lease {}", grant.lease));
        Ok(())
    }

    /// Keeps the new version, if it runs. Why not, if refused.
    fn commit(&mut self, task: &Task) -> Option<String> {
        let work = self.journal.work.as_mut().filter(|work| work.task == *task)?;
        match work.progress {
            Progress::AwaitingCommit { .. } => {}
            Progress::Staging { .. } | Progress::Staged | Progress::Applying { .. } => {
                return Some("the new version does not run yet".to_owned());
            }
            Progress::Committing { .. } | Progress::RollingBack { .. } => return None,
        }
        work.progress = Progress::Committing { step: 0 };
        for piece in &work.pieces {
            let history = self.journal.history.entry(piece.bundle.name.clone()).or_default();
            remember(history, piece.previous);
            remember(history, Some(piece.bundle.id));
        }
        self.persist();
        self.log(Level::Info, task.clone(), "committed".to_owned());
        None
    }

    fn roll_back_asked(&mut self, task: &Task, why: &str) {
        if self.is_over(task) {
            return;
        }
        match &self.journal.work {
            Some(work) if work.task == *task => match work.progress {
                Progress::Committing { .. } | Progress::RollingBack { .. } => {}
                Progress::Staging { .. }
                | Progress::Staged
                | Progress::Applying { .. }
                | Progress::AwaitingCommit { .. } => self.roll_back(why),
            },
            Some(work) if work.progress.begun() => {}
            // Nothing of this task ever began here: what ran still runs.
            _ => {
                let how = End::RolledBack { cause: cause(why) };
                self.journal.ended = Some(Ended { task: task.clone(), how });
                self.persist();
            }
        }
    }

    /// Turns back, from wherever the task is. Must not be called once it is committed.
    fn roll_back(&mut self, why: &str) {
        let Some(work) = &mut self.journal.work else { return };
        let task = work.task.clone();
        let touched = match work.progress {
            Progress::Staging { .. } | Progress::Staged => false,
            // The first steps only verify, one for each piece.
            Progress::Applying { step, .. } => step as usize >= work.pieces.len(),
            Progress::AwaitingCommit { .. } | Progress::RollingBack { .. } => true,
            Progress::Committing { .. } => unreachable!("what is committed never goes back"),
        };
        work.progress = Progress::RollingBack { step: 0, cause: cause(why) };
        self.disown_run();
        self.failures = 0;
        self.log(Level::Warn, task, format!("rolling back: {why}"));
        if touched { self.persist() } else { self.end(End::RolledBack { cause: cause(why) }) }
    }

    fn step_ended(&mut self, run: RunId, failure: Option<String>, now: Now) {
        match self.in_flight {
            Some(in_flight) if in_flight.run == run => {
                self.in_flight = None;
                if in_flight.wanted {
                    self.step_counts(failure, now);
                }
            }
            Some(_) | None => {}
        }
        self.advance();
    }

    fn step_counts(&mut self, failure: Option<String>, now: Now) {
        let Some(work) = &mut self.journal.work else { return };
        let task = work.task.clone();
        let last = steps(work, &self.journal.history).len() as u64 - 1;
        match (&mut work.progress, failure) {
            (Progress::Staging { step }, None) => {
                if u64::from(*step) < last {
                    *step += 1;
                } else {
                    work.progress = Progress::Staged;
                    self.log(Level::Info, task, "staged".to_owned());
                }
                self.persist();
            }
            (Progress::Staging { .. }, Some(reason)) => {
                self.log(Level::Warn, task, format!("not staged: {reason}"));
                self.end(End::NotStaged { reason: cause(&reason) });
            }
            (Progress::Applying { step, deadline }, None) => {
                if u64::from(*step) < last {
                    *step += 1;
                } else {
                    work.progress = Progress::AwaitingCommit { deadline: *deadline };
                    self.log(Level::Info, task, "the new version runs".to_owned());
                }
                self.persist();
            }
            (Progress::Applying { .. }, Some(reason)) => self.roll_back(&reason),
            (Progress::Committing { step }, failure) => {
                let more = u64::from(*step) < last;
                *step += 1;
                if let Some(reason) = failure {
                    // Old releases that stay cost room, and are tried again with the next campaign.
                    self.log(Level::Warn, task, format!("an old release was not removed: {reason}"));
                }
                if more { self.persist() } else { self.end(End::Committed) }
            }
            (Progress::RollingBack { step, cause }, None) => {
                self.failures = 0;
                if u64::from(*step) < last {
                    *step += 1;
                    self.persist();
                } else {
                    let how = End::RolledBack { cause: cause.clone() };
                    self.log(Level::Warn, task, "rolled back".to_owned());
                    self.end(how);
                }
            }
            (Progress::RollingBack { .. }, Some(reason)) => self.roll_back_again(task, &reason, now),
            (Progress::Staged | Progress::AwaitingCommit { .. }, _) => {
                unreachable!("no step runs while the network half is waited for")
            }
        }
    }

    fn roll_back_again(&mut self, task: Task, reason: &str, now: Now) {
        let wait = ROLL_BACK_AGAIN.delay(self.failures, "roll-back", &[self.server.as_str().as_bytes()]);
        self.failures = self.failures.saturating_add(1);
        self.again_at = Some(now.moment.after(wait));
        let level = if self.failures > ROLL_BACK_FAILURES_QUIET { Level::Error } else { Level::Warn };
        let wait_ms = millis(wait);
        self.log(level, task, format!("the roll-back is stuck, again in {wait_ms} ms: {reason}"));
    }

    /// Runs the step that the journal names, if one is due and none is running.
    fn advance(&mut self) {
        if self.in_flight.is_some() || self.again_at.is_some() {
            return;
        }
        let Some(work) = &self.journal.work else { return };
        let step = match work.progress {
            Progress::Staging { step }
            | Progress::Applying { step, .. }
            | Progress::Committing { step }
            | Progress::RollingBack { step, .. } => step,
            Progress::Staged | Progress::AwaitingCommit { .. } => return,
        };
        let step = steps(work, &self.journal.history)
            .into_iter()
            .nth(step as usize)
            .expect("a journaled step is one of its task's");
        self.runs += 1;
        let run = RunId(self.runs);
        self.in_flight = Some(InFlight { run, wanted: true });
        self.effects.push_back(Effect::Run { run, task: work.task.clone(), step });
    }

    fn deadline(&self) -> Option<Moment> {
        match self.journal.work.as_ref()?.progress {
            Progress::Applying { deadline, .. } | Progress::AwaitingCommit { deadline } => Some(deadline),
            Progress::Staging { .. }
            | Progress::Staged
            | Progress::Committing { .. }
            | Progress::RollingBack { .. } => None,
        }
    }

    fn check_deadline(&mut self, now: Now) {
        if self.deadline().is_some_and(|deadline| now.moment >= deadline) {
            let within_s = self.journal.work.as_ref().map_or(0, |work| work.commit_within_ms / 1000);
            self.roll_back(&format!("not committed within {within_s} s of its beginning"));
        }
    }

    /// A task that ended: asking for it again changes nothing, and tells how. What could not be staged is tried anew
    /// under the next attempt's number, when the network half's back-off is over: it asks for as long as it does not
    /// know, and would be unpacking for ever.
    fn is_over(&self, task: &Task) -> bool {
        self.journal.ended.as_ref().is_some_and(|ended| ended.task == *task)
    }

    fn end(&mut self, how: End) {
        if let Some(work) = self.journal.work.take() {
            self.journal.ended = Some(Ended { task: work.task, how });
        }
        self.persist();
    }

    /// The run under way belongs to what is no longer wanted: wait for its end, and forget how it ended.
    fn disown_run(&mut self) {
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.wanted = false;
        }
    }

    fn persist(&mut self) {
        self.effects.push_back(Effect::Persist(Record::Journal(Box::new(self.journal.clone()))));
    }

    fn log(&mut self, level: Level, task: Task, text: String) {
        self.effects.push_back(Effect::Log { level, task, text });
    }
}
