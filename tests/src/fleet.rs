//! A founded fleet of real processes.
//!
//! Owns [`Fleet`]: its directory, the demo that founded it, and what was started since. Main invariant: dropping
//! it ends every process of it; after a failed test its directory stays, for whoever looks into it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Crashed, Process};
use crate::programs::{self, Ended, programs, run};
use crate::{release, wait_for, wait_until};

/// The demo's campaign.
pub const CAMPAIGN: &str = "web-2";

/// A process of a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The coordinator.
    Coordinator,
    /// The origin.
    Origin,
    /// The agent of a server.
    Agent(String),
    /// The applier of a server.
    Applier(String),
}

/// A fleet that stands, with its plan signed and not published.
#[derive(Debug)]
pub struct Fleet {
    temporary: Option<TempDir>,
    directory: PathBuf,
    plan: PathBuf,
    servers: Vec<String>,
    demo: Child,
    started: Mutex<Vec<Child>>,
}

impl Fleet {
    /// Founds a fleet of this many servers, and waits until the coordinator has heard all of them.
    ///
    /// # Panics
    /// It cannot be founded.
    #[must_use]
    pub fn found(agents: usize) -> Self {
        let temporary = TempDir::with_prefix("lunar-fleet-").expect("a temporary directory can be made");
        let errors = temporary.path().join("demo.err");
        let directory = temporary.path().join("fleet");
        let (old, new) = (temporary.path().join("old"), temporary.path().join("new"));
        release::write(&old, "1.0");
        release::write(&new, "2.0");
        let mut demo = programs::command(&programs().coordinator)
            .args(["demo", "--idle", "--output", "json", "--agents", &agents.to_string(), "--directory"])
            .arg(&directory)
            .arg("--old")
            .arg(old)
            .arg("--new")
            .arg(new)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors).expect("our directory is writable"))
            .spawn()
            .expect("the coordinator's program runs");
        let answers = demo.stdout.take().expect("it was piped");
        // Blocks until the fleet stands, or the demo has ended.
        let founded = serde_json::Deserializer::from_reader(answers).into_iter::<Value>().next();
        let said = || fs::read_to_string(&errors).unwrap_or_default();
        let founded = founded.and_then(Result::ok).unwrap_or_else(|| panic!("no fleet: {}", said()));
        let plan = founded["plan"].as_str().expect("the demo names the plan").into();
        let servers = (1..=agents).map(|number| format!("srv-{number:02}")).collect();
        let directory = fs::canonicalize(&directory).expect("the demo made it");
        let fleet =
            Self { temporary: Some(temporary), directory, plan, servers, demo, started: Mutex::default() };
        fleet.wait_until_all_heard();
        fleet
    }

    /// The servers' names.
    #[must_use]
    pub fn servers(&self) -> &[String] {
        &self.servers
    }

    /// The coordinator's directory.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.directory.join("coordinator")
    }

    /// A file of a server's.
    #[must_use]
    pub fn of(&self, server: &str, path: &str) -> PathBuf {
        self.directory.join(server).join(path)
    }

    /// An operator's key.
    #[must_use]
    pub fn key(&self, operator: &str) -> String {
        text(&self.directory.join("keys").join(operator))
    }

    /// What a process logged.
    #[must_use]
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.log_path(name)).unwrap_or_default()
    }

    fn log_path(&self, name: &str) -> PathBuf {
        self.directory.join("logs").join(format!("{name}.log"))
    }

    /// Runs `lunar-coordinator` as an operator of this fleet.
    #[must_use]
    pub fn operator(&self, arguments: &[&str]) -> Ended {
        run(&programs().coordinator, &self.home(), arguments)
    }

    /// The same, for an answer in JSON.
    #[must_use]
    pub fn ask(&self, arguments: &[&str]) -> Value {
        self.operator(&[arguments, &["--output", "json"]].concat()).json()
    }

    /// Runs `lunar-agent` on a server.
    #[must_use]
    pub fn on(&self, server: &str, arguments: &[&str]) -> Ended {
        let config = text(&self.of(server, "etc/agent.toml"));
        run(&programs().agent, &self.home(), [arguments, &["--config", &config]].concat())
    }

    /// What the agent of a server says of itself; `None` while it does not answer.
    #[must_use]
    pub fn status_of(&self, server: &str) -> Option<Value> {
        let ended = self.on(server, &["status", "--output", "json"]);
        (ended.code == 0).then(|| ended.json())
    }

    /// Changes the plan's text, and signs it anew.
    ///
    /// # Panics
    /// The text to replace is not there, or the plan is refused.
    pub fn replan(&self, changes: &[(&str, &str)]) {
        let mut plan = fs::read_to_string(&self.plan).expect("the demo wrote it");
        for (from, to) in changes {
            assert!(plan.contains(from), "the plan has no {from:?}:\n{plan}");
            plan = plan.replace(from, to);
        }
        let name = self.plan.file_name().expect("a plan is a file").to_string_lossy().into_owned();
        for entry in
            fs::read_dir(self.plan.parent().expect("plans have a directory")).expect("it can be listed")
        {
            let path = entry.expect("it can be listed").path();
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if file.starts_with(&name) {
                fs::remove_file(path).expect("signatures can be removed");
            }
        }
        fs::write(&self.plan, plan).expect("plans can be written");
        let (alice, bob) = (self.key("alice"), self.key("bob"));
        let signed = self.operator(&["plan", "sign", CAMPAIGN, "--key", &alice, "--key", &bob]);
        assert_eq!(signed.code, 0, "{}", signed.err);
    }

    /// Publishes the plan.
    ///
    /// # Panics
    /// It is refused.
    pub fn publish(&self) {
        let published = self.operator(&["plan", "publish", &text(&self.plan)]);
        assert_eq!(published.code, 0, "{}", published.err);
    }

    fn words(&self, part: &Part) -> Vec<OsString> {
        let config = |server: &str, name: &str| self.of(server, name).into_os_string();
        match part {
            Part::Coordinator => vec!["serve".into(), "--home".into(), self.home().into()],
            Part::Origin => vec!["origin".into(), "--home".into(), self.home().into()],
            Part::Agent(server) => vec!["run".into(), config(server, "etc/agent.toml")],
            Part::Applier(server) => vec!["apply".into(), config(server, "etc/applier.toml")],
        }
    }

    /// A running process of the fleet.
    #[must_use]
    pub fn find(&self, part: &Part) -> Option<Process> {
        Process::find(&self.words(part))
    }

    /// Kills a process as a power cut would (SIGKILL).
    ///
    /// # Panics
    /// It does not run.
    pub fn crash(&self, part: &Part) -> Crashed {
        self.find(part).unwrap_or_else(|| panic!("{part:?} does not run")).crash()
    }

    /// Starts a process again as it was started before.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn restart(&self, part: &Part, crashed: &Crashed) {
        self.restart_logging(part, crashed, "info");
    }

    /// The same, on a disk that takes no file beyond this many bytes. A file-size limit stands in for the full disk:
    /// it needs no root, is per process, and [`Self::free_the_disk`] lifts it.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn restart_on_a_full_disk(&self, part: &Part, crashed: &Crashed, file_bytes_max: u64) {
        // Past the limit the kernel sends a signal as well, which would end the process: it is ignored.
        let script = format!("trap '' XFSZ; exec prlimit --fsize={file_bytes_max}: \"$@\"");
        let mut words: Vec<OsString> = ["/bin/sh", "-c", &script, "sh"].map(OsString::from).into();
        words.extend(crashed.words.iter().cloned());
        self.restart(part, &Crashed { words });
    }

    /// Gives a process room again.
    ///
    /// # Panics
    /// It does not run.
    pub fn free_the_disk(&self, part: &Part) {
        let process = self.find(part).unwrap_or_else(|| panic!("{part:?} does not run"));
        let pid = process.pid().to_string();
        let freed = run(Path::new("prlimit"), &self.home(), ["--fsize=unlimited:", "--pid", &pid]);
        assert_eq!(freed.code, 0, "{}", freed.err);
    }

    /// The same, with logs of this detail (the syntax of `LUNAR_LOG`).
    ///
    /// # Panics
    /// It cannot be started.
    pub fn restart_logging(&self, part: &Part, crashed: &Crashed, detail: &str) {
        let name = match part {
            Part::Coordinator => "coordinator".to_owned(),
            Part::Origin => "origin".to_owned(),
            Part::Agent(server) => server.clone(),
            Part::Applier(server) => format!("{server}-applier"),
        };
        let (program, arguments) = crashed.words.split_first().expect("a command line has a program");
        let log =
            File::options().create(true).append(true).open(self.log_path(&name)).expect("logs are ours");
        let child = programs::command(Path::new(program))
            .args(arguments)
            .env("LUNAR_DIE_WITH_PARENT", "1")
            .env("LUNAR_LOG", detail)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("an open file can be shared"))
            .stderr(log)
            .spawn()
            .expect("it ran before");
        self.started.lock().unwrap_or_else(PoisonError::into_inner).push(child);
    }

    /// Starts the origin again, on a link of this rate.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn slow_origin(&self, rate: &str) {
        let mut crashed = self.crash(&Part::Origin);
        let at =
            crashed.words.iter().position(|word| word == "--rate").expect("the demo's origin has a rate");
        crashed.words[at + 1] = rate.into();
        self.restart(&Part::Origin, &crashed);
        // Agents try again by themselves; the test begins once all are joined to it, by its own log or theirs.
        wait_until("the origin to serve again", || {
            self.log("origin").matches("the origin serves").count() > 1
        });
    }

    /// Waits until the coordinator answers and has heard every server in this life.
    ///
    /// # Panics
    /// It never does.
    pub fn wait_until_all_heard(&self) {
        wait_until("every server to report", || {
            let answer = self.operator(&["status", "--output", "json"]);
            answer.code == 0 && answer.json()["status"]["unheard"] == 0
        });
    }

    /// Waits until every one of these servers is at its end by its own word and no lease is held. Returns the
    /// log's events.
    ///
    /// # Panics
    /// It never comes.
    #[must_use]
    pub fn wait_until_over(&self, servers: &[String]) -> Events {
        wait_for("the campaign to end", || {
            let events = Events::of(self)?;
            let leases = self.operator(&["lease", "list", "--output", "json"]);
            let free = leases.code == 0 && leases.json().as_array().is_some_and(Vec::is_empty);
            let ended = |server: &String| {
                let last = events.transitions(server).last().map(|(_, to)| to.clone());
                last.is_some_and(|to| ["complete", "rolled-back", "failed"].contains(&to.as_str()))
            };
            (free && servers.iter().all(ended)).then_some(events)
        })
    }

    /// The version that a server's release names, read through the link that its service is started by.
    #[must_use]
    pub fn version_on(&self, server: &str) -> String {
        let version = fs::read_to_string(self.of(server, "srv/web/current/version")).unwrap_or_default();
        version.trim().to_owned()
    }

    /// The version that a server's service answers with; `None` while it does not answer.
    #[must_use]
    pub fn served_version(&self, server: &str) -> Option<String> {
        let pid = fs::read_to_string(self.of(server, "srv/service.pid")).ok()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let port = words.iter().position(|word| *word == b"--port")? + 1;
        let port: u16 = std::str::from_utf8(words.get(port)?).ok()?.parse().ok()?;
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        write!(stream, "GET /version HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200").then(|| body.trim().to_owned())
    }

    /// That the audit trail is whole.
    ///
    /// # Panics
    /// It is not.
    pub fn check_audit(&self) {
        let audit = self.ask(&["audit", "verify"]);
        assert_eq!(audit["intact"], true, "{audit}");
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in self.started.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            // It may have been killed by the test already.
            let _ = child.kill().and_then(|()| child.wait());
        }
        let demo = Pid::from_raw(i32::try_from(self.demo.id()).unwrap_or(i32::MAX));
        // The demo ends its children, then itself.
        let _ = kill(demo, Signal::SIGTERM);
        let _ = self.demo.wait();
        if std::thread::panicking()
            && let Some(temporary) = self.temporary.take()
        {
            let _ = writeln!(std::io::stderr(), "logs and state are left in {}", temporary.keep().display());
        }
    }
}

