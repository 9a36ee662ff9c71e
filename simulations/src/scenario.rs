//! What a world is made of, as people write it: fleet, limits, links, times, release, faults.
//!
//! Owns [`Scenario`] and its parts. Main invariant: a scenario that came out of [`Scenario::parse`] contradicts
//! itself nowhere, and every number in it has its unit in its name. Refuses unknown keys, and to read a file:
//! the caller hands in the text.

mod check;
mod numbers;
mod seats;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lunar_common::document::{Place, explain_toml};
use lunar_common::ids::SiteId;
use lunar_common::limits::{Limits, Tier};
use lunar_common::plan::windows::Windows;
use lunar_common::plan::{LeaseTerms, Retry, Spread, Stage, StopRules};
use serde::{Deserialize, Serialize};

use crate::faults::Fault;

pub use numbers::{Fraction, Milliseconds, Span};
pub use seats::Seat;

/// The only format there is.
pub const FORMAT: u32 = 1;

/// One kind of world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Always 1.
    pub format: u32,
    /// What people call it.
    pub name: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The campaign's time: past it the plan expires, and who is not done by then is late.
    pub days: u32,
    /// Between two reports of an agent that has nothing new, in seconds.
    #[serde(default = "default_report_interval_s")]
    pub report_interval_s: u32,
    /// The servers.
    pub fleet: Fleet,
    /// Most servers down at once; the same words as in a plan.
    #[serde(default)]
    pub limits: Limits,
    /// When servers may go down; the same words as in a plan. A run begins on 2026-11-21 at 08:00 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<Windows>,
    /// Who goes first, and what must be shown before the others follow; the same words as in a plan. Absent: nobody waits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Stage>,
    /// What is installed.
    pub artifact: Artifact,
    /// What it travels over.
    #[serde(default)]
    pub links: Links,
    /// How long a server takes.
    #[serde(default)]
    pub hold: Hold,
    /// How health is told; the same words as in a plan.
    #[serde(default)]
    pub health: Health,
    /// Leases; the same words as in a plan.
    #[serde(default)]
    pub lease: LeaseTerms,
    /// The spread of starts; the same words as in a plan.
    #[serde(default)]
    pub spread: Spread,
    /// Retries; the same words as in a plan.
    #[serde(default)]
    pub retry: Retry,
    /// What pauses the campaign; the same words as in a plan. Absent: nothing does. Where something does, people look at
    /// each pause, and go on.
    #[serde(default = "StopRules::never", skip_serializing_if = "is_never")]
    pub stop: StopRules,
    /// How good the new release is.
    #[serde(default)]
    pub release: Release,
    /// What goes wrong beside it.
    #[serde(default)]
    pub faults: Faults,
    /// What some servers do to the others.
    #[serde(default)]
    pub peers: Peers,
}

fn is_never(stop: &StopRules) -> bool {
    *stop == StopRules::never()
}

fn default_report_interval_s() -> u32 {
    300
}

/// The servers of a world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fleet {
    /// How many servers in each tier.
    pub tier: TierCounts,
    /// Servers of one cluster; a cluster lies in one site. Absent: the whole fleet is one cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_servers: Option<u32>,
    /// The sites.
    pub site: Vec<Site>,
    /// Which servers stand in for each other. Absent: none do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Groups>,
    /// Kinds of machines. Absent: all are alike.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hardware: Vec<Hardware>,
    /// Every server's seat, where a real inventory says it. Never written: a scenario for people has counts.
    #[serde(skip)]
    pub seated: Option<Arc<[Seat]>>,
}

/// Servers a tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TierCounts {
    /// Tier 1.
    #[serde(rename = "1")]
    pub one: u32,
    /// Tier 2.
    #[serde(rename = "2")]
    pub two: u32,
    /// Tier 3.
    #[serde(rename = "3")]
    pub three: u32,
}

impl TierCounts {
    /// Those of one tier.
    #[must_use]
    pub fn of(&self, tier: Tier) -> u32 {
        tier.of([self.one, self.two, self.three])
    }
}

/// One site: its servers as a number, or as a share of the fleet. All sites say it the same way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Its name.
    pub name: SiteId,
    /// Its servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub servers: Option<u32>,
    /// Its share of the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<Fraction>,
}

/// Redundancy groups: servers of one tier that stand in for each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Groups {
    /// Members of one group.
    pub size: u32,
    /// The tiers whose servers are in groups.
    pub tiers: BTreeSet<Tier>,
    /// Whether the members of one group stand on different sites.
    #[serde(default)]
    pub across_sites: bool,
}

/// One kind of machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hardware {
    /// The model.
    pub model: String,
    /// Its share of the fleet.
    pub share: Fraction,
}

