//! The swarm: each server's own core, what it is connected to, and the carrying out of its effects.
//!
//! Owns [`Swarming`], the shell of all swarm cores. Main invariant: a chunk is a number, and whoever has it has it
//! because it travelled to it over a link; everything about who asks whom for what is decided by the cores. Refuses
//! to show everyone to everyone: a server hears of some neighbours and of each site's first members, as a mesh of
//! bounded views tells it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lunar_agent_core::input::{FetchProgress, Input as NodeInput};
use lunar_agent_core::swarm::{Config, Effect, Input, Item, Outcome, RequestId, Swarm, Word};
use lunar_common::have_set::HaveSet;
use lunar_common::ids::{PeerKey, SiteId};
use lunar_common::order::draw;

use crate::chance::keyed;
use crate::documents::{Documents, Machine, NEW, manifest_bytes};
use crate::earth::Earth;
use crate::event::Event;
use crate::faults::Manner;
use crate::links::{Links, Route};
use crate::measure::Way;
use crate::options::{Mutant, Options};
use crate::scenario::Seat;
use crate::world::World;

/// The number under which the origin goes where servers have theirs.
pub(crate) const ORIGIN: u32 = u32::MAX;

/// Members of each site that everyone hears of: those that come first in the order of gateways. The real mesh tells
/// everyone of everyone; whoever is behind these is no gateway as long as they live.
const FIRST_OF_SITE: usize = 6;

/// Neighbours in its own site that a server hears of, on each of two sides.
const NEIGHBOURS_A_SIDE: usize = 10;

/// Between two look-ups of who takes part, in milliseconds.
const LOOK_UP_MS: u64 = 20_000;

/// How long one waits for a connection to a machine that does not answer, in microseconds.
const CONNECT_US: u64 = 2_000_000;

/// How long it takes to notice that a connection broke, in microseconds.
const BROKEN_US: u64 = 1_000_000;

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

