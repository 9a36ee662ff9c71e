//! The holder's view of leases (DESIGN 9, rules 4, 5, 6, 10).
//!
//! Owns the floors, the lease held, and the ones being given back. Main invariant: a grant is held only if it
//! answers a claim that this very run of the machine sent, for the plan and attempt under way, with an epoch
//! and a fence that are not behind; every other genuine grant for this server is given back, never forgotten.
//! Refuses to use the coordinator's clock: permission to start counts from when the claim was sent.

use std::collections::VecDeque;
use std::time::Duration;

use lunar_common::ids::{Attempt, CampaignId, DocumentHash, LeaseId, ServerId};
use lunar_common::lease::{Grant, LeaseOutcome, NO_CLAIM, Release};
use lunar_common::message::HeldLease;
use lunar_common::time::{Moment, millis};
use lunar_common::wire::Signed;

use crate::desk::{CAUSE_BYTES_MAX, cut};
use crate::journal::{Held, LeaseJournal};

/// Sendings of claims that are remembered: a grant may answer an older sending of the same claim.
const SENDINGS_MAX: usize = 64;

/// Releases that may wait for a coordinator. More would mean that grants come for claims never sent; they
/// are refused then, and the coordinator learns from reports that they are not held.
const RELEASES_MAX: usize = 32;

/// What a grant must be for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// This server.
    pub server: &'a ServerId,
    /// The campaign, plan and attempt that wait for a grant; `None`: nothing does.
    pub task: Option<(&'a CampaignId, DocumentHash, Attempt)>,
}

/// What became of a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It is held now: journal it.
    Held,
    /// It is the one held already, or one being given back: nothing changed.
    Known,
    /// It is genuine and of no use: a release was queued; journal it.
    GivenBack {
        /// Why.
        cause: String,
    },
}

/// Why a grant was not even given back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantRefusal {
    /// For somebody else.
    #[error("the grant is for {0}")]
    OtherServer(ServerId),
    /// From an earlier life of the coordinator, or from before a grant already seen.
    #[error("the grant's epoch {epoch} and fence {fence} are behind {epoch_seen} and {fence_seen}")]
    Behind {
        /// The grant's.
        epoch: lunar_common::ids::Epoch,
        /// The grant's.
        fence: lunar_common::ids::Fence,
        /// The floor.
        epoch_seen: lunar_common::ids::Epoch,
        /// The floor.
        fence_seen: lunar_common::ids::Fence,
    },
    /// Too many leases are being given back.
    #[error("{RELEASES_MAX} leases are being given back already")]
    TooManyReleases,
}

/// When each claim of this run was sent.
#[derive(Debug, Clone, Default)]
pub struct Sendings(VecDeque<(u64, Moment)>);

impl Sendings {
    /// Notes that the claim with this nonce is being sent.
    ///
    /// # Panics
    /// It is [`NO_CLAIM`], which no sending is.
    pub fn sent(&mut self, nonce: u64, at: Moment) {
        assert_ne!(nonce, NO_CLAIM, "sendings are numbered from 1");
        if self.0.len() == SENDINGS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((nonce, at));
    }

    /// Each claim's nonce, and how long ago it was sent.
    pub(crate) fn ages(&self, now: Moment) -> impl Iterator<Item = (u64, Duration)> {
        self.0.iter().map(move |(nonce, at)| (*nonce, now.since(*at)))
    }

    fn when(&self, nonce: u64) -> Option<Moment> {
        self.0.iter().find(|(sent, _)| *sent == nonce).map(|(_, at)| *at)
    }
}

impl LeaseJournal {
    /// Judges a grant whose signature was found to be a coordinator's.
    ///
    /// # Errors
    /// [`GrantRefusal`] if it must have no effect at all.
    pub fn take(
        &mut self,
        grant: Grant,
        signed: Signed,
        wanted: Wanted<'_>,
        sendings: &Sendings,
        now: Moment,
    ) -> Result<Taken, GrantRefusal> {
        if grant.server != *wanted.server {
            return Err(GrantRefusal::OtherServer(grant.server));
        }
        if self.knows(grant.lease) {
            return Ok(Taken::Known);
        }
        if grant.epoch < self.epoch_seen || grant.fence <= self.fence_seen {
            return Err(GrantRefusal::Behind {
                epoch: grant.epoch,
                fence: grant.fence,
                epoch_seen: self.epoch_seen,
                fence_seen: self.fence_seen,
            });
        }
        if self.releases.len() >= RELEASES_MAX {
            return Err(GrantRefusal::TooManyReleases);
        }
        self.epoch_seen = grant.epoch;
        self.fence_seen = grant.fence;
        match useful(&grant, wanted, sendings, now, self.held.is_some()) {
            Ok(claim_sent) => {
                self.held = Some(Held { grant, signed, claim_sent, started: None });
                Ok(Taken::Held)
            }
            Err(cause) => {
                self.releases.push(release(&grant, LeaseOutcome::NeverStarted { cause: cause.clone() }, 0));
                Ok(Taken::GivenBack { cause })
            }
        }
    }

