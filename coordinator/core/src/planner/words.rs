//! An assessment as an operator reads it.
//!
//! Owns the words. Main invariant: figures that promise something are rounded to the side that promises less, and
//! every way out is written as the key and value that take it.

use std::fmt;

use lunar_common::ids::WindowName;
use lunar_common::lease::LimitScope;
use lunar_common::plan::windows::Mode;
use lunar_common::time::WallTime;

use super::{Assessment, Calendar, HeldBy, Share, Short, TierHours};

/// The key in the plan that sets a limit.
pub(super) fn key(scope: &LimitScope) -> String {
    match scope {
        LimitScope::Fleet => "limits.fleet".to_owned(),
        LimitScope::Tier(tier) => format!("limits.tier.{tier}"),
        LimitScope::Site(site) => format!("limits.site.only.{site}"),
        LimitScope::Cluster(cluster) => format!("limits.cluster.only.{cluster}"),
        LimitScope::Group(_) => "limits.group".to_owned(),
    }
}

impl fmt::Display for HeldBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fleet => "limits.fleet",
            Self::Tiers => "the tiers' limits",
            Self::Sites => "the sites' limits",
            Self::Clusters => "the clusters' limits",
            Self::Groups => "the redundancy groups",
        })
    }
}

impl fmt::Display for Assessment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, expires, servers, assumed, .. } = self;
        if self.feasible {
            let finish = self.finish_s.map_or_else(String::new, duration_up);
            writeln!(
                f,
                "FEASIBLE: {}, at best all done after {finish} of {}.",
                counted(*servers),
                self.window()
            )?;
        } else {
            writeln!(f, "INFEASIBLE: {} cannot all be done in {}.", counted(*servers), self.window())?;
        }
        writeln!(f, "  from {start} to {expires}")?;
        writeln!(
            f,
            "  assumed: {} down each, {} between two in a slot, {} for a rollback, {} % fail once and are tried again",
            duration(assumed.hold_s),
            duration(assumed.hand_over_s),
            duration(assumed.rollback_s),
            hundredths(assumed.failures_per_10000),
        )?;
        for held in &self.windows {
            writeln!(f, "  {}", window_row(held))?;
        }
        for share in &self.rows {
            writeln!(f, "  {}", self.row(share))?;
        }
        self.write_stages(f)?;
        if self.feasible {
            writeln!(f, "  binding: {}", named(&self.binding))?;
        }
        for short in &self.short {
            self.write_short(short, f)?;
        }
        if self.failures > 0 {
            write!(
                f,
                "  risk: at {} % expect {} to fail",
                hundredths(assumed.failures_per_10000),
                self.failures
            )?;
            match assumed.triage_s {
                0 => writeln!(
                    f,
                    "; each that stops its tier until a person has looked adds that time (--triage)"
                )?,
                triage_s => writeln!(f, "; those of tier 1 stop it for {} each", duration(triage_s))?,
            }
        }
        for contradiction in &self.contradictions {
            writeln!(f, "  note: {contradiction}")?;
        }
        Ok(())
    }
}

impl Assessment {
    fn window(&self) -> String {
        let Calendar { window_s, daily_s } = self.calendar;
        let daily = if daily_s < Calendar::DAY_S {
            format!(" with {} a day", duration(daily_s))
        } else {
            String::new()
        };
        format!("{}{daily}", duration(window_s))
    }

    fn row(&self, share: &Share) -> String {
        let Share { scope, servers, limit, slots, done, .. } = share;
        let held = match share.held_by {
            Some(by) => format!(" (only {slots} can be: {by})"),
            None => String::new(),
        };
        let finish = match share.finish_s {
            None if self.windows.is_empty() => "never done: a day's window is too short for one".to_owned(),
            None => "never done: its windows are too short or too few".to_owned(),
            Some(finish_s) if share.fits => format!("takes {}", duration_up(finish_s)),
            Some(finish_s) => format!("{done} done in time, all after {}", duration_up(finish_s)),
        };
        format!(
            "{scope}: {}, limit {limit}{held}: needs {} slot-hours, has {}; {finish}",
            counted(*servers),
            hours_up(share.needed_slot_s),
            hours_down(share.available_slot_s),
        )
    }

    fn write_stages(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for stage in &self.stages {
            let at = |seconds: Option<u64>| seconds.map_or_else(|| "never".to_owned(), duration_up);
            let windows = match stage.windows.as_slice() {
                [] => String::new(),
                names => format!(", only in {}", listed(names)),
            };
            let batches = match stage.batches {
                0 => String::new(),
                batches => format!(", in {batches} batches that people approve (their time is not counted)"),
            };
            writeln!(
                f,
                "  stage {}: {}{windows}{batches}; begins after {}, done after {}, passes after {}",
                stage.name,
                counted(stage.servers),
                at(stage.begins_s),
                at(stage.done_s),
                at(stage.passes_s),
            )?;
        }
        for stuck in &self.stuck {
            writeln!(f, "  never done: {stuck}")?;
        }
        if let Some(finish_s) = self.finish_s.filter(|finish_s| *finish_s > self.calendar.window_s)
            && !self.stages.is_empty()
        {
            writeln!(
                f,
                "  the stages, one after the other, take {}: shorten a `soak_s`, raise a `wave_max` or a limit, or let \
                 a stage go beside another with `after`",
                duration_up(finish_s)
            )?;
        }
        Ok(())
    }

