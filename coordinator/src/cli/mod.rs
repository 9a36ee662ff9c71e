//! The command line: one file a family of commands.
//!
//! Owns argument parsing, output formats and the way failures are told. Main invariant: standard output
//! carries the answer and nothing else, in the format asked for; everything else goes to standard error.

mod approve;
mod artifact;
mod audit;
mod curb;
mod enroll;
mod halt;
mod hand_over;
mod history;
mod lease;
mod origin;
mod pki;
mod plan;
mod plan_check;
mod plan_fit;
mod plan_forecast;
mod plan_text;
mod serve;
mod signing;
mod status;
mod table;
mod trust;
mod watch;
mod why;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use lunar_host::exit::{Exit, Failure, OrExit};
use lunar_host::output::print_failure;
use lunar_host::telemetry::{self, LogFormat};

use crate::client::ApiAt;
use crate::demo;
pub use lunar_host::output::Output;
pub use table::Table;

/// What every command returns: the exit code, or a failure that carries one.
pub type CommandResult = Result<Exit, Failure>;

/// Upgrades fleets of servers behind a thin link: signs and publishes campaign plans, grants leases, explains.
#[derive(Debug, Parser)]
#[command(name = "lunar-coordinator", version, after_help = Exit::HELP)]
pub struct Arguments {
    /// Options that every command takes.
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// The coordinator's directory: trust root, enrolments, plans, artifacts, store, key, socket.
    #[arg(
        long,
        global = true,
        env = "LUNAR_HOME",
        default_value = "/var/lib/lunar-coordinator",
        value_name = "DIR"
    )]
    pub home: PathBuf,
    /// How answers are printed.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Output,
    /// How log lines look: human or json.
    #[arg(long, global = true, default_value = "human", value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// Which coordinator is asked.
    #[command(flatten)]
    pub api: ApiAt,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(subcommand)]
    Trust(trust::TrustCommand),
    #[command(subcommand)]
    Enroll(enroll::EnrollCommand),
    #[command(subcommand)]
    Plan(plan::PlanCommand),
    Halt(halt::HaltCommand),
    Resume(halt::ResumeCommand),
    Pause(curb::PauseCommand),
    Lower(curb::LowerCommand),
    Cancel(curb::CancelCommand),
    Quarantine(curb::QuarantineCommand),
    Approve(approve::ApproveCommand),
    Batches(approve::BatchesCommand),
    #[command(subcommand)]
    Artifact(artifact::ArtifactCommand),
    Serve(serve::ServeCommand),
    #[command(subcommand)]
    Pki(pki::PkiCommand),
    Status(status::StatusCommand),
    Watch(watch::WatchCommand),
    Why(why::WhyCommand),
    History(history::HistoryCommand),
    #[command(subcommand)]
    Lease(lease::LeaseCommand),
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    Origin(origin::OriginCommand),
    Demo(demo::DemoCommand),
    /// The service that the demo upgrades.
    #[command(subcommand, hide = true)]
    DemoService(demo::ServiceCommand),
    /// Prints shell completions.
    #[command(
        after_help = "Examples:\n  lunar-coordinator completions bash > /etc/bash_completion.d/lunar-coordinator"
    )]
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Prints the API's description (OpenAPI 3.1).
    #[command(after_help = "Examples:\n  lunar-coordinator openapi > openapi.json")]
    Openapi,
    /// Writes the manual pages into a directory.
    #[command(after_help = "Examples:\n  lunar-coordinator manual /usr/local/share/man/man1")]
    Manual {
        /// The directory; made if it is not there.
        directory: PathBuf,
    },
}

/// Parses the command line, runs the command, tells how it ended.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = match arguments.command {
        Command::Serve(_) | Command::Origin(_) => "info",
        _ => "warn",
    };
    telemetry::start(arguments.common.log_format, filter);
    match run(arguments) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            print_failure(&failure);
            failure.exit.into()
        }
    }
}

/// Runs a command that asks a running coordinator. One thread is enough for one question.
pub(crate) fn block_on<T>(task: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(task)
}

fn run(arguments: Arguments) -> CommandResult {
    let common = &arguments.common;
    match arguments.command {
        Command::Trust(command) => command.run(common),
        Command::Enroll(command) => command.run(common),
        Command::Plan(command) => command.run(common),
        Command::Halt(command) => command.run(common),
        Command::Resume(command) => command.run(common),
        Command::Pause(command) => command.run(common),
        Command::Lower(command) => command.run(common),
        Command::Cancel(command) => command.run(common),
        Command::Quarantine(command) => command.run(common),
        Command::Approve(command) => command.run(common),
        Command::Batches(command) => command.run(common),
        Command::Artifact(command) => command.run(common),
        Command::Serve(command) => command.run(common),
        Command::Pki(command) => command.run(common),
        Command::Status(command) => command.run(common),
        Command::Watch(command) => command.run(common),
        Command::Why(command) => command.run(common),
        Command::History(command) => command.run(common),
        Command::Lease(command) => command.run(common),
        Command::Audit(command) => command.run(common),
        Command::Origin(command) => command.run(common),
        Command::Demo(command) => command.run(common),
        Command::DemoService(command) => demo::run_service(command),
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Arguments::command(),
                "lunar-coordinator",
                &mut std::io::stdout(),
            );
            Ok(Exit::Ok)
        }
        Command::Openapi => {
            serde_json::to_writer_pretty(std::io::stdout().lock(), &crate::api::description())
                .or_exit(Exit::Environment)?;
            Ok(Exit::Ok)
        }
        Command::Manual { directory } => {
            std::fs::create_dir_all(&directory)?;
            clap_mangen::generate_to(Arguments::command(), &directory)?;
            Ok(Exit::Ok)
        }
    }
}
