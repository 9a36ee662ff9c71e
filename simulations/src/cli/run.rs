//! `run` and `replay`: one run, its report, and its page.
//!
//! Owns the way from options to a [`RunResult`]. Main invariant: however a run ends, a report of it is made, and the
//! exit code says how.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow};
use lunar_simulations::observe::{Nobody, Observer};
use lunar_simulations::seed_file::SeedFile;
use lunar_simulations::{Mutant, Options, Outcome, Scenario, Violation, World};

use super::guard::guarded;
use super::progress::{Bar, per_second};
use super::result::{FORMAT, RunResult, Took, Verdict, Violated};
use super::{Exit, Output, Refused, page, read, report, words};

/// Runs one scenario.
#[derive(Debug, clap::Args)]
pub(crate) struct RunCommand {
    /// The scenario, a TOML file as those in simulations/scenarios.
    scenario: PathBuf,
    /// Names every draw: another seed is another run of the same world.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Ends the campaign's time earlier or later than the scenario says.
    #[arg(long)]
    days: Option<u32>,
    #[command(flatten)]
    shown: Shown,
}

/// How a run is shown.
#[derive(Debug, clap::Args)]
pub(crate) struct Shown {
    /// Also writes an HTML page with pictures, and the result as JSON, into this directory.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// For people, or for programs.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Runs a small world again.
#[derive(Debug, clap::Args)]
pub(crate) struct ReplayCommand {
    /// The seed of a small world, or a file that `shrink` or `fuzz` wrote.
    case: String,
    /// Also prints what happened, line by line.
    #[arg(long)]
    trace: bool,
    /// Breaks the world on purpose, to see which invariant notices (wide-limits, frees-nothing, …).
    #[arg(long, value_name = "MUTANT", value_parser = mutant)]
    broken: Option<Mutant>,
    /// Panics on purpose as the run begins, to see that a crash is caught and told.
    #[arg(long, hide = true)]
    crash: bool,
    #[command(flatten)]
    shown: Shown,
}

impl RunCommand {
    pub(crate) fn run(self) -> Result<Exit, Refused> {
        let mut scenario = scenario(&self.scenario)?;
        if let Some(days) = self.days {
            scenario.days = days;
            scenario = Scenario::parse(&scenario.to_toml()).context("with --days")?;
        }
        let again = format!("lunar-simulations run {} --seed {}", self.scenario.display(), self.seed);
        let again = self.days.map_or_else(|| again.clone(), |days| format!("{again} --days {days}"));
        shown(Options::of(Arc::new(scenario), self.seed), &self.shown, &again, &mut None)
    }
}

impl ReplayCommand {
    pub(crate) fn run(self) -> Result<Exit, Refused> {
        let mut options = small_or_file(&self.case)?;
        options.mutant = self.broken.or(options.mutant);
        let again = format!("lunar-simulations replay {}", self.case);
        let mut watcher: Option<Box<dyn Observer>> = match (self.crash, self.trace) {
            (true, _) => Some(Box::new(Crash)),
            (false, true) => Some(Box::new(Lines)),
            (false, false) => None,
        };
        shown(options, &self.shown, &again, &mut watcher)
    }
}

/// Panics at once.
struct Crash;

impl Observer for Crash {
    fn wants(&self, _server: Option<usize>) -> bool {
        panic!("asked to crash")
    }
}

/// A mutant by its name.
pub(crate) fn mutant(name: &str) -> Result<Mutant, String> {
    serde_json::from_value(name.into()).map_err(|error| error.to_string())
}

/// Prints every line.
struct Lines;

impl Observer for Lines {
    fn wants(&self, _server: Option<usize>) -> bool {
        true
    }
    fn line(&mut self, _server: Option<usize>, at_ms: u64, text: &str) {
        println!("{:>9}.{:03} {text}", at_ms / 1_000, at_ms % 1_000);
    }
}

/// The scenario in a file.
pub(crate) fn scenario(path: &PathBuf) -> Result<Scenario, Refused> {
    let text = read(path)?;
    Scenario::parse(&text).map_err(|error| anyhow!("{}: {error}", path.display()))
}

/// The run that a person names by a seed or a file.
pub(crate) fn small_or_file(named: &str) -> Result<Options, Refused> {
    if let Ok(seed) = named.parse::<u64>() {
        return Ok(Options::swarm(seed));
    }
    let path = PathBuf::from(named);
    if !path.exists() {
        return Err(anyhow!("`{named}` is neither a seed (a number) nor a file that is there"));
    }
    let text = read(&path)?;
    let file = SeedFile::parse(&text).map_err(|error| anyhow!("{named}: {error}"))?;
    Scenario::parse(&file.scenario.to_toml()).map_err(|error| anyhow!("{named}: {error}"))?;
    Ok(file.options())
}

/// Runs, reports, and says how it ended.
fn shown(
    options: Options,
    how: &Shown,
    again: &str,
    watcher: &mut Option<Box<dyn Observer>>,
) -> Result<Exit, Refused> {
    let scenario = Arc::clone(&options.scenario);
    let (seed, strikes) = (options.seed, options.faults.len());
    let began = Instant::now();
    let mut bar = Bar::new(scenario.servers());
    let observer: &mut dyn Observer = watcher.as_deref_mut().unwrap_or(&mut bar);
    let ended = guarded(|| World::new(options).run_with(observer));
    let took = began.elapsed();
    bar.end();
    let ended = match ended {
        Ok(ended) => ended,
        Err(said) => {
            eprintln!("crashed: seed {seed} of {}: {said}\nhave it again: {again}", scenario.name);
            return Ok(Exit::Crashed);
        }
    };
    let mut result = result(&scenario, seed, strikes, &ended);
    let wall_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    result.took = Took { wall_ms, events_per_s: per_second(result.figures.events, took) };
    if let Err(violation) = &ended {
        eprintln!("{violation}\nhave it again: {again}\n");
    }
    match how.output {
        Output::Text => print!("{}", report::text(&result)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&result)?),
    }
    eprintln!(
        "ran in {}, {} events/s",
        words::duration(result.took.wall_ms),
        words::count(result.took.events_per_s)
    );
    if let Some(folder) = &how.report {
        write(folder, &result, &scenario)?;
    }
    Ok(match result.verdict {
        Verdict::Held => Exit::Held,
        Verdict::Broke => Exit::Broke,
        Verdict::NotConverged => Exit::NotConverged,
    })
}

