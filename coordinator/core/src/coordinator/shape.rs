//! What bears on the ledger's next decisions, server by server, without moments and without words.
//!
//! Owns [`Shape`]. Main invariant: two coordinators of one fleet and one plan whose shapes are equal do the same
//! with every input, as long as no claim grows stale, nothing has waited beyond patience and the plan has no windows. The model checker rests
//! on this: whatever else comes to bear on a decision belongs here too. Refuses to change anything.

use lunar_common::ids::{Attempt, CampaignId, Epoch, Fence, LeaseId, ServerId};
use lunar_common::lease::LeaseState;

use crate::coordinator::Coordinator;
use crate::state::Server;

/// The part that concerns everyone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// This life.
    pub epoch: Epoch,
    /// The highest fence granted.
    pub fence: Fence,
    /// Whether the log was found to be older than what was granted.
    pub restored: bool,
    /// Whether starts are stopped.
    pub halted: bool,
    /// Every server, by name.
    pub servers: Vec<ServerShape>,
}

/// The part that concerns one server, in one campaign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerShape {
    /// Who.
    pub server: ServerId,
    /// The lease that takes a slot.
    pub lease: Option<LeaseShape>,
    /// Its attempts: the highest claimed, the highest over, how many failed.
    pub attempts: Option<(Attempt, Option<Attempt>, u32)>,
    /// Its place in the queue, and for which attempt.
    pub queued: Option<(u64, Attempt)>,
    /// The sending that waits in this life, and whether its group or itself stands in its way.
    pub waiting: Option<(u64, (bool, bool))>,
    /// Highest fence of a lease that is over by its own word.
    pub closed: Fence,
    /// Leases whose releases may still come.
    pub unexplained: Vec<LeaseId>,
    /// Whether it was heard in this life, and whether it fell silent since.
    pub heard: Option<bool>,
}

/// One lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseShape {
    /// Which.
    pub lease: LeaseId,
    /// The life that granted it.
    pub epoch: Epoch,
    /// Its order among all grants.
    pub fence: Fence,
    /// The attempt it is for; `None`: not known.
    pub attempt: Option<Attempt>,
    /// The claim it answered first.
    pub nonce: Option<u64>,
    /// The newest sending of the claim that was answered with it, in this life.
    pub answered: Option<u64>,
    /// Where it is in its life.
    pub state: LeaseState,
    /// Whether its holder has started.
    pub started: bool,
}

impl Coordinator {
    /// What bears on the next decisions in a campaign.
    #[must_use]
    pub fn shape(&self, campaign: &CampaignId) -> Shape {
        Shape {
            epoch: self.state.epoch,
            fence: self.state.fence,
            restored: self.state.restored,
            halted: self.state.halt(campaign).is_some(),
            servers: self
                .state
                .servers
                .iter()
                .map(|(server, record)| self.server_shape(server, record, campaign))
                .collect(),
        }
    }

    fn server_shape(&self, server: &ServerId, record: &Server, campaign: &CampaignId) -> ServerShape {
        let progress = record.progress.get(campaign);
        let attempts = progress.and_then(|progress| progress.attempts.as_ref());
        let queued = progress.and_then(|progress| progress.queued.as_ref());
        let key = (server.clone(), campaign.clone());
        ServerShape {
            server: server.clone(),
            lease: self.state.leases.get(server).map(|lease| LeaseShape {
                lease: lease.id,
                epoch: lease.epoch,
                fence: lease.fence,
                attempt: lease.task.as_ref().map(|task| task.attempt),
                nonce: lease.nonce,
                answered: self.watched.get(server).and_then(|watched| watched.answered),
                state: lease.state,
                started: lease.started,
            }),
            attempts: attempts.map(|attempts| (attempts.highest, attempts.over, attempts.failures)),
            queued: queued.map(|queued| (queued.place, queued.task.attempt)),
            waiting: self.waiting.get(&key).map(|entry| (entry.nonce, self.waiting.is_aside(&key))),
            closed: record.closed,
            unexplained: record.unexplained.keys().copied().collect(),
            heard: self.fleet.seen(server).map(|seen| seen.silent),
        }
    }
}
