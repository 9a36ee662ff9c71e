//! The lease ledger: who holds permission to be down, who takes a slot without one, and who waits.
//!
//! Owns the leases' states, the counters and the queue. Main invariant: whatever is counted here is at least
//! what is down in the world (DESIGN 9). Refuses to free a slot because time has passed.

pub(crate) mod lease;
pub(crate) mod occupancy;
pub(crate) mod places;
pub(crate) mod waiting;

mod admit;
mod choose;

pub(crate) use admit::Obstacle;
