//! The gate: which document is taken in, and what it changes.
//!
//! Owns the rules of DESIGN 4. Main invariant: a document is authenticated before it is parsed, changes nothing
//! if any rule refuses it, and raises its counter when it is taken. Only a rotation of the trust root lowers a
//! counter, and only one whose holder's signers it cast out.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::refusal::{Counted, Refusal, Unsigned};
use super::root::{RoleName, TrustRole, TrustRoot};
use super::signature::{KeyRing, SignatureDefect, Signatures};
use super::state::{Accepted, HeldPlan, Stop, TrustState};
use crate::bounds::{
    CAMPAIGNS_KEPT_MAX, COUNTER_JUMP_MAX, DOCUMENT_BYTES_MAX, HALT_SCOPES_MAX, ISSUED_AHEAD_S_MAX,
    MACHINES_MAX, SIGNATURES_MAX,
};
use crate::document::{Document, Halt, Kind, Reap, Resume, SignedDocument, Verified};
use crate::enrolment::{Enrolment, Revocation};
use crate::ids::{CampaignId, DocumentHash, KeyName, SiteId};
use crate::limits::Tier;
use crate::plan::{Plan, Select};
use crate::time::WallTime;

/// Which servers a document is about, to hold against its signers' scope.
#[derive(Clone, Copy)]
pub(super) enum Reach<'a> {
    Fleet,
    Server(Tier, &'a SiteId),
    Selected(&'a Select),
}

impl Reach<'_> {
    fn within(self, role: &TrustRole) -> bool {
        match self {
            Self::Fleet => role.tiers.is_empty() && role.sites.is_empty(),
            Self::Server(tier, site) => role.covers(tier, site),
            Self::Selected(select) => {
                (role.tiers.is_empty() || !select.tiers.is_empty() && select.tiers.is_subset(&role.tiers))
                    && (role.sites.is_empty()
                        || !select.sites.is_empty() && select.sites.is_subset(&role.sites))
            }
        }
    }
}

/// How a number stands to the highest one taken.
enum Newness {
    New,
    Same,
}

impl TrustState {
    /// Begins with a trust root from this machine's own configuration. That it is the right one is what its
    /// owner vouches for; that it is whole and signed by its own threshold is checked.
    ///
    /// # Errors
    /// [`Refusal`] names the reason.
    pub fn anchored(document: &SignedDocument) -> Result<Self, Refusal> {
        bounded(document)?;
        let root = TrustRoot::parse(&document.body)?;
        let ring = KeyRing::of(&root);
        let found = ring.check(Kind::TrustRoot, &document.body, &document.signatures);
        if let Some(unsigned) = unsigned_under(&root, Kind::TrustRoot, &found) {
            return Err(Refusal::Unsigned(Box::new(unsigned)));
        }
        let time_floor = root.issued;
        let met = root_role(&root);
        let root = Arc::new(verified(root, document, &found, &met));
        Ok(Self {
            chain: vec![Arc::clone(&root)],
            root,
            ring,
            time_floor,
            floors: BTreeMap::new(),
            plans: BTreeMap::new(),
            stops: BTreeMap::new(),
            enrolments: BTreeMap::new(),
            servers: BTreeMap::new(),
            revocation: None,
            revoked: BTreeSet::new(),
            reaps: BTreeMap::new(),
            pauses_ended: BTreeMap::new(),
        })
    }

    /// Takes a document in, if it is what it says and newer than what is known. `wall` may be wrong.
    ///
    /// # Errors
    /// [`Refusal`] names the reason; nothing has changed then.
    pub fn accept(&mut self, document: &SignedDocument, wall: WallTime) -> Result<Accepted, Refusal> {
        match document.kind {
            Kind::TrustRoot => self.accept_root(document, wall),
            Kind::Enrolment => self.accept_enrolment(document, wall),
            Kind::Revocation => self.accept_revocation(document, wall),
            Kind::Plan => self.accept_plan(document, wall),
            Kind::Halt => self.accept_halt(document, wall),
            Kind::Resume => self.accept_resume(document, wall),
            Kind::Reap => self.accept_reap(document, wall),
            // Checked by these where leases are granted, and kept in the log there.
            Kind::Approval => Err(self.approval(document, wall).err().unwrap_or(Refusal::NotForUs)),
            Kind::Curb => Err(self.curb(document, wall).err().unwrap_or(Refusal::NotForUs)),
        }
    }

