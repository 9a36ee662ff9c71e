//! Which messages come to nothing on their way.
//!
//! Owns one-way partitions, isolated sites, sites without a relay, and loss. Main invariant: what is judged is the direction of one
//! message, so that a server may hear everyone and be heard by nobody.

use crate::chance::Purpose;
use crate::event::Event;
use crate::world::World;

impl World {
    /// Whether a message between a server and another machine comes to nothing.
    pub(crate) fn is_swallowed(&mut self, server: usize, event: &Event) -> bool {
        // The other machine: a server, or the coordinator and the people behind it, in the first site.
        let (outbound, other) = match event {
            Event::Arrives(_) => (true, None),
            Event::GroupAsked { server: to, .. } if *to != server => (true, Some(*to)),
            Event::Reply { server: to, .. } if *to as usize != server => (true, Some(*to as usize)),
            _ => (false, None),
        };
        if outbound && self.is_mute(server) || !outbound && self.is_deaf(server) {
            return true;
        }
        let here = self.servers[server].seat.site;
        let there = other.map_or(0, |other| self.servers[other].seat.site);
        if here != there && (self.is_site_cut(here) || self.is_site_cut(there)) {
            return true;
        }
        let lost = self.edges.loss.rate(self.at_ms);
        self.chance.happens(lost, server, Purpose::Loss)
    }

    /// Nothing reaches this server.
    pub(crate) fn is_deaf(&self, server: usize) -> bool {
        self.servers[server].deaf_until > self.at_ms
    }

    /// Nothing that this server says reaches anyone.
    pub(crate) fn is_mute(&self, server: usize) -> bool {
        self.servers[server].mute_until > self.at_ms
    }

    /// Nothing goes both ways between this server and anyone: connections need that.
    pub(crate) fn is_cut_off(&self, server: usize) -> bool {
        self.is_deaf(server) || self.is_mute(server)
    }

    /// A site hears no other site and not Earth: it is isolated, or none of its relays works.
    pub(crate) fn is_site_cut(&self, site: usize) -> bool {
        self.edges.isolated.get(&site).is_some_and(|until| *until > self.at_ms)
            || self.swarming.links.has_no_relay(site, self.at_us)
    }
}
