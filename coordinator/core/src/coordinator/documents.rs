//! What people signed, and what it changes.
//!
//! Owns the way from verified documents to events. Main invariant: the same document twice changes nothing the
//! second time, so that everything in force can be handed over again after every start.

use std::collections::BTreeSet;

use lunar_common::document::{Halt, Reap, Resume, Verified};
use lunar_common::enrolment::Enrolment;
use lunar_common::ids::{CampaignId, KeyName, PeerKey, ServerId};
use lunar_common::lease::{LeaseState, Occupancy};
use lunar_common::plan::Plan;

use crate::campaign::approval::ApprovalTerms;
use crate::campaign::rules::{Labels, Rules};
use crate::campaign::window::WindowTerms;
use crate::coordinator::Coordinator;
use crate::event::{EventBody, Member, Terms};
use crate::input::InForce;

/// What a plan says besides its terms and its rules, where it says anything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Also {
    pub(crate) windows: Option<WindowTerms>,
    pub(crate) approvals: Option<ApprovalTerms>,
}

impl Coordinator {
    /// Makes the log agree with what is in force: a crash may have come between the two, a new trust root no
    /// longer vouches for some of it, or a new revocation list names others.
    pub(super) fn reconcile(&mut self, in_force: InForce) {
        self.approvers = in_force.approvers;
        let members: BTreeSet<PeerKey> = in_force.machines.iter().map(|machine| machine.key).collect();
        for machine in &in_force.machines {
            self.enrolled(machine);
        }
        self.revoke(|key| !members.contains(key));
        for plan in &in_force.plans {
            self.plan(plan);
        }
        for halt in &in_force.halts {
            self.halt(halt);
        }
        let halted: BTreeSet<Option<CampaignId>> =
            in_force.halts.iter().map(|halt| halt.campaign.clone()).collect();
        let ended: Vec<_> = self
            .state
            .halts
            .iter()
            .filter(|(scope, _)| !halted.contains(scope))
            .map(|(scope, halt)| (scope.clone(), halt.sequence))
            .collect();
        for (campaign, sequence) in ended {
            let reason = "resumed while the coordinator was down".to_owned();
            self.record(EventBody::Resumed { campaign, sequence, reason, signers: BTreeSet::new() });
        }
        // It may have been taken in while the coordinator was down. What it names by its evidence, its signers have seen.
        for resume in &in_force.resumes {
            self.resume(resume);
        }
    }

    pub(super) fn enrolled(&mut self, enrolment: &Verified<Enrolment>) {
        let member = Member::from(&**enrolment);
        let known = self.state.servers.get(&member.server);
        if known.is_none_or(|known| known.revoked || known.member.sequence <= member.sequence) {
            self.label(&member.server, &enrolment.labels);
        }
        self.enrol(member);
    }

    /// Puts a machine's labels down, unless they are known just so.
    pub(crate) fn label(&mut self, server: &ServerId, labels: &Labels) {
        let known = self.state.labels.get(server);
        if known.map_or(!labels.is_empty(), |known| **known != *labels) {
            self.record(EventBody::Labelled { server: server.clone(), labels: labels.clone() });
        }
    }

    /// Takes a member in, unless it is known just so.
    pub(crate) fn enrol(&mut self, member: Member) {
        if let Some(record) = self.state.servers.get(&member.server) {
            // One that is out comes back by whatever enrolment is in force: a new trust root may have begun its
            // numbers anew.
            if !record.revoked && (member.sequence < record.member.sequence || *record.member == member) {
                return;
            }
            if record.member.key != member.key {
                // Another machine: nothing the one before it said holds for this one.
                self.forget(&member.server);
            }
        }
        self.record(EventBody::ServerEnrolled { member });
    }

    fn revoke(&mut self, is_out: impl Fn(&PeerKey) -> bool) {
        let out: Vec<(ServerId, PeerKey)> = self
            .state
            .servers
            .iter()
            .filter(|(_, record)| !record.revoked && is_out(&record.member.key))
            .map(|(server, record)| (server.clone(), record.member.key))
            .collect();
        for (server, key) in out {
            self.record(EventBody::ServerRevoked { server, key });
        }
    }

    pub(super) fn plan(&mut self, plan: &Verified<Plan>) {
        self.watch_by(&plan.campaign, plan.hash(), &plan.stop);
        let terms = Terms::of(plan, plan.hash());
        let also = Also { windows: WindowTerms::of(plan), approvals: ApprovalTerms::of(plan) };
        self.accept_with(terms, Rules::of(plan), also, plan.signers().clone());
    }

