//! Who belongs to which stage, and what each stage has shown: a fold of the log.
//!
//! Owns [`Stages`]. Main invariant: every count of a stage is the sum of what its servers' records say, kept by
//! difference as events come; nothing is counted twice, whatever came twice. Membership is drawn by the plan's hash
//! and the server's name, so everyone who knows the fleet draws the same canary; who joins later takes a place that
//! is left, and displaces nobody.

use std::collections::BTreeMap;

use lunar_common::gate::{Demand, Evidence};
use lunar_common::ids::{DocumentHash, LeaseId, ServerId, StageName};
use lunar_common::lease::LeaseOutcome;
use lunar_common::order::draw;

use crate::campaign::rules::{Labels, StageTerms};
use crate::event::Member;

/// The stage of those that belong to none.
pub(crate) const NO_STAGE: u16 = u16::MAX;

/// The stages of one plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stages {
    plan: DocumentHash,
    terms: Vec<StageTerms>,
    runs: Vec<Run>,
    places: BTreeMap<ServerId, Place>,
}

/// One stage, as far as it got.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Run {
    /// Servers that it selects and that no earlier stage took.
    offered: u32,
    /// What was shown, but for who is unwell now: that is not in the log.
    evidence: Evidence,
    passed: bool,
    wave: Wave,
}

/// Starts that are allowed together.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wave {
    size: u32,
    /// Leases granted in it that were used, or may yet be.
    given: u32,
    /// One of it failed.
    failed: bool,
}

impl Default for Wave {
    fn default() -> Self {
        Self { size: 1, given: 0, failed: false }
    }
}

/// A server in its stage.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    stage: u16,
    completed: bool,
    written_off: bool,
    /// Leases by this plan of which it is not known how they ended.
    open: Vec<LeaseId>,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Succeeded,
    Failed,
    NeverStarted,
}

impl From<&LeaseOutcome> for Ending {
    fn from(outcome: &LeaseOutcome) -> Self {
        match outcome {
            LeaseOutcome::Completed => Self::Succeeded,
            LeaseOutcome::RolledBack { .. } => Self::Failed,
            LeaseOutcome::NeverStarted { .. } => Self::NeverStarted,
        }
    }
}

/// What keeps a stage's servers from starting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shut {
    /// This stage has not passed.
    Gate(u16),
    /// The wave is full.
    Wave,
}

/// A member on its way to a stage.
pub(crate) struct Candidate<'a> {
    pub(crate) member: &'a Member,
    pub(crate) labels: &'a Labels,
    pub(crate) written_off: bool,
}

