//! What must hold, whatever happens.
//!
//! Owns [`Violation`] and the calls of the checkers, one file each. Main invariant: a checker looks at the
//! world's truth (durable journals, disks, the durable log), never at what a core says of itself.

pub(crate) mod l1_settles;
pub(crate) mod l2_no_idle_lease;
mod l3_not_stuck;
mod s10_halt;
pub(crate) mod s11_audit;
pub(crate) mod s12_earth;
pub(crate) mod s13_stop;
pub(crate) mod s14_order;
mod s15_duplicates;
pub(crate) mod s16_bounds;
mod s18_works;
mod s1_lease;
mod s2_limits;
mod s4_group;
mod s5_redundancy;
mod s6_window;
mod s7_verified;
mod s8_whole;
mod s9_generation;

use std::fmt;

use lunar_agent_core::swarm::Item;
use lunar_coordinator_core::event::EventBody;

use crate::measure::{Figures, Series};
use crate::options::Options;
use crate::truth::state_of;
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
    /// The hash of all that happened.
    pub trace_hash: u64,
    /// The numbers and courses of the run until then.
    pub measured: Option<Box<(Figures, Series)>>,
}

impl Violation {
    pub(crate) fn new(invariant: &'static str, what: String) -> Self {
        Self { invariant, what, at_ms: 0, options: None, trace: String::new(), trace_hash: 0, measured: None }
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

/// The names under which checks are counted.
const COUNTED: [&str; 6] = ["S1 lease", "S2 limits", "S4 group", "S7 verified", "S8 whole", "S16 bounds"];

/// Between two recounts of everything, in events.
const RECOUNT_EVERY: u64 = 65_536;

impl World {
    /// Something durable changed on a server: its counts follow, and what must hold of it is checked, at once.
    pub(crate) fn check(&mut self, server: usize) {
        self.truth.touched.push(server);
        let went_down = self.truth.follow(server, &self.servers[server]);
        let at = &self.servers[server];
        self.measure.server(self.at_ms, server, state_of(at), self.truth.is_down(server));
        if self.violation.is_none() {
            // More than before can be down only if this one has just gone down.
            self.violation = s1_lease::check(self, server)
                .or_else(|| if went_down { s4_group::check(self, server) } else { None })
                .or_else(|| if went_down { s2_limits::check(self, server) } else { None })
                .or_else(|| s7_verified::check(self, server))
                .or_else(|| s8_whole::check(self, server))
                .or_else(|| s16_bounds::check(self, server));
            s1_lease::remember(self, server);
            s14_order::follow(self, server);
        }
        self.checks += 1;
    }

    /// The durable log has grown by an event.
    pub(crate) fn check_gate(&mut self, event: &EventBody) {
        if self.violation.is_none() {
            self.violation = s14_order::check_log(self, event);
        }
    }

    /// The durable log has grown.
    pub(crate) fn check_log(&mut self, about: Option<usize>) {
        if self.violation.is_none() {
            self.violation = s1_lease::check_log(self)
                .or_else(|| s11_audit::check(self))
                .or_else(|| s13_stop::check(self));
        }
        if let Some(server) = about {
            self.check(server);
        }
    }

    /// An event is over: those whom it touched must wait for something.
    pub(crate) fn check_event(&mut self, events: u64) {
        let mut touched = std::mem::take(&mut self.truth.touched);
        for server in touched.drain(..) {
            if self.truth.follow(server, &self.servers[server]) {
                self.check(server);
            }
        }
        self.truth.touched = touched;
        let mut acted = std::mem::take(&mut self.truth.acted);
        for server in acted.drain(..) {
            if self.violation.is_none() {
                self.violation = l3_not_stuck::check(self, server);
            }
        }
        self.truth.acted = acted;
        if self.violation.is_none() {
            self.violation = l3_not_stuck::check_coordinator(self);
        }
        if !self.forgotten.is_empty() {
            for server in self.forgotten.clone() {
                s1_lease::remember(self, server);
            }
        }
        if events.is_multiple_of(RECOUNT_EVERY) {
            self.recount();
        }
    }

    /// Everything from the start: what the counts say, and what must hold of each server.
    pub(crate) fn recount(&mut self) {
        if self.violation.is_some() {
            return;
        }
        let mut found = self.truth.recount(&self.options.scenario, &self.servers);
        for server in 0..self.servers.len() {
            found = found
                .or_else(|| s1_lease::check(self, server))
                .or_else(|| s4_group::check(self, server))
                .or_else(|| s2_limits::check(self, server))
                .or_else(|| s7_verified::check(self, server))
                .or_else(|| s8_whole::check(self, server))
                .or_else(|| s16_bounds::check(self, server))
                .or_else(|| l3_not_stuck::check(self, server));
        }
        self.violation = found;
        self.checks += self.servers.len() as u64;
    }

    /// Tells the measure how often was checked.
    pub(crate) fn tell_checks(&mut self) {
        for name in COUNTED {
            self.measure.checked(name, self.checks);
        }
    }

    /// A server has just gone down by what is durable on it.
    pub(crate) fn check_start(&mut self, server: usize) {
        if self.violation.is_none() {
            self.violation = s10_halt::check(self, server)
                .or_else(|| s5_redundancy::check(self, server))
                .or_else(|| s6_window::check(self, server))
                .or_else(|| s14_order::check(self, server));
        }
    }

    /// An agent has started, or has kept what people signed.
    pub(crate) fn check_generation(&mut self, server: usize) {
        if self.violation.is_none() {
            self.violation = s9_generation::check(self, server);
        }
    }

    /// A root half has just written that it commits.
    pub(crate) fn check_commit(&mut self, server: usize) {
        if self.violation.is_none() {
            self.violation = s18_works::check(self, server);
        }
    }

    /// A server asks for something over the link to Earth.
    pub(crate) fn check_earth_asked(&mut self, server: usize, item: Item) {
        let Item::Chunk(chunk) = item else { return };
        if self.violation.is_none() {
            self.violation = s12_earth::check_asked(self, server, chunk);
        }
        self.earth_seen.asked(chunk, server);
    }

    /// The link to Earth has sent something.
    pub(crate) fn check_earth_sent(&mut self, bytes: u64) {
        let found = s12_earth::check_sent(self, bytes);
        self.violation = self.violation.take().or(found);
    }

    /// A server takes a chunk for good that is not.
    pub(crate) fn check_unverified(&mut self, server: usize, item: Item) {
        if self.violation.is_none() {
            self.violation = Some(s7_verified::taken(self, server, item));
        }
    }

    /// What needs to be looked at only now and then.
    pub(crate) fn check_now_and_then(&mut self) {
        if self.violation.is_none() {
            self.violation = l2_no_idle_lease::check(self).or_else(|| s11_audit::check_healed(self));
        }
    }

    /// Something came a second time.
    pub(crate) fn check_unchanged<T: PartialEq>(&mut self, where_: &str, before: T, after: T, what: &str) {
        if self.violation.is_none() && before != after {
            self.violation = Some(s15_duplicates::violation(where_, what));
        }
    }
}
