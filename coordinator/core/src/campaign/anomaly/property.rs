//! Pauses under everything at once: failures, silence, resumes, restarts, in any order.
//!
//! Owns the property S13: once a pause is in the log, nothing is granted in its scope until a resume has named it; and
//! every pause in the log is the one that anyone finds who counts by hand, no more and no fewer. The oracle knows the
//! log alone, keeps lists, and counts them anew each time. Proved by mistakes put in and taken out again: a pause that
//! is not asked for before a grant; a table looked up one row too far; a resume that forgets the caps.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lunar_common::health::Verdict;
use lunar_common::ids::{LeaseId, ServerId, SiteId};
use lunar_common::lease::LeaseOutcome;
use lunar_common::limits::Tier;
use lunar_common::pause::{Anomaly, PauseScope};
use lunar_common::plan::{HoldStop, PlaceStop, StopRules, StormStop, TierStop};
use proptest::prelude::*;

use super::tests::FLEET;
use crate::campaign::crew::Crew;
use crate::coordinator::rig::{Rig, member, plan_hash, terms, wide};
use crate::event::{EventBody, Evidence};

fn rules() -> StopRules {
    let tier = |failed, within: &[u32], silent| TierStop { failed, within: within.to_vec(), silent };
    let mut rules = StopRules::never();
    rules.failed = 9;
    rules.tier.one = tier(1, &[], 1);
    rules.tier.two = tier(3, &[0, 2], 2);
    rules.tier.three = tier(u32::MAX, &[0, 0, 3], 1);
    rules.place = PlaceStop { failed: 4, within: vec![0, 2, 3] };
    rules.storm = StormStop { rolled_back: 4, of: 5 };
    rules.hold = HoldStop { percent: 200, slow: 2, of: 3, samples: 2, floor_s: 20 };
    rules
}

#[derive(Debug, Clone)]
enum Step {
    Claim(usize),
    End(usize, u8, u64),
    Report(usize),
    Pass(u64),
    Resume(u8),
    Restart,
}

fn steps() -> impl Strategy<Value = Step> {
    let server = 0..FLEET.len();
    let outcome = prop_oneof![4 => Just(0u8), 3 => Just(1), 1 => Just(2)];
    prop_oneof![
        8 => server.clone().prop_map(Step::Claim),
        8 => (server.clone(), outcome, 1..120u64).prop_map(|(server, how, down_s)| Step::End(server, how, down_s)),
        2 => server.prop_map(Step::Report),
        2 => (1..2_000u64).prop_map(Step::Pass),
        2 => any::<u8>().prop_map(Step::Resume),
        1 => Just(Step::Restart),
    ]
}

struct World(Crew);

impl World {
    fn new() -> Self {
        let mut rig = Rig::new(&FLEET, wide());
        let mut terms = terms("c", 2, wide());
        terms.attempts_max = 1_000;
        rig.plan_watched(terms, &rules());
        Self(Crew::new(rig))
    }

    fn step(&mut self, step: &Step) {
        let Self(crew) = self;
        let name = |server: usize| member(FLEET[server]).server;
        match *step {
            Step::Claim(server) => {
                if !crew.held.contains_key(&name(server)) {
                    crew.report(&name(server), Verdict::Healthy);
                    crew.claim(&name(server));
                }
            }
            Step::End(server, outcome, down_s) => crew.end(&name(server), outcome, down_s * 1_000),
            Step::Report(server) => crew.report(&name(server), Verdict::Healthy),
            Step::Pass(seconds) => {
                let effects = crew.rig.pass(Duration::from_secs(seconds));
                crew.take(&effects);
            }
            Step::Resume(which) => {
                let pauses: Vec<_> =
                    crew.rig.core.campaigns()[0].pauses.iter().map(|pause| pause.id).collect();
                let named: Vec<_> = (0u32..)
                    .zip(pauses)
                    .filter(|(at, _)| which >> (at % 8) & 1 == 1)
                    .map(|(_, id)| id)
                    .collect();
                let effects = crew.rig.resume_pauses(&named);
                crew.take(&effects);
            }
            Step::Restart => {
                crew.rig.restart();
                for line in FLEET {
                    crew.report(&member(line).server, Verdict::Healthy);
                }
            }
        }
    }
}

/// What happened to a server in the log's own order.
struct Ending {
    server: ServerId,
    failed: bool,
    /// Attempts, but for reaps, with how long they were down.
    down_ms: u64,
}

/// Everything that the log shows, in lists.
#[derive(Default)]
struct Shown {
    endings: Vec<Ending>,
    /// How many endings there were when people last resumed a scope.
    resumed: BTreeMap<PauseScope, usize>,
    silent: BTreeMap<ServerId, LeaseId>,
    paused: BTreeSet<PauseScope>,
}

