//! The root half: `lunar-agent apply`.
//!
//! Owns the process around the applier's machine: configuration, records, the socket, the loop. Main
//! invariant: effects are carried out in the machine's order, and a record is durable before the next one; if
//! it cannot be made durable, the process ends. Refuses to open any network socket, and to decide.

pub mod client;
mod config;
mod frames;
mod records;
mod server;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lunar_agent_core::applier::effect::{Effect, Level};
use lunar_agent_core::applier::input::{Input, RunId};
use lunar_agent_core::applier::machine::Machine;
use lunar_agent_core::applier::protocol::{Reply, Task};
use lunar_agent_core::input::CallId;
use lunar_common::document::{Kind, SignedDocument};
use lunar_common::enrolment::Enrolment;
use lunar_common::ids::ServerId;
use lunar_common::trust::TrustState;
use lunar_host::exit::{Exit, Failure, OrExit};
use lunar_host::lock::{DirectoryLock, LockError};
use lunar_host::store::StoreError;
use lunar_host::{clock, documents, supervisor};
use tokio::sync::{mpsc, oneshot};

pub use config::{Config, ConfigError};
use records::{RecordError, Records};
use server::Asked;

use crate::installers::{Installer, Releases};

/// Requests that wait: there is one client, which asks one thing at a time.
const ASKED_MAX: usize = 4;

/// Longest time without a look at the clock. The runtime's timers stand still while a machine sleeps; the
/// dead man's switch does not.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Runs the applier until it is told to end.
///
/// # Errors
/// A configuration or document that is refused, a directory in use, a damaged store, a socket that cannot be
/// made; a record that cannot be made durable.
pub async fn run(config_path: &Path) -> Result<Exit, Failure> {
    let config = Config::load(config_path).map_err(|error| {
        Failure::new(error.exit(), error)
            .advise("correct the file; `lunar-agent apply --help` names its keys")
    })?;
    let told_to_stop = supervisor::told_to_stop()?;
    let mut applier = Applier::start(config)?;
    supervisor::ready("waiting for the network half");
    let ended = tokio::select! {
        ended = applier.work() => ended,
        () = told_to_stop => Ok(()),
    };
    supervisor::stopping();
    ended?;
    applier.stop().await?;
    Ok(Exit::Ok)
}

/// A run's end, and why it failed, if it did.
type Ended = (RunId, Option<String>);

/// The process's state beside the machine.
struct Applier {
    config: Arc<Config>,
    server: ServerId,
    machine: Machine,
    records: Records,
    installer: Installer,
    asked: mpsc::Receiver<Asked>,
    calls: BTreeMap<CallId, oneshot::Sender<Reply>>,
    calls_made: u64,
    ended: (mpsc::Sender<Ended>, mpsc::Receiver<Ended>),
    running: Option<RunId>,
    stopping: bool,
    _listener: AbortOnDrop,
    _lock: DirectoryLock,
}

impl Applier {
    fn start(config: Config) -> Result<Self, Failure> {
        for directory in [&config.state, &config.root] {
            make_directory(directory)?;
        }
        let lock = DirectoryLock::take(&config.state).map_err(locked)?;
        let records = Records::open(&config.state).map_err(record_failure)?;
        let now = clock::now();
        let mut trust = match records.trust().map_err(record_failure)? {
            Some(snapshot) => TrustState::restore(snapshot).or_exit(Exit::Damaged)?,
            None => {
                let root = documents::load(&config.trust_root, Kind::TrustRoot)?;
                TrustState::anchored(&root).or_exit(Exit::NotTrusted)?
            }
        };
        let server = own_server(&config, &mut trust)?;
        let snapshot = lunar_agent_core::applier::effect::Record::Trust(Box::new(trust.snapshot()));
        records.keep(&snapshot).map_err(record_failure)?;
        let journal = records.journal().map_err(record_failure)?.unwrap_or_default();
        let machine = Machine::new(server.clone(), trust, journal, boot()?, now);

        let listener = server::listen(&config).or_exit(Exit::Environment).map_err(|failure| {
            failure
                .advise(format!("{} must be free, and its directory must be there", config.socket.display()))
        })?;
        let (ask, asked) = mpsc::channel(ASKED_MAX);
        let config = Arc::new(config);
        let serving = tokio::spawn(server::serve(listener, Arc::clone(&config), ask));
        let installer = Installer::new(Releases::new(config.root.clone(), config.packs.clone()));
        tracing::info!(%server, root = %config.root.display(), "the applier is up");
        Ok(Self {
            config,
            server,
            machine,
            records,
            installer,
            asked,
            calls: BTreeMap::new(),
            calls_made: 0,
            ended: mpsc::channel(1),
            running: None,
            stopping: false,
            _listener: AbortOnDrop(serving),
            _lock: lock,
        })
    }

    /// The loop. Ends only with an error.
    async fn work(&mut self) -> Result<(), Failure> {
        let mut look = tokio::time::interval(
            supervisor::watchdog_interval().map_or(LOOK_EVERY, |watchdog| watchdog.min(LOOK_EVERY)),
        );
        loop {
            self.carry_out()?;
            supervisor::alive();
            let due = self.machine.poll_timeout().map(|moment| moment.since(clock::moment()));
            tokio::select! {
                Some(asked) = self.asked.recv() => self.take(asked),
                Some((run, failure)) = self.ended.1.recv() => self.step_ended(run, failure),
                () = tokio::time::sleep(due.unwrap_or(LOOK_EVERY)), if due.is_some() => {
                    self.machine.handle_timeout(clock::now());
                }
                _ = look.tick() => self.machine.handle_timeout(clock::now()),
            }
        }
    }

