//! Batches of servers that people approve before any of them starts (C1).
//!
//! Owns the batches and the newest [`Word`] on each, a fold of the log. Main invariant: a batch starts only by an
//! approval of the plan in force that is the newest word on it, has not expired, was signed under the trust root in
//! force and was not forgotten by a log that was lost. Nobody is in a batch that was closed before: whoever joins
//! later is in one of those that come after, so that people approve no server that they could not see. Refuses to
//! check signatures: what arrives was verified.

use std::collections::{BTreeMap, BTreeSet};

use lunar_common::document::{Approval, Verified};
use lunar_common::ids::{CampaignId, DocumentHash, KeyName, Sequence, ServerId};
use lunar_common::lease::{Lapse, WaitReason};
use lunar_common::order::draw;
use lunar_common::plan::Plan;
use lunar_common::time::{Now, WallTime};
use serde::{Deserialize, Serialize};

use crate::campaign::stage::Stages;
use crate::coordinator::Coordinator;
use crate::event::EventBody;
use crate::ledger::Obstacle;
use crate::view::{BatchState, BatchView};

/// Approvers named in one explanation: a trust root may have hundreds.
const APPROVERS_NAMED: usize = 16;

/// Which stages of a plan people approve, in a form the log can hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalTerms {
    /// Who wrote the plan: the one who may not approve it.
    pub author: KeyName,
    /// By place: how many servers are approved together.
    pub stages: BTreeMap<u16, u32>,
}

impl ApprovalTerms {
    /// Those of a plan; `None`: nobody is asked.
    #[must_use]
    pub fn of(plan: &Plan) -> Option<Self> {
        let asked = (0..).zip(&plan.stages).filter_map(|(at, stage)| Some((at, stage.approval_batch?)));
        let stages: BTreeMap<u16, u32> = asked.collect();
        (!stages.is_empty()).then(|| Self { author: plan.author.clone(), stages })
    }
}

/// What the newest document on a batch says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// Order among the documents on this batch.
    pub sequence: Sequence,
    /// It takes an approval back.
    pub withdrawn: bool,
    /// Past this nobody starts by it.
    pub expires: WallTime,
    /// The trust root under which it was signed.
    pub root: u64,
    /// Why.
    pub reason: String,
    /// Who signed.
    pub signers: BTreeSet<KeyName>,
}

/// A batch, by its stage's place and its number there.
type BatchId = (u16, u32);

/// The batches of one plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Approvals {
    plan: DocumentHash,
    terms: ApprovalTerms,
    places: BTreeMap<ServerId, BatchId>,
    batches: BTreeMap<BatchId, Batch>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Batch {
    servers: BTreeSet<ServerId>,
    /// Nobody joins it any more.
    closed: bool,
    word: Option<Word>,
    /// The log that held the word was lost since, and with it perhaps a withdrawal.
    void: bool,
}

impl Batch {
    /// Why it may not start; `None`: it may.
    fn lapse(&self, root: u64, wall: WallTime) -> Option<Lapse> {
        match &self.word {
            None => Some(Lapse::Never),
            Some(word) if word.withdrawn => Some(Lapse::Withdrawn),
            Some(word) if self.void || word.root != root => Some(Lapse::Void),
            Some(word) if wall > word.expires => Some(Lapse::Expired(word.expires)),
            Some(_) => None,
        }
    }
}

impl Approvals {
    /// Deals the servers of the stages that people approve to batches, in an order drawn by the plan's hash.
    pub(crate) fn deal(plan: DocumentHash, terms: ApprovalTerms, stages: &Stages) -> Self {
        let mut dealt = Self { plan, places: BTreeMap::new(), batches: BTreeMap::new(), terms };
        for (stage, size) in dealt.terms.stages.clone() {
            let mut servers: Vec<ServerId> = stages.servers_of(stage).cloned().collect();
            let parts = |server: &ServerId| {
                draw("batch", &[&plan.0, &stage.to_be_bytes(), server.as_str().as_bytes()])
            };
            servers.sort_by_cached_key(|server| (parts(server), server.clone()));
            for (number, batch) in
                (1..).zip(servers.chunks(usize::try_from(size).unwrap_or(usize::MAX).max(1)))
            {
                dealt.places.extend(batch.iter().map(|server| (server.clone(), (stage, number))));
                let servers = batch.iter().cloned().collect();
                dealt.batches.insert((stage, number), Batch { servers, closed: true, ..Batch::default() });
            }
        }
        dealt
    }

