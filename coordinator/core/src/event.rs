//! What is written to the log: all that a coordinator must still know after a crash.
//!
//! Owns [`EventBody`]. Main invariant: the durable state is the fold of these and of nothing else, so every
//! event carries what its fold needs and can be encoded by `lunar_common::wire`. Refuses to carry times that
//! decide anything: the record around an event has a wall time, for people.

use std::collections::{BTreeMap, BTreeSet};

use lunar_common::curb::Measure;
use lunar_common::enrolment::{Enrolment, Role};
use lunar_common::gate::{Demand, Evidence as Shown};
use lunar_common::ids::{
    ArtifactId, Attempt, CampaignId, ClusterId, DocumentHash, Epoch, Fence, Generation, GroupId, KeyName,
    LeaseId, PauseId, PeerKey, Sequence, ServerId, ServiceId, SiteId, StageName,
};
use lunar_common::lease::{LeaseOutcome, LeaseState, LimitScope};
use lunar_common::limits::{Limits, PlaceLimits, Tier};
use lunar_common::message::Transition;
use lunar_common::pause::{Pause, PauseScope};
use lunar_common::plan::{Plan, Select, StopRules as PlanStops};
use lunar_common::time::{WallTime, millis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::campaign::approval::{ApprovalTerms, Word};
use crate::campaign::curb::ByHand;
use crate::campaign::rules::{Labels, Rules};
use crate::campaign::window::WindowTerms;

/// Largest encoding of an event in bytes: a plan that names 10,000 servers.
pub const EVENT_BYTES_MAX: usize = 2 * 1024 * 1024;

/// One thing that happened and must not be forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventBody {
    /// A life of the coordinator begins.
    CoordinatorStarted {
        /// Its number.
        epoch: Epoch,
    },
    /// A server proved that our log is older than what we once granted: numbers jump above all it has seen.
    StateRestored {
        /// The server that proved it.
        evidence: ServerId,
        /// The life that begins here.
        epoch: Epoch,
        /// The highest fence that may have been granted.
        fence: Fence,
    },
    /// Every member has reported or was written off since the state was found to be old: grants may go on.
    Recovered {
        /// The life in which that was so.
        epoch: Epoch,
    },
    /// A machine joined, or its enrolment was replaced.
    ServerEnrolled {
        /// Its place in the fleet.
        member: Member,
    },
    /// A machine is out.
    ServerRevoked {
        /// Which.
        server: ServerId,
        /// Its key.
        key: PeerKey,
    },
    /// A plan is in force.
    PlanAccepted {
        /// What the ledger needs of it.
        terms: Terms,
        /// Who signed.
        signers: BTreeSet<KeyName>,
    },
    /// Nothing starts any more.
    Halted {
        /// In this campaign; `None`: in any.
        campaign: Option<CampaignId>,
        /// The halt's sequence.
        sequence: Sequence,
        /// Why.
        reason: String,
        /// Who signed.
        signers: BTreeSet<KeyName>,
    },
    /// The halts of this scope have ended, up to this sequence.
    Resumed {
        /// The scope, as in `Halted`.
        campaign: Option<CampaignId>,
        /// The resume's sequence; for a resume seen only by its result, the ended halt's.
        sequence: Sequence,
        /// Why.
        reason: String,
        /// Who signed.
        signers: BTreeSet<KeyName>,
    },
    /// A claim took its place among those waiting.
    Queued {
        /// Who waits.
        server: ServerId,
        /// For what.
        task: Task,
    },
    /// A lease was granted.
    Granted(GrantedLease),
    /// A server says that it started under its lease.
    Started {
        /// Who.
        server: ServerId,
        /// Under which lease.
        lease: LeaseId,
    },
    /// A lease is over, by the server's own word.
    Released {
        /// Whose.
        server: ServerId,
        /// Which lease.
        lease: LeaseId,
        /// Its fence: nothing at or below it is ever taken for held again.
        fence: Fence,
        /// What it was for; `None` if that was never known.
        task: Option<Task>,
        /// By what word.
        evidence: Evidence,
    },
    /// A lease ran out without news. Its slot stays taken.
    Lost {
        /// Whose.
        server: ServerId,
        /// Which lease.
        lease: LeaseId,
        /// What it was before.
        was: LeaseState,
    },
    /// A lost lease was reported by its holder: it is where the holder says.
    Found {
        /// Whose.
        server: ServerId,
        /// Which lease.
        lease: LeaseId,
        /// Whether the holder has started.
        started: bool,
    },
    /// A server holds a lease that this log does not know: it counts from here on.
    Adopted {
        /// Whose.
        server: ServerId,
        /// Which lease.
        lease: LeaseId,
        /// Its epoch.
        epoch: Epoch,
        /// Its fence.
        fence: Fence,
        /// Whether the holder has started.
        started: bool,
        /// What it is for, as far as the report tells.
        task: Option<Task>,
    },
    /// An operator freed a lost lease.
    Reaped {
        /// Whose.
        server: ServerId,
        /// Which lease.
        lease: LeaseId,
        /// The reap's sequence.
        sequence: Sequence,
        /// What a person saw.
        reason: String,
        /// Who signed.
        signers: BTreeSet<KeyName>,
    },
    /// An operator wrote a silent server off: it takes no slot until it reports.
    WrittenOff {
        /// Which.
        server: ServerId,
        /// The reap's sequence.
        sequence: Sequence,
        /// What a person saw.
        reason: String,
        /// Who signed.
        signers: BTreeSet<KeyName>,
    },
    /// A reap arrived that had nothing to free. Kept for the audit, and so that it can never be used later.
    ReapSpent {
        /// For which server.
        server: ServerId,
        /// The reap's sequence.
        sequence: Sequence,
        /// Why it freed nothing.
        why: String,
    },
    /// A server that was written off reported again.
    Returned {
        /// Which.
        server: ServerId,
    },
    /// A server changed its phase, by its own journal.
    Transition {
        /// Which server.
        server: ServerId,
        /// The change.
        transition: Transition,
    },
    /// What a plan says of the order of its servers. Comes before the plan's own event, so that no plan is ever in
    /// force without its rules.
    PlanRules {
        /// The campaign.
        campaign: CampaignId,
        /// The plan's hash.
        plan: DocumentHash,
        /// The rules.
        rules: Rules,
    },
    /// A machine's labels, where they are not what they were. Comes before its enrolment's own event.
    Labelled {
        /// Which.
        server: ServerId,
        /// All of them.
        labels: Labels,
    },
    /// A server runs a plan's version, by its own report, and no release has said so.
    Arrived {
        /// Which.
        server: ServerId,
        /// The campaign.
        campaign: CampaignId,
        /// The plan's hash.
        plan: DocumentHash,
    },
    /// All that a stage's gate asks for, but for the time, was met for so long.
    Soaked {
        /// The campaign.
        campaign: CampaignId,
        /// The plan's hash.
        plan: DocumentHash,
        /// The stage's place in the plan.
        stage: u16,
        /// Milliseconds in all; 0: it was not met any more.
        soaked_ms: u64,
    },
    /// A stage has shown what its gate asks for: the stages after it may begin.
    GateOpened {
        /// The campaign.
        campaign: CampaignId,
        /// The plan's hash.
        plan: DocumentHash,
        /// The stage's place in the plan.
        stage: u16,
        /// Its name.
        name: StageName,
        /// What was asked for.
        demand: Demand,
        /// What was shown.
        evidence: Shown,
    },
    /// By which rules a plan is paused. Comes before the plan's own event.
    StopRules {
        /// The campaign.
        campaign: CampaignId,
        /// The plan's hash.
        plan: DocumentHash,
        /// The rules.
        rules: PlanStops,
    },
    /// A server whose lease was lost has not been heard of either: nobody knows how it is.
    FellSilent {
        /// Which.
        server: ServerId,
        /// Its lease.
        lease: LeaseId,
    },
    /// A rule has found what pauses a campaign, or a part of it: nothing starts there any more.
    Paused {
        /// What is paused, and by what evidence.
        pause: Pause,
    },
    /// People have seen that evidence, and go on.
    Unpaused {
        /// The campaign.
        campaign: CampaignId,
        /// What was paused.
        scope: PauseScope,
        /// The pause.
        pause: PauseId,
        /// The resume's sequence.
        sequence: Sequence,
        /// Why.
        reason: String,
        /// Who signed.
        signers: BTreeSet<KeyName>,
    },
    /// When a plan lets servers go down. Comes before the plan's own event, as its rules do.
    PlanWindows {
        /// The campaign.
        campaign: CampaignId,
        /// The plan's hash.
        plan: DocumentHash,
        /// The windows.
        windows: WindowTerms,
    },
    /// Which stages of a plan people approve. Comes before the plan's own event, as its rules do.
    PlanApprovals {
        /// The campaign.
        campaign: CampaignId,
        /// The plan's hash.
        plan: DocumentHash,
        /// The stages.
        approvals: ApprovalTerms,
    },
    /// People approved a batch, or took that back.
    Approved {
        /// The campaign.
        campaign: CampaignId,
        /// The plan's hash.
        plan: DocumentHash,
        /// The stage's place in the plan.
        stage: u16,
        /// Its name.
        name: StageName,
        /// The batch.
        batch: u32,
        /// What they said.
        word: Word,
    },
    /// People restrained a campaign or a server by hand, or released the server.
    Curbed {
        /// The campaign; `None`: it is about a server, in all of them.
        campaign: Option<CampaignId>,
        /// How.
        what: Measure,
        /// By whose word.
        by: ByHand,
    },
}

