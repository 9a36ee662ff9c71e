//! `pause`, `lower`, `cancel` and `quarantine`: people restrain a campaign or a server by hand.
//!
//! Owns the making of curbs. Main invariant: whatever only stops is one command and one key of the halt role; only a
//! server's release is signed by several. Refuses to raise a limit: that takes a new generation of the plan.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;

use anyhow::anyhow;
use lunar_common::curb::{Curb, Lowered, Measure};
use lunar_common::document::Kind;
use lunar_common::ids::{CampaignId, ClusterId, GroupId, Sequence, ServerId, SiteId};
use lunar_common::lease::LimitScope;
use lunar_common::limits::Tier;
use lunar_common::pause::PauseScope;
use lunar_coordinator_core::view::{CampaignView, StatusView};
use lunar_host::clock;
use lunar_host::exit::{Exit, Failure};

use super::halt::highest_name;
use super::hand_over::HandOver;
use super::signing::{Span, text_of, trust};
use super::{CommandResult, Common, block_on};
use crate::client::Client;
use crate::home::Home;

/// What every curb takes.
#[derive(Debug, clap::Args)]
struct Make {
    /// Why: everyone will ask.
    #[arg(long, required_unless_present = "sign")]
    reason: Option<String>,
    /// Past this it is not taken in any more; what it began goes on.
    #[arg(long, default_value = "24h", value_name = "SPAN")]
    expires: Span,
    /// Signs one that another began, instead of making one.
    #[arg(long, value_name = "FILE")]
    sign: Option<PathBuf>,
    #[command(flatten)]
    hand_over: HandOver,
}

impl Make {
    fn run(&self, common: &Common, campaign: Option<&CampaignId>, what: Option<Measure>) -> CommandResult {
        let trust = trust(common)?;
        let what = match (&self.sign, what) {
            (Some(path), _) => return self.hand_over.sign_and_publish(common, &trust, Kind::Curb, path),
            (None, Some(what)) => what,
            (None, None) => {
                return Err(Failure::new(Exit::Usage, anyhow!("it is not said what this is about"))
                    .advise("name the campaign or the server, or a file with --sign"));
            }
        };
        let sequence = self.hand_over.sequence.map_or_else(|| next_number(common, campaign), Ok)?;
        let issued = clock::wall();
        let curb = Curb {
            format: 1,
            fleet: trust.fleet().clone(),
            campaign: campaign.cloned(),
            sequence: Sequence(sequence),
            issued,
            expires: self.expires.after(issued),
            reason: self.reason.clone().unwrap_or_default(),
            what,
        };
        let name = format!("{}{sequence}.toml", prefix(campaign));
        self.hand_over.carry_out(common, &trust, Kind::Curb, &name, &text_of(&curb)?)
    }
}

/// Pauses a campaign, or a part of it: nothing starts there until `resume --pause` ends it. What is under way finishes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "One key of the halt role is enough. Without a part, the whole campaign is paused.\n\n\
    Examples:\n  \
    lunar-coordinator pause web-2 --tier 1 --reason \"a crew is docking\" --key dia.key\n  \
    lunar-coordinator pause web-2 --site base --reason \"power works\" --key dia.key\n  \
    lunar-coordinator pause web-2 --model model=r740 --reason \"a bad fan\" --key dia.key\n  \
    lunar-coordinator resume web-2 --pause \"tier 1\" --reason \"docked\" --key ann.key --key bob.key"
)]
pub struct PauseCommand {
    /// The campaign.
    #[arg(required_unless_present = "sign")]
    campaign: Option<CampaignId>,
    /// This tier only.
    #[arg(long, value_name = "1|2|3", conflicts_with_all = ["site", "model"])]
    tier: Option<Tier>,
    /// This site only.
    #[arg(long, conflicts_with = "model")]
    site: Option<SiteId>,
    /// Servers with this label only.
    #[arg(long, value_name = "LABEL=VALUE", value_parser = named::<String, String>)]
    model: Option<(String, String)>,
    #[command(flatten)]
    make: Make,
}

impl PauseCommand {
    /// Runs it.
    ///
    /// # Errors
    /// A key, the gate or the other side refused.
    pub fn run(self, common: &Common) -> CommandResult {
        let scope = match (self.tier, self.site, self.model) {
            (Some(tier), _, _) => PauseScope::Tier(tier),
            (None, Some(site), _) => PauseScope::Site(site),
            (None, None, Some((label, value))) => PauseScope::Model { label, value },
            (None, None, None) => PauseScope::Campaign,
        };
        self.make.run(common, self.campaign.as_ref(), self.campaign.as_ref().map(|_| Measure::Pause(scope)))
    }
}

/// Cancels a campaign: nothing starts by the plan in force any more, and what is upgraded stays as it is.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "One key of the halt role is enough. What is under way finishes or rolls back by itself. Only a new\n\
    generation of the plan goes on; to take back what was upgraded, sign a plan that installs the version before.\n\n\
    Example:\n  lunar-coordinator cancel web-2 --reason \"2.1 replaces it\" --key dia.key"
)]
pub struct CancelCommand {
    /// The campaign.
    #[arg(required_unless_present = "sign")]
    campaign: Option<CampaignId>,
    #[command(flatten)]
    make: Make,
}

impl CancelCommand {
    /// Runs it.
    ///
    /// # Errors
    /// A key, the gate or the other side refused.
    pub fn run(self, common: &Common) -> CommandResult {
        self.make.run(common, self.campaign.as_ref(), self.campaign.as_ref().map(|_| Measure::Cancel))
    }
}

