//! What stages, gates and waves do, with their exact events; and that every count can be made again from nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lunar_common::gate::{Demand, Evidence, Missing};
use lunar_common::health::Verdict;
use lunar_common::ids::{Attempt, LeaseId, ServerId, StageName};
use lunar_common::lease::{Grant, LeaseOutcome, WaitReason};
use lunar_common::limits::Tier;
use lunar_common::message::{BytesBySource, CampaignStatus};
use lunar_common::phase::Phase;
use proptest::prelude::*;

use super::rules::{Labels, Picks, Rules, StageTerms};
use super::stage::{Candidate, Ending, NO_STAGE, Stages};
use crate::coordinator::rig::{Rig, answer, appended, campaign, id, member, plan_hash, pushed, terms, wide};
use crate::effect::{Answer, Effect};
use crate::event::{EventBody, Member, Selection};

const FLEET: [&str; 5] = ["a 3 x x1 -", "b 3 x x1 -", "c 2 x x1 -", "d 2 x x1 -", "e 1 x x1 -"];

/// A stage that selects a tier, and waits for those at these places.
pub(super) fn stage(name: &str, tier: Option<Tier>, after: &[u16]) -> StageTerms {
    StageTerms {
        name: StageName::new(name).unwrap(),
        after: after.to_vec(),
        size: None,
        percent: None,
        wave_max: None,
        demand: Demand { success_per_10000: 10_000, soak_ms: 0 },
        select: Selection { tiers: tier.into_iter().collect(), ..Selection::default() },
        picks: Picks::default(),
    }
}

fn by_tier() -> Vec<StageTerms> {
    vec![
        stage("tier-3", Some(Tier::Three), &[]),
        stage("tier-2", Some(Tier::Two), &[0]),
        stage("tier-1", Some(Tier::One), &[1]),
    ]
}

/// The fleet, heard and healthy, under a plan in stages: the second generation of campaign `c`.
fn staged(stages: Vec<StageTerms>) -> Rig {
    let mut rig = Rig::new(&FLEET, wide());
    rig.plan_in_stages(terms("c", 2, wide()), stages);
    rig
}

fn claim(rig: &mut Rig, server: &str, attempt: u64) -> (Answer, Vec<Effect>) {
    let mut claim = rig.claim_as(server, attempt, attempt);
    claim.plan = plan_hash(2);
    let effects = rig.send(claim);
    (answer(&effects), effects)
}

fn granted(rig: &mut Rig, server: &str, attempt: u64) -> Grant {
    match claim(rig, server, attempt).0 {
        Answer::Granted(grant) => grant,
        other => panic!("{server} was not granted: {other:?}"),
    }
}

fn reason(rig: &mut Rig, server: &str) -> WaitReason {
    match claim(rig, server, 1).0 {
        Answer::Wait { reason, .. } => reason,
        other => panic!("{server} does not wait: {other:?}"),
    }
}

/// Nobody falls silent within a day of its last report.
fn hear_for_a_day(rig: &mut Rig) {
    rig.core.config.unreachable_after = Duration::from_secs(86_400);
    rig.all_report();
}

fn completes(rig: &mut Rig, server: &str) -> Vec<Effect> {
    let grant = granted(rig, server, 1);
    rig.release(&grant, LeaseOutcome::Completed)
}

fn rolled_back() -> LeaseOutcome {
    LeaseOutcome::RolledBack { cause: "smoke".into() }
}

fn gates(effects: &[Effect]) -> Vec<(u16, Evidence)> {
    let opened = |event: &&EventBody| match event {
        EventBody::GateOpened { stage, evidence, .. } => Some((*stage, *evidence)),
        _ => None,
    };
    appended(effects).iter().filter_map(opened).collect()
}

fn why(rig: &Rig, server: &str) -> String {
    rig.core.why(&id(server), rig.now).unwrap().remove(0).text
}

#[test]
fn a_stage_waits_until_all_before_it_have_passed_and_the_gate_is_in_the_log_with_its_evidence() {
    let mut rig = staged(by_tier());
    assert!(matches!(reason(&mut rig, "c"), WaitReason::Gate { .. }));
    assert_eq!(
        why(&rig, "c"),
        "c waits in stage tier-2: stage tier-3 has not passed: 0 of its 2 servers are on the new version, 2 must be"
    );
    assert!(gates(&completes(&mut rig, "a")).is_empty());
    let effects = completes(&mut rig, "b");
    let shown = Evidence { servers: 2, completed: 2, succeeded: 2, ..Evidence::default() };
    assert_eq!(gates(&effects), [(0, shown)]);
    // Who waited is granted at once, behind the gate's event.
    let events = appended(&effects);
    assert!(matches!(
        events[..],
        [EventBody::Released { .. }, EventBody::GateOpened { .. }, EventBody::Granted(_)]
    ));
    assert_eq!(pushed(&effects)[0].server, id("c"));
    assert!(matches!(reason(&mut rig, "e"), WaitReason::Gate { before, .. } if before.as_str() == "tier-2"));
}

