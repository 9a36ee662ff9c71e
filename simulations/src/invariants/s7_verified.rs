//! S7: what runs was verified after it was written last.
//!
//! Reason: hours pass between unpacking and switching, and a disk turns bits. The new release may be started only
//! if it was verified since the last write to it; the old one ran before anything began.

use lunar_agent_core::swarm::Item;

use super::Violation;
use crate::documents::NEW;
use crate::world::World;

/// A chunk that does not verify was kept, to be passed on.
pub(super) fn taken(world: &World, server: usize, item: Item) -> Violation {
    let what =
        format!("{} keeps {item:?} although its bytes are not what the manifest says", world.name(server));
    Violation::new("S7 verified", what)
}

pub(super) fn check(world: &World, server: usize) -> Option<Violation> {
    let disk = &world.servers[server].disk;
    (disk.service == Some(NEW) && !disk.verified).then(|| {
        let what = format!("{} runs what nobody verified since it was written", world.name(server));
        Violation::new("S7 verified", what)
    })
}
