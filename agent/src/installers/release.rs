//! Installer `release`: unpacked beside the running version, and switched by a link.
//!
//! Owns `ROOT/NAME/releases/ID/` and `ROOT/NAME/current`. Main invariant: `current` is absent or leads to a
//! release that was unpacked whole, with every byte checked against the signed plan's id; it changes by one
//! rename. Reads packs that the network half owns, and believes none of them. Refuses to touch a `current`
//! that it did not make, to remove what runs, and to begin without room.

use std::io;
use std::path::{Path, PathBuf};

use lunar_agent_core::applier::effect::Bundle;
use lunar_agent_core::applier::input::{Found, Link};
use lunar_artifact::content::ContentError;
use lunar_artifact::verify::{VerifyError, compare_tree};
use lunar_artifact::{Pack, PackDirectory, PackError};
use lunar_common::ids::{ArtifactId, ArtifactName};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::disk::Disk;

/// Names under the root that are looked at. A server runs a handful of services.
const NAMES_MAX: usize = 1024;

/// Entries of one name's releases that are looked at: more than any plan keeps.
const RELEASES_MAX: usize = 1024;

/// Bytes that stay free beyond the content's own: file system blocks and names.
const RESERVE_BYTES: u64 = 16 * 1024 * 1024;

/// The link to what runs, and the name under which its successor is made.
const CURRENT: &str = "current";
const NEXT: &str = ".current.next";
const RELEASES: &str = "releases";

/// Why a step was not done.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The operating system refused.
    #[error("cannot {what} {path}")]
    Disk {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Not enough room.
    #[error("{path} has {free} bytes free, and unpacking needs {needed}: make room and try again")]
    NoRoom {
        /// Where.
        path: PathBuf,
        /// What there is.
        free: u64,
        /// What it takes.
        needed: u64,
    },
    /// Mounted read-only.
    #[error("{path} is on a file system that is mounted read-only")]
    ReadOnly {
        /// Where.
        path: PathBuf,
    },
    /// The pack is not there, not complete or not what it should be.
    #[error("the pack of {name} cannot be used")]
    Pack {
        /// Whose.
        name: ArtifactName,
        /// Why.
        #[source]
        source: Box<PackError>,
    },
    /// The manifest contradicts the plan.
    #[error("{name}: the manifest says {found} bytes of content, the signed plan says {planned}")]
    Length {
        /// Whose.
        name: ArtifactName,
        /// The manifest's.
        found: u64,
        /// The plan's.
        planned: u64,
    },
    /// Unpacking failed.
    #[error("cannot unpack {name}")]
    Unpack {
        /// What.
        name: ArtifactName,
        /// Why.
        #[source]
        source: Box<ContentError>,
    },
    /// What lies on the disk is not what was published.
    #[error("release {id:.16} of {name} is damaged on the disk")]
    Damaged {
        /// Whose.
        name: ArtifactName,
        /// Which.
        id: ArtifactId,
        /// How.
        #[source]
        source: Box<VerifyError>,
    },
    /// There is no such release.
    #[error("{name} has no release {id:.16}: it was never staged, or was removed")]
    NotStaged {
        /// Whose.
        name: ArtifactName,
        /// Which.
        id: ArtifactId,
    },
    /// Somebody put something there.
    #[error("{path} is not a link of ours: {what}")]
    Strange {
        /// Where.
        path: PathBuf,
        /// What it is.
        what: String,
    },
}

/// The releases of one server.
#[derive(Debug)]
pub struct Releases {
    root: PathBuf,
    packs: PathBuf,
    disk: Disk,
}

impl Releases {
    /// Releases below `root`, unpacked from the packs in `packs`.
    #[must_use]
    pub fn new(root: PathBuf, packs: PathBuf) -> Self {
        Self { root, packs, disk: Disk::default() }
    }

    /// The same, on a disk whose power can be cut.
    #[cfg(test)]
    pub(crate) fn with_fuse(mut self, fuse: std::sync::Arc<super::disk::fuse::Fuse>) -> Self {
        self.disk.fuse = Some(fuse);
        self
    }

    /// What the links say, and which releases lie ready. A root that is not there has none.
    #[must_use]
    pub fn found(&self) -> Found {
        let mut found = Found::default();
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        for entry in entries.take(NAMES_MAX) {
            let name = entry.file_name();
            let Some(Ok(name)) = name.to_str().map(ArtifactName::new) else { continue };
            let link = match self.current(&name) {
                Ok(running) => running.map(Link::Release),
                Err(error) => Some(Link::Strange(super::chain(&error))),
            };
            // A release gets its name by the rename that ends its unpacking.
            found.releases.extend(self.unpacked(&name).map(|id| (name.clone(), id)));
            found.links.extend(link.map(|link| (name, link)));
        }
        found
    }

