//! The swarm: each server's own core, what it is connected to, and the carrying out of its effects.
//!
//! Owns [`Swarming`], the shell of all swarm cores. Main invariant: a chunk is a number, and whoever has it has it
//! because it travelled to it over a link; everything about who asks whom for what is decided by the cores. Refuses
//! to show everyone to everyone: a server hears of some neighbours and of each site's first members, as a mesh of
//! bounded views tells it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lunar_agent_core::input::{FetchProgress, Input as NodeInput};
use lunar_agent_core::swarm::{Config, Effect, Input, Item, Outcome, RequestId, Swarm, Word};
use lunar_common::have_set::HaveSet;
use lunar_common::ids::{PeerKey, SiteId};
use lunar_common::order::draw;

use crate::chance::keyed;
use crate::documents::{Documents, NEW, manifest_bytes};
use crate::event::Event;
use crate::links::{Links, Route};
use crate::measure::Way;
use crate::options::Options;
use crate::scenario::Seat;
use crate::world::World;

/// The number under which the origin goes where servers have theirs.
pub(crate) const ORIGIN: u32 = u32::MAX;

/// Members of each site that everyone hears of: those that come first in the order of gateways.
const FIRST_OF_SITE: usize = 6;

/// Neighbours in its own site that a server hears of, on each of two sides.
const NEIGHBOURS_A_SIDE: usize = 10;

/// How long one waits for a connection to a machine that does not answer, in microseconds.
const CONNECT_US: u64 = 2_000_000;

/// How long it takes to notice that a connection broke, in microseconds.
const BROKEN_US: u64 = 1_000_000;

/// A server that has this much to send still says that it is busy, in microseconds.
const BUSY_US: u64 = 250_000;

/// Opening a pack once its manifest is here, in microseconds.
const OPEN_US: u64 = 5_000;

/// How a server treats others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Honest,
    /// Every frame it sends is corrupt.
    Corrupt,
    /// It takes requests and never answers.
    Drips,
    /// It says that it has everything, and has nothing to give.
    Lies,
}

/// One server's part.
#[derive(Debug)]
struct Part {
    swarm: Option<Box<Swarm>>,
    /// What lies verified on its disk, while no core knows it.
    on_disk: Option<HaveSet>,
    complete: bool,
    manner: Manner,
    listeners: Vec<u32>,
    links: Vec<u32>,
    alarm: Option<u64>,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Swarming {
    parts: Vec<Part>,
    links: Links,
    numbers: BTreeMap<PeerKey, u32>,
    sites: Vec<SiteId>,
    earth: SiteId,
    origin: PeerKey,
    /// Whom everyone hears of.
    firsts: Vec<u32>,
    /// Members of each site, and each server's place among them.
    members: Vec<Vec<u32>>,
    places: Vec<u32>,
    frames: Vec<u32>,
    manifest_bytes: u64,
}

/// How a transfer ends, as it waits in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Good,
    Corrupt,
    NotHave,
    Busy,
    Broken,
    Opened,
}

impl Swarming {
    pub(crate) fn new(options: &Options, documents: &Documents, seats: &[Seat]) -> Self {
        let scenario = &options.scenario;
        let sites = scenario.site_names();
        let mut members: Vec<Vec<u32>> = vec![Vec::new(); sites.len()];
        let mut places = Vec::with_capacity(seats.len());
        for (number, seat) in seats.iter().enumerate() {
            places.push(small(members[seat.site].len()));
            members[seat.site].push(small(number));
        }
        let first = |members: &Vec<u32>| -> Vec<u32> {
            let place =
                |number: &u32| draw("swarm gateway", &[&NEW.0, &documents.servers[*number as usize].peer.0]);
            let mut ordered = members.clone();
            ordered.sort_by_cached_key(place);
            ordered.truncate(FIRST_OF_SITE);
            ordered
        };
        let hostile = scenario.peers.hostile.in_million();
        let part = |number: usize| Part {
            swarm: None,
            on_disk: None,
            complete: false,
            manner: manner(options.seed, number, hostile),
            listeners: Vec::new(),
            links: Vec::new(),
            alarm: None,
        };
        let numbers =
            documents.servers.iter().enumerate().map(|(number, machine)| (machine.peer, small(number)));
        let origin = PeerKey([0xff; 32]);
        let chunk = u64::from(scenario.artifact.chunk_bytes);
        let frames = (0..scenario.artifact.chunks())
            .map(|number| chunk.min(scenario.artifact.bytes - number * chunk))
            .map(|bytes| u32::try_from(bytes).expect("a chunk is small"));
        Self {
            parts: (0..seats.len()).map(part).collect(),
            links: Links::new(options, seats),
            numbers: numbers.chain([(origin, ORIGIN)]).collect(),
            earth: "earth".parse().expect("a valid name"),
            sites,
            origin,
            firsts: members.iter().flat_map(first).collect(),
            members,
            places,
            frames: frames.collect(),
            manifest_bytes: manifest_bytes(scenario),
        }
    }

