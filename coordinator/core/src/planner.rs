//! Whether a plan can be done at all, and if not, what would fit.
//!
//! Owns the feasibility check: which servers share which slots, the [`arithmetic`] on each, and the words an
//! operator acts on. Main invariant: it refuses only what cannot fit even when every slot is used without a gap,
//! and each way out that it names is one. Refuses to promise: what fits here may still be late, for servers wait
//! for each other, for downloads and for people.

pub mod arithmetic;
mod contradictions;
mod hours;
mod order;
mod stages;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use lunar_common::inventory::InventoryServer;
use lunar_common::lease::LimitScope;
use lunar_common::limits::Tier;
use lunar_common::plan::Plan;
use lunar_common::plan::windows::ROLLBACK_S;
use lunar_common::time::WallTime;
use serde::Serialize;

use arithmetic::{Demand, Hours};
pub use arithmetic::{Assumptions, Calendar};
use hours::Openings;
pub use hours::TierHours;
pub use stages::StageRow;
use stages::Staged;

use crate::event::LimitTable;

impl Assumptions {
    /// From a plan: the time its service may take to settle, the soak, and a minute for draining, switching
    /// and restarting. Rollback is bounded by five minutes (A3); half a percent of all attempts fail (D6). The
    /// soak is inside the hold, so a group waits no longer between two members.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        Self::expected(plan.hold_s())
    }

    /// The same, of servers that are down for so many seconds.
    #[must_use]
    pub fn expected(hold_s: u64) -> Self {
        Self {
            hold_s,
            hand_over_s: 5,
            rollback_s: u64::from(ROLLBACK_S),
            failures_per_10000: 50,
            group_soak_s: 0,
            triage_s: 0,
        }
    }
}

/// What a plan comes to on these servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Assessment {
    /// Whether it can be done at all.
    pub feasible: bool,
    /// When it is assumed to start.
    pub start: WallTime,
    /// Past this nothing new starts.
    pub expires: WallTime,
    /// When servers may go down, those of tiers that are held to no windows.
    pub calendar: Calendar,
    /// The windows of each tier that is held to any.
    pub windows: Vec<TierHours>,
    /// What was assumed of each upgrade.
    pub assumed: Assumptions,
    /// Servers selected.
    pub servers: u64,
    /// Seconds the whole campaign takes at best; `None`: it never ends.
    pub finish_s: Option<u64>,
    /// The limit that makes it take so long.
    pub binding: LimitScope,
    /// The whole fleet, then each tier that is selected.
    pub rows: Vec<Share>,
    /// The limits that have more work than slots, the longest first; of each kind the worst.
    pub short: Vec<Short>,
    /// What contradicts itself in the plan, or names nobody.
    pub contradictions: Vec<String>,
    /// Servers expected to fail and roll back.
    pub failures: u64,
    /// The stages, in the plan's order; none: everyone starts at once.
    pub stages: Vec<StageRow>,
    /// What in the stages keeps servers from ever starting.
    pub stuck: Vec<String>,
}

/// The servers that one limit counts, and what its slots can do for them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Over which servers.
    pub scope: LimitScope,
    /// How many.
    pub servers: u64,
    /// The limit.
    pub limit: u64,
    /// Most of them that can be down at once under all limits together.
    pub slots: u64,
    /// What keeps `slots` below the limit, if anything does.
    pub held_by: Option<HeldBy>,
    /// Seconds of slots needed, failures included.
    pub needed_slot_s: u64,
    /// Seconds of slots there are until the plan expires.
    pub available_slot_s: u64,
    /// Servers done by then.
    pub done: u64,
    /// Seconds until all are done; `None`: a window is too short for one, or two years of them do not suffice.
    pub finish_s: Option<u64>,
    /// Whether all are done in time.
    pub fits: bool,
}

/// Which kind of limit keeps more servers up than a scope's own limit does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeldBy {
    /// The fleet's limit.
    Fleet,
    /// The limits of the tiers, added up.
    Tiers,
    /// The limits of the sites, added up.
    Sites,
    /// The limits of the clusters, added up.
    Clusters,
    /// One member of a redundancy group at a time.
    Groups,
}

