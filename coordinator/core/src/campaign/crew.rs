//! Servers that claim, go down, come back and report, as the properties of this folder have them do in any order.
//!
//! Owns [`Crew`]. Main invariant: it holds the leases that it was granted and has not given back, as servers do; a server
//! counts its attempts up from one, and every claim has a number of its own.

use std::collections::BTreeMap;

use lunar_common::health::Verdict;
use lunar_common::ids::ServerId;
use lunar_common::lease::{Grant, LeaseOutcome};

use crate::coordinator::rig::{Rig, answer, plan_hash, pushed};
use crate::effect::{Answer, Effect};

/// The servers of a rig, by a plan of generation 2.
pub(crate) struct Crew {
    pub(crate) rig: Rig,
    pub(crate) held: BTreeMap<ServerId, Grant>,
    attempts: BTreeMap<ServerId, u64>,
    claims: u64,
}

impl Crew {
    pub(crate) fn new(rig: Rig) -> Self {
        Self { rig, held: BTreeMap::new(), attempts: BTreeMap::new(), claims: 0 }
    }

    /// What the coordinator has sent by itself. A grant that answers no claim calls its lease back, and permits nothing.
    pub(crate) fn take(&mut self, effects: &[Effect]) {
        for grant in pushed(effects).into_iter().filter(|grant| grant.nonce > 0) {
            self.held.insert(grant.server.clone(), grant);
        }
    }

    /// A server that holds nothing claims.
    pub(crate) fn claim(&mut self, server: &ServerId) {
        if self.held.contains_key(server) {
            return;
        }
        self.claims += 1;
        let attempt = *self.attempts.entry(server.clone()).or_insert(1);
        let mut claim = self.rig.claim_as(server.as_str(), attempt, self.claims);
        claim.plan = plan_hash(2);
        let effects = self.rig.send(claim);
        self.take(&effects);
        if let Answer::Granted(grant) = answer(&effects) {
            self.held.insert(server.clone(), grant);
        }
    }

    /// A server that holds a lease gives it back: 0 completed, 1 rolled back, any other number never started.
    pub(crate) fn end(&mut self, server: &ServerId, outcome: u8, down_ms: u64) {
        let Some(grant) = self.held.remove(server) else { return };
        *self.attempts.entry(grant.server.clone()).or_insert(1) += 1;
        let cause = "smoke".to_owned();
        let outcome = match outcome {
            0 => LeaseOutcome::Completed,
            1 => LeaseOutcome::RolledBack { cause },
            _ => LeaseOutcome::NeverStarted { cause },
        };
        let effects = self.rig.release_after(&grant, outcome, down_ms);
        self.take(&effects);
    }

    /// A server reports: that it is down by its lease, or how it is.
    pub(crate) fn report(&mut self, server: &ServerId, verdict: Verdict) {
        let effects = match self.held.get(server).cloned() {
            Some(grant) => self.rig.report_held(&grant, true),
            None => {
                let mut report = self.rig.fresh_report(server.as_str());
                report.verdict = verdict;
                self.rig.report(report)
            }
        };
        self.take(&effects);
    }
}
