//! What bytes travel over on the Moon: each server's interface, and what joins the sites.
//!
//! Owns [`Links`]. Main invariant: no link ever carries more than its rate: each is a queue that is served in order,
//! so that what is carried in a time is exact, and a transfer's end is known when it begins. The order of transfers
//! that compete is off by one chunk at most. The link to Earth has a room of its own, [`Earth`](crate::earth::Earth).

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
    site_of: Vec<u16>,
    servers: Vec<Free>,
    sites: Vec<Free>,
}

impl Links {
    pub(crate) fn new(options: &Options, seats: &[Seat]) -> Self {
        let scenario = &options.scenario;
        Self {
            seed: options.seed,
            specification: scenario.links.clone(),
            site_of: seats.iter().map(|seat| u16::try_from(seat.site).expect("few sites")).collect(),
            servers: vec![Free::default(); seats.len()],
            sites: vec![Free::default(); scenario.fleet.site.len()],
        }
    }

    fn site(&self, number: u32) -> usize {
        usize::from(self.site_of[number as usize])
    }

    /// How one machine reaches another.
    pub(crate) fn route(&self, a: u32, b: u32) -> Route {
        match (a, b) {
            (ORIGIN, _) | (_, ORIGIN) => Route::Earth,
            _ if self.site(a) == self.site(b) => Route::Within,
            _ => Route::Between,
        }
    }

    /// Whether no relay of a site works: it is cut off from the others and from Earth.
    pub(crate) fn has_no_relay(&self, site: usize, at_us: u64) -> bool {
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

    /// Carries bytes on the Moon to one machine from another that was asked now. When they are there.
    pub(crate) fn carry(&mut self, route: Route, at_us: u64, to: u32, from: u32, bytes: u64) -> u64 {
        let latency = self.latency_us(route, to, from);
        let asked = at_us + latency;
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
        end + latency
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
        let ends: Vec<u64> = (0..100).map(|_| links.carry(Route::Within, 0, 0, 2, 262_144)).collect();
        let (first, last) = (ends[0], ends[99]);
        assert_eq!(last - first, 99 * time_us(262_144, 1_000_000_000));
        assert!(links.waits_us(2, 0) >= 100 * time_us(262_144, 1_000_000_000));
    }
}
