//! How the demo's fleet is founded: keys, trust root, enrolments, artifacts, the old version, the plan.
//!
//! Owns the commands that an operator gives before a campaign. Main invariant: everything that people decide
//! goes through the command line, as it would on a real fleet; only the old version is put in place by hand,
//! as the image of a new server would.

use std::fs;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::anyhow;
use lunar_artifact::{PackDirectory, unpack_tree};
use lunar_common::health::{Probe, ProbeKind, When};
use lunar_common::ids::{ArtifactId, ProbeName};
use lunar_common::limits::TierLimits;
use lunar_common::plan::{LeaseTerms, Plan, Retry, Spread, StopRules};
use lunar_host::exit::{Exit, Failure, OrExit};
use lunar_host::{cargo, keys};

use super::fleet::{ARTIFACT, CAMPAIGN, Fleet, Server};
use super::operator::Operator;
use super::processes::{Processes, Program};
use super::{COORDINATOR, ORIGIN, release};

/// The fleet's name.
const FLEET: &str = "moon";
/// The version that runs before.
pub const OLD: &str = "1.0";
/// The version that the campaign brings.
pub const NEW: &str = "2.0";
/// Who signs what in the demo: two for plans, one to halt, one to enrol.
const OPERATORS: [&str; 4] = ["alice", "bob", "carol", "dave"];
/// What the origin may send: the contract rate of the Earth link.
const EARTH_RATE: &str = "30Mbit";

/// A founded fleet.
#[derive(Debug)]
pub struct Founded {
    /// The signed plan.
    pub plan: PathBuf,
    /// The server on which the new version does not work, if the release is the demo's own.
    pub unlucky: Option<String>,
    /// Bytes of the new version's frames.
    pub frame_bytes: u64,
    old: ArtifactId,
    new: ArtifactId,
}

impl Founded {
    /// Which version a server runs, by the link on its disk.
    #[must_use]
    pub fn version_at(&self, server: &Server) -> String {
        let target = fs::read_link(server.current()).unwrap_or_default();
        let name = target.file_name().and_then(|name| name.to_str());
        let id = name.and_then(|name| name.parse::<ArtifactId>().ok());
        match id {
            Some(id) if id == self.new => NEW.to_owned(),
            Some(id) if id == self.old => OLD.to_owned(),
            Some(_) | None => "neither".to_owned(),
        }
    }
}

/// Founds the fleet and starts its processes.
///
/// # Errors
/// A command that fails, a program that cannot be found or started.
pub fn found(
    fleet: &Fleet,
    operator: &Operator,
    processes: &mut Processes,
    versions: Option<(PathBuf, PathBuf)>,
    report_every_s: u16,
) -> Result<Founded, Failure> {
    let agent = agent_program()?;
    let unlucky = if versions.is_none() { fleet.unlucky().map(|server| server.id.clone()) } else { None };
    trust(fleet, operator)?;
    let coordinator_key = enrol(fleet, operator, &agent)?;
    let (old, new) = match versions {
        Some(versions) => versions,
        None => make_releases(fleet, unlucky.as_deref())?,
    };
    let old = publish(operator, &old, OLD)?;
    let new = publish(operator, &new, NEW)?;
    install_old(fleet, operator, old)?;
    let plan = write_plan(fleet, operator, unlucky.as_deref())?;
    start(fleet, processes, &agent, &coordinator_key, report_every_s)?;
    let manifest = packs(fleet)?.manifest(new).or_exit(Exit::Internal)?;
    let frame_bytes = manifest.map_or(0, |manifest| manifest.frame_bytes());
    Ok(Founded { plan, unlucky, frame_bytes, old, new })
}

/// The agent's program: beside this one. Under `cargo run`, which builds only this one, it is built first.
fn agent_program() -> Result<PathBuf, Failure> {
    let this = std::env::current_exe()?;
    let beside = this.with_file_name("lunar-agent");
    if let Some(cargo) = std::env::var_os("CARGO") {
        let release = this.parent().is_some_and(|directory| directory.ends_with("release"));
        let mut command = Command::new(cargo);
        // All packages are selected, as by the `cargo run` above: with fewer, cargo would choose fewer features of
        // shared dependencies, and compile those once more.
        command.args(["build", "--quiet", "--workspace", "--bin", "lunar-agent"]);
        command.args(release.then_some("--release")).current_dir(env!("CARGO_MANIFEST_DIR"));
        cargo::forget_package(&mut command);
        let status = command.status()?;
        if !status.success() {
            return Err(Failure::new(Exit::Environment, anyhow!("lunar-agent could not be built: {status}")));
        }
    }
    if !beside.exists() {
        return Err(Failure::new(Exit::Environment, anyhow!("{} is not there", beside.display()))
            .advise("build it: cargo build --release --bins"));
    }
    Ok(beside)
}

