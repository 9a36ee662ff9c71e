//! What makes a plan's windows impossible, or certainly not what was meant.
//!
//! Owns `Plan::check_windows`. Main invariant: whatever it looks ahead for, it looks for a bounded time ahead, and
//! only in windows that are long enough to be few. Each problem names its window.

use std::collections::BTreeSet;

use super::{Cron, Mode, TierWindow, Weekly, Windows};
use crate::bounds::{WINDOW_OPEN_S_MAX, WINDOWS_PER_PLAN_MAX};
use crate::document::{Problem, nearest};
use crate::ids::WindowName;
use crate::limits::Tier;
use crate::plan::Plan;
use crate::time::WallTime;
use crate::window::{OpenTimes, STRETCH_S_MAX, Stretch};

/// How far ahead windows are compared with one another, in seconds: a year, with both changes of the clocks.
const COMPARED_S: i64 = 366 * 86_400;

/// How many times a window's opening is looked at for that: twice a day for a year, so that no plan costs much to
/// read.
const COMPARED_MAX: usize = 2 * 366;

/// One window of either kind.
struct Named<'a> {
    at: String,
    name: &'a WindowName,
    /// Seconds for which it is open at a time, on a day on which no clock is changed.
    open_s: u64,
    times: OpenTimes,
}

impl Plan {
    /// Everything wrong with the windows that can be told from the plan alone.
    pub(in crate::plan) fn check_windows(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let Some(windows) = &self.windows else {
            for (place, _) in self.stages.iter().enumerate().filter(|(_, stage)| !stage.windows.is_empty()) {
                let at = format!("stages[{place}].windows");
                problems.push(Problem::new(at, "are named, and the plan has none: add them under [windows]"));
            }
            return problems;
        };
        let count = windows.weekly.len() + windows.cron.len();
        if count == 0 {
            problems
                .push(Problem::new("windows", "names none: add one as [[windows.weekly]], or leave it out"));
        }
        if count > WINDOWS_PER_PLAN_MAX {
            let problem = format!("has {count} windows; at most {WINDOWS_PER_PLAN_MAX}");
            problems.push(Problem::new("windows", problem));
            return problems;
        }
        let all = named(windows, &mut problems);
        self.check_users(windows, &all, &mut problems);
        // What lies ahead is looked at only in windows that are well formed.
        if problems.is_empty() && self.expires > self.issued {
            for window in &all {
                self.check_ahead(window, &mut problems);
            }
        }
        if problems.is_empty() {
            for tier in Tier::ALL {
                self.check_together(windows, tier, &all, &mut problems);
            }
            for (place, stage) in self.stages.iter().enumerate() {
                let times = OpenTimes::of_names(windows, &stage.windows);
                if times.is_some_and(|times| self.is_never_closed(&times)) {
                    let at = format!("stages[{place}].windows");
                    problems.push(Problem::new(at, "are never closed: leave them out, or leave time between them"));
                }
            }
        }
        problems
    }

