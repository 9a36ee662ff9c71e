//! A coordinator that is killed in the middle of its work, again and again, on a real disk.
//!
//! Owns the promise that what was acknowledged is in the log, once, whatever instant the process died at: the
//! real program, real claims over the mesh, SIGKILL.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lunar_common::health::Verdict;
use lunar_common::ids::{Attempt, CampaignId, DocumentHash, Epoch, Fence, LeaseId, PeerKey, ServerId};
use lunar_common::lease::{Claim, ClaimAnswer, Grant, LeaseOutcome, Release};
use lunar_common::message::{HeldLease, Report, Request, Response, Transition};
use lunar_common::order::draw_below;
use lunar_common::phase::Phase;
use lunar_common::time::WallTime;
use lunar_common::wire::{Signed, SignedMessage};
use lunar_coordinator::api::types::{AuditView, EventView};
use lunar_coordinator_core::event::EventBody;
use lunar_host::{documents, keys};
use lunar_transport::mesh::Mesh;
use support::{Home, STUCK, member, secret, wide_plan};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

const LIVES: u64 = 6;
const SERVERS: u8 = 12;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_was_acknowledged_before_a_kill_is_in_the_log_once() {
    let home = Home::founded(1..=SERVERS);
    let plan = wide_plan();
    documents::save(&home.path("documents/plan-web-2-1.toml"), &plan).unwrap();
    let coordinator = keys::peer_key(&keys::load(&home.path("identity.key")).unwrap());
    let mut servers: Vec<Server> = (1..=SERVERS).map(|number| Server::new(number, plan.hash())).collect();
    let mut head = None;

    for life in 0..LIVES {
        let mut serving = home.serve();
        head = Some(verified(&home, head.as_deref()));
        let (mesh, mut events) = member(1, &serving.address).await;
        // Grants are also pushed; they are answered to the claims here.
        let drain = tokio::spawn(async move { while events.recv().await.is_some() {} });
        let acknowledged = Arc::new(AtomicU64::new(0));
        let (told, dead) = watch::channel(0u64);
        let told = Arc::new(told);
        let mut working = JoinSet::new();
        for mut server in servers.drain(..) {
            // A new life knows nobody before they have reported.
            server.next = Next::Report;
            let (mesh, mut dead) = (mesh.clone(), dead.clone());
            let (acknowledged, told) = (acknowledged.clone(), told.clone());
            working.spawn(async move {
                let killed = async { dead.wait_for(|count| *count == u64::MAX).await.map(drop) };
                tokio::pin!(killed);
                loop {
                    tokio::select! {
                        _ = &mut killed => return server,
                        () = server.step(&mesh, coordinator) => {
                            let count = acknowledged.fetch_add(1, Ordering::Relaxed) + 1;
                            told.send_if_modified(|known| {
                                let newer = *known != u64::MAX && count > *known;
                                if newer { *known = count; }
                                newer
                            });
                        }
                    }
                }
            });
        }
        // Another number of answers each time, while every server has something under way.
        let enough = 20 + draw_below(300, "crash-test", &[&life.to_le_bytes()]);
        let mut counted = dead.clone();
        timeout(STUCK, counted.wait_for(|count| *count >= enough)).await.expect("answers come").unwrap();
        serving.kill();
        told.send_replace(u64::MAX);
        while let Some(server) = working.join_next().await {
            servers.push(server.unwrap());
        }
        mesh.shutdown().await;
        drain.await.unwrap();
    }

    let serving = home.serve();
    verified(&home, head.as_deref());
    let exported = home.run(&["audit", "export"]);
    assert_eq!(exported.code, 0, "{}", exported.err);
    let records: Vec<EventView> =
        exported.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (code, _) = serving.stop();
    assert_eq!(code, 0);
    let log = Log::of(&records);
    assert_eq!(log.lives, LIVES + 1);
    for server in &servers {
        assert!(!server.granted.is_empty(), "{} was never granted anything", server.id);
        for (fence, lease) in &server.granted {
            assert_eq!(log.granted.get(fence), Some(&(server.id.clone(), *lease)), "fence {fence}");
        }
        for lease in &server.released {
            assert!(log.released.contains_key(&(server.id.clone(), *lease)), "{} {lease}", server.id);
        }
        for index in 0..server.transitions {
            assert!(log.transitions.contains_key(&(server.id.clone(), index)), "{} {index}", server.id);
        }
    }
}

/// Checks the chain through the running coordinator, and that the head noted in an earlier life is still in it.
fn verified(home: &Home, noted: Option<&str>) -> String {
    let mut arguments = vec!["--output", "json", "audit", "verify"];
    arguments.extend(noted.iter().flat_map(|head| ["--head", head]));
    let audit: AuditView = serde_json::from_value(home.run(&arguments).json()).unwrap();
    assert!(audit.intact, "{audit:?}");
    audit.head.unwrap().to_string()
}

/// What the log says, each thing once.
#[derive(Default)]
struct Log {
    lives: u64,
    granted: BTreeMap<Fence, (ServerId, LeaseId)>,
    released: BTreeMap<(ServerId, LeaseId), ()>,
    transitions: BTreeMap<(ServerId, u64), ()>,
}

