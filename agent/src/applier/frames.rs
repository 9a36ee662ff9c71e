//! Frames on the Unix socket: a length, and that many bytes.
//!
//! Owns reading and writing them. Main invariant: nothing is allocated beyond the bound, whatever a length
//! says, and memory follows the bytes that came, not the bytes that were promised. Refuses empty frames.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A frame whose first bytes have come.
pub(super) struct Begun {
    length: [u8; 4],
    read: usize,
}

/// Reads a frame of at most `bound` bytes; `None` if the other side closed between two frames.
pub(super) async fn read<R: AsyncRead + Unpin>(reader: &mut R, bound: usize) -> io::Result<Option<Vec<u8>>> {
    match begin(reader).await? {
        Some(begun) => read_on(begun, reader, bound).await.map(Some),
        None => Ok(None),
    }
}

/// Waits until a frame begins; `None` if the other side closed instead.
pub(super) async fn begin<R: AsyncRead + Unpin>(reader: &mut R) -> io::Result<Option<Begun>> {
    let mut length = [0; 4];
    let read = reader.read(&mut length).await?;
    Ok((read > 0).then_some(Begun { length, read }))
}

/// Reads the rest of a frame of at most `bound` bytes.
pub(super) async fn read_on<R: AsyncRead + Unpin>(
    Begun { mut length, read }: Begun,
    reader: &mut R,
    bound: usize,
) -> io::Result<Vec<u8>> {
    reader.read_exact(&mut length[read..]).await?;
    let length = u32::from_be_bytes(length);
    if length == 0 || length as usize > bound {
        let problem = format!("a frame of {length} bytes, where 1 to {bound} are taken");
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    let mut bytes = Vec::new();
    let read = reader.take(length.into()).read_to_end(&mut bytes).await?;
    if read < length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

/// Writes a frame.
pub(super) async fn write<W: AsyncWrite + Unpin>(writer: &mut W, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    writer.write_all(&length.to_be_bytes()).await?;
    writer.write_all(bytes).await?;
    writer.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_frame_comes_back_and_a_lying_length_is_refused() {
        let mut bytes = Vec::new();
        write(&mut bytes, b"hello").await.unwrap();
        let mut reader = bytes.as_slice();
        assert_eq!(read(&mut reader, 5).await.unwrap().unwrap(), b"hello");
        assert!(read(&mut reader, 5).await.unwrap().is_none());
        assert_eq!(read(&mut bytes.as_slice(), 4).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let lying = u32::MAX.to_be_bytes();
        assert_eq!(read(&mut lying.as_slice(), 4).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let short = [0, 0, 0, 9, 1];
        assert_eq!(read(&mut short.as_slice(), 9).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read(&mut [0, 0].as_slice(), 9).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
