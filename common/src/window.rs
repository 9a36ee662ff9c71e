//! When a maintenance window is open: from what people wrote to seconds that can be counted.
//!
//! Owns [`OpenTimes`]. Main invariant: a time of day means the first instant at which the zone's clock shows that
//! time or a later one, for opening and for closing alike. So where clocks are set forward, a time that is left out
//! comes when they are; where they are set back, a time that is shown twice comes the first time, and a window that
//! is open then stays open through the repeated hour. Refuses to read a zone's rules from the machine: they are in
//! the program, so that two machines with the same program never disagree. Refuses to search without end.

pub mod cron;

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Span, Timestamp};

use crate::ids::WindowName;
use crate::limits::Tier;
use crate::plan::windows::{Cron, Weekly, Windows};
use crate::time::WallTime;
use cron::CronPattern;

/// How far ahead an opening is looked for, in days: leap days are eight years apart at most.
const SEARCH_DAYS_MAX: u32 = 9 * 366;

/// Where one stretch of open time is cut, in seconds: windows that follow each other without a gap may never end.
pub(crate) const STRETCH_S_MAX: i64 = 31 * 86_400;

const DAY_S: i64 = 86_400;
const MINUTES_A_DAY: u16 = 24 * 60;

/// Time without a gap in which servers may go down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stretch {
    /// Its first second.
    pub opens: WallTime,
    /// The first second that is not in it any more.
    pub closes: WallTime,
}

impl Stretch {
    /// Seconds from its opening to its end.
    #[must_use]
    pub fn length_s(&self) -> u64 {
        u64::try_from(self.closes.0.saturating_sub(self.opens.0)).unwrap_or(0)
    }
}

/// Windows, ready to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTimes {
    zone: TimeZone,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    /// Bit 0 of `days`: Monday. `until` at or before `from`: on the day after.
    Weekly {
        days: u8,
        from: u16,
        until: u16,
    },
    Cron {
        pattern: CronPattern,
        open_s: u32,
    },
}

impl OpenTimes {
    /// The windows that a tier is held to, `None` if it is held to none: it may go down at any time.
    #[must_use]
    pub fn of_tier(windows: &Windows, tier: Tier) -> Option<Self> {
        Self::of_names(windows, &windows.tier.of(tier).windows)
    }

    /// The windows with these names, `None` if there are none.
    #[must_use]
    pub fn of_names(windows: &Windows, names: &[WindowName]) -> Option<Self> {
        let weekly = windows.weekly.iter().filter(|window| names.contains(&window.name));
        let cron = windows.cron.iter().filter(|window| names.contains(&window.name));
        let rules: Vec<Rule> = weekly.map(Rule::from).chain(cron.map(Rule::from)).collect();
        (!rules.is_empty()).then(|| Self { zone: windows.zone.zone(), rules })
    }

    pub(crate) fn of_weekly(windows: &Windows, window: &Weekly) -> Self {
        Self { zone: windows.zone.zone(), rules: vec![Rule::from(window)] }
    }

    pub(crate) fn of_cron(windows: &Windows, window: &Cron) -> Self {
        Self { zone: windows.zone.zone(), rules: vec![Rule::from(window)] }
    }

    /// The first stretch that closes after `at` and opens before `before`. One that is cut because it is longer than
    /// a month goes on where it ends.
    #[must_use]
    pub fn next(&self, at: WallTime, before: WallTime) -> Option<Stretch> {
        self.between(at, before).next()
    }

    /// The first stretch in which something that takes `needed_s` can begin at `at` or later, and before `before`:
    /// it can begin from its opening until `needed_s` before its end.
    #[must_use]
    pub fn next_for(&self, at: WallTime, needed_s: u64, before: WallTime) -> Option<Stretch> {
        let needed_s = i64::try_from(needed_s).unwrap_or(i64::MAX);
        let left_s = |stretch: &Stretch| stretch.closes.0.saturating_sub(stretch.opens.0.max(at.0));
        self.between(at, before).find(|stretch| left_s(stretch) >= needed_s)
    }

