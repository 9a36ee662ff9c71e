//! Chunks that could be asked for, rarest first.
//!
//! Owns [`Ready`]: a row of bits for each count of copies, a bit a chunk, in one's own order of the chunks. Main invariant:
//! a row's count is that of its bits. Whatever comes or goes costs one bit, however many chunks there are: each chunk that
//! arrives anywhere near moves from row to row in every neighbour.

/// Chunks by copies, then by their turn.
#[derive(Debug, Clone, Default)]
pub(super) struct Ready {
    rows: Vec<Row>,
    count: usize,
}

/// The chunks of which there are so many copies.
#[derive(Debug, Clone, Default)]
struct Row {
    words: Vec<u64>,
    count: usize,
}

impl Ready {
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Puts a chunk in that is not there.
    pub(super) fn insert(&mut self, copies: u32, turn: u32) {
        let copies = copies as usize;
        if self.rows.len() <= copies {
            self.rows.resize_with(copies + 1, Row::default);
        }
        let row = &mut self.rows[copies];
        let (word, bit) = (turn as usize / 64, turn % 64);
        if row.words.len() <= word {
            row.words.resize(word + 1, 0);
        }
        row.words[word] |= 1 << bit;
        row.count += 1;
        self.count += 1;
    }

    /// Takes a chunk out that is there.
    pub(super) fn remove(&mut self, copies: u32, turn: u32) {
        let row = &mut self.rows[copies as usize];
        row.words[turn as usize / 64] &= !(1 << (turn % 64));
        row.count -= 1;
        self.count -= 1;
    }

    /// The turns of all chunks, of the rarest chunks first.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let filled = self.rows.iter().filter(|row| row.count > 0);
        filled.flat_map(|row| (0..).step_by(64).zip(&row.words).flat_map(|(first, word)| ones(first, *word)))
    }
}

/// The ones of a word whose first bit has this number.
fn ones(first: u32, word: u64) -> impl Iterator<Item = u32> {
    let rest = |word: &u64| Some(word & word.wrapping_sub(1)).filter(|rest| *rest != 0);
    let words = std::iter::successors(Some(word).filter(|word| *word != 0), rest);
    words.map(move |word| first + word.trailing_zeros())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn chunks_come_by_copies_and_then_by_turn(changes in prop::collection::vec((0u32..5, 0u32..200), 0..400)) {
            let (mut ready, mut model) = (Ready::default(), BTreeSet::new());
            for (copies, turn) in changes {
                // What is there goes, what is not comes.
                if model.remove(&(copies, turn)) {
                    ready.remove(copies, turn);
                } else {
                    model.insert((copies, turn));
                    ready.insert(copies, turn);
                }
                prop_assert_eq!(ready.is_empty(), model.is_empty());
            }
            let expected: Vec<u32> = model.iter().map(|(_, turn)| *turn).collect();
            prop_assert_eq!(ready.iter().collect::<Vec<_>>(), expected);
        }
    }
}
