//! Claims: who asks, whether it could ever be granted, and what is answered now.
//!
//! Owns the answer to a claim. Main invariant: claims are idempotent by (server, campaign, attempt): sent again,
//! a claim finds its place or its lease, and never a second one (DESIGN 9, rule 6).

use std::cell::OnceCell;
use std::time::Duration;

use lunar_common::health::Verdict;
use lunar_common::ids::{PeerKey, ServerId};
use lunar_common::lease::{Claim, ClaimRefusal, LeaseState, LimitScope, WaitReason};
use lunar_common::order::draw_below;
use lunar_common::time::{Now, millis};

use crate::coordinator::Coordinator;
use crate::effect::Answer;
use crate::event::{EventBody, Evidence, Task};
use crate::input::RequestId;
use crate::ledger::Obstacle;
use crate::ledger::waiting::{Class, Sending};

impl Coordinator {
    pub(super) fn claim(&mut self, request: RequestId, from: PeerKey, claim: &Claim, now: Now) {
        if let Err(refusal) = self.check_claim(from, claim) {
            return self.answer(request, Answer::Refused(refusal));
        }
        match self.is_above(claim.epoch_seen, claim.fence_seen) {
            Err(reason) => return self.answer(request, Answer::Invalid { reason }),
            Ok(true) => self.catch_up(&claim.server, claim.epoch_seen, claim.fence_seen, now),
            Ok(false) => {}
        }
        if let Some(answer) = self.claim_of_holder(claim, now) {
            return self.answer(request, answer);
        }
        if let Err(refusal) = self.check_attempt(claim) {
            return self.answer(request, Answer::Refused(refusal));
        }
        let class = self.enqueue(claim, now);
        let mut mine = None;
        for grant in self.choose(Some(&class), now) {
            if grant.server == claim.server && grant.campaign == claim.campaign {
                mine = Some(grant);
            } else {
                self.push(grant);
            }
        }
        let answer = match mine {
            Some(grant) => Answer::Granted(grant),
            None => self.wait(claim, now),
        };
        self.answer(request, answer);
    }

    /// What makes a claim one that could never be granted.
    fn check_claim(&self, from: PeerKey, claim: &Claim) -> Result<(), ClaimRefusal> {
        let member = match self.state.member(&from) {
            Some(server) if server.member.server == claim.server => &server.member,
            Some(_) | None => return Err(ClaimRefusal::NotYourServer),
        };
        let campaign = self.state.campaigns.get(&claim.campaign).ok_or(ClaimRefusal::UnknownCampaign)?;
        let wanted = campaign.terms.plan;
        if wanted != claim.plan {
            return Err(ClaimRefusal::OtherPlan { wanted, found: claim.plan });
        }
        if !self.state.selects(campaign, member) {
            return Err(ClaimRefusal::NotSelected);
        }
        Ok(())
    }

    /// The answer to a server that holds a lease, if that is all there is to say.
    fn claim_of_holder(&mut self, claim: &Claim, now: Now) -> Option<Answer> {
        let lease = self.state.leases.get(&claim.server)?;
        let task = lease.task.as_ref().filter(|task| task.campaign == claim.campaign)?;
        if lease.started && task.plan == claim.plan && task.attempt == claim.attempt {
            // An old sending: who has started claims under another number. Queued, it would be granted a second
            // lease once this one is released.
            return Some(Answer::Refused(ClaimRefusal::AttemptOver(claim.attempt)));
        }
        if lease.started || lease.nonce.is_none() {
            // It is down, or holds what it was given before our time: the claim waits for that to end.
            return None;
        }
        if task.plan != claim.plan {
            // The claim proves that the server goes by the newer plan: it refuses the grant by the old one
            // from now on, whether that has arrived or not.
            let event = EventBody::Released {
                server: claim.server.clone(),
                lease: lease.id,
                fence: lease.fence,
                task: Some(task.clone()),
                evidence: Evidence::NewerPlan,
            };
            self.record(event);
            return None;
        }
        if task.attempt != claim.attempt {
            return None;
        }
        let member = &self.state.servers.get(&claim.server)?.member;
        let stage = self.stage_of(&claim.campaign, &claim.server);
        let obstacle = self
            .obstacle_of_campaign(&claim.campaign, now)
            .or_else(|| self.obstacle_of_pause(&claim.campaign, member))
            .or_else(|| self.obstacle_by_hand(&claim.campaign, member))
            .or_else(|| self.obstacle_of_approval(&claim.campaign, &claim.server, now))
            .or_else(|| self.outside_window(&claim.campaign, member.tier, stage, now));
        if let Some(obstacle) = obstacle {
            let reason = self.explain(obstacle, &claim.server, &claim.campaign, now);
            return Some(self.wait_for(reason, claim));
        }
        if claim.verdict != Verdict::Healthy {
            return Some(self.wait_for(WaitReason::NotHealthy { verdict: claim.verdict }, claim));
        }
        Some(self.grant_again(claim, now))
    }

