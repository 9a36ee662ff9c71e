//! One server's way through one campaign (DESIGN 10).
//!
//! Owns `Upgrade`, the volatile half of the machine (what was asked and is not answered yet); the durable
//! half is [`crate::journal::Campaign`]. Main invariant: after every input the machine either waits for one
//! named answer or for one deadline, and the server goes down only from `claim`, with a valid grant whose
//! start is journaled. Refuses to guess: an applier that cannot be reached is asked again, for ever.
//!
//! `table` holds the moves, `before` the way to the queue, `ready` health and the group, `claim` the lease and the
//! start, `down` everything after it. A machine that was cut off at any point re-enters its phase: every phase's
//! entry may be repeated.
//!
//! Retries: a failure before the start, and a rollback, each count as one failed attempt; after
//! `retry.attempts_max` of them the campaign is over for this server, as `failed` or `rolled-back`. Until then it
//! tries again by itself after the plan's back-off. Halts, late grants and silent neighbours cost no attempt.

mod before;
mod claim;
mod down;
mod ready;
mod table;

use std::sync::Arc;
use std::time::Duration;

use lunar_common::document::Verified;
use lunar_common::health::{Outcome, When};
use lunar_common::ids::{ArtifactId, GroupId, ProbeName};
use lunar_common::lease::LeaseOutcome;
use lunar_common::phase::Phase;
use lunar_common::plan::Plan;
use lunar_common::retry;
use lunar_common::time::{Moment, Now};

use crate::desk::Desk;
use crate::effect::{ApplierCommand, Effect};
use crate::group::GroupCheck;
use crate::health::Watch;
use crate::input::{ApplierStatus, AskId, FetchProgress};
use crate::journal::State;
use crate::lease::Sendings;
use crate::timer::Timer;

pub(crate) use before::spread;
pub use table::Move;
pub(crate) use table::{Next, go};

/// Between two questions to an applier that is working.
const APPLIER_POLL: Duration = Duration::from_millis(500);

/// Before an applier that could not be reached, or that is busy, is asked again.
const APPLIER_RETRY: Duration = Duration::from_secs(2);

/// How often a halted or expired plan is looked at again. A resume wakes it at once; this is for clocks.
const STOPPED_RECHECK: Duration = Duration::from_secs(30);

/// What an upgrade is waiting for.
#[derive(Debug, Clone, Default)]
pub(crate) enum Step {
    /// A deadline.
    #[default]
    Timer,
    /// The fetcher.
    Fetch,
    /// The applier.
    Applier(AskId),
    /// A round of probes.
    Probe(AskId),
    /// The enrolments of the own group.
    Members(AskId),
    /// The members of the own group.
    Group(GroupCheck),
    /// The answer to a claim.
    Claim {
        /// Its nonce.
        nonce: u64,
    },
    /// A hook.
    Hook(AskId),
}

/// Where a claim stands in the queue. Its group is asked when it joins, and again when its turn may be near; sending
/// it again in between asks nobody. Whatever was said then, the group is asked once more under the grant, and that
/// is the answer that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Line {
    /// Not in it, or back from far: the group is asked before the next claim.
    #[default]
    Out,
    /// Its turn cannot be near.
    Far,
    /// Its turn may be near, and its group was asked since.
    Near,
}

/// The volatile half of the machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Upgrade {
    pub(crate) step: Step,
    pub(crate) why: String,
    pub(crate) progress: FetchProgress,
    pub(crate) running: Vec<Option<ArtifactId>>,
    sendings: Sendings,
    claims: u64,
    waits: u32,
    /// Whether the coordinator has named the members of `members_of`.
    members_known: bool,
    /// The own group when its members were last asked for: an enrolment may move this server to another one.
    members_of: Option<GroupId>,
    /// How far from the head of the queue its claim was when it was last told to wait.
    line: Line,
    probed: Option<Moment>,
    /// Waits because starts are stopped: a change in what people signed wakes it.
    stopped: bool,
    /// Waits because no coordinator answered: the next answer to a report wakes it.
    unheard: bool,
    watch: Option<Watch>,
    hook_failures: u32,
    /// The applier had committed what was to be rolled back: only traffic is missing.
    kept: bool,
    applier_poll: Option<AskId>,
}

