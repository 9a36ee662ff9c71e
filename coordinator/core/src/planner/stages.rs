//! What a plan's stages come to on these servers: how many each has, when it begins at best, and what would keep the
//! campaign from ever going on.
//!
//! Owns [`StageRow`]. Main invariant: servers are dealt to stages by the code that the coordinator deals them by,
//! and times are the least that limits, waves and soaks allow, one stage after the other as the plan says. Refuses
//! to say who is in a stage: that is drawn by the hash of the plan as signed.

use lunar_common::ids::{DocumentHash, StageName, WindowName};
use lunar_common::inventory::InventoryServer;
use lunar_common::lease::LimitScope;
use lunar_common::plan::{Plan, Stage};
use serde::Serialize;

use super::hours::Openings;
use super::{Assumptions, Fleet, count};
use crate::campaign::rules::StageTerms;
use crate::campaign::stage::deal;
use crate::event::LimitTable;

/// A stage, on these servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StageRow {
    /// Its name.
    pub name: StageName,
    /// Its servers.
    pub servers: u64,
    /// Batches that people must approve; 0: nobody is asked.
    pub batches: u64,
    /// The windows that it is held to, beside those of its servers' tiers.
    pub windows: Vec<WindowName>,
    /// Seconds from the start until it may begin, at best; `None`: never.
    pub begins_s: Option<u64>,
    /// Seconds from the start until its servers are done.
    pub done_s: Option<u64>,
    /// Seconds from the start until its gate opens.
    pub passes_s: Option<u64>,
}

/// The stages, and what is wrong with them on these servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Staged {
    pub(super) rows: Vec<StageRow>,
    /// What keeps servers from ever starting.
    pub(super) stuck: Vec<String>,
    /// Seconds from the start until all are done; `None`: never.
    pub(super) finish_s: Option<u64>,
}

/// The stages of a plan on the servers that it selects; `None`: it has none.
pub(super) fn staged(
    plan: &Plan,
    selected: &[&InventoryServer],
    limits: &LimitTable,
    assumed: &Assumptions,
    openings: &Openings,
) -> Option<Staged> {
    if plan.stages.is_empty() {
        return None;
    }
    let terms = StageTerms::of(&plan.stages);
    let takes = |stage: usize, server: &&InventoryServer| plan.stages[stage].select.takes(server);
    // How many are in each does not hang on the hash.
    let hands = deal(DocumentHash([0; 32]), &terms, selected.to_vec(), |server| &server.server, takes);
    let left = selected.len() - hands.iter().map(|hand| hand.servers.len()).sum::<usize>();
    let mut staged = Staged::default();
    if left > 0 {
        staged.stuck.push(format!(
            "stages: {left} of the servers selected are in none of them and would never start: add a stage for them"
        ));
    }
    let mut rows: Vec<StageRow> = terms
        .iter()
        .zip(&hands)
        .zip(&plan.stages)
        .map(|((stage, hand), written)| StageRow {
            name: stage.name.clone(),
            servers: count(hand.servers.len()),
            batches: written
                .approval_batch
                .map_or(0, |size| count(hand.servers.len()).div_ceil(size.max(1).into())),
            windows: written.windows.clone(),
            begins_s: None,
            done_s: None,
            passes_s: None,
        })
        .collect();
    // Each pass settles at least the first stage that waits for settled ones only; there are no circles.
    for _ in 0..terms.len() {
        for (at, stage) in terms.iter().enumerate() {
            let begins_s = stage
                .after
                .iter()
                .try_fold(0, |most, before| rows[usize::from(*before)].passes_s.map(|at| at.max(most)));
            let empty = hands[at].servers.is_empty();
            let Some(begins_s) = begins_s.filter(|begins_s| rows[at].begins_s != Some(*begins_s)) else {
                continue;
            };
            let takes_s = lasts_s(
                &plan.stages[at],
                &hands[at].servers,
                limits,
                assumed,
                &openings.of_stage(at, begins_s),
            );
            let done_s = takes_s.map(|takes_s| begins_s.saturating_add(takes_s));
            rows[at].begins_s = Some(begins_s);
            rows[at].done_s = done_s;
            rows[at].passes_s =
                done_s.filter(|_| !empty).map(|done| done.saturating_add(stage.demand.soak_ms / 1000));
        }
    }
    for (at, row) in rows.iter().enumerate().filter(|(at, _)| !plan.stages[*at].windows.is_empty()) {
        if row.servers > 0 && row.begins_s.is_some() && row.done_s.is_none() {
            staged.stuck.push(format!(
                "stages[{at}].windows: those of {} and of its servers' tiers leave too little time in common: widen them, \
                 or take them away",
                row.name
            ));
        }
    }
    for (at, row) in rows.iter().enumerate().filter(|(_, row)| row.servers == 0) {
        let waits = |stage: &&StageTerms| stage.after.iter().any(|before| usize::from(*before) == at);
        let later: Vec<&str> = terms.iter().filter(waits).map(|stage| stage.name.as_str()).collect();
        if !later.is_empty() {
            staged.stuck.push(format!(
                "stages[{at}]: {} has no server, and a gate opens on what servers have shown: {} would never begin; \
                 take the stage away, or widen its `select`",
                row.name,
                later.join(", ")
            ));
        }
    }
    staged.finish_s = rows
        .iter()
        .filter(|row| row.servers > 0)
        .try_fold(0, |most, row| row.done_s.map(|done| done.max(most)));
    staged.rows = rows;
    Some(staged)
}

/// Seconds that a stage takes once it has begun; `None`: no window that it may use is long enough for one.
fn lasts_s(
    stage: &Stage,
    servers: &[&InventoryServer],
    limits: &LimitTable,
    assumed: &Assumptions,
    openings: &Openings,
) -> Option<u64> {
    let fleet = Fleet::of(servers, limits, openings);
    let by_limits = fleet
        .tallies
        .keys()
        .filter_map(|scope| fleet.share(scope, assumed))
        .try_fold(0, |most, share| share.finish_s.map(|finish| finish.max(most)))?;
    let waves = stage.wave_max.map_or(0, |most| waves(count(servers.len()), u64::from(most.max(1))));
    let wave_s = assumed.hold_s.saturating_add(assumed.hand_over_s);
    let by_waves = fleet.hours(&LimitScope::Fleet).elapsed_waves(waves, wave_s, assumed.rollback_s)?;
    Some(by_limits.max(by_waves))
}

/// Waves of 1, 2, 4, … up to `most` that so many servers need.
fn waves(servers: u64, most: u64) -> u64 {
    let (mut left, mut size, mut waves) = (servers, 1, 0);
    while left > 0 {
        if size == most {
            return waves + left.div_ceil(most);
        }
        left = left.saturating_sub(size);
        size = (size * 2).min(most);
        waves += 1;
    }
    waves
}

#[cfg(test)]
mod tests {
    use super::waves;

    #[test]
    fn waves_double_up_to_the_largest() {
        assert_eq!([0, 1, 2, 3, 7, 8].map(|servers| waves(servers, 4)), [0, 1, 2, 2, 3, 4]);
        assert_eq!(waves(2_500, 64), 6 + (2_500u64 - 63).div_ceil(64));
        assert_eq!(waves(u64::MAX, 1), u64::MAX);
    }
}
