//! What a run is worth telling: counters, maxima and courses over time.
//!
//! Owns [`Measure`], which the world feeds where its truth changes, and what comes out of it, [`Figures`] and
//! [`Series`]. Main invariant: everything here is an integer that follows from the events alone, so that two runs of
//! one seed tell the same to the last digit. Refuses to judge: the invariants do that.

mod track;

use std::collections::BTreeMap;

use lunar_common::limits::Tier;
use lunar_common::phase::Phase;
use serde::{Deserialize, Serialize};

use crate::scenario::{Scenario, Seat};
use track::{Cell, Track};

/// What a server is doing, as few as a picture can show. The order is that of the picture, from the bottom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// On the new version.
    Complete,
    /// On the old version, and at an end.
    Back,
    /// Down, on the way to the new version.
    Down,
    /// Down, on the way back.
    RollingBack,
    /// Has everything; waits for a lease.
    Ready,
    /// Fetches, unpacks, verifies.
    Fetching,
    /// Has not begun, or not begun again.
    Waiting,
}

impl State {
    /// All of them, in the picture's order.
    pub const ALL: [Self; 7] = [
        Self::Complete,
        Self::Back,
        Self::Down,
        Self::RollingBack,
        Self::Ready,
        Self::Fetching,
        Self::Waiting,
    ];

    /// The state that a phase is shown as.
    #[must_use]
    pub fn of(phase: Phase) -> Self {
        match phase {
            Phase::Scheduled => Self::Waiting,
            Phase::Downloading | Phase::Staging => Self::Fetching,
            Phase::Queued | Phase::PreCheck => Self::Ready,
            Phase::Draining | Phase::Installing | Phase::Validating => Self::Down,
            Phase::RollingBack => Self::RollingBack,
            Phase::Complete => Self::Complete,
            Phase::RolledBack | Phase::Failed => Self::Back,
        }
    }

    /// The state that a phase is shown as while an attempt may follow: whoever went back waits for its turn.
    #[must_use]
    pub fn under_way(phase: Phase) -> Self {
        match Self::of(phase) {
            Self::Complete | Self::Back => Self::Waiting,
            state => state,
        }
    }

    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Back => "on the old version",
            Self::Down => "down",
            Self::RollingBack => "rolling back",
            Self::Ready => "ready, waiting for a lease",
            Self::Fetching => "fetching",
            Self::Waiting => "waiting for its turn",
        }
    }
}

/// Which way bytes went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Over the link to Earth.
    Earth,
    /// From one site to another.
    Between,
    /// Inside a site.
    Within,
}

/// The numbers of one run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// Servers.
    pub servers: u64,
    /// Events that happened.
    pub events: u64,
    /// When the run ended, in milliseconds.
    pub ended_ms: u64,
    /// Each tier that has servers.
    pub tiers: Vec<TierFigures>,
    /// Most servers down at once: the fleet, each tier, each site, and the fullest cluster and group.
    pub down: Vec<DownFigures>,
    /// How often a server went back.
    pub rollbacks: u64,
    /// Halts that people gave out.
    pub halts: u64,
    /// What the links carried.
    pub links: LinkFigures,
    /// Messages of the swarm.
    pub swarm_messages: u64,
    /// Chunks that somebody lacked, arrived and were good.
    pub useful_chunks: u64,
    /// How often each invariant was checked.
    pub checks: BTreeMap<String, u64>,
}

/// The numbers of one tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TierFigures {
    /// Which.
    pub tier: Tier,
    /// Its servers.
    pub servers: u64,
    /// Those on the new version.
    pub completed: u64,
    /// Those back on the old one, at an end.
    pub back: u64,
    /// When the first of them went down, in milliseconds.
    pub first_down_ms: Option<u64>,
    /// When the last of them came to its end; absent while some have not.
    pub done_ms: Option<u64>,
}

/// Most servers of a scope that were down at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DownFigures {
    /// The scope, as people say it.
    pub scope: String,
    /// Most at once.
    pub most: u64,
    /// When that was for the first time, in milliseconds.
    pub at_ms: u64,
    /// What people allowed; absent: nothing was said.
    pub limit: Option<u64>,
}

/// What the links carried, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkFigures {
    /// The artifact itself, once.
    pub artifact_bytes: u64,
    /// Chunks over the link to Earth.
    pub earth_bytes: u64,
    /// Chunks between sites.
    pub between_bytes: u64,
    /// Chunks inside sites.
    pub within_bytes: u64,
    /// Everything else over the link to Earth.
    pub earth_control_bytes: u64,
    /// When the last chunk that had to come over the link to Earth was there, in milliseconds.
    pub earth_last_ms: Option<u64>,
    /// When the last server had all bytes, in milliseconds; absent while some have not.
    pub last_byte_ms: Option<u64>,
}

