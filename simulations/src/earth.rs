//! The one link to Earth, and the origin's queue before it.
//!
//! Owns [`Earth`]. Main invariant: the link never carries more than its rate and nothing while it is dark; what was
//! asked for is sent in order, and what was given up before its turn is not sent at all. A transfer that a blackout
//! cuts goes on after it: a blackout costs no byte twice.

use std::collections::VecDeque;

use crate::scenario::EarthLink;
use crate::swarming::Transfer;

/// The link, and what waits for it.
#[derive(Debug)]
pub(crate) struct Earth {
    rate_bit_s: u64,
    latency_us: u64,
    /// From, until, in order.
    blackouts: Vec<(u64, u64)>,
    queue: VecDeque<(Transfer, u64)>,
    sending: Option<(Transfer, u64)>,
}

impl Earth {
    pub(crate) fn new(link: &EarthLink) -> Self {
        let mut blackouts: Vec<(u64, u64)> = link
            .blackouts
            .iter()
            .map(|black| (black.from_s * 1_000_000, (black.from_s + black.for_s) * 1_000_000))
            .collect();
        blackouts.sort_unstable();
        Self {
            rate_bit_s: link.efficiency.of(link.rate_bit_s),
            latency_us: u64::from(link.round_trip_ms) * 500,
            blackouts,
            queue: VecDeque::new(),
            sending: None,
        }
    }

    /// When something small that leaves now is at the other end: a connection outlives a blackout.
    pub(crate) fn arrives_us(&self, at_us: u64) -> u64 {
        self.light_us(at_us) + self.latency_us
    }

    /// From when on the link carries something, now or later.
    fn light_us(&self, at_us: u64) -> u64 {
        let dark = self.blackouts.iter().filter(|(from, until)| (*from..*until).contains(&at_us));
        dark.map(|(_, until)| *until).max().unwrap_or(at_us)
    }

    /// A request is at the origin. When the link has sent the next transfer, if it was idle.
    pub(crate) fn asked(&mut self, at_us: u64, transfer: Transfer, bytes: u64) -> Option<u64> {
        self.queue.push_back((transfer, bytes));
        if self.sending.is_some() { None } else { self.next(at_us) }
    }

    /// A request is given up; one that is being sent is sent to its end.
    pub(crate) fn given_up(&mut self, to: u32, life: u32, request: u32) {
        self.queue.retain(|(asked, _)| (asked.to, asked.life, asked.request) != (to, life, request));
    }

    /// A transfer is sent: which, its bytes, and when the next one will be.
    pub(crate) fn sent(&mut self, at_us: u64) -> Option<(Transfer, u64, Option<u64>)> {
        let (transfer, bytes) = self.sending.take()?;
        Some((transfer, bytes, self.next(at_us)))
    }

    fn next(&mut self, at_us: u64) -> Option<u64> {
        let next = self.queue.pop_front()?;
        self.sending = Some(next);
        Some(self.ends_us(at_us, next.1))
    }

    fn ends_us(&self, at_us: u64, bytes: u64) -> u64 {
        let mut left = (bytes * 8_000_000).div_ceil(self.rate_bit_s.max(1));
        let mut now = self.light_us(at_us);
        for (dark, light) in &self.blackouts {
            if *dark >= now && now + left > *dark {
                left -= *dark - now;
                now = self.light_us(*light);
            }
        }
        now + left
    }

    /// The bytes that the link can have carried by a time.
    pub(crate) fn bytes_by(&self, at_us: u64) -> u64 {
        let dark: u64 = self
            .blackouts
            .iter()
            .map(|(from, until)| (*until).min(at_us).saturating_sub((*from).min(at_us)))
            .sum();
        let bits = u128::from(self.rate_bit_s) * u128::from(at_us.saturating_sub(dark)) / 1_000_000;
        u64::try_from(bits / 8 + 1).unwrap_or(u64::MAX)
    }

    /// Whether it has been dark for so long, or was until less than `then` ago.
    pub(crate) fn was_long_dark(&self, at_us: u64, long_us: u64, then_us: u64) -> bool {
        self.blackouts.iter().any(|(from, until)| {
            *until - *from > long_us && at_us >= *from + long_us && at_us < *until + then_us
        })
    }

    pub(crate) fn is_dark(&self, at_us: u64) -> bool {
        self.light_us(at_us) > at_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Blackout, Fraction};

    fn earth() -> Earth {
        let blackouts = vec![Blackout { from_s: 10, for_s: 100 }];
        Earth::new(&EarthLink {
            rate_bit_s: 8_000_000,
            efficiency: Fraction::ONE,
            blackouts,
            ..EarthLink::default()
        })
    }

    #[test]
    fn the_link_carries_its_rate_and_goes_on_after_a_blackout_where_it_was_cut() {
        let mut earth = earth();
        let first = earth.asked(0, Transfer::of_test(1), 4_000_000).unwrap();
        assert_eq!(first, 4_000_000);
        assert_eq!(earth.asked(1_000_000, Transfer::of_test(2), 8_000_000), None);
        let (_, bytes, second) = earth.sent(first).unwrap();
        // Six seconds before the dark, two after it.
        assert_eq!((bytes, second), (4_000_000, Some(112_000_000)));
        assert!(earth.is_dark(10_000_000) && !earth.is_dark(110_000_000));
        assert_eq!(earth.bytes_by(112_000_000), 12_000_001);
        let long = |at_us| earth.was_long_dark(at_us, 60_000_000, 5_000_000);
        assert_eq!([69, 70, 114, 115].map(|s| long(s * 1_000_000)), [false, true, true, false]);
    }

    #[test]
    fn what_is_given_up_before_its_turn_is_not_sent() {
        let mut earth = earth();
        let first = earth.asked(0, Transfer::of_test(1), 1_000_000).unwrap();
        earth.asked(0, Transfer::of_test(2), 1_000_000);
        earth.given_up(0, 0, 2);
        assert_eq!(earth.sent(first).map(|(_, bytes, next)| (bytes, next)), Some((1_000_000, None)));
    }
}
