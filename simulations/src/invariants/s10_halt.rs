//! S10: once a halt has reached a server, nothing starts there until a resume has.
//!
//! Reason: a halt is the last word of people who see something that no program sees. It counts from when the
//! agent said that it holds it, and survives the agent's death.

use super::Violation;
use crate::world::World;

pub(super) fn check(world: &World, server: usize) -> Option<Violation> {
    let (name, server) = (world.name(server), &world.servers[server]);
    (server.halted > server.resumed).then(|| {
        let halt = server.halted;
        Violation::new("S10 halt", format!("{name} starts under halt {halt}, which it had acknowledged"))
    })
}
