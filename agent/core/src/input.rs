//! All that a server can suffer.
//!
//! Owns [`Input`]. Main invariant: nothing else reaches the node core; an answer repeats the id of the effect
//! that asked, so that an answer to an older question is recognised and dropped. Refuses nothing by itself:
//! what a peer sent is judged in the modules.

use std::sync::Arc;

use lunar_common::document::{SignedDocument, Verified};
use lunar_common::enrolment::Enrolment;
use lunar_common::health::Outcome;
use lunar_common::ids::{ArtifactId, DocumentHash, Epoch, LeaseId, ProbeName, ServerId};
use lunar_common::lease::{ClaimAnswer, GroupQuestion};
use lunar_common::message::{BytesBySource, ReportAnswer};
use lunar_common::wire::Signed;
use serde::{Deserialize, Serialize};

/// Names a question of the core; its answer repeats it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AskId(pub u64);

/// Names a question of a peer or of a local caller; the effect that answers it repeats it. Drawn by the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A document came: by gossip, from a peer that we asked, or from the local interface.
    /// Answered by [`crate::effect::Effect::AnswerDocument`].
    Document {
        /// Whom to answer.
        call: CallId,
        /// The document, not verified.
        document: SignedDocument,
    },
    /// A coordinator pushed a grant. Answered by [`crate::effect::Effect::AnswerGrant`].
    Grant {
        /// Whom to answer.
        call: CallId,
        /// The grant, not verified.
        grant: Signed,
    },
    /// A machine is connected, or speaks over its connection.
    Met {
        /// Its enrolment, as the connection proved it.
        machine: Arc<Verified<Enrolment>>,
    },
    /// A machine asks, as a member of the own redundancy group, whether this server is up.
    /// Answered by [`crate::effect::Effect::AnswerGroup`].
    GroupAsked {
        /// Whom to answer.
        call: CallId,
        /// Who asks, as the connection proved.
        asker: Arc<Verified<Enrolment>>,
        /// The question.
        question: GroupQuestion,
    },
    /// The answer to a claim; `None` if nobody answered.
    ClaimAnswered {
        /// The claim's nonce.
        nonce: u64,
        /// What the coordinator said.
        answer: Option<ClaimAnswer>,
    },
    /// The answer to a release: whether it is durable at the coordinator.
    ReleaseAnswered {
        /// The lease given back.
        lease: LeaseId,
        /// False: nobody answered, or it was not taken in.
        kept: bool,
    },
    /// The answer to a report; `None` if nobody answered.
    ReportAnswered {
        /// The report's number.
        number: u64,
        /// What the coordinator said.
        answer: Option<ReportAnswer>,
    },
    /// The enrolments of the own redundancy group; `None` if nobody answered.
    GroupMembers {
        /// The question.
        ask: AskId,
        /// The enrolments, not verified.
        members: Option<Vec<SignedDocument>>,
    },
    /// A member's answer; `None` if it could not be reached.
    GroupAnswered {
        /// The question.
        ask: AskId,
        /// Who was asked.
        member: ServerId,
        /// Its signed `GroupAnswer`, not verified.
        answer: Option<Signed>,
    },
    /// The applier's answer; `None` if it could not be reached or gave none in time.
    Applier {
        /// The question.
        ask: AskId,
        /// Where the applier is after the command.
        status: Option<ApplierStatus>,
    },
    /// How far the fetcher is with what was wanted.
    Fetched(FetchProgress),
    /// A round of probes is over.
    Probed {
        /// The round.
        ask: AskId,
        /// What each probe found.
        outcomes: Vec<(ProbeName, Outcome)>,
    },
    /// A hook ended.
    HookEnded {
        /// The run.
        ask: AskId,
        /// Why it failed, if it did.
        failure: Option<String>,
    },
    /// A connection to a coordinator came up: what waits for one may be sent again at once.
    CoordinatorReachable,
    /// A coordinator made itself known to everyone. Whoever it answered already in this life has nothing to say, and
    /// a new life hears everyone soon, but not all at once.
    CoordinatorHeard {
        /// Its life.
        epoch: Epoch,
    },
}

/// What the fetcher says of everything that was wanted with [`crate::effect::Effect::Want`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FetchProgress {
    /// Artifacts that are complete and verified on this server's disk.
    pub complete: Vec<ArtifactId>,
    /// Chunks had and in all, over everything wanted.
    pub chunks: (u32, u32),
    /// Frame bytes received for what is wanted, by class of source.
    pub received: BytesBySource,
    /// Why it cannot go on (a full disk), if it cannot.
    pub failure: Option<String>,
}

/// Where the applier is with one plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplierStatus {
    /// The manifests that run now, in the order of the plan's artifacts; `None` where none is installed.
    pub running: Vec<Option<ArtifactId>>,
    /// Its own state.
    pub stage: ApplierStage,
}

/// The applier's state, as the node needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApplierStage {
    /// Nothing under way for this plan.
    Idle,
    /// Unpacking and verifying beside the running version.
    Staging,
    /// Everything lies ready beside the running version.
    Staged,
    /// Switching and restarting.
    Applying,
    /// The new version is running; the dead man's switch is armed.
    Applied,
    /// The new version is there to stay.
    Committed,
    /// Going back.
    RollingBack,
    /// The old version is running again.
    RolledBack {
        /// Why, in the applier's words.
        cause: String,
    },
    /// The command was refused or failed before anything was changed.
    Refused {
        /// Why, in the applier's words.
        reason: String,
    },
    /// It belongs to another plan or attempt that is still under way.
    Busy {
        /// The plan it is busy with.
        plan: DocumentHash,
    },
}
