//! Answers to those who ask.
//!
//! Owns the read-only views. Main invariant: asking changes nothing, and answers come from the state and the
//! code that decide.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use lunar_common::enrolment::Role;
use lunar_common::ids::{CampaignId, ServerId};
use lunar_common::lease::{LimitScope, WaitReason};
use lunar_common::limits::Tier;
use lunar_common::message::BytesBySource;
use lunar_common::phase::Phase;
use lunar_common::time::{Now, millis};

use crate::coordinator::Coordinator;
use crate::state::{Campaign, Server};
use crate::timers::Timer;
use crate::view::{CampaignView, HaltView, LeaseView, LimitView, ServerView, StatusView, Why};

/// Holders named for each limit.
const HOLDERS_LISTED: usize = 100;

impl Coordinator {
    /// The coordinator in one look.
    #[must_use]
    pub fn status(&self) -> StatusView {
        StatusView {
            epoch: self.state.epoch,
            fence: self.state.fence,
            restored: self.state.restored,
            servers: self.state.servers.values().filter(|server| server.is_counted()).count(),
            unheard: self.fleet.unheard.len(),
            waiting: self.waiting.len(),
            leases: self.state.leases.len(),
            halts: self
                .state
                .halts
                .iter()
                .map(|(campaign, halt)| HaltView {
                    campaign: campaign.clone(),
                    sequence: halt.sequence,
                    reason: halt.reason.clone(),
                })
                .collect(),
            curbs: self.state.curbs.seen(None),
        }
    }

    /// Every lease that takes a slot, by server.
    #[must_use]
    pub fn leases(&self, now: Now) -> Vec<LeaseView> {
        self.state.leases.keys().filter_map(|server| self.lease(server, now)).collect()
    }

    /// The first few of those leases whose servers' names come behind one.
    #[must_use]
    pub fn leases_behind(&self, behind: Option<&ServerId>, most: usize, now: Now) -> Vec<LeaseView> {
        let names = self.state.leases.range(range_behind(behind)).map(|(server, _)| server);
        names.filter_map(|server| self.lease(server, now)).take(most).collect()
    }

    fn lease(&self, server: &ServerId, now: Now) -> Option<LeaseView> {
        let lease = self.state.leases.get(server)?;
        let due = self.timers.at(&Timer::Lease(server.clone()));
        Some(LeaseView {
            lease: lease.id,
            server: server.clone(),
            campaign: lease.task.as_ref().map(|task| task.campaign.clone()),
            attempt: lease.task.as_ref().map(|task| task.attempt),
            state: lease.state,
            started: lease.started,
            epoch: lease.epoch,
            fence: lease.fence,
            for_ms: self.watched.get(server).map_or(0, |watched| millis(now.moment.since(watched.since))),
            lost_in_ms: due.map(|due| millis(due.since(now.moment))),
        })
    }

    /// Every campaign known.
    #[must_use]
    pub fn campaigns(&self) -> Vec<CampaignView> {
        self.state.campaigns.iter().map(|(id, campaign)| self.campaign_view(id, campaign)).collect()
    }

    /// One campaign.
    #[must_use]
    pub fn campaign(&self, campaign: &CampaignId) -> Option<CampaignView> {
        self.state.campaigns.get(campaign).map(|found| self.campaign_view(campaign, found))
    }

    fn campaign_view(&self, id: &CampaignId, campaign: &Campaign) -> CampaignView {
        let terms = &campaign.terms;
        let mut phases = BTreeMap::new();
        let mut received = BytesBySource::default();
        let mut selected = 0;
        for server in self.selected_by(campaign) {
            selected += 1;
            let name = &server.member.server;
            if let Some(phase) = self.phase(name, id) {
                *phases.entry(phase).or_default() += 1;
            }
            if let Some(status) = self.fleet.status(name, id) {
                received.site = received.site.saturating_add(status.received.site);
                received.sites = received.sites.saturating_add(status.received.sites);
                received.earth = received.earth.saturating_add(status.received.earth);
                received.local = received.local.saturating_add(status.received.local);
            }
        }
        CampaignView {
            campaign: id.clone(),
            generation: terms.generation,
            plan: terms.plan,
            expires: terms.expires,
            halted: self.state.halt(id).map(|(campaign, halt)| HaltView {
                campaign,
                sequence: halt.sequence,
                reason: halt.reason.clone(),
            }),
            selected,
            phases,
            waiting: self.waiting.count_in(id),
            leases: self.state.live.get(id).copied().unwrap_or_default(),
            outcomes: campaign.outcomes,
            received,
            limits: terms.limits.clone(),
            stages: self.stage_views(id),
            pauses: self.pause_views(id),
            by_hand: self.hand_view(id),
        }
    }

    fn selected_by<'a>(&'a self, campaign: &'a Campaign) -> impl Iterator<Item = &'a Server> {
        self.state
            .servers
            .values()
            .filter(|server| server.is_counted() && self.state.selects(campaign, &server.member))
    }

