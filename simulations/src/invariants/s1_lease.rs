//! S1: a server is down only under a lease that the durable log holds for it, and numbers never fall.
//!
//! Reason: whoever counts must count it. If a server could be down without a durable lease, a coordinator that
//! dies and comes back would give its slot to another. One exception is a log that was itself put back to an
//! older state: a lease it has forgotten is not held until its holder reports it (DESIGN 9, rule 7), and S2
//! alone guards that time.

use lunar_common::ids::{Epoch, Fence};

use super::Violation;
use crate::world::World;

pub(super) fn check(world: &World) -> Option<Violation> {
    let ledger = &world.host.ledger;
    let floor = world.restored_floor;
    if ledger.epoch < floor.0 || ledger.fence < floor.1 {
        let what = format!("the log fell to {} {} from {floor:?}", ledger.epoch, ledger.fence);
        return Some(Violation::new("S1 numbers never fall", what));
    }
    for server in &world.servers {
        let name = &server.enrolled.server;
        let seen = floors(server);
        if seen.0 < server.floors.0 || seen.1 < server.floors.1 {
            let what = format!("{name} fell from {:?} to {seen:?}", server.floors);
            return Some(Violation::new("S1 numbers never fall", what));
        }
        if !server.is_down() || server.forgotten.is_some() {
            continue;
        }
        let held = server.journal.as_ref().and_then(|journal| journal.lease.held.as_ref());
        let by_journal = held.map(|held| (held.grant.lease, held.grant.epoch, held.grant.fence));
        let by_log = ledger.held.get(name).copied();
        if by_log.is_none() || by_journal != by_log {
            let what =
                format!("{name} is down; its journal holds {by_journal:?}, the durable log {by_log:?}");
            return Some(Violation::new("S1 down only under a durable lease", what));
        }
    }
    None
}

/// What may never fall again from here.
pub(super) fn remember(world: &mut World) {
    let ledger = &world.host.ledger;
    world.restored_floor = (ledger.epoch, ledger.fence);
    for server in &mut world.servers {
        server.floors = floors(server);
        let held = server.journal.as_ref().and_then(|journal| journal.lease.held.as_ref());
        let by_journal = held.map(|held| held.grant.lease);
        let by_log = ledger.held.get(&server.enrolled.server).map(|held| held.0);
        if by_journal == by_log && !(server.is_down() && by_log.is_none()) {
            server.forgotten.take_if(|arrives_until| *arrives_until <= world.at_ms);
        }
    }
}

fn floors(server: &crate::server::Server) -> (Epoch, Fence) {
    let journal = server.journal.as_ref();
    journal.map_or_else(Default::default, |journal| (journal.lease.epoch_seen, journal.lease.fence_seen))
}
