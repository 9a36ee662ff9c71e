//! The world: one clock, one queue, and everything in it.
//!
//! Owns [`World`] and the loop. Main invariant: after every durable change anywhere, the invariants hold on the
//! world's truth; the first violation ends the run. Refuses to decide anything that a core decides.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lunar_common::document::SignedDocument;
use lunar_common::ids::{Epoch, Fence, ServerId};
use lunar_common::phase::Phase;

use crate::chance::{Chance, Purpose};
use crate::coordinator::Host;
use crate::documents::Documents;
use crate::event::Event;
use crate::faults::{Edges, Papers};
use crate::invariants::{self, Violation};
use crate::measure::{Figures, Measure, Series};
use crate::observe::{Nobody, Observer, Snapshot};
use crate::options::{Mutant, Options};
use crate::queue::Queue;
use crate::scenario::{Seat, Span};
use crate::server::Server;
use crate::swarming::Swarming;
use crate::trace::Trace;
use crate::truth::Truth;

/// How often everyone compares documents with the others, in milliseconds.
const SYNC_MS: u64 = 15_000;

/// How often the coordinator's store is copied, in milliseconds.
const BACKUP_MS: u64 = 25_000;

/// Between two snapshots for those who look on, in events.
const SNAPSHOT_EVERY: u64 = 65_536;

/// How a run ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The hash of all that happened.
    pub trace: u64,
    /// Lines in the trace.
    pub lines: u64,
    /// Events that happened.
    pub events: u64,
    /// When everything had settled, in milliseconds.
    pub settled_ms: u64,
    /// Servers on the new version.
    pub completed: usize,
    /// Servers back on the old one.
    pub back: usize,
    /// Rare things that happened in it: over many runs each must happen somewhere.
    pub sometimes: BTreeSet<&'static str>,
    /// Faults that were left out, by their names in the [atlas](crate::faults::atlas).
    pub masked: BTreeSet<&'static str>,
    /// What it comes to in numbers.
    pub figures: Figures,
    /// The same over time.
    pub series: Series,
}

/// Everything.
#[derive(Debug)]
pub struct World {
    pub(crate) options: Options,
    pub(crate) documents: Documents,
    pub(crate) chance: Chance,
    queue: Box<dyn Queue<Event>>,
    /// Now, in microseconds: chunks are faster than milliseconds.
    pub(crate) at_us: u64,
    /// Now, in milliseconds.
    pub(crate) at_ms: u64,
    pub(crate) host: Host,
    pub(crate) servers: Vec<Server>,
    /// Members of each group.
    pub(crate) groups: Vec<Vec<usize>>,
    pub(crate) calls: u64,
    /// Documents that people gave out: whoever lacks one is told again.
    pub(crate) published: Vec<Arc<SignedDocument>>,
    /// Servers that may lack one of them.
    pub(crate) lagging: BTreeSet<usize>,
    pub(crate) stops: u64,
    pub(crate) faulty: bool,
    /// Faults that wait for a message or an effect to come by.
    pub(crate) edges: Edges,
    /// What people have given out.
    pub(crate) papers: Papers,
    /// How many transitions each server had made when all was healed.
    pub(crate) healed: Vec<u64>,
    /// Holders that do nothing with their lease, and since when.
    pub(crate) idle_since: BTreeMap<usize, u64>,
    /// Since when somebody waits while nothing is held.
    pub(crate) starved_since: Option<u64>,
    /// Faults that were left out, by their names in the atlas.
    pub(crate) masked: BTreeSet<&'static str>,
    /// Below these numbers the coordinator must never fall: those of its log when it was last restored.
    pub(crate) restored_floor: (Epoch, Fence),
    /// Servers whose lease a restored coordinator has forgotten.
    pub(crate) forgotten: BTreeSet<usize>,
    /// Servers whose power is gone for good, and those that people put out.
    pub(crate) lost: BTreeSet<usize>,
    pub(crate) truth: Truth,
    pub(crate) swarming: Swarming,
    pub(crate) earth_seen: invariants::s12_earth::Seen,
    pub(crate) measure: Measure,
    /// How often a server was checked.
    pub(crate) checks: u64,
    pub(crate) trace: Trace,
    pub(crate) violation: Option<Violation>,
    /// Rare things that have happened.
    pub(crate) sometimes: BTreeSet<&'static str>,
    pub(crate) told: Told,
}

