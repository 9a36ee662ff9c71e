//! S12: a chunk crosses the link to Earth once, but for what was lost; the link never carries more than its rate, and
//! nothing in a blackout.
//!
//! Reason: the link is the one thing that everybody shares and nobody can widen. A chunk may cross it again if it came
//! to nothing the first time, or if whoever has it died or was cut off. Where some are hostile, whoever has it may be
//! known to nobody honest: there only the rate is bounded.

use std::collections::BTreeMap;
use std::time::Duration;

use lunar_agent_core::swarm::Config;

use super::Violation;
use crate::swarming::{BROKEN_US, CONNECT_US, LOOK_UP_MS};
use crate::world::World;

/// What was seen of the link.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    bytes: u64,
    /// Who has a chunk from Earth, in which of its lives.
    held: Vec<Option<(usize, u64)>>,
    /// Who has asked for a chunk and was not answered.
    under_way: BTreeMap<u32, usize>,
    /// When a server was last cut off from somebody, so that the two may not have heard who has what.
    disturbed_us: BTreeMap<usize, u64>,
}

/// For so long after a cut the two that it parted may not know what happened in it, in microseconds. It is noticed;
/// then comes the longest wait before a connection is tried again, which the swarm's numbers say, and a tenth of it;
/// the attempt itself; and a look-up, for whoever was not heard of in the cut. Telling each other takes milliseconds.
fn forgiven_us() -> u64 {
    BROKEN_US + micros(Config::default().breaker.cap * 11 / 10) + CONNECT_US + LOOK_UP_MS * 1_000
}

/// A server that has received nothing for this long, as in a blackout, helps itself, whoever's duty it is, and is heard
/// only by those who listen to it anyway.
fn stall_us() -> u64 {
    micros(Config::default().stall)
}

/// What was asked for then may be under way for so long: a request's patience, and its bytes at the slowest rate.
fn patience_us(bytes: u32) -> u64 {
    let config = Config::default();
    micros(config.patience_earth) + u64::from(bytes) * 1_000_000 / config.rate_floor_bytes_s.max(1)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Seen {
    /// A server asks for a chunk.
    pub(crate) fn asked(&mut self, chunk: u32, server: usize) {
        self.under_way.insert(chunk, server);
    }

    /// It was answered, or waits no more.
    pub(crate) fn over(&mut self, chunk: u32, server: usize) {
        if self.under_way.get(&chunk) == Some(&server) {
            self.under_way.remove(&chunk);
        }
    }

    /// A server is cut off from somebody, or dies.
    pub(crate) fn disturbed(&mut self, server: usize, at_us: u64) {
        self.disturbed_us.insert(server, at_us);
    }

    fn was_disturbed_lately(&self, server: usize, at_us: u64) -> bool {
        self.disturbed_us.get(&server).is_some_and(|cut| at_us < cut + forgiven_us())
    }

    /// A chunk from Earth is whole at a server.
    pub(crate) fn arrived(&mut self, chunk: u32, server: usize, life: u64) {
        let chunk = chunk as usize;
        if self.held.len() <= chunk {
            self.held.resize(chunk + 1, None);
        }
        self.held[chunk] = Some((server, life));
    }
}

/// The link has just sent something.
pub(crate) fn check_sent(world: &mut World, bytes: u64) -> Option<Violation> {
    world.earth_seen.bytes += bytes;
    let (seen, most) = (world.earth_seen.bytes, world.swarming.earth.bytes_by(world.at_us));
    (seen > most || world.swarming.earth.is_dark(world.at_us.saturating_sub(1))).then(|| {
        let what = format!("{seen} bytes crossed the link to Earth, which can have carried {most}");
        Violation::new("S12 Earth link", what)
    })
}

/// A server asks for a chunk over the link.
pub(crate) fn check_asked(world: &World, server: usize, chunk: u32) -> Option<Violation> {
    let lately = |server| world.earth_seen.was_disturbed_lately(server, world.at_us);
    let patience = patience_us(world.options.scenario.artifact.chunk_bytes);
    let stalled = world.swarming.earth.was_long_dark(world.at_us, stall_us(), patience);
    if lately(server) || world.swarming.hostile || stalled {
        return None;
    }
    let asks = &world.servers[server].name;
    if let Some(other) = world.earth_seen.under_way.get(&chunk).filter(|other| !lately(**other)) {
        let other = &world.servers[*other].name;
        let what = format!("{asks} asks Earth for chunk {chunk}, which is on its way to {other}");
        return Some(Violation::new("S12 Earth link", what));
    }
    let (holder, life) = (*world.earth_seen.held.get(chunk as usize)?)?;
    let there = &world.servers[holder];
    (there.node.is_some() && there.life == life && !lately(holder)).then(|| {
        let what = format!("{asks} asks Earth for chunk {chunk}, which {} has from there", there.name);
        Violation::new("S12 Earth link", what)
    })
}
