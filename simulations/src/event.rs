//! Everything that happens in the world, as it waits in the queue.
//!
//! Owns [`Event`]. Main invariant: an event is small, because millions wait at once: what is large or rare is
//! behind a pointer, and documents are shared.

use std::sync::Arc;

use lunar_agent_core::applier::input::RunId;
use lunar_agent_core::applier::protocol::Task;
use lunar_agent_core::effect::ApplierCommand;
use lunar_agent_core::input::{AskId, Input};
use lunar_agent_core::swarm::Word;
use lunar_common::document::SignedDocument;
use lunar_common::ids::Epoch;
use lunar_common::lease::GroupQuestion;
use lunar_common::wire::Signed;

use crate::faults::Strike;
use crate::network::{Caller, Request};
use crate::server::Asker;
use crate::swarming::Transfer;

/// Something that happens.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    NodeUp {
        server: usize,
        boot: u64,
    },
    ApplierUp {
        server: usize,
        boot: u64,
    },
    CoordinatorUp,
    NodeAlarm {
        server: usize,
    },
    ApplierAlarm {
        server: usize,
    },
    CoordinatorAlarm,
    /// A request of an agent arrives at the coordinator.
    Arrives(Box<(Request, Caller)>),
    /// An answer arrives, or nobody answered.
    Reply {
        server: u32,
        life: u32,
        call: u64,
        input: Box<Input>,
    },
    /// Something inside one life of an agent is over.
    Node {
        server: usize,
        life: u64,
        input: Box<Input>,
    },
    /// A pushed grant arrives.
    Grant {
        server: usize,
        grant: Box<Signed>,
    },
    /// The coordinator is heard.
    Announced {
        server: usize,
        epoch: Epoch,
    },
    /// A document arrives at a server.
    Document {
        server: usize,
        document: Arc<SignedDocument>,
    },
    /// A document arrives at the coordinator.
    CoordinatorDocument {
        document: Arc<SignedDocument>,
    },
    /// A question arrives at a member of a group.
    GroupAsked {
        server: usize,
        question: Box<(Asker, GroupQuestion)>,
    },
    AskApplier {
        server: usize,
        question: Box<ToApplier>,
    },
    StepEnded {
        server: usize,
        life: u64,
        run: RunId,
    },
    SwarmAlarm {
        server: usize,
    },
    /// A connection is up.
    Linked {
        a: u32,
        b: u32,
    },
    NotLinked {
        from: u32,
        to: u32,
    },
    /// Somebody notices that a connection broke.
    Unlinked {
        at: u32,
        whom: u32,
    },
    Subscribed {
        to: u32,
        by: u32,
        takings: bool,
    },
    Unsubscribed {
        to: u32,
        by: u32,
    },
    Said {
        to: u32,
        from: u32,
        word: Arc<Word>,
    },
    /// A transfer is over.
    Delivered(Transfer),
    /// A request is at the origin.
    EarthAsked(Transfer),
    /// The origin hears that nobody waits for an answer any more.
    EarthGivenUp {
        to: u32,
        life: u32,
        request: u32,
    },
    /// The link to Earth has sent something.
    EarthSent,
    /// Time to look up who takes part.
    LookUp {
        server: u32,
        life: u32,
    },
    PackOpened {
        server: u32,
        life: u32,
    },
    /// Everyone compares documents.
    Sync,
    BackUp,
    Strike(Box<Strike>),
    FaultsEnd,
}

/// A question of a node to its root half.
#[derive(Debug, Clone)]
pub(crate) struct ToApplier {
    pub(crate) life: u64,
    pub(crate) ask: AskId,
    pub(crate) task: Task,
    pub(crate) command: ApplierCommand,
}

impl Event {
    /// An answer on its way to one life of an agent.
    pub(crate) fn reply(server: usize, life: u64, call: u64, input: Input) -> Self {
        let server = u32::try_from(server).expect("a fleet has fewer servers");
        let life = u32::try_from(life).expect("a server has few lives");
        Self::Reply { server, life, call, input: Box::new(input) }
    }

    /// What tells it from others in the trace: its kind, and whom it meets.
    pub(crate) fn mark(&self) -> (u64, u64) {
        match self {
            Self::NodeUp { server, .. } => (1, *server as u64),
            Self::ApplierUp { server, .. } => (2, *server as u64),
            Self::CoordinatorUp => (3, 0),
            Self::NodeAlarm { server } => (4, *server as u64),
            Self::ApplierAlarm { server } => (5, *server as u64),
            Self::CoordinatorAlarm => (6, 0),
            Self::Arrives(arrival) => (7, arrival.1.server as u64),
            Self::Reply { server, .. } => (8, u64::from(*server)),
            Self::Node { server, .. } => (9, *server as u64),
            Self::Grant { server, .. } => (10, *server as u64),
            Self::Announced { server, .. } => (11, *server as u64),
            Self::Document { server, .. } => (12, *server as u64),
            Self::CoordinatorDocument { .. } => (13, 0),
            Self::GroupAsked { server, .. } => (14, *server as u64),
            Self::AskApplier { server, .. } => (15, *server as u64),
            Self::StepEnded { server, .. } => (16, *server as u64),
            Self::Sync => (17, 0),
            Self::BackUp => (18, 0),
            Self::Strike(_) => (19, 0),
            Self::FaultsEnd => (20, 0),
            Self::SwarmAlarm { server } => (21, *server as u64),
            Self::Linked { a, b } => (22, pair(*a, *b)),
            Self::NotLinked { from, to } => (23, pair(*from, *to)),
            Self::Unlinked { at, whom } => (24, pair(*at, *whom)),
            Self::Subscribed { to, by, takings } => (25, pair(*to, *by) ^ u64::from(*takings) << 63),
            Self::Said { to, from, .. } => (26, pair(*to, *from)),
            Self::Delivered(transfer) => (27, pair(transfer.to, transfer.request)),
            Self::Unsubscribed { to, by } => (29, pair(*to, *by)),
            Self::LookUp { server, .. } => (30, u64::from(*server)),
            Self::EarthAsked(transfer) => (31, pair(transfer.to, transfer.request)),
            Self::EarthGivenUp { to, request, .. } => (32, pair(*to, *request)),
            Self::EarthSent => (33, 0),
            Self::PackOpened { server, .. } => (28, u64::from(*server)),
        }
    }
}

fn pair(a: u32, b: u32) -> u64 {
    u64::from(a) << 32 | u64::from(b)
}

/// Millions of them wait at once.
const _: () = assert!(size_of::<Event>() <= 32);
