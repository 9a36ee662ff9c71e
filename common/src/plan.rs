//! A campaign's plan: what is installed where, within which limits, and how success is told.
//!
//! Owns [`Plan`] and its parts, as people write them. Main invariant: a plan that came out of
//! [`crate::document`] is consistent (`Plan::check` found nothing). Refuses to know the fleet: feasibility is
//! the coordinator's planner's business.

mod check;
mod order;
mod stage;
pub mod windows;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use order::{OrderRule, Within};
pub use stage::Stage;

pub use crate::document::Problem as PlanProblem;
use crate::enrolment::Enrolment;
use crate::health::Probe;
use crate::ids::{
    ArtifactId, ArtifactName, CampaignId, ClusterId, FleetId, Generation, GroupId, KeyName, ServerId,
    ServiceId, SiteId, Version,
};
use crate::inventory::InventoryServer;
use crate::limits::{Limits, Tier};
use crate::time::WallTime;
use windows::Windows;

/// One generation of one campaign's plan. Signed under `plan@`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Always 1.
    pub format: u32,
    /// The fleet.
    pub fleet: FleetId,
    /// The campaign. All its generations carry the same id.
    pub campaign: CampaignId,
    /// Which generation this is; agents refuse lower ones than they have seen.
    pub generation: Generation,
    /// The key name of the person who wrote it.
    pub author: KeyName,
    /// When it was written.
    pub issued: WallTime,
    /// Past this nothing new starts; what is under way finishes or rolls back.
    pub expires: WallTime,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Which servers.
    #[serde(default)]
    pub select: Select,
    /// What is installed. Nothing is applied until all of it is complete on the server.
    #[serde(rename = "artifact")]
    pub artifacts: Vec<PlanArtifact>,
    /// How it is installed.
    pub install: Install,
    /// Most servers down at once.
    #[serde(default)]
    pub limits: Limits,
    /// When servers may go down. Absent: at any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<Windows>,
    /// Leases and deadlines.
    #[serde(default)]
    pub lease: LeaseTerms,
    /// How health is told.
    pub health: HealthPlan,
    /// How starts are spread.
    #[serde(default)]
    pub spread: Spread,
    /// How failures are tried again.
    #[serde(default)]
    pub retry: Retry,
    /// Who goes first, and what must be shown before the others follow. Empty: everyone at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Stage>,
    /// Who starts only when others are done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub order: Vec<OrderRule>,
}

/// Which servers a plan is for: those that match every list that is not empty, and are not in `except`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Select {
    /// Tiers.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub tiers: BTreeSet<Tier>,
    /// Sites.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub sites: BTreeSet<SiteId>,
    /// Clusters.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub clusters: BTreeSet<ClusterId>,
    /// Services.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub services: BTreeSet<ServiceId>,
    /// Redundancy groups.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub groups: BTreeSet<GroupId>,
    /// Labels: each with the values of which the server's must be one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, BTreeSet<String>>,
    /// Servers by name.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub servers: BTreeSet<ServerId>,
    /// Servers left out.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub except: BTreeSet<ServerId>,
}

impl Select {
    /// Whether a machine is one of them. Coordinators and origins never are.
    #[must_use]
    pub fn matches(&self, machine: &Enrolment) -> bool {
        InventoryServer::of(machine).is_some_and(|server| self.takes(&server))
    }

    /// Whether a server is one of them.
    #[must_use]
    pub fn takes(&self, server: &InventoryServer) -> bool {
        fn listed<T: Ord>(list: &BTreeSet<T>, value: &T) -> bool {
            list.is_empty() || list.contains(value)
        }
        listed(&self.tiers, &server.tier)
            && listed(&self.sites, &server.site)
            && listed(&self.clusters, &server.cluster)
            && listed(&self.services, &server.service)
            && (self.groups.is_empty()
                || server.group.as_ref().is_some_and(|group| self.groups.contains(group)))
            && labels_match(&self.labels, &server.labels)
            && listed(&self.servers, &server.server)
            && !self.except.contains(&server.server)
    }
}

/// Whether a machine's labels have, for each name wanted, one of the values wanted.
#[must_use]
pub fn labels_match(wanted: &BTreeMap<String, BTreeSet<String>>, labels: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(name, values)| labels.get(name).is_some_and(|value| values.contains(value)))
}

/// One artifact of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanArtifact {
    /// Its name; the release's directory is called after it.
    pub name: ArtifactName,
    /// Its version, for people and logs.
    pub version: Version,
    /// The BLAKE3 of its manifest.
    pub id: ArtifactId,
    /// The encoded manifest's length in bytes: never read further.
    pub manifest_bytes: u64,
    /// The content's length in bytes, uncompressed.
    pub bytes: u64,
    /// What it may replace, and to what a rollback may return. Empty: a first installation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<Predecessor>,
}

impl Plan {
    /// The labels that its programs and probes use, as `${label.NAME}`: a server without them cannot go by it.
    #[must_use]
    pub fn labels_used(&self) -> BTreeSet<String> {
        const BEFORE: &str = "${label.";
        let texts = [toml::to_string(&self.install), toml::to_string(&self.health)];
        let mut labels = BTreeSet::new();
        for text in texts.iter().flatten() {
            let uses = text.match_indices(BEFORE).map(|(at, _)| &text[at + BEFORE.len()..]);
            labels.extend(uses.filter_map(|rest| rest.split_once('}')).map(|(label, _)| label.to_owned()));
        }
        labels
    }
}

