//! `plan check`: whether a plan is right, can be done, and is signed enough.
//!
//! Owns the order of the checks and their answer. Main invariant: nothing is written, and a plan for which this
//! ends with 0 can be published as it is. Refuses to judge feasibility: `lunar_coordinator_core::planner` does.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lunar_common::document::{Kind, SignedDocument};
use lunar_common::ids::{DocumentHash, KeyName};
use lunar_common::inventory::InventoryServer;
use lunar_common::plan::Plan;
use lunar_common::trust::TrustState;
use lunar_coordinator_core::planner::Assessment;
use lunar_host::clock;
use lunar_host::exit::{Exit, Failure};
use lunar_simulations::forecast::{Forecast, scenario_of};
use serde::Serialize;

use super::plan::{find, sign_command};
use super::plan_fit::{Assuming, Fit};
use super::signing::{check, told, trust};
use super::{CommandResult, Common};
use crate::catalogue::Catalogue;
use crate::home::{Home, load, refused};

/// Checks a plan: its text, its contents, whether it fits the servers, and whether it is signed enough.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Ends with 0 if the plan can be published; with 1 if it is INFEASIBLE or signatures are missing \
    (`feasible` and `ready` with --output json tell which); with 3 if the plan or the inventory is wrong; with 4 if \
    a signature is refused.\n\n\
    Examples:\n  lunar-coordinator plan check web-2\n  \
    lunar-coordinator plan check web-2.toml --inventory moon.toml --hold 20m\n  \
    lunar-coordinator plan check web-2.toml --inventory moon.toml --simulate --seeds 5\n  \
    lunar-coordinator plan check web-2 --hold 8m --hours-per-day 12 --triage 2h --start 2026-12-01T00:00:00Z\n\n\
    An inventory lists servers by count or one by one:\n  \
    format = 1\n  [[servers]]\n  name = \"air\"\n  count = 2000\n  tier = 1\n  site = \"base\"\n  group_size = 4"
)]
pub struct CheckCommand {
    /// The plan, or its campaign.
    plan: PathBuf,
    #[command(flatten)]
    assuming: Assuming,
    /// Also runs the campaign, with the production cores in virtual time: when it ends, what is down when.
    #[arg(long)]
    simulate: bool,
    /// How many times it is run.
    #[arg(long, default_value_t = 3, value_name = "N", requires = "simulate",
        value_parser = clap::value_parser!(u64).range(1..=1_000))]
    seeds: u64,
}

#[derive(Serialize)]
struct Checked {
    file: PathBuf,
    hash: DocumentHash,
    /// `null`: no trust root is here.
    signers: Option<Vec<KeyName>>,
    /// Whether it can be published as it is.
    ready: bool,
    #[serde(flatten)]
    fit: Fit,
    /// What runs of it come to; `null`: none was asked for, or it does not fit.
    forecast: Option<Forecast>,
    message: String,
    warnings: Vec<String>,
}

impl CheckCommand {
    /// Runs it.
    ///
    /// # Errors
    /// A file, the gate or the planner refused.
    pub fn run(self, common: &Common) -> CommandResult {
        let path = find(common, &self.plan)?;
        let document = load(&path, Kind::Plan)?;
        let plan: Plan = check(&path, &document.body)?;
        let trust = self.trust(common)?;
        let mut warnings = warnings(common, trust.as_ref(), &plan);
        let servers = self.assuming.servers(&plan, trust.as_ref(), &mut warnings)?;
        let fit = self.assuming.fit(&plan, &servers, trust.as_ref(), &mut warnings);
        let feasible = fit.feasible;
        let forecast = match &fit.assessment {
            Some(assessment) if self.simulate && assessment.feasible => {
                self.forecast(&plan, &servers, assessment, &mut warnings)
            }
            _ => {
                if self.simulate {
                    warnings.push("not simulated: it cannot fit, or no server is known".to_owned());
                }
                None
            }
        };
        let (signers, complete, message) =
            signatures(&path, &document, trust.as_ref(), feasible != Some(false))?;
        let checked = Checked {
            file: path,
            hash: document.hash(),
            signers,
            ready: complete && feasible != Some(false),
            fit,
            forecast,
            message,
            warnings,
        };
        common.output.print(&checked, human)?;
        let held = checked.ready || (trust.is_none() && feasible == Some(true));
        Ok(if held { Exit::Ok } else { Exit::NotHeld })
    }

    /// The trust here. Where an inventory stands in for it, there may be none.
    fn trust(&self, common: &Common) -> Result<Option<TrustState>, Failure> {
        let home = Home::new(&common.home);
        if self.assuming.inventory.is_some() && home.root_versions()?.is_empty() {
            return Ok(None);
        }
        trust(common).map(Some)
    }

    /// The campaign, run; or, as a warning, why it cannot be.
    fn forecast(
        &self,
        plan: &Plan,
        servers: &[InventoryServer],
        assessment: &Assessment,
        warnings: &mut Vec<String>,
    ) -> Option<Forecast> {
        if plan.windows.is_some() {
            warnings.push("not simulated: its windows; the runs let servers go down at any time".into());
        }
        match scenario_of(plan, servers, &assessment.assumed, assessment.calendar.window_s) {
            Err(problems) => {
                warnings.extend(problems.into_iter().map(|problem| format!("not simulated: {problem}")));
                None
            }
            Ok(scenario) => {
                if !plan.order.is_empty() {
                    let words = "simulated without its order: the figures above add that up";
                    warnings.push(words.to_owned());
                }
                if plan.stages.iter().any(|stage| stage.approval_batch.is_some()) {
                    warnings.push("simulated as if every batch were approved at once".to_owned());
                }
                let forecast = Forecast::of(&Arc::new(scenario), self.seeds);
                if forecast.is_none() {
                    warnings.push(format!(
                        "in none of {} simulated runs did all servers come to an end",
                        self.seeds
                    ));
                }
                forecast
            }
        }
    }
}

