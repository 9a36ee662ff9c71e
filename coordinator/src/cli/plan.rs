//! `plan`: what is installed where, within which limits.
//!
//! Owns the writing, signing, publishing and showing of plans; checking is `plan_check`'s. Main invariant: a plan is published only
//! once it passes its own checks, the planner and this directory's gate; every mistake is told with its place.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use lunar_common::document::{Document, Kind, SignedDocument};
use lunar_common::ids::{ArtifactId, ArtifactName, CampaignId, KeyName, SiteId, Version};
use lunar_common::inventory::InventoryServer;
use lunar_common::limits::Tier;
use lunar_common::plan::windows::{Mode, Windows};
use lunar_common::plan::{Plan, Stage};
use lunar_common::trust::{Counted, TrustState};
use lunar_host::exit::{Exit, Failure};
use lunar_host::{clock, documents};
use serde::Serialize;

use super::plan_check::{CheckCommand, warnings};
use super::plan_fit::Assuming;
use super::plan_text::{Draft, DraftArtifact, default_stages, joined};
use super::signing::{Finish, SignWith, Span, Via, check, trust, would_write, write_new};
use super::{CommandResult, Common, Table};
use crate::catalogue::Catalogue;
use crate::home::{Home, load, names};

/// Writes, checks, signs, publishes and shows campaign plans.
#[derive(Debug, clap::Subcommand)]
pub enum PlanCommand {
    /// Writes a commented plan that works, to be edited.
    #[command(after_help = "Examples:\n  \
        lunar-coordinator plan new web-2 --author ann --artifact web@2 --from web@1 --unit web.service \\\n    \
        --http http://127.0.0.1:8080/health\n  \
        lunar-coordinator plan new web-2 --author ann --artifact web@2=ID --tier 3 --site base --file web-2.toml")]
    New(Box<NewCommand>),
    Check(CheckCommand),
    /// Signs a plan. Every signer makes a signature file of its own.
    #[command(after_help = "Examples:\n  lunar-coordinator plan sign web-2 --key ~/.ssh/id_ed25519\n  \
        ssh-keygen -Y sign -n plan@lunar-upgrade -f KEY < plans/web-2-1.toml > plans/web-2-1.toml.ann.sig")]
    Sign {
        /// The plan, or its campaign.
        plan: PathBuf,
        #[command(flatten)]
        with: SignWith,
        /// Shows who would sign; writes nothing.
        #[arg(long)]
        dry_run: bool,
    },
    Publish(Box<PublishCommand>),
    /// Shows a plan in short, with its hash and its signers. Without one: all plans here.
    #[command(after_help = "Examples:\n  lunar-coordinator plan show web-2 --output json")]
    Show {
        /// The plan, or its campaign.
        plan: Option<PathBuf>,
    },
}

/// Hands a signed plan to the running coordinator, or to an agent; it spreads from there.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A plan that `plan check` calls INFEASIBLE is refused with 1 and nothing is handed over, unless \
    --even-if-infeasible says that a person knows better (most servers are done already, more will be enrolled, the \
    limits are lowered on purpose). It is judged as by `plan check`, and takes the same options.\n\n\
    Examples:\n  lunar-coordinator plan publish web-2\n  \
    lunar-coordinator plan publish web-2 --hold 8m\n  \
    lunar-coordinator plan publish web-2 --via unix:/run/lunar-agent/agent.sock"
)]
pub struct PublishCommand {
    /// The plan, or its campaign.
    plan: PathBuf,
    #[command(flatten)]
    via: Via,
    #[command(flatten)]
    assuming: Assuming,
    /// Publishes it although it contradicts itself or cannot be fulfilled by what is known here.
    #[arg(long)]
    even_if_infeasible: bool,
    /// Checks everything; hands nothing over.
    #[arg(long)]
    dry_run: bool,
}

