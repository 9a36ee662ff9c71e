//! Whether a maintenance window lets servers go down now (D3).
//!
//! Owns `Doors`: for each campaign, each tier and each stage that is held to windows, the stretch of open time that is
//! or that comes next. Main invariant: a start is permitted only while a window is open and stays open for the time to
//! begin, the expected time down and a rollback; what is remembered between two edges never differs from what the
//! windows say. Time is the coordinator's own, and no other machine's: the clock's, which signed documents hold to a
//! floor; and where the clock was set since this life began, also the time that this machine's steady clock has counted
//! since then. Whichever of the two is wrong, it opens nothing by itself.
//!
//! A tier that prefers its windows may start outside them while it is *behind schedule*: while the servers that are
//! left, and 15 % more, do not fit into the windows that are left before the plan expires, by the planner's own
//! arithmetic. That is asked when windows close, and every quarter of an hour while they are closed.

use std::collections::BTreeMap;
use std::time::Duration;

use lunar_common::ids::{CampaignId, DocumentHash, StageName, WindowName};
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

/// How many seconds the clock and the steady clock may lie apart before both are asked: more than a leap second and
/// what a time service corrects at a start, less than anybody would arrange a window by.
const CLOCK_SET_S_MAX: u64 = 60;

/// How often windows are looked at again while the clock and the steady clock lie apart, in seconds.
const CLOCK_SET_LOOK_S: u64 = 60;

/// The windows of a plan, with what they must be long enough for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowTerms {
    /// The windows.
    pub windows: Windows,
    /// The stages that are held to some of them.
    pub stages: Vec<StageWindows>,
    /// Seconds that one must still be open when a start is permitted.
    pub start_needs_s: u64,
    /// Seconds from the claim within which a server begins.
    pub start_within_s: u64,
    /// Seconds that one server is expected down.
    pub hold_s: u64,
}

/// A stage whose servers start inside windows only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageWindows {
    /// Its place in the plan.
    pub stage: u16,
    /// Its name.
    pub name: StageName,
    /// The windows.
    pub windows: Vec<WindowName>,
}

impl WindowTerms {
    /// Those of a plan, if it has windows.
    #[must_use]
    pub fn of(plan: &Plan) -> Option<Self> {
        let held = (0..).zip(&plan.stages).filter(|(_, stage)| !stage.windows.is_empty());
        Some(Self {
            windows: plan.windows.clone()?,
            stages: held
                .map(|(stage, terms)| StageWindows {
                    stage,
                    name: terms.name.clone(),
                    windows: terms.windows.clone(),
                })
                .collect(),
            start_needs_s: plan.start_needs_s(),
            start_within_s: plan.lease.start_within_s.into(),
            hold_s: plan.hold_s(),
        })
    }
}

/// What is known of everything that is held to windows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Doors {
    /// When this life began, by both clocks.
    began: Option<Now>,
    /// The clock was set since, when this was looked at last.
    set: bool,
    /// Windows of plans that come with the next event of their campaign.
    next: BTreeMap<CampaignId, (DocumentHash, WindowTerms)>,
    doors: BTreeMap<CampaignId, Vec<Door>>,
    /// When the first of them opens, closes or is to be asked again; `None`: never.
    due: Option<WallTime>,
}

/// Who goes through a door.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Held {
    Tier(Tier),
    Stage(u16, StageName),
}

/// One tier or stage of one campaign.
#[derive(Debug, Clone)]
struct Door {
    held: Held,
    mode: Mode,
    names: Vec<WindowName>,
    times: OpenTimes,
    start_needs_s: u64,
    start_within_s: u64,
    hold_s: u64,
    expires: WallTime,
    by_clock: Look,
    by_steady: Look,
    /// Whether its campaign is behind schedule, so that it may go down outside its windows.
    behind: bool,
}

/// What a look at a door found.
#[derive(Debug, Clone, Copy, Default)]
struct Look {
    /// What follows holds from here on; `None`: nothing is known yet.
    since: Option<WallTime>,
    next: Option<Stretch>,
}

impl Doors {
    /// The windows of a plan that will be in force next.
    pub(crate) fn announced(&mut self, campaign: &CampaignId, plan: DocumentHash, windows: &WindowTerms) {
        self.next.insert(campaign.clone(), (plan, windows.clone()));
    }

