//! Who of those that wait may start now.
//!
//! Owns the choice: oldest first, over all classes at once. Main invariant: after it ran, no claim that waits
//! could be granted (work is conserved), and none was passed over by a younger one that took a slot it could
//! have used. A claim that is blocked blocks nobody else.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use lunar_common::ids::{CampaignId, Fence, LeaseId, ServerId, SiteId};
use lunar_common::lease::{Grant, LimitScope};
use lunar_common::limits::Tier;
use lunar_common::pause::PauseScope;
use lunar_common::time::Now;

use crate::coordinator::Coordinator;
use crate::event::{EventBody, GrantedLease};
use crate::ledger::admit::{Kept, Obstacle};
use crate::ledger::lease::Lease;
use crate::ledger::waiting::{Class, Key};

/// What becomes of a claim that was looked at.
enum Judgement {
    /// It starts.
    Start,
    /// Nobody of its class can start: on to other classes.
    SkipClass,
    /// It cannot start, others of its class may.
    SkipClaim,
    /// It cannot start before its group has room.
    ParkByGroup,
    /// It cannot start before there is news of its server.
    ParkByItself,
}

impl Coordinator {
    /// Grants to everyone who may start, oldest first: in all classes, or in one. Every grant is in the log's
    /// effects when this returns, and none has been sent.
    pub(crate) fn choose(&mut self, only: Option<&Class>, now: Now) -> Vec<Grant> {
        let mut granted = Vec::new();
        if self.state.restored {
            return granted;
        }
        self.pause_what_is_due();
        let kept = OnceCell::new();
        let mut heads = match only {
            Some(class) => {
                self.waiting.head_from(class, 0).map(|place| (place, class.clone())).into_iter().collect()
            }
            None => self.open_heads(now),
        };
        while let Some((place, class)) = heads.pop_first() {
            let Some(key) = self.waiting.at(place).map(|(key, _)| key.clone()) else { continue };
            match self.judge(&key, &kept, now) {
                Judgement::Start => granted.push(self.grant(&key, now)),
                Judgement::SkipClass => continue,
                Judgement::SkipClaim => {}
                Judgement::ParkByGroup => self.waiting.park_by_group(&key),
                Judgement::ParkByItself => self.waiting.park_by_itself(&key),
            }
            if let Some(next) = self.waiting.head_from(&class, place + 1) {
                heads.insert(next, class);
            }
        }
        granted
    }

    fn judge(&self, key: &Key, kept: &OnceCell<Option<Kept>>, now: Now) -> Judgement {
        let (server, campaign) = key;
        let server = self.state.servers.get(server).expect("only members wait");
        let Some(obstacle) = self.obstacle(server, campaign, self.waiting.get(key), kept, now) else {
            return Judgement::Start;
        };
        match obstacle {
            Obstacle::Halted
            | Obstacle::PlanExpired
            | Obstacle::Recovering
            | Obstacle::Cancelled
            | Obstacle::Paused(PauseScope::Campaign | PauseScope::Tier(_) | PauseScope::Site(_))
            | Obstacle::PausedByHand(PauseScope::Campaign | PauseScope::Tier(_) | PauseScope::Site(_))
            | Obstacle::Gate { .. }
            | Obstacle::Wave(_)
            | Obstacle::NoStage => Judgement::SkipClass,
            Obstacle::Full(LimitScope::Group(_)) => Judgement::ParkByGroup,
            Obstacle::Full(_) | Obstacle::OutsideWindow { .. } => Judgement::SkipClass,
            Obstacle::Kept(LimitScope::Group(_)) => Judgement::SkipClaim,
            Obstacle::Kept(_) => Judgement::SkipClass,
            Obstacle::Unapproved(_)
            | Obstacle::Order
            | Obstacle::Quarantined
            | Obstacle::Paused(PauseScope::Model { .. })
            | Obstacle::PausedByHand(PauseScope::Model { .. })
            | Obstacle::HoldsLease
            | Obstacle::Unreachable
            | Obstacle::EnrolmentExpired
            | Obstacle::NotHealthy(_)
            | Obstacle::NotClaimed => Judgement::ParkByItself,
        }
    }

    /// The oldest ready claim of each class whose campaign, fleet, stage, tier and site have room. The classes come
    /// sorted by just these, so each is looked up once and not once a class.
    fn open_heads(&self, now: Now) -> BTreeMap<u64, Class> {
        let mut campaign: Option<(&CampaignId, bool)> = None;
        let mut stage: Option<(u16, bool)> = None;
        let mut tier: Option<(Tier, bool)> = None;
        let mut sites: BTreeMap<&SiteId, bool> = BTreeMap::new();
        let mut heads = BTreeMap::new();
        for (class, place) in self.waiting.heads() {
            if campaign.is_none_or(|(of, _)| *of != class.campaign) {
                let open = self.obstacle_of_campaign(&class.campaign, now).is_none()
                    && !self.is_paused(&class.campaign, &PauseScope::Campaign)
                    && !self.is_full(&class.campaign, &LimitScope::Fleet);
                campaign = Some((&class.campaign, open));
                stage = None;
                tier = None;
                sites.clear();
            }
            if !campaign.is_some_and(|(_, open)| open) {
                continue;
            }
            if stage.is_none_or(|(of, _)| of != class.stage) {
                stage = Some((class.stage, self.obstacle_of_stage(&class.campaign, class.stage).is_none()));
                tier = None;
            }
            if !stage.is_some_and(|(_, open)| open) {
                continue;
            }
            if tier.is_none_or(|(of, _)| of != class.tier) {
                let open = !self.is_full(&class.campaign, &LimitScope::Tier(class.tier))
                    && !self.is_paused(&class.campaign, &PauseScope::Tier(class.tier))
                    && self.outside_window(&class.campaign, class.tier, class.stage, now).is_none();
                tier = Some((class.tier, open));
            }
            let site_is_open = || {
                !self.is_full(&class.campaign, &LimitScope::Site(class.site.clone()))
                    && !self.is_paused(&class.campaign, &PauseScope::Site(class.site.clone()))
            };
            if tier.is_some_and(|(_, open)| open) && *sites.entry(&class.site).or_insert_with(site_is_open) {
                heads.insert(place, class.clone());
            }
        }
        heads
    }

    /// Grants a lease to a waiting claim: in the log and in the ledger, not sent.
    fn grant(&mut self, key: &Key, now: Now) -> Grant {
        let (server, campaign) = key;
        let entry = self.waiting.get(key).expect("only a waiting claim is granted");
        let terms = &self.state.campaigns.get(campaign).expect("a claim waits for a known campaign").terms;
        let fence: Fence = self.state.fence.next();
        let nonce = entry.nonce;
        let granted = GrantedLease {
            lease: LeaseId(fence.0),
            server: server.clone(),
            task: entry.task.clone(),
            nonce,
            epoch: self.state.epoch,
            fence,
            start_within_ms: terms.start_within_ms,
            down_max_ms: terms.down_max_ms,
        };
        self.record(EventBody::Granted(granted));
        self.watch_lease(server, now);
        self.held(server).grant(server, nonce).expect("a granted lease has a task")
    }

    fn held(&self, server: &ServerId) -> &Lease {
        self.state.leases.get(server).expect("the lease was granted just now")
    }
}
