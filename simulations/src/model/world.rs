//! The fleet as a whole: what may happen next, what must always hold, what must be reached.
//!
//! Owns [`State`] and [`World`]. Main invariant: a state is a handful of numbers that mean the same in every path, and
//! the least of those that differ only in which server is which.

use std::cmp::Ordering as Ordered;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use lunar_common::phase::Phase;

use super::alike::{Alikes, Fate, Seen};
use super::fleet::{Fleet, SERVERS, TIER_MAX, group_of};
use super::holder::{Facts, HolderInput, Holders};
use super::ledger::{LedgerInput, LedgerState, Ledgers, orders};
use super::message::{Down, Network, Up};
use super::{Budget, Mutant};

/// A state of the fleet. Those that differ only in what makes no difference are equal.
#[derive(Debug, Clone, Copy)]
pub struct State {
    /// What each server is like; the fields below are those of one such fleet.
    alike: [u32; SERVERS],
    ledger: LedgerState,
    holders: [u16; SERVERS],
    /// What was ever sent to the ledger, and from it.
    up: [u16; SERVERS],
    down: [u16; SERVERS],
    /// What may still go wrong anywhere, and on each server.
    left: Budget,
    fates: [Fate; SERVERS],
    /// Properties that do not hold here, by bit.
    broken: u16,
    /// Rare things that are so here, by bit.
    rare: u8,
}

type Equal = ([u32; SERVERS], [u8; SERVERS], (bool, bool), Budget, u16);

impl State {
    /// What makes a difference. The ledger's epoch follows from the deaths that are left.
    fn equal(&self) -> Equal {
        let ledger = &self.ledger;
        (self.alike, ledger.queue, (ledger.halted, ledger.restored), self.left, self.broken)
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.equal() == other.equal()
    }
}

impl Eq for State {}

impl PartialOrd for State {
    fn partial_cmp(&self, other: &Self) -> Option<Ordered> {
        Some(self.cmp(other))
    }
}

impl Ord for State {
    fn cmp(&self, other: &Self) -> Ordered {
        self.equal().cmp(&other.equal())
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.equal().hash(state);
    }
}

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// To a server.
    Holder(u8, HolderInput),
    /// A server's agent dies: at rest or during a step, in the nth way.
    AgentDies(u8, Option<HolderInput>, u8),
    /// To the ledger.
    Ledger(LedgerInput),
    /// The coordinator dies at rest.
    CoordinatorDies,
    /// The coordinator dies during a step, before the nth effect.
    CoordinatorDiesDuring(LedgerInput, u8),
}

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }
        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];
            /// In words.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
            const fn bit(self) -> u16 {
                1 << self as u16
            }
        }
    };
}

named! {
    /// What must hold in every state.
    Always {
        /// By the servers themselves.
        Cap = "at most two servers are down",
        /// By the servers themselves.
        Group = "at most one server of a group is down",
        /// The ledger's half of the truth and the holder's agree.
        Covered = "who is down or may go down holds a durable lease of that epoch and fence",
        /// What the ledger counts is the newest that it granted.
        OneLease = "a server has at most one live lease, the newest granted to it",
        /// On both sides.
        Floors = "epochs and fences never go down",
        /// By the node's own gate.
        Halt = "no server starts after its halt",
        /// By the ledger's own count.
        LedgerCap = "the ledger grants no more than the limits",
        /// Nothing was lost, so nothing may look so.
        NotRestored = "a whole log is never taken for an old copy",
        /// Liveness, as a property of every state.
        Settles = "when the faults stop, everything comes to an end",
    }
}

named! {
    /// What must be so in some state.
    Sometimes {
        /// The limit is used.
        CapReached = "two servers are down",
        /// The good end.
        AllDone = "all servers run the new version and the ledger is empty",
        /// The other good end.
        RollbackDone = "a server is back on the old version after a failed switch",
        /// The kill switch lets what is under way finish.
        HaltedDown = "a server is down though everything is halted",
        /// A lease that the ledger gave up hope of is used.
        LostDown = "a server is down under a lease that the ledger takes for lost",
        /// An agent died with a lease held.
        CrashHeld = "an agent dies with a lease held",
        /// A release that came again.
        ReleaseIgnored = "a release comes again and changes nothing",
        /// A coordinator died between a durable grant and its sending.
        GrantUnsent = "a coordinator dies between a grant and its sending",
    }
}

