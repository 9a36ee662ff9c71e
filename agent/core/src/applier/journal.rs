//! What the applier must not forget.
//!
//! Owns [`Journal`]: the machine's whole durable state, written as one record. Main invariant: it says what is
//! about to be done, never what was: a step found here may or may not have been done, and is done again. It
//! carries everything that finishing or going back needs, so that neither ever depends on a document. Refuses
//! to keep anything that the network half said beyond what was verified.

use std::collections::BTreeMap;

use lunar_common::ids::{ArtifactId, ArtifactName, Epoch, Fence};
use lunar_common::plan::Restart;
use lunar_common::time::Moment;
use serde::{Deserialize, Serialize};

use super::effect::Bundle;
use super::protocol::Task;

/// Most releases remembered under one name: far more than any plan keeps.
pub const HISTORY_MAX: usize = 64;

/// The applier's durable state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Journal {
    /// Which boot of the machine wrote this: moments of another boot mean nothing.
    pub boot: u64,
    /// Highest epoch of a grant that was used; lower ones are refused.
    pub epoch_used: Epoch,
    /// Fence of the last grant that was used; neither it nor a lower one is used again.
    pub fence_used: Fence,
    /// What is under way.
    pub work: Option<Work>,
    /// How the last task ended.
    pub ended: Option<Ended>,
    /// Releases that were committed, by name, oldest first: what pruning goes by.
    pub history: BTreeMap<ArtifactName, Vec<ArtifactId>>,
}

/// A task under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Which.
    pub task: Task,
    /// The whole set, in the plan's order.
    pub pieces: Vec<Piece>,
    /// What makes the service take up a version.
    pub restart: Restart,
    /// Versions kept, the running one included.
    pub keep: u32,
    /// Dead man's switch: milliseconds from the beginning to the roll-back.
    pub commit_within_ms: u64,
    /// How far it is.
    pub progress: Progress,
}

/// One artifact of the set, and what it replaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The new release.
    pub bundle: Bundle,
    /// What ran before; `None`: nothing, so that going back takes the link away.
    pub previous: Option<ArtifactId>,
}

/// How far a task is. A step's number is written before the step is run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Progress {
    /// Unpacking; nothing that runs is touched.
    Staging {
        /// The step to run.
        step: u32,
    },
    /// All of it lies ready.
    Staged,
    /// Begun: verifying, switching, restarting.
    Applying {
        /// The step to run.
        step: u32,
        /// The dead man's switch.
        deadline: Moment,
    },
    /// The new version runs.
    AwaitingCommit {
        /// The dead man's switch.
        deadline: Moment,
    },
    /// Decided: it stays. Old releases are being removed.
    Committing {
        /// The step to run.
        step: u32,
    },
    /// Decided: it goes back.
    RollingBack {
        /// The step to run.
        step: u32,
        /// Why.
        cause: String,
    },
}

impl Progress {
    /// Whether anything that runs may have been touched.
    #[must_use]
    pub fn begun(&self) -> bool {
        match self {
            Self::Staging { .. } | Self::Staged => false,
            Self::Applying { .. }
            | Self::AwaitingCommit { .. }
            | Self::Committing { .. }
            | Self::RollingBack { .. } => true,
        }
    }
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Which.
    pub task: Task,
    /// How.
    pub how: End,
}

/// An end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// The new version stays.
    Committed,
    /// The previous version runs again.
    RolledBack {
        /// Why.
        cause: String,
    },
    /// It could not be staged; nothing was touched.
    NotStaged {
        /// Why.
        reason: String,
    },
}
