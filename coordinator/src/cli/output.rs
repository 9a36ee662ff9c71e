//! How answers and failures are printed.
//!
//! Owns the two output formats. Main invariant: with `--output json`, standard output is one JSON value (or
//! one a line, where a command says so) and nothing else.

use std::io::{IsTerminal, Write};

use comfy_table::presets::UTF8_FULL_CONDENSED;
use lunar_host::exit::{Exit, Failure};
use serde::Serialize;

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

/// A table for people.
pub struct Table(comfy_table::Table);

impl Table {
    /// A table with these column heads.
    #[must_use]
    pub fn new(heads: &[&str]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_preset(UTF8_FULL_CONDENSED).set_header(heads);
        if !std::io::stdout().is_terminal() {
            table.force_no_tty();
        }
        Self(table)
    }

    /// Adds a row.
    pub fn row<I: IntoIterator<Item = String>>(&mut self, cells: I) {
        self.0.add_row(cells.into_iter().collect::<Vec<_>>());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Tells a person what went wrong, where and what next.
pub(super) fn print_failure(failure: &Failure) {
    let mut err = std::io::stderr().lock();
    // Nothing can be done about a standard error that is closed.
    let _ = writeln!(err, "error: {failure}");
}