/// What the tables hold after a run.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// States of one holder.
    pub holders: usize,
    /// States of the ledger, of those alike one.
    pub ledgers: usize,
    /// What the ledger may know of one server.
    pub records: usize,
    /// Different messages.
    pub messages: usize,
    /// Sets of messages sent.
    pub sets: usize,
    /// States proved to settle.
    pub settled: usize,
}

/// The model.
pub struct World {
    budget: Budget,
    tables: Mutex<Tables>,
    /// Rare things that happened on the way to some state, by bit.
    happened: AtomicU32,
}

struct Tables {
    mutated: bool,
    fleet: Fleet,
    holders: Holders,
    ledgers: Ledgers,
    up: Network<Up>,
    down: Network<Down>,
    /// States whose fair continuation is known to come to an end.
    settled: HashSet<u64>,
    alikes: Alikes,
    /// Whether every state counts by itself.
    whole: bool,
}

impl World {
    /// A fleet in which this much may go wrong, with a mistake in it or none.
    #[must_use]
    pub fn new(servers: usize, budget: Budget, mutant: Option<Mutant>) -> Self {
        assert!((1..=SERVERS).contains(&servers), "a model of so many servers is not made");
        let most = [budget.agent_crashes, budget.failed_installs].into_iter().max();
        assert!(most <= Some(1), "who dies and whose switch fails is settled at the start, of each one");
        let tables = Tables {
            mutated: mutant.is_some(),
            // What makes no difference to the cores may make one to a mistake.
            whole: mutant.is_some(),
            fleet: Fleet::new(servers, mutant != Some(Mutant::NoGroupLimit)),
            holders: Holders::new(mutant),
            ledgers: Ledgers::new(mutant),
            up: Network::new(),
            down: Network::new(),
            settled: HashSet::new(),
            alikes: Alikes::default(),
        };
        Self { budget, tables: Mutex::new(tables), happened: AtomicU32::new(0) }
    }

    /// Whether every state counts by itself, and every step is looked at wherever it can happen: but for the order of
    /// the servers, nothing is left out. Small fleets are looked at so, to check the rules by which it is done
    /// otherwise.
    pub fn leave_nothing_out(&self, whole: bool) {
        self.tables().whole = whole;
    }

