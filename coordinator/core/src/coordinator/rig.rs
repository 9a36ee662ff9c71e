//! A coordinator on the bench: a small fleet, virtual time, and the log it would have written.
//!
//! Owns what the tests of this crate share. Main invariant: after every step the fold of the log, each event
//! through its encoding and back, equals the live state; every test that uses the rig checks this by the way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lunar_common::document::{Halt, Reap, Resume};
use lunar_common::enrolment::Role;
use lunar_common::health::Verdict;
use lunar_common::ids::{
    Attempt, CampaignId, ClusterId, DocumentHash, Epoch, Fence, FleetId, Generation, GroupId, LeaseId,
    PauseId, PeerKey, Sequence, ServerId, ServiceId, SiteId,
};
use lunar_common::lease::{Claim, Grant, LeaseOutcome};
use lunar_common::limits::Tier;
use lunar_common::message::{HeldLease, Report};
use lunar_common::plan::StopRules;
use lunar_common::time::{Moment, Now, WallTime};
use lunar_common::wire;

use crate::campaign::rules::{Rules, StageTerms};
use crate::campaign::window::WindowTerms;
use crate::config::Config;
use crate::coordinator::Coordinator;
use crate::coordinator::documents::Also;
use crate::effect::{Answer, Effect};
use crate::event::{EVENT_BYTES_MAX, EventBody, LimitTable, Member, Selection, Terms};
use crate::input::{InForce, Input, RequestId};
use crate::state::State;

pub(crate) struct Rig {
    pub(crate) core: Coordinator,
    pub(crate) now: Now,
    /// What is durable.
    pub(crate) log: Vec<EventBody>,
    fold: State,
    numbers: BTreeMap<ServerId, u64>,
}

pub(crate) fn id(name: &str) -> ServerId {
    ServerId::new(name).unwrap()
}

pub(crate) fn campaign(name: &str) -> CampaignId {
    CampaignId::new(name).unwrap()
}

/// A key for a name: which one does not matter, as long as no two are the same.
pub(crate) fn key(server: &ServerId) -> PeerKey {
    let mut bytes = [0; 32];
    bytes[..server.as_str().len().min(32)]
        .copy_from_slice(&server.as_str().as_bytes()[..server.as_str().len().min(32)]);
    PeerKey(bytes)
}

pub(crate) fn plan_hash(generation: u64) -> DocumentHash {
    DocumentHash([u8::try_from(generation).unwrap(); 32])
}

/// `name tier site cluster group`, group `-` for none.
pub(crate) fn member(line: &str) -> Member {
    let words: Vec<&str> = line.split(' ').collect();
    let [server, tier, site, cluster, group] = words[..] else { panic!("five words: {line}") };
    Member {
        server: id(server),
        key: key(&id(server)),
        sequence: Sequence(1),
        role: Role::Agent,
        hostname: server.into(),
        site: SiteId::new(site).unwrap(),
        cluster: ClusterId::new(cluster).unwrap(),
        tier: tier.parse().unwrap(),
        service: ServiceId::new("web").unwrap(),
        group: (group != "-").then(|| GroupId::new(group).unwrap()),
        expires: None,
    }
}

pub(crate) fn wide() -> LimitTable {
    LimitTable {
        fleet: 100,
        tiers: [100; 3],
        site_default: None,
        sites: BTreeMap::new(),
        cluster_default: None,
        clusters: BTreeMap::new(),
        group: 100,
    }
}

pub(crate) fn terms(name: &str, generation: u64, limits: LimitTable) -> Terms {
    Terms {
        campaign: campaign(name),
        generation: Generation(generation),
        plan: plan_hash(generation),
        expires: WallTime(1_000_000),
        select: Selection::default(),
        limits,
        start_within_ms: 120_000,
        down_max_ms: 1_800_000,
        attempts_max: 3,
        artifacts: Vec::new(),
    }
}

impl Rig {
    /// A coordinator in its first life, with these members and one plan, nobody heard yet.
    pub(crate) fn unheard(members: &[&str], limits: LimitTable) -> Self {
        let mut rig = Self {
            core: Coordinator::new(Config::default()),
            now: Now { moment: Moment(1_000_000), wall: WallTime(1_000) },
            log: Vec::new(),
            fold: State::default(),
            numbers: BTreeMap::new(),
        };
        rig.core.handle(Input::Started(InForce::default()), rig.now);
        for line in members {
            rig.core.enrol(member(line));
        }
        rig.plan(terms("c", 1, limits));
        rig.step();
        rig
    }

    /// The same, and everyone has reported healthy.
    pub(crate) fn new(members: &[&str], limits: LimitTable) -> Self {
        let mut rig = Self::unheard(members, limits);
        rig.all_report();
        rig
    }

    pub(crate) fn all_report(&mut self) {
        self.all_but_report("");
    }

