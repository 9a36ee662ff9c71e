//! The applier's machine: exact effects, every refusal, the dead man's switch.

use lunar_common::document::SignedDocument;
use lunar_common::enrolment::Role;
use lunar_common::ids::{ArtifactId, ArtifactName, Attempt, Epoch, Fence};
use lunar_common::lease::Grant;
use lunar_common::plan::Restart;
use lunar_common::time::{Moment, Now};
use lunar_common::trust::TrustState;

use super::effect::{Effect, Level, Record, Step};
use super::fixture::{self, COORDINATOR, SERVER, Wanted, now};
use super::input::{Found, Input, Link, RunId};
use super::journal::{Journal, Progress};
use super::machine::Machine;
use super::protocol::{Permission, Reply, Request, Task};
use crate::input::{ApplierStage, ApplierStatus, CallId};

const BOOT: u64 = 7;
const OLD: ArtifactId = ArtifactId([1; 32]);
const NEW: ArtifactId = ArtifactId([2; 32]);
const TOOLS: ArtifactId = ArtifactId([3; 32]);
const UNIT: &str = "{ unit = \"web.service\" }";

#[test]
fn an_upgrade_goes_through_its_steps_in_order_and_journals_each_before_it_runs() {
    let mut bench = Bench::new();

    let effects = bench.ask(Request::Stage(bench.task(1)));
    let [
        Effect::Persist(Record::Journal(journal)),
        Effect::Reply { reply: Reply::Status(status), .. },
        Effect::Run { step: Step::Prune { name, keep }, .. },
    ] = effects.as_slice()
    else {
        panic!("{effects:?}")
    };
    assert_eq!(journal.work.as_ref().unwrap().progress, Progress::Staging { step: 0 });
    assert_eq!(*status, ApplierStatus { running: vec![Some(OLD), None], stage: ApplierStage::Staging });
    assert_eq!((name.as_str(), keep), ("web", &vec![NEW, OLD]));
    assert_eq!(bench.steps_until_quiet(), ["prune web", "stage web", "prune tools", "stage tools"]);
    assert_eq!(bench.stage(1), ApplierStage::Staged);

    let effects = bench.ask(bench.begin(1, 10));
    assert_eq!(kinds(&effects), ["persist", "log", "reply", "run verify web"]);
    assert_eq!(bench.stage(1), ApplierStage::Applying);
    assert_eq!(bench.machine.journal().fence_used, Fence(10));
    assert_eq!(
        bench.steps_until_quiet(),
        ["verify web", "verify tools", "switch web to 02", "switch tools to 03", "restart"]
    );
    assert_eq!(bench.stage(1), ApplierStage::Applied);
    assert_eq!(bench.machine.poll_timeout(), Some(Moment(1_000 + 600_000)));

    bench.found = Bench::found(Some(NEW), Some(TOOLS));
    let effects = bench.ask(Request::Commit(bench.task(1)));
    assert_eq!(kinds(&effects), ["persist", "log", "reply", "run prune web"]);
    assert_eq!(bench.stage(1), ApplierStage::Committed);
    assert_eq!(bench.steps_until_quiet(), ["prune web", "prune tools"]);
    assert_eq!(bench.stage(1), ApplierStage::Committed);
    assert_eq!(bench.machine.poll_timeout(), None);
    assert_eq!(bench.machine.journal().work, None);
    assert_eq!(bench.machine.journal().history[&name_of("web")], [OLD, NEW]);
}

#[test]
fn every_request_may_be_repeated_and_changes_nothing() {
    let mut bench = Bench::staged();
    for (request, stage) in [
        (Request::Stage(bench.task(1)), ApplierStage::Staged),
        (bench.begin(1, 10), ApplierStage::Applying),
        (bench.begin(1, 10), ApplierStage::Applying),
        (Request::Stage(bench.task(1)), ApplierStage::Applying),
    ] {
        bench.ask(request);
        assert_eq!(bench.stage(1), stage);
    }
    bench.steps_until_quiet();
    bench.ask(Request::Commit(bench.task(1)));
    bench.steps_until_quiet();
    for request in [
        Request::Commit(bench.task(1)),
        bench.begin(1, 10),
        Request::Stage(bench.task(1)),
        bench.roll_back(1, "too late"),
    ] {
        let effects = bench.ask(request);
        assert_eq!(kinds(&effects), ["reply"]);
        assert_eq!(bench.stage(1), ApplierStage::Committed);
    }
}