fn write(folder: &PathBuf, result: &RunResult, scenario: &Scenario) -> Result<(), Refused> {
    let stem = format!("{}-{}", result.scenario, result.seed);
    let (page, data) = (folder.join(format!("{stem}.html")), folder.join(format!("{stem}.json")));
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(&page, page::html(result, scenario)))
        .and_then(|()| fs::write(&data, serde_json::to_vec_pretty(result)?))
        .with_context(|| format!("the report cannot be written into {}", folder.display()))?;
    eprintln!("report: {} and {}", page.display(), data.display());
    Ok(())
}

/// What a run's end says.
pub(crate) fn verdict(violation: &Violation) -> Verdict {
    // What must come to an end is named L; what must never happen, S.
    if violation.invariant.starts_with('L') { Verdict::NotConverged } else { Verdict::Broke }
}

fn result(
    scenario: &Scenario,
    seed: u64,
    strikes: usize,
    ended: &Result<Outcome, Box<Violation>>,
) -> RunResult {
    let (trace, figures, series) = match ended {
        Ok(outcome) => (outcome.trace, outcome.figures.clone(), outcome.series.clone()),
        Err(violation) => {
            let (figures, series) = violation.measured.as_deref().cloned().unwrap_or_default();
            (violation.trace_hash, figures, series)
        }
    };
    let violated = |violation: &Violation| Violated {
        invariant: violation.invariant.to_owned(),
        what: violation.what.clone(),
        at_ms: violation.at_ms,
    };
    RunResult {
        format: FORMAT,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        scenario: scenario.name.clone(),
        description: scenario.description.clone(),
        seed,
        strikes,
        days: scenario.days,
        verdict: ended.as_ref().err().map_or(Verdict::Held, |violation| verdict(violation)),
        violation: ended.as_ref().err().map(|violation| violated(violation)),
        trace: format!("{trace:016x}"),
        figures,
        series,
        took: Took { wall_ms: 0, events_per_s: 0 },
    }
}

/// A run that nobody looks at.
pub(crate) fn quietly(options: Options) -> Result<Result<Outcome, Box<Violation>>, String> {
    guarded(|| World::new(options).run_with(&mut Nobody))
}
