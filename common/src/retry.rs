//! How long to wait before trying again (A9), in one place.
//!
//! Owns [`delay`]. Main invariant: the wait is `2^attempt × base`, capped, plus up to a tenth of it, and the
//! jitter is a keyed draw, so that the same server waits the same time in every run and two servers do not
//! come back together. Refuses to count attempts: the caller knows what an attempt is.

use std::time::Duration;

use crate::order::draw_below;
use crate::plan::Retry;
use crate::time::millis;

/// The bounds of a back-off that is not a plan's: what a program uses for its own peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackOff {
    /// The wait before attempt 0 is tried again.
    pub base: Duration,
    /// The longest wait, jitter not counted.
    pub cap: Duration,
}

impl BackOff {
    /// `2^attempt × base`, capped, plus up to a tenth of that, drawn from `purpose` and `key`.
    #[must_use]
    pub fn delay(&self, attempt: u32, purpose: &str, key: &[&[u8]]) -> Duration {
        let factor = 1u64.checked_shl(attempt.min(63)).unwrap_or(u64::MAX);
        let wait_ms = millis(self.base).saturating_mul(factor).min(millis(self.cap));
        let attempt_bytes = attempt.to_le_bytes();
        let mut parts = Vec::with_capacity(key.len() + 1);
        parts.extend_from_slice(key);
        parts.push(&attempt_bytes);
        let jitter_ms = draw_below(wait_ms / 10 + 1, purpose, &parts);
        Duration::from_millis(wait_ms.saturating_add(jitter_ms))
    }
}

/// The wait before a plan's failed attempt is tried again. `attempt` counts from 0: the first failure waits
/// `base_s`. `key` names who waits and for what (server id, campaign).
#[must_use]
pub fn delay(attempt: u32, retry: &Retry, key: &[&[u8]]) -> Duration {
    let back_off = BackOff {
        base: Duration::from_secs(retry.base_s.into()),
        cap: Duration::from_secs(retry.cap_s.into()),
    };
    back_off.delay(attempt, "retry", key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_from_the_base_to_the_cap_with_at_most_a_tenth_more() {
        let retry = Retry { attempts_max: 9, base_s: 60, cap_s: 900 };
        for (attempt, seconds) in
            [(0, 60), (1, 120), (2, 240), (3, 480), (4, 900), (40, 900), (u32::MAX, 900)]
        {
            let wait = delay(attempt, &retry, &[b"srv-1", b"campaign"]);
            assert!(wait >= Duration::from_secs(seconds), "attempt {attempt}: {wait:?}");
            assert!(wait <= Duration::from_millis(seconds * 1100), "attempt {attempt}: {wait:?}");
        }
    }

    #[test]
    fn two_servers_do_not_come_back_together_and_one_always_waits_the_same() {
        let retry = Retry::default();
        let waits: std::collections::BTreeSet<_> =
            (0..100u32).map(|server| delay(0, &retry, &[&server.to_le_bytes()])).collect();
        assert!(waits.len() > 90, "only {} different waits", waits.len());
        assert_eq!(delay(2, &retry, &[b"a"]), delay(2, &retry, &[b"a"]));
    }
}
