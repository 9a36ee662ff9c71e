//! How a value lies in sled: its head with its checksum, and the pieces that did not fit there.
//!
//! Owns the layout of keys and values. Main invariant: no item is so long that sled would put it into a file of
//! its own, which it never syncs; and what is put together again is what was cut up, or damage.

use super::tally::Tally;
use super::{Store, StoreError, VALUE_BYTES_MAX};

/// Bytes of a value in one sled item. A leaf holds at most 20 items (16, and what a merge adds before the next
/// split), so with the longest keys it stays below the 128 KiB beyond which sled would write a file of its own.
pub(super) const PIECE_BYTES: usize = 4 * 1024;

/// First byte of a key: the store's own records, values (their first piece), further pieces.
pub(super) const ZONE_OWN: u8 = 0;
pub(super) const ZONE_VALUES: u8 = 1;
pub(super) const ZONE_PIECES: u8 = 2;

pub(super) const KEY_GENESIS: &[u8] = &[ZONE_OWN, b'g'];
pub(super) const KEY_TALLY: &[u8] = &[ZONE_OWN, b't'];

/// Bytes of the checksum in front of every value.
pub(super) const CHECKSUM_BYTES: usize = 16;

impl Store {
    /// Puts one change into a batch, in pieces, and takes pieces away that a longer value left.
    pub(super) fn stage(
        &self,
        batch: &mut sled::Batch,
        key: &[u8],
        value: Option<&[u8]>,
        tally: &mut Tally,
    ) -> Result<(), StoreError> {
        let stored = zoned(ZONE_VALUES, key);
        let mut before = 0;
        if let Some(head) = self.raw(&stored)? {
            let (length, checksum, _) = self.head(&head)?;
            before = pieces_after_first(length);
            tally.values = tally.values.saturating_sub(1);
            tally.toggle(checksum);
        }
        let mut after = 0;
        if let Some(value) = value {
            let checksum = checksum(key, value);
            tally.values += 1;
            tally.toggle(&checksum);
            let (first, rest) = value.split_at(value.len().min(PIECE_BYTES));
            let head = [&length_bytes(value.len())[..], &checksum, first].concat();
            batch.insert(stored, head);
            for piece in rest.chunks(PIECE_BYTES) {
                batch.insert(piece_key(key, after), piece);
                after += 1;
            }
        } else {
            batch.remove(stored);
        }
        for stale in after..before {
            batch.remove(piece_key(key, stale));
        }
        Ok(())
    }

    /// A value put together from its pieces, checked.
    pub(super) fn whole(&self, key: &[u8], head: &[u8]) -> Result<Vec<u8>, StoreError> {
        let (length, expected, first) = self.head(head)?;
        let mut value = Vec::with_capacity(length);
        value.extend_from_slice(first);
        for number in 0..pieces_after_first(length) {
            match self.raw(&piece_key(key, number))? {
                Some(piece) => value.extend_from_slice(&piece),
                None => return Err(self.damaged(format!("part of the value of {} is missing", name(key)))),
            }
        }
        if value.len() != length || checksum(key, &value) != expected {
            return Err(self.damaged(format!("the value of {} is not what was put there", name(key))));
        }
        Ok(value)
    }

    pub(super) fn head<'a>(&self, head: &'a [u8]) -> Result<(usize, &'a [u8], &'a [u8]), StoreError> {
        let wrong = || self.damaged("a value has no readable head");
        let (length, rest) = head.split_first_chunk::<8>().ok_or_else(wrong)?;
        let (checksum, first) = rest.split_at_checked(CHECKSUM_BYTES).ok_or_else(wrong)?;
        let length = usize::try_from(u64::from_be_bytes(*length)).map_err(|_| wrong())?;
        if length > VALUE_BYTES_MAX {
            return Err(wrong());
        }
        Ok((length, checksum, first))
    }
}

pub(super) fn zoned(zone: u8, key: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(1 + key.len());
    stored.push(zone);
    stored.extend_from_slice(key);
    stored
}

/// Fixed lengths around the key, so that no two pieces of any two keys are the same.
pub(super) fn piece_key(key: &[u8], number: usize) -> Vec<u8> {
    let mut stored = zoned(ZONE_PIECES, &length_bytes(key.len()));
    stored.extend_from_slice(key);
    stored.extend_from_slice(&length_bytes(number));
    stored
}

pub(super) fn pieces_after_first(length: usize) -> usize {
    length.saturating_sub(PIECE_BYTES).div_ceil(PIECE_BYTES)
}

pub(super) fn length_bytes(length: usize) -> [u8; 8] {
    u64::try_from(length).expect("usize has at most 64 bits").to_be_bytes()
}

pub(super) fn checksum(key: &[u8], value: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&length_bytes(key.len())).update(key).update(value);
    let mut short = [0; CHECKSUM_BYTES];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..CHECKSUM_BYTES]);
    short
}

pub(super) fn name(key: &[u8]) -> String {
    key.escape_ascii().take(80).map(char::from).collect()
}
