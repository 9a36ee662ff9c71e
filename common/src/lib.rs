//! The vocabulary of the fleet: ids, limits, plans, trust, manifests, leases, health and wire formats.
//!
//! Owns every type that two programs must agree on. Main invariant: a value of one of these types is well
//! formed, because the only ways to make one check it. Refuses to do I/O, read a clock or draw randomness:
//! the simulator and the programs share this crate to the letter.

pub mod bounds;
pub mod curb;
pub mod document;
pub mod enrolment;
pub mod gate;
pub mod have_set;
pub mod health;
pub mod ids;
pub mod inventory;
pub mod lease;
pub mod limits;
pub mod local;
pub mod manifest;
pub mod message;
pub mod order;
pub mod pause;
pub mod phase;
pub mod plan;
pub mod retry;
pub mod signed_before;
pub mod time;
pub mod trust;
pub mod window;
pub mod wire;
