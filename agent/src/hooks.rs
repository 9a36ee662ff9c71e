//! Programs that a signed plan asks to run on this server: hooks, restarts and command probes.
//!
//! Owns placeholders and the running of one program. Main invariant: a run ends by its time-out whatever the
//! program does, with its whole process group, and costs a bounded amount of memory. No shell is involved: a
//! word of the plan is a word of the command line, whatever a label holds. Refuses unknown placeholders.
//!
//! A program that ends in time may leave a service running: only a time-out kills the group. Such a service
//! must not keep the program's standard output: nobody reads it any more.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use lunar_common::enrolment::Enrolment;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

/// Bytes kept of the end of a program's output: what a person needs to see of a failure.
const OUTPUT_BYTES_KEPT: usize = 1024;

/// Longest result of a replacement in bytes. Linux takes no single argument over 128 KiB.
const EXPANDED_BYTES_MAX: usize = 64 * 1024;

/// What placeholders are replaced with: from the server's signed enrolment and its own configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// `${server}`.
    pub server: String,
    /// `${hostname}`.
    pub hostname: String,
    /// `${root}`: where releases live on this server.
    pub root: PathBuf,
    /// `${label.NAME}`.
    pub labels: BTreeMap<String, String>,
}

/// Why a text could not be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// Not one of ours, or a label that this server does not have.
    #[error("{text:?} names ${{{name}}}, which this server does not know; known: {known}")]
    Unknown {
        /// The plan's text.
        text: String,
        /// The placeholder.
        name: String,
        /// What there is.
        known: String,
    },
    /// `${` without an end.
    #[error("{0:?} has a \"${{\" without its \"}}\"")]
    Unfinished(String),
    /// Over the bound.
    #[error("{0:?} becomes longer than {EXPANDED_BYTES_MAX} bytes")]
    TooLong(String),
}

/// Why a program did not do what it was run for.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A placeholder.
    #[error(transparent)]
    Expand(#[from] ExpandError),
    /// The plan names no program.
    #[error("the command is empty")]
    Empty,
    /// The program cannot be started.
    #[error("cannot run {program}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended, and not with 0.
    #[error("{program}: {status}{output}")]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it said.
        output: Said,
    },
    /// It was killed for taking too long.
    #[error("{program} took longer than {timeout_s} s and was killed{output}")]
    TimedOut {
        /// The program.
        program: String,
        /// How long it had.
        timeout_s: u64,
        /// The end of what it said.
        output: Said,
    },
}

/// The end of a program's output, as it is shown after a colon.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Said(pub String);

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, ": {}", self.0) }
    }
}

impl Context {
    /// The context of a server.
    #[must_use]
    pub fn new(enrolment: &Enrolment, root: PathBuf) -> Self {
        Self {
            server: enrolment.server.to_string(),
            hostname: enrolment.hostname.clone(),
            root,
            labels: enrolment.labels.clone(),
        }
    }

    /// A text with its placeholders replaced, once: what a label holds is not looked at again.
    ///
    /// # Errors
    /// [`ExpandError`].
    pub fn expand(&self, text: &str) -> Result<String, ExpandError> {
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (name, after) =
                after.split_once('}').ok_or_else(|| ExpandError::Unfinished(text.to_owned()))?;
            expanded.push_str(before);
            expanded.push_str(&self.value(name).ok_or_else(|| self.unknown(text, name))?);
            rest = after;
            if expanded.len() > EXPANDED_BYTES_MAX {
                break;
            }
        }
        expanded.push_str(rest);
        if expanded.len() > EXPANDED_BYTES_MAX {
            return Err(ExpandError::TooLong(text.to_owned()));
        }
        Ok(expanded)
    }

    fn value(&self, name: &str) -> Option<String> {
        match name {
            "server" => Some(self.server.clone()),
            "hostname" => Some(self.hostname.clone()),
            "root" => Some(self.root.to_string_lossy().into_owned()),
            other => other.strip_prefix("label.").and_then(|label| self.labels.get(label)).cloned(),
        }
    }

    fn unknown(&self, text: &str, name: &str) -> ExpandError {
        let labels = self.labels.keys().map(|label| format!("label.{label}"));
        let known: Vec<String> =
            ["server", "hostname", "root"].into_iter().map(str::to_owned).chain(labels).collect();
        ExpandError::Unknown { text: text.to_owned(), name: name.to_owned(), known: known.join(", ") }
    }
}