    fn tables(&self) -> std::sync::MutexGuard<'_, Tables> {
        self.tables.lock().expect("no step panics half way")
    }

    /// Where everything begins: everyone has the plan, has reported once and asks for a lease. Whose agent may die and
    /// whose switch may fail is settled here, in every way: what then happens on one server takes nothing from another.
    #[must_use]
    pub fn begin(&self) -> Vec<State> {
        let mut tables = self.tables();
        let Tables { fleet, holders, ledgers, up, .. } = &mut *tables;
        let begun = holders.begin(fleet);
        let sent = begun.sent.iter().fold(0, |set, message| up.add(set, *message));
        let left = Budget { agent_crashes: 0, failed_installs: 0, ..self.budget };
        let mut state = State {
            alike: [0; SERVERS],
            ledger: ledgers.begin(fleet),
            holders: [begun.to; SERVERS],
            up: [sent; SERVERS],
            down: [0; SERVERS],
            left,
            fates: [Fate::default(); SERVERS],
            broken: 0,
            rare: 0,
        };
        let servers = tables.fleet.names.len();
        for server in 0..servers {
            for message in tables.up.in_set(sent).to_vec() {
                if matches!(tables.up.messages.get(message), Up::Report { .. }) {
                    tables.lead(&mut state, LedgerInput::Message(small(server), message), None);
                }
            }
        }
        let mut states: Vec<State> = Vec::new();
        for (dies, fails) in (0..servers).flat_map(|dies| (0..servers).map(move |fails| (dies, fails))) {
            let mut state = state;
            state.fates[dies].dies = self.budget.agent_crashes > 0;
            state.fates[fails].fails = self.budget.failed_installs > 0;
            let state = tables.judged(state);
            if !states.contains(&state) {
                states.push(state);
            }
        }
        states
    }

    /// What may happen next.
    pub fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let mut tables = self.tables();
        if state.broken != 0 {
            return;
        }
        let servers = 0..tables.fleet.names.len();
        if let Some(server) = servers.clone().find(|server| self.goes_first(&mut tables, state, *server)) {
            return tables.of_holder(state, server, actions);
        }
        for server in servers {
            tables.of_holder(state, server, actions);
        }
        for input in tables.ledger_inputs(state) {
            actions.push(Action::Ledger(input));
            if state.left.coordinator_crashes > 0 {
                // Before the first effect is as at rest.
                let ways = (1u8..).take_while(|before| tables.led(state, input, Some(*before)).is_some());
                actions.extend(ways.map(|before| Action::CoordinatorDiesDuring(input, before)));
            }
        }
        if state.left.coordinator_crashes > 0 {
            actions.push(Action::CoordinatorDies);
        }
    }

    /// Whether only what happens on this server need be looked at now (a persistent set, Godefroid 1996): nothing that
    /// the ledger or another server can do before changes what can happen here, or is changed by it.
    ///
    /// That is so of a server that holds a lease, or is about to be told of it, with nothing else under way to it: it
    /// waits for no answer, no release of it is unacknowledged, and the ledger ends its lease by its word alone. If
    /// the ledger did otherwise, it would after this step as well as before, and be seen as long as the lease is
    /// still held then: so one of the steps must hold it. What the ledger does meanwhile, it does in the states after.
    fn goes_first(&self, tables: &mut Tables, state: &State, server: usize) -> bool {
        let Budget { late_starts, unanswered, lost, silences, .. } = self.budget;
        if tables.whole || late_starts + unanswered + lost + silences > 0 {
            return false;
        }
        let facts = tables.holders.facts(state.holders[server]);
        let under_way = tables.down.all(state.down[server]);
        let steps: Vec<HolderInput> = match (facts.held, facts.claim, &under_way[..]) {
            (Some(_), None, []) => facts.inputs.clone(),
            (None, Some(claim), [Down::Grant { nonce, rank, .. }]) if claim == *nonce => {
                let lease = &tables.ledgers.record(state.ledger.records[server]).lease;
                let is_only = |message: &Up| match message {
                    Up::Claim { nonce, .. } => *nonce == claim,
                    Up::Release { .. } | Up::Report { .. } => true,
                };
                if lease.as_ref().is_none_or(|lease| lease.rank != *rank)
                    || !tables.up.all(state.up[server]).iter().all(is_only)
                {
                    return false;
                }
                vec![HolderInput::Message(tables.down.in_set(state.down[server])[0])]
            }
            _ => return false,
        };
        let (held, fails) = (facts.held, state.fates[server].fails);
        facts.releases.is_empty()
            && steps.into_iter().filter(|input| fails || *input != HolderInput::Fail).any(|input| {
                let message = message_of(Some(input)).map(|message| tables.down.messages.get(message));
                let went = tables.holders.step(&tables.fleet, state.holders[server], input, message).to;
                let holds = tables.holders.facts(went).held;
                holds.is_some() && (held.is_none() || holds == held)
            })
    }

    /// What it leads to; `None`: to where we are.
    #[must_use]
    pub fn next(&self, from: &State, action: Action) -> Option<State> {
        let mut tables = self.tables();
        let mut to = *from;
        let mut broken = 0;
        match action {
            Action::Holder(server, input) => {
                match input {
                    HolderInput::Fail => to.fates[usize::from(server)].fails = false,
                    HolderInput::StartBy | HolderInput::LateMessage(_) => to.left.late_starts -= 1,
                    HolderInput::Unanswered => to.left.unanswered -= 1,
                    HolderInput::Message(_)
                    | HolderInput::Kept(_)
                    | HolderInput::Halt
                    | HolderInput::Well
                    | HolderInput::Step => {}
                }
                broken |= tables.hold(&mut to, usize::from(server), input);
            }
            Action::AgentDies(server, during, way) => {
                let was = usize::from(server);
                to.fates[was].dies = false;
                if tables.holders.facts(from.holders[was]).held.is_some() {
                    self.witness(Sometimes::CrashHeld);
                }
                broken |= tables.die(&mut to, was, during, way);
            }
            Action::Ledger(input) => {
                match input {
                    LedgerInput::LeaseRunsOut(_) => to.left.lost -= 1,
                    LedgerInput::Silence(_) => to.left.silences -= 1,
                    LedgerInput::Message(..) | LedgerInput::Halt => {}
                }
                let (wrong, ignored, _) = tables.lead(&mut to, input, None);
                to.left.regrants = to.left.regrants.checked_sub(tables.regrants(from, &to))?;
                broken |= wrong;
                if ignored {
                    self.witness(Sometimes::ReleaseIgnored);
                }
            }
            Action::CoordinatorDies => {
                to.left.coordinator_crashes -= 1;
                let Tables { fleet, ledgers, .. } = &mut *tables;
                to.ledger = ledgers.die(fleet, &from.ledger);
            }
            Action::CoordinatorDiesDuring(input, before) => {
                to.left.coordinator_crashes -= 1;
                let (wrong, _, unsent) = tables.lead(&mut to, input, Some(before));
                to.left.regrants = to.left.regrants.checked_sub(tables.regrants(from, &to))?;
                broken |= wrong;
                if unsent {
                    self.witness(Sometimes::GrantUnsent);
                }
            }
        }
        to.broken = broken;
        let to = tables.judged(to);
        (to != *from).then_some(to)
    }

    /// The state that stands for this one where those alike are one.
    #[must_use]
    pub fn merged(&self, state: &State) -> State {
        let mut tables = self.tables();
        let whole = std::mem::replace(&mut tables.whole, false);
        let merged = tables.least(state);
        tables.whole = whole;
        merged
    }

    fn witness(&self, rare: Sometimes) {
        self.happened.fetch_or(u32::from(rare.bit()), Ordering::Relaxed);
    }

    /// Whether something always holds here.
    #[must_use]
    pub fn holds(&self, state: &State, property: Always) -> bool {
        state.broken & property.bit() == 0
    }

    /// Whether something rare is so here, or happened on the way to some state seen so far.
    #[must_use]
    pub fn is_so(&self, state: &State, rare: Sometimes) -> bool {
        let happened = self.happened.load(Ordering::Relaxed);
        u16::from(state.rare) & rare.bit() != 0 || happened & u32::from(rare.bit()) != 0
    }

    /// A state in words.
    #[must_use]
    pub fn tell(&self, state: &State) -> String {
        let tables = self.tables();
        let mut text =
            format!("{:?} queue {:?} epoch {}\n", state.left, state.ledger.queue, state.ledger.epoch);
        for server in 0..tables.fleet.names.len() {
            let up: Vec<_> =
                tables.up.in_set(state.up[server]).iter().map(|one| tables.up.messages.get(*one)).collect();
            let down: Vec<_> = tables
                .down
                .in_set(state.down[server])
                .iter()
                .map(|one| tables.down.messages.get(*one))
                .collect();
            text += &format!(
                "{server}: {}\n   ledger {:?}\n   up {up:?}\n   down {down:?}\n",
                tables.holders.tell(state.holders[server]),
                tables.ledgers.record(state.ledger.records[server]),
            );
        }
        text
    }

    /// How much was worked out.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let tables = self.tables();
        Figures {
            holders: tables.holders.len(),
            ledgers: tables.ledgers.len(),
            records: tables.ledgers.records.len(),
            messages: tables.up.messages.len() + tables.down.messages.len(),
            sets: tables.up.sets() + tables.down.sets(),
            settled: tables.settled.len(),
        }
    }
}

