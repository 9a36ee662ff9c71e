//! One lease, from its grant to the server's own word that it is over.
//!
//! Owns [`Lease`] and its transitions: granted → active → released, or LOST (DESIGN 9, rules 1 and 2). Main
//! invariant: time moves a lease to LOST and nowhere else; "started" is never taken back.

use std::time::Duration;

use lunar_common::ids::{Epoch, Fence, LeaseId, ServerId};
use lunar_common::lease::{Grant, LeaseState, Occupancy};
use lunar_common::message::HeldLease;
use lunar_common::time::Moment;

use crate::event::{GrantedLease, Task};

/// A lease that takes a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) id: LeaseId,
    pub(crate) epoch: Epoch,
    pub(crate) fence: Fence,
    /// `None`: adopted from a report that did not tell.
    pub(crate) task: Option<Task>,
    /// The claim it answered first. `None`: adopted, so it was never granted by this log.
    pub(crate) nonce: Option<u64>,
    pub(crate) state: LeaseState,
    pub(crate) started: bool,
    pub(crate) start_within_ms: u64,
    pub(crate) down_max_ms: u64,
}

impl Lease {
    pub(crate) fn granted(granted: &GrantedLease) -> Self {
        Self {
            id: granted.lease,
            epoch: granted.epoch,
            fence: granted.fence,
            task: Some(granted.task.clone()),
            nonce: Some(granted.nonce),
            state: LeaseState::Granted,
            started: false,
            start_within_ms: granted.start_within_ms,
            down_max_ms: granted.down_max_ms,
        }
    }

    /// Whether someone else's words mean this very lease. All three numbers count: after a restore, a lease
    /// id alone may have been given twice.
    pub(crate) fn is(&self, lease: LeaseId, epoch: Epoch, fence: Fence) -> bool {
        self.id == lease && self.epoch == epoch && self.fence == fence
    }

    pub(crate) fn is_held(&self, held: &HeldLease) -> bool {
        self.is(held.lease, held.epoch, held.fence)
    }

    /// Why its holder takes a slot.
    pub(crate) fn occupancy(&self) -> Occupancy {
        match self.state {
            LeaseState::Granted => Occupancy::Granted,
            LeaseState::Active => Occupancy::Active,
            LeaseState::Lost => Occupancy::Lost,
        }
    }

    /// When it is LOST unless there is news; `None` if it is already.
    pub(crate) fn due(&self, since: Moment, margin: Duration) -> Option<Moment> {
        let within = match self.state {
            LeaseState::Granted => self.start_within_ms,
            LeaseState::Active => self.down_max_ms,
            LeaseState::Lost => return None,
        };
        Some(since.after(Duration::from_millis(within)).after(margin))
    }

    /// The grant, as an answer to the claim with this nonce. `None` if it is not known what the lease is for:
    /// then it was adopted, and its holder has its grant.
    pub(crate) fn grant(&self, server: &ServerId, nonce: u64) -> Option<Grant> {
        let task = self.task.as_ref()?;
        Some(Grant {
            lease: self.id,
            server: server.clone(),
            campaign: task.campaign.clone(),
            plan: task.plan,
            attempt: task.attempt,
            nonce,
            epoch: self.epoch,
            fence: self.fence,
            start_within_ms: self.start_within_ms,
            down_max_ms: self.down_max_ms,
        })
    }

    pub(crate) fn start(&mut self) {
        assert_eq!(self.state, LeaseState::Granted, "only a granted lease starts");
        self.state = LeaseState::Active;
        self.started = true;
    }

    pub(crate) fn lose(&mut self, was: LeaseState) {
        assert_eq!(self.state, was, "the log says what a lease was before it was lost");
        assert_ne!(was, LeaseState::Lost, "a lease is lost once");
        self.state = LeaseState::Lost;
    }

    pub(crate) fn find(&mut self, started: bool) {
        assert_eq!(self.state, LeaseState::Lost, "only a lost lease is found");
        self.started |= started;
        self.state = if self.started { LeaseState::Active } else { LeaseState::Granted };
    }
}
