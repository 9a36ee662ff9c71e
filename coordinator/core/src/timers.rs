//! What is to happen later, and why.
//!
//! Owns [`Timers`]. Main invariant: a timer is armed once; arming it again moves it. Moments are of this
//! machine and of this life: nothing here is in the log.

use std::collections::{BTreeMap, BTreeSet};

use lunar_common::ids::{CampaignId, ServerId};
use lunar_common::time::Moment;

/// Why the coordinator wants to wake up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A lease runs out without news: it is LOST then.
    Lease(ServerId),
    /// A server was silent for too long: it takes a slot then.
    Silence(ServerId),
    /// The coordinator makes itself known.
    Announce,
    /// After a restore: permissions given before it have run out by their holders' own clocks.
    Hold,
    /// A stage soaks: that is put down, and its gate looked at.
    Gate(CampaignId, u16),
    /// A maintenance window opens or closes, or a tier is asked whether it is behind.
    Window,
}

/// Deadlines by timer, and timers by deadline.
#[derive(Debug, Clone, Default)]
pub(crate) struct Timers {
    armed: BTreeMap<Timer, Moment>,
    due: BTreeSet<(Moment, Timer)>,
}

impl Timers {
    pub(crate) fn arm(&mut self, timer: Timer, at: Moment) {
        self.disarm(&timer);
        self.due.insert((at, timer.clone()));
        self.armed.insert(timer, at);
    }

    pub(crate) fn disarm(&mut self, timer: &Timer) {
        if let Some(at) = self.armed.remove(timer) {
            self.due.remove(&(at, timer.clone()));
        }
    }

    pub(crate) fn at(&self, timer: &Timer) -> Option<Moment> {
        self.armed.get(timer).copied()
    }

    pub(crate) fn next(&self) -> Option<Moment> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The first timer that is due, disarmed.
    pub(crate) fn pop(&mut self, now: Moment) -> Option<Timer> {
        let (at, _) = self.due.first()?;
        if *at > now {
            return None;
        }
        let (_, timer) = self.due.pop_first()?;
        self.armed.remove(&timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arming_again_moves_a_timer_and_popping_disarms_it() {
        let mut timers = Timers::default();
        timers.arm(Timer::Announce, Moment(10));
        timers.arm(Timer::Announce, Moment(30));
        timers.arm(Timer::Hold, Moment(20));
        assert_eq!(timers.next(), Some(Moment(20)));
        assert_eq!(timers.pop(Moment(25)), Some(Timer::Hold));
        assert_eq!(timers.pop(Moment(25)), None);
        timers.disarm(&Timer::Announce);
        assert_eq!(timers.next(), None);
    }
}