    /// A server is in this stage from here on, or in none.
    pub(crate) fn follow(&mut self, server: &ServerId, stage: Option<u16>, same_machine: bool) {
        if let Some(at) = self.places.get(server) {
            if Some(at.0) == stage && same_machine {
                return;
            }
            if let Some(batch) = self.batches.get_mut(at) {
                batch.servers.remove(server);
            }
            self.places.remove(server);
        }
        let Some((stage, size)) = stage.and_then(|stage| Some((stage, *self.terms.stages.get(&stage)?)))
        else {
            return;
        };
        let last = self.batches.range((stage, 0)..=(stage, u32::MAX)).next_back();
        let number = match last {
            Some(((_, number), batch)) if !batch.closed && count(batch.servers.len()) < size => *number,
            Some(((_, number), _)) => number.saturating_add(1),
            None => 1,
        };
        self.batches.entry((stage, number)).or_default().servers.insert(server.clone());
        self.places.insert(server.clone(), (stage, number));
    }

    /// People said something of a batch.
    pub(crate) fn said(&mut self, plan: DocumentHash, stage: u16, batch: u32, word: &Word) {
        if let Some(batch) = self.batches.get_mut(&(stage, batch)).filter(|_| plan == self.plan) {
            *batch = Batch {
                servers: std::mem::take(&mut batch.servers),
                closed: true,
                word: Some(word.clone()),
                void: false,
            };
        }
    }

    /// The log was found to be older than what was once granted: what else it has forgotten nobody knows.
    pub(crate) fn void(&mut self) {
        for batch in self.batches.values_mut() {
            batch.void = batch.word.is_some();
        }
    }

    fn batch_of(&self, server: &ServerId) -> Option<(BatchId, &Batch)> {
        let at = self.places.get(server)?;
        Some((*at, self.batches.get(at)?))
    }
}

impl Coordinator {
    fn approvals(&self, campaign: &CampaignId) -> Option<&Approvals> {
        self.state.campaigns.get(campaign)?.approvals.as_ref()
    }

    /// What stops one server because its batch is not approved.
    pub(crate) fn obstacle_of_approval(
        &self,
        campaign: &CampaignId,
        server: &ServerId,
        now: Now,
    ) -> Option<Obstacle> {
        let (_, batch) = self.approvals(campaign)?.batch_of(server)?;
        batch.lapse(self.approvers.root, now.wall).map(Obstacle::Unapproved)
    }

    /// The obstacle in the words of the wire.
    pub(crate) fn explain_approval(
        &self,
        campaign: &CampaignId,
        server: &ServerId,
        lapse: Lapse,
    ) -> WaitReason {
        let found =
            self.approvals(campaign).and_then(|approvals| Some((approvals, approvals.batch_of(server)?)));
        let Some((approvals, ((stage, number), batch))) = found else { return WaitReason::NoStage };
        let Some(stages) = self.stages(campaign) else { return WaitReason::NoStage };
        let others = self.approvers.names.iter().filter(|name| **name != approvals.terms.author);
        WaitReason::Approval {
            stage: stages.name(stage).clone(),
            batch: number,
            servers: count(batch.servers.len()),
            lapse,
            need: self.approvers.need,
            may: others.take(APPROVERS_NAMED).cloned().collect(),
        }
    }