/// `plan new`.
#[derive(Debug, clap::Args)]
pub struct NewCommand {
    /// The campaign's name.
    campaign: CampaignId,
    /// Whose plan it is: a key's name in the trust root. It must be among the signers.
    #[arg(long)]
    author: KeyName,
    /// What is installed, as NAME@VERSION (an artifact published here) or NAME@VERSION=ID. Repeat it.
    #[arg(long = "artifact", value_name = "NAME@VERSION[=ID]", required = true)]
    artifacts: Vec<Named>,
    /// What it may replace, and to what a rollback may return. Repeat it. Default: every other version of the
    /// same name that is published here.
    #[arg(long = "from", value_name = "NAME@VERSION[=ID]")]
    from: Vec<Named>,
    /// The systemd unit that is restarted. Default: NAME.service of the first artifact.
    #[arg(long, conflicts_with = "restart")]
    unit: Option<String>,
    /// The program that restarts the service, in place of a unit: program and arguments, one each.
    #[arg(long, num_args = 1.., value_name = "PROGRAM [ARGUMENT]", allow_hyphen_values = true)]
    restart: Vec<String>,
    /// A URL that is probed. Default: a probe of the unit, or of free disk where there is none.
    #[arg(long, value_name = "URL")]
    http: Option<String>,
    /// Only servers of these tiers. Repeat it.
    #[arg(long = "tier")]
    tiers: Vec<Tier>,
    /// Only servers at these sites. Repeat it.
    #[arg(long = "site")]
    sites: Vec<SiteId>,
    /// Leaves the stages out: all servers may start at once.
    #[arg(long)]
    no_stages: bool,
    /// Past this nothing new starts.
    #[arg(long, default_value = "7d", value_name = "SPAN")]
    expires: Span,
    /// Which generation of the campaign's plan. Default: one above the highest here.
    #[arg(long, value_name = "N")]
    generation: Option<u64>,
    /// For people.
    #[arg(long, default_value = "")]
    description: String,
    /// Where it is written. Default: plans/CAMPAIGN-GENERATION.toml in the coordinator's directory.
    #[arg(long)]
    file: Option<PathBuf>,
    /// Shows the plan; writes nothing.
    #[arg(long)]
    dry_run: bool,
}

/// An artifact by name and version, and perhaps id.
#[derive(Debug, Clone)]
pub struct Named {
    name: ArtifactName,
    version: Version,
    id: Option<ArtifactId>,
}

impl std::str::FromStr for Named {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (named, id) = match text.split_once('=') {
            Some((named, id)) => (named, Some(id.parse().map_err(|error| format!("{error}"))?)),
            None => (text, None),
        };
        let (name, version) =
            named.split_once('@').ok_or("write NAME@VERSION or NAME@VERSION=ID, as in web@2")?;
        Ok(Self {
            name: ArtifactName::new(name).map_err(|error| error.to_string())?,
            version: Version::new(version).map_err(|error| error.to_string())?,
            id,
        })
    }
}

impl PlanCommand {
    /// Runs it.
    ///
    /// # Errors
    /// A file, a key, the gate or the other side refused.
    pub fn run(self, common: &Common) -> CommandResult {
        match self {
            Self::New(command) => command.run(common),
            Self::Check(command) => command.run(common),
            Self::Sign { plan, with, dry_run } => sign(common, &plan, &with, dry_run),
            Self::Publish(command) => command.run(common),
            Self::Show { plan } => show(common, plan.as_deref()),
        }
    }
}