/// What an upgrade holds beyond the journal: see [`crate::node::Volatile`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolatileUpgrade {
    /// What is waited for, by name.
    pub waits_for: &'static str,
    /// The claim that is not answered.
    pub claim: Option<u64>,
    /// Claims sent in this run of the agent: the next one's number follows from it.
    pub claims: u64,
    /// Each claim of this run that a grant may still answer, and how long ago it was sent.
    pub sendings: Vec<(u64, Duration)>,
    /// Whether it waits because starts are stopped.
    pub stopped: bool,
    /// Runs of the restore hook that failed.
    pub hook_failures: u32,
    /// Whether the applier had committed what was to be rolled back.
    pub kept: bool,
}

impl Upgrade {
    pub(crate) fn volatile(&self, now: Moment) -> VolatileUpgrade {
        let (waits_for, claim) = match &self.step {
            Step::Timer => ("timer", None),
            Step::Fetch => ("fetch", None),
            Step::Applier(_) => ("applier", None),
            Step::Probe(_) => ("probe", None),
            Step::Members(_) => ("members", None),
            Step::Group(_) => ("group", None),
            Step::Claim { nonce } => ("claim", Some(*nonce)),
            Step::Hook(_) => ("hook", None),
        };
        VolatileUpgrade {
            waits_for,
            claim,
            claims: self.claims,
            sendings: self.sendings.ages(now).collect(),
            stopped: self.stopped,
            hook_failures: self.hook_failures,
            kept: self.kept,
        }
    }

    /// Goes on with the campaign under way from the journal, after a start of the agent or a change of phase.
    pub(crate) fn enter(&mut self, desk: &mut Desk, now: Now) {
        self.step = Step::Timer;
        self.stopped = false;
        self.unheard = false;
        self.why.clear();
        desk.timers.clear(Timer::Step);
        desk.timers.clear(Timer::Group);
        let Some(active) = &desk.journal.active else { return };
        let Some(plan) = desk.active_plan() else {
            // The plan under way is never replaced while the server is down (see `node`), so this is a start
            // before which its document was lost; a peer will bring it again.
            self.wait(desk, APPLIER_RETRY, "the plan's document is missing", now);
            return;
        };
        match active.state.clone() {
            State::Scheduled { not_before } => self.scheduled(desk, &plan, not_before, now),
            State::Downloading => self.download(desk, plan),
            State::Staging => self.tell_applier(desk, plan, ApplierCommand::Stage),
            State::Queued => self.queued(desk, plan, now),
            State::PreCheck => self.pre_check(desk, plan, now),
            State::Draining => self.drain(desk, plan, now),
            State::Installing => self.begin(desk, plan),
            State::Validating { healthy: false } => self.round(desk, plan, now),
            State::Validating { healthy: true } => self.tell_applier(desk, plan, ApplierCommand::Commit),
            State::RollingBack { cause } => {
                self.tell_applier(desk, plan, ApplierCommand::RollBack { cause });
            }
            State::RolledBack { not_before } => self.rolled_back(desk, &plan, not_before, now),
        }
    }

    /// Takes up a campaign after a start of the agent: what was volatile is gone, so what hung on it is undone.
    pub(crate) fn restart(&mut self, desk: &mut Desk, same_boot: bool, now: Now) {
        match desk.phase() {
            Some(Phase::Draining | Phase::Installing) => {
                self.roll_back(desk, "the agent was restarted before the new version was validated", now);
            }
            Some(Phase::Validating) if !self.is_decided(desk) => {
                self.roll_back(desk, "the agent was restarted before the new version was validated", now);
            }
            Some(Phase::PreCheck) if !same_boot => {
                self.stand_back(desk, "the machine was restarted: the grant's time means nothing now", now);
            }
            Some(Phase::Scheduled | Phase::RolledBack) if !same_boot => {
                self.forget_moment(desk, now);
                self.enter(desk, now);
            }
            Some(
                Phase::Scheduled
                | Phase::Downloading
                | Phase::Staging
                | Phase::Queued
                | Phase::PreCheck
                | Phase::Validating
                | Phase::RollingBack
                | Phase::RolledBack,
            ) => self.enter(desk, now),
            Some(Phase::Complete | Phase::Failed) | None => {}
        }
    }

    fn is_decided(&self, desk: &Desk) -> bool {
        desk.journal
            .active
            .as_ref()
            .is_some_and(|active| matches!(active.state, State::Validating { healthy: true }))
    }

