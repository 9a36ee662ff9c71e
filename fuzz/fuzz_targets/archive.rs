#![no_main]
//! The canonical archive's headers and bodies, and a chunk's frame: what a peer's bytes become on a server.

use std::io::Read;

use libfuzzer_sys::fuzz_target;
use lunar_artifact::archive::ArchiveReader;
use lunar_artifact::frame::FrameOpener;
use lunar_common::ids::{ChunkHash, FrameHash};
use lunar_common::manifest::Chunk;
use tar::Header;

fn read(bytes: &[u8]) {
    let mut reader = ArchiveReader::new(bytes);
    while let Ok(Some(entry)) = reader.next_entry() {
        assert!(entry.check().is_ok() && !entry.header().is_empty(), "an entry that was not checked");
        // A body may claim any length; reading it ends where the bytes do.
        if std::io::copy(&mut reader.body().take(1 << 20), &mut std::io::sink()).is_err() {
            break;
        }
    }
}

/// The same bytes with a right checksum in every block: without it, hardly anything comes past the first header.
fn summed(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(512) {
        let mut header = Header::from_byte_slice(block).clone();
        header.set_cksum();
        block.copy_from_slice(header.as_bytes());
    }
    bytes
}

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    read(&summed(bytes));
    // A frame whose hash is right, whatever it holds: it decompresses to what its chunk says, or is refused.
    let Ok(frame_bytes) = u32::try_from(bytes.len()) else { return };
    let chunk = Chunk {
        hash: ChunkHash([0; 32]),
        bytes: 1 << 16,
        frame: FrameHash(*blake3::hash(bytes).as_bytes()),
        frame_bytes,
    };
    let mut content = Vec::new();
    let mut opener = FrameOpener::new().expect("zstd starts");
    assert!(opener.open(&chunk, bytes, &mut content).is_err(), "nothing hashes to zero");
    assert!(content.len() <= 1 << 16, "a frame grew past its chunk's length");
});
