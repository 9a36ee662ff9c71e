//! Rare things that must happen somewhere, or the worlds have become too tame to prove anything.
//!
//! Owns the list of them, [`SOMETIMES`]. Main invariant: a probe that no run of the committed seeds reaches fails
//! the build, so that a fault that silently stops striking is noticed. Refuses to judge: reaching one is neither
//! good nor bad.

/// Every rare thing, as runs name it in [`Outcome::sometimes`](crate::world::Outcome::sometimes).
pub const SOMETIMES: [&str; 29] = [
    "a bit turned in what was staged",
    "a lease was given back unused",
    "a lease was lost",
    "a lost lease was found",
    "a lost lease was reaped",
    "a machine came back on the old version by itself",
    "a machine lost its power before the commit",
    "a machine never came back",
    "a plan was replaced in mid-plan",
    "a record was torn",
    "a report ended a lease",
    "a restored log was noticed",
    "a restored log was recovered from",
    "a server completed",
    "a server answered nobody",
    "a server answered too late",
    "a server lied about what it has",
    "a server rolled back",
    "a server sent corrupt frames",
    "a server was in the wrong group",
    "a server was revoked",
    "an agent stopped because its disk was full",
    "an applier stopped because its disk was full",
    "an old coordinator answered",
    "an old coordinator stopped because the log was not its own",
    "an unknown lease was adopted",
    "keys were rotated",
    "the coordinator stopped because its disk was full",
    "the dead man's switch went off",
];
