//! Which chunks of one artifact somebody has.
//!
//! Owns [`HaveSet`]: one bit a chunk. Main invariant: a set has exactly as many bits as its artifact has
//! chunks, at most [`CHUNKS_MAX`], and no bit beyond them is set, so that counting needs no care and a peer's
//! set cannot name a chunk that does not exist.

use serde::{Deserialize, Serialize};

use crate::bounds::CHUNKS_MAX;

/// Which chunks of one artifact somebody has. 32 KiB on the wire for the largest artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Encoded", into = "Encoded")]
pub struct HaveSet {
    chunks: u32,
    count: u32,
    words: Vec<u64>,
}

/// Why an encoded set was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HaveSetError {
    /// More chunks than an artifact may have.
    #[error("a have-set of {0} chunks is over the bound of {CHUNKS_MAX}")]
    TooMany(u32),
    /// The bits are not those of that many chunks.
    #[error("a have-set of {chunks} chunks does not come in {bytes} bytes, or sets bits beyond them")]
    Bits {
        /// Chunks that were said.
        chunks: u32,
        /// Bytes that came.
        bytes: usize,
    },
}

/// The set as encoded: bytes, because a varint encoding of random words is longer than they are.
#[derive(Serialize, Deserialize)]
struct Encoded {
    chunks: u32,
    bits: Vec<u8>,
}

impl HaveSet {
    /// Nothing of an artifact of so many chunks.
    ///
    /// # Panics
    /// If no manifest could have so many: the number must come from one.
    #[must_use]
    pub fn empty(chunks: u32) -> Self {
        assert!(chunks as usize <= CHUNKS_MAX, "a manifest has at most {CHUNKS_MAX} chunks");
        Self { chunks, count: 0, words: vec![0; (chunks as usize).div_ceil(64)] }
    }

    /// All of an artifact of so many chunks.
    ///
    /// # Panics
    /// Like [`HaveSet::empty`].
    #[must_use]
    pub fn full(chunks: u32) -> Self {
        let mut set = Self::empty(chunks);
        (0..chunks).for_each(|index| {
            set.insert(index);
        });
        set
    }

    /// Chunks of the artifact, had or not.
    #[must_use]
    pub fn chunks(&self) -> u32 {
        self.chunks
    }

    /// Chunks had.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether every chunk is had.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.count == self.chunks
    }

    /// Whether a chunk is had. `false` for a chunk that the artifact has not.
    #[must_use]
    pub fn contains(&self, index: u32) -> bool {
        index < self.chunks && self.words[index as usize / 64] >> (index % 64) & 1 == 1
    }

    /// Adds a chunk; says whether it is new. A chunk that the artifact has not is never added.
    pub fn insert(&mut self, index: u32) -> bool {
        let new = index < self.chunks && !self.contains(index);
        if new {
            self.words[index as usize / 64] |= 1 << (index % 64);
            self.count += 1;
        }
        new
    }

    /// Removes a chunk; says whether it was there.
    pub fn remove(&mut self, index: u32) -> bool {
        let had = self.contains(index);
        if had {
            self.words[index as usize / 64] &= !(1 << (index % 64));
            self.count -= 1;
        }
        had
    }

    /// The chunks had, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.chunks).filter(|index| self.contains(*index))
    }

    /// The chunks lacking, in order.
    pub fn missing(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.chunks).filter(|index| !self.contains(*index))
    }
}

impl From<HaveSet> for Encoded {
    fn from(set: HaveSet) -> Self {
        let mut bits: Vec<u8> = set.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bits.truncate((set.chunks as usize).div_ceil(8));
        Self { chunks: set.chunks, bits }
    }
}

impl TryFrom<Encoded> for HaveSet {
    type Error = HaveSetError;
    fn try_from(encoded: Encoded) -> Result<Self, HaveSetError> {
        let Encoded { chunks, bits } = encoded;
        if chunks as usize > CHUNKS_MAX {
            return Err(HaveSetError::TooMany(chunks));
        }
        let wrong = HaveSetError::Bits { chunks, bytes: bits.len() };
        let spare = bits.len() * 8 - (chunks as usize).min(bits.len() * 8);
        if bits.len() != (chunks as usize).div_ceil(8)
            || bits.last().is_some_and(|last| u32::from(*last) >> (8 - spare) != 0)
        {
            return Err(wrong);
        }
        let mut set = Self::empty(chunks);
        for (place, byte) in bits.iter().enumerate() {
            set.words[place / 8] |= u64::from(*byte) << (place % 8 * 8);
            set.count += byte.count_ones();
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{decode, encode};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_set_survives_the_wire(chunks in 0u32..300, picks in prop::collection::vec(0u32..300, 0..40)) {
            let mut set = HaveSet::empty(chunks);
            for pick in &picks {
                set.insert(*pick);
            }
            let bytes = encode(&set, 1024).unwrap();
            let back: HaveSet = decode(&bytes, 1024).unwrap();
            prop_assert_eq!(&back, &set);
            prop_assert_eq!(u32::try_from(back.iter().count()).unwrap(), back.count());
            prop_assert_eq!(back.missing().count() + back.iter().count(), chunks as usize);
        }
    }

    #[test]
    fn a_chunk_that_the_artifact_has_not_is_never_had() {
        let mut set = HaveSet::empty(65);
        assert!(!set.insert(65) && !set.contains(65) && !set.remove(65) && !set.contains(u32::MAX));
        assert!(set.insert(64) && !set.insert(64) && set.remove(64) && set.count() == 0);
        assert!(HaveSet::full(65).is_complete() && HaveSet::empty(0).is_complete());
    }

    #[test]
    fn a_lying_set_is_refused() {
        let of = |chunks, bits| HaveSet::try_from(Encoded { chunks, bits });
        assert_eq!(of(u32::MAX, vec![]), Err(HaveSetError::TooMany(u32::MAX)));
        for (chunks, bits) in [(9, vec![0]), (8, vec![0, 0]), (9, vec![0, 2]), (0, vec![0]), (7, vec![0x80])]
        {
            assert!(matches!(of(chunks, bits), Err(HaveSetError::Bits { .. })));
        }
        assert!(of(9, vec![0xff, 1]).unwrap().is_complete());
        assert!(of(8, vec![0xff]).unwrap().is_complete());
    }
}
