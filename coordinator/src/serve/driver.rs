//! The dull loop: translate, call the core, hand what follows to the committer, arm the timer.
//!
//! Owns [`Driver`]. Main invariant: what an input led to is handed in as one turn: its events and, if documents
//! changed, the trust state, in one commit; and everything that leaves comes out behind that commit. Refuses to
//! decide: who may start is the core's, who may sign is the trust state's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lunar_common::bounds::{DOCUMENTS_PER_SYNC_MAX, GROUP_MEMBERS_MAX};
use lunar_common::curb::Curb;
use lunar_common::document::{Approval, Document, Kind, Reap, SignedDocument, Verified};
use lunar_common::enrolment::Enrolment;
use lunar_common::ids::PeerKey;
use lunar_common::message::{Gossip, Request, Response};
use lunar_common::time::Now;
use lunar_common::trust::{Accepted, Refusal, TrustState};
use lunar_common::wire::{self, Signed, SignedMessage};
use lunar_coordinator_core::Coordinator;
use lunar_coordinator_core::effect::Effect;
use lunar_coordinator_core::event::EventBody;
use lunar_coordinator_core::input::{InForce, Input, RequestId};
use lunar_host::exit::{Exit, Failure, OrExit};
use lunar_host::store::{StoreError, VALUE_BYTES_MAX, Write};
use lunar_host::{clock, documents, supervisor};
use lunar_transport::mesh::{GossipReceipt, Mesh, MeshEvent, Reply};
use lunar_transport::trust_gate::TrustGate;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::handle::{DocumentRefused, Look, Sight};
use super::outbox::{Outbox, Outgoing};
use super::{TRUST_KEY, store_failure};
use crate::committer::{Committer, Released};
use crate::event_log::EventLog;

/// Rounds of catching up with one newly met machine: at eight documents each, more than are ever kept.
const SYNC_ROUNDS_MAX: usize = 160;

/// How often the folder of enrolments is looked at. A file put there is found by its folder's time.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What became of an operator's document: whether it was new, or why it is refused.
pub type DocumentAnswer = Result<bool, DocumentRefused>;

/// An operator's document, and whoever waits for what becomes of it.
pub(crate) type Handed = (SignedDocument, oneshot::Sender<DocumentAnswer>);

/// What comes in.
pub(super) struct Incoming {
    pub(super) mesh: mpsc::Receiver<MeshEvent>,
    pub(super) documents: mpsc::Receiver<Handed>,
    pub(super) looks: mpsc::Receiver<Look>,
    /// Documents that were fetched from newly met machines.
    pub(super) found: mpsc::Receiver<SignedDocument>,
    pub(super) released: Released<Outgoing>,
    /// Whoever follows the log is told by it that more of it is durable.
    pub(super) told_committed: watch::Sender<()>,
}

/// Who handed a document over.
enum Source {
    Gossip(GossipReceipt),
    Peer(Reply),
    Operator(oneshot::Sender<DocumentAnswer>),
    /// Fetched, or found in a folder.
    Nobody,
}

pub(super) struct Driver {
    core: Coordinator,
    log: EventLog,
    trust: TrustState,
    me: Arc<Verified<Enrolment>>,
    gate: Arc<TrustGate>,
    mesh: Mesh,
    committer: Committer<Outgoing>,
    found: mpsc::Sender<SignedDocument>,
    enrolments: Enrolments,
    /// Requests that the core has not answered yet.
    waiting: BTreeMap<RequestId, Reply>,
    next_request: u64,
    /// What this turn leads to, beside the core's effects.
    leaving: Vec<Outgoing>,
    trust_changed: bool,
    /// Machines that are members no more by this turn's documents.
    out: Vec<PeerKey>,
}

struct Enrolments {
    folder: PathBuf,
    seen: Option<SystemTime>,
}

