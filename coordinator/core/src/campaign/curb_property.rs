//! Curbs under everything at once: pauses, quarantines, lower limits, a cancellation, their ends, restarts and new plans.
//!
//! Owns the property of C6: nobody starts where people hold back, or beyond what they have lowered a limit to, as the log
//! alone tells; and once all is let go, all get there. Proved by mistakes put in and taken out again: a quarantine that
//! is not asked for; pauses of which only the last is looked at; a lowered limit that is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lunar_common::curb::{Lowered, Measure};
use lunar_common::ids::{DocumentHash, PauseId, Sequence, ServerId};
use lunar_common::lease::LimitScope;
use lunar_common::limits::Tier;
use lunar_common::pause::PauseScope;
use proptest::prelude::*;

use super::crew::Crew;
use super::curb_tests::{FLEET, ann, curb, pause};
use crate::coordinator::rig::{Rig, campaign, id, member, plan_hash, terms, wide};
use crate::event::EventBody;

#[derive(Debug, Clone)]
enum Step {
    Claim(usize),
    End(usize, u8),
    Curb(Measure),
    Resume(usize),
    Replan,
    Pass(u64),
    Restart,
}

fn scopes() -> impl Strategy<Value = PauseScope> {
    prop_oneof![
        Just(PauseScope::Campaign),
        Just(PauseScope::Tier(Tier::One)),
        Just(PauseScope::Tier(Tier::Two)),
        Just(PauseScope::Site("north".parse().unwrap())),
        Just(PauseScope::Model { label: "model".into(), value: "r740".into() }),
    ]
}

fn limits() -> impl Strategy<Value = Lowered> {
    let scope = prop_oneof![
        Just(LimitScope::Fleet),
        Just(LimitScope::Tier(Tier::One)),
        Just(LimitScope::Site("south".parse().unwrap()))
    ];
    (scope, 1..4u32).prop_map(|(scope, to)| Lowered { scope, to: to.try_into().unwrap() })
}

