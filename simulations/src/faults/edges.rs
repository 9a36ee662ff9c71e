//! Faults that wait at an edge of the world until something comes by.
//!
//! Owns [`Edges`] (those of the whole world), [`Interval`] and [`CrashAt`]. Main invariant: nothing here acts on
//! its own; the place where a message or an effect passes asks.

use std::collections::BTreeMap;

use super::clock::Clock;
use super::plan::{CoordinatorEdge, ProcessEdge};
use super::two_coordinators::Old;

/// So many of ten thousand, until a time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Interval {
    per_10_000: u32,
    until_ms: u64,
}

impl Interval {
    pub(crate) fn new(per_10_000: u32, until_ms: u64) -> Self {
        Self { per_10_000, until_ms }
    }

    /// How many of ten thousand it hits at a time.
    pub(crate) fn rate(self, at_ms: u64) -> u64 {
        if at_ms < self.until_ms { u64::from(self.per_10_000) } else { 0 }
    }
}

/// A process that will die at one of its next effects.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CrashAt {
    pub(crate) edge: ProcessEdge,
    pub(crate) skip: u32,
    pub(crate) for_ms: u64,
    pub(crate) step_done: bool,
}

impl CrashAt {
    /// An edge comes by: whether it is the one.
    pub(crate) fn passes(armed: &mut Option<Self>, edge: ProcessEdge) -> Option<Self> {
        match armed {
            Some(crash) if crash.edge == edge && crash.skip > 0 => {
                crash.skip -= 1;
                None
            }
            Some(crash) if crash.edge == edge => armed.take(),
            Some(_) | None => None,
        }
    }
}

/// What waits for messages and for the coordinator.
#[derive(Debug, Default)]
pub(crate) struct Edges {
    pub(crate) loss: Interval,
    pub(crate) duplication: Interval,
    pub(crate) delay: Interval,
    pub(crate) delay_most_ms: u64,
    /// Sites that are cut off, and until when.
    pub(crate) isolated: BTreeMap<usize, u64>,
    /// Until when the coordinator can write nothing.
    pub(crate) coordinator_full_until: u64,
    pub(crate) coordinator_clock: Clock,
    /// The life of the coordinator that should be dead.
    pub(crate) old: Option<Box<Old>>,
    /// Where the coordinator dies, after how many more of these, and for how long.
    pub(crate) coordinator: Option<(CoordinatorEdge, u32, u64)>,
}

impl Edges {
    /// The coordinator comes to an edge: for how long it is dead, if it dies here.
    pub(crate) fn coordinator_dies(&mut self, edge: CoordinatorEdge) -> Option<u64> {
        match &mut self.coordinator {
            Some((at, skip, _)) if *at == edge && *skip > 0 => {
                *skip -= 1;
                None
            }
            Some((at, _, for_ms)) if *at == edge => {
                let for_ms = *for_ms;
                self.coordinator = None;
                Some(for_ms)
            }
            Some(_) | None => None,
        }
    }
}
