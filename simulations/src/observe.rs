//! How a run is looked at while it runs.
//!
//! Owns [`Observer`] and [`Snapshot`]. Main invariant: an observer sees and changes nothing: with or without one, a
//! run's trace is the same.

/// A run at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Virtual time, in milliseconds.
    pub at_ms: u64,
    /// Events so far.
    pub events: u64,
    /// Servers.
    pub servers: usize,
    /// Those at an end, on the new version or the old.
    pub ended: usize,
    /// Those down.
    pub down: usize,
}

/// Somebody who looks on.
pub trait Observer {
    /// Every so many events, and at the end.
    fn progress(&mut self, _snapshot: &Snapshot) {}

    /// Whether lines about this server are wanted; asked before a line is made. `None`: about no server.
    fn wants(&self, _server: Option<usize>) -> bool {
        false
    }

    /// A line about a server that is wanted.
    fn line(&mut self, _server: Option<usize>, _at_ms: u64, _text: &str) {}
}

/// Nobody looks on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nobody;

impl Observer for Nobody {}
