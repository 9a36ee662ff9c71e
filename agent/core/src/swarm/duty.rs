//! Who fetches what for whom: the rule that keeps thin links nearly idle.
//!
//! Owns [`Duty`]: one artifact's live members by site, and the rendezvous hashes that name, without a word
//! between them, each site's gateways, each chunk's fetcher over the Earth link, and each chunk's importer
//! into a site. Main invariant: members with the same view name the same machine; when one leaves, only its
//! chunks change hands. Refuses to judge who is live: it is told.

use std::collections::{BTreeMap, BTreeSet};

use lunar_common::ids::{ArtifactId, PeerKey, SiteId};
use lunar_common::order::draw;

/// Most sites that one artifact's duties are spread over; the setting has 3 to 5.
const SITES_MAX: usize = 64;

/// Most members of one site that are kept; beyond, a site's gateways are found among the first known.
const MEMBERS_PER_SITE_MAX: usize = 16_384;

/// One artifact's live members and their duties.
#[derive(Debug, Clone)]
pub(super) struct Duty {
    artifact: ArtifactId,
    me: PeerKey,
    my_site: SiteId,
    gateways_per_site: usize,
    live: BTreeMap<SiteId, BTreeSet<(u64, PeerKey)>>,
    fleet_gateways: Vec<Gateway>,
    site_gateways: Vec<Gateway>,
}

/// A gateway, with the half of its rendezvous weights that does not depend on the chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gateway {
    peer: PeerKey,
    seed: u64,
}

impl Duty {
    /// Duties with nobody but oneself.
    pub(super) fn new(artifact: ArtifactId, me: PeerKey, my_site: SiteId, gateways_per_site: usize) -> Self {
        let mut duty = Self {
            artifact,
            me,
            my_site: my_site.clone(),
            gateways_per_site,
            live: BTreeMap::new(),
            fleet_gateways: Vec::new(),
            site_gateways: Vec::new(),
        };
        duty.add(me, &my_site);
        duty
    }

    /// A member is live. Tells whether anybody's duties changed.
    pub(super) fn add(&mut self, peer: PeerKey, site: &SiteId) -> bool {
        if self.live.len() >= SITES_MAX && !self.live.contains_key(site) {
            return false;
        }
        let place = self.place(&peer);
        let members = self.live.entry(site.clone()).or_default();
        if members.len() >= MEMBERS_PER_SITE_MAX && peer != self.me {
            return false;
        }
        members.insert((place, peer)) && self.choose()
    }

    /// A member is not live any more. Tells whether anybody's duties changed. One never loses oneself.
    pub(super) fn remove(&mut self, peer: &PeerKey, site: &SiteId) -> bool {
        if *peer == self.me {
            return false;
        }
        let place = self.place(peer);
        let Some(members) = self.live.get_mut(site) else { return false };
        let removed = members.remove(&(place, *peer));
        if members.is_empty() {
            self.live.remove(site);
        }
        removed && self.choose()
    }

    /// Whether this member fetches for its site.
    pub(super) fn is_gateway(&self, peer: &PeerKey) -> bool {
        self.fleet_gateways.iter().any(|gateway| gateway.peer == *peer)
    }

    /// The gateways of all sites, oneself included if one is.
    #[cfg(test)]
    pub(super) fn gateways(&self) -> impl Iterator<Item = PeerKey> + '_ {
        self.fleet_gateways.iter().map(|gateway| gateway.peer)
    }

    /// The gateways of one's own site, oneself included if one is.
    pub(super) fn gateways_of_site(&self) -> impl Iterator<Item = PeerKey> + '_ {
        self.site_gateways.iter().map(|gateway| gateway.peer)
    }

    /// Those who are gateways, were until somebody came in before them, or are next when one falls silent: the first
    /// of each site, twice as many as it has gateways.
    pub(super) fn near_gateways(&self) -> impl Iterator<Item = PeerKey> + '_ {
        let first = |members: &'_ BTreeSet<(u64, PeerKey)>| -> Vec<PeerKey> {
            members.iter().take(2 * self.gateways_per_site).map(|(_, peer)| *peer).collect()
        };
        self.live.values().flat_map(first)
    }

    /// Whose duties these are.
    pub(super) fn me(&self) -> PeerKey {
        self.me
    }

    /// How many gateways there are in all sites; at least 1.
    pub(super) fn gateways_count(&self) -> usize {
        self.fleet_gateways.len().max(1)
    }

    /// Whether this chunk is ours to fetch over the Earth link.
    pub(super) fn is_earth_fetcher(&self, chunk: u32) -> bool {
        first(&self.fleet_gateways, EARTH, chunk) == Some(self.me)
    }

    /// Whether this chunk is ours to bring into our site.
    pub(super) fn is_importer(&self, chunk: u32) -> bool {
        first(&self.site_gateways, IMPORT, chunk) == Some(self.me)
    }

    /// One's place in the order in which members of all sites help themselves when everything stalls.
    pub(super) fn rank(&self) -> u32 {
        let mine = (self.place(&self.me), self.me);
        let before = self.live.values().flatten().filter(|member| **member < mine).count();
        u32::try_from(before).unwrap_or(u32::MAX)
    }

    /// Members of one's own site, in an order that is one's own but mutual: the draw for two members is the
    /// same from both ends, so that connections serve both.
    pub(super) fn neighbours(&self) -> Vec<PeerKey> {
        let Some(members) = self.live.get(&self.my_site) else { return Vec::new() };
        let mut neighbours: Vec<(u64, PeerKey)> = members
            .iter()
            .filter(|(_, peer)| *peer != self.me)
            .map(|(_, peer)| {
                let (low, high) = if *peer < self.me { (peer, &self.me) } else { (&self.me, peer) };
                (draw("swarm neighbours", &[&low.0, &high.0]), *peer)
            })
            .collect();
        neighbours.sort_unstable();
        neighbours.into_iter().map(|(_, peer)| peer).collect()
    }

    fn place(&self, peer: &PeerKey) -> u64 {
        draw("swarm gateway", &[&self.artifact.0, &peer.0])
    }

    /// Chooses the gateways again. Tells whether they changed.
    fn choose(&mut self) -> bool {
        let gateway =
            |peer: &PeerKey| Gateway { peer: *peer, seed: draw("swarm duty", &[&self.artifact.0, &peer.0]) };
        let chosen = |members: &BTreeSet<(u64, PeerKey)>| -> Vec<Gateway> {
            members.iter().take(self.gateways_per_site).map(|(_, peer)| gateway(peer)).collect()
        };
        let fleet: Vec<Gateway> = self.live.values().flat_map(&chosen).collect();
        let site = self.live.get(&self.my_site).map(&chosen).unwrap_or_default();
        if fleet == self.fleet_gateways {
            return false;
        }
        self.fleet_gateways = fleet;
        self.site_gateways = site;
        true
    }
}

