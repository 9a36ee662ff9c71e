//! The running coordinator: what `serve` does.
//!
//! Owns the order of a start: lock, trust, key, store, log, planes, core, loop. Main invariant: nothing listens
//! before the whole log was read, checked and folded. Refuses to run beside another coordinator on the same
//! directory, and without an enrolment that binds this very key as a coordinator's.

mod config;
mod driver;
mod handle;
mod outbox;

use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use anyhow::anyhow;
use lunar_common::document::Verified;
use lunar_common::enrolment::{Enrolment, Role};
use lunar_common::ids::PeerKey;
use lunar_common::trust::{TrustSnapshot, TrustState};
use lunar_common::wire;
use lunar_coordinator_core::Coordinator;
use lunar_coordinator_core::event::EventBody;
use lunar_host::exit::{Exit, Failure, OrExit};
use lunar_host::lock::{DirectoryLock, LockError};
use lunar_host::store::{Store, StoreError, VALUE_BYTES_MAX};
use lunar_host::{clock, keys, supervisor};
use lunar_transport::mesh::{Mesh, MeshBounds, MeshConfig, MeshError};
use lunar_transport::trust_gate::TrustGate;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

pub use config::Config;
pub use handle::{DocumentRefused, Handle, NoLook, Sight};

use crate::api;
use crate::committer::Committer;
use crate::event_log::{EventLog, LogError};
use crate::home::Home;
use driver::{Driver, Incoming};
use outbox::Outbox;

/// Where the trust state is in the store.
const TRUST_KEY: &[u8] = b"trust";

/// sled's page cache here: the ends of the log and of the trust state, many times over.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;

/// Looks at the core that may wait for the loop: what it can answer within its [`handle`]'s patience, many times over.
const LOOKS_MAX: usize = 256;

/// Documents, people's and found ones, that may wait for the loop. Whoever brings one more waits for a place.
const DOCUMENTS_MAX: usize = 256;

/// Runs a coordinator until it is told to stop.
///
/// # Errors
/// [`Failure`] says what was wrong, where, and what to do.
pub async fn run(home: &Path, config: Config) -> Result<(), Failure> {
    // Before anything is said to run: whoever reads that may end it at once.
    let told_to_stop = supervisor::told_to_stop()?;
    let home = Home::new(home);
    let state = home.path().join("state");
    std::fs::create_dir_all(&state).map_err(|error| {
        Failure::new(Exit::Environment, anyhow!(error).context(state.display().to_string()))
    })?;
    let _lock = DirectoryLock::take(&state).map_err(locked)?;
    let store = Arc::new(Store::open_with_cache(&state, CACHE_BYTES).map_err(store_failure)?);
    let trust = trust(&home, &store)?;
    let key_path = config.key.clone().unwrap_or_else(|| home.path().join("identity.key"));
    let key = keys::load(&key_path).map_err(|error| {
        Failure::from(error).advise(
            "make the coordinator's key with `lunar-coordinator enroll keygen`, and enrol it with \
                     `lunar-coordinator enroll new NAME --role coordinator --machine-key FILE.pub`",
        )
    })?;
    let me = own_enrolment(&trust, keys::peer_key(&key), &key_path)?;

    let mut core = Coordinator::new(config.thresholds());
    let log = EventLog::open(store.clone(), |event| replay(&mut core, event)).map_err(log_failure)?;
    let reader = log.reader();

    let gate = Arc::new(TrustGate::new(trust.clone(), (**me.document()).clone(), String::new()));
    let (mesh, mesh_events) = Mesh::start(MeshConfig {
        key: key.clone(),
        fleet: me.fleet.clone(),
        site: me.site.clone(),
        listen: config.listen.clone(),
        announce: config.announce.clone(),
        bootstrap: config.bootstrap.clone(),
        gate: gate.clone(),
        directory: true,
        bounds: MeshBounds::directory(),
    })
    .await
    .map_err(not_listening)?;

    let (committer, released) = Committer::start(store)?;
    let (looks, looking) = mpsc::channel(LOOKS_MAX);
    let (documents, handed) = mpsc::channel(DOCUMENTS_MAX);
    let (told_committed, committed) = watch::channel(());
    let remote = remote(&home, &config).await?;
    let api_listening = remote.as_ref().and_then(|remote| remote.socket.local_addr().ok());
    let socket = home.path().join(crate::client::SOCKET);
    let local = listen(&socket)?;
    let api = tokio::spawn(api::serve(local, remote, Handle { log: reader, looks, documents }, committed));
    let listening = mesh.listen_addresses().await.join(", ");
    if let Some(api) = api_listening {
        tracing::info!(%api, "the API is open to callers with certificates");
    }
    tracing::info!(server = %me.server, site = %me.site, %listening, "the coordinator runs");

    let (found, found_waiting) = mpsc::channel(DOCUMENTS_MAX);
    let outbox = Outbox::new(mesh.clone(), key, me.server.clone());
    let driver = Driver::new(core, log, trust, me, gate, mesh, committer, found, home.enrolments());
    let incoming = Incoming {
        mesh: mesh_events,
        documents: handed,
        looks: looking,
        found: found_waiting,
        released,
        told_committed,
    };
    let ended = driver.run(incoming, outbox, told_to_stop).await;
    supervisor::stopping();
    api.abort();
    // Best effort: a socket left behind is replaced at the next start.
    let _ = std::fs::remove_file(&socket);
    ended
}

