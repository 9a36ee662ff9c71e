//! What the network half may ask of the root half, and what it is answered.
//!
//! Owns [`Request`] and [`Reply`]: one reply for each request, in order, over a Unix socket. Main invariant:
//! everything is bounded, and no request carries a path or a byte to install: it names a plan that people
//! signed, and the applier finds the packs itself, in the one directory of its own configuration. Refuses
//! nothing by itself: a well-formed request is judged by the machine.

use lunar_common::bounds::{DOCUMENTS_KEPT_MAX, MESSAGE_BYTES_MAX};
use lunar_common::document::SignedDocument;
use lunar_common::ids::{Attempt, CampaignId, DocumentHash, ServerId};
use lunar_common::time::Moment;
use lunar_common::wire::{Signed, WireError, decode, encode};
use serde::{Deserialize, Serialize};

use crate::desk::cut;
use crate::input::ApplierStatus;

/// Largest encoded request in bytes: one document with all its signatures, and a grant.
pub const REQUEST_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 8 * 1024;

/// Largest encoded reply in bytes: the hashes of every document kept, or a status with its words.
pub const REPLY_BYTES_MAX: usize = DOCUMENTS_KEPT_MAX * 32 + 16 * 1024;

/// Longest cause or reason in bytes; longer ones are cut. Enough for a failing program's last lines.
pub const CAUSE_BYTES_MAX: usize = 2 * 1024;

/// A request of the network half. Every one may be repeated: a repeat changes nothing. A new one is added at the
/// end, so that the others keep their numbers: a root half of the version before answers it as
/// [`Reply::Unreadable`], which the network half takes for an applier that cannot be reached, and waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The first on each connection. Answered by [`Reply::Hello`].
    Hello,
    /// A document that people signed, passed on. Answered by [`Reply::Document`].
    Document(SignedDocument),
    /// What runs, and where this task is. Answered by [`Reply::Status`], like everything below.
    Status(Task),
    /// Unpack every artifact of the plan beside the running version, and verify it. Changes nothing that
    /// runs. The answer comes at once ([`crate::input::ApplierStage::Staging`]); ask again for the end of it.
    Stage(Task),
    /// Switch and restart, with the dead man's switch armed. The answer comes once this is journaled.
    Begin(Task, Box<Permission>),
    /// The new version is healthy: keep it.
    Commit(Task),
    /// Go back. Needs no permission: an upgrade that began may always be undone until it is committed.
    RollBack {
        /// Which.
        task: Task,
        /// Why, for people.
        cause: String,
    },
    /// Whether [`Self::Begin`] would be permitted now, asked while the server still has its traffic. Changes
    /// nothing; `Begin` is judged anew. Answered [`crate::input::ApplierStage::Staged`] if it would be.
    Check(Task, Box<Permission>),
}

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Task {
    /// The campaign.
    pub campaign: CampaignId,
    /// The hash of the plan; the applier must hold that very plan, verified.
    pub plan: DocumentHash,
    /// The network half's nth try.
    pub attempt: Attempt,
}

/// What permits a start. The applier verifies every part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    /// The coordinator's signed `Grant`.
    pub grant: Signed,
    /// The enrolment of the coordinator that signed it.
    pub coordinator: SignedDocument,
    /// When the claim that it answers was sent, on this machine's CLOCK_BOOTTIME.
    pub claim_sent: Moment,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// To `Hello`.
    Hello {
        /// The server that the applier works for, by its own configuration.
        server: ServerId,
        /// The documents it holds: pass on those that it lacks.
        documents: Vec<DocumentHash>,
    },
    /// To `Document`: why it was refused, if it was. One that was known already is not refused.
    Document {
        /// Why, in the applier's words.
        refused: Option<String>,
    },
    /// To everything else: where the applier is after the request. A refusal is
    /// [`crate::input::ApplierStage::Refused`].
    Status(ApplierStatus),
    /// The request could not be read; the connection is closed after this.
    Unreadable {
        /// Why.
        reason: String,
    },
}

impl Request {
    /// The request's bytes.
    ///
    /// # Errors
    /// [`WireError::TooLong`].
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        encode(self, REQUEST_BYTES_MAX)
    }

    /// A request from a stranger's bytes.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        decode(bytes, REQUEST_BYTES_MAX)
    }
}

impl Reply {
    /// The reply's bytes.
    ///
    /// # Errors
    /// [`WireError::TooLong`].
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        encode(self, REPLY_BYTES_MAX)
    }

    /// A reply from the applier's bytes.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        decode(bytes, REPLY_BYTES_MAX)
    }
}

/// A text for people, cut to [`CAUSE_BYTES_MAX`] at a character's boundary.
#[must_use]
pub fn cause(text: &str) -> String {
    cut(text, CAUSE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_cut_between_characters() {
        assert_eq!(cause("short"), "short");
        let long = "é".repeat(CAUSE_BYTES_MAX);
        assert_eq!(cause(&long).len(), CAUSE_BYTES_MAX);
        assert_eq!(cause(&format!("a{long}")).len(), CAUSE_BYTES_MAX - 1);
    }

    #[test]
    fn bytes_over_the_bound_are_refused_before_they_are_decoded() {
        let bytes = vec![1u8; REQUEST_BYTES_MAX + 1];
        assert!(matches!(Request::decode(&bytes), Err(WireError::TooLong { .. })));
        assert!(Request::decode(&[]).is_err());
        assert!(Request::decode(&[1, 200]).is_err());
    }
}
