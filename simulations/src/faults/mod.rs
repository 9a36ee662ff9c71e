//! What goes wrong: kinds of fault, the explicit plan of one run, and its carrying out.
//!
//! Owns [`Fault`], [`FaultPlan`] and [`Strike`]. Main invariant: everything that goes wrong in a run stands in its
//! plan, with its time and its numbers, so that a strike can be taken out and nothing else changes. Refuses to
//! touch a core: faults happen to the network, the disk, the power, the clocks and the people.

pub mod atlas;

mod clock;
mod draw;
mod edges;
mod kinds;
mod machines;
mod papers;
mod plan;
mod strike;
mod two_coordinators;
mod way;

pub(crate) use clock::Clock;
pub(crate) use edges::{CrashAt, Edges, Interval};
pub use kinds::Fault;
pub(crate) use machines::RESTART_MS;
pub(crate) use papers::Papers;
pub use plan::{CoordinatorEdge, FaultPlan, Manner, PlanError, Planned, ProcessEdge, Strike, Way};
