//! The root half on a real disk: power cuts at every operation, and the process with its socket.

mod conversation;
mod power_cuts;

/// The people, machines and documents of the core's own tests.
#[path = "../../../core/src/applier/fixture.rs"]
#[allow(dead_code)]
mod fixture;

use std::path::{Path, PathBuf};

use lunar_artifact::PackDirectory;
use lunar_common::ids::ArtifactId;

/// A published artifact.
pub(crate) struct Published {
    pub(crate) id: ArtifactId,
    pub(crate) bytes: u64,
}

/// Makes a small tree of one version, with a link and nested directories, and its pack.
pub(crate) fn publish(home: &Path, name: &str, version: &str) -> Published {
    let tree = home.join(format!("{name}-{version}"));
    std::fs::create_dir_all(tree.join("bin/deep")).unwrap();
    std::fs::write(tree.join("version"), version).unwrap();
    std::fs::write(tree.join("bin/deep/program"), format!("{name} {version} ").repeat(5_000)).unwrap();
    std::os::unix::fs::symlink("bin/deep/program", tree.join("run")).unwrap();
    let packs = PackDirectory::open(&packs_of(home)).unwrap();
    let built = lunar_artifact::build(&tree, &packs, |_| {}).unwrap();
    Published { id: built.id, bytes: built.manifest.bytes }
}

pub(crate) fn packs_of(home: &Path) -> PathBuf {
    home.join("packs")
}
