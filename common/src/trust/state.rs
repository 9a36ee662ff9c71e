//! Everything a machine holds to be true because people signed it.
//!
//! Owns [`TrustState`] and the questions that others ask of it. Main invariant: whatever an expiry, a clock or a
//! rotation does, it only ever stops new starts: plans that are held stay held, so that what is under way can
//! finish or roll back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::refusal::{Counted, StartRefusal};
use super::root::{TrustRole, TrustRoot};
use super::signature::{KeyRing, SignatureDefect};
use crate::bounds::{DOCUMENTS_KEPT_MAX, DOCUMENTS_PER_SYNC_MAX, MESSAGE_BYTES_MAX};
use crate::document::{Halt, Kind, Reap, Resume, SignedDocument, Verified};
use crate::enrolment::{Enrolment, Revocation};
use crate::ids::{CampaignId, DocumentHash, FleetId, KeyName, PeerKey, ServerId};
use crate::plan::Plan;
use crate::time::WallTime;

/// What an accepted document turned out to be.
#[derive(Debug, Clone)]
pub enum Accepted {
    /// A new trust root is in force.
    TrustRoot(Arc<Verified<TrustRoot>>),
    /// A machine is enrolled, or its enrolment replaced.
    Enrolment(Arc<Verified<Enrolment>>),
    /// A new revocation list is in force.
    Revocation(Arc<Verified<Revocation>>),
    /// A new plan, or a new generation of one.
    Plan(Arc<Verified<Plan>>),
    /// A halt is in force.
    Halt(Arc<Verified<Halt>>),
    /// A halt has ended.
    Resume(Arc<Verified<Resume>>),
    /// A lease may be freed.
    Reap(Arc<Verified<Reap>>),
    /// Known already; nothing changed.
    Known,
}

/// Whose signatures a document has, and whose it still needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureStatus {
    /// Whether nothing is missing.
    pub complete: bool,
    /// Names of the keys whose signatures count.
    pub have: Vec<KeyName>,
    /// Distinct keys needed.
    pub need: u32,
    /// Names of the keys that could sign as well.
    pub could: Vec<KeyName>,
    /// Why other signatures do not count, by their place, counted from 1.
    pub defects: Vec<(usize, SignatureDefect)>,
}

/// Everything a machine holds to be true because people signed it, with the floors that stop replays.
#[derive(Debug, Clone)]
pub struct TrustState {
    /// Every trust root from the anchor to the one in force, to hand on to those that are behind.
    pub(super) chain: Vec<Arc<Verified<TrustRoot>>>,
    pub(super) root: Arc<Verified<TrustRoot>>,
    pub(super) ring: KeyRing,
    /// The highest `issued` believed.
    pub(super) time_floor: WallTime,
    /// The highest numbers taken.
    pub(super) floors: BTreeMap<Counted, u64>,
    pub(super) plans: BTreeMap<CampaignId, HeldPlan>,
    pub(super) stops: BTreeMap<Option<CampaignId>, Stop>,
    pub(super) enrolments: BTreeMap<ServerId, Arc<Verified<Enrolment>>>,
    pub(super) servers: BTreeMap<PeerKey, ServerId>,
    pub(super) revocation: Option<Arc<Verified<Revocation>>>,
    pub(super) revoked: BTreeSet<PeerKey>,
    pub(super) reaps: BTreeMap<ServerId, Arc<Verified<Reap>>>,
    /// The latest resume of each campaign's pauses.
    pub(super) pauses_ended: BTreeMap<CampaignId, Arc<Verified<Resume>>>,
}

/// A plan, and the entries of the root in force that its signatures meet (none: nothing new starts by it).
#[derive(Debug, Clone)]
pub(super) struct HeldPlan {
    pub(super) plan: Arc<Verified<Plan>>,
    pub(super) met: Arc<[TrustRole]>,
}

/// The latest halt and the latest resume of one scope.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop {
    pub(super) halt: Option<Arc<Verified<Halt>>>,
    pub(super) resume: Option<Arc<Verified<Resume>>>,
    /// Which of the two came last, by their numbers; a tie is a halt. Kept, and not told from the numbers
    /// again, because a rotation of the trust root may begin them anew.
    pub(super) halted: bool,
}

impl Stop {
    pub(super) fn in_force(&self) -> Option<&Arc<Verified<Halt>>> {
        self.halt.as_ref().filter(|_| self.halted)
    }
}

impl TrustState {
    /// The trust root in force.
    #[must_use]
    pub fn root(&self) -> &Arc<Verified<TrustRoot>> {
        &self.root
    }

    /// The fleet.
    #[must_use]
    pub fn fleet(&self) -> &FleetId {
        &self.root.fleet
    }

