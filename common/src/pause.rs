//! A pause of a campaign, or of a part of it: where nothing starts any more, and what was seen.
//!
//! Owns [`Pause`] and its parts. Main invariant: a pause's id is the hash of its evidence, the attempt that completed it
//! among it, so that a resume that names it is for what its signers have seen and for nothing that came later.
//! Refuses to judge: the rules are the plan's ([`crate::plan::StopRules`]), the counting is the coordinator's core's.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bounds::SMALL_MESSAGE_BYTES_MAX;
use crate::ids::{CampaignId, DocumentHash, LeaseId, PauseId, ServerId, SiteId};
use crate::limits::Tier;
use crate::wire;

/// What a pause stops.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PauseScope {
    /// Every start of the campaign.
    Campaign,
    /// Those of a tier.
    Tier(Tier),
    /// Those in a site.
    Site(SiteId),
    /// Those of a hardware model: servers with this label.
    Model {
        /// The label's name,
        label: String,
        /// and its value.
        value: String,
    },
}

impl fmt::Display for PauseScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Campaign => f.write_str("the campaign"),
            Self::Tier(tier) => write!(f, "tier {tier}"),
            Self::Site(site) => write!(f, "site {site}"),
            Self::Model { label, value } => write!(f, "{label} {value:?}"),
        }
    }
}

/// What was seen, by which rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Anomaly {
    /// So many servers failed as the plan allows in no case.
    Failed {
        /// How many,
        failed: u32,
        /// of how many that were tried,
        tried: u32,
        /// and how many pause.
        stop_at: u32,
    },
    /// So many of those tried failed that the sequential test rejects what the plan allows.
    Rate {
        /// How many,
        failed: u32,
        /// of how many that were tried since the last resume,
        tried: u32,
        /// and within how many so many are too many.
        within: u32,
    },
    /// So many of the last attempts were rolled back.
    Storm {
        /// How many,
        rolled_back: u32,
        /// of how many,
        of: u32,
        /// and how many pause.
        stop_at: u32,
    },
    /// Servers went down and have not been heard of since: there is no evidence, and none is not good evidence.
    Silent {
        /// How many,
        silent: u32,
        /// and how many pause.
        stop_at: u32,
    },
    /// Upgrades take much longer than they did.
    Slow {
        /// How many did,
        slow: u32,
        /// of how many,
        of: u32,
        /// and how many pause.
        stop_at: u32,
        /// How long the last one took, in milliseconds,
        hold_ms: u64,
        /// the median of those before,
        median_ms: u64,
        /// and beyond how many percent of it is slow.
        percent: u32,
    },
}

impl Anomaly {
    /// The rule's name.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Failed { .. } => "failures",
            Self::Rate { .. } => "failure rate",
            Self::Storm { .. } => "rollback storm",
            Self::Silent { .. } => "silence",
            Self::Slow { .. } => "hold times",
        }
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { failed, tried, stop_at } => {
                write!(f, "{failed} of {tried} servers tried failed, and {stop_at} pause it")
            }
            Self::Rate { failed, tried, within } => {
                write!(f, "{failed} of {tried} servers tried failed, and so many within {within} pause it")
            }
            Self::Storm { rolled_back, of, stop_at } => {
                write!(f, "{rolled_back} of the last {of} attempts were rolled back, and {stop_at} pause it")
            }
            Self::Silent { silent, stop_at } => write!(
                f,
                "{silent} went down and have not been heard of since, which shows nothing, and {stop_at} pause it"
            ),
            Self::Slow { slow, of, stop_at, hold_ms, median_ms, percent } => write!(
                f,
                "{slow} of the last {of} were down for more than {percent} % of the median of {} s (the last for {} s), \
                 and {stop_at} pause it",
                median_ms / 1000,
                hold_ms / 1000
            ),
        }
    }
}

/// A pause, with its evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pause {
    /// In which campaign.
    pub campaign: CampaignId,
    /// By which plan's rules.
    pub plan: DocumentHash,
    /// What it stops.
    pub scope: PauseScope,
    /// The server whose attempt completed the evidence,
    pub server: ServerId,
    /// under this lease.
    pub lease: LeaseId,
    /// What was seen.
    pub anomaly: Anomaly,
}

impl Pause {
    /// The BLAKE3 of all of it: whoever names it has seen this very evidence.
    #[must_use]
    pub fn id(&self) -> PauseId {
        let bytes = wire::encode(self, SMALL_MESSAGE_BYTES_MAX).expect("a pause is a few ids and numbers");
        PauseId(*blake3::hash(&bytes).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pause() -> Pause {
        Pause {
            campaign: CampaignId::new("web-2").unwrap(),
            plan: DocumentHash([7; 32]),
            scope: PauseScope::Tier(Tier::One),
            server: ServerId::new("srv-7").unwrap(),
            lease: LeaseId(42),
            anomaly: Anomaly::Failed { failed: 1, tried: 3, stop_at: 1 },
        }
    }

    #[test]
    fn an_id_is_that_of_the_evidence_and_any_difference_is_another_pause() {
        let anomaly = Anomaly::Failed { failed: 1, tried: 4, stop_at: 1 };
        let others = [
            Pause { lease: LeaseId(43), ..pause() },
            Pause { scope: PauseScope::Campaign, ..pause() },
            Pause { anomaly, ..pause() },
        ];
        assert_eq!(pause().id(), pause().id());
        assert!(others.iter().all(|other| other.id() != pause().id()));
    }

    #[test]
    fn a_model_with_the_longest_label_has_an_id() {
        let value = "é".repeat(crate::bounds::TEXT_BYTES_MAX);
        let scope = PauseScope::Model { label: "model".to_owned(), value };
        assert_ne!(Pause { scope, ..pause() }.id(), pause().id());
    }
}
