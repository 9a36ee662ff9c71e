//! What goes wrong in a campaign, rule by rule, and what is paused by it.
//!
//! Owns [`Watch`]: the fold of a plan's endings, one file a rule. Main invariant: it changes by events of the log alone,
//! so that a replayed log pauses what the live one did, on the same evidence; and a rule speaks only when something
//! new has just been seen, so that what people resumed is not paused again by what they had seen. Refuses to
//! know of gates and slots, and to look at a clock: how long a server was down is in its release.

pub(crate) mod failed;
pub(crate) mod hold;
pub(crate) mod pause;
pub(crate) mod rate;
pub(crate) mod silent;
pub(crate) mod storm;

#[cfg(test)]
mod property;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use lunar_common::ids::{DocumentHash, ServerId, SiteId};
use lunar_common::limits::Tier;
use lunar_common::pause::{Anomaly, PauseScope};
use lunar_common::plan::StopRules;

use self::hold::Holds;
use self::silent::Silent;
use self::storm::Storm;
use crate::campaign::rules::Labels;
use crate::campaign::stage::Ending;
use crate::event::Member;

/// Where a server counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) tier: Tier,
    pub(crate) site: SiteId,
    /// The label that says its hardware model, with its value.
    pub(crate) model: Option<(String, String)>,
}

impl Place {
    /// The place of a member with these labels, of which this one names its hardware model.
    pub(crate) fn of(member: &Member, labels: Option<&Labels>, model_label: &str) -> Self {
        let model = labels.and_then(|labels| labels.get_key_value(model_label));
        let model = model.map(|(label, value)| (label.clone(), value.clone()));
        Self { tier: member.tier, site: member.site.clone(), model }
    }

    /// Every scope in which a server here counts, the widest first.
    pub(crate) fn scopes(&self) -> impl Iterator<Item = PauseScope> + use<> {
        [
            Some(PauseScope::Campaign),
            Some(PauseScope::Tier(self.tier)),
            Some(PauseScope::Site(self.site.clone())),
            self.model.clone().map(|(label, value)| PauseScope::Model { label, value }),
        ]
        .into_iter()
        .flatten()
    }
}

/// One plan's endings, as far as its rules ask for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Watch {
    plan: DocumentHash,
    rules: Arc<StopRules>,
    streams: BTreeMap<PauseScope, Stream>,
    storm: Storm,
    silent: Silent,
    holds: BTreeMap<Tier, Holds>,
}

/// The servers of one scope.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Stream {
    /// In all: for the cap.
    ever: Tally,
    /// Since people last resumed: the sequential test begins anew there.
    since: Tally,
}

/// Servers that have tried, and those that failed: one that fails again and again is one server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    tried: BTreeSet<ServerId>,
    failed: BTreeSet<ServerId>,
}

impl Tally {
    fn take(&mut self, server: &ServerId, failed: bool) {
        self.tried.insert(server.clone());
        if failed {
            self.failed.insert(server.clone());
        }
    }

    pub(crate) fn tried(&self) -> u32 {
        count(self.tried.len())
    }

    pub(crate) fn failed(&self) -> u32 {
        count(self.failed.len())
    }
}

impl Watch {
    pub(crate) fn new(plan: DocumentHash, rules: Arc<StopRules>) -> Self {
        Self {
            plan,
            rules,
            streams: BTreeMap::new(),
            storm: Storm::default(),
            silent: Silent::default(),
            holds: BTreeMap::new(),
        }
    }

    pub(crate) fn plan(&self) -> DocumentHash {
        self.plan
    }

    pub(crate) fn model_label(&self) -> &str {
        &self.rules.model_label
    }

    /// An attempt ended, and its server was down for so long. What that is the last straw of.
    pub(crate) fn ended(
        &mut self,
        server: &ServerId,
        place: &Place,
        ending: Ending,
        down_ms: Option<u64>,
    ) -> Vec<(PauseScope, Anomaly)> {
        let failed = match ending {
            Ending::Succeeded => false,
            Ending::Failed => true,
            Ending::NeverStarted => return Vec::new(),
        };
        let rules = Arc::clone(&self.rules);
        let mut found = self.count(server, place, failed);
        found.extend(self.storm.take(failed, &rules.storm).map(|anomaly| (PauseScope::Campaign, anomaly)));
        if let Some(down_ms) = down_ms.filter(|_| !failed) {
            let slow = self.holds.entry(place.tier).or_default().take(down_ms, &rules.hold);
            found.extend(slow.map(|anomaly| (PauseScope::Tier(place.tier), anomaly)));
        }
        found
    }

    /// A server's journal says that it is back on the old version. Its release will say so too, and may come later than
    /// others ask for the slot.
    pub(crate) fn rolled_back(&mut self, server: &ServerId, place: &Place) -> Vec<(PauseScope, Anomaly)> {
        self.count(server, place, true)
    }

    /// Counts a server that has tried: once, however often that is said.
    fn count(&mut self, server: &ServerId, place: &Place, failed: bool) -> Vec<(PauseScope, Anomaly)> {
        let rules = Arc::clone(&self.rules);
        let mut found = Vec::new();
        for scope in place.scopes() {
            let stream = self.streams.entry(scope.clone()).or_default();
            stream.ever.take(server, failed);
            stream.since.take(server, failed);
            let (cap, within): (u32, &[u32]) = match &scope {
                PauseScope::Campaign => (rules.failed, &[]),
                PauseScope::Tier(tier) => (rules.tier.of(*tier).failed, &rules.tier.of(*tier).within),
                PauseScope::Site(_) | PauseScope::Model { .. } => (rules.place.failed, &rules.place.within),
            };
            if failed {
                let anomaly = failed::look(&stream.ever, cap).or_else(|| rate::look(&stream.since, within));
                found.extend(anomaly.map(|anomaly| (scope, anomaly)));
            }
        }
        found
    }

    /// A server went down by its lease and has not been heard of since.
    pub(crate) fn silent(&mut self, server: &ServerId, tier: Tier) -> Option<(PauseScope, Anomaly)> {
        let anomaly = self.silent.take(server, tier, self.rules.tier.of(tier).silent)?;
        Some((PauseScope::Tier(tier), anomaly))
    }

    /// Whether a server's silence counts already.
    pub(crate) fn is_silent(&self, server: &ServerId) -> bool {
        self.silent.has(server)
    }

    /// There is news of a server.
    pub(crate) fn heard(&mut self, server: &ServerId) {
        self.silent.heard(server);
    }

    /// People have looked at a scope, and go on: what they have seen there is not counted again, but for the caps.
    pub(crate) fn resumed(&mut self, scope: &PauseScope) {
        if let Some(stream) = self.streams.get_mut(scope) {
            stream.since = Tally::default();
        }
        match scope {
            PauseScope::Campaign => self.storm = Storm::default(),
            PauseScope::Tier(tier) => {
                self.holds.remove(tier);
            }
            PauseScope::Site(_) | PauseScope::Model { .. } => {}
        }
    }
}

/// The last of many, and whether each was bad.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Recent(VecDeque<bool>);

impl Recent {
    /// One more, of which at most so many are remembered. How many of those were bad, of how many.
    fn take(&mut self, bad: bool, most: u32) -> (u32, u32) {
        self.0.push_back(bad);
        while self.0.len() > usize::try_from(most).unwrap_or(usize::MAX) {
            self.0.pop_front();
        }
        (count(self.0.iter().filter(|bad| **bad).count()), count(self.0.len()))
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
