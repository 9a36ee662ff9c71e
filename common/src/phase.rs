//! Where a server is in its upgrade (requirement A6), in the words that everyone uses.
//!
//! Owns [`Phase`]. The transitions and their rules are the agent core's; this is the vocabulary in which they
//! are journaled, reported, counted and shown.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A server's state in one campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Knows the plan; its place in the start spread has not come, or a retry waits for its time.
    Scheduled,
    /// Fetching chunks.
    Downloading,
    /// The applier unpacks and verifies beside the running version. Still up.
    Staging,
    /// Everything is here; waiting for a lease.
    Queued,
    /// Probing itself before it goes down.
    PreCheck,
    /// Taking traffic away. Down from here on.
    Draining,
    /// Switching versions and restarting.
    Installing,
    /// Probing and soaking the new version.
    Validating,
    /// Going back to the previous version.
    RollingBack,
    /// On the new version, whole.
    Complete,
    /// On the previous version, whole; the attempt failed.
    RolledBack,
    /// No more attempts, or untouched because a check failed; on the previous version, whole.
    Failed,
}

impl Phase {
    /// All phases, in order.
    pub const ALL: [Self; 12] = [
        Self::Scheduled,
        Self::Downloading,
        Self::Staging,
        Self::Queued,
        Self::PreCheck,
        Self::Draining,
        Self::Installing,
        Self::Validating,
        Self::RollingBack,
        Self::Complete,
        Self::RolledBack,
        Self::Failed,
    ];

    /// Whether the server counts as down.
    #[must_use]
    pub fn is_down(self) -> bool {
        match self {
            Self::Draining | Self::Installing | Self::Validating | Self::RollingBack => true,
            Self::Scheduled
            | Self::Downloading
            | Self::Staging
            | Self::Queued
            | Self::PreCheck
            | Self::Complete
            | Self::RolledBack
            | Self::Failed => false,
        }
    }

    /// Whether the attempt is over.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Complete | Self::RolledBack | Self::Failed)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Scheduled => "scheduled",
            Self::Downloading => "downloading",
            Self::Staging => "staging",
            Self::Queued => "queued",
            Self::PreCheck => "pre-check",
            Self::Draining => "draining",
            Self::Installing => "installing",
            Self::Validating => "validating",
            Self::RollingBack => "rolling-back",
            Self::Complete => "complete",
            Self::RolledBack => "rolled-back",
            Self::Failed => "failed",
        })
    }
}
