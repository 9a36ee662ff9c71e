//! What of the trust must survive a restart.
//!
//! Owns [`TrustSnapshot`]. Main invariant: restoring believes nothing but the floors: every document is parsed
//! and its signatures are checked again, so that a file edited by hand can withhold, but never add. Floors
//! only ever go up from what the documents themselves show.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::accept::Reach;
use super::refusal::{Counted, Refusal};
use super::root::{TrustRole, TrustRoot};
use super::signature::KeyRing;
use super::state::{HeldPlan, TrustState};
use crate::document::{Document, Halt, Kind, Reap, Resume, SignedDocument, Verified};
use crate::enrolment::{Enrolment, Revocation};
use crate::ids::CampaignId;
use crate::plan::Plan;
use crate::time::WallTime;

/// Everything that must survive a restart. Encode it with [`crate::wire::encode`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustSnapshot {
    /// The trust roots, from the anchor to the one in force.
    #[serde(with = "shared")]
    roots: Vec<Arc<SignedDocument>>,
    /// Everything else.
    #[serde(with = "shared")]
    documents: Vec<Arc<SignedDocument>>,
    /// The scopes whose halt is in force.
    halted: Vec<Option<CampaignId>>,
    /// The highest numbers taken.
    floors: Vec<(Counted, u64)>,
    /// The latest signed time believed.
    time_floor: WallTime,
}

impl TrustState {
    /// All that must survive a restart.
    #[must_use]
    pub fn snapshot(&self) -> TrustSnapshot {
        let stops = || self.stops.values();
        let documents = self
            .enrolments
            .values()
            .map(|enrolment| enrolment.document())
            .chain(self.revocation.iter().map(|list| list.document()))
            .chain(self.plans.values().map(|held| held.plan.document()))
            .chain(stops().filter_map(|stop| stop.halt.as_ref().map(|halt| halt.document())))
            .chain(stops().filter_map(|stop| stop.resume.as_ref().map(|resume| resume.document())))
            .chain(self.pauses_ended.values().map(|resume| resume.document()))
            .chain(self.reaps.values().map(|reap| reap.document()))
            .cloned()
            .collect();
        let stops_in_force = self
            .stops
            .iter()
            .filter(|(_, stop)| stop.in_force().is_some())
            .map(|(scope, _)| scope.clone())
            .collect();
        TrustSnapshot {
            roots: self.chain.iter().map(|root| Arc::clone(root.document())).collect(),
            documents,
            halted: stops_in_force,
            floors: self.floors.iter().map(|(counted, number)| (counted.clone(), *number)).collect(),
            time_floor: self.time_floor,
        }
    }

    /// The state that a snapshot was taken of. No clock is asked: expiry never keeps a machine from starting.
    ///
    /// # Errors
    /// [`Refusal`] of the first document that does not verify: the snapshot is damaged or was edited.
    pub fn restore(snapshot: TrustSnapshot) -> Result<Self, Refusal> {
        let TrustSnapshot { roots, documents, halted, floors, time_floor } = snapshot;
        let mut roots = roots.into_iter();
        let anchor = roots.next().unwrap_or_else(|| {
            Arc::new(SignedDocument { kind: Kind::TrustRoot, body: Vec::new(), signatures: Vec::new() })
        });
        let mut state = Self::anchored(&anchor)?;
        for root in roots {
            state.accept(&root, WallTime(i64::MIN))?;
        }
        // A document may have been signed under any root of the chain: plans that were under way and halts
        // outlive their signers' roles, and start nothing.
        let rings: Vec<(Arc<Verified<TrustRoot>>, KeyRing)> =
            state.chain.iter().rev().map(|root| (Arc::clone(root), KeyRing::of(root))).collect();
        for document in &documents {
            state.take_back(document, &rings)?;
        }
        for scope in halted {
            if let Some(stop) = state.stops.get_mut(&scope) {
                stop.halted = stop.halt.is_some();
            }
        }
        for (counted, number) in floors {
            let floor = state.floors.entry(counted).or_default();
            *floor = number.max(*floor);
        }
        state.time_floor = state.time_floor.max(time_floor);
        Ok(state)
    }