/// The courses of one run over time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// The width of a step of `servers`, in milliseconds.
    pub servers_step_ms: u64,
    /// Who was doing what.
    pub servers: Vec<ServersStep>,
    /// The width of a step of `links`, in milliseconds. It is its own: bytes flow early, and fast.
    pub links_step_ms: u64,
    /// What the links carried.
    pub links: Vec<LinksStep>,
}

/// One step of the servers' course.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ServersStep {
    /// Servers in each state at the end of the step, in the order of [`State::ALL`].
    pub states: [u32; State::ALL.len()],
    /// Most of each tier that were down at once in the step.
    pub down: [u32; 3],
    /// Those down at its end: where the next step begins.
    #[serde(skip)]
    down_now: [u32; 3],
    /// Servers of each tier that had come to an end, by the end of the step.
    pub ended: [u32; 3],
}

impl Cell for ServersStep {
    fn next(self) -> Self {
        Self { down: self.down_now, ..self }
    }
    fn join(self, later: Self) -> Self {
        let most = |at: usize| self.down[at].max(later.down[at]);
        Self { down: [most(0), most(1), most(2)], ..later }
    }
}

/// One step of the links' course.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinksStep {
    /// Bytes over the link to Earth.
    pub earth: u64,
    /// Bytes between sites.
    pub between: u64,
}

impl Cell for LinksStep {
    fn next(self) -> Self {
        Self::default()
    }
    fn join(self, later: Self) -> Self {
        Self { earth: self.earth + later.earth, between: self.between + later.between }
    }
}

/// Where a scope's count stands, and its highest.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    now: u32,
    most: u32,
    at_ms: u64,
}

