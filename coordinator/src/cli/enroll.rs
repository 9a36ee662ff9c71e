//! `enroll`: which machines belong to the fleet, and where they stand in it.
//!
//! Owns the making, signing and listing of enrolments, and the revocation of machines. Main invariant: a
//! machine's private key never passes through here: the machine makes it, and only its public half is enrolled.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use lunar_common::document::{Document, Kind};
use lunar_common::enrolment::{Enrolment, Revocation, Role};
use lunar_common::ids::{ClusterId, GroupId, PeerKey, Sequence, ServerId, ServiceId, SiteId};
use lunar_common::limits::Tier;
use lunar_common::trust::{Counted, TrustState};
use lunar_host::exit::{Exit, Failure};
use lunar_host::{clock, documents, keys};
use serde::Serialize;

use super::hand_over::HandOver;
use super::signing::{Finish, SignWith, Span, check, text_of, trust, would_write, write_new};
use super::{CommandResult, Common, Table};
use crate::home::{Home, load, refused};

/// Enrolls machines: binds a machine's key to its name, site, cluster, tier, service and group.
#[derive(Debug, clap::Subcommand)]
pub enum EnrollCommand {
    /// Makes a machine's key on this machine. Agents make their own with `lunar-agent init`.
    #[command(after_help = "Examples:\n  lunar-coordinator enroll keygen /var/lib/lunar-coordinator/key")]
    Keygen(KeygenCommand),
    /// Writes a machine's enrolment, and signs it if a key is given.
    #[command(after_help = "Examples:\n  \
        lunar-coordinator enroll new srv-07 --machine-key srv-07.pub --site base --cluster c1 --tier 2 \\\n    \
        --service web --group web-front --label rack=4 --key eve.key\n  \
        lunar-coordinator enroll new coord-1 --machine-key key.pub --role coordinator --site earth \\\n    \
        --cluster c0 --tier 2 --service control --agent eve")]
    New(Box<NewCommand>),
    /// Signs an enrolment.
    #[command(after_help = "Examples:\n  lunar-coordinator enroll sign srv-07 --key eve.key")]
    Sign(SignCommand),
    /// Lists the machines that are enrolled here.
    #[command(after_help = "Examples:\n  lunar-coordinator enroll list --output json")]
    List,
    /// Puts machines on the revocation list: from then on nobody speaks to them.
    #[command(after_help = "Examples:\n  lunar-coordinator enroll revoke srv-07 --key fay.key\n  \
        lunar-coordinator enroll revoke --reinstate srv-07 --key fay.key")]
    Revoke(RevokeCommand),
}

/// `enroll keygen`.
#[derive(Debug, clap::Args)]
pub struct KeygenCommand {
    /// The private key's file; its public half goes beside it, with .pub.
    file: PathBuf,
    /// What the public half says of whose it is.
    #[arg(long, default_value = "lunar")]
    comment: String,
}

/// `enroll new`.
#[derive(Debug, clap::Args)]
pub struct NewCommand {
    /// The server's name, unique in the fleet.
    server: ServerId,
    /// The machine's public key: its .pub file, or 64 hexadecimal digits.
    #[arg(long, value_name = "FILE|HEX")]
    machine_key: String,
    /// Its site: servers of one site reach each other over a fast network.
    #[arg(long)]
    site: SiteId,
    /// Its cluster inside the site.
    #[arg(long)]
    cluster: ClusterId,
    /// Its tier: 1 keeps people alive, 2 is operations, 3 is research.
    #[arg(long)]
    tier: Tier,
    /// What it does.
    #[arg(long)]
    service: ServiceId,
    /// The group of servers that stand in for one another.
    #[arg(long)]
    group: Option<GroupId>,
    /// Its host name. Default: the server's name.
    #[arg(long)]
    hostname: Option<String>,
    /// What it may do in the mesh.
    #[arg(long, value_parser = role, default_value = "agent", value_name = "agent|coordinator|origin")]
    role: Role,
    /// A label that plans may use, as NAME=VALUE. Repeat it.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Past this it stays a member, but starts nothing new. Default: never.
    #[arg(long, value_name = "SPAN")]
    expires: Option<Span>,
    /// Its number. Default: one above the enrolment that is here.
    #[arg(long, value_name = "N")]
    sequence: Option<u64>,
    #[command(flatten)]
    with: SignWith,
    /// Shows the document; writes nothing.
    #[arg(long)]
    dry_run: bool,
}