    /// The same lease, for a newer sending of the claim. Only a sending that was not answered before is news.
    fn grant_again(&mut self, claim: &Claim, now: Now) -> Answer {
        let lease = self.state.leases.get(&claim.server).expect("the claimer holds its lease");
        let (id, state) = (lease.id, lease.state);
        let watched = self.watched.get_mut(&claim.server).expect("every lease is watched");
        if watched.answered.is_none_or(|answered| claim.nonce > answered) {
            watched.answered = Some(claim.nonce);
            if state == LeaseState::Lost {
                let server = claim.server.clone();
                self.record(EventBody::Found { server, lease: id, started: false });
            }
            self.watch_lease(&claim.server, now);
        }
        let lease = self.state.leases.get(&claim.server).expect("nothing has freed it since");
        Answer::Granted(lease.grant(&claim.server, claim.nonce).expect("it was granted for this claim"))
    }

    fn check_attempt(&self, claim: &Claim) -> Result<(), ClaimRefusal> {
        let server = self.state.servers.get(&claim.server).expect("the claimer is a member");
        let attempts = server.progress.get(&claim.campaign).and_then(|progress| progress.attempts.as_ref());
        let Some(attempts) = attempts.filter(|attempts| attempts.plan == claim.plan) else { return Ok(()) };
        if attempts.over == Some(claim.attempt) {
            return Err(ClaimRefusal::AttemptOver(claim.attempt));
        }
        if claim.attempt < attempts.highest {
            return Err(ClaimRefusal::AttemptBehind { found: claim.attempt, highest: attempts.highest });
        }
        let allowed = self.state.campaigns.get(&claim.campaign).map(|campaign| campaign.terms.attempts_max);
        match allowed {
            Some(allowed) if attempts.failures >= allowed => Err(ClaimRefusal::TooManyAttempts(allowed)),
            Some(_) | None => Ok(()),
        }
    }

    /// Gives a claim its place, the one it has if it has one.
    fn enqueue(&mut self, claim: &Claim, now: Now) -> Class {
        let task = Task { campaign: claim.campaign.clone(), plan: claim.plan, attempt: claim.attempt };
        if self.place(&claim.server, &task).is_none() {
            self.record(EventBody::Queued { server: claim.server.clone(), task: task.clone() });
        }
        let place = self.place(&claim.server, &task).expect("it was queued just now");
        let member = &self.state.servers.get(&claim.server).expect("the claimer is a member").member;
        let class = Class::of(&claim.campaign, self.stage_of(&claim.campaign, &claim.server), member);
        let sending = Sending { nonce: claim.nonce, at: now.moment, verdict: claim.verdict };
        self.waiting.put(member, class.clone(), task, place, sending);
        class
    }

    fn place(&self, server: &ServerId, task: &Task) -> Option<u64> {
        let queued = self.state.servers.get(server)?.progress.get(&task.campaign)?.queued.as_ref()?;
        (queued.task == *task).then_some(queued.place)
    }

    fn wait(&self, claim: &Claim, now: Now) -> Answer {
        let key = (claim.server.clone(), claim.campaign.clone());
        let server = self.state.servers.get(&claim.server).expect("the claimer is a member");
        let kept = OnceCell::new();
        let entry = self.waiting.get(&key);
        // A claim without an obstacle was granted above, so there is one.
        let obstacle =
            self.obstacle(server, &claim.campaign, entry, &kept, now).unwrap_or(Obstacle::NotClaimed);
        let reason = self.explain(obstacle, &claim.server, &claim.campaign, now);
        self.wait_for(reason, claim)
    }

    /// The hint is as long as the claim's turn cannot come, and grows with the queue, so that all that wait together do
    /// not hammer. It stays well below the time to start, so that a claim is never stale while its server lives; but
    /// whoever is far from the head of the queue may grow stale, and is told to come back when its turn may be near. A
    /// keyed draw takes up to a quarter off, so that claims that came together do not come back together.
    fn wait_for(&self, reason: WaitReason, claim: &Claim) -> Answer {
        let waiting = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        let campaign = self.state.campaigns.get(&claim.campaign).expect("the claim was checked");
        let away = self.turn_away(claim).unwrap_or_default();
        let hint = self
            .config
            .retry_after_min
            .saturating_add(self.config.retry_after_each.saturating_mul(waiting))
            .max(away)
            .min(self.config.retry_after_max)
            .min(Duration::from_millis(campaign.terms.start_within_ms / 4));
        let hint_ms = millis(if away >= self.config.retry_after_far { away } else { hint });
        let parts = [claim.server.as_str().as_bytes(), &claim.nonce.to_le_bytes()];
        let retry_after_ms = hint_ms - draw_below(hint_ms / 4, "claim-retry", &parts);
        Answer::Wait { reason, retry_after_ms }
    }

    /// For how long the turn of a claim cannot come, or the longest that is told. Claims of its campaign and tier that are
    /// set aside are not before it: they let it pass.
    fn turn_away(&self, claim: &Claim) -> Option<Duration> {
        let entry = self.waiting.get(&(claim.server.clone(), claim.campaign.clone()))?;
        let scopes = [LimitScope::Tier(entry.class.tier), LimitScope::Fleet];
        let slots = scopes.iter().filter_map(|scope| self.limit(&claim.campaign, scope)).min()?;
        let turns_max = self.config.retry_after_farthest.as_secs() / TURN_S_MIN;
        let at_once = u64::from(slots) + 1;
        let turns = self.waiting.ready_before(entry.place, &entry.class) as u64 / at_once;
        Some(Duration::from_secs(turns.min(turns_max) * TURN_S_MIN))
    }
}

/// The shortest that a server is taken to be down where it is guessed when a turn can come, in seconds.
const TURN_S_MIN: u64 = 30;