/// Who signed, whether that is enough, and what to do next.
fn signatures(
    path: &Path,
    document: &SignedDocument,
    trust: Option<&TrustState>,
    publishable: bool,
) -> Result<(Option<Vec<KeyName>>, bool, String), Failure> {
    let Some(trust) = trust else {
        let message = format!("{}: no trust root is here, so signatures were not checked", path.display());
        return Ok((None, false, message));
    };
    let status = trust.signature_status(document);
    let mut message = told(&status, path, &sign_command(path));
    if status.complete {
        trust.clone().accept(document, clock::wall()).map_err(|refusal| refused(path, refusal))?;
        if publishable {
            message += &format!("\n  next: lunar-coordinator plan publish {}", path.display());
        }
    }
    Ok((Some(status.have), status.complete, message))
}

fn human(checked: &Checked) -> String {
    let mut text = String::new();
    if checked.fit.feasible.is_some() {
        text += &format!("{}\n", checked.fit);
    }
    if let Some(forecast) = &checked.forecast {
        let closed_s = checked.fit.assessment.as_ref().and_then(|assessment| assessment.finish_s);
        text += &format!("{}\n", super::plan_forecast::human(forecast, closed_s));
    }
    text += &format!("{}\nplan {}", checked.message, checked.hash);
    for warning in &checked.warnings {
        text += &format!("\nwarning: {warning}");
    }
    text
}

/// Servers named in one warning.
const LACK_NAMED: usize = 5;

/// What is possible and probably not meant.
pub(super) fn warnings(common: &Common, trust: Option<&TrustState>, plan: &Plan) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(trust) = trust {
        if plan.expires < trust.trusted_time(clock::wall()) {
            warnings.push(format!("it expired at {}: nothing would start by it", plan.expires));
        }
        if plan.fleet != *trust.fleet() {
            warnings.push(format!("it is for fleet {}; this is fleet {}", plan.fleet, trust.fleet()));
        }
        if !trust.root().keys.contains_key(&plan.author) {
            warnings.push(format!("author {} is no key of the trust root: it would be refused", plan.author));
        }
        if let Some(halt) = trust.halt_in_force(&plan.campaign) {
            warnings
                .push(format!("a halt is in force ({}): nothing starts until it is resumed", halt.reason));
        }
    }
    if let Some(trust) = trust.filter(|_| plan.stages.iter().any(|stage| stage.approval_batch.is_some())) {
        let approvers = trust.approvers();
        let others: Vec<&str> =
            approvers.names.iter().filter(|name| **name != plan.author).map(KeyName::as_str).collect();
        if u32::try_from(others.len()).is_ok_and(|others| others < approvers.need) {
            warnings.push(format!(
                "it asks for approvals, and nobody can give them: they take {} of the approve role beside its author, \
                 and the trust root has {} ({})",
                approvers.need,
                others.len(),
                if others.is_empty() { "none".to_owned() } else { others.join(", ") }
            ));
        }
    }
    for label in plan.labels_used() {
        let selected: Vec<_> =
            trust.iter().flat_map(|trust| trust.machines()).filter(|m| plan.select.matches(m)).collect();
        let lack: Vec<&str> =
            selected.iter().filter(|m| !m.labels.contains_key(&label)).map(|m| m.server.as_str()).collect();
        if !lack.is_empty() {
            let (named, more) = (lack[..lack.len().min(LACK_NAMED)].join(", "), lack.len() > LACK_NAMED);
            warnings.push(format!(
                "${{label.{label}}} is used, and {} of {} servers selected have no such label ({named}{}): none of \
                 them can go by this plan",
                lack.len(),
                selected.len(),
                if more { ", …" } else { "" }
            ));
        }
    }
    for artifact in &plan.artifacts {
        if artifact.from.is_empty() {
            warnings.push(format!(
                "{} has no `from`: it installs only where nothing is, and cannot be rolled back",
                artifact.name
            ));
        }
        // A check makes no directory.
        let catalogue = Home::new(&common.home).artifacts().is_dir().then(|| Catalogue::open(&common.home));
        let known =
            catalogue.and_then(Result::ok).and_then(|all| all.packs().manifest_bytes(artifact.id).ok());
        match known.flatten() {
            Some((manifest, bytes))
                if u64::try_from(bytes.len()) != Ok(artifact.manifest_bytes)
                    || manifest.bytes != artifact.bytes =>
            {
                warnings.push(format!(
                    "{}: its manifest has {} bytes and its content {}; the plan says {} and {}",
                    artifact.name,
                    bytes.len(),
                    manifest.bytes,
                    artifact.manifest_bytes,
                    artifact.bytes
                ));
            }
            Some(_) => {}
            None if trust.is_none() => {}
            None => warnings
                .push(format!("{} {} is not among the artifacts here", artifact.name, artifact.version)),
        }
    }
    warnings
}
