//! Signatures that were found good, remembered so that the same one is not checked twice.
//!
//! Owns the memory of one thread. Main invariant: whether a signature is good follows from its key, what it was made
//! for, the bytes and the signature alone; what is remembered is the BLAKE3 of all four, so an answer from memory is
//! the answer of a check. Only good ones are remembered. Refuses to remember anything before it is asked to: the
//! programs never ask, a simulated fleet does, in which ten thousand machines check the same plan.

use std::cell::RefCell;
use std::collections::BTreeSet;

/// Signatures remembered, at most: 8 MB. One more, and all are forgotten.
const REMEMBERED_MAX: usize = 1 << 17;

thread_local! {
    static GOOD: RefCell<Option<BTreeSet<[u8; 32]>>> = const { RefCell::new(None) };
}

/// From here on, this thread remembers the good signatures it has seen.
pub fn remember_in_this_thread() {
    GOOD.with_borrow_mut(|good| {
        good.get_or_insert_default();
    });
}

/// Whether a signature is good: by memory, or by the check. The parts name all that the check looks at.
pub(crate) fn is_good(parts: &[&[u8]], check: impl FnOnce() -> bool) -> bool {
    let Some(digest) = digest(parts) else { return check() };
    if GOOD.with_borrow(|good| good.as_ref().is_some_and(|good| good.contains(&digest))) {
        return true;
    }
    let good = check();
    if good {
        remember(digest);
    }
    good
}

/// A signature was just made with its key, which makes it good.
pub(crate) fn was_made(parts: &[&[u8]]) {
    if let Some(digest) = digest(parts) {
        remember(digest);
    }
}

fn remember(digest: [u8; 32]) {
    GOOD.with_borrow_mut(|good| {
        if let Some(good) = good {
            if good.len() >= REMEMBERED_MAX {
                good.clear();
            }
            good.insert(digest);
        }
    });
}

/// `None`: nothing is remembered. Each part is preceded by its length, so that no two lists of parts are one.
fn digest(parts: &[&[u8]]) -> Option<[u8; 32]> {
    GOOD.with_borrow(Option::is_some).then(|| {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        *hasher.finalize().as_bytes()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_remembered_before_it_is_asked_for_and_then_only_what_is_good() {
        let parts: [&[u8]; 2] = [b"key", b"bytes"];
        assert!(is_good(&parts, || true));
        assert!(!is_good(&parts, || false), "each is checked");
        remember_in_this_thread();
        assert!(!is_good(&parts, || false));
        assert!(is_good(&parts, || true));
        assert!(is_good(&parts, || panic!("it is known")));
        assert!(!is_good(&[b"keyb", b"ytes"], || false), "the same bytes, cut elsewhere");
        was_made(&[b"made"]);
        assert!(is_good(&[b"made"], || panic!("its maker said so")));
    }
}
