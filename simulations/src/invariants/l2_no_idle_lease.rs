//! L2 and L4: once all is healed, no lease lies with an idle holder, and no slot lies idle while somebody waits.
//!
//! Reason: both look well on every dashboard and end no campaign. A lease whose holder knows nothing of it is freed
//! by the next report; a server that asks while nothing is held, its windows are open and no stage has to pass first is granted at one of its
//! next claims.

use lunar_agent_core::journal::State;

use super::{Violation, s6_window};
use crate::world::World;

/// How long a holder may be idle, in milliseconds.
const IDLE_MS: u64 = 300_000;

/// How long somebody may wait while nothing is held, in milliseconds: the coordinator must first hear everyone, and
/// the longest wait between two claims passes.
const STARVED_MS: u64 = 300_000;

/// Looks at everyone who holds or waits. Called now and then.
pub(crate) fn check(world: &mut World) -> Option<Violation> {
    if world.faulty {
        return None;
    }
    let now = world.at_ms;
    let mut idle = std::mem::take(&mut world.idle_since);
    idle.retain(|server, _| world.host.ledger.held.contains_key(&world.servers[*server].name));
    for name in world.host.ledger.held.keys() {
        let number = world.documents.numbered(name);
        let at = &world.servers[number];
        let journal = at.journal.as_ref().filter(|_| at.node.is_some() && !at.gone && !at.revoked);
        let is_idle = journal.is_some_and(|journal| {
            journal.active.is_none() && journal.lease.held.is_none() && journal.lease.releases.is_empty()
        });
        if is_idle {
            idle.entry(number).or_insert(now);
        } else {
            idle.remove(&number);
        }
    }
    let found = idle.iter().find(|(_, since)| **since + IDLE_MS < now).map(|(server, since)| {
        let what = format!("{} is idle since {since} ms, and holds a lease by the log", world.name(*server));
        Violation::new("L2 no idle lease", what)
    });
    world.idle_since = idle;
    found.or_else(|| starved(world))
}

fn starved(world: &mut World) -> Option<Violation> {
    let waits = |server: &&crate::server::Server| {
        let active = server.journal.as_ref().and_then(|journal| journal.active.as_ref());
        let queued = active.is_some_and(|active| matches!(active.state, State::Queued));
        queued && server.node.is_some() && !server.gone && !server.revoked
    };
    // Machines that are to be written off, and those that cannot be heard yet, take the slots of those that are down.
    let is_unheard = |at: &crate::server::Server| at.node.is_none() && !at.gone && !at.revoked;
    let taken = !world.host.ledger.held.is_empty()
        || world.lost.iter().any(|at| !world.servers[*at].revoked)
        || world.servers.iter().any(is_unheard);
    let waiting = if taken || !world.order.has_room() {
        None
    } else {
        let may_start = |at: &&crate::server::Server| s6_window::is_open(world, at.number);
        world.servers.iter().filter(waits).find(may_start).map(|at| at.number)
    };
    let Some(server) = waiting else {
        world.starved_since = None;
        return None;
    };
    let since = *world.starved_since.get_or_insert(world.at_ms);
    (since + STARVED_MS < world.at_ms).then(|| {
        let what = format!("{} waits, and nothing was granted since {since} ms", world.name(server));
        Violation::new("L4 work goes on", what)
    })
}
