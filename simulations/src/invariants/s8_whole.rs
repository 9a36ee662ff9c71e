//! S8: at every instant the disk of each server resolves to exactly one whole version, the old or the new.
//!
//! Reason: the power may go at any instant, and what starts then is what the link says. Never neither, never a
//! mix, never a release that is only half there.

use super::Violation;
use crate::world::World;

pub(super) fn check(world: &World, server: usize) -> Option<Violation> {
    let disk = &world.servers[server].disk;
    (!disk.is_whole()).then(|| {
        let what = format!("{} would start with nothing whole: {disk:?}", world.name(server));
        Violation::new("S8 whole", what)
    })
}
