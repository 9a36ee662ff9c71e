//! The server's own health, and what it answers to members of its group.
//!
//! Owns the slow pulse of probes outside an upgrade, and the questions waiting for the next one. Main
//! invariant: "up" is said only after a healthy round made for the occasion (or one just before), by a server
//! that is not down and holds no permission to go down. Refuses to answer those who are not of the group.

use std::time::Duration;

use lunar_common::bounds::GROUP_MEMBERS_MAX;
use lunar_common::health::{Outcome, Verdict, When};
use lunar_common::ids::{PeerKey, ProbeName};
use lunar_common::lease::{GroupAnswer, GroupQuestion};
use lunar_common::phase::Phase;
use lunar_common::plan::Plan;
use lunar_common::time::{Moment, Now};

use crate::desk::Desk;
use crate::effect::Effect;
use crate::health::complaint;
use crate::input::{AskId, CallId};
use crate::timer::Timer;

/// Between two rounds outside an upgrade: often enough to notice a failure before a neighbour starts, seldom
/// enough to cost nothing.
const PULSE: Duration = Duration::from_secs(60);

/// The same while nothing is under way here, or only a place in the queue: the upgrade makes rounds of its own
/// when it matters, whoever is about to start asks its neighbours anew, and a coordinator hears of such a server
/// every five minutes. Ten thousand servers would else run ten thousand rounds a minute for nothing.
const PULSE_IDLE: Duration = Duration::from_secs(300);

/// A round this young answers a neighbour too: members of a group ask one after the other.
const FRESH: Duration = Duration::from_secs(5);

/// The pulse.
#[derive(Debug, Clone)]
pub(crate) struct Neighbour {
    verdict: Verdict,
    detail: String,
    at: Option<Moment>,
    round: Option<AskId>,
    waiting: Vec<(CallId, GroupQuestion)>,
}

impl Default for Neighbour {
    /// No data is not health.
    fn default() -> Self {
        Self {
            verdict: Verdict::Inconclusive,
            detail: "not probed yet".into(),
            at: None,
            round: None,
            waiting: Vec::new(),
        }
    }
}

impl Neighbour {
    /// What the server's own probes said last.
    pub(crate) fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// What was not healthy, for people.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// Time for a round, unless one is under way, nothing says what to probe, or the upgrade probes itself.
    pub(crate) fn pulse(&mut self, desk: &mut Desk, now: Now) {
        let calm = self.verdict == Verdict::Healthy && matches!(desk.phase(), None | Some(Phase::Queued));
        desk.timers.set(Timer::Health, now.moment.after(if calm { PULSE_IDLE } else { PULSE }));
        // The upgrade's own rounds count: nothing is probed twice within half a pulse.
        let lately = self.at.is_some_and(|at| now.moment.since(at) < PULSE / 2);
        if lately || self.round.is_some() || desk.is_down() {
            return;
        }
        let plan = desk.active_plan().or_else(|| {
            let mine = desk.trust.plans().filter(|plan| plan.select.matches(&desk.me));
            mine.max_by_key(|plan| (plan.issued, plan.campaign.clone())).cloned()
        });
        let Some(plan) = plan else { return };
        let ask = desk.ask();
        self.round = Some(ask);
        desk.emit(Effect::Probe { ask, plan, when: When::Before });
    }

    /// A round is over: this pulse's own, or one that the upgrade made.
    pub(crate) fn probed(
        &mut self,
        desk: &mut Desk,
        ask: AskId,
        outcomes: &[(ProbeName, Outcome)],
        upgrade: bool,
        now: Now,
    ) {
        let mine = self.round == Some(ask);
        if !mine && !upgrade {
            return;
        }
        let verdict = Verdict::over(outcomes.iter().map(|(_, outcome)| outcome));
        if verdict != self.verdict {
            desk.news = true;
        }
        if verdict != Verdict::Healthy {
            // It holds its group back for as long as it is thought ill, also once it has gone back to what was well.
            desk.timers.set_sooner(Timer::Health, now.moment.after(PULSE));
        }
        self.verdict = verdict;
        self.detail = complaint(outcomes);
        self.at = Some(now.moment);
        if mine {
            self.round = None;
            for (call, question) in std::mem::take(&mut self.waiting) {
                self.answer(desk, call, &question);
            }
        }
    }

    /// A member of the own group asks.
    pub(crate) fn asked(
        &mut self,
        desk: &mut Desk,
        call: CallId,
        asker: PeerKey,
        question: GroupQuestion,
        now: Now,
    ) {
        let known = desk.trust.machine(&asker);
        let member = known.is_some_and(|machine| {
            machine.server == question.asker
                && machine.group.as_ref() == Some(&question.group)
                && machine.group == desk.me.group
        });
        if !member {
            return desk.emit(Effect::AnswerGroup { call, answer: None });
        }
        let fresh = self.at.is_some_and(|at| now.moment.since(at) < FRESH);
        let to_probe = desk
            .trust
            .plan(&question.campaign)
            .filter(|plan| !fresh && !desk.is_down() && plan.select.matches(&desk.me))
            .cloned();
        match to_probe {
            None => self.answer(desk, call, &question),
            Some(_) if self.waiting.len() >= GROUP_MEMBERS_MAX => {
                desk.emit(Effect::AnswerGroup { call, answer: None });
            }
            Some(plan) => {
                self.waiting.push((call, question));
                if self.round.is_none() {
                    let ask = desk.ask();
                    self.round = Some(ask);
                    desk.emit(Effect::Probe { ask, plan, when: When::Before });
                }
            }
        }
    }

    fn answer(&self, desk: &mut Desk, call: CallId, question: &GroupQuestion) {
        let plan = desk.trust.plan(&question.campaign);
        let against = self.against(desk, plan.map(|plan| &***plan));
        let answer = GroupAnswer {
            server: desk.me.server.clone(),
            group: question.group.clone(),
            nonce: question.nonce,
            up: against.is_none(),
            detail: against.unwrap_or_default(),
        };
        desk.emit(Effect::AnswerGroup { call, answer: Some(answer) });
    }

    /// Why this server does not call itself up.
    fn against(&self, desk: &Desk, plan: Option<&Plan>) -> Option<String> {
        let Some(plan) = plan else { return Some("has not got that campaign's plan yet".into()) };
        if let Some(phase) = desk.phase().filter(|phase| phase.is_down()) {
            return Some(format!("is {phase}"));
        }
        if let Some(held) = &desk.journal.lease.held {
            return Some(format!("holds lease {}", held.grant.lease));
        }
        // A plan that does not select this server says nothing about what to probe here: alive and not known
        // to be ill is all that can be said.
        let healthy = match self.verdict {
            Verdict::Healthy => true,
            Verdict::Inconclusive => !plan.select.matches(&desk.me),
            Verdict::Unhealthy => false,
        };
        if healthy { None } else { Some(format!("is {}: {}", self.verdict, self.detail)) }
    }
}
