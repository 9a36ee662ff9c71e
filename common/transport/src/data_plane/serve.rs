//! Answering peers.
//!
//! Owns the serving side of every stream. Main invariants: a peer that passed the gate can make us hold at most
//! what the limits say; all bytes of frames and manifests pass the shaper; a reader that does not read loses
//! its place. Refuses to know where chunks lie: a [`ChunkSource`] does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use lunar_common::have_set::HaveSet;
use lunar_common::ids::ArtifactId;
use quinn::{Connection, RecvStream, SendStream};
use tokio::io::AsyncWriteExt;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, broadcast};
use tokio::time::{Instant, timeout};

use super::config::PlaneLimits;
use super::protocol::{
    ASK_BYTES_MAX, Ask, BUSY, HERE, NOT_HAVE, NOTE_BYTES_MAX, Note, read_message, write_message,
};
use super::shaper::Shaper;

/// Why a source cannot answer: the machine's trouble, not the asker's.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// What is served. The methods block: they are called on threads made for that.
pub trait ChunkSource: Send + Sync + 'static {
    /// What is here of an artifact; `None` without its manifest. Must not block: it is asked for often.
    fn have(&self, artifact: ArtifactId) -> Option<HaveSet>;

    /// An artifact's encoded manifest; `None` if it is not here.
    ///
    /// # Errors
    /// The machine's trouble.
    fn manifest(&self, artifact: ArtifactId) -> Result<Option<Vec<u8>>, SourceError>;

    /// A chunk's frame, verified; `None` if it is not here.
    ///
    /// # Errors
    /// The machine's trouble.
    fn frame(&self, artifact: ArtifactId, chunk: u32) -> Result<Option<Vec<u8>>, SourceError>;
}

/// What is being fetched of an artifact for others, as its swarm's core says it.
#[derive(Debug, Clone, Default)]
struct Fetching {
    /// Chunks that this machine is fetching.
    taking: Vec<u32>,
    /// Chunks of which was heard that others are fetching them, and until when that may be true.
    heard: Vec<(u32, Instant)>,
}

/// What all connections share.
pub(super) struct Service {
    pub(super) source: Arc<dyn ChunkSource>,
    pub(super) shaper: Option<Shaper>,
    notes: broadcast::Sender<(ArtifactId, Note)>,
    /// What is being fetched for others: whoever follows from now on must hear of it too, or it would fetch the same a
    /// second time.
    fetching: Mutex<BTreeMap<ArtifactId, Fetching>>,
    serving: Semaphore,
    waiting: Semaphore,
}

/// Bytes passed to the shaper at once: small beside a frame, so that several are interleaved evenly.
const SLICE_BYTES: usize = 32 * 1024;

/// How long one slice may wait for its reader. A round trip over Earth and then some.
const SLICE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long an asker may take to say what it wants.
const ASK_TIMEOUT: Duration = Duration::from_secs(20);

/// When a busy server may be asked again.
const BUSY_RETRY: Duration = Duration::from_secs(2);

/// Notes that a slow listener may be behind before it gets the whole have-set instead.
const NOTES_BEHIND_MAX: usize = 1024;

impl Service {
    pub(super) fn new(source: Arc<dyn ChunkSource>, limits: &PlaneLimits) -> Self {
        Self {
            source,
            shaper: limits.rate_bits_s.map(Shaper::new),
            notes: broadcast::channel(NOTES_BEHIND_MAX).0,
            fetching: Mutex::default(),
            serving: Semaphore::new(limits.serving_max),
            waiting: Semaphore::new(limits.waiting_max),
        }
    }

    /// Tells all listeners; nobody may listen.
    pub(super) fn announce(&self, artifact: ArtifactId, note: Note) {
        let _ = self.notes.send((artifact, note));
    }

    /// What is being fetched for others, from now on.
    pub(super) fn fetches(&self, artifact: ArtifactId, taking: Vec<u32>, heard: Vec<(u32, Duration)>) {
        let now = Instant::now();
        let heard: Vec<(u32, Instant)> = heard.into_iter().map(|(chunk, left)| (chunk, now + left)).collect();
        let mut all = self.fetching();
        if taking.is_empty() && heard.is_empty() {
            all.remove(&artifact);
        } else {
            all.insert(artifact, Fetching { taking, heard });
        }
    }

    fn fetching(&self) -> MutexGuard<'_, BTreeMap<ArtifactId, Fetching>> {
        // Each entry is replaced as a whole.
        self.fetching.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a listener must know before it hears of changes.
    fn state(&self, artifact: ArtifactId, takings: bool) -> Note {
        // In this order: a chunk that comes in between is told of once more as being here.
        let Fetching { taking, heard } =
            if takings { self.fetching().get(&artifact).cloned().unwrap_or_default() } else { Fetching::default() };
        let Some(have) = self.source.have(artifact) else { return Note::Nothing };
        let now = Instant::now();
        let left = |until: Instant| u32::try_from((until - now).as_millis()).unwrap_or(u32::MAX);
        let heard = heard.into_iter().filter(|(_, until)| *until > now);
        let heard: Vec<(u32, u32)> = heard.map(|(chunk, until)| (chunk, left(until))).collect();
        if taking.is_empty() && heard.is_empty() {
            return Note::HaveSet(have);
        }
        Note::Standing { have, taking, heard }
    }

