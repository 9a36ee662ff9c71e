//! Deadlines, in one table.
//!
//! Owns [`Timers`]. Main invariant: a timer has at most one deadline, and they fire in order of time and then
//! of kind, the same in every run.

use std::collections::{BTreeMap, BTreeSet};

use lunar_common::ids::{ArtifactId, PeerKey};
use lunar_common::time::Moment;

use super::input::RequestId;

/// Why the swarm wants to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A request is slower than the rate floor: it failed.
    Request(RequestId),
    /// A peer's ban, breaker or back-off ends: it may be tried again.
    Peer(PeerKey),
    /// Have-sets had time to arrive: the Earth link may be used for this artifact.
    Settle(ArtifactId),
    /// A gateway that owes chunks has said nothing for long: the next in order takes over.
    Silence(ArtifactId),
    /// The last requests are slow: they may be asked for a second time, elsewhere.
    EndGame(ArtifactId),
    /// Nothing at all arrived for long: help oneself, whoever was meant to.
    Stall(ArtifactId),
    /// What was heard of others' fetching is too old to be true.
    Hearsay(ArtifactId),
    /// Listeners have not been told for a while of chunks that are here.
    Announce(ArtifactId),
    /// What came from Earth was taken by nobody for long: it holds no place any more.
    Unspread(ArtifactId),
}

/// The table.
#[derive(Debug, Clone, Default)]
pub(super) struct Timers {
    armed: BTreeMap<Timer, Moment>,
    order: BTreeSet<(Moment, Timer)>,
}

impl Timers {
    /// Sets a timer's deadline, whatever it was before.
    pub(super) fn arm(&mut self, timer: Timer, at: Moment) {
        self.disarm(timer);
        self.armed.insert(timer, at);
        self.order.insert((at, timer));
    }

    /// Sets a timer's deadline, unless it has an earlier one.
    pub(super) fn arm_no_later(&mut self, timer: Timer, at: Moment) {
        if self.armed.get(&timer).is_none_or(|armed| at < *armed) {
            self.arm(timer, at);
        }
    }

    /// Takes a timer's deadline away, if it has one.
    pub(super) fn disarm(&mut self, timer: Timer) {
        if let Some(at) = self.armed.remove(&timer) {
            self.order.remove(&(at, timer));
        }
    }

    /// The first deadline.
    pub(super) fn first(&self) -> Option<Moment> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes one timer whose deadline has come.
    pub(super) fn due(&mut self, now: Moment) -> Option<Timer> {
        let (at, timer) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.disarm(timer);
        Some(timer)
    }
}
