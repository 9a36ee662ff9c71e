//! The network between everyone, and requests over it.
//!
//! Owns the sending of messages and the pairing of requests with their answers. Main invariant: a request is
//! answered at most once, by its answer or by the end of patience, and only in the life that asked; everything
//! else may be lost, late, doubled and out of order.

use lunar_agent_core::input::{AskId, Input};
use lunar_common::ids::LeaseId;
use lunar_common::lease::{Claim, Release};
use lunar_common::message::Report;

use crate::world::{Event, World};

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
    Members,
}

/// Who waits for an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) server: usize,
    pub(crate) life: u64,
    pub(crate) call: u64,
    pub(crate) about: About,
}

impl World {
    /// Sends something between a server and another machine (a number that is its own entity for draws).
    pub(crate) fn send(&mut self, server: usize, other: usize, event: Event) {
        let lost = self.edges.loss.rate(self.at_ms);
        if self.is_cut_off(server) || self.chance.happens(lost, server, "loss") {
            return;
        }
        let way = self.way_ms(server + 100 * other);
        let doubled = self.edges.duplication.rate(self.at_ms);
        if self.chance.happens(doubled, server, "duplication") {
            let again = self.way_ms(server + 100 * other) + self.chance.below(3_000, server, "duplicate-lag");
            self.put_in(again, event.clone());
        }
        self.put_in(way, event);
    }

    fn way_ms(&mut self, entity: usize) -> u64 {
        let late = self.edges.delay.rate(self.at_ms);
        if self.chance.happens(late, entity, "delay") {
            self.chance.between(40, self.edges.delay_most_ms.max(41), entity, "long-way")
        } else {
            self.chance.between(1, 40, entity, "way")
        }
    }

    pub(crate) fn is_cut_off(&self, server: usize) -> bool {
        self.servers[server].partitioned_until > self.at_ms
    }

    /// A node asks the coordinator; `none` is what it gets if nobody answers.
    pub(crate) fn ask_coordinator(&mut self, server: usize, request: Request, about: About, none: Input) {
        let (call, life) = self.call(server, none);
        let caller = Caller { server, life, call, about };
        self.send(server, 0, Event::Arrives { request, caller });
    }

    /// A new request of a node, which gets `none` once its patience is over.
    pub(crate) fn call(&mut self, server: usize, none: Input) -> (u64, u64) {
        self.calls += 1;
        let (call, life) = (self.calls, self.servers[server].life);
        self.servers[server].pending.insert(call);
        self.put_in(PATIENCE_MS, Event::Reply { server, life, call, input: none });
        (call, life)
    }

    /// The coordinator answers.
    pub(crate) fn reply(&mut self, to: Caller, input: Input) {
        let Caller { server, life, call, .. } = to;
        self.send(server, 0, Event::Reply { server, life, call, input });
    }

    /// An answer, or the end of patience, reaches its node: whichever is first.
    pub(crate) fn replied(&mut self, server: usize, life: u64, call: u64, input: Input) {
        let at = &mut self.servers[server];
        if at.life == life && at.node.is_some() && at.pending.remove(&call) {
            self.feed_node(server, input);
        }
    }
}
