//! S13: once it is durable that something must be paused, nothing is granted there until people have gone on.
//!
//! Reason: nobody is near these servers. The first failure in tier 1 is the last one that a machine may make of its own
//! accord, and so is whatever else people meant to be paused by. What they meant is the scenario's; what the plan says
//! that went out, and what the core makes of it, is on trial.

use std::collections::{BTreeMap, BTreeSet};

use lunar_common::ids::{DocumentHash, PauseId, ServerId, SiteId};
use lunar_common::lease::LeaseOutcome;
use lunar_common::limits::Tier;
use lunar_common::pause::PauseScope;
use lunar_common::plan::StopRules;
use lunar_coordinator_core::event::{EventBody, Evidence};

use super::Violation;
use crate::world::World;

/// What of the log bears on it. Empty where nothing pauses a campaign.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stops {
    /// Failures in tier 1 that people meant to be paused by; `None`: nothing pauses.
    tier_one: Option<u32>,
    places: BTreeMap<ServerId, (Tier, SiteId)>,
    plan: Option<DocumentHash>,
    /// Servers of tier 1 that failed by the plan in force, since people last went on there.
    failed: BTreeSet<ServerId>,
    paused: BTreeMap<PauseScope, PauseId>,
    wrong: Option<String>,
}

impl Stops {
    pub(crate) fn new(meant: &StopRules) -> Self {
        let tier_one = (*meant != StopRules::never()).then_some(meant.tier.one.failed);
        Self { tier_one, ..Self::default() }
    }

    /// The same before anything happened.
    pub(crate) fn anew(&self) -> Self {
        Self { tier_one: self.tier_one, ..Self::default() }
    }

    /// The pauses that people may look at.
    pub(crate) fn in_force(&self) -> BTreeSet<PauseId> {
        self.paused.values().copied().collect()
    }

    /// The log has grown by this.
    pub(crate) fn apply(&mut self, event: &EventBody) {
        let Some(tier_one) = self.tier_one else { return };
        match event {
            EventBody::ServerEnrolled { member } => {
                self.places.insert(member.server.clone(), (member.tier, member.site.clone()));
            }
            EventBody::PlanAccepted { terms, .. } => {
                self.plan = Some(terms.plan);
                self.failed.clear();
            }
            EventBody::Released { server, task, evidence: Evidence::Release { outcome, .. }, .. } => {
                let failed = matches!(outcome, LeaseOutcome::RolledBack { .. });
                let by_plan = task.as_ref().map(|task| task.plan) == self.plan;
                if failed && by_plan && self.places.get(server).is_some_and(|place| place.0 == Tier::One) {
                    self.failed.insert(server.clone());
                }
            }
            EventBody::Granted(granted) => {
                let Some((tier, site)) = self.places.get(&granted.server) else { return };
                let stops = |scope: &&PauseScope| match scope {
                    PauseScope::Campaign => true,
                    PauseScope::Tier(of) => of == tier,
                    PauseScope::Site(of) => of == site,
                    PauseScope::Model { .. } => false,
                };
                let paused = self.paused.keys().find(stops).map(|scope| format!("{scope} is paused"));
                let failed =
                    (*tier == Tier::One && !self.failed.is_empty() && self.failed.len() >= tier_one as usize)
                        .then(|| format!("{:?} of tier 1 failed", self.failed));
                if let Some(why) = paused.or(failed) {
                    self.wrong =
                        Some(format!("{} is granted lease {}, though {why}", granted.server, granted.lease));
                }
            }
            EventBody::Paused { pause } => {
                self.paused.insert(pause.scope.clone(), pause.id());
            }
            EventBody::Unpaused { scope, .. } => {
                self.paused.remove(scope);
                if *scope == PauseScope::Tier(Tier::One) {
                    self.failed.clear();
                }
            }
            _ => {}
        }
    }
}

/// The log has grown.
pub(super) fn check(world: &World) -> Option<Violation> {
    let wrong = world.host.ledger.stops.wrong.clone()?;
    Some(Violation::new("S13 stop", wrong))
}