/// What is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// Its size as it travels.
    pub bytes: u64,
    /// One chunk's size; the last chunk may be smaller.
    #[serde(default = "default_chunk_bytes")]
    pub chunk_bytes: u32,
}

fn default_chunk_bytes() -> u32 {
    256 * 1024
}

impl Artifact {
    /// How many chunks it is cut into.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.bytes.div_ceil(u64::from(self.chunk_bytes.max(1)))
    }
}

/// What bytes and messages travel over.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Links {
    /// The one link to Earth.
    pub earth: EarthLink,
    /// The network of a site.
    pub site: SiteLink,
    /// Between two sites.
    pub between: BetweenLink,
}

/// The one link to Earth, shared by all sites.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EarthLink {
    /// What upgrades may use of it.
    pub rate_bit_s: u64,
    /// There and back.
    pub round_trip_ms: u32,
    /// How much longer or shorter a round trip may be.
    pub jitter_ms: u32,
    /// The share of the rate that carries chunks; the rest is headers and what is sent again.
    pub efficiency: Fraction,
    /// When it carries nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blackouts: Vec<Blackout>,
}

/// A time in which the link to Earth carries nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blackout {
    /// Its beginning, in seconds after the campaign's.
    pub from_s: u64,
    /// How long it lasts, in seconds.
    pub for_s: u64,
}

impl Default for EarthLink {
    /// The setting of the requirements: 30 Mbit/s of 50, 1.25 s each way.
    fn default() -> Self {
        Self {
            rate_bit_s: 30_000_000,
            round_trip_ms: 2_500,
            jitter_ms: 100,
            efficiency: Fraction::per_million(950_000),
            blackouts: Vec::new(),
        }
    }
}

/// The network of a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SiteLink {
    /// One server's interface.
    pub nic_rate_bit_s: u64,
    /// One way between two servers.
    pub latency_ms: Milliseconds,
}

impl Default for SiteLink {
    fn default() -> Self {
        Self { nic_rate_bit_s: 1_000_000_000, latency_ms: Milliseconds { low: 1, high: 3 } }
    }
}

/// Between two sites.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BetweenLink {
    /// What one site can send to the others, and hear from them.
    pub rate_bit_s: u64,
    /// One way.
    pub latency_ms: Milliseconds,
    /// Relays of a site; while all of them are down it is cut off from the others and from Earth.
    pub relays: u32,
    /// The share of time in which one relay works.
    pub relay_availability: Fraction,
}

impl Default for BetweenLink {
    fn default() -> Self {
        Self {
            rate_bit_s: 1_000_000_000,
            latency_ms: Milliseconds { low: 5, high: 20 },
            relays: 2,
            relay_availability: Fraction::ONE,
        }
    }
}

/// How long the steps of one upgrade take. A number of seconds, or the least and the most: `[10, 60]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hold {
    /// Unpacking and verifying, while the server is still up.
    pub stage_s: Span,
    /// Taking traffic away, and giving it back.
    pub drain_s: Span,
    /// Restarting what was upgraded: a service, or the machine.
    pub restart_s: Span,
    /// After the restart, until the first probe can pass.
    pub settle_s: Span,
    /// One round of probes.
    pub probe_s: Span,
}

impl Default for Hold {
    fn default() -> Self {
        Self {
            stage_s: Span::seconds(20, 60),
            drain_s: Span::seconds(5, 30),
            restart_s: Span::seconds(20, 60),
            settle_s: Span::seconds(5, 20),
            probe_s: Span { low_ms: 20, high_ms: 500 },
        }
    }
}

/// How health is told, as in a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    /// How long the new version must stay healthy before it is committed, in seconds.
    pub soak_s: u32,
    /// Between two rounds of probes in the soak, in seconds.
    pub interval_s: u32,
    /// Longest wait for the first healthy round, in seconds.
    pub settle_s: u32,
    /// Rounds in a row that may fail in the soak.
    pub failures_allowed: u32,
}

impl Default for Health {
    fn default() -> Self {
        Self { soak_s: 60, interval_s: 5, settle_s: 60, failures_allowed: 0 }
    }
}

/// How good the new release is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Release {
    /// The share of servers on which it never works.
    pub fails: Fraction,
    /// The share on which it works at first, and stops `fails_late_after_s` after the switch.
    pub fails_late: Fraction,
    /// See `fails_late`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fails_late_after_s: Option<u32>,
    /// The model of hardware on which it never works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fails_on_hardware: Option<String>,
}