    /// An enrolment that a peer shows, checked but not kept.
    ///
    /// # Errors
    /// [`Refusal`]: not signed, revoked, replaced by a newer one, or bound to a key of another server.
    pub fn verify_enrolment(&self, document: &SignedDocument) -> Result<Arc<Verified<Enrolment>>, Refusal> {
        let (enrolment, met) = self.open::<Enrolment>(document)?;
        within(met, Kind::Enrolment, Reach::Server(enrolment.tier, &enrolment.site))?;
        self.newness(
            &Counted::Enrolment(enrolment.server.clone()),
            enrolment.sequence.0,
            self.enrolments.get(&enrolment.server).map(|held| held.hash()),
            enrolment.hash(),
        )?;
        self.check_machine(&enrolment)?;
        Ok(Arc::new(enrolment))
    }

    fn accept_root(&mut self, document: &SignedDocument, wall: WallTime) -> Result<Accepted, Refusal> {
        bounded(document)?;
        let hash = document.hash();
        if self.chain.iter().any(|root| root.hash() == hash) {
            return Ok(Accepted::Known);
        }
        // Before it is parsed: whoever made it must have convinced at least one of the keys we know.
        let by_old = self.ring.check(Kind::TrustRoot, &document.body, &document.signatures);
        if by_old.good.is_empty() {
            return Err(Refusal::Unsigned(Box::new(describe_unsigned(&self.root, Kind::TrustRoot, &by_old))));
        }
        let root = TrustRoot::parse(&document.body)?;
        self.check_fleet(&root)?;
        let (found, held) = (root.version, self.root.version);
        if found == held {
            let known = self.root.hash();
            return Err(Refusal::Conflict { what: Counted::TrustRoot, number: found, known });
        }
        if found < held {
            return Err(Refusal::Replayed { what: Counted::TrustRoot, found, highest: held });
        }
        if found != held.saturating_add(1) {
            return Err(Refusal::SkippedRoot { found, held });
        }
        if let Some(unsigned) = self.unsigned(Kind::TrustRoot, &by_old) {
            return Err(Refusal::Unsigned(Box::new(unsigned)));
        }
        let ring = KeyRing::of(&root);
        let by_new = ring.check(Kind::TrustRoot, &document.body, &document.signatures);
        if let Some(unsigned) = unsigned_under(&root, Kind::TrustRoot, &by_new) {
            return Err(Refusal::Unsigned(Box::new(unsigned)));
        }
        // Both roots' signatures travel on: the next one in line must check both as well.
        let mut all = by_old;
        all.good.extend(by_new.good);
        let met = [root_role(&self.root), root_role(&root)].concat();
        let root = Arc::new(verified(root, document, &all, &met));
        self.see_time(root.issued, wall);
        self.enforce(Arc::clone(&root), ring);
        Ok(Accepted::TrustRoot(root))
    }

