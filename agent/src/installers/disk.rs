//! The changes that an installer makes to the disk, one by one.
//!
//! Owns every write below the root directory. Main invariant: each operation is atomic or may be repeated,
//! and nothing else in the installers touches the disk, so that a test can cut the power after any of them.
//! Refuses to follow a link.

use std::io;
use std::path::Path;

use lunar_artifact::archive::{ArchiveError, remove_tree};
use lunar_artifact::content::ContentError;
use lunar_artifact::{Pack, unpack_tree};

/// The disk.
#[derive(Debug, Default)]
pub(super) struct Disk {
    #[cfg(test)]
    pub(super) fuse: Option<std::sync::Arc<fuse::Fuse>>,
}

impl Disk {
    /// Makes a directory, durably. One that is there is as good.
    pub(super) fn make_directory(&self, path: &Path) -> io::Result<()> {
        self.before("make directory")?;
        match std::fs::create_dir(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            Err(error) => return Err(error),
        }
        path.parent().map_or(Ok(()), |parent| self.sync(parent))
    }

    /// Unpacks a release: there is all of it, durably, or nothing of that name.
    pub(super) fn unpack(&self, pack: &Pack, destination: &Path) -> Result<(), ContentError> {
        self.before("unpack").map_err(cut)?;
        #[cfg(test)]
        self.half_unpacked(destination).map_err(cut)?;
        unpack_tree(pack, destination).map(drop)
    }

    /// Removes a directory with all that is in it. What is not there is removed already.
    pub(super) fn remove_tree(&self, path: &Path) -> io::Result<()> {
        self.before("remove tree")?;
        #[cfg(test)]
        self.half_removed(path)?;
        remove_tree(path)
    }

    /// Removes a link. What is not there is removed already.
    pub(super) fn remove_link(&self, path: &Path) -> io::Result<()> {
        self.before("remove link")?;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Makes a symbolic link.
    pub(super) fn link(&self, target: &Path, path: &Path) -> io::Result<()> {
        self.before("link")?;
        std::os::unix::fs::symlink(target, path)
    }

    /// Renames over what is there, in one step.
    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        #[cfg(test)]
        if self.fuse.as_ref().is_some_and(|fuse| fuse.careless) {
            self.remove_link(to)?;
        }
        self.before("rename")?;
        std::fs::rename(from, to)
    }

    /// Makes the names in a directory durable.
    pub(super) fn sync(&self, directory: &Path) -> io::Result<()> {
        self.before("sync")?;
        lunar_host::files::sync_directory(directory)
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps)]
    fn before(&self, _operation: &'static str) -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    fn before(&self, operation: &'static str) -> io::Result<()> {
        self.fuse.as_ref().map_or(Ok(()), |fuse| fuse.burn(operation))
    }

    /// Unpacking is many operations: the power may go half-way, and leave what the archive's module leaves then.
    #[cfg(test)]
    fn half_unpacked(&self, destination: &Path) -> io::Result<()> {
        let Some(fuse) = &self.fuse else { return Ok(()) };
        let Err(cut) = fuse.burn("unpack the rest") else { return Ok(()) };
        let name = destination.file_name().expect("a release has a name").to_str().expect("hexadecimal");
        let staging = destination.with_file_name(format!(".{name}.unpacking"));
        std::fs::create_dir_all(staging.join("bin")).expect("the test's directory can be written");
        std::fs::write(staging.join("bin/half"), "half a fi").expect("the test's directory can be written");
        Err(cut)
    }

    /// A removal is many operations: the power may go half-way.
    #[cfg(test)]
    fn half_removed(&self, path: &Path) -> io::Result<()> {
        let Some(fuse) = &self.fuse else { return Ok(()) };
        let Err(cut) = fuse.burn("remove the rest of a tree") else { return Ok(()) };
        let first = std::fs::read_dir(path).ok().and_then(|mut entries| entries.next());
        if let Some(Ok(entry)) = first {
            remove_tree(&entry.path()).expect("the test's tree can be removed");
        }
        Err(cut)
    }
}

fn cut(error: io::Error) -> ContentError {
    ContentError::Archive(ArchiveError::Stream(error))
}

/// A power cut, for tests.
#[cfg(test)]
pub(crate) mod fuse {
    use std::io;
    use std::sync::Mutex;

    /// Lets a number of operations pass, and none after that.
    #[derive(Debug)]
    pub(crate) struct Fuse {
        state: Mutex<(u32, Vec<&'static str>)>,
        /// The known bug that proves the checker: what is renamed over is removed first.
        pub(super) careless: bool,
    }

    impl Fuse {
        pub(crate) fn after(operations: u32) -> Self {
            Self { state: Mutex::new((operations, Vec::new())), careless: false }
        }

        /// The same, with the known bug in.
        pub(crate) fn careless(mut self, careless: bool) -> Self {
            self.careless = careless;
            self
        }

        pub(crate) fn burn(&self, operation: &'static str) -> io::Result<()> {
            let mut state = self.state.lock().unwrap();
            if state.0 == 0 {
                return Err(io::Error::other("the power is gone"));
            }
            state.0 -= 1;
            state.1.push(operation);
            Ok(())
        }

        /// Whether the power is gone.
        pub(crate) fn blown(&self) -> bool {
            self.state.lock().unwrap().0 == 0
        }

        /// What was done.
        pub(crate) fn done(&self) -> Vec<&'static str> {
            self.state.lock().unwrap().1.clone()
        }
    }
}