/// What an event says of a lease: enough to count leases from a log, without the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseNews<'a> {
    /// Whose lease.
    pub server: &'a ServerId,
    /// Which.
    pub lease: LeaseId,
    /// What became of it.
    pub step: LeaseStep,
}

/// What became of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseStep {
    /// It takes a slot from here on.
    Held {
        /// By which life's numbers.
        epoch: Epoch,
        /// Its order among all grants.
        fence: Fence,
    },
    /// It takes its slot as before, for another reason.
    Changed,
    /// It takes no slot any more, if it was the one held.
    Over,
}

impl EventBody {
    /// Whose life it belongs to, if to one server's.
    #[must_use]
    pub fn server(&self) -> Option<&ServerId> {
        match self {
            Self::ServerEnrolled { member } => Some(&member.server),
            Self::Granted(lease) => Some(&lease.server),
            Self::StateRestored { evidence, .. } => Some(evidence),
            Self::ServerRevoked { server, .. }
            | Self::Queued { server, .. }
            | Self::Started { server, .. }
            | Self::Released { server, .. }
            | Self::Lost { server, .. }
            | Self::Found { server, .. }
            | Self::Adopted { server, .. }
            | Self::Reaped { server, .. }
            | Self::WrittenOff { server, .. }
            | Self::ReapSpent { server, .. }
            | Self::Returned { server }
            | Self::Transition { server, .. }
            | Self::Labelled { server, .. }
            | Self::FellSilent { server, .. }
            | Self::Arrived { server, .. } => Some(server),
            Self::Paused { pause } => Some(&pause.server),
            Self::Curbed { what: Measure::Quarantine(server) | Measure::Release(server), .. } => Some(server),
            Self::CoordinatorStarted { .. }
            | Self::Recovered { .. }
            | Self::PlanAccepted { .. }
            | Self::Halted { .. }
            | Self::Resumed { .. }
            | Self::PlanRules { .. }
            | Self::PlanWindows { .. }
            | Self::Soaked { .. }
            | Self::GateOpened { .. }
            | Self::StopRules { .. }
            | Self::PlanApprovals { .. }
            | Self::Approved { .. }
            | Self::Curbed { .. }
            | Self::Unpaused { .. } => None,
        }
    }

