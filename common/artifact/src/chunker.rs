//! Where content is cut into chunks.
//!
//! Owns the cut: FastCDC in its 2020 form, by content, so that bytes put in or taken out move only the cuts
//! around them and two versions share the rest. Main invariant: the cuts depend on the bytes alone, never on
//! how they came in. Changing a number here changes the id of every artifact.

use std::io::{self, Write};

use fastcdc::v2020::FastCDC;

/// Shortest chunk but the last. A quarter of the average, as the algorithm's authors advise: shorter ones
/// would cost more in requests and manifest (74 bytes each) than they save in shared bytes.
pub const CHUNK_BYTES_MIN: u32 = 64 * 1024;
/// Average chunk. 100 MB are 400 of them: enough for rarest first to spread them over a site, and each is
/// 30 to 70 ms of the 30 Mbit/s link, so that losing one costs little. 64 KiB would share a tenth more between
/// versions for four times the requests (measured on binaries and on a JDK).
pub const CHUNK_BYTES_AVERAGE: u32 = 256 * 1024;
/// Longest chunk. Four times the average; it is also what a peer must hold in memory per chunk in flight.
pub const CHUNK_BYTES_MAX: u32 = 1024 * 1024;

/// Cuts what is written to it, and hands on each chunk. [`Chunker::finish`] hands on the last.
pub struct Chunker<F> {
    buffer: Vec<u8>,
    emit: F,
}

impl<F: FnMut(&[u8]) -> io::Result<()>> Chunker<F> {
    /// A chunker that hands each chunk to `emit`.
    pub fn new(emit: F) -> Self {
        Self { buffer: Vec::with_capacity(BUFFER_BYTES), emit }
    }

    /// Hands on what is left.
    ///
    /// # Errors
    /// What `emit` returns.
    pub fn finish(mut self) -> io::Result<()> {
        self.cut(0)
    }

    /// Cuts while more than `keep` bytes are left.
    fn cut(&mut self, keep: usize) -> io::Result<()> {
        let chunker = FastCDC::new(&self.buffer, CHUNK_BYTES_MIN, CHUNK_BYTES_AVERAGE, CHUNK_BYTES_MAX);
        let mut begin = 0;
        while self.buffer.len() - begin > keep {
            let (_, end) = chunker.cut(begin, self.buffer.len() - begin);
            (self.emit)(&self.buffer[begin..end])?;
            begin = end;
        }
        drop(chunker);
        self.buffer.drain(..begin);
        Ok(())
    }
}

impl<F: FnMut(&[u8]) -> io::Result<()>> Write for Chunker<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BUFFER_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == BUFFER_BYTES {
            // A cut never looks further ahead than the longest chunk: with that much left it is final.
            self.cut(CHUNK_BYTES_MAX as usize)?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes gathered before cutting: several of the longest chunks, so that little is moved to the front again.
const BUFFER_BYTES: usize = 4 * CHUNK_BYTES_MAX as usize;

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(bytes: usize, seed: u64) -> Vec<u8> {
        let mut out = vec![0; bytes];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
        out
    }

    fn cuts(bytes: &[u8], step: usize) -> Vec<Vec<u8>> {
        let mut chunks = Vec::new();
        let mut chunker = Chunker::new(|chunk: &[u8]| {
            chunks.push(chunk.to_vec());
            Ok(())
        });
        bytes.chunks(step).for_each(|part| chunker.write_all(part).unwrap());
        chunker.finish().unwrap();
        chunks
    }

    #[test]
    fn the_cuts_do_not_depend_on_how_the_bytes_came_in() {
        let bytes = noise(11_000_000, 1);
        let whole = cuts(&bytes, bytes.len());
        assert_eq!(whole.concat(), bytes);
        assert_eq!(whole, cuts(&bytes, 77_777));
        assert_eq!(whole, cuts(&bytes, 4 * 1024 * 1024 - 1));
        let (last, others) = whole.split_last().unwrap();
        assert!(others.iter().all(|chunk| (65_536..=1_048_576).contains(&chunk.len())));
        assert!(last.len() <= 1_048_576);
        let reference = FastCDC::new(&bytes, 65_536, 262_144, 1_048_576);
        assert!(reference.map(|chunk| chunk.length).eq(whole.iter().map(Vec::len)));
    }

    #[test]
    fn bytes_put_in_at_the_front_leave_most_chunks_as_they_were() {
        let before = noise(8_000_000, 2);
        let after = [&b"a longer preamble"[..], &before].concat();
        let known = cuts(&before, before.len());
        let shared = cuts(&after, after.len()).iter().filter(|chunk| known.contains(chunk)).count();
        assert!(shared + 3 > known.len(), "{shared} of {} chunks shared", known.len());
    }

    #[test]
    fn nothing_is_no_chunk() {
        assert!(cuts(&[], 1).is_empty());
        assert_eq!(cuts(&[7], 1), [[7]]);
    }
}
