//! `trust`: who may sign what.
//!
//! Owns the making, changing, signing and showing of trust roots. Main invariant: a root that is signed is never
//! changed: changes go to a draft of the next version, which the thresholds of both versions must sign.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use lunar_common::document::Kind;
use lunar_common::ids::{FleetId, KeyName};
use lunar_common::trust::{RoleName, TrustRole, TrustRoot, TrustState};
use lunar_host::exit::{Exit, Failure};
use lunar_host::{clock, documents, keys};
use serde::Serialize;

use super::signing::{
    Finish, Outcome, SignWith, Span, Via, check, text_of, told, trust, would_write, write_new,
};
use super::{CommandResult, Common, Table};
use crate::home::{Home, load, refused};

/// Makes, changes, signs and shows trust roots: whose keys may sign what.
#[derive(Debug, clap::Subcommand)]
pub enum TrustCommand {
    /// Makes the first trust root of a new fleet, to be signed next.
    #[command(after_help = "Examples:\n  \
        lunar-coordinator trust init --fleet moon --operator ann=ann.pub --operator bob=bob.pub\n  \
        lunar-coordinator trust init --fleet moon --operator ann=ann.pub --operator bob=bob.pub \\\n    \
        --operator eve=eve.pub --role enroll=eve --role plan=ann,bob:2 --key ann --key bob")]
    Init(InitCommand),
    /// Puts a key into the draft of the next trust root, making the draft if there is none.
    #[command(
        after_help = "Examples:\n  lunar-coordinator trust add-key cem=cem.pub --role plan --role halt"
    )]
    AddKey(AddKeyCommand),
    /// Makes the draft of the next trust root, to be edited by hand and signed.
    #[command(after_help = "Examples:\n  lunar-coordinator trust rotate\n  \
        lunar-coordinator trust rotate --remove-key bob --expires 365d --key ann --key cem")]
    Rotate(RotateCommand),
    /// Signs the draft of the next trust root (or the first one).
    #[command(after_help = "Examples:\n  lunar-coordinator trust sign --key ~/.ssh/id_ed25519\n  \
        lunar-coordinator trust sign --agent ann")]
    Sign(SignCommand),
    /// Hands the trust root in force to the running coordinator, or to an agent.
    #[command(after_help = "Examples:\n  lunar-coordinator trust publish\n  \
        lunar-coordinator trust publish --via unix:/run/lunar-agent/agent.sock")]
    Publish(PublishCommand),
    /// Shows the trust root in force and the draft of the next one.
    #[command(after_help = "Examples:\n  lunar-coordinator trust show --output json")]
    Show,
    /// Checks signed documents against the trust root, whatever their kind. Without files: everything here.
    #[command(after_help = "Examples:\n  lunar-coordinator trust verify plans/web-2-1.toml")]
    Verify(VerifyCommand),
}

/// `trust init`.
#[derive(Debug, clap::Args)]
pub struct InitCommand {
    /// The fleet's name: part of everything that is ever signed for it.
    #[arg(long)]
    fleet: FleetId,
    /// A key, as NAME=FILE: the file is a .pub file, or a private key whose public half is taken. Repeat it.
    #[arg(long = "operator", value_name = "NAME=FILE", required = true)]
    operators: Vec<NamedKey>,
    /// Who holds a role, as ROLE=NAME,NAME[:THRESHOLD]. A role not named is held by every operator.
    #[arg(long = "role", value_name = "ROLE=NAMES[:N]")]
    roles: Vec<RoleHolders>,
    /// Distinct keys that must sign trust roots, plans and resumes, where --role says nothing. Default: two of
    /// two or more operators, one of one.
    #[arg(long)]
    threshold: Option<u32>,
    /// Past this nothing new starts under it.
    #[arg(long, default_value = "730d", value_name = "SPAN")]
    expires: Span,
    #[command(flatten)]
    sign: SignWith,
    /// Shows the file; writes nothing.
    #[arg(long)]
    dry_run: bool,
}