    /// What it says of a lease, if of any.
    #[must_use]
    pub fn lease_news(&self) -> Option<LeaseNews<'_>> {
        let (server, lease, step) = match self {
            Self::Granted(granted) => {
                let step = LeaseStep::Held { epoch: granted.epoch, fence: granted.fence };
                (&granted.server, granted.lease, step)
            }
            Self::Adopted { server, lease, epoch, fence, .. } => {
                (server, *lease, LeaseStep::Held { epoch: *epoch, fence: *fence })
            }
            Self::Started { server, lease }
            | Self::Lost { server, lease, .. }
            | Self::Found { server, lease, .. } => (server, *lease, LeaseStep::Changed),
            Self::Released { server, lease, .. } | Self::Reaped { server, lease, .. } => {
                (server, *lease, LeaseStep::Over)
            }
            Self::CoordinatorStarted { .. }
            | Self::StateRestored { .. }
            | Self::Recovered { .. }
            | Self::ServerEnrolled { .. }
            | Self::ServerRevoked { .. }
            | Self::PlanAccepted { .. }
            | Self::Halted { .. }
            | Self::Resumed { .. }
            | Self::Queued { .. }
            | Self::WrittenOff { .. }
            | Self::ReapSpent { .. }
            | Self::Returned { .. }
            | Self::Transition { .. }
            | Self::PlanRules { .. }
            | Self::Labelled { .. }
            | Self::Arrived { .. }
            | Self::Soaked { .. }
            | Self::GateOpened { .. }
            | Self::StopRules { .. }
            | Self::FellSilent { .. }
            | Self::Paused { .. }
            | Self::Unpaused { .. }
            | Self::PlanWindows { .. }
            | Self::PlanApprovals { .. }
            | Self::Approved { .. }
            | Self::Curbed { .. } => return None,
        };
        Some(LeaseNews { server, lease, step })
    }
}