fn place(server: &ServerId) -> (Tier, SiteId) {
    let line = FLEET.iter().find(|line| line.starts_with(server.as_str())).unwrap();
    (member(line).tier, member(line).site)
}

impl Shown {
    fn is_in(scope: &PauseScope, server: &ServerId) -> bool {
        let (tier, site) = place(server);
        match scope {
            PauseScope::Campaign => true,
            PauseScope::Tier(of) => *of == tier,
            PauseScope::Site(of) => *of == site,
            PauseScope::Model { .. } => false,
        }
    }

    fn from(&self, scope: &PauseScope) -> usize {
        self.resumed.get(scope).copied().unwrap_or(0)
    }

    /// Servers of a scope that tried, and that failed, from some ending on.
    fn servers(&self, scope: &PauseScope, from: usize) -> (u32, u32) {
        let of = |failed_only: bool| {
            let endings = self.endings[from..].iter().filter(|ending| Self::is_in(scope, &ending.server));
            let servers: BTreeSet<_> =
                endings.filter(|ending| ending.failed || !failed_only).map(|ending| &ending.server).collect();
            u32::try_from(servers.len()).unwrap()
        };
        (of(false), of(true))
    }

    /// What the last ending must pause.
    fn expected_by_ending(&self) -> Vec<(PauseScope, Anomaly)> {
        let rules = rules();
        let last = self.endings.last().unwrap();
        let (tier, site) = place(&last.server);
        let of_tier = rules.tier.of(tier);
        let mut found: Vec<(PauseScope, Anomaly)> = Vec::new();
        if last.failed {
            for (scope, cap, table) in [
                (PauseScope::Campaign, rules.failed, &Vec::new()),
                (PauseScope::Tier(tier), of_tier.failed, &of_tier.within),
                (PauseScope::Site(site), rules.place.failed, &rules.place.within),
            ] {
                let (tried, failed) = self.servers(&scope, 0);
                let (tried_since, failed_since) = self.servers(&scope, self.from(&scope));
                let row = table.iter().enumerate().find(|(row, _)| row + 1 == failed_since as usize);
                if failed >= cap {
                    found.push((scope, Anomaly::Failed { failed, tried, stop_at: cap }));
                } else if let Some((_, within)) = row.filter(|(_, within)| tried_since <= **within) {
                    let within = *within;
                    found.push((scope, Anomaly::Rate { failed: failed_since, tried: tried_since, within }));
                }
            }
            let since = &self.endings[self.from(&PauseScope::Campaign)..];
            let window = &since[since.len().saturating_sub(rules.storm.of as usize)..];
            let rolled_back = u32::try_from(window.iter().filter(|ending| ending.failed).count()).unwrap();
            let storm = Anomaly::Storm { rolled_back, of: u32::try_from(window.len()).unwrap(), stop_at: 4 };
            if rolled_back >= 4 && found.iter().all(|(scope, _)| *scope != PauseScope::Campaign) {
                found.push((PauseScope::Campaign, storm));
            }
        } else {
            found.extend(self.expected_by_hold(tier).map(|anomaly| (PauseScope::Tier(tier), anomaly)));
        }
        found.retain(|(scope, _)| !self.paused.contains(scope));
        found.sort();
        found
    }

    fn expected_by_hold(&self, tier: Tier) -> Option<Anomaly> {
        let scope = PauseScope::Tier(tier);
        let (mut usual, mut slow): (Vec<u64>, Vec<bool>) = (Vec::new(), Vec::new());
        let mut judged = None;
        for ending in &self.endings[self.from(&scope)..] {
            if ending.failed || !Self::is_in(&scope, &ending.server) {
                continue;
            }
            usual.sort_unstable();
            let median = (usual.len() >= 2).then(|| usual[(usual.len() - 1) / 2]);
            let is_slow = median.is_some_and(|median| ending.down_ms > 2 * median && ending.down_ms > 20_000);
            if !is_slow {
                usual.push(ending.down_ms);
            }
            slow.push(is_slow);
            let window = &slow[slow.len().saturating_sub(3)..];
            let count = window.iter().filter(|slow| **slow).count();
            judged = median.filter(|_| is_slow && count >= 2).map(|median_ms| Anomaly::Slow {
                slow: u32::try_from(count).unwrap(),
                of: u32::try_from(window.len()).unwrap(),
                stop_at: 2,
                hold_ms: ending.down_ms,
                median_ms,
                percent: 200,
            });
        }
        judged
    }

