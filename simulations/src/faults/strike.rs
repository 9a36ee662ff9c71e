//! The carrying out of a plan of faults, and the end of all faults.
//!
//! Owns what each strike does to the world. Main invariant: a strike changes the network, a machine, its power or
//! what people say, and never the state inside a core. Refuses to strike once the faults have ended.

use lunar_common::document::Kind;

use super::edges::{CrashAt, Edges, Interval};
use super::plan::Strike;
use crate::chance::Purpose;
use crate::documents::stop;
use crate::event::Event;
use crate::world::World;

impl World {
    /// Puts the plan of this run into the queue.
    pub(crate) fn plan_faults(&mut self) {
        for number in 0..self.options.faults.strikes.len() {
            let planned = self.options.faults.strikes[number];
            self.put_at(planned.at_ms, Event::Strike(Box::new(planned.what)));
        }
    }

    pub(crate) fn strike(&mut self, strike: Strike) {
        if !self.faulty {
            return;
        }
        self.note(&format!("strike: {strike:?}"));
        let now = self.at_ms;
        match strike {
            Strike::Loss { per_10_000, for_ms } => {
                self.edges.loss = Interval::new(per_10_000, now + for_ms);
            }
            Strike::Duplication { per_10_000, for_ms } => {
                self.edges.duplication = Interval::new(per_10_000, now + for_ms);
            }
            Strike::Delay { per_10_000, most_ms, for_ms } => {
                self.edges.delay = Interval::new(per_10_000, now + for_ms);
                self.edges.delay_most_ms = most_ms;
            }
            Strike::Partition { server, for_ms } => self.servers[server].partitioned_until = now + for_ms,
            Strike::CoordinatorCrash { edge, skip, for_ms } => {
                self.edges.coordinator = Some((edge, skip, for_ms));
            }
            Strike::RestoredBackup { age } => self.restore_backup(age),
            Strike::AgentCrash { server, skip, for_ms } => {
                self.servers[server].node_crash = Some(CrashAt { skip, for_ms, step_done: false });
            }
            Strike::ApplierCrash { server, skip, step_done, for_ms } => {
                self.servers[server].applier_crash = Some(CrashAt { skip, for_ms, step_done });
            }
            Strike::Reboot { server, step_done, for_ms } => self.reboot(server, step_done, for_ms),
            Strike::BadRelease { server } => self.servers[server].bad_release = true,
            Strike::FlappingProbes { server, per_10_000, for_ms } => {
                self.servers[server].flapping = Interval::new(per_10_000, now + for_ms);
            }
            Strike::Halt => self.publish_stop(Kind::Halt),
            Strike::Resume => self.publish_stop(Kind::Resume),
        }
    }

    fn reboot(&mut self, server: usize, step_done: bool, for_ms: u64) {
        self.servers[server].reboot(self.at_ms, step_done);
        self.swarm_dies(server);
        self.check(server);
        let boot = self.servers[server].boot;
        // Either half may be there first.
        let (node, applier) = (
            self.chance.below(2_000, server, Purpose::NodeFirst),
            self.chance.below(2_000, server, Purpose::ApplierFirst),
        );
        self.put_in(for_ms + node, Event::NodeUp { server, boot });
        self.put_in(for_ms + applier, Event::ApplierUp { server, boot });
    }

    fn publish_stop(&mut self, kind: Kind) {
        self.stops += 1;
        if kind == Kind::Halt {
            self.measure.halted();
        }
        let document = stop(kind, self.stops);
        self.published.retain(|other| !matches!(other.kind, Kind::Halt | Kind::Resume));
        self.publish(document);
    }

    /// From here on nothing goes wrong any more: everyone is up or comes up, hears everyone, and nothing is
    /// halted. Releases that do not work go on not working.
    pub(crate) fn end_faults(&mut self) {
        self.faulty = false;
        self.note("faults end");
        self.edges = Edges::default();
        for server in &mut self.servers {
            server.partitioned_until = 0;
            (server.node_crash, server.applier_crash) = (None, None);
            server.flapping = Interval::default();
        }
        self.publish_stop(Kind::Resume);
    }
}
