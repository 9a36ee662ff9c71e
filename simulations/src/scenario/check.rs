//! What makes a scenario impossible, told with its line and with what would be possible.
//!
//! Owns the checks of [`Scenario`]. Main invariant: every problem names a key, and the line of that key or of the
//! table where it is missing. Refuses to judge whether a campaign can be done in its time: a world shows that.

use std::collections::BTreeSet;

use lunar_common::bounds::{ARTIFACT_BYTES_MAX, CHUNK_BYTES_MAX, CHUNKS_MAX, GROUP_MEMBERS_MAX};
use lunar_common::document::{ContentError, Document};
use lunar_common::limits::Tier;
use lunar_common::plan::Plan;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{FORMAT, Fraction, Problem, Scenario};
use crate::documents;

/// Most servers of one world: ten times the fleet that the system is for, and as many again.
const SERVERS_MAX: usize = 200_000;
/// Longest campaign in days, as long as a plan may be.
const DAYS_MAX: u32 = 31;
/// Shortest time of faults in seconds: strikes are spread between its beginning and its end.
const FAULTS_S_MIN: u64 = 60;
/// Most hostile servers, in a million: what the swarm claims to survive.
const HOSTILE_PER_MILLION_MAX: u64 = 340_000;
/// Slowest rate in bit/s: below it not even a halt comes through.
const RATE_BIT_S_MIN: u64 = 1_000;

/// The format that a text says it has, if it is another than ours.
pub(super) fn other_format(text: &str) -> Option<i64> {
    let table: toml::Table = text.parse().ok()?;
    table.get("format")?.as_integer().filter(|found| *found != i64::from(FORMAT))
}

/// Everything impossible in a scenario.
pub(super) fn problems(scenario: &Scenario, text: &str) -> Vec<Problem> {
    let mut found = Found { root: DeTable::parse(text).ok(), text, problems: Vec::new() };
    head(scenario, &mut found);
    fleet(scenario, &mut found);
    limits(scenario, &mut found);
    links(scenario, &mut found);
    times(scenario, &mut found);
    faults(scenario, &mut found);
    plan(scenario, &mut found);
    found.problems
}

struct Found<'a> {
    root: Option<Spanned<DeTable<'a>>>,
    text: &'a str,
    problems: Vec<Problem>,
}

impl Found<'_> {
    fn say(&mut self, key: &str, problem: impl Into<String>) {
        let line = self.line(key);
        self.problems.push(Problem { key: key.to_owned(), line, problem: problem.into() });
    }

    fn range(&mut self, key: &str, found: u64, least: u64, most: u64) {
        if found < least || found > most {
            self.say(key, format!("{found} is out of range: write {least} to {most}"));
        }
    }

    /// The line of a dotted key, or of the nearest table above it that is written.
    fn line(&self, key: &str) -> usize {
        let mut at = 0;
        if let Some(root) = &self.root {
            let mut table = Some(root.get_ref());
            let mut array = None;
            for part in key.split(['.', '[']) {
                let next = match part.strip_suffix(']') {
                    Some(number) => {
                        let number: usize = number.parse().unwrap_or(usize::MAX);
                        array.take().and_then(|array: &toml::de::DeArray<'_>| array.get(number))
                    }
                    None => table.and_then(|table| {
                        let (name, value) = table.iter().find(|(name, _)| name.get_ref() == part)?;
                        at = name.span().start;
                        Some(value)
                    }),
                };
                let Some(value) = next else { break };
                if part.ends_with(']') {
                    at = value.span().start;
                }
                (table, array) = match value.get_ref() {
                    DeValue::Table(inner) => (Some(inner), None),
                    DeValue::Array(inner) => (None, Some(inner)),
                    _ => (None, None),
                };
            }
        }
        self.text.get(..at).unwrap_or_default().matches('\n').count() + 1
    }
}

fn head(scenario: &Scenario, found: &mut Found<'_>) {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.';
    if scenario.name.is_empty() || scenario.name.len() > 64 || !scenario.name.chars().all(plain) {
        found
            .say("name", "write up to 64 letters, digits, dots and dashes: result files are called after it");
    }
    found.range("days", scenario.days.into(), 1, DAYS_MAX.into());
    found.range("report_interval_s", scenario.report_interval_s.into(), 1, 86_400);
    let artifact = &scenario.artifact;
    found.range("artifact.bytes", artifact.bytes, 1, ARTIFACT_BYTES_MAX);
    found.range("artifact.chunk_bytes", artifact.chunk_bytes.into(), 1_024, CHUNK_BYTES_MAX.into());
    if artifact.chunks() > CHUNKS_MAX as u64 {
        let chunks = artifact.chunks();
        found.say("artifact.chunk_bytes", format!("makes {chunks} chunks; at most {CHUNKS_MAX}: cut larger"));
    }
}

