//! The pauses in force, and what they keep from starting.
//!
//! Owns [`Pauses`]. Main invariant: what a rule has found is in force before anything is granted after it, by an event
//! that carries its evidence; it outlives new plans and new lives, and ends by a signed resume that names it, and by
//! nothing else. A crash between the evidence and the event loses nothing: the evidence is in the log, and leads there
//! again.

use std::collections::{BTreeMap, BTreeSet};

use lunar_common::document::Resume;
use lunar_common::ids::{CampaignId, DocumentHash, KeyName, PauseId, ServerId, SiteId};
use lunar_common::lease::{LeaseState, WaitReason};
use lunar_common::limits::Tier;
use lunar_common::pause::{Pause, PauseScope};
use lunar_common::plan::StopRules;

use crate::campaign::rules::Labels;
use crate::coordinator::Coordinator;
use crate::event::{EventBody, Member};
use crate::ledger::Obstacle;
use crate::ledger::waiting::Class;
use crate::view::PauseView;

/// Whether a server of this tier and site is in a scope, as far as its labels are known.
pub(crate) fn covers(scope: &PauseScope, tier: Tier, site: &SiteId, labels: Option<&Labels>) -> bool {
    match scope {
        PauseScope::Campaign => true,
        PauseScope::Tier(of) => *of == tier,
        PauseScope::Site(of) => of == site,
        PauseScope::Model { label, value } => labels.and_then(|labels| labels.get(label)) == Some(value),
    }
}

type ByScope = BTreeMap<PauseScope, Pause>;

/// Pauses by campaign and scope: one in each at most, the first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pauses {
    in_force: BTreeMap<CampaignId, ByScope>,
    /// Found by a rule, and not in the log yet.
    due: BTreeMap<(CampaignId, PauseScope), Pause>,
}

impl Pauses {
    /// A rule has found something. Where there is a pause already, there is nothing to add.
    pub(crate) fn propose(&mut self, pause: Pause) {
        if !self.of(&pause.campaign).any(|known| known.scope == pause.scope) {
            self.due.entry((pause.campaign.clone(), pause.scope.clone())).or_insert(pause);
        }
    }

    pub(crate) fn begin(&mut self, pause: &Pause) {
        self.due.remove(&(pause.campaign.clone(), pause.scope.clone()));
        self.in_force.entry(pause.campaign.clone()).or_default().insert(pause.scope.clone(), pause.clone());
    }

    pub(crate) fn end(&mut self, campaign: &CampaignId, scope: &PauseScope) {
        let Some(scopes) = self.in_force.get_mut(campaign) else { return };
        scopes.remove(scope);
        if scopes.is_empty() {
            self.in_force.remove(campaign);
        }
    }

    /// Those of a campaign, the widest first.
    pub(crate) fn of(&self, campaign: &CampaignId) -> impl Iterator<Item = &Pause> {
        self.in_force.get(campaign).into_iter().flat_map(BTreeMap::values)
    }

    pub(crate) fn in_scope(&self, campaign: &CampaignId, scope: &PauseScope) -> Option<&Pause> {
        self.in_force.get(campaign)?.get(scope)
    }

    fn next_due(&self) -> Option<&Pause> {
        self.due.values().next()
    }
}

impl Coordinator {
    /// Puts down by which rules a plan is watched, unless that is known, or nothing can ever meet them. Comes before the
    /// plan's own event; a plan that came into force before there were such rules is watched from here on.
    pub(crate) fn watch_by(&mut self, campaign: &CampaignId, plan: DocumentHash, rules: &StopRules) {
        let watched = self.state.campaigns.get(campaign).and_then(|found| found.watch.as_ref());
        let waits = self.state.stops_next.get(campaign).map(|(of, _)| *of);
        let known = watched.map(|watch| watch.plan()) == Some(plan) || waits == Some(plan);
        if !known && *rules != StopRules::never() {
            let (campaign, rules) = (campaign.clone(), rules.clone());
            self.record(EventBody::StopRules { campaign, plan, rules });
        }
    }

