//! The node, one transition after the other, with the exact effects of each.

use std::time::Duration;

use lunar_common::document::{Kind, SignedDocument};
use lunar_common::enrolment::Role;
use lunar_common::health::Outcome;
use lunar_common::ids::{Attempt, Epoch, Fence, LeaseId, ServerId};
use lunar_common::lease::{Claim, ClaimAnswer, GroupAnswer, GroupQuestion, LeaseOutcome, WaitReason};
use lunar_common::message::ReportAnswer;
use lunar_common::phase::Phase;
use lunar_common::time::{Moment, Now};
use lunar_common::wire::Signed;

use super::fixture::*;
use super::*;
use crate::applier::fixture::{COORDINATOR, SERVER, WALL, machine_key};
use crate::effect::{ApplierCommand, Record};
use crate::input::{ApplierStage, ApplierStatus, AskId, FetchProgress};

mod edges;

/// A node and its clock; every call returns the effects that it caused.
struct Bench {
    node: Node,
    now: Now,
    seen: Vec<Effect>,
}

impl Bench {
    fn new(grouped: bool) -> Self {
        let trust = trust(grouped);
        let now = Now { moment: Moment(1_000_000), wall: WALL };
        let node = Node::new(setup(&trust, 1), trust, None, now);
        Self { node, now, seen: Vec::new() }.drained()
    }

    fn drained(mut self) -> Self {
        self.seen = drain(&mut self.node);
        self
    }

    /// A node that knows the plan and has asked its applier what runs.
    fn with_plan(grouped: bool, hooks: bool) -> Self {
        let mut bench = Self::new(grouped);
        bench.document(plan(1, hooks));
        bench
    }

    /// A node that waits in the queue, about to probe itself.
    fn queued(grouped: bool, hooks: bool) -> Self {
        let mut bench = Self::with_plan(grouped, hooks);
        bench.applier(ApplierStage::Idle, OLD);
        bench.fetched();
        bench.applier(ApplierStage::Staged, OLD);
        assert_eq!(bench.phase(), Some(Phase::Queued));
        bench
    }

    /// A node that holds a grant and has just asked its probes again.
    fn granted() -> Self {
        let mut bench = Self::queued(false, false);
        bench.probed(Outcome::Healthy);
        bench.grant(1);
        assert_eq!(bench.phase(), Some(Phase::PreCheck));
        bench.applier(ApplierStage::Staged, OLD);
        bench
    }

    /// A node whose new version runs.
    fn validating(hooks: bool) -> Self {
        let mut bench = Self::queued(false, hooks);
        bench.probed(Outcome::Healthy);
        bench.grant(1);
        bench.applier(ApplierStage::Staged, OLD);
        bench.probed(Outcome::Healthy);
        if hooks {
            bench.hook(None);
        }
        bench.applier(ApplierStage::Applied, NEW);
        assert_eq!(bench.phase(), Some(Phase::Validating));
        bench
    }

    fn handle(&mut self, input: Input) -> Vec<String> {
        self.node.handle(input, self.now);
        self.seen = drain(&mut self.node);
        words(&self.seen)
    }

    fn document(&mut self, document: SignedDocument) -> Vec<String> {
        self.handle(Input::Document { call: CallId(9), document })
    }

    fn applier(&mut self, stage: ApplierStage, running: lunar_common::ids::ArtifactId) -> Vec<String> {
        let status = ApplierStatus { running: vec![Some(running)], stage };
        let ask = self.last(|effect| match effect {
            Effect::Applier { ask, .. } => Some(*ask),
            _ => None,
        });
        self.handle(Input::Applier { ask, status: Some(status) })
    }

    fn fetched(&mut self) -> Vec<String> {
        self.handle(Input::Fetched(FetchProgress { complete: vec![NEW], ..FetchProgress::default() }))
    }

    fn probed(&mut self, outcome: Outcome) -> Vec<String> {
        let ask = self.last(|effect| match effect {
            Effect::Probe { ask, .. } => Some(*ask),
            _ => None,
        });
        self.handle(Input::Probed { ask, outcomes: outcomes(outcome) })
    }

    fn hook(&mut self, failure: Option<&str>) -> Vec<String> {
        let ask = self.last(|effect| match effect {
            Effect::RunHook { ask, .. } => Some(*ask),
            _ => None,
        });
        self.handle(Input::HookEnded { ask, failure: failure.map(str::to_owned) })
    }

