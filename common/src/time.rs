//! Two kinds of time that must never be mixed.
//!
//! Owns [`Moment`] (one machine's CLOCK_BOOTTIME, for durations) and [`WallTime`] (what a clock on the wall
//! says, for expiry and for people). Main invariant: permission to act is measured in moments of the machine
//! that acts; two machines' wall clocks are never compared (DESIGN 9, rule 10).

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Milliseconds since this machine booted, suspended time included. Means nothing on another machine, and
/// nothing after a reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(pub u64);

impl Moment {
    /// The moment `duration` later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// A duration in whole milliseconds, saturating.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Seconds since 1970-01-01 UTC, by a clock on the wall. RFC 3339 where people read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WallTime(pub i64);

impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_second(self.0) {
            Ok(timestamp) => write!(f, "{timestamp}"),
            Err(_) => write!(f, "@{}", self.0),
        }
    }
}

impl std::str::FromStr for WallTime {
    type Err = jiff::Error;
    fn from_str(text: &str) -> Result<Self, jiff::Error> {
        text.parse::<jiff::Timestamp>().map(|timestamp| Self(timestamp.as_second()))
    }
}

impl JsonSchema for WallTime {
    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "A time in UTC, such as 2026-11-21T08:00:00Z." })
    }
}

impl Serialize for WallTime {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for WallTime {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(WrittenTime)
        } else {
            i64::deserialize(deserializer).map(Self)
        }
    }
}

/// A time as people write it. TOML's own times, without quotes, arrive as something else than a text and are
/// refused with the way to write them: one form, in TOML as in JSON.
struct WrittenTime;

impl serde::de::Visitor<'_> for WrittenTime {
    type Value = WallTime;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time in quotes, such as \"2026-11-21T08:00:00Z\"")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<WallTime, E> {
        text.parse()
            .map_err(|error| E::custom(format!("expected a time such as 2026-11-21T08:00:00Z: {error}")))
    }
}

/// What time it is, both ways, as handed to a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Now {
    /// This machine's monotonic time.
    pub moment: Moment,
    /// This machine's wall clock, right or wrong.
    pub wall: WallTime,
}

impl Now {
    /// The same instant, seen `duration` later by both clocks.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        Self { moment: self.moment.after(duration), wall: WallTime(self.wall.0.saturating_add(seconds)) }
    }
}
