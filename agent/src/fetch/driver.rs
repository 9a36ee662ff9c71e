//! The fetcher's loop.
//!
//! Owns the swarm core, the links and the open packs. Main invariant: the loop itself never waits for a peer or
//! a disk; whatever can be slow runs beside it and reports back, and effects leave in the order in which the
//! core gave them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::error::Error;
use std::sync::Arc;

use lunar_agent_core::swarm::{self, Input, Outcome, RequestId, Swarm};
use lunar_artifact::{Pack, PackError};
use lunar_common::enrolment::Role;
use lunar_common::ids::{ArtifactId, PeerKey, SiteId};
use lunar_common::message::BytesBySource;
use lunar_host::clock;
use lunar_transport::data_plane::{DataPlane, Link, Note, ReadError};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Duration, sleep};

use super::api::{FetchEvent, KnownPeer};
use super::happened::{Happened, word};
use crate::chunk_files::{ChunkFiles, Opened};

/// Reports not yet looked at. Helpers wait when it is full: that is what slows a fast network down to the disk.
const REPORTS_MAX: usize = 256;

/// Most machines whose address is remembered; a fleet has 10,000.
const PEERS_MAX: usize = 32_768;

/// How long to sleep with no deadline set.
const LONG: Duration = Duration::from_secs(3600);

/// What the handle asks for.
#[derive(Debug)]
pub(super) enum Command {
    Want { artifact: ArtifactId, manifest_bytes: u64 },
    Forget { artifact: ArtifactId },
    Peer(KnownPeer),
    PeerGone { key: PeerKey },
    Stop { done: oneshot::Sender<()> },
}

/// A wanted artifact.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) manifest_bytes: usize,
    pub(super) pack: Option<Arc<Pack>>,
    local_bytes: u64,
    told: Option<swarm::Progress>,
    complete: bool,
}

/// A machine that was made known.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) site: SiteId,
    pub(super) role: Role,
    pub(super) address: String,
    /// Site and role are those of the enrolment that it showed on the data plane, and not hearsay.
    proved: bool,
    artifacts: BTreeSet<ArtifactId>,
}

/// The fetcher's loop.
pub(super) struct Driver {
    pub(super) swarm: Swarm,
    pub(super) plane: DataPlane,
    pub(super) files: Arc<ChunkFiles>,
    pub(super) wanted: BTreeMap<ArtifactId, Wanted>,
    pub(super) known: BTreeMap<PeerKey, Known>,
    pub(super) links: BTreeMap<PeerKey, Vec<Link>>,
    pub(super) requests: BTreeMap<RequestId, AbortHandle>,
    pub(super) listening: BTreeMap<(ArtifactId, PeerKey), AbortHandle>,
    pub(super) report: mpsc::Sender<Happened>,
    reports: mpsc::Receiver<Happened>,
    events: mpsc::Sender<FetchEvent>,
    ends: VecDeque<FetchEvent>,
}

impl Driver {
    pub(super) fn new(
        tuning: swarm::Config,
        key: PeerKey,
        site: SiteId,
        plane: DataPlane,
        files: Arc<ChunkFiles>,
        events: mpsc::Sender<FetchEvent>,
    ) -> Self {
        let (report, reports) = mpsc::channel(REPORTS_MAX);
        Self {
            swarm: Swarm::new(tuning, key, site),
            plane,
            files,
            wanted: BTreeMap::new(),
            known: BTreeMap::new(),
            links: BTreeMap::new(),
            requests: BTreeMap::new(),
            listening: BTreeMap::new(),
            report,
            reports,
            events,
            ends: VecDeque::new(),
        }
    }

