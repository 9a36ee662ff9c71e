//! The ledger: the production coordinator, its log, and its deaths.
//!
//! Owns every state that the ledger can be in, each with a coordinator that is in it, and what the coordinator does
//! there with every input: worked out once by the coordinator itself, looked up after that. Main invariant: an
//! answer is sent after the events before it are in the log, unless the mutant that this file knows says otherwise;
//! after a death there is what the log has, and nothing else.

use std::sync::Arc;

use lunar_common::health::Verdict;
use lunar_common::ids::{Attempt, Epoch, Fence, LeaseId, ServerId};
use lunar_common::lease::{Claim, ClaimRefusal, Grant, LeaseState, Release};
use lunar_common::message::{HeldLease, Report};
use lunar_coordinator_core::config::Config;
use lunar_coordinator_core::coordinator::shape::{LeaseShape, ServerShape, Shape};
use lunar_coordinator_core::effect::{Answer, Effect};
use lunar_coordinator_core::event::EventBody;
use lunar_coordinator_core::input::{Input, RequestId};
use lunar_coordinator_core::{Coordinator, Timer};

use super::Mutant;
use super::fleet::{Fleet, SERVERS, START};
use super::message::{Down, Ended, Map, Numbered, Up};

/// Nobody, in a queue that is not full.
const NOBODY: u8 = u8::MAX;

/// Where the ledger is: one record for each server, the queue, and what concerns everyone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LedgerState {
    pub(super) records: [u16; SERVERS],
    /// Who waits, the longest first.
    pub(super) queue: [u8; SERVERS],
    pub(super) epoch: u8,
    pub(super) halted: bool,
    pub(super) restored: bool,
}

impl LedgerState {
    /// The same, with the servers in another order: `order[new] = old`.
    pub(super) fn reordered(&self, order: [usize; SERVERS]) -> Self {
        let mut place = [NOBODY; SERVERS];
        for (new, old) in order.iter().enumerate() {
            place[*old] = u8::try_from(new).expect("few servers");
        }
        Self {
            records: order.map(|old| self.records[old]),
            queue: self.queue.map(|old| if old == NOBODY { NOBODY } else { place[usize::from(old)] }),
            ..*self
        }
    }

    /// The least of all orders that keep groups together, and that order.
    fn representative(&self, servers: usize) -> (Self, [usize; SERVERS]) {
        let orders = orders(servers).iter().map(|order| (self.reordered(*order), *order));
        orders.min_by_key(|(state, _)| *state).expect("there are orders")
    }
}

/// Every order of the servers in which members of a group stay together.
const ORDERS: [[usize; SERVERS]; 8] = [
    [0, 1, 2, 3],
    [1, 0, 2, 3],
    [0, 1, 3, 2],
    [1, 0, 3, 2],
    [2, 3, 0, 1],
    [3, 2, 0, 1],
    [2, 3, 1, 0],
    [3, 2, 1, 0],
];

/// The orders of so many servers: with the last two, or the last one, missing, fewer keep groups together.
pub(super) fn orders(servers: usize) -> &'static [[usize; SERVERS]] {
    match servers {
        4 => &ORDERS,
        2 | 3 => &ORDERS[..2],
        _ => &ORDERS[..1],
    }
}

/// What the ledger knows of one server, its leases by rank.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct LedgerRecord {
    /// Leases ever granted to it.
    pub(super) granted: u64,
    pub(super) lease: Option<LeaseRecord>,
    pub(super) attempts: Option<(u64, Option<u64>, u32)>,
    pub(super) queued: Option<u64>,
    pub(super) waiting: Option<(u64, (bool, bool))>,
    pub(super) closed: u64,
    pub(super) unexplained: Vec<u64>,
    pub(super) heard: Option<bool>,
}

/// A lease as the ledger knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct LeaseRecord {
    pub(super) rank: u64,
    pub(super) epoch: u64,
    attempt: Option<u64>,
    pub(super) nonce: Option<u64>,
    pub(super) answered: Option<u64>,
    pub(super) lost: bool,
    pub(super) active: bool,
    pub(super) started: bool,
}

/// What can happen to the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LedgerInput {
    /// A server's message arrives.
    Message(u8, u16),
    /// The halt arrives.
    Halt,
    /// A server's lease runs out.
    LeaseRunsOut(u8),
    /// A server was silent for too long.
    Silence(u8),
}