/// One server's part.
#[derive(Debug)]
struct Part {
    swarm: Option<Box<Swarm>>,
    /// What lies verified on its disk, while no core knows it.
    on_disk: Option<HaveSet>,
    ignores_halts: bool,
    complete: bool,
    /// How it treats others; `None`: as it should.
    manner: Option<Manner>,
    /// Chunks that it said it is fetching for others: whoever listens later is told.
    taking: BTreeSet<u32>,
    /// Its requests to the origin.
    of_earth: BTreeMap<u32, Item>,
    /// Of whom its core has heard.
    knows: Vec<u32>,
    /// Who listens to it, to whom it listens, and with whom it is connected: each in order.
    listeners: Vec<u32>,
    hears: Vec<u32>,
    links: Vec<u32>,
    alarm: Option<u64>,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Swarming {
    parts: Vec<Part>,
    pub(crate) links: Links,
    pub(crate) earth: Earth,
    /// Whether somebody treats others as nobody should.
    pub(crate) hostile: bool,
    /// The mistake of a mutant: the coordinator takes no halt either.
    halts_ignored: bool,
    numbers: BTreeMap<PeerKey, u32>,
    sites: Vec<SiteId>,
    earth_site: SiteId,
    origin: PeerKey,
    /// Those of each site that take part, in the order in which they become gateways.
    live: Vec<BTreeSet<(u64, u32)>>,
    /// Each server's place in that order.
    orders: Vec<u64>,
    /// Those that still lack something.
    wanting: BTreeSet<u32>,
    /// Members of each site, and each server's place among them.
    members: Vec<Vec<u32>>,
    places: Vec<u32>,
    frames: Vec<u32>,
    manifest_bytes: u64,
}

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
        let order = |machine: &Machine| draw("swarm gateway", &[&NEW.0, &machine.peer.0]);
        let part = || Part {
            swarm: None,
            on_disk: None,
            ignores_halts: false,
            complete: false,
            manner: None,
            taking: BTreeSet::new(),
            of_earth: BTreeMap::new(),
            knows: Vec::new(),
            listeners: Vec::new(),
            hears: Vec::new(),
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
            parts: seats.iter().map(|_| part()).collect(),
            links: Links::new(options, seats),
            numbers: numbers.chain([(origin, ORIGIN)]).collect(),
            hostile: false,
            halts_ignored: false,
            earth: Earth::new(&scenario.links.earth),
            earth_site: "earth".parse().expect("a valid name"),
            live: vec![BTreeSet::new(); sites.len()],
            orders: documents.servers.iter().map(order).collect(),
            wanting: BTreeSet::new(),
            sites,
            origin,
            members,
            places,
            frames: frames.collect(),
            manifest_bytes: manifest_bytes(scenario),
        }
    }

    /// Whom a server hears of: the first of each site, as gossip tells everyone, and neighbours in its own. Whoever
    /// is its neighbour has it as a neighbour.
    fn view(&self, server: usize, seat: &Seat) -> Vec<u32> {
        let firsts = self.live.iter().flat_map(|live| live.iter().take(FIRST_OF_SITE));
        let mut view: Vec<u32> =
            firsts.map(|(_, number)| *number).chain(self.neighbours(server, seat)).collect();
        view.sort_unstable();
        view.dedup();
        view.retain(|number| *number as usize != server);
        view
    }

    fn neighbours(&self, server: usize, seat: &Seat) -> impl Iterator<Item = u32> + '_ {
        let (members, site) = (&self.members[seat.site], seat.site as u64);
        let (count, place) = (members.len(), self.places[server] as usize);
        (1..=NEIGHBOURS_A_SIDE).flat_map(move |side| {
            // Steps of different lengths, so that news crosses a large site in few of them.
            let drawn = keyed(side as u64, site, 0, 0) % count as u64;
            let step = 1 + usize::try_from(drawn).unwrap_or(0);
            [members[(place + step) % count], members[(place + count - step % count) % count]]
        })
    }

    /// Makes a server treat others so, from now on.
    pub(crate) fn turn(&mut self, server: usize, manner: Manner) {
        self.parts[server].manner = Some(manner);
        self.hostile = true;
    }

    /// The mistake of a mutant: whoever downloads when a halt comes never takes one.
    pub(crate) fn ignores_halts(&mut self, server: usize) -> bool {
        let part = &mut self.parts[server];
        part.ignores_halts |= part.swarm.is_some();
        part.ignores_halts
    }

    /// The same of the coordinator, while anybody downloads.
    pub(crate) fn drowns_halts(&mut self) -> bool {
        self.halts_ignored |= !self.wanting.is_empty();
        self.halts_ignored
    }

    fn takes_part(&self, number: u32, site: usize) -> bool {
        self.live[site].contains(&(self.orders[number as usize], number))
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
        if part.manner == Some(Manner::Lies) {
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
    fn swarm_looks_up(&mut self, server: usize) {
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
        }
    }

    fn introduce(&mut self, to: usize, whom: usize) {
        let (hears, other) = (&self.swarming.parts[to], small(whom));
        let known = hears.swarm.is_none() || hears.knows.binary_search(&other).is_ok();
        let there = self.swarming.takes_part(other, self.servers[whom].seat.site);
        if known || !there || self.route(small(to), other).is_none() {
            return;
        }
        put_in(&mut self.swarming.parts[to].knows, other);
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
        let mut haves = Vec::new();
        while let Some(effect) =
            self.swarming.parts[server].swarm.as_mut().and_then(|swarm| swarm.poll_effect())
        {
            if !matches!(effect, Effect::AnnounceHave { .. }) {
                self.announce_haves(server, &mut haves);
            }
            match effect {
                Effect::Connect { peer } => self.swarm_connects(server, peer),
                Effect::Disconnect { peer } => self.swarm_cuts_off(server, peer),
                Effect::Banned { .. } => {}
                Effect::Cancel { request } => {
                    let (to, life, request) = (small(server), self.life_of(server), numbered(request));
                    let arrives = self.swarming.earth.arrives_us(self.at_us);
                    if let Some(item) = self.swarming.parts[server].of_earth.remove(&request) {
                        self.earth_over(server, item);
                        self.put_at_us(arrives, Event::EarthGivenUp { to, life, request });
                    }
                }
                Effect::Unsubscribe { .. } => {
                    for other in std::mem::take(&mut self.swarming.parts[server].hears) {
                        self.swarm_message(server, other, |from| Event::Unsubscribed { to: other, by: from });
                    }
                }
                Effect::Subscribe { peer, .. } => {
                    let to = self.swarming.numbers[&peer];
                    put_in(&mut self.swarming.parts[server].hears, to);
                    self.swarm_message(server, to, |from| Event::Subscribed { to, by: from });
                }
                Effect::Fetch { request, item, peer, .. } => {
                    self.swarm_fetches(server, request, item, self.swarming.numbers[&peer]);
                }
                // Several in a row go into one message.
                Effect::AnnounceHave { chunk, .. } => haves.push(chunk),
                Effect::AnnounceTaking { chunk, .. } => self.announce(server, Word::Taking(chunk)),
                Effect::AnnounceLeft { chunk, .. } => self.announce(server, Word::Left(chunk)),
                Effect::Complete { .. } => {
                    // What is complete needs no core any more: it gives whatever is asked for.
                    self.swarming.parts[server].complete = true;
                    self.swarm_completes(server);
                }
            }
        }
        self.announce_haves(server, &mut haves);
        if self.swarming.parts[server].complete {
            self.swarming.parts[server].swarm = None;
            self.swarming.wanting.remove(&small(server));
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
        let route = self.swarming.links.route(a, b);
        let cut = |number: u32| {
            let server = number as usize;
            number != ORIGIN
                && (self.is_cut_off(server)
                    || route != Route::Within && self.is_site_cut(self.servers[server].seat.site))
        };
        (!cut(a) && !cut(b)).then_some(route)
    }

    /// Sends a word or a request of a few bytes.
    fn swarm_message(&mut self, from: usize, to: u32, event: impl FnOnce(u32) -> Event) {
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

    /// What was said got no answer: the connection is given up, and made anew when it can be.
    fn swarm_breaks(&mut self, a: u32, b: u32) {
        self.earth_seen.disturbed_us = Some(self.at_us);
        if self.swarming.parts[a as usize].links.binary_search(&b).is_ok() {
            self.unlink(a, b);
            for (at, whom) in [(a, b), (b, a)] {
                self.put_at_us(self.at_us + BROKEN_US, Event::Unlinked { at, whom });
            }
        }
    }

    fn announce_haves(&mut self, from: usize, chunks: &mut Vec<u32>) {
        if !chunks.is_empty() {
            self.announce(from, Word::Haves(std::mem::take(chunks)));
        }
    }

    fn announce(&mut self, from: usize, word: Word) {
        let taking = &mut self.swarming.parts[from].taking;
        match &word {
            Word::Taking(chunk) => {
                taking.insert(*chunk);
            }
            Word::Have(chunk) | Word::Left(chunk) => {
                taking.remove(chunk);
            }
            Word::Haves(chunks) => taking.retain(|chunk| !chunks.contains(chunk)),
            Word::HaveSet(_) | Word::Standing { .. } | Word::Nothing => {}
        }
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
            None => {
                // Whoever is cut off cannot be asked what it has.
                if lives {
                    self.earth_seen.disturbed_us = Some(self.at_us);
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
                for of in [&mut part.links, &mut part.listeners, &mut part.hears] {
                    take_out(of, other);
                }
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
            (Some(Manner::Lies), _) => Word::HaveSet(HaveSet::full(chunks)),
            _ if part.complete => Word::HaveSet(HaveSet::full(chunks)),
            (_, Some(swarm)) => swarm.have(NEW).map_or(Word::Nothing, |have| Word::Standing {
                have: have.clone(),
                taking: part.taking.iter().copied().collect(),
            }),
            (_, None) => Word::Nothing,
        };
        if !part.complete {
            put_in(&mut part.listeners, by);
        }
        let word = Arc::new(word);
        self.swarm_message(to as usize, by, |from| Event::Said { to: by, from, word });
    }

    pub(crate) fn unsubscribed(&mut self, to: u32, by: u32) {
        take_out(&mut self.swarming.parts[to as usize].listeners, by);
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

    fn swarm_asks_earth(&mut self, transfer: Transfer) {
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

    fn earth_over(&mut self, server: usize, item: Item) {
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

    fn chunks_had(&self, server: usize) -> u32 {
        let part = &self.swarming.parts[server];
        let progress = part.swarm.as_ref().and_then(|swarm| swarm.progress(NEW));
        if part.complete { self.swarming.chunks() } else { progress.map_or(0, |progress| progress.chunks.0) }
    }

    fn life_of(&self, server: usize) -> u32 {
        u32::try_from(self.servers[server].life).expect("a server has few lives")
    }

    /// A pack was made from a manifest that has just come.
    pub(crate) fn pack_opened(&mut self, server: usize, life: u32) {
        let part = &self.swarming.parts[server];
        let waits = part.swarm.as_ref().is_some_and(|swarm| swarm.have(NEW).is_none());
        if waits && self.life_of(server) == life {
            self.swarm_opened(server, HaveSet::empty(self.swarming.chunks()));
        }
    }

    /// A network half is up again: what lies complete on its disk can be had from it.
    pub(crate) fn swarm_returns(&mut self, server: usize) {
        if self.swarming.parts[server].complete {
            self.swarm_shows(server);
        }
    }

    /// A network half died: its connections break, and what lies on its disk stays.
    pub(crate) fn swarm_dies(&mut self, server: usize) {
        self.earth_seen.disturbed_us = Some(self.at_us);
        let part = &mut self.swarming.parts[server];
        if let Some(swarm) = part.swarm.take() {
            part.on_disk = swarm.have(NEW).cloned();
        }
        part.alarm = None;
        part.knows.clear();
        part.taking.clear();
        part.of_earth.clear();
        let (number, site) = (small(server), self.servers[server].seat.site);
        self.swarming.wanting.remove(&number);
        self.swarming.live[site].remove(&(self.swarming.orders[server], number));
        for other in self.swarming.parts[server].links.clone() {
            self.unlink(small(server), other);
            self.put_at_us(self.at_us + BROKEN_US, Event::Unlinked { at: other, whom: small(server) });
        }
    }
}

fn numbered(request: RequestId) -> u32 {
    u32::try_from(request.0).expect("one life makes fewer requests")
}

fn put_in(numbers: &mut Vec<u32>, number: u32) {
    if let Err(place) = numbers.binary_search(&number) {
        numbers.insert(place, number);
    }
}

fn take_out(numbers: &mut Vec<u32>, number: u32) {
    if let Ok(place) = numbers.binary_search(&number) {
        numbers.remove(place);
    }
}

fn small(number: usize) -> u32 {
    u32::try_from(number).expect("a fleet has fewer servers")
}
