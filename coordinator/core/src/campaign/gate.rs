//! When a stage's gate opens, and what to say while it is shut.
//!
//! Owns [`Gates`] and the look at them. Main invariant: a gate opens by an event that carries its evidence, and the
//! evidence but for who is unwell is the log's own. A soak is counted on this machine's steady clock and put down
//! in the log as it goes: time in which no coordinator ran is no time in which anything was seen, and no wall clock
//! opens a gate. Refuses to shut a gate again: that is a pause, and another matter.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lunar_common::gate::{Evidence, Missing};
use lunar_common::ids::{CampaignId, ServerId};
use lunar_common::lease::{Occupancy, WaitReason};
use lunar_common::time::{Moment, Now, millis};

use crate::campaign::stage::{NO_STAGE, Shut, Stages};
use crate::coordinator::Coordinator;
use crate::event::EventBody;
use crate::ledger::Obstacle;
use crate::timers::Timer;
use crate::view::StageView;

/// How often a soak under way is put down in the log: so much of it, at most, is lost with the coordinator, or missing
/// in what people are shown. A day's soak is 1,440 events.
const SOAK_NOTED_EVERY: Duration = Duration::from_secs(60);

/// What this life knows of the gates beyond the log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gates {
    /// Campaigns whose gates must be looked at.
    due: BTreeSet<CampaignId>,
    /// Stages that soak, and since when in this life that is not in the log.
    soaking: BTreeMap<(CampaignId, u16), Moment>,
    /// Servers on the new version that are unhealthy or silent, by stage.
    unwell: BTreeMap<(CampaignId, u16), BTreeSet<ServerId>>,
}

impl Gates {
    /// A campaign's gates must be looked at.
    pub(crate) fn look_at(&mut self, campaign: &CampaignId) {
        self.due.insert(campaign.clone());
    }

    fn unwell_in(&self, key: &(CampaignId, u16)) -> u32 {
        self.unwell.get(key).map_or(0, |servers| u32::try_from(servers.len()).unwrap_or(u32::MAX))
    }
}

impl Coordinator {
    /// The stage of a server in a campaign.
    pub(crate) fn stage_of(&self, campaign: &CampaignId, server: &ServerId) -> u16 {
        self.stages(campaign).map_or(NO_STAGE, |stages| stages.of(server))
    }

    pub(crate) fn stages(&self, campaign: &CampaignId) -> Option<&Stages> {
        self.state.campaigns.get(campaign)?.stages.as_ref()
    }

    /// What stops every start of a stage.
    pub(crate) fn obstacle_of_stage(&self, campaign: &CampaignId, stage: u16) -> Option<Obstacle> {
        let stages = self.stages(campaign)?;
        if stage == NO_STAGE {
            return Some(Obstacle::NoStage);
        }
        match stages.shut(stage)? {
            Shut::Gate(before) => Some(Obstacle::Gate { stage, before }),
            Shut::Wave => Some(Obstacle::Wave(stage)),
        }
    }

    /// A stage's obstacle in the words of the wire.
    pub(crate) fn explain_gate(
        &self,
        campaign: &CampaignId,
        stage: u16,
        before: u16,
        now: Now,
    ) -> WaitReason {
        let Some(stages) = self.stages(campaign) else { return WaitReason::NoStage };
        WaitReason::Gate {
            stage: stages.name(stage).clone(),
            before: stages.name(before).clone(),
            demand: stages.demand(before),
            evidence: self.evidence_now(campaign, stages, before, now),
        }
    }

    pub(crate) fn explain_wave(&self, campaign: &CampaignId, stage: u16) -> WaitReason {
        let Some(stages) = self.stages(campaign) else { return WaitReason::NoStage };
        WaitReason::Wave {
            stage: stages.name(stage).clone(),
            size: stages.wave_size(stage).unwrap_or(u32::MAX),
            unknown: stages.evidence(stage).unknown,
        }
    }

    /// What a stage has shown by the log, and who is unwell.
    fn evidence_noted(&self, campaign: &CampaignId, stages: &Stages, stage: u16) -> Evidence {
        Evidence { unwell: self.gates.unwell_in(&(campaign.clone(), stage)), ..stages.evidence(stage) }
    }

    /// The same, with what has soaked since that was last put down.
    fn evidence_now(&self, campaign: &CampaignId, stages: &Stages, stage: u16, now: Now) -> Evidence {
        let since = self.gates.soaking.get(&(campaign.clone(), stage));
        let running = since.map_or(0, |since| millis(now.moment.since(*since)));
        let evidence = self.evidence_noted(campaign, stages, stage);
        Evidence { soaked_ms: evidence.soaked_ms.saturating_add(running), ..evidence }
    }

    /// A campaign's stages, for those who ask.
    pub(crate) fn stage_views(&self, campaign: &CampaignId) -> Vec<StageView> {
        let Some(stages) = self.stages(campaign) else { return Vec::new() };
        let view = |stage: u16| {
            let evidence = self.evidence_noted(campaign, stages, stage);
            let demand = stages.demand(stage);
            let passed = stages.has_passed(stage);
            StageView {
                name: stages.name(stage).clone(),
                waits_for: match stages.shut(stage) {
                    Some(Shut::Gate(before)) => Some(stages.name(before).clone()),
                    Some(Shut::Wave) | None => None,
                },
                passed,
                missing: if passed { None } else { evidence.missing(&demand) },
                wave: stages.wave_size(stage),
                demand,
                evidence,
            }
        };
        (0..stages.count()).map(view).collect()
    }