#[test]
fn a_step_that_fails_takes_the_whole_set_back_in_reverse() {
    let mut bench = Bench::begun();
    bench.steps(4);

    bench.fail("restart failed");

    assert_eq!(bench.stage(1), ApplierStage::RollingBack);
    assert_eq!(bench.steps_until_quiet(), ["switch tools to nothing", "switch web to 01", "restart"]);
    assert_eq!(bench.stage(1), ApplierStage::RolledBack { cause: "restart failed".into() });
}

#[test]
fn what_is_found_damaged_before_the_first_switch_touches_nothing_and_restarts_nothing() {
    let mut bench = Bench::begun();
    bench.steps(1);

    bench.fail("a bit fell over");

    assert_eq!(bench.stage(1), ApplierStage::RolledBack { cause: "a bit fell over".into() });
    assert_eq!(bench.steps_until_quiet(), [""; 0]);
}

#[test]
fn without_a_commit_in_time_it_goes_back_by_itself() {
    let mut bench = Bench::applied();
    bench.machine.handle_timeout(now(600_999));
    assert_eq!(bench.effects(), []);

    bench.machine.handle_timeout(now(601_000));
    bench.effects();

    let steps = bench.steps_until_quiet();
    assert_eq!(steps, ["switch tools to nothing", "switch web to 01", "restart"]);
    let cause = "not committed within 600 s of its beginning".to_owned();
    assert_eq!(bench.stage(1), ApplierStage::RolledBack { cause });
}

#[test]
fn a_commit_that_comes_after_the_deadline_is_too_late_whatever_the_timer_did() {
    let mut bench = Bench::applied();
    bench.now = now(601_000);
    bench.ask(Request::Commit(bench.task(1)));
    assert_eq!(bench.stage(1), ApplierStage::RollingBack);
}

#[test]
fn the_deadline_falls_while_a_step_runs_and_the_steps_end_is_waited_for() {
    let mut bench = Bench::begun();
    bench.steps(3);
    bench.machine.handle_timeout(now(700_000));
    let effects = bench.effects();
    assert_eq!(kinds(&effects), ["log", "persist"]);

    // The switch that was running succeeds, too late.
    let steps = bench.steps_until_quiet();

    assert_eq!(
        steps,
        ["switch tools to 03", "switch tools to nothing", "switch web to 01", "restart"],
        "two steps never run at once, and what the late one did is undone"
    );
}

#[test]
fn the_deadline_survives_a_restart_of_the_applier() {
    let bench = Bench::applied();
    let early = bench.restarted(BOOT, now(500_000));
    assert_eq!(early.machine.poll_timeout(), Some(Moment(601_000)));
    let mut late = bench.restarted(BOOT, now(800_000));
    late.steps_until_quiet();
    assert!(matches!(late.stage(1), ApplierStage::RolledBack { .. }));
}

#[test]
fn after_a_reboot_what_began_and_was_not_committed_goes_back() {
    for steps in 2..=5 {
        let mut bench = Bench::begun();
        bench.steps(steps);
        let mut rebooted = bench.restarted(BOOT + 1, now(5));
        let done = rebooted.steps_until_quiet();
        assert_eq!(done, ["switch tools to nothing", "switch web to 01", "restart"], "after {steps}");
        assert!(matches!(rebooted.stage(1), ApplierStage::RolledBack { .. }));
    }
}

#[test]
fn after_a_reboot_what_was_committed_stays_and_what_was_staged_is_ready() {
    let mut bench = Bench::applied();
    bench.ask(Request::Commit(bench.task(1)));
    let mut rebooted = bench.restarted(BOOT + 1, now(5));
    assert_eq!(rebooted.steps_until_quiet(), ["prune web", "prune tools"]);
    assert_eq!(rebooted.stage(1), ApplierStage::Committed);

    let mut rebooted = Bench::staged().restarted(BOOT + 1, now(5));
    assert_eq!(rebooted.stage(1), ApplierStage::Staged);
}