/// `enroll sign`.
#[derive(Debug, clap::Args)]
pub struct SignCommand {
    /// The servers whose enrolments are signed; all that lack signatures, unless given.
    servers: Vec<ServerId>,
    #[command(flatten)]
    with: SignWith,
}

/// `enroll revoke`.
#[derive(Debug, clap::Args)]
pub struct RevokeCommand {
    /// Servers, or keys of 64 hexadecimal digits.
    #[arg(required_unless_present = "reinstate")]
    who: Vec<String>,
    /// Takes a server, or a key, off the list again.
    #[arg(long, value_name = "WHO")]
    reinstate: Vec<String>,
    #[command(flatten)]
    hand_over: HandOver,
}

fn role(text: &str) -> Result<Role, String> {
    match text {
        "agent" => Ok(Role::Agent),
        "coordinator" => Ok(Role::Coordinator),
        "origin" => Ok(Role::Origin),
        other => Err(format!("{other:?} is no role of a machine: use agent, coordinator or origin")),
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE, as in rack=4")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl EnrollCommand {
    /// Runs it.
    ///
    /// # Errors
    /// A file, a key or the gate refused.
    pub fn run(self, common: &Common) -> CommandResult {
        match self {
            Self::Keygen(command) => command.run(common),
            Self::New(command) => command.run(common),
            Self::Sign(command) => command.run(common),
            Self::List => list(common),
            Self::Revoke(command) => command.run(common),
        }
    }
}

#[derive(Serialize)]
struct MadeKey {
    file: PathBuf,
    key: PeerKey,
}

impl KeygenCommand {
    fn run(self, common: &Common) -> CommandResult {
        super::signing::make_parent(&self.file)?;
        let key = keys::create(&self.file, &self.comment)
            .map_err(|error| Failure::from(error).advise("choose another file: a key is never replaced"))?;
        let made = MadeKey { file: self.file, key: keys::peer_key(&key) };
        common
            .output
            .print(&made, |made| format!("{} made; its public half is {}", made.file.display(), made.key))?;
        Ok(Exit::Ok)
    }
}

fn machine_key(text: &str) -> Result<PeerKey, Failure> {
    if let Ok(key) = text.parse() {
        return Ok(key);
    }
    let public = keys::public(Path::new(text)).map_err(|error| {
        Failure::from(error).advise("give the machine's .pub file, or its key as 64 hexadecimal digits")
    })?;
    match public.key_data() {
        ssh_key::public::KeyData::Ed25519(key) => Ok(PeerKey(key.0)),
        _ => Err(Failure::new(
            Exit::BadInput,
            anyhow!("{text} holds a key of type {}; a machine's key is ed25519", public.algorithm()),
        )
        .advise("make one on the machine with `lunar-agent init`, or here with `enroll keygen`")),
    }
}

impl NewCommand {
    fn run(self, common: &Common) -> CommandResult {
        let home = Home::new(&common.home);
        let trust = home.roots()?;
        let path = enrolment_path(&home, &self.server);
        let before = if path.exists() { Some(load(&path, Kind::Enrolment)?) } else { None };
        let last = before.as_ref().and_then(|document| Enrolment::parse(&document.body).ok());
        let enrolment = Enrolment {
            format: 1,
            fleet: trust.fleet().clone(),
            server: self.server.clone(),
            sequence: Sequence(
                self.sequence
                    .unwrap_or_else(|| last.as_ref().map_or(1, |last| last.sequence.0.saturating_add(1))),
            ),
            issued: clock::wall(),
            expires: self.expires.map(|span| span.after(clock::wall())),
            key: machine_key(&self.machine_key)?,
            role: self.role,
            hostname: self.hostname.clone().unwrap_or_else(|| self.server.to_string()),
            site: self.site.clone(),
            cluster: self.cluster.clone(),
            tier: self.tier,
            service: self.service.clone(),
            group: self.group.clone(),
            labels: self.labels.iter().cloned().collect::<BTreeMap<_, _>>(),
        };
        let text = text_of(&enrolment)?;
        check::<Enrolment>(&path, text.as_bytes())?;
        if self.dry_run {
            would_write(Kind::Enrolment, &path, &text).print(common)?;
            return Ok(Exit::Ok);
        }
        if before.is_some() {
            documents::remove(&path)?;
        }
        write_new(&path, &text, false)?;
        finish(common, &trust, &self.server, &path, &self.with)
    }
}

fn enrolment_path(home: &Home, server: &ServerId) -> PathBuf {
    home.enrolments().join(format!("{server}.toml"))
}

fn finish(
    common: &Common,
    trust: &TrustState,
    server: &ServerId,
    path: &Path,
    with: &SignWith,
) -> CommandResult {
    let finish = Finish {
        common,
        trust,
        path,
        kind: Kind::Enrolment,
        sign_command: format!("lunar-coordinator enroll sign {server} --key FILE"),
        publish: None,
    };
    finish.run(with)?.print(common)?;
    Ok(Exit::Ok)
}

impl SignCommand {
    fn run(self, common: &Common) -> CommandResult {
        if self.with.is_empty() {
            return Err(Failure::new(Exit::Usage, anyhow!("no key to sign with"))
                .advise("add --key FILE or --agent NAME"));
        }
        let home = Home::new(&common.home);
        let trust = home.roots()?;
        let servers = if self.servers.is_empty() { unsigned(&home, &trust)? } else { self.servers };
        if servers.is_empty() {
            return Err(Failure::new(Exit::NotHeld, anyhow!("every enrolment here is signed"))
                .advise("name a server to sign its enrolment again"));
        }
        let mut outcomes = Vec::new();
        for server in &servers {
            let path = enrolment_path(&home, server);
            let finish = Finish {
                common,
                trust: &trust,
                path: &path,
                kind: Kind::Enrolment,
                sign_command: format!("lunar-coordinator enroll sign {server} --key FILE"),
                publish: None,
            };
            outcomes.push(finish.run(&self.with)?);
        }
        common.output.print(&outcomes, |outcomes| {
            outcomes.iter().map(|outcome| outcome.message.clone()).collect::<Vec<_>>().join("\n")
        })?;
        Ok(Exit::Ok)
    }
}

fn unsigned(home: &Home, trust: &TrustState) -> Result<Vec<ServerId>, Failure> {
    let all = documents::load_directory(&home.enrolments(), Kind::Enrolment)?;
    let mut servers = Vec::new();
    for (path, document) in all {
        if !trust.signature_status(&document).complete {
            servers.push(check::<Enrolment>(&path, &document.body)?.server);
        }
    }
    Ok(servers)
}

#[derive(Serialize)]
struct Listed {
    server: Option<ServerId>,
    file: PathBuf,
    enrolment: Option<Enrolment>,
    /// What keeps it from being a member; absent: it is one.
    problem: Option<String>,
}

fn list(common: &Common) -> CommandResult {
    let home = Home::new(&common.home);
    let trust = trust(common)?;
    let all = documents::load_directory(&home.enrolments(), Kind::Enrolment)?;
    let listed: Vec<Listed> = all
        .into_iter()
        .map(|(file, document)| {
            let enrolment = Enrolment::parse(&document.body).ok();
            let problem = trust.verify_enrolment(&document).err().map(|refusal| refusal.to_string());
            Listed {
                server: enrolment.as_ref().map(|enrolment| enrolment.server.clone()),
                file,
                enrolment,
                problem,
            }
        })
        .collect();
    common.output.print(&listed, |listed| {
        if listed.is_empty() {
            return "no machine is enrolled here: see `lunar-coordinator enroll new --help`".to_owned();
        }
        let mut table =
            Table::new(&["server", "role", "site", "cluster", "tier", "service", "group", "key", "member"]);
        for one in listed {
            let member = one.problem.clone().unwrap_or_else(|| "yes".to_owned());
            match &one.enrolment {
                Some(machine) => table.row([
                    machine.server.to_string(),
                    format!("{:?}", machine.role).to_lowercase(),
                    machine.site.to_string(),
                    machine.cluster.to_string(),
                    machine.tier.to_string(),
                    machine.service.to_string(),
                    machine.group.as_ref().map_or("-".to_owned(), ToString::to_string),
                    // Whole: configurations name machines by it.
                    machine.key.to_string(),
                    member,
                ]),
                None => table.row(
                    [one.file.display().to_string()]
                        .into_iter()
                        .chain(std::iter::repeat_n("?".to_owned(), 7))
                        .chain([member]),
                ),
            }
        }
        table.to_string()
    })?;
    Ok(Exit::Ok)
}

impl RevokeCommand {
    fn run(self, common: &Common) -> CommandResult {
        let home = Home::new(&common.home);
        let trust = trust(common)?;
        let mut out: BTreeSet<PeerKey> =
            trust.revocation().map(|list| list.keys.iter().copied().collect()).unwrap_or_default();
        for who in &self.who {
            out.insert(key_of(&home, &trust, who)?);
        }
        for who in &self.reinstate {
            let key = key_of(&home, &trust, who)?;
            if !out.remove(&key) {
                return Err(Failure::new(Exit::BadInput, anyhow!("{who} is not revoked"))
                    .advise("see who is with `lunar-coordinator enroll list`"));
            }
        }
        let hand_over = &self.hand_over;
        let sequence = hand_over.sequence.unwrap_or_else(|| trust.next_number(&Counted::Revocation));
        let list = Revocation {
            format: 1,
            fleet: trust.fleet().clone(),
            sequence: Sequence(sequence),
            issued: clock::wall(),
            keys: out.into_iter().collect(),
        };
        let path = home.documents().join(format!("revocation-{sequence}.toml"));
        let text = text_of(&list)?;
        check::<Revocation>(&path, text.as_bytes())?;
        if hand_over.dry_run {
            would_write(Kind::Revocation, &path, &text).print(common)?;
            return Ok(Exit::Ok);
        }
        // Whose list is whole replaces the one before; a draft that nobody signed may be written again.
        let draft = path.exists() && load(&path, Kind::Revocation)?.signatures.is_empty();
        write_new(&path, &text, draft)?;
        hand_over.sign_and_publish(common, &trust, Kind::Revocation, &path)
    }
}

/// The key of a server that is or was enrolled here, or the key itself.
fn key_of(home: &Home, trust: &TrustState, who: &str) -> Result<PeerKey, Failure> {
    if let Ok(key) = who.parse::<PeerKey>() {
        return Ok(key);
    }
    let unknown = || {
        Failure::new(Exit::BadInput, anyhow!("no server here is called {who}")).advise(
            "see the names with `lunar-coordinator enroll list`, or give its key as 64 hexadecimal digits",
        )
    };
    let server = ServerId::new(who).map_err(|_| unknown())?;
    if let Some(machine) = trust.machine_named(&server) {
        return Ok(machine.key);
    }
    // A revoked machine is no member; its file still tells its key.
    let path = enrolment_path(home, &server);
    if !path.exists() {
        return Err(unknown());
    }
    let document = load(&path, Kind::Enrolment)?;
    let enrolment = check::<Enrolment>(&path, &document.body)?;
    if trust.is_revoked(&enrolment.key) {
        return Ok(enrolment.key);
    }
    match trust.verify_enrolment(&document) {
        Ok(enrolment) => Ok(enrolment.key),
        Err(refusal) => Err(refused(&path, refusal)),
    }
}
