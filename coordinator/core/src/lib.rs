//! Every decision a coordinator makes, without any I/O: who may go down, when, and why not.
//!
//! Owns the lease ledger, the bounded view of the fleet, explanations and feasibility. Main invariant: the
//! durable state is the fold of the event log, so a coordinator killed at any instant comes back knowing every
//! permission it ever gave. Refuses to sign, send, store or look at a clock: the shell does that.

pub mod campaign;
pub mod config;
pub mod coordinator;
pub mod effect;
pub mod event;
pub mod input;
pub mod planner;
pub mod view;
pub mod why;

mod fleet;
mod ledger;
mod roll;
mod state;
mod timers;

pub use config::Config;
pub use coordinator::Coordinator;
pub use timers::Timer;
