//! The network between everyone, and requests over it.
//!
//! Owns the sending of messages and the pairing of requests with their answers. Main invariant: a request is
//! answered at most once, by its answer or by the end of patience, and only in the life that asked; everything
//! else may be lost, late, doubled and out of order. The end of patience is put into the queue only where it will
//! be needed: where a message was lost, came too late, or met nobody.

use lunar_agent_core::input::{AskId, Input};
use lunar_common::ids::LeaseId;
use lunar_common::lease::{Claim, Release};
use lunar_common::message::Report;

use crate::chance::Purpose;
use crate::event::Event;
use crate::world::World;

/// How long an agent waits for the answer to a request, in milliseconds.
const PATIENCE_MS: u64 = 10_000;

/// What agents ask the coordinator.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Claim(Claim),
    Release(Release),
    Report(Box<Report>),
    GroupMembers { ask: AskId },
}

/// What a request was about: its answer says it again.
#[derive(Debug, Clone, Copy)]
pub(crate) enum About {
    Claim { nonce: u64 },
    Release { lease: LeaseId },
    Report { number: u64 },
    Members { ask: AskId },
    Member { ask: AskId, member: usize },
}

/// Who waits for an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) server: usize,
    pub(crate) life: u64,
    pub(crate) call: u64,
    pub(crate) about: About,
    /// When its patience ends.
    until_ms: u64,
}

impl World {
    /// Sends something between a server and another machine. When it arrives; `None`: never.
    pub(crate) fn send(&mut self, server: usize, event: Event) -> Option<u64> {
        let lost = self.edges.loss.rate(self.at_ms);
        if self.is_cut_off(server)
            || self.is_far_from_coordinator(server)
            || self.chance.happens(lost, server, Purpose::Loss)
        {
            return None;
        }
        let way = self.way_ms(server);
        let doubled = self.edges.duplication.rate(self.at_ms);
        if self.chance.happens(doubled, server, Purpose::Duplication) {
            let again = self.way_ms(server) + self.chance.below(3_000, server, Purpose::DuplicateLag);
            self.put_in(again, event.clone());
        }
        self.put_in(way, event);
        Some(self.at_ms + way)
    }

    /// The coordinator stands in the first site.
    fn way_ms(&mut self, server: usize) -> u64 {
        let late = self.edges.delay.rate(self.at_ms);
        if self.chance.happens(late, server, Purpose::Delay) {
            return self.chance.between(40, self.edges.delay_most_ms.max(41), server, Purpose::LongWay);
        }
        let links = &self.options.scenario.links;
        let near = self.servers[server].seat.site == 0;
        let span = if near { links.site.latency_ms } else { links.between.latency_ms };
        self.chance.between(span.low, span.high, server, Purpose::Way)
    }

    pub(crate) fn is_cut_off(&self, server: usize) -> bool {
        self.servers[server].partitioned_until > self.at_ms
    }

    /// Whether the coordinator, which stands in the first site, can be reached from a server's site.
    fn is_far_from_coordinator(&self, server: usize) -> bool {
        let site = self.servers[server].seat.site;
        site != 0 && [0, site].iter().any(|site| self.swarming.is_cut(*site, self.at_us))
    }

    /// A node asks the coordinator.
    pub(crate) fn ask_coordinator(&mut self, server: usize, request: Request, about: About) {
        let caller = self.call(server, about);
        if self.send(server, Event::Arrives(Box::new((request, caller)))).is_none() {
            self.give_up(caller);
        }
    }

    /// A new request of a node.
    pub(crate) fn call(&mut self, server: usize, about: About) -> Caller {
        self.calls += 1;
        let at = &mut self.servers[server];
        at.pending.push(self.calls);
        Caller { server, life: at.life, call: self.calls, about, until_ms: self.at_ms + PATIENCE_MS }
    }

    /// Nobody will answer, or too late: the caller's patience ends at its time.
    pub(crate) fn give_up(&mut self, caller: Caller) {
        let none = match caller.about {
            About::Claim { nonce } => Input::ClaimAnswered { nonce, answer: None },
            About::Release { lease } => Input::ReleaseAnswered { lease, kept: false },
            About::Report { number } => Input::ReportAnswered { number, answer: None },
            About::Members { ask } => Input::GroupMembers { ask, members: None },
            About::Member { ask, member } => {
                Input::GroupAnswered { ask, member: self.name(member).clone(), answer: None }
            }
        };
        let Caller { server, life, call, until_ms, .. } = caller;
        self.put_at(until_ms, Event::reply(server, life, call, none));
    }

    /// The coordinator answers.
    pub(crate) fn reply(&mut self, to: Caller, input: Input) {
        let Caller { server, life, call, until_ms, .. } = to;
        let arrives = self.send(server, Event::reply(server, life, call, input));
        if arrives.is_none_or(|at_ms| at_ms > until_ms) {
            self.give_up(to);
        }
    }

    /// An answer, or the end of patience, reaches its node: whichever is first.
    pub(crate) fn replied(&mut self, server: usize, life: u64, call: u64, input: Input) {
        let at = &mut self.servers[server];
        if at.life != life || at.node.is_none() {
            return;
        }
        let Some(place) = at.pending.iter().position(|waiting| *waiting == call) else { return };
        at.pending.swap_remove(place);
        self.feed_node(server, input);
    }
}
