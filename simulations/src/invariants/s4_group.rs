//! S4: of the servers that stand in for each other, at most one is down.
//!
//! Reason: a group is the redundancy of one service; two of a pair down is the service down.

use std::collections::BTreeMap;

use super::Violation;
use crate::documents::GROUP_MAX;
use crate::world::World;

pub(super) fn check(world: &World) -> Option<Violation> {
    let mut counts: BTreeMap<_, u32> = BTreeMap::new();
    for server in world.servers.iter().filter(|server| server.is_down()) {
        if let Some(group) = &server.enrolled.group {
            *counts.entry(group).or_default() += 1;
        }
    }
    let (group, found) = counts.into_iter().find(|(_, found)| *found > GROUP_MAX)?;
    Some(Violation::new("S4 group", format!("{found} servers of {group} are down")))
}
