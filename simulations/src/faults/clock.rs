//! A machine's clocks: the wall's, which people and services set, and the steady one, which only drifts.
//!
//! Owns [`Clock`]. Main invariant: whatever is done to a clock, its moments never go back; only the wall steps.

use lunar_common::time::{Moment, WallTime};

use crate::server::wall;

/// A clock that is right until something is done to it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Clock {
    /// What the wall's clock was set ahead, in seconds.
    ahead_s: i64,
    /// How much too fast it goes, in millionths.
    drift_ppm: i64,
    /// Since when it drifts so, and what it had gained by then.
    since_ms: u64,
    gained_ms: i64,
}

impl Clock {
    /// The wall's clock is set.
    pub(crate) fn step(&mut self, by_s: i64) {
        self.ahead_s += by_s;
    }

    /// From now on it drifts so.
    pub(crate) fn drift(&mut self, at_ms: u64, ppm: i64) {
        self.gained_ms = self.gained(at_ms);
        self.since_ms = at_ms;
        self.drift_ppm = ppm;
    }

    fn gained(&self, at_ms: u64) -> i64 {
        let for_ms = i64::try_from(at_ms - self.since_ms).expect("runs are short");
        self.gained_ms + for_ms * self.drift_ppm / 1_000_000
    }

    /// How long it says that the world has been there, in milliseconds.
    pub(crate) fn elapsed(&self, at_ms: u64) -> u64 {
        at_ms.saturating_add_signed(self.gained(at_ms))
    }

    /// When it will say so at the earliest, in the world's time.
    pub(crate) fn when(&self, elapsed_ms: u64) -> u64 {
        if self.drift_ppm == 0 {
            return elapsed_ms.saturating_add_signed(-self.gained_ms);
        }
        let from = self.elapsed(self.since_ms);
        let left = i128::from(elapsed_ms) - i128::from(from);
        let mut when = i128::from(self.since_ms) + left * 1_000_000 / i128::from(1_000_000 + self.drift_ppm);
        // Rounding may have fallen short of it.
        while left > 0 && self.elapsed(u64::try_from(when).unwrap_or(0)) < elapsed_ms {
            when += 1;
        }
        u64::try_from(when).unwrap_or(0)
    }

    /// The wall's time as it shows it.
    pub(crate) fn wall(&self, at_ms: u64) -> WallTime {
        WallTime(wall(self.elapsed(at_ms)).0 + self.ahead_s)
    }

    /// A moment of a boot that began when the clock said `booted_ms`.
    pub(crate) fn moment(&self, booted_ms: u64, at_ms: u64) -> Moment {
        Moment(self.elapsed(at_ms).saturating_sub(booted_ms) + 1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_rings_at_or_just_after_its_moment_however_the_clock_drifts() {
        let mut clock = Clock::default();
        for (at, ppm) in [(10_000, 500), (50_000, -500), (90_000, 0), (130_000, 20_000)] {
            clock.drift(at, ppm);
            for later in [at, at + 1, at + 7_777, at + 39_999] {
                let elapsed = clock.elapsed(later);
                let when = clock.when(elapsed);
                assert!(clock.elapsed(when) >= elapsed && when <= later + 1, "{ppm} at {later}: {when}");
            }
        }
    }

    #[test]
    fn a_step_moves_the_wall_and_no_moment() {
        let mut clock = Clock::default();
        let before = (clock.moment(0, 5_000), clock.wall(5_000));
        clock.step(-3_600);
        assert_eq!(clock.moment(0, 5_000), before.0);
        assert_eq!(clock.wall(5_000).0, before.1.0 - 3_600);
    }
}
