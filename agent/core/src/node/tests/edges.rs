//! Rare ways: late refusals, words that grow too long, plans that go away, coordinators that make no sense.

use lunar_common::bounds::CAMPAIGNS_KEPT_MAX;
use lunar_common::lease::Release;
use lunar_common::time::WallTime;

use super::*;

/// A plan like [`plan`], of another campaign, that expires at another time.
fn other_plan(campaign: &str, expires: WallTime) -> SignedDocument {
    let text = String::from_utf8(plan(1, false).body).unwrap();
    let text = text.replace("\"web-2\"", &format!("\"{campaign}\""));
    let usual = WallTime(WALL.0 + 86_400).to_string();
    signed_plan(&text.replace(&usual, &expires.to_string()))
}

fn signed_plan(text: &str) -> SignedDocument {
    crate::applier::fixture::signed(Kind::Plan, text)
}

fn released(bench: &Bench) -> Release {
    bench.last(|effect| match effect {
        Effect::Release(release) => Some(release.clone()),
        _ => None,
    })
}

fn report_under_way(bench: &Bench) -> u64 {
    bench.node.reporter.under_way().expect("a report is under way")
}

#[test]
fn an_applier_that_refuses_after_the_drain_leads_back_through_the_restore_hook_to_a_release() {
    let mut bench = Bench::queued(false, true);
    bench.probed(Outcome::Healthy);
    bench.grant(1);
    bench.applier(ApplierStage::Staged, OLD);
    bench.probed(Outcome::Healthy);
    assert!(bench.hook(None).contains(&"applier begin".to_owned()));

    let refused = bench.applier(ApplierStage::Refused { reason: "a halt is in force".into() }, OLD);
    let back = bench.applier(ApplierStage::RolledBack { cause: "told".into() }, OLD);
    let ended = bench.hook(None);

    assert_eq!(
        refused,
        ["persist rolling-back +started", "log installing -> rolling-back", "applier roll back"]
    );
    assert_eq!(back, ["hook /bin/restore"]);
    assert_eq!(ended, ["persist rolled-back", "log rolling-back -> rolled-back", "release 1 rolled back"]);
    // It was drained, so it was down: not "never started", and the cause goes with the release.
    let cause = "the applier refuses: a halt is in force".to_owned();
    assert_eq!(released(&bench).outcome, LeaseOutcome::RolledBack { cause });
}

#[test]
fn an_applier_that_would_refuse_is_heard_before_the_drain_and_the_lease_goes_back_unused() {
    let mut bench = Bench::queued(false, true);
    bench.probed(Outcome::Healthy);
    assert!(bench.grant(1).contains(&"applier check".to_owned()));

    let refused = bench.applier(ApplierStage::Refused { reason: "nothing runs as web".into() }, OLD);

    assert_eq!(
        refused,
        ["persist scheduled", "log pre-check -> scheduled", "release 1 never started"],
        "no hook has run"
    );
    let cause = "the applier would not begin: nothing runs as web".to_owned();
    assert_eq!(released(&bench).outcome, LeaseOutcome::NeverStarted { cause });
    let active = bench.node.journal().active.as_ref().unwrap();
    assert_eq!((active.failures, active.attempt), (1, Attempt(2)), "what would go on for ever is counted");
}

#[test]
fn an_applier_that_is_busy_or_elsewhere_is_not_drained_for() {
    for stage in [
        ApplierStage::Busy { plan: lunar_common::ids::DocumentHash([7; 32]) },
        ApplierStage::RolledBack { cause: "told".into() },
        ApplierStage::Applied,
        ApplierStage::Idle,
    ] {
        let mut bench = Bench::queued(false, true);
        bench.probed(Outcome::Healthy);
        bench.grant(1);
        let refused = bench.applier(stage, OLD);
        assert_eq!(refused, ["persist scheduled", "log pre-check -> scheduled", "release 1 never started"]);
    }
}