/// Lines that somebody who looks on wants.
#[derive(Debug, Default)]
pub(crate) struct Told {
    all: bool,
    servers: BTreeSet<usize>,
    lines: Vec<(Option<usize>, String)>,
}

impl World {
    /// A world in which nothing has happened yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        // Every machine here checks the same documents, and half of a small world's time would go into that.
        lunar_common::signed_before::remember_in_this_thread();
        let scenario = options.scenario.clone();
        let seats = scenario.seats();
        let wide = options.mutant.is_some_and(Mutant::widens_limits);
        let documents = Documents::new(&options.written(), &seats, wide);
        let names = documents.servers.iter().map(|machine| machine.server.clone());
        let servers: Vec<Server> = seats
            .iter()
            .zip(names)
            .enumerate()
            .map(|(at, (seat, name))| Server::new(at, name, *seat))
            .collect();
        let mut world = Self {
            host: Host::new(documents.all.clone(), scenario.report_interval_s, &scenario.stop),
            chance: Chance::new(options.seed, servers.len() + 1),
            queue: options.queue.make(),
            groups: members_of_groups(&seats),
            truth: Truth::new(&options, &seats),
            earth_seen: invariants::s12_earth::Seen::default(),
            swarming: Swarming::new(&options, &documents, &seats),
            measure: Measure::new(&scenario, &seats),
            servers,
            options,
            documents,
            at_us: 0,
            at_ms: 0,
            calls: 0,
            published: Vec::new(),
            lagging: BTreeSet::new(),
            stops: 0,
            faulty: true,
            edges: Edges::default(),
            papers: Papers::default(),
            healed: Vec::new(),
            idle_since: BTreeMap::new(),
            starved_since: None,
            masked: BTreeSet::new(),
            restored_floor: (Epoch(0), Fence(0)),
            forgotten: BTreeSet::new(),
            lost: BTreeSet::new(),
            checks: 0,
            trace: Trace::default(),
            violation: None,
            sometimes: BTreeSet::new(),
            told: Told::default(),
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        self.put_at(0, Event::CoordinatorUp);
        for server in 0..self.servers.len() {
            // A large fleet does not start within one millisecond.
            let turn = server as u64 / 50;
            self.put_at(10 + turn, Event::ApplierUp { server, boot: 1 });
            self.put_at(20 + turn, Event::NodeUp { server, boot: 1 });
        }
        let plan = Arc::new(self.documents.plan.clone());
        if self.documents.plan_is_known() {
            self.put_at(1, Event::CoordinatorDocument { document: plan.clone() });
        }
        self.published.push(plan);
        self.put_at(2_000, Event::Sync);
        let faulty_ms = self.options.scenario.faulty_ms();
        if faulty_ms > 0 {
            self.put_at(BACKUP_MS, Event::BackUp);
        }
        self.plan_faults();
        self.put_at(faulty_ms, Event::FaultsEnd);
    }

    /// Runs until everything has settled, or something is violated.
    ///
    /// # Errors
    /// The [`Violation`].
    pub fn run(self) -> Result<Outcome, Box<Violation>> {
        self.run_with(&mut Nobody)
    }

    /// The same with somebody who looks on.
    ///
    /// # Errors
    /// The [`Violation`].
    pub fn run_with(mut self, observer: &mut dyn Observer) -> Result<Outcome, Box<Violation>> {
        self.told.all = observer.wants(None);
        self.told.servers = (0..self.servers.len()).filter(|server| observer.wants(Some(*server))).collect();
        let bound_ms = self.options.scenario.faulty_ms() + invariants::l1_settles::bound_ms(&self.options);
        let mut events = 0;
        while self.violation.is_none() {
            if !self.faulty && invariants::l1_settles::is_settled(&self) {
                return self.settled(events, observer);
            }
            let Some((at_us, event)) = self.queue.pop() else { break };
            (self.at_us, self.at_ms) = (at_us, at_us / 1_000);
            if self.at_ms > bound_ms {
                self.violation = Some(invariants::l1_settles::not_settled(&self));
                break;
            }
            events += 1;
            self.trace.event(at_us, event.mark());
            self.happen(event);
            self.check_event(events);
            for (server, text) in self.told.lines.drain(..) {
                observer.line(server, self.at_ms, &text);
            }
            if events.is_multiple_of(SNAPSHOT_EVERY) {
                observer.progress(&self.snapshot(events));
            }
        }
        Err(self.violated(events))
    }

