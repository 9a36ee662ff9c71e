//! A storm of rollbacks: so many of the last attempts, whoever made them.
//!
//! Owns [`Storm`]. Main invariant: it remembers at most as many attempts as the plan looks back on. Attempts count here,
//! not servers: a server that rolls back again and again is weather too, and a long good history excuses none of it.

use std::collections::VecDeque;

use lunar_common::pause::Anomaly;
use lunar_common::plan::StormStop;

/// The last attempts: whether each was rolled back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Storm {
    last: VecDeque<bool>,
}

impl Storm {
    /// An attempt ended.
    pub(super) fn take(&mut self, rolled_back: bool, stop: &StormStop) -> Option<Anomaly> {
        let of = usize::try_from(stop.of).unwrap_or(usize::MAX);
        self.last.push_back(rolled_back);
        while self.last.len() > of {
            self.last.pop_front();
        }
        let count = super::count(self.last.iter().filter(|rolled_back| **rolled_back).count());
        (rolled_back && count >= stop.rolled_back).then(|| Anomaly::Storm {
            rolled_back: count,
            of: super::count(self.last.len()),
            stop_at: stop.rolled_back,
        })
    }
}
