//! When a campaign will end, what is down when, and what the link carries: the real plan on the real inventory.
//!
//! Owns [`scenario_of`] and [`Forecast`]. Main invariant: a forecast is made of whole runs of the production cores,
//! one a seed, and says of how many. Refuses to judge feasibility: the planner's arithmetic does that first.

use std::collections::BTreeMap;
use std::sync::Arc;

use lunar_common::inventory::InventoryServer;
use lunar_common::limits::Tier;
use lunar_common::plan::{Plan, Select, Stage, StopRules};
use lunar_coordinator_core::planner::Assumptions;
use serde::Serialize;

use crate::documents::simulated_name;
use crate::measure::{DownFigures, Figures};
use crate::options::Options;
use crate::scenario::{
    Artifact, Faults, Fleet, Fraction, Health, Hold, Links, Peers, Release, Scenario, Seat, Site, Span,
    TierCounts,
};
use crate::world::World;

/// Traffic is taken away and given back in so many seconds; the rest of the hold is the restart and the soak.
const DRAIN_S: u64 = 2;

/// Days that a forecast looks ahead at least, so that a campaign that is late is still told to its end.
const DAYS_MIN: u64 = 1;

/// What many runs of one campaign come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Forecast {
    /// Runs.
    pub seeds: u64,
    /// Those in which not all servers came to an end, or something broke; they are in no figure below.
    pub unfinished: u64,
    /// The end of the campaign in the middle run, in seconds.
    pub median_s: u64,
    /// In 19 of 20 runs it had ended by then, in seconds.
    pub p95_s: u64,
    /// The same by tier.
    pub tiers: Vec<TierForecast>,
    /// Most servers down at once in any run, and when in it.
    pub down: Vec<DownFigures>,
    /// Bytes over the link to Earth, most of any run.
    pub earth_bytes: u64,
    /// Bytes between sites, most of any run.
    pub between_bytes: u64,
    /// The artifact, once.
    pub artifact_bytes: u64,
    /// When the last server had every byte, in seconds, latest of any run.
    pub last_byte_s: u64,
}

/// When a tier is down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TierForecast {
    /// Which.
    pub tier: Tier,
    /// The first of its servers goes down, in the middle run, in seconds.
    pub first_down_s: u64,
    /// Its last server is at an end, in the middle run, in seconds.
    pub median_s: u64,
    /// In 19 of 20 runs it was by then.
    pub p95_s: u64,
}

/// The world of a plan on an inventory, with the planner's own assumptions.
///
/// # Errors
/// What makes it impossible, as `key: problem`: no server could be upgraded by such a plan.
pub fn scenario_of(
    plan: &Plan,
    servers: &[InventoryServer],
    assumed: &Assumptions,
    window_s: u64,
) -> Result<Scenario, Vec<String>> {
    let selected: Vec<&InventoryServer> = servers.iter().filter(|server| plan.select.takes(server)).collect();
    let (sites, seats) = seated(&selected);
    let count =
        |tier: Tier| u32::try_from(seats.iter().filter(|seat| seat.tier == tier).count()).unwrap_or(u32::MAX);
    // A server is down for the hold as it was assumed: what is not soak or drain is the restart.
    let soak_s = u64::from(plan.health.soak_s).min(assumed.hold_s);
    let restart_s = assumed.hold_s.saturating_sub(soak_s + 2 * DRAIN_S).max(1);
    let scenario = Scenario {
        format: crate::scenario::FORMAT,
        name: "forecast".to_owned(),
        description: String::new(),
        days: u32::try_from((window_s.div_ceil(86_400)).clamp(DAYS_MIN, 31)).unwrap_or(31),
        report_interval_s: 300,
        fleet: Fleet {
            tier: TierCounts { one: count(Tier::One), two: count(Tier::Two), three: count(Tier::Three) },
            cluster_servers: None,
            site: sites,
            group: None,
            hardware: Vec::new(),
            seated: Some(seats.into()),
        },
        limits: plan.limits.clone(),
        // A run begins at a fixed time of its own, in which the windows would lie elsewhere.
        windows: None,
        stages: plan.stages.iter().map(|stage| staged(stage, &selected)).collect(),
        artifact: Artifact {
            bytes: plan.artifacts.iter().map(|artifact| artifact.bytes).sum::<u64>().max(1),
            chunk_bytes: 262_144,
        },
        links: Links::default(),
        hold: Hold {
            drain_s: Span::seconds(DRAIN_S, DRAIN_S),
            restart_s: Span { low_ms: restart_s * 900, high_ms: restart_s * 1_100 },
            settle_s: Span::seconds(0, 0),
            ..Hold::default()
        },
        health: Health {
            soak_s: plan.health.soak_s,
            interval_s: plan.health.interval_s,
            settle_s: plan.health.settle_s,
            failures_allowed: plan.health.failures_allowed,
        },
        lease: plan.lease.clone(),
        spread: plan.spread.clone(),
        retry: plan.retry.clone(),
        // Nobody looks at pauses in a forecast: it says how long a campaign takes that goes well.
        stop: StopRules::never(),
        release: Release {
            fails: Fraction::per_million(
                u32::try_from(assumed.failures_per_10000 * 100).unwrap_or(1_000_000),
            ),
            ..Release::default()
        },
        faults: Faults::default(),
        peers: Peers::default(),
    };
    // Limits that can never be reached are contradictions in a scenario, and in a plan only worth a word: the
    // planner says it. What is left makes every upgrade fail.
    let problems: Vec<String> =
        scenario.problems().into_iter().filter(|problem| !problem.starts_with("limits.")).collect();
    if problems.is_empty() { Ok(scenario) } else { Err(problems) }
}

