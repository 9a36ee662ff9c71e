//! Artifacts on disk: canonical archives, content-defined chunks, zstd frames, packs.
//!
//! Owns the way from a directory (or a file) to a manifest with its pack, and back to a directory. Main
//! invariant: bytes are hashed against the manifest before anything else is done with them: before they are
//! decompressed, before they are unpacked, before they are passed on. Refuses to fetch: what is missing is
//! the swarm's business.

pub mod archive;
pub mod build;
pub mod chunker;
pub mod content;
pub mod directory;
mod durable;
pub mod frame;
pub mod open_packs;
pub mod pack;
mod pipeline;
pub mod verify;

pub use build::{Built, build, measure};
pub use content::{PackReader, unpack_tree, write_file};
pub use directory::{Held, PackDirectory};
pub use open_packs::OpenPacks;
pub use pack::{Pack, PackError, Seeded};
pub use verify::{compare_tree, verify_file, verify_tree};
