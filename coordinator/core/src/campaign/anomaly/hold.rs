//! Upgrades that keep their servers down for much longer than those before.
//!
//! Owns [`Holds`]. Main invariant: what was slow never moves the median that it is held against, and without enough to
//! compare with nothing is slow. Durations are the servers' own, counted on their clocks that never jump.

use lunar_common::pause::Anomaly;
use lunar_common::plan::HoldStop;

use super::Recent;

/// Most durations that a median is taken of: more tell no more.
const KEPT_MAX: usize = 1_000;

/// How long the servers of a tier were down for an upgrade that succeeded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Holds {
    /// In ascending order, in milliseconds.
    usual: Vec<u64>,
    /// The last ones: whether each was slow.
    last: Recent,
}

impl Holds {
    /// A server was down for so long.
    pub(super) fn take(&mut self, hold_ms: u64, stop: &HoldStop) -> Option<Anomaly> {
        let median_ms = self.median(stop);
        let slow = median_ms.is_some_and(|median_ms| is_slow(hold_ms, median_ms, stop));
        if !slow && self.usual.len() < KEPT_MAX {
            let at = self.usual.partition_point(|usual| *usual <= hold_ms);
            self.usual.insert(at, hold_ms);
        }
        let (count, of) = self.last.take(slow, stop.of);
        let median_ms = median_ms.filter(|_| slow && count >= stop.slow)?;
        let (stop_at, percent) = (stop.slow, stop.percent);
        Some(Anomaly::Slow { slow: count, of, stop_at, hold_ms, median_ms, percent })
    }

    /// The lower one of the two in the middle.
    fn median(&self, stop: &HoldStop) -> Option<u64> {
        let samples = usize::try_from(stop.samples).unwrap_or(usize::MAX);
        let middle = self.usual.len().checked_sub(1)? / 2;
        (self.usual.len() >= samples).then(|| self.usual[middle])
    }
}

fn is_slow(hold_ms: u64, median_ms: u64, stop: &HoldStop) -> bool {
    hold_ms > u64::from(stop.floor_s) * 1_000
        && u128::from(hold_ms) * 100 > u128::from(median_ms) * u128::from(stop.percent)
}
