//! What happened, in short lines.
//!
//! Owns [`Trace`]: a running hash over every event and every line, and the last lines for people. Main invariant: two runs with
//! the same hash went the same way.

use std::collections::VecDeque;

use lunar_common::order::draw;

use crate::chance::keyed;

/// Lines shown when something is violated.
const LINES_KEPT: usize = 120;

/// The trace of one run.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub(crate) hash: u64,
    pub(crate) count: u64,
    last: VecDeque<String>,
}

impl Trace {
    /// An event happened: into the hash it goes, cheaply, whether or not anything is said of it.
    pub(crate) fn event(&mut self, at_us: u64, (kind, whom): (u64, u64)) {
        self.hash = keyed(self.hash, at_us, kind, whom);
    }

    pub(crate) fn line(&mut self, at_ms: u64, text: &str) {
        self.hash = draw("trace", &[&self.hash.to_le_bytes(), &at_ms.to_le_bytes(), text.as_bytes()]);
        self.count += 1;
        if self.last.len() == LINES_KEPT {
            self.last.pop_front();
        }
        self.last.push_back(format!("{:>9}.{:03} {text}", at_ms / 1000, at_ms % 1000));
    }

    pub(crate) fn last(&self) -> String {
        self.last.iter().map(|line| format!("{line}\n")).collect()
    }
}