impl Driver {
    #[expect(clippy::too_many_arguments, reason = "one caller, which has just made them all")]
    pub(super) fn new(
        core: Coordinator,
        log: EventLog,
        trust: TrustState,
        me: Arc<Verified<Enrolment>>,
        gate: Arc<TrustGate>,
        mesh: Mesh,
        committer: Committer<Outgoing>,
        found: mpsc::Sender<SignedDocument>,
        enrolments: PathBuf,
    ) -> Self {
        let enrolments = Enrolments { seen: changed_at(&enrolments), folder: enrolments };
        let (waiting, leaving) = (BTreeMap::new(), Vec::new());
        Self {
            core,
            log,
            trust,
            me,
            gate,
            mesh,
            committer,
            found,
            enrolments,
            waiting,
            next_request: 0,
            leaving,
            // What the files added at this start is kept with the first turn.
            trust_changed: true,
            out: Vec::new(),
        }
    }

    /// Runs until `stop` ends, or something fails that must stop the program.
    pub(super) async fn run(
        mut self,
        mut incoming: Incoming,
        outbox: Outbox,
        stop: impl Future<Output = ()>,
    ) -> Result<(), Failure> {
        tokio::pin!(stop);
        let watchdog = supervisor::watchdog_interval();
        let mut alive_at = watchdog.map(|interval| Instant::now() + interval);
        let mut look_at = Instant::now() + LOOK_EVERY;
        let mut is_ready = false;
        let in_force = InForce::of(&self.trust);
        self.feed(Input::Started(in_force));
        self.hand_in().await?;
        loop {
            // Taken before anything new comes in: the committer must never wait for this loop while this loop
            // waits for the committer.
            while let Ok(released) = incoming.released.try_recv() {
                release(released, &outbox, &incoming.told_committed, &mut is_ready)?;
            }
            let deadline = self.core.poll_timeout().map(clock::instant_of);
            tokio::select! {
                // In this order: whoever only looks comes last, and so is turned away before a claim waits; and people's
                // documents, halts among them, come before whatever machines want.
                biased;
                () = &mut stop => break,
                // A failed commit closes the committer's ends too; this names the cause.
                released = incoming.released.recv() => match released {
                    Some(released) => release(released, &outbox, &incoming.told_committed, &mut is_ready)?,
                    None => return Err(ended("the committer")),
                },
                () = clock::sleep_until_some(deadline) => {
                    let now = self.now();
                    self.core.handle_timeout(now);
                }
                () = sleep_until(look_at) => {
                    self.look_for_enrolments();
                    look_at = Instant::now() + LOOK_EVERY;
                }
                () = clock::sleep_until_some(alive_at) => {}
                Some((document, reply)) = incoming.documents.recv() => self.handed(document, reply),
                event = incoming.mesh.recv() => match event {
                    Some(event) => self.mesh_event(event),
                    None => return Err(ended("the mesh")),
                },
                Some(document) = incoming.found.recv() => self.take_in(&document, Source::Nobody),
                Some(look) = incoming.looks.recv() => {
                    look(&Sight { core: &self.core, trust: &self.trust, now: self.now() });
                }
            }
            self.hand_in().await?;
            // Fed here, after a whole turn: a loop that is stuck in its work starves the watchdog.
            if let (Some(interval), Some(at)) = (watchdog, alive_at)
                && Instant::now() >= at
            {
                supervisor::alive();
                alive_at = Some(Instant::now() + interval);
            }
        }
        self.stop(incoming.released, &outbox).await
    }

    /// What was handed in is still committed and told; then the mesh is left.
    async fn stop(self, mut released: Released<Outgoing>, outbox: &Outbox) -> Result<(), Failure> {
        drop(self.committer);
        while let Some(released) = released.recv().await {
            released.map_err(store_failure)?.into_iter().for_each(|outgoing| outbox.send(outgoing));
        }
        self.mesh.shutdown().await;
        Ok(())
    }

