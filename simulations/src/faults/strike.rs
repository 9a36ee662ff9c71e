//! The carrying out of a plan of faults, and the end of all faults.
//!
//! Owns what each strike does to the world. Main invariant: a strike changes the network, a machine, its power or
//! what people say, and never the state inside a core. Refuses to strike once the faults have ended.

use lunar_common::document::Kind;

use super::edges::{CrashAt, Edges, Interval};
use super::plan::{Manner, Strike, Way};
use crate::documents::{ends_pauses, stop};
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
            Strike::Partition { server, way, for_ms } => {
                let at = &mut self.servers[server];
                if way != Way::From {
                    at.deaf_until = now + for_ms;
                }
                if way != Way::To {
                    at.mute_until = now + for_ms;
                }
            }
            Strike::SiteIsolated { site, for_ms } => {
                self.edges.isolated.insert(site, now + for_ms);
            }
            Strike::CoordinatorCrash { edge, skip, for_ms } => {
                self.edges.coordinator = Some((edge, skip, for_ms));
            }
            Strike::RestoredBackup { age } => self.restore_backup(age),
            Strike::TwoCoordinators { for_ms } => self.double_the_coordinator(for_ms),
            Strike::CoordinatorDiskFull { for_ms } => self.edges.coordinator_full_until = now + for_ms,
            Strike::AgentCrash { server, edge, skip, for_ms } => {
                self.servers[server].node_crash = Some(CrashAt { edge, skip, for_ms, step_done: false });
            }
            Strike::ApplierCrash { server, edge, skip, step_done, for_ms } => {
                self.servers[server].applier_crash = Some(CrashAt { edge, skip, for_ms, step_done });
            }
            Strike::DiskFull { server, for_ms } => self.servers[server].disk_full_until = now + for_ms,
            Strike::BitFlip { server } => self.flip_a_bit(server),
            Strike::Reboot { server, step_done, for_ms } => self.reboot(server, step_done, for_ms),
            Strike::WrongSlot { server, for_ms } => self.boot_the_wrong_slot(server, for_ms),
            Strike::NeverComesBack { server } => self.lose(server),
            Strike::HostilePeer { server, manner } => {
                self.swarming.turn(server, manner);
                self.sometimes.insert(match manner {
                    Manner::Corrupt => "a server sent corrupt frames",
                    Manner::Lies => "a server lied about what it has",
                    Manner::Silent => "a server answered nobody",
                    Manner::Slow => "a server answered too late",
                    Manner::Takes => "a server said that it fetches what it does not",
                });
            }
            Strike::Outage { server, for_ms } => {
                let at = &mut self.servers[server];
                (at.broken_from, at.broken_until) = (now, now + for_ms);
            }
            Strike::BadRelease { server, after_ms: None } => self.servers[server].bad_release = true,
            Strike::BadRelease { server, after_ms } => self.servers[server].fails_late_ms = after_ms,
            Strike::FlappingProbes { server, per_10_000, for_ms } => {
                self.servers[server].flapping = Interval::new(per_10_000, now + for_ms);
            }
            Strike::Halt => self.publish_stop(Kind::Halt),
            Strike::Resume => self.publish_stop(Kind::Resume),
            Strike::NewPlan => self.publish_plan(),
            Strike::KeyRotation => self.rotate_keys(),
            Strike::WrongGroup { server } => self.map_wrongly(server),
            Strike::Revocation { server } => self.revoke(server),
            Strike::ClockStep { server: Some(server), by_s } => self.servers[server].clock.step(by_s),
            Strike::ClockStep { server: None, by_s } => self.edges.coordinator_clock.step(by_s),
            Strike::ClockDrift { server, ppm } => {
                self.servers[server].clock.drift(now, ppm);
                self.set_alarms_again(server);
            }
        }
    }

    /// A clock that now goes at another rate rings at other times.
    fn set_alarms_again(&mut self, server: usize) {
        self.carry_out_node(server);
        let _ = self.carry_out_applier(server);
    }

    fn publish_stop(&mut self, kind: Kind) {
        self.stops += 1;
        if kind == Kind::Halt {
            self.measure.halted();
        }
        let document = stop(kind, self.stops, self.papers.signer);
        self.published.retain(|other| !matches!(other.kind, Kind::Halt | Kind::Resume) || ends_pauses(other));
        self.publish(document);
    }

    /// From here on nothing goes wrong any more: everyone is up or comes up, hears everyone, and nothing is
    /// halted. Releases that do not work go on not working, except where one failed after its commit: people
    /// mend that. What is lost stays lost, and clocks stay wrong.
    pub(crate) fn end_faults(&mut self) {
        self.faulty = false;
        self.note("faults end");
        let coordinator_clock = self.edges.coordinator_clock;
        self.edges = Edges { coordinator_clock, ..Edges::default() };
        for server in &mut self.servers {
            (server.deaf_until, server.mute_until) = (0, 0);
            (server.disk_full_until, server.broken_until) = (0, 0);
            (server.node_crash, server.applier_crash) = (None, None);
            server.flapping = Interval::default();
            // What failed after it was committed takes a slot and holds its group back until a person mends it.
            // A run without a time of faults is about just that, and nobody comes.
            if self.options.scenario.faulty_ms() > 0 {
                server.fails_late_ms = None;
            }
        }
        let made =
            |server: &crate::server::Server| server.journal.as_ref().map_or(0, |kept| kept.transitions_next);
        self.healed = self.servers.iter().map(made).collect();
        self.map_rightly();
        // Nobody need end what nobody began. A small fleet takes the document in anyway, and in a large one, to take it
        // in 20,000 times shows no more than that.
        if self.stops > 0 || !self.documents.plan_is_known() {
            self.publish_stop(Kind::Resume);
        }
    }
}
