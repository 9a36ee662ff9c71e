//! Messages between one holder and the ledger, and sets of them, each known by a small number.
//!
//! Owns the alphabet. Main invariant: a message says nothing about which server it belongs to, and a lease is
//! named by its rank among the leases of its server, so that servers can stand in for one another.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use lunar_common::lease::LeaseOutcome;

/// From a holder to the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Up {
    Claim { attempt: u64, nonce: u64, epoch_seen: u64, rank_seen: u64 },
    Release { rank: u64, attempt: u64, epoch: u64, outcome: Ended },
    Report { epoch_seen: u64, rank_seen: u64, lease: Option<(u64, u64, bool)> },
}

/// From the ledger to a holder. Answers that only say "wait" are left out: they carry a delay and a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Down {
    /// As the answer to the claim that it names while that is waited for, pushed if not.
    Grant { rank: u64, attempt: u64, nonce: u64, epoch: u64 },
    /// `over` is the attempt that a refused claim must be numbered above; `None`: no more attempts.
    Refused { nonce: u64, over: Option<u64> },
    /// A release is durable.
    Kept { rank: u64 },
}

/// How a lease ended, without the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Ended {
    Completed,
    RolledBack,
    NeverStarted,
}

impl Ended {
    pub(super) fn of(outcome: &LeaseOutcome) -> Self {
        match outcome {
            LeaseOutcome::Completed => Self::Completed,
            LeaseOutcome::RolledBack { .. } => Self::RolledBack,
            LeaseOutcome::NeverStarted { .. } => Self::NeverStarted,
        }
    }

    pub(super) fn outcome(self) -> LeaseOutcome {
        let cause = "left out".to_owned();
        match self {
            Self::Completed => LeaseOutcome::Completed,
            Self::RolledBack => LeaseOutcome::RolledBack { cause },
            Self::NeverStarted => LeaseOutcome::NeverStarted { cause },
        }
    }
}

/// A fast map: the keys are ours, nobody chooses them against us. Only looked up, never iterated.
pub(super) type Map<K, V> = HashMap<K, V, BuildHasherDefault<Quick>>;

/// Multiply and rotate, as rustc does it.
#[derive(Default)]
pub(super) struct Quick(u64);

impl Hasher for Quick {
    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut number = [0; 8];
            number[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(number));
        }
    }
    fn write_u8(&mut self, number: u8) {
        self.write_u64(u64::from(number));
    }
    fn write_u16(&mut self, number: u16) {
        self.write_u64(u64::from(number));
    }
    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }
    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

/// Things by number and numbers by thing.
pub(super) struct Numbered<T> {
    numbers: Map<T, u16>,
    things: Vec<T>,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self { numbers: Map::default(), things: Vec::new() }
    }
}

impl<T: Clone + Eq + Hash> Numbered<T> {
    pub(super) fn number(&mut self, thing: T) -> u16 {
        if let Some(number) = self.numbers.get(&thing) {
            return *number;
        }
        let number = u16::try_from(self.things.len()).expect("a bounded model has few of each thing");
        self.things.push(thing.clone());
        self.numbers.insert(thing, number);
        number
    }

    pub(super) fn get(&self, number: u16) -> &T {
        &self.things[usize::from(number)]
    }

    pub(super) fn len(&self) -> usize {
        self.things.len()
    }
}

/// Everything ever sent one way between a holder and the ledger: the network duplicates, delays and reorders, so
/// a message once sent may arrive at any time and any number of times, or never.
pub(super) struct Network<M> {
    pub(super) messages: Numbered<M>,
    sets: Numbered<Vec<u16>>,
    with: Map<(u16, u16), u16>,
}

impl<M: Clone + Eq + Hash> Network<M> {
    /// With the empty set as number 0.
    pub(super) fn new() -> Self {
        let mut network =
            Self { messages: Numbered::default(), sets: Numbered::default(), with: Map::default() };
        network.sets.number(Vec::new());
        network
    }

    pub(super) fn add(&mut self, set: u16, message: M) -> u16 {
        let message = self.messages.number(message);
        if let Some(with) = self.with.get(&(set, message)) {
            return *with;
        }
        let mut messages = self.sets.get(set).clone();
        if let Err(place) = messages.binary_search(&message) {
            messages.insert(place, message);
        }
        let with = self.sets.number(messages);
        self.with.insert((set, message), with);
        with
    }

    /// What of a set is wanted.
    pub(super) fn only(&mut self, set: u16, is_wanted: impl Fn(&M) -> bool) -> u16 {
        let mut messages = self.sets.get(set).clone();
        messages.retain(|message| is_wanted(self.messages.get(*message)));
        self.sets.number(messages)
    }

    /// The messages themselves.
    pub(super) fn all(&self, set: u16) -> Vec<M> {
        self.in_set(set).iter().map(|message| self.messages.get(*message).clone()).collect()
    }

    pub(super) fn in_set(&self, set: u16) -> &[u16] {
        self.sets.get(set)
    }

    pub(super) fn sets(&self) -> usize {
        self.sets.len()
    }
}
