//! The command line: its words, its exit codes, and the commands.
//!
//! Owns [`Exit`] and [`main`]. Main invariant: every way out has its code, and every refusal says what was wrong,
//! where, and what to do next.

mod compare;
mod fuzz;
mod guard;
mod page;
mod progress;
mod report;
mod result;
mod run;
mod shrink;
mod trace;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Everything held.
    Held = 0,
    /// An invariant broke.
    Broke = 1,
    /// Nothing broke, and not everyone came to an end.
    NotConverged = 2,
    /// A file or an argument was refused.
    BadInput = 3,
    /// A core or the world panicked.
    Crashed = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not get to its end.
pub(crate) type Refused = anyhow::Error;

const AFTER: &str = "Examples:
  lunar-simulations run simulations/scenarios/moon-1k.toml --seed 7
  lunar-simulations run simulations/scenarios/moon-10k.toml --report /tmp/moon   # and a page with pictures
  lunar-simulations fuzz --minutes 2                                             # small worlds, every kind of fault
  lunar-simulations replay 4711                                                  # one of them again
  lunar-simulations shrink 4711                                                  # and as small as it still fails

Exit codes:
  0  everything held
  1  an invariant broke
  2  nothing broke, but not everyone came to an end
  3  bad input: an argument, a scenario, a seed or result file
  4  crashed: a core or the world panicked";

/// Runs whole fleets of the production cores, agents and coordinator, in one deterministic world with faults.
///
/// The same scenario and seed give the same run to the last bit, on every machine.
#[derive(Debug, Parser)]
#[command(name = "lunar-simulations", version, after_help = AFTER)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs one scenario and reports on it.
    #[command(after_help = "Examples:
  lunar-simulations run simulations/scenarios/moon-1k.toml
  lunar-simulations run simulations/scenarios/moon-10k.toml --seed 7 --report /tmp/moon
  lunar-simulations run simulations/scenarios/blackouts.toml --output json > blackouts.json")]
    Run(run::RunCommand),
    /// Runs a small world again: by its seed, or from a file that `shrink` or `fuzz` wrote.
    #[command(after_help = "Examples:
  lunar-simulations replay 4711
  lunar-simulations replay simulations/seeds/lost-grant.toml --trace")]
    Replay(run::ReplayCommand),
    /// Makes a failing run small: takes out every strike and every server that it fails without.
    #[command(after_help = "Examples:
  lunar-simulations shrink 4711
  lunar-simulations shrink failing-4711.toml --into simulations/seeds/lost-grant.toml")]
    Shrink(shrink::ShrinkCommand),
    /// Compares two results, for example of two revisions: what differs, and by how much.
    #[command(after_help = "Examples:
  git stash; cargo run --release -p lunar-simulations -- run SCENARIO --output json > before.json
  git stash pop; cargo run --release -p lunar-simulations -- run SCENARIO --output json > after.json
  lunar-simulations compare before.json after.json")]
    Compare(compare::CompareCommand),
    /// Tells one server's life, event by event.
    #[command(after_help = "Examples:
  lunar-simulations trace srv-3 --seed 4711
  lunar-simulations trace 3 --from failing-4711.toml
  lunar-simulations trace srv-0 --scenario simulations/scenarios/moon-1k.toml --seed 7")]
    Trace(trace::TraceCommand),
    /// Runs small worlds, each with another plan of faults, until the time is over or one fails.
    #[command(after_help = "Examples:
  lunar-simulations fuzz --minutes 2
  lunar-simulations fuzz --seeds 100000 --jobs 2 --from 1")]
    Fuzz(fuzz::FuzzCommand),
}

/// For people, or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Text.
    Text,
    /// JSON.
    Json,
}

/// Everything from the arguments to the exit code.
pub(crate) fn main() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let asked_for = !error.use_stderr();
            let _ = error.print();
            return if asked_for { Exit::Held } else { Exit::BadInput };
        }
    };
    guard::catch_panics();
    let ended = match cli.command {
        Command::Run(command) => command.run(),
        Command::Replay(command) => command.run(),
        Command::Shrink(command) => command.run(),
        Command::Compare(command) => command.run(),
        Command::Trace(command) => command.run(),
        Command::Fuzz(command) => command.run(),
    };
    ended.unwrap_or_else(|refused| {
        eprintln!("refused: {refused:#}");
        Exit::BadInput
    })
}

/// A file's text, or why it cannot be had.
pub(crate) fn read(path: &PathBuf) -> Result<String, Refused> {
    std::fs::read_to_string(path)
        .map_err(|error| anyhow::anyhow!("{} cannot be read: {error}", path.display()))
}