    /// A deadline of another boot of the machine is replaced by one of this boot.
    fn forget_moment(&mut self, desk: &mut Desk, now: Now) {
        let key = desk.me.server.clone();
        let Some(active) = &mut desk.journal.active else { return };
        let plan = desk.trust.plan(&active.campaign).filter(|plan| plan.hash() == active.plan);
        let wait = plan.map_or(Duration::ZERO, |plan| match active.failures.checked_sub(1) {
            Some(nth) => {
                retry::delay(nth, &plan.retry, &[key.as_str().as_bytes(), plan.campaign.as_str().as_bytes()])
            }
            None => spread(plan, &key, active.attempt),
        });
        let at = now.moment.after(wait);
        match &mut active.state {
            State::Scheduled { not_before } | State::RolledBack { not_before } => *not_before = at,
            State::Downloading
            | State::Staging
            | State::Queued
            | State::PreCheck
            | State::Draining
            | State::Installing
            | State::Validating { .. }
            | State::RollingBack { .. } => return,
        }
        desk.persist();
    }

    /// A deadline has come.
    pub(crate) fn timer(&mut self, desk: &mut Desk, timer: Timer, now: Now) {
        match timer {
            Timer::Step => self.enter(desk, now),
            Timer::Group => self.group_standing(desk, now),
            Timer::StartBy => {
                if desk.phase() == Some(Phase::PreCheck) {
                    self.stand_back(desk, "the time to start ran out", now);
                }
            }
            Timer::Applier => self.poll_applier(desk),
            Timer::Report | Timer::Release | Timer::Health => {}
        }
    }

    /// The applier answered, or could not.
    pub(crate) fn applier(&mut self, desk: &mut Desk, ask: AskId, status: Option<ApplierStatus>, now: Now) {
        if self.applier_poll == Some(ask) {
            self.applier_poll = None;
            self.applier_told(desk, status, now);
            return;
        }
        if !matches!(self.step, Step::Applier(asked) if asked == ask) {
            return;
        }
        let Some(status) = status else {
            self.wait(desk, APPLIER_RETRY, "the applier cannot be reached", now);
            return;
        };
        if self.running != status.running {
            self.running.clone_from(&status.running);
            desk.news = true;
        }
        match desk.phase() {
            Some(Phase::Scheduled) => self.looked(desk, &status, now),
            Some(Phase::Staging) => self.staged(desk, status.stage, now),
            Some(Phase::PreCheck) => self.permitted(desk, status.stage, now),
            Some(Phase::Installing) => self.installed(desk, status.stage, now),
            Some(Phase::Validating) => self.committed(desk, status.stage, now),
            Some(Phase::RollingBack) => self.went_back(desk, status.stage, now),
            Some(
                Phase::Downloading
                | Phase::Queued
                | Phase::Draining
                | Phase::Complete
                | Phase::RolledBack
                | Phase::Failed,
            )
            | None => {}
        }
    }

    /// A campaign begins: nothing is known of what runs and what was fetched.
    pub(crate) fn begin_campaign(&mut self) {
        self.forget();
        self.progress = FetchProgress::default();
        self.running.clear();
    }

    /// Whether this machine made that round of probes.
    pub(crate) fn asked_probe(&self, ask: AskId) -> bool {
        matches!(self.step, Step::Probe(asked) if asked == ask)
    }

    /// A round of probes is over.
    pub(crate) fn probed(
        &mut self,
        desk: &mut Desk,
        ask: AskId,
        outcomes: &[(ProbeName, Outcome)],
        now: Now,
    ) {
        if !self.asked_probe(ask) {
            return;
        }
        match desk.phase() {
            Some(Phase::Queued | Phase::PreCheck) => self.probed_before(desk, outcomes, now),
            Some(Phase::Validating) => self.probed_after(desk, outcomes, now),
            Some(
                Phase::Scheduled
                | Phase::Downloading
                | Phase::Staging
                | Phase::Draining
                | Phase::Installing
                | Phase::RollingBack
                | Phase::Complete
                | Phase::RolledBack
                | Phase::Failed,
            )
            | None => {}
        }
    }

    /// Whether it waits because no coordinator answered.
    pub(crate) fn is_unheard(&self) -> bool {
        self.unheard
    }

