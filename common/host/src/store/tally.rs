//! What the store must hold in all.
//!
//! Owns [`Tally`]. Main invariant: it is written with every commit and counts every value in it, so that a value
//! which the library lost in silence is noticed.

use super::pieces::CHECKSUM_BYTES;

/// What the store must hold, written with every commit: a value that the library lost in silence is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tally {
    pub(super) commits: u64,
    pub(super) values: u64,
    /// All values' checksums, exclusive or: the order in which they came does not matter.
    pub(super) checksums: [u8; CHECKSUM_BYTES],
}

impl Tally {
    pub(super) fn toggle(&mut self, checksum: &[u8]) {
        for (byte, other) in self.checksums.iter_mut().zip(checksum) {
            *byte ^= other;
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        [&self.commits.to_be_bytes()[..], &self.values.to_be_bytes(), &self.checksums].concat()
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (commits, rest) = bytes.split_first_chunk()?;
        let (values, checksums) = rest.split_first_chunk()?;
        Some(Self {
            commits: u64::from_be_bytes(*commits),
            values: u64::from_be_bytes(*values),
            checksums: checksums.try_into().ok()?,
        })
    }
}