/// `trust add-key`.
#[derive(Debug, clap::Args)]
pub struct AddKeyCommand {
    /// The key, as NAME=FILE.
    key_to_add: NamedKey,
    /// The roles it gets. Repeat it.
    #[arg(long = "role", value_name = "ROLE", required = true, value_parser = role_name)]
    roles: Vec<RoleName>,
    /// Shows the draft; writes nothing.
    #[arg(long)]
    dry_run: bool,
}

/// `trust rotate`.
#[derive(Debug, clap::Args)]
pub struct RotateCommand {
    /// Takes a key out of every role: whatever it signed no longer counts. Repeat it.
    #[arg(long, value_name = "NAME")]
    remove_key: Vec<KeyName>,
    /// Past this nothing new starts under it.
    #[arg(long, default_value = "730d", value_name = "SPAN")]
    expires: Span,
    #[command(flatten)]
    sign: SignWith,
    /// Shows the draft; writes nothing.
    #[arg(long)]
    dry_run: bool,
}

/// `trust sign`.
#[derive(Debug, clap::Args)]
pub struct SignCommand {
    /// The version to sign; the highest there is, unless given.
    #[arg(long)]
    version: Option<u64>,
    #[command(flatten)]
    sign: SignWith,
}

/// `trust publish`.
#[derive(Debug, clap::Args)]
pub struct PublishCommand {
    #[command(flatten)]
    via: Via,
    /// Checks everything; hands nothing over.
    #[arg(long)]
    dry_run: bool,
}

/// `trust verify`.
#[derive(Debug, clap::Args)]
pub struct VerifyCommand {
    /// Documents, each with its signature files beside it.
    files: Vec<PathBuf>,
}

/// A key and its name.
#[derive(Debug, Clone)]
pub struct NamedKey {
    name: KeyName,
    file: PathBuf,
}

impl std::str::FromStr for NamedKey {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, file) = text.split_once('=').ok_or("write NAME=FILE, as in ann=ann.pub")?;
        Ok(Self { name: KeyName::new(name).map_err(|error| error.to_string())?, file: file.into() })
    }
}

/// Who holds a role.
#[derive(Debug, Clone)]
pub struct RoleHolders {
    name: RoleName,
    keys: BTreeSet<KeyName>,
    threshold: Option<u32>,
}

impl std::str::FromStr for RoleHolders {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (role, rest) =
            text.split_once('=').ok_or("write ROLE=NAME,NAME[:THRESHOLD], as in plan=ann,bob:2")?;
        let (names, threshold) = match rest.split_once(':') {
            Some((names, number)) => {
                (names, Some(number.parse().map_err(|_| format!("{number:?} is no threshold"))?))
            }
            None => (rest, None),
        };
        let keys: Result<_, _> = names.split(',').map(KeyName::new).collect();
        Ok(Self { name: role_name(role)?, keys: keys.map_err(|error| error.to_string())?, threshold })
    }
}

fn role_name(text: &str) -> Result<RoleName, String> {
    let names = RoleName::ALL.map(|role| role.to_string());
    RoleName::ALL
        .into_iter()
        .find(|role| role.to_string() == text)
        .ok_or_else(|| format!("{text:?} is no role: use {}", names.join(", ")))
}

impl TrustCommand {
    /// Runs it.
    ///
    /// # Errors
    /// A file, a key or the gate refused.
    pub fn run(self, common: &Common) -> CommandResult {
        match self {
            Self::Init(command) => command.run(common),
            Self::AddKey(command) => command.run(common),
            Self::Rotate(command) => command.run(common),
            Self::Sign(command) => command.run(common),
            Self::Publish(command) => command.run(common),
            Self::Show => show(common),
            Self::Verify(command) => command.run(common),
        }
    }
}

