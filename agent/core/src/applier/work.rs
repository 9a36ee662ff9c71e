//! What a task is made of: the set, and the steps that take it forward and back.
//!
//! Owns the making of [`Work`] from a plan and what is found, and the list of steps of each stage. Main invariant:
//! the steps follow from the journal alone, so that a journaled number names the same step in every life. Refuses
//! a set that would replace what the plan does not list.

use std::collections::BTreeMap;

use lunar_common::document::Verified;
use lunar_common::ids::{ArtifactId, ArtifactName};
use lunar_common::plan::{Install, Plan};
use lunar_common::time::millis;

use super::effect::{Bundle, Step};
use super::input::Found;
use super::journal::{HISTORY_MAX, Piece, Progress, Work};
use super::protocol::Task;

/// A plan's set as it would be installed over what runs now.
pub(super) fn new_work(task: &Task, plan: &Verified<Plan>, found: &Found) -> Result<Work, String> {
    let mut pieces = Vec::with_capacity(plan.artifacts.len());
    for artifact in &plan.artifacts {
        let name = &artifact.name;
        let running = found.running(name).map_err(|what| format!("{name} is not as it was left: {what}"))?;
        if !artifact.may_replace(running) {
            return Err(match running {
                Some(id) => {
                    format!(
                        "{name} runs {id:.16}, which the plan does not list in `from`: it may not be replaced"
                    )
                }
                None => format!("nothing runs as {name}, and the plan only replaces what it lists in `from`"),
            });
        }
        let bundle = Bundle {
            name: name.clone(),
            id: artifact.id,
            manifest_bytes: artifact.manifest_bytes,
            bytes: artifact.bytes,
        };
        pieces.push(Piece { bundle, previous: running });
    }
    let Install::Release { restart, keep, .. } = &plan.install;
    Ok(Work {
        task: task.clone(),
        pieces,
        restart: restart.clone(),
        keep: *keep,
        commit_within_ms: millis(plan.lease.commit_within()),
        progress: Progress::Staging { step: 0 },
    })
}

/// The first of a set that does not lie ready.
pub(super) fn missing<'a>(work: &'a Work, found: &Found) -> Option<&'a Bundle> {
    let lies = |bundle: &Bundle| found.releases.contains(&(bundle.name.clone(), bundle.id));
    work.pieces.iter().map(|piece| &piece.bundle).find(|bundle| !lies(bundle))
}

type History = BTreeMap<ArtifactName, Vec<ArtifactId>>;

/// The steps of what a task is doing now; empty while it waits.
pub(super) fn steps(work: &Work, history: &History) -> Vec<Step> {
    let pieces = || work.pieces.iter();
    let switch = |piece: &Piece, to| Step::Switch { name: piece.bundle.name.clone(), to };
    let restart = |installed| Step::Restart { restart: work.restart.clone(), installed };
    match work.progress {
        Progress::Staging { .. } => pieces()
            .flat_map(|piece| [prune(piece, work.keep, history), Step::Stage(piece.bundle.clone())])
            .collect(),
        Progress::Applying { .. } => pieces()
            .map(|piece| Step::Verify(piece.bundle.clone()))
            .chain(pieces().map(|piece| switch(piece, Some(piece.bundle.id))))
            .chain([restart(true)])
            .collect(),
        Progress::RollingBack { .. } => pieces()
            .rev()
            .map(|piece| switch(piece, piece.previous))
            .chain([restart(pieces().any(|piece| piece.previous.is_some()))])
            .collect(),
        Progress::Committing { .. } => pieces().map(|piece| prune(piece, work.keep, history)).collect(),
        Progress::Staged | Progress::AwaitingCommit { .. } => Vec::new(),
    }
}

/// Keeps the new release, the one before, and the newest others up to the plan's number.
fn prune(piece: &Piece, keep: u32, history: &History) -> Step {
    let name = piece.bundle.name.clone();
    let newest = history.get(&name).map(Vec::as_slice).unwrap_or_default().iter().rev();
    let mut kept: Vec<ArtifactId> = vec![piece.bundle.id];
    for id in piece.previous.iter().chain(newest) {
        let room = kept.len() < keep as usize || piece.previous == Some(*id);
        if room && !kept.contains(id) {
            kept.push(*id);
        }
    }
    Step::Prune { name, keep: kept }
}

/// Notes a release that was committed, as the newest.
pub(super) fn remember(history: &mut Vec<ArtifactId>, id: Option<ArtifactId>) {
    let Some(id) = id else { return };
    history.retain(|known| *known != id);
    history.push(id);
    let surplus = history.len().saturating_sub(HISTORY_MAX);
    history.drain(..surplus);
}
