//! Whether a server may go down now, and if not, the one reason that binds.
//!
//! Owns [`Obstacle`] and the check of all limits together (DESIGN 9, rule 3). Main invariant: what is explained
//! to people is what was decided: `why`, the answer to a claim and the choice of who starts share this code.

use std::cell::OnceCell;

use lunar_common::health::Verdict;
use lunar_common::ids::{CampaignId, ServerId};
use lunar_common::lease::{Lapse, LimitScope, Occupancy, WaitReason};
use lunar_common::limits::Tier;
use lunar_common::pause::PauseScope;
use lunar_common::phase::Phase;
use lunar_common::time::{Now, WallTime, millis};

use crate::coordinator::Coordinator;
use crate::event::Member;
use crate::ledger::waiting::{Class, Entry};
use crate::state::Server;

/// Holders named in one explanation.
const HOLDERS_NAMED: usize = 5;

/// Claims looked at, oldest first, for one that a slot must be kept for.
const PATIENT_LOOKED_AT: usize = 16;

/// Why a server may not go down now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// A halt is in force.
    Halted,
    /// The plan has expired.
    PlanExpired,
    /// The log is older than what was granted, and not everyone has reported.
    Recovering,
    /// This part of the campaign is paused.
    Paused(PauseScope),
    /// People have paused this part of the campaign.
    PausedByHand(PauseScope),
    /// People hold this server back.
    Quarantined,
    /// People have cancelled the plan in force.
    Cancelled,
    /// A stage that its stage waits for has not passed.
    Gate { stage: u16, before: u16 },
    /// The wave of its stage is full.
    Wave(u16),
    /// No stage of the plan selects it.
    NoStage,
    /// People have not approved its batch, or not in a way that counts now.
    Unapproved(Lapse),
    /// Servers that go before it are not done.
    Order,
    /// A limit is reached.
    Full(LimitScope),
    /// A limit has one slot left, which is kept for a claim that waited too long.
    Kept(LimitScope),
    /// It holds a lease.
    HoldsLease,
    /// It has not been heard from.
    Unreachable,
    /// Its enrolment has expired.
    EnrolmentExpired,
    /// It says that it is not healthy.
    NotHealthy(Verdict),
    /// It has not claimed, or so long ago that a grant would be dead on arrival.
    NotClaimed,
    /// Its tier's or its stage's windows are closed, or close too soon; when the next one opens.
    OutsideWindow { of_stage: bool, opens: Option<WallTime> },
}

/// A slot in each scope of a claim that waited too long while others took turns.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) place: u64,
    scopes: Vec<LimitScope>,
}

impl Coordinator {
    /// The first obstacle in a server's way, `None` if it may go down now. `entry` is its waiting claim; what is kept is
    /// looked up only if nothing else stands in the way, once in each choice.
    pub(crate) fn obstacle(
        &self,
        server: &Server,
        campaign: &CampaignId,
        entry: Option<&Entry>,
        kept: &OnceCell<Option<Kept>>,
        now: Now,
    ) -> Option<Obstacle> {
        self.own_obstacle(server, campaign, entry, now).or_else(|| {
            let kept = kept.get_or_init(|| self.kept(now)).as_ref();
            self.kept_scope(campaign, &server.member, entry, kept).map(Obstacle::Kept)
        })
    }

    /// The same, whatever is kept for others.
    fn own_obstacle(
        &self,
        server: &Server,
        campaign: &CampaignId,
        entry: Option<&Entry>,
        now: Now,
    ) -> Option<Obstacle> {
        self.obstacle_of_campaign(campaign, now)
            .or_else(|| self.obstacle_of_pause(campaign, &server.member))
            .or_else(|| self.obstacle_by_hand(campaign, &server.member))
            .or_else(|| self.obstacle_of_stage(campaign, self.stage_of(campaign, &server.member.server)))
            .or_else(|| self.obstacle_of_approval(campaign, &server.member.server, now))
            .or_else(|| self.obstacle_of_order(campaign, &server.member.server))
            .or_else(|| self.obstacle_of_server(server, campaign, entry, now))
            .or_else(|| {
                let stage = self.stage_of(campaign, &server.member.server);
                self.outside_window(campaign, server.member.tier, stage, now)
            })
            .or_else(|| self.full_scope(campaign, &server.member).map(Obstacle::Full))
    }

    /// What stops every start of a campaign.
    pub(crate) fn obstacle_of_campaign(&self, campaign: &CampaignId, now: Now) -> Option<Obstacle> {
        if self.state.halt(campaign).is_some() {
            return Some(Obstacle::Halted);
        }
        if self.state.curbs.cancelled(campaign).is_some() {
            return Some(Obstacle::Cancelled);
        }
        let terms = &self.state.campaigns.get(campaign)?.terms;
        if now.wall >= terms.expires {
            return Some(Obstacle::PlanExpired);
        }
        self.state.restored.then_some(Obstacle::Recovering)
    }

