//! A disk that forgets: what is synced stays, what is not may or may not.
//!
//! Main invariant: nothing is kept for certain but what an fsync or fdatasync that returned has covered: a
//! file's bytes by a sync of the file, a name by a sync of its directory. More pessimistic than any file system
//! we run on, so what survives here survives there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::trace::Call;

/// Bytes that a disk writes as one.
const SECTOR: usize = 4096;

/// A disk during a recorded run.
pub(super) struct Disk {
    root: PathBuf,
    files: Vec<Content>,
    names: BTreeMap<PathBuf, Node>,
    names_synced: BTreeMap<PathBuf, Node>,
    names_pending: Vec<NameChange>,
    open: BTreeMap<i32, Open>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Node {
    Directory,
    File(usize),
}

#[derive(Default)]
struct Content {
    synced: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Truncate { length: usize },
}

#[derive(Clone)]
enum NameChange {
    Add { path: PathBuf, node: Node },
    Rename { from: PathBuf, to: PathBuf, node: Node },
    Remove { path: PathBuf },
}

struct Open {
    path: PathBuf,
    node: Node,
    place: usize,
}

impl Disk {
    pub(super) fn new(root: &Path) -> Self {
        let names = BTreeMap::from([(root.to_owned(), Node::Directory)]);
        Self {
            root: root.to_owned(),
            files: Vec::new(),
            names_synced: names.clone(),
            names,
            names_pending: Vec::new(),
            open: BTreeMap::new(),
        }
    }

    /// Whether a call can change what is on the disk.
    pub(super) fn concerns(&self, call: &Call) -> bool {
        match call {
            Call::Write { descriptor, .. }
            | Call::Truncate { descriptor, .. }
            | Call::Sync { descriptor } => self.open.contains_key(descriptor),
            Call::Copy { to, .. } => self.open.contains_key(to),
            Call::MakeDirectory { path } | Call::Remove { path } | Call::Rename { to: path, .. } => {
                path.starts_with(&self.root)
            }
            Call::Open { path, create, .. } => *create && path.starts_with(&self.root),
            Call::Close { .. } | Call::ProcessEnded => false,
        }
    }

    pub(super) fn carry_out(&mut self, call: &Call) {
        match call {
            Call::Open { path, descriptor, create, truncate } => {
                self.open.remove(descriptor);
                if path.starts_with(&self.root) {
                    let node = self.named(path, *create);
                    if let (Node::File(file), true) = (node, *truncate) {
                        self.files[file].pending.push(Change::Truncate { length: 0 });
                    }
                    self.open.insert(*descriptor, Open { path: path.clone(), node, place: 0 });
                }
            }
            Call::Close { descriptor } => {
                self.open.remove(descriptor);
            }
            Call::MakeDirectory { path } if path.starts_with(&self.root) => {
                self.change(NameChange::Add { path: path.clone(), node: Node::Directory });
            }
            Call::Write { descriptor, bytes, at } => {
                if let Some(open) = self.open.get_mut(descriptor) {
                    let start = at.unwrap_or(open.place);
                    if at.is_none() {
                        open.place += bytes.len();
                    }
                    let change = Change::Write { at: start, bytes: bytes.clone() };
                    self.files[open.node.file()].pending.push(change);
                }
            }
            Call::Copy { from, to, length } => {
                if let Some(source) = self.open.get_mut(from) {
                    let start = source.place;
                    source.place += length;
                    let bytes = self.files[source.node.file()].now()[start..start + length].to_vec();
                    self.carry_out(&Call::Write { descriptor: *to, bytes, at: None });
                }
            }
            Call::Truncate { descriptor, length } => {
                if let Some(open) = self.open.get(descriptor) {
                    self.files[open.node.file()].pending.push(Change::Truncate { length: *length });
                }
            }
            Call::Sync { descriptor } => self.sync(*descriptor),
            Call::Rename { from, to } if to.starts_with(&self.root) => {
                let node = self.names[from];
                assert!(node != Node::Directory || from.parent() == to.parent());
                self.change(NameChange::Rename { from: from.clone(), to: to.clone(), node });
            }
            Call::Remove { path } if path.starts_with(&self.root) => {
                self.change(NameChange::Remove { path: path.clone() });
            }
            Call::ProcessEnded => self.open.clear(),
            Call::MakeDirectory { .. } | Call::Rename { .. } | Call::Remove { .. } => {}
        }
    }