#[test]
fn a_restarted_coordinator_knows_every_gate_that_opened() {
    let mut rig = staged(by_tier());
    completes(&mut rig, "a");
    completes(&mut rig, "b");
    rig.restart();
    rig.all_report();
    granted(&mut rig, "c", 1);
    assert!(matches!(reason(&mut rig, "e"), WaitReason::Gate { .. }));
}

#[test]
fn a_failed_attempt_keeps_the_gate_shut_until_enough_have_succeeded() {
    let mut stages = by_tier();
    stages[0].demand.success_per_10000 = 6_000;
    let mut rig = staged(stages);
    let grant = granted(&mut rig, "a", 1);
    rig.release(&grant, rolled_back());
    completes(&mut rig, "b");
    assert!(why(&rig, "c").contains("1 of its 2 servers are on the new version, 2 must be"));
    let grant = granted(&mut rig, "a", 2);
    // Two of three attempts: 66 %.
    let shown = Evidence { servers: 2, completed: 2, succeeded: 2, failed: 1, ..Evidence::default() };
    assert_eq!(gates(&rig.release(&grant, LeaseOutcome::Completed)), [(0, shown)]);

    let mut strict = staged(by_tier());
    let grant = granted(&mut strict, "a", 1);
    strict.release(&grant, rolled_back());
    completes(&mut strict, "b");
    let grant = granted(&mut strict, "a", 2);
    assert!(gates(&strict.release(&grant, LeaseOutcome::Completed)).is_empty());
    assert!(
        why(&strict, "c").contains("2 of its 3 attempts succeeded, 3 must have"),
        "{}",
        why(&strict, "c")
    );
}

#[test]
fn a_lease_that_nobody_answers_for_is_inconclusive_and_a_reaped_one_is_a_failure() {
    let mut stages = by_tier();
    stages[0].demand.success_per_10000 = 5_000;
    let mut rig = staged(stages);
    let lost = granted(&mut rig, "a", 1);
    completes(&mut rig, "b");
    // Half of the servers are done and half of the attempts succeeded: that is what was asked for.
    granted(&mut rig, "c", 1);

    let mut rig = staged(by_tier());
    let grant = granted(&mut rig, "a", 1);
    completes(&mut rig, "b");
    rig.pass(Duration::from_secs(600));
    rig.reap("a", Some(grant.lease.0), 1);
    let evidence = rig.core.campaigns()[0].stages[0].evidence;
    assert_eq!((evidence.failed, evidence.unknown, evidence.absent), (1, 0, 1));
    assert_eq!(evidence.servers, 2);
    assert_eq!(lost.server, id("a"));
}

#[test]
fn who_was_written_off_before_it_started_is_not_waited_for() {
    let mut rig = Rig::unheard(&FLEET, wide());
    rig.plan_in_stages(terms("c", 2, wide()), by_tier());
    rig.all_but_report("a");
    completes(&mut rig, "b");
    assert!(matches!(reason(&mut rig, "c"), WaitReason::Gate { .. }));
    let effects = rig.reap("a", None, 1);
    let shown = Evidence { servers: 2, absent: 1, completed: 1, succeeded: 1, ..Evidence::default() };
    assert_eq!(gates(&effects), [(0, shown)]);
}

#[test]
fn a_soak_is_counted_on_the_steady_clock_and_survives_a_restart_but_not_a_failure() {
    let mut stages = by_tier();
    stages[0].demand.soak_ms = 1_000_000;
    let mut rig = staged(stages);
    hear_for_a_day(&mut rig);
    completes(&mut rig, "a");
    completes(&mut rig, "b");
    rig.pass(Duration::from_secs(700));
    assert!(
        why(&rig, "c").contains("it has soaked for 700 s of 1000 s, and opens in 300 s if nothing fails")
    );
    // 660 s are in the log; after the restart nobody has been heard, and silence is no soak.
    rig.restart();
    rig.pass(Duration::from_secs(5_000));
    assert!(why(&rig, "c").contains("0 of its upgraded servers are well, 2 must be"), "{}", why(&rig, "c"));
    rig.all_report();
    assert!(gates(&rig.pass(Duration::from_secs(339))).is_empty());
    let opened = gates(&rig.pass(Duration::from_secs(1)));
    assert_eq!(opened.len(), 1);
    assert_eq!(opened[0].1.soaked_ms, 1_000_000);
}

