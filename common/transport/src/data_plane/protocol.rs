//! What is said on the data plane's streams, byte for byte.
//!
//! Owns the messages and their framing: a length of four bytes, little-endian, then the message. Main
//! invariant: a length is compared with its bound before anything is allocated for it. Refuses to know quinn:
//! it reads and writes anything that streams.

use std::io;

use lunar_common::have_set::HaveSet;
use lunar_common::ids::ArtifactId;
use lunar_common::wire::{self, WireError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Largest encoded [`Ask`].
pub const ASK_BYTES_MAX: usize = 128;

/// Largest encoded [`Note`]: the have-set of the largest artifact, 32 KiB, and a little.
pub const NOTE_BYTES_MAX: usize = 40 * 1024;

/// The first message on a stream: what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Tell me what you have of this artifact, now and as it changes. Answered by [`Note`]s without end, none of them
    /// about what is being fetched.
    Listen(ArtifactId),
    /// Its manifest. Answered by a status, and if it is [`HERE`] by a length and the bytes.
    Manifest(ArtifactId),
    /// The frame of one of its chunks. Answered like `Manifest`.
    Chunk(ArtifactId, u32),
    /// Tell me what you have of it, and what you are fetching for others, now and as it changes.
    Follow(ArtifactId),
}

/// What a peer says about an artifact to those who listen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Note {
    /// I have no manifest yet.
    Nothing,
    /// All that I have; I am fetching nothing for others.
    HaveSet(HaveSet),
    /// One chunk more.
    Have(u32),
    /// I am fetching this chunk into my site, or from Earth.
    Taking(u32),
    /// I gave that up.
    Left(u32),
    /// These chunks more.
    Haves(Vec<u32>),
    /// All that I have, and what I am fetching into my site, or from Earth: in one, because whoever heard only the
    /// half of it would fetch the other half a second time.
    Standing {
        /// What I have.
        have: HaveSet,
        /// What I am fetching for others.
        taking: Vec<u32>,
        /// What I have heard that others are fetching, and for how many milliseconds more that may be true.
        heard: Vec<(u32, u32)>,
    },
}

/// Status of an answer: a length and the bytes follow.
pub const HERE: u8 = 0;
/// Status of an answer: not here. Nothing follows.
pub const NOT_HAVE: u8 = 1;
/// Status of an answer: too much to do. Four bytes follow, little-endian: milliseconds until it may be asked again.
pub const BUSY: u8 = 2;

/// Why a message could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The stream ended or broke.
    #[error("the stream broke")]
    Stream(#[from] io::Error),
    /// Its length is over its bound.
    #[error("a message of {length} bytes is announced, the bound is {bound}")]
    TooLong {
        /// Bytes announced.
        length: usize,
        /// Bytes allowed.
        bound: usize,
    },
    /// Does not decode.
    #[error("the message is malformed")]
    Wire(#[from] WireError),
}

/// Reads bytes with their length in front.
///
/// # Errors
/// [`ReadError`]; nothing was allocated for a length over the bound.
pub async fn read_bytes<R: AsyncRead + Unpin>(stream: &mut R, bound: usize) -> Result<Vec<u8>, ReadError> {
    let length = read_length(stream).await? as usize;
    if length > bound {
        return Err(ReadError::TooLong { length, bound });
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// Reads a length, or a number of milliseconds.
///
/// # Errors
/// The stream's.
pub async fn read_length<R: AsyncRead + Unpin>(stream: &mut R) -> io::Result<u32> {
    stream.read_u32_le().await
}

/// Writes bytes with their length in front: all at once, for a stream may send a packet after every write.
///
/// # Errors
/// The stream's; and `InvalidInput` for more than 4 GiB.
pub async fn write_bytes<W: AsyncWrite + Unpin>(stream: &mut W, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut framed = Vec::with_capacity(size_of_val(&length) + bytes.len());
    framed.extend_from_slice(&length.to_le_bytes());
    framed.extend_from_slice(bytes);
    stream.write_all(&framed).await
}

/// Reads one message.
///
/// # Errors
/// [`ReadError`].
pub async fn read_message<T: DeserializeOwned, R: AsyncRead + Unpin>(
    stream: &mut R,
    bound: usize,
) -> Result<T, ReadError> {
    let bytes = read_bytes(stream, bound).await?;
    Ok(wire::decode(&bytes, bound)?)
}

/// Writes one message.
///
/// # Errors
/// The stream's; and `InvalidInput` for a message over its bound, which is a mistake in this program.
pub async fn write_message<T: Serialize, W: AsyncWrite + Unpin>(
    stream: &mut W,
    message: &T,
    bound: usize,
) -> io::Result<()> {
    let bytes =
        wire::encode(message, bound).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    write_bytes(stream, &bytes).await
}

#[cfg(test)]
mod tests {
    use lunar_common::bounds::CHUNKS_PER_NOTE_MAX;

    use super::*;

    #[tokio::test]
    async fn an_oversize_length_is_refused_before_a_byte_of_it_is_read() {
        let mut stream: &[u8] = &[0xff, 0xff, 0xff, 0xff, 1, 2, 3];
        let refused = read_bytes(&mut stream, ASK_BYTES_MAX).await.unwrap_err();
        assert!(matches!(refused, ReadError::TooLong { length: 0xffff_ffff, bound: ASK_BYTES_MAX }));
        assert_eq!(stream, &[1, 2, 3]);
    }

    #[tokio::test]
    async fn the_largest_have_set_and_what_is_being_fetched_fit_their_bound_and_come_back() {
        let chunks = u32::try_from(lunar_common::bounds::CHUNKS_MAX).unwrap();
        let taking = vec![chunks - 1; CHUNKS_PER_NOTE_MAX];
        let heard = vec![(chunks - 1, 60_000); CHUNKS_PER_NOTE_MAX];
        let note = Note::Standing { have: HaveSet::full(chunks), taking, heard };
        let mut bytes = Vec::new();
        write_message(&mut bytes, &note, NOTE_BYTES_MAX).await.unwrap();
        let back: Note = read_message(&mut bytes.as_slice(), NOTE_BYTES_MAX).await.unwrap();
        assert_eq!(back, note);
    }

    #[tokio::test]
    async fn every_ask_fits_its_bound() {
        for ask in [
            Ask::Listen(ArtifactId([255; 32])),
            Ask::Follow(ArtifactId([255; 32])),
            Ask::Manifest(ArtifactId([255; 32])),
            Ask::Chunk(ArtifactId([255; 32]), u32::MAX),
        ] {
            let mut bytes = Vec::new();
            write_message(&mut bytes, &ask, ASK_BYTES_MAX).await.unwrap();
            let back: Ask = read_message(&mut bytes.as_slice(), ASK_BYTES_MAX).await.unwrap();
            assert_eq!(back, ask);
        }
    }
}
