//! The kinds of fault, each of which is on or off in a run.
//!
//! Owns [`Fault`] and the drawing of the kinds of one run. Main invariant: which kinds are on follows from the
//! seed alone. Half of the runs have at most two: many faults at once hide what two of them do.

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

    /// The kinds that are on in a run: in every second run at most two, in the others each with `in_million`.
    #[must_use]
    pub fn drawn(seed: u64, in_million: u64) -> BTreeSet<Self> {
        let seed = seed.to_le_bytes();
        if in_million > 0 && draw_below(2, "few-kinds", &[&seed]) == 0 {
            let count = draw_below(3, "how-few-kinds", &[&seed]);
            let kind = |number: u64| {
                let below = Self::ALL.len() as u64;
                Self::ALL[usize::try_from(draw_below(below, "which-kind", &[&seed, &number.to_le_bytes()]))
                    .expect("few kinds")]
            };
            return (0..count).map(kind).collect();
        }
        let on = |fault: &Self| {
            draw_below(1_000_000, "fault-kind", &[&seed, format!("{fault:?}").as_bytes()]) < in_million
        };
        Self::ALL.into_iter().filter(on).collect()
    }
}