    /// A plan is in force: what was known of its campaign is not true any more.
    pub(crate) fn take(&mut self, terms: &Terms) {
        let windows = self.next.remove(&terms.campaign).filter(|(plan, _)| *plan == terms.plan);
        let doors: Vec<Door> =
            windows.iter().flat_map(|(_, windows)| doors_of(windows, terms.expires)).collect();
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

    /// What a server of this tier and stage must go through.
    fn of(&self, campaign: &CampaignId, tier: Tier, stage: u16) -> impl Iterator<Item = &Door> {
        self.doors.get(campaign).into_iter().flatten().filter(move |door| match &door.held {
            Held::Tier(held) => *held == tier,
            Held::Stage(held, _) => *held == stage,
        })
    }

    /// What the clock would show if it had not been set since this life began.
    fn steady(&self, now: Now) -> WallTime {
        self.began.map_or(now.wall, |began| began.after(now.moment.since(began.moment)).wall)
    }

    /// Seconds by which the clock was set since this life began; 0: by none that matter.
    fn set_s(&self, now: Now) -> i64 {
        let set_s = now.wall.0.saturating_sub(self.steady(now).0);
        if set_s.unsigned_abs() > CLOCK_SET_S_MAX { set_s } else { 0 }
    }

    /// The second time that must be inside a window, where there are two.
    fn second(&self, now: Now) -> Option<WallTime> {
        (self.set_s(now) != 0).then(|| self.steady(now))
    }
}

fn doors_of(terms: &WindowTerms, expires: WallTime) -> impl Iterator<Item = Door> + '_ {
    let tiers = Tier::ALL.into_iter().map(|tier| {
        let held = terms.windows.tier.of(tier);
        (Held::Tier(tier), held.mode, &held.windows)
    });
    let stages = terms
        .stages
        .iter()
        .map(|stage| (Held::Stage(stage.stage, stage.name.clone()), Mode::Strict, &stage.windows));
    tiers.chain(stages).filter_map(move |(held, mode, names)| {
        Some(Door {
            held,
            mode,
            names: names.clone(),
            times: OpenTimes::of_names(&terms.windows, names)?,
            start_needs_s: terms.start_needs_s,
            start_within_s: terms.start_within_s,
            hold_s: terms.hold_s,
            expires,
            by_clock: Look::default(),
            by_steady: Look::default(),
            behind: false,
        })
    })
}

impl Door {
    /// The stretch in which a start is permitted next, or now.
    fn stretch(&self, known: Look, at: WallTime) -> Option<Stretch> {
        let holds = known.since.is_some_and(|since| at >= since)
            && known.next.is_none_or(|stretch| at <= self.last_start(stretch));
        if holds { known.next } else { self.times.next_for(at, self.start_needs_s, self.expires) }
    }

    /// The last second of a stretch in which a start is permitted.
    fn last_start(&self, stretch: Stretch) -> WallTime {
        WallTime(stretch.closes.0.saturating_sub(i64::try_from(self.start_needs_s).unwrap_or(i64::MAX)))
    }

    /// When it opens, if it is closed by the clock or by the second time; `Some(None)`: not before the plan expires.
    fn closed(&self, clock: WallTime, second: Option<WallTime>) -> Option<Option<WallTime>> {
        let by = |known: Look, at: WallTime| match self.stretch(known, at) {
            Some(stretch) if stretch.opens <= at => None,
            later => Some(later.map(|stretch| stretch.opens)),
        };
        by(self.by_clock, clock).or_else(|| by(self.by_steady, second?))
    }

    fn look(&mut self, clock: WallTime, second: Option<WallTime>) {
        let look = |at: WallTime, known: Look| Look { since: Some(at), next: self.stretch(known, at) };
        let by_clock = look(clock, self.by_clock);
        let by_steady = second.map_or_else(Look::default, |at| look(at, self.by_steady));
        (self.by_clock, self.by_steady) = (by_clock, by_steady);
    }
}