    fn write_short(&self, short: &Short, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Short { share, hold_that_fits_s, limit_that_fits, limit_held_by, more } = short;
        let and_more = if *more > 0 { format!(" (and {more} more like it)") } else { String::new() };
        writeln!(f, "\n{} does not fit{and_more}:", named(&share.scope))?;
        writeln!(f, "  {}", self.row(share))?;
        writeln!(f, "  any one of these makes it fit:")?;
        if let Some(hold_s) = hold_that_fits_s {
            writeln!(f, "  - at most {} down each", exact(*hold_s))?;
        }
        if let Some(limit) = limit_that_fits {
            write!(f, "  - {} = {limit}", key(&share.scope))?;
            match limit_held_by {
                Some(by) => writeln!(f, ", if {by} are raised as well: they let fewer down")?,
                None => writeln!(f)?,
            }
        }
        if let Some(finish_s) = share.finish_s {
            let until = self.start.0.saturating_add(i64::try_from(finish_s).unwrap_or(i64::MAX));
            writeln!(f, "  - expires = \"{}\" ({} from the start)", WallTime(until), duration_up(finish_s))?;
        }
        if share.done > 0 {
            writeln!(f, "  - {} of these servers in this campaign: narrow `select`", share.done)?;
        }
        Ok(())
    }
}

/// The windows of a tier.
fn window_row(held: &TierHours) -> String {
    let TierHours { tier, mode, windows, open_s_a_week, start_s_a_week, open_s, opens, fits_inside } = held;
    let names = listed(windows);
    let opens = match opens {
        Some(opens) => format!("first start {opens}"),
        None => "no start before the plan expires".to_owned(),
    };
    let inside = match (mode, fits_inside) {
        (Mode::Preferred, true) => "; all fit inside",
        (Mode::Preferred, false) => "; not all fit inside",
        (Mode::Strict | Mode::Any, _) => "",
    };
    format!(
        "windows of tier {tier} ({mode}: {names}): open {} h a week, for starts {} h; {} h until the plan expires; \
         {opens}{inside}",
        hours_down(*open_s_a_week),
        hours_down(*start_s_a_week),
        hours_down(*open_s),
    )
}

fn listed(names: &[WindowName]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn counted(servers: u64) -> String {
    if servers == 1 { "1 server".to_owned() } else { format!("{servers} servers") }
}

fn named(scope: &LimitScope) -> String {
    match scope {
        LimitScope::Group(_) => format!("{scope} (one member at a time, or limits.group)"),
        LimitScope::Fleet | LimitScope::Tier(_) | LimitScope::Site(_) | LimitScope::Cluster(_) => {
            format!("{scope} ({})", key(scope))
        }
    }
}

fn hundredths(per_10000: u64) -> String {
    match (per_10000 / 100, per_10000 % 100) {
        (whole, 0) => whole.to_string(),
        (whole, rest) if rest.is_multiple_of(10) => format!("{whole}.{}", rest / 10),
        (whole, rest) => format!("{whole}.{rest:02}"),
    }
}

/// Slot-hours needed, rounded up.
fn hours_up(seconds: u64) -> String {
    decimal(seconds.div_ceil(360))
}

/// Slot-hours there are, rounded down.
fn hours_down(seconds: u64) -> String {
    decimal(seconds / 360)
}

fn decimal(tenths: u64) -> String {
    if tenths.is_multiple_of(10) {
        (tenths / 10).to_string()
    } else {
        format!("{}.{}", tenths / 10, tenths % 10)
    }
}

/// A duration in the largest unit that shows it, to nearest.
fn duration(seconds: u64) -> String {
    in_unit(seconds, |seconds, unit| (seconds * 10 + unit / 2) / unit)
}

/// The same, rounded up: for what takes at least as long.
fn duration_up(seconds: u64) -> String {
    in_unit(seconds, |seconds, unit| (seconds * 10).div_ceil(unit))
}

fn in_unit(seconds: u64, tenths: impl Fn(u64, u64) -> u64) -> String {
    let (unit, name) = match seconds {
        0..120 => return format!("{seconds} s"),
        120..7_200 => (60, "min"),
        7_200..172_800 => (3_600, "h"),
        172_800.. => (86_400, "days"),
    };
    format!("{} {name}", decimal(tenths(seconds.min(u64::MAX / 16), unit)))
}

/// To the second: for a bound that people will set.
fn exact(seconds: u64) -> String {
    match (seconds / 60, seconds % 60) {
        (0, rest) => format!("{rest} s"),
        (minutes, 0) if minutes < 120 => format!("{minutes} min"),
        (minutes, rest) if minutes < 120 => format!("{minutes} min {rest} s"),
        (minutes, _) => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_say_them() {
        assert_eq!(
            [90, 594, 1200, 7_200, 604_800, 1_214_025].map(duration),
            ["90 s", "9.9 min", "20 min", "2 h", "7 days", "14.1 days"]
        );
        assert_eq!([593, 600, 45, 25_215].map(exact), ["9 min 53 s", "10 min", "45 s", "7 h 0 min"]);
        assert_eq!(duration_up(1_211_000), "14.1 days");
        assert_eq!([50, 100, 125, 5].map(hundredths), ["0.5", "1", "1.25", "0.05"]);
    }
}