/// What a lease is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Task {
    /// The campaign.
    pub campaign: CampaignId,
    /// The plan's hash.
    pub plan: DocumentHash,
    /// The attempt.
    pub attempt: Attempt,
}

/// A lease as it was granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantedLease {
    /// The lease.
    pub lease: LeaseId,
    /// Who holds it.
    pub server: ServerId,
    /// What it is for.
    pub task: Task,
    /// The claim it answered first.
    pub nonce: u64,
    /// The life that granted it.
    pub epoch: Epoch,
    /// Its order among all grants.
    pub fence: Fence,
    /// Milliseconds within which the start must be journaled.
    pub start_within_ms: u64,
    /// Milliseconds within which a release is expected after the start.
    pub down_max_ms: u64,
}

/// By what word of a server its lease is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Evidence {
    /// Its signed release.
    Release {
        /// How it ended.
        outcome: LeaseOutcome,
        /// Milliseconds it was down.
        down_ms: u64,
    },
    /// Its report: it has seen this fence, or a higher one, and does not hold the lease.
    Report,
    /// Its claim by a newer plan: a grant by the old plan is refused there from now on.
    NewerPlan,
}

/// A machine's place in the fleet, from its enrolment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Member {
    /// Its name.
    pub server: ServerId,
    /// Its key.
    pub key: PeerKey,
    /// The enrolment's sequence.
    pub sequence: Sequence,
    /// What it may do.
    pub role: Role,
    /// Its host name.
    pub hostname: String,
    /// Its site.
    pub site: SiteId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its tier.
    pub tier: Tier,
    /// What it does.
    pub service: ServiceId,
    /// Its redundancy group.
    pub group: Option<GroupId>,
    /// Past this it starts nothing new.
    pub expires: Option<WallTime>,
}

impl From<&Enrolment> for Member {
    fn from(enrolment: &Enrolment) -> Self {
        Self {
            server: enrolment.server.clone(),
            key: enrolment.key,
            sequence: enrolment.sequence,
            role: enrolment.role,
            hostname: enrolment.hostname.clone(),
            site: enrolment.site.clone(),
            cluster: enrolment.cluster.clone(),
            tier: enrolment.tier,
            service: enrolment.service.clone(),
            group: enrolment.group.clone(),
            expires: enrolment.expires,
        }
    }
}

impl Member {
    /// Every scope in which this server counts.
    pub fn scopes(&self) -> impl Iterator<Item = LimitScope> + use<> {
        LimitScope::of(self.tier, &self.site, &self.cluster, self.group.as_ref())
    }
}

/// What the ledger needs of a plan, in a form the log can hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The campaign.
    pub campaign: CampaignId,
    /// Which generation of its plan.
    pub generation: Generation,
    /// The plan's hash.
    pub plan: DocumentHash,
    /// Past this nothing new starts.
    pub expires: WallTime,
    /// Which servers.
    pub select: Selection,
    /// Most servers down at once.
    pub limits: LimitTable,
    /// Milliseconds from the claim's sending within which a start must be journaled.
    pub start_within_ms: u64,
    /// Milliseconds from the start within which a release is expected.
    pub down_max_ms: u64,
    /// Attempts in all.
    pub attempts_max: u32,
    /// What is installed.
    pub artifacts: Vec<ArtifactId>,
}