impl Stages {
    /// Deals these servers, all that the plan selects, to its stages.
    pub(crate) fn deal(plan: DocumentHash, terms: Vec<StageTerms>, servers: &[Candidate<'_>]) -> Self {
        let mut dealt =
            Self { plan, runs: vec![Run::default(); terms.len()], terms, places: BTreeMap::new() };
        let takes = |at: usize, server: &&Candidate<'_>| dealt.terms[at].takes(server.member, server.labels);
        let hands = deal(plan, &dealt.terms, servers.iter().collect(), |server| &server.member.server, takes);
        for (stage, hand) in (0..).zip(hands) {
            dealt.runs[usize::from(stage)].offered = hand.offered;
            for server in hand.servers {
                dealt.put(&server.member.server, stage, server.written_off);
            }
        }
        dealt
    }

    /// A server joined, or its enrolment was replaced. It keeps its place as long as its stage selects it; the place
    /// of another machine of the same name shows nothing about this one.
    pub(crate) fn admit(&mut self, server: &Candidate<'_>, selected: bool, same_machine: bool) {
        let name = &server.member.server;
        if let Some(place) = self.places.get(name) {
            let takes = self.terms[usize::from(place.stage)].takes(server.member, server.labels);
            if selected && takes && same_machine {
                return;
            }
            self.remove(name);
        }
        if !selected {
            return;
        }
        for (stage, terms) in (0..).zip(&self.terms) {
            if !terms.takes(server.member, server.labels) {
                continue;
            }
            let run = &mut self.runs[usize::from(stage)];
            run.offered += 1;
            if run.evidence.servers < terms.quota(run.offered) {
                return self.put(name, stage, server.written_off);
            }
        }
    }

    fn put(&mut self, server: &ServerId, stage: u16, written_off: bool) {
        let place = Place { stage, completed: false, written_off, open: Vec::new() };
        self.runs[usize::from(stage)].add(&place);
        self.places.insert(server.clone(), place);
    }

    /// A server is out. What its attempts have shown stays.
    pub(crate) fn remove(&mut self, server: &ServerId) {
        let Some(place) = self.places.remove(server) else { return };
        let run = &mut self.runs[usize::from(place.stage)];
        run.subtract(&place);
        for _ in &place.open {
            run.end(Ending::NeverStarted);
        }
        run.turn(&self.terms[usize::from(place.stage)]);
    }

    /// A lease by a plan counts from here on.
    pub(crate) fn opened(&mut self, plan: DocumentHash, server: &ServerId, lease: LeaseId) {
        self.change(plan, server, |place, run| {
            if !place.open.contains(&lease) {
                place.open.push(lease);
                run.wave.given += 1;
            }
        });
    }

    /// How an attempt by a plan ended, by the word of its server; or that an operator reaped its lease.
    pub(crate) fn ended(&mut self, plan: DocumentHash, server: &ServerId, lease: LeaseId, ending: Ending) {
        self.change(plan, server, |place, run| {
            match place.open.iter().position(|open| *open == lease) {
                Some(at) => {
                    place.open.remove(at);
                    run.end(ending);
                }
                // Granted in a life that the log has forgotten.
                None => run.count(ending),
            }
            place.completed |= ending == Ending::Succeeded;
        });
    }

    /// A server runs the plan's version, by its own word.
    pub(crate) fn arrived(&mut self, plan: DocumentHash, server: &ServerId) {
        self.change(plan, server, |place, _| place.completed = true);
    }

    /// A server was written off, or is back.
    pub(crate) fn write_off(&mut self, server: &ServerId, written_off: bool) {
        self.change(self.plan, server, |place, _| place.written_off = written_off);
    }

    fn change(&mut self, plan: DocumentHash, server: &ServerId, what: impl FnOnce(&mut Place, &mut Run)) {
        let Some(place) = self.places.get_mut(server).filter(|_| plan == self.plan) else { return };
        let run = &mut self.runs[usize::from(place.stage)];
        run.subtract(place);
        what(place, run);
        run.add(place);
        run.turn(&self.terms[usize::from(place.stage)]);
    }

    /// A stage has soaked for so long.
    pub(crate) fn soaked(&mut self, plan: DocumentHash, stage: u16, soaked_ms: u64) {
        if let Some(run) = self.runs.get_mut(usize::from(stage)).filter(|_| plan == self.plan) {
            run.evidence.soaked_ms = soaked_ms;
        }
    }

    /// A stage's gate opened.
    pub(crate) fn passed(&mut self, plan: DocumentHash, stage: u16) {
        if let Some(run) = self.runs.get_mut(usize::from(stage)).filter(|_| plan == self.plan) {
            run.passed = true;
        }
    }

    /// The stage of a server; [`NO_STAGE`] if none selects it.
    pub(crate) fn of(&self, server: &ServerId) -> u16 {
        self.places.get(server).map_or(NO_STAGE, |place| place.stage)
    }

    /// The place of the stage of this name.
    pub(crate) fn at(&self, name: &StageName) -> Option<u16> {
        (0..).zip(&self.terms).find(|(_, terms)| terms.name == *name).map(|(at, _)| at)
    }

    /// The servers of a stage, by name.
    pub(crate) fn servers_of(&self, stage: u16) -> impl Iterator<Item = &ServerId> {
        self.places.iter().filter(move |(_, place)| place.stage == stage).map(|(server, _)| server)
    }

    /// The stage of a server that is on the new version.
    pub(crate) fn completed_in(&self, server: &ServerId) -> Option<u16> {
        self.places.get(server).filter(|place| place.completed).map(|place| place.stage)
    }

    /// Whether a server's word that it is on the new version is news, and not what its release will say.
    pub(crate) fn awaits_word(&self, server: &ServerId) -> bool {
        self.places.get(server).is_some_and(|place| !place.completed && place.open.is_empty())
    }

    /// What keeps the servers of a stage from starting, if anything does.
    pub(crate) fn shut(&self, stage: u16) -> Option<Shut> {
        let terms = self.terms.get(usize::from(stage))?;
        if let Some(before) = self.waits_for(terms) {
            return Some(Shut::Gate(before));
        }
        let wave = &self.runs[usize::from(stage)].wave;
        (terms.wave_max.is_some() && wave.given >= wave.size).then_some(Shut::Wave)
    }

    /// The first stage before one that has not passed.
    fn waits_for(&self, terms: &StageTerms) -> Option<u16> {
        terms.after.iter().copied().find(|before| !self.has_passed(*before))
    }

    /// Every stage that may run and has not passed: those whose gates are looked at.
    pub(crate) fn current(&self) -> impl Iterator<Item = u16> {
        let stages = (0..).zip(&self.terms);
        stages
            .filter(|(stage, terms)| !self.has_passed(*stage) && self.waits_for(terms).is_none())
            .map(|(stage, _)| stage)
    }

    /// What a stage has shown, by the log.
    pub(crate) fn evidence(&self, stage: u16) -> Evidence {
        self.runs[usize::from(stage)].evidence
    }

    pub(crate) fn demand(&self, stage: u16) -> Demand {
        self.terms[usize::from(stage)].demand
    }

    pub(crate) fn name(&self, stage: u16) -> &StageName {
        &self.terms[usize::from(stage)].name
    }

    pub(crate) fn has_passed(&self, stage: u16) -> bool {
        self.runs[usize::from(stage)].passed
    }

    /// Starts that the wave of a stage allows together; `None`: it has no waves.
    pub(crate) fn wave_size(&self, stage: u16) -> Option<u32> {
        self.terms[usize::from(stage)].wave_max.map(|_| self.runs[usize::from(stage)].wave.size)
    }

    pub(crate) fn plan(&self) -> DocumentHash {
        self.plan
    }

    pub(crate) fn count(&self) -> u16 {
        u16::try_from(self.terms.len()).unwrap_or(NO_STAGE)
    }

    /// The counts of a stage from its servers' records alone, all at once.
    #[cfg(test)]
    pub(crate) fn recount(&self, stage: u16) -> Evidence {
        let before = self.evidence(stage);
        let mut run = Run::default();
        for place in self.places.values().filter(|place| place.stage == stage) {
            run.add(place);
        }
        Evidence {
            succeeded: before.succeeded,
            failed: before.failed,
            soaked_ms: before.soaked_ms,
            ..run.evidence
        }
    }
}

impl Run {
    fn add(&mut self, place: &Place) {
        let evidence = &mut self.evidence;
        evidence.servers += 1;
        evidence.completed += u32::from(place.completed);
        evidence.absent += u32::from(place.written_off && !place.completed);
        evidence.unknown += count(place.open.len());
    }

