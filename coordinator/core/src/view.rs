//! What can be asked of a coordinator without changing it.
//!
//! Owns the answers' types, in the words that the API and the command line print. Main invariant: answers are
//! taken from the state that decides, never from a copy kept beside it.

use std::collections::BTreeMap;

use lunar_common::gate::{Demand, Evidence, Missing};
use lunar_common::health::Verdict;
use lunar_common::ids::{
    Attempt, CampaignId, DocumentHash, Epoch, Fence, Generation, KeyName, LeaseId, PauseId, Sequence,
    ServerId, StageName,
};
use lunar_common::lease::{Holder, LeaseOutcome, LeaseState, LimitScope, Occupancy, WaitReason};
use lunar_common::message::{BytesBySource, CampaignStatus};
use lunar_common::pause::{Pause, PauseScope};
use lunar_common::phase::Phase;
use lunar_common::time::WallTime;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::campaign::curb::ByHand;
use crate::event::{LimitTable, Member};

/// The coordinator in one look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StatusView {
    /// Its life.
    pub epoch: Epoch,
    /// The last fence granted.
    pub fence: Fence,
    /// Whether its log was found to be older than what it once granted.
    pub restored: bool,
    /// Servers enrolled.
    pub servers: usize,
    /// Servers not heard from in this life, and not written off.
    pub unheard: usize,
    /// Claims that wait.
    pub waiting: usize,
    /// Leases granted, active and lost.
    pub leases: usize,
    /// Halts in force.
    pub halts: Vec<HaltView>,
    /// The number of the newest curb of a server.
    #[serde(default)]
    pub curbs: Sequence,
}

/// A halt in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HaltView {
    /// The campaign; `None`: all.
    pub campaign: Option<CampaignId>,
    /// Its sequence.
    pub sequence: Sequence,
    /// Why.
    pub reason: String,
}

/// One lease that takes a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeaseView {
    /// The lease.
    pub lease: LeaseId,
    /// Whose.
    pub server: ServerId,
    /// For which campaign, if known.
    pub campaign: Option<CampaignId>,
    /// On which attempt, if known.
    pub attempt: Option<Attempt>,
    /// Its state.
    pub state: LeaseState,
    /// Whether its holder said that it started.
    pub started: bool,
    /// The life that granted it.
    pub epoch: Epoch,
    /// Its order among all grants.
    pub fence: Fence,
    /// Milliseconds in this state, in this life of the coordinator.
    pub for_ms: u64,
    /// Milliseconds until it is LOST without news; `None` if it is LOST.
    pub lost_in_ms: Option<u64>,
}

/// One campaign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CampaignView {
    /// Its id.
    pub campaign: CampaignId,
    /// The generation in force.
    pub generation: Generation,
    /// Its plan's hash.
    pub plan: DocumentHash,
    /// Past this nothing new starts.
    pub expires: WallTime,
    /// The halt that stops it, if any.
    pub halted: Option<HaltView>,
    /// Servers selected.
    pub selected: usize,
    /// Of those, how many are in each phase, by their own last word. Those never heard of are in none.
    pub phases: BTreeMap<Phase, usize>,
    /// Claims that wait.
    pub waiting: usize,
    /// Leases that take a slot for it.
    pub leases: usize,
    /// Completed, rolled back and never started, by releases in the log.
    pub outcomes: OutcomeCounts,
    /// Bytes received, by source, over all servers heard in this life.
    pub received: BytesBySource,
    /// The limits as signed.
    pub limits: LimitTable,
    /// Its stages, in the plan's order; none: everyone may start at once.
    #[serde(default)]
    pub stages: Vec<StageView>,
    /// What of it is paused, the widest first.
    #[serde(default)]
    pub pauses: Vec<PauseView>,
    /// What of it people restrain by hand.
    #[serde(default)]
    pub by_hand: HandView,
}

/// What people restrain by hand in a campaign.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HandView {
    /// The number of the newest curb.
    pub sequence: Sequence,
    /// What is paused, the widest first.
    pub pauses: Vec<HandPauseView>,
    /// Limits that are lower than signed.
    pub lowered: Vec<LoweredView>,
    /// Whether the plan in force is cancelled, and by whom.
    pub cancelled: Option<ByHand>,
}

/// A pause by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HandPauseView {
    /// What is paused.
    pub scope: PauseScope,
    /// By whose word; a resume that names its id ends it, and nothing else does.
    #[serde(flatten)]
    pub by: ByHand,
}

