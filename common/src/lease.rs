//! What agents and the ledger say to each other about permission to go down (DESIGN 9).
//!
//! Owns claims, grants, releases and the reasons for waiting. Main invariant: a grant permits a *start*, for a
//! time the agent counts itself from when it sent the claim; nothing here ever frees a slot by a time-out.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bounds::SMALL_MESSAGE_BYTES_MAX;
use crate::gate::{Demand, Evidence};
use crate::health::Verdict;
use crate::ids::{
    Attempt, CampaignId, ClusterId, DocumentHash, Epoch, Fence, GroupId, KeyName, LeaseId, PauseId, ServerId,
    SiteId, StageName, WindowName,
};
use crate::limits::Tier;
use crate::pause::{Anomaly, PauseScope};
use crate::phase::Phase;
use crate::time::WallTime;
use crate::wire::SignedMessage;

/// The sending that there never was: sendings are numbered from 1. A grant that answers it permits nothing. It calls
/// back a grant that may be under way: its holder-to-be refuses both from then on, and gives the lease back.
pub const NO_CLAIM: u64 = 0;

/// A server asks to go down. Idempotent by (server, campaign, attempt).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Who asks.
    pub server: ServerId,
    /// For which campaign.
    pub campaign: CampaignId,
    /// The hash of the plan it goes by.
    pub plan: DocumentHash,
    /// Its nth try.
    pub attempt: Attempt,
    /// Numbers this sending of the claim, never [`NO_CLAIM`]. A grant repeats it, and the agent counts from that sending.
    pub nonce: u64,
    /// Highest epoch it has seen in a grant.
    pub epoch_seen: Epoch,
    /// Highest fence it has seen in a grant.
    pub fence_seen: Fence,
    /// What its own probes said just now.
    pub verdict: Verdict,
}

impl SignedMessage for Claim {
    const CONTEXT: &'static str = "lunar.claim.v1";
    const BYTES_MAX: usize = 4 * 1024;
}

/// Permission for one start of one server. Signed by a coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The lease.
    pub lease: LeaseId,
    /// Who may start.
    pub server: ServerId,
    /// In which campaign.
    pub campaign: CampaignId,
    /// By which plan.
    pub plan: DocumentHash,
    /// On which attempt.
    pub attempt: Attempt,
    /// The claim this answers, or [`NO_CLAIM`]: `start_within_ms` counts from when *that* was sent.
    pub nonce: u64,
    /// The coordinator's life.
    pub epoch: Epoch,
    /// Its order among all grants.
    pub fence: Fence,
    /// Milliseconds from the claim's sending within which the start must be journaled.
    pub start_within_ms: u64,
    /// Milliseconds from the start within which a release is expected.
    pub down_max_ms: u64,
}

impl Grant {
    /// What its holder says when it gives the lease back.
    #[must_use]
    pub fn release(&self, outcome: LeaseOutcome, down_ms: u64) -> Release {
        Release {
            lease: self.lease,
            server: self.server.clone(),
            campaign: self.campaign.clone(),
            attempt: self.attempt,
            epoch: self.epoch,
            fence: self.fence,
            outcome,
            down_ms,
        }
    }
}

impl SignedMessage for Grant {
    const CONTEXT: &'static str = "lunar.grant.v1";
    const BYTES_MAX: usize = 4 * 1024;
}

/// A server gives its lease back: it is up, on the old version or the new, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The lease given back. A release of another lease than the one held frees nothing.
    pub lease: LeaseId,
    /// Who gives it back.
    pub server: ServerId,
    /// In which campaign.
    pub campaign: CampaignId,
    /// On which attempt.
    pub attempt: Attempt,
    /// The grant's epoch.
    pub epoch: Epoch,
    /// The grant's fence.
    pub fence: Fence,
    /// How it ended.
    pub outcome: LeaseOutcome,
    /// Milliseconds it was down, by its own CLOCK_BOOTTIME.
    pub down_ms: u64,
}

impl SignedMessage for Release {
    const CONTEXT: &'static str = "lunar.release.v1";
    const BYTES_MAX: usize = 4 * 1024;
}

/// How a lease ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeaseOutcome {
    /// On the new version, validated and committed.
    Completed,
    /// Back on the previous version, healthy or not as before.
    RolledBack {
        /// Why.
        cause: String,
    },
    /// Never went down: the grant came too late, a check failed, a halt arrived.
    NeverStarted {
        /// Why.
        cause: String,
    },
}

