//! Whether a maintenance window lets a tier's servers go down now (D3).
//!
//! Owns `Doors`: for each campaign and each tier that is held to windows, the stretch of open time that is or that
//! comes next. Main invariant: a start is permitted only while a window is open and stays open for the time to
//! begin, the expected time down and a rollback; what is remembered between two edges never differs from what the
//! windows say. Time is the coordinator's own trusted time, and no other machine's.
//!
//! A tier that prefers its windows may start outside them while it is *behind schedule*: while the servers that are
//! left, and 15 % more, do not fit into the windows that are left before the plan expires, by the planner's own
//! arithmetic. That is asked when windows close, and every quarter of an hour while they are closed.

use std::collections::BTreeMap;
use std::time::Duration;

use lunar_common::ids::{CampaignId, WindowName};
use lunar_common::lease::{LimitScope, WaitReason};
use lunar_common::limits::Tier;
use lunar_common::plan::Plan;
use lunar_common::plan::windows::{Mode, Windows};
use lunar_common::time::{Now, WallTime};
use lunar_common::window::{OpenTimes, Stretch};
use serde::{Deserialize, Serialize};

use crate::coordinator::Coordinator;
use crate::event::Terms;
use crate::ledger::Obstacle;
use crate::planner::arithmetic::{Assumptions, Demand, Hours, Span};
use crate::timers::Timer;

/// How often a tier that prefers its windows is asked whether it is behind, while they are closed. Counting who is
/// left takes as long as a few hundred claims.
const BEHIND_EVERY_S: i64 = 15 * 60;

/// Servers in a hundred of those that may be left without being behind: the margin of planning.
const ON_SCHEDULE_PERCENT: u64 = 85;

/// Stretches that are looked at to tell whether a tier is behind: three a day for a year.
const STRETCHES_MAX: usize = 3 * 366;

/// The windows of a plan, with what they must be long enough for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowTerms {
    /// The windows.
    pub windows: Windows,
    /// Seconds that one must still be open when a start is permitted.
    pub start_needs_s: u64,
    /// Seconds from the claim within which a server begins.
    pub start_within_s: u64,
    /// Seconds that one server is expected down.
    pub hold_s: u64,
}

impl WindowTerms {
    /// Those of a plan, if it has windows.
    #[must_use]
    pub fn of(plan: &Plan) -> Option<Self> {
        Some(Self {
            windows: plan.windows.clone()?,
            start_needs_s: plan.start_needs_s(),
            start_within_s: plan.lease.start_within_s.into(),
            hold_s: plan.hold_s(),
        })
    }
}

/// What is known of every tier that is held to windows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Doors {
    doors: BTreeMap<CampaignId, Vec<Door>>,
    /// When the first of them opens, closes or is to be asked again; `None`: never.
    due: Option<WallTime>,
}

/// One tier of one campaign.
#[derive(Debug, Clone)]
struct Door {
    tier: Tier,
    mode: Mode,
    names: Vec<WindowName>,
    times: OpenTimes,
    start_needs_s: u64,
    start_within_s: u64,
    hold_s: u64,
    expires: WallTime,
    /// What follows holds from here on; `None`: nothing is known yet.
    since: Option<WallTime>,
    next: Option<Stretch>,
    /// Whether its campaign is behind schedule, so that it may go down outside its windows.
    behind: bool,
}

impl Doors {
    /// A plan is in force: what was known of its campaign is not true any more.
    pub(crate) fn take(&mut self, terms: &Terms) {
        let doors: Vec<Door> =
            terms.windows.iter().flat_map(|windows| doors_of(windows, terms.expires)).collect();
        if doors.is_empty() {
            self.doors.remove(&terms.campaign);
        } else {
            self.doors.insert(terms.campaign.clone(), doors);
        }
        self.ask();
    }

    /// Has everything looked at again at the next turn.
    pub(crate) fn ask(&mut self) {
        self.due = (!self.doors.is_empty()).then_some(WallTime(i64::MIN));
    }

    fn of(&self, campaign: &CampaignId, tier: Tier) -> Option<&Door> {
        self.doors.get(campaign)?.iter().find(|door| door.tier == tier)
    }
}

fn doors_of(terms: &WindowTerms, expires: WallTime) -> impl Iterator<Item = Door> + '_ {
    Tier::ALL.into_iter().filter_map(move |tier| {
        let held = terms.windows.tier.of(tier);
        Some(Door {
            tier,
            mode: held.mode,
            names: held.windows.clone(),
            times: OpenTimes::of_tier(&terms.windows, tier)?,
            start_needs_s: terms.start_needs_s,
            start_within_s: terms.start_within_s,
            hold_s: terms.hold_s,
            expires,
            since: None,
            next: None,
            behind: false,
        })
    })
}

