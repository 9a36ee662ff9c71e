//! L1 and L2: once the faults stop, everyone comes to an end within a computed time, and no lease is left.
//!
//! Reason: safety alone is had by never doing anything. An end is `complete`, `rolled-back` or `failed`, and the
//! disk must say the same as the journal.

use lunar_common::phase::Phase;

use super::Violation;
use crate::documents::{NEW, OLD};
use crate::options::Options;
use crate::world::World;

/// Longest wait between two attempts, and for what the coordinator must first hear again, in milliseconds.
const SLACK_MS: u64 = 180_000;

/// A campaign may end this much after its time, and nothing later than that is waited for, in milliseconds.
const LATE_MS: u64 = 2 * 3_600_000;

/// How many servers that have not ended are told in full.
const TOLD_MAX: usize = 8;

/// The bound: as if all attempts of all servers came one after the other, each as long as the plan allows, with the soaks
/// of the stages twice, since a coordinator that dies forgets some of them; but never much longer than the campaign's
/// own time.
pub(crate) fn bound_ms(options: &Options) -> u64 {
    let scenario = &options.scenario;
    let lease = &scenario.lease;
    let attempt_ms = 1_000 * u64::from(lease.down_s_max + lease.start_within_s + 60);
    let attempts = scenario.servers() as u64 * u64::from(scenario.retry.attempts_max);
    let soaks_ms: u64 = scenario.stages.iter().map(|stage| stage.demand().soak_ms).sum();
    (attempts * attempt_ms + 2 * soaks_ms + SLACK_MS).min(scenario.ends_ms() + LATE_MS)
}

/// Whether everyone has come to an end.
pub(crate) fn is_settled(world: &World) -> bool {
    world.truth.unsettled == 0 && world.host.core.is_some() && world.host.ledger.held.is_empty()
}

/// What to say if they have not.
pub(crate) fn not_settled(world: &World) -> Violation {
    let left: Vec<String> = world
        .servers
        .iter()
        .filter(|server| !server.has_ended())
        .take(TOLD_MAX)
        .map(|server| {
            let status = server.node.as_ref().map(|node| node.status());
            format!("{}: {status:#?}\n{:?}", server.name, server.applier_journal)
        })
        .collect();
    let held: Vec<_> = world.host.ledger.held.iter().take(TOLD_MAX).collect();
    let count = world.truth.unsettled;
    let what = format!("leases left: {held:?}; {count} not at an end: {}", left.join("\n"));
    Violation::new("L1 all come to an end, L2 no lease is left", what)
}

/// Whether somebody ended on another version than it says.
pub(crate) fn wrong_end(world: &World) -> Option<Violation> {
    let there = world.servers.iter().filter(|server| !server.gone && !server.revoked);
    there.into_iter().find_map(|server| {
        let end = server.journal.as_ref()?.finished.values().next()?;
        let wanted = if end.phase == Phase::Complete { NEW } else { OLD };
        let (link, service) = (server.disk.link, server.disk.service);
        (link != Some(wanted) || service != Some(wanted)).then(|| {
            let name = &server.name;
            Violation::new(
                "L1 everyone is where it says",
                format!("{name} ended {}, its link is {link:?} and it runs {service:?}", end.phase),
            )
        })
    })
}
