//! A small world for swarm cores: links with a rate and a delay, an event queue, peers that misbehave.
//!
//! Owns virtual time and what each link carried. Main invariant: everything follows from the specification; a
//! run repeats to the letter. Refuses to look inside a core: it sees effects and gives inputs.

use std::collections::{BTreeMap, BTreeSet};

use lunar_common::have_set::HaveSet;
use lunar_common::ids::{ArtifactId, PeerKey, SiteId};
use lunar_common::time::{Moment, Now, WallTime};

use super::super::*;

pub(super) const ARTIFACT: ArtifactId = ArtifactId([9; 32]);
pub(super) const MANIFEST_BYTES: u64 = 32 * 1024;

/// How a node behaves towards others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Honest,
    /// Every frame it sends is corrupt.
    Corrupt,
    /// Accepts requests and never answers.
    Drips,
    /// Says that it has everything and has nothing to give.
    Lies,
    /// Vanishes at that moment, for good.
    Dies(u64),
}

pub(super) struct Node {
    pub(super) key: PeerKey,
    pub(super) site: SiteId,
    pub(super) swarm: Swarm,
    pub(super) manner: Manner,
    pub(super) alive: bool,
    pub(super) completed_at: Option<u64>,
    pub(super) requested: BTreeMap<u32, u32>,
    pub(super) bans: Vec<(PeerKey, Offence)>,
    listeners: BTreeSet<usize>,
    /// Those of the listeners who hear what it is fetching for others.
    followers: BTreeSet<usize>,
    uplink_free_us: u64,
    wakes_at: Option<u64>,
    pub(super) sent_bytes: u64,
    pub(super) sent_items: u64,
}

pub(super) struct Specification {
    pub(super) sites: usize,
    pub(super) agents: usize,
    pub(super) chunks: u32,
    pub(super) chunk_bytes: u32,
    pub(super) manners: BTreeMap<usize, Manner>,
    /// Agents that start with everything.
    pub(super) seeds: BTreeSet<usize>,
    /// Agents that start with these chunks.
    pub(super) partial: BTreeMap<usize, Vec<u32>>,
    /// When each agent begins, in milliseconds.
    pub(super) begins: fn(usize) -> u64,
    pub(super) origin: bool,
}

impl Default for Specification {
    fn default() -> Self {
        Self {
            sites: 3,
            agents: 12,
            chunks: 400,
            chunk_bytes: 256 * 1024,
            manners: BTreeMap::new(),
            seeds: BTreeSet::new(),
            partial: BTreeMap::new(),
            begins: |_| 0,
            origin: true,
        }
    }
}

enum Event {
    Give(usize, Input),
    Wake(usize),
    Begin(usize),
    Die(usize),
    Open(usize),
    Subscribe { to: usize, by: usize, takings: bool },
    Asked { to: usize, by: usize, request: RequestId, item: Item },
    Arrived { to: usize, request: RequestId, outcome: Outcome },
}

pub(super) struct World {
    specification: Specification,
    pub(super) nodes: Vec<Node>,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    pub(super) now: u64,
    connections: BTreeSet<(usize, usize)>,
    cancelled: BTreeSet<(usize, RequestId)>,
}

impl World {
    pub(super) fn new(specification: Specification) -> Self {
        let mut nodes: Vec<Node> = (0..specification.agents)
            .map(|index| {
                let site = SiteId::new(&format!("site-{}", index % specification.sites)).unwrap();
                node(index, site, specification.manners.get(&index).copied().unwrap_or(Manner::Honest))
            })
            .collect();
        if specification.origin {
            nodes.push(node(specification.agents, SiteId::new("earth").unwrap(), Manner::Honest));
        }
        let mut world = Self {
            nodes,
            queue: BTreeMap::new(),
            sequence: 0,
            now: 0,
            connections: BTreeSet::new(),
            cancelled: BTreeSet::new(),
            specification,
        };
        for index in 0..world.specification.agents {
            world.at((world.specification.begins)(index), Event::Begin(index));
            if let Manner::Dies(at) = world.nodes[index].manner {
                world.at(at, Event::Die(index));
            }
        }
        world
    }

    /// Runs until nothing is left to do, or until that many virtual milliseconds passed.
    pub(super) fn run(&mut self, until: u64) {
        while let Some(next) = self.queue.first_entry() {
            let at = next.key().0;
            if at > until || self.nodes.iter().take(self.specification.agents).all(Self::is_done) {
                break;
            }
            let event = next.remove();
            self.now = at;
            self.happen(event);
        }
    }

    pub(super) fn is_done(node: &Node) -> bool {
        !node.alive || node.completed_at.is_some() || matches!(node.manner, Manner::Lies)
    }

    /// Bytes the origin sent, as a multiple of the artifact.
    pub(super) fn out_of_origin(&self) -> f64 {
        let whole = u64::from(self.specification.chunks) * u64::from(self.specification.chunk_bytes);
        self.nodes.last().unwrap().sent_bytes as f64 / whole as f64
    }

    pub(super) fn index_of(&self, key: &PeerKey) -> usize {
        self.nodes.iter().position(|node| node.key == *key).unwrap()
    }