impl Tables {
    /// What may happen on a server.
    fn of_holder(&mut self, state: &State, server: usize, actions: &mut Vec<Action>) {
        let (left, fate, number) = (state.left, state.fates[server], small(server));
        let mut inputs: Vec<HolderInput> = Vec::with_capacity(8);
        let facts = self.holders.facts(state.holders[server]);
        inputs.extend(facts.inputs.iter().copied().filter(|input| match input {
            HolderInput::Halt => left.halt,
            HolderInput::Fail => fate.fails,
            HolderInput::StartBy => left.late_starts > 0,
            HolderInput::Unanswered => left.unanswered > 0,
            HolderInput::Well | HolderInput::Step => true,
            HolderInput::Message(_) | HolderInput::LateMessage(_) | HolderInput::Kept(_) => {
                unreachable!("nothing that comes from elsewhere is named there")
            }
        }));
        for message in self.down.in_set(state.down[server]) {
            inputs.push(HolderInput::Message(*message));
            let is_grant = matches!(self.down.messages.get(*message), Down::Grant { .. });
            if is_grant && left.late_starts > 0 {
                inputs.push(HolderInput::LateMessage(*message));
            }
        }
        actions.extend(inputs.iter().map(|input| Action::Holder(number, *input)));
        if fate.dies {
            for during in std::iter::once(None).chain(inputs.into_iter().map(Some)) {
                let ways = self.ways_to_die(state.holders[server], during);
                actions.extend((0..ways).map(|way| Action::AgentDies(number, during, way)));
            }
        }
    }

