//! S16: nothing piles up at an agent, and nobody is busy for nothing.
//!
//! Reason: what grows without a bound ends a process one day, and a storm of timers takes the machine away from what
//! it is there for. The bounds are far above what any run needs and far below what hurts.

use super::Violation;
use crate::world::World;

/// Requests that wait for an answer, and neighbours that wait for one.
const WAITING_MAX: usize = 64;
/// Transitions that no coordinator has taken yet: some twenty an attempt.
const TRANSITIONS_MAX: usize = 1_000;
/// Leases being given back.
const RELEASES_MAX: usize = 16;
/// Events of one server beside those of every hour.
const EVENTS_MAX: u64 = 20_000;
/// Events of one server in an hour: reports, pulses, claims and what answers them, many times over.
const EVENTS_PER_HOUR_MAX: u64 = 8_000;

pub(super) fn check(world: &World, server: usize) -> Option<Violation> {
    let at = &world.servers[server];
    let journal = at.journal.as_ref();
    let transitions = journal.map_or(0, |journal| journal.transitions.len());
    let releases = journal.map_or(0, |journal| journal.lease.releases.len());
    let over = at.pending.len() > WAITING_MAX
        || at.askers.len() > WAITING_MAX
        || transitions > TRANSITIONS_MAX
        || releases > RELEASES_MAX;
    over.then(|| {
        let (pending, askers) = (at.pending.len(), at.askers.len());
        let what = format!(
            "{}: {pending} requests and {askers} neighbours wait, {transitions} transitions and {releases} \
             releases are kept",
            at.name
        );
        Violation::new("S16 bounds", what)
    })
}

/// All has settled: how busy everyone was. Chunks are counted by their own rules.
pub(crate) fn check_end(world: &World, events: u64) -> Option<Violation> {
    let (servers, hours) = (world.servers.len() as u64, world.at_ms / 3_600_000 + 1);
    let most =
        servers * (EVENTS_MAX + EVENTS_PER_HOUR_MAX * hours + world.options.scenario.artifact.chunks() * 16);
    (events > most).then(|| {
        let what = format!("{events} events for {servers} servers in {hours} hours; {most} are enough");
        Violation::new("S16 bounds", what)
    })
}