/// The coordinator's log, by the export that an auditor gets.
#[derive(Debug)]
pub struct Events(Vec<Value>);

impl Events {
    /// All events; `None` while the coordinator does not answer.
    #[must_use]
    pub fn of(fleet: &Fleet) -> Option<Self> {
        let exported = fleet.operator(&["audit", "export"]);
        let event = |line| serde_json::from_str::<Value>(line).expect("every line is JSON")["event"].take();
        (exported.code == 0).then(|| Self(exported.out.lines().map(event).collect()))
    }

    /// All events, oldest first.
    pub fn all(&self) -> impl Iterator<Item = &Value> {
        self.0.iter()
    }

    /// The contents of all events of a kind, oldest first.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter_map(move |event| event.get(kind))
    }

    /// The servers of all events of a kind, oldest first.
    #[must_use]
    pub fn servers(&self, kind: &str) -> Vec<String> {
        let name = |event: &Value| event["server"].as_str().expect("it is of a server").to_owned();
        self.of_kind(kind).map(name).collect()
    }

    /// How each lease of a server ended, by its own releases: `completed`, or an object that names another end.
    /// A report that comes before the release frees the slot already, and says no outcome.
    #[must_use]
    pub fn outcomes(&self, server: &str) -> Vec<Value> {
        let of = self.of_kind("Released").filter(|event| event["server"] == server);
        of.filter_map(|event| event["evidence"]["Release"].get("outcome").cloned()).collect()
    }

    /// A server's phases, from and to.
    #[must_use]
    pub fn transitions(&self, server: &str) -> Vec<(String, String)> {
        let phase = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        self.of_kind("Transition")
            .filter(|event| event["server"] == server)
            .map(|event| (phase(&event["transition"]["from"]), phase(&event["transition"]["to"])))
            .collect()
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
