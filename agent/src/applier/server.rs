//! The applier's end of the socket.
//!
//! Owns the listener and the one connection. Main invariant: only the configured user, the applier's own and
//! root are heard, by the credentials that the kernel gives; a newer connection replaces the older one, so that
//! a client that hangs locks nobody out. Refuses frames over their bound before reading them, and closes on
//! whatever it cannot read.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lunar_agent_core::applier::protocol::{REQUEST_BYTES_MAX, Reply, Request, cause};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::config::Config;
use super::frames;

/// Longest wait for the rest of a frame that began, and for a reply to be taken.
const FRAME_WITHIN: Duration = Duration::from_secs(10);

/// A request, and where its reply goes.
pub(super) struct Asked {
    pub(super) request: Request,
    pub(super) reply: oneshot::Sender<Reply>,
}

/// Listens on the configured socket. What a killed applier left there is replaced; a live one is not.
pub(super) fn listen(config: &Config) -> io::Result<UnixListener> {
    let path = &config.socket;
    remove_stale(path)?;
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    if let Some(uid) = config.allowed_uid.filter(|uid| *uid != nix::unistd::geteuid().as_raw()) {
        std::os::unix::fs::chown(path, Some(uid), None)?;
    }
    Ok(listener)
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is no socket is there"))
        }
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another program answers there")),
            Err(_) => std::fs::remove_file(path),
        },
    }
}

/// Serves connections for as long as anyone takes the requests.
pub(super) async fn serve(listener: UnixListener, config: Arc<Config>, asked: mpsc::Sender<Asked>) {
    let mut current: Option<tokio::task::JoinHandle<()>> = None;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: they come back when others close.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        match stream.peer_cred() {
            Ok(peer) if config.admits(peer.uid()) => {}
            Ok(peer) => {
                tracing::warn!(uid = peer.uid(), pid = peer.pid(), "a stranger was turned away");
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, "a connection without credentials was turned away");
                continue;
            }
        }
        if let Some(older) = current.take() {
            older.abort();
        }
        if asked.is_closed() {
            return;
        }
        let asked = asked.clone();
        current = Some(tokio::spawn(async move {
            if let Err(error) = converse(stream, asked, FRAME_WITHIN).await {
                tracing::debug!(%error, "the network half's connection ended");
            }
        }));
    }
}

async fn converse(
    mut stream: UnixStream,
    asked: mpsc::Sender<Asked>,
    frame_within: Duration,
) -> io::Result<()> {
    loop {
        // As long as it likes between two requests, but not within one. Only a byte that came tells that one has
        // begun: a socket's readiness may be left over from the request before.
        let Some(begun) = frames::begin(&mut stream).await? else { return Ok(()) };
        let frame = timeout(frame_within, frames::read_on(begun, &mut stream, REQUEST_BYTES_MAX)).await;
        let reason = match frame {
            Err(_) => "the request did not arrive whole in time".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Ok(Ok(bytes)) => match Request::decode(&bytes) {
                Err(error) => error.to_string(),
                Ok(request) => {
                    let (reply, answered) = oneshot::channel();
                    let gone = || io::Error::from(io::ErrorKind::ConnectionAborted);
                    asked.send(Asked { request, reply }).await.map_err(|_| gone())?;
                    send(&mut stream, answered.await.map_err(|_| gone())?).await?;
                    continue;
                }
            },
        };
        tracing::warn!(reason, "an unreadable request");
        return send(&mut stream, Reply::Unreadable { reason: cause(&reason) }).await;
    }
}

async fn send(stream: &mut UnixStream, reply: Reply) -> io::Result<()> {
    let bytes = reply.encode().map_err(io::Error::other)?;
    timeout(FRAME_WITHIN, frames::write(stream, &bytes)).await?
}

#[cfg(test)]
mod tests {
    use lunar_agent_core::applier::protocol::REPLY_BYTES_MAX;
    use lunar_agent_core::input::{ApplierStage, ApplierStatus};
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// The applier's end of a connection that waits for nothing that has begun, with a machine behind it that
    /// gives one answer to everything.
    fn connection() -> (UnixStream, tokio::task::JoinHandle<io::Result<()>>) {
        let (near, far) = UnixStream::pair().unwrap();
        let (asked, mut requests) = mpsc::channel::<Asked>(1);
        tokio::spawn(async move {
            while let Some(Asked { reply, .. }) = requests.recv().await {
                let _ = reply.send(answer());
            }
        });
        (near, tokio::spawn(converse(far, asked, Duration::ZERO)))
    }

    fn answer() -> Reply {
        Reply::Status(ApplierStatus { running: Vec::new(), stage: ApplierStage::Idle })
    }

    /// A request as it lies on the socket.
    fn request() -> Vec<u8> {
        let bytes = Request::Hello.encode().unwrap();
        [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes.as_slice()].concat()
    }

    async fn hear(stream: &mut UnixStream) -> Option<Reply> {
        let reply = frames::read(stream, REPLY_BYTES_MAX).await.unwrap()?;
        Some(Reply::decode(&reply).unwrap())
    }

    #[tokio::test]
    async fn a_connection_is_idle_between_two_requests_and_ends_in_silence() {
        let (mut stream, conversation) = connection();
        for _ in 0..3 {
            stream.write_all(&request()).await.unwrap();
            assert_eq!(hear(&mut stream).await, Some(answer()));
        }
        stream.shutdown().await.unwrap();
        assert_eq!(hear(&mut stream).await, None, "an idle connection was taken for a request that stopped");
        conversation.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_request_that_stops_half_way_is_told() {
        let (mut stream, conversation) = connection();
        let mut half = request();
        half.pop();
        stream.write_all(&half).await.unwrap();
        let Some(Reply::Unreadable { reason }) = hear(&mut stream).await else { panic!("nothing was told") };
        assert!(reason.contains("in time"), "{reason}");
        conversation.await.unwrap().unwrap();
    }
}