    /// Puts the next root in force and holds everything against it once more. What its signers can no longer
    /// vouch for starts nothing and enrols nobody, and its counter begins anew: that is the way out when a
    /// thief ran a counter up. Stops stay: ending them takes a person.
    pub(super) fn enforce(&mut self, root: Arc<Verified<TrustRoot>>, ring: KeyRing) {
        self.chain.push(Arc::clone(&root));
        self.root = root;
        self.ring = ring;
        let mut reset = Vec::new();
        for (campaign, held) in std::mem::take(&mut self.plans) {
            let met = self.met(held.plan.document(), held.plan.issued, Reach::Selected(&held.plan.select));
            if met.is_empty() {
                reset.push(Counted::Plan(campaign.clone()));
            }
            self.plans.insert(campaign, HeldPlan { plan: held.plan, met: met.into() });
        }
        for (server, enrolment) in std::mem::take(&mut self.enrolments) {
            let reach = Reach::Server(enrolment.tier, &enrolment.site);
            if self.met(enrolment.document(), enrolment.issued, reach).is_empty() {
                self.servers.remove(&enrolment.key);
                reset.push(Counted::Enrolment(server));
            } else {
                self.enrolments.insert(server, enrolment);
            }
        }
        if let Some(list) = &self.revocation
            && self.met(list.document(), list.issued, Reach::Fleet).is_empty()
        {
            reset.push(Counted::Revocation);
        }
        let mut stop_floors = Vec::new();
        for (scope, stop) in &self.stops {
            let good =
                |document: &Arc<SignedDocument>, issued| !self.met(document, issued, Reach::Fleet).is_empty();
            let halt = stop.halt.as_ref().filter(|halt| good(halt.document(), halt.issued));
            let resume = stop.resume.as_ref().filter(|resume| good(resume.document(), resume.issued));
            let highest = halt.map(|halt| halt.sequence).max(resume.map(|resume| resume.sequence));
            stop_floors.push((Counted::Stop(scope.clone()), highest.map_or(0, |sequence| sequence.0)));
        }
        self.floors.extend(stop_floors);
        for (server, reap) in &self.reaps {
            let reach = self
                .machine_named(server)
                .map_or(Reach::Fleet, |machine| Reach::Server(machine.tier, &machine.site));
            if self.met(reap.document(), reap.issued, reach).is_empty() {
                reset.push(Counted::Reap(server.clone()));
            }
        }
        for (campaign, resume) in &self.pauses_ended {
            if self.met(resume.document(), resume.issued, Reach::Fleet).is_empty() {
                reset.push(Counted::Pauses(campaign.clone()));
            }
        }
        for counted in reset {
            self.floors.remove(&counted);
        }
    }

    fn accept_enrolment(&mut self, document: &SignedDocument, wall: WallTime) -> Result<Accepted, Refusal> {
        let (enrolment, met) = self.open::<Enrolment>(document)?;
        within(met, Kind::Enrolment, Reach::Server(enrolment.tier, &enrolment.site))?;
        let server = enrolment.server.clone();
        let held = self.enrolments.get(&server);
        let counted = Counted::Enrolment(server.clone());
        if let Newness::Same =
            self.newness(&counted, enrolment.sequence.0, held.map(|held| held.hash()), enrolment.hash())?
        {
            return Ok(Accepted::Known);
        }
        self.check_machine(&enrolment)?;
        if held.is_none() && self.enrolments.len() >= MACHINES_MAX {
            return Err(Refusal::Full { what: "machine", max: MACHINES_MAX });
        }
        let enrolment = Arc::new(enrolment);
        if let Some(replaced) = self.enrolments.insert(server.clone(), Arc::clone(&enrolment)) {
            self.servers.remove(&replaced.key);
        }
        self.servers.insert(enrolment.key, server);
        self.take(counted, enrolment.sequence.0, enrolment.issued, wall);
        Ok(Accepted::Enrolment(enrolment))
    }

    pub(super) fn check_machine(&self, enrolment: &Enrolment) -> Result<(), Refusal> {
        if self.revoked.contains(&enrolment.key) {
            return Err(Refusal::Revoked { server: enrolment.server.clone(), key: enrolment.key });
        }
        match self.servers.get(&enrolment.key) {
            Some(holder) if *holder != enrolment.server => Err(Refusal::KeyTaken {
                key: enrolment.key,
                server: enrolment.server.clone(),
                holder: holder.clone(),
            }),
            _ => Ok(()),
        }
    }

    fn accept_revocation(&mut self, document: &SignedDocument, wall: WallTime) -> Result<Accepted, Refusal> {
        let (list, _) = self.open::<Revocation>(document)?;
        let held = self.revocation.as_ref().map(|held| held.hash());
        if let Newness::Same = self.newness(&Counted::Revocation, list.sequence.0, held, list.hash())? {
            return Ok(Accepted::Known);
        }
        let list = Arc::new(list);
        self.revoked = list.keys.iter().copied().collect();
        self.revocation = Some(Arc::clone(&list));
        self.take(Counted::Revocation, list.sequence.0, list.issued, wall);
        Ok(Accepted::Revocation(list))
    }

