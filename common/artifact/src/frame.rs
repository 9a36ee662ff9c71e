//! One chunk as stored and sent: a zstd frame.
//!
//! Owns compression and its undoing. Main invariant: a frame is hashed before it is decompressed, never
//! decompresses into more than its manifest's length, and its content is hashed before anybody sees it.
//!
//! A manifest names the hashes of frames, so an artifact's id depends on what zstd makes of a chunk. zstd
//! promises the same output for the same input, level and version on every machine; the version is pinned
//! by the lock file and the level here. A later zstd gives the same tree another id, and shares no frame
//! with the version before: raise it when a whole transfer is affordable, never in passing.

use std::io;

use lunar_common::ids::{ChunkHash, FrameHash};
use lunar_common::manifest::Chunk;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{CParameter, get_frame_content_size};

/// Level of every frame. A chunk is compressed once, on Earth, and then crosses a 30 Mbit/s link: level 9
/// still takes in 50 to 70 MB/s a core, over ten times what the link carries; level 19 takes in 6 and gains
/// next to nothing in frames this small.
pub const LEVEL: i32 = 9;

/// Makes frames of chunks.
pub struct FrameMaker(Compressor<'static>);

/// A chunk's entry in the manifest, and its frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Framed {
    /// What the manifest says of it.
    pub chunk: Chunk,
    /// Its frame.
    pub frame: Vec<u8>,
}

impl FrameMaker {
    /// A maker of frames at [`LEVEL`].
    ///
    /// # Errors
    /// No memory for the compressor.
    pub fn new() -> io::Result<Self> {
        let mut compressor = Compressor::new(LEVEL)?;
        // The length is in the header, so that it is checked before anything is decompressed. zstd's own
        // checksum would only repeat BLAKE3, worse.
        compressor.set_parameter(CParameter::ContentSizeFlag(true))?;
        compressor.set_parameter(CParameter::ChecksumFlag(false))?;
        compressor.set_parameter(CParameter::DictIdFlag(false))?;
        Ok(Self(compressor))
    }

    /// The frame of one chunk's content.
    ///
    /// # Errors
    /// A failure inside zstd, which only a lack of memory explains; or content longer than 4 GiB.
    pub fn make(&mut self, content: &[u8]) -> io::Result<Framed> {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(io::Error::other);
        let frame = self.0.compress(content)?;
        let chunk = Chunk {
            hash: ChunkHash(*blake3::hash(content).as_bytes()),
            bytes: length(content)?,
            frame: FrameHash(*blake3::hash(&frame).as_bytes()),
            frame_bytes: length(&frame)?,
        };
        Ok(Framed { chunk, frame })
    }
}

/// Why bytes are not the frame that a manifest names.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Not as long as the manifest says.
    #[error("the frame has {found} bytes, its manifest says {expected}")]
    Length {
        /// By the manifest.
        expected: u32,
        /// What came.
        found: usize,
    },
    /// Other bytes than the manifest names.
    #[error("the frame hashes to something else than its manifest says")]
    Hash,
    /// The frame itself says that it holds another length than the manifest's.
    #[error("the frame is not one zstd frame of the {expected} bytes its manifest says")]
    ContentLength {
        /// By the manifest.
        expected: u32,
    },
    /// zstd does not take it, or it holds more than it said.
    #[error("the frame does not decompress")]
    Decompress(#[source] io::Error),
    /// The content is not what the manifest names.
    #[error("the frame's content hashes to something else than its manifest says")]
    Content,
}

/// Checks that bytes are the frame that the manifest names. Decompresses nothing.
///
/// # Errors
/// [`FrameError::Length`] or [`FrameError::Hash`].
pub fn check(chunk: &Chunk, frame: &[u8]) -> Result<(), FrameError> {
    if frame.len() != chunk.frame_bytes as usize {
        return Err(FrameError::Length { expected: chunk.frame_bytes, found: frame.len() });
    }
    if blake3::hash(frame) != blake3::Hash::from_bytes(chunk.frame.0) {
        return Err(FrameError::Hash);
    }
    Ok(())
}

