//! The sequential test of a failure rate, by the plan's table: comparisons of integers, nothing else.
//!
//! Owns [`look`]. Main invariant: a row says within how many servers so many failures are too many, and a success never
//! stops anything, so the test needs to be looked at after failures alone. Refuses to stop looking: where all has been
//! well for long, the table itself asks for more failures.

use lunar_common::pause::Anomaly;

use super::Tally;

/// After a failure: whether so many of so few are too many.
pub(super) fn look(since: &Tally, within: &[u32]) -> Option<Anomaly> {
    let (failed, tried) = (since.failed(), since.tried());
    let row = usize::try_from(failed.checked_sub(1)?).ok()?;
    let within = *within.get(row)?;
    (tried <= within).then_some(Anomaly::Rate { failed, tried, within })
}