    fn take_back(
        &mut self,
        document: &SignedDocument,
        rings: &[(Arc<Verified<TrustRoot>>, KeyRing)],
    ) -> Result<(), Refusal> {
        match document.kind {
            // The chain was walked before; another root among the documents is not ours to have written.
            Kind::TrustRoot => self.accept(document, WallTime(i64::MIN)).map(drop),
            Kind::Enrolment => {
                let (enrolment, _) = self.open::<Enrolment>(document)?;
                self.check_machine(&enrolment)?;
                let server = enrolment.server.clone();
                self.servers.insert(enrolment.key, server.clone());
                let floor = self.floors.entry(Counted::Enrolment(server.clone())).or_default();
                *floor = enrolment.sequence.0.max(*floor);
                self.enrolments.insert(server, Arc::new(enrolment));
                Ok(())
            }
            Kind::Revocation => {
                let list: Arc<Verified<Revocation>> = self.open_again(document, rings)?;
                self.floor_at_least(
                    document,
                    list.issued,
                    Counted::Revocation,
                    list.sequence.0,
                    Reach::Fleet,
                );
                self.revoked = list.keys.iter().copied().collect();
                self.revocation = Some(list);
                Ok(())
            }
            Kind::Plan => {
                let plan: Arc<Verified<Plan>> = self.open_again(document, rings)?;
                let met = self.met(document, plan.issued, Reach::Selected(&plan.select));
                if !met.is_empty() {
                    self.floors.insert(Counted::Plan(plan.campaign.clone()), plan.generation.0);
                }
                self.plans.insert(plan.campaign.clone(), HeldPlan { plan, met: met.into() });
                Ok(())
            }
            Kind::Halt => {
                let halt: Arc<Verified<Halt>> = self.open_again(document, rings)?;
                let counted = Counted::Stop(halt.campaign.clone());
                self.floor_at_least(document, halt.issued, counted, halt.sequence.0, Reach::Fleet);
                let scope = halt.campaign.clone();
                self.stops.entry(scope).or_default().halt = Some(halt);
                Ok(())
            }
            Kind::Resume => {
                let resume: Arc<Verified<Resume>> = self.open_again(document, rings)?;
                if let Some(campaign) = resume.campaign.clone().filter(|_| !resume.pauses.is_empty()) {
                    let counted = Counted::Pauses(campaign.clone());
                    self.floor_at_least(document, resume.issued, counted, resume.sequence.0, Reach::Fleet);
                    self.pauses_ended.insert(campaign, resume);
                    return Ok(());
                }
                let counted = Counted::Stop(resume.campaign.clone());
                self.floor_at_least(document, resume.issued, counted, resume.sequence.0, Reach::Fleet);
                let scope = resume.campaign.clone();
                self.stops.entry(scope).or_default().resume = Some(resume);
                Ok(())
            }
            Kind::Reap => {
                let reap: Arc<Verified<Reap>> = self.open_again(document, rings)?;
                self.reaps.insert(reap.server.clone(), reap);
                Ok(())
            }
            Kind::Approval | Kind::Curb => Err(Refusal::NotForUs),
        }
    }

    /// A document that some root of the chain vouched for.
    fn open_again<T: Document>(
        &self,
        document: &SignedDocument,
        rings: &[(Arc<Verified<TrustRoot>>, KeyRing)],
    ) -> Result<Arc<Verified<T>>, Refusal> {
        let mut refusal = None;
        for (root, ring) in rings {
            let found = ring.check(T::KIND, &document.body, &document.signatures);
            match super::accept::unsigned_under(root, T::KIND, &found) {
                None => {
                    let content = T::parse(&document.body)?;
                    self.check_fleet(&content)?;
                    let met: Vec<TrustRole> =
                        root.roles.iter().filter(|role| role.name == T::KIND.role()).cloned().collect();
                    return Ok(Arc::new(super::accept::verified(content, document, &found, &met)));
                }
                Some(unsigned) => refusal = refusal.or(Some(Refusal::Unsigned(Box::new(unsigned)))),
            }
        }
        Err(refusal.expect("a chain has at least its anchor"))
    }

    /// Raises a floor to what a document shows, if the root in force still vouches for it.
    fn floor_at_least(
        &mut self,
        document: &SignedDocument,
        issued: WallTime,
        counted: Counted,
        number: u64,
        reach: Reach<'_>,
    ) {
        if !self.met(document, issued, reach).is_empty() {
            let floor = self.floors.entry(counted).or_default();
            *floor = number.max(*floor);
        }
    }
}

/// A document in a snapshot is the one that the state holds: written out like any other, and copied for nobody.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    use crate::document::SignedDocument;

    pub(super) fn serialize<S: Serializer>(
        documents: &[Arc<SignedDocument>],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(documents.iter().map(Arc::as_ref))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Arc<SignedDocument>>, D::Error> {
        let documents = Vec::<SignedDocument>::deserialize(deserializer)?;
        Ok(documents.into_iter().map(Arc::new).collect())
    }
}