/// Windows and stages are what a plan with them may have.
fn plan(scenario: &Scenario, found: &mut Found<'_>) {
    if scenario.windows.is_none() && scenario.stages.is_empty() || !found.problems.is_empty() {
        return;
    }
    for (place, stage) in scenario.stages.iter().enumerate() {
        if stage.approval_batch.is_some() {
            found.say(&format!("stages[{place}].approval_batch"), "nobody approves here: take it out");
        }
        if !stage.select.labels.is_empty() {
            let key = format!("stages[{place}].select.labels");
            found.say(
                &key,
                "no server has labels here: select by tiers, sites, clusters or names (srv-0 and on)",
            );
        }
    }
    let plan = documents::plan(scenario, false, 1);
    if let Err(ContentError::Problems { problems, .. }) = Plan::parse(&plan.body) {
        let is_ours = |key: &str| key.starts_with("windows") || key.starts_with("stages");
        for problem in problems.into_iter().filter(|problem| is_ours(&problem.key)) {
            found.say(&problem.key, problem.problem);
        }
    }
}

fn fleet(scenario: &Scenario, found: &mut Found<'_>) {
    let fleet = &scenario.fleet;
    let servers = scenario.servers();
    found.range("fleet.tier", servers as u64, 1, SERVERS_MAX as u64);
    if let Some(cluster) = fleet.cluster_servers {
        found.range("fleet.cluster_servers", cluster.into(), 1, SERVERS_MAX as u64);
    }
    sites(scenario, found);
    if let Some(groups) = &fleet.group {
        found.range("fleet.group.size", groups.size.into(), 2, GROUP_MEMBERS_MAX as u64);
        if groups.tiers.is_empty() {
            found.say("fleet.group.tiers", "names no tier: write for example [1], or take fleet.group out");
        }
        if groups.across_sites && groups.size as usize > fleet.site.len() {
            let (size, count) = (groups.size, fleet.site.len());
            let problem =
                format!("{size} members cannot stand on {count} different sites: write at most {count}");
            found.say("fleet.group.size", problem);
        }
        let limit = scenario.limits.group.get();
        if limit >= groups.size {
            let (size, most) = (groups.size, groups.size.saturating_sub(1));
            let problem = format!("lets all {size} members of a group be down at once: write at most {most}");
            found.say("limits.group", problem);
        }
    }
    let mut models = BTreeSet::new();
    for (at, kind) in fleet.hardware.iter().enumerate() {
        if !models.insert(&kind.model) {
            found.say(&format!("fleet.hardware[{at}].model"), format!("`{}` stands here twice", kind.model));
        }
    }
    if !fleet.hardware.is_empty() {
        whole("fleet.hardware", fleet.hardware.iter().map(|kind| kind.share), found);
    }
}

fn sites(scenario: &Scenario, found: &mut Found<'_>) {
    let sites = &scenario.fleet.site;
    if sites.is_empty() {
        return found.say("fleet.site", "there is no site: write one with its name and its servers or share");
    }
    let mut names = BTreeSet::new();
    let by_share = sites[0].share.is_some();
    for (at, site) in sites.iter().enumerate() {
        let key = format!("fleet.site[{at}]");
        if !names.insert(&site.name) {
            found.say(&format!("{key}.name"), format!("`{}` stands here twice", site.name));
        }
        match (site.servers, site.share) {
            (Some(_), Some(_)) => found.say(&key, "has both servers and share: write one of them"),
            (None, None) => found.say(&key, "has no size: write servers = N or share = 0.2"),
            (Some(_), None) if by_share => {
                found.say(&key, "counts servers where the first site has a share: write all the same way");
            }
            (None, Some(_)) if !by_share => {
                found.say(&key, "has a share where the first site counts servers: write all the same way");
            }
            _ => {}
        }
    }
    if by_share {
        whole("fleet.site", sites.iter().filter_map(|site| site.share), found);
    } else {
        let (sum, servers) =
            (sites.iter().filter_map(|site| site.servers).map(u64::from).sum::<u64>(), scenario.servers());
        if sum != servers as u64 {
            let problem =
                format!("the sites have {sum} servers and the tiers {servers}: they must be the same");
            found.say("fleet.site", problem);
        }
    }
}

