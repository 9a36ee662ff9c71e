//! A small file system of a test's own, under one directory of one process.
//!
//! Owns [`SmallDisk`]: a tmpfs in a mount namespace, which nobody but that process sees and which ends with it. Main
//! invariant: it is either a real file system that is really full, or the test that wanted it says loudly that it
//! did not run. Refuses to mount anything that another process could see.

use std::ffi::OsString;
use std::io::{Write as _, stderr};
use std::path::{Path, PathBuf};

use crate::process::{Crashed, Process};
use crate::programs::{Ended, run};

/// How a namespace is made and entered here.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// As root.
    Root,
    /// As the root of a user namespace, where the kernel lets everyone make one.
    User,
}

/// Where a small file system stands.
#[derive(Debug, Clone)]
pub struct SmallDisk {
    directory: PathBuf,
    way: Way,
}

impl SmallDisk {
    /// One for this directory; `None`, and a word on standard error, where nothing may be mounted.
    #[must_use]
    pub fn at(directory: &Path) -> Option<Self> {
        let way = if nix::unistd::geteuid().is_root() { Way::Root } else { Way::User };
        let disk = Self { directory: directory.to_owned(), way };
        let script = "mount -t tmpfs -o size=1m tmpfs \"$0\"";
        let mut words = disk.making();
        words.extend(["sh", "-c", script].map(OsString::from));
        words.push(directory.into());
        let tried = run(Path::new("unshare"), directory, &words[1..]);
        if tried.code == 0 {
            return Some(disk);
        }
        // Past the test's capture: nobody may take this for a test that ran.
        let why = tried.err.trim_end();
        let _ =
            writeln!(stderr(), "NOT RUN: nothing can be mounted here; a file-size limit stands in: {why}");
        None
    }

    fn making(&self) -> Vec<OsString> {
        let how = match self.way {
            Way::Root => "-m",
            Way::User => "-rm",
        };
        ["unshare", how].map(OsString::from).into()
    }

    /// How a process is started anew with this file system under the directory: it begins with what is there, and
    /// has room for what these options of tmpfs(5) say.
    pub fn under(&self, crashed: &Crashed, options: &str) -> Crashed {
        let script = "cp -a \"$0\" \"$0.below\" && mount -t tmpfs -o \"$1\" tmpfs \"$0\" && \
                      cp -a \"$0.below/.\" \"$0\" && shift && exec \"$@\"";
        let mut words = self.making();
        words.extend(["sh", "-c", script].map(OsString::from));
        words.push(self.directory.clone().into());
        words.push(options.into());
        words.extend(crashed.words.iter().cloned());
        Crashed { words }
    }

    /// Runs a script where the process sees the file system; `$0` is the directory.
    ///
    /// # Panics
    /// It cannot be run.
    pub fn inside(&self, process: &Process, script: &str) -> Ended {
        let pid = process.pid().to_string();
        let how: &[&str] = match self.way {
            Way::Root => &["-m"],
            Way::User => &["-U", "-m", "--preserve-credentials"],
        };
        let directory = self.directory.display().to_string();
        let words = [&["-t", &pid], how, &["sh", "-c", script, &directory]].concat();
        run(Path::new("nsenter"), &self.directory, words)
    }
}
