//! What people restrain by hand: pauses, servers in quarantine, limits that are lower than signed, cancelled plans.
//!
//! Owns what is restrained, and by whose word ([`ByHand`]): a fold of the log, and what it keeps from starting. Main invariant: a curb takes effect by an event of
//! the log, before anything is granted after it; pauses and quarantines outlive new plans and new lives, and what is said
//! of a plan ends with it. No curb raises a limit or counts a server out: a gate that waits for one in quarantine goes on
//! waiting. Refuses to check signatures: what arrives was verified.

use std::collections::{BTreeMap, BTreeSet};

use lunar_common::curb::{Curb, Measure};
use lunar_common::document::Verified;
use lunar_common::ids::{CampaignId, DocumentHash, KeyName, PauseId, Sequence, ServerId};
use lunar_common::lease::{LimitScope, WaitReason};
use lunar_common::pause::PauseScope;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::campaign::anomaly::pause::covers;
use crate::coordinator::Coordinator;
use crate::event::{EventBody, Member};
use crate::ledger::Obstacle;
use crate::ledger::waiting::Class;
use crate::view::{HandPauseView, HandView, LoweredView};

/// Signers named in one explanation.
const SIGNERS_NAMED: usize = 16;

/// By whose word something is restrained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ByHand {
    /// The hash of the signed words: a resume that ends a pause names it.
    pub id: PauseId,
    /// Order among the curbs of the campaign, or of the fleet's servers.
    pub sequence: Sequence,
    /// Why.
    pub reason: String,
    /// Who signed.
    pub signers: BTreeSet<KeyName>,
}

impl ByHand {
    fn named(&self) -> Vec<KeyName> {
        self.signers.iter().take(SIGNERS_NAMED).cloned().collect()
    }
}

/// What is restrained by hand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Curbs {
    /// The highest number by campaign; `None`: what is said of servers.
    seen: BTreeMap<Option<CampaignId>, Sequence>,
    pauses: BTreeMap<CampaignId, BTreeMap<PauseScope, ByHand>>,
    quarantined: BTreeMap<ServerId, ByHand>,
    /// By campaign, with the plan that was in force.
    plans: BTreeMap<CampaignId, OfPlan>,
}

/// What was said of one plan.
#[derive(Debug, Clone, PartialEq, Eq)]
struct OfPlan {
    plan: DocumentHash,
    lowered: BTreeMap<LimitScope, u32>,
    cancelled: Option<ByHand>,
}

impl Curbs {
    /// Folds one curb in. `plan` is the one in force in its campaign.
    pub(crate) fn take(
        &mut self,
        campaign: Option<&CampaignId>,
        plan: Option<DocumentHash>,
        what: &Measure,
        by: &ByHand,
    ) {
        let seen = self.seen.entry(campaign.cloned()).or_default();
        *seen = by.sequence.max(*seen);
        match (what, campaign, plan) {
            (Measure::Pause(scope), Some(campaign), _) => {
                self.pauses.entry(campaign.clone()).or_default().insert(scope.clone(), by.clone());
            }
            (Measure::Quarantine(server), ..) => {
                self.quarantined.insert(server.clone(), by.clone());
            }
            (Measure::Release(server), ..) => {
                self.quarantined.remove(server);
            }
            (Measure::Lower(lowered), Some(campaign), Some(plan)) => {
                let of_plan = self.of_plan(campaign, plan);
                for lower in lowered {
                    let limit = of_plan.lowered.entry(lower.scope.clone()).or_insert(u32::MAX);
                    *limit = lower.to.get().min(*limit);
                }
            }
            (Measure::Cancel, Some(campaign), Some(plan)) => {
                self.of_plan(campaign, plan).cancelled = Some(by.clone());
            }
            (Measure::Pause(_) | Measure::Lower(_) | Measure::Cancel, ..) => {}
        }
    }

    fn of_plan(&mut self, campaign: &CampaignId, plan: DocumentHash) -> &mut OfPlan {
        let fresh = || OfPlan { plan, lowered: BTreeMap::new(), cancelled: None };
        self.plans.entry(campaign.clone()).or_insert_with(fresh)
    }

