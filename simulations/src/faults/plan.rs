//! The explicit plan of one run's faults.
//!
//! Owns [`FaultPlan`], [`Planned`] and [`Strike`]. Main invariant: a plan says all: two runs of one scenario, seed
//! and plan are the same run, and the plan survives being written as TOML and read again. Refuses unknown keys.

use std::fmt;

use lunar_common::document::{Place, explain_toml};
use serde::{Deserialize, Serialize};

/// Everything that goes wrong in a run, by its time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultPlan {
    /// The strikes. Those of one time happen in this order.
    #[serde(default, rename = "strike", skip_serializing_if = "Vec::is_empty")]
    pub strikes: Vec<Planned>,
}

/// A strike at its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planned {
    /// When, in milliseconds after the beginning.
    pub at_ms: u64,
    /// What.
    pub what: Strike,
}

/// Where the coordinator dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CoordinatorEdge {
    /// An event is decided and not yet on disk.
    BeforeAppend,
    /// It is on disk and nothing has left.
    AfterAppend,
    /// A message is about to leave.
    BeforeSend,
    /// It has just left.
    AfterSend,
}

/// Where a process of a server dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProcessEdge {
    /// Before any effect.
    Effect,
    /// In the middle of a write: the record is torn, and what it replaces is found again.
    TornWrite,
    /// Right after a write.
    AfterWrite,
}

/// How a hostile server treats others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Manner {
    /// Every frame that it sends is corrupt.
    Corrupt,
    /// It says that it has everything, and has nothing to give.
    Lies,
    /// It takes requests and never answers.
    Silent,
    /// It answers after everybody's patience.
    Slow,
    /// It says again and again that it is fetching all that it lacks for the others, and fetches nothing from Earth.
    Takes,
}

/// Which way nothing gets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// The server hears nobody and is heard by nobody.
    Both,
    /// It hears nobody.
    To,
    /// It is heard by nobody.
    From,
}

/// A fault with all its numbers. Servers are counted from 0, as the scenario seats them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "servers are counted as the scenario seats them; all else has its unit in its name"
)]
pub enum Strike {
    /// So many of ten thousand messages are lost.
    Loss { per_10_000: u32, for_ms: u64 },
    /// So many of ten thousand messages arrive twice.
    Duplication { per_10_000: u32, for_ms: u64 },
    /// So many of ten thousand messages take up to `most_ms`, so that others overtake them.
    Delay { per_10_000: u32, most_ms: u64, for_ms: u64 },
    /// Nothing reaches a server, or nothing that it says reaches anyone.
    Partition { server: usize, way: Way, for_ms: u64 },
    /// A site hears no other site, and is heard by none. Sites are counted from 0.
    SiteIsolated { site: usize, for_ms: u64 },
    /// The coordinator dies when it comes to such an edge for the time after `skip` others.
    CoordinatorCrash { edge: CoordinatorEdge, skip: u32, for_ms: u64 },
    /// An operator puts an older copy of the log back: 0 is the newest copy there is.
    RestoredBackup { age: usize },
    /// A new life of the coordinator begins, and the old one goes on answering.
    TwoCoordinators { for_ms: u64 },
    /// The coordinator can write nothing, and stops whenever it tries.
    CoordinatorDiskFull { for_ms: u64 },
    /// A network half dies at such an edge after `skip` others.
    AgentCrash { server: usize, edge: ProcessEdge, skip: u32, for_ms: u64 },
    /// A root half does; what step ran then is done or is not.
    ApplierCrash { server: usize, edge: ProcessEdge, skip: u32, step_done: bool, for_ms: u64 },
    /// Nothing can be written on a server: its halves stop whenever they try.
    DiskFull { server: usize, for_ms: u64 },
    /// A bit of what was staged turns.
    BitFlip { server: usize },
    /// A machine loses its power; what step ran then is done or is not.
    Reboot { server: usize, step_done: bool, for_ms: u64 },
    /// The same, and it comes back on what it ran before the switch.
    WrongSlot { server: usize, for_ms: u64 },
    /// A machine loses its power for good.
    NeverComesBack { server: usize },
    /// A server treats the others of its swarm so, from then on and for good.
    HostilePeer { server: usize, manner: Manner },
    /// A service fails by itself.
    Outage { server: usize, for_ms: u64 },
    /// The new release does not work on a server; with `after_ms`, it does so for so long after the switch.
    BadRelease {
        server: usize,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after_ms: Option<u64>,
    },
    /// So many of ten thousand probes of a server fail.
    FlappingProbes { server: usize, per_10_000: u32, for_ms: u64 },
    /// People halt everything.
    Halt,
    /// People let it go on.
    Resume,
    /// People replace the plan by its next generation.
    NewPlan,
    /// People give out the next trust root, and sign with another key from then on.
    KeyRotation,
    /// People enrol a server again, into a wrong group.
    WrongGroup { server: usize },
    /// People put a server out.
    Revocation { server: usize },
    /// The wall clock of a server, or the coordinator's, is set ahead or back.
    ClockStep {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        server: Option<usize>,
        by_s: i64,
    },
    /// Both clocks of a server go so much too fast or too slow.
    ClockDrift { server: usize, ppm: i64 },
}

