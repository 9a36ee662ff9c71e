//! Who stands where: every server's tier, site, cluster, group and hardware, from the scenario alone.
//!
//! Owns [`Seat`]. Main invariant: seats follow from the counts, so that one scenario has one fleet, whatever the
//! seed; tiers keep their counts exactly, sites to within one server of their share.

use lunar_common::limits::Tier;
use lunar_common::order::draw_below;

use super::Scenario;

/// One server's place. Sites, clusters, groups and hardware are numbers, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// Its tier.
    pub tier: Tier,
    /// Its site, as in [`Scenario::site_names`].
    pub site: usize,
    /// Its cluster; numbers of one site follow each other nowhere else.
    pub cluster: usize,
    /// Its redundancy group.
    pub group: Option<usize>,
    /// Its hardware, as in the scenario's list; 0 where there is none.
    pub hardware: usize,
}

impl Scenario {
    /// Every server's seat: tier 1 first, and in each tier the sites mixed by their shares.
    #[must_use]
    pub fn seats(&self) -> Vec<Seat> {
        if let Some(seated) = &self.fleet.seated {
            return seated.to_vec();
        }
        let counts = site_counts(self);
        let mut clusters = Clusters::new(counts.len(), self.fleet.cluster_servers);
        let mut taken = vec![0usize; counts.len()];
        let total = self.servers();
        let mut seats: Vec<Seat> = Vec::with_capacity(total);
        for tier in Tier::ALL {
            for _ in 0..self.fleet.tier.of(tier) {
                let site = next_site(&counts, &taken, seats.len(), total);
                taken[site] += 1;
                let cluster = clusters.seat(site);
                let hardware = self.hardware_of(seats.len());
                seats.push(Seat { tier, site, cluster, group: None, hardware });
            }
        }
        self.put_in_groups(&mut seats);
        seats
    }

    fn hardware_of(&self, server: usize) -> usize {
        let drawn = draw_below(1_000_000, "hardware", &[&(server as u64).to_le_bytes()]);
        let mut below = 0;
        let found = self.fleet.hardware.iter().position(|kind| {
            below += kind.share.in_million();
            drawn < below
        });
        found.unwrap_or(self.fleet.hardware.len().saturating_sub(1))
    }

    /// Neighbours of one tier, and of one site where groups do not span sites, share a group.
    fn put_in_groups(&self, seats: &mut [Seat]) {
        let Some(groups) = &self.fleet.group else { return };
        let sites = if groups.across_sites { 1 } else { self.fleet.site.len() };
        let (mut next, size) = (0, groups.size as usize);
        for tier in Tier::ALL.into_iter().filter(|tier| groups.tiers.contains(tier)) {
            for site in 0..sites {
                let mut members = 0;
                let here = seats
                    .iter_mut()
                    .filter(|seat| seat.tier == tier && (groups.across_sites || seat.site == site));
                for seat in here {
                    seat.group = Some(next + members / size);
                    members += 1;
                }
                next += members.div_ceil(size);
            }
        }
    }
}

/// Servers a site: the counts as written, or the shares, with what is left over to the largest remainders.
pub(super) fn site_counts(scenario: &Scenario) -> Vec<usize> {
    let total = scenario.servers();
    let sites = &scenario.fleet.site;
    if sites.iter().all(|site| site.servers.is_some()) {
        return sites.iter().map(|site| site.servers.unwrap_or(0) as usize).collect();
    }
    let exact = |site: &super::Site| {
        let share = site.share.map_or(0, super::Fraction::in_million);
        u128::from(share) * total as u128
    };
    let mut counts: Vec<usize> =
        sites.iter().map(|site| usize::try_from(exact(site) / 1_000_000).unwrap_or(0)).collect();
    let mut by_remainder: Vec<usize> = (0..sites.len()).collect();
    by_remainder.sort_by_key(|at| std::cmp::Reverse(exact(&sites[*at]) % 1_000_000));
    let left = total.saturating_sub(counts.iter().sum());
    for at in by_remainder.into_iter().cycle().take(left) {
        counts[at] += 1;
    }
    counts
}

/// The site that is furthest behind its share after `placed` servers.
fn next_site(counts: &[usize], taken: &[usize], placed: usize, total: usize) -> usize {
    let behind = |at: &usize| {
        let wanted = counts[*at] as i128 * (placed as i128 + 1);
        wanted - taken[*at] as i128 * total as i128
    };
    // The first of equals: `max_by_key` alone would take the last.
    (0..counts.len()).rev().max_by_key(behind).unwrap_or(0)
}

/// Hands out clusters: each lies in one site and is filled before the next begins.
struct Clusters {
    size: Option<usize>,
    open: Vec<Option<(usize, usize)>>,
    next: usize,
}

impl Clusters {
    fn new(sites: usize, size: Option<u32>) -> Self {
        Self { size: size.map(|size| size as usize), open: vec![None; sites], next: 0 }
    }

    fn seat(&mut self, site: usize) -> usize {
        let Some(size) = self.size else { return 0 };
        match &mut self.open[site] {
            Some((cluster, members)) if *members < size => {
                *members += 1;
                *cluster
            }
            open => {
                *open = Some((self.next, 1));
                self.next += 1;
                self.next - 1
            }
        }
    }
}
