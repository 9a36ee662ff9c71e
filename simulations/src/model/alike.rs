//! When two states are one: what of a server and of its messages can still make a difference.
//!
//! Owns [`Alikes`]. Main invariant: servers with the same number here do the same from now on, whatever the others do.
//! That is argued rule by rule below, and checked: `tests/lease_model.rs` looks at every state of smaller fleets,
//! none left out, and compares what those that count as one lead to.

use lunar_common::phase::Phase;

use super::holder::{Facts, Holders, Nonces};
use super::ledger::{LedgerRecord, Ledgers};
use super::message::{Down, Map, Network, Up};

/// One server as the rest of the world may meet it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Seen {
    pub(super) holder: u16,
    pub(super) record: u16,
    pub(super) up: u16,
    pub(super) down: u16,
    /// Whether a lease may still be taken for lost.
    pub(super) may_be_lost: bool,
    /// Whether something may still keep its lease from being its last.
    pub(super) may_claim_again: bool,
    pub(super) fate: Fate,
}

/// What may still go wrong on one server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Fate {
    pub(super) dies: bool,
    pub(super) fails: bool,
}

/// What is left of a server without what makes no difference.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(clippy::large_enum_variant, reason = "nearly all are the large one")]
enum Core {
    /// Everything counts: how the smaller fleets are looked at, to check the rest of this file.
    Whole(Seen),
    /// It is done, and nothing that is under way says otherwise.
    Done {
        heard: Option<bool>,
        halted: bool,
        ended: Option<Phase>,
    },
    Part {
        rest: u16,
        nonces: Nonces,
        record: LedgerRecord,
        up: Vec<Up>,
        down: Vec<Down>,
        fate: Fate,
    },
}

/// A server, the number of all like it, and what is under way without what can do nothing any more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Like {
    pub(super) number: u32,
    pub(super) up: u16,
    pub(super) down: u16,
}

/// Every server met so far.
#[derive(Default)]
pub(super) struct Alikes {
    numbers: Map<Core, u32>,
    found: Map<(Seen, bool), Like>,
}

impl Alikes {
    /// All servers like this one; with `whole`, this very one.
    pub(super) fn like(
        &mut self,
        seen: Seen,
        whole: bool,
        holders: &Holders,
        ledgers: &Ledgers,
        up: &mut Network<Up>,
        down: &mut Network<Down>,
    ) -> Like {
        if let Some(like) = self.found.get(&(seen, whole)) {
            return *like;
        }
        let (core, sets) = if whole {
            (Core::Whole(seen), (seen.up, seen.down))
        } else {
            let (facts, record) = (holders.facts(seen.holder), ledgers.record(seen.record));
            let may_be_lost = seen.may_be_lost || record.lease.as_ref().is_some_and(|lease| lease.lost);
            let sets = (
                up.only(seen.up, |message| may_matter_to_ledger(message, record, facts, may_be_lost)),
                down.only(seen.down, |message| may_matter_to_holder(message, facts)),
            );
            (core(seen, record.clone(), holders, up.all(sets.0), down.all(sets.1)), sets)
        };
        let next = u32::try_from(self.numbers.len()).expect("a bounded model");
        let number = *self.numbers.entry(core).or_insert(next);
        let like = Like { number, up: sets.0, down: sets.1 };
        self.found.insert((seen, whole), like);
        like
    }
}

fn core(
    seen: Seen,
    mut record: LedgerRecord,
    holders: &Holders,
    mut up: Vec<Up>,
    mut down: Vec<Down>,
) -> Core {
    let facts = holders.facts(seen.holder);
    let is_done = facts.ended.is_some() && facts.held.is_none() && facts.inputs.is_empty();
    let is_forgotten = record.lease.is_none() && record.queued.is_none() && record.waiting.is_none();
    let says_nothing = |message: &Up| matches!(message, Up::Report { rank_seen: 0, .. });
    if is_done && is_forgotten && down.is_empty() && up.iter().all(says_nothing) {
        return Core::Done { heard: record.heard, halted: facts.halted, ended: facts.ended };
    }
    let (rest, nonces) = holders.parts(seen.holder);
    let mut nonces = nonces.clone();
    if let Some(lease) = &mut record.lease {
        // Whether a lease was used yet bears on what a time-out makes of it, and on the answer to a newer claim: but
        // the server is done, or nothing can keep it from that any more.
        let is_answered = |message: &Up| match *message {
            Up::Claim { nonce, .. } => lease.answered == Some(nonce),
            Up::Release { .. } | Up::Report { .. } => true,
        };
        let is_last = is_done || (facts.held.is_some() && !facts.goes_back && !seen.may_claim_again);
        if !lease.lost && !seen.may_be_lost && is_last && up.iter().all(is_answered) {
            (lease.active, lease.started) = (false, false);
        }
    }
    without_epochs(&mut record, &mut up, &mut down);
    renumber(&mut nonces, &mut record, &mut up, &mut down);
    up.sort_unstable();
    up.dedup();
    down.sort_unstable();
    down.dedup();
    Core::Part { rest, nonces, record, up, down, fate: seen.fate }
}

