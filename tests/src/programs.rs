//! The two programs: built or found once a process, and run to their end.
//!
//! Owns [`Programs`] and [`Ended`]. Main invariant: what is tested is what this very checkout builds, in the
//! profile that the tests were built in.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use lunar_host::cargo;
use serde_json::Value;

/// Names a directory in which both programs lie already, and are not to be built.
const GIVEN: &str = "LUNAR_PROGRAMS";

/// Where the programs are.
#[derive(Debug)]
pub struct Programs {
    /// `lunar-coordinator`.
    pub coordinator: PathBuf,
    /// `lunar-agent`.
    pub agent: PathBuf,
}

/// The programs; the first call builds them.
///
/// # Panics
/// They cannot be built.
pub fn programs() -> &'static Programs {
    static BUILT: OnceLock<Programs> = OnceLock::new();
    BUILT.get_or_init(|| {
        let directory = match std::env::var_os(GIVEN) {
            Some(given) => PathBuf::from(given),
            None => build(),
        };
        let built = Programs {
            coordinator: directory.join("lunar-coordinator"),
            agent: directory.join("lunar-agent"),
        };
        for program in [&built.coordinator, &built.agent] {
            assert!(program.is_file(), "{} is not there", program.display());
        }
        built
    })
}

/// Builds both into the target directory and profile of this very test, which lies at
/// `TARGET/PROFILE/deps/NAME`.
fn build() -> PathBuf {
    let this = std::env::current_exe().expect("a running program has a path");
    let directory =
        this.parent().and_then(Path::parent).expect("cargo puts tests below the profile's directory");
    let target = directory.parent().expect("and that below the target directory");
    let profile = directory.file_name().and_then(OsStr::to_str).expect("profiles' names are plain");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    cargo::forget_package(&mut command);
    let built = command
        .args(["build", "--quiet", "--bins", "--package", "lunar-coordinator", "--package", "lunar-agent"])
        .args(["--profile", if profile == "debug" { "dev" } else { profile }, "--target-dir"])
        .arg(target)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .status()
        .expect("cargo runs these tests, so it is there");
    assert!(built.success(), "the programs do not build: {built}");
    directory.to_owned()
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; −1 if a signal ended it.
    pub code: i32,
    /// What it printed.
    pub out: String,
    /// What it said of errors.
    pub err: String,
}

impl Ended {
    /// The answer of a command that must have gone well.
    ///
    /// # Panics
    /// It did not, or its answer is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.err);
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in: {}", self.out))
    }

    /// Checks the exit code, and that the error says all of these.
    ///
    /// # Panics
    /// It does not.
    pub fn is_refused(&self, code: i32, says: &[&str]) {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.out, self.err);
        for word in says {
            assert!(self.err.contains(word), "does not say {word:?}: {}", self.err);
        }
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a program to its end, with nothing of the caller's environment that would steer it.
///
/// # Panics
/// It cannot be started.
pub fn run<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(program: &Path, home: &Path, arguments: I) -> Ended {
    command(program)
        .args(arguments)
        .env("LUNAR_HOME", home)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()))
        .into()
}

/// A command of ours. Without `CARGO`, by which the demo would build the agent again.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for name in ["CARGO", "LUNAR_HOME", "LUNAR_LOG", "LUNAR_AGENT_CONFIG", "LUNAR_APPLIER_CONFIG"] {
        command.env_remove(name);
    }
    command
}
