//! S6: nobody starts outside a strict window of its tier, or so late in one that the time down and a rollback would
//! outlast it.
//!
//! Reason: a window is when people have arranged to do without what may fail. What counts is the moment at which the
//! server has durably started, by the true time: the ledger leaves room for the time between its grant and the start.
//! Where clocks are set wrong it does not hold, and is not looked at: the coordinator's clock is the one that windows go
//! by.

use lunar_common::plan::windows::{Mode, ROLLBACK_S, SWITCH_S};
use lunar_common::time::WallTime;
use lunar_common::window::OpenTimes;

use super::Violation;
use crate::faults::Strike;
use crate::server::wall;
use crate::world::World;

pub(super) fn check(world: &World, server: usize) -> Option<Violation> {
    let steps = |strike: &Strike| matches!(strike, Strike::ClockStep { .. } | Strike::ClockDrift { .. });
    let tier = world.servers[server].seat.tier;
    let windows = world.options.scenario.windows.as_ref()?;
    if windows.tier.of(tier).mode != Mode::Strict
        || is_open(world, server)
        || world.options.faults.strikes.iter().any(|planned| steps(&planned.what))
    {
        return None;
    }
    let (name, now) = (world.name(server), wall(world.at_ms));
    let what = format!("{name} starts at {now}, and no window of its tier is open for long enough");
    Some(Violation::new("S6 window", what))
}

/// Whether the windows of a server's tier let it start now. One that is held to none always may.
pub(super) fn is_open(world: &World, server: usize) -> bool {
    let scenario = &world.options.scenario;
    let Some(windows) = &scenario.windows else { return true };
    let Some(times) = OpenTimes::of_tier(windows, world.servers[server].seat.tier) else { return true };
    let needed_s = scenario.health.settle_s + scenario.health.soak_s + SWITCH_S + ROLLBACK_S;
    let now = wall(world.at_ms);
    let stretch = times.next_for(now, needed_s.into(), WallTime(now.0 + 1));
    stretch.is_some_and(|stretch| stretch.opens <= now)
}