    /// Whom a server hears of. Whoever is in one's view has one in its own, the first of each site excepted.
    fn view(&self, server: usize, seat: &Seat) -> Vec<u32> {
        let members = &self.members[seat.site];
        let (count, place) = (members.len(), self.places[server] as usize);
        let mut view = self.firsts.clone();
        for side in 1..=NEIGHBOURS_A_SIDE {
            // Steps of different lengths, so that news crosses a large site in few of them.
            let step =
                1 + usize::try_from(keyed(side as u64, seat.site as u64, 0, 0) % count as u64).unwrap_or(0);
            view.push(members[(place + step) % count]);
            view.push(members[(place + count - step % count) % count]);
        }
        view.sort_unstable();
        view.dedup();
        view.retain(|number| *number as usize != server);
        view
    }

    pub(crate) fn is_cut(&self, site: usize, at_us: u64) -> bool {
        self.links.is_cut(site, at_us)
    }

    fn chunks(&self) -> u32 {
        small(self.frames.len())
    }

    fn bytes_of(&self, item: Item) -> u64 {
        match item {
            Item::Manifest => self.manifest_bytes,
            Item::Chunk(chunk) => u64::from(self.frames[chunk as usize]),
        }
    }

    fn has(&self, server: usize, item: Item) -> bool {
        let part = &self.parts[server];
        if part.manner == Manner::Lies {
            return false;
        }
        let held = part.swarm.as_ref().and_then(|swarm| swarm.have(NEW));
        match item {
            Item::Manifest => part.complete || held.is_some(),
            Item::Chunk(chunk) => part.complete || held.is_some_and(|have| have.contains(chunk)),
        }
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
        let (origin, earth) = (self.swarming.origin, self.swarming.earth.clone());
        self.swarm_handle(server, Input::Peer { peer: origin, site: earth, origin: true });
        // The first of each site hear of each other and of their neighbours; the others connect to them.
        let is_first = self.swarming.firsts.contains(&small(server));
        for other in self.swarming.view(server, &seat) {
            self.introduce(server, other as usize);
            let neighbours =
                self.servers[other as usize].seat.site == seat.site && !self.swarming.firsts.contains(&other);
            if is_first || neighbours {
                self.introduce(other as usize, server);
            }
        }
        if let Some(have) = self.swarming.parts[server].on_disk.take() {
            self.swarm_opened(server, have);
        }
    }

    fn introduce(&mut self, to: usize, whom: usize) {
        let part = &self.swarming.parts[whom];
        if self.swarming.parts[to].swarm.is_none() || part.swarm.is_none() && !part.complete {
            return;
        }
        let peer = self.meet(to, whom);
        self.swarm_handle(to, Input::Member { artifact: NEW, peer });
    }

    fn meet(&mut self, to: usize, whom: usize) -> PeerKey {
        let peer = self.documents.servers[whom].peer;
        let site = self.swarming.sites[self.servers[whom].seat.site].clone();
        self.swarm_handle(to, Input::Peer { peer, site, origin: false });
        peer
    }