/// Shares must be all of it, to within what a few decimals can say.
fn whole(key: &str, shares: impl Iterator<Item = Fraction>, found: &mut Found<'_>) {
    let sum: u64 = shares.map(Fraction::in_million).sum();
    if sum.abs_diff(1_000_000) > 1_000 {
        let sum = format!("{}.{:03}", sum / 1_000_000, sum / 1_000 % 1_000);
        found.say(key, format!("the shares add up to {sum}: make them 1"));
    }
}

fn limits(scenario: &Scenario, found: &mut Found<'_>) {
    let limits = &scenario.limits;
    let fleet = limits.fleet.get();
    let below = |key: &str, limit: u32, found: &mut Found<'_>| {
        if limit > fleet {
            let problem =
                format!("{limit} can never be used, for the fleet's limit is {fleet}: write at most {fleet}");
            found.say(key, problem);
        }
    };
    for tier in Tier::ALL.into_iter().filter(|tier| scenario.fleet.tier.of(*tier) > 0) {
        below(&format!("limits.tier.{tier}"), limits.tier.of(tier), found);
    }
    below("limits.group", limits.group.get(), found);
    for (key, limit) in
        [("limits.site.default", limits.site.default), ("limits.cluster.default", limits.cluster.default)]
    {
        if let Some(limit) = limit {
            below(key, limit.get(), found);
        }
    }
    let names = scenario.site_names();
    for (site, limit) in &limits.site.only {
        let key = format!("limits.site.only.{site}");
        if names.contains(site) {
            below(&key, limit.get(), found);
        } else {
            let known: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
            found.say(&key, format!("there is no such site; there are {}", known.join(", ")));
        }
    }
    let of_sites: Option<u64> = names.iter().map(|name| limits.site.of(name).map(u64::from)).sum();
    if let Some(sum) = of_sites.filter(|sum| *sum < u64::from(fleet)) {
        let problem = format!(
            "{fleet} can never be used, for the sites' limits add up to {sum}: write at most {sum}, or raise limits.site"
        );
        found.say("limits.fleet", problem);
    }
}

fn links(scenario: &Scenario, found: &mut Found<'_>) {
    let (earth, site, between) = (&scenario.links.earth, &scenario.links.site, &scenario.links.between);
    for (key, rate) in [
        ("links.earth.rate_bit_s", earth.rate_bit_s),
        ("links.site.nic_rate_bit_s", site.nic_rate_bit_s),
        ("links.between.rate_bit_s", between.rate_bit_s),
    ] {
        found.range(key, rate, RATE_BIT_S_MIN, 1_000_000_000_000);
    }
    if earth.efficiency.in_million() < 10_000 {
        found.say("links.earth.efficiency", "below 0.01 the link carries nothing: write for example 0.95");
    }
    if earth.jitter_ms > earth.round_trip_ms {
        let problem = format!("is more than the round trip of {} ms: write less", earth.round_trip_ms);
        found.say("links.earth.jitter_ms", problem);
    }
    let mut free_from = 0;
    for (at, blackout) in earth.blackouts.iter().enumerate() {
        let key = format!("links.earth.blackouts[{at}]");
        if blackout.for_s == 0 {
            found.say(&format!("{key}.for_s"), "lasts no time: write at least 1, or take it out");
        }
        if blackout.from_s < free_from {
            let problem =
                format!("begins before the one above ends (at {free_from} s): order them, or join them");
            found.say(&format!("{key}.from_s"), problem);
        }
        free_from = blackout.from_s.saturating_add(blackout.for_s);
    }
    if free_from.saturating_mul(1_000) > scenario.ends_ms() && !earth.blackouts.is_empty() {
        let problem = format!("last until {free_from} s, past the {} days of the campaign", scenario.days);
        found.say("links.earth.blackouts", problem);
    }
    found.range("links.between.relays", between.relays.into(), 1, 64);
    if between.relay_availability.in_million() < 500_000 {
        found.say("links.between.relay_availability", "a relay that works half of the time or less is none");
    }
}

