//! What in a plan contradicts itself, or names somebody who is not there.
//!
//! Owns these warnings. Main invariant: each says which keys, with their numbers, and what follows: a limit that
//! can never be reached is a limit that somebody misunderstood. Refuses to refuse: such a plan may still be meant.

use std::collections::BTreeSet;
use std::fmt::Display;

use lunar_common::document::nearest;
use lunar_common::inventory::InventoryServer;
use lunar_common::lease::LimitScope;
use lunar_common::limits::Tier;
use lunar_common::plan::windows::Mode;
use lunar_common::plan::{Plan, Select};

use super::{Assumptions, Fleet, HeldBy, Share, TierHours};
use crate::event::LimitTable;

/// As an indented list that follows a message.
pub(super) fn listed(hints: &[String]) -> String {
    hints.iter().map(|hint| format!("\n  - {hint}")).collect()
}

/// Names in `select` that no server has.
pub(super) fn of_select(select: &Select, servers: &[InventoryServer]) -> Vec<String> {
    fn missing<T: Ord + Display>(
        key: &str,
        wanted: &BTreeSet<T>,
        there: BTreeSet<&T>,
        found: &mut Vec<String>,
    ) {
        for name in wanted.iter().filter(|name| !there.contains(name)) {
            found.push(format!("select.{key}: {}", nobody(name, there.iter().copied())));
        }
    }
    let mut found = Vec::new();
    missing("tiers", &select.tiers, servers.iter().map(|s| &s.tier).collect(), &mut found);
    missing("sites", &select.sites, servers.iter().map(|s| &s.site).collect(), &mut found);
    missing("clusters", &select.clusters, servers.iter().map(|s| &s.cluster).collect(), &mut found);
    missing("services", &select.services, servers.iter().map(|s| &s.service).collect(), &mut found);
    let names: BTreeSet<_> = servers.iter().map(|s| &s.server).collect();
    missing("servers", &select.servers, names.clone(), &mut found);
    missing("except", &select.except, names, &mut found);
    found
}

/// Limits that can never be reached, or that limit nobody.
pub(super) fn of_limits(
    plan: &Plan,
    limits: &LimitTable,
    fleet: &Fleet<'_>,
    shares: &[Share],
) -> Vec<String> {
    let mut found = Vec::new();
    let tiers: Vec<(Tier, u64)> = Tier::ALL
        .into_iter()
        .filter(|tier| fleet.tallies.contains_key(&LimitScope::Tier(*tier)))
        .map(|tier| (tier, u64::from(plan.limits.tier.of(tier))))
        .collect();
    let sum: u64 = tiers.iter().map(|(_, limit)| limit).sum();
    if tiers.len() > 1 && sum > u64::from(limits.fleet) {
        let each = tiers.iter().map(|(_, limit)| limit.to_string()).collect::<Vec<_>>().join(" + ");
        found.push(format!(
            "limits.tier adds up to {sum} ({each}), above limits.fleet = {}: the tiers wait for each other when \
             all are full",
            limits.fleet
        ));
    }
    for share in shares.iter().filter(|share| share.slots < share.limit.min(share.servers)) {
        let (LimitScope::Tier(_) | LimitScope::Fleet, Some(by)) = (&share.scope, share.held_by) else {
            continue;
        };
        // Tiers that add up to less than the fleet's limit are how limits are meant to be.
        if by == HeldBy::Tiers {
            continue;
        }
        found.push(format!(
            "{} = {} can never be reached: {by} let at most {} of its {} servers down at once",
            super::words::key(&share.scope),
            share.limit,
            share.slots,
            share.servers
        ));
    }
    let sites: Vec<_> = limits.sites.keys().map(|site| LimitScope::Site(site.clone())).collect();
    let clusters: Vec<_> =
        limits.clusters.keys().map(|cluster| LimitScope::Cluster(cluster.clone())).collect();
    for scope in sites.into_iter().chain(clusters).filter(|scope| !fleet.tallies.contains_key(scope)) {
        let kind = std::mem::discriminant(&scope);
        let there = fleet.tallies.keys().filter(|other| std::mem::discriminant(*other) == kind);
        found.push(match &scope {
            LimitScope::Site(name) => format!("limits.site.only: {}", nobody(name, there.filter_map(place))),
            LimitScope::Cluster(name) => {
                format!("limits.cluster.only: {}", nobody(name, there.filter_map(place)))
            }
            LimitScope::Fleet | LimitScope::Tier(_) | LimitScope::Group(_) => continue,
        });
    }
    found
}

/// Windows of tiers that select nobody, and tiers that are held to none though the plan has some.
pub(super) fn of_windows(
    plan: &Plan,
    fleet: &Fleet<'_>,
    assumed: &Assumptions,
    windows: &[TierHours],
) -> Vec<String> {
    let Some(_) = &plan.windows else { return Vec::new() };
    let mut found = Vec::new();
    if !windows.is_empty() && assumed.hold_s > plan.hold_s() {
        found.push(format!(
            "windows are kept open for {} s down, by health.settle_s and health.soak_s; with {} s, the last servers of \
             each window are down beyond its end",
            plan.hold_s(),
            assumed.hold_s
        ));
    }
    for tier in Tier::ALL {
        let is_there = fleet.tallies.contains_key(&LimitScope::Tier(tier));
        let held = windows.iter().find(|held| held.tier == tier);
        match held {
            Some(_) if !is_there => found.push(format!("windows.tier.{tier}: no selected server is of tier {tier}")),
            None if is_there && tier == Tier::One => found.push(
                "windows.tier.1 is not given: servers that people depend on go down at any time; write \
                 mode = \"strict\" and their windows, or mode = \"any\" if that is meant"
                    .to_owned(),
            ),
            Some(held) if held.mode == Mode::Preferred && !held.fits_inside => found.push(format!(
                "tier {tier} does not fit into its windows: it will start outside them too, as soon as it is behind"
            )),
            Some(_) | None => {}
        }
    }
    found
}

fn place(scope: &LimitScope) -> Option<&str> {
    match scope {
        LimitScope::Site(site) => Some(site.as_str()),
        LimitScope::Cluster(cluster) => Some(cluster.as_str()),
        LimitScope::Fleet | LimitScope::Tier(_) | LimitScope::Group(_) => None,
    }
}

fn nobody(name: impl Display, there: impl Iterator<Item = impl Display>) -> String {
    let name = name.to_string();
    let there: Vec<String> = there.map(|other| other.to_string()).collect();
    match nearest(&name, there.iter().map(String::as_str)) {
        Some(meant) => format!("no selected server is of {name}; did you mean {meant}?"),
        None => format!("no selected server is of {name}"),
    }
}
