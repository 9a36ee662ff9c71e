//! Whether this server may go down as far as it and its group are concerned: healthy, and every other member up.
//!
//! Owns the rounds of probes before a start and the questions to the group. Main invariant: silence, old answers
//! and missing data are no "yes"; they cost patience, never an attempt. Refuses to take any other document than
//! enrolments from an answer about the group.

use std::sync::Arc;
use std::time::Duration;

use lunar_common::document::{Kind, SignedDocument, Verified};
use lunar_common::enrolment::{Enrolment, Role};
use lunar_common::health::{Outcome, Verdict};
use lunar_common::ids::{ProbeName, ServerId};
use lunar_common::lease::GroupQuestion;
use lunar_common::order::draw;
use lunar_common::phase::Phase;
use lunar_common::retry::BackOff;
use lunar_common::time::Now;
use lunar_common::trust::Accepted;
use lunar_common::wire::Signed;

use super::{Line, Step, Upgrade};
use crate::desk::Desk;
use crate::effect::Effect;
use crate::group::{GroupCheck, Standing};
use crate::health::complaint;
use crate::input::AskId;
use crate::timer::Timer;

/// Waits for a coordinator, a neighbour or better health that cost no attempt.
const PATIENCE: BackOff = BackOff { base: Duration::from_secs(1), cap: Duration::from_secs(30) };

/// Between two checks while a grant is held: its time runs.
const HELD_RECHECK: Duration = Duration::from_secs(2);

impl Upgrade {
    pub(super) fn probed_before(&mut self, desk: &mut Desk, outcomes: &[(ProbeName, Outcome)], now: Now) {
        match Verdict::over(outcomes.iter().map(|(_, outcome)| outcome)) {
            Verdict::Healthy => {
                self.probed = Some(now.moment);
                self.check_group(desk, now);
            }
            Verdict::Inconclusive => {
                let why = format!("health is not known: {}", complaint(outcomes));
                self.be_patient(desk, &why, now);
            }
            Verdict::Unhealthy => {
                self.fail(desk, &format!("not healthy before the upgrade: {}", complaint(outcomes)), now);
            }
        }
    }

    /// Waits without spending an attempt: longer each time in the queue, shortly while a grant is held.
    pub(super) fn be_patient(&mut self, desk: &mut Desk, why: &str, now: Now) {
        if desk.phase() == Some(Phase::PreCheck) {
            return self.wait(desk, HELD_RECHECK, why, now);
        }
        let delay = PATIENCE.delay(self.waits, "patience", &[desk.me.server.as_str().as_bytes()]);
        self.waits = self.waits.saturating_add(1);
        self.wait(desk, delay, why, now);
    }

    pub(super) fn check_group(&mut self, desk: &mut Desk, now: Now) {
        let in_line = self.line != Line::Out && desk.phase() == Some(Phase::Queued);
        if desk.me.group.is_none() || in_line {
            self.checked(desk, now);
        } else if self.members_known && !self.moved(desk) && desk.phase() == Some(Phase::PreCheck) {
            self.ask_group(desk, now);
        } else {
            let ask = desk.ask();
            self.members_known = false;
            self.members_of = desk.me.group.clone();
            self.step = Step::Members(ask);
            desk.emit(Effect::AskGroupMembers { ask });
        }
    }

    /// The coordinator named the members of the own group; who they are, their enrolments prove.
    pub(crate) fn members(
        &mut self,
        desk: &mut Desk,
        ask: AskId,
        members: Option<Vec<SignedDocument>>,
        now: Now,
    ) {
        if !matches!(self.step, Step::Members(asked) if asked == ask) {
            return;
        }
        let Some(members) = members else {
            self.be_patient(desk, "no coordinator names the members of its group", now);
            self.unheard = true;
            return;
        };
        let mut changed = false;
        for document in &members {
            // Only enrolments were asked for: whatever else people signed comes by the node's own gate, which
            // acts upon it. A bad one proves nobody: it is left out, and the check asks those that remain.
            if document.kind == Kind::Enrolment
                && !desk.trust.machines().any(|known| **known.document() == *document)
                && let Ok(Accepted::Enrolment(machine)) = desk.trust.accept(document, now.wall)
            {
                desk.enrolled(&machine);
                changed = true;
            }
        }
        if changed {
            desk.persist_trust();
        }
        if self.moved(desk) {
            return self.check_group(desk, now);
        }
        self.members_known = true;
        self.ask_group(desk, now);
    }

    /// Whether this server was enrolled into another group, or into none, since the members of its group were
    /// asked for: what they say answers for nothing then.
    fn moved(&self, desk: &Desk) -> bool {
        self.members_of != desk.me.group
    }

    fn ask_group(&mut self, desk: &mut Desk, now: Now) {
        let (Some(group), Some(active)) = (desk.me.group.clone(), &desk.journal.active) else { return };
        let campaign = active.campaign.clone();
        let others = others_of_group(desk);
        let ask = desk.ask();
        let key =
            [desk.me.server.as_str().as_bytes(), &desk.journal.starts.to_le_bytes(), &ask.0.to_le_bytes()];
        let nonce = draw("group-nonce", &key);
        let check = GroupCheck::begin(ask, nonce, group.clone(), &others, now.moment);
        desk.timers.set(Timer::Group, check.deadline);
        self.step = Step::Group(check);
        for member in others {
            let question = GroupQuestion {
                asker: desk.me.server.clone(),
                group: group.clone(),
                campaign: campaign.clone(),
                nonce,
            };
            desk.emit(Effect::AskMember { ask, member, question });
        }
        self.group_standing(desk, now);
    }

    /// A member answered, or could not be reached.
    pub(crate) fn group_answered(
        &mut self,
        desk: &mut Desk,
        ask: AskId,
        member: &ServerId,
        answer: Option<&Signed>,
        now: Now,
    ) {
        match &mut self.step {
            Step::Group(check) if check.ask == ask => check.answered(member, answer),
            Step::Group(_)
            | Step::Timer
            | Step::Fetch
            | Step::Applier(_)
            | Step::Probe(_)
            | Step::Members(_)
            | Step::Claim { .. }
            | Step::Hook(_) => return,
        }
        self.group_standing(desk, now);
    }

    pub(super) fn group_standing(&mut self, desk: &mut Desk, now: Now) {
        let Step::Group(check) = &self.step else { return };
        match check.standing(now.moment) {
            Standing::Pending => {}
            Standing::AllUp => {
                desk.timers.clear(Timer::Group);
                if self.moved(desk) { self.check_group(desk, now) } else { self.checked(desk, now) }
            }
            Standing::NotUp { cause } => {
                desk.timers.clear(Timer::Group);
                self.be_patient(desk, &format!("its group is not whole: {cause}"), now);
            }
        }
    }

    /// Healthy, and the group is whole: ask for a lease, or start under the one held.
    pub(super) fn checked(&mut self, desk: &mut Desk, now: Now) {
        if desk.phase() == Some(Phase::PreCheck) {
            self.start(desk, now);
        } else {
            self.claim(desk, now);
        }
    }
}

/// The other members of the own group, by the enrolments known.
pub(crate) fn others_of_group(desk: &Desk) -> Vec<Arc<Verified<Enrolment>>> {
    desk.trust
        .machines()
        .filter(|machine| {
            machine.role == Role::Agent
                && machine.group == desk.me.group
                && machine.group.is_some()
                && machine.server != desk.me.server
        })
        .cloned()
        .collect()
}