    /// Lets the step under way end, so that the next start finds it done, and closes the store.
    async fn stop(mut self) -> Result<(), Failure> {
        self.stopping = true;
        while self.running.is_some() {
            supervisor::alive();
            let Some((run, failure)) = self.ended.1.recv().await else { break };
            self.step_ended(run, failure);
            self.carry_out()?;
        }
        self.records.close().map_err(record_failure)
    }

    fn take(&mut self, asked: Asked) {
        self.calls_made += 1;
        let call = CallId(self.calls_made);
        self.calls.insert(call, asked.reply);
        let found = self.installer.found();
        self.machine.handle(Input::Asked { call, request: asked.request, found }, clock::now());
    }

    fn step_ended(&mut self, run: RunId, failure: Option<String>) {
        self.running = None;
        self.machine.handle(Input::StepEnded { run, failure }, clock::now());
    }

    fn carry_out(&mut self) -> Result<(), Failure> {
        while let Some(effect) = self.machine.poll_effect() {
            match effect {
                Effect::Persist(record) => self.records.keep(&record).map_err(record_failure)?,
                Effect::Reply { call, reply } => {
                    // The one who asked may be gone; it asks again.
                    let _ = self.calls.remove(&call).map(|waiting| waiting.send(reply));
                }
                // It is journaled, and is the first thing that the next start does.
                Effect::Run { .. } if self.stopping => {}
                Effect::Run { run, task, step } => {
                    self.running = Some(run);
                    let enrolment = self.machine.trust().machine_named(&self.server);
                    let context = self.config.context(&self.server, enrolment.map(|verified| &***verified));
                    let (installer, ended) = (self.installer.clone(), self.ended.0.clone());
                    tracing::debug!(campaign = %task.campaign, plan = %task.plan, ?step, "step");
                    tokio::spawn(async move {
                        let failure = installer.run(step, &context).await.err();
                        // Only a process on its way out has nobody to tell.
                        let _ = ended.send((run, failure)).await;
                    });
                }
                Effect::Log { level, task, text } => log(level, &task, &text),
            }
        }
        Ok(())
    }
}

fn log(level: Level, task: &Task, text: &str) {
    let Task { campaign, plan, attempt } = task;
    match level {
        Level::Info => tracing::info!(%campaign, %plan, %attempt, "{text}"),
        Level::Warn => tracing::warn!(%campaign, %plan, %attempt, "{text}"),
        Level::Error => tracing::error!(%campaign, %plan, %attempt, "{text}"),
    }
}

/// This server, by its enrolment, which is taken in. One that was renewed since may be held already.
fn own_server(config: &Config, trust: &mut TrustState) -> Result<ServerId, Failure> {
    let path = &config.enrolment;
    let document: SignedDocument = documents::load(path, Kind::Enrolment)?;
    let refused = trust.accept(&document, clock::wall()).err();
    let text = String::from_utf8_lossy(&document.body);
    // Read for the name only: what the machine goes by is the enrolment that the gate holds under it.
    let named: Enrolment = toml::from_str(&text)
        .map_err(|error| anyhow::Error::new(error).context(path.display().to_string()))
        .or_exit(Exit::BadInput)?;
    match (refused, trust.machine_named(&named.server)) {
        (_, Some(_)) => Ok(named.server),
        (Some(refusal), None) => Err(Failure::new(Exit::NotTrusted, refusal).advise(format!(
            "have {} enrolled again: {}",
            named.server,
            path.display()
        ))),
        (None, None) => Err(Failure::new(
            Exit::NotTrusted,
            anyhow::anyhow!("{} is revoked, and nothing is installed on it", named.server),
        )),
    }
}

/// Names this boot of the machine.
fn boot() -> Result<u64, Failure> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(PATH)
        .map_err(|error| anyhow::Error::new(error).context(format!("cannot read {PATH}")))
        .or_exit(Exit::Environment)?;
    Ok(lunar_common::order::draw("boot", &[text.trim().as_bytes()]))
}

fn locked(error: LockError) -> Failure {
    match &error {
        LockError::Held { .. } => Failure::new(Exit::Locked, error)
            .advise("another applier runs here: stop it, or give this one a `state` of its own"),
        LockError::Create { .. } => Failure::new(Exit::Environment, error),
    }
}

fn make_directory(path: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(|error| anyhow::Error::new(error).context(format!("cannot make {}", path.display())))
        .or_exit(Exit::Environment)
}

fn record_failure(error: RecordError) -> Failure {
    let exit = match &error {
        RecordError::Store(StoreError::Damaged { .. }) | RecordError::Decode { .. } => Exit::Damaged,
        RecordError::Store(StoreError::InUse { .. }) => Exit::Locked,
        RecordError::Store(_) | RecordError::Encode { .. } => Exit::Environment,
    };
    Failure::new(exit, error)
}

/// A task that ends with its owner.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
