//! One connection to one peer that passed the gate.
//!
//! Owns [`Link`] and the asking side of every stream. Main invariant: an answer of another length than the
//! one that was announced by the manifest is refused before it is read.

use std::time::Duration;

use bytes::Bytes;
use lunar_common::ids::{ArtifactId, PeerKey};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::config::ping_interval;
use super::protocol::{
    ASK_BYTES_MAX, Ask, BUSY, HERE, NOT_HAVE, NOTE_BYTES_MAX, Note, ReadError, read_length, read_message,
    write_message,
};
use super::serve::see_the_end;
use crate::gate::Admitted;

/// Packets' worth of a stream taken up at once: about what arrives between two turns of the receiving task.
const PARTS_AT_ONCE: usize = 32;

/// One connection to one peer that passed the gate. Cheap to clone; any number of requests at once.
#[derive(Debug, Clone)]
pub struct Link {
    pub(super) connection: Connection,
    pub(super) key: PeerKey,
    pub(super) admitted: Admitted,
}

/// Why an item was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The peer says that it does not have it.
    #[error("the peer does not have it")]
    NotHave,
    /// The peer has too much to do.
    #[error("the peer is busy, and asks to be left alone for {0:?}")]
    Busy(Duration),
    /// The length is not the right one.
    #[error("the peer announced {announced} bytes instead of {wanted}")]
    Length {
        /// Bytes announced.
        announced: usize,
        /// Bytes wanted, or allowed.
        wanted: usize,
    },
    /// A status that does not exist.
    #[error("the peer answered with status {0}, which does not exist")]
    Status(u8),
    /// The stream or the connection broke.
    #[error("the connection broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl FetchError {
    fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Broken(error.into())
    }
}

impl Link {
    /// Who is at the other end, as TLS proved.
    #[must_use]
    pub fn key(&self) -> PeerKey {
        self.key
    }

    /// What it showed at the gate.
    #[must_use]
    pub fn admitted(&self) -> &Admitted {
        &self.admitted
    }

    /// Fetches a manifest of at most `bytes_max` bytes. It still has to be verified.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn manifest(&self, artifact: ArtifactId, bytes_max: usize) -> Result<Vec<u8>, FetchError> {
        self.fetch(Ask::Manifest(artifact), |announced| announced <= bytes_max, bytes_max).await
    }

    /// Fetches a chunk's frame of exactly `frame_bytes` bytes. It still has to be verified.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn frame(
        &self,
        artifact: ArtifactId,
        chunk: u32,
        frame_bytes: u32,
    ) -> Result<Vec<u8>, FetchError> {
        let wanted = frame_bytes as usize;
        self.fetch(Ask::Chunk(artifact, chunk), |announced| announced == wanted, wanted).await
    }

    /// Listens to what the peer has of an artifact; with `takings` also to what it is fetching for others.
    ///
    /// # Errors
    /// [`FetchError::Broken`].
    pub async fn listen(&self, artifact: ArtifactId, takings: bool) -> Result<Subscription, FetchError> {
        let ask = if takings { Ask::Follow(artifact) } else { Ask::Listen(artifact) };
        let (send, receive) = self.ask(ask).await?;
        Ok(Subscription { send, receive })
    }

    /// Ends the connection at once.
    pub fn close(&self) {
        self.connection.close(VarInt::from_u32(super::endpoint::CLOSED), b"");
    }

    /// Waits until the connection is down.
    pub async fn closed(&self) {
        self.connection.closed().await;
    }

    /// Whether the connection is down.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.connection.close_reason().is_some()
    }

    /// The connection's round trip time, as measured.
    #[must_use]
    pub fn round_trip(&self) -> Duration {
        self.connection.rtt()
    }

    async fn ask(&self, ask: Ask) -> Result<(SendStream, RecvStream), FetchError> {
        let (mut send, receive) = self.connection.open_bi().await.map_err(FetchError::broken)?;
        write_message(&mut send, &ask, ASK_BYTES_MAX).await.map_err(FetchError::broken)?;
        Ok((send, receive))
    }

    async fn fetch(
        &self,
        ask: Ask,
        allowed: impl Fn(usize) -> bool,
        wanted: usize,
    ) -> Result<Vec<u8>, FetchError> {
        // Nothing more is asked on this stream; finished at once, its end travels with the ask. The receiving half,
        // dropped when this future is, tells the peer to stop.
        let (mut send, mut receive) = self.ask(ask).await?;
        send.finish().map_err(FetchError::broken)?;
        match receive.read_u8().await.map_err(FetchError::broken)? {
            HERE => {}
            NOT_HAVE => return Err(FetchError::NotHave),
            BUSY => {
                let wait_ms = read_length(&mut receive).await.map_err(FetchError::broken)?;
                return Err(FetchError::Busy(Duration::from_millis(wait_ms.min(60_000).into())));
            }
            other => return Err(FetchError::Status(other)),
        }
        let announced = read_length(&mut receive).await.map_err(FetchError::broken)? as usize;
        if !allowed(announced) {
            return Err(FetchError::Length { announced, wanted });
        }
        // Gathered as it comes: filling a buffer with zeros first would touch every byte once more. Many packets'
        // worth at a time, for each look takes the connection's lock from the task that receives.
        let mut parts = [const { Bytes::new() }; PARTS_AT_ONCE];
        let mut bytes = Vec::with_capacity(announced);
        while bytes.len() < announced {
            let count = receive.read_chunks(&mut parts).await.map_err(FetchError::broken)?;
            let count = count.ok_or_else(|| FetchError::broken("the peer sent less than it announced"))?;
            for part in &parts[..count] {
                let wanted = part.len().min(announced - bytes.len());
                bytes.extend_from_slice(&part[..wanted]);
            }
        }
        see_the_end(&mut receive);
        Ok(bytes)
    }
}

/// What a peer says about one artifact, as it says it. Dropped, the peer stops.
#[derive(Debug)]
pub struct Subscription {
    send: SendStream,
    receive: RecvStream,
}

impl Subscription {
    /// The next note. Keeps the connection alive while it waits. Must be awaited to its end, not dropped in the
    /// middle: a message may be half read.
    ///
    /// # Errors
    /// [`ReadError`]: the subscription is over; a malformed or oversize note is the peer's fault.
    pub async fn next(&mut self) -> Result<Note, ReadError> {
        let Self { send, receive } = self;
        let mut ping = tokio::time::interval(ping_interval());
        ping.tick().await;
        let mut note = std::pin::pin!(read_message(receive, NOTE_BYTES_MAX));
        loop {
            tokio::select! {
                note = &mut note => return note,
                _ = ping.tick() => send.write_u8(0).await?,
            }
        }
    }
}