impl InitCommand {
    fn run(self, common: &Common) -> CommandResult {
        let home = Home::new(&common.home);
        if let Some(version) = home.root_versions()?.first() {
            let what = anyhow!("{} is there already", home.root(*version).display());
            return Err(Failure::new(Exit::BadInput, what).advise(
                "change it with `lunar-coordinator trust rotate`, or begin in another directory with --home",
            ));
        }
        let mut lines = BTreeMap::new();
        for operator in &self.operators {
            if lines.insert(operator.name.clone(), public_line(operator)?).is_some() {
                let what = anyhow!("operator {} is named twice", operator.name);
                return Err(Failure::new(Exit::BadInput, what).advise("give each key a name of its own"));
            }
        }
        let issued = clock::wall();
        let root = TrustRoot {
            format: 1,
            fleet: self.fleet.clone(),
            version: 1,
            issued,
            expires: self.expires.after(issued),
            roles: self.roles(&lines),
            keys: lines,
        };
        let path = home.root(1);
        let text = format!("{HEADER}{}", text_of(&root)?);
        check::<TrustRoot>(&path, text.as_bytes())?;
        if self.dry_run {
            would_write(Kind::TrustRoot, &path, &text).print(common)?;
            return Ok(Exit::Ok);
        }
        write_new(&path, &text, false)?;
        sign_root(common, &home, 1, &self.sign)
    }

    fn roles(&self, keys: &BTreeMap<KeyName, String>) -> Vec<TrustRole> {
        let everyone: BTreeSet<KeyName> = keys.keys().cloned().collect();
        let count = |keys: &BTreeSet<KeyName>| u32::try_from(keys.len()).unwrap_or(u32::MAX);
        let named: BTreeMap<RoleName, &RoleHolders> =
            self.roles.iter().map(|role| (role.name, role)).collect();
        let role = |name: RoleName| {
            let holders = named.get(&name);
            let keys = holders.map_or_else(|| everyone.clone(), |holders| holders.keys.clone());
            // What changes the fleet needs two people where there are two; what stops it, or names a machine,
            // needs one.
            let usual = match name {
                RoleName::Root | RoleName::Plan | RoleName::Approve | RoleName::Resume => {
                    self.threshold.unwrap_or_else(|| count(&keys).min(2))
                }
                RoleName::Halt | RoleName::Enroll | RoleName::Revoke | RoleName::Reap => 1,
            };
            let threshold = holders.and_then(|holders| holders.threshold).unwrap_or(usual);
            TrustRole {
                name,
                keys,
                threshold,
                valid_from: None,
                valid_until: None,
                tiers: BTreeSet::new(),
                sites: BTreeSet::new(),
            }
        };
        RoleName::ALL.into_iter().map(role).collect()
    }
}

/// What stands at the top of a new trust root.
const HEADER: &str = "# Whose keys may sign what. A signed version is never edited: `trust rotate` makes the draft of the next.\n\
    # A role may have tiers = [..] and sites = [..] (plan, approve, enroll, reap), valid_from and valid_until.\n\
    # Retire a key with valid_until: what it signed before stays good. Cast out a stolen one by removing it.\n\n";

fn public_line(key: &NamedKey) -> Result<String, Failure> {
    let public = keys::public(&key.file)?;
    // Without its comment, which may tell a user's and a machine's name to everyone.
    let public = ssh_key::PublicKey::new(public.key_data().clone(), key.name.as_str());
    public.to_openssh().map_err(|error| Failure::new(Exit::BadInput, error))
}

impl AddKeyCommand {
    fn run(self, common: &Common) -> CommandResult {
        let home = Home::new(&common.home);
        let line = public_line(&self.key_to_add)?;
        let name = &self.key_to_add.name;
        change_draft(common, &home, self.dry_run, None, |root| {
            if let Some(known) = root.keys.get(name)
                && *known != line
            {
                let what = anyhow!("another key is called {name} already");
                return Err(Failure::new(Exit::BadInput, what).advise("choose another name for the new key"));
            }
            root.keys.insert(name.clone(), line.clone());
            for role in &self.roles {
                let entry = root.roles.iter_mut().find(|entry| entry.name == *role);
                match entry {
                    Some(entry) => drop(entry.keys.insert(name.clone())),
                    None => root.roles.push(TrustRole {
                        name: *role,
                        keys: BTreeSet::from([name.clone()]),
                        threshold: 1,
                        valid_from: None,
                        valid_until: None,
                        tiers: BTreeSet::new(),
                        sites: BTreeSet::new(),
                    }),
                }
            }
            Ok(())
        })
    }
}

