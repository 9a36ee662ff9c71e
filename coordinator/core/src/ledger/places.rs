//! Places in the queue that can be counted.
//!
//! Owns [`Places`]. Main invariant: each block's count is the number of its places in the set; a block without places is
//! not kept. Counting those before a place looks at blocks, and at the places of one: with ten thousand waiting some
//! hundred steps, where each claim that waits is told how many are before it.

use std::collections::{BTreeMap, BTreeSet};

/// A block is 2 to the power of this places wide.
const BLOCK_BITS: u32 = 7;

/// Places, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Places {
    set: BTreeSet<u64>,
    blocks: BTreeMap<u64, usize>,
}

impl Places {
    pub(crate) fn insert(&mut self, place: u64) {
        if self.set.insert(place) {
            *self.blocks.entry(place >> BLOCK_BITS).or_default() += 1;
        }
    }

    pub(crate) fn remove(&mut self, place: u64) {
        if !self.set.remove(&place) {
            return;
        }
        let block = place >> BLOCK_BITS;
        let count = self.blocks.get_mut(&block).expect("a block with a place is counted");
        *count -= 1;
        if *count == 0 {
            self.blocks.remove(&block);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// How many are before a place.
    pub(crate) fn before(&self, place: u64) -> usize {
        let block = place >> BLOCK_BITS;
        let whole: usize = self.blocks.range(..block).map(|(_, count)| count).sum();
        whole + self.set.range(block << BLOCK_BITS..place).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_as_one_by_one_while_they_come_and_go() {
        let mut places = Places::default();
        let mut plain = BTreeSet::new();
        for step in 0..4_000_u64 {
            let place = lunar_common::order::draw_below(1_000, "place", &[&step.to_le_bytes()]);
            if step % 3 == 0 {
                places.remove(place);
                plain.remove(&place);
            } else {
                places.insert(place);
                plain.insert(place);
            }
            assert_eq!(places.before(place), plain.range(..place).count());
            assert_eq!(places.before(1_001), plain.len());
        }
        plain.iter().for_each(|place| places.remove(*place));
        assert!(places.is_empty());
        assert_eq!(places, Places::default());
    }
}
