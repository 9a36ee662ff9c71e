//! All that a coordinator does.
//!
//! Owns [`Effect`] and [`Answer`]. Main invariant: effects are carried out in order, and an `Append` is durable
//! before any effect after it is carried out. Many appends may share one commit; if one fails, the program stops.

use lunar_common::ids::{Epoch, PeerKey, ServerId};
use lunar_common::lease::{ClaimRefusal, Grant, WaitReason};
use lunar_common::message::ReportAnswer;

use crate::event::EventBody;
use crate::input::RequestId;

/// What the shell is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Put this at the end of the log, durably.
    Append(EventBody),
    /// Answer a request.
    Answer {
        /// Which.
        request: RequestId,
        /// With what.
        answer: Answer,
    },
    /// Sign this grant and push it to its server. Nothing is lost if it does not arrive: the server's next
    /// claim is answered with the same lease.
    Push {
        /// The server.
        to: ServerId,
        /// Its key, as enrolled.
        key: PeerKey,
        /// The grant.
        grant: Grant,
    },
    /// Gossip that this coordinator lives, so that servers report to it.
    Announce {
        /// Its life.
        epoch: Epoch,
    },
}

/// The answer to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To a claim: go. To be signed with the coordinator's key (`ClaimAnswer::Granted`).
    Granted(Grant),
    /// To a claim: not now (`ClaimAnswer::Wait`).
    Wait {
        /// The one reason that binds now.
        reason: WaitReason,
        /// Claim again after this many milliseconds.
        retry_after_ms: u64,
    },
    /// To a claim: never, as asked (`ClaimAnswer::Refused`).
    Refused(ClaimRefusal),
    /// To a release: taken in, durable (`Response::Done`).
    Done,
    /// To a report (`Response::Report`).
    Report(ReportAnswer),
    /// To a claim, release or report that its sender may not make (`Response::Refused`).
    Invalid {
        /// Why.
        reason: String,
    },
}