fn trust(fleet: &Fleet, operator: &Operator) -> Result<(), Failure> {
    let mut arguments: Vec<String> = ["trust", "init", "--fleet", FLEET].map(str::to_owned).into();
    for name in OPERATORS {
        let path = fleet.operator_key(name);
        keys::create(&path, &format!("{name}@{FLEET}"))?;
        arguments.extend(["--operator".to_owned(), format!("{name}={}", path.display())]);
    }
    for role in ["root=alice,bob:2", "plan=alice,bob:2", "resume=alice,bob:2", "reap=alice,bob:2"] {
        arguments.extend(["--role".to_owned(), role.to_owned()]);
    }
    for role in ["halt=alice,bob,carol:1", "approve=alice,bob,carol:2", "enroll=dave:1", "revoke=dave:1"] {
        arguments.extend(["--role".to_owned(), role.to_owned()]);
    }
    for name in ["alice", "bob"] {
        arguments.extend(["--key".to_owned(), text(&fleet.operator_key(name))]);
    }
    operator.run(arguments).map(drop)
}

/// Makes every machine's key, and enrols it. Returns the coordinator's public key, which others must know.
fn enrol(fleet: &Fleet, operator: &Operator, agent: &Path) -> Result<String, Failure> {
    let coordinator = machine_key(&fleet.home().join("identity.key"))?;
    let origin = machine_key(&fleet.home().join("origin.key"))?;
    let by = text(&fleet.operator_key("dave"));
    for (server, key, role) in [(COORDINATOR, &coordinator, "coordinator"), (ORIGIN, &origin, "origin")] {
        operator.run([
            "enroll",
            "new",
            server,
            "--machine-key",
            key,
            "--role",
            role,
            "--site",
            "earth",
            "--cluster",
            "control",
            "--tier",
            "2",
            "--service",
            "control",
            "--key",
            &by,
        ])?;
    }
    for server in &fleet.servers {
        write_configs(fleet, server, &coordinator, &origin)?;
        let config = text(&server.agent_config());
        let request = operator.call(agent, ["init", "--config", &config, "--output", "json"])?;
        let request: serde_json::Value =
            serde_json::from_str(&request).map_err(|error| Failure::new(Exit::Internal, error))?;
        let key = request["key"].as_str().unwrap_or_default();
        let tier = server.tier.to_string();
        let cluster = format!("{}-a", server.site);
        let port = format!("port={}", server.port);
        let mut arguments = vec![
            "enroll",
            "new",
            &server.id,
            "--machine-key",
            key,
            "--site",
            server.site,
            "--cluster",
            &cluster,
            "--tier",
            &tier,
            "--service",
            "web",
            "--label",
            &port,
            "--key",
            &by,
        ];
        if let Some(group) = server.group {
            arguments.extend(["--group", group]);
        }
        operator.run(arguments)?;
        hand_over(fleet, server)?;
    }
    Ok(coordinator)
}

fn machine_key(path: &Path) -> Result<String, Failure> {
    let key = keys::load_or_create(path, "demo")?;
    Ok(keys::peer_key(&key).to_string())
}

/// Puts the trust root and the server's enrolment where its agent and applier look for them.
fn hand_over(fleet: &Fleet, server: &Server) -> Result<(), Failure> {
    let etc = server.directory.join("etc");
    for (from, name, to) in [
        (fleet.home().join("trust"), "root-1.toml".to_owned(), "trust-root.toml"),
        (fleet.home().join("enrolments"), format!("{}.toml", server.id), "enrolment.toml"),
    ] {
        for entry in fs::read_dir(&from)? {
            let path = entry?.path();
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(rest) = file.strip_prefix(&name) {
                fs::copy(&path, etc.join(format!("{to}{rest}")))?;
            }
        }
    }
    Ok(())
}