    /// What the rules have found is in force from here on.
    pub(crate) fn pause_what_is_due(&mut self) {
        while let Some(pause) = self.state.pauses.next_due().cloned() {
            self.record(EventBody::Paused { pause });
        }
    }

    /// Ends the pauses that a resume names, as far as they are in force.
    pub(crate) fn end_pauses(&mut self, resume: &Resume, signers: &BTreeSet<KeyName>) {
        let Some(campaign) = &resume.campaign else { return };
        let ended: Vec<(PauseScope, PauseId)> = self
            .state
            .pauses
            .of(campaign)
            .map(|pause| (pause.scope.clone(), pause.id()))
            .filter(|(_, id)| resume.pauses.contains(id))
            .collect();
        let by_hand = self.state.curbs.pauses(campaign).map(|(scope, by)| (scope.clone(), by.id));
        let by_hand: Vec<_> = by_hand.filter(|(_, id)| resume.pauses.contains(id)).collect();
        for (scope, pause) in ended.into_iter().chain(by_hand) {
            self.record(EventBody::Unpaused {
                campaign: campaign.clone(),
                scope,
                pause,
                sequence: resume.sequence,
                reason: resume.reason.clone(),
                signers: signers.clone(),
            });
        }
    }

    /// A lost lease's server has fallen silent, or a silent server's lease was lost: it is put down once.
    pub(crate) fn note_silence(&mut self, server: &ServerId) {
        if self.is_silence_news(server) && self.fleet.seen(server).is_none_or(|seen| seen.silent) {
            let lease = self.state.leases.get(server).expect("its lease was looked at").id;
            self.record(EventBody::FellSilent { server: server.clone(), lease });
            self.pause_what_is_due();
        }
    }

    /// Whether a server's silence would tell something that the log does not: it holds a lost lease by a plan that is
    /// watched.
    pub(crate) fn is_silence_news(&self, server: &ServerId) -> bool {
        let lease = self.state.leases.get(server).filter(|lease| lease.state == LeaseState::Lost);
        let Some(task) = lease.and_then(|lease| lease.task.as_ref()) else { return false };
        let watch = self.state.campaigns.get(&task.campaign).and_then(|found| found.watch.as_ref());
        watch.is_some_and(|watch| watch.plan() == task.plan && !watch.is_silent(server))
    }

    /// Whether all starts in a scope are paused.
    pub(crate) fn is_paused(&self, campaign: &CampaignId, scope: &PauseScope) -> bool {
        self.state.pauses.in_scope(campaign, scope).is_some() || self.is_paused_by_hand(campaign, scope)
    }

    /// Whether all claims of a class are paused.
    pub(crate) fn is_class_paused(&self, class: &Class) -> bool {
        let covered = |pause: &Pause| covers(&pause.scope, class.tier, &class.site, None);
        self.state.pauses.of(&class.campaign).any(covered) || self.is_class_paused_by_hand(class)
    }

    /// The widest pause that keeps a member from starting.
    pub(crate) fn obstacle_of_pause(&self, campaign: &CampaignId, member: &Member) -> Option<Obstacle> {
        let labels = self.state.labels.get(&member.server).map(|labels| &**labels);
        let stops = |pause: &&Pause| covers(&pause.scope, member.tier, &member.site, labels);
        self.state.pauses.of(campaign).find(stops).map(|pause| Obstacle::Paused(pause.scope.clone()))
    }

    pub(crate) fn explain_pause(&self, campaign: &CampaignId, scope: PauseScope) -> WaitReason {
        match self.state.pauses.in_scope(campaign, &scope) {
            Some(pause) => WaitReason::Paused {
                scope,
                pause: pause.id(),
                server: pause.server.clone(),
                anomaly: pause.anomaly,
            },
            None => WaitReason::Behind { ahead: 0 },
        }
    }

    /// A campaign's pauses, for those who ask.
    pub(crate) fn pause_views(&self, campaign: &CampaignId) -> Vec<PauseView> {
        let view = |pause: &Pause| PauseView {
            id: pause.id(),
            pause: pause.clone(),
            told: pause.anomaly.to_string(),
        };
        self.state.pauses.of(campaign).map(view).collect()
    }
}
