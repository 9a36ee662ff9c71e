//! `halt`, `resume` and the document half of `lease reap`.
//!
//! Owns the making of the small documents that stop and start. Main invariant: a halt is one command, one key,
//! and needs nobody else: it is written, signed and handed over at once, to an agent if no coordinator is left.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use lunar_common::document::{Halt, Kind, Reap, Resume};
use lunar_common::ids::{CampaignId, LeaseId, PauseId, Sequence, ServerId};
use lunar_common::pause::PauseScope;
use lunar_common::trust::{Counted, TrustState};
use lunar_coordinator_core::view::CampaignView;
use lunar_host::clock;
use lunar_host::exit::{Exit, Failure};

use super::hand_over::HandOver;
use super::signing::{Span, text_of, trust};
use super::{CommandResult, Common, block_on};
use crate::client::Client;
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

/// Ends the halts of a campaign, or of the whole fleet; or pauses of a campaign. Needs the threshold of the resume role.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lunar-coordinator resume web-2 --reason \"srv-07 had a bad disk\" --key ann.key --key bob.key\n  \
    lunar-coordinator resume web-2 --pause \"tier 1\" --reason \"srv-07 had a bad disk\" --key ann.key --key bob.key\n  \
    lunar-coordinator resume --sign documents/resume-web-2-4.toml --key bob.key")]
pub struct ResumeCommand {
    #[command(flatten)]
    scope: Scope,
    /// Signs a resume that another one began, instead of making one.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["campaign", "all", "pause", "reason", "expires", "sequence"]
    )]
    sign: Option<PathBuf>,
    /// Ends this pause, and no halt: its id, or, where the coordinator answers, how that begins, or what is paused
    /// ("tier 1"), both as `status` shows them. May be repeated.
    #[arg(long, value_name = "PAUSE", conflicts_with = "all")]
    pause: Vec<String>,
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
        let pauses = match &campaign {
            Some(campaign) => pauses_named(common, campaign, &self.pause)?,
            None => BTreeSet::new(),
        };
        let next = || match &campaign {
            Some(campaign) if !pauses.is_empty() => next_resume_of_pauses(common, &trust, campaign),
            _ => next_stop(common, &trust, campaign.as_ref()),
        };
        let sequence = hand_over.sequence.map_or_else(next, Ok)?;
        let kind = if pauses.is_empty() { "resume" } else { PAUSES_NAME };
        let issued = clock::wall();
        let resume = Resume {
            format: 1,
            fleet: trust.fleet().clone(),
            campaign: campaign.clone(),
            pauses,
            sequence: Sequence(sequence),
            issued,
            expires: self.expires.after(issued),
            reason: self.reason.clone().unwrap_or_default(),
        };
        let name = format!("{kind}-{}-{sequence}.toml", scope_name(campaign.as_ref()));
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
            None => {
                known().max(highest_name(&Home::new(&common.home).documents(), &[&prefix])?.saturating_add(1))
            }
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

/// The same among the resumes of a campaign's pauses.
fn next_resume_of_pauses(common: &Common, trust: &TrustState, campaign: &CampaignId) -> Result<u64, Failure> {
    let known = trust.next_number(&Counted::Pauses(campaign.clone()));
    let names = highest_name(&Home::new(&common.home).documents(), &[&format!("{PAUSES_NAME}-{campaign}-")])?;
    Ok(known.max(names.saturating_add(1)))
}

/// The pauses that a person named. Whole ids are taken at their word, so that a resume can be signed where no coordinator
/// can be asked.
fn pauses_named(
    common: &Common,
    campaign: &CampaignId,
    named: &[String],
) -> Result<BTreeSet<PauseId>, Failure> {
    let whole: Result<BTreeSet<PauseId>, _> = named.iter().map(|name| name.parse()).collect();
    if let Ok(whole) = whole {
        return Ok(whole);
    }
    let client = Client::of(common)?;
    let found: CampaignView = block_on(client.get(&format!("/campaigns/{campaign}")))?;
    let by_rules = found.pauses.iter().map(|pause| (pause.id, &pause.pause.scope));
    let by_hand = found.by_hand.pauses.iter().map(|pause| (pause.by.id, &pause.scope));
    let pauses: Vec<_> = by_rules.chain(by_hand).collect();
    named.iter().map(|name| pause_named(name, &pauses)).collect()
}

/// The one pause in force that a name means.
fn pause_named(name: &str, pauses: &[(PauseId, &PauseScope)]) -> Result<PauseId, Failure> {
    let means = |(id, scope): &&(PauseId, &PauseScope)| {
        let begins = name.len() >= PAUSE_DIGITS_MIN && id.to_string().starts_with(name);
        begins || scope.to_string() == name
    };
    let mut found = pauses.iter().filter(means);
    if let (Some((id, _)), None) = (found.next(), found.next()) {
        return Ok(*id);
    }
    let known: Vec<String> = pauses.iter().map(|(id, scope)| format!("{scope} ({id:.16})")).collect();
    let known = if known.is_empty() { "nothing is paused".to_owned() } else { known.join(", ") };
    Err(Failure::new(Exit::BadInput, anyhow!("{name:?} is none of this campaign's pauses: {known}"))
        .advise("name one as `lunar-coordinator status` shows it"))
}

/// How files with resumes of pauses begin: they are numbered by themselves.
const PAUSES_NAME: &str = "resume_pauses";

/// Fewest digits of an id that a person may leave it at.
const PAUSE_DIGITS_MIN: usize = 8;

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

#[cfg(test)]
mod tests {
    use super::*;
    use lunar_common::limits::Tier;

    #[test]
    fn a_pause_is_named_by_what_is_paused_or_by_how_its_id_begins_if_that_is_one() {
        let (one, two, all) =
            (PauseScope::Tier(Tier::One), PauseScope::Tier(Tier::Two), PauseScope::Campaign);
        let pauses = [(PauseId([0xab; 32]), &one), (PauseId([0xcd; 32]), &all)];
        assert_eq!(pause_named("tier 1", &pauses).unwrap(), PauseId([0xab; 32]));
        assert_eq!(pause_named("cdcdcdcd", &pauses).unwrap(), PauseId([0xcd; 32]));
        for name in ["tier 2", "cdcdcd", "ffffffff", ""] {
            let told = pause_named(name, &pauses).unwrap_err().to_string();
            assert!(told.contains("tier 1 (abababababababab), the campaign (cdcdcdcdcdcdcdcd)"), "{told}");
        }
        let same = [(PauseId([7; 32]), &one), (PauseId([7; 32]), &two)];
        assert!(pause_named("07070707", &same).is_err(), "two begin like this");
        let both = [(PauseId([7; 32]), &one), (PauseId([8; 32]), &one)];
        assert!(pause_named("tier 1", &both).is_err(), "by a rule, and by hand");
    }
}
