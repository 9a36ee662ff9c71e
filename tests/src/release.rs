//! The two versions that fleets of tests install.
//!
//! Owns their content. Main invariant: the same bytes on every run, which no compressor makes smaller; each
//! version says in its file `version` which it is.

use std::fs;
use std::path::Path;

/// Files of content in a version.
const FILES: usize = 24;
/// Bytes of each.
const FILE_BYTES: usize = 256 * 1024;

/// Writes one version into a directory, which is made.
pub(crate) fn write(directory: &Path, version: &str) {
    fs::create_dir_all(directory.join("assets")).expect("our directory is writable");
    fs::write(directory.join("version"), format!("{version}\n")).expect("our directory is writable");
    for number in 0..FILES {
        let path = directory.join("assets").join(format!("{number:02}.bin"));
        fs::write(path, noise(&format!("{version} {number}"))).expect("our directory is writable");
    }
}

/// Noise that a name tells: xorshift64*, begun from the name's FNV-1a hash.
fn noise(name: &str) -> Vec<u8> {
    let begin = 0xcbf2_9ce4_8422_2325_u64;
    let mut state =
        name.bytes().fold(begin, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mut bytes = Vec::with_capacity(FILE_BYTES);
    while bytes.len() < FILE_BYTES {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend(state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes
}