impl LedgerInput {
    fn renamed(self, names: [usize; SERVERS]) -> Self {
        let name = |server: u8| small(names[usize::from(server)]);
        match self {
            Self::Message(server, message) => Self::Message(name(server), message),
            Self::Halt => Self::Halt,
            Self::LeaseRunsOut(server) => Self::LeaseRunsOut(name(server)),
            Self::Silence(server) => Self::Silence(name(server)),
        }
    }
}

/// What one input led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Led {
    pub(super) to: LedgerState,
    pub(super) sent: Vec<(u8, Down)>,
    /// A release came and changed nothing.
    pub(super) release_ignored: bool,
    /// Numbers fell, or the log was taken for an old copy though it never was one.
    pub(super) floors_fell: bool,
    pub(super) thinks_restored: bool,
}

/// A coordinator, its log, and the real fence of each server's nth lease.
#[derive(Clone)]
struct Life {
    core: Coordinator,
    log: Log,
    fences: [Vec<u64>; SERVERS],
    reports: u64,
}

impl Life {
    /// Which of a server's leases has this fence, counted from 1.
    fn rank(&mut self, server: usize, fence: Fence) -> u64 {
        let fences = &mut self.fences[server];
        if !fences.contains(&fence.0) {
            fences.push(fence.0);
        }
        rank(fences, fence.0)
    }

    fn granted(&mut self, server: usize, grant: &Grant) -> Down {
        Down::Grant {
            rank: self.rank(server, grant.fence),
            attempt: grant.attempt.0,
            nonce: grant.nonce,
            epoch: grant.epoch.0,
        }
    }

    fn answered(&mut self, server: usize, message: &Up, answer: &Answer) -> Option<Down> {
        match (answer, message) {
            (Answer::Granted(grant), _) => Some(self.granted(server, grant)),
            (Answer::Refused(refusal), Up::Claim { nonce, .. }) => {
                let over = match refusal {
                    ClaimRefusal::AttemptOver(over) => Some(over.0),
                    ClaimRefusal::AttemptBehind { highest, .. } => Some(highest.0),
                    ClaimRefusal::TooManyAttempts(_) => None,
                    ClaimRefusal::NotYourServer
                    | ClaimRefusal::NotSelected
                    | ClaimRefusal::OtherPlan { .. }
                    | ClaimRefusal::UnknownCampaign => panic!("one fleet, one plan: {refusal}"),
                };
                Some(Down::Refused { nonce: *nonce, over })
            }
            (Answer::Done, Up::Release { rank, .. }) => Some(Down::Kept { rank: *rank }),
            (Answer::Wait { .. } | Answer::Report(_), _) => None,
            (Answer::Refused(_) | Answer::Done | Answer::Invalid { .. }, _) => {
                panic!("{answer:?} to {message:?}")
            }
        }
    }
}

/// The log, its end first; beginnings are shared.
#[derive(Clone, Default)]
struct Log(Option<Arc<(EventBody, Log)>>);

impl Log {
    fn push(&mut self, event: EventBody) {
        *self = Self(Some(Arc::new((event, self.clone()))));
    }

    fn events(&self) -> Vec<&EventBody> {
        let mut events = Vec::new();
        let mut at = self;
        while let Some(record) = &at.0 {
            events.push(&record.0);
            at = &record.1;
        }
        events.reverse();
        events
    }
}

/// Every state found, and every step worked out.
pub(super) struct Ledgers {
    mutant: Option<Mutant>,
    pub(super) records: Numbered<LedgerRecord>,
    numbers: Map<LedgerState, u32>,
    /// Each with its state as its own names have it.
    lives: Vec<(LedgerState, Life)>,
    found: Map<LedgerState, (u32, [usize; SERVERS])>,
    died: Map<u32, LedgerState>,
    led: Map<(u32, LedgerInput, u8), Option<Led>>,
}

/// Not a death: the step is carried out to its end.
const ALIVE: u8 = u8::MAX;

impl Ledgers {
    pub(super) fn new(mutant: Option<Mutant>) -> Self {
        Self {
            mutant,
            records: Numbered::default(),
            numbers: Map::default(),
            lives: Vec::new(),
            found: Map::default(),
            died: Map::default(),
            led: Map::default(),
        }
    }

