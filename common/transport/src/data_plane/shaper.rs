//! A bound on how many bytes leave in a second, over all connections together.
//!
//! Owns [`Shaper`]. Main invariant: in any span of time no more than rate × span, plus one burst, passes; turns
//! are taken in the order in which they were asked for.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// What may pass at once after a pause, in time: enough for the timer's coarseness, too little for a queue.
const BURST: Duration = Duration::from_millis(20);

/// Share of the link's rate that is payload: QUIC, UDP and IP headers take up to a twentieth of a full packet.
const PAYLOAD_PERCENT: u64 = 95;

/// A token bucket, kept as the moment at which the next byte may leave.
#[derive(Debug)]
pub struct Shaper {
    payload_bytes_s: u64,
    next: Mutex<Option<Instant>>,
}

impl Shaper {
    /// Shapes to a link's rate in bits a second, headers included.
    #[must_use]
    pub fn new(bits_s: u64) -> Self {
        Self { payload_bytes_s: (bits_s / 8 * PAYLOAD_PERCENT / 100).max(1), next: Mutex::new(None) }
    }

    /// Waits until these bytes may leave.
    pub async fn pass(&self, bytes: usize) {
        let turn = self.turn(bytes, Instant::now());
        sleep_until(turn).await;
    }

    /// Takes the next turn and says when it is.
    fn turn(&self, bytes: usize, now: Instant) -> Instant {
        let nanos = u128::from(bytes as u64) * 1_000_000_000 / u128::from(self.payload_bytes_s);
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let mut next = self.next.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let turn = next.map_or(earliest, |next| next.max(earliest));
        *next = Some(turn + takes);
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ten_senders_together_keep_to_the_rate() {
        let shaper = std::sync::Arc::new(Shaper::new(30_000_000));
        let begun = Instant::now();
        let senders: Vec<_> = (0..10)
            .map(|_| {
                let shaper = shaper.clone();
                tokio::spawn(async move {
                    for _ in 0..32 {
                        shaper.pass(32 * 1024).await;
                    }
                })
            })
            .collect();
        for sender in senders {
            sender.await.unwrap();
        }
        let payload_bits = 10.0 * 32.0 * 32.0 * 1024.0 * 8.0;
        let expected = payload_bits / (30_000_000.0 * 0.95);
        let took = begun.elapsed().as_secs_f64();
        assert!((expected - 0.1..expected + 0.1).contains(&took), "{took} s instead of {expected} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_saves_up_no_more_than_a_burst() {
        let shaper = Shaper::new(8_000_000);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let begun = Instant::now();
        for _ in 0..100 {
            shaper.pass(10_000).await;
        }
        assert!(begun.elapsed() > Duration::from_millis(1_000));
    }
}