    /// Another plan is in force: what was said of the one before ends with it.
    pub(crate) fn replan(&mut self, campaign: &CampaignId) {
        self.plans.remove(campaign);
    }

    /// Ends a pause, if it is one of these.
    pub(crate) fn end(&mut self, campaign: &CampaignId, scope: &PauseScope, pause: PauseId) -> bool {
        let Some(scopes) = self.pauses.get_mut(campaign) else { return false };
        let ours = scopes.get(scope).is_some_and(|by| by.id == pause);
        if ours {
            scopes.remove(scope);
        }
        if scopes.is_empty() {
            self.pauses.remove(campaign);
        }
        ours
    }

    /// A campaign's pauses, the widest first.
    pub(crate) fn pauses(&self, campaign: &CampaignId) -> impl Iterator<Item = (&PauseScope, &ByHand)> {
        self.pauses.get(campaign).into_iter().flatten()
    }

    /// What a limit of the plan in force was lowered to.
    pub(crate) fn lowered(&self, campaign: &CampaignId, scope: &LimitScope) -> Option<u32> {
        self.plans.get(campaign)?.lowered.get(scope).copied()
    }

    /// By whose word the plan in force is cancelled.
    pub(crate) fn cancelled(&self, campaign: &CampaignId) -> Option<&ByHand> {
        self.plans.get(campaign)?.cancelled.as_ref()
    }

    pub(crate) fn quarantined(&self, server: &ServerId) -> Option<&ByHand> {
        self.quarantined.get(server)
    }

    pub(crate) fn seen(&self, campaign: Option<&CampaignId>) -> Sequence {
        self.seen.get(&campaign.cloned()).copied().unwrap_or_default()
    }
}

impl Coordinator {
    /// What people hold a member back by: its own quarantine, or the widest pause that it is in.
    pub(crate) fn obstacle_by_hand(&self, campaign: &CampaignId, member: &Member) -> Option<Obstacle> {
        let curbs = &self.state.curbs;
        if curbs.quarantined(&member.server).is_some() {
            return Some(Obstacle::Quarantined);
        }
        let scopes = curbs.pauses.get(campaign)?;
        let labels = self.state.labels.get(&member.server).map(|labels| &**labels);
        let stops = |scope: &&PauseScope| covers(scope, member.tier, &member.site, labels);
        scopes.keys().find(stops).cloned().map(Obstacle::PausedByHand)
    }

    /// Whether people have paused just this scope.
    pub(crate) fn is_paused_by_hand(&self, campaign: &CampaignId, scope: &PauseScope) -> bool {
        self.state.curbs.pauses(campaign).any(|(paused, _)| paused == scope)
    }

    /// Whether people have paused all claims of a class.
    pub(crate) fn is_class_paused_by_hand(&self, class: &Class) -> bool {
        let covered = |(scope, _): (&PauseScope, _)| covers(scope, class.tier, &class.site, None);
        self.state.curbs.pauses(&class.campaign).any(covered)
    }

    pub(crate) fn explain_pause_by_hand(&self, campaign: &CampaignId, scope: PauseScope) -> WaitReason {
        match self.state.curbs.pauses(campaign).find(|(paused, _)| **paused == scope) {
            Some((_, by)) => {
                WaitReason::PausedByHand { scope, pause: by.id, why: by.reason.clone(), signers: by.named() }
            }
            None => WaitReason::Behind { ahead: 0 },
        }
    }

    pub(crate) fn explain_quarantine(&self, server: &ServerId) -> WaitReason {
        let (why, signers) = words(self.state.curbs.quarantined(server));
        WaitReason::Quarantined { why, signers }
    }

    pub(crate) fn explain_cancelled(&self, campaign: &CampaignId) -> WaitReason {
        let (why, signers) = words(self.state.curbs.cancelled(campaign));
        WaitReason::Cancelled { why, signers }
    }

    /// The limit of one campaign alone: its plan's, or what people have lowered it to.
    pub(crate) fn limit_of(&self, campaign: &CampaignId, scope: &LimitScope) -> Option<u32> {
        let signed = self.state.campaigns.get(campaign)?.terms.limits.of(scope);
        signed.into_iter().chain(self.state.curbs.lowered(campaign, scope)).min()
    }

