//! The closed form: servers, slots and hours in, what is needed and what would fit out.
//!
//! Owns the formulas. Main invariant: whole numbers throughout (milliseconds in 128 bits), every bound rounded to
//! the side that promises less, and whatever is proposed as fitting passes [`Demand::fits`] itself. Refuses to know what
//! a scope is: it sees a number of servers and a number of slots.
//!
//! With N servers, C slots, d the time one is down, h the hand-over of a slot, R a rollback, f the share that
//! rolls back and is tried once more, and W the time there is:
//!
//! ```text
//! tau   = (d + h) + f (d + h + R)                 slot time a server takes, its share of failures included
//! fits    N tau <= C W                            (1) work against slots
//!         N <= C x sum_w floor((w - R) / (d + h)) (2) whole rounds in each window w: a start needs now + d + R <= end
//! group:  g (d + soak) <= W - R                   (2) with one slot and the soak between two members
//! C*    = max(ceil(N tau / W), ceil(N / rounds))  slots that fit
//! d*    = the longest d that fits; by (1) alone   (C W / N - h (1 + f) - f R) / (1 + f)
//! days* = N tau / (C x hours a day)               or the rounds of (2), whichever takes longer
//! windows: W is the sum of their lengths, less the time within which a server begins; each is one w
//! pauses: W - N f H in place of W, where every failure stops its tier until a person has looked (H)
//! ```
//!
//! They were compared with Monte-Carlo runs of the same campaigns: (1) alone agrees within 1 % round the clock and
//! within 3 % where a day has 8 or 12 hours of windows.

use lunar_common::time::WallTime;
use lunar_common::window::{OpenTimes, Stretch};
use serde::Serialize;

/// What is assumed of one server's upgrade where nothing was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Assumptions {
    /// Seconds a server is down, start to release.
    pub hold_s: u64,
    /// Seconds between a release and the next start in its slot: report, grant, and the checks before a start.
    pub hand_over_s: u64,
    /// Seconds a rollback may take; the last start must leave room for one.
    pub rollback_s: u64,
    /// Servers in ten thousand that roll back once and are tried again.
    pub failures_per_10000: u64,
    /// Seconds that a group waits between two of its members, beyond the soak inside the hold.
    pub group_soak_s: u64,
    /// Seconds for which each failure in tier 1 stops tier 1, until a person has looked.
    pub triage_s: u64,
}

impl Assumptions {
    /// Milliseconds that one server takes a slot, with its share of failures (tau).
    #[must_use]
    pub fn slot_ms(&self) -> u128 {
        let once_ms = (u128::from(self.hold_s) + u128::from(self.hand_over_s)) * 1000;
        let failed_ms = once_ms + u128::from(self.rollback_s) * 1000;
        (once_ms + failed_ms * u128::from(self.failures_per_10000) / 10_000).max(1)
    }

    /// Failures to be expected among so many servers, rounded up.
    #[must_use]
    pub fn failures(&self, servers: u64) -> u64 {
        narrow((u128::from(servers) * u128::from(self.failures_per_10000)).div_ceil(10_000))
    }
}

/// When servers may go down, from the start on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Calendar {
    /// Seconds from the start to the deadline.
    pub window_s: u64,
    /// Seconds of each day in which servers may go down; 86,400: at any time. The start begins a day's window.
    pub daily_s: u64,
}

impl Calendar {
    /// A day's seconds.
    pub const DAY_S: u64 = 86_400;

    /// Seconds until the deadline in which servers may go down.
    #[must_use]
    pub fn open_s(self) -> u64 {
        let (days, rest) = self.days();
        days * self.daily_s + rest
    }

    fn is_continuous(self) -> bool {
        self.daily_s >= Self::DAY_S
    }

    /// Whole days, and what the last one still has of its window.
    fn days(self) -> (u64, u64) {
        if self.is_continuous() {
            (0, self.window_s)
        } else {
            (self.window_s / Self::DAY_S, (self.window_s % Self::DAY_S).min(self.daily_s))
        }
    }

