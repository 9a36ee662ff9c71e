//! What a server must not forget.
//!
//! Owns [`Journal`]: the node's whole durable state, written as one record. Main invariant: whatever a reader
//! finds is one state that the node was in, never a mix of two; it is written before anything it permits is
//! done. Refuses to keep what can be asked for again (download progress, verdicts, what peers said).

use std::collections::BTreeMap;

use lunar_common::ids::{Attempt, CampaignId, DocumentHash, Epoch, Fence, Generation};
use lunar_common::lease::{Grant, Release};
use lunar_common::message::Transition;
use lunar_common::phase::Phase;
use lunar_common::time::Moment;
use lunar_common::wire::Signed;
use serde::{Deserialize, Serialize};

/// The node's durable state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Journal {
    /// How often this agent was started. Tells this run's claims and reports from earlier ones.
    pub starts: u64,
    /// Which boot of the machine wrote this: moments of another boot mean nothing.
    pub machine_boot: u64,
    /// The index of the next transition.
    pub transitions_next: u64,
    /// Transitions that no coordinator has acknowledged, oldest first, gapless.
    pub transitions: Vec<Transition>,
    /// Floors, the lease held and the ones being given back.
    pub lease: LeaseJournal,
    /// The campaign under way.
    pub active: Option<Campaign>,
    /// How each campaign ended here.
    pub finished: BTreeMap<CampaignId, Finished>,
    /// The campaign that ended last.
    pub last_finished: Option<CampaignId>,
}

/// The holder's side of leases.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LeaseJournal {
    /// Highest epoch seen in a grant; lower ones are refused.
    pub epoch_seen: Epoch,
    /// Highest fence seen in a grant; lower ones are refused.
    pub fence_seen: Fence,
    /// The lease held.
    pub held: Option<Held>,
    /// Leases given back, until a coordinator acknowledges.
    pub releases: Vec<Release>,
}

/// A lease that is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The grant.
    pub grant: Grant,
    /// The grant as signed: the applier checks it for itself.
    pub signed: Signed,
    /// When the claim it answers was sent.
    pub claim_sent: Moment,
    /// When the start was journaled; `None`: not started.
    pub started: Option<Moment>,
}

/// A campaign under way on this server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Campaign {
    /// Which.
    pub campaign: CampaignId,
    /// By which plan.
    pub plan: DocumentHash,
    /// Which generation that plan is.
    pub generation: Generation,
    /// Numbers the tries, for the ledger: each lease has an attempt of its own.
    pub attempt: Attempt,
    /// Tries that failed. Only these count against the plan's `attempts_max`: a halt or a late grant does not.
    pub failures: u32,
    /// Where it is.
    pub state: State,
}

/// Where a server is in its campaign. Each state carries what only it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Waits for its place in the spread, or for its next try.
    Scheduled {
        /// Not before this moment; of the machine's boot that wrote it.
        not_before: Moment,
    },
    /// Fetching.
    Downloading,
    /// The applier unpacks beside the running version.
    Staging,
    /// Ready; healthy and granted are still missing.
    Queued,
    /// Holds a grant; checks once more before it goes down.
    PreCheck,
    /// Started: traffic is taken away.
    Draining,
    /// The applier switches.
    Installing,
    /// The new version is watched.
    Validating {
        /// Decided: healthy for the whole soak. From here the only way is forward.
        healthy: bool,
    },
    /// The applier goes back.
    RollingBack {
        /// Why.
        cause: String,
    },
    /// On the previous version again; waits for its next try, if it has one left.
    RolledBack {
        /// Not before this moment; of the machine's boot that wrote it.
        not_before: Moment,
    },
}

impl State {
    /// The phase that others are told.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self {
            Self::Scheduled { .. } => Phase::Scheduled,
            Self::Downloading => Phase::Downloading,
            Self::Staging => Phase::Staging,
            Self::Queued => Phase::Queued,
            Self::PreCheck => Phase::PreCheck,
            Self::Draining => Phase::Draining,
            Self::Installing => Phase::Installing,
            Self::Validating { .. } => Phase::Validating,
            Self::RollingBack { .. } => Phase::RollingBack,
            Self::RolledBack { .. } => Phase::RolledBack,
        }
    }
}

/// How a campaign ended here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// By which plan. Another generation starts anew.
    pub plan: DocumentHash,
    /// On which attempt.
    pub attempt: Attempt,
    /// `Complete`, `RolledBack` or `Failed`.
    pub phase: Phase,
    /// Why, for people.
    pub cause: String,
}
