//! Whether a plan can be done on the servers there are: the question that `plan check` and `plan publish` share.
//!
//! Owns its options and its answer in words. Main invariant: both commands judge by the same arithmetic, and say
//! the same of one plan. Refuses to judge by itself: `lunar_coordinator_core::planner` does.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use lunar_common::bounds::DOCUMENT_BYTES_MAX;
use lunar_common::inventory::{Inventory, InventoryServer};
use lunar_common::plan::Plan;
use lunar_common::time::WallTime;
use lunar_common::trust::TrustState;
use lunar_coordinator_core::planner::{self, Assessment, Assumptions, Calendar, Unplannable};
use lunar_host::exit::{Exit, Failure};
use lunar_host::{clock, files};
use serde::Serialize;

use super::signing::Span;

/// On which servers, and what is assumed of each upgrade.
#[derive(Debug, clap::Args)]
pub struct Assuming {
    /// The servers, from a file instead of the enrolments here.
    #[arg(long, value_name = "FILE")]
    pub inventory: Option<PathBuf>,
    /// How long one server is down. Default: settle_s + soak_s of the plan, and a minute.
    #[arg(long, value_name = "SPAN")]
    hold: Option<Span>,
    /// How long a rollback takes.
    #[arg(long, default_value = "5m", value_name = "SPAN")]
    rollback: Span,
    /// How many servers in a hundred fail once and are tried again.
    #[arg(long, default_value = "0.5", value_name = "PERCENT")]
    failures: Percent,
    /// Hours of each day in which servers may go down, where the plan holds their tier to no windows.
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

/// Whether a plan can be done.
#[derive(Debug, Serialize)]
pub struct Fit {
    /// `null`: no servers are known here.
    pub feasible: Option<bool>,
    /// The arithmetic.
    pub assessment: Option<Assessment>,
    /// Why there is no arithmetic.
    pub unplannable: Option<Unplannable>,
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.assessment, &self.unplannable) {
            (Some(assessment), _) => assessment.fmt(f),
            (None, Some(error)) => writeln!(f, "INFEASIBLE: {error}"),
            (None, None) => Ok(()),
        }
    }
}

impl Assuming {
    /// The servers that a plan may select from.
    ///
    /// # Errors
    /// The inventory cannot be read.
    pub fn servers(
        &self,
        plan: &Plan,
        trust: Option<&TrustState>,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<InventoryServer>, Failure> {
        let Some(path) = &self.inventory else {
            let machines = trust.into_iter().flat_map(TrustState::machines);
            return Ok(machines.filter_map(|machine| InventoryServer::of(machine)).collect());
        };
        let inventory = read_inventory(path)?;
        if let Some(fleet) = inventory.fleet.filter(|fleet| *fleet != plan.fleet) {
            warnings.push(format!("it is for fleet {}; the inventory is of fleet {fleet}", plan.fleet));
        }
        Ok(inventory.servers)
    }

    /// Whether a plan can be done on these servers.
    pub fn fit(
        &self,
        plan: &Plan,
        servers: &[InventoryServer],
        trust: Option<&TrustState>,
        warnings: &mut Vec<String>,
    ) -> Fit {
        if servers.is_empty() {
            warnings.push(
                "no server is enrolled here: whether it fits was not checked; add --inventory FILE".into(),
            );
            return Fit { feasible: None, assessment: None, unplannable: None };
        }
        let start = self.start.unwrap_or_else(|| match trust {
            Some(trust) => trust.trusted_time(clock::wall()),
            None => clock::wall(),
        });
        if plan.windows.is_some() && self.hours_per_day < 24 {
            warnings.push("--hours-per-day counts for tiers without windows only".into());
        }
        match planner::assess(plan, servers, self.assumed(plan), self.daily_s(), start) {
            Ok(assessment) => {
                Fit { feasible: Some(assessment.feasible), assessment: Some(assessment), unplannable: None }
            }
            Err(error) => Fit { feasible: Some(false), assessment: None, unplannable: Some(error) },
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