    /// Rounds of this length, one after the other, that leave room for a rollback in each window.
    fn rounds(self, round_s: u64, rollback_s: u64) -> u64 {
        let in_window = |window_s: u64| window_s.saturating_sub(rollback_s) / round_s.max(1);
        let (days, rest) = self.days();
        days * in_window(self.daily_s) + in_window(rest)
    }

    /// Seconds from the start until so many seconds of windows are over.
    fn elapsed(self, busy_s: u64) -> u64 {
        if self.is_continuous() || busy_s == 0 {
            return busy_s;
        }
        let days = (busy_s - 1) / self.daily_s.max(1);
        days.saturating_mul(Self::DAY_S).saturating_add(busy_s - days * self.daily_s)
    }

    /// Seconds from the start until the last of these rounds could still be rolled back; `None`: a window is too
    /// short for one.
    fn elapsed_rounds(self, rounds: u64, round_s: u64, rollback_s: u64) -> Option<u64> {
        let take = |rounds: u64| rounds.saturating_mul(round_s).saturating_add(rollback_s);
        if self.is_continuous() {
            return Some(take(rounds));
        }
        let a_day = self.daily_s.saturating_sub(rollback_s) / round_s.max(1);
        let days = rounds.saturating_sub(1).checked_div(a_day)?;
        Some(days.saturating_mul(Self::DAY_S).saturating_add(take(rounds - days * a_day)))
    }
}

/// Stretches of open time that are looked at: three a day for a year, or one a day for three years.
pub(super) const STRETCHES_MAX: usize = 3 * 366;

/// A stretch of open time, in seconds from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// Its first second.
    pub from_s: u64,
    /// The first one after it.
    pub until_s: u64,
}

impl Span {
    /// What a stretch leaves for starts after `start`: a server may take `start_within_s` before it begins.
    #[must_use]
    pub fn of(stretch: Stretch, start: WallTime, start_within_s: u64) -> Self {
        let seconds = |at: WallTime| u64::try_from(at.0.saturating_sub(start.0)).unwrap_or(0);
        let from_s = seconds(stretch.opens);
        Self { from_s, until_s: seconds(stretch.closes).saturating_sub(start_within_s).max(from_s) }
    }

    /// What windows leave for starts after `start` and until another time, as far ahead as anybody looks.
    pub(crate) fn all_of(
        times: &OpenTimes,
        start: WallTime,
        until: WallTime,
        start_within_s: u64,
    ) -> Vec<Self> {
        let stretches = times.between(start, until).take(STRETCHES_MAX);
        stretches.map(|stretch| Self::of(stretch, start, start_within_s)).collect()
    }

    fn length_s(self, window_s: u64) -> u64 {
        self.until_s.min(window_s).saturating_sub(self.from_s)
    }
}

/// When the servers of one scope may go down.
#[derive(Debug, Clone, Copy)]
pub enum Hours<'a> {
    /// The same on each day.
    Daily(Calendar),
    /// In windows.
    Windows {
        /// Seconds from the start to the deadline.
        window_s: u64,
        /// When they are open, in order, and beyond the deadline too.
        spans: &'a [Span],
    },
}

impl From<Calendar> for Hours<'_> {
    fn from(calendar: Calendar) -> Self {
        Self::Daily(calendar)
    }
}

impl<'a> Hours<'a> {
    /// In windows, until a deadline.
    #[must_use]
    pub fn in_windows(window_s: u64, spans: &'a [Span]) -> Self {
        Self::Windows { window_s, spans }
    }

    fn window_s(self) -> u64 {
        match self {
            Self::Daily(calendar) => calendar.window_s,
            Self::Windows { window_s, .. } => window_s,
        }
    }

    fn open_s(self) -> u64 {
        match self {
            Self::Daily(calendar) => calendar.open_s(),
            Self::Windows { window_s, spans } => spans.iter().map(|span| span.length_s(window_s)).sum(),
        }
    }

    fn rounds(self, round_s: u64, rollback_s: u64) -> u64 {
        match self {
            Self::Daily(calendar) => calendar.rounds(round_s, rollback_s),
            Self::Windows { window_s, spans } => {
                let in_span =
                    |span: &Span| span.length_s(window_s).saturating_sub(rollback_s) / round_s.max(1);
                spans.iter().map(in_span).sum()
            }
        }
    }