/// Lowers limits of the plan in force. They go up again by a new generation of the plan only.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "One key of the halt role is enough. Who is down stays down; nobody else starts until there is room.\n\n\
    Examples:\n  \
    lunar-coordinator lower web-2 --tier 1=2 --fleet 40 --reason \"a crew is docking\" --key dia.key\n  \
    lunar-coordinator lower web-2 --site base=5 --cluster db-1=1 --reason \"power works\" --key dia.key"
)]
pub struct LowerCommand {
    /// The campaign.
    #[arg(required_unless_present = "sign")]
    campaign: Option<CampaignId>,
    /// Most servers down in the whole fleet.
    #[arg(long, value_name = "N")]
    fleet: Option<NonZeroU32>,
    /// Most servers down in a tier. May be repeated.
    #[arg(long, value_name = "TIER=N", value_parser = named::<Tier, NonZeroU32>)]
    tier: Vec<(Tier, NonZeroU32)>,
    /// Most servers down in a site. May be repeated.
    #[arg(long, value_name = "SITE=N", value_parser = named::<SiteId, NonZeroU32>)]
    site: Vec<(SiteId, NonZeroU32)>,
    /// Most servers down in a cluster. May be repeated.
    #[arg(long, value_name = "CLUSTER=N", value_parser = named::<ClusterId, NonZeroU32>)]
    cluster: Vec<(ClusterId, NonZeroU32)>,
    /// Most servers down in a redundancy group. May be repeated.
    #[arg(long, value_name = "GROUP=N", value_parser = named::<GroupId, NonZeroU32>)]
    group: Vec<(GroupId, NonZeroU32)>,
    #[command(flatten)]
    make: Make,
}

impl LowerCommand {
    /// Runs it.
    ///
    /// # Errors
    /// No limit is named; a key, the gate or the other side refused.
    pub fn run(self, common: &Common) -> CommandResult {
        let tiers = self.tier.into_iter().map(|(tier, to)| (LimitScope::Tier(tier), to));
        let sites = self.site.into_iter().map(|(site, to)| (LimitScope::Site(site), to));
        let clusters = self.cluster.into_iter().map(|(cluster, to)| (LimitScope::Cluster(cluster), to));
        let groups = self.group.into_iter().map(|(group, to)| (LimitScope::Group(group), to));
        let fleet = self.fleet.into_iter().map(|to| (LimitScope::Fleet, to));
        let all: BTreeMap<LimitScope, NonZeroU32> =
            fleet.chain(tiers).chain(sites).chain(clusters).chain(groups).collect();
        if all.is_empty() && self.make.sign.is_none() {
            return Err(Failure::new(Exit::Usage, anyhow!("no limit is named"))
                .advise("add --fleet N, --tier 1=N, --site NAME=N, --cluster NAME=N or --group NAME=N"));
        }
        let lowered = all.into_iter().map(|(scope, to)| Lowered { scope, to }).collect();
        self.make.run(common, self.campaign.as_ref(), self.campaign.as_ref().map(|_| Measure::Lower(lowered)))
    }
}

/// Holds a server back from every campaign, or releases it. The version that it runs stays.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "One key of the halt role is enough to hold back; to release takes the threshold of the resume role.\n\
    A gate that waits for the server goes on waiting: write it off with `lease reap` if it is gone for good.\n\n\
    Examples:\n  \
    lunar-coordinator quarantine srv-07 --reason \"a disk is failing\" --key dia.key\n  \
    lunar-coordinator quarantine srv-07 --release --reason \"a new disk\" --key ann.key --key bob.key\n  \
    lunar-coordinator quarantine --sign curbs/_fleet-2.toml --key bob.key"
)]
pub struct QuarantineCommand {
    /// The server.
    #[arg(required_unless_present = "sign")]
    server: Option<ServerId>,
    /// Ends it: the server may start again.
    #[arg(long)]
    release: bool,
    #[command(flatten)]
    make: Make,
}

impl QuarantineCommand {
    /// Runs it.
    ///
    /// # Errors
    /// A key, the gate or the other side refused.
    pub fn run(self, common: &Common) -> CommandResult {
        let measure = if self.release { Measure::Release } else { Measure::Quarantine };
        self.make.run(common, None, self.server.map(measure))
    }
}

/// How files begin that hold the curbs of a campaign, or of the fleet's servers. No campaign begins with an underscore.
fn prefix(campaign: Option<&CampaignId>) -> String {
    campaign.map_or_else(|| "_fleet-".to_owned(), |campaign| format!("{campaign}-"))
}

/// The number after the last one, by the coordinator if it answers, and by the names of files.
fn next_number(common: &Common, campaign: Option<&CampaignId>) -> Result<u64, Failure> {
    let by_names = highest_name(&Home::new(&common.home).curbs(), &[&prefix(campaign)])?;
    let client = Client::of(common)?;
    let asked = match campaign {
        Some(campaign) => block_on(client.get::<CampaignView>(&format!("/campaigns/{campaign}")))
            .map(|view| view.by_hand.sequence.0),
        None => block_on(client.get::<StatusView>("/status")).map(|view| view.curbs.0),
    };
    let known = match asked {
        Ok(known) => known,
        // Without a coordinator the file is written and signed all the same.
        Err(failure) if failure.exit == Exit::Unreachable => 0,
        Err(failure) => return Err(failure),
    };
    Ok(by_names.max(known).saturating_add(1))
}

/// A name and what it is given, as in `base=5`.
fn named<K: std::str::FromStr, V: std::str::FromStr>(text: &str) -> Result<(K, V), String>
where
    K::Err: std::fmt::Display,
    V::Err: std::fmt::Display,
{
    let (name, value) =
        text.split_once('=').ok_or_else(|| format!("{text:?} has no `=`: write NAME=VALUE"))?;
    let name = name.parse().map_err(|error| format!("{name:?}: {error}"))?;
    Ok((name, value.parse().map_err(|error| format!("{value:?}: {error}"))?))
}
