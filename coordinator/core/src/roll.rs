//! What is kept of each of many: looked up at once, gone through in order.
//!
//! Owns [`Roll`]. Main invariant: every entry is in `order` once and in `table` once, under its own key; going through
//! them follows the order of the keys alone, so that nothing that is decided depends on where an entry lies. A report
//! looks up its server a dozen times among ten thousand: an ordered map takes some fifteen comparisons each time, in
//! memory that nobody has touched since the last report. Taking an entry out is rare here, and costs as much as the
//! roll is long.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Index;

use lunar_common::ids::{PeerKey, ServerId};

/// A key of a roll.
pub(crate) trait RollKey: Ord + Clone {
    /// Where to look first: the same for equal keys, and spread over all numbers for others.
    fn spot(&self) -> u64;
}

impl RollKey for ServerId {
    fn spot(&self) -> u64 {
        mix(self.as_str().as_bytes())
    }
}

impl RollKey for PeerKey {
    fn spot(&self) -> u64 {
        mix(&self.0)
    }
}

/// FNV over words of eight bytes, and a last turn that brings all of it into the high bits.
fn mix(bytes: &[u8]) -> u64 {
    let mut mixed = 0xcbf2_9ce4_8422_2325;
    for part in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        mixed = (mixed ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^= mixed >> 32;
    }
    mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// No entry.
const NOBODY: u32 = u32::MAX;

/// Entries by key.
#[derive(Clone)]
pub(crate) struct Roll<K, V> {
    entries: Vec<(K, V)>,
    /// Their places in the order of the keys.
    order: BTreeMap<K, u32>,
    /// Their places by their keys' spots, or the next free one after it: a power of two, half of it free at least.
    table: Vec<u32>,
}

impl<K, V> Default for Roll<K, V> {
    fn default() -> Self {
        Self { entries: Vec::new(), order: BTreeMap::new(), table: Vec::new() }
    }
}

impl<K: RollKey, V> Roll<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.find(key).map(|at| &self.entries[at].1)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.find(key).map(|at| &mut self.entries[at].1)
    }

    /// The entry of a key, made if there is none.
    pub(crate) fn get_or_default(&mut self, key: &K) -> &mut V
    where
        V: Default,
    {
        let at = self.find(key).unwrap_or_else(|| {
            self.insert(key.clone(), V::default());
            self.entries.len() - 1
        });
        &mut self.entries[at].1
    }

    /// Puts an entry in. What was there before.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let Some(before) = self.get_mut(&key) {
            return Some(std::mem::replace(before, value));
        }
        let place = u32::try_from(self.entries.len()).expect("a fleet has fewer machines");
        self.order.insert(key.clone(), place);
        self.entries.push((key, value));
        if self.entries.len() * 2 > self.table.len() {
            self.rebuild();
        } else {
            self.list(place);
        }
        None
    }

    /// Takes an entry out.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let place = self.order.remove(key)?;
        let (_, value) = self.entries.swap_remove(place as usize);
        if let Some((moved, _)) = self.entries.get(place as usize) {
            self.order.insert(moved.clone(), place);
        }
        self.rebuild();
        Some(value)
    }

    /// All entries, by key.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.order.values().map(|place| &self.entries[*place as usize]).map(|(key, value)| (key, value))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    #[cfg(test)]
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.order.keys()
    }

    fn find(&self, key: &K) -> Option<usize> {
        let mask = self.table.len().checked_sub(1)?;
        let mut at = spot_in(key, mask);
        loop {
            let place = self.table[at];
            if place == NOBODY {
                return None;
            }
            if self.entries[place as usize].0 == *key {
                return Some(place as usize);
            }
            at = (at + 1) & mask;
        }
    }

    fn list(&mut self, place: u32) {
        let mask = self.table.len() - 1;
        let mut at = spot_in(&self.entries[place as usize].0, mask);
        while self.table[at] != NOBODY {
            at = (at + 1) & mask;
        }
        self.table[at] = place;
    }

    fn rebuild(&mut self) {
        self.table.clear();
        self.table.resize((self.entries.len() * 4).next_power_of_two(), NOBODY);
        for place in 0..self.entries.len() {
            self.list(u32::try_from(place).expect("every entry was counted when it came"));
        }
    }
}

/// The high bits of a key's spot: they are mixed best.
fn spot_in<K: RollKey>(key: &K, mask: usize) -> usize {
    usize::try_from(key.spot() >> 32).unwrap_or(0) & mask
}

impl<K: RollKey, V> Index<&K> for Roll<K, V> {
    type Output = V;

    fn index(&self, key: &K) -> &V {
        self.get(key).expect("whoever is indexed is on the roll")
    }
}

impl<K: RollKey, V: PartialEq> PartialEq for Roll<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<K: RollKey, V: Eq> Eq for Roll<K, V> {}

impl<K: RollKey + fmt::Debug, V: fmt::Debug> fmt::Debug for Roll<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lunar_common::order::draw_below;

    fn name(number: u64) -> ServerId {
        ServerId::new(&format!("srv-{number}")).unwrap()
    }

    #[test]
    fn a_roll_is_an_ordered_map_while_entries_come_change_and_go() {
        let (mut roll, mut plain) = (Roll::default(), BTreeMap::new());
        assert_eq!(roll.get(&name(1)), None, "an empty roll holds nobody");
        for step in 0..5_000_u64 {
            let key = name(draw_below(400, "roll", &[&step.to_le_bytes()]));
            match step % 5 {
                0 => assert_eq!(roll.remove(&key), plain.remove(&key)),
                1 => assert_eq!(roll.get_mut(&key), plain.get_mut(&key)),
                _ => assert_eq!(roll.insert(key.clone(), step), plain.insert(key.clone(), step)),
            }
            assert_eq!(roll.get(&key), plain.get(&key));
            assert_eq!(roll.len(), plain.len());
        }
        assert!(roll.iter().eq(plain.iter()));
        assert!((0..400).all(|number| roll.get(&name(number)) == plain.get(&name(number))));
    }

    #[test]
    fn two_rolls_of_the_same_entries_are_equal_however_they_came_about() {
        let (mut one, mut other) = (Roll::default(), Roll::default());
        for number in 0..50 {
            one.insert(name(number), number);
            other.insert(name(49 - number), 49 - number);
        }
        one.insert(name(99), 99);
        assert_ne!(one, other);
        one.remove(&name(99));
        assert_eq!(one, other);
        assert_eq!(format!("{one:?}"), format!("{other:?}"));
        other.insert(name(3), 4);
        assert_ne!(one, other);
    }
}
