//! How fast permission becomes durable: 64 claimers at once on a ledger of 10,000 servers, on a real disk.
//!
//! Owns the measurement of core, event log, committer and store together, without the network; every answer
//! waits for the disk, as in `serve`. Two figures: claims alone, where each of the 64 claims for a server that
//! holds nothing, has its durable grant, and claims for the next, until every server holds a lease (they are given
//! back outside what is measured); and whole cycles, where each claims, starts, and gives back. Beside them what
//! one commit of such a group takes, and the disk alone. Run with `cargo bench -p lunar-coordinator --bench
//! claims`. Bounded in count. Asserts what happened (every grant fresh, and in the log once), never how fast.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lunar_common::enrolment::Role;
use lunar_common::health::Verdict;
use lunar_common::ids::{
    Attempt, CampaignId, ClusterId, DocumentHash, Epoch, Fence, Generation, GroupId, LogIndex, PeerKey,
    Sequence, ServerId, ServiceId, SiteId,
};
use lunar_common::lease::{Claim, Grant, LeaseOutcome};
use lunar_common::limits::{Limits, Tier};
use lunar_common::message::{HeldLease, Report};
use lunar_common::time::{Moment, Now, WallTime};
use lunar_coordinator::committer::{Committer, Released};
use lunar_coordinator::event_log::EventLog;
use lunar_coordinator_core::effect::{Answer, Effect};
use lunar_coordinator_core::event::{EventBody, LimitTable, Member, Selection, Terms};
use lunar_coordinator_core::input::{InForce, Input, RequestId};
use lunar_coordinator_core::{Config, Coordinator};
use lunar_host::store::{Store, Write};

const SERVERS: usize = 10_000;
const CLAIMERS: usize = 64;
/// Times that every server claims in the measured part of the first figure.
const ROUNDS: u64 = 5;
/// Cycles in the second.
const CYCLES: usize = 40_000;
/// Commits of the third.
const COMMITS: usize = 1_000;
const NOW: Now = Now { moment: Moment(1_000_000), wall: WallTime(1_000) };

fn main() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(measure(&directory.path().join("ledger")));
    commits_alone(directory.path());
}

struct Bench {
    core: Coordinator,
    log: EventLog,
    committer: Committer<(RequestId, Answer)>,
    released: Released<(RequestId, Answer)>,
    store: Arc<Store>,
    /// Fences of all grants that were answered.
    granted: BTreeSet<Fence>,
    /// Since the last figure.
    spent: Spent,
}

/// What a part of the run took.
#[derive(Default)]
struct Spent {
    wall: Duration,
    processor: Duration,
    /// Of the loop's one thread; the rest of its time it waits for the disk.
    deciding: Duration,
    encoding: Duration,
    records: usize,
    commits: u64,
    /// From each claim to its durable grant.
    latencies: Vec<Duration>,
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
        self.spent.records += events.len();
        let block = self.log.append(events, NOW.wall).expect("events fit their records");
        self.spent.deciding += decided - begun;
        self.spent.encoding += decided.elapsed();
        self.committer.hand_in(block, Vec::new(), answers).await.expect("the committer runs");
    }

    /// All claimers at once, each with one question out at a time: `next` has a claimer's question to its last
    /// answer (none at first), until it has no more. Ends with the last answer.
    async fn run(&mut self, mut next: impl FnMut(usize, Option<Answer>) -> Option<Input>) {
        let (begun, processor, commits) = (Instant::now(), processor_time(), self.store.commits());
        let mut asked = [begun; CLAIMERS];
        let mut out = 0;
        for (number, asked) in asked.iter_mut().enumerate() {
            if let Some(input) = next(number, None) {
                *asked = Instant::now();
                self.turn(input).await;
                out += 1;
            }
        }
        while out > 0 {
            let answers = self.released.recv().await.expect("the committer runs").expect("the disk takes it");
            for (id, answer) in answers {
                let number = usize::try_from(id.0).expect("a claimer's number");
                if let Answer::Granted(grant) = &answer {
                    self.spent.latencies.push(asked[number].elapsed());
                    assert!(self.granted.insert(grant.fence), "every grant is a fresh one");
                }
                match next(number, Some(answer)) {
                    Some(input) => {
                        asked[number] = Instant::now();
                        self.turn(input).await;
                    }
                    None => out -= 1,
                }
            }
        }
        self.spent.wall += begun.elapsed();
        self.spent.processor += processor_time().saturating_sub(processor);
        self.spent.commits += self.store.commits() - commits;
    }

    #[allow(clippy::print_stdout, reason = "a benchmark's figures are its output")]
    fn tell(&mut self, what: &str) {
        let mut spent = std::mem::take(&mut self.spent);
        let claims = spent.latencies.len();
        println!(
            "{what}: {:.0} a second ({claims} by {CLAIMERS} claimers, {SERVERS} servers); claim to durable grant: p50 \
             {:.2?}, p99 {:.2?}, most {:.2?}",
            claims as f64 / spent.wall.as_secs_f64(),
            percentile(&mut spent.latencies, 50),
            percentile(&mut spent.latencies, 99),
            percentile(&mut spent.latencies, 100),
        );
        println!(
            "    {} records in {} commits ({:.0} records each, one every {:.2} ms); {:.0} us of processor time each; \
             the loop: {:.1} us deciding, {:.1} us encoding each",
            spent.records,
            spent.commits,
            spent.records as f64 / spent.commits as f64,
            spent.wall.as_secs_f64() * 1e3 / spent.commits as f64,
            spent.processor.as_secs_f64() * 1e6 / claims as f64,
            spent.deciding.as_secs_f64() * 1e6 / claims as f64,
            spent.encoding.as_secs_f64() * 1e6 / claims as f64,
        );
    }
}

