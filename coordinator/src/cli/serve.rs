//! `serve`: runs the coordinator.
//!
//! Owns the options that go before the configuration file's. Main invariant: what the command line says wins.

use std::path::PathBuf;

use lunar_host::exit::{Exit, Failure};
use lunar_host::supervisor;
use lunar_transport::mesh::PeerAddress;

use super::{CommandResult, Common};
use crate::serve::{self, Config};

/// Runs the coordinator: grants leases, passes documents on, keeps the event log, answers the command line.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  lunar-coordinator serve --listen 0.0.0.0:7600\n\n\
    HOME/coordinator.toml may say the same and more (all optional): listen, announce, bootstrap, key,\n\
    report_every_s, unreachable_after_s, and [api] with listen, certificate, key, authority")]
pub struct ServeCommand {
    /// Where the control plane listens; may be given more than once.
    #[arg(long, value_name = "IP:PORT")]
    listen: Vec<String>,
    /// Where others reach it, if not where it listens; may be given more than once.
    #[arg(long, value_name = "IP:PORT")]
    announce: Vec<String>,
    /// Whom to try first; may be given more than once.
    #[arg(long, value_name = "KEY@HOST:PORT")]
    bootstrap: Vec<PeerAddress>,
    /// Where the API listens for callers with certificates, beside the socket in HOME; make them with `pki init`.
    #[arg(long, value_name = "IP:PORT")]
    api_listen: Option<String>,
    /// The coordinator's key file.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

impl ServeCommand {
    /// Runs it.
    ///
    /// # Errors
    /// [`Failure`] says what was wrong, where, and what to do.
    pub fn run(self, common: &Common) -> CommandResult {
        supervisor::die_with_parent_if_asked();
        let mut config = Config::load(&common.home)?;
        if !self.listen.is_empty() {
            config.listen = self.listen;
        }
        if !self.announce.is_empty() {
            config.announce = self.announce;
        }
        if !self.bootstrap.is_empty() {
            config.bootstrap = self.bootstrap;
        }
        config.key = self.key.or(config.key);
        config.api.listen = self.api_listen.or(config.api.listen);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.map_err(Failure::from)?.block_on(serve::run(&common.home, config))?;
        Ok(Exit::Ok)
    }
}
