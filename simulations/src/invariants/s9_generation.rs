//! S9: the generation of the plan that an agent holds never falls, whatever dies.
//!
//! Reason: an old plan may have wider limits or a worse release, and people replaced it for that.

use super::Violation;
use crate::world::World;

/// An agent has started, or has kept what people signed.
pub(super) fn check(world: &mut World, server: usize) -> Option<Violation> {
    let at = &world.servers[server];
    let plan = at.node.as_ref()?.trust().plans().next();
    let (held, seen) = (plan.map_or(0, |plan| plan.generation.0), at.generation_seen);
    if held < seen {
        let what = format!("{} holds generation {held} of the plan, and held {seen} before", at.name);
        return Some(Violation::new("S9 generation", what));
    }
    world.servers[server].generation_seen = held;
    None
}
