//! Two coordinators alive: an old life that goes on answering beside the new one.
//!
//! Owns the old life. Main invariant: the log belongs to the new life, so the old one can append nothing: it
//! answers what its memory tells it, and stops at the first thing it would have to write, as its shell must.
//! Refuses to give the old life a log of its own: see the atlas.

use lunar_coordinator_core::Coordinator;
use lunar_coordinator_core::effect::Effect;
use lunar_coordinator_core::input::{Input, RequestId};

use crate::event::Event;
use crate::network::{Caller, Request};
use crate::options::Mutant;
use crate::world::World;

/// The old life.
#[derive(Debug)]
pub(crate) struct Old {
    core: Coordinator,
    until_ms: u64,
}

impl World {
    /// A new life begins on the same log while the old one goes on.
    pub(super) fn double_the_coordinator(&mut self, for_ms: u64) {
        let Some(core) = self.host.core.take() else { return };
        self.edges.old = Some(Box::new(Old { core, until_ms: self.at_ms + for_ms }));
        self.coordinator_up();
    }

    /// Whether a request reaches the old life, which then answers it or does not.
    pub(crate) fn old_takes(&mut self, request: &Request, caller: Caller) -> bool {
        // Every second request goes astray.
        if caller.call.is_multiple_of(2) {
            return false;
        }
        let Some(mut old) = self.edges.old.take().filter(|old| old.until_ms > self.at_ms) else {
            return false;
        };
        let (id, from) = (RequestId(caller.call), self.documents.servers[caller.server].peer);
        let input = match request.clone() {
            Request::Claim(claim) => Input::Claim { request: id, from, claim },
            Request::Release(release) => Input::Release { request: id, from, release },
            Request::Report(report) => Input::Report { request: id, from, report: *report },
            Request::GroupMembers { .. } => {
                self.edges.old = Some(old);
                return false;
            }
        };
        old.core.handle(input, self.coordinator_now());
        let mut answered = false;
        while let Some(effect) = old.core.poll_effect() {
            match effect {
                Effect::Append(_) if self.options.mutant == Some(Mutant::OldCoordinatorGrants) => {}
                Effect::Append(_) => {
                    self.note("the old coordinator cannot write, and stops");
                    self.sometimes.insert("an old coordinator stopped because the log was not its own");
                    if !answered {
                        self.give_up(caller);
                    }
                    return true;
                }
                Effect::Answer { answer, .. } => {
                    self.sometimes.insert("an old coordinator answered");
                    answered = true;
                    match self.translate(caller, answer) {
                        Some(input) => self.reply(caller, input),
                        None => self.give_up(caller),
                    }
                }
                Effect::Push { to, grant, .. } => {
                    let grant = Box::new(self.sign_grant(&grant));
                    let server = self.documents.numbered(&to);
                    self.send(server, Event::Grant { server, grant });
                }
                Effect::Announce { .. } => {}
            }
        }
        if !answered {
            self.give_up(caller);
        }
        self.edges.old = Some(old);
        true
    }
}
