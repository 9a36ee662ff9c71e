//! `watch`: events as they happen.
//!
//! Owns the loop that asks for news. Main invariant: every event is shown once and in order, because each
//! question names the last index that was shown.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use lunar_common::ids::LogIndex;
use lunar_coordinator_core::event::EventBody;
use lunar_coordinator_core::view::CampaignView;
use lunar_host::exit::{Exit, Failure};

use super::history::{EVENTS_PER_PAGE, tell};
use super::{CommandResult, Common, Output, block_on};
use crate::api::types::{EventView, Page};
use crate::client::Client;

/// Follows what happens, until Ctrl-C or until a campaign is over.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  lunar-coordinator watch\n  \
    lunar-coordinator watch --until-done --output json   (one event a line)")]
pub struct WatchCommand {
    /// Begins at this index instead of now.
    #[arg(long)]
    since: Option<LogIndex>,
    /// Ends when no selected server has anything left to do.
    #[arg(long)]
    until_done: bool,
}

/// Between two questions when nothing is new. A person does not notice half a second.
const ASK_EVERY: Duration = Duration::from_millis(500);

impl WatchCommand {
    /// Runs it.
    ///
    /// # Errors
    /// No coordinator answers.
    pub fn run(self, common: &Common) -> CommandResult {
        let client = Client::of(common)?;
        block_on(async {
            tokio::select! {
                followed = self.follow(&client, common.output) => followed,
                // Asked to end: what was shown is whole.
                _ = tokio::signal::ctrl_c() => Ok(Exit::Ok),
            }
        })
    }

    async fn follow(&self, client: &Client, output: Output) -> CommandResult {
        let mut next = match self.since {
            Some(index) => index,
            None => newest(client).await?,
        };
        if std::io::stderr().is_terminal() {
            // Where nothing happens, nothing is shown: say that this is meant.
            let _ = writeln!(std::io::stderr(), "what happens from event {next} on; Ctrl-C ends");
        }
        loop {
            let page: Page<EventView> =
                client.get(&format!("/events?since={next}&limit={EVENTS_PER_PAGE}")).await?;
            if let Some(last) = page.items.last() {
                next = last.index.next();
                for event in &page.items {
                    show(event, output)?;
                }
                continue;
            }
            if self.until_done && all_done(client).await? {
                return Ok(Exit::Ok);
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
}

async fn newest(client: &Client) -> Result<LogIndex, Failure> {
    let last: Page<EventView> = client.get("/events?last=1").await?;
    Ok(last.items.last().map_or(LogIndex(0), |event| event.index.next()))
}

/// Whether there is a campaign, and every server of every campaign is at its end.
async fn all_done(client: &Client) -> Result<bool, Failure> {
    let campaigns: Vec<CampaignView> = client.get("/campaigns").await?;
    let done = |campaign: &CampaignView| {
        let ended: usize =
            campaign.phases.iter().filter(|(phase, _)| phase.is_final()).map(|(_, count)| count).sum();
        ended == campaign.selected && campaign.leases == 0
    };
    Ok(!campaigns.is_empty() && campaigns.iter().all(done))
}

fn show(event: &EventView, output: Output) -> Result<(), Failure> {
    let line = match output {
        Output::Json => serde_json::to_string(event).map_err(|error| Failure::new(Exit::Internal, error))?,
        Output::Human => {
            // Waiting is shown by `status` and `why`; a line for each would bury what matters.
            if matches!(event.event, EventBody::Queued { .. }) {
                return Ok(());
            }
            format!("{}  {}", event.at, tell(&event.event))
        }
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(Failure::from)
}