    pub(super) fn begin(&mut self, fleet: &Fleet) -> LedgerState {
        let mut life = Life {
            core: Coordinator::new(Config::default()),
            log: Log::default(),
            fences: Default::default(),
            reports: 0,
        };
        life.core.handle(Input::Started(fleet.in_force(false)), START);
        self.carry_out(fleet, &mut life, None, usize::MAX);
        self.keep(fleet, life)
    }

    pub(super) fn len(&self) -> usize {
        self.lives.len()
    }

    pub(super) fn record(&self, number: u16) -> &LedgerRecord {
        self.records.get(number)
    }

    /// What an input leads to; with `dies_before`, the coordinator dies before that effect and is started again.
    /// `None`: it has no such effect.
    pub(super) fn step(
        &mut self,
        fleet: &Fleet,
        from: &LedgerState,
        input: LedgerInput,
        message: Option<&Up>,
        dies_before: Option<u8>,
    ) -> Option<Led> {
        let (number, names) = self.find(fleet, from);
        let input = input.renamed(names);
        let key = (number, input, dies_before.unwrap_or(ALIVE));
        if !self.led.contains_key(&key) {
            let led = self.work_out(fleet, number, input, message, dies_before);
            self.led.insert(key, led);
        }
        let led = self.led[&key].as_ref()?;
        let mut here = [0; SERVERS];
        for (mine, theirs) in names.iter().enumerate() {
            here[*theirs] = mine;
        }
        Some(Led {
            to: led.to.reordered(names),
            sent: led.sent.iter().map(|(to, sent)| (small(here[usize::from(*to)]), *sent)).collect(),
            ..*led
        })
    }

    /// The coordinator dies at rest and is started again.
    pub(super) fn die(&mut self, fleet: &Fleet, from: &LedgerState) -> LedgerState {
        let (number, names) = self.find(fleet, from);
        if let Some(to) = self.died.get(&number) {
            return to.reordered(names);
        }
        let (state, mut life) = self.lives[number as usize].clone();
        self.restart(fleet, &mut life, state.halted);
        let to = self.keep(fleet, life);
        self.died.insert(number, to);
        to.reordered(names)
    }

    /// The life that stands for a state, and what each server is called in it: servers of a group, and groups,
    /// can stand in for one another.
    fn find(&mut self, fleet: &Fleet, state: &LedgerState) -> (u32, [usize; SERVERS]) {
        if let Some(found) = self.found.get(state) {
            return *found;
        }
        let (alike, order) = state.representative(fleet.names.len());
        let number = self.numbers[&alike];
        let (_, theirs) = self.lives[number as usize].0.representative(fleet.names.len());
        let mut names = [0; SERVERS];
        for place in 0..SERVERS {
            names[order[place]] = theirs[place];
        }
        self.found.insert(*state, (number, names));
        (number, names)
    }

    fn work_out(
        &mut self,
        fleet: &Fleet,
        number: u32,
        input: LedgerInput,
        message: Option<&Up>,
        dies_before: Option<u8>,
    ) -> Option<Led> {
        let (from, mut life) = self.lives[number as usize].clone();
        let before = life.core.shape(&fleet.campaign);
        match input {
            LedgerInput::Message(server, _) => {
                let message = message.expect("a message is one");
                let input = self.arriving(fleet, &mut life, usize::from(server), message);
                life.core.handle(input, START);
            }
            LedgerInput::Halt => life.core.handle(Input::Halt(Arc::clone(&fleet.halt)), START),
            LedgerInput::LeaseRunsOut(server) if self.mutant == Some(Mutant::ExpiryFrees) => {
                let held = &before.servers[place(&before, &fleet.names[usize::from(server)])];
                let held = held.lease.as_ref().expect("only a lease runs out");
                let release = forged(fleet, usize::from(server), held);
                life.core.handle(
                    Input::Release { request: RequestId(0), from: fleet.key(usize::from(server)), release },
                    START,
                );
            }
            LedgerInput::LeaseRunsOut(server) => {
                life.core.ring(Timer::Lease(fleet.names[usize::from(server)].clone()), START);
            }
            LedgerInput::Silence(server) => {
                life.core.ring(Timer::Silence(fleet.names[usize::from(server)].clone()), START);
            }
        }
        let asked = match input {
            LedgerInput::Message(server, _) => message.map(|message| (usize::from(server), message)),
            LedgerInput::Halt | LedgerInput::LeaseRunsOut(_) | LedgerInput::Silence(_) => None,
        };
        let at_most = dies_before.map_or(usize::MAX, usize::from);
        let (effects, sent) = self.carry_out(fleet, &mut life, asked, at_most);
        if dies_before.is_some() {
            if effects <= at_most {
                return None;
            }
            self.restart(fleet, &mut life, from.halted);
        }
        let after = life.core.shape(&fleet.campaign);
        let to = self.keep(fleet, life);
        let is_release = matches!(message, Some(Up::Release { .. }));
        Some(Led {
            release_ignored: is_release && dies_before.is_none() && to == from,
            floors_fell: after.epoch < before.epoch || after.fence < before.fence,
            thinks_restored: after.restored || (dies_before.is_none() && after.epoch != before.epoch),
            to,
            sent,
        })
    }

