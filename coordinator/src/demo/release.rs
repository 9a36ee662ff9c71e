//! The two versions that the demo installs, where the user brings none.
//!
//! Owns what is in them. Main invariant: the same options make the same bytes, so that the artifacts' ids can
//! be told in advance; the new version shares most of its content with the old one, as real ones do.

use std::fs;
use std::io;
use std::path::Path;

/// Bytes of content in each version: two seconds of the Earth link, and enough chunks for rarest-first to show.
const CONTENT_BYTES: usize = 6 * 1024 * 1024;
/// Files that the content is spread over.
const FILES: usize = 24;
/// Files that differ between the versions.
const FILES_CHANGED: usize = 16;

/// Writes one version of the demo's web site.
///
/// # Errors
/// A directory that cannot be written.
pub fn write(directory: &Path, version: &str, broken_on: &[String]) -> io::Result<()> {
    let assets = directory.join("assets");
    fs::create_dir_all(&assets)?;
    fs::write(directory.join("version"), format!("{version}\n"))?;
    fs::write(
        directory.join("index.html"),
        format!("<!doctype html><title>Base operations {version}</title>\n"),
    )?;
    if !broken_on.is_empty() {
        fs::write(directory.join("broken-on"), broken_on.join("\n") + "\n")?;
    }
    for number in 0..FILES {
        let edition = if number < FILES_CHANGED { version } else { "shared" };
        let mut content = vec![0; CONTENT_BYTES / FILES];
        // BLAKE3's extended output: incompressible, and the same on every machine.
        let seed = format!("lunar demo {edition} {number}");
        blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut content);
        fs::write(assets.join(format!("{number:02}.bin")), content)?;
    }
    Ok(())
}
