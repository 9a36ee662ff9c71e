//! How the rest of the program reaches the running loop.
//!
//! Owns [`Handle`]. Main invariant: whoever asks gets an answer, or is told that the coordinator is stopping or too
//! busy. Looking and handing over go separate ways: however many look, a document finds its way, and the loop takes
//! machines' messages before it lets anybody look.

use std::time::Duration;

use lunar_common::document::SignedDocument;
use lunar_common::time::Now;
use lunar_common::trust::{Refusal, TrustState};
use lunar_coordinator_core::Coordinator;
use tokio::sync::{mpsc, oneshot};

use super::driver::Handed;
use crate::event_log::LogReader;

/// Longest wait for a look. Whoever has waited so long is told that the coordinator is busy, and looks again later.
const LOOK_WITHIN: Duration = Duration::from_secs(5);

/// Why nobody looked.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoLook {
    /// The loop has ended, or is about to.
    #[error("the coordinator is stopping: ask again once it runs")]
    Stopping,
    /// As many look already as may, or the loop has more urgent things to do.
    #[error("the coordinator has more urgent things to do: ask again in a moment")]
    Busy,
}

/// Why an operator's document was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum DocumentRefused {
    /// By the trust state.
    #[error(transparent)]
    Trust(Refusal),
    /// A reap that would free nothing.
    #[error("the reap would free nothing: {0}")]
    Reap(String),
    /// An approval that would change nothing.
    #[error("the approval would change nothing: {0}")]
    Approval(String),
    /// A curb that would change nothing.
    #[error("the curb would change nothing: {0}")]
    Curb(String),
}

/// What there is to look at, between two turns.
pub struct Sight<'a> {
    /// The core.
    pub core: &'a Coordinator,
    /// What people signed.
    pub trust: &'a TrustState,
    /// The trusted time.
    pub now: Now,
}

/// One look.
pub(crate) type Look = Box<dyn FnOnce(&Sight<'_>) + Send>;

/// The way to the loop, and to what is durable of the log.
#[derive(Clone)]
pub struct Handle {
    /// What is durable of the log.
    pub log: LogReader,
    pub(crate) looks: mpsc::Sender<Look>,
    pub(crate) documents: mpsc::Sender<Handed>,
}

impl Handle {
    /// Looks at the core, between two turns.
    ///
    /// # Errors
    /// [`NoLook`]. Never waits for a place among those that look.
    pub async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Sight<'_>) -> T + Send + 'static,
    ) -> Result<T, NoLook> {
        let (reply, answer) = oneshot::channel();
        // Whoever asked may have gone before the loop looks.
        let look = move |sight: &Sight<'_>| {
            if !reply.is_closed() {
                drop(reply.send(look(sight)));
            }
        };
        self.looks.try_send(Box::new(look)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NoLook::Busy,
            mpsc::error::TrySendError::Closed(_) => NoLook::Stopping,
        })?;
        match tokio::time::timeout(LOOK_WITHIN, answer).await {
            Ok(answer) => answer.map_err(|_| NoLook::Stopping),
            Err(_) => Err(NoLook::Busy),
        }
    }

    /// Hands a document over. Answers once it is durable: whether it was new.
    ///
    /// # Errors
    /// [`NoLook::Stopping`]; inside, [`DocumentRefused`].
    pub async fn document(&self, document: SignedDocument) -> Result<Result<bool, DocumentRefused>, NoLook> {
        let (reply, answer) = oneshot::channel();
        self.documents.send((document, reply)).await.map_err(|_| NoLook::Stopping)?;
        answer.await.map_err(|_| NoLook::Stopping)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lunar_common::document::Kind;
    use lunar_host::store::Store;

    use super::*;

    #[tokio::test]
    async fn whoever_looks_is_turned_away_when_many_look_and_a_document_still_finds_its_way() {
        let directory = tempfile::tempdir().unwrap();
        let log = LogReader::new(Arc::new(Store::open(directory.path()).unwrap()));
        let (looks, mut looking) = mpsc::channel(1);
        let (documents, mut handed) = mpsc::channel(1);
        let handle = Handle { log, looks, documents };
        // The one place is taken, and the loop does not come round to it.
        handle.looks.try_send(Box::new(|_| ())).unwrap();

        assert_eq!(handle.look(|_| ()).await, Err(NoLook::Busy));

        let halt = SignedDocument { kind: Kind::Halt, body: Vec::new(), signatures: Vec::new() };
        let handing = tokio::spawn({
            let handle = handle.clone();
            async move { handle.document(halt).await }
        });
        let (_, reply) = handed.recv().await.unwrap();
        reply.send(Ok(true)).unwrap();
        assert!(matches!(handing.await.unwrap(), Ok(Ok(true))));
        assert!(looking.try_recv().is_ok(), "the one that came first still waits for its turn");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waited_long_for_a_look_is_told_that_the_coordinator_is_busy() {
        let directory = tempfile::tempdir().unwrap();
        let log = LogReader::new(Arc::new(Store::open(directory.path()).unwrap()));
        let (looks, _looking) = mpsc::channel(1);
        let (documents, _handed) = mpsc::channel(1);

        assert_eq!(Handle { log, looks, documents }.look(|_| ()).await, Err(NoLook::Busy));
    }
}
