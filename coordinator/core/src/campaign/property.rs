//! Stages under everything at once: claims, endings, silence, illness, restarts, in any order.
//!
//! Owns the property S14: nobody starts in a stage before the stages that it waits for have passed, and what a
//! gate's event says was shown is what anyone counts from the log. The oracle knows the log alone, and counts in its
//! own way. Proved by mistakes put in and taken out again: a gate that is not asked for; attempts under way left out
//! of the evidence.

use std::collections::BTreeSet;
use std::time::Duration;

use lunar_common::gate::Evidence as Shown;
use lunar_common::health::Verdict;
use lunar_common::ids::{LeaseId, ServerId};
use lunar_common::lease::{Grant, LeaseOutcome};
use lunar_common::limits::Tier;
use proptest::prelude::*;

use super::crew::Crew;
use super::rules::StageTerms;
use super::tests::stage;
use crate::coordinator::rig::{Rig, id, terms, wide};
use crate::event::{EventBody, Evidence};

const FLEET: [&str; 7] =
    ["a 3 x x1 -", "b 3 x x1 -", "c 3 x x1 -", "d 2 x x1 -", "e 2 x x1 -", "f 1 x x1 -", "g 1 x x1 -"];

/// The stage of a server, by its name alone.
fn stage_of(server: &ServerId) -> usize {
    match server.as_str() {
        "a" | "b" | "c" => 0,
        "d" | "e" => 1,
        _ => 2,
    }
}

fn stages() -> Vec<StageTerms> {
    let mut stages = vec![
        stage("tier-3", Some(Tier::Three), &[]),
        stage("tier-2", Some(Tier::Two), &[0]),
        stage("tier-1", Some(Tier::One), &[0, 1]),
    ];
    stages[0].demand.success_per_10000 = 6_000;
    stages[0].demand.soak_ms = 30_000;
    stages[0].wave_max = Some(2);
    stages[1].demand.success_per_10000 = 5_000;
    stages
}

#[derive(Debug, Clone)]
enum Step {
    Claim(usize),
    End(usize, u8),
    Report(usize, bool),
    Pass(u64),
    Restart,
}

fn steps() -> impl Strategy<Value = Step> {
    let server = 0..FLEET.len();
    prop_oneof![
        6 => server.clone().prop_map(Step::Claim),
        6 => (server.clone(), prop_oneof![4 => Just(0u8), 1 => Just(1), 1 => Just(2)])
            .prop_map(|(server, outcome)| Step::End(server, outcome)),
        2 => (server, any::<bool>()).prop_map(|(server, well)| Step::Report(server, well)),
        2 => (1..60u64).prop_map(Step::Pass),
        1 => Just(Step::Restart),
    ]
}

struct World(Crew);

impl World {
    fn new() -> Self {
        let mut rig = Rig::new(&FLEET, wide());
        let mut terms = terms("c", 2, wide());
        terms.attempts_max = 100;
        rig.plan_in_stages(terms, stages());
        Self(Crew::new(rig))
    }

    fn name(server: usize) -> ServerId {
        id(FLEET[server].split(' ').next().unwrap())
    }

    fn step(&mut self, step: &Step) {
        let Self(crew) = self;
        match *step {
            Step::Claim(server) => crew.claim(&Self::name(server)),
            Step::End(server, outcome) => crew.end(&Self::name(server), outcome, 1),
            Step::Report(server, well) => {
                crew.report(&Self::name(server), if well { Verdict::Healthy } else { Verdict::Unhealthy });
            }
            Step::Pass(seconds) => {
                let effects = crew.rig.pass(Duration::from_secs(seconds));
                crew.take(&effects);
            }
            Step::Restart => {
                crew.rig.restart();
                let held: Vec<Grant> = crew.held.values().cloned().collect();
                crew.rig.all_report_held(&held);
            }
        }
    }
}

/// What the log alone shows, and whether it keeps the order. Returns how many gates opened.
fn judge(log: &[EventBody]) -> Result<usize, String> {
    let mut shown = [Shown::default(); 3];
    for (stage, servers) in [3, 2, 2].into_iter().enumerate() {
        shown[stage].servers = servers;
    }
    let mut done: [BTreeSet<&ServerId>; 3] = Default::default();
    let mut open: BTreeSet<LeaseId> = BTreeSet::new();
    let mut passed = [false; 3];
    let all = stages();
    for event in log {
        match event {
            EventBody::Granted(granted) => {
                let at = stage_of(&granted.server);
                if let Some(before) = all[at].after.iter().find(|before| !passed[usize::from(**before)]) {
                    return Err(format!("{} starts before stage {before} has passed", granted.server));
                }
                open.insert(granted.lease);
                shown[at].unknown += 1;
            }
            EventBody::Released { server, lease, evidence: Evidence::Release { outcome, .. }, .. } => {
                let at = stage_of(server);
                if open.remove(lease) {
                    shown[at].unknown -= 1;
                }
                match outcome {
                    LeaseOutcome::Completed => {
                        shown[at].succeeded += 1;
                        done[at].insert(server);
                    }
                    LeaseOutcome::RolledBack { .. } => shown[at].failed += 1,
                    LeaseOutcome::NeverStarted { .. } => {}
                }
                shown[at].completed = u32::try_from(done[at].len()).unwrap();
            }
            EventBody::GateOpened { stage, demand, evidence, .. } => {
                let at = usize::from(*stage);
                let told = Shown { unwell: 0, soaked_ms: 0, ..*evidence };
                if told != shown[at] {
                    return Err(format!("stage {at} told {told:?}, and the log shows {:?}", shown[at]));
                }
                if *demand != all[at].demand || evidence.missing(demand).is_some() || passed[at] {
                    return Err(format!("stage {at} passed by {evidence:?}"));
                }
                passed[at] = true;
            }
            _ => {}
        }
    }
    Ok(passed.iter().filter(|passed| **passed).count())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn nobody_starts_before_its_gate_and_what_a_gate_says_is_what_the_log_shows(
        steps in prop::collection::vec(steps(), 1..120)
    ) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        judge(&world.0.rig.log).map_err(TestCaseError::fail)?;
        // Then all goes well, and everyone gets there: no wave and no gate is stuck for ever.
        for round in 0..40u64 {
            for server in 0..FLEET.len() {
                world.step(&Step::End(server, 0));
                world.step(&Step::Report(server, true));
                let name = World::name(server);
                let completed = world.0.rig.log.iter().any(|event| matches!(
                    event,
                    EventBody::Released {
                        server, evidence: Evidence::Release { outcome: LeaseOutcome::Completed, .. }, ..
                    } if *server == name
                ));
                // Who fails often must succeed more often for its stage's share: it is upgraded again.
                if !completed || round > 3 {
                    world.step(&Step::Claim(server));
                }
            }
            world.step(&Step::Pass(20));
        }
        prop_assert_eq!(judge(&world.0.rig.log).map_err(TestCaseError::fail)?.min(2), 2);
    }
}