    /// What stops one server whatever the others do.
    fn obstacle_of_server(
        &self,
        server: &Server,
        campaign: &CampaignId,
        entry: Option<&Entry>,
        now: Now,
    ) -> Option<Obstacle> {
        let member = &server.member;
        if self.state.leases.contains_key(&member.server) {
            return Some(Obstacle::HoldsLease);
        }
        let seen = match self.fleet.seen(&member.server) {
            Some(seen) if !seen.silent => seen,
            Some(_) | None => return Some(Obstacle::Unreachable),
        };
        if member.expires.is_some_and(|expires| now.wall >= expires) {
            return Some(Obstacle::EnrolmentExpired);
        }
        if seen.verdict == Verdict::Unhealthy || seen.is_unwell(&self.config) {
            return Some(Obstacle::NotHealthy(seen.verdict));
        }
        let Some(entry) = entry else { return Some(Obstacle::NotClaimed) };
        if entry.verdict != Verdict::Healthy {
            return Some(Obstacle::NotHealthy(entry.verdict));
        }
        // The holder's time to start runs from the claim's sending: half of it must be left.
        let terms = &self.state.campaigns.get(campaign)?.terms;
        (millis(now.moment.since(entry.claimed)) > terms.start_within_ms / 2).then_some(Obstacle::NotClaimed)
    }

    /// The narrowest scope of a member that has no slot left. The member itself takes none: it would have
    /// met an obstacle of its own.
    pub(crate) fn full_scope(&self, campaign: &CampaignId, member: &Member) -> Option<LimitScope> {
        narrowest_first(member).find(|scope| self.is_full(campaign, scope))
    }

    /// Whether a scope has no slot left for a start in this campaign.
    pub(crate) fn is_full(&self, campaign: &CampaignId, scope: &LimitScope) -> bool {
        self.limit(campaign, scope).is_some_and(|limit| self.occupancies.taken(scope) >= limit)
    }

    /// The limit that a start in this campaign must respect: its own, and that of every campaign that has
    /// servers down now. What is down counts for all of them, so the strictest binds.
    pub(crate) fn limit(&self, campaign: &CampaignId, scope: &LimitScope) -> Option<u32> {
        let others = self.state.live.keys().filter(|other| *other != campaign);
        std::iter::once(campaign).chain(others).filter_map(|of| self.limit_of(of, scope)).min()
    }

    fn kept_scope(
        &self,
        campaign: &CampaignId,
        member: &Member,
        entry: Option<&Entry>,
        kept: Option<&Kept>,
    ) -> Option<LimitScope> {
        let kept = kept?;
        if entry.is_some_and(|entry| entry.place <= kept.place) {
            return None;
        }
        narrowest_first(member).find(|scope| {
            kept.scopes.contains(scope)
                && self
                    .limit(campaign, scope)
                    .is_some_and(|limit| self.occupancies.taken(scope).saturating_add(1) >= limit)
        })
    }

    /// The oldest claim that has waited longer than patience allows, though nothing stands in its way but
    /// servers that will be back. Without this, servers that need one slot each could take turns for ever
    /// before one that needs two at the same time. A scope held by servers that may never be back is not
    /// waited for: then the others go on.
    pub(crate) fn kept(&self, now: Now) -> Option<Kept> {
        let is_open = |campaign: &CampaignId, stage: u16| self.obstacle_of_stage(campaign, stage).is_none();
        let is_paused = |class: &Class| self.is_class_paused(class);
        self.waiting.oldest_in_open(is_open, is_paused, PATIENT_LOOKED_AT).find_map(|(key, entry)| {
            if now.moment.since(entry.since) < self.config.patience {
                return None;
            }
            let server = self.state.servers.get(&key.0)?;
            match self.own_obstacle(server, &key.1, Some(entry), now)? {
                Obstacle::Full(_) => {}
                Obstacle::Halted
                | Obstacle::PlanExpired
                | Obstacle::Recovering
                | Obstacle::Paused(_)
                | Obstacle::PausedByHand(_)
                | Obstacle::Quarantined
                | Obstacle::Cancelled
                | Obstacle::Gate { .. }
                | Obstacle::Wave(_)
                | Obstacle::NoStage
                | Obstacle::Unapproved(_)
                | Obstacle::Order
                | Obstacle::Kept(_)
                | Obstacle::HoldsLease
                | Obstacle::Unreachable
                | Obstacle::EnrolmentExpired
                | Obstacle::NotHealthy(_)
                | Obstacle::NotClaimed
                | Obstacle::OutsideWindow { .. } => return None,
            }
            let scopes: Vec<LimitScope> = narrowest_first(&server.member).collect();
            let comes_free = scopes.iter().all(|scope| self.comes_free(&key.1, scope));
            comes_free.then_some(Kept { place: entry.place, scopes })
        })
    }

