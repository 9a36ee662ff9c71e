//! When each tier may go down, as far as the arithmetic must know.
//!
//! Owns [`Openings`]: the stretches of a plan's windows, counted from the assumed start. Main invariant: a limit is
//! never given fewer hours than the servers that it counts may use, so that nothing is refused that could be done: a
//! tier that only prefers its windows has every hour, and servers of several tiers have the hours of all of these.

use std::collections::{BTreeMap, BTreeSet};

use lunar_common::ids::WindowName;
use lunar_common::limits::Tier;
use lunar_common::plan::Plan;
use lunar_common::plan::windows::Mode;
use lunar_common::time::WallTime;
use lunar_common::window::{OpenTimes, Stretch};
use serde::Serialize;

use super::arithmetic::{Calendar, Hours, STRETCHES_MAX, Span};

/// How far beyond its deadline a campaign is followed to its end, in seconds: two years.
const BEYOND_S: i64 = 2 * 366 * 86_400;

/// Over how many seconds the hours of a week are averaged: four weeks, for windows that open on some weeks only.
const AVERAGED_S: i64 = 28 * 86_400;

/// The windows that a tier is held to, in hours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TierHours {
    /// Which tier.
    pub tier: Tier,
    /// How strictly.
    pub mode: Mode,
    /// Its windows.
    pub windows: Vec<WindowName>,
    /// Seconds of a week in which one of them is open, averaged over the four weeks from the start.
    pub open_s_a_week: u64,
    /// Of those, seconds in which a server may start.
    pub start_s_a_week: u64,
    /// Seconds in which one of them is open until the plan expires.
    pub open_s: u64,
    /// When the first start is possible; `None`: not before the plan expires.
    pub opens: Option<WallTime>,
    /// Whether all its servers are done inside them in time.
    pub fits_inside: bool,
}

/// The windows of a plan from a start on.
#[derive(Debug)]
pub(super) struct Openings {
    calendar: Calendar,
    tiers: BTreeMap<Tier, Vec<Span>>,
    /// For each set of tiers that are all strict, the time that any of them has.
    strict: BTreeMap<BTreeSet<Tier>, Vec<Span>>,
    /// The stages that are held to windows, by place.
    stages: BTreeMap<usize, Vec<Span>>,
    /// The stage's, where it is one stage that is looked at.
    stage: Option<Vec<Span>>,
    /// What is told of each tier, but for whether it fits.
    told: Vec<TierHours>,
}

impl Openings {
    pub(super) fn of(plan: &Plan, calendar: Calendar, start: WallTime) -> Self {
        let mut openings = Self {
            calendar,
            tiers: BTreeMap::new(),
            strict: BTreeMap::new(),
            stages: BTreeMap::new(),
            stage: None,
            told: Vec::new(),
        };
        let Some(windows) = &plan.windows else { return openings };
        let until = WallTime(plan.expires.0.max(start.0).saturating_add(BEYOND_S));
        let spans = |times: &OpenTimes| Span::all_of(times, start, until, plan.lease.start_within_s.into());
        let held = Tier::ALL.into_iter().filter_map(|tier| Some((tier, OpenTimes::of_tier(windows, tier)?)));
        for (tier, times) in held {
            openings.tiers.insert(tier, spans(&times));
            openings.told.push(told(plan, tier, &times, start));
        }
        for (at, stage) in plan.stages.iter().enumerate() {
            if let Some(times) = OpenTimes::of_names(windows, &stage.windows) {
                openings.stages.insert(at, spans(&times));
            }
        }
        let strict: BTreeSet<Tier> = openings
            .tiers
            .keys()
            .copied()
            .filter(|tier| windows.tier.of(*tier).mode == Mode::Strict)
            .collect();
        for one in &strict {
            for two in &strict {
                for three in &strict {
                    let tiers = BTreeSet::from([*one, *two, *three]);
                    let spans = tiers.iter().filter_map(|tier| openings.tiers.get(tier)).flatten().copied();
                    let merged = merged(spans.collect());
                    openings.strict.insert(tiers, merged);
                }
            }
        }
        openings
    }

