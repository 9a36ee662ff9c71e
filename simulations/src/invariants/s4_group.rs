//! S4: of the servers that stand in for each other, no more are down than people allowed.
//!
//! Reason: a group is the redundancy of one service; two of a pair down is the service down.

use super::Violation;
use crate::world::World;

pub(super) fn check(world: &World, server: usize) -> Option<Violation> {
    let (group, found) = world.truth.overfull_group(&world.servers[server].seat)?;
    // Whoever was enrolled into a wrong group was not protected, and did not protect: the atlas says so.
    if world.groups[group].iter().any(|member| world.servers[*member].group_is_wrong) {
        return None;
    }
    Some(Violation::new("S4 group", format!("{found} servers of group-{group} are down")))
}
