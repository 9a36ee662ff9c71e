//! What bytes travel over: each server's interface, what joins the sites, and the one link to Earth.
//!
//! Owns [`Links`]. Main invariant: no link ever carries more than its rate: each is a queue that is served in order,
//! so that what is carried in a time is exact, and a transfer's end is known when it begins. The order of transfers
//! that compete is off by one chunk at most. In a blackout the link to Earth carries nothing.

use crate::chance::keyed;
use crate::options::Options;
use crate::scenario::{Links as Specification, Seat};
use crate::swarming::ORIGIN;

/// How two machines reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Within,
    Between,
    Earth,
}

/// A relay is up or down for this long at a time, in microseconds.
const RELAY_US: u64 = 600_000_000;

/// When each direction of something is free again, in microseconds.
#[derive(Debug, Clone, Copy, Default)]
struct Free {
    up: u64,
    down: u64,
}

/// All links.
#[derive(Debug)]
pub(crate) struct Links {
    seed: u64,
    specification: Specification,
    /// Sites that are cut off: which, from, until.
    lost: Vec<(usize, u64, u64)>,
    blackouts: Vec<(u64, u64)>,
    site_of: Vec<u16>,
    servers: Vec<Free>,
    sites: Vec<Free>,
    earth_free: u64,
}

impl Links {
    pub(crate) fn new(options: &Options, seats: &[Seat]) -> Self {
        let scenario = &options.scenario;
        let names = scenario.site_names();
        let lost = scenario.faults.site_lost.iter().filter_map(|lost| {
            let site = names.iter().position(|name| *name == lost.site)?;
            Some((site, lost.from_s * 1_000_000, (lost.from_s + lost.for_s) * 1_000_000))
        });
        let blackouts = scenario.links.earth.blackouts.iter();
        Self {
            seed: options.seed,
            lost: lost.collect(),
            blackouts: blackouts
                .map(|black| (black.from_s * 1_000_000, (black.from_s + black.for_s) * 1_000_000))
                .collect(),
            specification: scenario.links.clone(),
            site_of: seats.iter().map(|seat| u16::try_from(seat.site).expect("few sites")).collect(),
            servers: vec![Free::default(); seats.len()],
            sites: vec![Free::default(); names.len()],
            earth_free: 0,
        }
    }

    fn site(&self, number: u32) -> usize {
        usize::from(self.site_of[number as usize])
    }

    /// How one machine reaches another now; `None`: it does not.
    pub(crate) fn route(&self, at_us: u64, a: u32, b: u32) -> Option<Route> {
        let route = match (a, b) {
            (ORIGIN, _) | (_, ORIGIN) => Route::Earth,
            _ if self.site(a) == self.site(b) => return Some(Route::Within),
            _ => Route::Between,
        };
        let cut = |number: u32| number != ORIGIN && self.is_cut(self.site(number), at_us);
        (!cut(a) && !cut(b)).then_some(route)
    }

    /// Whether a site is cut off from the others and from Earth: lost, or without a working relay.
    pub(crate) fn is_cut(&self, site: usize, at_us: u64) -> bool {
        let lost =
            |(which, from, until): &(usize, u64, u64)| *which == site && (*from..*until).contains(&at_us);
        if self.lost.iter().any(lost) {
            return true;
        }
        let available = self.specification.between.relay_availability.in_million();
        if available >= 1_000_000 || self.sites.len() < 2 {
            return false;
        }
        let slot = at_us / RELAY_US;
        let relays = u64::from(self.specification.between.relays);
        (0..relays).all(|relay| keyed(self.seed, site as u64, RELAY + relay, slot) % 1_000_000 >= available)
    }

    /// One way, in microseconds: the same between the same two, for jitter is the queues' business.
    pub(crate) fn latency_us(&self, route: Route, a: u32, b: u32) -> u64 {
        let span = match route {
            Route::Within => self.specification.site.latency_ms,
            Route::Between => self.specification.between.latency_ms,
            Route::Earth => return u64::from(self.specification.earth.round_trip_ms) * 500,
        };
        let drawn = keyed(self.seed, u64::from(a.min(b)), u64::from(a.max(b)), LATENCY);
        span.low * 1_000 + drawn % ((span.high - span.low) * 1_000 + 1)
    }