    /// What time it is at least: the wall's, or the latest that signed documents prove. A clock that is behind
    /// is no error.
    #[must_use]
    pub fn trusted_time(&self, wall: WallTime) -> WallTime {
        self.time_floor.max(wall)
    }

    /// The plan in force for a campaign, whether or not anything new may start by it.
    #[must_use]
    pub fn plan(&self, campaign: &CampaignId) -> Option<&Arc<Verified<Plan>>> {
        self.plans.get(campaign).map(|held| &held.plan)
    }

    /// All plans held, by campaign.
    pub fn plans(&self) -> impl Iterator<Item = &Arc<Verified<Plan>>> {
        self.plans.values().map(|held| &held.plan)
    }

    /// The halt that stops this campaign's starts: its own, or the whole fleet's.
    #[must_use]
    pub fn halt_in_force(&self, campaign: &CampaignId) -> Option<&Arc<Verified<Halt>>> {
        let of = |scope: &Option<CampaignId>| self.stops.get(scope).and_then(Stop::in_force);
        // The common case first, without an allocation for the key.
        of(&None).or_else(|| of(&Some(campaign.clone())))
    }

    /// All halts in force, the whole fleet's first.
    pub fn halts(&self) -> impl Iterator<Item = &Arc<Verified<Halt>>> {
        self.stops.values().filter_map(Stop::in_force)
    }

    /// The latest resume of each campaign's pauses, in force for what it names.
    pub fn resumes_of_pauses(&self) -> impl Iterator<Item = &Arc<Verified<Resume>>> {
        self.pauses_ended.values()
    }

    /// The next free number of a counter: what to write into a new document.
    #[must_use]
    pub fn next_number(&self, counted: &Counted) -> u64 {
        match counted {
            Counted::TrustRoot => self.root.version.saturating_add(1),
            Counted::Plan(_)
            | Counted::Stop(_)
            | Counted::Enrolment(_)
            | Counted::Revocation
            | Counted::Reap(_)
            | Counted::Pauses(_) => self.floors.get(counted).copied().unwrap_or(0).saturating_add(1),
        }
    }

    /// Whether a machine may start its upgrade in a campaign now. Expiry, revocation and halts end here, and
    /// only here: finishing and rolling back never ask.
    ///
    /// # Errors
    /// [`StartRefusal`] names the reason.
    pub fn may_start(
        &self,
        campaign: &CampaignId,
        machine: &Enrolment,
        wall: WallTime,
    ) -> Result<(), StartRefusal> {
        if let Some(halt) = self.halt_in_force(campaign) {
            return Err(StartRefusal::Halted { reason: halt.reason.clone() });
        }
        let held = self.plans.get(campaign).ok_or(StartRefusal::UnknownCampaign)?;
        let now = self.trusted_time(wall);
        if self.revoked.contains(&machine.key) {
            return Err(StartRefusal::Revoked);
        }
        if !held.plan.select.matches(machine) {
            return Err(StartRefusal::NotSelected);
        }
        if now > held.plan.expires {
            return Err(StartRefusal::PlanExpired { expired: held.plan.expires });
        }
        if let Some(expired) = machine.expires.filter(|expires| now > *expires) {
            return Err(StartRefusal::EnrolmentExpired { expired });
        }
        if now > self.root.expires {
            return Err(StartRefusal::RootExpired { expired: self.root.expires });
        }
        if held.met.is_empty() {
            return Err(StartRefusal::Withdrawn);
        }
        let reaching = || held.met.iter().filter(|role| role.covers(machine.tier, &machine.site));
        if reaching().any(|role| role.valid_until.is_none_or(|until| now <= until)) {
            return Ok(());
        }
        let until = reaching().filter_map(|role| role.valid_until).max();
        Err(StartRefusal::OutOfReach { tier: machine.tier, until })
    }

    /// The enrolment of a machine that is a member now.
    #[must_use]
    pub fn machine(&self, key: &PeerKey) -> Option<&Arc<Verified<Enrolment>>> {
        self.servers.get(key).and_then(|server| self.machine_named(server))
    }

    /// The enrolment of the server of this name, if it is a member now.
    #[must_use]
    pub fn machine_named(&self, server: &ServerId) -> Option<&Arc<Verified<Enrolment>>> {
        self.enrolments.get(server).filter(|enrolment| !self.revoked.contains(&enrolment.key))
    }

    /// Whether just this enrolment is in force here: whoever shows it again shows nothing new.
    #[must_use]
    pub fn holds(&self, enrolment: &Verified<Enrolment>) -> bool {
        self.machine_named(&enrolment.server).is_some_and(|held| held.hash() == enrolment.hash())
    }

    /// All members known, by name.
    pub fn machines(&self) -> impl Iterator<Item = &Arc<Verified<Enrolment>>> {
        self.enrolments.values().filter(|enrolment| !self.revoked.contains(&enrolment.key))
    }

