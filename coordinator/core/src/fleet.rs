//! What servers said of themselves in this life of the coordinator.
//!
//! Owns [`Fleet`]: one bounded record a server. Main invariant: nothing here outlives the coordinator's life,
//! so a server is unheard until it has reported in this one (DESIGN 9, rule 7); old news changes nothing.

use std::collections::BTreeSet;

use lunar_common::health::Verdict;
use lunar_common::ids::{CampaignId, ServerId};
use lunar_common::message::{CampaignStatus, Report};
use lunar_common::time::Moment;

use crate::config::Config;
use crate::roll::Roll;

/// Campaigns kept of one report: more than run at once; the rest is history.
const CAMPAIGNS_PER_SERVER_MAX: usize = 16;

/// The fleet's own words.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fleet {
    seen: Roll<ServerId, Seen>,
    /// Servers that count and were not heard in this life.
    pub(crate) unheard: BTreeSet<ServerId>,
}

/// A server heard in this life.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) heard: Moment,
    /// Nothing came for longer than a healthy server is silent.
    pub(crate) silent: bool,
    boot: u64,
    number: u64,
    pub(crate) verdict: Verdict,
    unhealthy_in_row: u32,
    pub(crate) campaigns: Vec<CampaignStatus>,
}

impl Seen {
    /// Whether it takes a slot because of what it says of its health.
    pub(crate) fn is_unwell(&self, config: &Config) -> bool {
        self.unhealthy_in_row >= config.unhealthy_reports.max(1)
    }
}

impl Fleet {
    pub(crate) fn seen(&self, server: &ServerId) -> Option<&Seen> {
        self.seen.get(server)
    }

    /// Whether a report was sent before one that is known. The agent journals how often it was started, so
    /// starts are ordered like the reports within one.
    pub(crate) fn is_old(&self, report: &Report) -> bool {
        let known = self.seen.get(&report.server);
        known.is_some_and(|seen| (report.boot, report.number) <= (seen.boot, seen.number))
    }

    /// Takes in a report that is not old.
    pub(crate) fn take(&mut self, report: &Report, at: Moment, config: &Config) {
        let unwell = match report.verdict {
            Verdict::Healthy => false,
            Verdict::Inconclusive => config.inconclusive_takes_slot,
            Verdict::Unhealthy => true,
        };
        let in_row = self.seen.get(&report.server).map_or(0, |seen| seen.unhealthy_in_row);
        let seen = Seen {
            heard: at,
            silent: false,
            boot: report.boot,
            number: report.number,
            verdict: report.verdict,
            unhealthy_in_row: if unwell { in_row.saturating_add(1) } else { 0 },
            campaigns: report.campaigns.iter().take(CAMPAIGNS_PER_SERVER_MAX).cloned().collect(),
        };
        self.seen.insert(report.server.clone(), seen);
    }

    pub(crate) fn fall_silent(&mut self, server: &ServerId) {
        if let Some(seen) = self.seen.get_mut(server) {
            seen.silent = true;
        }
    }

    /// Forgets a machine: it was replaced, or it is out.
    pub(crate) fn forget(&mut self, server: &ServerId) {
        self.seen.remove(server);
    }

    /// What a server said last of one campaign.
    pub(crate) fn status(&self, server: &ServerId, campaign: &CampaignId) -> Option<&CampaignStatus> {
        self.seen.get(server)?.campaigns.iter().find(|status| status.campaign == *campaign)
    }
}