    fn at(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((at.max(self.now), self.sequence), event);
    }

    fn is_origin(&self, index: usize) -> bool {
        index >= self.specification.agents
    }

    fn delay(&self, a: usize, b: usize) -> u64 {
        match (self.is_origin(a) || self.is_origin(b), self.nodes[a].site == self.nodes[b].site) {
            (true, _) => 1250,
            (false, true) => 1,
            (false, false) => 10,
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Begin(index) => self.begin(index),
            Event::Open(index) => self.open(index, HaveSet::empty(self.specification.chunks)),
            Event::Give(to, input) => self.give(to, input),
            Event::Wake(index) => {
                self.nodes[index].wakes_at = None;
                if self.nodes[index].alive {
                    let now = self.clock();
                    self.nodes[index].swarm.handle_timeout(now);
                    self.carry_out(index);
                }
            }
            Event::Die(index) => {
                self.nodes[index].alive = false;
                let gone: Vec<(usize, usize)> =
                    self.connections.iter().filter(|(a, b)| *a == index || *b == index).copied().collect();
                for (a, b) in gone {
                    self.connections.remove(&(a, b));
                    let other = if a == index { b } else { a };
                    let peer = self.nodes[index].key;
                    self.nodes[other].listeners.remove(&index);
                    self.nodes[other].followers.remove(&index);
                    // Nobody says good-bye: the idle time-out finds out.
                    self.at(self.now + 10_000, Event::Give(other, Input::Disconnected { peer }));
                }
            }
            Event::Subscribe { to, by, takings } => self.subscribe(to, by, takings),
            Event::Asked { to, by, request, item } => self.asked(to, by, request, item),
            Event::Arrived { to, request, outcome } => {
                if !self.cancelled.remove(&(to, request)) {
                    self.give(to, Input::Answered { request, outcome });
                }
            }
        }
    }

    fn begin(&mut self, index: usize) {
        let seeded = self.specification.seeds.contains(&index);
        let lies = self.nodes[index].manner == Manner::Lies;
        if !lies {
            self.give(index, Input::Want { artifact: ARTIFACT, manifest_bytes: MANIFEST_BYTES });
        }
        let chunks = self.specification.chunks;
        let partial = self.specification.partial.get(&index).cloned();
        if seeded || partial.is_some() {
            let mut have = if seeded { HaveSet::full(chunks) } else { HaveSet::empty(chunks) };
            for chunk in partial.into_iter().flatten() {
                have.insert(chunk);
            }
            self.open(index, have);
        }
        if self.specification.origin {
            let origin = self.specification.agents;
            let input =
                Input::Peer { peer: key(origin), site: self.nodes[origin].site.clone(), origin: true };
            self.give(index, input);
        }
        // Its presence reaches everyone by gossip, and everyone's reaches it.
        for other in 0..self.specification.agents {
            if other != index && (self.specification.begins)(other) <= self.now {
                self.introduce(index, other, 100);
                self.introduce(other, index, 50);
            }
        }
    }

    fn introduce(&mut self, to: usize, whom: usize, after: u64) {
        let peer = self.nodes[whom].key;
        let site = self.nodes[whom].site.clone();
        self.at(self.now + after, Event::Give(to, Input::Peer { peer, site, origin: false }));
        self.at(self.now + after, Event::Give(to, Input::Member { artifact: ARTIFACT, peer }));
    }

    fn open(&mut self, index: usize, have: HaveSet) {
        for listener in self.nodes[index].listeners.clone() {
            self.say(index, listener, Word::HaveSet(have.clone()));
        }
        let frame_bytes = vec![self.specification.chunk_bytes; self.specification.chunks as usize];
        self.give(index, Input::Opened { artifact: ARTIFACT, frame_bytes, have });
    }

    fn clock(&self) -> Now {
        Now { moment: Moment(self.now), wall: WallTime(0) }
    }

    fn give(&mut self, to: usize, input: Input) {
        if self.nodes[to].alive && !self.is_origin(to) {
            let now = self.clock();
            self.nodes[to].swarm.handle(input, now);
            self.carry_out(to);
        }
    }

    fn say(&mut self, from: usize, to: usize, word: Word) {
        let said = Input::Said { artifact: ARTIFACT, peer: self.nodes[from].key, word };
        self.at(self.now + self.delay(from, to), Event::Give(to, said));
    }

