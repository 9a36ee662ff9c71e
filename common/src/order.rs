//! Keyed draws: a random-looking number from what it is for, never from how many were drawn before.
//!
//! Owns rendezvous hashing, spreads and jitter. Main invariant: the same key gives the same draw on every
//! machine and in every run, and adding or removing one server changes no other server's draw.

/// A draw for a purpose and its parts, uniform over `u64`. BLAKE3 of length-prefixed parts.
#[must_use]
pub fn draw(purpose: &str, parts: &[&[u8]]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in std::iter::once(&purpose.as_bytes()).chain(parts) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut first = [0u8; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// A draw below `bound` (0 for a bound of 0). The bias of the multiplication is below `bound / 2^64`.
#[must_use]
pub fn draw_below(bound: u64, purpose: &str, parts: &[&[u8]]) -> u64 {
    let wide = u128::from(draw(purpose, parts)) * u128::from(bound);
    u64::try_from(wide >> 64).unwrap_or(u64::MAX)
}