#[test]
fn a_restart_runs_the_journaled_step_again() {
    let mut bench = Bench::begun();
    bench.steps(2);
    let mut restarted = bench.restarted(BOOT, now(2_000));
    assert_eq!(restarted.steps_until_quiet(), ["switch web to 02", "switch tools to 03", "restart"]);
    assert_eq!(restarted.stage(1), ApplierStage::Applied);
}

#[test]
fn a_roll_back_that_fails_is_tried_for_ever_and_calls_a_person() {
    let mut bench = Bench::applied();
    bench.ask(bench.roll_back(1, "not healthy"));
    let mut errors = 0;
    for _ in 0..8 {
        let effects = bench.fail("the old one does not start");
        errors +=
            effects.iter().filter(|effect| matches!(effect, Effect::Log { level: Level::Error, .. })).count();
        let again = bench.machine.poll_timeout().unwrap();
        assert!(again > bench.now.moment, "it waits before it tries again");
        bench.now = Now { moment: again, ..bench.now };
        bench.machine.handle_timeout(bench.now);
        bench.effects();
    }
    assert_eq!(errors, 5);
    assert_eq!(bench.steps_until_quiet().len(), 3);
    assert_eq!(bench.stage(1), ApplierStage::RolledBack { cause: "not healthy".into() });
}

#[test]
fn nothing_begins_without_a_permission_for_exactly_this() {
    type Bend = fn(&mut Grant);
    let bends: [(Bend, &str); 8] = [
        (|grant| grant.server = "srv-2".parse().unwrap(), "is for srv-2"),
        (|grant| grant.plan.0[0] ^= 1, "is for plan"),
        (|grant| grant.campaign = "other".parse().unwrap(), "is for plan"),
        (|grant| grant.attempt = Attempt(2), "is for attempt 2"),
        (|grant| grant.nonce = lunar_common::lease::NO_CLAIM, "calls it back"),
        (|grant| grant.epoch = Epoch(1), "epoch 1 is behind 2"),
        (|grant| grant.fence = Fence(5), "fence 5 is not above 5"),
        (|grant| grant.start_within_ms = 999, "within 999 ms"),
    ];
    for (bend, says) in bends {
        let mut bench = Bench::staged();
        bench.with_floors(Epoch(2), Fence(5));
        let mut grant = fixture::grant(bench.plan.hash(), 1, 10);
        bend(&mut grant);
        let permission = Permission { grant: fixture::sign(&grant, COORDINATOR), ..bench.permission(1, 10) };
        bench.refuses_to_begin(permission, says);
    }
    let mut bench = Bench::staged();
    let good = bench.permission(1, 10);

    let forged = fixture::sign(&fixture::grant(bench.plan.hash(), 1, 10), SERVER);
    bench.refuses_to_begin(Permission { grant: forged.clone(), ..good.clone() }, "not by coordinator");
    let own = fixture::enrolment("srv-1", SERVER, Role::Agent);
    let by_itself = Permission { grant: forged, coordinator: own, ..good.clone() };
    bench.refuses_to_begin(by_itself, "not as a coordinator");
    let mut bent = good.clone();
    bent.grant.body[3] ^= 1;
    bench.refuses_to_begin(bent, "the grant is refused");
    let mut unsigned = good.clone();
    unsigned.coordinator.signatures.clear();
    bench.refuses_to_begin(unsigned, "enrolment is refused");
    let ahead = Permission { claim_sent: Moment(1_001), ..good.clone() };
    bench.refuses_to_begin(ahead, "cannot be");
    bench.now = now(61_000);
    bench.refuses_to_begin(good.clone(), "within 60000 ms");
    bench.now = now(1_000);
    bench.found = Bench::found(Some(ArtifactId([9; 32])), None);
    bench.refuses_to_begin(good.clone(), "does not list in `from`");
    bench.found = Bench::found(None, None);
    bench.refuses_to_begin(good.clone(), "nothing runs as web");
    bench.found = Bench::found(None, None);
    bench.found.links = [(name_of("web"), Link::Strange("a directory".into()))].into();
    bench.refuses_to_begin(good.clone(), "not as it was left");
    bench.found = Bench::found(Some(OLD), None);
    bench.found.releases.remove(&(name_of("tools"), TOOLS));
    bench.refuses_to_begin(good.clone(), "of tools is gone");
    bench.found = Bench::found(Some(OLD), None);
    bench.ask(Request::Begin(bench.task(1), Box::new(good)));
    assert_eq!(bench.stage(1), ApplierStage::Applying, "after all that, the good one is taken");
}