    /// Takes over a member that another gate under the same root has verified: what one gate found, an equal one
    /// need not find again. `false`: the roots differ, the member is not known there, or is out here.
    pub fn share_machine(&mut self, verified_by: &Self, server: &ServerId) -> bool {
        let Some(machine) = verified_by.machine_named(server) else { return false };
        let counted = Counted::Enrolment(server.clone());
        let floor = self.floors.get(&counted).copied().unwrap_or(0);
        let same_root = self.root.hash() == verified_by.root.hash();
        if !same_root || machine.sequence.0 <= floor || self.check_machine(machine).is_err() {
            return false;
        }
        if let Some(before) = self.enrolments.insert(server.clone(), Arc::clone(machine)) {
            self.servers.remove(&before.key);
        }
        self.servers.insert(machine.key, server.clone());
        self.floors.insert(counted, machine.sequence.0);
        self.time_floor = self.time_floor.max(machine.issued);
        true
    }

    /// Whether a key is on the revocation list in force.
    #[must_use]
    pub fn is_revoked(&self, key: &PeerKey) -> bool {
        self.revoked.contains(key)
    }

    /// The revocation list in force.
    #[must_use]
    pub fn revocation(&self) -> Option<&Arc<Verified<Revocation>>> {
        self.revocation.as_ref()
    }

    /// The documents to offer others, in the order in which they must be taken in: trust roots step by step,
    /// then what stops, then the rest. Without enrolments, which go where they are needed. Bounded.
    #[must_use]
    pub fn documents(&self) -> Vec<Arc<SignedDocument>> {
        self.offered().map(|(_, document)| document.clone()).collect()
    }

    /// The hashes of [`TrustState::documents`], known since they were verified.
    #[must_use]
    pub fn hashes(&self) -> Vec<DocumentHash> {
        self.offered().map(|(hash, _)| hash).collect()
    }

    fn offered(&self) -> impl Iterator<Item = (DocumentHash, &Arc<SignedDocument>)> {
        fn both<T>(verified: &Arc<Verified<T>>) -> (DocumentHash, &Arc<SignedDocument>) {
            (verified.hash(), verified.document())
        }
        let stops = || self.stops.values();
        self.chain
            .iter()
            .map(both)
            .chain(stops().filter_map(|stop| stop.halt.as_ref().map(both)))
            .chain(self.revocation.iter().map(both))
            .chain(stops().filter_map(|stop| stop.resume.as_ref().map(both)))
            .chain(self.plans.values().map(|held| both(&held.plan)))
            .chain(self.pauses_ended.values().map(both))
            .chain(self.reaps.values().map(both))
            .take(DOCUMENTS_KEPT_MAX)
    }

    /// Documents that another one lacks: as many as one answer may carry. Asked again until empty, this hands
    /// over all of [`TrustState::documents`].
    #[must_use]
    pub fn missing_from(&self, have: &[DocumentHash]) -> Vec<SignedDocument> {
        let have: BTreeSet<&DocumentHash> = have.iter().take(DOCUMENTS_KEPT_MAX).collect();
        let mut room = MESSAGE_BYTES_MAX - ANSWER_OVERHEAD_BYTES;
        let mut missing = Vec::new();
        for (_, document) in self.offered().filter(|(hash, _)| !have.contains(hash)) {
            let bytes =
                document.body.len() + document.signatures.iter().map(|one| one.len() + 8).sum::<usize>() + 32;
            if missing.len() == DOCUMENTS_PER_SYNC_MAX || bytes > room {
                break;
            }
            room -= bytes;
            missing.push(SignedDocument::clone(document));
        }
        missing
    }

    /// Whose signatures a document has and needs: "1 of 2". Looks at signatures only, not at contents.
    #[must_use]
    pub fn signature_status(&self, document: &SignedDocument) -> SignatureStatus {
        let found = self.ring.check(document.kind, &document.body, &document.signatures);
        match self.unsigned(document.kind, &found) {
            None => SignatureStatus {
                complete: true,
                have: found.names().into_iter().collect(),
                need: 0,
                could: Vec::new(),
                defects: found.defects,
            },
            Some(unsigned) => SignatureStatus {
                complete: false,
                have: unsigned.have,
                need: unsigned.need,
                could: unsigned.could,
                defects: unsigned.defects,
            },
        }
    }

    /// Who may sign documents of a kind, by the root in force.
    pub fn signing_requirements(&self, kind: Kind) -> impl Iterator<Item = &TrustRole> {
        self.root.roles.iter().filter(move |role| role.name == kind.role())
    }
}

/// Room in an answer for what is not documents.
const ANSWER_OVERHEAD_BYTES: usize = 1024;
