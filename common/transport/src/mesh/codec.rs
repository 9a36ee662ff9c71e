//! How requests and answers lie on a stream.
//!
//! Owns the frame (four bytes of length, then the message), the request-response codec over it, and what the
//! frames of the control plane carry. Main invariant: a length over the bound is refused before anything is
//! allocated for it, and memory grows only with bytes that really arrived.

use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::request_response;
use libp2p::swarm::StreamProtocol;
use lunar_common::bounds::{DOCUMENTS_PER_SYNC_MAX, MESSAGE_BYTES_MAX};
use lunar_common::ids::SiteId;
use lunar_common::message::{Request, Response};
use lunar_common::wire::Signed;
use serde::{Deserialize, Serialize};

/// Largest encoded question.
pub(crate) const ASK_BYTES_MAX: usize = MESSAGE_BYTES_MAX;

/// Largest encoded answer: as many documents as one answer to `Sync` may hold.
pub(crate) const ANSWER_BYTES_MAX: usize = DOCUMENTS_PER_SYNC_MAX * MESSAGE_BYTES_MAX;

/// Most records in one answer to [`Ask::Neighbours`].
pub(crate) const SAMPLE_MAX: usize = 24;

/// A question on the control plane.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// The program's.
    Program(Request),
    /// The mesh's own: whom else do you know, of my site and beyond?
    Neighbours {
        /// The site of the one who asks.
        site: SiteId,
    },
}

/// The answer to an [`Ask`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// To `Program`.
    Program(Response),
    /// To `Neighbours`: signed peer records, at most [`SAMPLE_MAX`].
    Neighbours(Vec<Signed>),
}

/// Moves bounded frames; what they mean is decoded outside, where their sender can be held to account.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FrameCodec;

impl request_response::Codec for FrameCodec {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        match read_frame(io, ASK_BYTES_MAX).await {
            // libp2p keeps a failed read to itself. An empty message is malformed too, and its sender is known.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Vec::new()),
            result => result,
        }
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read_frame(io, ANSWER_BYTES_MAX).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, request: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_frame(io, &request).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, response: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_frame(io, &response).await
    }
}

/// Reads one frame of at most `bound` bytes.
pub(crate) async fn read_frame<T>(io: &mut T, bound: usize) -> io::Result<Vec<u8>>
where
    T: AsyncRead + Unpin + Send,
{
    /// Allocated at once at most; a longer message grows its buffer as it arrives.
    const STEP_BYTES: usize = 64 * 1024;
    let mut prefix = [0u8; 4];
    io.read_exact(&mut prefix).await?;
    let length = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    if length > bound {
        let reason = format!("a frame of {length} bytes is over the bound of {bound}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let start = bytes.len();
        bytes.resize(start + STEP_BYTES.min(length - start), 0);
        io.read_exact(&mut bytes[start..]).await?;
    }
    Ok(bytes)
}

/// Writes one frame.
pub(crate) async fn write_frame<T>(io: &mut T, bytes: &[u8]) -> io::Result<()>
where
    T: AsyncWrite + Unpin + Send,
{
    let length = u32::try_from(bytes.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a frame of 4 GiB or more"))?;
    io.write_all(&length.to_be_bytes()).await?;
    io.write_all(bytes).await
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;

    use super::*;

    #[tokio::test]
    async fn a_frame_survives_and_what_follows_is_left_alone() {
        let message: Vec<u8> = (0..=255u8).cycle().take(200_000).collect();
        let mut wire = Vec::new();
        write_frame(&mut wire, &message).await.unwrap();
        wire.extend_from_slice(b"rest");
        let mut reader = Cursor::new(wire);
        assert_eq!(read_frame(&mut reader, 200_000).await.unwrap(), message);
        assert_eq!(reader.position(), 200_004);
    }

    #[tokio::test]
    async fn a_length_over_the_bound_is_refused_unread_and_a_short_frame_is_an_error() {
        let mut liar = Cursor::new(u32::MAX.to_be_bytes().to_vec());
        assert_eq!(read_frame(&mut liar, 1024).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let mut short = Cursor::new([&100u32.to_be_bytes()[..], b"abc"].concat());
        assert_eq!(read_frame(&mut short, 1024).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