#[test]
fn a_check_answers_for_the_beginning_and_changes_nothing() {
    let mut bench = Bench::new();
    let check =
        |bench: &Bench, attempt| Request::Check(bench.task(attempt), Box::new(bench.permission(attempt, 10)));
    assert!(bench.refused(check(&bench, 1)).contains("nothing was staged"));
    bench.ask(Request::Stage(bench.task(1)));
    assert!(bench.refused(check(&bench, 1)).contains("still being unpacked"));
    bench.steps_until_quiet();
    let before = bench.machine.journal().clone();

    for _ in 0..2 {
        let effects = bench.ask(check(&bench, 1));
        assert_eq!(kinds(&effects), ["reply"]);
        assert_eq!(
            status(&effects),
            ApplierStatus { running: vec![Some(OLD), None], stage: ApplierStage::Staged }
        );
        assert_eq!(*bench.machine.journal(), before, "the grant is not used up");
    }
    assert!(bench.refused(check(&bench, 2)).contains("nothing was staged"));

    bench.ask(bench.begin(1, 10));
    assert_eq!(status(&bench.ask(check(&bench, 1))).stage, ApplierStage::Applying, "it says where it is");
    bench.steps_until_quiet();
    bench.ask(bench.roll_back(1, "not healthy"));
    bench.steps_until_quiet();
    let over = ApplierStage::RolledBack { cause: "not healthy".into() };
    assert_eq!(status(&bench.ask(check(&bench, 1))).stage, over);
}

#[test]
fn what_could_not_be_unpacked_is_told_as_often_as_it_is_asked_and_tried_anew_by_the_next_attempt() {
    let mut bench = Bench::new();
    bench.ask(Request::Stage(bench.task(1)));
    bench.fail("no room");
    let refused = ApplierStage::Refused { reason: "no room".into() };
    assert_eq!(bench.stage(1), refused);

    // The network half asks on until it has heard.
    let effects = bench.ask(Request::Stage(bench.task(1)));

    assert_eq!(kinds(&effects), ["reply"], "nothing is unpacked again");
    assert_eq!(bench.stage(1), refused);
    bench.ask(Request::Stage(bench.task(2)));
    assert_eq!(bench.stage(2), ApplierStage::Staging);
}

#[test]
fn what_was_staged_and_is_gone_is_unpacked_anew_for_the_next_attempt() {
    let mut bench = Bench::staged();
    bench.ask(Request::Stage(bench.task(2)));
    assert_eq!(bench.steps_until_quiet(), [""; 0], "what lies ready stays ready");
    bench.found.releases.remove(&(name_of("web"), NEW));

    let effects = bench.ask(Request::Stage(bench.task(3)));

    assert_eq!(kinds(&effects), ["persist", "reply", "run prune web"]);
    assert_eq!(bench.steps_until_quiet(), ["prune web", "stage web", "prune tools", "stage tools"]);
    assert_eq!(bench.stage(3), ApplierStage::Staged);
}

#[test]
fn requests_keep_their_numbers_on_the_wire() {
    let bench = Bench::new();
    let requests = [
        Request::Hello,
        Request::Document(fixture::halt()),
        Request::Status(bench.task(1)),
        Request::Stage(bench.task(1)),
        bench.begin(1, 10),
        Request::Commit(bench.task(1)),
        bench.roll_back(1, "not healthy"),
        Request::Check(bench.task(1), Box::new(bench.permission(1, 10))),
    ];
    for (number, request) in requests.into_iter().enumerate() {
        let bytes = request.encode().unwrap();
        assert_eq!(usize::from(bytes[1]), number, "{request:?}");
        assert_eq!(Request::decode(&bytes).unwrap(), request);
    }
}

