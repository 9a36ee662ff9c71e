//! The result of one run as a file, and its way back.
//!
//! Owns [`RunResult`]. Main invariant: a file of another format says so, before any key of it is called unknown; what
//! depends on the machine stands apart from what follows from the seed.

use std::path::Path;

use anyhow::{Context, bail};
use lunar_simulations::measure::{Figures, Series};
use serde::{Deserialize, Serialize};

/// The only format there is.
pub(crate) const FORMAT: u64 = 1;

/// One run, ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunResult {
    /// Always [`FORMAT`].
    pub(crate) format: u64,
    /// The version of the program that ran it.
    pub(crate) program: String,
    /// The scenario's name.
    pub(crate) scenario: String,
    /// Its description.
    pub(crate) description: String,
    /// Names every draw.
    pub(crate) seed: u64,
    /// How many strikes its plan of faults held.
    pub(crate) strikes: usize,
    /// The campaign's days.
    pub(crate) days: u32,
    /// How it ended.
    pub(crate) verdict: Verdict,
    /// What was violated, where something was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) violation: Option<Violated>,
    /// The hash of the trace: two runs with the same one went the same way.
    pub(crate) trace: String,
    pub(crate) figures: Figures,
    pub(crate) series: Series,
    /// What this machine needed for it.
    pub(crate) took: Took,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// Every invariant held, and everyone came to an end.
    Held,
    /// An invariant broke.
    Broke,
    /// Nothing broke, and not everyone came to an end.
    NotConverged,
}

impl Verdict {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Broke => "an invariant broke",
            Self::NotConverged => "did not converge",
        }
    }
}

/// What was violated.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Violated {
    pub(crate) invariant: String,
    pub(crate) what: String,
    pub(crate) at_ms: u64,
}

/// What this machine needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Took {
    pub(crate) wall_ms: u64,
    pub(crate) events_per_s: u64,
}

impl RunResult {
    /// The result in a file.
    ///
    /// # Errors
    /// It cannot be read, is of another format, or is no result.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("{shown} cannot be read"))?;
        let hint = "write one with `lunar-simulations run SCENARIO --output json > FILE`";
        let value: serde_json::Value =
            serde_json::from_str(&text).with_context(|| format!("{shown} is no result file; {hint}"))?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(FORMAT) => {}
            Some(found) => {
                let program =
                    value.get("program").and_then(serde_json::Value::as_str).unwrap_or("another version");
                bail!(
                    "{shown} has format {found}, written by {program}; this is {} and reads format {FORMAT}: \
                     run it again with one of the two",
                    env!("CARGO_PKG_VERSION")
                );
            }
            None => bail!("{shown} is no result file: it has no format; {hint}"),
        }
        // From the text, not the value: only so does an error name its line.
        serde_json::from_str(&text).with_context(|| format!("{shown} is no whole result file; {hint}"))
    }
}
