//! Exit codes, the same in every program, and the error that carries one.
//!
//! Owns [`Exit`] and [`Failure`]. Main invariant: a message to a person says what was wrong, where, and what
//! to do next; the code says the same to a script.

use std::fmt;

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went as asked.
    Ok = 0,
    /// It ran, and what it checked does not hold (an expectation, a verification, a probe).
    NotHeld = 1,
    /// The command line itself was wrong (clap's own code).
    Usage = 2,
    /// A file or an argument was refused: not there, syntax, unknown key, impossible value.
    BadInput = 3,
    /// A signature, a key, a threshold, a replay or an expiry was refused.
    NotTrusted = 4,
    /// Nobody answered: coordinator, agent, applier or peer.
    Unreachable = 5,
    /// The machine refused: disk full, read-only, permission, port in use.
    Environment = 6,
    /// Another process works on the same directory.
    Locked = 7,
    /// Stored state is damaged; nothing was changed.
    Damaged = 8,
    /// A mistake in this program.
    Internal = 70,
}

impl Exit {
    /// The codes with their meanings, for `--help` and the manual pages.
    pub const HELP: &str = "Exit codes:\n  \
        0  all went as asked\n  \
        1  what was checked does not hold\n  \
        2  the command line is wrong\n  \
        3  a file or an argument was refused: not there, or wrong in itself\n  \
        4  a signature, key, threshold, replay or expiry was refused\n  \
        5  nobody answered\n  \
        6  the machine refused: disk full, read-only, permission, port in use\n  \
        7  another process works on the same directory\n  \
        8  stored state is damaged; nothing was changed\n \
        70  a mistake in this program";
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error with its exit code and advice. What command-line code returns.
#[derive(Debug)]
pub struct Failure {
    /// The code to end with.
    pub exit: Exit,
    /// What was wrong, and where.
    pub error: anyhow::Error,
    /// What to do next; may be empty.
    pub advice: String,
}

impl Failure {
    /// A failure without advice.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into(), advice: String::new() }
    }

    /// The same, with what to do next.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = advice.into();
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)?;
        for cause in self.error.chain().skip(1) {
            write!(f, "\n  because {cause}")?;
        }
        if !self.advice.is_empty() {
            write!(f, "\n  next: {}", self.advice)?;
        }
        Ok(())
    }
}

/// Gives an error an exit code where it is known.
pub trait OrExit<T> {
    /// The value, or a [`Failure`] with this code.
    ///
    /// # Errors
    /// The same error, with the code.
    fn or_exit(self, exit: Exit) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(exit, error))
    }
}

/// The code for an error of the operating system: everything it refuses is the environment's.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Environment, error)
    }
}