#[test]
fn a_grant_that_was_used_is_never_used_again() {
    let mut bench = Bench::applied();
    bench.ask(bench.roll_back(1, "not healthy"));
    bench.steps_until_quiet();
    bench.ask(Request::Stage(bench.task(2)));
    bench.steps_until_quiet();

    bench.refuses_to_begin_attempt(2, bench.permission(2, 10), "fence 10 is not above 10");

    bench.ask(bench.begin(2, 11));
    assert_eq!(bench.stage(2), ApplierStage::Applying);
}

#[test]
fn a_halt_stops_the_beginning_and_never_the_way_back() {
    let mut bench = Bench::staged();
    bench.hand(fixture::halt());
    bench.refuses_to_begin(bench.permission(1, 10), "smoke in the lab");

    let mut bench = Bench::applied();
    bench.hand(fixture::halt());
    bench.ask(bench.roll_back(1, "not healthy"));
    bench.steps_until_quiet();
    assert!(matches!(bench.stage(1), ApplierStage::RolledBack { .. }));
}

#[test]
fn plans_that_are_not_held_not_in_force_or_for_others_are_not_staged() {
    let mut bench = Bench::new();
    let mut unknown = bench.task(1);
    unknown.plan.0[0] ^= 1;
    assert!(bench.refused(Request::Stage(unknown)).contains("is not in force"));
    let mut elsewhere = bench.task(1);
    elsewhere.campaign = "other".parse().unwrap();
    assert!(bench.refused(Request::Stage(elsewhere)).contains("is not held"));

    let old = bench.task(1);
    bench.hand(fixture::plan_for("tiers = [3]", 2, &wanted(), UNIT));
    assert!(bench.refused(Request::Stage(old)).contains("is not in force"));
    let plan = bench.machine.trust().plan(&fixture::campaign()).unwrap().hash();
    let other = Task { plan, ..bench.task(1) };
    assert!(bench.refused(Request::Stage(other)).contains("does not select srv-1"));
}

#[test]
fn a_plan_that_is_replaced_while_its_upgrade_runs_is_finished_from_the_journal() {
    let mut bench = Bench::applied();
    bench.hand(fixture::plan(2, &wanted(), UNIT));
    let newer = bench.machine.trust().plan(&fixture::campaign()).unwrap().hash();
    assert_ne!(newer, bench.plan.hash());
    let other = Task { plan: newer, ..bench.task(1) };

    bench.ask(Request::Stage(other.clone()));
    assert_eq!(bench.stage_of(other), ApplierStage::Busy { plan: bench.plan.hash() });
    bench.ask(bench.roll_back(1, "not healthy"));

    assert_eq!(bench.steps_until_quiet().len(), 3);
    assert!(matches!(bench.stage(1), ApplierStage::RolledBack { .. }));
}

#[test]
fn a_document_is_kept_before_it_is_answered_and_a_bad_one_is_refused() {
    let mut bench = Bench::new();
    let effects = bench.ask(Request::Document(fixture::halt()));
    assert!(matches!(
        effects.as_slice(),
        [Effect::Persist(Record::Trust(_)), Effect::Reply { reply: Reply::Document { refused: None }, .. }]
    ));
    let effects = bench.ask(Request::Document(fixture::halt()));
    assert_eq!(kinds(&effects), ["reply"], "known already");
    let mut bent = fixture::halt();
    bent.body.push(b'#');
    let effects = bench.ask(Request::Document(bent));
    assert!(matches!(
        effects.as_slice(),
        [Effect::Reply { reply: Reply::Document { refused: Some(_) }, .. }]
    ));
}

#[test]
fn a_roll_back_of_what_never_began_says_so_and_leaves_everything() {
    let mut bench = Bench::new();
    bench.ask(bench.roll_back(1, "changed my mind"));
    assert_eq!(bench.stage(1), ApplierStage::RolledBack { cause: "changed my mind".into() });
    let mut bench = Bench::staged();
    bench.ask(bench.roll_back(1, "changed my mind"));
    assert_eq!(bench.steps_until_quiet(), [""; 0]);
    assert_eq!(bench.stage(1), ApplierStage::RolledBack { cause: "changed my mind".into() });
}

#[test]
fn the_end_of_a_run_that_nobody_waits_for_changes_nothing() {
    let mut bench = Bench::applied();
    let before = bench.machine.journal().clone();
    bench.machine.handle(Input::StepEnded { run: RunId(999), failure: Some("x".into()) }, bench.now);
    assert_eq!(bench.effects(), []);
    assert_eq!(*bench.machine.journal(), before);
}