    fn swarm_opened(&mut self, server: usize, have: HaveSet) {
        self.announce(server, Word::HaveSet(have.clone()));
        let frame_bytes = self.swarming.frames.clone();
        self.swarm_handle(server, Input::Opened { artifact: NEW, frame_bytes, have });
    }

    fn swarm_handle(&mut self, server: usize, input: Input) {
        let now = self.servers[server].now(self.at_ms);
        if let Some(swarm) = &mut self.swarming.parts[server].swarm {
            swarm.handle(input, now);
            self.carry_out_swarm(server);
        }
    }

    pub(crate) fn swarm_alarm(&mut self, server: usize) {
        let part = &mut self.swarming.parts[server];
        if part.alarm != Some(self.at_ms) {
            return;
        }
        part.alarm = None;
        let now = self.servers[server].now(self.at_ms);
        if let Some(swarm) = &mut part.swarm {
            swarm.handle_timeout(now);
            self.carry_out_swarm(server);
        }
    }

    fn carry_out_swarm(&mut self, server: usize) {
        while let Some(effect) =
            self.swarming.parts[server].swarm.as_mut().and_then(|swarm| swarm.poll_effect())
        {
            match effect {
                Effect::Connect { peer } => self.swarm_connects(server, peer),
                Effect::Disconnect { peer } => self.swarm_cuts_off(server, peer),
                Effect::Unsubscribe { .. } | Effect::Cancel { .. } | Effect::Banned { .. } => {}
                Effect::Subscribe { peer, .. } => {
                    let to = self.swarming.numbers[&peer];
                    self.swarm_message(server, to, |from| Event::Subscribed { to, by: from });
                }
                Effect::Fetch { request, item, peer, .. } => {
                    self.swarm_fetches(server, request, item, self.swarming.numbers[&peer]);
                }
                Effect::AnnounceHaves { chunks, .. } => self.announce(server, Word::Haves(chunks)),
                Effect::AnnounceTaking { chunk, .. } => self.announce(server, Word::Taking(chunk)),
                Effect::AnnounceLeft { chunk, .. } => self.announce(server, Word::Left(chunk)),
                Effect::Complete { .. } => {
                    // What is complete needs no core any more: it gives whatever is asked for.
                    self.swarming.parts[server].complete = true;
                    self.swarm_completes(server);
                }
            }
        }
        if self.swarming.parts[server].complete {
            self.swarming.parts[server].swarm = None;
            return;
        }
        let at = &self.servers[server];
        let part = &mut self.swarming.parts[server];
        let due = part.swarm.as_ref().and_then(|swarm| swarm.poll_timeout());
        if let Some(when) = due.map(|moment| at.when(moment).max(self.at_ms))
            && part.alarm.is_none_or(|set| when < set)
        {
            part.alarm = Some(when);
            self.put_at(when, Event::SwarmAlarm { server });
        }
    }

    fn swarm_completes(&mut self, server: usize) {
        self.measure.has_all(self.at_ms, server);
        let progress = FetchProgress {
            complete: vec![NEW],
            chunks: (self.swarming.chunks(), self.swarming.chunks()),
            ..FetchProgress::default()
        };
        let life = self.servers[server].life;
        self.put_in(0, Event::Node { server, life, input: Box::new(NodeInput::Fetched(progress)) });
    }

    /// Whether one machine can hear another on the data plane now.
    fn route(&self, a: u32, b: u32) -> Option<Route> {
        let cut = |number: u32| number != ORIGIN && self.is_cut_off(number as usize);
        if cut(a) || cut(b) {
            return None;
        }
        self.swarming.links.route(self.at_us, a, b)
    }

    /// Sends a word or a request of a few bytes.
    fn swarm_message(&mut self, from: usize, to: u32, event: impl FnOnce(u32) -> Event) {
        self.measure.swarm_messages(1);
        let number = small(from);
        if let Some(route) = self.route(number, to) {
            let way = self.swarming.links.latency_us(route, number, to);
            self.put_at_us(self.at_us + way, event(number));
        }
    }

