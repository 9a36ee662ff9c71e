//! The redundancy view: whether every other member of the own group says, freshly and signed, that it is up.
//!
//! Owns one check of the group. Main invariant: it passes only when every other member has answered this very
//! check's nonce with a good signature of its own and "up"; silence, a wrong key and an old answer are all "not
//! up". Refuses to remember: each check asks anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lunar_common::document::Verified;
use lunar_common::enrolment::Enrolment;
use lunar_common::ids::{GroupId, PeerKey, ServerId};
use lunar_common::lease::GroupAnswer;
use lunar_common::time::Moment;
use lunar_common::wire::Signed;

use crate::input::AskId;

/// Longest wait for all answers. Members of a group are a few hops apart; a member that probes itself first
/// needs a moment more.
pub const ANSWERS_WITHIN: Duration = Duration::from_secs(12);

/// One check under way.
#[derive(Debug, Clone)]
pub struct GroupCheck {
    /// Its question's id.
    pub ask: AskId,
    /// Its question's nonce.
    pub nonce: u64,
    /// When those that have not answered count as not up.
    pub deadline: Moment,
    group: GroupId,
    waiting: BTreeMap<ServerId, PeerKey>,
    against: Option<String>,
}

/// Where a check is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Answers are missing, and none was against it.
    Pending,
    /// Every other member is up.
    AllUp,
    /// One is not, or did not say so.
    NotUp {
        /// Who and why, for people.
        cause: String,
    },
}

impl GroupCheck {
    /// A check over these members, this server left out.
    #[must_use]
    pub fn begin(
        ask: AskId,
        nonce: u64,
        group: GroupId,
        others: &[Arc<Verified<Enrolment>>],
        now: Moment,
    ) -> Self {
        Self {
            ask,
            nonce,
            deadline: now.after(ANSWERS_WITHIN),
            group,
            waiting: others.iter().map(|member| (member.server.clone(), member.key)).collect(),
            against: None,
        }
    }

    /// Takes in one member's answer; `None`: it could not be reached.
    pub fn answered(&mut self, member: &ServerId, answer: Option<&Signed>) {
        let Some(key) = self.waiting.remove(member) else { return };
        if let Err(cause) = self.judge(member, key, answer) {
            self.against.get_or_insert(cause);
        }
    }

    fn judge(&self, member: &ServerId, key: PeerKey, answer: Option<&Signed>) -> Result<(), String> {
        let signed = answer.ok_or_else(|| format!("{member} does not answer"))?;
        if signed.signer != key {
            return Err(format!("{member}'s answer is signed by another machine"));
        }
        let answer: GroupAnswer =
            signed.open().map_err(|error| format!("{member}'s answer is refused: {error}"))?;
        if answer.server != *member || answer.group != self.group || answer.nonce != self.nonce {
            return Err(format!("{member} answered another question"));
        }
        if answer.up { Ok(()) } else { Err(format!("{member} is not up: {}", answer.detail)) }
    }

    /// Where the check is at this moment.
    #[must_use]
    pub fn standing(&self, now: Moment) -> Standing {
        if let Some(cause) = &self.against {
            return Standing::NotUp { cause: cause.clone() };
        }
        match self.waiting.keys().next() {
            None => Standing::AllUp,
            Some(member) if now >= self.deadline => {
                Standing::NotUp { cause: format!("{member} does not answer") }
            }
            Some(_) => Standing::Pending,
        }
    }
}
