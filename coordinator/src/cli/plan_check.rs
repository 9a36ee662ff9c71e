//! `plan check`: whether a plan is right, can be done, and is signed enough.
//!
//! Owns the order of the checks and their answer. Main invariant: nothing is written, and a plan for which this
//! ends with 0 can be published as it is. Refuses to judge feasibility: `lunar_coordinator_core::planner` does.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::anyhow;
use lunar_common::bounds::DOCUMENT_BYTES_MAX;
use lunar_common::document::{Kind, SignedDocument};
use lunar_common::ids::{DocumentHash, KeyName};
use lunar_common::inventory::{Inventory, InventoryServer};
use lunar_common::plan::Plan;
use lunar_common::time::WallTime;
use lunar_common::trust::TrustState;
use lunar_coordinator_core::planner::{self, Assessment, Assumptions, Calendar, Unplannable};
use lunar_host::exit::{Exit, Failure};
use lunar_host::{clock, files};
use lunar_simulations::forecast::{Forecast, scenario_of};
use serde::Serialize;

use super::plan::{find, sign_command};
use super::signing::{Span, check, told, trust};
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
    /// The servers, from a file instead of the enrolments here: needs no coordinator and no trust root.
    #[arg(long, value_name = "FILE")]
    inventory: Option<PathBuf>,
    /// How long one server is down. Default: settle_s + soak_s of the plan, and a minute.
    #[arg(long, value_name = "SPAN")]
    hold: Option<Span>,
    /// How long a rollback takes.
    #[arg(long, default_value = "5m", value_name = "SPAN")]
    rollback: Span,
    /// How many servers in a hundred fail once and are tried again.
    #[arg(long, default_value = "0.5", value_name = "PERCENT")]
    failures: Percent,
    /// Hours of each day in which servers may go down.
    #[arg(long, default_value_t = 24, value_name = "HOURS", value_parser = clap::value_parser!(u8).range(1..=24))]
    hours_per_day: u8,
    /// How long each failure in tier 1 stops tier 1, until a person has looked.
    #[arg(long, value_name = "SPAN")]
    triage: Option<Span>,
    /// How long a redundancy group waits between two of its members.
    #[arg(long, value_name = "SPAN")]
    group_soak: Option<Span>,
    /// When the campaign starts. Default: now.
    #[arg(long, value_name = "TIME")]
    start: Option<WallTime>,
    /// Also runs the campaign, with the production cores in virtual time: when it ends, what is down when.
    #[arg(long)]
    simulate: bool,
    /// How many times it is run.
    #[arg(long, default_value_t = 3, value_name = "N", requires = "simulate",
        value_parser = clap::value_parser!(u64).range(1..=1_000))]
    seeds: u64,
}

/// Hundredths of a percent.
#[derive(Debug, Clone, Copy)]
struct Percent(u64);

impl std::str::FromStr for Percent {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no percentage: write 0 to 100 with at most two decimals, as in 0.5");
        let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
        if whole.is_empty() || rest.len() > 2 || !digits(whole) || !digits(rest) {
            return Err(wrong());
        }
        let hundredths = format!("{whole}{rest:0<2}").parse().map_err(|_| wrong())?;
        if hundredths > 10_000 { Err(wrong()) } else { Ok(Self(hundredths)) }
    }
}