    /// Something about a server has changed that gates may ask for.
    pub(crate) fn look_at_gates_of(&mut self, server: &ServerId, why: Option<Occupancy>) {
        let out = match why {
            Some(Occupancy::Unhealthy | Occupancy::Unreachable) => true,
            Some(Occupancy::Granted | Occupancy::Active | Occupancy::Lost) | None => false,
        };
        for (id, campaign) in &self.state.campaigns {
            let Some(stages) = &campaign.stages else { continue };
            let stage = stages.of(server);
            if stage == NO_STAGE {
                continue;
            }
            let unwell = out && stages.completed_in(server).is_some();
            let servers = self.gates.unwell.entry((id.clone(), stage)).or_default();
            let changed = if unwell { servers.insert(server.clone()) } else { servers.remove(server) };
            if changed {
                self.gates.due.insert(id.clone());
            }
        }
    }

    /// A server leaves its place in every campaign's stages, or its place is another one.
    pub(crate) fn forget_in_gates(&mut self, server: &ServerId) {
        for servers in self.gates.unwell.values_mut() {
            servers.remove(server);
        }
        self.look_at_all_gates();
    }

    /// An attempt ended, or a server counts in another way: gates are looked at, and the next wave may begin.
    pub(crate) fn ended_in_stages(&mut self) {
        self.look_at_all_gates();
        self.room |= !self.gates.due.is_empty();
    }

    pub(crate) fn look_at_all_gates(&mut self) {
        let staged = self.state.campaigns.iter().filter(|(_, campaign)| campaign.stages.is_some());
        self.gates.due.extend(staged.map(|(id, _)| id.clone()));
    }

    /// Another plan of a campaign is in force: nothing of the one before counts.
    pub(crate) fn reset_gates(&mut self, campaign: &CampaignId) {
        let ours = (campaign.clone(), 0)..=(campaign.clone(), NO_STAGE);
        let soaking: Vec<(CampaignId, u16)> =
            self.gates.soaking.range(ours).map(|(key, _)| key.clone()).collect();
        for (campaign, stage) in soaking {
            self.stop_soaking(&campaign, stage);
        }
        self.gates.unwell.retain(|(of, _), _| of != campaign);
        self.gates.look_at(campaign);
    }

    /// Opens what may open, and begins, goes on with or ends what soaks.
    pub(crate) fn look_at_gates(&mut self, now: Now) {
        if self.state.restored {
            // What was shown is not known before everyone has spoken.
            return;
        }
        for campaign in std::mem::take(&mut self.gates.due) {
            let mut opened = true;
            while opened {
                let current: Vec<u16> =
                    self.stages(&campaign).map_or_else(Vec::new, |stages| stages.current().collect());
                opened = false;
                for stage in current {
                    opened |= self.look_at_gate(&campaign, stage, now);
                }
            }
        }
        // What was recorded here changes no evidence.
        self.gates.due.clear();
    }

    /// Whether the gate opened.
    fn look_at_gate(&mut self, campaign: &CampaignId, stage: u16, now: Now) -> bool {
        let Some(stages) = self.stages(campaign) else { return false };
        let (demand, noted) = (stages.demand(stage), stages.evidence(stage).soaked_ms);
        let evidence = self.evidence_now(campaign, stages, stage, now);
        let (plan, name) = (stages.plan(), stages.name(stage).clone());
        match evidence.missing(&demand) {
            None => {
                self.stop_soaking(campaign, stage);
                let campaign = campaign.clone();
                self.record(EventBody::GateOpened { campaign, plan, stage, name, demand, evidence });
                return true;
            }
            Some(Missing::Soak { soaked_ms, soak_ms }) => {
                let key = (campaign.clone(), stage);
                if !self.gates.soaking.contains_key(&key) {
                    let left = Duration::from_millis(soak_ms - soaked_ms);
                    let at = now.moment.after(left.min(SOAK_NOTED_EVERY));
                    self.timers.arm(Timer::Gate(campaign.clone(), stage), at);
                    self.gates.soaking.insert(key, now.moment);
                }
            }
            // Who is silent may only not have been heard yet: what has soaked keeps.
            Some(Missing::Well { .. }) => self.note_soak(campaign, stage, evidence.soaked_ms),
            Some(Missing::Servers | Missing::Completed { .. } | Missing::Succeeded { .. }) => {
                self.stop_soaking(campaign, stage);
                if noted > 0 {
                    self.record(EventBody::Soaked { campaign: campaign.clone(), plan, stage, soaked_ms: 0 });
                }
            }
        }
        false
    }

    /// A soak has gone on for a while, or to its end.
    pub(crate) fn gate_rung(&mut self, campaign: &CampaignId, stage: u16, now: Now) {
        let Some(stages) = self.stages(campaign) else { return };
        let soaked_ms = self.evidence_now(campaign, stages, stage, now).soaked_ms;
        self.note_soak(campaign, stage, soaked_ms);
        self.gates.look_at(campaign);
    }

    fn note_soak(&mut self, campaign: &CampaignId, stage: u16, soaked_ms: u64) {
        self.stop_soaking(campaign, stage);
        let Some(stages) = self.stages(campaign) else { return };
        if stages.evidence(stage).soaked_ms != soaked_ms {
            let plan = stages.plan();
            self.record(EventBody::Soaked { campaign: campaign.clone(), plan, stage, soaked_ms });
        }
    }

    fn stop_soaking(&mut self, campaign: &CampaignId, stage: u16) {
        self.gates.soaking.remove(&(campaign.clone(), stage));
        self.timers.disarm(&Timer::Gate(campaign.clone(), stage));
    }
}