impl RotateCommand {
    fn run(self, common: &Common) -> CommandResult {
        let home = Home::new(&common.home);
        let exit = change_draft(common, &home, self.dry_run, Some(self.expires), |root| {
            for name in &self.remove_key {
                if root.keys.remove(name).is_none() {
                    return Err(Failure::new(Exit::BadInput, anyhow!("no key is called {name}"))
                        .advise("see the names with `lunar-coordinator trust show`"));
                }
                for role in &mut root.roles {
                    role.keys.remove(name);
                }
            }
            Ok(())
        })?;
        if self.dry_run || self.sign.is_empty() {
            return Ok(exit);
        }
        let version = newest(&home)?;
        sign_root(common, &home, version, &self.sign)
    }
}

/// Changes the draft of the next trust root, making it from the one in force if there is none. A draft that was
/// changed has lost its signatures.
fn change_draft(
    common: &Common,
    home: &Home,
    dry_run: bool,
    expires: Option<Span>,
    change: impl Fn(&mut TrustRoot) -> Result<(), Failure>,
) -> CommandResult {
    let trust = home.roots()?;
    let version = trust.root().version + 1;
    let path = home.root(version);
    let draft_is_there = path.exists();
    let mut root = if draft_is_there {
        check::<TrustRoot>(&path, &load(&path, Kind::TrustRoot)?.body)?
    } else {
        TrustRoot::clone(trust.root())
    };
    root.version = version;
    root.issued = clock::wall();
    if let Some(span) = expires {
        root.expires = span.after(root.issued);
    }
    change(&mut root)?;
    let text = format!("{HEADER}{}", text_of(&root)?);
    check::<TrustRoot>(&path, text.as_bytes())?;
    if dry_run {
        would_write(Kind::TrustRoot, &path, &text).print(common)?;
        return Ok(Exit::Ok);
    }
    if draft_is_there {
        documents::remove(&path)?;
    }
    write_new(&path, &text, false)?;
    let message = format!(
        "{} is the draft of version {version}\n  next: edit it, and let the thresholds of version {} and of the draft \
         sign it: lunar-coordinator trust sign --key FILE",
        path.display(),
        trust.root().version
    );
    let hash = load(&path, Kind::TrustRoot)?.hash();
    let kind = Kind::TrustRoot;
    Outcome {
        kind,
        file: path,
        hash,
        signers: Vec::new(),
        complete: false,
        message,
        published: None,
        text: None,
    }
    .print(common)?;
    Ok(Exit::Ok)
}

fn newest(home: &Home) -> Result<u64, Failure> {
    home.root_versions()?.last().copied().ok_or_else(|| {
        Failure::new(Exit::BadInput, anyhow!("there is no trust root here"))
            .advise("make one with `lunar-coordinator trust init`")
    })
}

impl SignCommand {
    fn run(self, common: &Common) -> CommandResult {
        if self.sign.is_empty() {
            return Err(Failure::new(Exit::Usage, anyhow!("no key to sign with"))
                .advise("add --key FILE or --agent NAME"));
        }
        let home = Home::new(&common.home);
        let version = self.version.map_or_else(|| newest(&home), Ok)?;
        sign_root(common, &home, version, &self.sign)
    }
}

