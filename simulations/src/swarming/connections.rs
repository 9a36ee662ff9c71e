//! Connections of the data plane: made, broken, and noticed to be broken.
//!
//! Owns who is connected with whom. Main invariant: both ends are told of a connection's beginning and of its end, each
//! in its own time. Refuses to connect what the network keeps apart.

use lunar_agent_core::swarm::Input;
use lunar_common::ids::PeerKey;

use super::{BROKEN_US, ORIGIN, put_in, small, take_out};
use crate::event::Event;
use crate::links::Route;
use crate::world::World;

/// How long one waits for a connection to a machine that does not answer, in microseconds.
pub(crate) const CONNECT_US: u64 = 2_000_000;

impl World {
    /// Whether one machine can hear another on the data plane now.
    pub(super) fn route(&self, a: u32, b: u32) -> Option<Route> {
        let route = self.swarming.links.route(a, b);
        let cut = |number: u32| {
            let server = number as usize;
            number != ORIGIN
                && (self.is_cut_off(server)
                    || route != Route::Within && self.is_site_cut(self.servers[server].seat.site))
        };
        (!cut(a) && !cut(b)).then_some(route)
    }

    /// These cannot hear each other, or somebody, now: for a while they may not know who fetches and has what.
    pub(super) fn disturb(&mut self, servers: impl IntoIterator<Item = u32>) {
        for server in servers.into_iter().filter(|server| *server != ORIGIN) {
            self.earth_seen.disturbed(server as usize, self.at_us);
        }
    }

    /// What was said got no answer: the connection is given up, and made anew when it can be.
    pub(super) fn swarm_breaks(&mut self, a: u32, b: u32) {
        self.disturb([a, b]);
        if self.swarming.parts[a as usize].links.binary_search(&b).is_ok() {
            self.unlink(a, b);
            for (at, whom) in [(a, b), (b, a)] {
                self.put_at_us(self.at_us + BROKEN_US, Event::Unlinked { at, whom });
            }
        }
    }

    pub(super) fn swarm_connects(&mut self, server: usize, peer: PeerKey) {
        let (from, to) = (small(server), self.swarming.numbers[&peer]);
        let lives = to == ORIGIN || self.servers[to as usize].node.is_some();
        match self.route(from, to).filter(|_| lives) {
            Some(route) => {
                let way = 2 * self.swarming.links.latency_us(route, from, to);
                self.put_at_us(self.at_us + way, Event::Linked { a: from, b: to });
            }
            None => {
                if lives {
                    self.disturb([from, to]);
                }
                self.put_at_us(self.at_us + CONNECT_US, Event::NotLinked { from, to });
            }
        }
    }

    pub(crate) fn linked(&mut self, a: u32, b: u32) {
        let (from, to) = (a as usize, b as usize);
        if self.swarming.parts[from].swarm.is_none() {
            return;
        }
        if b == ORIGIN {
            let peer = self.swarming.origin;
            return self.swarm_handle(from, Input::Connected { peer });
        }
        for (one, other) in [(from, b), (to, a)] {
            put_in(&mut self.swarming.parts[one].links, other);
        }
        let there = self.documents.servers[to].peer;
        self.swarm_handle(from, Input::Connected { peer: there });
        if self.swarming.parts[to].swarm.is_some() {
            let here = self.meet(to, from);
            self.swarm_handle(to, Input::Connected { peer: here });
        }
    }

    pub(crate) fn not_linked(&mut self, from: u32, to: u32) {
        let peer = self.peer_of(to);
        self.swarm_handle(from as usize, Input::ConnectFailed { peer, full: false });
    }

    pub(super) fn peer_of(&self, number: u32) -> PeerKey {
        if number == ORIGIN { self.swarming.origin } else { self.documents.servers[number as usize].peer }
    }

    pub(super) fn swarm_cuts_off(&mut self, server: usize, peer: PeerKey) {
        let (a, b) = (small(server), self.swarming.numbers[&peer]);
        self.unlink(a, b);
        if b != ORIGIN {
            self.put_at_us(self.at_us + BROKEN_US, Event::Unlinked { at: b, whom: a });
        }
    }

    pub(super) fn unlink(&mut self, a: u32, b: u32) {
        for (one, other) in [(a, b), (b, a)] {
            if one != ORIGIN {
                let part = &mut self.swarming.parts[one as usize];
                for of in [&mut part.links, &mut part.listeners, &mut part.followers, &mut part.hears] {
                    take_out(of, other);
                }
            }
        }
    }

    pub(crate) fn unlinked(&mut self, at: u32, whom: u32) {
        let peer = self.peer_of(whom);
        self.swarm_handle(at as usize, Input::Disconnected { peer });
    }
}
