//! S1: a server is down only under a lease that the durable log holds for it, and numbers never fall.
//!
//! Reason: whoever counts must count it. If a server could be down without a durable lease, a coordinator that
//! dies and comes back would give its slot to another. One exception is a log that was itself put back to an
//! older state: a lease it has forgotten is not held until its holder reports it (DESIGN 9, rule 7), and S2
//! alone guards that time.

use lunar_common::ids::{Epoch, Fence};

use super::Violation;
use crate::server::Server;
use crate::world::World;

pub(super) fn check(world: &World, number: usize) -> Option<Violation> {
    let ledger = &world.host.ledger;
    let server = &world.servers[number];
    let name = world.name(number);
    let seen = floors(server);
    if seen.0 < server.floors.0 || seen.1 < server.floors.1 {
        let what = format!("{name} fell from {:?} to {seen:?}", server.floors);
        return Some(Violation::new("S1 numbers never fall", what));
    }
    if !server.is_down() || server.forgotten.is_some() {
        return None;
    }
    let held = server.journal.as_ref().and_then(|journal| journal.lease.held.as_ref());
    let by_journal = held.map(|held| (held.grant.lease, held.grant.epoch, held.grant.fence));
    let by_log = ledger.held.get(&server.name).copied();
    (by_log.is_none() || by_journal != by_log).then(|| {
        let what = format!("{name} is down; its journal holds {by_journal:?}, the durable log {by_log:?}");
        Violation::new("S1 down only under a durable lease", what)
    })
}

/// The log's own numbers.
pub(super) fn check_log(world: &World) -> Option<Violation> {
    let (ledger, floor) = (&world.host.ledger, world.restored_floor);
    (ledger.epoch < floor.0 || ledger.fence < floor.1).then(|| {
        let what = format!("the log fell to {} {} from {floor:?}", ledger.epoch, ledger.fence);
        Violation::new("S1 numbers never fall", what)
    })
}

/// What may never fall again from here.
pub(super) fn remember(world: &mut World, number: usize) {
    let ledger = &world.host.ledger;
    world.restored_floor = (ledger.epoch, ledger.fence);
    let server = &mut world.servers[number];
    server.floors = floors(server);
    if server.forgotten.is_some() {
        let held = server.journal.as_ref().and_then(|journal| journal.lease.held.as_ref());
        let by_journal = held.map(|held| held.grant.lease);
        let by_log = ledger.held.get(&server.name).map(|held| held.0);
        if by_journal == by_log && !(server.is_down() && by_log.is_none()) {
            server.forgotten.take_if(|arrives_until| *arrives_until <= world.at_ms);
            if server.forgotten.is_none() {
                world.forgotten.remove(&number);
            }
        }
    }
}

fn floors(server: &Server) -> (Epoch, Fence) {
    let journal = server.journal.as_ref();
    journal.map_or_else(Default::default, |journal| (journal.lease.epoch_seen, journal.lease.fence_seen))
}
