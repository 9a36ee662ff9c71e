//! The demo's child processes: started, killed, started again, and never left behind.
//!
//! Owns every process of the demo's fleet. Main invariant: when [`Processes`] is dropped, all of them have
//! been told to end and have ended, or have been killed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a process may take to end when asked, before it is killed.
const END_WITHIN: Duration = Duration::from_secs(5);

/// One program of the fleet, as it is started.
#[derive(Debug, Clone)]
pub struct Program {
    /// The executable.
    pub executable: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Where its log goes.
    pub log: PathBuf,
}

/// All child processes by name.
#[derive(Debug, Default)]
pub struct Processes {
    programs: BTreeMap<String, Program>,
    running: BTreeMap<String, Child>,
}

impl Processes {
    /// Starts a program under a name.
    ///
    /// # Errors
    /// An executable that cannot be started, a log that cannot be written.
    pub fn start(&mut self, name: &str, program: Program) -> io::Result<()> {
        let child = spawn(&program)?;
        self.programs.insert(name.to_owned(), program);
        self.running.insert(name.to_owned(), child);
        Ok(())
    }

    /// Kills a process as a crash would: SIGKILL, no word before. Waits until it is gone.
    ///
    /// # Errors
    /// The operating system's.
    pub fn crash(&mut self, name: &str) -> io::Result<()> {
        if let Some(mut child) = self.running.remove(name) {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Starts a program again, as it was started before.
    ///
    /// # Errors
    /// As for [`Self::start`]; a name that was never started.
    pub fn restart(&mut self, name: &str) -> io::Result<()> {
        let program = self.programs.get(name).cloned();
        self.start(name, program.ok_or_else(|| io::Error::other(format!("{name} was never started")))?)
    }

    /// Processes that ended by themselves, with how: none should.
    pub fn ended(&mut self) -> Vec<(String, String)> {
        let status = |(name, child): (&String, &mut Child)| {
            child.try_wait().ok().flatten().map(|status| (name.clone(), status.to_string()))
        };
        self.running.iter_mut().filter_map(status).collect()
    }

    /// Tells all to end, and waits until they have.
    pub fn stop(&mut self) {
        for child in self.running.values() {
            // It may have ended already; the wait below finds out.
            let _ = kill(pid(child), Signal::SIGTERM);
        }
        let begun = Instant::now();
        for (name, mut child) in std::mem::take(&mut self.running) {
            while begun.elapsed() < END_WITHIN && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(5));
            }
            if matches!(child.try_wait(), Ok(None)) {
                tracing::warn!(process = name, "did not end when asked; killed");
                let _ = child.kill().and_then(|()| child.wait());
            }
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.stop();
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX))
}

fn spawn(program: &Program) -> io::Result<Child> {
    let log = File::options().create(true).append(true).open(&program.log)?;
    Command::new(&program.executable)
        .args(&program.arguments)
        .env("LUNAR_DIE_WITH_PARENT", "1")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // A group of its own: Ctrl-C reaches the demo, which then ends its children in order.
        .process_group(0)
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", program.executable.display())))
}
