//! Requests for chunks, and what becomes of them: over the links on the Moon, or over the one to Earth.
//!
//! Owns [`Transfer`]. Main invariant: when and how a request ends is known as soon as it is made, from what the links
//! have to carry by then; over the link to Earth it is the origin's queue that says so. Refuses to give what a server
//! does not have, or in another manner than its own.

use std::time::Duration;

use lunar_agent_core::swarm::{Input, Item, Outcome, RequestId, Word};
use lunar_common::have_set::HaveSet;

use super::{BROKEN_US, ORIGIN, numbered, small};
use crate::documents::NEW;
use crate::event::Event;
use crate::faults::Manner;
use crate::links::Route;
use crate::measure::Way;
use crate::options::Mutant;
use crate::world::World;

/// A server that has this much to send still says that it is busy, in microseconds.
const BUSY_US: u64 = 250_000;

/// How much later than others a slow server gives what it was asked for, in microseconds: after everybody's patience.
const SLOW_US: u64 = 30_000_000;

/// A request's own length, in bytes.
const REQUEST_BYTES: u64 = 100;

/// How long a busy server asks to be left alone.
const BUSY_FOR: Duration = Duration::from_millis(200);

/// Opening a pack once its manifest is here, in microseconds.
const OPEN_US: u64 = 5_000;

/// A transfer, as its end waits in the queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transfer {
    pub(crate) to: u32,
    from: u32,
    /// The life that asked: another one knows nothing of it.
    pub(crate) life: u32,
    pub(crate) request: u32,
    item: Item,
    ended: Ended,
}

impl Transfer {
    #[cfg(test)]
    pub(crate) fn of_test(request: u32) -> Self {
        Self { to: 0, from: ORIGIN, life: 0, request, item: Item::Manifest, ended: Ended::Good }
    }
}

/// How it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Good,
    Corrupt,
    NotHave,
    Busy,
    Broken,
}

impl World {
    /// A request: when and how it ends is known as soon as it is made, from what the links have to carry by then.
    pub(super) fn swarm_fetches(&mut self, server: usize, request: RequestId, item: Item, from: u32) {
        self.measure.swarm_messages(2);
        let to = small(server);
        let bytes = self.swarming.bytes_of(item);
        let life = self.life_of(server);
        let request = numbered(request);
        let transfer = |ended| Transfer { to, from, life, request, item, ended };
        let ended = |how| Event::Delivered(transfer(how));
        let lives = from == ORIGIN || self.servers[from as usize].node.is_some();
        let Some(route) = self.route(to, from).filter(|_| lives) else {
            if from == ORIGIN {
                self.swarming.parts[server].of_earth.insert(request, item);
            }
            return self.put_at_us(self.at_us + BROKEN_US, ended(Ended::Broken));
        };
        if from == ORIGIN && self.swarming.parts[server].manner == Some(Manner::Takes) {
            return;
        }
        if from == ORIGIN {
            return self.swarm_asks_earth(transfer(Ended::Good));
        }
        let there_and_back = 2 * self.swarming.links.latency_us(route, to, from);
        let manner = self.swarming.parts[from as usize].manner;
        if manner == Some(Manner::Silent) {
            return;
        }
        if !self.swarming.has(from as usize, item) {
            return self.put_at_us(self.at_us + there_and_back, ended(Ended::NotHave));
        }
        if self.swarming.links.waits_us(from as usize, self.at_us) > BUSY_US {
            return self.put_at_us(self.at_us + there_and_back, ended(Ended::Busy));
        }
        let mut arrives = self.swarming.links.carry(route, self.at_us, to, from, bytes);
        if manner == Some(Manner::Slow) {
            arrives += SLOW_US;
        }
        self.measure.carried(
            self.at_ms,
            if route == Route::Within { Way::Within } else { Way::Between },
            bytes,
        );
        let corrupt = manner == Some(Manner::Corrupt) && matches!(item, Item::Chunk(_));
        self.put_at_us(arrives, ended(if corrupt { Ended::Corrupt } else { Ended::Good }));
    }

    pub(super) fn swarm_asks_earth(&mut self, transfer: Transfer) {
        self.measure.earth_control(REQUEST_BYTES);
        self.swarming.parts[transfer.to as usize].of_earth.insert(transfer.request, transfer.item);
        let arrives = self.swarming.earth.arrives_us(self.at_us);
        self.check_earth_asked(transfer.to as usize, transfer.item);
        self.put_at_us(arrives, Event::EarthAsked(transfer));
        if self.options.mutant == Some(Mutant::SeederCountedTwice) {
            self.check_earth_asked(transfer.to as usize, transfer.item);
            self.put_at_us(arrives, Event::EarthAsked(transfer));
        }
    }