    /// One turn's events and documents go to the disk together, and what rests on them comes out behind.
    async fn hand_in(&mut self) -> Result<(), Failure> {
        let mut events: Vec<EventBody> = Vec::new();
        let mut leaving: Vec<Outgoing> = Vec::new();
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                // One turn is one commit, so everything of it may wait for all of its events.
                Effect::Append(event) => events.push(event),
                Effect::Answer { request, answer } => {
                    let reply = self.waiting.remove(&request).expect("the core answers a request once");
                    leaving.push(Outgoing::Answer { reply, answer });
                }
                Effect::Push { to, key, grant } => leaving.push(Outgoing::Push { to, key, grant }),
                Effect::Announce { epoch } => leaving.push(Outgoing::Announce { epoch }),
            }
        }
        leaving.append(&mut self.leaving);
        let block = self.log.append(events, clock::wall()).or_exit(Exit::Internal)?;
        let mut writes = Vec::new();
        if std::mem::take(&mut self.trust_changed) {
            let snapshot = wire::encode(&self.trust.snapshot(), VALUE_BYTES_MAX).or_exit(Exit::Internal)?;
            writes.push(Write::put(TRUST_KEY, snapshot));
            let own = self.trust.machine(&self.me.key).unwrap_or(&self.me);
            self.gate.show(self.trust.clone(), SignedDocument::clone(own.document()));
            self.evict();
        }
        // Refused only after a failed commit, which the other end of the committer tells.
        let _ = self.committer.hand_in(block, writes, leaving).await;
        Ok(())
    }

    fn mesh_event(&mut self, event: MeshEvent) {
        match event {
            MeshEvent::Joined { enrolment, .. } => {
                tracing::debug!(server = %enrolment.server, site = %enrolment.site, "joined");
                let known = self.trust.machine(&enrolment.key);
                if known.is_none_or(|known| known.sequence < enrolment.sequence) {
                    self.take_in(enrolment.document(), Source::Nobody);
                }
                self.catch_up(enrolment.key);
            }
            MeshEvent::Left { peer } => tracing::debug!(peer = %format_args!("{peer:.16}"), "left"),
            MeshEvent::Gossip { message, receipt, .. } => match message {
                Gossip::Document(document) => self.take_in(&document, Source::Gossip(receipt)),
                Gossip::Presence(_) | Gossip::Coordinator { .. } => receipt.accept(),
            },
            MeshEvent::Request { from, request, reply } => self.request(&from, request, reply),
        }
    }

    fn request(&mut self, from: &Arc<Verified<Enrolment>>, request: Request, reply: Reply) {
        match request {
            Request::Claim(signed) => {
                self.machine_message(&signed, reply, |request, from, claim| Input::Claim {
                    request,
                    from,
                    claim,
                });
            }
            Request::Release(signed) => self.machine_message(&signed, reply, |request, from, release| {
                Input::Release { request, from, release }
            }),
            Request::Report(signed) => {
                self.machine_message(&signed, reply, |request, from, report| Input::Report {
                    request,
                    from,
                    report,
                });
            }
            Request::Sync { have } => reply.send(Response::Documents(self.trust.missing_from(&have))),
            Request::GroupMembers => reply.send(Response::Documents(self.group_members(from))),
            Request::Document(document) => self.take_in(&document, Source::Peer(reply)),
            Request::Grant(_) | Request::Group(_) => {
                reply.refuse("this is a coordinator: it is in no group and starts nothing");
            }
        }
    }

    fn machine_message<M: SignedMessage>(
        &mut self,
        signed: &Signed,
        reply: Reply,
        input: impl FnOnce(RequestId, PeerKey, M) -> Input,
    ) {
        match signed.open() {
            Ok(message) => {
                self.next_request += 1;
                let request = RequestId(self.next_request);
                self.waiting.insert(request, reply);
                self.feed(input(request, signed.signer, message));
            }
            Err(error) => reply.refuse(error.to_string()),
        }
    }

    fn group_members(&self, asker: &Enrolment) -> Vec<SignedDocument> {
        let Some(group) = &asker.group else { return Vec::new() };
        self.trust
            .machines()
            .filter(|machine| machine.group.as_ref() == Some(group) && machine.key != asker.key)
            .take(GROUP_MEMBERS_MAX)
            .map(|machine| SignedDocument::clone(machine.document()))
            .collect()
    }

    fn handed(&mut self, document: SignedDocument, reply: oneshot::Sender<DocumentAnswer>) {
        if document.kind == Kind::Reap
            && let Ok(reap) = Reap::parse(&document.body)
            && let Err(why) = self.core.reapable(&reap)
        {
            // Nothing to wait for; whoever asked may have gone.
            let _ = reply.send(Err(DocumentRefused::Reap(why)));
            return;
        }
        if document.kind == Kind::Approval
            && let Ok(approval) = Approval::parse(&document.body)
            && let Err(why) = self.core.approvable(&approval)
        {
            // Nothing to wait for; whoever asked may have gone.
            let _ = reply.send(Err(DocumentRefused::Approval(why)));
            return;
        }
        if document.kind == Kind::Curb
            && let Ok(curb) = Curb::parse(&document.body)
            && let Err(why) = self.core.curbable(&curb)
        {
            // Nothing to wait for; whoever asked may have gone.
            let _ = reply.send(Err(DocumentRefused::Curb(why)));
            return;
        }
        self.take_in(&document, Source::Operator(reply));
    }

    /// Cuts machines off that are members no more. The gate refuses them by now, so they cannot come back.
    fn evict(&mut self) {
        let out: Vec<PeerKey> = std::mem::take(&mut self.out)
            .into_iter()
            .filter(|key| self.trust.machine(key).is_none())
            .collect();
        if out.is_empty() {
            return;
        }
        tracing::info!(machines = out.len(), "machines that are members no more are cut off");
        let mesh = self.mesh.clone();
        tokio::spawn(async move {
            for key in out {
                mesh.evict(key).await;
            }
        });
    }

    /// Takes a document in, if the trust state does.
    fn take_in(&mut self, document: &SignedDocument, source: Source) {
        if matches!(document.kind, Kind::Approval | Kind::Curb) {
            return self.take_word(document, source);
        }
        // A new trust root says by its absence which machines are out.
        let members: Vec<PeerKey> = match document.kind {
            Kind::TrustRoot => self.trust.machines().map(|machine| machine.key).collect(),
            _ => Vec::new(),
        };
        let input = match self.trust.accept(document, clock::wall()) {
            Err(refusal) => {
                tracing::info!(kind = %document.kind, %refusal, "a document is refused");
                return self.refuse(source, refusal);
            }
            Ok(Accepted::Known) => return self.taken(source, false),
            Ok(Accepted::TrustRoot(_)) => {
                self.out.extend(members);
                Input::MembersChanged(InForce::of(&self.trust))
            }
            Ok(Accepted::Enrolment(enrolment)) => {
                // Another machine may have stood in this place until now.
                let before = self.core.server(&enrolment.server, self.now());
                self.out.extend(before.map(|server| server.member.key));
                Input::Enrolled(enrolment)
            }
            Ok(Accepted::Revocation(list)) => {
                self.out.extend(&list.keys);
                Input::MembersChanged(InForce::of(&self.trust))
            }
            Ok(Accepted::Plan(plan)) => Input::Plan(plan),
            Ok(Accepted::Halt(halt)) => Input::Halt(halt),
            Ok(Accepted::Resume(resume)) => Input::Resume(resume),
            Ok(Accepted::Reap(reap)) => Input::Reap(reap),
        };
        tracing::info!(kind = %document.kind, hash = %format_args!("{:.16}", document.hash()), "a document is taken in");
        self.trust_changed = true;
        self.feed(input);
        // Enrolments are shown by those they are about; a gossiped document goes on by its receipt.
        if document.kind != Kind::Enrolment && !matches!(source, Source::Gossip(_)) {
            self.leaving.push(Outgoing::Publish(Arc::new(document.clone())));
        }
        self.taken(source, true);
    }

    /// An approval or a curb is judged here, kept in the log, and goes no further.
    fn take_word(&mut self, document: &SignedDocument, source: Source) {
        let judged = match document.kind {
            Kind::Curb => self.trust.curb(document, clock::wall()).map(Input::Curb),
            _ => self.trust.approval(document, clock::wall()).map(Input::Approval),
        };
        match judged {
            Err(refusal) => {
                tracing::info!(kind = %document.kind, %refusal, "a document is refused");
                self.refuse(source, refusal);
            }
            Ok(input) => {
                tracing::info!(kind = %document.kind, hash = %format_args!("{:.16}", document.hash()), "a document is taken in");
                let passed_on = matches!(source, Source::Gossip(_));
                self.feed(input);
                self.taken(source, !passed_on);
            }
        }
    }

    fn taken(&mut self, source: Source, new: bool) {
        match source {
            Source::Gossip(receipt) if new => self.leaving.push(Outgoing::PassOn(receipt)),
            Source::Gossip(receipt) => receipt.ignore(),
            Source::Peer(reply) => self.leaving.push(Outgoing::Taken(reply)),
            Source::Operator(reply) => self.leaving.push(Outgoing::Told { reply, answer: Ok(new) }),
            Source::Nobody => {}
        }
    }

    fn refuse(&mut self, source: Source, refusal: Refusal) {
        match source {
            Source::Gossip(receipt) if refusal.blames_sender() => receipt.reject(),
            Source::Gossip(receipt) => receipt.ignore(),
            Source::Peer(reply) => reply.refuse(refusal.to_string()),
            // Whoever asked may have gone.
            Source::Operator(reply) => drop(reply.send(Err(DocumentRefused::Trust(refusal)))),
            Source::Nobody => {}
        }
    }

    /// Asks a newly met machine for the documents that passed while nobody could tell us.
    fn catch_up(&self, peer: PeerKey) {
        let (mesh, gate, found) = (self.mesh.clone(), self.gate.clone(), self.found.clone());
        tokio::spawn(async move {
            let mut have: Vec<_> = gate.trust().documents().iter().map(|document| document.hash()).collect();
            for _ in 0..SYNC_ROUNDS_MAX {
                let documents = match mesh.request(peer, Request::Sync { have: have.clone() }).await {
                    Ok(Response::Documents(documents)) => documents,
                    Ok(_) => return,
                    Err(error) => return tracing::debug!(%error, "not caught up with a machine"),
                };
                let last = documents.len() < DOCUMENTS_PER_SYNC_MAX;
                for document in documents {
                    have.push(document.hash());
                    if found.send(document).await.is_err() {
                        return;
                    }
                }
                if last {
                    return;
                }
            }
        });
    }

    fn look_for_enrolments(&mut self) {
        let changed = changed_at(&self.enrolments.folder);
        if changed == self.enrolments.seen {
            return;
        }
        self.enrolments.seen = changed;
        match documents::load_directory(&self.enrolments.folder, Kind::Enrolment) {
            Ok(files) => {
                for (_, document) in files {
                    self.take_in(&document, Source::Nobody);
                }
            }
            Err(error) => {
                // Half written, perhaps: looked at again.
                self.enrolments.seen = None;
                tracing::warn!(%error, "the enrolments cannot be read");
            }
        }
    }

    fn feed(&mut self, input: Input) {
        let now = self.now();
        self.core.handle(input, now);
    }

    /// The wall time is the trusted one: no clock set back lets an expired plan start anything.
    fn now(&self) -> Now {
        let now = clock::now();
        Now { wall: self.trust.trusted_time(now.wall), ..now }
    }
}

/// What is durable leaves.
fn release(
    released: Result<Vec<Outgoing>, StoreError>,
    outbox: &Outbox,
    told_committed: &watch::Sender<()>,
    is_ready: &mut bool,
) -> Result<(), Failure> {
    released.map_err(store_failure)?.into_iter().for_each(|outgoing| outbox.send(outgoing));
    told_committed.send_replace(());
    // The first commit is the start of this life: now it can promise something.
    if !std::mem::replace(is_ready, true) {
        supervisor::ready("running");
    }
    Ok(())
}

fn changed_at(folder: &std::path::Path) -> Option<SystemTime> {
    std::fs::metadata(folder).and_then(|metadata| metadata.modified()).ok()
}

fn ended(what: &str) -> Failure {
    Failure::new(Exit::Internal, anyhow::anyhow!("{what} has ended by itself"))
}