/// Signs one version and tells whose signatures are missing, by its own threshold and by its predecessor's.
fn sign_root(common: &Common, home: &Home, version: u64, with: &SignWith) -> CommandResult {
    let path = home.root(version);
    let own: TrustRoot = check(&path, &load(&path, Kind::TrustRoot)?.body)?;
    let before = home.roots().ok();
    // The draft's own names come first: its new keys are not in the root in force.
    let names = own_names(&own);
    for key in &with.key {
        let body = load(&path, Kind::TrustRoot)?.body;
        let armoured = keys::sign_document(Kind::TrustRoot, &body, key)?;
        let public = keys::public(key)?;
        let name = names.iter().find(|(_, known)| known == public.key_data()).map_or_else(
            || {
                format!(
                    "by-{}",
                    public
                        .fingerprint(ssh_key::HashAlg::Sha256)
                        .to_string()
                        .chars()
                        .filter(char::is_ascii_alphanumeric)
                        .take(16)
                        .collect::<String>()
                )
            },
            |(name, _)| name.to_string(),
        );
        documents::add_signature(&path, &name, &armoured)?;
    }
    let agent_only = SignWith { key: Vec::new(), agent: with.agent.clone() };
    if !agent_only.is_empty() {
        let trust = before.as_ref().ok_or_else(|| {
            Failure::new(Exit::BadInput, anyhow!("--agent needs a trust root in force to look the name up"))
                .advise(
                    "sign the first trust root with --key FILE.pub: ssh-agent is asked for its private half",
                )
        })?;
        super::signing::sign(&path, Kind::TrustRoot, Some(trust), &agent_only)?;
    }
    let document = load(&path, Kind::TrustRoot)?;
    let command = "lunar-coordinator trust sign --key FILE";
    let (complete, message, signers) = match TrustState::anchored(&document) {
        Err(refusal) => (false, format!("{}: {refusal}\n  next: {command}", path.display()), Vec::new()),
        Ok(anchored) => {
            let own = anchored.signature_status(&document);
            let old = before.filter(|trust| trust.root().version + 1 == version);
            match old.map(|trust| (trust.signature_status(&document), trust)) {
                Some((status, _)) if !status.complete => (false, told(&status, &path, command), status.have),
                Some((_, mut trust)) => {
                    trust.accept(&document, clock::wall()).map_err(|refusal| refused(&path, refusal))?;
                    let next = "hand it over with `lunar-coordinator trust publish`";
                    (true, format!("{}\n  next: {next}", told(&own, &path, command)), own.have)
                }
                None => (true, told(&own, &path, command), own.have),
            }
        }
    };
    let hash = document.hash();
    let kind = Kind::TrustRoot;
    Outcome { kind, file: path, hash, signers, complete, message, published: None, text: None }
        .print(common)?;
    Ok(Exit::Ok)
}

fn own_names(root: &TrustRoot) -> Vec<(KeyName, ssh_key::public::KeyData)> {
    root.keys
        .iter()
        .filter_map(|(name, line)| {
            let key = ssh_key::PublicKey::from_openssh(line.trim()).ok()?;
            Some((name.clone(), key.key_data().clone()))
        })
        .collect()
}

impl PublishCommand {
    fn run(self, common: &Common) -> CommandResult {
        let home = Home::new(&common.home);
        let trust = home.roots()?;
        let path = home.root(trust.root().version);
        let finish = Finish {
            common,
            // Held against the version before, as everyone out there will do.
            trust: &trust,
            path: &path,
            kind: Kind::TrustRoot,
            sign_command: "lunar-coordinator trust sign --key FILE".into(),
            publish: (!self.dry_run).then_some(&self.via),
        };
        finish.run(&SignWith::default())?.print(common)?;
        Ok(Exit::Ok)
    }
}

#[derive(Serialize)]
struct Shown<'a> {
    in_force: &'a TrustRoot,
    file: PathBuf,
    signers: Vec<KeyName>,
    fingerprints: BTreeMap<KeyName, String>,
    /// Whether `expires` is past: nothing new starts then.
    expired: bool,
    draft: Option<PathBuf>,
}

