//! Tables for people.
//!
//! Owns their look. Main invariant: what is no terminal gets no colours.

use std::io::IsTerminal;

use comfy_table::presets::UTF8_FULL_CONDENSED;

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