impl Door {
    /// The stretch in which a start is permitted next, or now.
    fn stretch(&self, wall: WallTime) -> Option<Stretch> {
        let known = self.since.is_some_and(|since| wall >= since)
            && self.next.is_none_or(|stretch| wall <= self.last_start(stretch));
        if known { self.next } else { self.times.next_for(wall, self.start_needs_s, self.expires) }
    }

    /// The last second of a stretch in which a start is permitted.
    fn last_start(&self, stretch: Stretch) -> WallTime {
        WallTime(stretch.closes.0.saturating_sub(i64::try_from(self.start_needs_s).unwrap_or(i64::MAX)))
    }

    /// The time left in its windows, from a time on.
    fn spans(&self, from: WallTime) -> Vec<Span> {
        let stretches = self.times.between(from, self.expires).take(STRETCHES_MAX);
        stretches.map(|stretch| Span::of(stretch, from, self.start_within_s)).collect()
    }
}

impl Coordinator {
    /// What stops every start of a tier in a campaign because of its windows.
    pub(crate) fn outside_window(&self, campaign: &CampaignId, tier: Tier, now: Now) -> Option<Obstacle> {
        let door = self.doors.of(campaign, tier)?;
        let stretch = door.stretch(now.wall);
        let open = stretch.is_some_and(|stretch| stretch.opens <= now.wall);
        (!open && !door.behind).then_some(Obstacle::OutsideWindow(stretch.map(|stretch| stretch.opens)))
    }

    /// The obstacle in the words of the wire.
    pub(crate) fn explain_window(
        &self,
        campaign: &CampaignId,
        tier: Tier,
        opens: Option<WallTime>,
    ) -> WaitReason {
        let door = self.doors.of(campaign, tier);
        WaitReason::OutsideWindow {
            tier,
            windows: door.map(|door| door.names.clone()).unwrap_or_default(),
            strict: door.is_some_and(|door| door.mode == Mode::Strict),
            opens,
        }
    }

    /// Looks at the windows again if one of them opened or closed since, and wakes up when the next one does.
    pub(crate) fn watch_windows(&mut self, now: Now) {
        if self.doors.due.is_none_or(|due| now.wall < due) {
            return;
        }
        let mut doors = std::mem::take(&mut self.doors);
        let mut due: Option<WallTime> = None;
        for (campaign, doors) in &mut doors.doors {
            for door in doors.iter_mut() {
                door.next = door.stretch(now.wall);
                door.since = Some(now.wall);
                let open = door.next.is_some_and(|stretch| stretch.opens <= now.wall);
                let asks = door.mode == Mode::Preferred && !open && now.wall < door.expires;
                door.behind = asks && self.is_behind(campaign, door, now);
                let edge = door.next.map(|stretch| {
                    if open { WallTime(door.last_start(stretch).0.saturating_add(1)) } else { stretch.opens }
                });
                let again = asks.then(|| WallTime(now.wall.0.saturating_add(BEHIND_EVERY_S)));
                due = [due, edge, again].into_iter().flatten().min();
            }
        }
        doors.due = due;
        self.doors = doors;
        // A second at least, for a trusted time that stands still because the clock was set back.
        let in_s = |due: WallTime| u64::try_from(due.0.saturating_sub(now.wall.0)).unwrap_or(0).max(1);
        match due {
            Some(due) => self.timers.arm(Timer::Window, now.moment.after(Duration::from_secs(in_s(due)))),
            None => self.timers.disarm(&Timer::Window),
        }
        self.room = true;
    }

    /// Whether the servers that a tier has left do not fit into what its windows have left, with a margin.
    fn is_behind(&self, campaign: &CampaignId, door: &Door, now: Now) -> bool {
        let left = self.left_to_do(campaign, door.tier);
        let limit = |scope: LimitScope| self.limit(campaign, &scope).map_or(u64::MAX, u64::from);
        let slots = limit(LimitScope::Tier(door.tier)).min(limit(LimitScope::Fleet)).min(left.max(1));
        let demand =
            Demand { servers: (left * 100).div_ceil(ON_SCHEDULE_PERCENT), slots, soak_s: 0, paused_s: 0 };
        let window_s = u64::try_from(door.expires.0.saturating_sub(now.wall.0)).unwrap_or(0);
        let spans = door.spans(now.wall);
        left > 0 && !demand.fits(&Assumptions::expected(door.hold_s), Hours::in_windows(window_s, &spans))
    }
}
