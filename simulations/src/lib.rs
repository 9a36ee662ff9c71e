//! Both sides' production cores in one deterministic world.
//!
//! Owns the simulator: one virtual clock, one queue of events, one coordinator, and for each server a node, its
//! root half and a modelled disk. Main invariant: a seed and a set of options determine every event, and the
//! truth that the invariants are checked against is the world's own, never what a core believes. Refuses to
//! change a core: what is wrong is put in at the edges, as the network, the disk and the power do it.

pub mod faults;
pub mod forecast;
pub mod invariants;
pub mod measure;
pub mod model;
pub mod observe;
pub mod options;
pub mod probes;
pub mod scenario;
pub mod seed_file;
pub mod shrink;
pub mod world;

mod chance;
mod coordinator;
mod disk;
mod documents;
mod earth;
mod event;
mod links;
mod network;
mod node_half;
mod queue;
mod root_half;
mod server;
mod swarming;
mod trace;
mod truth;

pub use faults::{Fault, FaultPlan, Strike};
pub use invariants::Violation;
pub use options::{Mutant, Options, QueueKind};
pub use scenario::Scenario;
pub use world::{Outcome, World};
