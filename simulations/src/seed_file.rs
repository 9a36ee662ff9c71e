//! A run as a file: what once failed, kept so that it is run again on every change.
//!
//! Owns [`SeedFile`]. Main invariant: a file says all that a run needs, so that it goes the same way after the
//! drawing of plans has changed. Refuses unknown keys and other formats, and to touch a disk: the caller hands the
//! text in.

use std::sync::Arc;

use lunar_common::document::{Place, explain_toml};
use serde::{Deserialize, Serialize};

use crate::faults::FaultPlan;
use crate::options::{Mutant, Options};
use crate::scenario::Scenario;

/// The only format there is.
pub const FORMAT: u32 = 1;

/// A run that once broke an invariant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedFile {
    /// Always 1.
    pub format: u32,
    /// What was wrong, for people.
    pub what: String,
    /// The invariant that it broke. With a mutant it still must; without one it must hold now.
    pub invariant: String,
    /// The seed.
    pub seed: u64,
    /// What is broken on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mutant: Option<Mutant>,
    /// The world.
    pub scenario: Scenario,
    /// What goes wrong.
    pub faults: FaultPlan,
}

/// Why a text is no run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeedFileError {
    /// Made for another version of this program.
    #[error(
        "the seed file has format {found}; this version reads format {FORMAT}: run its seed again instead"
    )]
    Format {
        /// What it says.
        found: i64,
    },
    /// Not TOML, or not of this shape.
    #[error("the seed file is wrong at line {}, column {}: {problem}{place}", place.line, place.column)]
    Syntax {
        /// Where.
        place: Place,
        /// What is wrong.
        problem: String,
    },
    /// A strike at a server that is not there.
    #[error("a strike at {at_ms} ms hits server {server}; the scenario has {servers}, counted from 0")]
    NoSuchServer {
        /// When.
        at_ms: u64,
        /// Whom.
        server: usize,
        /// How many there are.
        servers: usize,
    },
}

impl SeedFile {
    /// The file of a run that broke an invariant.
    #[must_use]
    pub fn of(options: &Options, invariant: &str, what: &str) -> Self {
        Self {
            format: FORMAT,
            what: what.to_owned(),
            invariant: invariant.to_owned(),
            seed: options.seed,
            mutant: options.mutant,
            scenario: (*options.scenario).clone(),
            faults: options.faults.clone(),
        }
    }

    /// The run that a text describes.
    ///
    /// # Errors
    /// [`SeedFileError`] names what is wrong.
    pub fn parse(text: &str) -> Result<Self, SeedFileError> {
        let head = toml::from_str::<toml::Table>(text).ok();
        let found = head.and_then(|head| head.get("format")?.as_integer());
        if let Some(found) = found.filter(|found| *found != i64::from(FORMAT)) {
            return Err(SeedFileError::Format { found });
        }
        let mut file: Self = toml::from_str(text).map_err(|error| {
            let (place, problem) = explain_toml(text, &error);
            SeedFileError::Syntax { place, problem }
        })?;
        file.faults.strikes.sort_by_key(|planned| planned.at_ms);
        let servers = file.scenario.servers();
        for planned in &file.faults.strikes {
            if let Some(server) = planned.what.server().filter(|server| *server >= servers) {
                return Err(SeedFileError::NoSuchServer { at_ms: planned.at_ms, server, servers });
            }
        }
        Ok(file)
    }

    /// The same run as a text that [`SeedFile::parse`] takes.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every field of a run has a form in TOML")
    }

    /// The run.
    #[must_use]
    pub fn options(&self) -> Options {
        let (faults, mutant) = (self.faults.clone(), self.mutant);
        Options { faults, mutant, ..Options::of(Arc::new(self.scenario.clone()), self.seed) }
    }
}
