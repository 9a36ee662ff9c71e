//! The two planes that move bytes between machines: the libp2p mesh (control) and the quinn data plane (bulk).
//!
//! Owns connections and everything read from them until it is a typed, bounded, authenticated message. Main
//! invariant: a peer that has not proved its enrolment is told nothing and makes us hold nothing. Refuses to
//! decide anything about campaigns: that is the cores' work.

pub mod data_plane;
pub mod gate;
pub mod mesh;
pub mod trust_gate;

#[cfg(test)]
mod fixture;
