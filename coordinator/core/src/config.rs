//! The coordinator's own thresholds: those that no plan sets.
//!
//! Owns [`Config`]. Main invariant: none of these can free a slot; they only decide how soon a server counts
//! as taking one, and how often servers speak.

use std::time::Duration;

/// Thresholds, each with the reason for its default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How often a server reports that holds a lease or is not well.
    pub report_every: Duration,
    /// Most reports a second from all others together, which are asked less often the more they are. 33 of 200
    /// bytes are 53 kbit/s; every 30 s from 10,000 servers they were ten times that, and 40 GB a week.
    pub reports_per_s: u32,
    /// The longest that a server is not asked for a report, however large the fleet.
    pub report_every_max: Duration,
    /// A server that was asked for a report every `report_every` and is silent for this long takes a slot: three
    /// reports missed, and ten seconds for the way. One that was asked less often may be silent as much longer.
    pub unreachable_after: Duration,
    /// Unhealthy reports in a row after which a server takes a slot. The first: a server that says it is
    /// unwell may stand in for nobody, and a false alarm costs only a wait.
    pub unhealthy_reports: u32,
    /// Whether a server that cannot tell how it is takes a slot. Not by default: a server to which no plan
    /// has given probes cannot tell. One that claims must be healthy in any case.
    pub inconclusive_takes_slot: bool,
    /// How much later than the holder's own deadline a lease is LOST: the way of the claim, of the grant and
    /// of the news, and clocks that run at slightly different rates.
    pub lost_margin: Duration,
    /// A claim that waited this long while its scopes were taken in turn by others has a slot kept for it.
    /// As long as one server is expected down by default.
    pub patience: Duration,
    /// Shortest hint for the next claim. Grants are pushed, so this is for the case that the push is lost.
    pub retry_after_min: Duration,
    /// Longest hint for the next claim, however long the queue. A quarter of the time to start binds first.
    pub retry_after_max: Duration,
    /// A claim whose turn cannot come within this time, were each before it down for half a minute only, is far from
    /// the head of the queue, and its hint is as long as its turn is away.
    pub retry_after_far: Duration,
    /// The hint of the farthest.
    pub retry_after_farthest: Duration,
    /// What every waiting claim adds to the hint: 3 ms hold 10,000 of them to about 333 a second.
    pub retry_after_each: Duration,
    /// How often the coordinator makes itself known by gossip; less often to a fleet so large that its servers are
    /// asked for reports less often.
    pub announce_every: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            report_every: Duration::from_secs(30),
            reports_per_s: 33,
            report_every_max: Duration::from_secs(1_800),
            unreachable_after: Duration::from_secs(100),
            unhealthy_reports: 1,
            inconclusive_takes_slot: false,
            lost_margin: Duration::from_secs(30),
            patience: Duration::from_secs(30 * 60),
            retry_after_min: Duration::from_secs(2),
            retry_after_max: Duration::from_secs(60),
            retry_after_far: Duration::from_secs(300),
            retry_after_farthest: Duration::from_secs(1_800),
            retry_after_each: Duration::from_millis(3),
            announce_every: Duration::from_secs(30),
        }
    }
}