    fn expected_by_silence(&self, server: &ServerId) -> Vec<(PauseScope, Anomaly)> {
        let tier = place(server).0;
        let stop_at = rules().tier.of(tier).silent;
        let silent = u32::try_from(self.silent.keys().filter(|of| place(of).0 == tier).count()).unwrap();
        let scope = PauseScope::Tier(tier);
        let pauses = silent >= stop_at && !self.paused.contains(&scope);
        pauses.then_some((scope, Anomaly::Silent { silent, stop_at })).into_iter().collect()
    }
}

/// Whether the log pauses what it shows, and grants nothing there. Returns how many pauses it holds.
fn judge(log: &[EventBody]) -> Result<usize, String> {
    let mut shown = Shown::default();
    let mut expected: Vec<(PauseScope, Anomaly)> = Vec::new();
    let mut count = 0;
    for (at, event) in log.iter().enumerate() {
        if let EventBody::Paused { pause } = event {
            let place = expected.iter().position(|found| *found == (pause.scope.clone(), pause.anomaly));
            let Some(place) = place else {
                return Err(format!("event {at} is {pause:?}, and the log shows {expected:?}"));
            };
            expected.remove(place);
            shown.paused.insert(pause.scope.clone());
            count += 1;
            continue;
        }
        if !expected.is_empty() && !matches!(event, EventBody::CoordinatorStarted { .. }) {
            return Err(format!("before event {at} these should have been paused: {expected:?}"));
        }
        match event {
            EventBody::Granted(granted) => {
                let stops = |scope: &&PauseScope| Shown::is_in(scope, &granted.server);
                if let Some(scope) = shown.paused.iter().find(stops) {
                    return Err(format!("event {at} grants {} where {scope} is paused", granted.server));
                }
            }
            EventBody::Released { server, evidence, task, .. } => {
                shown.silent.remove(server);
                let Evidence::Release { outcome, down_ms } = evidence else { continue };
                let failed = match outcome {
                    LeaseOutcome::Completed => false,
                    LeaseOutcome::RolledBack { .. } => true,
                    LeaseOutcome::NeverStarted { .. } => continue,
                };
                if task.as_ref().is_some_and(|task| task.plan == plan_hash(2)) {
                    shown.endings.push(Ending { server: server.clone(), failed, down_ms: *down_ms });
                    expected = shown.expected_by_ending();
                }
            }
            EventBody::Found { server, .. } => {
                shown.silent.remove(server);
            }
            EventBody::FellSilent { server, lease } => {
                shown.silent.insert(server.clone(), *lease);
                expected = shown.expected_by_silence(server);
            }
            EventBody::Unpaused { scope, .. } => {
                shown.paused.remove(scope);
                shown.resumed.insert(scope.clone(), shown.endings.len());
            }
            _ => {}
        }
    }
    Ok(count)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn what_is_paused_is_what_the_log_shows_and_nothing_is_granted_there(
        steps in prop::collection::vec(steps(), 1..150)
    ) {
        let mut world = World::new();
        for step in &steps {
            // Each step checks by the way that the fold of the log is the live state, pauses and counts included.
            world.step(step);
        }
        judge(&world.0.rig.log).map_err(TestCaseError::fail)?;
        // Replayed by a new life, the same is paused, and nothing new is found.
        let before: Vec<_> = world.0.rig.core.campaigns()[0].pauses.clone();
        let pauses = judge(&world.0.rig.log);
        world.0.rig.restart();
        prop_assert_eq!(&world.0.rig.core.campaigns()[0].pauses, &before);
        prop_assert_eq!(judge(&world.0.rig.log), pauses);
    }
}

#[test]
fn a_run_in_which_all_goes_wrong_one_after_the_other_pauses_by_every_rule() {
    let mut world = World::new();
    let mut round = |outcome: u8, down_s: u64, unended: usize| {
        for server in 0..FLEET.len() {
            world.step(&Step::Claim(server));
            if server >= unended {
                world.step(&Step::End(server, outcome, down_s));
            }
        }
        world.step(&Step::Pass(2_000));
        world.step(&Step::Resume(255));
        (0..FLEET.len()).for_each(|server| world.step(&Step::End(server, 0, 15)));
    };
    for (outcome, down_s, unended) in [(1, 15, 0), (0, 15, 0), (0, 60, 0), (0, 15, 9), (1, 15, 0)] {
        round(outcome, down_s, unended);
    }
    judge(&world.0.rig.log).unwrap();
    let rule = |event: &EventBody| match event {
        EventBody::Paused { pause } => Some(pause.anomaly.rule()),
        _ => None,
    };
    let rules: BTreeSet<_> = world.0.rig.log.iter().filter_map(rule).collect();
    assert_eq!(rules.len(), 5, "{rules:?}");
}