    /// The batches of a campaign, and whether each may start.
    #[must_use]
    pub fn batches(&self, campaign: &CampaignId, now: Now) -> Vec<BatchView> {
        let (Some(approvals), Some(stages)) = (self.approvals(campaign), self.stages(campaign)) else {
            return Vec::new();
        };
        let view = |((stage, number), batch): (&BatchId, &Batch)| BatchView {
            stage: stages.name(*stage).clone(),
            batch: *number,
            servers: batch.servers.iter().cloned().collect(),
            state: match batch.lapse(self.approvers.root, now.wall) {
                None => BatchState::Approved,
                Some(Lapse::Never) => BatchState::Waiting,
                Some(Lapse::Withdrawn) => BatchState::Withdrawn,
                Some(Lapse::Expired(_)) => BatchState::Expired,
                Some(Lapse::Void) => BatchState::Void,
            },
            sequence: batch.word.as_ref().map_or(Sequence::default(), |word| word.sequence),
            expires: batch.word.as_ref().map(|word| word.expires),
            signers: batch.word.iter().flat_map(|word| word.signers.iter().cloned()).collect(),
        };
        approvals.batches.iter().map(view).collect()
    }

    /// Whether an approval would change anything.
    ///
    /// # Errors
    /// Why it would not, and what to do instead, for the operator.
    pub fn approvable(&self, approval: &Approval) -> Result<(), String> {
        let Approval { campaign, stage, batch, sequence, .. } = approval;
        let Some(approvals) = self.approvals(campaign).filter(|approvals| approvals.plan == approval.plan)
        else {
            return Err(format!("no plan of {campaign} that asks for approvals is in force under this hash"));
        };
        let at = self.stages(campaign).and_then(|stages| stages.at(stage));
        let Some(at) = at.filter(|at| approvals.terms.stages.contains_key(at)) else {
            return Err(format!(
                "stage {stage} of {campaign} asks nobody: its plan has no approval_batch there"
            ));
        };
        let Some(found) = approvals.batches.get(&(at, *batch)) else {
            let last =
                approvals.batches.range((at, 0)..=(at, u32::MAX)).next_back().map_or(0, |(id, _)| id.1);
            return Err(format!(
                "stage {stage} of {campaign} has no batch {batch}: they go from 1 to {last}"
            ));
        };
        match &found.word {
            Some(word) if *sequence <= word.sequence => Err(format!(
                "number {sequence} on batch {batch} of stage {stage} is not newer than {}, the last one seen: sign it \
                 with a higher sequence",
                word.sequence
            )),
            Some(_) | None => Ok(()),
        }
    }

    pub(crate) fn approve(&mut self, approval: &Verified<Approval>) {
        self.take_word(approval, approval.signers().clone());
    }

    /// Puts down what people said of a batch, unless it changes nothing.
    pub(crate) fn take_word(&mut self, approval: &Approval, signers: BTreeSet<KeyName>) {
        let stage = self.stages(&approval.campaign).and_then(|stages| stages.at(&approval.stage));
        let Some(stage) = stage.filter(|_| self.approvable(approval).is_ok()) else { return };
        let word = Word {
            sequence: approval.sequence,
            withdrawn: approval.withdraw,
            expires: approval.expires,
            root: self.approvers.root,
            reason: approval.reason.clone(),
            signers,
        };
        self.record(EventBody::Approved {
            campaign: approval.campaign.clone(),
            plan: approval.plan,
            stage,
            name: approval.stage.clone(),
            batch: approval.batch,
            word,
        });
    }

    /// Those of a batch are looked at again.
    pub(crate) fn wake_batch(&mut self, campaign: &CampaignId, stage: u16, batch: u32) {
        let found = self.approvals(campaign).and_then(|approvals| approvals.batches.get(&(stage, batch)));
        let servers: Vec<ServerId> =
            found.into_iter().flat_map(|batch| batch.servers.iter().cloned()).collect();
        for server in servers {
            self.waiting.wake_server(&server);
        }
        self.room = true;
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
