//! The service that the demo upgrades: a real HTTP server over the files of its current release.
//!
//! Owns `demo-service`, the hidden command that is that server and its restart. Main invariant: it serves the
//! tree it was started on, whatever the link says later, so that only a restart takes up a new version.
//! A release may name servers in `broken-on`, one a line: there `/healthz` answers 503, as a bug would.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use lunar_host::exit::{Exit, Failure, OrExit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cli::CommandResult;

/// Where a server's service lives, and how it is reached.
#[derive(Debug, Clone, clap::Args)]
pub struct ServiceArguments {
    /// The link to the running release (`ROOT/NAME/current`).
    #[arg(long)]
    current: PathBuf,
    /// This server's id.
    #[arg(long)]
    server: String,
    /// The port on 127.0.0.1.
    #[arg(long)]
    port: u16,
    /// Where the running process's id is kept.
    #[arg(long)]
    pid_file: PathBuf,
    /// Where its output goes.
    #[arg(long)]
    log: PathBuf,
}

/// What is asked of the service.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum ServiceCommand {
    /// Serves in the foreground.
    Serve(ServiceArguments),
    /// Stops the running one, if any, and starts the current release in the background.
    Restart(ServiceArguments),
    /// Stops the running one.
    Stop(ServiceArguments),
}

/// Longest wait for a process to end or to listen. A loaded machine needs seconds; a minute means it hangs.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Runs the command.
///
/// # Errors
/// A port in use, a process that does not end, an unreadable release.
pub fn run(command: ServiceCommand) -> CommandResult {
    match command {
        ServiceCommand::Serve(arguments) => serve(&arguments),
        ServiceCommand::Restart(arguments) => {
            stop(&arguments)?;
            start(&arguments)
        }
        ServiceCommand::Stop(arguments) => stop(&arguments),
    }
}

struct Release {
    tree: PathBuf,
    broken: bool,
}

fn serve(arguments: &ServiceArguments) -> CommandResult {
    let tree = fs::canonicalize(&arguments.current).map_err(|error| {
        Failure::new(Exit::Environment, error)
            .advise(format!("no release is current at {}", arguments.current.display()))
    })?;
    let broken = fs::read_to_string(tree.join("broken-on"))
        .is_ok_and(|list| list.lines().any(|line| line.trim() == arguments.server));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, arguments.port));
    let listener = TcpListener::bind(address)
        .or_exit(Exit::Environment)
        .map_err(|failure| failure.advise(format!("{address} must be free")))?;
    listener.set_nonblocking(true)?;
    // The word that it listens, and who it is: whoever started it waits for this.
    lunar_host::files::write_atomically(
        &arguments.pid_file,
        std::process::id().to_string().as_bytes(),
        0o644,
    )
    .or_exit(Exit::Environment)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let release = std::sync::Arc::new(Release { tree, broken });
        let router = Router::new().route("/healthz", get(health)).fallback(get(file)).with_state(release);
        let listener = tokio::net::TcpListener::from_std(listener)?;
        axum::serve(listener, router).await
    })?;
    Ok(Exit::Ok)
}

async fn health(State(release): State<std::sync::Arc<Release>>) -> Response {
    if release.broken {
        return (StatusCode::SERVICE_UNAVAILABLE, "this release does not work on this server\n")
            .into_response();
    }
    "healthy\n".into_response()
}

async fn file(State(release): State<std::sync::Arc<Release>>, uri: Uri) -> Response {
    let path = Path::new(uri.path().trim_start_matches('/'));
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return StatusCode::BAD_REQUEST.into_response();
    }
    match tokio::fs::read(release.tree.join(path)).await {
        Ok(content) => Body::from(content).into_response(),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

fn stop(arguments: &ServiceArguments) -> CommandResult {
    let Ok(text) = fs::read_to_string(&arguments.pid_file) else { return Ok(Exit::Ok) };
    let Ok(pid) = text.trim().parse::<i32>().map(Pid::from_raw) else { return Ok(Exit::Ok) };
    if is_ours(pid, arguments) && kill(pid, Signal::SIGTERM).is_ok() {
        wait_until("the old service to end", || has_ended(pid))?;
    }
    fs::remove_file(&arguments.pid_file)?;
    Ok(Exit::Ok)
}

/// Process ids are used again: only a process whose command line names our pid file is the one we started.
fn is_ours(pid: Pid, arguments: &ServiceArguments) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let name = arguments.pid_file.as_os_str().as_encoded_bytes();
    line.split(|byte| *byte == 0).any(|word| word == name)
}

/// Whether a process is gone, its sockets with it. One that is ending loses its command line first, and its
/// sockets later: only a zombie (state Z in proc(5)) has closed them all.
fn has_ended(pid: Pid) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    // The name before the state is in parentheses, and may contain some.
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X']))
}

fn start(arguments: &ServiceArguments) -> CommandResult {
    let log = File::options().create(true).append(true).open(&arguments.log)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["demo-service", "serve", "--server", &arguments.server]);
    command.arg("--port").arg(arguments.port.to_string());
    for (name, path) in
        [("--current", &arguments.current), ("--pid-file", &arguments.pid_file), ("--log", &arguments.log)]
    {
        command.arg(name).arg(path);
    }
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // A process group of its own: the one who restarts it may be killed without taking it along.
    let mut child = command.process_group(0).spawn()?;
    let pid = child.id().to_string();
    let mut ended = false;
    wait_until("the new service to listen", || {
        ended = matches!(child.try_wait(), Ok(Some(_)));
        ended || fs::read_to_string(&arguments.pid_file).is_ok_and(|text| text == pid)
    })?;
    if ended {
        let error = anyhow::anyhow!("the service ended as soon as it was started");
        return Err(Failure::new(Exit::Environment, error).advise(format!("see {}", arguments.log.display())));
    }
    Ok(Exit::Ok)
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) -> Result<(), Failure> {
    let begun = Instant::now();
    while !done() {
        if begun.elapsed() > WAIT_MAX {
            return Err(Failure::new(Exit::Environment, anyhow::anyhow!("waited too long for {what}")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