    fn claim(&self) -> Claim {
        self.last(|effect| match effect {
            Effect::Claim(claim) => Some(claim.clone()),
            _ => None,
        })
    }

    fn grant(&mut self, number: u64) -> Vec<String> {
        let claim = self.claim();
        let answer = Some(ClaimAnswer::Granted(sign(&grant(&claim, number))));
        self.handle(Input::ClaimAnswered { nonce: claim.nonce, answer })
    }

    fn last<T>(&self, pick: impl Fn(&Effect) -> Option<T>) -> T {
        self.seen.iter().rev().find_map(pick).expect("the effect that is answered is among the last ones")
    }

    fn after(&mut self, duration: Duration) -> Vec<String> {
        self.now = self.now.after(duration);
        self.node.handle_timeout(self.now);
        self.seen = drain(&mut self.node);
        words(&self.seen)
    }

    /// The agent is started again from what is durable; `boot` differs after a reboot.
    fn restart(&mut self, boot: u64) -> Vec<String> {
        let trust = TrustState::restore(self.node.trust().snapshot()).unwrap();
        let journal = self.node.journal().clone();
        self.node = Node::new(setup(&trust, boot), trust, Some(journal), self.now);
        self.seen = drain(&mut self.node);
        words(&self.seen)
    }

    fn phase(&self) -> Option<Phase> {
        self.node.journal().active.as_ref().map(|active| active.state.phase())
    }

    fn ended(&self) -> Option<Phase> {
        self.node.journal().finished.values().next().map(|end| end.phase)
    }
}

#[test]
fn a_campaign_goes_from_plan_to_release_with_every_step_journaled_first() {
    let mut bench = Bench::new(false);

    let plan_taken = bench.document(plan(1, true));
    assert_eq!(
        plan_taken,
        [
            "persist trust",
            "trust changed",
            "spread plan",
            "answer Accepted",
            "persist scheduled",
            "applier status"
        ]
    );
    let looked = bench.applier(ApplierStage::Idle, OLD);
    assert_eq!(looked, ["persist downloading", "log scheduled -> downloading", "want"]);
    assert_eq!(bench.fetched(), ["persist staging", "log downloading -> staging", "applier stage"]);
    let staged = bench.applier(ApplierStage::Staged, OLD);
    assert_eq!(staged, ["persist queued", "log staging -> queued", "probe before"]);
    assert_eq!(bench.probed(Outcome::Healthy), ["claim attempt 1"]);
    let granted = bench.grant(1);
    assert_eq!(granted, ["persist pre-check +lease", "log queued -> pre-check", "applier check"]);
    assert_eq!(bench.applier(ApplierStage::Staged, OLD), ["probe before"]);
    let started = bench.probed(Outcome::Healthy);
    assert_eq!(started, ["persist draining +started", "log pre-check -> draining", "hook /bin/drain"]);
    let drained = bench.hook(None);
    assert_eq!(drained, ["persist installing +started", "log draining -> installing", "applier begin"]);
    let applied = bench.applier(ApplierStage::Applied, NEW);
    assert_eq!(applied, ["persist validating +started", "log installing -> validating", "probe after"]);
    assert_eq!(bench.probed(Outcome::Healthy), Vec::<String>::new());
    assert_eq!(bench.after(Duration::from_secs(4)), ["probe soak"]);
    assert_eq!(bench.probed(Outcome::Healthy), Vec::<String>::new());
    assert_eq!(bench.after(Duration::from_secs(4)), ["applier status", "probe soak"]);
    assert_eq!(bench.probed(Outcome::Healthy), ["persist validating +started", "applier commit"]);
    assert_eq!(bench.applier(ApplierStage::Committed, NEW), ["hook /bin/restore"]);
    let ended = bench.hook(None);
    assert_eq!(ended, ["persist -", "log validating -> complete", "release 1 completed"]);
    assert_eq!(bench.ended(), Some(Phase::Complete));

    let kept = bench.handle(Input::ReleaseAnswered { lease: LeaseId(1), kept: true });
    assert_eq!(kept, ["persist -"]);
    assert_eq!(bench.node.journal().lease.releases, []);
    let indices: Vec<u64> = bench.node.journal().transitions.iter().map(|t| t.index).collect();
    assert_eq!(indices, (0..8).collect::<Vec<_>>(), "transitions have no gaps");
}

