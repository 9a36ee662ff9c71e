//! The network half's end of the socket.
//!
//! Owns one connection, made when it is needed and made again when it broke. Main invariant: a question has
//! one answer or an error within a bounded time; a question whose connection broke is asked once more, which
//! is harmless because every request may be repeated. Refuses to keep state: the applier does.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use lunar_agent_core::applier::protocol::{REPLY_BYTES_MAX, Reply, Request};
use lunar_agent_core::input::ApplierStatus;
use lunar_common::document::SignedDocument;
use lunar_common::ids::DocumentHash;
use lunar_common::trust::TrustState;
use lunar_common::wire::WireError;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::frames;

/// Longest wait for an answer. The applier answers at once, after at most one write to its store.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A client of the applier.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    stream: Option<UnixStream>,
    /// The documents that were handed over on this connection, taken or refused: they are not offered again
    /// before anything changes.
    settled: Vec<DocumentHash>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens, or this user may not connect.
    #[error("cannot reach the applier at {socket}: is lunar-applier running, and is this its `allowed_uid`?")]
    Connect {
        /// Where.
        socket: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The connection broke, twice.
    #[error("the connection to the applier broke")]
    Broken(#[source] io::Error),
    /// No answer in time.
    #[error("the applier did not answer within {} s", ANSWER_WITHIN.as_secs())]
    Silent,
    /// The question cannot be encoded, or the answer cannot be read.
    #[error("the applier and this agent do not understand each other: are they of one version?")]
    Wire(#[from] WireError),
    /// An answer to something else.
    #[error("the applier answered something that was not asked")]
    Mismatch,
    /// The applier could not read the question.
    #[error("the applier could not read the request: {reason}")]
    Unreadable {
        /// Why, in its words.
        reason: String,
    },
    /// The applier belongs to another server.
    #[error("the applier works for {0}: its configuration names another enrolment")]
    OtherServer(lunar_common::ids::ServerId),
}

impl Client {
    /// A client for the applier at this socket. Connects when first asked.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, stream: None, settled: Vec::new() }
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn ask(&mut self, request: &Request) -> Result<Reply, ClientError> {
        let bytes = request.encode()?;
        let answered = timeout(ANSWER_WITHIN, self.exchange(&bytes)).await;
        let reply = match answered {
            Ok(reply) => reply?,
            Err(_) => {
                // What comes later would be taken for the answer to the next question.
                self.stream = None;
                return Err(ClientError::Silent);
            }
        };
        match Reply::decode(&reply)? {
            Reply::Unreadable { reason } => {
                self.stream = None;
                Err(ClientError::Unreadable { reason })
            }
            reply @ (Reply::Hello { .. } | Reply::Document { .. } | Reply::Status(_)) => Ok(reply),
        }
    }

    /// Asks for something that is answered by a status.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status(&mut self, request: &Request) -> Result<ApplierStatus, ClientError> {
        match self.ask(request).await? {
            Reply::Status(status) => Ok(status),
            Reply::Hello { .. } | Reply::Document { .. } | Reply::Unreadable { .. } => {
                Err(ClientError::Mismatch)
            }
        }
    }

    /// Passes every document on that the applier lacks: call it before every question that rests on them. One
    /// that it refused is offered again once what people signed has changed, since that may be why. Returns
    /// those that it refused now, with its words.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn pass_on(
        &mut self,
        trust: &TrustState,
        server: &lunar_common::ids::ServerId,
    ) -> Result<Vec<(DocumentHash, String)>, ClientError> {
        let mut have = match self.ask(&Request::Hello).await? {
            Reply::Hello { server: theirs, documents } if theirs == *server => documents,
            Reply::Hello { server: theirs, .. } => return Err(ClientError::OtherServer(theirs)),
            Reply::Document { .. } | Reply::Status(_) | Reply::Unreadable { .. } => {
                return Err(ClientError::Mismatch);
            }
        };
        let own = trust.machine_named(server).map(|own| own.document().as_ref().clone());
        let mut held: Vec<DocumentHash> = trust.documents().iter().map(|document| document.hash()).collect();
        held.extend(own.iter().map(|own| own.hash()));
        if self.settled == held {
            return Ok(Vec::new());
        }
        let mut refused = Vec::new();
        loop {
            let missing = trust.missing_from(&have);
            if missing.is_empty() {
                break;
            }
            for document in missing {
                have.push(document.hash());
                refused.extend(self.document(document).await?);
            }
        }
        // Enrolments are not among what is offered to everyone; a renewed one of our own must reach it.
        if let Some(own) = own {
            refused.extend(self.document(own).await?);
        }
        self.settled = held;
        Ok(refused)
    }

    /// Passes one document on. `Some` if it was refused.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn document(
        &mut self,
        document: SignedDocument,
    ) -> Result<Option<(DocumentHash, String)>, ClientError> {
        let hash = document.hash();
        match self.ask(&Request::Document(document)).await? {
            Reply::Document { refused } => Ok(refused.map(|reason| (hash, reason))),
            Reply::Hello { .. } | Reply::Status(_) | Reply::Unreadable { .. } => Err(ClientError::Mismatch),
        }
    }

    /// Sends and receives, on the connection that there is or on a new one.
    async fn exchange(&mut self, bytes: &[u8]) -> Result<Vec<u8>, ClientError> {
        if let Some(stream) = self.stream.take() {
            // The applier may have been restarted since: that is found out here, and mended below.
            if let Ok(reply) = self.over(stream, bytes).await {
                return Ok(reply);
            }
        }
        // Another run of the applier may answer, with other documents.
        self.settled.clear();
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Connect { socket: self.socket.clone(), source })?;
        self.over(stream, bytes).await.map_err(ClientError::Broken)
    }

    async fn over(&mut self, mut stream: UnixStream, bytes: &[u8]) -> io::Result<Vec<u8>> {
        frames::write(&mut stream, bytes).await?;
        let reply = frames::read(&mut stream, REPLY_BYTES_MAX).await?;
        let reply = reply.ok_or(io::ErrorKind::UnexpectedEof)?;
        self.stream = Some(stream);
        Ok(reply)
    }
}