    /// Whether a scope has room, or will have as soon as leases are given back.
    fn comes_free(&self, campaign: &CampaignId, scope: &LimitScope) -> bool {
        let Some(limit) = self.limit(campaign, scope) else { return true };
        let stuck = self.occupancies.in_scope(scope).filter(|(_, why)| match why {
            Occupancy::Granted | Occupancy::Active => false,
            Occupancy::Lost | Occupancy::Unhealthy | Occupancy::Unreachable => true,
        });
        stuck.take(limit as usize).count() < limit as usize
    }

    /// An obstacle in the words of the wire.
    pub(crate) fn explain(
        &self,
        obstacle: Obstacle,
        server: &ServerId,
        campaign: &CampaignId,
        now: Now,
    ) -> WaitReason {
        match obstacle {
            Obstacle::Halted => WaitReason::Halted {
                why: self.state.halt(campaign).map(|(_, halt)| halt.reason.clone()).unwrap_or_default(),
            },
            Obstacle::PlanExpired => WaitReason::PlanExpired,
            Obstacle::Recovering => WaitReason::Recovering {
                unheard: u32::try_from(self.fleet.unheard.len()).unwrap_or(u32::MAX),
            },
            Obstacle::Paused(scope) => self.explain_pause(campaign, scope),
            Obstacle::PausedByHand(scope) => self.explain_pause_by_hand(campaign, scope),
            Obstacle::Quarantined => self.explain_quarantine(server),
            Obstacle::Cancelled => self.explain_cancelled(campaign),
            Obstacle::Gate { stage, before } => self.explain_gate(campaign, stage, before, now),
            Obstacle::Wave(stage) => self.explain_wave(campaign, stage),
            Obstacle::NoStage => WaitReason::NoStage,
            Obstacle::Unapproved(lapse) => self.explain_approval(campaign, server, lapse),
            Obstacle::Order => self.explain_order(campaign, server),
            Obstacle::Full(scope) => WaitReason::Limit {
                limit: self.limit(campaign, &scope).unwrap_or(u32::MAX),
                taken: self.occupancies.taken(&scope),
                holders: self.occupancies.holders(&scope, HOLDERS_NAMED),
                scope,
            },
            Obstacle::Kept(_) => {
                let entry = self.waiting.get(&(server.clone(), campaign.clone()));
                let ahead = entry.map_or(self.waiting.len(), |entry| self.waiting.before(entry.place));
                WaitReason::Behind { ahead: u32::try_from(ahead).unwrap_or(u32::MAX) }
            }
            Obstacle::HoldsLease => match self.state.leases.get(server) {
                Some(lease) => WaitReason::HoldsLease { lease: lease.id, state: lease.state },
                None => unreachable!("a server held back by its lease has one"),
            },
            Obstacle::Unreachable => WaitReason::Unreachable {
                silent_ms: self.fleet.seen(server).map(|seen| millis(now.moment.since(seen.heard))),
            },
            Obstacle::EnrolmentExpired => WaitReason::EnrolmentExpired,
            Obstacle::NotHealthy(verdict) => WaitReason::NotHealthy { verdict },
            Obstacle::NotClaimed => {
                WaitReason::NotClaimed { phase: self.phase(server, campaign).unwrap_or(Phase::Scheduled) }
            }
            Obstacle::OutsideWindow { of_stage, opens } => {
                let member = self.state.servers.get(server).map(|record| &record.member);
                let tier = member.map_or(Tier::One, |member| member.tier);
                let stage = self.stage_of(campaign, server);
                self.explain_window(campaign, tier, stage, of_stage, opens, now)
            }
        }
    }

    /// Where a server is in a campaign: by its word in this life, else by its journal in the log.
    pub(crate) fn phase(&self, server: &ServerId, campaign: &CampaignId) -> Option<Phase> {
        match self.fleet.status(server, campaign) {
            Some(status) => Some(status.phase),
            None => self.state.servers.get(server)?.progress.get(campaign)?.phase,
        }
    }
}

/// A member's scopes, the one with the fewest servers first: the reason that names it says most.
fn narrowest_first(member: &Member) -> impl Iterator<Item = LimitScope> + use<> {
    [
        member.group.clone().map(LimitScope::Group),
        Some(LimitScope::Cluster(member.cluster.clone())),
        Some(LimitScope::Site(member.site.clone())),
        Some(LimitScope::Tier(member.tier)),
        Some(LimitScope::Fleet),
    ]
    .into_iter()
    .flatten()
}