const EARTH: u64 = 0x4541_5254_4831;
const IMPORT: u64 = 0x494d_504f_5254;

/// The gateway with the highest weight for a chunk.
fn first(gateways: &[Gateway], purpose: u64, chunk: u32) -> Option<PeerKey> {
    gateways.iter().max_by_key(|gateway| weight(gateway.seed, purpose, chunk)).map(|gateway| gateway.peer)
}

/// A rendezvous weight: the finaliser of SplitMix64 over a seed that BLAKE3 made. There may be 100,000 chunks
/// and a gateway chosen for each of them at every change of membership, so it costs nanoseconds.
fn weight(seed: u64, purpose: u64, chunk: u32) -> u64 {
    let mut word = seed ^ purpose ^ u64::from(chunk).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> PeerKey {
        PeerKey([number; 32])
    }

    fn site(name: &str) -> SiteId {
        SiteId::new(name).unwrap()
    }

    /// Twelve members of three sites, as each of them sees it.
    fn views() -> Vec<Duty> {
        let place = |number: u8| site(["a", "b", "c"][usize::from(number % 3)]);
        (0..12)
            .map(|me| {
                let mut duty = Duty::new(ArtifactId([7; 32]), peer(me), place(me), 3);
                for other in 0..12 {
                    duty.add(peer(other), &place(other));
                }
                duty
            })
            .collect()
    }

    #[test]
    fn each_chunk_has_one_earth_fetcher_and_one_importer_a_site() {
        let views = views();
        for chunk in 0..400 {
            assert_eq!(views.iter().filter(|duty| duty.is_earth_fetcher(chunk)).count(), 1);
            assert_eq!(views.iter().filter(|duty| duty.is_importer(chunk)).count(), 3);
        }
        assert_eq!(views[0].gateways_count(), 9);
    }

    #[test]
    fn duties_are_spread_evenly_over_the_gateways() {
        for duty in views().iter().filter(|duty| duty.is_gateway(&duty.me)) {
            let mine = (0..9000).filter(|chunk| duty.is_earth_fetcher(*chunk)).count();
            assert!((850..1150).contains(&mine), "{mine} of 9000 among 9");
        }
    }

    #[test]
    fn when_a_member_leaves_only_its_duties_change_hands() {
        let mut views = views();
        let before: Vec<Option<usize>> =
            (0..400).map(|chunk| views.iter().position(|duty| duty.is_earth_fetcher(chunk))).collect();
        let gone = before[0].unwrap();
        let gone_site = views[gone].my_site.clone();
        let gateways_before: BTreeSet<PeerKey> = views[0].gateways().collect();
        for duty in &mut views {
            duty.remove(&peer(u8::try_from(gone).unwrap()), &gone_site);
        }
        for (chunk, old) in before.iter().enumerate() {
            let chunk = u32::try_from(chunk).unwrap();
            let new = (0..views.len()).find(|index| *index != gone && views[*index].is_earth_fetcher(chunk));
            let newcomer = new.is_some_and(|index| !gateways_before.contains(&views[index].me));
            assert!(new.is_some() && (new == *old || *old == Some(gone) || newcomer), "chunk {chunk}");
        }
    }
}