    fn carry_out(&mut self, index: usize) {
        while let Some(effect) = self.nodes[index].swarm.poll_effect() {
            match effect {
                Effect::Connect { peer } => self.connect(index, self.index_of(&peer)),
                Effect::Disconnect { .. } | Effect::Unsubscribe { .. } => {}
                Effect::Subscribe { peer, takings, .. } => {
                    let to = self.index_of(&peer);
                    self.at(self.now + self.delay(index, to), Event::Subscribe { to, by: index, takings });
                }
                Effect::Fetch { request, item, peer, .. } => {
                    let to = self.index_of(&peer);
                    if let Item::Chunk(chunk) = item {
                        *self.nodes[index].requested.entry(chunk).or_default() += 1;
                    }
                    self.at(self.now + self.delay(index, to), Event::Asked { to, by: index, request, item });
                }
                Effect::Cancel { request } => {
                    self.cancelled.insert((index, request));
                }
                Effect::AnnounceHaves { chunks, .. } => self.announce(index, &Word::Haves(chunks)),
                Effect::AnnounceTaking { chunk, .. } => self.announce(index, &Word::Taking(chunk)),
                Effect::AnnounceLeft { chunk, .. } => self.announce(index, &Word::Left(chunk)),
                Effect::Banned { peer, offence, .. } => self.nodes[index].bans.push((peer, offence)),
                Effect::Complete { .. } => self.nodes[index].completed_at = Some(self.now),
            }
        }
        // One wake-up a node is in the queue: the earliest that was ever asked for and has not come.
        if let Some(at) = self.nodes[index].swarm.poll_timeout()
            && self.nodes[index].wakes_at.is_none_or(|wakes_at| at.0 < wakes_at)
        {
            self.nodes[index].wakes_at = Some(at.0);
            self.at(at.0, Event::Wake(index));
        }
    }

    fn announce(&mut self, from: usize, word: &Word) {
        let of_takings = matches!(word, Word::Taking(_) | Word::Left(_));
        let node = &self.nodes[from];
        for listener in if of_takings { &node.followers } else { &node.listeners }.clone() {
            self.say(from, listener, word.clone());
        }
    }

    fn connect(&mut self, from: usize, to: usize) {
        let round_trip = 2 * self.delay(from, to);
        let peer = self.nodes[to].key;
        if !self.nodes[to].alive {
            self.at(self.now + 10_000, Event::Give(from, Input::ConnectFailed { peer, full: false }));
            return;
        }
        self.connections.insert((from.min(to), from.max(to)));
        self.at(self.now + round_trip, Event::Give(from, Input::Connected { peer }));
        let (peer, site) = (self.nodes[from].key, self.nodes[from].site.clone());
        self.at(self.now + round_trip, Event::Give(to, Input::Peer { peer, site, origin: false }));
        self.at(self.now + round_trip, Event::Give(to, Input::Connected { peer }));
    }

    fn subscribe(&mut self, to: usize, by: usize, takings: bool) {
        if !self.nodes[to].alive {
            return;
        }
        self.nodes[to].listeners.insert(by);
        if takings {
            self.nodes[to].followers.insert(by);
        }
        let now = self.clock();
        let word = match self.nodes[to].manner {
            Manner::Lies => Word::HaveSet(HaveSet::full(self.specification.chunks)),
            _ => self.nodes[to].swarm.standing(ARTIFACT, now),
        };
        self.say(to, by, word);
    }

    fn asked(&mut self, to: usize, by: usize, request: RequestId, item: Item) {
        if !self.nodes[to].alive || self.nodes[to].manner == Manner::Drips {
            return;
        }
        let has = match (item, self.is_origin(to)) {
            (_, true) => true,
            (Item::Manifest, false) => self.nodes[to].swarm.have(ARTIFACT).is_some(),
            (Item::Chunk(chunk), false) => {
                self.nodes[to].swarm.have(ARTIFACT).is_some_and(|have| have.contains(chunk))
            }
        };
        let delay = self.delay(to, by);
        if !has {
            let arrived = Event::Arrived { to: by, request, outcome: Outcome::NotHave };
            self.at(self.now + delay, arrived);
            return;
        }
        let bytes = match item {
            Item::Manifest => MANIFEST_BYTES,
            Item::Chunk(_) => u64::from(self.specification.chunk_bytes),
        };
        let bits_a_us = if self.is_origin(to) { 30 } else { 100 };
        let node = &mut self.nodes[to];
        node.uplink_free_us = node.uplink_free_us.max(self.now * 1000) + bytes * 8 / bits_a_us;
        node.sent_bytes += bytes;
        node.sent_items += 1;
        let arrives = node.uplink_free_us.div_ceil(1000) + delay;
        let corrupt = node.manner == Manner::Corrupt && matches!(item, Item::Chunk(_));
        let outcome = if corrupt { Outcome::Corrupt } else { Outcome::Good { bytes } };
        self.at(arrives, Event::Arrived { to: by, request, outcome });
        if item == Item::Manifest && !corrupt {
            // The shell opens the pack once the manifest is verified.
            self.at(arrives, Event::Open(by));
        }
    }
}

fn node(index: usize, site: SiteId, manner: Manner) -> Node {
    Node {
        key: key(index),
        swarm: Swarm::new(Config::default(), key(index), site.clone()),
        site,
        manner,
        alive: true,
        completed_at: None,
        requested: BTreeMap::new(),
        bans: Vec::new(),
        listeners: BTreeSet::new(),
        followers: BTreeSet::new(),
        uplink_free_us: 0,
        wakes_at: None,
        sent_bytes: 0,
        sent_items: 0,
    }
}

pub(super) fn key(index: usize) -> PeerKey {
    let mut bytes = [0u8; 32];
    bytes[..8].copy_from_slice(&(index as u64 + 1).to_le_bytes());
    PeerKey(bytes)
}
