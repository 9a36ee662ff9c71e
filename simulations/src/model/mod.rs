//! Every order of events in a small fleet: the production ledger and the production holders, model-checked.
//!
//! Owns the model: four servers in two groups, a limit of two, one plan, and what may go wrong. Main invariant: every
//! decision is made by [`lunar_coordinator_core::Coordinator`] or [`lunar_agent_core::node::Node`], unchanged; this
//! module only says in which orders things may happen to them, and when two states are one.
//!
//! **Real**: the coordinator with its log, its replay and its reconciliation; the node with its journal, its state
//! table, its lease holder, its gate for documents and grants; signatures. Each is asked once for every state and
//! input, and looked up after that.
//!
//! **Abstracted**, to more behaviours than there are in the world, unless it says *fewer*:
//! - Time. A timer that is armed may ring at any moment or never. The ledger's clock stands still, so nothing rests on
//!   a duration; *fewer*: claims that have grown stale in the queue, and patience.
//! - The network. What was once sent may arrive at any time, any number of times, in any order, or never: loss is
//!   unlimited delay. A report is under way with whatever the journal said at rest at any time before, and no number
//!   protects against an old one; at first everyone has been heard. *Fewer*: an answer that says only "wait" is never
//!   delivered; an acknowledgement arrives at once, or, if the coordinator dies before it is sent, not; a claim is
//!   sent again under a new number as often as the budget says, with its old number at any time.
//! - The halt reaches an agent only where the node asks whether it may start or claim: that it came before shows
//!   nowhere else. *Fewer*: a halted agent that still waits for the answer to a claim.
//! - Neighbours always say that they are up, and the probes that a server makes of itself find it well: so the ledger
//!   alone holds every limit. The applier is true to its word, and durable.
//! - What a server does by itself, between two points at which others may have a say, is one step for the others; an
//!   agent that dies, dies at rest or before any single effect of such a step, a coordinator likewise.
//! - The names of leases: within one server, in the order of their grants. The production cores compare fences only
//!   so; that some were granted to others in between shows in no decision.
//! - Servers of one group, and the groups, can stand in for one another: of eight states that differ so, one is kept.
//! - What can make no difference any more is left out of a state: messages that do nothing whenever they come, how far
//!   numbers of claims are apart, epochs (a lease's rank says as much), how a server came to be done (`alike.rs`).
//! - A step that commutes with all that others can do before it is looked at in one order only
//!   ([`World::actions`]). Whose agent dies and whose switch fails is settled at the start, in every way.
//! - *Fewer*: leases beyond the first of each server are granted as often as the budget says.
//!
//! That two lives of a core with the same name do the same is argued, not checked: `Coordinator::shape` and
//! `Node::volatile` list what bears on the next decision, and whoever adds such a thing to a core adds it there. That
//! what is left out beyond that matters to nothing is argued where it is done, and checked on whole smaller fleets
//! ([`World::leave_nothing_out`]): states that count as one lead to the same, and the ends are the same.

mod alike;
mod fleet;
mod holder;
mod ledger;
#[expect(clippy::disallowed_types, reason = "hashed tables are looked up and never iterated")]
mod message;
#[expect(
    clippy::disallowed_types,
    reason = "the checker's threads share the model; its set is never iterated"
)]
mod world;

pub use holder::HolderInput;
pub use ledger::{LedgerInput, LedgerState};
pub use world::{Action, Always, Figures, Sometimes, State, World};

/// How much may go wrong in one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Budget {
    /// Deaths of the coordinator, at rest or before any effect.
    pub coordinator_crashes: u8,
    /// Deaths of an agent, as a process or with its machine, at rest or before any effect.
    pub agent_crashes: u8,
    /// Switches that fail.
    pub failed_installs: u8,
    /// Times that the time to start runs out: before the grant comes, or after.
    pub late_starts: u8,
    /// Claims that nobody answers in time, so that they are sent again under a new number.
    pub unanswered: u8,
    /// Leases that the ledger takes for lost.
    pub lost: u8,
    /// Servers that the ledger takes for silent.
    pub silences: u8,
    /// Leases granted beyond the first of each server.
    pub regrants: u8,
    /// Whether the halt may come: to each agent and to the ledger at a time of its own, or never.
    pub halt: bool,
}

/// A mistake put in at the edge, to see that a property notices it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// The coordinator sends before it appends.
    GrantBeforePersist,
    /// A lease that runs out is free.
    ExpiryFrees,
    /// The plan has no group limit.
    NoGroupLimit,
    /// An old grant looks new to its holder.
    OldGrantLooksNew,
    /// A release frees whatever its server holds.
    UnfencedRelease,
}