    /// What is left of them for a stage that begins so many seconds after the start, counted from then on.
    pub(super) fn of_stage(&self, at: usize, begins_s: u64) -> Self {
        let from = |spans: &Vec<Span>| -> Vec<Span> {
            let ahead = spans.iter().filter(|span| span.until_s > begins_s);
            ahead
                .map(|span| Span {
                    from_s: span.from_s.saturating_sub(begins_s),
                    until_s: span.until_s - begins_s,
                })
                .collect()
        };
        let stage = self.stages.get(&at).map(from);
        let strict = self.strict.iter().map(|(tiers, spans)| {
            let spans = from(spans);
            let both = stage.as_ref().map_or(spans.clone(), |stage| common(&spans, stage));
            (tiers.clone(), both)
        });
        Self {
            calendar: self.calendar,
            tiers: BTreeMap::new(),
            strict: strict.collect(),
            stages: BTreeMap::new(),
            stage,
            told: Vec::new(),
        }
    }

    /// When servers of these tiers may go down.
    pub(super) fn hours(&self, tiers: &BTreeSet<Tier>) -> Hours<'_> {
        match self.strict.get(tiers).or(self.stage.as_ref()) {
            Some(spans) => Hours::in_windows(self.calendar.window_s, spans),
            None => Hours::Daily(self.calendar),
        }
    }

    /// The hours of each tier that is held to windows. `fits`: whether its servers are done in these hours.
    pub(super) fn told(&self, fits: impl Fn(Tier, Hours<'_>) -> bool) -> Vec<TierHours> {
        let hours = |tier: &Tier| {
            Hours::in_windows(self.calendar.window_s, self.tiers.get(tier).map_or(&[][..], Vec::as_slice))
        };
        let tell =
            |told: &TierHours| TierHours { fits_inside: fits(told.tier, hours(&told.tier)), ..told.clone() };
        self.told.iter().map(tell).collect()
    }
}

fn told(plan: &Plan, tier: Tier, times: &OpenTimes, start: WallTime) -> TierHours {
    let held = plan.windows.as_ref().map(|windows| windows.tier.of(tier).clone()).unwrap_or_default();
    let needs_s = plan.start_needs_s();
    let within = |until: WallTime, take: &dyn Fn(Stretch) -> u64| -> u64 {
        let stretches = times.between(start, until).take(STRETCHES_MAX);
        stretches.map(|s| take(Stretch { opens: s.opens.max(start), closes: s.closes.min(until) })).sum()
    };
    let four_weeks = WallTime(start.0.saturating_add(AVERAGED_S));
    TierHours {
        tier,
        mode: held.mode,
        windows: held.windows,
        open_s_a_week: within(four_weeks, &|stretch| stretch.length_s()) / 4,
        start_s_a_week: within(four_weeks, &|stretch| stretch.length_s().saturating_sub(needs_s)) / 4,
        open_s: within(plan.expires, &|stretch| stretch.length_s()),
        opens: times.next_for(start, needs_s, plan.expires).map(|stretch| stretch.opens.max(start)),
        fits_inside: false,
    }
}

/// Spans of several windows as one list without overlaps.
fn merged(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    let mut all: Vec<Span> = Vec::new();
    for span in spans {
        match all.last_mut() {
            Some(last) if span.from_s <= last.until_s => last.until_s = last.until_s.max(span.until_s),
            Some(_) | None => all.push(span),
        }
    }
    all
}

/// The time that is in both of two lists, each in order and without overlaps.
fn common(one: &[Span], other: &[Span]) -> Vec<Span> {
    let mut both = Vec::new();
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    while let (Some(left), Some(right)) = (one.peek(), other.peek()) {
        let span = Span { from_s: left.from_s.max(right.from_s), until_s: left.until_s.min(right.until_s) };
        if span.from_s < span.until_s {
            both.push(span);
        }
        if left.until_s <= right.until_s {
            one.next()
        } else {
            other.next()
        };
    }
    both
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_lists_have_in_common_is_in_both() {
        let spans = |list: &[(u64, u64)]| -> Vec<Span> {
            list.iter().map(|(from_s, until_s)| Span { from_s: *from_s, until_s: *until_s }).collect()
        };
        let (nights, hours) = (spans(&[(0, 10), (20, 30), (40, 50)]), spans(&[(5, 22), (25, 27), (30, 40)]));
        assert_eq!(common(&nights, &hours), spans(&[(5, 10), (20, 22), (25, 27)]));
        assert_eq!(common(&hours, &nights), common(&nights, &hours));
        assert_eq!(common(&nights, &[]), []);
    }
}
