//! Putting an agent together and running it.
//!
//! Owns the order of a start: lock, key, documents, records, planes, core, loop. Main invariant: nothing listens
//! before the records of the last run were read and found whole. Refuses to run beside another agent on the
//! same directory, and without an enrolment that binds this very key.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use lunar_agent_core::node::{Node, Setup};
use lunar_agent_core::swarm;
use lunar_artifact::PackDirectory;
use lunar_common::document::{Document, Kind, Verified};
use lunar_common::enrolment::{Enrolment, Role};
use lunar_common::order::draw;
use lunar_common::trust::TrustState;
use lunar_host::exit::{Exit, Failure, OrExit};
use lunar_host::lock::{DirectoryLock, LockError};
use lunar_host::{clock, documents, keys, supervisor};
use lunar_transport::mesh::{Mesh, MeshBounds, MeshConfig, MeshError};
use lunar_transport::trust_gate::TrustGate;
use tokio::sync::mpsc;

use crate::applier_link;
use crate::config::Config;
use crate::driver::{Calls, Driver, INPUTS_MAX, Incoming};
use crate::fetch::{FetchConfig, Fetcher};
use crate::hooks::Context;
use crate::journal::{JournalError, NodeJournal};
use crate::local_api::{self, LocalCall};
use crate::sources::Sources;
use crate::uplink::Uplink;

/// Local questions that may wait for the loop.
const LOCAL_CALLS_MAX: usize = 16;

/// Look-ups whose results may wait for the loop.
const FOUND_MAX: usize = 16;

/// Runs an agent until it is told to stop.
///
/// # Errors
/// [`Failure`] says what was wrong, where, and what to do.
pub async fn run(config: Config) -> Result<(), Failure> {
    // Before anything is said to run: whoever reads that may end it at once.
    let told_to_stop = supervisor::told_to_stop()?;
    make_directory(&config.state_dir)?;
    make_directory(&config.run_dir)?;
    let _lock = DirectoryLock::take(&config.state_dir).map_err(locked)?;
    let key = keys::load(&config.key).map_err(|error| {
        Failure::from(error).advise("make the machine's key with `lunar-agent init`, and have it enrolled")
    })?;

    let records = NodeJournal::open(&config.state_dir).map_err(damaged)?;
    let now = clock::now();
    let trust = trust(&config, &records, now.wall)?;
    let me = own_enrolment(&config, &trust, &key)?;

    let gate = Arc::new(TrustGate::new(trust.clone(), (**me.document()).clone(), String::new()));
    let packs = PackDirectory::open(&config.packs).or_exit(Exit::Environment)?;
    let complete = packs.list().or_exit(Exit::Environment)?;
    let complete: Vec<_> = complete.into_iter().filter(|held| held.complete).map(|held| held.id).collect();
    let (fetcher, fetch_events) = Fetcher::start(FetchConfig {
        secret: key.to_bytes(),
        site: me.site.clone(),
        gate: gate.clone(),
        listen: config.data_listen,
        packs,
        tuning: swarm::Config::default(),
    })
    .or_exit(Exit::Environment)?;
    let data_address = data_address(&config, fetcher.address());
    gate.set_data_address(data_address.clone());

    let (mesh, mesh_events) =
        Mesh::start(mesh_config(&config, &key, &me, &gate)).await.map_err(not_listening)?;
    let uplink = Uplink::new(
        mesh.clone(),
        gate.clone(),
        config.coordinators.iter().filter_map(|address| address.key).collect(),
    );
    let (inputs, inputs_waiting) = mpsc::channel(INPUTS_MAX);
    let (found, found_waiting) = mpsc::channel(FOUND_MAX);
    let (local, local_waiting) = mpsc::channel::<LocalCall>(LOCAL_CALLS_MAX);
    let socket = config.agent_socket();
    let listener = local_api::serve(&socket, local).or_exit(Exit::Environment).map_err(|failure| {
        failure.advise(format!("{} must be a socket of this agent's", socket.display()))
    })?;

    let sources = Sources::new(fetcher, mesh.clone(), &me, data_address, found);
    sources.seed(complete).await;
    let applier =
        applier_link::start(config.applier_socket(), me.server.clone(), gate.clone(), inputs.clone());
    let journal = records.journal().map_err(damaged)?;
    let context = Context::new(&me, config.root.clone());
    let listening = mesh.listen_addresses().await.join(", ");
    tracing::info!(server = %me.server, site = %me.site, tier = %me.tier, %listening, "the agent runs");

    let node = Node::new(Setup { me, machine_boot: machine_boot() }, trust, journal, clock::now());
    let driver = Driver {
        node,
        journal: records,
        key,
        mesh,
        gate,
        uplink,
        sources,
        applier,
        context,
        inputs,
        calls: Calls::default(),
    };
    let incoming = Incoming {
        mesh: mesh_events,
        fetch: fetch_events,
        inputs: inputs_waiting,
        found: found_waiting,
        local: local_waiting,
    };
    supervisor::ready("running");
    let ended = driver.run(incoming, told_to_stop).await;
    supervisor::stopping();
    listener.abort();
    // Best effort: a socket left behind is replaced at the next start.
    let _ = std::fs::remove_file(&socket);
    ended
}