    fn subtract(&mut self, place: &Place) {
        let evidence = &mut self.evidence;
        evidence.servers -= 1;
        evidence.completed -= u32::from(place.completed);
        evidence.absent -= u32::from(place.written_off && !place.completed);
        evidence.unknown -= count(place.open.len());
    }

    /// An attempt that took a place in the wave has ended.
    fn end(&mut self, ending: Ending) {
        self.count(ending);
        match ending {
            Ending::Succeeded => {}
            Ending::Failed => self.wave.failed = true,
            // Its place is free again.
            Ending::NeverStarted => self.wave.given = self.wave.given.saturating_sub(1),
        }
    }

    fn count(&mut self, ending: Ending) {
        match ending {
            Ending::Succeeded => self.evidence.succeeded += 1,
            Ending::Failed => self.evidence.failed += 1,
            Ending::NeverStarted => {}
        }
    }

    /// A wave of which all have ended is followed by the next.
    fn turn(&mut self, terms: &StageTerms) {
        let Some(most) = terms.wave_max else { return };
        if self.evidence.unknown > 0 || self.wave.given < self.wave.size {
            return;
        }
        let size = if self.wave.failed { 1 } else { self.wave.size.saturating_mul(2).min(most) };
        self.wave = Wave { size, given: 0, failed: false };
    }
}

/// The servers of one stage.
pub(crate) struct Hand<T> {
    /// How many it selects that no earlier stage took.
    pub(crate) offered: u32,
    pub(crate) servers: Vec<T>,
}

/// Deals servers to stages: each to the first that takes it and has room. Where more match than have room, those
/// with the lowest draws stay.
pub(crate) fn deal<T>(
    plan: DocumentHash,
    stages: &[StageTerms],
    servers: Vec<T>,
    name: impl Fn(&T) -> &ServerId,
    takes: impl Fn(usize, &T) -> bool,
) -> Vec<Hand<T>> {
    let mut left = servers;
    let mut hands = Vec::with_capacity(stages.len());
    for (at, stage) in stages.iter().enumerate() {
        let (mut taken, mut rest): (Vec<T>, Vec<T>) =
            std::mem::take(&mut left).into_iter().partition(|server| takes(at, server));
        let offered = count(taken.len());
        let quota = stage.quota(offered);
        if quota < offered {
            let parts = |server: &T| {
                draw("stage", &[&plan.0, stage.name.as_str().as_bytes(), name(server).as_str().as_bytes()])
            };
            taken.sort_by_cached_key(|server| (parts(server), name(server).clone()));
            rest.extend(taken.split_off(usize::try_from(quota).unwrap_or(usize::MAX)));
        }
        hands.push(Hand { offered, servers: taken });
        left = rest;
    }
    hands
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
