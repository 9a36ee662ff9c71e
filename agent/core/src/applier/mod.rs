//! The root half's decisions: what is installed, when it is kept, and when it goes back by itself.
//!
//! Owns the words that the two halves exchange ([`protocol`]) and the applier's state machine ([`machine`]).
//! Main invariant: nothing is installed that people did not sign, and a server ends whole on exactly one
//! version whatever the network half does or fails to do. Refuses to believe the network half.

pub mod effect;
pub mod input;
pub mod journal;
pub mod machine;
pub mod permission;
pub mod protocol;
mod work;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
