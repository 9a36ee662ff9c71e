//! The machine's clocks, read in one place.
//!
//! Owns the only calls to a clock outside the runtime's own timers. Main invariant: moments come from
//! CLOCK_BOOTTIME, which goes on while the machine sleeps, so that a lease cannot outlive a suspend.

use std::time::{SystemTime, UNIX_EPOCH};

use lunar_common::time::{Moment, Now, WallTime};
use nix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, sleep_until};

/// What time it is, both ways.
#[must_use]
pub fn now() -> Now {
    Now { moment: moment(), wall: wall() }
}

/// Milliseconds since boot, suspended time included.
#[must_use]
pub fn moment() -> Moment {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every Linux since 2.6.39 has CLOCK_BOOTTIME");
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec()).unwrap_or(0);
    Moment(seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000))
}

/// When the runtime's clock will show a moment. It does not count suspended time, so a deadline may fire late after a
/// suspend; who is woken then sees the true moment and decides by it.
#[must_use]
pub fn instant_of(at: Moment) -> Instant {
    Instant::now() + at.since(moment())
}

/// Waits until then; for ever without one.
pub async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Seconds since 1970, by the wall clock, right or wrong.
#[must_use]
pub fn wall() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
