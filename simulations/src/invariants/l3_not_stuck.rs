//! L3: every process that lives waits for a moment or for an answer.
//!
//! Reason: a process that waits for neither is asleep for good, whatever the others do.

use super::Violation;
use crate::world::World;

pub(super) fn check(world: &World) -> Option<Violation> {
    if world.host.core.as_ref().is_some_and(|core| core.poll_timeout().is_none()) {
        return Some(Violation::new("L3 not stuck", "the coordinator waits for nothing".to_owned()));
    }
    let asleep = world.servers.iter().find(|server| {
        let waits = server.node.as_ref().and_then(|node| node.poll_timeout()).is_some();
        server.node.is_some() && !waits && server.pending.is_empty()
    })?;
    let what = format!("the agent of {} waits for nothing", asleep.enrolled.server);
    Some(Violation::new("L3 not stuck", what))
}