    fn accept_plan(&mut self, document: &SignedDocument, wall: WallTime) -> Result<Accepted, Refusal> {
        let (plan, met) = self.open::<Plan>(document)?;
        let met = within(met, Kind::Plan, Reach::Selected(&plan.select))?;
        if !plan.signers().contains(&plan.author) {
            return Err(Refusal::AuthorDidNotSign { author: plan.author.clone() });
        }
        let counted = Counted::Plan(plan.campaign.clone());
        let held = self.plans.get(&plan.campaign).map(|held| held.plan.hash());
        if let Newness::Same = self.newness(&counted, plan.generation.0, held, plan.hash())? {
            return Ok(Accepted::Known);
        }
        if held.is_none() && self.plans.len() >= CAMPAIGNS_KEPT_MAX {
            self.make_room_for_a_plan(wall)?;
        }
        let plan = Arc::new(plan);
        self.plans.insert(plan.campaign.clone(), HeldPlan { plan: Arc::clone(&plan), met: met.into() });
        self.take(counted, plan.generation.0, plan.issued, wall);
        Ok(Accepted::Plan(plan))
    }

    /// Forgets the plan that expired first. Its generation stays known, so that it cannot come back.
    fn make_room_for_a_plan(&mut self, wall: WallTime) -> Result<(), Refusal> {
        let now = self.trusted_time(wall);
        let oldest = self.plans.values().map(|held| &held.plan).min_by_key(|plan| plan.expires);
        match oldest.filter(|plan| plan.expires < now).map(|plan| plan.campaign.clone()) {
            Some(campaign) => {
                self.plans.remove(&campaign);
                Ok(())
            }
            None => Err(Refusal::Full { what: "campaign's plan", max: CAMPAIGNS_KEPT_MAX }),
        }
    }

    fn accept_halt(&mut self, document: &SignedDocument, wall: WallTime) -> Result<Accepted, Refusal> {
        let (halt, _) = self.open::<Halt>(document)?;
        let counted = Counted::Stop(halt.campaign.clone());
        let stop = self.stops.get(&halt.campaign);
        let known = stop.and_then(|stop| stop.halt.as_ref());
        if known.is_some_and(|known| known.hash() == halt.hash()) {
            return Ok(Accepted::Known);
        }
        let highest = self.floors.get(&counted).copied().unwrap_or(0);
        check_number(&counted, halt.sequence.0, highest)?;
        // A tie with a resume is a halt: people who see smoke do not know each other's numbers. A tie with
        // another halt changes nothing: the scope is halted.
        if halt.sequence.0 == highest && known.is_some_and(|known| known.sequence == halt.sequence) {
            return Ok(Accepted::Known);
        }
        if stop.is_none() && halt.campaign.is_some() && self.stops.len() >= HALT_SCOPES_MAX {
            return Err(Refusal::Full {
                what: "campaign's halt (halt the whole fleet instead)",
                max: HALT_SCOPES_MAX,
            });
        }
        let halt = Arc::new(halt);
        let stop = self.stops.entry(halt.campaign.clone()).or_default();
        stop.halt = Some(Arc::clone(&halt));
        stop.halted = true;
        self.take(counted, halt.sequence.0, halt.issued, wall);
        Ok(Accepted::Halt(halt))
    }