impl PlanArtifact {
    /// Whether it may be installed over what runs; `None`: nothing does. Both halves of an agent ask here. Where
    /// `from` lists anything, a server that runs nothing is not one of those that the plan was made for.
    #[must_use]
    pub fn may_replace(&self, running: Option<ArtifactId>) -> bool {
        match running {
            None => self.from.is_empty(),
            Some(id) => id == self.id || self.from.iter().any(|from| from.id == id),
        }
    }
}

/// A manifest that may be replaced, and to which a rollback may return.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Predecessor {
    /// Its version, for people.
    pub version: Version,
    /// The BLAKE3 of its manifest.
    pub id: ArtifactId,
}

/// How artifacts are installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", from = "WrittenInstall")]
pub enum Install {
    /// Unpacked beside the running version; a link is switched; a unit or command is restarted.
    Release {
        /// What makes the service take up the new version.
        restart: Restart,
        /// Takes traffic away before the switch. Absent: nothing to do.
        #[serde(skip_serializing_if = "Option::is_none")]
        drain: Option<Hook>,
        /// Gives traffic back at the end, whichever version is running.
        #[serde(skip_serializing_if = "Option::is_none")]
        restore: Option<Hook>,
        /// Versions kept on the server, the running one included. At least 2: rollback needs no network.
        keep: u32,
    },
}

/// An installation as people write it: one flat table, so that a mistake in it keeps its place.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenInstall {
    kind: WrittenInstallKind,
    restart: Restart,
    drain: Option<Hook>,
    restore: Option<Hook>,
    #[serde(default = "default_keep")]
    keep: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum WrittenInstallKind {
    Release,
}

impl From<WrittenInstall> for Install {
    fn from(written: WrittenInstall) -> Self {
        let WrittenInstall { kind, restart, drain, restore, keep } = written;
        match kind {
            WrittenInstallKind::Release => Self::Release { restart, drain, restore, keep },
        }
    }
}

/// Versions kept where the plan says nothing: the running one and the one before.
fn default_keep() -> u32 {
    2
}

/// What makes a service take up a new version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Restart {
    /// `systemctl restart` of this unit.
    Unit(String),
    /// This program, run by the applier.
    Command(Hook),
}

/// A program run on the server. `${server}`, `${hostname}`, `${root}` and `${label.NAME}` are replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// Program and arguments; no shell.
    pub command: Vec<String>,
    /// Longest run, in seconds.
    #[serde(default = "default_hook_timeout_s")]
    pub timeout_s: u32,
}

/// Seconds a hook may take where the plan says nothing.
fn default_hook_timeout_s() -> u32 {
    60
}

/// Leases and deadlines, in seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LeaseTerms {
    /// A granted lease permits a start for this long after its claim was sent.
    pub start_within_s: u32,
    /// Longest time a server is expected down, start to release. Past it the lease is LOST.
    pub down_s_max: u32,
    /// Dead man's switch: the applier rolls back by itself this long after it began unless told to commit.
    pub commit_within_s: u32,
}

impl Default for LeaseTerms {
    /// Two minutes to start; half an hour down (A8); rollback inside five minutes of a missing commit (A3)
    /// leaves twenty for the upgrade itself.
    fn default() -> Self {
        Self { start_within_s: 120, down_s_max: 1800, commit_within_s: 1200 }
    }
}

impl LeaseTerms {
    /// `start_within_s` as a duration.
    #[must_use]
    pub fn start_within(&self) -> Duration {
        Duration::from_secs(self.start_within_s.into())
    }

    /// `down_s_max` as a duration.
    #[must_use]
    pub fn down_max(&self) -> Duration {
        Duration::from_secs(self.down_s_max.into())
    }

    /// `commit_within_s` as a duration.
    #[must_use]
    pub fn commit_within(&self) -> Duration {
        Duration::from_secs(self.commit_within_s.into())
    }
}

/// How health is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthPlan {
    /// The probes; at least one before and one after.
    #[serde(rename = "probe")]
    pub probes: Vec<Probe>,
    /// How long the new version must stay healthy before it is committed, in seconds.
    #[serde(default = "default_soak_s")]
    pub soak_s: u32,
    /// Between two rounds of probes in the soak, in seconds.
    #[serde(default = "default_interval_s")]
    pub interval_s: u32,
    /// After the switch: longest wait for the first healthy round, in seconds (a service takes time to start).
    #[serde(default = "default_settle_s")]
    pub settle_s: u32,
    /// Rounds in a row that may fail in the soak before it counts as unhealthy.
    #[serde(default)]
    pub failures_allowed: u32,
}

fn default_soak_s() -> u32 {
    60
}

fn default_interval_s() -> u32 {
    5
}

fn default_settle_s() -> u32 {
    30
}

/// How starts are spread, so that no stampede reaches a source (H4). Seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Spread {
    /// Downloads begin within this window, at a place given by a hash of the server's id.
    pub window_s: u32,
    /// And up to this much later, drawn anew each attempt.
    pub jitter_s: u32,
}

impl Default for Spread {
    fn default() -> Self {
        Self { window_s: 300, jitter_s: 30 }
    }
}

/// How a failed attempt is tried again (A9): `2^attempt × base_s`, capped, plus up to a tenth of jitter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Attempts in all; 1 means no second try.
    pub attempts_max: u32,
    /// Wait before the second attempt, in seconds.
    pub base_s: u32,
    /// Longest wait, in seconds.
    pub cap_s: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts_max: 3, base_s: 60, cap_s: 900 }
    }
}