/// Where others reach the data plane: as configured, else where it listens; for an unspecified address, the
/// address of this machine from which its first peer is reached.
fn data_address(config: &Config, listening: SocketAddr) -> String {
    if let Some(announced) = &config.data_announce {
        return announced.clone();
    }
    if !listening.ip().is_unspecified() {
        return listening.to_string();
    }
    let peers = config.bootstrap.iter().chain(&config.coordinators);
    // Connecting a UDP socket sends nothing: the kernel only chooses the way.
    let own = peers.into_iter().find_map(|peer| {
        let socket = UdpSocket::bind((listening.ip(), 0)).ok()?;
        socket.connect(&peer.address).ok()?;
        Some(socket.local_addr().ok()?.ip())
    });
    match own {
        Some(ip) => SocketAddr::new(ip, listening.port()).to_string(),
        None => {
            tracing::warn!("others cannot be told where the data plane listens: set data_announce");
            String::new()
        }
    }
}

fn make_directory(path: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(path).map_err(|source| {
        Failure::new(Exit::Environment, anyhow::anyhow!("cannot make {}: {source}", path.display()))
    })
}

fn locked(error: LockError) -> Failure {
    match &error {
        LockError::Held { .. } => Failure::new(Exit::Locked, error)
            .advise("another agent runs here: stop it, or give this one a state_dir of its own"),
        LockError::Create { .. } => Failure::new(Exit::Environment, error),
    }
}

fn damaged(error: JournalError) -> Failure {
    let exit = match &error {
        JournalError::Store(lunar_host::store::StoreError::Damaged { .. }) | JournalError::Record { .. } => {
            Exit::Damaged
        }
        JournalError::Store(lunar_host::store::StoreError::InUse { .. }) => Exit::Locked,
        JournalError::Store(_) | JournalError::TooLarge { .. } | JournalError::CutOff => Exit::Environment,
    };
    Failure::new(exit, error)
}

fn not_listening(error: MeshError) -> Failure {
    let exit = match &error {
        MeshError::Address { .. } => Exit::BadInput,
        MeshError::PortInUse { .. } | MeshError::Listen { .. } => Exit::Environment,
        _ => Exit::Internal,
    };
    Failure::new(exit, error)
}

