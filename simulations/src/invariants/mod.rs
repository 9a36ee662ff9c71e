//! What must hold, whatever happens.
//!
//! Owns [`Violation`] and the calls of the checkers, one file each. Main invariant: a checker looks at the
//! world's truth (durable journals, disks, the durable log), never at what a core says of itself.

pub(crate) mod l1_settles;
mod l3_not_stuck;
mod s10_halt;
mod s15_duplicates;
mod s1_lease;
mod s2_limits;
mod s4_group;
mod s8_whole;

use std::fmt;

use crate::options::Options;
use crate::world::World;

/// Something that must never happen, and did.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Which invariant.
    pub invariant: &'static str,
    /// What was found.
    pub what: String,
    /// When, in milliseconds.
    pub at_ms: u64,
    /// The run.
    pub options: Option<Options>,
    /// What happened last.
    pub trace: String,
}

impl Violation {
    pub(crate) fn new(invariant: &'static str, what: String) -> Self {
        Self { invariant, what, at_ms: 0, options: None, trace: String::new() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}at {} ms, {} is violated: {}\n{:?}",
            self.trace, self.at_ms, self.invariant, self.what, self.options
        )
    }
}

impl World {
    /// Every check of the world as it is, after every durable change.
    pub(crate) fn check(&mut self) {
        if self.violation.is_none() {
            let found = s1_lease::check(self)
                .or_else(|| s4_group::check(self))
                .or_else(|| s2_limits::check(self))
                .or_else(|| s8_whole::check(self));
            self.violation = found;
            s1_lease::remember(self);
        }
    }

    /// A server has just gone down by what is durable on it.
    pub(crate) fn check_start(&mut self, server: usize) {
        if self.violation.is_none() {
            self.violation = s10_halt::check(self, server);
        }
    }

    /// Something came a second time.
    pub(crate) fn check_unchanged<T: PartialEq>(&mut self, where_: &str, before: T, after: T, what: &str) {
        if self.violation.is_none() && before != after {
            self.violation = Some(s15_duplicates::violation(where_, what));
        }
    }

    pub(crate) fn check_not_stuck(&mut self) {
        if self.violation.is_none() {
            self.violation = l3_not_stuck::check(self);
        }
    }
}
