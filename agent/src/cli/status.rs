//! `lunar-agent status`: how the agent on this server is.
//!
//! Owns its words for people. Main invariant: it asks the running agent, and guesses nothing where none runs.

use std::fmt::Write;

use lunar_host::exit::{Exit, Failure};

use super::{CommandResult, Common, block_on};
use crate::local_api::{self, LocalRequest, LocalResponse, LocalStatus};

/// Shows how the agent on this server is: its campaign, its health, its lease, its connections.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  lunar-agent status\n  lunar-agent status --output json | jq .node.active.phase"
)]
pub(super) struct StatusCommand {}

impl StatusCommand {
    #[allow(clippy::unused_self, reason = "every command has the same form")]
    pub(super) fn run(self, common: &Common) -> CommandResult {
        let socket = common.config()?.agent_socket();
        let answer = block_on(async {
            local_api::ask(&socket, &LocalRequest::Status).await.map_err(|error| {
                Failure::new(Exit::Unreachable, error).advise("is the agent running? see `lunar-agent run`")
            })
        })?;
        match answer {
            LocalResponse::Status(status) => {
                common.output.print(&*status, told)?;
                Ok(Exit::Ok)
            }
            LocalResponse::Refused { reason } => {
                Err(Failure::new(Exit::Unreachable, anyhow::anyhow!("the agent does not tell: {reason}")))
            }
            LocalResponse::Injected { .. } => {
                Err(Failure::new(Exit::Internal, anyhow::anyhow!("the agent answered another question")))
            }
        }
    }
}

fn told(status: &LocalStatus) -> String {
    let mut text = String::new();
    let mut line = |line: std::fmt::Arguments<'_>| {
        writeln!(text, "{line}").expect("writing to a String cannot fail");
    };
    line(format_args!("server       {} (site {}, tier {})", status.server, status.site, status.tier));
    line(format_args!("version      {}", status.version));
    let coordinators: Vec<&str> = status.coordinators.iter().map(|server| server.as_str()).collect();
    let coordinators = if coordinators.is_empty() { "none".to_owned() } else { coordinators.join(", ") };
    line(format_args!("connections  {} (coordinators: {coordinators})", status.peers));
    line(format_args!("trust root   version {}", status.trust_root));
    let node = &status.node;
    line(format_args!("health       {} ({})", node.verdict, node.health));
    for halt in &node.halts {
        line(format_args!("halted       {halt}"));
    }
    match &node.active {
        None => line(format_args!("campaign     none")),
        Some(active) => {
            line(format_args!(
                "campaign     {} generation {}: {}, attempt {} ({} failed)",
                active.campaign, active.generation, active.phase, active.attempt, active.failures
            ));
            if !active.why.is_empty() {
                line(format_args!("             {}", active.why));
            }
            let (had, all) = active.chunks;
            let bytes = active.received;
            line(format_args!(
                "chunks       {had} of {all}; bytes from site {}, other sites {}, Earth {}, here {}",
                bytes.site, bytes.sites, bytes.earth, bytes.local
            ));
        }
    }
    if let Some(lease) = &node.lease {
        let started = if lease.started { "started" } else { "not started" };
        line(format_args!("lease        {} ({started})", lease.lease));
    }
    for ended in &node.finished {
        line(format_args!("ended        {}: {} ({})", ended.campaign, ended.phase, ended.cause));
    }
    if node.releases_waiting + node.transitions_waiting > 0 {
        line(format_args!(
            "unreported   {} releases, {} transitions",
            node.releases_waiting, node.transitions_waiting
        ));
    }
    text
}