    fn accept_resume(&mut self, document: &SignedDocument, wall: WallTime) -> Result<Accepted, Refusal> {
        let (resume, met) = self.open::<Resume>(document)?;
        if let Some(campaign) = resume.campaign.clone().filter(|_| !resume.pauses.is_empty()) {
            return self.accept_resume_of_pauses(campaign, resume, &met, wall);
        }
        let counted = Counted::Stop(resume.campaign.clone());
        let stop = self.stops.get(&resume.campaign);
        if stop.and_then(|stop| stop.resume.as_ref()).is_some_and(|known| known.hash() == resume.hash()) {
            return Ok(Accepted::Known);
        }
        let highest = self.floors.get(&counted).copied().unwrap_or(0);
        check_number(&counted, resume.sequence.0, highest)?;
        if resume.sequence.0 == highest {
            return match stop.and_then(Stop::in_force) {
                Some(halt) => Err(Refusal::Conflict { what: counted, number: highest, known: halt.hash() }),
                None => Ok(Accepted::Known),
            };
        }
        self.check_resumes_now(&resume, &met, wall)?;
        if stop.is_none() && resume.campaign.is_some() && self.stops.len() >= HALT_SCOPES_MAX {
            return Err(Refusal::Full { what: "campaign's resume", max: HALT_SCOPES_MAX });
        }
        let resume = Arc::new(resume);
        let stop = self.stops.entry(resume.campaign.clone()).or_default();
        stop.resume = Some(Arc::clone(&resume));
        stop.halted = false;
        self.take(counted, resume.sequence.0, resume.issued, wall);
        Ok(Accepted::Resume(resume))
    }

    /// It is numbered by itself and touches no halt, so that a halt on its way counts whatever came before it.
    fn accept_resume_of_pauses(
        &mut self,
        campaign: CampaignId,
        resume: Verified<Resume>,
        met: &[TrustRole],
        wall: WallTime,
    ) -> Result<Accepted, Refusal> {
        let counted = Counted::Pauses(campaign.clone());
        let held = self.pauses_ended.get(&campaign).map(|held| held.hash());
        if let Newness::Same = self.newness(&counted, resume.sequence.0, held, resume.hash())? {
            return Ok(Accepted::Known);
        }
        self.check_resumes_now(&resume, met, wall)?;
        if held.is_none() && self.pauses_ended.len() >= HALT_SCOPES_MAX {
            return Err(Refusal::Full { what: "campaign's resume of pauses", max: HALT_SCOPES_MAX });
        }
        let resume = Arc::new(resume);
        self.pauses_ended.insert(campaign, Arc::clone(&resume));
        self.take(counted, resume.sequence.0, resume.issued, wall);
        Ok(Accepted::Resume(resume))
    }

    /// A resume that was kept back, or whose signers may not sign any more, resumes nothing.
    fn check_resumes_now(&self, resume: &Resume, met: &[TrustRole], wall: WallTime) -> Result<(), Refusal> {
        let now = self.trusted_time(wall);
        if now > resume.expires {
            return Err(Refusal::ResumeExpired { expired: resume.expires, now });
        }
        if met.iter().all(|role| role.valid_until.is_some_and(|until| now > until)) {
            let (kind, role) = (Kind::Resume, Kind::Resume.role());
            return Err(Refusal::OutOfValidity { kind, role, issued: resume.issued });
        }
        Ok(())
    }

    fn accept_reap(&mut self, document: &SignedDocument, wall: WallTime) -> Result<Accepted, Refusal> {
        let (reap, met) = self.open::<Reap>(document)?;
        match self.machine_named(&reap.server) {
            Some(machine) => within(met, Kind::Reap, Reach::Server(machine.tier, &machine.site)).map(drop)?,
            None if met.iter().any(|role| Reach::Fleet.within(role)) => {}
            None => return Err(Refusal::UnknownServer { server: reap.server.clone() }),
        }
        let counted = Counted::Reap(reap.server.clone());
        let held = self.reaps.get(&reap.server).map(|held| held.hash());
        if let Newness::Same = self.newness(&counted, reap.sequence.0, held, reap.hash())? {
            return Ok(Accepted::Known);
        }
        if held.is_none() && self.reaps.len() >= MACHINES_MAX {
            return Err(Refusal::Full { what: "server's reap", max: MACHINES_MAX });
        }
        let reap = Arc::new(reap);
        self.reaps.insert(reap.server.clone(), Arc::clone(&reap));
        self.take(counted, reap.sequence.0, reap.issued, wall);
        Ok(Accepted::Reap(reap))
    }

