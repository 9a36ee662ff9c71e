//! All that can happen to a coordinator.
//!
//! Owns [`Input`]. Main invariant: whatever people signed arrives as `Verified`, and whatever a machine signed
//! arrives with the key that signed it, its signature checked. Which server that key is, and whether it may say
//! such a thing, is decided in the core.

use std::sync::Arc;

use lunar_common::curb::Curb;
use lunar_common::document::{Approval, Halt, Reap, Resume, Verified};
use lunar_common::enrolment::Enrolment;
use lunar_common::ids::PeerKey;
use lunar_common::lease::{Claim, Release};
use lunar_common::message::Report;
use lunar_common::plan::Plan;
use lunar_common::trust::{Approvers, TrustState};

/// Pairs a request with its one [`crate::effect::Effect::Answer`]. Drawn by the shell, unique in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// The log has been replayed through [`crate::Coordinator::apply`]: a new life begins. First input of all.
    /// Carries every document in force, so that whatever a crash kept from the log is caught up with.
    Started(InForce),
    /// A machine was enrolled, or its enrolment replaced. Known ones change nothing.
    Enrolled(Arc<Verified<Enrolment>>),
    /// A new trust root or revocation list came into force. Carries what is in force under it: machines that are
    /// not among it are out, and those that are back are in.
    MembersChanged(InForce),
    /// A plan, or a new generation of one.
    Plan(Arc<Verified<Plan>>),
    /// Every start stops.
    Halt(Arc<Verified<Halt>>),
    /// A halt ends.
    Resume(Arc<Verified<Resume>>),
    /// A lost lease is freed, or a silent server written off.
    ///
    /// Hand it over before the trust state that remembers it is persisted: a reap that the trust state
    /// knows and the log does not could never be applied.
    Reap(Arc<Verified<Reap>>),
    /// People approve a batch of a stage, or take that back. The core keeps it: the trust state does not.
    Approval(Arc<Verified<Approval>>),
    /// People restrain a campaign or a server by hand, or release the server. The core keeps it: the trust state does not.
    Curb(Arc<Verified<Curb>>),
    /// A server asks to go down.
    Claim {
        /// Answered with [`crate::effect::Answer::Granted`], `Wait` or `Refused`.
        request: RequestId,
        /// Whose signature is on it.
        from: PeerKey,
        /// The claim.
        claim: Claim,
    },
    /// A server gives its lease back.
    Release {
        /// Answered with [`crate::effect::Answer::Done`] once durable, or `Invalid`.
        request: RequestId,
        /// Whose signature is on it.
        from: PeerKey,
        /// The release.
        release: Release,
    },
    /// A server says how it is.
    Report {
        /// Answered with [`crate::effect::Answer::Report`] once durable, or `Invalid`.
        request: RequestId,
        /// Whose signature is on it.
        from: PeerKey,
        /// The report.
        report: Report,
    },
}

/// Every document in force, by the trust state.
#[derive(Debug, Clone, Default)]
pub struct InForce {
    /// Members now. One known before and not among them is out.
    pub machines: Vec<Arc<Verified<Enrolment>>>,
    /// The newest generation of each campaign's plan.
    pub plans: Vec<Arc<Verified<Plan>>>,
    /// Halts that no resume has ended. One known before and not among them has ended.
    pub halts: Vec<Arc<Verified<Halt>>>,
    /// The latest resume of each campaign's pauses.
    pub resumes: Vec<Arc<Verified<Resume>>>,
    /// Who may approve batches.
    pub approvers: Approvers,
}

impl InForce {
    /// Everything in force by a trust state.
    #[must_use]
    pub fn of(trust: &TrustState) -> Self {
        Self {
            machines: trust.machines().cloned().collect(),
            plans: trust.plans().cloned().collect(),
            halts: trust.halts().cloned().collect(),
            resumes: trust.resumes_of_pauses().cloned().collect(),
            approvers: trust.approvers(),
        }
    }
}
