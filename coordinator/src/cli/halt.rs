//! `halt`, `resume` and the document half of `lease reap`.
//!
//! Owns the making of the small documents that stop and start. Main invariant: a halt is one command, one key,
//! and needs nobody else: it is written, signed and handed over at once, to an agent if no coordinator is left.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use lunar_common::document::{Halt, Kind, Reap, Resume};
use lunar_common::ids::{CampaignId, LeaseId, Sequence, ServerId};
use lunar_common::trust::{Counted, TrustState};
use lunar_host::clock;
use lunar_host::exit::{Exit, Failure};

use super::hand_over::HandOver;
use super::signing::{Span, text_of, trust};
use super::{CommandResult, Common};
use crate::home::{Home, names};

/// Stops every start: of one campaign, or of all. What is under way finishes or rolls back.
#[derive(Debug, clap::Args)]
#[command(after_help = "One key of the halt role is enough, and no coordinator is needed with --via.\n\n\
    Examples:\n  lunar-coordinator halt web-2 --reason \"errors on srv-07\" --key ~/.ssh/id_ed25519\n  \
    lunar-coordinator halt --all --reason \"smoke in rack 4\" --agent dia --via unix:/run/lunar-agent/agent.sock")]
pub struct HaltCommand {
    #[command(flatten)]
    scope: Scope,
    /// Why: everyone will ask.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    hand_over: HandOver,
}

/// Ends the halts of a campaign, or of the whole fleet. Needs the threshold of the resume role.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lunar-coordinator resume web-2 --reason \"srv-07 had a bad disk\" --key ann.key --key bob.key\n  \
    lunar-coordinator resume --sign documents/resume-web-2-4.toml --key bob.key")]
pub struct ResumeCommand {
    #[command(flatten)]
    scope: Scope,
    /// Signs a resume that another one began, instead of making one.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["campaign", "all", "reason", "expires", "sequence"])]
    sign: Option<PathBuf>,
    /// Why.
    #[arg(long, required_unless_present = "sign")]
    reason: Option<String>,
    /// Past this it resumes nothing: one that is kept back must not end a later halt.
    #[arg(long, default_value = "24h", value_name = "SPAN")]
    expires: Span,
    #[command(flatten)]
    hand_over: HandOver,
}

/// Frees a lost lease, or writes a silent server off, by signed word of somebody who saw what happened.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lunar-coordinator lease reap srv-07 --lease 42 --reason \"burnt out, powered off\" --key gus.key\n  \
    lunar-coordinator lease reap srv-07 --reason \"scrapped\" --key gus.key")]
pub struct ReapCommand {
    /// The server.
    server: ServerId,
    /// Its lost lease. Without it: the server has none, and is written off until it reports again.
    #[arg(long)]
    lease: Option<LeaseId>,
    /// What a person saw.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    hand_over: HandOver,
}

/// Of which campaign, or of all.
#[derive(Debug, clap::Args)]
struct Scope {
    /// The campaign.
    #[arg(conflicts_with = "all")]
    campaign: Option<CampaignId>,
    /// The whole fleet: all campaigns, now and later.
    #[arg(long)]
    all: bool,
}

impl Scope {
    fn chosen(&self) -> Result<Option<CampaignId>, Failure> {
        if self.campaign.is_none() && !self.all {
            return Err(
                Failure::new(Exit::Usage, anyhow!("neither a campaign nor --all")).advise("name one of them")
            );
        }
        Ok(self.campaign.clone())
    }
}

impl HaltCommand {
    /// Runs it.
    ///
    /// # Errors
    /// A key, the gate or the other side refused.
    pub fn run(self, common: &Common) -> CommandResult {
        let campaign = self.scope.chosen()?;
        let trust = trust(common)?;
        let hand_over = &self.hand_over;
        let sequence = hand_over.sequence.map_or_else(|| next_stop(common, &trust, campaign.as_ref()), Ok)?;
        let halt = Halt {
            format: 1,
            fleet: trust.fleet().clone(),
            campaign: campaign.clone(),
            sequence: Sequence(sequence),
            issued: clock::wall(),
            reason: self.reason.clone(),
        };
        let name = format!("halt-{}-{sequence}.toml", scope_name(campaign.as_ref()));
        hand_over.carry_out(common, &trust, Kind::Halt, &name, &text_of(&halt)?)
    }
}

impl ResumeCommand {
    /// Runs it.
    ///
    /// # Errors
    /// A key, the gate or the other side refused.
    pub fn run(self, common: &Common) -> CommandResult {
        let trust = trust(common)?;
        let hand_over = &self.hand_over;
        if let Some(path) = &self.sign {
            return hand_over.sign_and_publish(common, &trust, Kind::Resume, path);
        }
        let campaign = self.scope.chosen()?;
        let sequence = hand_over.sequence.map_or_else(|| next_stop(common, &trust, campaign.as_ref()), Ok)?;
        let issued = clock::wall();
        let resume = Resume {
            format: 1,
            fleet: trust.fleet().clone(),
            campaign: campaign.clone(),
            sequence: Sequence(sequence),
            issued,
            expires: self.expires.after(issued),
            reason: self.reason.clone().unwrap_or_default(),
        };
        let name = format!("resume-{}-{sequence}.toml", scope_name(campaign.as_ref()));
        hand_over.carry_out(common, &trust, Kind::Resume, &name, &text_of(&resume)?)
    }
}

impl ReapCommand {
    /// Runs it.
    ///
    /// # Errors
    /// A key, the gate or the other side refused.
    pub fn run(self, common: &Common) -> CommandResult {
        let trust = trust(common)?;
        let hand_over = &self.hand_over;
        let known = || trust.next_number(&Counted::Reap(self.server.clone()));
        let prefix = format!("reap-{}-", self.server);
        let sequence = match hand_over.sequence {
            Some(sequence) => sequence,
            None => known().max(highest_name(&Home::new(&common.home).documents(), &[&prefix])?.saturating_add(1)),
        };
        let reap = Reap {
            format: 1,
            fleet: trust.fleet().clone(),
            server: self.server.clone(),
            lease: self.lease,
            sequence: Sequence(sequence),
            issued: clock::wall(),
            reason: self.reason.clone(),
        };
        hand_over.carry_out(common, &trust, Kind::Reap, &format!("{prefix}{sequence}.toml"), &text_of(&reap)?)
    }
}

fn scope_name(campaign: Option<&CampaignId>) -> String {
    // No campaign begins with an underscore.
    campaign.map_or_else(|| "_all".to_owned(), ToString::to_string)
}

/// The next free number among the halts and resumes of a scope, by the gate and by the names of files: a resume
/// that expired is not held any more, but its number is used.
fn next_stop(common: &Common, trust: &TrustState, campaign: Option<&CampaignId>) -> Result<u64, Failure> {
    let known = trust.next_number(&Counted::Stop(campaign.cloned()));
    let scope = scope_name(campaign);
    let documents = Home::new(&common.home).documents();
    let names = highest_name(&documents, &[&format!("halt-{scope}-"), &format!("resume-{scope}-")])?;
    Ok(known.max(names.saturating_add(1)))
}

/// The highest number in names of a directory that go on from these prefixes with it.
pub(super) fn highest_name(directory: &Path, prefixes: &[&str]) -> Result<u64, Failure> {
    let mut highest = 0;
    for name in names(directory)? {
        let name = name.to_string_lossy();
        for prefix in prefixes {
            let number = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(".toml"));
            highest = highest.max(number.and_then(|number| number.parse().ok()).unwrap_or(0));
        }
    }
    Ok(highest)
}