/// Runs a program to its end. `Ok` is exit code 0.
///
/// # Errors
/// [`RunError`].
pub async fn run(command: &[String], timeout: Duration, context: &Context) -> Result<(), RunError> {
    let words = command.iter().map(|word| context.expand(word)).collect::<Result<Vec<_>, _>>()?;
    let (program, arguments) = words.split_first().ok_or(RunError::Empty)?;
    let failed = |source| RunError::Start { program: program.clone(), source };

    let (mut child, reader) = start(program, arguments, context).map_err(failed)?;
    let group = Group::of(&child);
    let mut said = Tail::new(reader);
    let ended = tokio::time::timeout(timeout, said.until_end_of(&mut child)).await;
    match ended {
        Ok(Ok(status)) => {
            group.left_alone();
            if status.success() {
                return Ok(());
            }
            Err(RunError::Failed { program: program.clone(), status, output: said.finish() })
        }
        Ok(Err(source)) => Err(failed(source)),
        Err(_) => {
            drop(group);
            // SIGKILL cannot be refused: this ends as soon as the kernel has taken the process down.
            child.wait().await.map_err(failed)?;
            let timeout_s = timeout.as_secs();
            Err(RunError::TimedOut { program: program.clone(), timeout_s, output: said.finish() })
        }
    }
}

fn start(program: &str, arguments: &[String], context: &Context) -> io::Result<(Child, pipe::Receiver)> {
    let (reader, writer) = io::pipe()?;
    let child = Command::new(program)
        .args(arguments)
        .current_dir("/")
        // Nothing of our own environment is a promise to a hook, but where programs are found.
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into()))
        .env("LANG", "C.UTF-8")
        .env("LUNAR_SERVER", &context.server)
        .env("LUNAR_ROOT", &context.root)
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    Ok((child, pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?))
}

