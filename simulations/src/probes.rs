//! Rare things that must happen somewhere, or the worlds have become too tame to prove anything.
//!
//! Owns the list of them, [`SOMETIMES`]. Main invariant: a probe that no run of the committed seeds reaches fails
//! the build, so that a fault that silently stops striking is noticed. Refuses to judge: reaching one is neither
//! good nor bad.

/// Every rare thing, as runs name it in [`Outcome::sometimes`](crate::world::Outcome::sometimes).
pub const SOMETIMES: [&str; 11] = [
    "a lease was given back unused",
    "a lease was lost",
    "a lost lease was found",
    "a machine lost its power before the commit",
    "a report ended a lease",
    "a restored log was noticed",
    "a restored log was recovered from",
    "a server completed",
    "a server rolled back",
    "an unknown lease was adopted",
    "the dead man's switch went off",
];