    fn ledger_inputs(&mut self, state: &State) -> Vec<LedgerInput> {
        let mut inputs = Vec::with_capacity(16);
        if state.left.halt && !state.ledger.halted {
            inputs.push(LedgerInput::Halt);
        }
        for server in 0..self.fleet.names.len() {
            let number = small(server);
            for at in 0..self.up.in_set(state.up[server]).len() {
                let input = LedgerInput::Message(number, self.up.in_set(state.up[server])[at]);
                let led = self.led(state, input, None).expect("a step that is carried out leads somewhere");
                if led.to != state.ledger || !led.sent.is_empty() || led.release_ignored {
                    inputs.push(input);
                }
            }
            let record = self.ledgers.record(state.ledger.records[server]);
            if state.left.lost > 0 && record.lease.as_ref().is_some_and(|lease| !lease.lost) {
                inputs.push(LedgerInput::LeaseRunsOut(number));
            }
            if state.left.silences > 0 && record.heard == Some(false) {
                inputs.push(LedgerInput::Silence(number));
            }
        }
        inputs
    }

    /// Leases granted on the way from one state to the next to servers that had one before.
    fn regrants(&self, from: &State, to: &State) -> u8 {
        let granted =
            |state: &State, server: usize| self.ledgers.record(state.ledger.records[server]).granted;
        let again = |server: &usize| granted(to, *server) > granted(from, *server).max(1);
        small((0..self.fleet.names.len()).filter(again).count())
    }

    fn led(&mut self, state: &State, input: LedgerInput, before: Option<u8>) -> Option<super::ledger::Led> {
        let message = match input {
            LedgerInput::Message(_, message) => Some(self.up.messages.get(message)),
            LedgerInput::Halt | LedgerInput::LeaseRunsOut(_) | LedgerInput::Silence(_) => None,
        };
        self.ledgers.step(&self.fleet, &state.ledger, input, message, before)
    }

    /// Something happens to the ledger: what breaks, whether a release was ignored, whether a grant was not sent.
    fn lead(&mut self, state: &mut State, input: LedgerInput, before: Option<u8>) -> (u16, bool, bool) {
        let led = self.led(state, input, before).expect("the ledger has such a step");
        let granted =
            |ledger: &LedgerState, server: usize| self.ledgers.record(ledger.records[server]).granted;
        let fresh = (0..self.fleet.names.len())
            .any(|server| granted(&led.to, server) > granted(&state.ledger, server));
        let unsent = fresh && !led.sent.iter().any(|(_, sent)| matches!(sent, Down::Grant { .. }));
        state.ledger = led.to;
        for (server, message) in led.sent {
            let server = usize::from(server);
            match message {
                // The claim is not waited for, and none with its number ever will be.
                Down::Refused { nonce, .. }
                    if self.holders.facts(state.holders[server]).claim != Some(nonce) => {}
                Down::Kept { rank } => {
                    self.hold(state, server, HolderInput::Kept(rank));
                }
                Down::Refused { .. } | Down::Grant { .. } => {
                    state.down[server] = self.down.add(state.down[server], message);
                }
            }
        }
        let mut broken = 0;
        if led.floors_fell {
            broken |= Always::Floors.bit();
        }
        if led.thinks_restored {
            broken |= Always::NotRestored.bit();
        }
        (broken, led.release_ignored, unsent)
    }

    /// Something happens to a server: what breaks.
    fn hold(&mut self, state: &mut State, server: usize, input: HolderInput) -> u16 {
        let message = message_of(Some(input)).map(|message| self.down.messages.get(message));
        let went = self.holders.step(&self.fleet, state.holders[server], input, message).clone();
        self.went(state, server, &went)
    }

    fn ways_to_die(&mut self, holder: u16, during: Option<HolderInput>) -> u8 {
        let message = message_of(during).map(|message| self.down.messages.get(message));
        small(self.holders.crashes(&self.fleet, holder, during, message).len())
    }