#[test]
fn an_unhealthy_server_is_left_untouched_and_gives_up_after_its_attempts() {
    let mut bench = Bench::queued(false, false);
    for attempt in 1..=3 {
        let failed = bench.probed(Outcome::Unhealthy { found: "503".into() });
        if attempt == 3 {
            assert_eq!(failed, ["persist -", "log queued -> failed"]);
            break;
        }
        assert_eq!(failed, ["persist scheduled", "log queued -> scheduled"]);
        bench.after(Duration::from_secs(600));
        bench.applier(ApplierStage::Idle, OLD);
        bench.fetched();
        bench.applier(ApplierStage::Staged, OLD);
    }
    assert_eq!(bench.ended(), Some(Phase::Failed));
}

#[test]
fn whoever_was_found_ill_looks_again_within_a_minute() {
    let mut bench = Bench::queued(false, false);
    let looks_after = |bench: &Bench| {
        let armed = bench.node.volatile(bench.now.moment).armed;
        let (_, at) = armed.into_iter().find(|(timer, _)| *timer == Timer::Health).expect("there is a pulse");
        at.since(bench.now.moment)
    };
    bench.probed(Outcome::Healthy);
    bench.after(Duration::from_secs(60));
    assert!(looks_after(&bench) > Duration::from_secs(200), "a healthy server in the queue is left alone");
    bench.probed(bad());
    assert!(looks_after(&bench) <= Duration::from_secs(60));
}

#[test]
fn a_retry_waits_for_the_plans_back_off() {
    let mut bench = Bench::queued(false, false);
    bench.probed(bad());
    let State::Scheduled { not_before } = bench.node.journal().active.as_ref().unwrap().state else {
        panic!("a failed attempt is scheduled again");
    };
    let wait = not_before.since(bench.now.moment);
    assert!(wait >= Duration::from_secs(60) && wait <= Duration::from_secs(66), "{wait:?}");
    assert_eq!(bench.node.journal().active.as_ref().unwrap().attempt, Attempt(2));
}

#[test]
fn inconclusive_health_never_claims_and_costs_no_attempt() {
    let mut bench = Bench::queued(false, false);
    for _ in 0..10 {
        assert_eq!(bench.probed(unknown()), Vec::<String>::new());
        assert!(bench.after(Duration::from_secs(40)).contains(&"probe before".to_owned()));
    }
    let active = bench.node.journal().active.as_ref().unwrap();
    assert_eq!((active.failures, active.attempt), (0, Attempt(1)));
    assert_eq!(bench.probed(Outcome::Healthy), ["claim attempt 1"]);
}

#[test]
fn a_halt_before_the_claim_stops_it_and_a_resume_lets_it_go_on_at_once() {
    let mut bench = Bench::queued(false, false);
    let ask = AskId(bench.probe_under_way());
    bench.document(stop(Kind::Halt, 1));
    let probed = bench.handle(Input::Probed { ask, outcomes: outcomes(Outcome::Healthy) });
    assert_eq!(probed, Vec::<String>::new(), "a round that was under way leads to no claim");

    let mut halted = Bench::with_plan(false, false);
    let ask = halted.last(|effect| match effect {
        Effect::Applier { ask, .. } => Some(*ask),
        _ => None,
    });
    halted.document(stop(Kind::Halt, 1));
    let status = Some(ApplierStatus { running: vec![Some(OLD)], stage: ApplierStage::Idle });
    halted.handle(Input::Applier { ask, status });
    halted.fetched();
    let staged = halted.applier(ApplierStage::Staged, OLD);
    assert_eq!(
        staged,
        ["persist queued", "log staging -> queued"],
        "halted: fetches and stages, claims nothing"
    );
    let resumed = halted.document(stop(Kind::Resume, 2));
    assert!(resumed.contains(&"probe before".to_owned()), "{resumed:?}");
}

#[test]
fn a_halt_gives_a_held_grant_back_unused() {
    let mut bench = Bench::granted();
    let halted = bench.document(stop(Kind::Halt, 1));
    assert_eq!(
        halted,
        [
            "persist trust",
            "trust changed",
            "persist staging",
            "log pre-check -> staging",
            "spread halt",
            "answer Accepted",
            "release 1 never started"
        ]
    );
    let active = bench.node.journal().active.as_ref().unwrap();
    assert_eq!((active.failures, active.attempt), (0, Attempt(2)), "a halt costs no attempt");
}

#[test]
fn a_halt_between_two_probes_is_seen_right_before_the_start() {
    // The halt reaches the trust state only (a grant arrives in the same turn): the last check sees it.
    let mut bench = Bench::granted();
    let halt = stop(Kind::Halt, 1);
    bench.node.desk.trust.accept(&halt, WALL).unwrap();
    let ended = bench.probed(Outcome::Healthy);
    assert_eq!(ended, ["persist staging", "log pre-check -> staging", "release 1 never started"]);
}