    fn snapshot(&self, events: u64) -> Snapshot {
        Snapshot {
            at_ms: self.at_ms,
            events,
            servers: self.servers.len(),
            ended: self.measure.ended(),
            down: self.measure.down(),
        }
    }

    fn settled(mut self, events: u64, observer: &mut dyn Observer) -> Result<Outcome, Box<Violation>> {
        self.recount();
        if self.violation.is_none() {
            self.violation = invariants::l1_settles::wrong_end(&self)
                .or_else(|| invariants::s11_audit::check_end(&self))
                .or_else(|| invariants::s16_bounds::check_end(&self, events));
        }
        if self.violation.is_some() {
            return Err(self.violated(events));
        }
        observer.progress(&self.snapshot(events));
        let ended = |phase: Phase| {
            let journals = self.servers.iter().filter_map(|server| server.journal.as_ref());
            journals
                .filter(|journal| {
                    !journal.finished.is_empty() && journal.finished.values().all(|end| end.phase == phase)
                })
                .count()
        };
        let completed = ended(Phase::Complete);
        let back = self.servers.len() - completed;
        self.tell_checks();
        let (figures, series) = self.measure.finish(&self.options.scenario, self.at_ms, events);
        Ok(Outcome {
            trace: self.trace.hash,
            lines: self.trace.count,
            events,
            settled_ms: self.at_ms,
            completed,
            back,
            sometimes: self.sometimes,
            masked: self.masked,
            figures,
            series,
        })
    }