#[test]
fn an_applier_that_cannot_be_reached_under_a_grant_is_asked_until_its_time_runs_out() {
    let mut bench = Bench::queued(false, true);
    bench.probed(Outcome::Healthy);
    bench.grant(1);
    for _ in 0..3 {
        let ask = bench.last(|effect| match effect {
            Effect::Applier { ask, command: ApplierCommand::Check { .. }, .. } => Some(*ask),
            _ => None,
        });
        assert_eq!(bench.handle(Input::Applier { ask, status: None }), Vec::<String>::new());
        assert_eq!(bench.after(Duration::from_secs(2)), ["applier check"]);
    }
    let timed_out = bench.after(Duration::from_secs(60));
    assert!(timed_out.contains(&"release 1 never started".to_owned()), "{timed_out:?}");
    let active = bench.node.journal().active.as_ref().unwrap();
    assert_eq!((active.failures, active.attempt), (0, Attempt(2)), "a grant that ran out costs no attempt");
}

#[test]
fn the_drain_is_begun_only_while_there_is_time_left_to_begin_after_it() {
    // 60 s from the claim, and draining may take 10 s of them.
    let mut bench = Bench::queued(false, true);
    bench.probed(Outcome::Healthy);
    bench.grant(1);
    bench.applier(ApplierStage::Staged, OLD);
    let probe = AskId(bench.probe_under_way());
    let out_of_time = bench.after(Duration::from_secs(50));
    assert!(out_of_time.contains(&"release 1 never started".to_owned()), "{out_of_time:?}");
    let late = bench.handle(Input::Probed { ask: probe, outcomes: outcomes(Outcome::Healthy) });
    assert_eq!((late, bench.phase()), (Vec::new(), Some(Phase::Staging)));
}

#[test]
fn a_refusal_that_comes_with_a_halt_costs_no_attempt() {
    let mut bench = Bench::queued(false, true);
    bench.probed(Outcome::Healthy);
    bench.grant(1);
    // The halt is known to the root half first; the network half learns of it before the answer comes.
    bench.node.desk.trust.accept(&stop(Kind::Halt, 1), WALL).unwrap();
    let refused = bench.applier(ApplierStage::Refused { reason: "halted".into() }, OLD);
    assert_eq!(refused, ["persist staging", "log pre-check -> staging", "release 1 never started"]);
    assert_eq!(bench.node.journal().active.as_ref().unwrap().failures, 0);
}

#[test]
fn why_a_new_version_was_sick_goes_up_with_the_release() {
    let mut bench = Bench::validating(false);
    bench.now = bench.now.after(Duration::from_secs(3));
    bench.probed(bad());
    bench.applier(ApplierStage::RolledBack { cause: "told".into() }, OLD);
    let cause = "not healthy 2 s after the switch: probe up found refused".to_owned();
    assert_eq!(released(&bench).outcome, LeaseOutcome::RolledBack { cause });
}

#[test]
fn an_applier_that_had_committed_after_all_ends_complete_and_with_its_traffic_back() {
    let mut bench = Bench::validating(true);
    bench.restart(1);
    assert_eq!(bench.applier(ApplierStage::Committed, NEW), ["hook /bin/restore"]);
    let ended = bench.hook(None);
    assert_eq!(ended, ["persist -", "log rolling-back -> complete", "release 1 completed"]);
}

#[test]
fn a_reason_of_any_length_fits_into_the_release_that_carries_it() {
    let mut bench = Bench::granted();
    let halt = format!(
        "format = 1\nfleet = \"moon\"\nsequence = 1\nissued = \"{WALL}\"\nreason = \"{}\"\n",
        "é".repeat(lunar_common::bounds::TEXT_BYTES_MAX / 2)
    );
    bench.document(crate::applier::fixture::signed(Kind::Halt, &halt));
    Signed::sign(&released(&bench), &machine_key(SERVER)).unwrap();
}