#[derive(Serialize)]
struct Checked {
    file: PathBuf,
    hash: DocumentHash,
    /// `null`: no trust root is here.
    signers: Option<Vec<KeyName>>,
    /// Whether it can be published as it is.
    ready: bool,
    /// Whether it can be done; `null`: no servers are known here.
    feasible: Option<bool>,
    /// The arithmetic.
    assessment: Option<Assessment>,
    /// Why there is no arithmetic.
    unplannable: Option<Unplannable>,
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
        let inventory = self.inventory.as_deref().map(read_inventory).transpose()?;
        let trust = self.trust(common)?;
        let start = self.start.unwrap_or_else(|| match &trust {
            Some(trust) => trust.trusted_time(clock::wall()),
            None => clock::wall(),
        });
        let mut warnings = warnings(common, trust.as_ref(), &plan);
        let servers = match (inventory, &trust) {
            (Some(inventory), _) => {
                if let Some(fleet) = inventory.fleet.filter(|fleet| *fleet != plan.fleet) {
                    warnings
                        .push(format!("it is for fleet {}; the inventory is of fleet {fleet}", plan.fleet));
                }
                inventory.servers
            }
            (None, Some(trust)) => {
                trust.machines().filter_map(|machine| InventoryServer::of(machine)).collect()
            }
            (None, None) => Vec::new(),
        };
        let assessed = (!servers.is_empty())
            .then(|| planner::assess(&plan, &servers, self.assumed(&plan), self.daily_s(), start));
        if assessed.is_none() {
            warnings.push(
                "no server is enrolled here: whether it fits was not checked; add --inventory FILE".into(),
            );
        }
        let (assessment, unplannable) = match assessed {
            None => (None, None),
            Some(Ok(assessment)) => (Some(assessment), None),
            Some(Err(error)) => (None, Some(error)),
        };
        let feasible = match (&assessment, &unplannable) {
            (None, None) => None,
            (Some(assessment), _) => Some(assessment.feasible),
            (None, Some(_)) => Some(false),
        };
        let forecast = match &assessment {
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
            feasible,
            assessment,
            unplannable,
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
        if self.inventory.is_some() && home.root_versions()?.is_empty() {
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
        match scenario_of(plan, servers, &assessment.assumed, assessment.calendar.window_s) {
            Err(problems) => {
                warnings.extend(problems.into_iter().map(|problem| format!("not simulated: {problem}")));
                None
            }
            Ok(scenario) => {
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

    fn assumed(&self, plan: &Plan) -> Assumptions {
        let seconds = |span: Span| u64::try_from(span.0).unwrap_or(0);
        let from_plan = Assumptions::of(plan);
        Assumptions {
            hold_s: self.hold.map_or(from_plan.hold_s, seconds),
            rollback_s: seconds(self.rollback),
            failures_per_10000: self.failures.0,
            group_soak_s: self.group_soak.map_or(from_plan.group_soak_s, seconds),
            triage_s: self.triage.map_or(from_plan.triage_s, seconds),
            ..from_plan
        }
    }

    fn daily_s(&self) -> u64 {
        u64::from(self.hours_per_day) * Calendar::DAY_S / 24
    }
}

fn read_inventory(path: &Path) -> Result<Inventory, Failure> {
    let bytes = files::read_bounded(path, DOCUMENT_BYTES_MAX).map_err(|error| {
        Failure::from(error).advise("name a file with [[servers]] in it: `plan check --help` shows one")
    })?;
    Inventory::parse(&bytes).map_err(|error| {
        Failure::new(Exit::BadInput, anyhow!("{}: {error}", path.display()))
            .advise("correct it there; `lunar-coordinator plan check --help` shows an inventory")
    })
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
    if let Some(assessment) = &checked.assessment {
        text += &format!("{assessment}\n");
    }
    if let Some(forecast) = &checked.forecast {
        let closed_s = checked.assessment.as_ref().and_then(|assessment| assessment.finish_s);
        text += &format!("{}\n", super::plan_forecast::human(forecast, closed_s));
    }
    if let Some(error) = &checked.unplannable {
        text += &format!("INFEASIBLE: {error}\n\n");
    }
    text += &format!("{}\nplan {}", checked.message, checked.hash);
    for warning in &checked.warnings {
        text += &format!("\nwarning: {warning}");
    }
    text
}

/// What is possible and probably not meant.
fn warnings(common: &Common, trust: Option<&TrustState>, plan: &Plan) -> Vec<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_read_to_the_hundredth_and_no_further() {
        let read = |text: &str| text.parse::<Percent>().map(|percent| percent.0);
        assert_eq!(["0", "0.5", "1.25", "100"].map(read), [Ok(0), Ok(50), Ok(125), Ok(10_000)]);
        for wrong in ["", ".5", "0.001", "100.01", "-1", "half", "1e1", "99999999999999999999"] {
            assert!(read(wrong).unwrap_err().contains("write 0 to 100"), "{wrong}");
        }
    }
}
