//! Every decision an agent makes, without any I/O.
//!
//! Owns the node, the swarm and the applier cores. Main invariant: the same inputs at the same times give the
//! same effects, so that the simulator drives what runs in production. Refuses to touch files, sockets, a clock
//! or randomness.

pub mod applier;
mod desk;
pub mod effect;
pub mod group;
pub mod health;
pub mod input;
pub mod journal;
pub mod lease;
mod neighbour;
pub mod node;
mod report;
pub mod swarm;
pub mod timer;
pub mod upgrade;