/// What a claimer is told at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClaimAnswer {
    /// Go: the signed grant.
    Granted(crate::wire::Signed),
    /// Not now. The claim is kept in its place; a grant may also be pushed before the time is over.
    Wait {
        /// The one reason that binds now.
        reason: WaitReason,
        /// Claim again after this many milliseconds.
        retry_after_ms: u64,
    },
    /// Never, as asked.
    Refused(ClaimRefusal),
}

/// Why a claim is not one that could ever be granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ClaimRefusal {
    /// Signed by another machine than the server named, or by one that is not enrolled.
    #[error("the claim is not from the server it names")]
    NotYourServer,
    /// The plan does not select this server.
    #[error("the plan does not select this server")]
    NotSelected,
    /// Another plan is in force for this campaign.
    #[error("plan {found:.16} is not in force; {wanted:.16} is")]
    OtherPlan {
        /// The plan in force.
        wanted: DocumentHash,
        /// The plan claimed by.
        found: DocumentHash,
    },
    /// No such campaign here.
    #[error("campaign is not known here")]
    UnknownCampaign,
    /// This attempt is over already.
    #[error("attempt {0} is over: its lease was released")]
    AttemptOver(Attempt),
    /// A lower attempt than one seen.
    #[error("attempt {found} is behind attempt {highest}")]
    AttemptBehind {
        /// The attempt claimed.
        found: Attempt,
        /// The highest attempt known.
        highest: Attempt,
    },
    /// More attempts than the plan allows.
    #[error("the plan allows {0} attempts")]
    TooManyAttempts(u32),
}

/// The one reason that keeps a server from starting now. `why` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WaitReason {
    /// A limit is reached.
    Limit {
        /// Which.
        scope: LimitScope,
        /// The limit.
        limit: u32,
        /// Slots taken: granted, active, lost, unhealthy and unreachable servers.
        taken: u32,
        /// Who takes them (the first few).
        holders: Vec<Holder>,
    },
    /// Others waited longer and take what is free.
    Behind {
        /// How many are before it.
        ahead: u32,
    },
    /// A halt is in force.
    Halted {
        /// Why, in the halter's words.
        why: String,
    },
    /// Past the plan's `expires`: nothing new starts.
    PlanExpired,
    /// Its enrolment has expired: it starts nothing new.
    EnrolmentExpired,
    /// The server says that it is not healthy.
    NotHealthy {
        /// What it said.
        verdict: Verdict,
    },
    /// The coordinator restarted or was restored and does not know yet who is down.
    Recovering {
        /// Members not heard from in this epoch.
        unheard: u32,
    },
    /// The server has not claimed: this is where it is by its own last report.
    NotClaimed {
        /// Its phase.
        phase: Phase,
    },
    /// The server has not been heard from.
    Unreachable {
        /// Milliseconds since its last report; `None` if never in this epoch.
        silent_ms: Option<u64>,
    },
    /// Holds a lease already.
    HoldsLease {
        /// The lease.
        lease: LeaseId,
        /// Its state.
        state: LeaseState,
    },
    /// Nothing left to do.
    Done {
        /// The phase it ended in.
        phase: Phase,
    },
    /// No campaign selects it.
    NoCampaign,
    /// A stage that comes before its own has not shown enough.
    Gate {
        /// Its own stage.
        stage: StageName,
        /// The stage whose gate is shut.
        before: StageName,
        /// What that one must show.
        demand: Demand,
        /// What it has shown.
        evidence: Evidence,
    },
    /// The wave of its stage is full: the next one begins when all of this one have ended.
    Wave {
        /// Its stage.
        stage: StageName,
        /// Attempts that the wave allows.
        size: u32,
        /// Attempts of which it is not known yet how they ended.
        unknown: u32,
    },
    /// The plan has stages, and none of them selects it.
    NoStage,
    /// Servers that go first by the plan's order are not done.
    Order {
        /// The rule, in words.
        rule: String,
        /// How many are not done.
        pending: u32,
        /// Who (the first few).
        first: Vec<ServerId>,
    },
    /// The campaign, or a part of it that the server belongs to, is paused.
    Paused {
        /// What is.
        scope: PauseScope,
        /// The pause: only a signed resume that names it goes on.
        pause: PauseId,
        /// The server whose attempt completed the evidence.
        server: ServerId,
        /// What was seen.
        anomaly: Anomaly,
    },
    /// The maintenance windows of its tier or stage are closed, or close before it could be done.
    OutsideWindow {
        /// Its tier.
        tier: Tier,
        /// Its stage, where it is the stage that is held to these windows.
        stage: Option<StageName>,
        /// The windows that they are held to.
        windows: Vec<WindowName>,
        /// Whether it starts inside them or not at all; otherwise it starts outside them when it is behind.
        strict: bool,
        /// When the next one that is long enough opens, by the coordinator's clock; `None`: not before the plan
        /// expires.
        opens: Option<WallTime>,
        /// Seconds by which the coordinator's clock was set since it started, if that matters: a window must be open
        /// by the time before and by the time after.
        clock_set_s: i64,
    },
    /// People have not approved its batch, or not in a way that counts now.
    Approval {
        /// Its stage.
        stage: StageName,
        /// Its batch, counted from 1.
        batch: u32,
        /// Servers of the batch.
        servers: u32,
        /// What became of an approval that there was.
        lapse: Lapse,
        /// Distinct keys needed.
        need: u32,
        /// Who may approve: the plan's author may not.
        may: Vec<KeyName>,
    },
    /// People have paused the campaign, or a part of it that the server belongs to.
    PausedByHand {
        /// What is.
        scope: PauseScope,
        /// The pause: only a signed resume that names it goes on.
        pause: PauseId,
        /// Why.
        why: String,
        /// Who signed.
        signers: Vec<KeyName>,
    },
    /// People hold this server back, in whatever campaign, until it is released.
    Quarantined {
        /// Why.
        why: String,
        /// Who signed.
        signers: Vec<KeyName>,
    },
    /// People have cancelled the campaign: nothing starts by the plan in force any more.
    Cancelled {
        /// Why.
        why: String,
        /// Who signed.
        signers: Vec<KeyName>,
    },
}

