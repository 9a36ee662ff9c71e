//! Who hears of whom: a server that begins, is looked up, comes back or dies.
//!
//! Owns the bounded views of the swarm. Main invariant: a server hears of some neighbours and of the first of each
//! site, and of nobody whom it could not reach. Refuses to decide whom it connects to: its core does.

use lunar_agent_core::swarm::{Config, Input, Swarm};
use lunar_common::ids::PeerKey;

use super::{BROKEN_US, Swarming, put_in, small};
use crate::chance::keyed;
use crate::documents::NEW;
use crate::event::Event;
use crate::scenario::Seat;
use crate::world::World;

/// Members of each site that everyone hears of: those that come first in the order of gateways. The real mesh tells
/// everyone of everyone; whoever is behind these is no gateway as long as they live.
const FIRST_OF_SITE: usize = 6;

/// Neighbours in its own site that a server hears of, on each of two sides.
const NEIGHBOURS_A_SIDE: usize = 10;

/// Between two look-ups of who takes part, in milliseconds.
pub(crate) const LOOK_UP_MS: u64 = 20_000;

impl Swarming {
    /// Whom a server hears of: the first of each site, as gossip tells everyone, and neighbours in its own. Whoever
    /// is its neighbour has it as a neighbour.
    pub(super) fn view(&self, server: usize, seat: &Seat) -> Vec<u32> {
        let firsts = self.live.iter().flat_map(|live| live.iter().take(FIRST_OF_SITE));
        let mut view: Vec<u32> =
            firsts.map(|(_, number)| *number).chain(self.neighbours(server, seat)).collect();
        view.sort_unstable();
        view.dedup();
        view.retain(|number| *number as usize != server);
        view
    }

    pub(super) fn neighbours(&self, server: usize, seat: &Seat) -> impl Iterator<Item = u32> + '_ {
        let (members, site) = (&self.members[seat.site], seat.site as u64);
        let (count, place) = (members.len(), self.places[server] as usize);
        (1..=NEIGHBOURS_A_SIDE).flat_map(move |side| {
            // Steps of different lengths, so that news crosses a large site in few of them.
            let drawn = keyed(side as u64, site, 0, 0) % count as u64;
            let step = 1 + usize::try_from(drawn).unwrap_or(0);
            [members[(place + step) % count], members[(place + count - step % count) % count]]
        })
    }
}

impl World {
    /// A node wants the artifact.
    pub(crate) fn swarm_wants(&mut self, server: usize) {
        let swarming = &mut self.swarming;
        if swarming.parts[server].complete {
            return self.swarm_completes(server);
        }
        if swarming.parts[server].swarm.is_some() {
            return;
        }
        let seat = self.servers[server].seat;
        let key = self.documents.servers[server].peer;
        let site = swarming.sites[seat.site].clone();
        let manifest_bytes = swarming.manifest_bytes;
        swarming.parts[server].swarm = Some(Box::new(Swarm::new(Config::default(), key, site)));
        self.swarm_handle(server, Input::Want { artifact: NEW, manifest_bytes });
        let (origin, earth) = (self.swarming.origin, self.swarming.earth_site.clone());
        self.swarm_handle(server, Input::Peer { peer: origin, site: earth, origin: true });
        self.swarming.wanting.insert(small(server));
        self.swarm_shows(server);
        self.swarm_looks_up(server);
        if let Some(have) = self.swarming.parts[server].on_disk.take() {
            self.swarm_opened(server, have);
        }
    }

    /// A server takes part from now on, and gossip says so: to its neighbours, and to everyone if it is among the
    /// first of its site. Of a site that grows to n servers some n / 6 are, each for as long as few are before it.
    pub(crate) fn swarm_shows(&mut self, server: usize) {
        let (number, seat) = (small(server), self.servers[server].seat);
        let place = (self.swarming.orders[server], number);
        self.swarming.live[seat.site].insert(place);
        let is_first = self.swarming.live[seat.site].iter().take(FIRST_OF_SITE).any(|first| *first == place);
        let hear: Vec<u32> = if is_first {
            self.swarming.wanting.iter().copied().collect()
        } else {
            let mut near: Vec<u32> = self.swarming.neighbours(server, &seat).collect();
            near.sort_unstable();
            near.dedup();
            near
        };
        for other in hear.into_iter().filter(|other| *other != number) {
            self.introduce(other as usize, server);
        }
    }

    /// A server looks up who takes part, as it does now and then for as long as it lacks something.
    pub(super) fn swarm_looks_up(&mut self, server: usize) {
        let seat = self.servers[server].seat;
        for other in self.swarming.view(server, &seat) {
            self.introduce(server, other as usize);
        }
        let life = self.life_of(server);
        self.put_in(LOOK_UP_MS, Event::LookUp { server: small(server), life });
    }

    pub(crate) fn look_up(&mut self, server: usize, life: u32) {
        if self.life_of(server) == life && self.swarming.parts[server].swarm.is_some() {
            self.swarm_looks_up(server);
            self.claim(server);
        }
    }

    pub(super) fn introduce(&mut self, to: usize, whom: usize) {
        let (hears, other) = (&self.swarming.parts[to], small(whom));
        let known = hears.swarm.is_none() || hears.knows.binary_search(&other).is_ok();
        let there = self.swarming.takes_part(other, self.servers[whom].seat.site);
        if known || !there {
            return;
        }
        if self.route(small(to), other).is_none() {
            return self.disturb([small(to), other]);
        }
        put_in(&mut self.swarming.parts[to].knows, other);
        let peer = self.meet(to, whom);
        self.swarm_handle(to, Input::Member { artifact: NEW, peer });
    }

    pub(super) fn meet(&mut self, to: usize, whom: usize) -> PeerKey {
        let peer = self.documents.servers[whom].peer;
        let site = self.swarming.sites[self.servers[whom].seat.site].clone();
        self.swarm_handle(to, Input::Peer { peer, site, origin: false });
        peer
    }

    /// A network half is up again: what lies complete on its disk can be had from it.
    pub(crate) fn swarm_returns(&mut self, server: usize) {
        if self.swarming.parts[server].complete {
            self.swarm_shows(server);
        }
    }

    /// A network half died: its connections break, and what lies on its disk stays.
    pub(crate) fn swarm_dies(&mut self, server: usize) {
        self.disturb([small(server)]);
        let part = &mut self.swarming.parts[server];
        if let Some(swarm) = part.swarm.take() {
            part.on_disk = swarm.have(NEW).cloned();
        }
        part.alarm = None;
        part.knows.clear();
        for item in std::mem::take(&mut part.of_earth).into_values() {
            self.earth_over(server, item);
        }
        let (number, site) = (small(server), self.servers[server].seat.site);
        self.swarming.wanting.remove(&number);
        self.swarming.live[site].remove(&(self.swarming.orders[server], number));
        for other in self.swarming.parts[server].links.clone() {
            self.unlink(small(server), other);
            self.put_at_us(self.at_us + BROKEN_US, Event::Unlinked { at: other, whom: small(server) });
        }
    }
}