/// Gets the content out of frames.
pub struct FrameOpener(Decompressor<'static>);

impl FrameOpener {
    /// An opener.
    ///
    /// # Errors
    /// No memory for the decompressor.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Decompressor::new()?))
    }

    /// Checks the frame, decompresses it into `content` (whose old bytes are dropped), checks that.
    /// `content` is empty after an error.
    ///
    /// # Errors
    /// [`FrameError`] says what did not match.
    pub fn open(&mut self, chunk: &Chunk, frame: &[u8], content: &mut Vec<u8>) -> Result<(), FrameError> {
        content.clear();
        check(chunk, frame)?;
        let expected = chunk.bytes;
        if !matches!(get_frame_content_size(frame), Ok(Some(length)) if length == u64::from(expected)) {
            return Err(FrameError::ContentLength { expected });
        }
        content.reserve_exact(expected as usize);
        // The vector may have more room than was asked for, and zstd would use it: the slice is the bound.
        content.resize(expected as usize, 0);
        let outcome = match self.0.decompress_to_buffer(frame, &mut content[..]) {
            Err(error) => Err(FrameError::Decompress(error)),
            Ok(length) if length != expected as usize => Err(FrameError::ContentLength { expected }),
            Ok(_) if blake3::hash(content) != blake3::Hash::from_bytes(chunk.hash.0) => {
                Err(FrameError::Content)
            }
            Ok(_) => Ok(()),
        };
        if outcome.is_err() {
            content.clear();
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(frame: &[u8], bytes: u32) -> Chunk {
        Chunk {
            hash: ChunkHash([0; 32]),
            bytes,
            frame: FrameHash(*blake3::hash(frame).as_bytes()),
            frame_bytes: u32::try_from(frame.len()).unwrap(),
        }
    }

    fn opened(chunk: &Chunk, frame: &[u8]) -> Result<Vec<u8>, FrameError> {
        let mut content = vec![1, 2, 3];
        FrameOpener::new().unwrap().open(chunk, frame, &mut content).map(|()| content)
    }

    #[test]
    fn a_frame_gives_its_content_back() {
        let content: Vec<u8> = (0..300_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let made = FrameMaker::new().unwrap().make(&content).unwrap();
        assert!(made.frame.len() < content.len());
        assert_eq!(opened(&made.chunk, &made.frame).unwrap(), content);
    }

    #[test]
    fn the_same_content_gives_the_same_frame_whatever_was_compressed_before() {
        let mut used = FrameMaker::new().unwrap();
        used.make(&[9; 70_000]).unwrap();
        assert_eq!(used.make(b"hello").unwrap(), FrameMaker::new().unwrap().make(b"hello").unwrap());
    }

    #[test]
    fn the_frames_of_this_zstd_and_level_are_the_ones_that_ids_rest_on() {
        // When this fails, the same tree has another id than before, and a site that has the version before
        // fetches everything again. See the head of this file.
        let content: Vec<u8> = (0..100_000u32).flat_map(|n| (n / 3 * 7919).to_le_bytes()).collect();
        let made = FrameMaker::new().unwrap().make(&content).unwrap();
        assert_eq!(made.chunk.frame.to_string(), FRAME_OF_RECORD);
    }

    const FRAME_OF_RECORD: &str = "488b7ee3e1cecbc3c41e591737e09a0155b9b11eb762dbbe004c01c99992fecf";

    #[test]
    fn a_flipped_bit_or_a_missing_byte_is_refused_before_decompression() {
        let made = FrameMaker::new().unwrap().make(&[5; 1000]).unwrap();
        for place in 0..made.frame.len() {
            let mut bent = made.frame.clone();
            bent[place] ^= 0x10;
            assert!(matches!(opened(&made.chunk, &bent), Err(FrameError::Hash)));
        }
        let short = &made.frame[1..];
        assert!(matches!(opened(&made.chunk, short), Err(FrameError::Length { .. })));
    }

    #[test]
    fn a_bomb_is_refused_by_what_it_says_and_by_what_it_does() {
        let bomb = zstd::bulk::compress(&vec![0; 64 * 1024 * 1024], 19).unwrap();
        assert!(matches!(
            opened(&renamed(&bomb, 4096), &bomb),
            Err(FrameError::ContentLength { expected: 4096 })
        ));
        // Streamed frames do not say their length; ours always do.
        let silent = zstd::stream::encode_all(&vec![0u8; 64 * 1024 * 1024][..], 19).unwrap();
        assert!(matches!(opened(&renamed(&silent, 4096), &silent), Err(FrameError::ContentLength { .. })));
        // Two frames in one: the header tells of the first only, the second overflows the slice.
        let mut double = zstd::bulk::compress(&[0; 4096], 3).unwrap();
        double.extend_from_slice(&bomb);
        assert!(matches!(opened(&renamed(&double, 4096), &double), Err(FrameError::Decompress(_))));
    }

    #[test]
    fn content_that_is_not_the_manifests_is_never_shown() {
        let made = FrameMaker::new().unwrap().make(b"what was published").unwrap();
        let chunk = Chunk { hash: ChunkHash([7; 32]), ..made.chunk };
        let mut content = vec![1];
        let refused = FrameOpener::new().unwrap().open(&chunk, &made.frame, &mut content);
        assert!(matches!(refused, Err(FrameError::Content)));
        assert!(content.is_empty());
        assert!(matches!(
            opened(&renamed(b"no frame", 8), b"no frame"),
            Err(FrameError::ContentLength { .. })
        ));
    }
}
