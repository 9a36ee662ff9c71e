//! What the tests of this crate share: trees to make, and a way to tell two trees apart.

#![allow(dead_code, clippy::unwrap_used, reason = "each test program uses its own part, and helps tests")]

use std::collections::BTreeMap;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use lunar_artifact::{Built, Pack, PackDirectory, build};

/// One thing to make in a tree.
#[derive(Debug, Clone)]
pub enum Node {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    /// Another name of the nth file made before, if there are any.
    HardLink(usize),
}

/// A thing, where, with which mode and owner.
#[derive(Debug, Clone)]
pub struct Item {
    pub path: Vec<Vec<u8>>,
    pub node: Node,
    pub mode: u32,
    pub owner: u32,
}

/// Makes a tree; what cannot be made because something is in the way is left out.
pub fn make(top: &Path, items: &[Item]) {
    let root = nix::unistd::geteuid().is_root();
    let mut files: Vec<PathBuf> = Vec::new();
    let mut modes: Vec<(PathBuf, u32, u32)> = Vec::new();
    for item in items {
        let path = top.join(path_of(&item.path.join(&b'/')));
        let parent = path.parent().unwrap();
        if path.symlink_metadata().is_ok() || !really_make_directory(top, parent) {
            continue;
        }
        match &item.node {
            Node::Directory => std::fs::create_dir(&path).unwrap(),
            Node::File(bytes) => {
                std::fs::write(&path, bytes).unwrap();
                files.push(path.clone());
            }
            Node::Symlink(target) => symlink(path_of(target), &path).unwrap(),
            Node::HardLink(number) => {
                let Some(first) = files.get(number % files.len().max(1)) else { continue };
                std::fs::hard_link(first, &path).unwrap();
                continue;
            }
        }
        modes.push((path, item.mode, item.owner));
    }
    // Deepest first, so that a directory that nobody may enter does not stand in the way of its content.
    for (path, mode, owner) in modes.into_iter().rev() {
        if root {
            std::os::unix::fs::lchown(&path, Some(owner), Some(owner + 1)).unwrap();
        }
        let metadata = path.symlink_metadata().unwrap();
        // Without root, the owner must be able to read what is packed.
        let needed = if root { 0 } else { 0o700 };
        if !metadata.is_symlink() {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode | needed)).unwrap();
        }
    }
}

fn really_make_directory(top: &Path, path: &Path) -> bool {
    if path == top {
        return true;
    }
    match path.symlink_metadata() {
        Ok(metadata) => metadata.is_dir(),
        Err(_) => {
            really_make_directory(top, path.parent().unwrap()) && {
                std::fs::create_dir(path).is_ok_and(|()| {
                    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).is_ok()
                })
            }
        }
    }
}

/// What an artifact keeps of one thing in a tree.
#[derive(Debug, PartialEq, Eq)]
pub struct Kept {
    /// Type and mode, owner, group.
    numbers: (u32, u32, u32),
    /// A file's bytes, a link's target.
    bytes: Vec<u8>,
    /// The first of the names that are one file.
    first: Vec<u8>,
}

/// All that an artifact keeps of a tree.
pub fn snapshot(top: &Path) -> BTreeMap<Vec<u8>, Kept> {
    let mut all = BTreeMap::new();
    let mut firsts = BTreeMap::new();
    let mut left = vec![top.to_owned()];
    let mut paths = Vec::new();
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                left.push(path.clone());
            }
            paths.push(path);
        }
    }
    paths.sort();
    for path in paths {
        let metadata = path.symlink_metadata().unwrap();
        let name = path.strip_prefix(top).unwrap().as_os_str().as_bytes().to_vec();
        let bytes = if metadata.is_file() {
            std::fs::read(&path).unwrap()
        } else if metadata.is_symlink() {
            std::fs::read_link(&path).unwrap().into_os_string().into_vec()
        } else {
            Vec::new()
        };
        let first = if metadata.is_file() {
            firsts.entry(metadata.ino()).or_insert_with(|| name.clone()).clone()
        } else {
            name.clone()
        };
        let numbers = (metadata.mode(), metadata.uid(), metadata.gid());
        all.insert(name, Kept { numbers, bytes, first });
    }
    all
}

pub fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

/// Bytes that do not compress and do not repeat.
pub fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// A directory of packs with one complete artifact of these bytes.
pub fn published(bytes: &[u8]) -> (tempfile::TempDir, PackDirectory, Built) {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    std::fs::write(&source, bytes).unwrap();
    let packs = PackDirectory::open(&directory.path().join("packs")).unwrap();
    let built = build(&source, &packs, |_| {}).unwrap();
    (directory, packs, built)
}

/// Every frame of a pack.
pub fn frames(pack: &Pack) -> Vec<Vec<u8>> {
    pack.have().iter().map(|index| pack.read_frame(index).unwrap()).collect()
}

/// The names in a directory, sorted.
pub fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