impl NewCommand {
    fn run(self, common: &Common) -> CommandResult {
        let home = Home::new(&common.home);
        let trust = trust(common)?;
        if !trust.root().keys.contains_key(&self.author) {
            return Err(Failure::new(Exit::BadInput, anyhow!("{} is no key of the trust root", self.author))
                .advise("see the names with `lunar-coordinator trust show`"));
        }
        let catalogue =
            Catalogue::open(&common.home).map_err(|error| Failure::new(Exit::Environment, error))?;
        let generation = match self.generation {
            Some(generation) => generation,
            None => {
                let known = trust.next_number(&Counted::Plan(self.campaign.clone()));
                known.max(newest(&home, &self.campaign)?.map_or(0, |(number, _)| number).saturating_add(1))
            }
        };
        let artifacts: Result<Vec<DraftArtifact>, Failure> =
            self.artifacts.iter().map(|named| self.artifact(&catalogue, named)).collect();
        let issued = clock::wall();
        let draft = Draft {
            fleet: trust.fleet().clone(),
            campaign: self.campaign.clone(),
            generation,
            author: self.author.clone(),
            issued,
            expires: self.expires.after(issued),
            description: self.description.clone(),
            tiers: self.tiers.clone(),
            sites: self.sites.clone(),
            unit: self.unit.clone(),
            restart: self.restart.clone(),
            http: self.http.clone(),
            artifacts: artifacts?,
            stages: if self.no_stages { Vec::new() } else { self.stages(&trust) },
        };
        let path = self.file.clone().unwrap_or_else(|| plan_path(&home, &self.campaign, generation));
        let text = draft.text();
        check::<Plan>(&path, text.as_bytes())?;
        if self.dry_run {
            would_write(Kind::Plan, &path, &text).print(common)?;
            return Ok(Exit::Ok);
        }
        write_new(&path, &text, false)?;
        let document = load(&path, Kind::Plan)?;
        let status = trust.signature_status(&document);
        let shown = path.display();
        let outcome = super::signing::Outcome {
            kind: Kind::Plan,
            file: path.clone(),
            hash: document.hash(),
            signers: status.have,
            complete: status.complete,
            message: format!(
                "{shown} written\n  next: edit it, `lunar-coordinator plan check {shown}`, and sign it"
            ),
            published: None,
            text: None,
        };
        outcome.print(common)?;
        Ok(Exit::Ok)
    }

    fn stages(&self, trust: &TrustState) -> Vec<Stage> {
        let servers: Vec<InventoryServer> = trust
            .machines()
            .filter_map(|machine| InventoryServer::of(machine))
            .filter(|server| self.sites.is_empty() || self.sites.contains(&server.site))
            .collect();
        let approvers = trust.signing_requirements(Kind::Approval).next().is_some();
        default_stages(&self.tiers, &servers, approvers)
    }

    fn artifact(&self, catalogue: &Catalogue, named: &Named) -> Result<DraftArtifact, Failure> {
        let id = id_of(catalogue, named)?;
        let unreadable = |error| Failure::new(Exit::Damaged, anyhow::Error::new(error));
        let (manifest, bytes) =
            catalogue.packs().manifest_bytes(id).map_err(unreadable)?.ok_or_else(|| {
                Failure::new(
                    Exit::BadInput,
                    anyhow!("artifact {id} is not in {}", catalogue.packs().path().display()),
                )
                .advise("publish it first: lunar-coordinator artifact add DIR --name NAME --version VERSION")
            })?;
        let mut from = Vec::new();
        for earlier in self.from.iter().filter(|earlier| earlier.name == named.name) {
            from.push((earlier.version.clone(), id_of(catalogue, earlier)?));
        }
        if self.from.is_empty() {
            let others = catalogue.list().map_err(|error| Failure::new(Exit::Damaged, error))?;
            from = others
                .into_iter()
                .filter(|release| release.name == named.name && release.id != id)
                .map(|release| (release.version, release.id))
                .collect();
        }
        Ok(DraftArtifact {
            name: named.name.clone(),
            version: named.version.clone(),
            id,
            manifest_bytes: bytes.len(),
            bytes: manifest.bytes,
            from,
        })
    }
}

fn id_of(catalogue: &Catalogue, named: &Named) -> Result<ArtifactId, Failure> {
    if let Some(id) = named.id {
        return Ok(id);
    }
    let Named { name, version, .. } = named;
    let found = catalogue.find(name, version).map_err(|error| Failure::new(Exit::Damaged, error))?;
    found.map(|release| release.id).ok_or_else(|| {
        Failure::new(Exit::BadInput, anyhow!("{name}@{version} is not published here"))
            .advise("see what is with `lunar-coordinator artifact list`, or write NAME@VERSION=ID")
    })
}