    /// Seconds from the start until so many seconds of open time are over; `None`: no window is known by then.
    fn elapsed(self, busy_s: u64) -> Option<u64> {
        match self {
            Self::Daily(calendar) => Some(calendar.elapsed(busy_s)),
            Self::Windows { .. } if busy_s == 0 => Some(0),
            Self::Windows { spans, .. } => {
                let mut left_s = busy_s;
                spans.iter().find_map(|span| {
                    let length_s = span.length_s(u64::MAX);
                    if left_s <= length_s {
                        return Some(span.from_s + left_s);
                    }
                    left_s -= length_s;
                    None
                })
            }
        }
    }

    /// Seconds from the start until the last of these rounds could still be rolled back.
    fn elapsed_rounds(self, rounds: u64, round_s: u64, rollback_s: u64) -> Option<u64> {
        match self {
            Self::Daily(calendar) => calendar.elapsed_rounds(rounds, round_s, rollback_s),
            Self::Windows { spans, .. } => {
                let mut left = rounds;
                spans.iter().find_map(|span| {
                    let here = span.length_s(u64::MAX).saturating_sub(rollback_s) / round_s.max(1);
                    if left <= here {
                        return Some(
                            span.from_s
                                .saturating_add(left.saturating_mul(round_s))
                                .saturating_add(rollback_s),
                        );
                    }
                    left -= here;
                    None
                })
            }
        }
    }

    /// Seconds from the start until so many waves have ended. Where there are no windows, waves are not fitted into
    /// the hours of a day: what promises less is the limits' matter.
    pub(super) fn elapsed_waves(self, waves: u64, wave_s: u64, rollback_s: u64) -> Option<u64> {
        match self {
            Self::Daily(_) => Some(waves.saturating_mul(wave_s)),
            Self::Windows { .. } if waves == 0 => Some(0),
            Self::Windows { .. } => {
                Some(self.elapsed_rounds(waves, wave_s, rollback_s)?.saturating_sub(rollback_s))
            }
        }
    }
}

/// Servers that share slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Servers.
    pub servers: u64,
    /// Most of them down at once.
    pub slots: u64,
    /// Seconds between a release and the next start, beyond the hand-over.
    pub soak_s: u64,
    /// Seconds of the window that are lost to pauses.
    pub paused_s: u64,
}

impl Demand {
    fn round_s(&self, assumed: &Assumptions) -> u64 {
        assumed.hold_s.saturating_add(assumed.hand_over_s).saturating_add(self.soak_s)
    }

    /// Milliseconds of slots needed.
    pub(super) fn needed_ms(&self, assumed: &Assumptions) -> u128 {
        u128::from(self.servers) * assumed.slot_ms()
    }

    fn open_ms(&self, hours: Hours<'_>) -> u128 {
        u128::from(hours.open_s().saturating_sub(self.paused_s)) * 1000
    }