impl Log {
    fn of(records: &[EventView]) -> Self {
        let mut log = Self::default();
        for (place, record) in (0u64..).zip(records) {
            assert_eq!(record.index.0, place);
            match &record.event {
                EventBody::CoordinatorStarted { .. } => log.lives += 1,
                EventBody::Granted(lease) => {
                    let held = (lease.server.clone(), lease.lease);
                    assert_eq!(log.granted.insert(lease.fence, held), None, "fence {} twice", lease.fence);
                }
                EventBody::Released { server, lease, .. } => {
                    let twice = log.released.insert((server.clone(), *lease), ());
                    assert_eq!(twice, None, "{server} gave {lease} back twice");
                }
                EventBody::Transition { server, transition } => {
                    let twice = log.transitions.insert((server.clone(), transition.index), ());
                    assert_eq!(twice, None, "{server}'s transition {} twice", transition.index);
                }
                EventBody::StateRestored { .. } | EventBody::Lost { .. } | EventBody::Adopted { .. } => {
                    panic!("something was forgotten: {record:?}")
                }
                _ => {}
            }
        }
        log
    }
}

/// A server, and what was acknowledged to it.
struct Server {
    number: u8,
    id: ServerId,
    plan: DocumentHash,
    next: Next,
    attempt: u64,
    nonce: u64,
    held: Option<Grant>,
    /// Of the last grant.
    seen: (Epoch, Fence),
    granted: BTreeMap<Fence, LeaseId>,
    released: Vec<LeaseId>,
    transitions: u64,
}

enum Next {
    Report,
    Claim,
    Release,
}

impl Server {
    fn new(number: u8, plan: DocumentHash) -> Self {
        Self {
            number,
            id: format!("srv-{number}").parse().unwrap(),
            plan,
            next: Next::Report,
            attempt: 1,
            nonce: 0,
            held: None,
            seen: (Epoch(0), Fence(0)),
            granted: BTreeMap::new(),
            released: Vec::new(),
            transitions: 0,
        }
    }

    /// Asks for what comes next and takes the answer in. Dropped before the answer, it is asked again.
    async fn step(&mut self, mesh: &Mesh, coordinator: PeerKey) {
        let request = match self.next {
            Next::Report => Request::Report(self.sign(&self.report())),
            Next::Claim => {
                self.nonce += 1;
                Request::Claim(self.sign(&self.claim()))
            }
            Next::Release => Request::Release(self.sign(&self.release())),
        };
        // A coordinator that was just killed answers nothing; the test ends this step then.
        let Ok(response) = mesh.request(coordinator, request).await else {
            return std::future::pending().await;
        };
        match (&self.next, response) {
            (Next::Report, Response::Report(answer)) => {
                assert_eq!(answer.transitions_kept, Some(self.transitions), "{}", self.id);
                self.transitions += 1;
                self.next = if self.held.is_some() { Next::Release } else { Next::Claim };
            }
            (Next::Claim, Response::Claim(ClaimAnswer::Granted(signed))) => {
                assert_eq!(signed.signer, coordinator);
                let grant: Grant = signed.open().unwrap();
                self.granted.insert(grant.fence, grant.lease);
                self.seen = (grant.epoch, grant.fence);
                self.held = Some(grant);
                self.next = Next::Release;
            }
            (Next::Release, Response::Done) => {
                self.released.extend(self.held.take().map(|grant| grant.lease));
                self.attempt += 1;
                self.next = Next::Report;
            }
            (_, other) => panic!("{} was answered with {other:?}", self.id),
        }
    }

    fn sign<M: SignedMessage>(&self, message: &M) -> Signed {
        Signed::sign(message, &secret(self.number)).unwrap()
    }

    fn report(&self) -> Report {
        Report {
            server: self.id.clone(),
            boot: 1,
            // A number that went out without an answer is used again: the coordinator that saw it is dead.
            number: self.transitions + 1,
            verdict: Verdict::Healthy,
            campaigns: Vec::new(),
            lease: self.held.as_ref().map(|grant| HeldLease {
                lease: grant.lease,
                epoch: grant.epoch,
                fence: grant.fence,
                started: false,
            }),
            epoch_seen: self.seen.0,
            fence_seen: self.seen.1,
            transitions: vec![Transition {
                index: self.transitions,
                campaign: campaign(),
                attempt: Attempt(self.attempt),
                from: Phase::Scheduled,
                to: Phase::Downloading,
                cause: "a test".to_owned(),
                at: WallTime(0),
            }],
        }
    }

    fn claim(&self) -> Claim {
        Claim {
            server: self.id.clone(),
            campaign: campaign(),
            plan: self.plan,
            attempt: Attempt(self.attempt),
            nonce: self.nonce,
            epoch_seen: self.seen.0,
            fence_seen: self.seen.1,
            verdict: Verdict::Healthy,
        }
    }

    fn release(&self) -> Release {
        let grant = self.held.as_ref().unwrap();
        Release {
            lease: grant.lease,
            server: self.id.clone(),
            campaign: campaign(),
            attempt: grant.attempt,
            epoch: grant.epoch,
            fence: grant.fence,
            outcome: LeaseOutcome::NeverStarted { cause: "a test".to_owned() },
            down_ms: 0,
        }
    }
}

fn campaign() -> CampaignId {
    "web-2".parse().unwrap()
}