/// A stage as it is run: nobody is asked to approve, windows do not count, and what a simulated server has not is said by
/// its name.
fn staged(stage: &Stage, selected: &[&InventoryServer]) -> Stage {
    let Select { tiers, sites, .. } = &stage.select;
    let plain = Select { tiers: tiers.clone(), sites: sites.clone(), ..Select::default() };
    let select = if plain == stage.select {
        plain
    } else {
        let taken = selected.iter().enumerate().filter(|(_, server)| stage.select.takes(server));
        // A list without names would select everybody: nobody has the name that stands for nobody.
        let nobody = std::iter::once(selected.len());
        let numbers = taken.map(|(number, _)| number).chain(nobody);
        Select { servers: numbers.map(simulated_name).collect(), ..Select::default() }
    };
    Stage { select, approval_batch: None, windows: Vec::new(), ..stage.clone() }
}

/// The sites, and every server's seat in them, by the order in which they are first named.
fn seated(selected: &[&InventoryServer]) -> (Vec<Site>, Vec<Seat>) {
    fn number<'a, T: Ord>(known: &mut BTreeMap<&'a T, usize>, name: &'a T) -> usize {
        let next = known.len();
        *known.entry(name).or_insert(next)
    }
    let (mut sites, mut clusters, mut groups) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let seats: Vec<Seat> = selected
        .iter()
        .map(|server| Seat {
            tier: server.tier,
            site: number(&mut sites, &server.site),
            cluster: number(&mut clusters, &server.cluster),
            group: server.group.as_ref().map(|group| number(&mut groups, group)),
            hardware: 0,
        })
        .collect();
    let mut named: Vec<_> = sites.into_iter().collect();
    named.sort_by_key(|(_, number)| *number);
    let count = |number: usize| seats.iter().filter(|seat| seat.site == number).count();
    let site = |(name, number): (&lunar_common::ids::SiteId, usize)| Site {
        name: name.clone(),
        servers: Some(u32::try_from(count(number)).unwrap_or(u32::MAX)),
        share: None,
    };
    (named.into_iter().map(site).collect(), seats)
}

impl Forecast {
    /// Runs a campaign once a seed, from 1 on. `None`: no run came to its end.
    #[must_use]
    pub fn of(scenario: &Arc<Scenario>, seeds: u64) -> Option<Self> {
        let ended: Vec<Figures> = (1..=seeds)
            .filter_map(|seed| World::new(Options::of(Arc::clone(scenario), seed)).run().ok())
            .map(|outcome| outcome.figures)
            .collect();
        let (most_down, first) = (most_down(&ended), ended.first()?);
        let end = |figures: &Figures| figures.tiers.iter().filter_map(|tier| tier.done_ms).max().unwrap_or(0);
        let ends: Vec<u64> = ended.iter().map(end).collect();
        let most = |of: &dyn Fn(&Figures) -> u64| ended.iter().map(of).max().unwrap_or(0);
        let tiers = first.tiers.iter().enumerate().map(|(at, tier)| {
            let all = |of: &dyn Fn(&crate::measure::TierFigures) -> Option<u64>| -> Vec<u64> {
                ended.iter().filter_map(|figures| of(&figures.tiers[at])).collect()
            };
            TierForecast {
                tier: tier.tier,
                first_down_s: rank(all(&|tier| tier.first_down_ms), 50),
                median_s: rank(all(&|tier| tier.done_ms), 50),
                p95_s: rank(all(&|tier| tier.done_ms), 95),
            }
        });
        Some(Self {
            seeds,
            unfinished: seeds - ended.len() as u64,
            median_s: rank(ends.clone(), 50),
            p95_s: rank(ends, 95),
            tiers: tiers.collect(),
            down: most_down,
            earth_bytes: most(&|figures| figures.links.earth_bytes),
            between_bytes: most(&|figures| figures.links.between_bytes),
            artifact_bytes: first.links.artifact_bytes,
            last_byte_s: most(&|figures| figures.links.last_byte_ms.unwrap_or(0)).div_ceil(1_000),
        })
    }
}

/// The value below which this percentage of all lie, from milliseconds to seconds.
fn rank(mut values: Vec<u64>, percent: usize) -> u64 {
    values.sort_unstable();
    let at = (values.len() * percent).div_ceil(100).saturating_sub(1);
    values.get(at).map_or(0, |ms| ms.div_ceil(1_000))
}

/// Each scope's most, over all runs.
fn most_down(ended: &[Figures]) -> Vec<DownFigures> {
    let mut most: Vec<DownFigures> = ended.first().map(|figures| figures.down.clone()).unwrap_or_default();
    for figures in ended {
        for (known, found) in most.iter_mut().zip(&figures.down) {
            if found.most > known.most {
                *known = found.clone();
            }
        }
    }
    most
}
