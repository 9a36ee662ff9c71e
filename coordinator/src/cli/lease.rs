//! `lease`: who holds permission to be down.
//!
//! Owns the listing and the reaping of leases. Main invariant: nothing here frees a slot by itself: a reap is
//! a document that people sign, and the ledger decides what it frees.

use lunar_coordinator_core::view::LeaseView;
use lunar_host::exit::Exit;

use super::{CommandResult, Common, Table, block_on};
use crate::client::Client;

/// Lists leases, and frees lost ones.
#[derive(Debug, clap::Subcommand)]
pub enum LeaseCommand {
    /// Lists the leases that take a slot.
    #[command(after_help = "Examples:\n  lunar-coordinator lease list")]
    List,
    Reap(super::halt::ReapCommand),
}

impl LeaseCommand {
    /// Runs it.
    ///
    /// # Errors
    /// No coordinator answers.
    pub fn run(self, common: &Common) -> CommandResult {
        let client = Client::of(common)?;
        match self {
            Self::Reap(command) => command.run(common),
            Self::List => {
                let leases: Vec<LeaseView> = block_on(client.get_all("/leases"))?;
                common.output.print(&leases, |leases| list(leases))?;
                Ok(Exit::Ok)
            }
        }
    }
}

fn list(leases: &[LeaseView]) -> String {
    if leases.is_empty() {
        return "no lease is held".to_owned();
    }
    let mut table = Table::new(&["lease", "server", "campaign", "attempt", "state", "lost in"]);
    for lease in leases {
        table.row([
            lease.lease.to_string(),
            lease.server.to_string(),
            lease.campaign.as_ref().map_or("?".into(), ToString::to_string),
            lease.attempt.map_or("?".into(), |attempt| attempt.to_string()),
            lease.state.to_string(),
            lease.lost_in_ms.map_or("-".into(), |ms| format!("{} s", ms / 1000)),
        ]);
    }
    table.to_string()
}
