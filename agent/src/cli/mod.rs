//! The command line: one file a command.
//!
//! Owns argument parsing, output formats and the way failures are told. Main invariant: standard output carries
//! the answer and nothing else, in the format asked for; everything else goes to standard error.

mod apply;
mod init;
mod inject;
mod run;
mod status;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use lunar_host::exit::{Exit, Failure};
use lunar_host::output::{Output, print_failure};
use lunar_host::telemetry::{self, LogFormat};

use crate::config::{Config, DEFAULT_PATH};

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
            print_failure(&failure);
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
    use std::collections::BTreeSet;

    use super::*;

    /// What a command says of itself.
    pub(super) fn help_of(command: &str) -> String {
        let mut all = Arguments::command();
        all.build();
        all.find_subcommand_mut(command).unwrap().render_long_help().to_string()
    }

    /// The keys of its configuration, as its help names them.
    pub(super) fn named_keys(help: &str) -> BTreeSet<String> {
        let (_, keys) = help.split_once("Keys of the configuration").unwrap();
        let (_, keys) = keys.split_once(':').unwrap();
        let is_word = |letter: char| letter.is_ascii_lowercase() || letter == '_';
        let end = keys.find('.').unwrap();
        let words = keys[..end].replace("and, if need be, ", "");
        words.split(|letter| !is_word(letter)).filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    /// The keys that a configuration may have, by what is said of one that it may not.
    pub(super) fn known_keys(refused: &toml::de::Error) -> BTreeSet<String> {
        refused.message().split('`').skip(3).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn completions_are_made_for_every_shell_and_name_every_command() {
        use clap::ValueEnum;
        for shell in clap_complete::Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "lunar-agent", &mut script);
            let script = String::from_utf8(script).unwrap();
            for command in Arguments::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell} lacks {}", command.get_name());
            }
        }
    }

    #[test]
    fn every_command_has_a_manual_page_and_the_first_tells_the_exit_codes() {
        let pages = tempfile::tempdir().unwrap();
        let arguments = ["lunar-agent".into(), "manual".into(), pages.path().join("man1").into_os_string()];
        assert_eq!(dispatch(Arguments::try_parse_from(arguments).unwrap()).unwrap(), Exit::Ok);
        let page = |name: &str| {
            let text = std::fs::read_to_string(pages.path().join("man1").join(name)).unwrap();
            text.replace("\\-", "-").replace("\\*(Aq", "'")
        };
        let first = page("lunar-agent.1");
        for code in Exit::HELP.lines().skip(1) {
            assert!(first.contains(code.trim()), "{code} is not in the manual");
        }
        for command in Arguments::command().get_subcommands() {
            assert!(page(&format!("lunar-agent-{}.1", command.get_name())).contains("SYNOPSIS"));
        }
    }

    #[test]
    fn every_command_explains_itself_with_an_example() {
        for command in Arguments::command().get_subcommands() {
            let help = help_of(command.get_name());
            assert!(help.contains("Example") && help.contains("lunar-agent "), "{help}");
            assert!(command.get_about().is_some());
        }
    }

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