    fn knows(&self, lease: LeaseId) -> bool {
        self.held.as_ref().is_some_and(|held| held.grant.lease == lease)
            || self.releases.iter().any(|release| release.lease == lease)
    }

    /// Notes that the server starts under the lease it holds.
    pub fn start(&mut self, now: Moment) {
        let held = self.held.as_mut().expect("a start without a lease is never reached");
        assert!(held.started.is_none(), "a lease permits one start");
        held.started = Some(now);
    }

    /// The machine was restarted: its moments begin again. A server that was down then has been so for at
    /// least as long as it runs now.
    pub fn rebooted(&mut self) {
        if let Some(held) = &mut self.held {
            held.started = held.started.map(|_| Moment(0));
        }
    }

    /// Gives the held lease back, if there is one: it becomes a release that waits for its acknowledgement.
    pub fn give_back(&mut self, outcome: LeaseOutcome, now: Moment) -> bool {
        let Some(held) = self.held.take() else { return false };
        let down = held.started.map_or(Duration::ZERO, |started| now.since(started));
        self.releases.push(release(&held.grant, outcome, millis(down)));
        true
    }

    /// A coordinator has this release on disk.
    pub fn acknowledged(&mut self, lease: LeaseId) -> bool {
        let before = self.releases.len();
        self.releases.retain(|release| release.lease != lease);
        before != self.releases.len()
    }

    /// The lease, as reports tell it.
    #[must_use]
    pub fn as_reported(&self) -> Option<HeldLease> {
        self.held.as_ref().map(|held| HeldLease {
            lease: held.grant.lease,
            epoch: held.grant.epoch,
            fence: held.grant.fence,
            started: held.started.is_some(),
        })
    }
}

impl Held {
    /// The last moment at which the start may be journaled.
    #[must_use]
    pub fn start_by(&self) -> Moment {
        self.claim_sent.after(Duration::from_millis(self.grant.start_within_ms))
    }
}

/// When the claim was sent, if the grant permits a start now; else why it does not.
fn useful(
    grant: &Grant,
    wanted: Wanted<'_>,
    sendings: &Sendings,
    now: Moment,
    holds_one: bool,
) -> Result<Moment, String> {
    if holds_one {
        return Err("another lease is held already".into());
    }
    let Some((campaign, plan, attempt)) = wanted.task else {
        return Err("nothing waits for a grant here".into());
    };
    if grant.campaign != *campaign {
        return Err(format!("campaign {campaign} is under way here, not {}", grant.campaign));
    }
    if grant.plan != plan {
        return Err(format!("plan {plan:.16} is in force here, not {:.16}", grant.plan));
    }
    if grant.attempt != attempt {
        return Err(format!("attempt {attempt} is under way here, not {}", grant.attempt));
    }
    if grant.nonce == NO_CLAIM {
        return Err("the coordinator calls it back".into());
    }
    let Some(sent) = sendings.when(grant.nonce) else {
        return Err("it answers a claim that was not sent since this agent started".into());
    };
    let age = now.since(sent);
    if millis(age) > grant.start_within_ms {
        return Err(format!("it came {} ms after its claim, {} allowed", millis(age), grant.start_within_ms));
    }
    Ok(sent)
}

