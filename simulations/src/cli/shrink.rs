//! `shrink`: a failing run, as small as it still fails.
//!
//! Owns the command; the search is the library's. Main invariant: nothing is written for a run that does not fail.

use std::path::PathBuf;

use anyhow::Context;
use lunar_simulations::Mutant;
use lunar_simulations::seed_file::SeedFile;
use lunar_simulations::shrink::{breaks, shrink};

use super::words::count;
use super::{Exit, Refused, run};

/// Makes a failing run small.
#[derive(Debug, clap::Args)]
pub(crate) struct ShrinkCommand {
    /// The seed of a small world, or a file that `fuzz` wrote.
    case: String,
    /// Where the small run is written. Default: seeds/shrunk-SEED.toml under the current directory.
    #[arg(long, value_name = "FILE")]
    into: Option<PathBuf>,
    /// How many worlds are run at most to find it.
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    runs: u32,
    /// Breaks the world on purpose, as in `replay`.
    #[arg(long, value_name = "MUTANT", value_parser = run::mutant)]
    broken: Option<Mutant>,
}

impl ShrinkCommand {
    pub(crate) fn run(self) -> Result<Exit, Refused> {
        let mut options = run::small_or_file(&self.case)?;
        options.mutant = self.broken.or(options.mutant);
        let Some(invariant) = breaks(&options) else {
            println!("{} does not fail: every invariant holds in it", self.case);
            return Ok(Exit::Held);
        };
        let (strikes, servers) = (options.faults.len(), options.scenario.servers());
        eprintln!("{} breaks {invariant}, with {strikes} strikes and {servers} servers", self.case);
        // It fails, so it shrinks; and if it fails only now and then, it is not deterministic, which is worse.
        let small = shrink(&options, &invariant, self.runs).with_context(|| {
            format!("{} failed once and not again: the world is not deterministic", self.case)
        })?;
        let path = self.into.unwrap_or_else(|| PathBuf::from(format!("seeds/shrunk-{}.toml", options.seed)));
        let what = format!("shrunk from seed {}", options.seed);
        let file = SeedFile::of(&small.options, &invariant, &what);
        let folder = path.parent().map_or_else(|| PathBuf::from("."), PathBuf::from);
        std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(&path, file.to_toml()))
            .with_context(|| format!("{} cannot be written", path.display()))?;
        print!("{}", small.options.faults);
        println!(
            "{} strikes of {strikes} and {} servers of {servers} are left, after {} runs{}",
            small.options.faults.len(),
            small.options.scenario.servers(),
            count(small.runs.into()),
            if small.cut_short { "; the runs ran out, it may be smaller still (--runs)" } else { "" }
        );
        println!("written: {}", path.display());
        println!("  have it again: lunar-simulations replay {}", path.display());
        Ok(if invariant == lunar_simulations::shrink::PANIC {
            Exit::Crashed
        } else if invariant.starts_with('L') {
            Exit::NotConverged
        } else {
            Exit::Broke
        })
    }
}