    /// How long what a server has to send takes it still.
    pub(crate) fn waits_us(&self, server: usize, at_us: u64) -> u64 {
        self.servers[server].up.saturating_sub(at_us)
    }

    /// Carries bytes to one machine from another that was asked now. When they are there; `None`: the link to Earth
    /// goes dark before.
    pub(crate) fn carry(&mut self, route: Route, at_us: u64, to: u32, from: u32, bytes: u64) -> Option<u64> {
        let latency = self.latency_us(route, to, from);
        let asked = at_us + latency;
        if route == Route::Earth {
            return self.carry_from_earth(asked, latency, bytes);
        }
        let nic = self.specification.site.nic_rate_bit_s;
        let (up, down) = (self.servers[from as usize].up, self.servers[to as usize].down);
        let mut start = asked.max(up).max(down);
        let mut takes = time_us(bytes, nic);
        if route == Route::Between {
            let (out, into) = (self.site(from), self.site(to));
            start = start.max(self.sites[out].up).max(self.sites[into].down);
            let between = time_us(bytes, self.specification.between.rate_bit_s);
            (self.sites[out].up, self.sites[into].down) = (start + between, start + between);
            takes = takes.max(between);
        }
        let end = start + takes;
        (self.servers[from as usize].up, self.servers[to as usize].down) = (end, end);
        Some(end + latency)
    }

    fn carry_from_earth(&mut self, asked: u64, latency: u64, bytes: u64) -> Option<u64> {
        let earth = &self.specification.earth;
        let takes = time_us(bytes, earth.efficiency.of(earth.rate_bit_s));
        let start = asked.max(self.earth_free);
        // What is on its way for the whole of it, from the question to the last byte, must meet no blackout.
        let (from, until) = (asked - latency, start + takes + latency);
        if self.blackouts.iter().any(|(dark, light)| *dark < until && from < *light) {
            return None;
        }
        self.earth_free = start + takes;
        Some(start + takes + latency)
    }
}

fn time_us(bytes: u64, bit_s: u64) -> u64 {
    (bytes * 8_000_000).div_ceil(bit_s.max(1))
}

/// Purposes of draws that are made once, beyond those that are counted.
const RELAY: u64 = 2_000;
const LATENCY: u64 = 2_100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;
    use std::sync::Arc;

    fn links() -> Links {
        let options = Options::of(Arc::new(Scenario::small(1)), 1);
        let seats = options.scenario.seats();
        Links::new(&options, &seats)
    }

    #[test]
    fn an_interface_carries_its_rate_and_not_a_byte_more() {
        let mut links = links();
        let ends: Vec<u64> =
            (0..100).map(|_| links.carry(Route::Within, 0, 0, 2, 262_144).unwrap()).collect();
        let (first, last) = (ends[0], ends[99]);
        assert_eq!(last - first, 99 * time_us(262_144, 1_000_000_000));
        assert!(links.waits_us(2, 0) >= 100 * time_us(262_144, 1_000_000_000));
    }

    #[test]
    fn the_link_to_earth_is_one_queue_for_all_and_dark_in_a_blackout() {
        let mut links = links();
        links.blackouts = vec![(20_000_000, 30_000_000)];
        let first = links.carry(Route::Earth, 0, 0, ORIGIN, 262_144).unwrap();
        let second = links.carry(Route::Earth, 0, 1, ORIGIN, 262_144).unwrap();
        assert_eq!(second - first, time_us(262_144, 28_500_000));
        assert_eq!(links.carry(Route::Earth, 19_000_000, 0, ORIGIN, 262_144), None);
        assert_eq!(links.carry(Route::Earth, 25_000_000, 0, ORIGIN, 262_144), None);
        assert!(links.carry(Route::Earth, 30_000_000, 0, ORIGIN, 262_144).is_some());
    }
}