#[test]
fn a_journal_survives_its_encoding() {
    let bench = Bench::applied();
    let bytes = lunar_common::wire::encode(bench.machine.journal(), 1 << 20).unwrap();
    let back: Journal = lunar_common::wire::decode(&bytes, 1 << 20).unwrap();
    assert_eq!(back, *bench.machine.journal());
    assert!(matches!(back.work.unwrap().restart, Restart::Unit(unit) if unit == "web.service"));
}

/// A machine with a client.
struct Bench {
    machine: Machine,
    plan: SignedDocument,
    found: Found,
    now: Now,
    calls: u64,
    run: Option<(RunId, String)>,
}

impl Bench {
    fn new() -> Self {
        let plan = fixture::plan(1, &wanted(), UNIT);
        let mut trust: TrustState = fixture::trust();
        trust.accept(&plan, fixture::WALL).unwrap();
        let machine = Machine::new(fixture::server(), trust, Journal::default(), BOOT, now(1_000));
        let found = Self::found(Some(OLD), None);
        let mut bench = Self { machine, plan, found, now: now(1_000), calls: 0, run: None };
        bench.effects();
        bench
    }

    fn staged() -> Self {
        let mut bench = Self::new();
        bench.ask(Request::Stage(bench.task(1)));
        bench.steps_until_quiet();
        bench
    }

    fn begun() -> Self {
        let mut bench = Self::staged();
        bench.ask(bench.begin(1, 10));
        assert_eq!(bench.stage(1), ApplierStage::Applying);
        bench
    }

    fn applied() -> Self {
        let mut bench = Self::begun();
        bench.steps_until_quiet();
        assert_eq!(bench.stage(1), ApplierStage::Applied);
        bench
    }

    fn found(web: Option<ArtifactId>, tools: Option<ArtifactId>) -> Found {
        let link = |name, id: Option<ArtifactId>| id.map(|id| (name_of(name), Link::Release(id)));
        let links = link("web", web).into_iter().chain(link("tools", tools)).collect();
        let releases = [("web", OLD), ("web", NEW), ("tools", TOOLS)];
        Found { links, releases: releases.map(|(name, id)| (name_of(name), id)).into() }
    }

    /// The same server after the applier was killed.
    fn restarted(&self, boot: u64, now: Now) -> Self {
        let (trust, journal) = (self.machine.trust().clone(), self.machine.journal().clone());
        let machine = Machine::new(fixture::server(), trust, journal, boot, now);
        let (plan, found) = (self.plan.clone(), self.found.clone());
        let mut bench = Self { machine, plan, found, now, calls: 0, run: None };
        bench.effects();
        bench
    }

    fn with_floors(&mut self, epoch: Epoch, fence: Fence) {
        let mut journal = self.machine.journal().clone();
        (journal.epoch_used, journal.fence_used) = (epoch, fence);
        let trust = self.machine.trust().clone();
        self.machine = Machine::new(fixture::server(), trust, journal, BOOT, self.now);
        self.effects();
    }

    fn task(&self, attempt: u64) -> Task {
        Task { campaign: fixture::campaign(), plan: self.plan.hash(), attempt: Attempt(attempt) }
    }

    fn permission(&self, attempt: u64, fence: u64) -> Permission {
        let grant = fixture::grant(self.plan.hash(), attempt, fence);
        Permission {
            grant: fixture::sign(&grant, COORDINATOR),
            coordinator: fixture::coordinator(),
            claim_sent: Moment(0),
        }
    }

    fn begin(&self, attempt: u64, fence: u64) -> Request {
        Request::Begin(self.task(attempt), Box::new(self.permission(attempt, fence)))
    }

    fn roll_back(&self, attempt: u64, cause: &str) -> Request {
        Request::RollBack { task: self.task(attempt), cause: cause.to_owned() }
    }

    fn hand(&mut self, document: SignedDocument) {
        let effects = self.ask(Request::Document(document));
        assert!(
            effects.iter().any(|effect| matches!(
                effect,
                Effect::Reply { reply: Reply::Document { refused: None }, .. }
            )),
            "{effects:?}"
        );
    }