impl Count {
    fn up(&mut self, at_ms: u64) {
        self.now += 1;
        if self.now > self.most {
            (self.most, self.at_ms) = (self.now, at_ms);
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Known {
    seat: Seat,
    state: State,
    down: bool,
    has_all: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct OfTier {
    servers: u32,
    completed: u32,
    back: u32,
    first_down_ms: Option<u64>,
    ended_ms: u64,
}

/// Takes note of one run.
#[derive(Debug)]
pub struct Measure {
    servers: Vec<Known>,
    tiers: [OfTier; 3],
    fleet: Count,
    tier_down: [Count; 3],
    site_down: Vec<Count>,
    cluster_down: Vec<Count>,
    group_down: Vec<Count>,
    without_all: usize,
    course: Track<ServersStep>,
    carried: Track<LinksStep>,
    checks: Vec<(&'static str, u64)>,
    figures: Figures,
}

impl Measure {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(scenario: &Scenario, seats: &[Seat]) -> Self {
        let known = |seat: &Seat| Known { seat: *seat, state: State::Waiting, down: false, has_all: false };
        let highest = |numbers: &mut dyn Iterator<Item = usize>| numbers.max().map_or(0, |most| most + 1);
        let mut tiers = [OfTier::default(); 3];
        for seat in seats {
            tiers[at(seat.tier)].servers += 1;
        }
        let mut first = ServersStep::default();
        first.states[State::Waiting as usize] = u32::try_from(seats.len()).unwrap_or(u32::MAX);
        let links = LinkFigures { artifact_bytes: scenario.artifact.bytes, ..LinkFigures::default() };
        Self {
            tiers,
            fleet: Count::default(),
            tier_down: [Count::default(); 3],
            site_down: vec![Count::default(); scenario.fleet.site.len()],
            cluster_down: vec![Count::default(); highest(&mut seats.iter().map(|seat| seat.cluster))],
            group_down: vec![Count::default(); highest(&mut seats.iter().filter_map(|seat| seat.group))],
            without_all: seats.len(),
            course: Track::new(first),
            carried: Track::new(LinksStep::default()),
            checks: Vec::new(),
            figures: Figures { servers: seats.len() as u64, links, ..Figures::default() },
            servers: seats.iter().map(known).collect(),
        }
    }

    /// What is durable on a server has changed: where it stands now, and whether it is down.
    pub fn server(&mut self, at_ms: u64, server: usize, state: State, down: bool) {
        let known = self.servers[server];
        if (known.state, known.down) == (state, down) {
            return;
        }
        self.servers[server] = Known { state, down, ..known };
        let tier = at(known.seat.tier);
        if known.down != down {
            self.goes(at_ms, known.seat, down);
        }
        if known.state != state {
            self.figures.rollbacks += u64::from(state == State::RollingBack);
            let of = &mut self.tiers[tier];
            for (which, step) in [(known.state, u32::MAX), (state, 1)] {
                match which {
                    State::Complete => of.completed = of.completed.wrapping_add(step),
                    State::Back => of.back = of.back.wrapping_add(step),
                    State::Down | State::RollingBack | State::Ready | State::Fetching | State::Waiting => {}
                }
            }
            if matches!(state, State::Complete | State::Back) {
                of.ended_ms = at_ms;
            }
        }
        let ended = self.tiers[tier].completed + self.tiers[tier].back;
        let down_now = self.tier_down.map(|count| count.now);
        let step = self.course.at(at_ms);
        step.states[known.state as usize] -= 1;
        step.states[state as usize] += 1;
        step.ended[tier] = ended;
        step.down_now = down_now;
        for (most, now) in step.down.iter_mut().zip(down_now) {
            *most = now.max(*most);
        }
    }

    fn goes(&mut self, at_ms: u64, seat: Seat, down: bool) {
        let tier = at(seat.tier);
        let of_group = seat.group.map(|group| &mut self.group_down[group]);
        let counts = [
            Some(&mut self.fleet),
            Some(&mut self.tier_down[tier]),
            Some(&mut self.site_down[seat.site]),
            Some(&mut self.cluster_down[seat.cluster]),
            of_group,
        ];
        for count in counts.into_iter().flatten() {
            if down {
                count.up(at_ms);
            } else {
                count.now -= 1;
            }
        }
        if down {
            self.tiers[tier].first_down_ms.get_or_insert(at_ms);
        }
    }

    /// Chunks have gone one way.
    pub fn carried(&mut self, at_ms: u64, way: Way, bytes: u64) {
        let links = &mut self.figures.links;
        match way {
            Way::Within => links.within_bytes += bytes,
            Way::Between => {
                links.between_bytes += bytes;
                self.carried.at(at_ms).between += bytes;
            }
            Way::Earth => {
                links.earth_bytes += bytes;
                links.earth_last_ms = Some(at_ms);
                self.carried.at(at_ms).earth += bytes;
            }
        }
    }

    /// Something that is no chunk went over the link to Earth.
    pub fn earth_control(&mut self, bytes: u64) {
        self.figures.links.earth_control_bytes += bytes;
    }

    /// Messages of the swarm: requests, refusals, have-sets.
    pub fn swarm_messages(&mut self, count: u64) {
        self.figures.swarm_messages += count;
    }

    /// A chunk arrived where it was lacking, and was good.
    pub fn useful_chunks(&mut self, count: u64) {
        self.figures.useful_chunks += count;
    }

    /// A server has all bytes of the artifact.
    pub fn has_all(&mut self, at_ms: u64, server: usize) {
        if !std::mem::replace(&mut self.servers[server].has_all, true) {
            self.without_all -= 1;
            if self.without_all == 0 {
                self.figures.links.last_byte_ms = Some(at_ms);
            }
        }
    }

    /// People halted something.
    pub fn halted(&mut self) {
        self.figures.halts += 1;
    }

    /// An invariant was looked at so many times.
    pub fn checked(&mut self, invariant: &'static str, times: u64) {
        // Few names, always the same ones: their addresses tell them apart without comparing texts.
        let known = self.checks.iter_mut().find(|(name, _)| std::ptr::eq(*name, invariant));
        match known {
            Some((_, count)) => *count += times,
            None => self.checks.push((invariant, times)),
        }
    }

    /// Servers that are at an end.
    #[must_use]
    pub fn ended(&self) -> usize {
        self.tiers.iter().map(|of| (of.completed + of.back) as usize).sum()
    }

    /// Servers that are down.
    #[must_use]
    pub fn down(&self) -> usize {
        self.fleet.now as usize
    }

    /// The numbers and courses of a run that ended now, after so many events.
    #[must_use]
    pub fn finish(&self, scenario: &Scenario, at_ms: u64, events: u64) -> (Figures, Series) {
        let mut figures = self.figures.clone();
        (figures.events, figures.ended_ms) = (events, at_ms);
        figures.tiers = Tier::ALL.into_iter().filter_map(|tier| self.tier_figures(tier)).collect();
        figures.down = self.down_figures(scenario);
        for (name, count) in &self.checks {
            *figures.checks.entry((*name).to_owned()).or_default() += count;
        }
        let (servers_step_ms, servers) = self.course.until(at_ms);
        let (links_step_ms, links) = self.carried.steps();
        (figures, Series { servers_step_ms, servers, links_step_ms, links })
    }

    fn tier_figures(&self, tier: Tier) -> Option<TierFigures> {
        let of = &self.tiers[at(tier)];
        let done = of.completed + of.back == of.servers;
        (of.servers > 0).then(|| TierFigures {
            tier,
            servers: of.servers.into(),
            completed: of.completed.into(),
            back: of.back.into(),
            first_down_ms: of.first_down_ms,
            done_ms: done.then_some(of.ended_ms),
        })
    }

    fn down_figures(&self, scenario: &Scenario) -> Vec<DownFigures> {
        let limits = &scenario.limits;
        let told = |scope: String, count: &Count, limit: Option<u32>| DownFigures {
            scope,
            most: count.most.into(),
            at_ms: count.at_ms,
            limit: limit.map(u64::from),
        };
        let mut down = vec![told("fleet".to_owned(), &self.fleet, Some(limits.fleet.get()))];
        for tier in Tier::ALL.into_iter().filter(|tier| self.tiers[at(*tier)].servers > 0) {
            down.push(told(format!("tier {tier}"), &self.tier_down[at(tier)], Some(limits.tier.of(tier))));
        }
        for (site, count) in scenario.site_names().iter().zip(&self.site_down) {
            down.push(told(format!("site {site}"), count, limits.site.of(site)));
        }
        // The first of equals.
        let fullest = |counts: &[Count]| counts.iter().rev().max_by_key(|count| count.most).copied();
        if let Some(count) = fullest(&self.cluster_down).filter(|_| self.cluster_down.len() > 1) {
            let limit = limits.cluster.default.map(std::num::NonZero::get);
            down.push(told("fullest cluster".to_owned(), &count, limit));
        }
        if let Some(count) = fullest(&self.group_down) {
            down.push(told("fullest group".to_owned(), &count, Some(limits.group.get())));
        }
        down
    }
}

fn at(tier: Tier) -> usize {
    usize::from(tier.number() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_down_at_once_is_counted_in_every_scope_and_its_highest_is_kept() {
        let scenario = Scenario::small(1);
        let mut measure = Measure::new(&scenario, &scenario.seats());
        // The two of a pair, on two sites, and one server of tier 3.
        measure.server(1_000, 0, State::Down, true);
        measure.server(2_000, 4, State::Down, true);
        measure.server(3_000, 0, State::Complete, false);
        measure.server(4_000, 1, State::Down, true);
        measure.server(5_000, 1, State::RollingBack, true);
        measure.server(6_000, 1, State::Back, false);
        measure.server(6_500, 4, State::Complete, false);
        let (figures, series) = measure.finish(&scenario, 10_000, 99);
        let most = |scope: &str| {
            let found = figures.down.iter().find(|down| down.scope == scope).expect(scope);
            (found.most, found.at_ms, found.limit)
        };
        assert_eq!(most("fleet"), (2, 2_000, Some(3)));
        assert_eq!(most("tier 1"), (1, 1_000, Some(1)));
        assert_eq!(most("site base"), (2, 2_000, Some(2)));
        assert_eq!(most("site rim"), (1, 4_000, Some(2)));
        assert_eq!(most("fullest group"), (1, 1_000, Some(1)));
        assert_eq!(figures.rollbacks, 1);
        let tier = &figures.tiers[0];
        assert_eq!(
            (tier.completed, tier.back, tier.first_down_ms, tier.done_ms),
            (1, 1, Some(1_000), Some(6_000))
        );
        assert_eq!(figures.tiers[2].done_ms, None);
        assert_eq!(series.servers.len(), 11);
        assert_eq!(
            series.servers.iter().map(|step| step.down[2]).collect::<Vec<_>>(),
            [0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0]
        );
        assert!(series.servers.iter().all(|step| step.states.iter().sum::<u32>() == 7));
    }

    #[test]
    fn a_long_run_keeps_few_steps_and_loses_neither_a_byte_nor_a_peak() {
        let scenario = Scenario::small(1);
        let mut measure = Measure::new(&scenario, &scenario.seats());
        let mut bytes = 0;
        for second in 0..100_000 {
            measure.carried(second * 1_000, Way::Earth, second);
            bytes += second;
        }
        measure.server(50_000_000, 0, State::Down, true);
        measure.server(50_000_001, 0, State::Complete, false);
        let (figures, series) = measure.finish(&scenario, 100_000_000, 1);
        assert_eq!(figures.links.earth_bytes, bytes);
        assert_eq!(series.links.iter().map(|step| step.earth).sum::<u64>(), bytes);
        assert!(series.links.len() <= track::STEPS_MAX && series.servers.len() <= track::STEPS_MAX);
        assert_eq!(series.servers.iter().map(|step| step.down[0]).max(), Some(1));
        assert_eq!(series.servers.last().map(|step| step.ended), Some([1, 0, 0]));
    }
}
