//! S2: never more servers down than people allowed, in the fleet, in each tier and in each site.
//!
//! Reason: the limits are the promise that enough stays up. They are counted here over servers that are down in
//! truth, whatever anybody believes.

use std::collections::BTreeMap;

use super::Violation;
use crate::documents::{FLEET_MAX, SITE_MAX, TIER_MAX};
use crate::server::Server;
use crate::world::World;

pub(super) fn check(world: &World) -> Option<Violation> {
    let down: Vec<&Server> = world.servers.iter().filter(|server| server.is_down()).collect();
    let mut counts: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    let mut count = |scope: String, limit: u32| counts.entry(scope).or_insert((0, limit)).0 += 1;
    for server in &down {
        let tier = server.enrolled.tier;
        count("the fleet".to_owned(), FLEET_MAX);
        count(format!("tier {tier}"), TIER_MAX[usize::from(tier.number() - 1)]);
        count(format!("site {}", server.enrolled.site), SITE_MAX);
    }
    let (scope, (found, limit)) = counts.into_iter().find(|(_, (found, limit))| found > limit)?;
    let names: Vec<&str> = down.iter().map(|server| server.enrolled.server.as_str()).collect();
    let what = format!("{found} servers of {scope} are down, {limit} may be: {names:?}");
    Some(Violation::new("S2 limits", what))
}
