//! S5: nobody starts while another member of its group has been out for longer than the news of it takes.
//!
//! Reason: a group of N + 2 that is one short by itself must not be made two short by us. The group check asks the
//! other members directly right before the claim, and a grant is good for a bounded time: a member that failed
//! within that time may be missed, one that failed before it may not. What is counted is the truth: its power and
//! its service, whatever anybody said.

use super::Violation;
use crate::world::World;

/// How old an answer of a member may be, and how long asking may take, in milliseconds.
const NEWS_MS: u64 = 20_000;

pub(super) fn check(world: &World, server: usize) -> Option<Violation> {
    let group = world.servers[server].seat.group?;
    let members = &world.groups[group];
    if members.iter().any(|member| world.servers[*member].group_is_wrong) {
        return None;
    }
    let bound_ms = u64::from(world.options.scenario.lease.start_within_s) * 1_000 + NEWS_MS;
    let out = members.iter().filter(|member| **member != server).find_map(|member| {
        let at = &world.servers[*member];
        let broken = (at.broken_from..at.broken_until).contains(&world.at_ms).then_some(at.broken_from);
        let since = at.off_since.into_iter().chain(broken).min()?;
        (!at.revoked && since + bound_ms < world.at_ms).then_some((*member, since))
    });
    out.map(|(member, since)| {
        let (name, other) = (world.name(server), world.name(member));
        Violation::new("S5 redundancy", format!("{name} starts while {other} has been out since {since} ms"))
    })
}
