//! What our programs need of the machine they run on, in one place for the agent and the coordinator.
//!
//! Owns the clock, the exit codes, logs, the directory lock, durable files, keys, document files and the
//! embedded store. Main invariant: whatever a function here reports as written survives a power cut. Refuses
//! to decide anything: it only reads and writes.

pub mod cargo;
pub mod clock;
pub mod documents;
pub mod exit;
pub mod files;
pub mod keys;
pub mod lock;
pub mod output;
pub mod store;
pub mod supervisor;
pub mod telemetry;