    /// Authenticates, then parses. With the entries of the kind's role that the signatures meet.
    pub(super) fn open<T: Document>(
        &self,
        document: &SignedDocument,
    ) -> Result<(Verified<T>, Vec<TrustRole>), Refusal> {
        bounded(document)?;
        let found = self.ring.check(T::KIND, &document.body, &document.signatures);
        if let Some(unsigned) = unsigned_under(&self.root, T::KIND, &found) {
            return Err(Refusal::Unsigned(Box::new(unsigned)));
        }
        let content = T::parse(&document.body)?;
        self.check_fleet(&content)?;
        let issued = content.issued();
        let mut met: Vec<TrustRole> =
            self.signing_requirements(T::KIND).filter(|role| found.meet(role).is_some()).cloned().collect();
        met.retain(|role| valid_at(role, issued));
        if met.is_empty() {
            return Err(Refusal::OutOfValidity { kind: T::KIND, role: T::KIND.role(), issued });
        }
        Ok((verified(content, document, &found, &met), met))
    }

    /// The entries of the root in force that a document's signatures meet, for what it reaches.
    pub(super) fn met(
        &self,
        document: &SignedDocument,
        issued: WallTime,
        reach: Reach<'_>,
    ) -> Vec<TrustRole> {
        let found = self.ring.check(document.kind, &document.body, &document.signatures);
        self.signing_requirements(document.kind)
            .filter(|role| found.meet(role).is_some() && valid_at(role, issued) && reach.within(role))
            .cloned()
            .collect()
    }

    /// Those of the entries that were met which count now, and reach as far as the document does.
    pub(super) fn still<'a, T: Document>(
        &self,
        met: Vec<&'a TrustRole>,
        document: &T,
        reach: Reach<'_>,
        wall: WallTime,
    ) -> Result<Vec<&'a TrustRole>, Refusal> {
        let (kind, issued, now) = (T::KIND, document.issued(), self.trusted_time(wall));
        let role = met.first().map_or(kind.role(), |role| role.name);
        let is_valid =
            |role: &&TrustRole| valid_at(role, issued) && role.valid_until.is_none_or(|until| now <= until);
        let valid: Vec<&TrustRole> = met.into_iter().filter(is_valid).collect();
        if valid.is_empty() {
            return Err(Refusal::OutOfValidity { kind, role, issued });
        }
        within(valid, kind, reach)
    }

    pub(super) fn unsigned(&self, kind: Kind, found: &Signatures) -> Option<Unsigned> {
        unsigned_under(&self.root, kind, found)
    }

    pub(super) fn check_fleet<T: Document>(&self, content: &T) -> Result<(), Refusal> {
        if content.fleet() == self.fleet() {
            return Ok(());
        }
        let (found, wanted) = (content.fleet().clone(), self.fleet().clone());
        Err(Refusal::OtherFleet { kind: T::KIND, found, wanted })
    }

    fn newness(
        &self,
        counted: &Counted,
        found: u64,
        held: Option<DocumentHash>,
        hash: DocumentHash,
    ) -> Result<Newness, Refusal> {
        let highest = self.floors.get(counted).copied().unwrap_or(0);
        check_number(counted, found, highest)?;
        match held {
            _ if found > highest => Ok(Newness::New),
            Some(held) if held == hash => Ok(Newness::Same),
            // Taken once and forgotten since (an expired plan that made room): as good as known.
            None => Err(Refusal::Replayed { what: counted.clone(), found, highest }),
            Some(known) => Err(Refusal::Conflict { what: counted.clone(), number: found, known }),
        }
    }

    fn take(&mut self, counted: Counted, number: u64, issued: WallTime, wall: WallTime) {
        let floor = self.floors.entry(counted).or_default();
        assert!(number >= *floor, "a counter never goes back");
        *floor = number;
        self.see_time(issued, wall);
    }

    /// Believes a signed time, but not one that is absurdly far ahead of all else that is known: an operator's
    /// clock in the wrong year must not expire everything for ever.
    fn see_time(&mut self, issued: WallTime, wall: WallTime) {
        let believable = self.trusted_time(wall).0.saturating_add(ISSUED_AHEAD_S_MAX);
        self.time_floor = self.time_floor.max(issued.min(WallTime(believable)));
    }
}

pub(super) fn bounded(document: &SignedDocument) -> Result<(), Refusal> {
    let kind = document.kind;
    if document.body.len() > DOCUMENT_BYTES_MAX {
        return Err(Refusal::TooLong { kind, length: document.body.len() });
    }
    if document.signatures.len() > SIGNATURES_MAX {
        return Err(Refusal::TooManySignatures { kind, count: document.signatures.len() });
    }
    Ok(())
}

