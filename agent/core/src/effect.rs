//! All that a server can do.
//!
//! Owns [`Effect`]. Main invariant: effects are carried out in order, and a [`Effect::Persist`] is durable
//! before the next one is carried out; if it cannot be made durable, the program stops. That is the shell's
//! whole contract.

use std::sync::Arc;

use lunar_common::document::{SignedDocument, Verified};
use lunar_common::enrolment::Enrolment;
use lunar_common::health::When;
use lunar_common::ids::{Attempt, CampaignId, DocumentHash};
use lunar_common::lease::{Claim, GroupAnswer, GroupQuestion, Release};
use lunar_common::message::{Report, Transition};
use lunar_common::plan::{Hook, Plan};
use lunar_common::time::Moment;
use lunar_common::trust::TrustSnapshot;
use lunar_common::wire::Signed;

use crate::input::{AskId, CallId};
use crate::journal::Journal;

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Make this durable before anything that follows.
    Persist(Record),
    /// A transition was journaled: tell the log. The transition itself is in the journal already.
    Log(Transition),
    /// What people signed has changed: the gate (`node.trust()`) must be shown to the mesh again.
    TrustChanged,
    /// A document is new here: pass it on to everyone who did not send it.
    Spread {
        /// The call that brought it; what came by gossip goes on by itself once it is answered.
        call: CallId,
        /// The document.
        document: Arc<SignedDocument>,
    },
    /// What became of a document that was handed in.
    AnswerDocument {
        /// Whom to answer.
        call: CallId,
        /// What became of it.
        verdict: DocumentVerdict,
    },
    /// Whether a pushed grant was taken (a grant that comes too late is taken and given back).
    AnswerGrant {
        /// Whom to answer.
        call: CallId,
        /// Why it was not taken, if it was not.
        refused: Option<String>,
    },
    /// The answer to a member of the own group; to be signed.
    AnswerGroup {
        /// Whom to answer.
        call: CallId,
        /// The answer; `None`: it had no right to ask.
        answer: Option<GroupAnswer>,
    },
    /// Sign and send a claim to the coordinator.
    Claim(Claim),
    /// Sign and send a release to the coordinator.
    Release(Release),
    /// Sign and send a report to the coordinator.
    Report(Box<Report>),
    /// Ask the coordinator for the enrolments of the own group.
    AskGroupMembers {
        /// The answer repeats it.
        ask: AskId,
    },
    /// Ask a member of the own group whether it is up.
    AskMember {
        /// The answer repeats it.
        ask: AskId,
        /// Whom.
        member: Arc<Verified<Enrolment>>,
        /// What.
        question: GroupQuestion,
    },
    /// Tell the applier to do something, or ask where it is.
    Applier {
        /// The answer repeats it.
        ask: AskId,
        /// The plan, whose document the applier verifies for itself.
        plan: Arc<Verified<Plan>>,
        /// Which attempt.
        attempt: Attempt,
        /// What to do.
        command: ApplierCommand,
    },
    /// Have every artifact of this plan on disk, complete and verified. Replaces what was wanted before.
    Want {
        /// The plan.
        plan: Arc<Verified<Plan>>,
    },
    /// Run a round of the plan's probes of this kind, all at once.
    Probe {
        /// The answer repeats it.
        ask: AskId,
        /// The plan.
        plan: Arc<Verified<Plan>>,
        /// Which of its probes.
        when: When,
    },
    /// Run a hook of the plan.
    RunHook {
        /// The answer repeats it.
        ask: AskId,
        /// The campaign, for the log.
        campaign: CampaignId,
        /// The plan, for the log.
        plan: DocumentHash,
        /// The program.
        hook: Hook,
    },
}

/// What is made durable. Each kind replaces the record of its kind, whole and atomically.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// The node's own state.
    Journal(Box<Journal>),
    /// What people signed, and the floors against replays.
    Trust(Box<TrustSnapshot>),
}

/// What the applier is told. Every command may be repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApplierCommand {
    /// Say where you are and what runs.
    Status,
    /// Unpack and verify beside the running version.
    Stage,
    /// Say whether `Begin` would be permitted now. Changes nothing.
    Check {
        /// The signed grant, which the applier verifies for itself.
        grant: Signed,
        /// When the claim that it answers was sent.
        claim_sent: Moment,
    },
    /// Back up, switch, restart, and arm the dead man's switch.
    Begin {
        /// The signed grant, which the applier verifies for itself.
        grant: Signed,
        /// When the claim that it answers was sent.
        claim_sent: Moment,
    },
    /// The new version is healthy: keep it.
    Commit,
    /// Go back.
    RollBack {
        /// Why.
        cause: String,
    },
}

/// What became of a document that was handed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DocumentVerdict {
    /// New and in force: pass it on.
    Accepted,
    /// Known already.
    Known,
    /// Refused; whoever sent it may be told why.
    Refused {
        /// Why.
        reason: String,
        /// Whether no honest machine would have sent it. Old news is nobody's fault.
        blames_sender: bool,
    },
}
