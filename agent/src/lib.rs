//! The agent's shell: driver loop, probes, applier, installers, local API.
//!
//! Owns the translation between the world and `lunar-agent-core`. Main invariant: effects are carried out in
//! the order the core gave them, and a record is durable before the next effect leaves. Refuses to decide.

pub mod applier;
pub mod applier_link;
pub mod chunk_files;
pub mod cli;
pub mod config;
pub mod driver;
pub mod fetch;
pub mod hooks;
pub mod installers;
pub mod journal;
pub mod local_api;
pub mod probes;
pub mod run;
pub mod sources;
pub mod uplink;
