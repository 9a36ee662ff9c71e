//! How far a run is, on a terminal.
//!
//! Owns [`Bar`]. Main invariant: where standard error is no terminal, nothing is written: a log is no place for a bar.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lunar_simulations::observe::{Observer, Snapshot};

use super::words::{count, duration};

/// A bar over the servers of one run.
pub(crate) struct Bar {
    bar: ProgressBar,
    began: Instant,
}

impl Bar {
    pub(crate) fn new(servers: usize) -> Self {
        let bar = ProgressBar::new(servers as u64);
        let shown = std::io::stderr().is_terminal();
        bar.set_draw_target(if shown {
            ProgressDrawTarget::stderr_with_hz(8)
        } else {
            ProgressDrawTarget::hidden()
        });
        let style = ProgressStyle::with_template("{bar:28} {pos}/{len} servers at an end  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(250));
        Self { bar, began: Instant::now() }
    }

    /// Takes the bar away.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for Bar {
    fn progress(&mut self, now: &Snapshot) {
        self.bar.set_position(now.ended as u64);
        let rate = per_second(now.events, self.began.elapsed());
        let (at, down) = (duration(now.at_ms), now.down);
        self.bar.set_message(format!("virtual time {at}  {down} down  {} events/s", count(rate)));
    }
}

/// Events a second of real time.
pub(crate) fn per_second(events: u64, took: Duration) -> u64 {
    let micros = took.as_micros().max(1);
    u64::try_from(u128::from(events) * 1_000_000 / micros).unwrap_or(u64::MAX)
}