#[test]
fn who_falls_ill_after_its_upgrade_stops_the_soak_and_a_new_attempt_begins_it_anew() {
    let mut stages = by_tier();
    stages[0].demand = Demand { success_per_10000: 6_600, soak_ms: 100_000 };
    let mut rig = Rig::new(&["a 3 x x1 -", "b 3 x x1 -", "f 3 x x1 -", "c 2 x x1 -"], wide());
    rig.plan_in_stages(terms("c", 2, wide()), stages);
    hear_for_a_day(&mut rig);
    completes(&mut rig, "a");
    completes(&mut rig, "b");
    rig.pass(Duration::from_secs(50));
    let mut ill = rig.fresh_report("a");
    ill.verdict = Verdict::Unhealthy;
    let noted = rig.report(ill);
    assert!(
        appended(&noted).iter().any(|event| matches!(event, EventBody::Soaked { soaked_ms: 50_000, .. }))
    );
    rig.pass(Duration::from_secs(500));
    let well = rig.fresh_report("a");
    rig.report(well);
    rig.pass(Duration::from_secs(40));
    // 66 % of three attempts are two: the third, under way, is no reason to begin anew; a second failure is.
    let grant = granted(&mut rig, "f", 1);
    rig.release(&grant, rolled_back());
    let again = granted(&mut rig, "f", 2);
    let evidence = rig.core.campaigns()[0].stages[0].evidence;
    assert_eq!((evidence.succeeded, evidence.failed, evidence.unknown), (2, 1, 1));
    assert_eq!(evidence.soaked_ms, 0);
    let effects = rig.release(&again, LeaseOutcome::Completed);
    assert!(gates(&effects).is_empty());
    assert_eq!(gates(&rig.pass(Duration::from_secs(100))).len(), 1);
}