fn show(common: &Common) -> CommandResult {
    let home = Home::new(&common.home);
    let trust = home.roots()?;
    let root = trust.root();
    let fingerprint = |line: &String| {
        ssh_key::PublicKey::from_openssh(line.trim())
            .map_or("?".to_owned(), |key| key.fingerprint(ssh_key::HashAlg::Sha256).to_string())
    };
    let draft = Some(home.root(root.version + 1)).filter(|path| path.exists());
    let shown = Shown {
        in_force: root,
        file: home.root(root.version),
        signers: root.signers().iter().cloned().collect(),
        fingerprints: root.keys.iter().map(|(name, line)| (name.clone(), fingerprint(line))).collect(),
        expired: trust.trusted_time(clock::wall()) > root.expires,
        draft,
    };
    common.output.print(&shown, |shown| {
        let root = shown.in_force;
        let mut table = Table::new(&["role", "needs", "of", "for", "until"]);
        for role in &root.roles {
            let scope = [
                role.tiers.iter().map(|tier| format!("tier {tier}")).collect::<Vec<_>>(),
                role.sites.iter().map(ToString::to_string).collect(),
            ]
            .concat();
            table.row([
                role.name.to_string(),
                role.threshold.to_string(),
                role.keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                if scope.is_empty() { "everything".to_owned() } else { scope.join(", ") },
                role.valid_until.map_or("-".to_owned(), |until| until.to_string()),
            ]);
        }
        let mut keys = Table::new(&["key", "fingerprint"]);
        for (name, fingerprint) in &shown.fingerprints {
            keys.row([name.to_string(), fingerprint.clone()]);
        }
        let expired = if shown.expired { " (past: nothing new starts)" } else { "" };
        let draft = shown
            .draft
            .as_ref()
            .map_or(String::new(), |path| format!("\ndraft of the next: {}", path.display()));
        format!(
            "trust root {} of fleet {}, expires {}{expired}\n{table}\n{keys}{draft}",
            root.version, root.fleet, root.expires
        )
    })?;
    Ok(if shown.expired { Exit::NotHeld } else { Exit::Ok })
}

#[derive(Serialize)]
struct Checked {
    file: PathBuf,
    kind: Option<Kind>,
    hash: Option<lunar_common::ids::DocumentHash>,
    holds: bool,
    says: String,
}

impl VerifyCommand {
    fn run(self, common: &Common) -> CommandResult {
        let checked: Vec<Checked> = if self.files.is_empty() {
            let (trust, left_out) = Home::new(&common.home).trust(clock::wall())?;
            let root = trust.root();
            let whole = Checked {
                file: Home::new(&common.home).root(root.version),
                kind: Some(Kind::TrustRoot),
                hash: Some(root.hash()),
                holds: true,
                says: format!(
                    "trust root {} is in force; {} machines enrolled",
                    root.version,
                    trust.machines().count()
                ),
            };
            let bad = left_out.into_iter().map(|file| Checked {
                file: file.path,
                kind: None,
                hash: None,
                holds: false,
                says: file.why,
            });
            std::iter::once(whole).chain(bad).collect()
        } else {
            let trust = trust(common)?;
            self.files.iter().map(|file| verify_one(&trust, file)).collect()
        };
        let all_hold = checked.iter().all(|one| one.holds);
        common.output.print(&checked, |checked| {
            let line = |one: &Checked| {
                format!(
                    "{} {}: {}",
                    if one.holds { "good   " } else { "REFUSED" },
                    one.file.display(),
                    one.says
                )
            };
            checked.iter().map(line).collect::<Vec<_>>().join("\n")
        })?;
        Ok(if all_hold { Exit::Ok } else { Exit::NotTrusted })
    }
}

fn verify_one(trust: &TrustState, file: &Path) -> Checked {
    let document = match documents::load_any(file) {
        Ok(document) => document,
        Err(error) => {
            let says = Failure::new(Exit::BadInput, error).to_string();
            return Checked { file: file.to_owned(), kind: None, hash: None, holds: false, says };
        }
    };
    let mut trial = trust.clone();
    let (holds, says) = match trial.accept(&document, clock::wall()) {
        Ok(_) => {
            let signers = trust.signature_status(&document).have;
            let names = signers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            (true, format!("{} signed by {names}", document.kind))
        }
        Err(refusal) => (false, refusal.to_string()),
    };
    Checked { file: file.to_owned(), kind: Some(document.kind), hash: Some(document.hash()), holds, says }
}
