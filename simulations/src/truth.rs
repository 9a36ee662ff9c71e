//! The world's own counts of what is down, kept by the durable changes of one server at a time.
//!
//! Owns [`Truth`]. Main invariant: every count equals what a recount of all servers gives, which is done every
//! 65,536 events and at the end; a check after an event then costs the same in every fleet. Refuses to know what a
//! coordinator or an agent believes.

use lunar_common::ids::SiteId;
use lunar_common::limits::Tier;

use crate::invariants::Violation;
use crate::measure::State;
use crate::options::Options;
use crate::scenario::{Scenario, Seat};
use crate::server::Server;

/// Counts of one fleet.
#[derive(Debug)]
pub(crate) struct Truth {
    known: Vec<Known>,
    counts: Counts,
    limits: Limits,
    /// Servers on which something durable changed in this event, or of which a half came up or died.
    pub(crate) touched: Vec<usize>,
    /// Servers whose network half did something in this event.
    pub(crate) acted: Vec<usize>,
    /// Servers that have not come to an end.
    pub(crate) unsettled: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Known {
    down: bool,
    settled: bool,
}

/// Servers down, by scope.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Counts {
    fleet: u32,
    tier: [u32; 3],
    site: Vec<u32>,
    cluster: Vec<u32>,
    group: Vec<u32>,
}

/// What people allowed, by the same numbers.
#[derive(Debug)]
struct Limits {
    fleet: u32,
    tier: [u32; 3],
    site: Vec<u32>,
    sites: Vec<SiteId>,
    cluster: u32,
    group: u32,
}

impl Counts {
    fn none(scenario: &Scenario, seats: &[Seat]) -> Self {
        let length = |numbers: &mut dyn Iterator<Item = usize>| numbers.max().map_or(0, |most| most + 1);
        Self {
            fleet: 0,
            tier: [0; 3],
            site: vec![0; scenario.fleet.site.len()],
            cluster: vec![0; length(&mut seats.iter().map(|seat| seat.cluster))],
            group: vec![0; length(&mut seats.iter().filter_map(|seat| seat.group))],
        }
    }

    fn change(&mut self, seat: &Seat, down: bool) {
        let step = |count: &mut u32| *count = if down { *count + 1 } else { *count - 1 };
        step(&mut self.fleet);
        step(&mut self.tier[tier(seat.tier)]);
        step(&mut self.site[seat.site]);
        step(&mut self.cluster[seat.cluster]);
        if let Some(group) = seat.group {
            step(&mut self.group[group]);
        }
    }
}

fn tier(tier: Tier) -> usize {
    usize::from(tier.number() - 1)
}

impl Truth {
    /// Nobody is down, and nobody has come to an end.
    pub(crate) fn new(options: &Options, seats: &[Seat]) -> Self {
        let scenario = &*options.scenario;
        let sites = scenario.site_names();
        let most = &scenario.limits;
        Self {
            known: vec![Known::default(); seats.len()],
            counts: Counts::none(scenario, seats),
            limits: Limits {
                fleet: most.fleet.get(),
                tier: Tier::ALL.map(|tier| most.tier.of(tier)),
                site: sites.iter().map(|site| most.site.of(site).unwrap_or(u32::MAX)).collect(),
                sites,
                cluster: most.cluster.default.map_or(u32::MAX, std::num::NonZero::get),
                group: most.group.get(),
            },
            touched: Vec::new(),
            acted: Vec::new(),
            unsettled: seats.len(),
        }
    }

    /// Something durable changed on a server, or it lives or died: its counts follow. Says whether it went down.
    pub(crate) fn follow(&mut self, number: usize, server: &Server) -> bool {
        let known = &mut self.known[number];
        let (down, settled) = (server.is_down(), server.has_ended());
        if known.settled != settled {
            self.unsettled = if settled { self.unsettled - 1 } else { self.unsettled + 1 };
            known.settled = settled;
        }
        if known.down == down {
            return false;
        }
        known.down = down;
        self.counts.change(&server.seat, down);
        down
    }

    /// The scope of a server in which too many are down: how many, and how many may be. Groups have a check of
    /// their own.
    pub(crate) fn overfull(&self, seat: &Seat) -> Option<(String, u32, u32)> {
        let (counts, limits) = (&self.counts, &self.limits);
        let (of_tier, site) = (tier(seat.tier), seat.site);
        if counts.fleet > limits.fleet {
            return Some(("the fleet".to_owned(), counts.fleet, limits.fleet));
        }
        if counts.tier[of_tier] > limits.tier[of_tier] {
            return Some((format!("tier {}", seat.tier), counts.tier[of_tier], limits.tier[of_tier]));
        }
        if counts.site[site] > limits.site[site] {
            return Some((format!("site {}", limits.sites[site]), counts.site[site], limits.site[site]));
        }
        if counts.cluster[seat.cluster] > limits.cluster {
            let scope = format!("cluster-{}", seat.cluster);
            return Some((scope, counts.cluster[seat.cluster], limits.cluster));
        }
        None
    }

    /// The group of a server, if too many of it are down.
    pub(crate) fn overfull_group(&self, seat: &Seat) -> Option<(usize, u32)> {
        let group = seat.group?;
        (self.counts.group[group] > self.limits.group).then_some((group, self.counts.group[group]))
    }

    /// Whether a server was down when it was last looked at.
    pub(crate) fn is_down(&self, server: usize) -> bool {
        self.known[server].down
    }

    /// Counts everything again.
    pub(crate) fn recount(&self, scenario: &Scenario, servers: &[Server]) -> Option<Violation> {
        let seats: Vec<Seat> = servers.iter().map(|server| server.seat).collect();
        let mut counts = Counts::none(scenario, &seats);
        let mut unsettled = 0;
        for server in servers {
            if server.is_down() {
                counts.change(&server.seat, true);
            }
            unsettled += usize::from(!server.has_ended());
        }
        (counts != self.counts || unsettled != self.unsettled).then(|| {
            let what = format!("counted {counts:?}, {unsettled} not at an end; kept {self:?}");
            Violation::new("the world's own counts", what)
        })
    }
}

/// What a server is doing, for pictures.
pub(crate) fn state_of(server: &Server) -> State {
    let Some(journal) = &server.journal else { return State::Waiting };
    match (&journal.active, journal.finished.values().next()) {
        (Some(active), _) => State::under_way(active.state.phase()),
        (None, Some(end)) => State::of(end.phase),
        (None, None) => State::Waiting,
    }
}
