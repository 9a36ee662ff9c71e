//! People's word that restrains a campaign or a server, by hand: without a rule of the plan, and without a new plan.
//!
//! Owns [`Curb`] and what it can say. Main invariant: one key that may halt is enough for whatever only stops; what lets
//! a server go on takes as many as a resume. Refuses to raise anything: a limit goes up, and a campaign that was
//! cancelled goes on, by a new generation of its plan.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::bounds::LOWERED_MAX;
use crate::document::{Problem, check_text};
use crate::ids::{CampaignId, FleetId, Sequence, ServerId};
use crate::lease::LimitScope;
use crate::pause::PauseScope;
use crate::time::WallTime;
use crate::trust::RoleName;

/// A curb. Signed under `curb@`, kept in the log of those who grant leases, and by nobody else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curb {
    /// Always 1.
    pub format: u32,
    /// The fleet.
    pub fleet: FleetId,
    /// The campaign; absent for what is said of a server, which holds in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign: Option<CampaignId>,
    /// Order among the curbs of this campaign, or of the fleet's servers.
    pub sequence: Sequence,
    /// When it was made.
    pub issued: WallTime,
    /// Past this it is not taken in any more. What it began goes on.
    pub expires: WallTime,
    /// Why.
    pub reason: String,
    /// What it does.
    pub what: Measure,
}

/// What a curb does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Nothing starts there any more, until a resume names this pause.
    Pause(PauseScope),
    /// A server starts nothing, in whatever campaign, until it is released.
    Quarantine(ServerId),
    /// Ends that.
    Release(ServerId),
    /// Limits of the plan in force, lower than they are.
    Lower(Vec<Lowered>),
    /// Nothing starts by the plan in force any more. What is upgraded stays as it is.
    Cancel,
}

/// One limit that is lower from here on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lowered {
    /// Where.
    pub scope: LimitScope,
    /// Most servers down there at once.
    pub to: NonZeroU32,
}

impl Measure {
    /// Whose signatures it takes: those who may halt, or those who may resume.
    #[must_use]
    pub fn role(&self) -> RoleName {
        match self {
            Self::Pause(_) | Self::Quarantine(_) | Self::Lower(_) | Self::Cancel => RoleName::Halt,
            Self::Release(_) => RoleName::Resume,
        }
    }

    /// Whether it is said of a campaign, and not of a server.
    fn is_of_a_campaign(&self) -> bool {
        match self {
            Self::Pause(_) | Self::Lower(_) | Self::Cancel => true,
            Self::Quarantine(_) | Self::Release(_) => false,
        }
    }
}

impl Curb {
    /// What is wrong with it beside what all small documents share.
    pub(crate) fn check(&self, problems: &mut Vec<Problem>) {
        match (&self.campaign, self.what.is_of_a_campaign()) {
            (None, true) => {
                problems.push(Problem::new("campaign", "is missing: name the one that this is about"))
            }
            (Some(_), false) => {
                problems.push(Problem::new(
                    "campaign",
                    "does not belong here: a server is held back in all of them",
                ));
            }
            (Some(_), true) | (None, false) => {}
        }
        match &self.what {
            Measure::Pause(PauseScope::Model { label, value }) => {
                check_text(problems, "what.pause.model.label", label, true);
                check_text(problems, "what.pause.model.value", value, true);
            }
            Measure::Lower(lowered) if lowered.is_empty() || lowered.len() > LOWERED_MAX => {
                let found = lowered.len();
                problems.push(Problem::new(
                    "what.lower",
                    format!("has {found} entries: write 1 to {LOWERED_MAX}"),
                ));
            }
            Measure::Pause(_)
            | Measure::Quarantine(_)
            | Measure::Release(_)
            | Measure::Lower(_)
            | Measure::Cancel => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;

    fn text(campaign: &str, what: &str) -> String {
        format!(
            "format = 1\nfleet = \"moon\"\n{campaign}sequence = 1\nissued = \"2026-11-21T08:00:00Z\"\n\
             expires = \"2026-11-22T08:00:00Z\"\nreason = \"noise\"\nwhat = {what}\n"
        )
    }

    #[test]
    fn every_measure_is_written_as_people_would_and_reads_back() {
        let of = "campaign = \"web-2\"\n";
        for (campaign, what, role) in [
            (of, "{ pause = \"campaign\" }", RoleName::Halt),
            (of, "{ pause = { tier = 1 } }", RoleName::Halt),
            (of, "{ pause = { model = { label = \"model\", value = \"r740\" } } }", RoleName::Halt),
            (
                of,
                "{ lower = [{ scope = \"fleet\", to = 9 }, { scope = { site = \"base\" }, to = 1 }] }",
                RoleName::Halt,
            ),
            (of, "\"cancel\"", RoleName::Halt),
            ("", "{ quarantine = \"srv-7\" }", RoleName::Halt),
            ("", "{ release = \"srv-7\" }", RoleName::Resume),
        ] {
            let curb = Curb::parse(text(campaign, what).as_bytes()).unwrap();
            assert_eq!(curb.what.role(), role, "{what}");
            let again = toml::to_string(&curb).unwrap();
            assert_eq!(Curb::parse(again.as_bytes()).unwrap(), curb, "{again}");
        }
    }

    #[test]
    fn a_curb_that_contradicts_itself_is_refused_with_what_to_write() {
        let of = "campaign = \"web-2\"\n";
        let many = vec!["{ scope = \"fleet\", to = 9 }"; LOWERED_MAX + 1].join(", ");
        for (campaign, what, wanted) in [
            ("", "\"cancel\"", "campaign: is missing"),
            (of, "{ quarantine = \"srv-7\" }", "campaign: does not belong here"),
            (of, "{ lower = [] }", "what.lower: has 0 entries"),
            (of, &format!("{{ lower = [{many}] }}"), "write 1 to 64"),
            (of, "{ lower = [{ scope = \"fleet\", to = 0 }] }", "nonzero"),
            (
                of,
                "{ pause = { model = { label = \"\", value = \"x\" } } }",
                "what.pause.model.label: must say",
            ),
            (of, "{ raise = \"fleet\" }", "raise"),
        ] {
            let said = Curb::parse(text(campaign, what).as_bytes()).unwrap_err().to_string();
            assert!(said.contains(wanted), "{wanted}: {said}");
        }
    }
}
