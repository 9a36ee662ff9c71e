//! Everything a node waits for that only time can bring.
//!
//! Owns [`Timer`] and [`Timers`]. Main invariant: each reason to wait has one deadline at most, in one table.

use lunar_common::time::Moment;

/// Why a node wants to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// The upgrade's next step: its place in the spread, a retry, the next round of probes.
    Step,
    /// Members of the own group that have not answered by now count as not up.
    Group,
    /// A held grant that was not used by now is given back.
    StartBy,
    /// The applier may have rolled back by itself: ask it.
    Applier,
    /// The next report is due, or the last one was not answered.
    Report,
    /// A release was not acknowledged: send it again.
    Release,
    /// The server's own health is to be seen again.
    Health,
}

impl Timer {
    /// All of them, in their order.
    const ALL: [Self; 7] =
        [Self::Step, Self::Group, Self::StartBy, Self::Applier, Self::Report, Self::Release, Self::Health];
}

/// Deadlines by reason.
#[derive(Debug, Clone, Default)]
pub struct Timers([Option<Moment>; Timer::ALL.len()]);

impl Timers {
    /// Sets or moves a deadline.
    pub fn set(&mut self, timer: Timer, at: Moment) {
        self.0[timer as usize] = Some(at);
    }

    /// Brings a deadline forward; never back.
    pub fn set_sooner(&mut self, timer: Timer, at: Moment) {
        let entry = self.0[timer as usize].get_or_insert(at);
        *entry = at.min(*entry);
    }

    /// Takes a deadline away.
    pub fn clear(&mut self, timer: Timer) {
        self.0[timer as usize] = None;
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next(&self) -> Option<Moment> {
        self.0.iter().flatten().min().copied()
    }

    /// Takes a deadline away; whether there was one.
    pub(crate) fn take(&mut self, timer: Timer) -> bool {
        self.0[timer as usize].take().is_some()
    }

    /// Every deadline.
    pub(crate) fn armed(&self) -> impl Iterator<Item = (Timer, Moment)> {
        Timer::ALL.into_iter().zip(self.0).filter_map(|(timer, at)| at.map(|at| (timer, at)))
    }

    /// Takes out one timer that is due, the earliest first.
    pub fn due(&mut self, now: Moment) -> Option<Timer> {
        let (timer, _) = self.armed().filter(|(_, at)| *at <= now).min_by_key(|(_, at)| *at)?;
        self.clear(timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_comes_out_once_earliest_first() {
        let mut timers = Timers::default();
        timers.set(Timer::Report, Moment(5));
        timers.set(Timer::Step, Moment(3));
        timers.set_sooner(Timer::Report, Moment(9));
        assert_eq!(timers.next(), Some(Moment(3)));
        assert_eq!(timers.due(Moment(5)), Some(Timer::Step));
        assert_eq!(timers.due(Moment(5)), Some(Timer::Report));
        assert_eq!(timers.due(Moment(5)), None);
    }
}