/// Why a batch is not approved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Lapse {
    /// It never was.
    Never,
    /// It was, and that was taken back.
    Withdrawn,
    /// It was, until then.
    Expired(WallTime),
    /// It was, under another trust root or before the coordinator's log was lost: people must look again.
    Void,
}

/// A server that takes a slot, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Holder {
    /// Who.
    pub server: ServerId,
    /// Why it counts.
    pub why: Occupancy,
}

/// Why a server takes a slot (DESIGN 9, rule 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Occupancy {
    /// It was granted a lease.
    Granted,
    /// It started under its lease.
    Active,
    /// Its lease ran out without news.
    Lost,
    /// It says it is not healthy.
    Unhealthy,
    /// It has not been heard from.
    Unreachable,
}

/// What a limit counts over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LimitScope {
    /// The whole fleet.
    Fleet,
    /// A tier.
    Tier(Tier),
    /// A site.
    Site(SiteId),
    /// A cluster.
    Cluster(ClusterId),
    /// A redundancy group.
    Group(GroupId),
}

impl LimitScope {
    /// Every scope in which a server at this place counts, the widest first.
    pub fn of(
        tier: Tier,
        site: &SiteId,
        cluster: &ClusterId,
        group: Option<&GroupId>,
    ) -> impl Iterator<Item = Self> + use<> {
        [
            Some(Self::Fleet),
            Some(Self::Tier(tier)),
            Some(Self::Site(site.clone())),
            Some(Self::Cluster(cluster.clone())),
            group.cloned().map(Self::Group),
        ]
        .into_iter()
        .flatten()
    }
}

impl fmt::Display for LimitScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fleet => f.write_str("fleet"),
            Self::Tier(tier) => write!(f, "tier {tier}"),
            Self::Site(site) => write!(f, "site {site}"),
            Self::Cluster(cluster) => write!(f, "cluster {cluster}"),
            Self::Group(group) => write!(f, "group {group}"),
        }
    }
}

/// Where a lease is in its life (DESIGN 9, rule 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LeaseState {
    /// Granted; not known to have started.
    Granted,
    /// The server reported its start.
    Active,
    /// Ran out without a release. Occupies its slot until evidence or a signed reap.
    Lost,
}

impl fmt::Display for LeaseState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Granted => "granted",
            Self::Active => "active",
            Self::Lost => "lost",
        })
    }
}

/// "Are you up?", asked of a member of one's own redundancy group before a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupQuestion {
    /// Who asks.
    pub asker: ServerId,
    /// The group both belong to.
    pub group: GroupId,
    /// In which campaign.
    pub campaign: CampaignId,
    /// Drawn anew for each question; the answer repeats it, so that no old answer can be shown again.
    pub nonce: u64,
}

/// The signed answer to a [`GroupQuestion`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupAnswer {
    /// Who answers.
    pub server: ServerId,
    /// The group.
    pub group: GroupId,
    /// The question's nonce.
    pub nonce: u64,
    /// Up, healthy, and holding no permission to go down.
    pub up: bool,
    /// Why not, if not.
    pub detail: String,
}

impl SignedMessage for GroupAnswer {
    const CONTEXT: &'static str = "lunar.group-answer.v1";
    const BYTES_MAX: usize = SMALL_MESSAGE_BYTES_MAX;
}
