//! How much of the Earth link's queue one agent fills.
//!
//! Owns [`EarthWindow`]. Main invariant: at least one request may always be under way, and no more than keep the link
//! full, as far as answers show: what they take longer than the quickest of them, they waited for in the origin's queue,
//! where a blackout or the end of patience catches them. Refuses to know rates: bytes in flight over the time that they
//! take are one.

use std::time::Duration;

use lunar_common::time::Moment;

/// Most requests to the origin, as its answers show.
#[derive(Debug, Clone)]
pub(super) struct EarthWindow {
    requests: u32,
    requests_max: u32,
    /// The quickest answer: the round trip and a chunk's own time. Never forgotten: the way to Earth stays as long as it is.
    quickest: Option<Duration>,
    /// When it was last made smaller: what was sent before says nothing of it as it is now.
    shrunk: Moment,
}

impl EarthWindow {
    /// As wide as it may ever be, until an answer shows better.
    pub(super) fn new(requests_max: u32) -> Self {
        Self { requests: requests_max, requests_max, quickest: None, shrunk: Moment(0) }
    }

    /// How many requests may be under way.
    pub(super) fn requests(&self) -> u32 {
        self.requests
    }

    /// A chunk came, while no more than `allowed` requests were under way, whatever the window.
    pub(super) fn answered(&mut self, sent: Moment, allowed: u32, now: Moment) {
        let took = now.since(sent);
        let quickest = self.quickest.map_or(took, |known| known.min(took));
        self.quickest = Some(quickest);
        if took <= quickest * 3 / 2 {
            // Half as much again as the round trip holds waits there: gateways are never quite even.
            self.requests = (self.requests.min(allowed) + 1).min(self.requests_max);
        } else if took > quickest * 2 && sent >= self.shrunk {
            let (fits, took_ms) = (quickest.as_millis() * 3 / 2, took.as_millis().max(1));
            let fitting = u128::from(self.requests.min(allowed)) * fits / took_ms;
            self.shrink(u32::try_from(fitting).unwrap_or(self.requests_max), now);
        }
    }

    /// A request's patience ended.
    pub(super) fn timed_out(&mut self, sent: Moment, allowed: u32, now: Moment) {
        if sent >= self.shrunk {
            self.shrink(self.requests.min(allowed) / 2, now);
        }
    }

    fn shrink(&mut self, requests: u32, now: Moment) {
        self.requests = requests.clamp(1, self.requests_max);
        self.shrunk = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The window after a link has served it for so long: one answer after the other, each a chunk's time after the last.
    fn after(chunk_ms: u64, round_trip_ms: u64, until_ms: u64) -> u32 {
        let mut window = EarthWindow::new(64);
        let (mut under_way, mut free) = (std::collections::VecDeque::new(), 0);
        let mut now = 0;
        while now < until_ms {
            while under_way.len() < window.requests() as usize {
                free = (now + round_trip_ms / 2).max(free) + chunk_ms;
                under_way.push_back((Moment(now), free + round_trip_ms / 2));
            }
            let (sent, arrives) = under_way.pop_front().unwrap();
            now = arrives;
            window.answered(sent, 64, Moment(now));
        }
        window.requests()
    }

    #[test]
    fn a_window_holds_the_round_trip_and_half_as_much_again_at_any_rate() {
        for chunk_ms in [50u64, 100, 250, 500, 1_000, 2_000] {
            // What fits into the round trip and the chunk's own time; and twice that.
            let full = (2_500 + chunk_ms).div_ceil(chunk_ms);
            let window = u64::from(after(chunk_ms, 2_500, 600_000));
            assert!(
                window >= full.min(64) && window <= 2 * full + 1,
                "{chunk_ms} ms: {window}, full at {full}"
            );
        }
    }

    #[test]
    fn what_was_asked_before_the_window_shrank_does_not_shrink_it_again() {
        let mut window = EarthWindow::new(64);
        window.answered(Moment(0), 64, Moment(2_500));
        for _ in 0..8 {
            window.timed_out(Moment(3_000), 64, Moment(40_000));
        }
        assert_eq!(window.requests(), 32);
        window.timed_out(Moment(40_000), 64, Moment(80_000));
        assert_eq!(window.requests(), 16);
    }

    #[test]
    fn there_is_always_room_for_one_request() {
        let mut window = EarthWindow::new(64);
        for time in 0..20 {
            window.timed_out(Moment(time * 40_000), 2, Moment((time + 1) * 40_000));
        }
        assert_eq!(window.requests(), 1);
    }
}