#[test]
fn what_is_under_way_when_a_halt_comes_is_finished() {
    let mut bench = Bench::validating(false);
    bench.document(stop(Kind::Halt, 1));
    assert_eq!(bench.phase(), Some(Phase::Validating));
    bench.node.handle(Input::CoordinatorReachable, bench.now);
    bench.now = bench.now.after(Duration::from_secs(1));
    let ask = AskId(bench.probe_under_way());
    bench.handle(Input::Probed { ask, outcomes: outcomes(Outcome::Healthy) });
    bench.after(Duration::from_secs(4));
    bench.probed(Outcome::Healthy);
    bench.after(Duration::from_secs(4));
    bench.probed(Outcome::Healthy);
    bench.applier(ApplierStage::Committed, NEW);
    assert_eq!(bench.ended(), Some(Phase::Complete));
}

#[test]
fn a_grant_that_comes_too_late_is_given_back() {
    let mut bench = Bench::queued(false, false);
    bench.probed(Outcome::Healthy);
    let claim = bench.claim();
    bench.now = bench.now.after(Duration::from_secs(61));
    let pushed = bench.handle(Input::Grant { call: CallId(1), grant: sign(&grant(&claim, 1)) });
    assert_eq!(
        pushed,
        ["persist staging", "log queued -> staging", "answer grant None", "release 1 never started"]
    );
    assert_eq!(bench.phase(), Some(Phase::Staging), "the next lease's number is staged under");
    assert_eq!(bench.node.journal().active.as_ref().unwrap().attempt, Attempt(2));
}

#[test]
fn a_held_grant_is_given_back_when_its_time_runs_out() {
    let mut bench = Bench::granted();
    bench.probed(unknown());
    let timed_out = bench.after(Duration::from_secs(60));
    assert!(timed_out.contains(&"release 1 never started".to_owned()), "{timed_out:?}");
    assert_eq!(bench.phase(), Some(Phase::Staging));
}

#[test]
fn a_grant_by_anybody_but_a_coordinator_has_no_effect() {
    let mut bench = Bench::queued(false, false);
    bench.probed(Outcome::Healthy);
    let claim = bench.claim();
    let before = bench.node.journal().clone();
    for key in [SERVER, NEIGHBOUR] {
        let forged = Signed::sign(&grant(&claim, 1), &machine_key(key)).unwrap();
        let answer = bench.handle(Input::Grant { call: CallId(1), grant: forged });
        assert!(answer[0].contains("is no coordinator"), "{answer:?}");
    }
    assert_eq!(*bench.node.journal(), before);
}

#[test]
fn a_grant_shown_twice_starts_once() {
    let mut bench = Bench::granted();
    let held = bench.node.journal().lease.held.clone().unwrap();
    let again = bench.handle(Input::Grant { call: CallId(1), grant: held.signed.clone() });
    assert_eq!(again, ["answer grant None"]);
}

#[test]
fn a_sick_new_version_is_rolled_back_and_the_lease_given_back_only_then() {
    let mut bench = Bench::validating(true);
    bench.now = bench.now.after(Duration::from_secs(3));
    let sick = bench.probed(bad());
    assert_eq!(
        sick,
        ["persist rolling-back +started", "log validating -> rolling-back", "applier roll back"]
    );
    assert_eq!(bench.applier(ApplierStage::RollingBack, NEW), Vec::<String>::new());
    assert_eq!(bench.after(Duration::from_millis(500)), ["applier roll back"]);
    let back = bench.applier(ApplierStage::RolledBack { cause: "told".into() }, OLD);
    assert_eq!(back, ["hook /bin/restore"]);
    let ended = bench.hook(None);
    assert_eq!(ended, ["persist rolled-back", "log rolling-back -> rolled-back", "release 1 rolled back"]);
    let active = bench.node.journal().active.as_ref().unwrap();
    assert_eq!((active.failures, active.attempt), (1, Attempt(2)));
}

#[test]
fn a_drain_hook_that_fails_turns_back_before_anything_is_installed() {
    let mut bench = Bench::queued(false, true);
    bench.probed(Outcome::Healthy);
    bench.grant(1);
    bench.applier(ApplierStage::Staged, OLD);
    bench.probed(Outcome::Healthy);
    let failed = bench.hook(Some("exit status 1"));
    assert_eq!(
        failed,
        ["persist rolling-back +started", "log draining -> rolling-back", "applier roll back"]
    );
    assert_eq!(bench.applier(ApplierStage::Staged, OLD), ["hook /bin/restore"]);
}