    /// What is restrained by hand in a campaign, for those who ask.
    pub(crate) fn hand_view(&self, campaign: &CampaignId) -> HandView {
        let curbs = &self.state.curbs;
        let pause =
            |(scope, by): (&PauseScope, &ByHand)| HandPauseView { scope: scope.clone(), by: by.clone() };
        let lowered = curbs.plans.get(campaign).into_iter().flat_map(|of_plan| &of_plan.lowered);
        HandView {
            sequence: curbs.seen(Some(campaign)),
            pauses: curbs.pauses(campaign).map(pause).collect(),
            lowered: lowered.map(|(scope, to)| LoweredView { scope: scope.clone(), to: *to }).collect(),
            cancelled: curbs.cancelled(campaign).cloned(),
        }
    }

    /// Whether a curb would change anything.
    ///
    /// # Errors
    /// Why it would not, and what to do instead, for the operator.
    pub fn curbable(&self, curb: &Curb) -> Result<(), String> {
        let curbs = &self.state.curbs;
        if let Some(campaign) = &curb.campaign {
            if !self.state.campaigns.contains_key(campaign) {
                return Err(format!(
                    "no plan of {campaign} is known here: look at `status` for those that are"
                ));
            }
            if let Some(cancelled) = curbs.cancelled(campaign) {
                let why = &cancelled.reason;
                return Err(format!(
                    "{campaign} is cancelled ({why}): only a new generation of its plan goes on"
                ));
            }
        }
        let seen = curbs.seen(curb.campaign.as_ref());
        if curb.sequence <= seen {
            return Err(format!(
                "number {} is not newer than {seen}, the last curb seen here: sign it with a higher sequence",
                curb.sequence
            ));
        }
        match (&curb.what, &curb.campaign) {
            (Measure::Pause(scope), Some(campaign)) if self.is_paused_by_hand(campaign, scope) => {
                Err(format!("{scope} of {campaign} is paused by hand already"))
            }
            (Measure::Quarantine(server) | Measure::Release(server), _)
                if self.state.servers.get(server).is_none() =>
            {
                Err(format!("{server} is not enrolled: look at `status` for the servers that are"))
            }
            (Measure::Quarantine(server), _) if curbs.quarantined(server).is_some() => {
                Err(format!("{server} is in quarantine already"))
            }
            (Measure::Release(server), _) if curbs.quarantined(server).is_none() => {
                Err(format!("{server} is not in quarantine"))
            }
            (Measure::Lower(lowered), Some(campaign)) => {
                let is_lower = |scope, to| self.limit_of(campaign, scope).is_none_or(|limit| to < limit);
                match lowered.iter().find(|lower| !is_lower(&lower.scope, lower.to.get())) {
                    Some(lower) => Err(format!(
                        "the limit of {} is {} already, and goes up by a new generation of the plan only",
                        lower.scope,
                        self.limit_of(campaign, &lower.scope).unwrap_or(u32::MAX)
                    )),
                    None => Ok(()),
                }
            }
            (Measure::Pause(_) | Measure::Quarantine(_) | Measure::Release(_), _)
            | (Measure::Lower(_) | Measure::Cancel, _) => Ok(()),
        }
    }

    pub(crate) fn curb(&mut self, curb: &Verified<Curb>) {
        self.take_curb(curb, PauseId(curb.hash().0), curb.signers().clone());
    }

    /// Puts a curb down, unless it changes nothing.
    pub(crate) fn take_curb(&mut self, curb: &Curb, id: PauseId, signers: BTreeSet<KeyName>) {
        if self.curbable(curb).is_err() {
            return;
        }
        let by = ByHand { id, sequence: curb.sequence, reason: curb.reason.clone(), signers };
        self.record(EventBody::Curbed { campaign: curb.campaign.clone(), what: curb.what.clone(), by });
    }

    /// A server may go on.
    pub(crate) fn follow_curb(&mut self, what: &Measure) {
        if let Measure::Release(server) = what {
            self.waiting.wake_server(server);
            self.room = true;
        }
    }
}

fn words(by: Option<&ByHand>) -> (String, Vec<KeyName>) {
    by.map(|by| (by.reason.clone(), by.named())).unwrap_or_default()
}