/// The process group of a child: killed when dropped, so that a run that is cancelled leaves nothing behind.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw))
    }

    fn left_alone(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // The group may be gone already, which is what is wanted.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// Reads all of a program's output, and keeps the end of it.
struct Tail {
    reader: Option<pipe::Receiver>,
    kept: Vec<u8>,
}

impl Tail {
    fn new(reader: pipe::Receiver) -> Self {
        Self { reader: Some(reader), kept: Vec::new() }
    }

    async fn until_end_of(&mut self, child: &mut Child) -> io::Result<ExitStatus> {
        loop {
            let Some(reader) = &self.reader else { return child.wait().await };
            tokio::select! {
                biased;
                status = child.wait() => return status,
                ready = reader.readable() => {
                    ready?;
                    self.read_some();
                }
            }
        }
    }

    /// Takes what is there, without waiting. Says whether there may be more.
    fn read_some(&mut self) -> bool {
        let Some(reader) = &self.reader else { return false };
        let mut buffer = [0; 4096];
        match reader.try_read(&mut buffer) {
            Ok(0) => {
                self.reader = None;
                false
            }
            Ok(count) => {
                self.kept.extend_from_slice(&buffer[..count]);
                let surplus = self.kept.len().saturating_sub(OUTPUT_BYTES_KEPT);
                self.kept.drain(..surplus);
                true
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(_) => {
                self.reader = None;
                false
            }
        }
    }

    /// What a person is shown: the end of the output on one line. A pipe holds at most 64 KiB by default, so
    /// that a program left behind that writes without end cannot keep this going: the rounds are counted.
    fn finish(mut self) -> Said {
        for _ in 0..64 {
            if !self.read_some() {
                break;
            }
        }
        let text = String::from_utf8_lossy(&self.kept);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        Said(lines.join(" | ").chars().filter(|c| !c.is_control()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_replaced_once_and_unknown_ones_are_refused() {
        let context = context();
        assert_eq!(context.expand("http://${hostname}:${label.port}/").unwrap(), "http://host-1:8080/");
        assert_eq!(context.expand("${root}/web ${server}").unwrap(), "/srv/lunar/web srv-1");
        assert_eq!(context.expand("${label.odd}").unwrap(), "${server}");
        assert_eq!(context.expand("a $ { } $server").unwrap(), "a $ { } $server");
        let unknown = context.expand("${label.none}").unwrap_err().to_string();
        assert!(unknown.contains("label.none") && unknown.contains("label.port"), "{unknown}");
        assert!(matches!(context.expand("x ${server"), Err(ExpandError::Unfinished(_))));
        let long = "${label.long}".repeat(100);
        assert!(matches!(context.expand(&long), Err(ExpandError::TooLong(_))));
    }

    #[tokio::test]
    async fn a_program_that_fails_says_why() {
        let error = shell("echo one; echo two >&2; exit 3", 60).await.unwrap_err();
        assert!(error.to_string().ends_with("exit status: 3: one | two"), "{error}");
        shell("exit 0", 60).await.unwrap();
        let missing = run(&words(&["/no/such/program"]), Duration::from_secs(60), &context()).await;
        assert!(matches!(missing, Err(RunError::Start { .. })), "{missing:?}");
        assert!(matches!(run(&[], Duration::from_secs(1), &context()).await, Err(RunError::Empty)));
    }

    #[tokio::test]
    async fn a_label_is_a_word_and_never_a_command() {
        let mut context = context();
        context.labels.insert("evil".into(), "; exit 9".into());
        run(&words(&["test", "${label.evil}", "=", "; exit 9"]), Duration::from_secs(60), &context)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_program_that_takes_too_long_is_killed_with_all_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("held-open");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let script = format!("exec 3>{}; sleep 1000 & echo begun; wait", path.display());
        // Ends when the last process that has the pipe open is gone.
        let all_gone = tokio::task::spawn_blocking(move || std::fs::read(path));

        let error = shell(&script, 1).await.unwrap_err();

        assert!(matches!(&error, RunError::TimedOut { output, .. } if output.0 == "begun"), "{error}");
        assert_eq!(all_gone.await.unwrap().unwrap(), b"");
    }

    #[tokio::test]
    async fn a_service_left_running_with_the_output_open_does_not_hold_the_end_up() {
        let directory = tempfile::tempdir().unwrap();
        let pid_file = directory.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}", pid_file.display());

        shell(&script, 60).await.unwrap();

        let left: i32 = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
        nix::sys::signal::kill(Pid::from_raw(left), Signal::SIGKILL).expect("it was left running");
    }

    #[tokio::test]
    async fn a_flood_of_output_is_read_and_only_its_end_is_kept() {
        let error = shell("head -c 1000000 /dev/zero | tr '\\0' x; echo; echo the end; exit 1", 60)
            .await
            .unwrap_err();
        let RunError::Failed { output, .. } = error else { panic!("{error}") };
        assert!(output.0.ends_with("| the end"), "{output}");
        assert!(output.0.len() <= OUTPUT_BYTES_KEPT + 3);
    }

    fn context() -> Context {
        let labels = [("port", "8080"), ("odd", "${server}"), ("long", &"x".repeat(1000))]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        Context {
            server: "srv-1".into(),
            hostname: "host-1".into(),
            root: "/srv/lunar".into(),
            labels: labels.into(),
        }
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    async fn shell(script: &str, timeout_s: u64) -> Result<(), RunError> {
        run(&words(&["sh", "-c", script]), Duration::from_secs(timeout_s), &context()).await
    }
}