fn write_configs(fleet: &Fleet, server: &Server, coordinator: &str, origin: &str) -> Result<(), Failure> {
    let directory = text(&server.directory);
    let (port, origin_port) = (fleet.coordinator_port, fleet.origin_port);
    fs::write(
        server.agent_config(),
        format!(
            "documents = \"{directory}/etc\"\nkey = \"{directory}/etc/key\"\nstate_dir = \"{directory}/state\"\n\
             packs = \"{directory}/packs\"\nrun_dir = \"{directory}/run\"\napplier = \"{directory}/run/applier.sock\"\nroot = \"{directory}/srv\"\n\
             listen = [\"127.0.0.1:0\"]\ndata_listen = \"127.0.0.1:0\"\n\
             bootstrap = [\"{origin}@127.0.0.1:{origin_port}\"]\ncoordinators = [\"{coordinator}@127.0.0.1:{port}\"]\n"
        ),
    )?;
    fs::write(
        server.applier_config(),
        format!(
            "root = \"{directory}/srv\"\nstate = \"{directory}/applier\"\npacks = \"{directory}/packs\"\n\
             socket = \"{directory}/run/applier.sock\"\ntrust_root = \"{directory}/etc/trust-root.toml\"\n\
             enrolment = \"{directory}/etc/enrolment.toml\"\n"
        ),
    )?;
    Ok(())
}

fn make_releases(fleet: &Fleet, unlucky: Option<&str>) -> Result<(PathBuf, PathBuf), Failure> {
    let (old, new) = (fleet.directory.join("releases/old"), fleet.directory.join("releases/new"));
    let broken: Vec<String> = unlucky.map(str::to_owned).into_iter().collect();
    release::write(&old, OLD, &[])?;
    release::write(&new, NEW, &broken)?;
    Ok((old, new))
}

fn publish(operator: &Operator, directory: &Path, version: &str) -> Result<ArtifactId, Failure> {
    let directory = text(directory);
    let answer = operator.run([
        "artifact",
        "add",
        &directory,
        "--name",
        ARTIFACT,
        "--version",
        version,
        "--output",
        "json",
    ])?;
    let answer: serde_json::Value =
        serde_json::from_str(&answer).map_err(|error| Failure::new(Exit::Internal, error))?;
    answer["id"].as_str().unwrap_or_default().parse().or_exit(Exit::Internal)
}

fn packs(fleet: &Fleet) -> Result<PackDirectory, Failure> {
    PackDirectory::open(&fleet.home().join("artifacts")).or_exit(Exit::Environment)
}

/// Puts the old version on every server and starts its service, as the image of a new server would have it.
fn install_old(fleet: &Fleet, operator: &Operator, old: ArtifactId) -> Result<(), Failure> {
    let pack = packs(fleet)?.get_complete(old).or_exit(Exit::Internal)?;
    for server in &fleet.servers {
        let releases = server.root().join(ARTIFACT).join("releases");
        fs::create_dir_all(&releases)?;
        unpack_tree(&pack, &releases.join(old.to_string())).or_exit(Exit::Environment)?;
        std::os::unix::fs::symlink(Path::new("releases").join(old.to_string()), server.current())?;
        let restart = ["demo-service", "restart"].map(str::to_owned).into_iter();
        operator.run(restart.chain(server.service_arguments()))?;
    }
    Ok(())
}

/// Writes the campaign's plan with `plan new`, edits it as an operator would, and has it checked and signed.
fn write_plan(fleet: &Fleet, operator: &Operator, unlucky: Option<&str>) -> Result<PathBuf, Failure> {
    let path = fleet.home().join("plans").join(format!("{CAMPAIGN}-1.toml"));
    let this = text(&std::env::current_exe()?);
    let (to, from) = (format!("{ARTIFACT}@{NEW}"), format!("{ARTIFACT}@{OLD}"));
    let mut arguments = vec![
        "plan",
        "new",
        CAMPAIGN,
        "--author",
        "alice",
        "--artifact",
        &to,
        "--from",
        &from,
        "--http",
        "http://127.0.0.1:${label.port}/healthz",
        "--restart",
        &this,
        "demo-service",
        "restart",
    ];
    arguments.extend([
        "--current",
        "${root}/web/current",
        "--server",
        "${server}",
        "--port",
        "${label.port}",
    ]);
    arguments.extend(["--pid-file", "${root}/service.pid", "--log", "${root}/service.log"]);
    operator.run(arguments)?;
    let mut plan: Plan = toml::from_str(&fs::read_to_string(&path)?).or_exit(Exit::Internal)?;
    edit(&mut plan);
    if unlucky.is_some() {
        plan.health.probes.push(version_probe()?);
    }
    let edited = toml::to_string(&plan).or_exit(Exit::Internal)?;
    fs::write(&path, edited)?;
    let (alice, bob) = (text(&fleet.operator_key("alice")), text(&fleet.operator_key("bob")));
    operator.run(["plan", "sign", CAMPAIGN, "--key", &alice, "--key", &bob])?;
    operator.run(["plan", "check", CAMPAIGN])?;
    Ok(path)
}