#[test]
fn sendings_of_claims_are_numbered_upwards_over_restarts() {
    let mut bench = Bench::queued(false, false);
    bench.probed(Outcome::Healthy);
    let mut last = bench.claim().nonce;
    for round in 0..6 {
        bench.handle(Input::ClaimAnswered { nonce: last, answer: None });
        if round == 3 {
            bench.restart(1);
            bench.probed(Outcome::Healthy);
        } else {
            bench.after(Duration::from_secs(29));
            if bench.seen.iter().any(|effect| matches!(effect, Effect::Probe { .. })) {
                bench.probed(Outcome::Healthy);
            }
        }
        let next = bench.claim().nonce;
        assert!(next > last, "the ledger takes {next} for an older sending than {last}");
        last = next;
    }
}

#[test]
fn a_coordinator_that_stays_away_is_tried_less_and_less_often() {
    let mut bench = Bench::granted();
    bench.document(stop(Kind::Halt, 1));
    let mut waits = Vec::new();
    for _ in 0..8 {
        let number = report_under_way(&bench);
        bench.handle(Input::ReportAnswered { number, answer: None });
        bench.handle(Input::ReleaseAnswered { lease: LeaseId(1), kept: false });
        let asked = bench.now.moment;
        let mut sent = (false, false);
        while sent != (true, true) {
            let next = bench.node.poll_timeout().expect("what was not taken is sent again");
            bench.after(next.since(bench.now.moment));
            for effect in &bench.seen {
                match effect {
                    Effect::Release(_) => sent.0 = true,
                    Effect::Report(_) => sent.1 = true,
                    _ => {}
                }
            }
        }
        waits.push(bench.now.moment.since(asked));
    }
    assert!(waits[0] < Duration::from_secs(2), "{waits:?}");
    assert!(waits[7] > Duration::from_secs(5), "{waits:?}");
    // As soon as one is there, nothing waits.
    let number = report_under_way(&bench);
    bench.handle(Input::ReportAnswered { number, answer: None });
    bench.handle(Input::ReleaseAnswered { lease: LeaseId(1), kept: false });
    bench.handle(Input::CoordinatorReachable);
    assert!(bench.seen.iter().any(|effect| matches!(effect, Effect::Release(_))));
    assert!(bench.seen.iter().any(|effect| matches!(effect, Effect::Report(_))));
}

#[test]
fn a_coordinator_that_begins_a_new_life_is_claimed_from_at_once() {
    let mut bench = Bench::queued(false, false);
    let ask = AskId(bench.probe_under_way());
    bench.answered(1);
    bench.handle(Input::Probed { ask, outcomes: outcomes(Outcome::Healthy) });
    let nonce = bench.claim().nonce;
    let wait = ClaimAnswer::Wait { reason: WaitReason::Behind { ahead: 3 }, retry_after_ms: 30_000 };
    bench.handle(Input::ClaimAnswered { nonce, answer: Some(wait) });

    assert!(!claims(&bench.answered(1)), "the same life remembers the claim");
    assert!(claims(&bench.answered(2)), "another one does not");
    assert_eq!(bench.handle(Input::ClaimAnswered { nonce: bench.claim().nonce, answer: None }), [""; 0]);
    assert!(claims(&bench.answered(2)), "one that was away is heard of again");
}

#[test]
fn a_coordinator_that_makes_itself_known_is_reported_to_only_if_it_is_another_life_and_not_at_once() {
    let mut bench = Bench::queued(false, false);
    while bench.node.reporter.under_way().is_some() {
        bench.answered(1);
    }
    let reports = |bench: &Bench| bench.seen.iter().any(|effect| matches!(effect, Effect::Report(_)));

    bench.handle(Input::CoordinatorHeard { epoch: Epoch(1) });
    assert!(!reports(&bench), "it knows all there is to know");
    for _ in 0..2 {
        bench.handle(Input::CoordinatorHeard { epoch: Epoch(2) });
        assert!(!reports(&bench), "everyone hears it in the same moment");
    }
    bench.after(Duration::from_secs(30));
    assert!(reports(&bench), "within a tenth of the five minutes between two reports");

    // What was not answered waits for nothing any more, whichever life is there.
    let number = report_under_way(&bench);
    bench.handle(Input::ReportAnswered { number, answer: None });
    assert!(!reports(&bench));
    bench.handle(Input::CoordinatorHeard { epoch: Epoch(1) });
    assert!(reports(&bench));
}

