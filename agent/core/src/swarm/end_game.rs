//! The last chunks: when free slots may ask for something a second time.
//!
//! Owns the end-game. Main invariant: it begins only when everything missing is under way and few requests are
//! left; it asks a second peer at most, and never over the Earth link.

use lunar_common::ids::ArtifactId;
use lunar_common::time::Moment;

use super::Swarm;
use super::input::Item;
use super::peers::Class;
use super::requests::all_under_way;
use super::timers::Timer;

impl Swarm {
    /// Asks for slow last chunks elsewhere, or arms the timer for when they count as slow.
    pub(super) fn end_game(&mut self, artifact: ArtifactId, now: Moment) {
        let timer = Timer::EndGame(artifact);
        if !self.is_end_game(artifact) {
            self.timers.disarm(timer);
            return;
        }
        let mut wake: Option<Moment> = None;
        for request in self.in_flight.of_artifact(artifact) {
            let Some(flight) = self.in_flight.get(request).copied() else { continue };
            let Item::Chunk(chunk) = flight.item else { continue };
            if self.in_flight.of_item(artifact, flight.item).len() > 1 {
                continue;
            }
            let slow_at = flight.sent.after(self.config.end_game_after);
            if slow_at > now {
                wake = Some(wake.map_or(slow_at, |other| other.min(slow_at)));
                continue;
            }
            if self.in_flight.to_peers() >= self.config.in_flight_max {
                break;
            }
            let Some(state) = self.artifacts.get(&artifact) else { return };
            let elsewhere = [Class::Site, Class::Sites].into_iter().find_map(|class| {
                let sources = self.sources_with_room(state, class, self.config.in_flight_max);
                Some((class, self.source(chunk, &sources, Some(flight.peer))?))
            });
            if let Some((class, peer)) = elsewhere {
                self.request(artifact, flight.item, class, peer, now);
            }
        }
        match wake {
            Some(at) => self.timers.arm(timer, at),
            None => self.timers.disarm(timer),
        }
    }

    fn is_end_game(&self, artifact: ArtifactId) -> bool {
        let Some(state) = self.artifacts.get(&artifact) else { return false };
        let Some(picker) = state.picker.as_ref() else { return false };
        let missing = picker.len() - picker.had();
        !state.complete && missing <= self.config.in_flight_max && all_under_way(picker)
    }
}
