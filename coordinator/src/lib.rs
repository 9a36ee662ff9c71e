//! The coordinator's shell: serve, origin, the operators' command line, the demo.
//!
//! Owns the translation between the world and `lunar-coordinator-core`. Main invariant: an effect leaves only
//! after the events it rests on are durable. Refuses to decide: decisions are the core's.

pub mod agent_socket;
pub mod api;
pub mod catalogue;
pub mod cli;
pub mod client;
pub mod committer;
pub mod demo;
pub mod event_log;
pub mod home;
pub mod origin;
pub mod pki;
pub mod serve;
