//! The swarm: each server's own core, what it is connected to, and the carrying out of its effects.
//!
//! Owns [`Swarming`], the shell of all swarm cores. Main invariant: a chunk is a number, and whoever has it has it
//! because it travelled to it over a link; everything about who asks whom for what is decided by the cores. Whom a server
//! hears of is in `meeting`, who is connected with whom in `connections`, what they say in `words`, and what becomes of
//! requests in `transfers`.

mod connections;
mod meeting;
mod transfers;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use lunar_agent_core::input::{FetchProgress, Input as NodeInput};
use lunar_agent_core::swarm::{Effect, Input, Item, RequestId, Swarm, Word};
use lunar_common::have_set::HaveSet;
use lunar_common::ids::{PeerKey, SiteId};
use lunar_common::order::draw;

use crate::documents::{Documents, Machine, NEW, manifest_bytes};
use crate::earth::Earth;
use crate::event::Event;
use crate::faults::Manner;
use crate::links::Links;
use crate::options::Options;
use crate::scenario::Seat;
use crate::world::World;

pub(crate) use transfers::Transfer;

/// The number under which the origin goes where servers have theirs.
pub(crate) const ORIGIN: u32 = u32::MAX;

pub(crate) use connections::CONNECT_US;
pub(crate) use meeting::LOOK_UP_MS;

/// How long it takes to notice that a connection broke, in microseconds.
pub(crate) const BROKEN_US: u64 = 1_000_000;

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
    /// Its requests to the origin.
    of_earth: BTreeMap<u32, Item>,
    /// Of whom its core has heard.
    knows: Vec<u32>,
    /// Who listens to it, to whom it listens, and with whom it is connected: each in order.
    listeners: Vec<u32>,
    /// Those of the listeners who hear what it is fetching for others, in order.
    followers: Vec<u32>,
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
            of_earth: BTreeMap::new(),
            knows: Vec::new(),
            listeners: Vec::new(),
            followers: Vec::new(),
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
                Effect::Subscribe { peer, takings, .. } => {
                    let to = self.swarming.numbers[&peer];
                    put_in(&mut self.swarming.parts[server].hears, to);
                    self.swarm_message(server, to, |from| Event::Subscribed { to, by: from, takings });
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

    fn life_of(&self, server: usize) -> u32 {
        u32::try_from(self.servers[server].life).expect("a server has few lives")
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
