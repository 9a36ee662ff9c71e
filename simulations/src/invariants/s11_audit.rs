//! S11 and L5: the coordinator's log has every transition of every server, once and in order.
//!
//! Reason: the log is the audit trail. A transition leaves an agent's journal only when the coordinator says that
//! it is durable. After an older copy of the log was put back, what was between is missing and cannot come again;
//! nothing may be there twice even then. Ten minutes after everything was healed, all that happened before is in.

use super::Violation;
use crate::world::World;

/// How long the last transitions may take to arrive after the healing, in milliseconds.
const WITHIN_MS: u64 = 600_000;

/// A transition has just been appended.
pub(super) fn check(world: &World) -> Option<Violation> {
    let wrong = world.host.ledger.audit_wrong.clone()?;
    Some(Violation::new("S11 audit", wrong))
}

/// All has settled: nothing is missing.
pub(crate) fn check_end(world: &World) -> Option<Violation> {
    missing(world, |server| {
        world.servers[server].journal.as_ref().map_or(0, |journal| journal.transitions_next)
    })
    .map(|what| Violation::new("S11 audit", what))
}

/// Once, ten minutes after the healing.
pub(crate) fn check_healed(world: &mut World) -> Option<Violation> {
    let due = world.options.scenario.faulty_ms() + WITHIN_MS;
    if world.healed.is_empty() || world.at_ms < due {
        return None;
    }
    let found = missing(world, |server| world.healed[server]);
    world.healed.clear();
    found.map(|what| Violation::new("L5 audit arrives", what))
}

fn missing(world: &World, made: impl Fn(usize) -> u64) -> Option<String> {
    // The copy that was put back never had them, and who was told that they are durable has dropped them.
    if world.host.ledger.restored {
        return None;
    }
    let there = world.servers.iter().filter(|server| !server.gone && !server.revoked);
    there.into_iter().find_map(|server| {
        let made = made(server.number);
        let kept = world.host.ledger.audited.get(&server.name).map_or(0, |last| last + 1);
        (kept < made)
            .then(|| format!("{} made {made} transitions; the log has the first {kept}", server.name))
    })
}
