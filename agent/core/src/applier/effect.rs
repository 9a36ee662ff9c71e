//! All that the applier can do.
//!
//! Owns [`Effect`] and [`Step`]. Main invariant: effects are carried out in order, and an
//! [`Effect::Persist`] is durable before the next one is carried out; if it cannot be made durable, the program
//! stops. Every step may be repeated after a crash at any point inside it.

use lunar_common::ids::{ArtifactId, ArtifactName};
use lunar_common::plan::Restart;
use lunar_common::trust::TrustSnapshot;
use serde::{Deserialize, Serialize};

use super::input::RunId;
use super::journal::Journal;
use super::protocol::{Reply, Task};
use crate::input::CallId;

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Make this durable before anything that follows.
    Persist(Record),
    /// Answer a request.
    Reply {
        /// Whom.
        call: CallId,
        /// With what.
        reply: Reply,
    },
    /// Run a step in the background; at most one runs at a time.
    Run {
        /// Its end repeats this.
        run: RunId,
        /// The task it is for, for logs and for a hook's placeholders.
        task: Task,
        /// What to do.
        step: Step,
    },
    /// Tell people.
    Log {
        /// How urgent.
        level: Level,
        /// The task it is about.
        task: Task,
        /// What happened.
        text: String,
    },
}

/// What is made durable. Each kind replaces the record of its kind, whole and atomically.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// The applier's own state.
    Journal(Box<Journal>),
    /// What people signed, and the floors against replays.
    Trust(Box<TrustSnapshot>),
}

/// How urgent a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// All goes as planned.
    Info,
    /// Something was refused or failed, and is dealt with.
    Warn,
    /// A person must act.
    Error,
}

/// One idempotent step of an installer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Remove what earlier attempts left behind, and every release that is not to be kept.
    Prune {
        /// Whose releases.
        name: ArtifactName,
        /// The releases that stay.
        keep: Vec<ArtifactId>,
    },
    /// Unpack and verify beside the running version.
    Stage(Bundle),
    /// Verify once more what was staged: hours may have passed.
    Verify(Bundle),
    /// Switch the link.
    Switch {
        /// Whose link.
        name: ArtifactName,
        /// To which release; `None` takes the link away.
        to: Option<ArtifactId>,
    },
    /// Make the service take up what the links say now.
    Restart {
        /// How.
        restart: Restart,
        /// False: nothing is installed any more, so that there is nothing to start.
        installed: bool,
    },
}

/// An artifact as the signed plan names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// Its name.
    pub name: ArtifactName,
    /// The BLAKE3 of its manifest.
    pub id: ArtifactId,
    /// The manifest's length in bytes.
    pub manifest_bytes: u64,
    /// The content's length in bytes.
    pub bytes: u64,
}
