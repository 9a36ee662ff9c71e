//! What a run is made of: its size, its faults, and what is deliberately broken in it.
//!
//! Owns [`Options`], [`Fault`] and [`Mutant`]. Main invariant: options follow from the seed alone, and print so
//! that the run can be had again.

use std::collections::BTreeSet;

use lunar_common::order::draw_below;
use serde::{Deserialize, Serialize};

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Messages are lost.
    Loss,
    /// Messages arrive twice.
    Duplication,
    /// Messages take up to five seconds, so that they overtake each other.
    Delay,
    /// One agent hears nobody for a while.
    Partition,
    /// The coordinator dies between two effects.
    CoordinatorCrash,
    /// The coordinator's log is replaced by an older copy of it.
    RestoredBackup,
    /// An agent's network half dies before an effect.
    AgentCrash,
    /// An agent's root half dies before an effect, or inside a step.
    ApplierCrash,
    /// A whole machine loses its power.
    Reboot,
    /// The new release does not work on some servers.
    BadRelease,
    /// Probes fail now and then.
    FlappingProbes,
    /// People halt everything and let it go on again.
    Halt,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Loss,
        Self::Duplication,
        Self::Delay,
        Self::Partition,
        Self::CoordinatorCrash,
        Self::RestoredBackup,
        Self::AgentCrash,
        Self::ApplierCrash,
        Self::Reboot,
        Self::BadRelease,
        Self::FlappingProbes,
        Self::Halt,
    ];
}

/// A mistake put in at the edge of the world, to see that a checker notices it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// What leaves the coordinator leaves before its events are durable.
    AnswersBeforeDurable,
    /// The coordinator's log keeps no release: nothing ever comes free.
    FreesNothing,
    /// The applier's journal is never written.
    NoApplierJournal,
    /// The agent's journal is never written.
    NoAgentJournal,
    /// The plan that goes out has wider limits than people meant.
    WideLimits,
    /// Limits are as wide, and every neighbour's answer is turned into "up".
    LyingNeighbours,
    /// Halts are acknowledged in the agent's and the coordinator's place, and never handed to them.
    HaltsKeptBack,
    /// The switch of the link is reported before the release is whole.
    HalfStaged,
}

impl Mutant {
    pub(crate) fn widens_limits(self) -> bool {
        matches!(self, Self::WideLimits | Self::LyingNeighbours)
    }
}

/// One run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Names every draw.
    pub seed: u64,
    /// How many servers.
    pub servers: usize,
    /// The kinds of fault that happen.
    pub faults: BTreeSet<Fault>,
    /// For how long faults happen, in milliseconds.
    pub faulty_ms: u64,
    /// What is broken on purpose.
    pub mutant: Option<Mutant>,
}

impl Options {
    /// A run of the swarm: each kind of fault with a probability of a quarter.
    #[must_use]
    pub fn swarm(seed: u64) -> Self {
        let on = |fault: &Fault| {
            draw_below(4, "fault-kind", &[&seed.to_le_bytes(), format!("{fault:?}").as_bytes()]) == 0
        };
        Self {
            seed,
            servers: 7,
            faults: Fault::ALL.into_iter().filter(on).collect(),
            faulty_ms: 300_000,
            mutant: None,
        }
    }

    /// The same run with exactly these faults.
    #[must_use]
    pub fn with(mut self, faults: &[Fault]) -> Self {
        self.faults = faults.iter().copied().collect();
        self
    }

    /// The same run, broken.
    #[must_use]
    pub fn broken(mut self, mutant: Mutant) -> Self {
        self.mutant = Some(mutant);
        self
    }
}
