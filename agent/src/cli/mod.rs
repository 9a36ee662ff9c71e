//! The command line: one file a command.
//!
//! Owns argument parsing, output formats and the way failures are told. Main invariant: standard output carries
//! the answer and nothing else, in the format asked for; everything else goes to standard error.

mod apply;
mod init;
mod inject;
mod output;
mod run;
mod status;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use lunar_host::exit::{Exit, Failure};
use lunar_host::telemetry::{self, LogFormat};

use crate::config::{Config, DEFAULT_PATH};
use output::Output;

/// What every command returns: the exit code, or a failure that carries one.
type CommandResult = Result<Exit, Failure>;

/// Upgrades this server by the fleet's signed plans, with the help of its neighbours.
#[derive(Debug, Parser)]
#[command(name = "lunar-agent", version, after_help = Exit::HELP)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, clap::Args)]
struct Common {
    /// The agent's configuration.
    #[arg(long, global = true, env = "LUNAR_AGENT_CONFIG", value_name = "FILE",
          help = format!("The agent's configuration [default: {DEFAULT_PATH}, if it is there]"))]
    config: Option<PathBuf>,
    /// How answers are printed.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
    /// How log lines look: human or json.
    #[arg(long, global = true, default_value = "human", value_name = "FORMAT")]
    log_format: LogFormat,
}

impl Common {
    fn config(&self) -> Result<Config, Failure> {
        Config::load(self.config.as_deref())
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunCommand),
    Apply(apply::ApplyCommand),
    Status(status::StatusCommand),
    Verify(verify::VerifyCommand),
    Init(init::InitCommand),
    Inject(inject::InjectCommand),
    /// Prints shell completions.
    #[command(after_help = "Example:\n  lunar-agent completions bash > /etc/bash_completion.d/lunar-agent")]
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Writes the manual pages into a directory.
    #[command(after_help = "Example:\n  lunar-agent manual /usr/local/share/man/man1")]
    Manual {
        /// The directory; made if it is not there.
        directory: PathBuf,
    },
}

/// Parses the command line, runs the command, tells how it ended.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match dispatch(arguments) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output::print_failure(&failure);
            failure.exit.into()
        }
    }
}

fn dispatch(arguments: Arguments) -> CommandResult {
    let common = &arguments.common;
    if !matches!(arguments.command, Command::Run(_) | Command::Apply(_)) {
        telemetry::start(common.log_format, "warn");
    }
    match arguments.command {
        Command::Run(command) => command.run(common),
        Command::Apply(command) => command.run(common),
        Command::Status(command) => command.run(common),
        Command::Verify(command) => command.run(common),
        Command::Init(command) => command.run(common),
        Command::Inject(command) => command.run(common),
        Command::Completions { shell } => {
            let mut out = std::io::stdout();
            clap_complete::generate(shell, &mut Arguments::command(), "lunar-agent", &mut out);
            Ok(Exit::Ok)
        }
        Command::Manual { directory } => {
            std::fs::create_dir_all(&directory)?;
            clap_mangen::generate_to(Arguments::command(), &directory)?;
            Ok(Exit::Ok)
        }
    }
}

/// Everything an agent does fits one thread, and one thread costs the least when nothing happens.
fn block_on<T>(task: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_keep_alive(std::time::Duration::from_secs(5))
        .build()?
        .block_on(task)
}

/// Threads for what waits on the disk: records, frames, probes of the file system.
const BLOCKING_THREADS_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_wrong_option_is_told() {
        let error = Arguments::try_parse_from(["lunar-agent", "status", "--outptu", "json"]).unwrap_err();
        assert!(error.to_string().contains("--output"), "{error}");
    }
}
