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
    /// One agent hears nobody, or is heard by nobody, or both.
    Partition,
    /// A whole site is cut off from the others.
    SiteIsolated,
    /// The coordinator dies before or after it writes, before or after it sends.
    CoordinatorCrash,
    /// The coordinator's log is replaced by an older copy of it.
    RestoredBackup,
    /// An old life of the coordinator goes on answering beside the new one.
    TwoCoordinators,
    /// The coordinator's disk is full.
    CoordinatorDiskFull,
    /// An agent's network half dies at an effect, in the middle of a write, or after one.
    AgentCrash,
    /// An agent's root half does, or inside a step.
    ApplierCrash,
    /// A server's disk is full.
    DiskFull,
    /// A bit of what was staged turns before it is used.
    BitFlip,
    /// A whole machine loses its power.
    Reboot,
    /// A machine comes back on what it ran before the switch.
    WrongSlot,
    /// A machine loses its power for good.
    NeverComesBack,
    /// Up to a third of the servers send corrupt frames, lie, or are slow or silent to the others.
    HostilePeers,
    /// A service fails by itself, and comes back.
    Outage,
    /// The new release does not work on some servers.
    BadRelease,
    /// The new release works at first on some servers.
    LateFailure,
    /// Probes fail now and then.
    FlappingProbes,
    /// People halt everything and let it go on again.
    Halt,
    /// People replace the plan in mid-plan.
    NewPlan,
    /// People rotate the trust root, and sign with another key from then on.
    KeyRotation,
    /// People enrol a server into the wrong group, and put it right later.
    WrongGroupMap,
    /// People put a server out.
    Revocation,
    /// Wall clocks are set wrong by up to an hour, again and again.
    ClockStep,
    /// Clocks go too fast or too slow.
    ClockDrift,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 28] = [
        Self::Loss,
        Self::Duplication,
        Self::Delay,
        Self::Partition,
        Self::SiteIsolated,
        Self::CoordinatorCrash,
        Self::RestoredBackup,
        Self::TwoCoordinators,
        Self::CoordinatorDiskFull,
        Self::AgentCrash,
        Self::ApplierCrash,
        Self::DiskFull,
        Self::BitFlip,
        Self::Reboot,
        Self::WrongSlot,
        Self::NeverComesBack,
        Self::HostilePeers,
        Self::Outage,
        Self::BadRelease,
        Self::LateFailure,
        Self::FlappingProbes,
        Self::Halt,
        Self::NewPlan,
        Self::KeyRotation,
        Self::WrongGroupMap,
        Self::Revocation,
        Self::ClockStep,
        Self::ClockDrift,
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