fn plan_path(home: &Home, campaign: &CampaignId, generation: u64) -> PathBuf {
    home.plans().join(format!("{campaign}-{generation}.toml"))
}

/// The newest plan of a campaign by its file's name.
fn newest(home: &Home, campaign: &CampaignId) -> Result<Option<(u64, PathBuf)>, Failure> {
    let prefix = format!("{campaign}-");
    let mut newest = None;
    for name in names(&home.plans())? {
        let path = home.plans().join(&name);
        let name = name.to_string_lossy();
        let number = name
            .strip_prefix(&prefix)
            .and_then(|rest| rest.strip_suffix(".toml"))
            .and_then(|n| n.parse().ok());
        newest = newest.max(number.map(|number: u64| (number, path)));
    }
    Ok(newest)
}

/// A plan by its file, or the newest one of a campaign by its name.
pub(super) fn find(common: &Common, plan: &Path) -> Result<PathBuf, Failure> {
    if plan.exists() {
        return Ok(plan.to_owned());
    }
    let home = Home::new(&common.home);
    let in_home = common.home.join(plan);
    if in_home.is_file() {
        return Ok(in_home);
    }
    let campaign = plan.to_str().and_then(|text| CampaignId::new(text).ok());
    let newest = campaign.as_ref().map(|campaign| newest(&home, campaign)).transpose()?.flatten();
    newest.map(|(_, path)| path).ok_or_else(|| {
        let what = anyhow!("there is no plan {} here, neither as a file nor as a campaign", plan.display());
        Failure::new(Exit::BadInput, what).advise("see the plans with `lunar-coordinator plan show`")
    })
}

pub(super) fn sign_command(path: &Path) -> String {
    format!("lunar-coordinator plan sign {} --key FILE", path.display())
}

/// What remains to be done with the plan in a file; `publish`: where it goes once it is whole.
fn finish<'a>(
    common: &'a Common,
    trust: &'a TrustState,
    path: &'a Path,
    publish: Option<&'a Via>,
) -> Finish<'a> {
    Finish { common, trust, path, kind: Kind::Plan, sign_command: sign_command(path), publish }
}

fn sign(common: &Common, plan: &Path, with: &SignWith, dry_run: bool) -> CommandResult {
    if with.is_empty() {
        return Err(Failure::new(Exit::Usage, anyhow!("no key to sign with"))
            .advise("add --key FILE or --agent NAME"));
    }
    let path = find(common, plan)?;
    let trust = trust(common)?;
    if dry_run {
        let text = String::from_utf8_lossy(&load(&path, Kind::Plan)?.body).into_owned();
        check::<Plan>(&path, text.as_bytes())?;
        let keys = with.key.iter().map(|key| key.display().to_string());
        let names = keys.chain(with.agent.iter().map(ToString::to_string)).collect::<Vec<_>>().join(", ");
        let mut outcome = would_write(Kind::Plan, &path, &text);
        outcome.message =
            format!("nothing was written: without --dry-run {names} would sign {}", path.display());
        outcome.print(common)?;
        return Ok(Exit::Ok);
    }
    finish(common, &trust, &path, None).run(with)?.print(common)?;
    Ok(Exit::Ok)
}

impl PublishCommand {
    fn run(self, common: &Common) -> CommandResult {
        let path = find(common, &self.plan)?;
        let trust = trust(common)?;
        let document = load(&path, Kind::Plan)?;
        let plan: Plan = check(&path, &document.body)?;
        let warnings = self.judge(common, &path, &plan, &trust)?;
        let via = (!self.dry_run).then_some(&self.via);
        let mut outcome = finish(common, &trust, &path, via).run(&SignWith::default())?;
        let complete = outcome.complete;
        if complete && !self.dry_run {
            keep_published(common, &plan, &document)?;
        }
        for warning in warnings {
            outcome.message += &format!("\nwarning: {warning}");
        }
        outcome.print(common)?;
        Ok(if complete { Exit::Ok } else { Exit::NotTrusted })
    }