impl Coordinator {
    /// What stops every start of a tier in a stage of a campaign because of its windows.
    pub(crate) fn outside_window(
        &self,
        campaign: &CampaignId,
        tier: Tier,
        stage: u16,
        now: Now,
    ) -> Option<Obstacle> {
        let second = self.doors.second(now);
        let shut = |door: &Door| {
            let opens = door.closed(now.wall, second).filter(|_| !door.behind)?;
            let of_stage = matches!(door.held, Held::Stage(..));
            Some(Obstacle::OutsideWindow { of_stage, opens })
        };
        self.doors.of(campaign, tier, stage).find_map(shut)
    }

    /// The obstacle in the words of the wire.
    pub(crate) fn explain_window(
        &self,
        campaign: &CampaignId,
        tier: Tier,
        stage: u16,
        of_stage: bool,
        opens: Option<WallTime>,
        now: Now,
    ) -> WaitReason {
        let mut doors = self.doors.of(campaign, tier, stage);
        let door = doors.find(|door| matches!(door.held, Held::Stage(..)) == of_stage);
        WaitReason::OutsideWindow {
            tier,
            stage: door.and_then(|door| match &door.held {
                Held::Tier(_) => None,
                Held::Stage(_, name) => Some(name.clone()),
            }),
            windows: door.map(|door| door.names.clone()).unwrap_or_default(),
            strict: door.is_some_and(|door| door.mode == Mode::Strict),
            opens,
            clock_set_s: self.doors.set_s(now),
        }
    }

    /// Looks at the windows again if one of them opened or closed since, and wakes up when the next one does.
    pub(crate) fn watch_windows(&mut self, now: Now) {
        self.doors.began.get_or_insert(now);
        let second = self.doors.second(now);
        if self.doors.set != second.is_some() {
            self.doors.set = second.is_some();
            self.doors.ask();
        }
        if self.doors.due.is_none_or(|due| now.wall < due) {
            return;
        }
        let mut doors = std::mem::take(&mut self.doors);
        let mut due: Option<WallTime> = None;
        for (campaign, doors) in &mut doors.doors {
            for door in doors.iter_mut() {
                door.look(now.wall, second);
                let open = door.closed(now.wall, second).is_none();
                let asks = door.mode == Mode::Preferred && !open && now.wall < door.expires;
                door.behind = asks
                    && self.is_behind(campaign, door, now.wall)
                    && second.is_none_or(|second| self.is_behind(campaign, door, second));
                let edge = door.by_clock.next.map(|stretch| {
                    let inside = stretch.opens <= now.wall;
                    if inside {
                        WallTime(door.last_start(stretch).0.saturating_add(1))
                    } else {
                        stretch.opens
                    }
                });
                let again = asks.then(|| WallTime(now.wall.0.saturating_add(BEHIND_EVERY_S)));
                due = [due, edge, again].into_iter().flatten().min();
            }
        }
        doors.due = due;
        self.doors = doors;
        // A second at least, for a trusted time that stands still because the clock was set back.
        let in_s = |due: WallTime| u64::try_from(due.0.saturating_sub(now.wall.0)).unwrap_or(0).max(1);
        // What is due by the second time is not reckoned: it is looked at often enough.
        let look_s = second.map(|_| CLOCK_SET_LOOK_S);
        match due.map(in_s).into_iter().chain(look_s).min() {
            Some(in_s) => self.timers.arm(Timer::Window, now.moment.after(Duration::from_secs(in_s))),
            None => self.timers.disarm(&Timer::Window),
        }
        self.room = true;
    }

    /// Whether the servers that a tier has left do not fit into what its windows have left, with a margin.
    fn is_behind(&self, campaign: &CampaignId, door: &Door, at: WallTime) -> bool {
        let Held::Tier(tier) = door.held else { return false };
        let left = self.left_to_do(campaign, tier);
        let limit = |scope: LimitScope| self.limit(campaign, &scope).map_or(u64::MAX, u64::from);
        let slots = limit(LimitScope::Tier(tier)).min(limit(LimitScope::Fleet)).min(left.max(1));
        let demand =
            Demand { servers: (left * 100).div_ceil(ON_SCHEDULE_PERCENT), slots, soak_s: 0, paused_s: 0 };
        let window_s = u64::try_from(door.expires.0.saturating_sub(at.0)).unwrap_or(0);
        let spans = Span::all_of(&door.times, at, door.expires, door.start_within_s);
        left > 0 && !demand.fits(&Assumptions::expected(door.hold_s), Hours::in_windows(window_s, &spans))
    }
}
