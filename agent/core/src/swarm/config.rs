//! The swarm's numbers, each with its reason.
//!
//! Owns [`Config`]. Main invariant: every number has a default that survives a round trip of 2.5 s.

use std::time::Duration;

use lunar_common::retry::BackOff;

/// The swarm's numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Requests in flight to peers (H2).
    pub in_flight_max: u32,
    /// Bytes that keep the Earth link full: 30 Mbit/s × 2.5 s, and half as many waiting at the origin, because
    /// duties are never quite even. All gateways together keep this much requested.
    pub earth_bytes_in_flight: u64,
    /// Most requests of one agent in flight over the Earth link. They do not count among `in_flight_max`: an
    /// answer that takes 2.5 s must not hold a slot that the site could use.
    pub earth_in_flight_max: u32,
    /// Gateways a site: the members that fetch for it over the Earth link and from other sites (H3: three).
    pub gateways_per_site: usize,
    /// Chunks that listeners are told of in one message. What a site got from itself is told in batches, or most
    /// of what is sent would be announcements; what came into the site is told at once.
    pub haves_per_message: usize,
    /// Longest that listeners wait to be told of a chunk that few have. Each member waits for a part of it that it draws,
    /// so that those who are first tell it, and the others see that they need not.
    pub announce_within: Duration,
    /// The same for a chunk that several of the site have: nobody waits for one more copy, and where chunks come slowly
    /// most messages would tell of one each. Less than `silence`.
    pub announce_common_within: Duration,
    /// Connections to members of the same site, gateways included. 8 in flight need few sources.
    pub neighbours_max: usize,
    /// A request's time before its bytes are counted, same site.
    pub patience_site: Duration,
    /// The same, other sites.
    pub patience_sites: Duration,
    /// The same, Earth: a round trip, the origin's queue, and room for a retransmission.
    pub patience_earth: Duration,
    /// Bytes a second below which a source counts as failed: a slow drip holds a slot for ever otherwise.
    pub rate_floor_bytes_s: u64,
    /// How long have-sets may take to arrive before the Earth link is used: gossip needs a moment.
    pub settle_min: Duration,
    /// The longest wait for peers that do not answer, before the Earth link is used.
    pub settle_max: Duration,
    /// A gateway that owes chunks and says nothing for this long is passed over.
    pub silence: Duration,
    /// In the end-game, a request outstanding this long is made a second time elsewhere.
    pub end_game_after: Duration,
    /// With nothing at all arriving for this long (times one's place in the order), one helps oneself.
    pub stall: Duration,
    /// How long helping oneself lasts before the order of duties holds again.
    pub stall_relief: Duration,
    /// Failures in a row that open a peer's breaker.
    pub breaker_failures: u32,
    /// How long a breaker stays open.
    pub breaker: BackOff,
    /// How long a peer that sent corrupt bytes is avoided.
    pub ban: BackOff,
    /// Have-set entries that turn out false before a peer is banned.
    pub lies_max: u32,
    /// Chunks that a member says it is fetching and that never come, before it is not believed: as many as it may have
    /// under way when it is cut off.
    pub overdue_max: u32,
}

impl Config {
    /// How long so many bytes take at the rate floor.
    pub(super) fn at_the_floor(&self, bytes: u64) -> Duration {
        Duration::from_millis(bytes.saturating_mul(1000) / self.rate_floor_bytes_s.max(1))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            in_flight_max: 8,
            earth_bytes_in_flight: 30_000_000 / 8 * 5 / 2 * 3 / 2,
            earth_in_flight_max: 64,
            gateways_per_site: 3,
            haves_per_message: 16,
            announce_within: Duration::from_millis(500),
            announce_common_within: Duration::from_secs(10),
            neighbours_max: 12,
            patience_site: Duration::from_secs(5),
            patience_sites: Duration::from_secs(10),
            patience_earth: Duration::from_secs(30),
            rate_floor_bytes_s: 32 * 1024,
            settle_min: Duration::from_secs(1),
            settle_max: Duration::from_secs(8),
            silence: Duration::from_secs(20),
            end_game_after: Duration::from_secs(1),
            stall: Duration::from_secs(60),
            stall_relief: Duration::from_secs(30),
            breaker_failures: 3,
            breaker: BackOff { base: Duration::from_secs(2), cap: Duration::from_secs(300) },
            ban: BackOff { base: Duration::from_secs(60), cap: Duration::from_secs(86_400) },
            lies_max: 3,
            overdue_max: 8,
        }
    }
}