    pub(super) fn earth_over(&mut self, server: usize, item: Item) {
        if let Item::Chunk(chunk) = item {
            self.earth_seen.over(chunk, server);
        }
    }

    /// A request is at the origin.
    pub(crate) fn earth_asked(&mut self, transfer: Transfer) {
        let asks = &self.swarming.parts[transfer.to as usize].of_earth;
        if self.life_of(transfer.to as usize) != transfer.life || !asks.contains_key(&transfer.request) {
            return;
        }
        let bytes = self.swarming.bytes_of(transfer.item);
        if let Some(sent) = self.swarming.earth.asked(self.at_us, transfer, bytes) {
            self.put_at_us(sent, Event::EarthSent);
        }
    }

    pub(crate) fn earth_given_up(&mut self, to: u32, life: u32, request: u32) {
        self.swarming.earth.given_up(to, life, request);
    }

    /// The link to Earth has sent something.
    pub(crate) fn earth_sent(&mut self) {
        let Some((transfer, bytes, next)) = self.swarming.earth.sent(self.at_us) else { return };
        self.measure.carried(self.at_ms, Way::Earth, bytes);
        self.check_earth_sent(bytes);
        let latency = self.swarming.links.latency_us(Route::Earth, transfer.to, ORIGIN);
        self.put_at_us(self.at_us + latency, Event::Delivered(transfer));
        if let Some(sent) = next {
            self.put_at_us(sent, Event::EarthSent);
        }
    }

    /// A transfer is over.
    pub(crate) fn delivered(&mut self, transfer: Transfer) {
        let Transfer { to, from, life, request, item, ended } = transfer;
        let server = to as usize;
        if self.life_of(server) != life || self.swarming.parts[server].swarm.is_none() {
            return;
        }
        let gone = from != ORIGIN && self.servers[from as usize].node.is_none();
        if from == ORIGIN {
            let Some(item) = self.swarming.parts[server].of_earth.remove(&request) else { return };
            self.earth_over(server, item);
        }
        let ended = match ended {
            // The mistake of a mutant: a frame is taken without a look.
            Ended::Corrupt if self.options.mutant == Some(Mutant::UnverifiedChunkPassedOn) => {
                self.check_unverified(server, item);
                Ended::Good
            }
            ended => ended,
        };
        let outcome = match ended {
            _ if gone || self.route(to, from).is_none() => Outcome::Broken,
            Ended::Good => Outcome::Good { bytes: self.swarming.bytes_of(item) },
            Ended::Corrupt => Outcome::Corrupt,
            Ended::NotHave => Outcome::NotHave,
            Ended::Busy => Outcome::Busy { retry_after: BUSY_FOR },
            Ended::Broken => Outcome::Broken,
        };
        let good = matches!(outcome, Outcome::Good { .. });
        let before = self.chunks_had(server);
        self.swarm_handle(server, Input::Answered { request: RequestId(request.into()), outcome });
        match item {
            Item::Chunk(chunk) if good && from == ORIGIN => {
                let life = self.servers[server].life;
                self.earth_seen.arrived(chunk, server, life);
                self.measure.useful_chunks(u64::from(self.chunks_had(server) > before));
            }
            Item::Chunk(_) if good && self.chunks_had(server) > before => self.measure.useful_chunks(1),
            Item::Chunk(_) => {}
            Item::Manifest if good => {
                self.put_at_us(self.at_us + OPEN_US, Event::PackOpened { server: to, life });
            }
            Item::Manifest => {}
        }
    }

    pub(super) fn chunks_had(&self, server: usize) -> u32 {
        let part = &self.swarming.parts[server];
        let progress = part.swarm.as_ref().and_then(|swarm| swarm.progress(NEW));
        if part.complete { self.swarming.chunks() } else { progress.map_or(0, |progress| progress.chunks.0) }
    }

    /// A pack was made from a manifest that has just come.
    pub(crate) fn pack_opened(&mut self, server: usize, life: u32) {
        let part = &self.swarming.parts[server];
        let waits = part.swarm.as_ref().is_some_and(|swarm| swarm.have(NEW).is_none());
        if waits && self.life_of(server) == life {
            self.swarm_opened(server, HaveSet::empty(self.swarming.chunks()));
        }
    }

    pub(super) fn swarm_opened(&mut self, server: usize, have: HaveSet) {
        self.announce(server, Word::HaveSet(have.clone()));
        let frame_bytes = self.swarming.frames.clone();
        self.swarm_handle(server, Input::Opened { artifact: NEW, frame_bytes, have });
    }
}