fn measures() -> impl Strategy<Value = Measure> {
    let server = (0..FLEET.len()).prop_map(server);
    prop_oneof![
        4 => scopes().prop_map(Measure::Pause),
        2 => server.clone().prop_map(Measure::Quarantine),
        2 => server.prop_map(Measure::Release),
        3 => prop::collection::vec(limits(), 1..3).prop_map(Measure::Lower),
        1 => Just(Measure::Cancel),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let server = 0..FLEET.len();
    prop_oneof![
        8 => server.clone().prop_map(Step::Claim),
        6 => (server, 0..3u8).prop_map(|(server, outcome)| Step::End(server, outcome)),
        5 => measures().prop_map(Step::Curb),
        3 => (0..8usize).prop_map(Step::Resume),
        1 => Just(Step::Replan),
        2 => (1..60u64).prop_map(Step::Pass),
        1 => Just(Step::Restart),
    ]
}

fn server(at: usize) -> ServerId {
    id(&FLEET[at][..1])
}

/// What the log has shown.
#[derive(Default)]
struct Oracle {
    read: usize,
    pauses: BTreeMap<PauseId, PauseScope>,
    quarantined: BTreeSet<ServerId>,
    lowered: BTreeMap<LimitScope, u32>,
    cancelled: bool,
    held: BTreeSet<ServerId>,
    started: BTreeSet<ServerId>,
}

impl Oracle {
    fn read(&mut self, log: &[EventBody]) -> Result<(), String> {
        for event in &log[self.read..] {
            match event {
                EventBody::Curbed { what, by, .. } => match what {
                    Measure::Pause(scope) => drop(self.pauses.insert(by.id, scope.clone())),
                    Measure::Quarantine(server) => drop(self.quarantined.insert(server.clone())),
                    Measure::Release(server) => drop(self.quarantined.remove(server)),
                    Measure::Cancel => self.cancelled = true,
                    Measure::Lower(lowered) => {
                        for Lowered { scope, to } in lowered {
                            let limit = self.lowered.entry(scope.clone()).or_insert(u32::MAX);
                            *limit = to.get().min(*limit);
                        }
                    }
                },
                EventBody::Unpaused { pause, .. } => drop(self.pauses.remove(pause)),
                EventBody::PlanAccepted { .. } => {
                    self.lowered.clear();
                    self.cancelled = false;
                }
                EventBody::Released { server, .. } => drop(self.held.remove(server)),
                EventBody::Granted(granted) => {
                    self.judge(&granted.server)?;
                    self.started.insert(granted.server.clone());
                }
                _ => {}
            }
        }
        self.read = log.len();
        Ok(())
    }

    fn judge(&mut self, server: &ServerId) -> Result<(), String> {
        let of = |server: &ServerId| member(FLEET.iter().find(|line| line[..1] == *server.as_str()).unwrap());
        let (found, is_r740) = (of(server), server.as_str() == "d");
        let paused = self.pauses.values().find(|scope| match scope {
            PauseScope::Campaign => true,
            PauseScope::Tier(tier) => found.tier == *tier,
            PauseScope::Site(site) => found.site == *site,
            PauseScope::Model { .. } => is_r740,
        });
        if self.cancelled || self.quarantined.contains(server) || paused.is_some() {
            let (cancelled, held) = (self.cancelled, &self.quarantined);
            return Err(format!(
                "{server} starts: cancelled {cancelled}, in quarantine {held:?}, paused {paused:?}"
            ));
        }
        self.held.insert(server.clone());
        for (scope, limit) in &self.lowered {
            let down = self.held.iter().filter(|server| of(server).scopes().any(|of| of == *scope)).count();
            if down > *limit as usize && found.scopes().any(|of| of == *scope) {
                return Err(format!(
                    "{server} is one of {down} down in {scope}, which was lowered to {limit}"
                ));
            }
        }
        Ok(())
    }
}

struct World {
    crew: Crew,
    oracle: Oracle,
    numbers: u64,
}

impl World {
    fn new() -> Self {
        let mut rig = Rig::new(&FLEET, wide());
        rig.core.label(&id("d"), &[("model".to_owned(), "r740".to_owned())].into());
        rig.plan(crate::event::Terms { attempts_max: 1_000, ..terms("c", 2, wide()) });
        Self { crew: Crew::new(rig), oracle: Oracle::default(), numbers: 0 }
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Claim(at) => self.crew.claim(&server(*at)),
            Step::End(at, outcome) => self.crew.end(&server(*at), *outcome, 1),
            Step::Curb(what) => {
                self.numbers += 1;
                let (number, rig) = (self.numbers, &mut self.crew.rig);
                rig.core.take_curb(&curb(number, what.clone()), pause(number), ann());
                let effects = rig.step();
                self.crew.take(&effects);
            }
            Step::Resume(nth) => {
                let named: Vec<PauseId> = self.oracle.pauses.keys().skip(*nth).take(1).copied().collect();
                let effects = self.crew.rig.resume_pauses(&named);
                self.crew.take(&effects);
            }
            Step::Replan => {
                // The same numbers under another hash and back again: the crew claims by the second one.
                for plan in [DocumentHash([99; 32]), plan_hash(2)] {
                    let terms = terms("c", 2, wide());
                    let effects =
                        self.crew.rig.plan(crate::event::Terms { plan, attempts_max: 1_000, ..terms });
                    self.crew.take(&effects);
                }
            }
            Step::Pass(seconds) => {
                let effects = self.crew.rig.pass(Duration::from_secs(*seconds));
                self.crew.take(&effects);
            }
            Step::Restart => {
                self.crew.rig.restart();
                let held: Vec<_> = self.crew.held.values().cloned().collect();
                self.crew.rig.all_report_held(&held);
            }
        }
        self.oracle.read(&self.crew.rig.log)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn nobody_starts_where_people_hold_back_and_all_get_there_once_they_let_go(
        steps in prop::collection::vec(steps(), 1..100)
    ) {
        let mut world = World::new();
        for step in &steps {
            world.step(step).map_err(TestCaseError::fail)?;
        }
        // Then people let everything go.
        let mut last = vec![Step::Restart, Step::Replan];
        last.extend((0..FLEET.len()).map(|at| Step::Curb(Measure::Release(server(at)))));
        last.extend(world.oracle.pauses.keys().map(|_| Step::Resume(0)));
        world.oracle.started.clear();
        for _ in 0..4 {
            last.extend((0..FLEET.len()).flat_map(|at| [Step::End(at, 0), Step::Claim(at)]));
        }
        for step in &last {
            world.step(step).map_err(TestCaseError::fail)?;
        }
        let state = world.crew.rig.core.campaign(&campaign("c")).unwrap().by_hand;
        prop_assert_eq!((state.pauses.len(), state.lowered.len(), state.cancelled), (0, 0, None));
        prop_assert!(state.sequence <= Sequence(world.numbers));
        prop_assert_eq!(world.oracle.started.len(), FLEET.len());
    }
}