    /// Names of windows, where they are used: each is there and named once, and each window is used.
    fn check_users(&self, windows: &Windows, all: &[Named<'_>], problems: &mut Vec<Problem>) {
        let mut used = check_tiers(windows, all, problems);
        for (place, stage) in self.stages.iter().enumerate() {
            check_names(format!("stages[{place}].windows"), &stage.windows, all, problems);
            used.extend(&stage.windows);
        }
        for window in all.iter().filter(|window| !used.contains(window.name)) {
            let problem = format!(
                "{} is used by no tier and no stage: name it in windows.tier or in a stage's windows, or leave it out",
                window.name
            );
            problems.push(Problem::new(&window.at, problem));
        }
    }

    /// Whether these windows, looked at together, never leave a server up by themselves.
    fn is_never_closed(&self, together: &OpenTimes) -> bool {
        let first = together.next(self.issued, self.compared_until());
        first.is_some_and(|stretch| stretch.length_s() > STRETCH_S_MAX.unsigned_abs())
    }

    fn compared_until(&self) -> WallTime {
        self.expires.min(WallTime(self.issued.0.saturating_add(COMPARED_S)))
    }

    /// A window by itself: long enough, opening in time, closing before it opens again.
    fn check_ahead(&self, window: &Named<'_>, problems: &mut Vec<Problem>) {
        let Named { at, name, open_s, times } = window;
        let needed_s = self.start_needs_s();
        if *open_s < needed_s {
            let (within, hold, rollback) = (self.lease.start_within_s, self.hold_s(), super::ROLLBACK_S);
            problems.push(Problem::new(
                at,
                format!(
                    "{name} is open for {open_s} s at a time; a start needs {needed_s} s: lease.start_within_s \
                     ({within} s), the time down ({hold} s) and a rollback ({rollback} s)"
                ),
            ));
            return;
        }
        if times.next_for(self.issued, needed_s, self.expires).is_none() {
            let problem =
                format!("{name} never opens between issued ({}) and expires ({})", self.issued, self.expires);
            problems.push(Problem::new(at, problem));
            return;
        }
        let mut before: Option<WallTime> = None;
        for opening in times.each(self.issued).take(COMPARED_MAX) {
            if let Some(closes) = before.filter(|closes| opening.opens < *closes) {
                problems.push(Problem::new(
                    at,
                    format!(
                        "{name} opens again at {}, before it closes at {closes}: it would overlap itself",
                        opening.opens
                    ),
                ));
                return;
            }
            before = Some(opening.closes);
        }
    }

    /// The windows of one tier together: each adds something, and all of them leave something closed.
    fn check_together(&self, windows: &Windows, tier: Tier, all: &[Named<'_>], problems: &mut Vec<Problem>) {
        let Some(together) = OpenTimes::of_tier(windows, tier) else { return };
        let until = self.compared_until();
        if self.is_never_closed(&together) {
            problems.push(Problem::new(
                format!("windows.tier.{tier}"),
                "its windows are never closed: write mode = \"any\", or leave time between them",
            ));
            return;
        }
        let mine: Vec<(&Named<'_>, Vec<Stretch>)> = all
            .iter()
            .filter(|window| windows.tier.of(tier).windows.contains(window.name))
            .map(|window| (window, window.times.between(self.issued, until).take(COMPARED_MAX).collect()))
            .collect();
        for (index, (window, stretches)) in mine.iter().enumerate() {
            let covered_by = mine.iter().enumerate().find(|(other, (_, wider))| {
                // Of two that are the same, the second adds nothing.
                *other != index && (stretches != wider || index > *other) && is_within(stretches, wider)
            });
            if let Some((_, (by, _))) = covered_by {
                problems.push(Problem::new(
                    &window.at,
                    format!(
                        "{} adds nothing to tier {tier}: {} is open whenever it is",
                        window.name, by.name
                    ),
                ));
            }
        }
    }
}

/// Whether whatever is open of one window is open of another, as far as both were looked at.
fn is_within(stretches: &[Stretch], wider: &[Stretch]) -> bool {
    let mut wider = wider.iter().peekable();
    stretches.len() < COMPARED_MAX
        && stretches.iter().all(|stretch| {
            while wider.next_if(|wide| wide.closes < stretch.closes).is_some() {}
            wider.peek().is_some_and(|wide| wide.opens <= stretch.opens && stretch.closes <= wide.closes)
        })
}

/// Every window with what can be told without looking ahead.
fn named<'a>(windows: &'a Windows, problems: &mut Vec<Problem>) -> Vec<Named<'a>> {
    let mut all = Vec::new();
    for (index, window) in windows.weekly.iter().enumerate() {
        let at = format!("windows.weekly[{index}]");
        let Weekly { name, days, from, until } = window;
        let distinct: BTreeSet<_> = days.iter().collect();
        if days.is_empty() {
            problems.push(Problem::new(format!("{at}.days"), "is empty: it would never open"));
        } else if distinct.len() != days.len() {
            problems.push(Problem::new(format!("{at}.days"), "lists a day twice"));
        }
        let minutes = (24 * 60 + until.minutes() - from.minutes() - 1) % (24 * 60) + 1;
        let times = OpenTimes::of_weekly(windows, window);
        all.push(Named { at, name, open_s: u64::from(minutes) * 60, times });
    }
    for (index, window) in windows.cron.iter().enumerate() {
        let at = format!("windows.cron[{index}]");
        let Cron { name, opens: _, open_s } = window;
        if !(1..=WINDOW_OPEN_S_MAX).contains(open_s) {
            let problem = format!("{open_s} s is out of range: write 1 to {WINDOW_OPEN_S_MAX}");
            problems.push(Problem::new(format!("{at}.open_s"), problem));
        }
        let times = OpenTimes::of_cron(windows, window);
        all.push(Named { at, name, open_s: u64::from(*open_s), times });
    }
    let mut names = BTreeSet::new();
    for window in &all {
        if !names.insert(window.name) {
            problems
                .push(Problem::new(format!("{}.name", window.at), format!("{} is used twice", window.name)));
        }
    }
    all
}

/// Checks what the tiers are held to; the windows that they use.
fn check_tiers<'a>(
    windows: &'a Windows,
    all: &[Named<'_>],
    problems: &mut Vec<Problem>,
) -> BTreeSet<&'a WindowName> {
    let mut used = BTreeSet::new();
    for tier in Tier::ALL {
        let at = format!("windows.tier.{tier}");
        let TierWindow { mode, windows: names } = windows.tier.of(tier);
        match (mode, names.is_empty()) {
            (Mode::Any, false) => problems.push(Problem::new(
                format!("{at}.windows"),
                "are not looked at with mode = \"any\": write \"strict\" or \"preferred\", or leave them out",
            )),
            (Mode::Strict | Mode::Preferred, true) => {
                problems
                    .push(Problem::new(&at, format!("is {mode} and names no window: it would never open")));
            }
            (Mode::Any, true) | (Mode::Strict | Mode::Preferred, false) => {}
        }
        check_names(format!("{at}.windows"), names, all, problems);
        used.extend(names);
    }
    used
}

fn check_names(at: String, names: &[WindowName], all: &[Named<'_>], problems: &mut Vec<Problem>) {
    let mut listed = BTreeSet::new();
    for name in names {
        if !listed.insert(name) {
            problems.push(Problem::new(&at, format!("lists {name} twice")));
        }
        if !all.iter().any(|window| window.name == name) {
            let known = all.iter().map(|window| window.name.as_str());
            let problem = match nearest(name.as_str(), known) {
                Some(meant) => format!("no window is called {name}; did you mean {meant}?"),
                None => format!("no window is called {name}"),
            };
            problems.push(Problem::new(&at, problem));
        }
    }
}