/// A limit with more work than slots, and what would fit. Each way out alone is enough for this limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Short {
    /// The limit and its servers.
    pub share: Share,
    /// The longest time down that fits, in seconds.
    pub hold_that_fits_s: Option<u64>,
    /// The smallest limit that fits. `None`: none does, or none should (a redundancy group).
    pub limit_that_fits: Option<u64>,
    /// What else must be raised for that limit to be reached.
    pub limit_held_by: Option<HeldBy>,
    /// More limits of this kind that do not fit either.
    pub more: u64,
}

/// Why there is nothing to calculate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Unplannable {
    /// It selects nobody.
    #[error(
        "select: none of {servers} servers matches: loosen tiers, sites, clusters, services or servers, \
         or add the servers meant{}", contradictions::listed(.hints)
    )]
    NothingSelected {
        /// Servers that could be selected.
        servers: u64,
        /// What is named and not there.
        hints: Vec<String>,
    },
    /// Its time is over.
    #[error("expires: {expires} is not after the start ({start}): nothing would start; set a later time")]
    Expired {
        /// The plan's end.
        expires: WallTime,
        /// The time it was checked for.
        start: WallTime,
    },
    /// Every lease would be lost.
    #[error(
        "lease.down_s_max: {down_s_max} s is less than the {hold_s} s that a server is expected down: every \
         lease would be lost; raise it, or shorten health.settle_s and health.soak_s"
    )]
    LeaseTooShort {
        /// The plan's longest time down.
        down_s_max: u64,
        /// The time expected.
        hold_s: u64,
    },
}

/// What a plan comes to on these servers if it starts then. `daily_s`: seconds of each day in which servers may
/// go down that are held to no windows; a day's seconds: at any time.
///
/// # Errors
/// [`Unplannable`]: there is nothing to calculate. A plan that does not fit is an [`Assessment`].
pub fn assess(
    plan: &Plan,
    servers: &[InventoryServer],
    assumed: Assumptions,
    daily_s: u64,
    start: WallTime,
) -> Result<Assessment, Unplannable> {
    let window_s = u64::try_from(plan.expires.0.saturating_sub(start.0)).unwrap_or(0);
    if window_s == 0 {
        return Err(Unplannable::Expired { expires: plan.expires, start });
    }
    let selected: Vec<&InventoryServer> = servers.iter().filter(|server| plan.select.takes(server)).collect();
    if selected.is_empty() {
        let hints = contradictions::of_select(&plan.select, servers);
        return Err(Unplannable::NothingSelected { servers: count(servers.len()), hints });
    }
    let down_s_max = u64::from(plan.lease.down_s_max);
    if down_s_max < assumed.hold_s {
        return Err(Unplannable::LeaseTooShort { down_s_max, hold_s: assumed.hold_s });
    }
    let calendar = Calendar { window_s, daily_s: daily_s.min(Calendar::DAY_S) };
    let limits = LimitTable::from(&plan.limits);
    let openings = Openings::of(plan, calendar, start);
    let fleet = Fleet::of(&selected, &limits, &openings);
    let shares: Vec<Share> = fleet.tallies.keys().filter_map(|scope| fleet.share(scope, &assumed)).collect();
    let slowest = shares.iter().max_by_key(|share| share.finish_s.unwrap_or(u64::MAX));
    let mut contradictions = contradictions::of_select(&plan.select, servers);
    contradictions.extend(contradictions::of_limits(plan, &limits, &fleet, &shares));
    let windows = openings.told(|tier, hours| fleet.fits_in(tier, &assumed, hours));
    contradictions.extend(contradictions::of_windows(plan, &fleet, &assumed, &windows));
    let short = fleet.short(&shares, &assumed);
    let staged = stages::staged(plan, &selected, &limits, &assumed, &openings);
    let finish_s = match &staged {
        Some(staged) => staged.finish_s,
        None => slowest.and_then(|share| share.finish_s),
    };
    let Staged { rows: stages, mut stuck, .. } = staged.unwrap_or_default();
    if stuck.is_empty() {
        stuck.extend(order::circle(plan, &selected));
    }
    let in_time = stages.is_empty() || finish_s.is_some_and(|finish_s| finish_s <= window_s);
    Ok(Assessment {
        feasible: short.is_empty() && stuck.is_empty() && in_time,
        start,
        expires: plan.expires,
        calendar,
        windows,
        assumed,
        servers: count(selected.len()),
        finish_s,
        binding: fleet.binding(slowest),
        rows: shares
            .iter()
            .filter(|share| matches!(share.scope, LimitScope::Fleet | LimitScope::Tier(_)))
            .cloned()
            .collect(),
        short,
        contradictions,
        failures: assumed.failures(count(selected.len())),
        stages,
        stuck,
    })
}

