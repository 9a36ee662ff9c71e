//! How answers and failures are printed.
//!
//! Owns the two output formats. Main invariant: with `--output json`, standard output is one JSON value (or one a
//! line, where a command says so) and nothing else.

use std::io::Write;

use serde::Serialize;

use crate::exit::{Exit, Failure};

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Human,
    /// For machines.
    Json,
}

impl Output {
    /// Prints a value as JSON, or by `human`.
    ///
    /// # Errors
    /// A closed or full standard output.
    pub fn print<T: Serialize>(self, value: &T, human: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        let text = match self {
            Self::Json => serde_json::to_string_pretty(value).map_err(|e| Failure::new(Exit::Internal, e))?,
            Self::Human => human(value),
        };
        let mut out = std::io::stdout().lock();
        match writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()) {
            // A reader that has seen enough (`| head`) is no failure.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(Failure::from),
        }
    }
}

/// Tells a person what went wrong, where and what next.
pub fn print_failure(failure: &Failure) {
    let mut err = std::io::stderr().lock();
    // Nothing can be done about a standard error that is closed.
    let _ = writeln!(err, "error: {failure}");
}
