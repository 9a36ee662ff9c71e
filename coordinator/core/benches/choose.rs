//! How fast the ledger decides: who may start among 10,000 that wait, and claims a second, all in memory.
//!
//! Owns the measurement of the core alone (the durable figure is the coordinator's own benchmark). Run with
//! `cargo bench -p lunar-coordinator-core`. Prints medians; asserts what was decided, never how fast.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a benchmark measures time; the core does not"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use lunar_common::enrolment::Role;
use lunar_common::health::Verdict;
use lunar_common::ids::{
    Attempt, CampaignId, ClusterId, DocumentHash, Epoch, Fence, Generation, GroupId, PeerKey, Sequence,
    ServerId, ServiceId, SiteId,
};
use lunar_common::lease::{Claim, Grant, LeaseOutcome};
use lunar_common::limits::{Limits, Tier};
use lunar_common::message::Report;
use lunar_common::time::{Moment, Now, WallTime};
use lunar_coordinator_core::effect::{Answer, Effect};
use lunar_coordinator_core::event::{EventBody, LimitTable, Member, Selection, Terms};
use lunar_coordinator_core::input::{InForce, Input, RequestId};
use lunar_coordinator_core::{Config, Coordinator};

const SERVERS: usize = 10_000;
const NOW: Now = Now { moment: Moment(1_000_000), wall: WallTime(1_000) };

/// 10,000 servers on 5 sites in 300 clusters: half in tier 1 in groups of three, a quarter each in 2 and 3.
fn member(number: usize) -> Member {
    let tier = [Tier::One, Tier::One, Tier::Two, Tier::Three][number % 4];
    let mut key = [0; 32];
    key[..8].copy_from_slice(&(number as u64).to_le_bytes());
    let (site, cluster) = (number % 5, number % 300);
    Member {
        server: ServerId::new(&format!("server-{number:05}")).expect("an id"),
        key: PeerKey(key),
        sequence: Sequence(1),
        role: Role::Agent,
        hostname: format!("server-{number:05}"),
        site: SiteId::new(&format!("site-{site}")).expect("an id"),
        cluster: ClusterId::new(&format!("cluster-{cluster}")).expect("an id"),
        tier,
        service: ServiceId::new("web").expect("an id"),
        group: (tier == Tier::One).then(|| GroupId::new(&format!("group-{}", number / 12)).expect("an id")),
        expires: None,
    }
}

fn campaign() -> CampaignId {
    CampaignId::new("spring").expect("an id")
}

fn limits(fleet: u32) -> LimitTable {
    LimitTable {
        fleet,
        site_default: Some(80),
        cluster_default: Some(4),
        ..LimitTable::from(&Limits::default())
    }
}

fn terms(generation: u64, limits: LimitTable) -> Terms {
    Terms {
        campaign: campaign(),
        generation: Generation(generation),
        plan: DocumentHash([1; 32]),
        expires: WallTime(i64::MAX),
        select: Selection::default(),
        limits,
        start_within_ms: 120_000,
        down_max_ms: 1_800_000,
        attempts_max: u32::MAX,
        artifacts: Vec::new(),
        windows: None,
    }
}

/// The whole fleet enrolled, heard and healthy, in a coordinator's first life.
fn fleet(members: &[Member], limits: LimitTable) -> Coordinator {
    let mut core = Coordinator::new(Config::default());
    for member in members {
        core.apply(&EventBody::ServerEnrolled { member: member.clone() });
    }
    core.apply(&EventBody::PlanAccepted { terms: Box::new(terms(1, limits)), signers: BTreeSet::new() });
    // The benchmark has no signed documents: the log says who is a member, and nothing contradicts it.
    core.handle(Input::Started(InForce::default()), NOW);
    for member in members {
        // With no enrolment in force they were revoked just now; the log takes them back.
        core.apply(&EventBody::ServerEnrolled { member: member.clone() });
        core.handle(Input::Report { request: RequestId(0), from: member.key, report: report(member) }, NOW);
    }
    drain(&mut core);
    core
}

fn report(member: &Member) -> Report {
    Report {
        server: member.server.clone(),
        boot: 1,
        number: 1,
        verdict: Verdict::Healthy,
        campaigns: Vec::new(),
        lease: None,
        epoch_seen: Epoch(0),
        fence_seen: Fence(0),
        transitions: Vec::new(),
    }
}

fn claim(member: &Member, attempt: u64) -> Input {
    let claim = Claim {
        server: member.server.clone(),
        campaign: campaign(),
        plan: DocumentHash([1; 32]),
        attempt: Attempt(attempt),
        nonce: attempt,
        epoch_seen: Epoch(0),
        fence_seen: Fence(0),
        verdict: Verdict::Healthy,
    };
    Input::Claim { request: RequestId(attempt), from: member.key, claim }
}