#[test]
fn a_restore_hook_that_keeps_failing_does_not_keep_the_lease() {
    let mut bench = Bench::validating(true);
    bench.now = bench.now.after(Duration::from_secs(3));
    bench.probed(bad());
    for _ in 0..2 {
        bench.applier(ApplierStage::RolledBack { cause: "told".into() }, OLD);
        bench.hook(Some("exit status 1"));
        bench.after(Duration::from_secs(2));
    }
    bench.applier(ApplierStage::RolledBack { cause: "told".into() }, OLD);
    let ended = bench.hook(Some("exit status 1"));
    assert!(ended.contains(&"release 1 rolled back".to_owned()), "{ended:?}");
    let told = &bench.node.journal().transitions.last().unwrap().cause;
    assert!(told.contains("restore hook failed"), "{told}");
}

#[test]
fn an_applier_that_rolled_back_by_itself_is_followed() {
    let mut bench = Bench::validating(false);
    bench.after(Duration::from_secs(5));
    let followed = bench.applier(ApplierStage::RolledBack { cause: "no commit in time".into() }, OLD);
    assert_eq!(
        followed,
        ["persist rolling-back +started", "log validating -> rolling-back", "applier roll back"]
    );
}

#[test]
fn why_an_applier_went_back_is_told_once_it_says_so() {
    let mut bench = Bench::validating(false);
    bench.after(Duration::from_secs(5));
    bench.applier(ApplierStage::RollingBack, NEW);
    bench.applier(ApplierStage::RolledBack { cause: "the service ended at once".into() }, OLD);
    let last = bench.node.journal().transitions.last().unwrap();
    assert_eq!(last.cause, "the applier went back by itself: the service ended at once");
    assert_eq!(last.to, Phase::RolledBack);
}

#[test]
fn an_applier_that_cannot_be_reached_is_asked_again_and_nothing_is_guessed() {
    let mut bench = Bench::validating(false);
    bench.now = bench.now.after(Duration::from_secs(3));
    bench.probed(bad());
    for _ in 0..5 {
        let ask = bench.last(|effect| match effect {
            Effect::Applier { ask, command: ApplierCommand::RollBack { .. }, .. } => Some(*ask),
            _ => None,
        });
        assert_eq!(bench.handle(Input::Applier { ask, status: None }), Vec::<String>::new());
        assert_eq!(bench.phase(), Some(Phase::RollingBack));
        assert!(bench.after(Duration::from_secs(2)).contains(&"applier roll back".to_owned()));
    }
}

#[test]
fn a_restart_in_the_middle_goes_back_and_a_restart_after_the_verdict_goes_forward() {
    let mut bench = Bench::validating(false);
    let restarted = bench.restart(1);
    assert_eq!(
        restarted,
        [
            "persist validating +started",
            "persist rolling-back +started",
            "log validating -> rolling-back",
            "applier roll back"
        ]
    );

    let mut bench = Bench::validating(false);
    bench.probed(Outcome::Healthy);
    bench.after(Duration::from_secs(8));
    bench.probed(Outcome::Healthy);
    assert_eq!(bench.restart(2), ["persist validating +started", "applier commit"]);
    bench.applier(ApplierStage::Committed, NEW);
    assert_eq!(bench.ended(), Some(Phase::Complete));
}

#[test]
fn a_held_grant_survives_a_restart_of_the_agent_and_not_one_of_the_machine() {
    let mut bench = Bench::granted();
    assert_eq!(bench.restart(1), ["persist pre-check +lease", "applier check"]);
    assert_eq!(
        bench.restart(2),
        [
            "persist pre-check +lease",
            "persist staging",
            "log pre-check -> staging",
            "release 1 never started"
        ]
    );
}

