//! `status`: the fleet and its campaigns in one look.
//!
//! Owns nothing but the printing: every figure comes from the running coordinator.

use std::collections::BTreeSet;
use std::fmt::Write;

use lunar_common::ids::KeyName;
use lunar_coordinator_core::view::{
    CampaignView, HandPauseView, LeaseView, LimitView, LoweredView, PauseView, ServerView, StageView,
    StatusView,
};
use lunar_host::exit::{Exit, Failure};
use serde::{Deserialize, Serialize};

use super::{CommandResult, Common, Table, block_on};
use crate::client::Client;

/// Shows the coordinator, its campaigns, limits in use, and servers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  lunar-coordinator status\n  \
    lunar-coordinator status --servers\n  \
    lunar-coordinator --output json status | jq '.campaigns[].phases'")]
pub struct StatusCommand {
    /// Lists every server too.
    #[arg(long)]
    servers: bool,
}

/// Everything that `status` and `watch` show.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Overview {
    /// The coordinator.
    pub status: StatusView,
    /// Its campaigns.
    pub campaigns: Vec<CampaignOverview>,
    /// Leases that take a slot.
    pub leases: Vec<LeaseView>,
    /// The servers, if asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<ServerView>,
}

/// A campaign and the limits it moves within.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CampaignOverview {
    /// The campaign.
    #[serde(flatten)]
    pub campaign: CampaignView,
    /// Its limits, with who takes them.
    pub in_use: Vec<LimitView>,
}

impl Overview {
    /// Asks a coordinator for it.
    ///
    /// # Errors
    /// As for [`Client::get`].
    pub async fn ask(client: &Client, servers: bool) -> Result<Self, Failure> {
        let mut campaigns = Vec::new();
        for campaign in client.get::<Vec<CampaignView>>("/campaigns").await? {
            let in_use = client.get(&format!("/campaigns/{}/limits", campaign.campaign)).await?;
            campaigns.push(CampaignOverview { campaign, in_use });
        }
        Ok(Self {
            status: client.get("/status").await?,
            campaigns,
            leases: client.get_all("/leases").await?,
            servers: if servers { client.get_all("/servers").await? } else { Vec::new() },
        })
    }
}

impl StatusCommand {
    /// Runs it.
    ///
    /// # Errors
    /// No coordinator answers.
    pub fn run(self, common: &Common) -> CommandResult {
        let overview = block_on(Overview::ask(&Client::of(common)?, self.servers))?;
        common.output.print(&overview, human)?;
        Ok(Exit::Ok)
    }
}

/// The overview for people.
pub(super) fn human(overview: &Overview) -> String {
    let status = &overview.status;
    let mut text = format!(
        "coordinator epoch {}, {} servers ({} not heard yet), {} waiting, {} leases\n",
        status.epoch, status.servers, status.unheard, status.waiting, status.leases
    );
    for halt in &status.halts {
        let scope = halt.campaign.as_ref().map_or("all campaigns".to_owned(), ToString::to_string);
        let _ = writeln!(text, "HALTED {scope}: {} (sequence {})", halt.reason, halt.sequence);
    }
    if status.restored {
        text.push_str(
            "RECOVERING: the state was restored; nothing is granted before every server reported\n",
        );
    }
    for CampaignOverview { campaign, in_use } in &overview.campaigns {
        let _ = writeln!(
            text,
            "\ncampaign {} generation {}, {} servers, expires {}",
            campaign.campaign, campaign.generation, campaign.selected, campaign.expires
        );
        let phases: Vec<_> =
            campaign.phases.iter().map(|(phase, count)| format!("{phase} {count}")).collect();
        let _ = writeln!(
            text,
            "  {}",
            if phases.is_empty() { "nobody reported yet".into() } else { phases.join(", ") }
        );
        for PauseView { id, pause, told } in &campaign.pauses {
            let (scope, rule, last) = (&pause.scope, pause.anomaly.rule(), &pause.server);
            let _ = writeln!(text, "  PAUSED {scope} by its {rule}: {told}; the last was {last}; pause {id}");
        }
        let by_hand = &campaign.by_hand;
        if let Some(by) = &by_hand.cancelled {
            let _ = writeln!(text, "  CANCELLED by {}: {}", names(&by.signers), by.reason);
        }
        for HandPauseView { scope, by } in &by_hand.pauses {
            let (who, why, id) = (names(&by.signers), &by.reason, by.id);
            let _ = writeln!(text, "  PAUSED {scope} by {who}: {why}; pause {id}");
        }
        for LoweredView { scope, to } in &by_hand.lowered {
            let _ = writeln!(text, "  LOWERED {scope} to {to}");
        }
        if !campaign.stages.is_empty() {
            let _ = writeln!(text, "{}", stages(&campaign.stages));
        }
        let mut table = Table::new(&["limit", "taken", "of", "by"]);
        for limit in in_use {
            let holders: Vec<_> = limit.holders.iter().map(|holder| holder.server.to_string()).collect();
            table.row([
                limit.scope.to_string(),
                limit.taken.to_string(),
                limit.limit.map_or("-".into(), |limit| limit.to_string()),
                holders.join(" "),
            ]);
        }
        let _ = writeln!(text, "{table}");
    }
    if !overview.servers.is_empty() {
        let _ = writeln!(text, "\n{}", servers(&overview.servers));
    }
    text
}

fn names(signers: &BTreeSet<KeyName>) -> String {
    signers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Stages as a table.
fn stages(views: &[StageView]) -> Table {
    let mut table = Table::new(&["stage", "done", "of", "rolled back", "under way", "gate"]);
    for view in views {
        let gate = match (&view.waits_for, &view.missing) {
            _ if view.passed => "passed".to_owned(),
            (Some(before), _) => format!("waits for {before}"),
            (None, Some(missing)) => missing.to_string(),
            (None, None) => "passes now".to_owned(),
        };
        table.row([
            view.name.to_string(),
            view.evidence.completed.to_string(),
            view.evidence.present().to_string(),
            view.evidence.failed.to_string(),
            view.evidence.unknown.to_string(),
            gate,
        ]);
    }
    table
}

/// Servers as a table.
fn servers(views: &[ServerView]) -> Table {
    let mut table =
        Table::new(&["server", "site", "tier", "group", "heard", "health", "campaign", "phase", "chunks"]);
    for view in views {
        let campaign = view.campaign();
        table.row([
            view.member.server.to_string(),
            view.member.site.to_string(),
            view.member.tier.to_string(),
            view.member.group.as_ref().map_or("-".into(), ToString::to_string),
            view.silent_ms.map_or("never".into(), |ms| format!("{} s ago", ms / 1000)),
            health(view),
            campaign.map_or("-".into(), |status| status.campaign.to_string()),
            campaign.map_or("-".into(), |status| status.phase.to_string()),
            campaign.map_or("-".into(), |status| format!("{}/{}", status.chunks.0, status.chunks.1)),
        ]);
    }
    table
}

/// Its verdict on itself, unless people said more: one that is out or written off is told as that.
fn health(view: &ServerView) -> String {
    match view.verdict {
        _ if view.revoked => "revoked".to_owned(),
        _ if view.written_off => "written off".to_owned(),
        _ if view.quarantined.is_some() => "quarantined".to_owned(),
        Some(verdict) => verdict.to_string(),
        None => "-".to_owned(),
    }
}
