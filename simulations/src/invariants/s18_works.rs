//! S18: what is committed works.
//!
//! Reason: the commit is the last point from which everything goes back by itself. A release that does not answer on
//! this server must have been noticed by then, in the soak; one that fails later is another matter.

use super::Violation;
use crate::documents::NEW;
use crate::world::World;

/// A root half has just written that it commits.
pub(super) fn check(world: &World, server: usize) -> Option<Violation> {
    let at = &world.servers[server];
    (at.bad_release && at.disk.service == Some(NEW)).then(|| {
        Violation::new("S18 works", format!("{} commits a release that does not work on it", at.name))
    })
}
