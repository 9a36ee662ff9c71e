//! The file beside a store that says that there is one.
//!
//! Owns `store.mark`. Main invariant: it never claims more than what was on the disk when it was written, so
//! a store that has less than its mark has lost something. Refuses to read anything but its own few lines.

use std::path::Path;

use crate::files::{FileError, read_bounded, write_atomically};

use super::StoreError;

const FILE: &str = "store.mark";
const BYTES_MAX: usize = 256;
const FIRST_LINE: &str = "lunar store, format 1";

/// Which store was made here, and how far it had come when it was last opened or closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// Which of the directories `store.N` it is.
    pub(super) generation: u64,
    /// Drawn when the store was made.
    pub(super) genesis: [u8; 16],
    /// Commits that were on the disk.
    pub(super) commits: u64,
}

impl Mark {
    /// The mark in a directory; `None` if there never was a store.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, StoreError> {
        let path = directory.join(FILE);
        let damaged = |detail: &str| StoreError::Damaged { path: path.clone(), detail: detail.into() };
        let bytes = match read_bounded(&path, BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(FileError::Read { source, .. }) => {
                return Err(StoreError::Open { path: path.clone(), source });
            }
            Err(error) => return Err(damaged(&error.to_string())),
        };
        let text = String::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
        Self::parse(&text).map(Some).ok_or_else(|| damaged("it is not what this program writes there"))
    }

    /// Replaces the mark, durably.
    pub(super) fn write(&self, directory: &Path) -> Result<(), FileError> {
        write_atomically(&directory.join(FILE), self.text().as_bytes(), 0o600)
    }

    fn text(&self) -> String {
        let genesis = u128::from_be_bytes(self.genesis);
        let Self { generation, commits, .. } = self;
        let body = format!("{FIRST_LINE}\nstore {generation}\nmade {genesis:032x}\ncommits {commits}\n");
        let check = blake3::hash(body.as_bytes()).to_hex();
        format!("{body}check {}\n", &check[..16])
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()? != FIRST_LINE {
            return None;
        }
        let generation = lines.next()?.strip_prefix("store ")?.parse().ok()?;
        let genesis = u128::from_str_radix(lines.next()?.strip_prefix("made ")?, 16).ok()?;
        let commits = lines.next()?.strip_prefix("commits ")?.parse().ok()?;
        let mark = Self { generation, genesis: genesis.to_be_bytes(), commits };
        (mark.text() == text).then_some(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_with_any_byte_changed_is_not_one() {
        let mark = Mark { generation: 3, genesis: [7; 16], commits: 1234 };
        let text = mark.text();

        assert_eq!(Mark::parse(&text), Some(mark));
        for at in 0..text.len() {
            let mut bent = text.clone().into_bytes();
            bent[at] ^= 1;
            let bent = String::from_utf8(bent).unwrap();
            assert_eq!(Mark::parse(&bent), None, "byte {at}");
        }
        assert_eq!(Mark::parse(&text[..text.len() - 1]), None);
    }
}