    fn die(&mut self, state: &mut State, server: usize, during: Option<HolderInput>, way: u8) -> u16 {
        let message = message_of(during).map(|message| self.down.messages.get(message));
        let ways = self.holders.crashes(&self.fleet, state.holders[server], during, message);
        let went = ways[usize::from(way)].clone();
        self.went(state, server, &went)
    }

    fn went(&mut self, state: &mut State, server: usize, went: &super::holder::Went) -> u16 {
        let mut broken = 0;
        let before = self.holders.facts(state.holders[server]).floors;
        let after = self.holders.facts(went.to).floors;
        if after.0 < before.0 || after.1 < before.1 {
            broken |= Always::Floors.bit();
        }
        if went.started_halted {
            broken |= Always::Halt.bit();
        }
        state.holders[server] = went.to;
        for message in &went.sent {
            state.up[server] = self.up.add(state.up[server], *message);
        }
        broken
    }

    /// The state with its verdict, and the one that is kept for all like it.
    fn judged(&mut self, mut state: State) -> State {
        let servers = self.fleet.names.len();
        let facts: Vec<_> =
            state.holders[..servers].iter().map(|holder| self.holders.facts(*holder)).collect();
        let leases: Vec<_> =
            state.ledger.records[..servers].iter().map(|record| self.ledgers.record(*record)).collect();
        let down: Vec<usize> = (0..servers).filter(|server| facts[*server].down).collect();
        let leased: Vec<usize> = (0..servers).filter(|server| leases[*server].lease.is_some()).collect();
        let share_group =
            |servers: &[usize]| servers.windows(2).any(|pair| group_of(pair[0]) == group_of(pair[1]));
        let mut broken = |wrong: bool, property: Always| {
            if wrong {
                state.broken |= property.bit();
            }
        };
        broken(down.len() > TIER_MAX, Always::Cap);
        broken(share_group(&down), Always::Group);
        broken(leased.len() > TIER_MAX || share_group(&leased), Always::LedgerCap);
        for (of_holder, of_ledger) in facts.iter().zip(&leases) {
            let lease = of_ledger.lease.as_ref();
            broken(of_holder.down && of_holder.held.is_none(), Always::Covered);
            if let Some(held) = of_holder.held {
                broken(lease.is_none_or(|lease| (lease.rank, lease.epoch) != held), Always::Covered);
            }
            broken(lease.is_some_and(|lease| lease.rank != of_ledger.granted), Always::OneLease);
        }
        state.rare = 0;
        let mut rare = |so: bool, rare: Sometimes| {
            if so {
                state.rare |= u8::try_from(rare.bit()).expect("eight bits");
            }
        };
        let halted = state.ledger.halted;
        rare(down.len() == TIER_MAX, Sometimes::CapReached);
        rare(
            leased.is_empty() && facts.iter().all(|facts| facts.ended == Some(Phase::Complete)),
            Sometimes::AllDone,
        );
        rare(facts.iter().any(|facts| facts.rolled_back), Sometimes::RollbackDone);
        rare(halted && !down.is_empty(), Sometimes::HaltedDown);
        let lost = |server: usize| leases[server].lease.as_ref().is_some_and(|lease| lease.lost);
        rare(down.iter().any(|server| lost(*server)), Sometimes::LostDown);
        let mut state = self.least(&state);
        // With a mistake in it, what would come next is anybody's guess.
        if state.broken == 0 && !self.mutated && !self.settles(&state) {
            state.broken |= Always::Settles.bit();
        }
        state
    }

    /// The faults stop, and everything that can happen happens in turn, until nothing changes any more: then nobody
    /// is down, no lease is left, and without a halt everyone has come to an end.
    fn settles(&mut self, from: &State) -> bool {
        let mut at = *from;
        (at.left, at.broken, at.rare) = (Budget::default(), 0, 0);
        at.fates = [Fate::default(); SERVERS];
        let mut path = Vec::new();
        at = self.least(&at);
        for _ in 0..ROUNDS_MAX {
            if self.settled.contains(&hash(&at)) {
                self.settled.extend(path);
                return true;
            }
            path.push(hash(&at));
            let before = at;
            self.round(&mut at);
            at = self.least(&at);
            if at == before {
                let well = self.is_settled(&at);
                if well {
                    self.settled.extend(path);
                }
                return well;
            }
        }
        false
    }