    /// Writes the disk as it may look after a power cut now. Says whether anything unsynced was lost.
    pub(super) fn cut_power(&self, image: &Path, draw: &mut Draw) -> bool {
        let mut lost = false;
        // From "all of it was lost" to "nearly all was written": each finds other mistakes.
        let kept_percent = [0, 50, 90, 100][draw.below(4)];
        let mut names = self.names_synced.clone();
        for change in &self.names_pending {
            if draw.below(100) < kept_percent {
                change.apply(&mut names);
            } else {
                lost = true;
            }
        }
        for (path, node) in &names {
            let relative = path.strip_prefix(&self.root).expect("only names under the root are kept");
            let target = image.join(relative);
            if !target.parent().is_some_and(Path::is_dir) {
                continue;
            }
            match node {
                Node::Directory if relative.as_os_str().is_empty() => {}
                Node::Directory => std::fs::create_dir(&target).expect("the image can be written"),
                Node::File(file) => {
                    let (bytes, less) = self.files[*file].after_cut(kept_percent, draw);
                    lost |= less;
                    std::fs::write(&target, bytes).expect("the image can be written");
                }
            }
        }
        lost
    }

    fn named(&mut self, path: &Path, create: bool) -> Node {
        if let Some(node) = self.names.get(path) {
            return *node;
        }
        assert!(create, "{} was opened and never made", path.display());
        self.files.push(Content::default());
        let node = Node::File(self.files.len() - 1);
        self.change(NameChange::Add { path: path.to_owned(), node });
        node
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.names_pending.push(change);
    }

    fn sync(&mut self, descriptor: i32) {
        let Some(open) = self.open.get(&descriptor) else { return };
        match open.node {
            Node::File(file) => self.files[file].sync(),
            Node::Directory => {
                let (covered, others) = std::mem::take(&mut self.names_pending)
                    .into_iter()
                    .partition(|change| change.path().parent() == Some(open.path.as_path()));
                self.names_pending = others;
                let covered: Vec<NameChange> = covered;
                for change in covered {
                    change.apply(&mut self.names_synced);
                }
            }
        }
    }
}

impl Node {
    fn file(self) -> usize {
        match self {
            Self::File(file) => file,
            Self::Directory => panic!("a directory cannot be written like a file"),
        }
    }
}

impl Content {
    fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            change.apply(&mut self.synced);
        }
    }

    /// What a program reads now.
    fn now(&self) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        for change in &self.pending {
            change.apply(&mut bytes);
        }
        bytes
    }

    fn after_cut(&self, kept_percent: usize, draw: &mut Draw) -> (Vec<u8>, bool) {
        let mut bytes = self.synced.clone();
        let mut lost = false;
        let mut changes: Vec<Change> = self.pending.iter().flat_map(Change::torn).collect();
        if kept_percent < 100 {
            draw.shuffle(&mut changes);
        }
        for change in changes {
            if draw.below(100) < kept_percent {
                change.apply(&mut bytes);
            } else {
                lost = true;
            }
        }
        (bytes, lost)
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { at, bytes } => {
                let end = at + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*at..end].copy_from_slice(bytes);
            }
            Self::Truncate { length } => content.resize(*length, 0),
        }
    }

    /// The same change in parts that a disk writes as one.
    fn torn(&self) -> Vec<Self> {
        match self {
            Self::Write { at, bytes } => {
                let mut parts = Vec::new();
                let mut start = 0;
                while start < bytes.len() {
                    let end = bytes.len().min(start + SECTOR - (at + start) % SECTOR);
                    parts.push(Self::Write { at: at + start, bytes: bytes[start..end].to_vec() });
                    start = end;
                }
                parts
            }
            Self::Truncate { .. } => vec![self.clone()],
        }
    }
}

impl NameChange {
    fn path(&self) -> &Path {
        match self {
            Self::Add { path, .. } | Self::Remove { path } | Self::Rename { to: path, .. } => path,
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Self::Add { path, node } => {
                names.insert(path.clone(), *node);
            }
            Self::Remove { path } => {
                names.remove(path);
            }
            Self::Rename { from, to, node } => {
                names.remove(from);
                names.insert(to.clone(), *node);
                // What is inside a directory goes with it.
                let inside: Vec<_> = names.keys().filter(|path| path.starts_with(from)).cloned().collect();
                for path in inside {
                    let node = names.remove(&path).expect("it was just listed");
                    names.insert(to.join(path.strip_prefix(from).expect("it begins so")), node);
                }
            }
        }
    }
}

/// Numbers that look random and are the same in every run.
pub(super) struct Draw(u64);

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        // xorshift64*: plenty for choosing what a disk forgets.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(drawn).expect("31 bits fit") % bound.max(1)
    }

    pub(super) fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}
