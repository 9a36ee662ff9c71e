//! How fast permission becomes durable: 64 claimers at once on a ledger of 10,000 servers, on a real disk.
//!
//! Owns the measurement of core, event log, committer and store together, without the network. Each claimer
//! takes a server, claims, starts, gives the lease back, takes its next server; every answer waits for the disk,
//! as in `serve`. Run with `cargo bench -p lunar-coordinator --bench claims`. Bounded in count. Asserts what
//! happened (every claim granted and in the log once), never how fast.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lunar_common::enrolment::Role;
use lunar_common::health::Verdict;
use lunar_common::ids::{
    Attempt, CampaignId, ClusterId, DocumentHash, Epoch, Fence, Generation, GroupId, PeerKey, Sequence,
    ServerId, ServiceId, SiteId,
};
use lunar_common::lease::{Claim, Grant, LeaseOutcome, Release};
use lunar_common::limits::{Limits, Tier};
use lunar_common::message::{HeldLease, Report};
use lunar_common::time::{Moment, Now, WallTime};
use lunar_coordinator::committer::Committer;
use lunar_coordinator::event_log::EventLog;
use lunar_coordinator_core::effect::{Answer, Effect};
use lunar_coordinator_core::event::{EventBody, LimitTable, Member, Selection, Terms};
use lunar_coordinator_core::input::{InForce, Input, RequestId};
use lunar_coordinator_core::{Config, Coordinator};
use lunar_host::store::Store;

const SERVERS: usize = 10_000;
/// Claims in the measured part.
const CLAIMS: usize = 40_000;
const CLAIMERS: usize = 64;
const NOW: Now = Now { moment: Moment(1_000_000), wall: WallTime(1_000) };

fn main() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(measure(directory.path()));
}

/// What a claimer waits for.
#[derive(Clone, Copy)]
enum Step {
    Claim,
    Start,
    Release,
}

struct Claimer {
    member: usize,
    step: Step,
    asked: Instant,
    grant: Option<Grant>,
}

/// Where the one thread of the loop spends its time; the rest is waiting for the disk.
#[derive(Default)]
struct Spent {
    deciding: Duration,
    encoding: Duration,
}

struct Bench {
    core: Coordinator,
    log: EventLog,
    committer: Committer<(RequestId, Answer)>,
    spent: Spent,
}

impl Bench {
    /// One turn, as the driver takes it: the input's events in one batch, its answer behind them.
    async fn turn(&mut self, input: Input) {
        let begun = Instant::now();
        self.core.handle(input, NOW);
        let (mut events, mut answers) = (Vec::new(), Vec::new());
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Append(event) => events.push(event),
                Effect::Answer { request, answer } => answers.push((request, answer)),
                Effect::Push { .. } => panic!("nobody waits here"),
                Effect::Announce { .. } => {}
            }
        }
        let decided = Instant::now();
        let writes = self.log.append(events, NOW.wall).expect("events fit their records");
        self.spent.deciding += decided - begun;
        self.spent.encoding += decided.elapsed();
        self.committer.hand_in(writes, answers).await.expect("the committer runs");
    }
}

#[allow(clippy::print_stdout, reason = "a benchmark's figures are its output")]
async fn measure(directory: &std::path::Path) {
    let members: Vec<Member> = (0..SERVERS).map(member).collect();
    let store = Arc::new(Store::open_with_cache(directory, 32 * 1024 * 1024).expect("a store"));
    let log = EventLog::open(store.clone(), |_| Ok(())).expect("an empty log");
    let (committer, mut released) = Committer::start(store.clone()).expect("a thread");
    let mut bench = Bench { core: founded(&members), log, committer, spent: Spent::default() };
    let mut attempts = vec![0u64; SERVERS];
    let mut claimers: Vec<Claimer> = (0..CLAIMERS)
        .map(|member| Claimer { member, step: Step::Claim, asked: Instant::now(), grant: None })
        .collect();
    let (mut next_member, mut claimed, mut running) = (CLAIMERS, 0, CLAIMERS);
    let mut latencies: Vec<Duration> = Vec::with_capacity(CLAIMS);
    let commits_before = store.commits();
    let begun = Instant::now();
    for (number, claimer) in claimers.iter_mut().enumerate() {
        claimed += 1;
        attempts[claimer.member] += 1;
        claimer.asked = Instant::now();
        let input = claim(&members[claimer.member], attempts[claimer.member], request(number));
        bench.turn(input).await;
    }
    while running > 0 {
        let answers = released.recv().await.expect("the committer runs").expect("the disk takes it");
        for (id, answer) in answers {
            let number = usize::try_from(id.0).expect("a claimer's number");
            let claimer = &mut claimers[number];
            let member = &members[claimer.member];
            let input = match (claimer.step, answer) {
                (Step::Claim, Answer::Granted(grant)) => {
                    latencies.push(claimer.asked.elapsed());
                    let held = HeldLease {
                        lease: grant.lease,
                        epoch: grant.epoch,
                        fence: grant.fence,
                        started: true,
                    };
                    claimer.grant = Some(grant);
                    claimer.step = Step::Start;
                    let report = report(member, 1 + attempts[claimer.member], Some(held));
                    Input::Report { request: id, from: member.key, report }
                }
                (Step::Start, Answer::Report(_)) => {
                    claimer.step = Step::Release;
                    release(member.key, claimer.grant.as_ref().expect("it was granted"), id)
                }
                (Step::Release, Answer::Done) if claimed < CLAIMS => {
                    claimed += 1;
                    claimer.member = next_member % SERVERS;
                    next_member += 1;
                    attempts[claimer.member] += 1;
                    claimer.step = Step::Claim;
                    claimer.asked = Instant::now();
                    claim(&members[claimer.member], attempts[claimer.member], id)
                }
                (Step::Release, Answer::Done) => {
                    running -= 1;
                    continue;
                }
                (_, other) => panic!("{} was answered with {other:?}", member.server),
            };
            bench.turn(input).await;
        }
    }
    let took = begun.elapsed();
    let commits = store.commits() - commits_before;
    latencies.sort_unstable();
    let reader = bench.log.reader();
    let audit = reader.verify(None).expect("a readable log");
    assert!(audit.intact, "{audit:?}");
    let mut granted = BTreeSet::new();
    let mut since = lunar_common::ids::LogIndex(0);
    while since.0 < audit.records {
        for event in reader.read(since, usize::MAX, |_| true).expect("a readable log") {
            since = event.index.next();
            if let EventBody::Granted(lease) = event.event {
                assert!(granted.insert(lease.fence), "a fence was granted twice");
            }
        }
    }
    assert_eq!(granted.len(), CLAIMS, "every grant that was answered is in the log");
    let percentile = |percent: usize| latencies[(latencies.len() - 1) * percent / 100];
    println!(
        "{CLAIMERS} claimers, {SERVERS} servers: {:.0} durable claims a second; claim to durable grant: p50 {:.2?}, \
         p99 {:.2?}, most {:.2?}",
        CLAIMS as f64 / took.as_secs_f64(),
        percentile(50),
        percentile(99),
        percentile(100)
    );
    println!(
        "{} records in {commits} commits ({:.0} records and {:.2} ms each); the loop spent {:.0} % deciding, {:.0} % \
         encoding",
        audit.records,
        audit.records as f64 / commits as f64,
        took.as_secs_f64() * 1e3 / commits as f64,
        100.0 * bench.spent.deciding.as_secs_f64() / took.as_secs_f64(),
        100.0 * bench.spent.encoding.as_secs_f64() / took.as_secs_f64(),
    );
}