    /// All but one report.
    pub(crate) fn all_but_report(&mut self, silent: &str) {
        let servers: Vec<ServerId> = self.core.state.servers.keys().cloned().collect();
        for server in servers.iter().filter(|server| server.as_str() != silent) {
            let report = self.fresh_report(server.as_str());
            self.report(report);
        }
    }

    /// Settles, and takes the effects: what is appended is durable, and folds to the live state.
    pub(crate) fn step(&mut self) -> Vec<Effect> {
        self.core.settle(self.now);
        let mut effects = Vec::new();
        while let Some(effect) = self.core.poll_effect() {
            if let Effect::Append(event) = &effect {
                let bytes = wire::encode(event, EVENT_BYTES_MAX).unwrap();
                let event: EventBody = wire::decode(&bytes, EVENT_BYTES_MAX).unwrap();
                self.fold.apply(&event);
                self.log.push(event);
            }
            effects.push(effect);
        }
        assert_eq!(self.fold, self.core.state, "the fold of the log is the state");
        effects
    }

    /// Kill and restart from the log.
    pub(crate) fn restart(&mut self) -> Vec<Effect> {
        let log = std::mem::take(&mut self.log);
        self.restart_from(&log)
    }

    /// Kill and restart from some log: a prefix is a restored copy.
    pub(crate) fn restart_from(&mut self, log: &[EventBody]) -> Vec<Effect> {
        self.core = Coordinator::new(self.core.config.clone());
        self.fold = State::default();
        for event in log {
            self.core.apply(event);
            self.fold.apply(event);
        }
        self.log = log.to_vec();
        // As the shell does with the trust state: nothing in force has changed.
        self.core.begin_as_was(self.now);
        self.step()
    }

    pub(crate) fn plan(&mut self, terms: Terms) -> Vec<Effect> {
        self.core.accept(terms, Default::default());
        self.step()
    }

    pub(crate) fn plan_in_stages(&mut self, terms: Terms, stages: Vec<StageTerms>) -> Vec<Effect> {
        let rules = Rules { stages, ..Rules::default() };
        self.core.accept_with(terms, Some(rules), Also::default(), Default::default());
        self.step()
    }

    pub(crate) fn plan_in_windows(&mut self, terms: Terms, windows: Option<WindowTerms>) -> Vec<Effect> {
        self.core.accept_with(terms, None, Also { windows, ..Also::default() }, Default::default());
        self.step()
    }

    pub(crate) fn halt(&mut self, scope: Option<&str>, sequence: u64) -> Vec<Effect> {
        let halt = Halt {
            format: 1,
            fleet: FleetId::new("moon").unwrap(),
            campaign: scope.map(campaign),
            sequence: Sequence(sequence),
            issued: self.now.wall,
            reason: "smoke".into(),
        };
        self.core.stop(&halt, Default::default());
        self.step()
    }

    pub(crate) fn resume(&mut self, scope: Option<&str>, sequence: u64) -> Vec<Effect> {
        self.go_on(scope, BTreeSet::new(), sequence)
    }

    /// People go on with campaign `c` where these pauses are.
    pub(crate) fn resume_pauses(&mut self, pauses: &[PauseId]) -> Vec<Effect> {
        self.go_on(Some("c"), pauses.iter().copied().collect(), 1)
    }

    fn go_on(&mut self, scope: Option<&str>, pauses: BTreeSet<PauseId>, sequence: u64) -> Vec<Effect> {
        let resume = Resume {
            format: 1,
            fleet: FleetId::new("moon").unwrap(),
            campaign: scope.map(campaign),
            pauses,
            sequence: Sequence(sequence),
            issued: self.now.wall,
            expires: self.now.wall,
            reason: "no fire".into(),
        };
        self.core.go_on(&resume, Default::default());
        self.step()
    }

    /// A new plan of campaign `c`, watched by these rules.
    pub(crate) fn plan_watched(&mut self, terms: Terms, rules: &StopRules) -> Vec<Effect> {
        self.core.watch_by(&terms.campaign, terms.plan, rules);
        self.plan(terms)
    }

    pub(crate) fn reap(&mut self, server: &str, lease: Option<u64>, sequence: u64) -> Vec<Effect> {
        let reap = Reap {
            format: 1,
            fleet: FleetId::new("moon").unwrap(),
            server: id(server),
            lease: lease.map(LeaseId),
            sequence: Sequence(sequence),
            issued: self.now.wall,
            reason: "carried out of the rack".into(),
        };
        self.core.write_off(&reap, Default::default());
        self.step()
    }

    pub(crate) fn claim_as(&self, server: &str, attempt: u64, nonce: u64) -> Claim {
        Claim {
            server: id(server),
            campaign: campaign("c"),
            plan: plan_hash(1),
            attempt: Attempt(attempt),
            nonce,
            epoch_seen: Epoch(0),
            fence_seen: Fence(0),
            verdict: Verdict::Healthy,
        }
    }