    /// Milliseconds of slots there are.
    pub(super) fn available_ms<'a>(&self, hours: impl Into<Hours<'a>>) -> u128 {
        u128::from(self.slots) * self.open_ms(hours.into())
    }

    /// Whether all are done by the deadline, even if every slot is used without a gap.
    #[must_use]
    pub fn fits<'a>(&self, assumed: &Assumptions, hours: impl Into<Hours<'a>>) -> bool {
        let hours = hours.into();
        let rounds = hours.rounds(self.round_s(assumed), assumed.rollback_s);
        self.needed_ms(assumed) <= self.available_ms(hours)
            && u128::from(self.servers) <= u128::from(self.slots) * u128::from(rounds)
    }

    /// Servers done by the deadline.
    pub(super) fn done<'a>(&self, assumed: &Assumptions, hours: impl Into<Hours<'a>>) -> u64 {
        let hours = hours.into();
        let by_work = self.available_ms(hours) / assumed.slot_ms();
        let rounds = hours.rounds(self.round_s(assumed), assumed.rollback_s);
        self.servers.min(narrow(by_work.min(u128::from(self.slots) * u128::from(rounds))))
    }

    /// The fewest slots that fit; `None`: no number does.
    pub(super) fn slots_that_fit<'a>(
        &self,
        assumed: &Assumptions,
        hours: impl Into<Hours<'a>>,
    ) -> Option<u64> {
        let hours = hours.into();
        let rounds = hours.rounds(self.round_s(assumed), assumed.rollback_s);
        let open_ms = self.open_ms(hours);
        if rounds == 0 || open_ms == 0 {
            return None;
        }
        Some(narrow(self.needed_ms(assumed).div_ceil(open_ms)).max(self.servers.div_ceil(rounds)))
    }

    /// The longest hold in whole seconds that fits; `None`: not even one second does.
    pub(super) fn hold_that_fits<'a>(
        &self,
        assumed: &Assumptions,
        hours: impl Into<Hours<'a>>,
    ) -> Option<u64> {
        let hours = hours.into();
        let fits = |hold_s: u64| self.fits(&Assumptions { hold_s, ..*assumed }, hours);
        if !fits(1) {
            return None;
        }
        // What fits at one length fits at every shorter one: halve the range that is left.
        let (mut yes, mut no) = (1, hours.window_s().saturating_add(1));
        while yes + 1 < no {
            let middle = yes + (no - yes) / 2;
            if fits(middle) { yes = middle } else { no = middle }
        }
        Some(yes)
    }

    /// Seconds from the start until all are done; `None`: a day's window is too short for one server.
    pub(super) fn finish_s<'a>(&self, assumed: &Assumptions, hours: impl Into<Hours<'a>>) -> Option<u64> {
        let hours = hours.into();
        let slots = self.slots.max(1);
        let busy_ms = self.needed_ms(assumed).div_ceil(u128::from(slots));
        let by_work = hours.elapsed(narrow(busy_ms.div_ceil(1000)).saturating_add(self.paused_s))?;
        let rounds = self.servers.div_ceil(slots);
        let by_rounds = hours.elapsed_rounds(rounds, self.round_s(assumed), assumed.rollback_s)?;
        Some(by_work.max(by_rounds))
    }
}