    /// Asks the planner. Returns what is possible and probably not meant.
    fn judge(
        &self,
        common: &Common,
        path: &Path,
        plan: &Plan,
        trust: &TrustState,
    ) -> Result<Vec<String>, Failure> {
        let mut warnings = warnings(common, Some(trust), plan);
        let servers = self.assuming.servers(plan, Some(trust), &mut warnings)?;
        let fit = self.assuming.fit(plan, &servers, Some(trust), &mut warnings);
        if fit.feasible != Some(false) {
            let notes = fit.assessment.map(|assessment| assessment.contradictions).unwrap_or_default();
            warnings.extend(notes);
            return Ok(warnings);
        }
        if self.even_if_infeasible {
            warnings
                .push(format!("goes on by --even-if-infeasible, although\n{}", fit.to_string().trim_end()));
            return Ok(warnings);
        }
        let what = anyhow!("{} is not published\n{}", path.display(), fit.to_string().trim_end());
        Err(Failure::new(Exit::NotHeld, what).advise(
            "correct the plan and sign it again, or, if you know better, publish it with --even-if-infeasible",
        ))
    }
}

/// A copy of what was published, out of the way of editors: the next `plan new` counts on from it.
fn keep_published(common: &Common, plan: &Plan, document: &SignedDocument) -> Result<(), Failure> {
    let path =
        Home::new(&common.home).documents().join(format!("plan-{}-{}.toml", plan.campaign, plan.generation));
    super::signing::make_parent(&path)?;
    Ok(documents::save(&path, document)?)
}

#[derive(Serialize)]
struct Shown {
    file: PathBuf,
    hash: lunar_common::ids::DocumentHash,
    signers: Vec<KeyName>,
    ready: bool,
    plan: Option<Plan>,
    problem: Option<String>,
}