impl Strike {
    /// The server that it hits, if it hits one.
    #[must_use]
    pub fn server(&self) -> Option<usize> {
        match self {
            Self::Partition { server, .. }
            | Self::AgentCrash { server, .. }
            | Self::ApplierCrash { server, .. }
            | Self::DiskFull { server, .. }
            | Self::BitFlip { server }
            | Self::Reboot { server, .. }
            | Self::WrongSlot { server, .. }
            | Self::NeverComesBack { server }
            | Self::HostilePeer { server, .. }
            | Self::Outage { server, .. }
            | Self::BadRelease { server, .. }
            | Self::FlappingProbes { server, .. }
            | Self::WrongGroup { server }
            | Self::Revocation { server }
            | Self::ClockDrift { server, .. } => Some(*server),
            Self::ClockStep { server, .. } => *server,
            Self::Loss { .. }
            | Self::Duplication { .. }
            | Self::Delay { .. }
            | Self::SiteIsolated { .. }
            | Self::CoordinatorCrash { .. }
            | Self::RestoredBackup { .. }
            | Self::TwoCoordinators { .. }
            | Self::CoordinatorDiskFull { .. }
            | Self::Halt
            | Self::Resume
            | Self::NewPlan
            | Self::KeyRotation => None,
        }
    }
}

/// Why a text is no plan of faults.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the plan of faults is wrong at line {}, column {}: {problem}{place}", place.line, place.column)]
pub struct PlanError {
    /// Where.
    pub place: Place,
    /// What is wrong.
    pub problem: String,
}

impl FaultPlan {
    /// A plan in which nothing goes wrong.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The plan that a text describes.
    ///
    /// # Errors
    /// [`PlanError`] names the place that is wrong.
    pub fn parse(text: &str) -> Result<Self, PlanError> {
        let mut plan: Self = toml::from_str(text).map_err(|error| {
            let (place, problem) = explain_toml(text, &error);
            PlanError { place, problem }
        })?;
        plan.strikes.sort_by_key(|planned| planned.at_ms);
        Ok(plan)
    }

    /// The same plan as a text that [`FaultPlan::parse`] takes.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every strike has a form in TOML")
    }

    /// One more strike.
    pub fn add(&mut self, at_ms: u64, what: Strike) {
        let after = self.strikes.partition_point(|planned| planned.at_ms <= at_ms);
        self.strikes.insert(after, Planned { at_ms, what });
    }

    /// How many strikes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.strikes.len()
    }

    /// Whether nothing goes wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.strikes.is_empty()
    }
}

impl fmt::Display for FaultPlan {
    /// One line a strike: its time in seconds, and what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Planned { at_ms, what } in &self.strikes {
            writeln!(f, "{:>9}.{:03} {what:?}", at_ms / 1000, at_ms % 1000)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::Fault;
    use crate::scenario::Scenario;

    #[test]
    fn a_plan_survives_being_written_and_read() {
        let plan = FaultPlan::draw_kinds(3, &Scenario::small(3), &Fault::ALL.into());
        assert!(plan.len() > 20);
        assert_eq!(FaultPlan::parse(&plan.to_toml()), Ok(plan));
    }

    #[test]
    fn a_plan_with_an_unknown_key_is_refused_with_its_line() {
        let text = "[[strike]]\nat_ms = 5\nwhat = { partition = { server = 1, for_ms = 9, site = 2 } }\n";
        let refused = FaultPlan::parse(text).expect_err("there is no such key");
        assert_eq!(refused.place.line, 3, "{refused}");
    }
}