    /// A message in the words of this life: with real fences for ranks.
    fn arriving(&self, fleet: &Fleet, life: &mut Life, server: usize, message: &Up) -> Input {
        let fences = &life.fences[server];
        let fence = |rank: u64| match rank.checked_sub(1) {
            Some(nth) => Fence(fences[usize::try_from(nth).expect("few leases")]),
            None => Fence(0),
        };
        let (request, from) = (RequestId(0), fleet.key(server));
        let server_id = fleet.names[server].clone();
        match *message {
            Up::Claim { attempt, nonce, epoch_seen, rank_seen } => {
                let claim = Claim {
                    server: server_id,
                    campaign: fleet.campaign.clone(),
                    plan: fleet.plan.hash(),
                    attempt: Attempt(attempt),
                    nonce,
                    epoch_seen: Epoch(epoch_seen),
                    fence_seen: fence(rank_seen),
                    verdict: Verdict::Healthy,
                };
                Input::Claim { request, from, claim }
            }
            Up::Release { rank, attempt, epoch, outcome } => {
                let mut release = Release {
                    lease: LeaseId(fence(rank).0),
                    server: server_id,
                    campaign: fleet.campaign.clone(),
                    attempt: Attempt(attempt),
                    epoch: Epoch(epoch),
                    fence: fence(rank),
                    outcome: outcome.outcome(),
                    down_ms: 0,
                };
                if self.mutant == Some(Mutant::UnfencedRelease) {
                    let shape = life.core.shape(&fleet.campaign);
                    if let Some(held) = &shape.servers[place(&shape, &fleet.names[server])].lease {
                        (release.lease, release.epoch, release.fence) = (held.lease, held.epoch, held.fence);
                    }
                }
                Input::Release { request, from, release }
            }
            Up::Report { epoch_seen, rank_seen, lease } => {
                let report = Report {
                    server: server_id,
                    boot: 1,
                    number: life.reports + 1,
                    verdict: Verdict::Healthy,
                    campaigns: Vec::new(),
                    lease: lease.map(|(rank, epoch, started)| HeldLease {
                        lease: LeaseId(fence(rank).0),
                        epoch: Epoch(epoch),
                        fence: fence(rank),
                        started,
                    }),
                    epoch_seen: Epoch(epoch_seen),
                    fence_seen: fence(rank_seen),
                    transitions: Vec::new(),
                };
                life.reports += 1;
                Input::Report { request, from, report }
            }
        }
    }

    /// Carries out at most so many effects, in order; how many there were, and what was sent.
    fn carry_out(
        &self,
        fleet: &Fleet,
        life: &mut Life,
        asked: Option<(usize, &Up)>,
        at_most: usize,
    ) -> (usize, Vec<(u8, Down)>) {
        let mut effects: Vec<Effect> = std::iter::from_fn(|| life.core.poll_effect()).collect();
        if self.mutant == Some(Mutant::GrantBeforePersist) {
            effects.sort_by_key(|effect| matches!(effect, Effect::Append(_)));
        }
        let count = effects.len();
        let mut sent = Vec::new();
        for effect in effects.into_iter().take(at_most) {
            match effect {
                Effect::Append(event) => {
                    if let EventBody::Granted(granted) = &event {
                        life.rank(server_of(fleet, &granted.server), granted.fence);
                    }
                    life.log.push(event);
                }
                Effect::Push { to, grant, .. } => {
                    let server = server_of(fleet, &to);
                    sent.push((small(server), life.granted(server, &grant)));
                }
                Effect::Answer { answer, .. } => {
                    // Nobody hears the answer to what the expiry mutant made up.
                    let Some((server, message)) = asked else { continue };
                    sent.extend(
                        life.answered(server, message, &answer).map(|answer| (small(server), answer)),
                    );
                }
                Effect::Announce { .. } => {}
            }
        }
        (count, sent)
    }

