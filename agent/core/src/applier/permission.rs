//! Whether a start is permitted: plan, halts, grant and floors, all verified anew.
//!
//! Owns [`check`]. Main invariant: it says yes only for a plan in force that selects this server, without a
//! halt, under a grant for exactly this server, plan and attempt, signed by an enrolled coordinator, never used
//! before, and still fresh. Refuses to take the network half's word for any of that but one: when the claim
//! was sent. Lying there lets it use a grant late, even one that it has given back: once, for this plan and
//! attempt, and not after a later one was used. It forges none, and a halt that is known here still stops it.

use std::time::Duration;

use lunar_common::document::Verified;
use lunar_common::enrolment::{Enrolment, Role};
use lunar_common::ids::{Attempt, DocumentHash, Epoch, Fence, PeerKey, ServerId};
use lunar_common::lease::{Grant, NO_CLAIM};
use lunar_common::plan::Plan;
use lunar_common::time::{Now, millis};
use lunar_common::trust::{Refusal, StartRefusal, TrustState};
use lunar_common::wire::WireError;

use super::protocol::{Permission, Task};

/// Why a plan may not be installed here, or not now.
#[derive(Debug, thiserror::Error)]
pub enum NotPermitted {
    /// No such plan.
    #[error("plan {plan:.16} is not held for campaign {campaign}: pass its document on first")]
    PlanUnknown {
        /// The plan asked for.
        plan: DocumentHash,
        /// Its campaign.
        campaign: lunar_common::ids::CampaignId,
    },
    /// Another generation is in force.
    #[error("plan {asked:.16} is not in force: {in_force:.16} is")]
    PlanNotInForce {
        /// The plan asked for.
        asked: DocumentHash,
        /// The one in force.
        in_force: DocumentHash,
    },
    /// This server is not a member.
    #[error("{0} is not enrolled, or its key was revoked")]
    NotEnrolled(ServerId),
    /// The plan is for others.
    #[error("the plan does not select {0}")]
    NotSelected(ServerId),
    /// A halt, or an expiry.
    #[error("no start is permitted: {0}")]
    Start(StartRefusal),
    /// The coordinator's enrolment does not verify.
    #[error("the coordinator's enrolment is refused: {0}")]
    Coordinator(Refusal),
    /// Another kind of machine.
    #[error("{0} is enrolled, but not as a coordinator: it grants nothing")]
    NotCoordinator(ServerId),
    /// Signed by somebody else.
    #[error("the grant is signed by {signer:.16}, not by coordinator {coordinator}")]
    Signer {
        /// Who signed.
        signer: PeerKey,
        /// Whose enrolment came with it.
        coordinator: ServerId,
    },
    /// Not a grant, or bent.
    #[error("the grant is refused: {0}")]
    Grant(WireError),
    /// For another server.
    #[error("the grant is for {0}")]
    OtherServer(ServerId),
    /// For another plan.
    #[error("the grant is for plan {0:.16}")]
    OtherPlan(DocumentHash),
    /// For another attempt.
    #[error("the grant is for attempt {0}")]
    OtherAttempt(Attempt),
    /// Pushed to be given back.
    #[error("the grant answers no claim: the coordinator calls it back")]
    CalledBack,
    /// From a coordinator's earlier life.
    #[error("the grant's epoch {found} is behind {used}: it is an old one")]
    EpochBehind {
        /// The grant's.
        found: Epoch,
        /// The highest used.
        used: Epoch,
    },
    /// Used already, or older than one that was.
    #[error("the grant's fence {found} is not above {used}: it was used, or is an old one")]
    FenceBehind {
        /// The grant's.
        found: Fence,
        /// The last used.
        used: Fence,
    },
    /// Its time to start is over.
    #[error("the grant permitted a start within {within_ms} ms of its claim; {elapsed_ms} ms have passed")]
    TooLate {
        /// Permitted.
        within_ms: u64,
        /// Passed.
        elapsed_ms: u64,
    },
    /// A claim from the future, or from before the last boot.
    #[error("the claim is said to have been sent {0} ms from now, which cannot be")]
    ClaimAhead(u64),
}

/// The plan of a task, if it is the one in force and for this server.
///
/// # Errors
/// [`NotPermitted`].
pub fn plan_for<'a>(
    trust: &'a TrustState,
    server: &ServerId,
    task: &Task,
) -> Result<(&'a Verified<Plan>, &'a Verified<Enrolment>), NotPermitted> {
    let plan = trust
        .plan(&task.campaign)
        .ok_or_else(|| NotPermitted::PlanUnknown { plan: task.plan, campaign: task.campaign.clone() })?;
    if plan.hash() != task.plan {
        return Err(NotPermitted::PlanNotInForce { asked: task.plan, in_force: plan.hash() });
    }
    let own = trust.machine_named(server).ok_or_else(|| NotPermitted::NotEnrolled(server.clone()))?;
    if !plan.select.matches(own) {
        return Err(NotPermitted::NotSelected(server.clone()));
    }
    Ok((plan, own))
}

/// The grant that permits this start now. `used` is the epoch and fence of the last grant that was used.
///
/// # Errors
/// [`NotPermitted`] names the first thing that is wrong.
pub fn check(
    trust: &TrustState,
    server: &ServerId,
    task: &Task,
    permission: &Permission,
    used: (Epoch, Fence),
    now: Now,
) -> Result<Grant, NotPermitted> {
    let (plan, own) = plan_for(trust, server, task)?;
    trust.may_start(&task.campaign, own, now.wall).map_err(NotPermitted::Start)?;
    let coordinator = trust.verify_enrolment(&permission.coordinator).map_err(NotPermitted::Coordinator)?;
    if coordinator.role != Role::Coordinator {
        return Err(NotPermitted::NotCoordinator(coordinator.server.clone()));
    }
    if coordinator.key != permission.grant.signer {
        return Err(NotPermitted::Signer {
            signer: permission.grant.signer,
            coordinator: coordinator.server.clone(),
        });
    }
    let grant: Grant = permission.grant.open().map_err(NotPermitted::Grant)?;
    if grant.server != *server {
        return Err(NotPermitted::OtherServer(grant.server));
    }
    if grant.plan != task.plan || grant.campaign != task.campaign {
        return Err(NotPermitted::OtherPlan(grant.plan));
    }
    if grant.attempt != task.attempt {
        return Err(NotPermitted::OtherAttempt(grant.attempt));
    }
    if grant.nonce == NO_CLAIM {
        return Err(NotPermitted::CalledBack);
    }
    let (epoch_used, fence_used) = used;
    if grant.epoch < epoch_used {
        return Err(NotPermitted::EpochBehind { found: grant.epoch, used: epoch_used });
    }
    if grant.fence <= fence_used {
        return Err(NotPermitted::FenceBehind { found: grant.fence, used: fence_used });
    }
    if permission.claim_sent > now.moment {
        return Err(NotPermitted::ClaimAhead(millis(permission.claim_sent.since(now.moment))));
    }
    // The coordinator may permit less than the plan, never more.
    let within = Duration::from_millis(grant.start_within_ms).min(plan.lease.start_within());
    let elapsed = now.moment.since(permission.claim_sent);
    if elapsed > within {
        return Err(NotPermitted::TooLate { within_ms: millis(within), elapsed_ms: millis(elapsed) });
    }
    Ok(grant)
}