#[test]
fn a_newer_generation_begins_again_before_the_start_and_waits_after_it() {
    let mut bench = Bench::granted();
    let replaced = bench.document(plan(2, false));
    assert!(replaced.contains(&"log pre-check -> scheduled".to_owned()), "{replaced:?}");
    assert!(replaced.contains(&"release 1 never started".to_owned()), "{replaced:?}");
    assert_eq!(bench.node.journal().active.as_ref().unwrap().generation, Generation(2));

    let mut bench = Bench::validating(false);
    assert_eq!(bench.document(plan(2, false)), ["spread plan", "answer Accepted"]);
    assert_eq!(bench.node.journal().active.as_ref().unwrap().generation, Generation(1));
    bench.now = bench.now.after(Duration::from_secs(3));
    let ask = AskId(bench.probe_under_way());
    bench.handle(Input::Probed { ask, outcomes: outcomes(bad()) });
    let back = bench.applier(ApplierStage::RolledBack { cause: "told".into() }, OLD);
    assert_eq!(
        back,
        [
            "persist rolled-back",
            "log rolling-back -> rolled-back",
            "persist trust",
            "trust changed",
            "persist scheduled",
            "log rolled-back -> scheduled",
            "applier status",
            "release 1 rolled back"
        ]
    );
    assert_eq!(bench.node.journal().active.as_ref().unwrap().generation, Generation(2));
}

#[test]
fn a_server_that_runs_the_plans_version_already_is_done_without_a_lease() {
    let mut bench = Bench::with_plan(false, false);
    let looked = bench.applier(ApplierStage::Idle, NEW);
    assert_eq!(looked, ["persist -", "log scheduled -> complete"]);
}

#[test]
fn a_version_that_the_plan_does_not_replace_is_left_alone() {
    let mut bench = Bench::with_plan(false, false);
    let looked = bench.applier(ApplierStage::Idle, lunar_common::ids::ArtifactId([7; 32]));
    assert_eq!(looked, ["persist -", "log scheduled -> failed"]);
}

#[test]
fn a_coordinator_that_says_wait_is_asked_again_when_it_said() {
    let mut bench = Bench::queued(false, false);
    bench.probed(Outcome::Healthy);
    let nonce = bench.claim().nonce;
    let answer = Some(ClaimAnswer::Wait { reason: WaitReason::Behind { ahead: 3 }, retry_after_ms: 2000 });
    assert_eq!(bench.handle(Input::ClaimAnswered { nonce, answer }), Vec::<String>::new());
    assert_eq!(bench.after(Duration::from_millis(1999)), Vec::<String>::new());
    assert_eq!(bench.after(Duration::from_millis(1)), ["claim attempt 1"]);
}

#[test]
fn a_claim_asks_its_group_when_it_joins_the_queue_and_when_its_turn_may_be_near_and_not_in_between() {
    let mut bench = Bench::queued(true, false);
    assert_eq!(bench.probed(Outcome::Healthy), ["ask members"]);
    bench.members();
    assert_eq!(bench.neighbour_answers(true), ["claim attempt 1"]);
    for _ in 0..2 {
        assert_eq!(bench.told_to_wait(1_800_000), ["probe before"], "it is far from the head");
        assert_eq!(bench.probed(Outcome::Healthy), ["claim attempt 1"]);
    }
    assert_eq!(bench.told_to_wait(30_000), ["probe before"], "its turn may be near");
    assert_eq!(bench.probed(Outcome::Healthy), ["ask members"]);
    bench.members();
    assert_eq!(bench.neighbour_answers(true), ["claim attempt 1"]);
    assert_eq!(bench.told_to_wait(30_000), ["probe before"]);
    assert_eq!(bench.probed(Outcome::Healthy), ["claim attempt 1"], "sent again, it asks nobody");
    // Whatever was said in the queue, the word that counts is asked for under the grant.
    bench.grant(1);
    bench.applier(ApplierStage::Staged, OLD);
    assert_eq!(bench.probed(Outcome::Healthy), ["ask srv-2"]);
    assert_eq!(bench.neighbour_answers(false), Vec::<String>::new());
    assert_eq!(bench.phase(), Some(Phase::PreCheck), "a neighbour that is not up keeps it waiting");
}

#[test]
fn the_group_is_asked_before_the_claim_and_again_before_the_start() {
    let mut bench = Bench::queued(true, false);
    assert_eq!(bench.probed(Outcome::Healthy), ["ask members"]);
    let asked = bench.members();
    assert_eq!(asked, ["persist trust", "trust changed", "ask srv-2"]);
    assert_eq!(bench.neighbour_answers(true), ["claim attempt 1"]);
    bench.grant(1);
    bench.applier(ApplierStage::Staged, OLD);
    assert_eq!(bench.probed(Outcome::Healthy), ["ask srv-2"], "the members are known by now");
    assert_eq!(bench.neighbour_answers(false), Vec::<String>::new());
    assert_eq!(bench.phase(), Some(Phase::PreCheck), "a neighbour that is not up keeps it waiting");
    assert_eq!(bench.after(Duration::from_secs(2)), ["applier check"]);
    assert_eq!(bench.applier(ApplierStage::Staged, OLD), ["probe before"]);
    assert_eq!(bench.probed(Outcome::Healthy), ["ask srv-2"]);
    let started = bench.neighbour_answers(true);
    assert_eq!(started[0], "persist draining +started");
}