/// Servers that one limit counts.
#[derive(Debug, Default)]
struct Tally {
    servers: u64,
    /// The tiers they are of.
    tiers: BTreeSet<Tier>,
    /// The same servers by each other limit that counts them. Only for the fleet, tiers and sites.
    within: BTreeMap<LimitScope, u64>,
}

/// The servers selected, by the limits that count them.
struct Fleet<'a> {
    limits: &'a LimitTable,
    openings: &'a Openings,
    tallies: BTreeMap<LimitScope, Tally>,
}

impl<'a> Fleet<'a> {
    fn of(selected: &[&InventoryServer], limits: &'a LimitTable, openings: &'a Openings) -> Self {
        let mut tallies: BTreeMap<LimitScope, Tally> = BTreeMap::new();
        for server in selected {
            let scopes: Vec<LimitScope> = server.scopes().collect();
            for scope in &scopes {
                let tally = tallies.entry(scope.clone()).or_default();
                tally.servers += 1;
                tally.tiers.insert(server.tier);
                if matches!(scope, LimitScope::Fleet | LimitScope::Tier(_) | LimitScope::Site(_)) {
                    for other in scopes.iter().filter(|other| *other != scope) {
                        *tally.within.entry(other.clone()).or_default() += 1;
                    }
                }
            }
        }
        Self { limits, openings, tallies }
    }

    /// Most servers of a scope that all the other limits together let down at once, and by which of them.
    fn bound(&self, scope: &LimitScope) -> (u64, Option<HeldBy>) {
        let Some(tally) = self.tallies.get(scope) else { return (0, None) };
        // What no limit of a kind counts may all be down as far as that kind goes.
        let mut sums: BTreeMap<HeldBy, (u64, u64)> = BTreeMap::new();
        for (inner, servers) in &tally.within {
            let limit = self.limits.of(inner).map_or(*servers, u64::from);
            let (counted, most) = sums.entry(HeldBy::kind(inner)).or_default();
            *counted += servers;
            *most += limit.min(*servers);
        }
        let (most, by) = sums
            .into_iter()
            .map(|(kind, (counted, most))| (most + tally.servers.saturating_sub(counted), Some(kind)))
            .min()
            .unwrap_or((tally.servers, None));
        if most < tally.servers { (most, by) } else { (tally.servers, None) }
    }

    fn demand(&self, scope: &LimitScope, servers: u64, slots: u64, assumed: &Assumptions) -> Demand {
        let soak_s = if matches!(scope, LimitScope::Group(_)) { assumed.group_soak_s } else { 0 };
        let paused_s = match scope {
            LimitScope::Tier(Tier::One) => assumed.failures(servers).saturating_mul(assumed.triage_s),
            LimitScope::Tier(Tier::Two | Tier::Three)
            | LimitScope::Fleet
            | LimitScope::Site(_)
            | LimitScope::Cluster(_)
            | LimitScope::Group(_) => 0,
        };
        Demand { servers, slots, soak_s, paused_s }
    }