#[test]
fn a_coordinators_new_life_wakes_nothing_that_a_halt_keeps_waiting() {
    let mut bench = Bench::queued(false, false);
    let ask = AskId(bench.probe_under_way());
    bench.answered(1);
    bench.document(stop(Kind::Halt, 1));
    bench.handle(Input::Probed { ask, outcomes: outcomes(Outcome::Healthy) });
    assert!(!claims(&bench.answered(2)));
}

#[test]
fn of_the_machines_met_coordinators_and_the_own_group_are_kept_and_nobody_else() {
    let mut bench = Bench::new(true);
    let met = |bench: &mut Bench, enrolled: SignedDocument| {
        let machine = bench.node.trust().verify_enrolment(&enrolled).unwrap();
        bench.handle(Input::Met { machine })
    };
    let kept = ["persist trust", "trust changed"];
    assert_eq!(met(&mut bench, enrolment("srv-2", NEIGHBOUR, Role::Agent, true)), kept);
    assert_eq!(met(&mut bench, enrolment("srv-2", NEIGHBOUR, Role::Agent, true)), [""; 0], "known by now");
    assert_eq!(met(&mut bench, enrolment("second", 77, Role::Coordinator, false)), kept);
    assert_eq!(met(&mut bench, enrolment("srv-9", 78, Role::Agent, false)), [""; 0]);
    let mut alone = Bench::new(false);
    assert_eq!(met(&mut alone, enrolment("srv-2", NEIGHBOUR, Role::Agent, true)), [""; 0]);
}

#[test]
fn a_neighbour_is_known_by_its_question() {
    let mut bench = Bench::queued(true, false);
    let asked = bench.asked(NEIGHBOUR);
    assert_eq!(asked, ["persist trust", "trust changed", "probe before"]);
}

#[test]
fn a_coordinator_cannot_use_up_the_numbers_of_transitions() {
    let mut bench = Bench::with_plan(false, false);
    bench.applier(ApplierStage::Idle, OLD);
    let before = bench.node.journal().clone();
    let answer = ReportAnswer { epoch: Epoch(1), transitions_kept: Some(u64::MAX), next_within_ms: 10_000 };
    bench.handle(Input::ReportAnswered { number: 1, answer: Some(answer) });
    assert_eq!(bench.node.journal(), &before);
}

#[test]
fn only_enrolments_are_taken_from_an_answer_about_the_group() {
    let mut bench = Bench::queued(true, false);
    bench.probed(Outcome::Healthy);
    let ask = bench.last(|effect| match effect {
        Effect::AskGroupMembers { ask } => Some(*ask),
        _ => None,
    });
    let members = vec![plan(2, false), stop(Kind::Halt, 1), enrolment("srv-2", NEIGHBOUR, Role::Agent, true)];
    let asked = bench.handle(Input::GroupMembers { ask, members: Some(members) });
    assert_eq!(asked, ["persist trust", "trust changed", "ask srv-2"]);
    assert_eq!(bench.node.journal().active.as_ref().unwrap().generation, Generation(1));
    assert_eq!(bench.node.trust().halts().count(), 0);
    assert_eq!(bench.node.trust().plans().map(|plan| plan.generation).collect::<Vec<_>>(), [Generation(1)]);
}