impl Terms {
    /// The terms of a plan whose document has this hash.
    #[must_use]
    pub fn of(plan: &Plan, hash: DocumentHash) -> Self {
        Self {
            campaign: plan.campaign.clone(),
            generation: plan.generation,
            plan: hash,
            expires: plan.expires,
            select: Selection::from(&plan.select),
            limits: LimitTable::from(&plan.limits),
            start_within_ms: millis(plan.lease.start_within()),
            down_max_ms: millis(plan.lease.down_max()),
            attempts_max: plan.retry.attempts_max,
            artifacts: plan.artifacts.iter().map(|artifact| artifact.id).collect(),
        }
    }
}

/// [`Select`] without the attributes that keep it out of the log's encoding. Matches the same machines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// Tiers; empty: all.
    pub tiers: BTreeSet<Tier>,
    /// Sites; empty: all.
    pub sites: BTreeSet<SiteId>,
    /// Clusters; empty: all.
    pub clusters: BTreeSet<ClusterId>,
    /// Services; empty: all.
    pub services: BTreeSet<ServiceId>,
    /// Servers; empty: all.
    pub servers: BTreeSet<ServerId>,
    /// Servers left out.
    pub except: BTreeSet<ServerId>,
}

impl From<&Select> for Selection {
    fn from(select: &Select) -> Self {
        Self {
            tiers: select.tiers.clone(),
            sites: select.sites.clone(),
            clusters: select.clusters.clone(),
            services: select.services.clone(),
            servers: select.servers.clone(),
            except: select.except.clone(),
        }
    }
}

impl Selection {
    /// Whether a member is selected. Coordinators and origins never are.
    #[must_use]
    pub fn matches(&self, member: &Member) -> bool {
        fn listed<T: Ord>(list: &BTreeSet<T>, value: &T) -> bool {
            list.is_empty() || list.contains(value)
        }
        member.role == Role::Agent
            && listed(&self.tiers, &member.tier)
            && listed(&self.sites, &member.site)
            && listed(&self.clusters, &member.cluster)
            && listed(&self.services, &member.service)
            && listed(&self.servers, &member.server)
            && !self.except.contains(&member.server)
    }
}

/// [`Limits`] in a form the log can hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LimitTable {
    /// In the whole fleet.
    pub fleet: u32,
    /// In tiers 1, 2 and 3.
    pub tiers: [u32; 3],
    /// In each site where nothing else is said.
    pub site_default: Option<u32>,
    /// In these sites.
    pub sites: BTreeMap<SiteId, u32>,
    /// In each cluster where nothing else is said.
    pub cluster_default: Option<u32>,
    /// In these clusters.
    pub clusters: BTreeMap<ClusterId, u32>,
    /// In each redundancy group.
    pub group: u32,
}

impl From<&Limits> for LimitTable {
    fn from(limits: &Limits) -> Self {
        fn only<Id: Ord + Clone>(places: &PlaceLimits<Id>) -> BTreeMap<Id, u32> {
            places.only.iter().map(|(place, limit)| (place.clone(), limit.get())).collect()
        }
        Self {
            fleet: limits.fleet.get(),
            tiers: Tier::ALL.map(|tier| limits.tier.of(tier)),
            site_default: limits.site.default.map(std::num::NonZeroU32::get),
            sites: only(&limits.site),
            cluster_default: limits.cluster.default.map(std::num::NonZeroU32::get),
            clusters: only(&limits.cluster),
            group: limits.group.get(),
        }
    }
}

impl LimitTable {
    /// The limit of a scope; `None`: no limit there.
    #[must_use]
    pub fn of(&self, scope: &LimitScope) -> Option<u32> {
        match scope {
            LimitScope::Fleet => Some(self.fleet),
            LimitScope::Tier(tier) => Some(self.tiers[usize::from(tier.number() - 1)]),
            LimitScope::Site(site) => self.sites.get(site).copied().or(self.site_default),
            LimitScope::Cluster(cluster) => self.clusters.get(cluster).copied().or(self.cluster_default),
            LimitScope::Group(_) => Some(self.group),
        }
    }
}