    pub(crate) fn send(&mut self, claim: Claim) -> Vec<Effect> {
        let from = key(&claim.server);
        self.core.handle(Input::Claim { request: RequestId(7), from, claim }, self.now);
        self.step()
    }

    pub(crate) fn claim(&mut self, server: &str, attempt: u64, nonce: u64) -> Answer {
        let claim = self.claim_as(server, attempt, nonce);
        answer(&self.send(claim))
    }

    /// A claim that must be granted.
    pub(crate) fn granted(&mut self, server: &str) -> Grant {
        match self.claim(server, 1, 1) {
            Answer::Granted(grant) => grant,
            other => panic!("{server} was not granted: {other:?}"),
        }
    }

    pub(crate) fn fresh_report(&mut self, server: &str) -> Report {
        let number = self.numbers.entry(id(server)).or_default();
        *number += 1;
        Report {
            server: id(server),
            boot: 1,
            number: *number,
            verdict: Verdict::Healthy,
            campaigns: Vec::new(),
            lease: None,
            epoch_seen: Epoch(0),
            fence_seen: Fence(0),
            transitions: Vec::new(),
        }
    }

    pub(crate) fn report(&mut self, report: Report) -> Vec<Effect> {
        let from = key(&report.server);
        self.core.handle(Input::Report { request: RequestId(8), from, report }, self.now);
        self.step()
    }

    /// A report of a server that holds a lease.
    pub(crate) fn report_held(&mut self, grant: &Grant, started: bool) -> Vec<Effect> {
        let mut report = self.fresh_report(grant.server.as_str());
        report.lease =
            Some(HeldLease { lease: grant.lease, epoch: grant.epoch, fence: grant.fence, started });
        report.epoch_seen = grant.epoch;
        report.fence_seen = grant.fence;
        self.report(report)
    }

    /// Everyone reports: these hold leases, the others hold none and have seen what they had seen.
    pub(crate) fn all_report_held(&mut self, holders: &[Grant]) {
        let servers: Vec<ServerId> = self.core.state.servers.keys().cloned().collect();
        for server in servers {
            match holders.iter().find(|grant| grant.server == server) {
                Some(grant) => self.report_held(&grant.clone(), false),
                None => {
                    let report = self.fresh_report(server.as_str());
                    self.report(report)
                }
            };
        }
    }

    pub(crate) fn release(&mut self, grant: &Grant, outcome: LeaseOutcome) -> Vec<Effect> {
        self.release_after(grant, outcome, 1)
    }

    /// The same, after the server was down for so long.
    pub(crate) fn release_after(
        &mut self,
        grant: &Grant,
        outcome: LeaseOutcome,
        down_ms: u64,
    ) -> Vec<Effect> {
        let release = grant.release(outcome, down_ms);
        let from = key(&grant.server);
        self.core.handle(Input::Release { request: RequestId(9), from, release }, self.now);
        self.step()
    }

    /// Lets time pass, timer by timer. Nobody reports meanwhile.
    pub(crate) fn pass(&mut self, duration: Duration) -> Vec<Effect> {
        let until = self.now.after(duration);
        let mut effects = Vec::new();
        while let Some(at) = self.core.poll_timeout().filter(|at| *at <= until.moment) {
            self.now = self.now.after(at.since(self.now.moment));
            self.core.handle_timeout(self.now);
            effects.extend(self.step());
        }
        self.now = until;
        effects.retain(|effect| !matches!(effect, Effect::Announce { .. }));
        effects
    }
}

impl Coordinator {
    /// Begins a life in which the documents in force are those of the log.
    pub(crate) fn begin_as_was(&mut self, now: Now) {
        self.begin_with(now, |_| {});
        self.settle(now);
    }
}

pub(crate) fn answer(effects: &[Effect]) -> Answer {
    let mut answers = effects.iter().filter_map(|effect| match effect {
        Effect::Answer { answer, .. } => Some(answer.clone()),
        Effect::Append(_) | Effect::Push { .. } | Effect::Announce { .. } => None,
    });
    let answer = answers.next().expect("every request is answered");
    assert_eq!(answers.next(), None, "every request is answered once");
    answer
}

pub(crate) fn pushed(effects: &[Effect]) -> Vec<Grant> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Push { grant, .. } => Some(grant.clone()),
            Effect::Append(_) | Effect::Answer { .. } | Effect::Announce { .. } => None,
        })
        .collect()
}

pub(crate) fn appended(effects: &[Effect]) -> Vec<&EventBody> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Append(event) => Some(event),
            Effect::Push { .. } | Effect::Answer { .. } | Effect::Announce { .. } => None,
        })
        .collect()
}

pub(crate) fn taken(rig: &Rig, tier: Tier) -> u32 {
    rig.core.occupancies.taken(&lunar_common::lease::LimitScope::Tier(tier))
}
