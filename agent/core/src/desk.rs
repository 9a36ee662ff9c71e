//! What every part of the node works with: who it is, what it trusts, what it must not forget, what it is
//! about to do.
//!
//! Owns [`Desk`]. Main invariant: the journal changes only together with the [`Effect::Persist`] that makes
//! the change durable, queued before anything the change permits. Refuses to decide.

use std::collections::VecDeque;
use std::sync::Arc;

use lunar_common::document::Verified;
use lunar_common::enrolment::Enrolment;
use lunar_common::ids::CampaignId;
use lunar_common::message::Transition;
use lunar_common::phase::Phase;
use lunar_common::plan::Plan;
use lunar_common::time::{Now, WallTime};
use lunar_common::trust::TrustState;

use crate::effect::{Effect, Record};
use crate::input::AskId;
use crate::journal::Journal;
use crate::timer::Timers;

/// Longest cause that is journaled or told, in bytes: a line for people; a report carries many.
pub(crate) const CAUSE_BYTES_MAX: usize = 240;

/// What the parts of a node share.
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    /// Who this server is.
    pub(crate) me: Arc<Verified<Enrolment>>,
    /// What people signed.
    pub(crate) trust: TrustState,
    /// What must not be forgotten.
    pub(crate) journal: Journal,
    /// Deadlines.
    pub(crate) timers: Timers,
    /// Whether there is news that the coordinator has not been sent.
    pub(crate) news: bool,
    /// Until when no other plan is taken up, unless the journal or what people signed changes. A fleet has hundreds of
    /// events that change neither for each one that does.
    pub(crate) chosen_until: Option<WallTime>,
    effects: VecDeque<Effect>,
    asks: u64,
}

impl Desk {
    pub(crate) fn new(me: Arc<Verified<Enrolment>>, trust: TrustState, journal: Journal) -> Self {
        Self {
            me,
            trust,
            journal,
            timers: Timers::default(),
            news: false,
            chosen_until: None,
            effects: VecDeque::new(),
            asks: 0,
        }
    }

    /// A machine was enrolled; its record in `trust` is the caller's to make durable. This server's own is what
    /// it goes by from here on.
    pub(crate) fn enrolled(&mut self, machine: &Arc<Verified<Enrolment>>) {
        if machine.key == self.me.key {
            self.me = machine.clone();
            self.news = true;
        }
    }

    /// Queues an effect behind those queued before.
    pub(crate) fn emit(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    /// The next effect to carry out.
    pub(crate) fn poll(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// A new question's id, unique in this run.
    pub(crate) fn ask(&mut self) -> AskId {
        self.asks += 1;
        AskId(self.asks)
    }

    /// Makes the journal as it is now durable before anything queued later.
    pub(crate) fn persist(&mut self) {
        self.chosen_until = None;
        let journal = Box::new(self.journal.clone());
        self.emit(Effect::Persist(Record::Journal(journal)));
    }

    /// Makes what people signed durable, and shows it to the mesh.
    pub(crate) fn persist_trust(&mut self) {
        self.chosen_until = None;
        let snapshot = Box::new(self.trust.snapshot());
        self.emit(Effect::Persist(Record::Trust(snapshot)));
        self.emit(Effect::TrustChanged);
    }

    /// The plan that the campaign under way goes by, if it is still known.
    pub(crate) fn active_plan(&self) -> Option<Arc<Verified<Plan>>> {
        self.active_plan_held().cloned()
    }

    /// The same, to look at only.
    pub(crate) fn active_plan_held(&self) -> Option<&Arc<Verified<Plan>>> {
        let active = self.journal.active.as_ref()?;
        self.trust.plan(&active.campaign).filter(|plan| plan.hash() == active.plan)
    }

    /// Where the campaign under way is.
    pub(crate) fn phase(&self) -> Option<Phase> {
        self.journal.active.as_ref().map(|active| active.state.phase())
    }

    /// Whether this server counts as down.
    pub(crate) fn is_down(&self) -> bool {
        self.phase().is_some_and(Phase::is_down)
    }

    /// Writes one transition of the campaign under way into the journal (the caller has changed the state)
    /// and makes both durable.
    pub(crate) fn record(
        &mut self,
        campaign: CampaignId,
        attempt: lunar_common::ids::Attempt,
        (from, to): (Phase, Phase),
        cause: &str,
        now: Now,
    ) {
        let transition = Transition {
            index: self.journal.transitions_next,
            campaign,
            attempt,
            from,
            to,
            cause: cut(cause, CAUSE_BYTES_MAX),
            at: now.wall,
        };
        self.journal.transitions_next += 1;
        self.journal.transitions.push(transition.clone());
        self.news = true;
        self.persist();
        self.emit(Effect::Log(transition));
    }
}

/// The longest beginning of a text that fits, cut between characters.
pub(crate) fn cut(text: &str, bytes_max: usize) -> String {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