    /// Takes a plan's terms in with its rules and windows, which come first: a crash between them leaves rules that wait
    /// for their plan, and never a plan that goes without its rules.
    pub(crate) fn accept_with(
        &mut self,
        terms: Terms,
        rules: Option<Rules>,
        also: Also,
        signers: BTreeSet<KeyName>,
    ) {
        let known = self.state.campaigns.get(&terms.campaign);
        if known.is_none_or(|known| known.terms.plan != terms.plan) {
            let (campaign, plan) = (&terms.campaign, terms.plan);
            if let Some(rules) = rules {
                self.record(EventBody::PlanRules { campaign: campaign.clone(), plan, rules });
            }
            if let Some(windows) = also.windows {
                self.record(EventBody::PlanWindows { campaign: campaign.clone(), plan, windows });
            }
            if let Some(approvals) = also.approvals {
                self.record(EventBody::PlanApprovals { campaign: campaign.clone(), plan, approvals });
            }
        }
        self.accept(terms, signers);
    }

    /// Takes a plan's terms in, unless they are known. Which generation is in force, the trust state says.
    pub(crate) fn accept(&mut self, terms: Terms, signers: BTreeSet<KeyName>) {
        let known = self.state.campaigns.get(&terms.campaign);
        if known.is_none_or(|known| known.terms.plan != terms.plan) {
            self.record(EventBody::PlanAccepted { terms, signers });
        }
    }

    pub(super) fn halt(&mut self, halt: &Verified<Halt>) {
        self.stop(halt, halt.signers().clone());
    }

    /// A halt stops, whatever its number: that it is in force, the trust state says, and a new trust root may
    /// have begun the numbers anew.
    pub(crate) fn stop(&mut self, halt: &Halt, signers: BTreeSet<KeyName>) {
        let halted = self.state.halts.get(&halt.campaign).map(|halted| halted.sequence);
        if halted != Some(halt.sequence) {
            self.record(EventBody::Halted {
                campaign: halt.campaign.clone(),
                sequence: halt.sequence,
                reason: halt.reason.clone(),
                signers,
            });
        }
    }

    pub(super) fn resume(&mut self, resume: &Verified<Resume>) {
        self.go_on(resume, resume.signers().clone());
    }

    pub(crate) fn go_on(&mut self, resume: &Resume, signers: BTreeSet<KeyName>) {
        if !resume.pauses.is_empty() {
            return self.end_pauses(resume, &signers);
        }
        let is_news = self.state.resumed.get(&resume.campaign).is_none_or(|seen| *seen < resume.sequence);
        let ends_one =
            self.state.halts.get(&resume.campaign).is_some_and(|halted| halted.sequence < resume.sequence);
        if is_news || ends_one {
            self.record(EventBody::Resumed {
                campaign: resume.campaign.clone(),
                sequence: resume.sequence,
                reason: resume.reason.clone(),
                signers,
            });
        }
    }

    pub(super) fn reap(&mut self, reap: &Verified<Reap>) {
        self.write_off(reap, reap.signers().clone());
    }

    pub(crate) fn write_off(&mut self, reap: &Reap, signers: BTreeSet<KeyName>) {
        let server = reap.server.clone();
        if self.state.servers.get(&server).is_none_or(|record| reap.sequence <= record.reap_seen) {
            return;
        }
        let (sequence, reason) = (reap.sequence, reap.reason.clone());
        self.record(match (self.reapable(reap), reap.lease) {
            (Ok(()), Some(lease)) => EventBody::Reaped { server, lease, sequence, reason, signers },
            (Ok(()), None) => EventBody::WrittenOff { server, sequence, reason, signers },
            (Err(why), _) => EventBody::ReapSpent { server, sequence, why },
        });
    }

    /// Whether a reap would free anything now.
    ///
    /// # Errors
    /// Why it would not, and what to do instead, for the operator.
    pub fn reapable(&self, reap: &Reap) -> Result<(), String> {
        let server = &reap.server;
        let Some(record) = self.state.servers.get(server) else {
            return Err(format!("{server} is not enrolled: look at `status` for the servers that are"));
        };
        if reap.sequence <= record.reap_seen {
            return Err(format!(
                "reap {} of {server} is not newer than {}, the last one seen: sign it with a higher sequence",
                reap.sequence, record.reap_seen
            ));
        }
        match (reap.lease, self.state.leases.get(server)) {
            (Some(named), Some(held)) if held.id == named => match held.state {
                LeaseState::Lost => Ok(()),
                LeaseState::Granted | LeaseState::Active => Err(format!(
                    "lease {named} of {server} is {}, not lost: only a lost lease is reaped; wait until \
                     `lease list` shows it as lost",
                    held.state
                )),
            },
            (Some(named), Some(held)) => {
                Err(format!("{server} holds lease {}, not {named}: look at `lease list`", held.id))
            }
            (Some(named), None) => {
                Err(format!("lease {named} of {server} takes no slot: it was given back or reaped"))
            }
            (None, Some(held)) => {
                Err(format!("{server} holds lease {}: once it is lost, name it in the reap", held.id))
            }
            (None, None) if self.occupancies.why(server) == Some(Occupancy::Unreachable) => Ok(()),
            (None, None) => Err(format!("{server} is not silent: there is nothing to write off")),
        }
    }
}
