//! `why`: the one reason that keeps a server from upgrading now.
//!
//! Owns nothing but the printing: the reason comes from the code that decides.

use lunar_common::ids::ServerId;
use lunar_coordinator_core::view::Why;
use lunar_host::exit::Exit;

use super::{CommandResult, Common, block_on};
use crate::client::Client;

/// Says why a server is not upgrading now, and what would change it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  lunar-coordinator why srv-07")]
pub struct WhyCommand {
    /// The server.
    server: ServerId,
}

impl WhyCommand {
    /// Runs it.
    ///
    /// # Errors
    /// No coordinator answers; no such server.
    pub fn run(self, common: &Common) -> CommandResult {
        let client = Client::of(common)?;
        let reasons: Vec<Why> = block_on(client.get(&format!("/servers/{}/why", self.server)))?;
        common.output.print(&reasons, |reasons| {
            let line = |why: &Why| match &why.campaign {
                Some(campaign) => format!("{campaign}: {}", why.text),
                None => why.text.clone(),
            };
            reasons.iter().map(line).collect::<Vec<_>>().join("\n")
        })?;
        Ok(Exit::Ok)
    }
}