fn narrow(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_S: u64 = 3600;
    /// The calendars of the tables: hours a day × days.
    const CALENDARS: [(u64, u64); 6] = [(24, 7), (24, 6), (12, 7), (12, 6), (8, 7), (8, 6)];

    fn held(hold_s: u64) -> Assumptions {
        Assumptions {
            hold_s,
            hand_over_s: 5,
            rollback_s: 600,
            failures_per_10000: 50,
            group_soak_s: 0,
            triage_s: 0,
        }
    }

    fn calendar((hours, days): (u64, u64)) -> Calendar {
        Calendar { window_s: days * Calendar::DAY_S, daily_s: hours * HOUR_S }
    }

    fn of(servers: u64, slots: u64) -> Demand {
        Demand { servers, slots, soak_s: 0, paused_s: 0 }
    }

    #[test]
    fn five_thousand_servers_of_twenty_minutes_and_five_slots_give_the_figures_worked_out_by_hand() {
        let (demand, week, assumed) = (of(5000, 5), calendar((24, 7)), held(1200));
        assert!(!demand.fits(&assumed, week));
        assert_eq!(demand.needed_ms(&assumed) / 3_600_000, 1_686);
        assert_eq!(demand.available_ms(week) / 3_600_000, 840);
        assert_eq!(demand.done(&assumed, week), 2_490);
        assert_eq!(demand.finish_s(&assumed, week).unwrap() * 10 / Calendar::DAY_S, 140); // 14.05 days
        assert_eq!(demand.hold_that_fits(&assumed, week), Some(593)); // 9.9 minutes
        assert_eq!(demand.slots_that_fit(&assumed, week), Some(11));
        assert_eq!(assumed.failures(5000), 25);
    }

    #[test]
    fn the_slots_needed_by_tier_one_are_those_of_the_table_or_one_more_for_whole_rounds() {
        for (minutes, slots) in [
            (20, [11, 12, 21, 24, 31, 36]),
            (12, [7, 8, 13, 15, 19, 22]),
            (10, [6, 6, 11, 12, 16, 18]),
            (8, [5, 5, 9, 10, 13, 15]),
            (5, [3, 3, 6, 6, 8, 9]),
            (4, [3, 3, 5, 5, 7, 8]),
            (3, [2, 2, 4, 4, 5, 6]),
        ] {
            for (when, by_work) in CALENDARS.into_iter().zip(slots) {
                let found = of(5000, 5).slots_that_fit(&held(minutes * 60), calendar(when)).unwrap();
                // The table counts work alone (1). In 8 hours the round that does not fit any more (2) costs a slot.
                let rounds = u64::from(when.0 == 8);
                assert!((by_work..=by_work + rounds).contains(&found), "{minutes} min, {when:?}: {found}");
            }
        }
    }

    #[test]
    fn the_longest_holds_are_those_of_the_table_or_a_little_less_where_rounds_do_not_divide() {
        // Hundredths of a minute, by (1) alone. Rounds (2) may cost up to 3 % where a day has few of them.
        for (servers, slots, minutes) in [
            (5000, 5, [990, 846, 488, 417, 321, 273]),
            (5000, 2, [388, 331, 187, 159, 120, 101]),
            (2500, 8, [3196, 2740, 1590, 1360, 1060, 904]),
            (2500, 20, [8010, 6860, 4000, 3430, 2660, 2280]),
            (2500, 100, [40_100, 34_400, 20_000, 17_200, 13_400, 11_400]),
            (2500, 150, [60_200, 51_600, 30_100, 25_800, 20_000, 17_200]),
        ] {
            for (when, wanted) in CALENDARS.into_iter().zip(minutes) {
                let found = of(servers, slots).hold_that_fits(&held(60), calendar(when)).unwrap() * 100 / 60;
                assert!(found <= wanted + wanted / 200 + 2, "{servers} {slots} {when:?}: {found} > {wanted}");
                // Longer holds have fewer rounds a window, and lose more to the one that does not fit.
                let lost = if wanted > 1000 { wanted / 3 } else { wanted / 25 + 2 };
                assert!(found + lost >= wanted, "{servers} {slots} {when:?}: {found} < {wanted}");
            }
        }
    }

    #[test]
    fn the_days_of_each_tier_are_those_of_the_table() {
        // Without failures, hand-over and rollback, as the table counts work.
        let bare = Assumptions { hand_over_s: 0, rollback_s: 0, failures_per_10000: 0, ..held(1200) };
        for (servers, slots, hours, hundredths) in [
            (5000, 5, 24, 1389),
            (5000, 5, 12, 2778),
            (5000, 5, 8, 4167),
            (5000, 2, 24, 3472),
            (2500, 100, 24, 35),
            (2500, 8, 24, 434),
            (2500, 20, 24, 174),
            (2500, 150, 24, 23),
        ] {
            let calendar = calendar((hours, 7));
            let finish_s = of(servers, slots).finish_s(&bare, calendar).unwrap();
            // The table counts days of windows; a campaign ends inside its last window.
            let windows = finish_s / Calendar::DAY_S * calendar.daily_s + finish_s % Calendar::DAY_S;
            let found = windows * 100 / calendar.daily_s;
            assert!(
                found.abs_diff(hundredths) <= 1 + hundredths / 200,
                "{servers}/{slots}: {found} {hundredths}"
            );
        }
    }

    #[test]
    fn a_group_taken_one_by_one_has_room_for_as_many_members_as_worked_out_by_hand() {
        for (hours, minutes, soak, members) in
            [(4, 8, 0, 28), (4, 8, 10, 12), (2, 8, 0, 13), (2, 8, 10, 6), (4, 20, 0, 11), (4, 20, 10, 7)]
        {
            let window = Calendar { window_s: hours * HOUR_S, daily_s: Calendar::DAY_S };
            let group = |servers| Demand { servers, slots: 1, soak_s: soak * 60, paused_s: 0 };
            assert!(group(members).fits(&held(minutes * 60), window), "{hours} h, {minutes} min, {soak} min");
            assert!(
                !group(members + 1).fits(&held(minutes * 60), window),
                "{hours} h, {minutes} min, {soak} min"
            );
            assert_eq!(group(members + 9).done(&held(minutes * 60), window), members);
        }
    }

    #[test]
    fn pauses_for_triage_shorten_the_longest_hold() {
        // 25 failures of 2 hours each leave 118 of 168 hours: 6.9 minutes.
        let demand = Demand { paused_s: 25 * 2 * HOUR_S, ..of(5000, 5) };
        assert_eq!(demand.hold_that_fits(&held(60), calendar((24, 7))).unwrap() * 10 / 60, 69);
    }

    #[test]
    fn whatever_is_proposed_fits_and_one_step_more_does_not() {
        for (servers, slots, hold_s, when) in [
            (5000, 5, 1200, (24, 7)),
            (5000, 5, 1200, (12, 7)),
            (12, 1, 1200, (24, 1)),
            (700, 3, 4000, (8, 6)),
            (1, 1, 90_000, (24, 1)),
        ] {
            let (demand, assumed, calendar) = (of(servers, slots), held(hold_s), calendar(when));
            if let Some(hold_s) = demand.hold_that_fits(&assumed, calendar) {
                assert!(demand.fits(&Assumptions { hold_s, ..assumed }, calendar));
                assert!(!demand.fits(&Assumptions { hold_s: hold_s + 1, ..assumed }, calendar));
            }
            if let Some(slots) = demand.slots_that_fit(&assumed, calendar) {
                assert!(Demand { slots, ..demand }.fits(&assumed, calendar));
                assert!(!Demand { slots: slots - 1, ..demand }.fits(&assumed, calendar));
            }
            if let Some(window_s) = demand.finish_s(&assumed, calendar) {
                assert!(demand.fits(&assumed, Calendar { window_s, ..calendar }), "{servers} {when:?}");
            }
            let servers = demand.done(&assumed, calendar);
            assert!(Demand { servers, ..demand }.fits(&assumed, calendar));
        }
    }

    #[test]
    fn windows_on_the_same_hours_of_each_day_come_to_the_same() {
        for (servers, slots, hold_s, (hours, days)) in
            [(5000, 21, 1200, (12, 7)), (5000, 5, 300, (8, 6)), (28, 1, 480, (4, 1)), (7, 3, 4000, (1, 7))]
        {
            let (demand, assumed, daily) = (of(servers, slots), held(hold_s), calendar((hours, days)));
            // Far enough for whatever takes longer.
            let span =
                |day| Span { from_s: day * Calendar::DAY_S, until_s: day * Calendar::DAY_S + hours * HOUR_S };
            let spans: Vec<Span> = (0..400).map(span).collect();
            let windows = Hours::in_windows(daily.window_s, &spans);
            assert_eq!(demand.fits(&assumed, windows), demand.fits(&assumed, daily), "{servers}");
            assert_eq!(demand.done(&assumed, windows), demand.done(&assumed, daily));
            assert_eq!(demand.slots_that_fit(&assumed, windows), demand.slots_that_fit(&assumed, daily));
            assert_eq!(demand.hold_that_fits(&assumed, windows), demand.hold_that_fits(&assumed, daily));
            assert_eq!(demand.finish_s(&assumed, windows), demand.finish_s(&assumed, daily));
        }
        let none = Hours::in_windows(Calendar::DAY_S, &[]);
        assert_eq!((of(1, 1).finish_s(&held(60), none), of(1, 1).done(&held(60), none)), (None, 0));
    }

    #[test]
    fn no_number_is_large_enough_to_wrap() {
        let huge = Assumptions {
            hold_s: u64::MAX,
            hand_over_s: u64::MAX,
            rollback_s: u64::MAX,
            failures_per_10000: 10_000,
            group_soak_s: 0,
            triage_s: 0,
        };
        let demand = Demand { servers: 65_536, slots: 1, soak_s: u64::MAX, paused_s: u64::MAX };
        let calendar = Calendar { window_s: u64::MAX / 2, daily_s: 1 };
        assert!(!demand.fits(&huge, calendar));
        assert_eq!(demand.slots_that_fit(&huge, calendar), None);
        assert_eq!(demand.finish_s(&huge, calendar), None);
    }
}