fn release(grant: &Grant, mut outcome: LeaseOutcome, down_ms: u64) -> Release {
    match &mut outcome {
        LeaseOutcome::Completed => {}
        // A halt's reason, a hook's last lines: a release that outgrew its bound could never be sent.
        LeaseOutcome::RolledBack { cause } | LeaseOutcome::NeverStarted { cause } => {
            *cause = cut(cause, CAUSE_BYTES_MAX);
        }
    }
    grant.release(outcome, down_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lunar_common::ids::{Epoch, Fence, PeerKey};
    use lunar_common::wire::SignatureBytes;

    #[test]
    fn a_grant_for_the_claim_at_hand_is_held_and_shown_again_changes_nothing() {
        let mut journal = LeaseJournal::default();
        let sendings = sent(7, 1000);
        assert_eq!(take(&mut journal, grant(), &sendings, 2000), Ok(Taken::Held));
        assert_eq!(journal.held.as_ref().unwrap().start_by(), Moment(6000));
        let before = journal.clone();
        assert_eq!(take(&mut journal, grant(), &sendings, 2000), Ok(Taken::Known));
        assert_eq!(journal, before);
    }

    #[test]
    fn a_grant_that_cannot_be_used_is_given_back_and_its_numbers_are_kept_as_floors() {
        let fits = grant();
        let other_plan = Grant { plan: DocumentHash([9; 32]), ..grant() };
        let other_attempt = Grant { attempt: Attempt(2), ..grant() };
        let cases =
            [(fits.clone(), 7, 6001), (fits, 8, 1001), (other_plan, 7, 1001), (other_attempt, 7, 1001)];
        for (grant, nonce_sent, now) in cases {
            let mut journal = LeaseJournal::default();
            let taken = take(&mut journal, grant, &sent(nonce_sent, 1000), now);
            assert!(matches!(taken, Ok(Taken::GivenBack { .. })), "{taken:?}");
            assert_eq!(journal.held, None);
            assert_eq!(journal.releases.len(), 1);
            assert_eq!((journal.epoch_seen, journal.fence_seen), (Epoch(3), Fence(5)));
            assert!(matches!(journal.releases[0].outcome, LeaseOutcome::NeverStarted { .. }));
        }
    }

    #[test]
    fn a_grant_that_is_called_back_is_given_back_and_never_taken_however_it_comes_later() {
        let mut journal = LeaseJournal::default();
        let called_back = Grant { nonce: NO_CLAIM, ..grant() };
        let taken = take(&mut journal, called_back.clone(), &sent(7, 1000), 1001);
        assert_eq!(taken, Ok(Taken::GivenBack { cause: "the coordinator calls it back".into() }));
        assert_eq!(take(&mut journal, grant(), &sent(7, 1000), 1002), Ok(Taken::Known));
        journal.acknowledged(LeaseId(11));
        let late = take(&mut journal, grant(), &sent(7, 1000), 1003);
        assert!(matches!(late, Err(GrantRefusal::Behind { .. })), "{late:?}");
        assert_eq!(journal.held, None);

        // One that is held already stays held: its holder says so in its reports.
        let mut journal = LeaseJournal::default();
        take(&mut journal, grant(), &sent(7, 1000), 1001).unwrap();
        assert_eq!(take(&mut journal, called_back, &sent(7, 1000), 1002), Ok(Taken::Known));
        assert!(journal.held.is_some());
    }

    #[test]
    fn an_older_epoch_or_fence_has_no_effect_at_all() {
        for (epoch, fence) in [(2, 9), (3, 5), (3, 4)] {
            let mut journal =
                LeaseJournal { epoch_seen: Epoch(3), fence_seen: Fence(5), ..LeaseJournal::default() };
            let before = journal.clone();
            let old = Grant { epoch: Epoch(epoch), fence: Fence(fence), lease: LeaseId(77), ..grant() };
            let refused = take(&mut journal, old, &sent(7, 1000), 1001);
            assert!(matches!(refused, Err(GrantRefusal::Behind { .. })), "{refused:?}");
            assert_eq!(journal, before);
        }
    }

    #[test]
    fn a_grant_for_another_server_has_no_effect_at_all() {
        let mut journal = LeaseJournal::default();
        let other = Grant { server: ServerId::new("srv-2").unwrap(), ..grant() };
        assert!(matches!(take(&mut journal, other, &sent(7, 1000), 1001), Err(GrantRefusal::OtherServer(_))));
        assert_eq!(journal, LeaseJournal::default());
    }

    #[test]
    fn a_lease_given_back_is_sent_until_it_is_acknowledged() {
        let mut journal = LeaseJournal::default();
        take(&mut journal, grant(), &sent(7, 1000), 1001).unwrap();
        journal.start(Moment(1500));
        assert!(journal.give_back(LeaseOutcome::Completed, Moment(4500)));
        assert!(!journal.give_back(LeaseOutcome::Completed, Moment(4500)));
        assert_eq!(journal.releases[0].down_ms, 3000);
        assert!(!journal.acknowledged(LeaseId(99)));
        assert!(journal.acknowledged(LeaseId(11)));
        assert_eq!(journal.releases, []);
    }

    fn sent(nonce: u64, at: u64) -> Sendings {
        let mut sendings = Sendings::default();
        sendings.sent(nonce, Moment(at));
        sendings
    }

    fn take(
        journal: &mut LeaseJournal,
        grant: Grant,
        sendings: &Sendings,
        now: u64,
    ) -> Result<Taken, GrantRefusal> {
        let server = ServerId::new("srv-1").unwrap();
        let campaign = CampaignId::new("web-2").unwrap();
        let wanted = Wanted { server: &server, task: Some((&campaign, DocumentHash([4; 32]), Attempt(1))) };
        let signed = Signed { signer: PeerKey([1; 32]), body: vec![], signature: SignatureBytes([0; 64]) };
        journal.take(grant, signed, wanted, sendings, Moment(now))
    }

    fn grant() -> Grant {
        Grant {
            lease: LeaseId(11),
            server: ServerId::new("srv-1").unwrap(),
            campaign: CampaignId::new("web-2").unwrap(),
            plan: DocumentHash([4; 32]),
            attempt: Attempt(1),
            nonce: 7,
            epoch: Epoch(3),
            fence: Fence(5),
            start_within_ms: 5000,
            down_max_ms: 60_000,
        }
    }
}
