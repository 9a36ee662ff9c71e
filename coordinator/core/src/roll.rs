//! What is kept of each of many: looked up at once, gone through in order.
//!
//! Owns [`Roll`]. Main invariant: `order` has the keys of `entries`, each once; going through them follows the order of the
//! keys alone, so that nothing that is decided depends on where an entry lies. A report looks up its server a dozen
//! times among ten thousand: an ordered map takes some fifteen comparisons each time, in memory that nobody has touched
//! since the last report. The hash is a fast one that whoever chooses keys can fool, and people sign every key here.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::Hash;
use std::ops::{Bound, Index};

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;

/// Entries by key.
#[derive(Clone)]
pub(crate) struct Roll<K, V> {
    entries: IndexMap<K, V, FxBuildHasher>,
    order: BTreeSet<K>,
}

impl<K, V> Default for Roll<K, V> {
    fn default() -> Self {
        Self { entries: IndexMap::default(), order: BTreeSet::new() }
    }
}

impl<K: Ord + Hash + Clone, V> Roll<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key)
    }

    /// The entry of a key, made if there is none.
    pub(crate) fn get_or_default(&mut self, key: &K) -> &mut V
    where
        V: Default,
    {
        // Two looks for a new one, and no copy of the key for the others.
        if !self.entries.contains_key(key) {
            self.insert(key.clone(), V::default());
        }
        &mut self.entries[key]
    }

    /// Puts an entry in. What was there before.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let before = self.entries.insert(key.clone(), value);
        if before.is_none() {
            self.order.insert(key);
        }
        before
    }

    /// Takes an entry out.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.order.remove(key);
        self.entries.swap_remove(key)
    }

    /// All entries, by key.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.order.iter().map(|key| (key, &self.entries[key]))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// Entries of a range of keys, by key.
    pub(crate) fn range<'a>(&'a self, keys: (Bound<&'a K>, Bound<&'a K>)) -> impl Iterator<Item = &'a V> {
        self.order.range(keys).map(|key| &self.entries[key])
    }

    #[cfg(test)]
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.order.iter()
    }
}

impl<K: Ord + Hash + Clone, V> Index<&K> for Roll<K, V> {
    type Output = V;

    fn index(&self, key: &K) -> &V {
        self.get(key).expect("whoever is indexed is on the roll")
    }
}

impl<K: Ord + Hash + Clone, V: PartialEq> PartialEq for Roll<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl<K: Ord + Hash + Clone, V: Eq> Eq for Roll<K, V> {}

impl<K: Ord + Hash + Clone + fmt::Debug, V: fmt::Debug> fmt::Debug for Roll<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::BTreeMap;

    use lunar_common::ids::ServerId;
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