fn times(scenario: &Scenario, found: &mut Found<'_>) {
    let Scenario { hold, health, lease, .. } = scenario;
    found.range("health.interval_s", health.interval_s.into(), 1, health.soak_s.max(1).into());
    if hold.settle_s.high_ms > u64::from(health.settle_s) * 1_000 {
        let problem = format!(
            "up to {} s, but health.settle_s waits {} s: such a server would be rolled back; raise that",
            hold.settle_s.high_ms.div_ceil(1_000),
            health.settle_s
        );
        found.say("hold.settle_s", problem);
    }
    // Counted by the most of everything, with two rounds of probes and a step's own second each.
    let commit_s = (hold.restart_s.high_ms + hold.settle_s.high_ms + 2 * hold.probe_s.high_ms)
        .div_ceil(1_000)
        + u64::from(health.soak_s)
        + 2;
    if commit_s > u64::from(lease.commit_within_s) {
        let problem = format!(
            "{} s, but restart, settling and soak take up to {commit_s} s: every upgrade would be rolled back; raise it",
            lease.commit_within_s
        );
        found.say("lease.commit_within_s", problem);
    }
    let down_s = commit_s + (2 * hold.drain_s.high_ms).div_ceil(1_000);
    if down_s > u64::from(lease.down_s_max) {
        let problem = format!(
            "{} s, but a server is down for up to {down_s} s: every lease would be lost; raise it",
            lease.down_s_max
        );
        found.say("lease.down_s_max", problem);
    }
    found.range("lease.start_within_s", lease.start_within_s.into(), 1, 86_400);
    found.range("retry.attempts_max", scenario.retry.attempts_max.into(), 1, 100);
    found.range("retry.cap_s", scenario.retry.cap_s.into(), scenario.retry.base_s.into(), 86_400);
    for problem in scenario.stop.problems() {
        found.say(&problem.key, problem.problem);
    }
}

fn faults(scenario: &Scenario, found: &mut Found<'_>) {
    let Scenario { release, faults, .. } = scenario;
    if release.fails.in_million() + release.fails_late.in_million() > 1_000_000 {
        found.say("release.fails_late", "together with release.fails it is more than all servers");
    }
    let late = release.fails_late > Fraction::ZERO;
    match release.fails_late_after_s {
        None if late => found.say("release.fails_late", "say when: write release.fails_late_after_s"),
        Some(_) if !late => {
            found.say("release.fails_late_after_s", "no server fails late: write release.fails_late")
        }
        _ => {}
    }
    if let Some(model) = &release.fails_on_hardware
        && !scenario.fleet.hardware.iter().any(|kind| kind.model == *model)
    {
        let known: Vec<&str> = scenario.fleet.hardware.iter().map(|kind| kind.model.as_str()).collect();
        let problem = format!("no server is a `{model}`; fleet.hardware lists {known:?}");
        found.say("release.fails_on_hardware", problem);
    }
    let named = !faults.site_lost.is_empty() || faults.coordinator_flaps.is_some();
    let any = faults.probability > Fraction::ZERO || !faults.on.is_empty() || named;
    let most = u64::from(scenario.days) * 86_400;
    if any {
        found.range("faults.for_s", faults.for_s, FAULTS_S_MIN, most);
    } else if faults.for_s > 0 {
        found.say("faults.for_s", "no fault is on: write faults.on or faults.probability, or take it out");
    }
    let names = scenario.site_names();
    for (at, lost) in faults.site_lost.iter().enumerate() {
        let key = format!("faults.site_lost[{at}]");
        if !names.contains(&lost.site) {
            let known: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
            found.say(
                &format!("{key}.site"),
                format!("there is no such site; there are {}", known.join(", ")),
            );
        }
        found.range(&format!("{key}.for_s"), lost.for_s, 1, faults.for_s.saturating_sub(lost.from_s).max(1));
    }
    if let Some(flaps) = faults.coordinator_flaps {
        found.range("faults.coordinator_flaps.every_s", flaps.every_s, 10, most);
        let rest = flaps.every_s.saturating_sub(1).max(1);
        found.range("faults.coordinator_flaps.down_s", flaps.down_s, 1, rest);
    }
    if scenario.peers.hostile.in_million() > HOSTILE_PER_MILLION_MAX {
        found.say("peers.hostile", "the swarm claims to survive a third: write at most 0.34");
    }
}
