//! Asking a running agent, from the command lines of both programs.
//!
//! Owns one question and its answer. Main invariant: it ends within a bounded time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lunar_common::bounds::MESSAGE_BYTES_MAX;
use tokio::net::UnixStream;

use super::{FrameError, LocalRequest, LocalResponse, RESPONSE_BYTES_MAX, receive, send};

/// Longest wait for an answer: an agent answers from memory, or after one durable write.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no agent answers at {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It listens and does not answer.
    #[error("the agent at {path} does not answer")]
    Silent {
        /// The socket.
        path: PathBuf,
    },
    /// Broken off.
    #[error("the agent at {path} broke off")]
    Frame {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: FrameError,
    },
}

/// Asks the agent behind a socket.
///
/// # Errors
/// [`ClientError`].
pub async fn ask(socket: &Path, request: &LocalRequest) -> Result<LocalResponse, ClientError> {
    let path = || socket.to_owned();
    let exchange = async {
        let mut stream = UnixStream::connect(socket)
            .await
            .map_err(|source| ClientError::Connect { path: path(), source })?;
        let broken = |source| ClientError::Frame { path: path(), source };
        send(&mut stream, request, MESSAGE_BYTES_MAX).await.map_err(broken)?;
        receive(&mut stream, RESPONSE_BYTES_MAX).await.map_err(broken)
    };
    match tokio::time::timeout(ANSWER_WITHIN, exchange).await {
        Ok(answer) => answer,
        Err(_) => Err(ClientError::Silent { path: path() }),
    }
}
