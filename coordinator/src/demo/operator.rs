//! An operator at the demo's terminal: runs the very commands that a person would.
//!
//! Owns the calls of our own programs. Main invariant: nothing is done behind the command line's back, and
//! every command is shown as it could be typed.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::anyhow;
use lunar_host::exit::{Exit, Failure};

/// Runs commands and shows them.
#[derive(Debug)]
pub struct Operator {
    coordinator: PathBuf,
    home: PathBuf,
    shown: bool,
}

impl Operator {
    /// An operator of the coordinator in this directory; `shown` prints each command before it runs.
    ///
    /// # Errors
    /// This very program cannot be found.
    pub fn new(home: &Path, shown: bool) -> Result<Self, Failure> {
        Ok(Self { coordinator: std::env::current_exe()?, home: home.to_owned(), shown })
    }

    /// The same operator, with commands no longer shown.
    pub fn be_quiet(&mut self) {
        self.shown = false;
    }

    /// Runs `lunar-coordinator` with these arguments, and gives what it printed.
    ///
    /// # Errors
    /// Any exit code but 0, with what the command said.
    pub fn run<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, arguments: I) -> Result<String, Failure> {
        self.call(&self.coordinator, arguments)
    }

    /// Runs another of our programs.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub fn call<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(
        &self,
        program: &Path,
        arguments: I,
    ) -> Result<String, Failure> {
        let arguments: Vec<_> = arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect();
        let words: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let line = format!("{name} {}", words.join(" "));
        if self.shown {
            // Only for people; a closed standard error is no reason to stop.
            let _ = writeln!(
                std::io::stderr(),
                "  $ {}",
                line.replace(&*self.home.to_string_lossy(), "$LUNAR_HOME")
            );
        }
        let output = Command::new(program).args(&arguments).env("LUNAR_HOME", &self.home).output().map_err(
            |error| Failure::new(Exit::Environment, anyhow!(error).context(program.display().to_string())),
        )?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Failure::new(
                Exit::Internal,
                anyhow!("`{line}` ended with {}: {said}", output.status),
            ));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
