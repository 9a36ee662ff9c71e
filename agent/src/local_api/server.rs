//! Listening on the agent's own socket.
//!
//! Owns the listener and its connections. Main invariant: at most [`CONNECTIONS_MAX`] at once, each with a
//! time limit, so that a stuck client costs nothing. Refuses to answer by itself: the driver does.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lunar_common::bounds::MESSAGE_BYTES_MAX;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{FrameError, LocalRequest, LocalResponse, RESPONSE_BYTES_MAX, receive, send};

/// Clients at once: people and scripts on one server.
const CONNECTIONS_MAX: usize = 16;

/// How long a connection may last.
const CONNECTION_WITHIN: Duration = Duration::from_secs(30);

/// One question from this server, with the way to answer it.
#[derive(Debug)]
pub struct LocalCall {
    /// What is asked.
    pub request: LocalRequest,
    /// Answers it.
    pub reply: oneshot::Sender<LocalResponse>,
}

/// Listens on a socket that only this user and group may use. A socket left behind by a crash is replaced:
/// the directory's lock has shown that its agent is gone.
///
/// # Errors
/// The system's.
pub fn serve(path: &Path, calls: mpsc::Sender<LocalCall>) -> io::Result<JoinHandle<()>> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(tokio::spawn(accept(listener, calls)))
}

async fn accept(listener: UnixListener, calls: mpsc::Sender<LocalCall>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(permit) = room.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a local client could not be taken");
                // Out of file descriptors, most likely: give the others time to end.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let calls = calls.clone();
        tokio::spawn(async move {
            let _permit = permit;
            match tokio::time::timeout(CONNECTION_WITHIN, converse(stream, calls)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a local client broke off"),
                Err(_) => tracing::debug!("a local client took too long"),
            }
        });
    }
}

async fn converse(mut stream: UnixStream, calls: mpsc::Sender<LocalCall>) -> Result<(), FrameError> {
    let request = receive::<LocalRequest>(&mut stream, MESSAGE_BYTES_MAX).await?;
    let (reply, answer) = oneshot::channel();
    let answer = match calls.send(LocalCall { request, reply }).await {
        Ok(()) => answer.await.ok(),
        Err(_) => None,
    };
    let answer = answer.unwrap_or_else(|| LocalResponse::Refused { reason: "the agent is stopping".into() });
    send(&mut stream, &answer, RESPONSE_BYTES_MAX).await
}