    fn restart(&self, fleet: &Fleet, life: &mut Life, halted: bool) {
        life.core = Coordinator::new(Config::default());
        for event in life.log.events() {
            life.core.apply(event);
        }
        life.core.handle(Input::Started(fleet.in_force(halted)), START);
        self.carry_out(fleet, life, None, usize::MAX);
    }

    fn keep(&mut self, fleet: &Fleet, life: Life) -> LedgerState {
        let shape = life.core.shape(&fleet.campaign);
        let mut queue: Vec<(u64, u8)> = Vec::new();
        let mut records = [0; SERVERS];
        for (server, record) in records.iter_mut().enumerate().take(fleet.names.len()) {
            let of = &shape.servers[place(&shape, &fleet.names[server])];
            if let Some((at, _)) = of.queued {
                queue.push((at, small(server)));
            }
            *record = self.records.number(in_ranks(of, &life.fences[server]));
        }
        queue.sort_unstable();
        let mut places = [NOBODY; SERVERS];
        for (place, (_, server)) in places.iter_mut().zip(queue) {
            *place = server;
        }
        let state = LedgerState {
            records,
            queue: places,
            epoch: u8::try_from(shape.epoch.0).expect("few lives"),
            halted: shape.halted,
            restored: shape.restored,
        };
        let (alike, _) = state.representative(fleet.names.len());
        if !self.numbers.contains_key(&alike) {
            self.numbers.insert(alike, u32::try_from(self.lives.len()).expect("a bounded model"));
            self.lives.push((state, life));
        }
        state
    }
}

/// Which of these fences it is, counted from 1; 0: before all of them.
fn rank(fences: &[u64], fence: u64) -> u64 {
    match fences.iter().position(|known| *known == fence) {
        Some(nth) => nth as u64 + 1,
        None => {
            assert_eq!(fence, 0, "every fence was granted");
            0
        }
    }
}

fn in_ranks(of: &ServerShape, fences: &[u64]) -> LedgerRecord {
    LedgerRecord {
        granted: fences.len() as u64,
        lease: of.lease.as_ref().map(|lease| LeaseRecord {
            rank: rank(fences, lease.fence.0),
            epoch: lease.epoch.0,
            attempt: lease.attempt.map(|attempt| attempt.0),
            nonce: lease.nonce,
            answered: lease.answered,
            lost: lease.state == LeaseState::Lost,
            active: lease.state == LeaseState::Active,
            started: lease.started,
        }),
        attempts: of.attempts.map(|(highest, over, failures)| (highest.0, over.map(|over| over.0), failures)),
        queued: of.queued.map(|(_, attempt)| attempt.0),
        waiting: of.waiting,
        closed: rank(fences, of.closed.0),
        unexplained: of.unexplained.iter().map(|lease| rank(fences, lease.0)).collect(),
        heard: of.heard,
    }
}

/// The word that a server never gave: what the mutant takes a time-out for.
fn forged(fleet: &Fleet, server: usize, held: &LeaseShape) -> Release {
    Release {
        lease: held.lease,
        server: fleet.names[server].clone(),
        campaign: fleet.campaign.clone(),
        attempt: held.attempt.unwrap_or(Attempt(1)),
        epoch: held.epoch,
        fence: held.fence,
        outcome: Ended::NeverStarted.outcome(),
        down_ms: 0,
    }
}

fn place(shape: &Shape, server: &ServerId) -> usize {
    shape.servers.iter().position(|of| of.server == *server).expect("every server is enrolled")
}

fn server_of(fleet: &Fleet, server: &ServerId) -> usize {
    fleet.names.iter().position(|name| name == server).expect("only servers of this fleet are named")
}

fn small(server: usize) -> u8 {
    u8::try_from(server).expect("few servers")
}
