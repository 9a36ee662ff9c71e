//! From a failing run to a small one that fails in the same way.
//!
//! Owns [`shrink`] and what "in the same way" means ([`breaks`]). Main invariant: what comes out was run and
//! breaks the wanted invariant; every strike left in it is needed (taking any single one out mends the run), unless
//! the runs ran out. Refuses to change seed or timing: draws are keyed, so what is left happens as it did.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::faults::{FaultPlan, Planned};
use crate::options::Options;
use crate::world::World;

/// The name under which a panic counts: a core's own assertion, or the world's.
pub const PANIC: &str = "panic";

/// A small failing run.
#[derive(Debug, Clone)]
pub struct Shrunk {
    /// The run.
    pub options: Options,
    /// How many worlds were run to find it.
    pub runs: u32,
    /// Whether the runs ran out before nothing more could be taken out.
    pub cut_short: bool,
}

/// The invariant that a run breaks, or [`PANIC`]; `None` if all hold.
#[must_use]
pub fn breaks(options: &Options) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(|| World::new(options.clone()).run())) {
        Ok(Ok(_)) => None,
        Ok(Err(violation)) => Some(violation.invariant.to_owned()),
        Err(_) => Some(PANIC.to_owned()),
    }
}

/// Makes a run that breaks `wanted` as small as it gets: first its plan of faults, then its fleet, then the plan
/// once more. `None` if it does not break `wanted` at all.
#[must_use]
pub fn shrink(failing: &Options, wanted: &str, runs_max: u32) -> Option<Shrunk> {
    let mut search = Search { wanted, runs: 0, runs_max };
    if !search.fails(failing) {
        return None;
    }
    let mut best = failing.clone();
    search.fewer_strikes(&mut best);
    if search.fewer_servers(&mut best) {
        search.fewer_strikes(&mut best);
    }
    let cut_short = search.is_over();
    Some(Shrunk { options: best, runs: search.runs, cut_short })
}

struct Search<'a> {
    wanted: &'a str,
    runs: u32,
    runs_max: u32,
}

impl Search<'_> {
    fn is_over(&self) -> bool {
        self.runs >= self.runs_max
    }

    fn fails(&mut self, options: &Options) -> bool {
        self.runs += 1;
        breaks(options).is_some_and(|broken| broken == self.wanted)
    }

    /// Delta debugging: takes out ever smaller parts of the plan for as long as the run goes on failing.
    fn fewer_strikes(&mut self, best: &mut Options) {
        let mut part = best.faults.len();
        while part > 0 && !self.is_over() {
            let mut from = 0;
            let mut smaller = false;
            while from < best.faults.len() && !self.is_over() {
                let candidate = without(best, from, part);
                if self.fails(&candidate) {
                    *best = candidate;
                    smaller = true;
                } else {
                    from += part;
                }
            }
            // The last size is tried again for as long as it helps: then each strike that is left is needed.
            if part > 1 || !smaller {
                part /= 2;
            }
        }
    }

    /// Takes servers away, those of the highest numbers first, with what strikes them. Says whether it could.
    fn fewer_servers(&mut self, best: &mut Options) -> bool {
        let mut smaller = false;
        for tier in [3, 2, 1] {
            // By halves at first, then one by one.
            let mut step = count_of(best, tier);
            while step > 0 && !self.is_over() {
                match with_fewer(best, tier, step) {
                    Some(candidate) if self.fails(&candidate) => {
                        *best = candidate;
                        smaller = true;
                    }
                    Some(_) | None => step /= 2,
                }
            }
        }
        smaller
    }
}

fn without(options: &Options, from: usize, count: usize) -> Options {
    let mut strikes: Vec<Planned> = options.faults.strikes.clone();
    let to = (from + count).min(strikes.len());
    strikes.drain(from..to);
    Options { faults: FaultPlan { strikes }, ..options.clone() }
}

fn count_of(options: &Options, tier: u8) -> u32 {
    let counts = options.scenario.fleet.tier;
    match tier {
        1 => counts.one,
        2 => counts.two,
        _ => counts.three,
    }
}

/// The same run with fewer servers of a tier; `None` if the scenario does not allow it.
fn with_fewer(options: &Options, tier: u8, fewer: u32) -> Option<Options> {
    let mut scenario = (*options.scenario).clone();
    // Counts written for each site leave no choice of who goes.
    if scenario.fleet.site.iter().any(|site| site.servers.is_some()) {
        return None;
    }
    let counts = &mut scenario.fleet.tier;
    let count = match tier {
        1 => &mut counts.one,
        2 => &mut counts.two,
        _ => &mut counts.three,
    };
    *count = count.checked_sub(fewer)?;
    let servers = scenario.servers();
    if servers == 0 {
        return None;
    }
    let mut faults = options.faults.clone();
    faults.strikes.retain(|planned| planned.what.server().is_none_or(|server| server < servers));
    Some(Options { scenario: Arc::new(scenario), faults, ..options.clone() })
}