    /// Answers a connection's streams until it is closed.
    pub(super) async fn serve(self: Arc<Self>, connection: Connection) {
        while let Ok((send, receive)) = connection.accept_bi().await {
            let service = self.clone();
            tokio::spawn(async move {
                if let Err(error) = service.answer(send, receive).await {
                    tracing::debug!(%error, "a stream of the data plane ended early");
                }
            });
        }
    }

    async fn answer(&self, mut send: SendStream, mut receive: RecvStream) -> Result<(), SourceError> {
        let ask = timeout(ASK_TIMEOUT, read_message::<Ask, _>(&mut receive, ASK_BYTES_MAX)).await??;
        see_the_end(&mut receive);
        match ask {
            Ask::Listen(artifact) => self.tell(artifact, false, &mut send).await,
            Ask::Follow(artifact) => self.tell(artifact, true, &mut send).await,
            Ask::Manifest(artifact) => {
                let source = self.source.clone();
                let manifest = tokio::task::spawn_blocking(move || source.manifest(artifact)).await??;
                self.send(manifest, &mut send).await
            }
            Ask::Chunk(artifact, chunk) => {
                let Ok(waiting) = self.waiting.try_acquire() else {
                    send.write_u8(BUSY).await?;
                    send.write_u32_le(u32::try_from(BUSY_RETRY.as_millis()).unwrap_or(u32::MAX)).await?;
                    return Ok(());
                };
                // An asker that gave up must not be read for, nor be sent to.
                let place = tokio::select! {
                    place = self.serving.acquire() => place?,
                    _ = send.stopped() => return Ok(()),
                };
                drop(waiting);
                let source = self.source.clone();
                let frame = tokio::task::spawn_blocking(move || source.frame(artifact, chunk)).await??;
                let sent = self.send(frame, &mut send).await;
                drop(place);
                sent
            }
        }
    }

    async fn send(&self, bytes: Option<Vec<u8>>, send: &mut SendStream) -> Result<(), SourceError> {
        let Some(bytes) = bytes else {
            send.write_u8(NOT_HAVE).await?;
            send.finish()?;
            return Ok(());
        };
        let mut head = vec![HERE];
        head.extend_from_slice(&u32::try_from(bytes.len())?.to_le_bytes());
        let (head, mut bytes) = (Bytes::from(head), Bytes::from(bytes));
        if let Some(shaper) = &self.shaper {
            send.write_chunk(head).await?;
            while !bytes.is_empty() {
                let slice = bytes.split_to(bytes.len().min(SLICE_BYTES));
                shaper.pass(slice.len()).await;
                timeout(SLICE_TIMEOUT, send.write_chunk(slice)).await??;
            }
        } else {
            // Head and body at once: written apart, the head would travel in a packet of its own.
            timeout(SLICE_TIMEOUT * 4, send.write_all_chunks(&mut [head, bytes])).await??;
        }
        send.finish()?;
        Ok(())
    }

    /// Tells a listener what is here, now and as it changes, until it has heard enough; with `takings` also what is being
    /// fetched for others.
    async fn tell(
        &self,
        artifact: ArtifactId,
        takings: bool,
        send: &mut SendStream,
    ) -> Result<(), SourceError> {
        // Listening begins before the have-set is taken, so that nothing falls between the two.
        let mut notes = self.notes.subscribe();
        // Ahead of all frames: what is rare must be known before it is asked for.
        send.set_priority(1)?;
        let mut next = Some(self.state(artifact, takings));
        loop {
            if let Some(note) = next.take() {
                timeout(SLICE_TIMEOUT, write_message(send, &note, NOTE_BYTES_MAX)).await??;
            }
            let note = tokio::select! {
                note = notes.recv() => note,
                _ = send.stopped() => return Ok(()),
            };
            next = match note {
                Ok((_, Note::Taking(_) | Note::Left(_))) if !takings => None,
                Ok((of, note)) => (of == artifact).then_some(note),
                Err(RecvError::Lagged(_)) => Some(self.state(artifact, takings)),
                Err(RecvError::Closed) => return Ok(()),
            };
        }
    }
}

/// Takes notice of a stream's end if it is here already, without waiting for it: a stream that is dropped before
/// its end was seen asks its sender to stop, and that is a packet and an answer for nothing.
pub(super) fn see_the_end(receive: &mut RecvStream) {
    // Whatever else is there is dropped with the stream.
    let _ = receive.read(&mut [0]).now_or_never();
}
