//! How many servers may be down at once, counted five ways.
//!
//! Owns [`Limits`] and [`Tier`]. Main invariant: every limit is at least 1 where it is given, and the group
//! limit is at least 1: zero would be a plan that can never move, and is refused when the plan is read.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::ids::{ClusterId, SiteId};

/// How much depends on a server. Tier 1 keeps people alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Tier {
    /// Critical: life support, communications, emergency.
    One,
    /// Operations: navigation, power, base operations.
    Two,
    /// Research.
    Three,
}

impl Tier {
    /// All tiers, most critical first.
    pub const ALL: [Self; 3] = [Self::One, Self::Two, Self::Three];

    /// This tier's of what each tier has, the most critical first.
    #[must_use]
    pub fn of<T>(self, [one, two, three]: [T; 3]) -> T {
        match self {
            Self::One => one,
            Self::Two => two,
            Self::Three => three,
        }
    }

    /// 1, 2 or 3.
    #[must_use]
    pub fn number(self) -> u8 {
        self.of([1, 2, 3])
    }
}

impl JsonSchema for Tier {
    fn schema_name() -> Cow<'static, str> {
        "Tier".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "enum": Self::ALL.map(Self::number) })
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

impl TryFrom<u8> for Tier {
    type Error = String;
    fn try_from(number: u8) -> Result<Self, String> {
        match number {
            1 => Ok(Self::One),
            2 => Ok(Self::Two),
            3 => Ok(Self::Three),
            other => Err(format!("tier {other} does not exist: use 1, 2 or 3")),
        }
    }
}

impl From<Tier> for u8 {
    fn from(tier: Tier) -> u8 {
        tier.number()
    }
}

impl std::str::FromStr for Tier {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<u8>().map_err(|_| format!("{text:?} is not a tier: use 1, 2 or 3"))?.try_into()
    }
}

/// Most servers down at once. Limits are checked together: a start must fit all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// In the whole fleet.
    pub fleet: NonZeroU32,
    /// In each tier.
    pub tier: TierLimits,
    /// In each site.
    pub site: PlaceLimits<SiteId>,
    /// In each cluster.
    pub cluster: PlaceLimits<ClusterId>,
    /// In each redundancy group.
    pub group: NonZeroU32,
}

/// One limit a tier. The defaults are requirement D1's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TierLimits {
    /// Tier 1.
    #[serde(rename = "1")]
    pub one: NonZeroU32,
    /// Tier 2.
    #[serde(rename = "2")]
    pub two: NonZeroU32,
    /// Tier 3.
    #[serde(rename = "3")]
    pub three: NonZeroU32,
}

impl TierLimits {
    /// The limit of one tier.
    #[must_use]
    pub fn of(&self, tier: Tier) -> u32 {
        tier.of([self.one, self.two, self.three]).get()
    }
}

/// A limit for each of many places: a default, and the ones that differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "Id: Ord + Deserialize<'de>"))]
pub struct PlaceLimits<Id: Ord> {
    /// Where nothing else is said. Absent: no limit of this kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<NonZeroU32>,
    /// The exceptions.
    #[serde(default = "BTreeMap::new", skip_serializing_if = "BTreeMap::is_empty")]
    pub only: BTreeMap<Id, NonZeroU32>,
}

impl<Id: Ord> Default for PlaceLimits<Id> {
    fn default() -> Self {
        Self { default: None, only: BTreeMap::new() }
    }
}

impl<Id: Ord> PlaceLimits<Id> {
    /// The limit of one place; `None` where this kind of limit does not apply.
    #[must_use]
    pub fn of(&self, place: &Id) -> Option<u32> {
        self.only.get(place).or(self.default.as_ref()).map(|limit| limit.get())
    }
}

const fn limit(number: u32) -> NonZeroU32 {
    match NonZeroU32::new(number) {
        Some(number) => number,
        None => NonZeroU32::MIN,
    }
}

impl Default for TierLimits {
    fn default() -> Self {
        Self { one: limit(5), two: limit(100), three: limit(150) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            fleet: limit(250),
            tier: TierLimits::default(),
            site: PlaceLimits::default(),
            cluster: PlaceLimits::default(),
            group: limit(1),
        }
    }
}
