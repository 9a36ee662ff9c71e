//! L1 and L2: once the faults stop, everyone comes to an end within a computed time, and no lease is left.
//!
//! Reason: safety alone is had by never doing anything. An end is `complete`, `rolled-back` or `failed`, and the
//! disk must say the same as the journal.

use lunar_common::phase::Phase;

use super::Violation;
use crate::documents::{ATTEMPTS_MAX, DOWN_MAX_MS, NEW, OLD, START_WITHIN_MS};
use crate::options::Options;
use crate::server::Server;
use crate::world::World;

/// Longest wait between two attempts, and for what the coordinator must first hear again, in milliseconds.
const SLACK_MS: u64 = 180_000;

/// The bound: as if all attempts of all servers came one after the other, each as long as the plan allows.
pub(crate) fn bound_ms(options: &Options) -> u64 {
    options.scenario.servers() as u64 * ATTEMPTS_MAX * (DOWN_MAX_MS + START_WITHIN_MS + 60_000) + SLACK_MS
}

/// Whether everyone has come to an end.
pub(crate) fn is_settled(world: &World) -> bool {
    world.host.core.is_some() && world.host.ledger.held.is_empty() && world.servers.iter().all(has_ended)
}

fn has_ended(server: &Server) -> bool {
    let Some(journal) = &server.journal else { return false };
    server.node.is_some()
        && server.applier.is_some()
        && journal.active.is_none()
        && !journal.finished.is_empty()
        && journal.lease.held.is_none()
        && journal.lease.releases.is_empty()
        && journal.transitions.is_empty()
        && server.applier_journal.work.as_ref().is_none_or(|work| !work.progress.begun())
}

/// What to say if they have not.
pub(crate) fn not_settled(world: &World) -> Violation {
    let left: Vec<String> = world
        .servers
        .iter()
        .filter(|server| !has_ended(server))
        .map(|server| {
            let status = server.node.as_ref().map(|node| node.status());
            format!("{}: {status:#?}\n{:?}", server.enrolled.server, server.applier_journal)
        })
        .collect();
    let what = format!("leases left: {:?}; not at an end: {}", world.host.ledger.held, left.join("\n"));
    Violation::new("L1 all come to an end, L2 no lease is left", what)
}

/// Whether somebody ended on another version than it says.
pub(crate) fn wrong_end(world: &World) -> Option<Violation> {
    world.servers.iter().find_map(|server| {
        let end = server.journal.as_ref()?.finished.values().next()?;
        let wanted = if end.phase == Phase::Complete { NEW } else { OLD };
        let (link, service) = (server.disk.link, server.disk.service);
        (link != Some(wanted) || service != Some(wanted)).then(|| {
            let name = &server.enrolled.server;
            Violation::new(
                "L1 everyone is where it says",
                format!("{name} ended {}, its link is {link:?} and it runs {service:?}", end.phase),
            )
        })
    })
}