/// A claim for an attempt that is over is refused, for ever, and its answer reaches nobody once the holder waits for
/// another. A release of a lease that is closed changes nothing once the holder has its acknowledgement. A report of
/// a lease that is closed says no more than the first report of all, which is always under way, unless a lost lease
/// is to be found by it.
fn may_matter_to_ledger(message: &Up, record: &LedgerRecord, facts: &Facts, may_be_lost: bool) -> bool {
    let over = record.attempts.and_then(|attempts| attempts.1).unwrap_or(0);
    match *message {
        Up::Claim { attempt, nonce, .. } => attempt > over || facts.claim == Some(nonce),
        Up::Release { rank, .. } => {
            rank > record.closed || record.unexplained.contains(&rank) || facts.releases.contains(&rank)
        }
        Up::Report { rank_seen, lease, .. } => {
            rank_seen == 0 || rank_seen > record.closed || (lease.is_some() && may_be_lost)
        }
    }
}

/// A holder refuses what lies at or below its floor, and an answer to a claim that it does not wait for.
fn may_matter_to_holder(message: &Down, facts: &Facts) -> bool {
    match *message {
        Down::Grant { rank, nonce, .. } => rank > facts.floors.1 || facts.claim == Some(nonce),
        Down::Refused { nonce, .. } => facts.claim == Some(nonce),
        Down::Kept { .. } => false,
    }
}

/// A lease has one epoch, its own; a holder's highest is that of the highest lease that it saw; and epochs never fall
/// as ranks rise. So they say nothing that the ranks do not.
fn without_epochs(record: &mut LedgerRecord, up: &mut [Up], down: &mut [Down]) {
    if let Some(lease) = &mut record.lease {
        lease.epoch = 0;
    }
    for message in up {
        match message {
            Up::Claim { epoch_seen, .. } => *epoch_seen = 0,
            Up::Release { epoch, .. } => *epoch = 0,
            Up::Report { epoch_seen, lease, .. } => {
                *epoch_seen = 0;
                if let Some((_, epoch, _)) = lease {
                    *epoch = 0;
                }
            }
        }
    }
    for message in down {
        match message {
            Down::Grant { epoch, .. } => *epoch = 0,
            Down::Refused { .. } | Down::Kept { .. } => {}
        }
    }
}

/// Claims are told apart and the newer one known; how far apart their numbers are says nothing.
fn renumber(nonces: &mut Nonces, record: &mut LedgerRecord, up: &mut [Up], down: &mut [Down]) {
    let mut all: Vec<&mut u64> = Vec::new();
    all.extend(nonces.held.as_mut());
    all.extend(nonces.claim.as_mut());
    all.extend(nonces.sendings.iter_mut().map(|(nonce, _)| nonce));
    if let Some(lease) = &mut record.lease {
        all.extend(lease.nonce.as_mut());
        all.extend(lease.answered.as_mut());
    }
    all.extend(record.waiting.as_mut().map(|(nonce, _)| nonce));
    for message in up {
        match message {
            Up::Claim { nonce, .. } => all.push(nonce),
            Up::Release { .. } | Up::Report { .. } => {}
        }
    }
    for message in down {
        match message {
            Down::Grant { nonce, .. } | Down::Refused { nonce, .. } => all.push(nonce),
            Down::Kept { .. } => {}
        }
    }
    let mut known: Vec<u64> = all.iter().map(|nonce| **nonce).collect();
    known.sort_unstable();
    known.dedup();
    for nonce in all {
        *nonce = known.partition_point(|other| other < nonce) as u64;
    }
}