    /// A coordinator answered a report. One that begins a new life knows of no claim, and one that was away got
    /// none: what waits to claim again does so now, instead of after a wait that nobody there remembers.
    pub(crate) fn heard(&mut self, desk: &mut Desk, new_life: bool, now: Now) {
        let waits = desk.phase() == Some(Phase::Queued) && matches!(self.step, Step::Timer) && !self.stopped;
        if waits && (new_life || self.unheard) {
            self.waits = 0;
            self.enter(desk, now);
        }
    }

    /// What people signed has changed.
    pub(crate) fn trust_changed(&mut self, desk: &mut Desk, now: Now) {
        let Some(active) = &desk.journal.active else { return };
        let phase = active.state.phase();
        if phase.is_down() {
            return;
        }
        let in_force = desk.trust.plan(&active.campaign).cloned();
        let replaced = in_force.filter(|plan| plan.hash() != active.plan);
        match replaced {
            Some(plan) => self.change_plan(desk, &plan, now),
            None if phase == Phase::PreCheck => {
                if let Err(refusal) = self.may_start(desk, now) {
                    self.stand_back(desk, &refusal, now);
                }
            }
            None if self.stopped => self.enter(desk, now),
            None => {}
        }
    }

    /// Before the start: begin again under the new generation, or end if it does not want this server.
    fn change_plan(&mut self, desk: &mut Desk, plan: &Arc<Verified<Plan>>, now: Now) {
        let cause = format!("generation {} of the plan is in force", plan.generation);
        give_back(desk, LeaseOutcome::NeverStarted { cause: cause.clone() }, now);
        if !plan.select.matches(&desk.me) {
            let cause = format!("{cause} and does not select this server");
            go(desk, Move::GiveUp, Next::Over, &cause, now);
            return;
        }
        let active = desk.journal.active.as_mut().expect("the caller found one");
        active.plan = plan.hash();
        active.generation = plan.generation;
        active.failures = 0;
        let not_before = now.moment.after(spread(plan, &desk.me.server, active.attempt.next()));
        let next = Next::Again { state: State::Scheduled { not_before }, failed: false };
        go(desk, Move::TryAgain, next, &cause, now);
        self.forget();
        self.enter(desk, now);
    }

    /// Ends the campaign here, with the server up.
    pub(crate) fn give_up(&mut self, desk: &mut Desk, cause: &str, now: Now) {
        desk.timers.clear(Timer::StartBy);
        give_back(desk, LeaseOutcome::NeverStarted { cause: cause.to_owned() }, now);
        go(desk, Move::GiveUp, Next::Over, cause, now);
        self.forget();
        self.enter(desk, now);
    }

    /// What was learned for one attempt says nothing about the next.
    fn forget(&mut self) {
        self.members_known = false;
        self.line = Line::Out;
        self.probed = None;
        self.watch = None;
        self.waits = 0;
        self.hook_failures = 0;
        self.kept = false;
    }

    fn may_start(&self, desk: &Desk, now: Now) -> Result<(), String> {
        let active = desk.journal.active.as_ref().expect("asked only within a campaign");
        desk.trust.may_start(&active.campaign, &desk.me, now.wall).map_err(|refusal| refusal.to_string())
    }

    /// Re-enters the phase after a while.
    fn wait(&mut self, desk: &mut Desk, delay: Duration, why: &str, now: Now) {
        self.step = Step::Timer;
        why.clone_into(&mut self.why);
        desk.timers.set(Timer::Step, now.moment.after(delay));
    }

    fn tell_applier(&mut self, desk: &mut Desk, plan: Arc<Verified<Plan>>, command: ApplierCommand) {
        let ask = desk.ask();
        self.step = Step::Applier(ask);
        let attempt = desk.journal.active.as_ref().expect("told only within a campaign").attempt;
        desk.emit(Effect::Applier { ask, plan, attempt, command });
    }

    fn probe(&mut self, desk: &mut Desk, plan: Arc<Verified<Plan>>, when: When) {
        let ask = desk.ask();
        self.step = Step::Probe(ask);
        desk.emit(Effect::Probe { ask, plan, when });
    }
}

/// Gives the held lease back in the journal; the caller's next record makes it durable, the node sends it.
pub(crate) fn give_back(desk: &mut Desk, outcome: LeaseOutcome, now: Now) -> bool {
    desk.journal.lease.give_back(outcome, now.moment)
}
