//! What goes wrong with one machine: its processes, its disk, its power.
//!
//! Owns the edges at which a process dies and a write fails. Main invariant: a write that did not come about ends
//! the process, as the shells' contract says; what a torn record replaces is still there, as the store promises.

use lunar_agent_core::applier::effect::Step;
use lunar_agent_core::applier::journal::Progress;

use super::edges::CrashAt;
use super::plan::ProcessEdge;
use crate::chance::Purpose;
use crate::documents::{NEW, OLD};
use crate::event::Event;
use crate::options::Mutant;
use crate::world::World;

/// After which a process that stopped by itself is started again, in milliseconds.
pub(crate) const RESTART_MS: u64 = 5_000;

impl World {
    /// A record of the network half is about to be written: whether it comes to nothing.
    pub(crate) fn node_write_fails(&mut self, server: usize) -> bool {
        if let Some(crash) = CrashAt::passes(&mut self.servers[server].node_crash, ProcessEdge::TornWrite) {
            self.sometimes.insert("a record was torn");
            self.kill_node(server, crash.for_ms);
            return true;
        }
        if self.servers[server].disk_full_until > self.at_ms {
            if self.options.mutant != Some(Mutant::IgnoresFullDisk) {
                self.sometimes.insert("an agent stopped because its disk was full");
                self.kill_node(server, RESTART_MS);
            }
            return true;
        }
        false
    }

    /// A record of the network half has just been written.
    pub(crate) fn node_written(&mut self, server: usize) {
        if let Some(crash) = CrashAt::passes(&mut self.servers[server].node_crash, ProcessEdge::AfterWrite) {
            self.kill_node(server, crash.for_ms);
        }
    }

    /// The same for the root half.
    pub(crate) fn applier_write_fails(&mut self, server: usize) -> bool {
        if let Some(crash) = CrashAt::passes(&mut self.servers[server].applier_crash, ProcessEdge::TornWrite)
        {
            self.kill_applier(server, crash);
            return true;
        }
        if self.servers[server].disk_full_until > self.at_ms {
            if self.options.mutant != Some(Mutant::IgnoresFullDisk) {
                self.sometimes.insert("an applier stopped because its disk was full");
                let edge = ProcessEdge::TornWrite;
                self.kill_applier(server, CrashAt { edge, skip: 0, for_ms: RESTART_MS, step_done: false });
            }
            return true;
        }
        false
    }

    /// The same for the root half.
    pub(crate) fn applier_written(&mut self, server: usize) {
        let armed = &mut self.servers[server].applier_crash;
        if let Some(crash) = CrashAt::passes(armed, ProcessEdge::AfterWrite) {
            self.kill_applier(server, crash);
        }
    }

    /// Whether a step fails for want of room.
    pub(crate) fn has_no_room(&self, server: usize, step: &Step) -> bool {
        matches!(step, Step::Stage(_)) && self.servers[server].disk_full_until > self.at_ms
    }

    pub(super) fn reboot(&mut self, server: usize, step_done: bool, for_ms: u64) {
        if self.servers[server].gone {
            return;
        }
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

    /// A machine comes back on what it ran before the switch.
    pub(super) fn boot_the_wrong_slot(&mut self, server: usize, for_ms: u64) {
        self.reboot(server, false, for_ms);
        let at = &mut self.servers[server];
        let committed = !is_uncommitted(at.applier_journal.work.as_ref().map(|work| &work.progress));
        if at.disk.link != Some(NEW) || at.disk.releases.get(&OLD) != Some(&true) {
            return;
        }
        if committed {
            return self.mask("boot-old-after-commit");
        }
        (at.disk.link, at.disk.service) = (Some(OLD), Some(OLD));
        self.sometimes.insert("a machine came back on the old version by itself");
        self.check(server);
    }

    /// A machine never comes back.
    pub(super) fn lose(&mut self, server: usize) {
        let lost = self.servers.iter().filter(|server| server.gone).count();
        if lost * 10 >= self.servers.len() * 3 {
            return self.mask("most-machines-lost");
        }
        if !self.servers[server].gone {
            self.servers[server].reboot(self.at_ms, false);
            self.swarm_dies(server);
            self.servers[server].gone = true;
            self.lost.insert(server);
            self.check(server);
            self.sometimes.insert("a machine never came back");
        }
    }

    /// A bit of what was staged turns.
    pub(super) fn flip_a_bit(&mut self, server: usize) {
        let at = &mut self.servers[server];
        if at.disk.releases.get(&NEW) != Some(&true) {
            return;
        }
        let begun = is_uncommitted(at.applier_journal.work.as_ref().map(|work| &work.progress));
        if begun || at.disk.link == Some(NEW) {
            return self.mask("bit-flip-in-use");
        }
        at.disk.spoil_release(NEW);
        self.sometimes.insert("a bit turned in what was staged");
    }
}

/// From the begin to the commit, and on the way back.
fn is_uncommitted(progress: Option<&Progress>) -> bool {
    match progress {
        Some(Progress::Applying { .. } | Progress::AwaitingCommit { .. } | Progress::RollingBack { .. }) => {
            true
        }
        Some(Progress::Staging { .. } | Progress::Staged | Progress::Committing { .. }) | None => false,
    }
}
