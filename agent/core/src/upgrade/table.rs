//! The state table: every change of phase that exists, by name.
//!
//! Owns [`Move`] and the only function that changes the phase. Main invariant: a move is made only from a phase
//! that the table lists for it (asserted in release builds too), and it is journaled, together with everything
//! it permits, before anything it permits is done.
//!
//! ```text
//!                  AlreadyThere ──────────────────────────────────────────────▶ complete
//!                 ╱                                                                 ▲
//!   scheduled ──Download──▶ downloading ──Stage──▶ staging ──Queue──▶ queued        │ Complete
//!     ▲    ▲                                         ▲  ▲               │  │        │
//!     │    │                                         │  └──StageAgain───┘  │CheckAgain
//!     │    │                                         └──────StandBack───┐  ▼        │
//!     │    └── TryAgain (from any of these) ◀───────────────────────── pre-check    │
//!     │                                             ┌─────────Start────────┘        │
//!     │ TryAgain                  up  ══════════════╪═══════════════════════════════╪═══
//!     │                          down               ▼                               │
//!   rolled-back                                  draining ──Install──▶ installing   │
//!     ▲                                             │                    │  Validate│
//!     │ RolledBack                                  │ RollBack           ▼          │
//!     └──────────────── rolling-back ◀──────────────┴──────────────── validating ───┘
//!                            │ Kept: the applier had committed after all ───────────▶ complete
//!   GiveUp: from every phase before "down" and from rolled-back ▶ failed
//! ```

use lunar_common::phase::Phase;
use lunar_common::time::Now;

use crate::desk::{CAUSE_BYTES_MAX, Desk, cut};
use crate::journal::{Finished, State};

/// A named change of phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Move {
    /// Its place in the spread has come.
    Download,
    /// Every artifact is here.
    Stage,
    /// Everything lies ready beside the running version.
    Queue,
    /// A grant came: check once more.
    CheckAgain,
    /// The grant was given back unused: the next attempt's lease has a number of its own, under which the
    /// applier must have staged.
    StandBack,
    /// The ledger counts this attempt as over: stage under the next number.
    StageAgain,
    /// Go down, under the lease.
    Start,
    /// Traffic is away.
    Install,
    /// The new version runs.
    Validate,
    /// Go back.
    RollBack,
    /// Healthy, committed, traffic is back.
    Complete,
    /// The plan's artifacts run already.
    AlreadyThere,
    /// The applier had committed what was to be rolled back.
    Kept,
    /// The old version runs, traffic is back.
    RolledBack,
    /// From the beginning, later.
    TryAgain,
    /// No more tries; untouched or rolled back before.
    GiveUp,
}

impl Move {
    /// All moves.
    pub const ALL: [Self; 16] = [
        Self::Download,
        Self::Stage,
        Self::Queue,
        Self::CheckAgain,
        Self::StandBack,
        Self::StageAgain,
        Self::Start,
        Self::Install,
        Self::Validate,
        Self::RollBack,
        Self::Complete,
        Self::AlreadyThere,
        Self::Kept,
        Self::RolledBack,
        Self::TryAgain,
        Self::GiveUp,
    ];

    /// The phases it may be made from.
    #[must_use]
    pub fn from(self) -> &'static [Phase] {
        match self {
            Self::Download | Self::AlreadyThere => &[Phase::Scheduled],
            Self::Stage => &[Phase::Downloading],
            Self::Queue => &[Phase::Staging],
            Self::CheckAgain | Self::StageAgain => &[Phase::Queued],
            Self::StandBack | Self::Start => &[Phase::PreCheck],
            Self::Install => &[Phase::Draining],
            Self::Validate => &[Phase::Installing],
            Self::RollBack => &[Phase::Draining, Phase::Installing, Phase::Validating],
            Self::Complete => &[Phase::Validating],
            Self::Kept | Self::RolledBack => &[Phase::RollingBack],
            Self::TryAgain | Self::GiveUp => &[
                Phase::Scheduled,
                Phase::Downloading,
                Phase::Staging,
                Phase::Queued,
                Phase::PreCheck,
                Phase::RolledBack,
            ],
        }
    }

    /// The phase it leads to.
    #[must_use]
    pub fn to(self) -> Phase {
        match self {
            Self::Download => Phase::Downloading,
            Self::Stage | Self::StandBack | Self::StageAgain => Phase::Staging,
            Self::Queue => Phase::Queued,
            Self::CheckAgain => Phase::PreCheck,
            Self::Start => Phase::Draining,
            Self::Install => Phase::Installing,
            Self::Validate => Phase::Validating,
            Self::RollBack => Phase::RollingBack,
            Self::Complete | Self::AlreadyThere | Self::Kept => Phase::Complete,
            Self::RolledBack => Phase::RolledBack,
            Self::TryAgain => Phase::Scheduled,
            Self::GiveUp => Phase::Failed,
        }
    }
}

/// What the campaign is after a move.
#[derive(Debug)]
pub(crate) enum Next {
    /// The same attempt goes on.
    On(State),
    /// A new attempt begins; the last one failed, or its lease was used up without a failure.
    Again {
        /// Where it begins.
        state: State,
        /// Whether the last one counts against the plan's `attempts_max`.
        failed: bool,
    },
    /// The campaign is over here.
    Over,
}

/// Makes a move. Whatever else changes with it (the lease) was changed in the journal just before and becomes
/// durable in the same record.
pub(crate) fn go(desk: &mut Desk, step: Move, next: Next, cause: &str, now: Now) {
    let active = desk.journal.active.as_mut().expect("a move is made only within a campaign");
    let from = active.state.phase();
    assert!(step.from().contains(&from), "{step:?} is no move from {from}");
    let (campaign, attempt, plan) = (active.campaign.clone(), active.attempt, active.plan);
    match next {
        Next::On(state) => active.state = state,
        Next::Again { state, failed } => {
            active.state = state;
            active.attempt = attempt.next();
            active.failures += u32::from(failed);
        }
        Next::Over => {
            desk.journal.active = None;
            let cause = cut(cause, CAUSE_BYTES_MAX);
            let finished = Finished { plan, attempt, phase: step.to(), cause };
            desk.journal.finished.insert(campaign.clone(), finished);
            desk.journal.last_finished = Some(campaign.clone());
        }
    }
    if let Some(active) = &desk.journal.active {
        assert_eq!(active.state.phase(), step.to(), "{step:?} leads to {}", step.to());
    }
    desk.record(campaign, attempt, (from, step.to()), cause, now);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_way_down_is_a_start_and_the_only_ways_up_are_complete_kept_and_rolled_back() {
        for step in Move::ALL {
            for from in step.from() {
                match (from.is_down(), step.to().is_down()) {
                    (false, true) => assert_eq!(step, Move::Start),
                    (true, false) => {
                        assert!(matches!(step, Move::Complete | Move::Kept | Move::RolledBack), "{step:?}");
                    }
                    (true, true) | (false, false) => {}
                }
            }
        }
    }

    #[test]
    fn every_phase_but_the_first_is_reached_and_every_phase_but_the_last_is_left() {
        for phase in Phase::ALL {
            let reached = Move::ALL.iter().any(|step| step.to() == phase);
            let left = Move::ALL.iter().any(|step| step.from().contains(&phase));
            assert!(reached, "{phase} is never reached");
            assert_eq!(left, !matches!(phase, Phase::Complete | Phase::Failed), "{phase}");
        }
    }
}