#[test]
fn silence_old_answers_and_foreign_signatures_do_not_make_a_group_whole() {
    for forged in [0, 1, 2] {
        let mut bench = Bench::queued(true, false);
        bench.probed(Outcome::Healthy);
        bench.members();
        let (ask, question) = bench.question();
        let answer = |nonce, key| {
            let answer = GroupAnswer {
                server: ServerId::new("srv-2").unwrap(),
                group: "pair".parse().unwrap(),
                nonce,
                up: true,
                detail: String::new(),
            };
            Signed::sign(&answer, &machine_key(key)).unwrap()
        };
        let answer = match forged {
            0 => None,
            1 => Some(answer(question.nonce ^ 1, NEIGHBOUR)),
            _ => Some(answer(question.nonce, COORDINATOR)),
        };
        let member = ServerId::new("srv-2").unwrap();
        let after = bench.handle(Input::GroupAnswered { ask, member, answer });
        assert_eq!(after, Vec::<String>::new(), "case {forged}");
    }
    let mut bench = Bench::queued(true, false);
    bench.probed(Outcome::Healthy);
    bench.members();
    let waited = bench.after(crate::group::ANSWERS_WITHIN);
    assert!(!waited.iter().any(|word| word.starts_with("claim")), "{waited:?}");
}

#[test]
fn a_neighbour_is_told_up_only_after_a_healthy_round_and_never_with_a_lease_held() {
    let mut bench = Bench::queued(true, false);
    bench.document(enrolment("srv-2", NEIGHBOUR, Role::Agent, true));
    let asked = bench.asked(NEIGHBOUR);
    assert_eq!(asked, ["probe before"]);
    assert_eq!(bench.probed(Outcome::Healthy), ["answer up=true "]);
    bench.now = bench.now.after(Duration::from_secs(6));
    bench.asked(NEIGHBOUR);
    assert!(bench.probed(bad())[0].starts_with("answer up=false"));
    assert_eq!(bench.asked(COORDINATOR), ["answer nothing"], "only members may ask");

    let mut bench = Bench::validating(false);
    bench.node.desk.me = me(&trust(true));
    bench.document(enrolment("srv-2", NEIGHBOUR, Role::Agent, true));
    assert_eq!(bench.asked(NEIGHBOUR), ["answer up=false is validating"]);
}

#[test]
fn transitions_are_reported_until_they_are_kept() {
    let mut bench = Bench::with_plan(false, false);
    bench.applier(ApplierStage::Idle, OLD);
    let report = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::Report(report) => Some((**report).clone()),
            _ => None,
        })
    };
    // The first report of this start is still unanswered: nothing more goes up before it is.
    assert_eq!(report(&bench.seen), None);
    bench.handle(Input::ReportAnswered { number: 1, answer: None });
    bench.after(Duration::from_secs(1));
    let second = report(&bench.seen).expect("sent again");
    assert_eq!(second.transitions.len(), 1);
    let answer = ReportAnswer { epoch: Epoch(1), transitions_kept: Some(0), next_within_ms: 10_000 };
    bench.handle(Input::ReportAnswered { number: second.number, answer: Some(answer) });
    assert_eq!(bench.node.journal().transitions, []);
    assert_eq!(bench.node.journal().transitions_next, 1);
}

#[test]
fn a_lower_fence_is_refused_after_a_restart_too() {
    let mut bench = Bench::granted();
    bench.document(stop(Kind::Halt, 1));
    bench.restart(2);
    bench.document(stop(Kind::Resume, 2));
    assert_eq!(bench.node.journal().lease.fence_seen, Fence(1));
    let mut old = grant(&Claim { nonce: 5, ..claim_of(&bench) }, 1);
    old.lease = LeaseId(44);
    let answer = bench.handle(Input::Grant { call: CallId(1), grant: sign(&old) });
    assert!(answer[0].contains("are behind"), "{answer:?}");
}

#[test]
fn a_document_nobody_signed_is_refused_with_its_reason() {
    let mut bench = Bench::new(false);
    let mut forged = plan(1, false);
    forged.body.push(b'\n');
    let answer = bench.document(forged);
    assert_eq!(answer.len(), 1);
    assert!(answer[0].starts_with("answer Refused"), "{answer:?}");
}

