//! How the rest of the program reaches the running loop.
//!
//! Owns [`Handle`]. Main invariant: whoever asks gets an answer or is told that the coordinator is stopping.

use lunar_common::document::SignedDocument;
use lunar_common::trust::Refusal;
use lunar_coordinator_core::Coordinator;
use tokio::sync::{mpsc, oneshot};

use super::driver::Ask;
use crate::event_log::LogReader;

/// The loop has ended, or is about to.
#[derive(Debug, thiserror::Error)]
#[error("the coordinator is stopping: ask again once it runs")]
pub struct Stopping;

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
}

/// The way to the loop, and to what is durable of the log.
#[derive(Clone)]
pub struct Handle {
    /// What is durable of the log.
    pub log: LogReader,
    pub(super) asks: mpsc::Sender<Ask>,
}

impl Handle {
    /// Looks at the core, between two turns.
    ///
    /// # Errors
    /// [`Stopping`].
    pub async fn ask<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Coordinator) -> T + Send + 'static,
    ) -> Result<T, Stopping> {
        let (reply, answer) = oneshot::channel();
        // Whoever asked may have gone before the loop looks.
        let look = move |core: &Coordinator| drop(reply.send(look(core)));
        self.asks.send(Ask::View(Box::new(look))).await.map_err(|_| Stopping)?;
        answer.await.map_err(|_| Stopping)
    }

    /// Hands a document over. Answers once it is durable: whether it was new.
    ///
    /// # Errors
    /// [`Stopping`]; inside, [`DocumentRefused`].
    pub async fn document(
        &self,
        document: SignedDocument,
    ) -> Result<Result<bool, DocumentRefused>, Stopping> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(Ask::Document(document, reply)).await.map_err(|_| Stopping)?;
        answer.await.map_err(|_| Stopping)
    }
}