/// What people signed: the last record, or at the first start the trust root of the configuration.
fn trust(
    config: &Config,
    records: &NodeJournal,
    wall: lunar_common::time::WallTime,
) -> Result<TrustState, Failure> {
    if let Some(snapshot) = records.trust().map_err(damaged)? {
        return TrustState::restore(snapshot).or_exit(Exit::Damaged);
    }
    let advice = |failure: Failure| {
        failure.advise(format!(
            "put the fleet's trust root and its signatures at {}",
            config.trust_root().display()
        ))
    };
    let root =
        documents::load(&config.trust_root(), Kind::TrustRoot).map_err(|error| advice(error.into()))?;
    let mut trust = TrustState::anchored(&root).or_exit(Exit::NotTrusted).map_err(advice)?;
    let enrolment = documents::load(&config.enrolment(), Kind::Enrolment)?;
    // Refused for a reason that `own_enrolment` tells better.
    let _ = trust.accept(&enrolment, wall);
    Ok(trust)
}

/// Who this server is: the newest of the file and what it was told since.
fn own_enrolment(
    config: &Config,
    trust: &TrustState,
    key: &SigningKey,
) -> Result<Arc<Verified<Enrolment>>, Failure> {
    let path = config.enrolment();
    let document = documents::load(&path, Kind::Enrolment).map_err(|error| {
        Failure::from(error)
            .advise(format!("have the server enrolled, and put the enrolment at {}", path.display()))
    })?;
    let filed = trust
        .verify_enrolment(&document)
        .map_err(|refusal| anyhow::Error::new(refusal).context(path.display().to_string()))
        .or_exit(Exit::NotTrusted)?;
    let mine = keys::peer_key(key);
    if filed.key != mine {
        return Err(Failure::new(
            Exit::NotTrusted,
            anyhow::anyhow!(
                "{} binds key {}, but the key in {} is {mine}",
                path.display(),
                filed.key,
                config.key.display()
            ),
        )
        .advise("enroll this machine's own key (`lunar-agent init` prints it)"));
    }
    if filed.role != Role::Agent {
        return Err(Failure::new(
            Exit::NotTrusted,
            anyhow::anyhow!("{} enrols {} as something else than an agent", path.display(), filed.server),
        )
        .advise("coordinators and origins are run by lunar-coordinator"));
    }
    let told = trust.machine(&mine).filter(|told| told.sequence > filed.sequence);
    Ok(told.cloned().unwrap_or(filed))
}

fn mesh_config(config: &Config, key: &SigningKey, me: &Enrolment, gate: &Arc<TrustGate>) -> MeshConfig {
    MeshConfig {
        key: key.clone(),
        fleet: me.fleet.clone(),
        site: me.site.clone(),
        listen: config.listen.clone(),
        announce: config.announce.clone(),
        bootstrap: config.bootstrap.iter().chain(&config.coordinators).cloned().collect(),
        gate: gate.clone(),
        directory: config.directory,
        bounds: if config.directory { MeshBounds::directory() } else { MeshBounds::agent() },
    }
}

/// Tells this boot of the machine from all others. A machine that does not say is taken to have just booted:
/// then moments of an earlier run are never believed.
fn machine_boot() -> u64 {
    match std::fs::read("/proc/sys/kernel/random/boot_id") {
        Ok(id) => draw("machine-boot", &[&id]),
        Err(error) => {
            tracing::warn!(%error, "the machine does not tell its boots apart");
            let now = clock::now();
            draw("machine-boot", &[&now.wall.0.to_le_bytes(), &now.moment.0.to_le_bytes()])
        }
    }
}

/// Checks a configuration's documents without running: what `lunar-agent run --check` does.
///
/// # Errors
/// [`Failure`] names the first thing that is wrong.
pub fn check(config: &Config) -> Result<Arc<Verified<Enrolment>>, Failure> {
    let key = keys::load(&config.key)?;
    let root = documents::load(&config.trust_root(), Kind::TrustRoot)?;
    let trust = TrustState::anchored(&root).or_exit(Exit::NotTrusted)?;
    let enrolment = documents::load(&config.enrolment(), Kind::Enrolment)?;
    // Syntax first: its error names the line.
    Enrolment::parse(&enrolment.body).or_exit(Exit::BadInput)?;
    own_enrolment(config, &trust, &key)
}