/// The demo's own releases say which version they are: after the switch, it must be the new one.
fn version_probe() -> Result<Probe, Failure> {
    Ok(Probe {
        name: ProbeName::new("version").or_exit(Exit::Internal)?,
        when: vec![When::After, When::Soak],
        timeout_s: 10,
        kind: ProbeKind::Http {
            url: "http://127.0.0.1:${label.port}/version".to_owned(),
            status: 200,
            contains: Some(NEW.to_owned()),
        },
    })
}

/// Small limits, so that leases are waited for; a short soak, so that a person sees the end of it.
fn edit(plan: &mut Plan) {
    let slots = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
    plan.description = "The demo's web site, from 1.0 to 2.0".to_owned();
    plan.limits.fleet = slots(4);
    plan.limits.tier = TierLimits { one: slots(2), two: slots(2), three: slots(3) };
    plan.limits.site.default = Some(slots(2));
    plan.limits.group = slots(1);
    plan.spread = Spread { window_s: 4, jitter_s: 1 };
    plan.health.soak_s = 2;
    plan.health.interval_s = 1;
    plan.health.settle_s = 15;
    plan.health.failures_allowed = 0;
    plan.lease = LeaseTerms { start_within_s: 60, down_s_max: 180, commit_within_s: 90 };
    // One attempt: the server that rolls back stays where it is, for all to see.
    plan.retry = Retry { attempts_max: 1, ..Retry::default() };
    // All at once: with stages, the server that rolls back would stop those behind it.
    plan.stages = Vec::new();
    // Nor may its failure pause them: what is shown here goes on by itself.
    plan.stop = StopRules::never();
}

fn start(
    fleet: &Fleet,
    processes: &mut Processes,
    agent: &Path,
    coordinator_key: &str,
    report_every_s: u16,
) -> Result<(), Failure> {
    let this = std::env::current_exe()?;
    let home = text(&fleet.home());
    let coordinator = format!("127.0.0.1:{}", fleet.coordinator_port);
    let mut program = |name: &str, executable: &Path, arguments: &[&str]| {
        let program = Program {
            executable: executable.to_owned(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            log: fleet.log(name),
        };
        processes.start(name, program)
    };
    fs::write(
        fleet.home().join("coordinator.toml"),
        // Three reports missed, and a little: then a server is unreachable.
        format!(
            "listen = [\"{coordinator}\"]\nreport_every_s = {report_every_s}\nunreachable_after_s = {}\n",
            3 * report_every_s + 12
        ),
    )?;
    program(COORDINATOR, &this, &["serve", "--home", &home])?;
    let bootstrap = format!("{coordinator_key}@{coordinator}");
    let listen = format!("127.0.0.1:{}", fleet.origin_port);
    let data = format!("127.0.0.1:{}", fleet.origin_data_port);
    let origin_arguments = [
        "origin",
        "--home",
        &home,
        "--listen",
        &listen,
        "--data-listen",
        &data,
        "--bootstrap",
        &bootstrap,
        "--rate",
    ];
    program(ORIGIN, &this, &[&origin_arguments[..], &[EARTH_RATE]].concat())?;
    for server in &fleet.servers {
        let config = text(&server.applier_config());
        program(&format!("{}-applier", server.id), agent, &["apply", "--applier-config", &config])?;
        let config = text(&server.agent_config());
        program(&server.id, agent, &["run", "--config", &config])?;
    }
    Ok(())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