async fn measure(directory: &Path) {
    let members: Vec<Member> = (0..SERVERS).map(member).collect();
    let store = Arc::new(Store::open_with_cache(directory, 32 * 1024 * 1024).expect("a store"));
    let log = EventLog::open(store.clone(), |_| Ok(())).expect("an empty log");
    let (committer, released) = Committer::start(store.clone()).expect("a thread");
    let (core, granted, spent) = (founded(&members), BTreeSet::new(), Spent::default());
    let mut bench = Bench { core, log, committer, released, store, granted, spent };

    let mut claims = Spent::default();
    for round in 1..=ROUNDS {
        let mut held: Vec<Grant> = Vec::with_capacity(SERVERS);
        let mut asking = members.iter();
        bench.spent = claims;
        bench
            .run(|number, answer| {
                match answer {
                    None => {}
                    Some(Answer::Granted(grant)) => held.push(grant),
                    Some(other) => panic!("a claim was answered with {other:?}"),
                }
                asking.next().map(|member| claim(member, round, request(number)))
            })
            .await;
        claims = std::mem::take(&mut bench.spent);
        assert_eq!(held.len(), SERVERS, "every server holds a lease now");
        let keys: BTreeMap<_, _> = members.iter().map(|member| (&member.server, member.key)).collect();
        let mut held = held.iter();
        bench
            .run(|number, _| held.next().map(|grant| release(keys[&grant.server], grant, request(number))))
            .await;
    }
    bench.spent = claims;
    bench.tell("durable claims");

    let mut attempts = vec![ROUNDS; SERVERS];
    let mut reports = vec![1u64; SERVERS];
    let mut next_member = (0..CYCLES).map(|cycle| cycle % SERVERS);
    let mut held: Vec<Option<(usize, Grant)>> = vec![None; CLAIMERS];
    let mut at = [0; CLAIMERS];
    bench
        .run(|number, answer| match answer {
            None | Some(Answer::Done) => {
                let which = next_member.next()?;
                at[number] = which;
                attempts[which] += 1;
                Some(claim(&members[which], attempts[which], request(number)))
            }
            Some(Answer::Granted(grant)) => {
                let which = at[number];
                let (lease, epoch, fence) = (grant.lease, grant.epoch, grant.fence);
                held[number] = Some((which, grant));
                reports[which] += 1;
                let lease = HeldLease { lease, epoch, fence, started: true };
                let report = report(&members[which], reports[which], Some(lease));
                Some(Input::Report { request: request(number), from: members[which].key, report })
            }
            Some(Answer::Report(_)) => {
                let (which, grant) = held[number].take().expect("it was granted");
                Some(release(members[which].key, &grant, request(number)))
            }
            Some(other) => panic!("answered with {other:?}"),
        })
        .await;
    bench.tell("claim, start report and release, each durable before the next");
    check(&bench);
}

/// Every grant that was answered is in the log, once, and nothing else is.
fn check(bench: &Bench) {
    let reader = bench.log.reader();
    let audit = reader.verify(None).expect("a readable log");
    assert!(audit.intact, "{audit:?}");
    let mut logged = BTreeSet::new();
    let mut since = LogIndex(0);
    while since.0 < audit.records {
        for event in reader.read(since, usize::MAX, |_| true).expect("a readable log").0 {
            since = event.index.next();
            if let EventBody::Granted(lease) = event.event {
                assert!(logged.insert(lease.fence), "a fence was granted twice");
            }
        }
    }
    assert!(logged == bench.granted, "what was answered is what is in the log");
    assert_eq!(logged.len(), SERVERS * usize::try_from(ROUNDS).expect("a few") + CYCLES);
}

/// What a commit takes when nothing else goes on, and what of that is the disk: the same bytes at the end of a
/// plain file, with the same fdatasync.
#[allow(clippy::print_stdout, reason = "a benchmark's figures are its output")]
fn commits_alone(directory: &Path) {
    for claims in [1usize, CLAIMERS] {
        // Two records a claim, of about 120 bytes.
        let block = vec![7; claims * 240];
        let store = Store::open(&directory.join(format!("store-{claims}"))).expect("a store");
        let mut file = std::fs::File::create(directory.join(format!("file-{claims}"))).expect("a file");
        let (mut committing, mut plain) = (Vec::new(), Vec::new());
        for number in 0..COMMITS {
            let writes = [
                Write::put((number as u64).to_be_bytes(), block.clone()),
                Write::put("head", (number as u64).to_be_bytes()),
            ];
            let begun = Instant::now();
            store.commit(&writes).expect("the disk takes it");
            committing.push(begun.elapsed());
            let begun = Instant::now();
            file.write_all(&block).and_then(|()| file.sync_data()).expect("the disk takes it");
            plain.push(begun.elapsed());
        }
        println!(
            "a commit of {claims} claims alone: p50 {:.0?}, p99 {:.0?}; the same bytes written and synced in a plain \
             file: p50 {:.0?}, p99 {:.0?}",
            percentile(&mut committing, 50),
            percentile(&mut committing, 99),
            percentile(&mut plain, 50),
            percentile(&mut plain, 99),
        );
    }
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100]
}

/// What this process has used of the processors, in the kernel's ticks of 10 ms.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
    // User and system time are the 14th and 15th field; the state after the name is the third.
    let ticks: u64 =
        fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(10 * ticks)
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
    let release = grant.release(LeaseOutcome::Completed, 1);
    Input::Release { request, from: key, release }
}
