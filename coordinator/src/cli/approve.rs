//! `approve` and `batches`: people let a batch start, after they have seen who is in it.
//!
//! Owns the making of approvals and the listing of batches. Main invariant: an approval names the hash of the plan in
//! this directory, and is checked against it before it is handed over. Refuses to approve more than one batch at a time:
//! each is looked at.

use std::path::PathBuf;

use anyhow::anyhow;
use lunar_common::document::{Approval, Kind};
use lunar_common::ids::{CampaignId, Sequence, StageName};
use lunar_common::trust::TrustState;
use lunar_coordinator_core::view::BatchView;
use lunar_host::clock;
use lunar_host::exit::{Exit, Failure};

use super::halt::highest_name;
use super::hand_over::HandOver;
use super::signing::{Span, text_of, trust};
use super::{CommandResult, Common, Table, block_on};
use crate::client::Client;
use crate::home::Home;

/// Servers named in one line.
const SERVERS_SHOWN: usize = 6;

/// Approves a batch of a stage, or takes that back. Needs the threshold of the approve role, the author left out; one
/// of them is enough to withdraw.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lunar-coordinator batches web-2\n  \
    lunar-coordinator approve web-2 --stage tier-1 --batch 3 --reason \"all quiet\" --key bob.key --key dia.key\n  \
    lunar-coordinator approve --sign approvals/web-2-tier-1-3-1.toml --key dia.key\n  \
    lunar-coordinator approve web-2 --stage tier-1 --batch 3 --withdraw --reason \"odd noises\" --key bob.key")]
pub struct ApproveCommand {
    /// The campaign.
    #[arg(required_unless_present = "sign")]
    campaign: Option<CampaignId>,
    /// The stage.
    #[arg(long, required_unless_present = "sign")]
    stage: Option<StageName>,
    /// The batch, as `batches` numbers them.
    #[arg(long, required_unless_present = "sign")]
    batch: Option<u32>,
    /// Takes an approval back: whoever has not started waits again.
    #[arg(long)]
    withdraw: bool,
    /// Signs an approval that another one began, instead of making one.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["campaign", "stage", "batch", "withdraw", "reason", "expires", "sequence"]
    )]
    sign: Option<PathBuf>,
    /// What was looked at, or what is wrong.
    #[arg(long, required_unless_present = "sign")]
    reason: Option<String>,
    /// Past this nobody starts by it.
    #[arg(long, default_value = "24h", value_name = "SPAN")]
    expires: Span,
    #[command(flatten)]
    hand_over: HandOver,
}

impl ApproveCommand {
    /// Runs it.
    ///
    /// # Errors
    /// A key, the gate or the other side refused.
    pub fn run(self, common: &Common) -> CommandResult {
        let trust = trust(common)?;
        if let Some(path) = &self.sign {
            return self.hand_over.sign_and_publish(common, &trust, Kind::Approval, path);
        }
        let (Some(campaign), Some(stage), Some(batch)) = (&self.campaign, &self.stage, self.batch) else {
            return Err(Failure::new(
                Exit::Usage,
                anyhow!("a campaign, --stage and --batch belong together"),
            ));
        };
        let plan = trust.plan(campaign).ok_or_else(|| {
            Failure::new(Exit::BadInput, anyhow!("no published plan of {campaign} is in this directory"))
                .advise("publish it with `lunar-coordinator plan publish`, or name its directory with --home")
        })?;
        let prefix = format!("{campaign}-{stage}-{batch}-");
        let sequence = match self.hand_over.sequence {
            Some(sequence) => sequence,
            None => next_number(common, campaign, stage, batch, &prefix)?,
        };
        let issued = clock::wall();
        let approval = Approval {
            format: 1,
            fleet: trust.fleet().clone(),
            campaign: campaign.clone(),
            plan: plan.hash(),
            stage: stage.clone(),
            batch,
            sequence: Sequence(sequence),
            withdraw: self.withdraw,
            issued,
            expires: self.expires.after(issued),
            reason: self.reason.clone().unwrap_or_default(),
        };
        let name = format!("{prefix}{sequence}.toml");
        self.carry_out(common, &trust, &name, &approval)
    }

    fn carry_out(
        &self,
        common: &Common,
        trust: &TrustState,
        name: &str,
        approval: &Approval,
    ) -> CommandResult {
        self.hand_over.carry_out(common, trust, Kind::Approval, name, &text_of(approval)?)
    }
}

/// The number after the last one on a batch, by the coordinator if it answers, and by the names of files.
fn next_number(
    common: &Common,
    campaign: &CampaignId,
    stage: &StageName,
    batch: u32,
    prefix: &str,
) -> Result<u64, Failure> {
    let by_names = highest_name(&Home::new(&common.home).approvals(), &[prefix])?;
    let known = match block_on(batches(common, campaign)) {
        Ok(all) => all.iter().find(|one| one.stage == *stage && one.batch == batch).map(|one| one.sequence.0),
        // Without a coordinator the file is written and signed all the same.
        Err(failure) if failure.exit == Exit::Unreachable => None,
        Err(failure) => return Err(failure),
    };
    Ok(by_names.max(known.unwrap_or(0)).saturating_add(1))
}

async fn batches(common: &Common, campaign: &CampaignId) -> Result<Vec<BatchView>, Failure> {
    Client::of(common)?.get(&format!("/campaigns/{campaign}/batches")).await
}

/// Lists the batches of a campaign that people approve: who is in each, and whether it may start.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  lunar-coordinator batches web-2\n  \
    lunar-coordinator batches web-2 --output json")]
pub struct BatchesCommand {
    /// The campaign.
    campaign: CampaignId,
}

impl BatchesCommand {
    /// Runs it.
    ///
    /// # Errors
    /// No coordinator answers.
    pub fn run(self, common: &Common) -> CommandResult {
        let found = block_on(batches(common, &self.campaign))?;
        common.output.print(&found, |found| list(found))?;
        Ok(Exit::Ok)
    }
}

fn list(batches: &[BatchView]) -> String {
    if batches.is_empty() {
        return "nobody is asked: no stage of its plan has approval_batch".to_owned();
    }
    let mut table = Table::new(&["stage", "batch", "state", "until", "signed by", "servers"]);
    for batch in batches {
        let joined = |names: Vec<String>| if names.is_empty() { "-".to_owned() } else { names.join(", ") };
        let shown: Vec<String> = batch.servers.iter().take(SERVERS_SHOWN).map(ToString::to_string).collect();
        let more = batch.servers.len().saturating_sub(shown.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        table.row([
            batch.stage.to_string(),
            batch.batch.to_string(),
            batch.state.to_string(),
            batch.expires.map_or("-".into(), |expires| expires.to_string()),
            joined(batch.signers.iter().map(ToString::to_string).collect()),
            format!("{}{more}", joined(shown)),
        ]);
    }
    table.to_string()
}