#[test]
fn a_release_waits_in_the_journal_until_a_coordinator_has_it() {
    let mut bench = Bench::granted();
    bench.document(stop(Kind::Halt, 1));
    for _ in 0..4 {
        bench.handle(Input::ReleaseAnswered { lease: LeaseId(1), kept: false });
        let resent = bench.after(Duration::from_secs(40));
        assert!(resent.contains(&"release 1 never started".to_owned()), "{resent:?}");
    }
    let releases = &bench.node.journal().lease.releases;
    assert!(matches!(releases[0].outcome, LeaseOutcome::NeverStarted { .. }));
}

#[test]
fn every_start_of_the_agent_is_durable_before_anything_is_said() {
    let mut bench = Bench::new(false);
    bench.restart(1);
    let Effect::Persist(Record::Journal(journal)) = &bench.seen[0] else { panic!("{:?}", bench.seen[0]) };
    assert_eq!(journal.starts, 2);
}

impl Bench {
    /// This server is enrolled into another group, or into none.
    fn enrolled_again(&mut self, group: Option<&str>) {
        let document = enrolment_again("srv-1", SERVER, Role::Agent, group, 2);
        let asked = std::mem::take(&mut self.seen);
        self.handle(Input::Document { call: CallId(1), document });
        // What was asked before is still to be answered.
        self.seen.splice(0..0, asked);
    }

    fn members(&mut self) -> Vec<String> {
        let ask = self.last(|effect| match effect {
            Effect::AskGroupMembers { ask } => Some(*ask),
            _ => None,
        });
        let members = vec![
            enrolment("srv-1", SERVER, Role::Agent, true),
            enrolment("srv-2", NEIGHBOUR, Role::Agent, true),
        ];
        self.handle(Input::GroupMembers { ask, members: Some(members) })
    }

    /// The coordinator says how long to wait, and that passes.
    fn told_to_wait(&mut self, retry_after_ms: u64) -> Vec<String> {
        let nonce = self.claim().nonce;
        let answer = Some(ClaimAnswer::Wait { reason: WaitReason::Behind { ahead: 3 }, retry_after_ms });
        self.handle(Input::ClaimAnswered { nonce, answer });
        let mut words = self.after(Duration::from_millis(retry_after_ms));
        // The pulse may make a round of its own first.
        words.dedup();
        words
    }

    fn question(&self) -> (AskId, GroupQuestion) {
        self.last(|effect| match effect {
            Effect::AskMember { ask, question, .. } => Some((*ask, question.clone())),
            _ => None,
        })
    }

    fn neighbour_answers(&mut self, up: bool) -> Vec<String> {
        let (ask, question) = self.question();
        let member = ServerId::new("srv-2").unwrap();
        let answer = GroupAnswer {
            server: member.clone(),
            group: question.group,
            nonce: question.nonce,
            up,
            detail: String::new(),
        };
        let answer = Signed::sign(&answer, &machine_key(NEIGHBOUR)).unwrap();
        self.handle(Input::GroupAnswered { ask, member, answer: Some(answer) })
    }

    fn asked(&mut self, key: u8) -> Vec<String> {
        let question = GroupQuestion {
            asker: ServerId::new("srv-2").unwrap(),
            group: "pair".parse().unwrap(),
            campaign: "web-2".parse().unwrap(),
            nonce: 77,
        };
        let (name, role) = match key {
            COORDINATOR => ("coordinator", Role::Coordinator),
            _ => ("srv-2", Role::Agent),
        };
        let enrolled = enrolment(name, key, role, role == Role::Agent);
        let asker = self.node.trust().verify_enrolment(&enrolled).unwrap();
        self.handle(Input::GroupAsked { call: CallId(5), asker, question })
    }

    fn probe_under_way(&self) -> u64 {
        match self.node.upgrade.step {
            crate::upgrade::Step::Probe(AskId(ask)) => ask,
            _ => panic!("no probe is under way"),
        }
    }
}

fn claim_of(bench: &Bench) -> Claim {
    let active = bench.node.journal().active.as_ref().unwrap();
    Claim {
        server: bench.node.me().server.clone(),
        campaign: active.campaign.clone(),
        plan: active.plan,
        attempt: active.attempt,
        nonce: 0,
        epoch_seen: Epoch(0),
        fence_seen: Fence(0),
        verdict: Verdict::Healthy,
    }
}