fn check_number(counted: &Counted, found: u64, highest: u64) -> Result<(), Refusal> {
    let what = || counted.clone();
    if found < highest {
        return Err(Refusal::Replayed { what: what(), found, highest });
    }
    if found - highest > COUNTER_JUMP_MAX {
        return Err(Refusal::Jumped { what: what(), found, highest });
    }
    Ok(())
}

/// Those of the met entries that reach as far as the document does.
fn within<R: Borrow<TrustRole>>(met: Vec<R>, kind: Kind, reach: Reach<'_>) -> Result<Vec<R>, Refusal> {
    let role = met.first().map_or(kind.role(), |role| role.borrow().name);
    let reaching: Vec<R> = met.into_iter().filter(|role| reach.within(role.borrow())).collect();
    if reaching.is_empty() { Err(Refusal::OutOfScope { kind, role }) } else { Ok(reaching) }
}

fn valid_at(role: &TrustRole, issued: WallTime) -> bool {
    role.valid_from.is_none_or(|from| from <= issued) && role.valid_until.is_none_or(|until| issued <= until)
}

/// Signed by those who hold one of the entries that were met.
pub(super) fn verified<T>(
    content: T,
    document: &SignedDocument,
    found: &Signatures,
    met: &[TrustRole],
) -> Verified<T> {
    let signers = met.iter().filter_map(|role| found.meet(role)).flatten().collect();
    signed_by(content, document, found, signers)
}

/// The document with its good signatures only: what does not count is not kept, and not passed on.
pub(super) fn signed_by<T>(
    content: T,
    document: &SignedDocument,
    found: &Signatures,
    signers: BTreeSet<KeyName>,
) -> Verified<T> {
    let signatures = found.good.values().map(|good| good.armoured.clone()).collect();
    let document = SignedDocument { kind: document.kind, body: document.body.clone(), signatures };
    Verified::new(content, signers, Arc::new(document))
}

fn root_role(root: &TrustRoot) -> Vec<TrustRole> {
    root.roles.iter().filter(|role| role.name == RoleName::Root).cloned().collect()
}

/// `None` if some entry of the kind's role is met; else what is missing.
pub(super) fn unsigned_under(root: &TrustRoot, kind: Kind, found: &Signatures) -> Option<Unsigned> {
    let met =
        root.roles.iter().filter(|role| role.name == kind.role()).any(|role| found.meet(role).is_some());
    (!met).then(|| describe_unsigned(root, kind, found))
}

/// What is missing for the entry that is nearest to being met.
pub(super) fn describe_unsigned(root: &TrustRoot, kind: Kind, found: &Signatures) -> Unsigned {
    describe_unsigned_as(root, kind, kind.role(), found)
}

/// The same, where the content says which role it takes.
pub(super) fn describe_unsigned_as(
    root: &TrustRoot,
    kind: Kind,
    name: RoleName,
    found: &Signatures,
) -> Unsigned {
    let missing = |role: &&TrustRole| {
        role.threshold.saturating_sub(u32::try_from(found.counted(role).len()).unwrap_or(u32::MAX))
    };
    let nearest = root.roles.iter().filter(|role| role.name == name).min_by_key(missing);
    let have: Vec<KeyName> = nearest
        .iter()
        .flat_map(|role| {
            found
                .counted(role)
                .into_iter()
                .filter_map(|good| good.names.intersection(&role.keys).next().cloned())
        })
        .collect();
    let mut defects: Vec<(usize, SignatureDefect)> = found.defects.clone();
    defects.extend(nearest.iter().flat_map(|role| found.uncounted(role)).map(|defect| (0, defect)));
    let signed = found.names();
    Unsigned {
        kind,
        role: name,
        root_version: root.version,
        have,
        need: nearest.map_or(1, |role| role.threshold),
        could: nearest.iter().flat_map(|role| role.keys.difference(&signed)).cloned().collect(),
        defects,
    }
}