/// Found by the simulation: the answer about a group that this server had left was taken in silence, and nothing
/// woke it again.
#[test]
fn a_server_that_leaves_its_group_while_the_members_are_asked_for_claims_without_them() {
    let mut bench = Bench::queued(true, false);
    bench.probed(Outcome::Healthy);
    bench.enrolled_again(None);

    assert_eq!(bench.members().last().unwrap(), "claim attempt 1");
}

#[test]
fn a_server_that_is_moved_to_another_group_asks_who_is_in_that_one() {
    let mut bench = Bench::queued(true, false);
    bench.probed(Outcome::Healthy);
    bench.enrolled_again(Some("trio"));
    assert_eq!(bench.members().last().unwrap(), "ask members", "the answer was about the old group");

    let mut bench = Bench::queued(true, false);
    bench.probed(Outcome::Healthy);
    bench.members();
    bench.enrolled_again(Some("trio"));
    assert_eq!(bench.neighbour_answers(true), ["ask members"], "the old group's word is worth nothing");

    let mut bench = Bench::queued(true, false);
    bench.probed(Outcome::Healthy);
    bench.members();
    bench.neighbour_answers(true);
    bench.grant(1);
    bench.applier(ApplierStage::Staged, OLD);
    bench.enrolled_again(Some("trio"));
    assert_eq!(bench.probed(Outcome::Healthy), ["ask members"], "nothing is started on what was known");
}

#[test]
fn a_plan_that_can_start_no_more_gives_way_to_another_one() {
    let mut bench = Bench::granted();
    let soon = WallTime(WALL.0 + 86_400 + 5);
    bench.now = bench.now.after(Duration::from_secs(86_400));
    bench.after(Duration::from_secs(1));
    assert_eq!(bench.node.journal().lease.held, None, "past its time nothing starts");
    assert_eq!(bench.node.journal().active.as_ref().unwrap().campaign.as_str(), "web-2", "and it only waits");

    let taken_up = bench.document(other_plan("web-3", WallTime(soon.0 + 86_400)));

    assert!(taken_up.contains(&"applier status".to_owned()), "{taken_up:?}");
    assert_eq!(bench.node.journal().active.as_ref().unwrap().campaign.as_str(), "web-3");
    assert_eq!(bench.ended(), Some(Phase::Failed));
}

#[test]
fn the_plan_that_a_server_is_down_for_is_never_dropped_to_make_room() {
    let mut bench = Bench::validating(false);
    let later = WallTime(WALL.0 + 20 * 86_400);
    for number in 1..CAMPAIGNS_KEPT_MAX {
        bench.document(other_plan(&format!("other-{number}"), later));
    }
    let probe = AskId(bench.probe_under_way());
    bench.now = bench.now.after(Duration::from_secs(2 * 86_400));

    let deferred = bench.document(other_plan("one-too-many", later));

    assert_eq!(deferred, ["spread plan", "answer Accepted"]);
    let end = bench.handle(Input::Probed { ask: probe, outcomes: outcomes(bad()) });
    assert!(end.contains(&"applier roll back".to_owned()), "{end:?}");
    bench.applier(ApplierStage::RolledBack { cause: "told".into() }, OLD);
    assert!(matches!(released(&bench).outcome, LeaseOutcome::RolledBack { .. }));
    assert!(bench.node.trust().plan(&"one-too-many".parse().unwrap()).is_some());
    assert_ne!(bench.node.journal().active.as_ref().unwrap().campaign.as_str(), "web-2");
}

fn claims(words: &[String]) -> bool {
    words.iter().any(|word| word.starts_with("claim"))
}

impl Bench {
    /// The report under way, or the next one, is answered by a coordinator of this epoch.
    fn answered(&mut self, epoch: u64) -> Vec<String> {
        if self.node.reporter.under_way().is_none() {
            self.handle(Input::CoordinatorReachable);
        }
        let number = report_under_way(self);
        let answer = ReportAnswer { epoch: Epoch(epoch), transitions_kept: None, next_within_ms: 300_000 };
        self.handle(Input::ReportAnswered { number, answer: Some(answer) })
    }
}
