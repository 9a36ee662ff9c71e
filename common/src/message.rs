//! What machines say to each other on the control plane.
//!
//! Owns the requests, the responses and the gossip. Main invariant: every variant is bounded, and whatever is
//! relayed or kept is signed by its author's machine key (`Signed`) or by people (`SignedDocument`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bounds::SMALL_MESSAGE_BYTES_MAX;
use crate::document::SignedDocument;
use crate::health::Verdict;
use crate::ids::{ArtifactId, Attempt, CampaignId, DocumentHash, Epoch, Fence, LeaseId, ServerId, SiteId};
use crate::lease::{ClaimAnswer, GroupQuestion};
use crate::phase::Phase;
use crate::time::WallTime;
use crate::wire::{Signed, SignedMessage};

/// A request from one enrolled machine to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Agent to coordinator: a signed `Claim`. Answered by [`Response::Claim`].
    Claim(Signed),
    /// Agent to coordinator: a signed `Release`. Answered by [`Response::Done`] once durable.
    Release(Signed),
    /// Agent to coordinator: a signed [`Report`]. Answered by [`Response::Report`].
    Report(Signed),
    /// Coordinator to agent: a signed `Grant`, pushed when a slot came free. Answered by [`Response::Done`].
    Grant(Signed),
    /// Agent to agent of the same group. Answered by [`Response::Group`].
    Group(GroupQuestion),
    /// Agent to coordinator: the enrolments of my redundancy group. Answered by [`Response::Documents`].
    GroupMembers,
    /// Anyone to anyone: the documents I hold. Answered by [`Response::Documents`] with ones I lack.
    Sync {
        /// Hashes of the documents held.
        have: Vec<DocumentHash>,
    },
    /// Anyone to anyone: a document. Answered by [`Response::Done`].
    Document(SignedDocument),
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// To `Claim`.
    Claim(ClaimAnswer),
    /// To `Report`.
    Report(ReportAnswer),
    /// To `Group`: a signed `GroupAnswer`.
    Group(Signed),
    /// To `Sync` and `GroupMembers`.
    Documents(Vec<SignedDocument>),
    /// Taken in, and durable where the request promises it.
    Done,
    /// Not taken in.
    Refused {
        /// Why, for the log of the one who asked.
        reason: String,
    },
}

/// What a server says of itself to the coordinator, regularly and after every transition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Who.
    pub server: ServerId,
    /// Counts the starts of the agent, from its journal: tells "before" from "after its boot".
    pub boot: u64,
    /// Counts this boot's reports; a lower one than seen is old news.
    pub number: u64,
    /// What its own probes said last.
    pub verdict: Verdict,
    /// Where it is in each campaign it knows.
    pub campaigns: Vec<CampaignStatus>,
    /// The lease it holds, by its own journal.
    pub lease: Option<HeldLease>,
    /// Highest epoch it has seen in a grant.
    pub epoch_seen: Epoch,
    /// Highest fence it has seen in a grant.
    pub fence_seen: Fence,
    /// Transitions not yet acknowledged, oldest first, gapless by index.
    pub transitions: Vec<Transition>,
}

impl SignedMessage for Report {
    const CONTEXT: &'static str = "lunar.report.v1";
    const BYTES_MAX: usize = SMALL_MESSAGE_BYTES_MAX;
}

/// A server's place in one campaign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CampaignStatus {
    /// Which campaign.
    pub campaign: CampaignId,
    /// By which plan.
    pub plan: DocumentHash,
    /// On which attempt.
    pub attempt: Attempt,
    /// Where it is.
    pub phase: Phase,
    /// The artifacts it runs (by manifest), in the plan's order; empty if unknown.
    pub running: Vec<ArtifactId>,
    /// Chunks had and in all.
    pub chunks: (u32, u32),
    /// Frame bytes received, by class of source.
    pub received: BytesBySource,
}

/// Bytes received, by where they came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BytesBySource {
    /// From agents of the same site.
    pub site: u64,
    /// From agents of other sites.
    pub sites: u64,
    /// From the origin, over the Earth link.
    pub earth: u64,
    /// Found on the server itself, in versions it has.
    pub local: u64,
}

/// A lease by its holder's journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldLease {
    /// Which.
    pub lease: LeaseId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its fence.
    pub fence: Fence,
    /// Whether the start was journaled.
    pub started: bool,
}

/// One journaled change of phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// Counts this server's transitions, gapless, over all campaigns and boots.
    pub index: u64,
    /// In which campaign.
    pub campaign: CampaignId,
    /// On which attempt.
    pub attempt: Attempt,
    /// From where.
    pub from: Phase,
    /// To where.
    pub to: Phase,
    /// Why, for people.
    pub cause: String,
    /// When, by the server's own clock; for people only.
    pub at: WallTime,
}

/// The answer to a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportAnswer {
    /// The coordinator's life.
    pub epoch: Epoch,
    /// Transitions up to and including this index are durable at the coordinator.
    pub transitions_kept: Option<u64>,
    /// Report again after this many milliseconds, if nothing changes before.
    pub next_within_ms: u64,
}

/// What is gossiped to everyone: only what everyone needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Gossip {
    /// A document that people signed.
    Document(SignedDocument),
    /// Who takes part in an artifact's swarm, and where its data plane listens.
    Presence(Presence),
    /// A coordinator is up: agents that lost theirs report to it.
    Coordinator {
        /// Its name.
        server: ServerId,
        /// Its life.
        epoch: Epoch,
    },
}

/// A member of an artifact's swarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Who.
    pub server: ServerId,
    /// Where it stands.
    pub site: SiteId,
    /// Which artifact.
    pub artifact: ArtifactId,
    /// Its data plane's address, `host:port`.
    pub data_address: String,
    /// Whether it has every chunk.
    pub complete: bool,
}
