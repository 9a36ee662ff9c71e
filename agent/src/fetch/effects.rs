//! Carrying out what the swarm core asks for.
//!
//! Owns the translation of its effects into connections, streams and tasks. Main invariant: nothing here
//! waits; whatever does is a task that reports back.

use std::sync::Arc;

use lunar_agent_core::swarm::{Effect, Fetching, Input, Item, Outcome, RequestId};
use lunar_common::enrolment::Role;
use lunar_common::ids::{ArtifactId, PeerKey};
use lunar_common::manifest::Manifest;
use lunar_host::clock;
use lunar_transport::data_plane::{Distance, FetchError, Link, Note};

use super::driver::Driver;
use super::happened::Happened;
use crate::chunk_files::ChunkFiles;

impl Driver {
    /// Carries out every effect, in order.
    pub(super) fn carry_out(&mut self) {
        while let Some(artifact) = self.swarm.poll_fetching() {
            let Fetching { taking, heard } = self.swarm.fetching(artifact, clock::now());
            self.plane.fetches(artifact, taking, heard);
        }
        while let Some(effect) = self.swarm.poll_effect() {
            match effect {
                Effect::Connect { peer } => self.connect(peer),
                Effect::Disconnect { peer } => {
                    for link in self.links.remove(&peer).into_iter().flatten() {
                        link.close();
                    }
                }
                Effect::Subscribe { artifact, peer, takings } => self.listen(artifact, peer, takings),
                Effect::Unsubscribe { artifact } => self.listening.retain(|(listened, _), task| {
                    if *listened == artifact {
                        task.abort();
                    }
                    *listened != artifact
                }),
                Effect::Fetch { request, artifact, item, peer } => self.fetch(request, artifact, item, peer),
                Effect::Cancel { request } => {
                    if let Some(task) = self.requests.remove(&request) {
                        task.abort();
                    }
                }
                Effect::AnnounceHaves { artifact, chunks } => {
                    self.plane.announce(artifact, Note::Haves(chunks));
                }
                Effect::AnnounceTaking { artifact, chunk } => {
                    self.plane.announce(artifact, Note::Taking(chunk));
                }
                Effect::AnnounceLeft { artifact, chunk } => self.plane.announce(artifact, Note::Left(chunk)),
                Effect::Banned { peer, offence, until } => {
                    tracing::warn!(peer = %peer, ?offence, until_ms = until.0, "a peer is banned for a while");
                }
                Effect::Complete { artifact } => self.complete(artifact),
            }
        }
    }

    fn connect(&mut self, peer: PeerKey) {
        let Some(known) = self.known.get(&peer).filter(|known| !known.address.is_empty()) else {
            self.tell_swarm(Input::ConnectFailed { peer, full: false });
            return;
        };
        let distance = if known.role == Role::Origin { Distance::Earth } else { Distance::Near };
        let (plane, report, address) = (self.plane.clone(), self.report.clone(), known.address.clone());
        tokio::spawn(async move {
            let result = Box::new(plane.connect(peer, &address, distance).await);
            let _ = report.send(Happened::Dialled { peer, result }).await;
        });
    }

    fn link(&self, peer: &PeerKey) -> Option<Link> {
        self.links.get(peer)?.iter().find(|link| !link.is_closed()).cloned()
    }

    fn listen(&mut self, artifact: ArtifactId, peer: PeerKey, takings: bool) {
        let Some(link) = self.link(&peer) else { return };
        let report = self.report.clone();
        let task = tokio::spawn(async move {
            let Ok(mut subscription) = link.listen(artifact, takings).await else { return };
            loop {
                let note = subscription.next().await;
                let over = note.is_err();
                if report.send(Happened::Said { artifact, peer, note }).await.is_err() || over {
                    return;
                }
            }
        });
        if let Some(before) = self.listening.insert((artifact, peer), task.abort_handle()) {
            before.abort();
        }
    }

    fn fetch(&mut self, request: RequestId, artifact: ArtifactId, item: Item, peer: PeerKey) {
        let wanted = self.wanted.get(&artifact);
        let (Some(link), Some(wanted)) = (self.link(&peer), wanted) else {
            self.tell_swarm(Input::Answered { request, outcome: Outcome::Broken });
            return;
        };
        let report = self.report.clone();
        let task = match item {
            Item::Manifest => {
                let (files, bytes_max) = (self.files.clone(), wanted.manifest_bytes);
                tokio::spawn(async move {
                    let happened = fetch_manifest(&link, files, request, artifact, bytes_max).await;
                    let _ = report.send(happened).await;
                })
            }
            Item::Chunk(chunk) => {
                let of_chunk = |pack: &Arc<lunar_artifact::Pack>| {
                    pack.manifest().chunks.get(chunk as usize).map(|chunk| chunk.frame_bytes)
                };
                let frame_bytes = wanted
                    .pack
                    .as_ref()
                    .and_then(of_chunk)
                    .expect("chunks are fetched once the pack is open");
                tokio::spawn(async move {
                    let frame =
                        link.frame(artifact, chunk, frame_bytes).await.map_err(|error| outcome(&error));
                    let _ = report.send(Happened::Frame { artifact, request, chunk, frame }).await;
                })
            }
        };
        self.requests.insert(request, task.abort_handle());
    }

    fn complete(&mut self, artifact: ArtifactId) {
        let Some(pack) = self.wanted.get(&artifact).and_then(|wanted| wanted.pack.clone()) else { return };
        let report = self.report.clone();
        tokio::task::spawn_blocking(move || {
            let result = pack.complete();
            let _ = report.blocking_send(Happened::Completed { artifact, result });
        });
    }
}

/// Fetches a manifest, verifies it, and opens its pack.
async fn fetch_manifest(
    link: &Link,
    files: Arc<ChunkFiles>,
    request: RequestId,
    artifact: ArtifactId,
    bytes_max: usize,
) -> Happened {
    let ended = |outcome, opened| Happened::Manifest { artifact, request, outcome, opened };
    let bytes = match link.manifest(artifact, bytes_max).await {
        Ok(bytes) => bytes,
        Err(error) => return ended(outcome(&error), None),
    };
    let Ok(manifest) = Manifest::decode(&bytes, artifact) else { return ended(Outcome::Corrupt, None) };
    let good = Outcome::Good { bytes: bytes.len() as u64 };
    match tokio::task::spawn_blocking(move || files.begin(&manifest)).await {
        Ok(opened) => ended(good, Some(opened)),
        Err(_) => ended(Outcome::Broken, None),
    }
}

/// What a failed fetch means to the core. A wrong length is as corrupt as wrong bytes.
fn outcome(error: &FetchError) -> Outcome {
    match error {
        FetchError::NotHave => Outcome::NotHave,
        FetchError::Busy(retry_after) => Outcome::Busy { retry_after: *retry_after },
        FetchError::Length { .. } | FetchError::Status(_) => Outcome::Corrupt,
        FetchError::Broken(_) => Outcome::Broken,
    }
}