#[test]
fn waves_double_while_all_goes_well_and_begin_again_from_one_after_a_failure() {
    let members: Vec<String> = (0..20).map(|n| format!("s{n} 3 x x1 -")).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    let mut rig = Rig::new(&members, wide());
    let mut waves = stage("all", None, &[]);
    waves.wave_max = Some(4);
    rig.plan_in_stages(terms("c", 2, wide()), vec![waves]);
    let mut next = 0;
    let mut sizes = Vec::new();
    let mut wave = Vec::new();
    while next < 13 {
        match claim(&mut rig, &format!("s{next}"), 1).0 {
            Answer::Granted(grant) => {
                next += 1;
                wave.push(grant);
            }
            Answer::Wait { reason: WaitReason::Wave { size, unknown, .. }, .. } => {
                assert_eq!((size as usize, unknown as usize), (wave.len(), wave.len()));
                sizes.push(wave.len());
                // The waiting claim is the first of the next wave, pushed when the last of this one ends.
                let fails = sizes.len() == 3;
                let mut effects = Vec::new();
                for grant in std::mem::take(&mut wave) {
                    effects =
                        rig.release(&grant, if fails { rolled_back() } else { LeaseOutcome::Completed });
                }
                wave.extend(pushed(&effects));
                next += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(sizes, [1, 2, 4, 1, 2]);
}

#[test]
fn a_grant_that_was_not_used_leaves_its_place_in_the_wave() {
    let mut rig = Rig::new(&FLEET, wide());
    let mut waves = stage("all", None, &[]);
    waves.wave_max = Some(4);
    rig.plan_in_stages(terms("c", 2, wide()), vec![waves]);
    let grant = granted(&mut rig, "a", 1);
    assert!(matches!(reason(&mut rig, "b"), WaitReason::Wave { size: 1, unknown: 1, .. }));
    let effects = rig.release(&grant, LeaseOutcome::NeverStarted { cause: "late".into() });
    assert_eq!(pushed(&effects)[0].server, id("b"));
    assert!(matches!(reason(&mut rig, "c"), WaitReason::Wave { size: 1, .. }));
}

#[test]
fn who_runs_the_version_already_says_so_once_and_counts() {
    let mut rig = staged(by_tier());
    completes(&mut rig, "a");
    let there = |rig: &mut Rig| {
        let mut report = rig.fresh_report("b");
        report.campaigns.push(CampaignStatus {
            campaign: campaign("c"),
            plan: plan_hash(2),
            attempt: Attempt(1),
            phase: Phase::Complete,
            running: Vec::new(),
            chunks: (0, 0),
            received: BytesBySource::default(),
        });
        rig.report(report)
    };
    let effects = there(&mut rig);
    let shown = Evidence { servers: 2, completed: 2, succeeded: 1, ..Evidence::default() };
    assert_eq!(gates(&effects), [(0, shown)]);
    assert!(matches!(appended(&effects)[..], [EventBody::Arrived { .. }, EventBody::GateOpened { .. }]));
    assert!(appended(&there(&mut rig)).is_empty());
}

#[test]
fn another_generation_of_the_plan_begins_at_its_first_stage() {
    let mut rig = staged(by_tier());
    completes(&mut rig, "a");
    completes(&mut rig, "b");
    rig.plan_in_stages(terms("c", 3, wide()), by_tier());
    let mut claim = rig.claim_as("c", 1, 9);
    claim.plan = plan_hash(3);
    let Answer::Wait { reason, .. } = answer(&rig.send(claim)) else { panic!("the gate is shut again") };
    assert!(matches!(reason, WaitReason::Gate { evidence: Evidence { completed: 0, .. }, .. }));
}

#[test]
fn a_plan_without_stages_starts_everyone_as_it_always_did() {
    let mut rig = Rig::new(&FLEET, wide());
    for server in ["a", "c", "e"] {
        rig.granted(server);
    }
    assert!(rig.core.campaigns()[0].stages.is_empty());
}

#[test]
fn a_server_that_no_stage_selects_is_told_so() {
    let mut rig = staged(by_tier()[..2].to_vec());
    assert_eq!(reason(&mut rig, "e"), WaitReason::NoStage);
    assert!(why(&rig, "e").contains("none of its stages does"));
}

#[test]
fn a_stage_without_a_server_shows_nothing_and_opens_nothing() {
    let mut stages = by_tier();
    stages[0].select.servers.insert(id("nobody"));
    let mut rig = staged(stages);
    assert!(matches!(reason(&mut rig, "c"), WaitReason::Gate { .. }));
    assert!(why(&rig, "c").contains("it has no server, so nothing can be learnt from it"));
}

#[test]
fn labels_select_and_a_machine_that_moves_to_another_tier_moves_to_its_stage() {
    let mut rig = Rig::new(&FLEET, wide());
    rig.core.label(&id("d"), &Labels::from([("pool".to_owned(), "staging".to_owned())]));
    rig.step();
    let mut pool = stage("staging", None, &[]);
    pool.picks.labels = BTreeMap::from([("pool".to_owned(), BTreeSet::from(["staging".to_owned()]))]);
    let mut stages = vec![pool];
    stages.extend(by_tier());
    (stages[1].after, stages[2].after, stages[3].after) = (vec![0], vec![1], vec![2]);
    rig.plan_in_stages(terms("c", 2, wide()), stages);
    let first = |rig: &Rig, server: &str| rig.core.stage_of(&campaign("c"), &id(server));
    assert_eq!(["a", "c", "d", "e"].map(|server| first(&rig, server)), [1, 2, 0, 3]);
    let mut moved = member("a 1 x x1 -");
    moved.sequence = lunar_common::ids::Sequence(2);
    rig.core.enrol(moved);
    rig.step();
    assert_eq!(first(&rig, "a"), 3);
}

#[test]
fn everyone_draws_the_same_canary_and_who_joins_later_displaces_nobody() {
    let members: Vec<Member> = (0..100).map(|n| member(&format!("s{n} 3 x x1 -"))).collect();
    let mut canary = stage("canary", None, &[]);
    canary.percent = Some(10);
    let stages = vec![canary, stage("rest", None, &[0])];
    let labels = Labels::new();
    let candidates = |members: &[Member]| -> Vec<ServerId> {
        let all: Vec<Candidate<'_>> =
            members.iter().map(|member| Candidate { member, labels: &labels, written_off: false }).collect();
        let dealt = Stages::deal(plan_hash(7), stages.clone(), &all);
        members.iter().filter(|m| dealt.of(&m.server) == 0).map(|m| m.server.clone()).collect()
    };
    let drawn = candidates(&members);
    assert_eq!(drawn.len(), 10);
    let mut turned = members.clone();
    turned.reverse();
    let again: BTreeSet<ServerId> = candidates(&turned).into_iter().collect();
    assert_eq!(again, drawn.iter().cloned().collect());

    let all: Vec<Candidate<'_>> =
        members.iter().map(|member| Candidate { member, labels: &labels, written_off: false }).collect();
    let mut dealt = Stages::deal(plan_hash(7), stages.clone(), &all);
    let later: Vec<Member> = (100..120).map(|n| member(&format!("s{n} 3 x x1 -"))).collect();
    for member in &later {
        dealt.admit(&Candidate { member, labels: &labels, written_off: false }, true, true);
    }
    assert!(drawn.iter().all(|server| dealt.of(server) == 0));
    assert_eq!(later.iter().filter(|member| dealt.of(&member.server) == 0).count(), 2);
    let other: BTreeSet<ServerId> = {
        let dealt = Stages::deal(plan_hash(8), stages.clone(), &all);
        members.iter().filter(|m| dealt.of(&m.server) == 0).map(|m| m.server.clone()).collect()
    };
    assert_ne!(other, again, "another plan draws another canary");
}

#[test]
fn rules_without_their_plan_wait_for_it_and_a_plan_is_never_in_force_without_them() {
    let mut rig = Rig::new(&FLEET, wide());
    rig.plan_in_stages(terms("c", 2, wide()), by_tier());
    let at = rig.log.iter().position(|event| matches!(event, EventBody::PlanRules { .. })).unwrap();
    assert!(matches!(rig.log[at + 1], EventBody::PlanAccepted { .. }));
    // Killed between the two: the plan before is in force, and the next start hands the new one in again.
    let cut = rig.log[..=at].to_vec();
    rig.restart_from(&cut);
    rig.all_report();
    rig.granted("e");
    let rules = Rules { stages: by_tier(), ..Rules::default() };
    rig.core.accept_with(terms("c", 2, wide()), Some(rules), Default::default(), BTreeSet::new());
    rig.step();
    assert_eq!(rig.core.stage_of(&campaign("c"), &id("a")), 0);
    assert_ne!(rig.core.stage_of(&campaign("c"), &id("e")), NO_STAGE);
}

/// One thing that happens to a server in a stage.
#[derive(Debug, Clone)]
enum Step {
    Opened(u8, u64),
    Ended(u8, u64, u8),
    Arrived(u8),
    WrittenOff(u8, bool),
    Removed(u8),
    Joined(u8, bool),
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..8u8, 0..12u64).prop_map(|(server, lease)| Step::Opened(server, lease)),
        (0..8u8, 0..12u64, 0..3u8).prop_map(|(server, lease, ending)| Step::Ended(server, lease, ending)),
        (0..8u8).prop_map(Step::Arrived),
        (0..8u8, any::<bool>()).prop_map(|(server, off)| Step::WrittenOff(server, off)),
        (0..8u8).prop_map(Step::Removed),
        (0..8u8, any::<bool>()).prop_map(|(server, same)| Step::Joined(server, same)),
    ]
}

proptest! {
    #[test]
    fn every_count_of_a_stage_is_the_sum_of_its_servers_records(steps in prop::collection::vec(steps(), 0..60)) {
        let members: Vec<Member> = (0..8).map(|n| member(&format!("s{n} {} x x1 -", 1 + n % 3))).collect();
        let labels = Labels::new();
        let candidates: Vec<Candidate<'_>> =
            members.iter().map(|member| Candidate { member, labels: &labels, written_off: false }).collect();
        let mut terms = by_tier();
        terms[0].wave_max = Some(2);
        terms[1].size = Some(1);
        let plan = plan_hash(2);
        let mut stages = Stages::deal(plan, terms, &candidates);
        for step in steps {
            let name = |server: u8| &members[usize::from(server)].server;
            match step {
                Step::Opened(server, lease) => stages.opened(plan, name(server), LeaseId(lease)),
                Step::Ended(server, lease, ending) => {
                    let ending = [Ending::Succeeded, Ending::Failed, Ending::NeverStarted][usize::from(ending)];
                    stages.ended(plan, name(server), LeaseId(lease), ending);
                }
                Step::Arrived(server) => stages.arrived(plan, name(server)),
                Step::WrittenOff(server, off) => stages.write_off(name(server), off),
                Step::Removed(server) => stages.remove(name(server)),
                Step::Joined(server, same) => stages.admit(&candidates[usize::from(server)], true, same),
            }
            for stage in 0..stages.count() {
                prop_assert_eq!(stages.evidence(stage), stages.recount(stage));
            }
        }
        // By another plan nothing counts.
        let before = stages.clone();
        stages.arrived(plan_hash(3), &members[0].server);
        prop_assert_eq!(stages, before);
    }
}

#[test]
fn what_is_missing_is_in_the_view_of_the_campaign() {
    let mut rig = staged(by_tier());
    completes(&mut rig, "a");
    let views = rig.core.campaigns().remove(0).stages;
    assert_eq!(views[0].missing, Some(Missing::Completed { have: 1, need: 2, of: 2 }));
    assert_eq!(views[1].waits_for.as_ref().map(StageName::as_str), Some("tier-3"));
    assert_eq!((views[0].passed, views[0].wave), (false, None));
}
