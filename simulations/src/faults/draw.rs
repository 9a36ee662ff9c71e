//! The drawing of a run's plan of faults from its seed.
//!
//! Owns [`FaultPlan::draw`]. Main invariant: each kind draws for itself, so that turning one kind off leaves the
//! strikes of every other kind as they were. Refuses to strike in the last moments of the faulty time: what
//! begins then would only be healed at once.

use std::collections::BTreeSet;

use lunar_common::order::draw_below;

use super::kinds::Fault;
use super::plan::{CoordinatorEdge, FaultPlan, Manner, Planned, ProcessEdge, Strike, Way};
use crate::scenario::Scenario;

/// Servers for which a kind of fault that hits servers strikes once more.
const SERVERS_A_STRIKE: usize = 50;

/// The draws of one kind of fault.
struct Draws<'a> {
    seed: u64,
    kind: &'a str,
    count: u64,
}

impl Draws<'_> {
    fn below(&mut self, bound: u64) -> u64 {
        self.count += 1;
        let parts = [&self.seed.to_le_bytes()[..], self.kind.as_bytes(), &self.count.to_le_bytes()];
        draw_below(bound, "fault-plan", &parts)
    }

    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low))
    }

    fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).expect("an index below a length")
    }

    fn small(&mut self, bound: u32) -> u32 {
        u32::try_from(self.below(u64::from(bound))).expect("below a small bound")
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
}

impl FaultPlan {
    /// The plan of one run of a scenario: its kinds of fault, its release, and what it says goes wrong anyway.
    #[must_use]
    pub fn draw(seed: u64, scenario: &Scenario) -> Self {
        let mut kinds = Fault::drawn(seed, scenario.faults.probability.in_million());
        kinds.extend(&scenario.faults.on);
        Self::draw_kinds(seed, scenario, &kinds)
    }

    /// The plan of one run with exactly these kinds of fault, and what the scenario says goes wrong anyway.
    #[must_use]
    pub fn draw_kinds(seed: u64, scenario: &Scenario, kinds: &BTreeSet<Fault>) -> Self {
        let mut plan = Self::none();
        plan.draw_release(seed, scenario);
        plan.draw_hostile(seed, scenario);
        let (servers, faulty_ms) = (scenario.servers(), scenario.faulty_ms());
        if faulty_ms == 0 || servers == 0 {
            return plan;
        }
        if let Some(flaps) = scenario.faults.coordinator_flaps {
            let (every_ms, for_ms) = (flaps.every_s.max(1) * 1_000, flaps.down_s * 1_000);
            for number in 1..=faulty_ms / every_ms {
                let edge = CoordinatorEdge::BeforeSend;
                plan.add(number * every_ms, Strike::CoordinatorCrash { edge, skip: 0, for_ms });
            }
        }
        let sites = scenario.site_names();
        for lost in &scenario.faults.site_lost {
            if let Some(site) = sites.iter().position(|site| *site == lost.site) {
                plan.add(lost.from_s * 1_000, Strike::SiteIsolated { site, for_ms: lost.for_s * 1_000 });
            }
        }
        for kind in kinds {
            let name = format!("{kind:?}");
            let mut draws = Draws { seed, kind: &name, count: 0 };
            plan.draw_kind(*kind, scenario, &mut draws);
        }
        plan
    }

    /// How the new release does on each server is drawn for each by itself.
    fn draw_release(&mut self, seed: u64, scenario: &Scenario) {
        let release = &scenario.release;
        let (fails, late) = (release.fails.in_million(), release.fails_late.in_million());
        if fails == 0 && late == 0 && release.fails_on_hardware.is_none() {
            return;
        }
        let after_ms = release.fails_late_after_s.map(|after_s| u64::from(after_s) * 1_000);
        let (mut never, mut later) =
            (Draws { seed, kind: "release", count: 0 }, Draws { seed, kind: "release-late", count: 0 });
        for (server, seat) in scenario.seats().iter().enumerate() {
            let model = scenario.fleet.hardware.get(seat.hardware).map(|hardware| &hardware.model);
            let by_hardware =
                release.fails_on_hardware.is_some() && release.fails_on_hardware.as_ref() == model;
            let (never, later) = (never.below(1_000_000) < fails, later.below(1_000_000) < late);
            if by_hardware || never {
                self.strikes.push(Planned { at_ms: 0, what: Strike::BadRelease { server, after_ms: None } });
            } else if later && after_ms.is_some() {
                self.strikes.push(Planned { at_ms: 0, what: Strike::BadRelease { server, after_ms } });
            }
        }
    }

