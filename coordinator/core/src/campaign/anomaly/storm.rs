//! A storm of rollbacks: so many of the last attempts, whoever made them.
//!
//! Owns [`Storm`]. Main invariant: it remembers at most as many attempts as the plan looks back on. Attempts count here,
//! not servers: a server that rolls back again and again is weather too, and a long good history excuses none of it.

use lunar_common::pause::Anomaly;
use lunar_common::plan::StormStop;

use super::Recent;

/// The last attempts: whether each was rolled back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Storm {
    last: Recent,
}

impl Storm {
    /// An attempt ended.
    pub(super) fn take(&mut self, rolled_back: bool, stop: &StormStop) -> Option<Anomaly> {
        let (count, of) = self.last.take(rolled_back, stop.of);
        (rolled_back && count >= stop.rolled_back).then_some(Anomaly::Storm {
            rolled_back: count,
            of,
            stop_at: stop.rolled_back,
        })
    }
}