    fn ask(&mut self, request: Request) -> Vec<Effect> {
        self.calls += 1;
        let call = CallId(self.calls);
        let found = self.found.clone();
        self.machine.handle(Input::Asked { call, request, found }, self.now);
        self.effects()
    }

    fn stage(&mut self, attempt: u64) -> ApplierStage {
        self.stage_of(self.task(attempt))
    }

    fn stage_of(&mut self, task: Task) -> ApplierStage {
        status(&self.ask(Request::Status(task))).stage
    }

    fn refused(&mut self, request: Request) -> String {
        match status(&self.ask(request)).stage {
            ApplierStage::Refused { reason } => reason,
            other => panic!("{other:?}"),
        }
    }

    fn refuses_to_begin(&mut self, permission: Permission, says: &str) {
        self.refuses_to_begin_attempt(1, permission, says);
    }

    fn refuses_to_begin_attempt(&mut self, attempt: u64, permission: Permission, says: &str) {
        let before = self.machine.journal().clone();
        let (task, permission) = (self.task(attempt), Box::new(permission));
        // Whatever would be refused after the drain is refused before it.
        for request in [Request::Check(task.clone(), permission.clone()), Request::Begin(task, permission)] {
            let reason = self.refused(request);
            assert!(reason.contains(says), "{reason:?} does not say {says:?}");
            assert_eq!(*self.machine.journal(), before, "a refusal leaves no trace");
            assert_eq!(self.stage(attempt), ApplierStage::Staged);
        }
    }

    /// Ends the step that runs, with success.
    fn step(&mut self) -> Option<String> {
        let (run, name) = self.run.take()?;
        self.machine.handle(Input::StepEnded { run, failure: None }, self.now);
        self.effects();
        Some(name)
    }

    fn steps(&mut self, count: usize) {
        for _ in 0..count {
            self.step().expect("a step runs");
        }
    }

    fn steps_until_quiet(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.step()).collect()
    }

    /// Ends the step that runs, with a failure.
    fn fail(&mut self, why: &str) -> Vec<Effect> {
        let (run, _) = self.run.take().expect("a step runs");
        self.machine.handle(Input::StepEnded { run, failure: Some(why.to_owned()) }, self.now);
        self.effects()
    }

    fn effects(&mut self) -> Vec<Effect> {
        let effects: Vec<Effect> = std::iter::from_fn(|| self.machine.poll_effect()).collect();
        for effect in &effects {
            if let Effect::Run { run, step, .. } = effect {
                assert_eq!(self.run, None, "two steps at once");
                self.run = Some((*run, describe(step)));
            }
        }
        effects
    }
}

fn wanted() -> [Wanted; 2] {
    [
        Wanted { name: "web", id: NEW, bytes: 10, from: vec![OLD] },
        Wanted { name: "tools", id: TOOLS, bytes: 10, from: vec![] },
    ]
}

fn name_of(name: &str) -> ArtifactName {
    ArtifactName::new(name).unwrap()
}

fn status(effects: &[Effect]) -> ApplierStatus {
    let found = effects.iter().find_map(|effect| match effect {
        Effect::Reply { reply: Reply::Status(status), .. } => Some(status.clone()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no status in {effects:?}"))
}

fn kinds(effects: &[Effect]) -> Vec<String> {
    let kind = |effect: &Effect| match effect {
        Effect::Persist(_) => "persist".to_owned(),
        Effect::Reply { .. } => "reply".to_owned(),
        Effect::Run { step, .. } => format!("run {}", describe(step)),
        Effect::Log { .. } => "log".to_owned(),
    };
    effects.iter().map(kind).collect()
}

fn describe(step: &Step) -> String {
    match step {
        Step::Prune { name, .. } => format!("prune {name}"),
        Step::Stage(bundle) => format!("stage {}", bundle.name),
        Step::Verify(bundle) => format!("verify {}", bundle.name),
        Step::Switch { name, to: Some(id) } => format!("switch {name} to {id:.2}"),
        Step::Switch { name, to: None } => format!("switch {name} to nothing"),
        Step::Restart { installed: true, .. } => "restart".to_owned(),
        Step::Restart { installed: false, .. } => "stop".to_owned(),
    }
}
