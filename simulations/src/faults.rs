//! The faults that come at a time of their own, and their end.
//!
//! Owns [`Strike`] and the plan of a run's faults. Main invariant: the plan is drawn before the run begins, from
//! the seed alone. What strikes between two effects is drawn where the effect is carried out. Refuses to strike
//! where the design does not claim to survive: a backup is never put back within the life of a message.

use lunar_common::document::Kind;

use crate::documents::stop;
use crate::options::Fault;
use crate::world::{Event, World};

/// A fault at its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strike {
    Partition { server: usize, for_ms: u64 },
    CoordinatorCrash { for_ms: u64 },
    RestoredBackup,
    AgentCrash { server: usize, for_ms: u64 },
    ApplierCrash { server: usize },
    Reboot { server: usize, for_ms: u64 },
    Halt,
    Resume,
}

impl World {
    /// Draws the plan of this run.
    pub(crate) fn plan_faults(&mut self) {
        for server in 0..self.servers.len() {
            let bad = self.chance.below(3, server, "bad-release") == 0;
            self.servers[server].bad_release = bad && self.options.faults.contains(&Fault::BadRelease);
        }
        for fault in self.options.faults.clone() {
            let (count, entity) = match fault {
                Fault::Partition | Fault::AgentCrash | Fault::ApplierCrash | Fault::Reboot => (4, 1),
                Fault::CoordinatorCrash => (3, 2),
                Fault::Halt => (2, 3),
                Fault::RestoredBackup => (2, 4),
                Fault::Loss
                | Fault::Duplication
                | Fault::Delay
                | Fault::BadRelease
                | Fault::FlappingProbes => (0, 5),
            };
            for _ in 0..count {
                self.plan_one(fault, entity);
            }
        }
    }

    fn plan_one(&mut self, fault: Fault, entity: usize) {
        let servers = self.servers.len() as u64;
        let at = self.chance.between(10_000, self.options.faulty_ms - 20_000, entity, "strike-at");
        let server = usize::try_from(self.chance.below(servers, entity, "strike-whom")).expect("few servers");
        let for_ms = self.chance.between(2_000, 120_000, entity, "strike-for");
        let strike = match fault {
            Fault::Partition => Strike::Partition { server, for_ms },
            Fault::CoordinatorCrash => Strike::CoordinatorCrash { for_ms: for_ms / 2 },
            Fault::RestoredBackup => Strike::RestoredBackup,
            Fault::AgentCrash => Strike::AgentCrash { server, for_ms },
            Fault::ApplierCrash => Strike::ApplierCrash { server },
            Fault::Reboot => Strike::Reboot { server, for_ms },
            Fault::Halt => {
                self.put_at(at + for_ms, Event::Strike(Strike::Resume));
                Strike::Halt
            }
            Fault::Loss | Fault::Duplication | Fault::Delay | Fault::BadRelease | Fault::FlappingProbes => {
                unreachable!("these have no time of their own")
            }
        };
        self.put_at(at, Event::Strike(strike));
    }

    pub(crate) fn strike(&mut self, strike: Strike) {
        if !self.faulty {
            return;
        }
        self.note(&format!("strike: {strike:?}"));
        match strike {
            Strike::Partition { server, for_ms } => {
                self.servers[server].partitioned_until = self.at_ms + for_ms;
            }
            Strike::CoordinatorCrash { for_ms } => self.kill_coordinator(for_ms),
            Strike::RestoredBackup => self.restore_backup(),
            Strike::AgentCrash { server, for_ms } => self.kill_node(server, for_ms),
            Strike::ApplierCrash { server } => self.kill_applier(server),
            Strike::Reboot { server, for_ms } => self.reboot(server, for_ms),
            Strike::Halt => self.publish_stop(Kind::Halt),
            Strike::Resume => self.publish_stop(Kind::Resume),
        }
    }

    fn reboot(&mut self, server: usize, for_ms: u64) {
        let done = self.chance.below(2, server, "step-done") == 0;
        self.servers[server].reboot(self.at_ms, done);
        let boot = self.servers[server].boot;
        // Either half may be there first.
        let (node, applier) = (
            self.chance.below(2_000, server, "node-first"),
            self.chance.below(2_000, server, "applier-first"),
        );
        self.put_in(for_ms + node, Event::NodeUp { server, boot });
        self.put_in(for_ms + applier, Event::ApplierUp { server, boot });
    }

    fn publish_stop(&mut self, kind: Kind) {
        self.stops += 1;
        let document = stop(kind, self.stops);
        self.published.retain(|other| !matches!(other.kind, Kind::Halt | Kind::Resume));
        self.published.push(document.clone());
        for server in 0..self.servers.len() {
            self.send(server, 99, Event::Document { server, document: document.clone() });
        }
        self.put_in(1, Event::CoordinatorDocument { document });
    }

    /// From here on nothing goes wrong any more: everyone is up or comes up, hears everyone, and nothing is
    /// halted. Releases that do not work go on not working.
    pub(crate) fn end_faults(&mut self) {
        self.faulty = false;
        self.note("faults end");
        for server in &mut self.servers {
            server.partitioned_until = 0;
        }
        self.publish_stop(Kind::Resume);
    }
}
