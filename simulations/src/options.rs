//! What a run is made of: its size, its faults, and what is deliberately broken in it.
//!
//! Owns [`Options`] and [`Mutant`]. Main invariant: options follow from the seed alone, and print so
//! that the run can be had again.

use std::sync::Arc;

use lunar_common::plan::StopRules;
use serde::{Deserialize, Serialize};

use crate::faults::{Fault, FaultPlan};
pub use crate::queue::QueueKind;
use crate::scenario::Scenario;

/// A mistake put in at the edge of the world, to see that a checker notices it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
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
    /// A half goes on although a record could not be written.
    IgnoresFullDisk,
    /// What lies ready is not verified again before the switch.
    SkipsVerification,
    /// Whatever the new release does, its probes say that it is well.
    CommitsBlindly,
    /// The coordinator's log keeps no transition, and tells the agents that it does.
    LosesTransitions,
    /// A lease that ran out comes free.
    FreesOnExpiry,
    /// An agent forgets the highest epoch and fence that it has seen.
    FloorsForgotten,
    /// What people signed is never made durable by an agent's network half.
    TrustNeverKept,
    /// An old life of the coordinator answers with grants that it cannot write down.
    OldCoordinatorGrants,
    /// A release frees whatever its server holds: the coordinator looks at neither its epoch nor its fence.
    UnfencedRelease,
    /// A frame that does not verify is kept, and passed on.
    UnverifiedChunkPassedOn,
    /// A seeder is counted twice: its share of the link to Earth is asked for twice.
    SeederCountedTwice,
    /// A halt that comes while somebody downloads is acknowledged, and never handed to those who do.
    HaltIgnoredWhileDownloading,
    /// The plan that goes out holds nobody to windows.
    WindowsLeftOut,
    /// The plan that goes out has no stages: everyone may start at once.
    StagesLeftOut,
    /// The plan that goes out asks for no soak, and for a tenth of the success.
    GatesLeftAjar,
    /// The switch of the link is reported before the release is whole.
    HalfStaged,
    /// The plan that goes out lets the campaign go on after failures that people meant to be paused by: the first one in
    /// tier 1, and all others.
    GoesOnAfterFailures,
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
    /// The world.
    pub scenario: Arc<Scenario>,
    /// Everything that goes wrong.
    pub faults: FaultPlan,
    /// What is broken on purpose.
    pub mutant: Option<Mutant>,
    /// How what happens next is kept. Nothing but speed follows from it.
    pub queue: QueueKind,
}

/// Below so many servers a ring of buckets is larger than all that waits in it.
const SMALL_FLEET: usize = 200;

impl Options {
    /// A run of a scenario, with the faults that its seed draws.
    #[must_use]
    pub fn of(scenario: Arc<Scenario>, seed: u64) -> Self {
        let faults = FaultPlan::draw(seed, &scenario);
        let queue = if scenario.servers() < SMALL_FLEET { QueueKind::Heap } else { QueueKind::Ring };
        Self { seed, scenario, faults, mutant: None, queue }
    }

    /// A run of the swarm: the small world, each kind of fault with a probability of a quarter, and half of the
    /// runs with few.
    #[must_use]
    pub fn swarm(seed: u64) -> Self {
        Self::of(Arc::new(Scenario::small(seed)), seed)
    }

    /// The same run with exactly these kinds of fault.
    #[must_use]
    pub fn with(mut self, kinds: &[Fault]) -> Self {
        let kinds = kinds.iter().copied().collect();
        self.faults = FaultPlan::draw_kinds(self.seed, &self.scenario, &kinds);
        self
    }

    /// The same run, paused by what pauses a plan where it says nothing; people look at each pause, and go on.
    #[must_use]
    pub fn watched(mut self) -> Self {
        let mut scenario = Scenario::clone(&self.scenario);
        scenario.stop = StopRules::default();
        self.scenario = Arc::new(scenario);
        self
    }

    /// The scenario as the plan that goes out says it.
    pub(crate) fn written(&self) -> Arc<Scenario> {
        let written = || Scenario::clone(&self.scenario);
        match self.mutant {
            Some(Mutant::GoesOnAfterFailures) => Arc::new(Scenario { stop: StopRules::never(), ..written() }),
            Some(Mutant::StagesLeftOut) => Arc::new(Scenario { stages: Vec::new(), ..written() }),
            Some(Mutant::GatesLeftAjar) => {
                let mut ajar = written();
                for stage in &mut ajar.stages {
                    (stage.soak_s, stage.success_per_10000) = (0, stage.success_per_10000.div_ceil(10));
                }
                Arc::new(ajar)
            }
            Some(Mutant::WindowsLeftOut) => Arc::new(Scenario { windows: None, ..written() }),
            Some(_) | None => Arc::clone(&self.scenario),
        }
    }

    /// The same run, broken.
    #[must_use]
    pub fn broken(mut self, mutant: Mutant) -> Self {
        self.mutant = Some(mutant);
        self
    }
}