    /// The share of hostile servers that the scenario says, each drawn for itself.
    fn draw_hostile(&mut self, seed: u64, scenario: &Scenario) {
        let share = scenario.peers.hostile.in_million();
        let mut draws = Draws { seed, kind: "hostile", count: 0 };
        for server in 0..if share == 0 { 0 } else { scenario.servers() } {
            let (drawn, manner) = (draws.below(1_000_000), manner(&mut draws));
            if drawn < share {
                self.strikes.push(Planned { at_ms: 0, what: Strike::HostilePeer { server, manner } });
            }
        }
    }

    fn draw_kind(&mut self, kind: Fault, scenario: &Scenario, draws: &mut Draws<'_>) {
        let servers = scenario.servers();
        let more = servers / SERVERS_A_STRIKE;
        let times = match kind {
            Fault::Loss | Fault::Duplication | Fault::Delay => 3,
            Fault::Partition | Fault::Reboot | Fault::DiskFull | Fault::WrongSlot | Fault::Outage => 4 + more,
            Fault::AgentCrash | Fault::ApplierCrash => 12 + more,
            Fault::FlappingProbes | Fault::BitFlip | Fault::ClockStep => 8 + more,
            Fault::ClockDrift => 3 + more,
            Fault::CoordinatorCrash => 8,
            Fault::Halt | Fault::RestoredBackup | Fault::TwoCoordinators | Fault::CoordinatorDiskFull => 2,
            Fault::SiteIsolated | Fault::WrongGroupMap | Fault::NeverComesBack => 1 + more / 4,
            Fault::NewPlan | Fault::KeyRotation | Fault::Revocation => 1,
            // A third of them at most, wherever the next draw begins.
            Fault::HostilePeers => {
                let first = draws.index(servers);
                for number in 0..servers / 3 {
                    let (server, manner) = ((first + number * 3) % servers, manner(draws));
                    self.add(draws.below(scenario.faulty_ms() / 2), Strike::HostilePeer { server, manner });
                }
                return;
            }
            Fault::BadRelease | Fault::LateFailure => {
                for server in 0..servers {
                    if draws.below(3) == 0 {
                        let late = kind == Fault::LateFailure;
                        let after_ms = late.then(|| draws.between(1_000, 60_000));
                        self.add(0, Strike::BadRelease { server, after_ms });
                    }
                }
                return;
            }
        };
        for _ in 0..times {
            self.draw_one(kind, scenario, draws);
        }
    }

