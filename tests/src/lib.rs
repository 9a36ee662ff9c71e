//! Whole programs as real processes, for the tests beside this crate.
//!
//! Owns the founding of a fleet (by `lunar-coordinator demo --idle`), running commands against it as an operator
//! would, and killing and starting its processes. Main invariant: a test waits for what the fleet itself says,
//! and nothing that was started outlives its [`Fleet`]. Refuses to look inside the programs: only commands,
//! files, logs and process ids are used.

mod fleet;
mod process;
mod programs;
mod release;
mod small_disk;

use std::time::{Duration, Instant};

pub use fleet::{CAMPAIGN, Events, Fleet, Part};
pub use process::{Crashed, Process};
pub use programs::{Ended, Programs, programs, run};
pub use small_disk::SmallDisk;

/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Far beyond what anything here takes on a loaded machine: past it, what is waited for never comes.
const SAFETY_LIMIT: Duration = Duration::from_secs(300);

/// Looks until there is something to see, and returns it.
///
/// # Panics
/// It does not come at all.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begun.elapsed() < SAFETY_LIMIT, "in vain, for {SAFETY_LIMIT:?}, waited for {what}");
        // Nobody unparks: this is the pause between two looks, and the only one in these tests.
        std::thread::park_timeout(LOOK_EVERY);
    }
}

/// [`wait_for`] where there is nothing to return.
///
/// # Panics
/// It never holds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    wait_for(what, || holds().then_some(()));
}