    /// Servers known that a plan could upgrade, by name, the first few of those behind one: coordinators and origins are
    /// none. Those that are out are among them, and say so: whoever looks for one must not think it was never there.
    #[must_use]
    pub fn servers_behind(&self, behind: Option<&ServerId>, most: usize, now: Now) -> Vec<ServerView> {
        let known = self.state.servers.range(range_behind(behind));
        let upgraded = known.filter(|server| server.member.role == Role::Agent);
        upgraded.filter_map(|server| self.server(&server.member.server, now)).take(most).collect()
    }

    /// One server.
    #[must_use]
    pub fn server(&self, server: &ServerId, now: Now) -> Option<ServerView> {
        let record = self.state.servers.get(server)?;
        let seen = self.fleet.seen(server);
        Some(ServerView {
            member: (*record.member).clone(),
            revoked: record.revoked,
            written_off: record.written_off,
            quarantined: self.state.curbs.quarantined(server).cloned(),
            silent_ms: seen.map(|seen| millis(now.moment.since(seen.heard))),
            verdict: seen.map(|seen| seen.verdict),
            occupancy: self.occupancies.why(server),
            lease: self.lease(server, now),
            campaigns: seen.map(|seen| seen.campaigns.clone()).unwrap_or_default(),
            phases: record
                .progress
                .iter()
                .filter_map(|(campaign, progress)| progress.phase.map(|phase| (campaign.clone(), phase)))
                .collect(),
        })
    }

    /// The limits that a start in this campaign must respect now, with what is taken of each: those scopes in
    /// which a slot is taken or that the campaign's servers are in. `None`: no such campaign.
    #[must_use]
    pub fn limits(&self, campaign: &CampaignId) -> Option<Vec<LimitView>> {
        let found = self.state.campaigns.get(campaign)?;
        let mut scopes: BTreeSet<LimitScope> = self.occupancies.scopes().cloned().collect();
        for server in self.selected_by(found) {
            scopes.extend(server.member.scopes());
        }
        let view = |scope: LimitScope| LimitView {
            limit: self.limit(campaign, &scope),
            taken: self.occupancies.taken(&scope),
            holders: self.occupancies.holders(&scope, HOLDERS_LISTED),
            scope,
        };
        Some(scopes.into_iter().map(view).collect())
    }

    /// Why a server is not upgrading now: one answer for each campaign that selects it, from the code that
    /// decides. `None`: no such server.
    #[must_use]
    pub fn why(&self, server: &ServerId, now: Now) -> Option<Vec<Why>> {
        let record = self.state.servers.get(server)?;
        let selecting = |campaign: &&CampaignId| {
            !record.revoked
                && self.state.campaigns.get(campaign).is_some_and(|of| self.state.selects(of, &record.member))
        };
        let answers: Vec<Why> = self
            .state
            .campaigns
            .keys()
            .filter(selecting)
            .map(|campaign| Why::new(server, Some(campaign), self.why_in(record, campaign, now)))
            .collect();
        if answers.is_empty() {
            return Some(vec![Why::new(server, None, WaitReason::NoCampaign)]);
        }
        Some(answers)
    }

    fn why_in(&self, record: &Server, campaign: &CampaignId, now: Now) -> WaitReason {
        let server = &record.member.server;
        if let Some(lease) = self.state.leases.get(server) {
            return WaitReason::HoldsLease { lease: lease.id, state: lease.state };
        }
        if let Some(phase) =
            self.phase(server, campaign).filter(|phase| self.is_done(record, campaign, *phase))
        {
            return WaitReason::Done { phase };
        }
        let entry = self.waiting.get(&(server.clone(), campaign.clone()));
        match self.obstacle(record, campaign, entry, &OnceCell::new(), now) {
            Some(obstacle) => self.explain(obstacle, server, campaign, now),
            // Nothing is in its way: it is granted at the next turn of the loop that let us ask.
            None => WaitReason::Behind { ahead: 0 },
        }
    }

    /// Servers of a tier that a campaign has still to bring to an end. Those that were written off are not waited for.
    pub(crate) fn left_to_do(&self, campaign: &CampaignId, tier: Tier) -> u64 {
        let Some(found) = self.state.campaigns.get(campaign) else { return 0 };
        let left = self.selected_by(found).filter(|record| {
            let phase = self.phase(&record.member.server, campaign);
            record.member.tier == tier
                && !record.written_off
                && !phase.is_some_and(|phase| self.is_done(record, campaign, phase))
        });
        u64::try_from(left.count()).unwrap_or(u64::MAX)
    }

    /// Whether nothing is left to do for a server in a campaign by the plan in force.
    fn is_done(&self, record: &Server, campaign: &CampaignId, phase: Phase) -> bool {
        if !matches!(phase, Phase::Complete | Phase::Failed) {
            return false;
        }
        let Some(found) = self.state.campaigns.get(campaign) else { return false };
        match self.fleet.status(&record.member.server, campaign) {
            Some(status) => status.plan == found.terms.plan,
            None => record
                .progress
                .get(campaign)
                .and_then(|progress| progress.attempts.as_ref())
                .is_some_and(|attempts| attempts.plan == found.terms.plan),
        }
    }
}

/// All names behind one, or all there are.
fn range_behind(behind: Option<&ServerId>) -> (Bound<&ServerId>, Bound<&ServerId>) {
    (behind.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
}