    /// When the servers of a scope may go down.
    fn hours(&self, scope: &LimitScope) -> Hours<'_> {
        let nobody = BTreeSet::new();
        self.openings.hours(self.tallies.get(scope).map_or(&nobody, |tally| &tally.tiers))
    }

    /// Whether a tier's servers are done in these hours.
    fn fits_in(&self, tier: Tier, assumed: &Assumptions, hours: Hours<'_>) -> bool {
        let scope = LimitScope::Tier(tier);
        let servers = self.tallies.get(&scope).map_or(0, |tally| tally.servers);
        let slots = self.limits.of(&scope).map_or(servers, u64::from).min(self.bound(&scope).0);
        self.demand(&scope, servers, slots, assumed).fits(assumed, hours)
    }

    /// What the slots of a scope can do; `None` where nothing limits it.
    fn share(&self, scope: &LimitScope, assumed: &Assumptions) -> Option<Share> {
        let hours = self.hours(scope);
        let limit = u64::from(self.limits.of(scope)?);
        let servers = self.tallies.get(scope)?.servers;
        let (most, by) = self.bound(scope);
        let slots = limit.min(most);
        let demand = self.demand(scope, servers, slots, assumed);
        let at_limit = Demand { slots: if by.is_some() { slots } else { limit }, ..demand };
        Some(Share {
            scope: scope.clone(),
            servers,
            limit,
            slots,
            held_by: by.filter(|_| slots < limit),
            needed_slot_s: seconds(demand.needed_ms(assumed)),
            available_slot_s: seconds(at_limit.available_ms(hours)),
            done: demand.done(assumed, hours),
            finish_s: demand.finish_s(assumed, hours),
            fits: demand.fits(assumed, hours),
        })
    }

    /// The limits that are too small by themselves. What is held back by a smaller limit is that one's matter.
    fn short(&self, shares: &[Share], assumed: &Assumptions) -> Vec<Short> {
        // Two tiers are two different matters; a thousand groups are one.
        let mut worst: BTreeMap<(HeldBy, Option<Tier>), Short> = BTreeMap::new();
        for share in shares {
            let hours = self.hours(&share.scope);
            let demand = self.demand(&share.scope, share.servers, share.limit.min(share.servers), assumed);
            if demand.fits(assumed, hours) {
                continue;
            }
            let raisable = !matches!(share.scope, LimitScope::Group(_));
            let limit_that_fits = demand
                .slots_that_fit(assumed, hours)
                .filter(|slots| raisable && (share.limit + 1..=share.servers).contains(slots));
            let (most, by) = self.bound(&share.scope);
            let short = Short {
                hold_that_fits_s: demand.hold_that_fits(assumed, hours),
                limit_that_fits,
                limit_held_by: by.filter(|_| limit_that_fits.is_some_and(|slots| slots > most)),
                share: share.clone(),
                more: 0,
            };
            let tier = if let LimitScope::Tier(tier) = &share.scope { Some(*tier) } else { None };
            let kind = (HeldBy::kind(&share.scope), tier);
            let finish = |short: &Short| short.share.finish_s.unwrap_or(u64::MAX);
            match worst.get_mut(&kind) {
                None => {
                    worst.insert(kind, short);
                }
                Some(before) => {
                    let more = before.more + 1;
                    if finish(&short) > finish(before) {
                        *before = short;
                    }
                    before.more = more;
                }
            }
        }
        let mut short: Vec<Short> = worst.into_values().collect();
        short.sort_by_key(|short| std::cmp::Reverse(short.share.finish_s.unwrap_or(u64::MAX)));
        short
    }

    /// The limit that makes the slowest scope slow: its own, or the one that holds it back.
    fn binding(&self, slowest: Option<&Share>) -> LimitScope {
        let Some(share) = slowest else { return LimitScope::Fleet };
        let Some(by) = share.held_by else { return share.scope.clone() };
        let inner = self.tallies.get(&share.scope).into_iter().flat_map(|tally| tally.within.iter());
        inner
            .filter(|(scope, _)| HeldBy::kind(scope) == by)
            .max_by_key(|(scope, servers)| {
                **servers / self.limits.of(scope).map_or(u64::MAX, |limit| u64::from(limit).max(1))
            })
            .map_or_else(|| share.scope.clone(), |(scope, _)| scope.clone())
    }
}

impl HeldBy {
    fn kind(scope: &LimitScope) -> Self {
        match scope {
            LimitScope::Fleet => Self::Fleet,
            LimitScope::Tier(_) => Self::Tiers,
            LimitScope::Site(_) => Self::Sites,
            LimitScope::Cluster(_) => Self::Clusters,
            LimitScope::Group(_) => Self::Groups,
        }
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

fn seconds(ms: u128) -> u64 {
    u64::try_from(ms / 1000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