fn release(key: PeerKey, grant: &Grant) -> Input {
    let release = grant.release(LeaseOutcome::Completed, 1);
    Input::Release { request: RequestId(0), from: key, release }
}

/// Every grant that leaves, with its server's key.
fn drain(core: &mut Coordinator) -> Vec<Grant> {
    let mut grants = Vec::new();
    while let Some(effect) = core.poll_effect() {
        match effect {
            Effect::Push { grant, .. } | Effect::Answer { answer: Answer::Granted(grant), .. } => {
                grants.push(grant)
            }
            Effect::Append(_) | Effect::Answer { .. } | Effect::Announce { .. } => {}
        }
    }
    grants
}

fn quantile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100]
}

#[allow(clippy::print_stdout, reason = "a benchmark's figures are its output")]
fn main() {
    let members: Vec<Member> = (0..SERVERS).map(member).collect();
    let keys: BTreeMap<ServerId, PeerKey> =
        members.iter().map(|member| (member.server.clone(), member.key)).collect();

    // Every limit at once, 10,000 claims: those that fit go, the others wait; then one comes back at a time.
    let mut core = fleet(&members, limits(250));
    let begun = Instant::now();
    for member in &members {
        core.handle(claim(member, 1), NOW);
    }
    let took = begun.elapsed();
    let mut held = drain(&mut core);
    let waiting = core.status().waiting;
    println!(
        "claims into a full ledger: {:.0} a second ({} granted, {waiting} wait)",
        SERVERS as f64 / took.as_secs_f64(),
        held.len()
    );
    let mut times = Vec::new();
    while core.status().waiting > waiting / 2 {
        let grant = held.remove(0);
        let begun = Instant::now();
        core.handle(release(keys[&grant.server], &grant), NOW);
        times.push(begun.elapsed());
        held.extend(drain(&mut core));
    }
    println!(
        "release and choice among {} to {waiting} waiting: median {:?}, p99 {:?}, most {:?}",
        waiting / 2,
        quantile(&mut times, 50),
        quantile(&mut times, 99),
        quantile(&mut times, 100)
    );

    // The worst single choice: everything waits behind a halt, and all slots are filled when it ends.
    let mut core = fleet(&members, limits(250));
    core.apply(&EventBody::Halted {
        campaign: None,
        sequence: Sequence(1),
        reason: "bench".into(),
        signers: BTreeSet::new(),
    });
    for member in &members {
        core.handle(claim(member, 1), NOW);
    }
    drain(&mut core);
    core.apply(&EventBody::Resumed {
        campaign: None,
        sequence: Sequence(2),
        reason: "bench".into(),
        signers: BTreeSet::new(),
    });
    let waiting = core.status().waiting;
    let begun = Instant::now();
    core.handle_timeout(NOW);
    let took = begun.elapsed();
    println!("filling all {} slots among {waiting} waiting at once: {took:?}", drain(&mut core).len());

    // A choice that finds nobody: every class is looked at.
    let mut core =
        fleet(&members, LimitTable { clusters: BTreeMap::new(), cluster_default: Some(1), ..limits(10_000) });
    for member in &members {
        core.handle(claim(member, 1), NOW);
    }
    drain(&mut core);
    let mut times = Vec::new();
    for sequence in 2..102 {
        // A resume makes the ledger look again, though nothing has changed.
        core.apply(&EventBody::Resumed {
            campaign: None,
            sequence: Sequence(sequence),
            reason: "bench".into(),
            signers: BTreeSet::new(),
        });
        let begun = Instant::now();
        core.handle_timeout(NOW);
        times.push(begun.elapsed());
        assert!(drain(&mut core).is_empty(), "every cluster is full");
    }
    println!(
        "looking at all of {} waiting in vain: median {:?}, p99 {:?}",
        core.status().waiting,
        quantile(&mut times, 50),
        quantile(&mut times, 99)
    );

    // Claim, grant, release: a server after the other, nothing in the way.
    let mut core = fleet(&members, limits(250));
    let rounds = 10;
    let begun = Instant::now();
    for attempt in 1..=rounds {
        for member in &members {
            core.handle(claim(member, attempt), NOW);
            let grants = drain(&mut core);
            assert_eq!(grants.len(), 1, "nothing is in the way");
            core.handle(release(member.key, &grants[0]), NOW);
            drain(&mut core);
        }
    }
    let took = begun.elapsed();
    println!(
        "claim, grant and release on a ledger of {SERVERS}: {:.0} a second",
        (SERVERS as f64 * rounds as f64) / took.as_secs_f64()
    );
}
