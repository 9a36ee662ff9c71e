//! L3: every process that lives waits for a moment or for an answer.
//!
//! Reason: a process that waits for neither is asleep for good, whatever the others do.

use super::Violation;
use crate::world::World;

pub(super) fn check(world: &World, server: usize) -> Option<Violation> {
    let at = &world.servers[server];
    let waits = at.node.as_ref().and_then(|node| node.poll_timeout()).is_some();
    (at.node.is_some() && !waits && at.pending.is_empty()).then(|| {
        let what = format!("the agent of {} waits for nothing", world.name(server));
        Violation::new("L3 not stuck", what)
    })
}

pub(super) fn check_coordinator(world: &World) -> Option<Violation> {
    let asleep = world.host.core.as_ref().is_some_and(|core| core.poll_timeout().is_none());
    asleep.then(|| Violation::new("L3 not stuck", "the coordinator waits for nothing".to_owned()))
}