    fn announce(&mut self, from: usize, word: Word) {
        let word = Arc::new(word);
        for to in self.swarming.parts[from].listeners.clone() {
            let word = word.clone();
            self.swarm_message(from, to, |from| Event::Said { to, from, word });
        }
    }

    fn swarm_connects(&mut self, server: usize, peer: PeerKey) {
        let (from, to) = (small(server), self.swarming.numbers[&peer]);
        let lives = to == ORIGIN || self.servers[to as usize].node.is_some();
        match self.route(from, to).filter(|_| lives) {
            Some(route) => {
                let way = 2 * self.swarming.links.latency_us(route, from, to);
                self.put_at_us(self.at_us + way, Event::Linked { a: from, b: to });
            }
            None => self.put_at_us(self.at_us + CONNECT_US, Event::NotLinked { from, to }),
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
            let links = &mut self.swarming.parts[one].links;
            if !links.contains(&other) {
                links.push(other);
            }
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

    fn peer_of(&self, number: u32) -> PeerKey {
        if number == ORIGIN { self.swarming.origin } else { self.documents.servers[number as usize].peer }
    }

    fn swarm_cuts_off(&mut self, server: usize, peer: PeerKey) {
        let (a, b) = (small(server), self.swarming.numbers[&peer]);
        self.unlink(a, b);
        if b != ORIGIN {
            self.put_at_us(self.at_us + BROKEN_US, Event::Unlinked { at: b, whom: a });
        }
    }

    fn unlink(&mut self, a: u32, b: u32) {
        for (one, other) in [(a, b), (b, a)] {
            if one != ORIGIN {
                let part = &mut self.swarming.parts[one as usize];
                part.links.retain(|linked| *linked != other);
                part.listeners.retain(|listener| *listener != other);
            }
        }
    }

    pub(crate) fn unlinked(&mut self, at: u32, whom: u32) {
        let peer = self.peer_of(whom);
        self.swarm_handle(at as usize, Input::Disconnected { peer });
    }

    pub(crate) fn subscribed(&mut self, to: u32, by: u32) {
        if to == ORIGIN {
            return;
        }
        let chunks = self.swarming.chunks();
        let part = &mut self.swarming.parts[to as usize];
        let word = match (part.manner, &part.swarm) {
            (Manner::Lies, _) => Word::HaveSet(HaveSet::full(chunks)),
            _ if part.complete => Word::HaveSet(HaveSet::full(chunks)),
            (_, Some(swarm)) => swarm.have(NEW).map_or(Word::Nothing, |have| Word::HaveSet(have.clone())),
            (_, None) => Word::Nothing,
        };
        if !part.complete && !part.listeners.contains(&by) {
            part.listeners.push(by);
        }
        let word = Arc::new(word);
        self.swarm_message(to as usize, by, |from| Event::Said { to: by, from, word });
    }

    pub(crate) fn said(&mut self, to: u32, from: u32, word: Arc<Word>) {
        let peer = self.peer_of(from);
        let word = Arc::unwrap_or_clone(word);
        self.swarm_handle(to as usize, Input::Said { artifact: NEW, peer, word });
    }

    /// A request: when and how it ends is known as soon as it is made, from what the links have to carry by then.
    fn swarm_fetches(&mut self, server: usize, request: RequestId, item: Item, from: u32) {
        self.measure.swarm_messages(2);
        let to = small(server);
        let bytes = self.swarming.bytes_of(item);
        let ended = |ended| Event::Delivered { to, from, request: request.0, ended };
        let lives = from == ORIGIN || self.servers[from as usize].node.is_some();
        let Some(route) = self.route(to, from).filter(|_| lives) else {
            return self.put_at_us(self.at_us + BROKEN_US, ended(Ended::Broken));
        };
        let there_and_back = 2 * self.swarming.links.latency_us(route, to, from);
        let manner = if from == ORIGIN { Manner::Honest } else { self.swarming.parts[from as usize].manner };
        if manner == Manner::Drips {
            return;
        }
        if from != ORIGIN && !self.swarming.has(from as usize, item) {
            return self.put_at_us(self.at_us + there_and_back, ended(Ended::NotHave));
        }
        if from != ORIGIN && self.swarming.links.waits_us(from as usize, self.at_us) > BUSY_US {
            return self.put_at_us(self.at_us + there_and_back, ended(Ended::Busy));
        }
        let Some(arrives) = self.swarming.links.carry(route, self.at_us, to, from, bytes) else {
            return self.put_at_us(self.at_us + BROKEN_US, ended(Ended::Broken));
        };
        let way = match route {
            Route::Earth => Way::Earth,
            Route::Between => Way::Between,
            Route::Within => Way::Within,
        };
        self.measure.carried(self.at_ms, way, bytes);
        let corrupt = manner == Manner::Corrupt && matches!(item, Item::Chunk(_));
        let how = match item {
            _ if corrupt => Ended::Corrupt,
            Item::Manifest => Ended::Opened,
            Item::Chunk(_) => Ended::Good,
        };
        self.put_at_us(arrives, ended(how));
    }

    /// A transfer is over.
    pub(crate) fn delivered(&mut self, to: u32, from: u32, request: u64, ended: Ended) {
        let server = to as usize;
        let gone = from != ORIGIN && self.servers[from as usize].node.is_none();
        let ended = if gone || self.route(to, from).is_none() { Ended::Broken } else { ended };
        let chunk_bytes = u64::from(self.options.scenario.artifact.chunk_bytes);
        let had = |world: &Self| {
            let swarm = world.swarming.parts[server].swarm.as_ref();
            swarm.and_then(|swarm| swarm.progress(NEW)).map_or(0, |progress| progress.chunks.0)
        };
        let outcome = match ended {
            Ended::Good | Ended::Opened => Outcome::Good { bytes: chunk_bytes },
            Ended::Corrupt => Outcome::Corrupt,
            Ended::NotHave => Outcome::NotHave,
            Ended::Busy => Outcome::Busy { retry_after: Duration::from_millis(200) },
            Ended::Broken => Outcome::Broken,
        };
        let before = had(self);
        let lives = self.swarming.parts[server].swarm.is_some();
        self.swarm_handle(server, Input::Answered { request: RequestId(request), outcome });
        if ended == Ended::Good && lives && (self.swarming.parts[server].complete || had(self) > before) {
            self.measure.useful_chunks(1);
        }
        if ended == Ended::Opened && lives {
            let Some(swarm) = &self.swarming.parts[server].swarm else { return };
            if swarm.have(NEW).is_none() {
                self.put_at_us(self.at_us + OPEN_US, Event::PackOpened { server });
            }
        }
    }

    pub(crate) fn pack_opened(&mut self, server: usize) {
        let part = &self.swarming.parts[server];
        if part.swarm.as_ref().is_some_and(|swarm| swarm.have(NEW).is_none()) {
            self.swarm_opened(server, HaveSet::empty(self.swarming.chunks()));
        }
    }

    /// A network half died: its connections break, and what lies on its disk stays.
    pub(crate) fn swarm_dies(&mut self, server: usize) {
        let part = &mut self.swarming.parts[server];
        if let Some(swarm) = part.swarm.take() {
            part.on_disk = swarm.have(NEW).cloned();
        }
        part.alarm = None;
        for other in part.links.clone() {
            self.unlink(small(server), other);
            self.put_at_us(self.at_us + BROKEN_US, Event::Unlinked { at: other, whom: small(server) });
        }
    }
}

fn manner(seed: u64, server: usize, hostile_in_million: u64) -> Manner {
    let drawn = keyed(seed, server as u64, HOSTILE, 0);
    if drawn % 1_000_000 >= hostile_in_million {
        return Manner::Honest;
    }
    [Manner::Corrupt, Manner::Drips, Manner::Lies][usize::try_from((drawn >> 32) % 3).unwrap_or(0)]
}

fn small(number: usize) -> u32 {
    u32::try_from(number).expect("a fleet has fewer servers")
}

/// The purpose of a draw that is made once a server, beyond those that are counted.
const HOSTILE: u64 = 1_002;