    fn violated(mut self, events: u64) -> Box<Violation> {
        self.tell_checks();
        let measured = self.measure.finish(&self.options.scenario, self.at_ms, events);
        let mut violation = self.violation.expect("a run ends settled or violated");
        violation.measured = Some(Box::new(measured));
        violation.trace_hash = self.trace.hash;
        violation.at_ms = self.at_ms;
        violation.options = Some(self.options);
        violation.trace = self.trace.last();
        Box::new(violation)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::NodeUp { server, boot } if self.servers[server].boot == boot => self.node_up(server),
            Event::ApplierUp { server, boot } if self.servers[server].boot == boot => self.applier_up(server),
            // The machine lost its power meanwhile: another start is on its way.
            Event::NodeUp { .. } | Event::ApplierUp { .. } => {}
            Event::CoordinatorUp => self.coordinator_up(),
            Event::NodeAlarm { server } => self.node_alarm(server),
            Event::ApplierAlarm { server } => self.applier_alarm(server),
            Event::CoordinatorAlarm => self.coordinator_alarm(),
            Event::Arrives(arrival) => {
                let (request, caller) = *arrival;
                if self.is_mute(caller.server) {
                    self.give_up(caller);
                } else {
                    self.arrives(request, caller);
                }
            }
            Event::Reply { server, life, call, input } => {
                self.replied(server as usize, u64::from(life), call, *input);
            }
            Event::Node { server, life, input } => {
                if self.servers[server].life == life && self.servers[server].node.is_some() {
                    self.feed_node(server, *input);
                }
            }
            Event::Grant { server, grant } => self.grant_arrives(server, *grant),
            Event::Announced { server, epoch } => {
                self.feed_node(server, lunar_agent_core::input::Input::CoordinatorHeard { epoch });
            }
            Event::Document { server, document } => self.document_arrives(server, &document),
            Event::CoordinatorDocument { document } => self.coordinator_takes(&document),
            Event::GroupAsked { server, question } => self.group_asked(server, question.0, question.1),
            Event::AskApplier { server, question } => self.ask_applier(server, *question),
            Event::StepEnded { server, life, run } => self.step_ended(server, life, run),
            Event::SwarmAlarm { server } => self.swarm_alarm(server),
            Event::Linked { a, b } => self.linked(a, b),
            Event::NotLinked { from, to } => self.not_linked(from, to),
            Event::Unlinked { at, whom } => self.unlinked(at, whom),
            Event::Subscribed { to, by, takings } => self.subscribed(to, by, takings),
            Event::Unsubscribed { to, by } => self.unsubscribed(to, by),
            Event::LookUp { server, life } => self.look_up(server as usize, life),
            Event::EarthAsked(transfer) => self.earth_asked(transfer),
            Event::EarthGivenUp { to, life, request } => self.earth_given_up(to, life, request),
            Event::EarthSent => self.earth_sent(),
            Event::Said { to, from, word } => self.said(to, from, word),
            Event::Delivered(transfer) => self.delivered(transfer),
            Event::PackOpened { server, life } => self.pack_opened(server as usize, life),
            Event::Sync => self.sync(),
            Event::BackUp => {
                self.back_up();
                if self.faulty {
                    self.put_in(BACKUP_MS, Event::BackUp);
                }
            }
            Event::Strike(strike) => self.strike(*strike),
            Event::FaultsEnd => self.end_faults(),
        }
    }

    fn coordinator_alarm(&mut self) {
        let now = self.coordinator_now();
        if self.host.alarm != Some(self.at_ms) {
            return;
        }
        self.host.alarm = None;
        let Some(core) = &mut self.host.core else { return };
        if core.poll_timeout().is_some_and(|due| due <= now.moment) {
            core.handle_timeout(now);
        }
        self.carry_out_coordinator();
    }

    /// Everyone compares documents with the people's: a lost one comes again. Looks only at those who may lack
    /// one: they started, or something was given out, since they were last found to hold all.
    fn sync(&mut self) {
        let published: Vec<_> = self.published.iter().map(|document| document.hash()).collect();
        for server in self.lagging.clone() {
            let Some(node) = &self.servers[server].node else { continue };
            let held = node.trust().hashes();
            let given_out = published.iter().zip(&self.published);
            let lacking: Vec<_> = given_out
                .filter(|(hash, _)| !held.contains(hash))
                .map(|(_, document)| document.clone())
                .collect();
            if lacking.is_empty() {
                self.lagging.remove(&server);
            }
            for document in lacking {
                self.send(server, Event::Document { server, document });
            }
        }
        if self.host.lagging {
            self.host.lagging = self.host.core.is_none();
            for document in self.published.clone() {
                self.put_in(1, Event::CoordinatorDocument { document });
            }
        }
        self.write_off_the_lost();
        self.go_on_after_pauses();
        self.check_now_and_then();
        self.put_in(SYNC_MS, Event::Sync);
    }

    /// People give a document out.
    pub(crate) fn publish(&mut self, document: SignedDocument) {
        let document = Arc::new(document);
        self.published.push(document.clone());
        self.lagging.extend(0..self.servers.len());
        self.host.lagging = true;
        for server in 0..self.servers.len() {
            self.send(server, Event::Document { server, document: document.clone() });
        }
        self.put_in(1, Event::CoordinatorDocument { document });
    }

    /// The names of those that are down.
    pub(crate) fn down(&self) -> impl Iterator<Item = &str> {
        self.servers.iter().filter(|server| server.is_down()).map(|server| server.name.as_str())
    }

    pub(crate) fn name(&self, server: usize) -> &ServerId {
        &self.servers[server].name
    }

    /// How long something takes, in milliseconds.
    pub(crate) fn takes(&mut self, span: Span, server: usize, purpose: Purpose) -> u64 {
        self.chance.between(span.low_ms, span.high_ms, server, purpose)
    }

    pub(crate) fn put_at(&mut self, at_ms: u64, event: Event) {
        self.queue.put((at_ms * 1_000).max(self.at_us), event);
    }

    pub(crate) fn put_at_us(&mut self, at_us: u64, event: Event) {
        self.queue.put(at_us, event);
    }

    pub(crate) fn put_in(&mut self, in_ms: u64, event: Event) {
        self.queue.put(self.at_us + in_ms * 1_000, event);
    }

    /// A line about no server.
    pub(crate) fn note(&mut self, text: &str) {
        self.trace.line(self.at_ms, text);
        if self.told.all {
            self.told.lines.push((None, text.to_owned()));
        }
    }

    /// A line about a server.
    pub(crate) fn note_of(&mut self, server: usize, text: &str) {
        self.trace.line(self.at_ms, &format!("{server} {text}"));
        if self.told.all || self.told.servers.contains(&server) {
            self.told.lines.push((Some(server), text.to_owned()));
        }
    }
}

fn members_of_groups(seats: &[Seat]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (server, seat) in seats.iter().enumerate() {
        if let Some(group) = seat.group {
            if groups.len() <= group {
                groups.resize_with(group + 1, Vec::new);
            }
            groups[group].push(server);
        }
    }
    groups
}