    fn unpacked(&self, name: &ArtifactName) -> impl Iterator<Item = ArtifactId> {
        let entries = std::fs::read_dir(self.releases(name)).into_iter().flatten().flatten();
        entries
            .take(RELEASES_MAX)
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
    }

    /// Removes what was left behind, and every release that is neither kept nor running.
    pub(crate) fn prune(&self, name: &ArtifactName, keep: &[ArtifactId]) -> Result<(), ReleaseError> {
        let releases = self.releases(name);
        let running = self.current(name)?;
        let entries = match std::fs::read_dir(&releases) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed("list", &releases, error)),
        };
        let mut removed = false;
        for entry in entries {
            let entry = entry.map_err(|error| failed("list", &releases, error))?;
            let id = entry.file_name().to_str().and_then(|text| text.parse::<ArtifactId>().ok());
            if id.is_some_and(|id| keep.contains(&id) || running == Some(id)) {
                continue;
            }
            let path = entry.path();
            self.disk.remove_tree(&path).map_err(|error| failed("remove", &path, error))?;
            removed = true;
        }
        if removed {
            self.disk.sync(&releases).map_err(|error| failed("sync", &releases, error))?;
        }
        Ok(())
    }

    /// Unpacks a release beside what runs. One that is there already is compared with its pack, and unpacked
    /// anew if it is damaged.
    pub(crate) fn stage(&self, bundle: &Bundle) -> Result<(), ReleaseError> {
        let name = &bundle.name;
        let pack = self.pack(bundle)?;
        let home = self.root.join(name.as_str());
        let releases = self.releases(name);
        for path in [&home, &releases] {
            self.disk.make_directory(path).map_err(|error| failed("make the directory", path, error))?;
        }
        let destination = releases.join(bundle.id.to_string());
        if destination.symlink_metadata().is_ok() {
            let Err(source) = compare_tree(&destination, &pack) else { return Ok(()) };
            if self.current(name)? == Some(bundle.id) {
                // Taking it away under a running service would make things worse: a person decides.
                let source = source.into();
                return Err(ReleaseError::Damaged { name: name.clone(), id: bundle.id, source });
            }
            tracing::warn!(%name, id = %bundle.id, error = %source, "a staged release was damaged");
            self.disk.remove_tree(&destination).map_err(|error| failed("remove", &destination, error))?;
        }
        self.check_room(&releases, bundle.bytes)?;
        self.disk
            .unpack(&pack, &destination)
            .map_err(|source| ReleaseError::Unpack { name: name.clone(), source: source.into() })
    }

    /// Compares a staged release with its pack, byte by byte.
    pub(crate) fn verify(&self, bundle: &Bundle) -> Result<(), ReleaseError> {
        let Bundle { name, id, .. } = bundle;
        let destination = self.releases(name).join(id.to_string());
        if !destination.is_dir() {
            return Err(ReleaseError::NotStaged { name: name.clone(), id: *id });
        }
        let pack = self.pack(bundle)?;
        compare_tree(&destination, &pack).map_err(|source| ReleaseError::Damaged {
            name: name.clone(),
            id: *id,
            source: Box::new(source),
        })
    }

    /// Makes the link lead to a release, or takes it away.
    pub(crate) fn switch(&self, name: &ArtifactName, to: Option<ArtifactId>) -> Result<(), ReleaseError> {
        let home = self.root.join(name.as_str());
        let current = home.join(CURRENT);
        let running = self.current(name)?;
        match to {
            // A crash may have come between the change and its sync: sync again in any case.
            _ if running == to && !home.is_dir() => return Ok(()),
            _ if running == to => {}
            None => {
                self.disk.remove_link(&current).map_err(|error| failed("remove", &current, error))?;
            }
            Some(id) => {
                let target = Path::new(RELEASES).join(id.to_string());
                if !home.join(&target).is_dir() {
                    return Err(ReleaseError::NotStaged { name: name.clone(), id });
                }
                let next = home.join(NEXT);
                self.disk.remove_link(&next).map_err(|error| failed("remove", &next, error))?;
                self.disk.link(&target, &next).map_err(|error| failed("make the link", &next, error))?;
                self.disk
                    .rename(&next, &current)
                    .map_err(|error| failed("switch the link", &current, error))?;
            }
        }
        self.disk.sync(&home).map_err(|error| failed("sync", &home, error))
    }

    /// What the link of this name leads to; `None` if there is no link.
    fn current(&self, name: &ArtifactName) -> Result<Option<ArtifactId>, ReleaseError> {
        let home = self.root.join(name.as_str());
        let path = home.join(CURRENT);
        let strange = |what: String| ReleaseError::Strange { path: path.clone(), what };
        let target = match std::fs::read_link(&path) {
            Ok(target) => target,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return Err(strange("it is no link at all".to_owned()));
            }
            Err(error) => return Err(failed("read", &path, error)),
        };
        let id = target
            .strip_prefix(RELEASES)
            .ok()
            .and_then(Path::to_str)
            .and_then(|text| text.parse::<ArtifactId>().ok())
            .ok_or_else(|| strange(format!("it leads to {}", target.display())))?;
        if !home.join(&target).is_dir() {
            return Err(strange(format!("it leads to {}, which is not there", target.display())));
        }
        Ok(Some(id))
    }

    fn pack(&self, bundle: &Bundle) -> Result<Pack, ReleaseError> {
        let unusable =
            |source: PackError| ReleaseError::Pack { name: bundle.name.clone(), source: source.into() };
        if !self.packs.is_dir() {
            let source = io::Error::from(io::ErrorKind::NotFound);
            return Err(failed("look for packs in", &self.packs, source));
        }
        let packs = PackDirectory::open(&self.packs).map_err(unusable)?;
        let pack = packs.get_complete(bundle.id).map_err(unusable)?;
        let found = pack.manifest().bytes;
        if found != bundle.bytes {
            let name = bundle.name.clone();
            return Err(ReleaseError::Length { name, found, planned: bundle.bytes });
        }
        Ok(pack)
    }

    fn check_room(&self, path: &Path, bytes: u64) -> Result<(), ReleaseError> {
        let figures = statvfs(path).map_err(|error| failed("ask for the room on", path, error.into()))?;
        if figures.flags().contains(FsFlags::ST_RDONLY) {
            return Err(ReleaseError::ReadOnly { path: path.to_owned() });
        }
        let free = figures.blocks_available().saturating_mul(figures.fragment_size());
        // A sixteenth for blocks that are not filled: half a block for each file of 32 KiB.
        let needed = bytes.saturating_add(bytes / 16).saturating_add(RESERVE_BYTES);
        if free < needed {
            return Err(ReleaseError::NoRoom { path: path.to_owned(), free, needed });
        }
        Ok(())
    }

    fn releases(&self, name: &ArtifactName) -> PathBuf {
        self.root.join(name.as_str()).join(RELEASES)
    }
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> ReleaseError {
    ReleaseError::Disk { what, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::applier::tests::{Published, packs_of, publish};

    #[test]
    fn a_step_may_be_repeated_and_changes_nothing_the_second_time() {
        let bench = Bench::new();
        for _ in 0..2 {
            bench.releases.stage(&bench.bundle(&bench.one)).unwrap();
            bench.releases.verify(&bench.bundle(&bench.one)).unwrap();
            bench.releases.switch(&web(), Some(bench.one.id)).unwrap();
            assert_eq!(bench.releases.found().running(&web()), Ok(Some(bench.one.id)));
        }
        for _ in 0..2 {
            bench.releases.switch(&web(), None).unwrap();
            assert_eq!(bench.releases.found().running(&web()), Ok(None));
        }
        let never_installed = ArtifactName::new("other").unwrap();
        bench.releases.switch(&never_installed, None).unwrap();
        bench.releases.prune(&never_installed, &[]).unwrap();
    }

    #[test]
    fn a_staged_release_that_was_damaged_is_noticed_and_unpacked_anew() {
        let bench = Bench::new();
        let bundle = bench.bundle(&bench.one);
        bench.releases.stage(&bundle).unwrap();
        let file = bench.release(&bench.one).join("bin/deep/program");
        std::fs::write(&file, "something else").unwrap();

        let damaged = bench.releases.verify(&bundle).unwrap_err();

        assert!(matches!(damaged, ReleaseError::Damaged { .. }), "{damaged}");
        bench.releases.stage(&bundle).unwrap();
        bench.releases.verify(&bundle).unwrap();
    }

    #[test]
    fn a_running_release_that_is_damaged_is_reported_and_not_taken_away() {
        let bench = Bench::new();
        let bundle = bench.bundle(&bench.one);
        bench.releases.stage(&bundle).unwrap();
        bench.releases.switch(&web(), Some(bench.one.id)).unwrap();
        let file = bench.release(&bench.one).join("version");
        std::fs::write(&file, "something else").unwrap();

        let damaged = bench.releases.stage(&bundle).unwrap_err();

        assert!(matches!(damaged, ReleaseError::Damaged { .. }), "{damaged}");
        assert!(file.exists());
    }

    #[test]
    fn pruning_clears_what_was_left_and_never_takes_what_runs() {
        let bench = Bench::new();
        for published in [&bench.one, &bench.two] {
            bench.releases.stage(&bench.bundle(published)).unwrap();
        }
        bench.releases.switch(&web(), Some(bench.one.id)).unwrap();
        let left = bench.releases.releases(&web()).join(".x.unpacking");
        std::fs::create_dir(&left).unwrap();

        bench.releases.prune(&web(), &[]).unwrap();

        assert!(bench.release(&bench.one).is_dir(), "it runs");
        assert!(!bench.release(&bench.two).exists() && !left.exists());
    }

    #[test]
    fn a_link_that_is_not_ours_is_told_and_left_alone() {
        let bench = Bench::new();
        bench.releases.stage(&bench.bundle(&bench.one)).unwrap();
        let current = bench.home.path().join("root/web/current");
        let missing = format!("releases/{}", bench.two.id);
        for target in ["/etc", "releases/..", "releases/latest", &missing] {
            std::os::unix::fs::symlink(target, &current).unwrap();
            assert!(bench.releases.found().running(&web()).is_err(), "{target}");
            let refused = bench.releases.switch(&web(), Some(bench.one.id)).unwrap_err();
            assert!(matches!(refused, ReleaseError::Strange { .. }), "{target}: {refused}");
            assert_eq!(std::fs::read_link(&current).unwrap(), Path::new(target));
            std::fs::remove_file(&current).unwrap();
        }
        std::fs::create_dir(&current).unwrap();
        assert!(bench.releases.found().running(&web()).is_err());
        assert!(bench.releases.switch(&web(), Some(bench.one.id)).is_err());
    }

    #[test]
    fn a_switch_to_what_was_never_staged_is_refused() {
        let bench = Bench::new();
        let refused = bench.releases.switch(&web(), Some(bench.one.id)).unwrap_err();
        assert!(matches!(refused, ReleaseError::NotStaged { .. }), "{refused}");
        let refused = bench.releases.verify(&bench.bundle(&bench.one)).unwrap_err();
        assert!(matches!(refused, ReleaseError::NotStaged { .. }), "{refused}");
    }

    #[test]
    fn packs_that_are_missing_cut_short_or_of_another_length_are_refused() {
        let bench = Bench::new();
        let mut longer = bench.bundle(&bench.one);
        longer.bytes += 1;
        let refused = bench.releases.stage(&longer).unwrap_err();
        assert!(matches!(refused, ReleaseError::Length { .. }), "{refused}");

        let pack = packs_of(bench.home.path()).join(format!("{}.pack", bench.one.id));
        let bytes = std::fs::read(&pack).unwrap();
        std::fs::write(&pack, &bytes[..bytes.len() - 1]).unwrap();
        assert!(bench.releases.stage(&bench.bundle(&bench.one)).is_err());
        std::fs::remove_file(&pack).unwrap();
        let refused = bench.releases.stage(&bench.bundle(&bench.one)).unwrap_err();
        assert!(matches!(refused, ReleaseError::Pack { .. }), "{refused}");
        assert!(!bench.release(&bench.one).exists());
        assert_eq!(bench.releases.found(), Found::default());
    }

    #[test]
    fn what_does_not_fit_is_refused_before_it_is_begun() {
        let bench = Bench::new();
        let refused = bench.releases.check_room(bench.home.path(), u64::MAX / 2).unwrap_err();
        assert!(matches!(refused, ReleaseError::NoRoom { .. }), "{refused}");
        bench.releases.check_room(bench.home.path(), 1).unwrap();
    }

    struct Bench {
        home: tempfile::TempDir,
        one: Published,
        two: Published,
        releases: Releases,
    }

    impl Bench {
        fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            let one = publish(home.path(), "web", "1");
            let two = publish(home.path(), "web", "2");
            let root = home.path().join("root");
            std::fs::create_dir(&root).unwrap();
            let releases = Releases::new(root, packs_of(home.path()));
            Self { home, one, two, releases }
        }

        fn bundle(&self, published: &Published) -> Bundle {
            Bundle { name: web(), id: published.id, manifest_bytes: 1, bytes: published.bytes }
        }

        fn release(&self, published: &Published) -> PathBuf {
            self.releases.releases(&web()).join(published.id.to_string())
        }
    }

    fn web() -> ArtifactName {
        ArtifactName::new("web").unwrap()
    }
}
