//! The agent's own socket: what a person on this server may ask, and hand over.
//!
//! Owns the framing: a big-endian u32 length, then the wire encoding; the words are `lunar_common::local`'s. Main invariant: a length
//! over its bound is refused before anything is allocated. Who may connect is the socket file's permissions';
//! a document handed over here passes the same gate as one from the mesh.

mod client;
mod server;

use std::io;

use lunar_agent_core::node::Status;
use lunar_common::bounds::SMALL_MESSAGE_BYTES_MAX;
use lunar_common::ids::{ServerId, SiteId};
use lunar_common::limits::Tier;
use lunar_common::wire::{self, WireError};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub use client::{ClientError, ask};
pub use lunar_common::local::LocalRequest;
pub use server::{LocalCall, serve};

/// Largest answer: a status names every campaign that ended here.
const RESPONSE_BYTES_MAX: usize = 16 * SMALL_MESSAGE_BYTES_MAX;

/// The answer, with this agent's words on itself.
pub type LocalResponse = lunar_common::local::LocalResponse<LocalStatus>;

/// What a running agent says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalStatus {
    /// Its server.
    pub server: ServerId,
    /// Its site.
    pub site: SiteId,
    /// Its tier.
    pub tier: Tier,
    /// Its program's version.
    pub version: String,
    /// Machines it is connected to.
    pub peers: u32,
    /// Coordinators among them.
    pub coordinators: Vec<ServerId>,
    /// The trust root's version in force.
    pub trust_root: u64,
    /// Where it is.
    pub node: Status,
}

/// Why a message did not come through.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// The bytes.
    #[error("the message is refused")]
    Wire(#[from] WireError),
}

async fn send<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
    bound: usize,
) -> Result<(), FrameError> {
    let bytes = wire::encode(message, bound)?;
    let length = u32::try_from(bytes.len()).expect("bounds of messages are far below 4 GiB");
    stream.write_u32(length).await?;
    stream.write_all(&bytes).await?;
    Ok(stream.flush().await?)
}

async fn receive<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    bound: usize,
) -> Result<T, FrameError> {
    let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    if length > bound {
        return Err(WireError::TooLong { length, bound }.into());
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(wire::decode(&bytes, bound)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lunar_common::bounds::MESSAGE_BYTES_MAX;

    #[tokio::test]
    async fn a_length_that_lies_is_refused_before_anything_is_allocated() {
        let mut bytes: &[u8] = &[0xff, 0xff, 0xff, 0xff, 1, 2, 3];
        let refused = receive::<LocalRequest>(&mut bytes, MESSAGE_BYTES_MAX).await;
        assert!(matches!(refused, Err(FrameError::Wire(WireError::TooLong { .. }))), "{refused:?}");
    }

    #[tokio::test]
    async fn a_request_is_answered_over_a_real_socket() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let (calls, mut waiting) = tokio::sync::mpsc::channel::<LocalCall>(1);
        let server = serve(&socket, calls).unwrap();
        let agent = tokio::spawn(async move {
            let call = waiting.recv().await.unwrap();
            assert_eq!(call.request, LocalRequest::Status);
            call.reply.send(LocalResponse::Injected { new: true }).unwrap();
        });
        let answer = ask(&socket, &LocalRequest::Status).await.unwrap();
        assert_eq!(answer, LocalResponse::Injected { new: true });
        agent.await.unwrap();
        server.abort();
    }

    #[tokio::test]
    async fn an_agent_that_does_not_run_is_told_as_such() {
        let directory = tempfile::tempdir().unwrap();
        let error = ask(&directory.path().join("agent.sock"), &LocalRequest::Status).await.unwrap_err();
        assert!(matches!(error, ClientError::Connect { .. }), "{error}");
    }
}
