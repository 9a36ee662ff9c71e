//! The hard cap: so many failures as the plan allows in no case. For tier 1 that is the first one (D6, E1).
//!
//! Owns [`look`]. Main invariant: the cap counts over the whole plan; once it is reached, every further failure pauses
//! again, whatever was resumed. A failure is an attempt that ended on the old version by its server's own word (its journal
//! or its release, whichever comes first), or in a lease that an operator had to reap.

use lunar_common::pause::Anomaly;

use super::Tally;

/// After a failure: whether that is one too many.
pub(super) fn look(ever: &Tally, stop_at: u32) -> Option<Anomaly> {
    let (failed, tried) = (ever.failed(), ever.tried());
    (failed >= stop_at).then_some(Anomaly::Failed { failed, tried, stop_at })
}
