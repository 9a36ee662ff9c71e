//! Running processes as the kernel lists them.
//!
//! Owns [`Process`] and [`Crashed`]. Main invariant: a process is known by the words of its command line, of
//! which one is a path in the test's own directory, so that no other fleet's process is ever touched.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait_until;

/// One running process.
#[derive(Debug, Clone)]
pub struct Process {
    pid: Pid,
    words: Vec<OsString>,
}

/// A process that was killed: how it was started, to start it again.
#[derive(Debug)]
#[must_use]
pub struct Crashed {
    /// Its command line.
    pub words: Vec<OsString>,
}

impl Process {
    /// The process whose command line holds all of these words.
    #[must_use]
    pub fn find(wanted: &[OsString]) -> Option<Self> {
        let entries = fs::read_dir("/proc").expect("/proc is mounted").filter_map(Result::ok);
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find_map(|pid: i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let line = line.strip_suffix(&[0]).unwrap_or(&line);
            let words: Vec<OsString> =
                line.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect();
            let process = Self { pid: Pid::from_raw(pid), words };
            let is_it = wanted.iter().all(|word| process.words.contains(word));
            (is_it && !process.has_ended()).then_some(process)
        })
    }

    /// Kills it as a power cut would, and waits until nothing of it is left: no socket, no lock.
    ///
    /// # Panics
    /// The kernel refuses.
    pub fn crash(self) -> Crashed {
        self.signal(Signal::SIGKILL);
        wait_until("a killed process to be gone", || self.has_ended());
        Crashed { words: self.words }
    }

    /// Its id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Holds it where it is.
    ///
    /// # Panics
    /// The kernel refuses.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
        wait_until("a stopped process to stand still", || self.state().is_none_or(|state| state == 'T'));
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// The kernel refuses.
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap_or_else(|error| panic!("{:?}: {error}", self.words));
    }

    /// Its state in proc(5), which follows the name in parentheses.
    fn state(&self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        stat.rsplit(") ").next()?.chars().next()
    }

    /// A zombie without threads has closed everything: who started it has only not asked yet. While threads are
    /// still ending, its files and locks are open.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let threads = || fs::read_dir(format!("/proc/{}/task", self.pid)).map_or(0, Iterator::count);
        self.state().is_none_or(|state| matches!(state, 'Z' | 'X') && threads() <= 1)
    }
}