    /// Everyone's turn, once.
    fn round(&mut self, state: &mut State) {
        let halted =
            state.ledger.halted || state.holders.iter().any(|holder| self.holders.facts(*holder).halted);
        if halted && !state.ledger.halted {
            self.lead(state, LedgerInput::Halt, None);
        }
        for server in 0..self.fleet.names.len() {
            for message in self.up.in_set(state.up[server]).to_vec() {
                self.lead(state, LedgerInput::Message(small(server), message), None);
            }
            for message in self.down.in_set(state.down[server]).to_vec() {
                self.hold(state, server, HolderInput::Message(message));
            }
            for input in self.holders.facts(state.holders[server]).inputs.clone() {
                let happens = match input {
                    HolderInput::Halt => halted,
                    HolderInput::Well | HolderInput::Step => true,
                    HolderInput::Fail
                    | HolderInput::StartBy
                    | HolderInput::Unanswered
                    | HolderInput::Message(_)
                    | HolderInput::Kept(_)
                    | HolderInput::LateMessage(_) => false,
                };
                if happens && self.holders.facts(state.holders[server]).inputs.contains(&input) {
                    self.hold(state, server, input);
                }
            }
        }
    }

    /// The state that is kept for all like it: what does nothing any more is forgotten, and of those that differ
    /// only in which server is which, the least is taken.
    fn least(&mut self, state: &State) -> State {
        let mut state = *state;
        let may_be_lost = state.left.lost > 0;
        let late = state.left.late_starts + state.left.unanswered > 0;
        for server in 0..self.fleet.names.len() {
            let (holder, record) = (state.holders[server], state.ledger.records[server]);
            let (up, down, fate) = (state.up[server], state.down[server], state.fates[server]);
            let may_claim_again = fate.dies || fate.fails || late;
            let seen = Seen { holder, record, up, down, may_be_lost, may_claim_again, fate };
            let Self { alikes, holders, ledgers, up, down, .. } = self;
            let like = alikes.like(seen, self.whole, holders, ledgers, up, down);
            (state.alike[server], state.up[server], state.down[server]) = (like.number, like.up, like.down);
        }
        let orders = orders(self.fleet.names.len()).iter();
        let key = |order: &&[usize; SERVERS]| {
            (order.map(|old| state.alike[old]), state.ledger.reordered(**order).queue)
        };
        let order = *orders.min_by_key(key).expect("there are orders");
        State {
            alike: order.map(|old| state.alike[old]),
            ledger: state.ledger.reordered(order),
            holders: order.map(|old| state.holders[old]),
            up: order.map(|old| state.up[old]),
            down: order.map(|old| state.down[old]),
            fates: order.map(|old| state.fates[old]),
            ..state
        }
    }

    fn is_settled(&self, state: &State) -> bool {
        let servers = self.fleet.names.len();
        let facts: Vec<_> =
            state.holders[..servers].iter().map(|holder| self.holders.facts(*holder)).collect();
        // A halted ledger does not send an old grant again, since its server may not know of the halt: a lease that
        // its server never heard of waits for the resume.
        let unheard_of = |rank: u64, facts: &Facts| state.ledger.halted && rank > facts.floors.1;
        let leases = state.ledger.records[..servers].iter().map(|record| &self.ledgers.record(*record).lease);
        let free = leases
            .zip(&facts)
            .all(|(lease, facts)| lease.as_ref().is_none_or(|lease| unheard_of(lease.rank, facts)));
        let idle = facts.iter().all(|facts| !facts.down && facts.held.is_none());
        free && idle && (state.ledger.halted || facts.iter().all(|facts| facts.ended.is_some()))
    }
}

/// Rounds within which everything must have come to an end: four servers, each a few turns long, one after the other.
const ROUNDS_MAX: usize = 200;

/// As good a name for a state as the checker's own.
fn hash(state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

fn message_of(input: Option<HolderInput>) -> Option<u16> {
    match input? {
        HolderInput::Message(message) | HolderInput::LateMessage(message) => Some(message),
        HolderInput::Halt
        | HolderInput::Well
        | HolderInput::Fail
        | HolderInput::Step
        | HolderInput::StartBy
        | HolderInput::Unanswered
        | HolderInput::Kept(_) => None,
    }
}

fn small(number: usize) -> u8 {
    u8::try_from(number).expect("few of them")
}