/// The operators' socket, replacing one that a dead coordinator left. Under its own name only once nobody but
/// its owner can open it.
fn listen(socket: &Path) -> Result<UnixListener, Failure> {
    let unfinished = socket.with_extension("new");
    let bound = || {
        match std::fs::remove_file(&unfinished) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&unfinished)?;
        std::fs::set_permissions(&unfinished, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&unfinished, socket)?;
        Ok(listener)
    };
    bound().map_err(|error| {
        let what = anyhow!(error).context(format!("cannot listen on {}", socket.display()));
        Failure::new(Exit::Environment, what)
            .advise("a socket's path has at most 107 bytes, and its directory must be writable")
    })
}

/// The way in over the network, if one was asked for.
async fn remote(home: &Home, config: &Config) -> Result<Option<api::Remote>, Failure> {
    let Some(address) = &config.api.listen else { return Ok(None) };
    let acceptor = TlsAcceptor::from(config.api.pem(home.path()).server()?);
    let failed = |error: std::io::Error| {
        let exit = match error.kind() {
            std::io::ErrorKind::InvalidInput => Exit::BadInput,
            _ => Exit::Environment,
        };
        Failure::new(exit, anyhow!(error).context(format!("the API cannot listen on {address}")))
            .advise("write ip:port, of an address of this machine and a port that is free")
    };
    let socket = TcpListener::bind(address).await.map_err(failed)?;
    Ok(Some(api::Remote { socket, acceptor }))
}

/// What people signed: the state that was kept, and whatever the files say beyond it.
fn trust(home: &Home, store: &Store) -> Result<TrustState, Failure> {
    let wall = clock::wall();
    let (filed, left_out) = home.trust(wall)?;
    for file in left_out {
        tracing::warn!(file = %file.path.display(), why = %file.why, "a document is left out");
    }
    let Some(bytes) = store.get(TRUST_KEY).map_err(store_failure)? else { return Ok(filed) };
    let snapshot: TrustSnapshot = wire::decode(&bytes, VALUE_BYTES_MAX).or_exit(Exit::Damaged)?;
    let mut kept = TrustState::restore(snapshot).or_exit(Exit::Damaged).map_err(|failure| {
        failure.advise("keep a copy of the directory, and restore the whole of it from a backup")
    })?;
    if kept.fleet() != filed.fleet() {
        let what = anyhow!("{} was kept for fleet {}", home.path().join("state").display(), kept.fleet());
        return Err(Failure::new(Exit::NotTrusted, what)
            .advise(format!("the trust root here is of fleet {}: use another directory", filed.fleet())));
    }
    let documents = filed.documents();
    let machines = filed.machines().map(|machine| machine.document().clone());
    for document in documents.into_iter().chain(machines) {
        if let Err(refusal) = kept.accept(&document, wall) {
            tracing::debug!(kind = %document.kind, %refusal, "a file adds nothing to what was kept");
        }
    }
    Ok(kept)
}

/// Folds an event in. The core panics at one that no coordinator could have written after those before it, which
/// its own checks have not let through: the log is not what a coordinator wrote. The core is not used after that.
fn replay(core: &mut Coordinator, event: &EventBody) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| core.apply(event))).map_err(|panic| {
        let rule = panic.downcast_ref::<String>().map(String::as_str);
        let rule = rule.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
        format!("no coordinator could have written it after the records before it ({rule})")
    })
}

/// Who this coordinator is.
fn own_enrolment(trust: &TrustState, key: PeerKey, path: &Path) -> Result<Arc<Verified<Enrolment>>, Failure> {
    match trust.machine(&key) {
        Some(me) if me.role == Role::Coordinator => Ok(me.clone()),
        Some(me) => Err(Failure::new(
            Exit::NotTrusted,
            anyhow!("the key in {} is enrolled as {}, which is no coordinator", path.display(), me.server),
        )
        .advise("enroll a key of the coordinator's own with role = \"coordinator\"")),
        None => Err(Failure::new(
            Exit::NotTrusted,
            anyhow!("the key in {} is not enrolled: {key}", path.display()),
        )
        .advise("enroll it with role = \"coordinator\", and put the enrolment into enrolments/")),
    }
}

fn locked(error: LockError) -> Failure {
    match &error {
        LockError::Held { .. } => Failure::new(Exit::Locked, error)
            .advise("another coordinator runs here: stop it, or give this one a --home of its own"),
        LockError::Create { .. } => Failure::new(Exit::Environment, error),
    }
}

/// The failure that a store's error amounts to.
pub(crate) fn store_failure(error: StoreError) -> Failure {
    let exit = match &error {
        StoreError::Damaged { .. } => Exit::Damaged,
        StoreError::InUse { .. } => Exit::Locked,
        _ => Exit::Environment,
    };
    Failure::new(exit, error)
}

fn log_failure(error: LogError) -> Failure {
    match error {
        LogError::Store(error) => store_failure(error),
        LogError::Damaged { .. } => Failure::new(Exit::Damaged, error),
        LogError::Encode(_) => Failure::new(Exit::Internal, error),
    }
}

fn not_listening(error: MeshError) -> Failure {
    let exit = match &error {
        MeshError::Address { .. } => Exit::BadInput,
        MeshError::PortInUse { .. } | MeshError::Listen { .. } => Exit::Environment,
        _ => Exit::Internal,
    };
    Failure::new(exit, error)
}