    /// Runs until told to stop, or until nobody is left to tell.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut incoming: mpsc::Receiver<Link>,
        mut damage: mpsc::Receiver<ArtifactId>,
    ) {
        let mut stopped = None;
        loop {
            let until = self.swarm.poll_timeout();
            let sleeps = until.map_or(LONG, |at| at.since(clock::moment()));
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Stop { done }) => {
                        stopped = Some(done);
                        break;
                    }
                    Some(command) => self.obey(command),
                    None => break,
                },
                Some(happened) = self.reports.recv() => self.learn(happened),
                Some(link) = incoming.recv() => self.linked(link),
                Some(artifact) = damage.recv() => self.mend(artifact),
                Ok(room) = self.events.clone().reserve_owned(), if !self.ends.is_empty() => {
                    if let Some(end) = self.ends.pop_front() {
                        room.send(end);
                    }
                }
                () = sleep(sleeps) => self.swarm.handle_timeout(clock::now()),
            }
            self.carry_out();
            self.tell_progress();
        }
        self.requests.values().chain(self.listening.values()).for_each(AbortHandle::abort);
        self.plane.close().await;
        if let Some(done) = stopped {
            // Whoever asked may have stopped waiting.
            let _ = done.send(());
        }
    }

    pub(super) fn tell_swarm(&mut self, input: Input) {
        self.swarm.handle(input, clock::now());
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Want { artifact, manifest_bytes } => self.want(artifact, manifest_bytes),
            Command::Forget { artifact } => self.forget(artifact),
            Command::Peer(peer) => self.meet(peer),
            Command::PeerGone { key } => {
                self.known.remove(&key);
                self.tell_swarm(Input::PeerGone { peer: key });
                for link in self.links.remove(&key).into_iter().flatten() {
                    link.close();
                }
            }
            Command::Stop { .. } => unreachable!("the loop ends before a stop is obeyed"),
        }
    }

    fn want(&mut self, artifact: ArtifactId, manifest_bytes: u64) {
        if let Some(wanted) = self.wanted.get_mut(&artifact) {
            // A next attempt waits to hear how far it is, though nothing new may ever come.
            wanted.told = None;
            if wanted.complete {
                let received = self.received(artifact);
                self.ends.push_back(FetchEvent::Complete { artifact, received });
            }
            return;
        }
        let bound = u64::try_from(lunar_common::bounds::MANIFEST_BYTES_MAX).unwrap_or(u64::MAX);
        let manifest_bytes = usize::try_from(manifest_bytes.min(bound)).unwrap_or(usize::MAX);
        let wanted = Wanted { manifest_bytes, pack: None, local_bytes: 0, told: None, complete: false };
        self.wanted.insert(artifact, wanted);
        let (files, report) = (self.files.clone(), self.report.clone());
        // What the disk holds is looked at before anybody is asked for anything.
        tokio::task::spawn_blocking(move || {
            let result = files.resume(artifact);
            // The fetcher has stopped when nobody takes reports.
            let _ = report.blocking_send(Happened::Resumed { artifact, result });
        });
    }

    fn forget(&mut self, artifact: ArtifactId) {
        self.wanted.remove(&artifact);
        self.tell_swarm(Input::Forget { artifact });
    }

    /// Stored bytes were found damaged: what is missing now is fetched again.
    fn mend(&mut self, artifact: ArtifactId) {
        let bound = self.wanted.get(&artifact).map(|wanted| wanted.manifest_bytes as u64);
        self.forget(artifact);
        self.want(artifact, bound.unwrap_or(lunar_common::bounds::MANIFEST_BYTES_MAX as u64));
    }

    fn meet(&mut self, peer: KnownPeer) {
        let KnownPeer { key, site, role, data_address, artifact } = peer;
        if self.known.len() >= PEERS_MAX && !self.known.contains_key(&key) {
            return;
        }
        let known = self.known.entry(key).or_insert_with(|| Known {
            site: site.clone(),
            role,
            address: String::new(),
            proved: false,
            artifacts: BTreeSet::new(),
        });
        known.address = data_address;
        if !known.proved {
            known.site = site;
            known.role = role;
        }
        let (site, origin) = (known.site.clone(), known.role == Role::Origin);
        if let Some(artifact) = artifact
            && known.artifacts.len() < lunar_common::bounds::ARTIFACTS_PER_PLAN_MAX * 4
        {
            known.artifacts.insert(artifact);
        }
        self.tell_swarm(Input::Peer { peer: key, site, origin });
        if let Some(artifact) = artifact {
            self.tell_swarm(Input::Member { artifact, peer: key });
        }
    }

    fn learn(&mut self, happened: Happened) {
        match happened {
            Happened::Resumed { artifact, result } => self.resumed(artifact, result),
            Happened::Dialled { peer, result } => match *result {
                Ok(link) => self.linked(link),
                Err(error) => {
                    let full = matches!(error, lunar_transport::data_plane::ConnectError::Full);
                    let cause = error.source().map(ToString::to_string);
                    tracing::info!(peer = %peer, %error, cause, "cannot connect to a peer");
                    self.tell_swarm(Input::ConnectFailed { peer, full });
                }
            },
            Happened::Down { peer } => self.down(peer),
            Happened::Said { artifact, peer, note } => self.said(artifact, peer, note),
            Happened::Manifest { artifact, request, outcome, opened } => {
                self.requests.remove(&request);
                self.tell_swarm(Input::Answered { request, outcome });
                match opened {
                    Some(Ok(opened)) => self.opened(artifact, opened),
                    Some(Err(error)) => self.fail(artifact, &error),
                    None => {}
                }
            }
            Happened::Frame { artifact, request, chunk, frame } => {
                self.requests.remove(&request);
                match frame {
                    Ok(frame) => self.write(artifact, request, chunk, frame),
                    Err(outcome) => self.tell_swarm(Input::Answered { request, outcome }),
                }
            }
            Happened::Written { artifact, request, bytes, result } => {
                self.written(artifact, request, bytes, result);
            }
            Happened::Completed { artifact, result } => self.completed(artifact, result),
        }
    }

    fn resumed(&mut self, artifact: ArtifactId, result: Result<Option<Opened>, PackError>) {
        let Some(wanted) = self.wanted.get(&artifact) else { return };
        let manifest_bytes = wanted.manifest_bytes as u64;
        match result {
            Ok(opened) => {
                self.tell_swarm(Input::Want { artifact, manifest_bytes });
                let of_this = |known: &&Known| known.artifacts.contains(&artifact);
                let members: Vec<PeerKey> =
                    self.known.iter().filter(|(_, known)| of_this(known)).map(|(key, _)| *key).collect();
                for peer in members {
                    self.tell_swarm(Input::Member { artifact, peer });
                }
                if let Some(opened) = opened {
                    self.opened(artifact, opened);
                }
            }
            Err(error) => self.fail(artifact, &error),
        }
    }

    fn opened(&mut self, artifact: ArtifactId, opened: Opened) {
        let Some(wanted) = self.wanted.get_mut(&artifact) else { return };
        let Opened { pack, local_bytes } = opened;
        let have = pack.have();
        let frame_bytes = pack.manifest().chunks.iter().map(|chunk| chunk.frame_bytes).collect();
        wanted.pack = Some(pack);
        wanted.local_bytes = local_bytes;
        self.plane.announce(artifact, Note::HaveSet(have.clone()));
        self.tell_swarm(Input::Opened { artifact, frame_bytes, have });
    }

    /// A connection is up, whoever dialled.
    fn linked(&mut self, link: Link) {
        let peer = link.key();
        let enrolment = link.admitted().enrolment.clone();
        let known = self.known.entry(peer).or_insert_with(|| Known {
            site: enrolment.site.clone(),
            role: enrolment.role,
            address: link.admitted().data_address.clone(),
            proved: true,
            artifacts: BTreeSet::new(),
        });
        // Place and role are the enrolment's, whatever the mesh said.
        known.site = enrolment.site.clone();
        known.role = enrolment.role;
        known.proved = true;
        let (report, watched) = (self.report.clone(), link.clone());
        tokio::spawn(async move {
            watched.closed().await;
            let _ = report.send(Happened::Down { peer }).await;
        });
        self.links.entry(peer).or_default().push(link);
        let origin = enrolment.role == Role::Origin;
        self.tell_swarm(Input::Peer { peer, site: enrolment.site.clone(), origin });
        self.tell_swarm(Input::Connected { peer });
    }

    fn down(&mut self, peer: PeerKey) {
        let Some(links) = self.links.get_mut(&peer) else { return };
        links.retain(|link| !link.is_closed());
        if links.is_empty() {
            self.links.remove(&peer);
            self.listening.retain(|(_, listened), task| {
                if *listened == peer {
                    task.abort();
                }
                *listened != peer
            });
            self.tell_swarm(Input::Disconnected { peer });
        }
    }

    fn said(&mut self, artifact: ArtifactId, peer: PeerKey, note: Result<Note, ReadError>) {
        match note {
            Ok(note) => self.tell_swarm(Input::Said { artifact, peer, word: word(note) }),
            // The connection broke, which is told separately; or the peer ended the stream.
            Err(ReadError::Stream(_)) => {
                self.listening.remove(&(artifact, peer));
            }
            Err(error @ (ReadError::TooLong { .. } | ReadError::Wire(_))) => {
                tracing::warn!(peer = %peer, %error, "a peer speaks nonsense and is cut off");
                self.listening.remove(&(artifact, peer));
                for link in self.links.get(&peer).into_iter().flatten() {
                    link.close();
                }
            }
        }
    }

    /// Verifies a frame and writes it, beside the loop.
    fn write(&mut self, artifact: ArtifactId, request: RequestId, chunk: u32, frame: Vec<u8>) {
        let Some(pack) = self.wanted.get(&artifact).and_then(|wanted| wanted.pack.clone()) else { return };
        let report = self.report.clone();
        tokio::task::spawn_blocking(move || {
            let result = pack.write_frame(chunk, &frame);
            let bytes = frame.len() as u64;
            let _ = report.blocking_send(Happened::Written { artifact, request, bytes, result });
        });
    }

    fn written(
        &mut self,
        artifact: ArtifactId,
        request: RequestId,
        bytes: u64,
        result: Result<Vec<u32>, PackError>,
    ) {
        match result {
            Ok(chunks) => {
                self.tell_swarm(Input::Answered { request, outcome: Outcome::Good { bytes } });
                // Content that repeats itself came with it; and the request may have been cancelled meanwhile.
                self.tell_swarm(Input::Found { artifact, chunks });
            }
            Err(PackError::Refused { .. }) => {
                self.tell_swarm(Input::Answered { request, outcome: Outcome::Corrupt });
            }
            Err(error) => self.fail(artifact, &error),
        }
    }

    fn completed(&mut self, artifact: ArtifactId, result: Result<(), PackError>) {
        match result {
            Ok(()) => {
                let Some(wanted) = self.wanted.get_mut(&artifact) else { return };
                wanted.complete = true;
                let received = self.received(artifact);
                self.ends.push_back(FetchEvent::Complete { artifact, received });
            }
            Err(error) => self.fail(artifact, &error),
        }
    }

    /// This server cannot keep an artifact.
    fn fail(&mut self, artifact: ArtifactId, error: &PackError) {
        let cause = error.source().map_or_else(String::new, |cause| format!(": {cause}"));
        let reason = format!("{error}{cause}");
        tracing::error!(%artifact, reason, "an artifact cannot be kept on this server");
        if self.wanted.contains_key(&artifact) {
            self.forget(artifact);
            self.ends.push_back(FetchEvent::Failed { artifact, reason });
        }
    }

    fn received(&self, artifact: ArtifactId) -> BytesBySource {
        let mut received =
            self.swarm.progress(artifact).map(|progress| progress.received).unwrap_or_default();
        let local = self.wanted.get(&artifact).map_or(0, |wanted| wanted.local_bytes);
        received.local = received.local.saturating_add(local);
        received
    }

    fn tell_progress(&mut self) {
        let wanted: Vec<ArtifactId> = self.wanted.keys().copied().collect();
        for artifact in wanted {
            let progress = self.swarm.progress(artifact);
            let Some(state) = self.wanted.get_mut(&artifact) else { continue };
            if state.told == progress {
                continue;
            }
            state.told = progress;
            if let Some(progress) = progress {
                let received = self.received(artifact);
                // Progress that nobody takes is replaced by the next.
                let _ = self.events.try_send(FetchEvent::Progress {
                    artifact,
                    chunks: progress.chunks,
                    received,
                });
            }
        }
    }
}