/// What goes wrong. Every run draws from here one explicit plan of faults.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// The kinds that are on in every run.
    pub on: BTreeSet<Fault>,
    /// How likely each other kind is on in a run.
    pub probability: Fraction,
    /// For how long faults happen; then the world heals, and must converge.
    pub for_s: u64,
    /// Sites that are cut off, from the others and from Earth, whatever is drawn.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub site_lost: Vec<SiteLost>,
    /// A coordinator that dies again and again, whatever is drawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coordinator_flaps: Option<Flaps>,
}

/// A site that nobody hears, and that hears nobody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteLost {
    /// Which.
    pub site: SiteId,
    /// From when on, in seconds after the campaign's beginning.
    pub from_s: u64,
    /// For how long, in seconds.
    pub for_s: u64,
}

/// Something that dies and comes back, as long as faults happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flaps {
    /// Between two deaths, in seconds.
    pub every_s: u64,
    /// How long it is gone each time, in seconds.
    pub down_s: u64,
}

/// What some servers do to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Peers {
    /// The share of servers that send corrupt frames, lie about what they have, or answer slowly or never.
    pub hostile: Fraction,
}

/// Why a text is not a scenario.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScenarioError {
    /// Made for another version of this program.
    #[error("the scenario has format {found}; this version reads format {FORMAT}")]
    Format {
        /// What it says.
        found: i64,
    },
    /// Not TOML, or not of this shape.
    #[error("the scenario is wrong at line {}, column {}: {problem}{place}", place.line, place.column)]
    Syntax {
        /// Where.
        place: Place,
        /// What is wrong, and what was perhaps meant.
        problem: String,
    },
    /// Well formed, and impossible.
    #[error("the scenario cannot be run:{}", listed(.0))]
    Problems(Vec<Problem>),
}

/// Something impossible in a scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, dotted, as in the file.
    pub key: String,
    /// Its line, or that of the table where it is missing.
    pub line: usize,
    /// What is wrong, and what would be right.
    pub problem: String,
}

fn listed(problems: &[Problem]) -> String {
    let line = |Problem { key, line, problem }: &Problem| format!("\n  - line {line}, {key}: {problem}");
    problems.iter().map(line).collect()
}

impl Scenario {
    /// The scenario that a text describes.
    ///
    /// # Errors
    /// [`ScenarioError`] names every place that is wrong.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        // The format first: a scenario of another version has keys that would only be called unknown.
        if let Some(found) = check::other_format(text) {
            return Err(ScenarioError::Format { found });
        }
        let scenario: Self = toml::from_str(text).map_err(|error| {
            let (place, problem) = explain_toml(text, &error);
            ScenarioError::Syntax { place, problem }
        })?;
        let problems = check::problems(&scenario, text);
        if problems.is_empty() { Ok(scenario) } else { Err(ScenarioError::Problems(problems)) }
    }

    /// The same scenario as a text that [`Scenario::parse`] takes.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every field of a scenario has a form in TOML")
    }

    /// Everything impossible in it, as `key: problem`; for one that was not read from a text.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let found = check::problems(self, "");
        found.into_iter().map(|Problem { key, problem, .. }| format!("{key}: {problem}")).collect()
    }

    /// How many servers there are.
    #[must_use]
    pub fn servers(&self) -> usize {
        let TierCounts { one, two, three } = self.fleet.tier;
        [one, two, three].iter().map(|count| *count as usize).sum()
    }

    /// For how long faults happen, in milliseconds.
    #[must_use]
    pub fn faulty_ms(&self) -> u64 {
        self.faults.for_s * 1_000
    }

    /// The end of the campaign's time, in milliseconds.
    #[must_use]
    pub fn ends_ms(&self) -> u64 {
        u64::from(self.days) * 86_400_000
    }

    /// Seven servers on two sites, in which everything can go wrong within five minutes: a pair in tier 1, a pair
    /// in tier 2 and three servers in tier 3. The world of the swarm of seeds. The seed changes nothing here; it
    /// names the run.
    #[must_use]
    pub fn small(seed: u64) -> Self {
        let text = include_str!("../scenarios/small.toml");
        let mut scenario = Self::parse(text).expect("the committed scenario is sound");
        scenario.name = format!("small-{seed}");
        scenario
    }

    /// The sites' names, in the order in which [`Seat::site`] counts them.
    #[must_use]
    pub fn site_names(&self) -> Vec<SiteId> {
        self.fleet.site.iter().map(|site| site.name.clone()).collect()
    }

    /// How many servers each site has.
    #[must_use]
    pub fn site_counts(&self) -> BTreeMap<SiteId, usize> {
        let names = self.site_names();
        let counts = seats::site_counts(self);
        names.into_iter().zip(counts).collect()
    }
}