    /// Every stretch that closes after `from` and opens before `before`, in order, for nine years at most.
    pub fn between(&self, from: WallTime, before: WallTime) -> impl Iterator<Item = Stretch> + '_ {
        let mut openings = self.each(from).peekable();
        let merged = std::iter::from_fn(move || {
            let mut stretch = openings.next()?;
            while let Some(more) = openings.next_if(|next| {
                next.opens <= stretch.closes
                    && stretch.closes.0 - stretch.opens.0.max(from.0) <= STRETCH_S_MAX
            }) {
                stretch.closes = stretch.closes.max(more.closes);
            }
            Some(stretch)
        });
        merged.take_while(move |stretch| stretch.opens < before)
    }

    /// Openings that close after `from`, one by one as they are written, whether they touch or overlap or not.
    pub(crate) fn each(&self, from: WallTime) -> impl Iterator<Item = Stretch> + '_ {
        self.days_from(from).flat_map(|day| self.openings(day)).filter(move |opening| opening.closes > from)
    }

    /// Days from the first one whose openings may still be open at a time.
    fn days_from(&self, at: WallTime) -> impl Iterator<Item = Date> + use<> {
        let longest = self.rules.iter().map(|rule| match rule {
            Rule::Weekly { .. } => 2,
            Rule::Cron { open_s, .. } => i64::from(*open_s) / DAY_S + 2,
        });
        let back = longest.max().unwrap_or(0);
        let today = self.zone.to_datetime(timestamp(at)).date();
        let first = today.checked_sub(Span::new().days(back)).unwrap_or(Date::MIN);
        let mut next = Some(first);
        let days = SEARCH_DAYS_MAX + u32::try_from(back).unwrap_or(0);
        std::iter::from_fn(move || {
            let day = next?;
            next = day.tomorrow().ok();
            Some(day)
        })
        .take(days as usize)
    }

    /// What opens on a day, in order. What never opens because clocks leave its time out is not among it.
    fn openings(&self, day: Date) -> Vec<Stretch> {
        let mut openings = Vec::new();
        for rule in &self.rules {
            match rule {
                Rule::Weekly { days, from, until } => {
                    if days & (1 << day.weekday().to_monday_zero_offset()) == 0 {
                        continue;
                    }
                    let last = if until > from { Some(day) } else { day.tomorrow().ok() };
                    let Some(last) = last else { continue };
                    let opens = self.instant(at_minute(day, *from));
                    openings.push(Stretch { opens, closes: self.instant(at_minute(last, *until)) });
                }
                Rule::Cron { pattern, open_s } => {
                    for minute in pattern.minutes_of(day) {
                        let opens = self.instant(at_minute(day, minute));
                        openings.push(Stretch { opens, closes: WallTime(opens.0 + i64::from(*open_s)) });
                    }
                }
            }
        }
        openings.retain(|opening| opening.closes > opening.opens);
        openings.sort_unstable();
        openings
    }

    /// The first instant at which the zone's clock shows this time or a later one.
    fn instant(&self, shown: DateTime) -> WallTime {
        let first = match self.zone.to_ambiguous_timestamp(shown).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(shown),
            AmbiguousOffset::Fold { before, after: _ } => before.to_timestamp(shown),
            AmbiguousOffset::Gap { before, after } => {
                // By the old offset this lies at or after the change; the change is the last one up to then.
                let by_old = before.to_timestamp(shown);
                let change = by_old.as_ref().ok().and_then(|by_old| {
                    let just_after = Timestamp::from_second(by_old.as_second().saturating_add(1)).ok()?;
                    Some(self.zone.preceding(just_after).next()?.timestamp())
                });
                change.map_or_else(|| after.to_timestamp(shown), Ok)
            }
        };
        // Beyond the calendar there is no time: what would open there never does.
        WallTime(first.map_or(i64::MAX / 4, |first| first.as_second()))
    }
}

impl From<&Weekly> for Rule {
    fn from(window: &Weekly) -> Self {
        let days = window.days.iter().fold(0, |days, day| days | 1 << day.number());
        Self::Weekly { days, from: window.from.minutes(), until: window.until.minutes() }
    }
}

impl From<&Cron> for Rule {
    fn from(window: &Cron) -> Self {
        Self::Cron { pattern: window.opens.clone(), open_s: window.open_s }
    }
}

fn at_minute(day: Date, minute: u16) -> DateTime {
    let minute = minute % MINUTES_A_DAY;
    let part = |value: u16| i8::try_from(value).expect("hours and minutes are below 60");
    day.at(part(minute / 60), part(minute % 60), 0, 0)
}

fn timestamp(at: WallTime) -> Timestamp {
    let (least, most) = (Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
    // A day's room on both sides, so that no zone's offset leads beyond the calendar.
    Timestamp::from_second(at.0.clamp(least + DAY_S, most - DAY_S)).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