fn show(common: &Common, plan: Option<&Path>) -> CommandResult {
    let trust = trust(common)?;
    let files = match plan {
        Some(plan) => vec![find(common, plan)?],
        None => documents::load_directory(&Home::new(&common.home).plans(), Kind::Plan)?
            .into_iter()
            .map(|(path, _)| path)
            .collect(),
    };
    let mut shown = Vec::new();
    for file in files {
        let document = load(&file, Kind::Plan)?;
        let status = trust.signature_status(&document);
        let (plan, problem) = match Plan::parse(&document.body) {
            Ok(plan) => (Some(plan), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let ready = status.complete && plan.is_some();
        shown.push(Shown { hash: document.hash(), signers: status.have, ready, plan, problem, file });
    }
    let alone = plan.is_some();
    common.output.print(&shown, |shown| match shown.as_slice() {
        [] => "no plan is here: see `lunar-coordinator plan new --help`".to_owned(),
        [one] if alone => in_detail(one),
        many => {
            let mut table = Table::new(&["file", "campaign", "generation", "expires", "signed by", "hash"]);
            for one in many {
                let cell = |text: &dyn Fn(&Plan) -> String| one.plan.as_ref().map_or("?".to_owned(), text);
                table.row([
                    one.file.display().to_string(),
                    cell(&|plan| plan.campaign.to_string()),
                    cell(&|plan| plan.generation.to_string()),
                    cell(&|plan| plan.expires.to_string()),
                    one.signers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                    format!("{:.16}", one.hash),
                ]);
            }
            table.to_string()
        }
    })?;
    let broken = shown.iter().any(|one| one.plan.is_none());
    Ok(if broken { Exit::BadInput } else { Exit::Ok })
}

fn in_detail(one: &Shown) -> String {
    let Some(plan) = &one.plan else {
        return format!("{}: {}", one.file.display(), one.problem.as_deref().unwrap_or("cannot be read"));
    };
    let mut table = Table::new(&["what", "value"]);
    let mut row = |what: &str, value: String| table.row([what.to_owned(), value]);
    let all = |list: Vec<String>| if list.is_empty() { "all".to_owned() } else { list.join(", ") };
    row("campaign", format!("{}, generation {}", plan.campaign, plan.generation));
    row("hash", one.hash.to_string());
    row("author", plan.author.to_string());
    row("signed by", one.signers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    row("issued", plan.issued.to_string());
    row("expires", plan.expires.to_string());
    row("tiers", all(plan.select.tiers.iter().map(ToString::to_string).collect()));
    row("sites", all(plan.select.sites.iter().map(ToString::to_string).collect()));
    for artifact in &plan.artifacts {
        let from = artifact.from.iter().map(|from| from.version.to_string()).collect::<Vec<_>>().join(", ");
        row("artifact", format!("{} {} ({:.16}), from {from}", artifact.name, artifact.version, artifact.id));
    }
    let limits = &plan.limits;
    row(
        "down at once",
        format!(
            "fleet {}, tier 1 {}, tier 2 {}, tier 3 {}, group {}",
            limits.fleet, limits.tier.one, limits.tier.two, limits.tier.three, limits.group
        ),
    );
    row("soak", format!("{} s", plan.health.soak_s));
    let stop = &plan.stop;
    row(
        "pauses at",
        format!(
            "{} failures, {} in tier 1, {} in tier 2, {} in tier 3, {} in a place, {} of {} rolled back",
            stop.failed,
            stop.tier.one.failed,
            stop.tier.two.failed,
            stop.tier.three.failed,
            stop.place.failed,
            stop.storm.rolled_back,
            stop.storm.of
        ),
    );
    for held in plan.windows.iter().flat_map(windows_in_short) {
        row("windows", held);
    }
    for (stage, after) in plan.stages.iter().zip(Stage::order(&plan.stages)) {
        row("stage", stage_in_short(stage, &after, &plan.stages));
    }
    for rule in &plan.order {
        row("order", rule.to_string());
    }
    row(
        "probes",
        plan.health.probes.iter().map(|probe| probe.name.to_string()).collect::<Vec<_>>().join(", "),
    );
    table.to_string()
}

/// Each tier that is held to windows, and the windows, in a line each.
fn windows_in_short(windows: &Windows) -> Vec<String> {
    let mut lines = Vec::new();
    for tier in Tier::ALL {
        let held = windows.tier.of(tier);
        if held.mode != Mode::Any {
            lines.push(format!("tier {tier}: {}, {}", held.mode, joined(held.windows.iter())));
        }
    }
    let zone = &windows.zone;
    for weekly in &windows.weekly {
        let days: Vec<String> = weekly.days.iter().map(ToString::to_string).collect();
        let (days, from, until) = (days.join(" "), weekly.from, weekly.until);
        lines.push(format!("{}: {days}, {from} to {until} ({zone})", weekly.name));
    }
    for cron in &windows.cron {
        lines.push(format!("{}: {}, for {} s ({zone})", cron.name, cron.opens, cron.open_s));
    }
    lines
}

/// A stage in one line: who, how fast, and what its gate asks for.
fn stage_in_short(stage: &Stage, after: &[usize], stages: &[Stage]) -> String {
    let mut text = format!("{}: {}", stage.name, stage.select);
    match (stage.size, stage.percent) {
        (Some(size), _) => text += &format!(", {size} of them"),
        (None, Some(percent)) => text += &format!(", {percent} % of them"),
        (None, None) => {}
    }
    if let Some(wave) = stage.wave_max {
        text += &format!(", in waves up to {wave}");
    }
    let names: Vec<&str> = after.iter().map(|place| stages[*place].name.as_str()).collect();
    if !names.is_empty() {
        text += &format!(", after {}", names.join(" and "));
    }
    if let Some(batch) = stage.approval_batch {
        text += &format!(", approved {batch} at a time");
    }
    if !stage.windows.is_empty() {
        text += &format!(", only in {}", joined(stage.windows.iter()));
    }
    let per_10000 = stage.success_per_10000;
    text + &format!("; passes at {}.{:02} %, soaked for {} s", per_10000 / 100, per_10000 % 100, stage.soak_s)
}
