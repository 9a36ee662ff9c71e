//! S12: a chunk crosses the link to Earth once, but for what was lost; the link never carries more than its rate, and
//! nothing in a blackout.
//!
//! Reason: the link is the one thing that everybody shares and nobody can widen. A chunk may cross it again if it came
//! to nothing the first time, or if whoever has it died or was cut off. Where some are hostile, whoever has it may be known to nobody honest: there only the bytes are bounded.

use std::collections::BTreeMap;

use super::Violation;
use crate::world::World;

/// What was seen of the link.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    bytes: u64,
    /// Who has a chunk from Earth, in which of its lives.
    held: Vec<Option<(usize, u64)>>,
    /// Who has asked for a chunk and was not answered.
    under_way: BTreeMap<u32, usize>,
    /// Something was cut off, so that somebody may not have heard who has what.
    pub(crate) disturbed_us: Option<u64>,
}

/// For so long after a cut somebody may not know what happened in it, in microseconds: connections are made anew, and
/// look-ups and breakers have their times.
const FORGIVEN_US: u64 = 600_000_000;

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
    let lately = world.earth_seen.disturbed_us.is_some_and(|cut| world.at_us < cut + FORGIVEN_US);
    if lately || world.swarming.hostile {
        return None;
    }
    let asks = &world.servers[server].name;
    if let Some(other) = world.earth_seen.under_way.get(&chunk) {
        let other = &world.servers[*other].name;
        let what = format!("{asks} asks Earth for chunk {chunk}, which is on its way to {other}");
        return Some(Violation::new("S12 Earth link", what));
    }
    let (holder, life) = (*world.earth_seen.held.get(chunk as usize)?)?;
    let there = &world.servers[holder];
    (there.node.is_some() && there.life == life).then(|| {
        let what = format!("{asks} asks Earth for chunk {chunk}, which {} has from there", there.name);
        Violation::new("S12 Earth link", what)
    })
}
