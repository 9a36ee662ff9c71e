//! S2: never more servers down than people allowed, in the fleet, in each tier, site and cluster.
//!
//! Reason: the limits are the promise that enough stays up. They are counted over servers that are down in truth,
//! whatever anybody believes.

use super::Violation;
use crate::world::World;

pub(super) fn check(world: &World, server: usize) -> Option<Violation> {
    let (scope, found, limit) = world.truth.overfull(&world.servers[server].seat)?;
    let names: Vec<&str> = world.down().take(20).collect();
    let what = format!("{found} servers of {scope} are down, {limit} may be: {names:?}");
    Some(Violation::new("S2 limits", what))
}
