//! What servers of the swarm say to each other.
//!
//! Owns words on their way and who listens. Main invariant: words of one server to another arrive in the order in which
//! they were said, or the connection breaks. Refuses to say anything of its own: a new listener is told what the
//! core says it is owed.

use std::sync::Arc;
use std::time::Duration;

use lunar_agent_core::swarm::{Input, Word};
use lunar_common::bounds::CHUNKS_PER_NOTE_MAX;
use lunar_common::have_set::HaveSet;

use super::{ORIGIN, put_in, small, take_out};
use crate::documents::NEW;
use crate::event::Event;
use crate::faults::Manner;
use crate::world::World;

impl World {
    /// Sends a word or a request of a few bytes.
    pub(super) fn swarm_message(&mut self, from: usize, to: u32, event: impl FnOnce(u32) -> Event) {
        self.measure.swarm_messages(1);
        let number = small(from);
        match self.route(number, to) {
            Some(route) => {
                let way = self.swarming.links.latency_us(route, number, to);
                self.put_at_us(self.at_us + way, event(number));
            }
            None => self.swarm_breaks(number, to),
        }
    }

    pub(super) fn announce(&mut self, from: usize, word: Word) {
        let part = &self.swarming.parts[from];
        let of_takings = matches!(word, Word::Taking(_) | Word::Left(_));
        let word = Arc::new(word);
        for to in if of_takings { &part.followers } else { &part.listeners }.clone() {
            let word = word.clone();
            self.swarm_message(from, to, |from| Event::Said { to, from, word });
        }
    }

    pub(crate) fn subscribed(&mut self, to: u32, by: u32, takings: bool) {
        if to == ORIGIN {
            return;
        }
        let chunks = self.swarming.chunks();
        let now = self.servers[to as usize].now(self.at_ms);
        let part = &mut self.swarming.parts[to as usize];
        let word = match (part.manner, &part.swarm) {
            (Some(Manner::Lies), _) => Word::HaveSet(HaveSet::full(chunks)),
            _ if part.complete => Word::HaveSet(HaveSet::full(chunks)),
            (Some(Manner::Takes), Some(swarm)) => claims(swarm.have(NEW)),
            (_, Some(swarm)) => swarm.standing(NEW, now),
            (_, None) => Word::Nothing,
        };
        if !part.complete {
            put_in(&mut part.listeners, by);
            if takings {
                put_in(&mut part.followers, by);
            }
        }
        let word = Arc::new(word);
        self.swarm_message(to as usize, by, |from| Event::Said { to: by, from, word });
    }

    /// Whoever says that it fetches everything says so again.
    pub(super) fn claim(&mut self, server: usize) {
        let part = &self.swarming.parts[server];
        if let (Some(Manner::Takes), Some(swarm)) = (part.manner, &part.swarm) {
            let word = claims(swarm.have(NEW));
            self.announce(server, word);
        }
    }

    pub(crate) fn unsubscribed(&mut self, to: u32, by: u32) {
        let part = &mut self.swarming.parts[to as usize];
        take_out(&mut part.listeners, by);
        take_out(&mut part.followers, by);
    }

    pub(crate) fn said(&mut self, to: u32, from: u32, word: Arc<Word>) {
        let peer = self.peer_of(from);
        let word = Arc::unwrap_or_clone(word);
        self.swarm_handle(to as usize, Input::Said { artifact: NEW, peer, word });
    }
}

/// All that it lacks, as if it were fetching it, and had heard it of others.
fn claims(have: Option<&HaveSet>) -> Word {
    let Some(have) = have else { return Word::Nothing };
    let lacking = (0..have.chunks()).filter(|chunk| !have.contains(*chunk)).take(CHUNKS_PER_NOTE_MAX);
    let taking: Vec<u32> = lacking.collect();
    let heard = taking.iter().map(|chunk| (*chunk, Duration::from_secs(3_600))).collect();
    Word::Standing { have: have.clone(), taking, heard }
}