/// A limit that is lower than signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LoweredView {
    /// Where.
    pub scope: LimitScope,
    /// Most servers down there at once.
    pub to: u32,
}

/// A pause in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PauseView {
    /// Its id: a resume that names it ends it, and nothing else does.
    pub id: PauseId,
    /// What is paused, and by what evidence.
    #[serde(flatten)]
    pub pause: Pause,
    /// The evidence in words.
    pub told: String,
}

/// One stage of a campaign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StageView {
    /// Its name.
    pub name: StageName,
    /// A stage that must pass before it begins, if one has not.
    pub waits_for: Option<StageName>,
    /// Whether its gate is open.
    pub passed: bool,
    /// The first thing that keeps its gate shut.
    pub missing: Option<Missing>,
    /// Starts that its wave allows together; `None`: it has no waves.
    pub wave: Option<u32>,
    /// What its gate asks for.
    pub demand: Demand,
    /// What it has shown.
    pub evidence: Evidence,
}

/// A batch of a stage, and whether people have approved it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BatchView {
    /// Its stage.
    pub stage: StageName,
    /// Its number there, counted from 1.
    pub batch: u32,
    /// Its servers.
    pub servers: Vec<ServerId>,
    /// Whether it may start.
    pub state: BatchState,
    /// The number of the newest document on it; 0: there is none.
    pub sequence: Sequence,
    /// Until when that document counts.
    pub expires: Option<WallTime>,
    /// Who signed it.
    pub signers: Vec<KeyName>,
}

/// Whether a batch may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BatchState {
    /// Nobody has approved it.
    Waiting,
    /// It may start.
    Approved,
    /// An approval was taken back.
    Withdrawn,
    /// Its approval has expired.
    Expired,
    /// Its approval was signed under another trust root, or before the log was lost.
    Void,
}

impl std::fmt::Display for BatchState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Waiting => "waiting",
            Self::Approved => "approved",
            Self::Withdrawn => "withdrawn",
            Self::Expired => "expired",
            Self::Void => "void",
        })
    }
}

/// Releases by how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OutcomeCounts {
    /// On the new version.
    pub completed: u64,
    /// Back on the old one.
    pub rolled_back: u64,
    /// Never went down.
    pub never_started: u64,
}

impl OutcomeCounts {
    /// Counts one more.
    pub fn add(&mut self, outcome: &LeaseOutcome) {
        match outcome {
            LeaseOutcome::Completed => self.completed += 1,
            LeaseOutcome::RolledBack { .. } => self.rolled_back += 1,
            LeaseOutcome::NeverStarted { .. } => self.never_started += 1,
        }
    }
}

/// One limit, and who takes its slots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LimitView {
    /// What it counts over.
    pub scope: LimitScope,
    /// The limit; `None`: the plan sets none.
    pub limit: Option<u32>,
    /// Slots taken.
    pub taken: u32,
    /// By whom (the first few).
    pub holders: Vec<Holder>,
}

/// One server, as far as the coordinator knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServerView {
    /// Its place in the fleet.
    pub member: Member,
    /// Whether it is out.
    pub revoked: bool,
    /// Whether an operator wrote it off.
    pub written_off: bool,
    /// By whose word it is held back from starting, in whatever campaign.
    #[serde(default)]
    pub quarantined: Option<ByHand>,
    /// Milliseconds since it was last heard; `None`: not in this life.
    pub silent_ms: Option<u64>,
    /// Its last verdict on itself in this life.
    pub verdict: Option<Verdict>,
    /// Why it takes a slot, if it does.
    pub occupancy: Option<Occupancy>,
    /// Its lease, if it has one.
    pub lease: Option<LeaseView>,
    /// Its last word on each campaign in this life.
    pub campaigns: Vec<CampaignStatus>,
    /// Its last journaled phase in each campaign, from the log.
    pub phases: BTreeMap<CampaignId, Phase>,
}

impl ServerView {
    /// The campaign that it is in, or else the one that ended last: reports begin with it.
    #[must_use]
    pub fn campaign(&self) -> Option<&CampaignStatus> {
        self.campaigns.first()
    }
}

/// Why a server is not upgrading now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Why {
    /// In which campaign; `None`: in any.
    pub campaign: Option<CampaignId>,
    /// The one reason that binds.
    pub reason: WaitReason,
    /// The same for a person, in a sentence that says what would change it.
    pub text: String,
}