    fn draw_one(&mut self, kind: Fault, scenario: &Scenario, draws: &mut Draws<'_>) {
        let at = draws.between(0, scenario.faulty_ms().saturating_sub(20_000).max(1));
        let server = draws.index(scenario.servers());
        // Short ones hit in the middle of things; every third outlasts what others wait for.
        let most_ms = if draws.below(3) == 0 { 300_000 } else { 40_000 };
        let for_ms = draws.between(1_000, most_ms);
        let per_10_000 = 200 + draws.small(2_000);
        let what = match kind {
            Fault::Loss => Strike::Loss { per_10_000, for_ms },
            Fault::Duplication => Strike::Duplication { per_10_000, for_ms },
            Fault::Delay => Strike::Delay { per_10_000, most_ms: 5_000, for_ms },
            Fault::Partition => {
                let way = [Way::Both, Way::To, Way::From][draws.index(3)];
                Strike::Partition { server, way, for_ms }
            }
            Fault::SiteIsolated => {
                Strike::SiteIsolated { site: draws.index(scenario.fleet.site.len()), for_ms }
            }
            Fault::CoordinatorCrash => {
                let edge = [
                    CoordinatorEdge::BeforeAppend,
                    CoordinatorEdge::AfterAppend,
                    CoordinatorEdge::BeforeSend,
                    CoordinatorEdge::AfterSend,
                ][draws.index(4)];
                Strike::CoordinatorCrash { edge, skip: draws.small(12), for_ms: for_ms.min(60_000) }
            }
            Fault::RestoredBackup => Strike::RestoredBackup { age: draws.index(3) },
            Fault::TwoCoordinators => Strike::TwoCoordinators { for_ms },
            Fault::CoordinatorDiskFull => Strike::CoordinatorDiskFull { for_ms: for_ms.min(60_000) },
            Fault::AgentCrash => {
                let edge = process_edge(draws);
                Strike::AgentCrash { server, edge, skip: skipped(edge, draws), for_ms }
            }
            Fault::ApplierCrash => {
                let edge = process_edge(draws);
                let (skip, step_done) = (skipped(edge, draws) / 3, draws.coin());
                Strike::ApplierCrash { server, edge, skip, step_done, for_ms }
            }
            Fault::DiskFull => Strike::DiskFull { server, for_ms },
            Fault::BitFlip => Strike::BitFlip { server },
            Fault::Reboot => Strike::Reboot { server, step_done: draws.coin(), for_ms },
            Fault::WrongSlot => Strike::WrongSlot { server, for_ms },
            Fault::NeverComesBack => Strike::NeverComesBack { server },
            Fault::Outage => Strike::Outage { server, for_ms },
            Fault::HostilePeers => Strike::HostilePeer { server, manner: manner(draws) },
            Fault::BadRelease | Fault::LateFailure => Strike::BadRelease { server, after_ms: None },
            Fault::FlappingProbes => Strike::FlappingProbes { server, per_10_000, for_ms },
            Fault::Halt => {
                self.add(at + for_ms, Strike::Resume);
                Strike::Halt
            }
            Fault::NewPlan => Strike::NewPlan,
            Fault::KeyRotation => Strike::KeyRotation,
            Fault::WrongGroupMap => Strike::WrongGroup { server },
            Fault::Revocation => Strike::Revocation { server },
            Fault::ClockStep => {
                let by_s = i64::try_from(draws.below(7_201)).expect("two hours") - 3_600;
                Strike::ClockStep { server: (draws.below(4) > 0).then_some(server), by_s }
            }
            Fault::ClockDrift => {
                let ppm = i64::try_from(draws.below(1_001)).expect("a thousand") - 500;
                Strike::ClockDrift { server, ppm }
            }
        };
        self.add(at, what);
    }
}

fn manner(draws: &mut Draws<'_>) -> Manner {
    [Manner::Corrupt, Manner::Lies, Manner::Silent, Manner::Slow, Manner::Takes][draws.index(5)]
}

fn process_edge(draws: &mut Draws<'_>) -> ProcessEdge {
    [ProcessEdge::Effect, ProcessEdge::TornWrite, ProcessEdge::AfterWrite][draws.index(3)]
}

/// A node writes about every fourth effect.
fn skipped(edge: ProcessEdge, draws: &mut Draws<'_>) -> u32 {
    match edge {
        ProcessEdge::Effect => draws.small(40),
        ProcessEdge::TornWrite | ProcessEdge::AfterWrite => draws.small(12),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turning_a_kind_off_leaves_the_others_strikes_as_they_were() {
        let all = FaultPlan::draw_kinds(9, &Scenario::small(9), &Fault::ALL.into());
        let mut fewer: BTreeSet<Fault> = Fault::ALL.into();
        fewer.remove(&Fault::Reboot);
        let mut left = all.strikes.clone();
        left.retain(|planned| !matches!(planned.what, Strike::Reboot { .. }));
        assert_eq!(FaultPlan::draw_kinds(9, &Scenario::small(9), &fewer).strikes, left);
    }
}
