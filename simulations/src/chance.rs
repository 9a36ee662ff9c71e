//! Keyed chance: every draw is named by what it is for.
//!
//! Owns [`Chance`]. Main invariant: a draw depends on the seed, the entity, the purpose and how many draws that
//! entity made for that purpose, so that a fault taken out moves no other entity's draws.

use std::collections::BTreeMap;

use lunar_common::order::draw_below;

/// Draws of one run.
#[derive(Debug)]
pub(crate) struct Chance {
    seed: u64,
    drawn: BTreeMap<(usize, &'static str), u64>,
}

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, drawn: BTreeMap::new() }
    }

    /// A number below `bound` (0 for a bound of 0).
    pub(crate) fn below(&mut self, bound: u64, entity: usize, purpose: &'static str) -> u64 {
        let count = self.drawn.entry((entity, purpose)).or_default();
        *count += 1;
        let parts = [&self.seed.to_le_bytes()[..], &(entity as u64).to_le_bytes(), &count.to_le_bytes()];
        draw_below(bound, purpose, &parts)
    }

    /// Whether something that happens `in_10_000` times of ten thousand happens now. Never draws for zero.
    pub(crate) fn happens(&mut self, in_10_000: u64, entity: usize, purpose: &'static str) -> bool {
        in_10_000 > 0 && self.below(10_000, entity, purpose) < in_10_000
    }

    /// A number from `low` up to, but without, `high`.
    pub(crate) fn between(&mut self, low: u64, high: u64, entity: usize, purpose: &'static str) -> u64 {
        low + self.below(high - low, entity, purpose)
    }
}