fn request(number: usize) -> RequestId {
    RequestId(number as u64)
}

/// The whole fleet enrolled, heard and healthy, with limits that nothing here reaches.
fn founded(members: &[Member]) -> Coordinator {
    let mut core = Coordinator::new(Config::default());
    core.apply(&EventBody::PlanAccepted { terms: terms(), signers: BTreeSet::new() });
    core.handle(Input::Started(InForce::default()), NOW);
    for member in members {
        core.apply(&EventBody::ServerEnrolled { member: member.clone() });
        let report = report(member, 1, None);
        core.handle(Input::Report { request: RequestId(0), from: member.key, report }, NOW);
    }
    while core.poll_effect().is_some() {}
    core
}

/// 10,000 servers on 5 sites in 300 clusters: half in tier 1 in groups of three, a quarter each in 2 and 3.
fn member(number: usize) -> Member {
    let tier = [Tier::One, Tier::One, Tier::Two, Tier::Three][number % 4];
    let mut key = [0; 32];
    key[..8].copy_from_slice(&(number as u64).to_le_bytes());
    Member {
        server: ServerId::new(&format!("server-{number:05}")).expect("an id"),
        key: PeerKey(key),
        sequence: Sequence(1),
        role: Role::Agent,
        hostname: format!("server-{number:05}"),
        site: SiteId::new(&format!("site-{}", number % 5)).expect("an id"),
        cluster: ClusterId::new(&format!("cluster-{}", number % 300)).expect("an id"),
        tier,
        service: ServiceId::new("web").expect("an id"),
        group: (tier == Tier::One).then(|| GroupId::new(&format!("group-{}", number / 12)).expect("an id")),
        expires: None,
    }
}

fn terms() -> Terms {
    let mut limits = LimitTable::from(&Limits::default());
    limits.fleet = 10_000;
    limits.tiers = [10_000; 3];
    limits.site_default = None;
    limits.cluster_default = None;
    limits.group = 10_000;
    limits.sites = BTreeMap::new();
    limits.clusters = BTreeMap::new();
    Terms {
        campaign: CampaignId::new("spring").expect("an id"),
        generation: Generation(1),
        plan: DocumentHash([1; 32]),
        expires: WallTime(i64::MAX),
        select: Selection::default(),
        limits,
        start_within_ms: 120_000,
        down_max_ms: 1_800_000,
        attempts_max: u32::MAX,
        artifacts: Vec::new(),
    }
}

fn claim(member: &Member, attempt: u64, request: RequestId) -> Input {
    let claim = Claim {
        server: member.server.clone(),
        campaign: CampaignId::new("spring").expect("an id"),
        plan: DocumentHash([1; 32]),
        attempt: Attempt(attempt),
        nonce: attempt,
        epoch_seen: Epoch(0),
        fence_seen: Fence(0),
        verdict: Verdict::Healthy,
    };
    Input::Claim { request, from: member.key, claim }
}

fn report(member: &Member, number: u64, lease: Option<HeldLease>) -> Report {
    Report {
        server: member.server.clone(),
        boot: 1,
        number,
        verdict: Verdict::Healthy,
        campaigns: Vec::new(),
        lease,
        epoch_seen: Epoch(0),
        fence_seen: Fence(0),
        transitions: Vec::new(),
    }
}

fn release(key: PeerKey, grant: &Grant, request: RequestId) -> Input {
    let release = Release {
        lease: grant.lease,
        server: grant.server.clone(),
        campaign: grant.campaign.clone(),
        attempt: grant.attempt,
        epoch: grant.epoch,
        fence: grant.fence,
        outcome: LeaseOutcome::Completed,
        down_ms: 1,
    };
    Input::Release { request, from: key, release }
}
