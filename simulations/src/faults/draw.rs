//! The drawing of a run's plan of faults from its seed.
//!
//! Owns [`FaultPlan::draw`]. Main invariant: each kind draws for itself, so that turning one kind off leaves the
//! strikes of every other kind as they were. Refuses to strike in the last moments of the faulty time: what
//! begins then would only be healed at once.

use std::collections::BTreeSet;

use lunar_common::order::draw_below;

use super::kinds::Fault;
use super::plan::{CoordinatorEdge, FaultPlan, Strike};
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
        for kind in kinds {
            let name = format!("{kind:?}");
            let mut draws = Draws { seed, kind: &name, count: 0 };
            plan.draw_kind(*kind, servers, faulty_ms, &mut draws);
        }
        plan
    }

    fn draw_release(&mut self, seed: u64, scenario: &Scenario) {
        let mut draws = Draws { seed, kind: "release", count: 0 };
        let fails = scenario.release.fails.in_million();
        if fails == 0 {
            return;
        }
        for server in 0..scenario.servers() {
            if draws.below(1_000_000) < fails {
                self.add(0, Strike::BadRelease { server });
            }
        }
    }

    fn draw_kind(&mut self, kind: Fault, servers: usize, faulty_ms: u64, draws: &mut Draws<'_>) {
        let more = servers / SERVERS_A_STRIKE;
        let times = match kind {
            Fault::Loss | Fault::Duplication | Fault::Delay => 3,
            Fault::Partition | Fault::Reboot => 4 + more,
            Fault::AgentCrash | Fault::ApplierCrash => 12 + more,
            Fault::CoordinatorCrash => 8,
            Fault::Halt | Fault::RestoredBackup => 2,
            Fault::FlappingProbes => 6 + more,
            Fault::BadRelease => {
                for server in 0..servers {
                    if draws.below(3) == 0 {
                        self.add(0, Strike::BadRelease { server });
                    }
                }
                return;
            }
        };
        for _ in 0..times {
            self.draw_one(kind, servers, faulty_ms, draws);
        }
    }

    fn draw_one(&mut self, kind: Fault, servers: usize, faulty_ms: u64, draws: &mut Draws<'_>) {
        let at = draws.between(0, faulty_ms.saturating_sub(20_000).max(1));
        let server = draws.index(servers);
        // Short ones hit in the middle of things; every third outlasts what others wait for.
        let most_ms = if draws.below(3) == 0 { 300_000 } else { 40_000 };
        let for_ms = draws.between(1_000, most_ms);
        let per_10_000 = 200 + draws.small(2_000);
        let what = match kind {
            Fault::Loss => Strike::Loss { per_10_000, for_ms },
            Fault::Duplication => Strike::Duplication { per_10_000, for_ms },
            Fault::Delay => Strike::Delay { per_10_000, most_ms: 5_000, for_ms },
            Fault::Partition => Strike::Partition { server, for_ms },
            Fault::CoordinatorCrash => {
                let edge = match draws.below(4) {
                    0 => CoordinatorEdge::BeforeAppend,
                    1 => CoordinatorEdge::AfterAppend,
                    2 => CoordinatorEdge::BeforeSend,
                    _ => CoordinatorEdge::AfterSend,
                };
                Strike::CoordinatorCrash { edge, skip: draws.small(12), for_ms: for_ms.min(60_000) }
            }
            Fault::RestoredBackup => Strike::RestoredBackup { age: draws.index(3) },
            Fault::AgentCrash => Strike::AgentCrash { server, skip: draws.small(40), for_ms },
            Fault::ApplierCrash => {
                let (skip, step_done) = (draws.small(12), draws.coin());
                Strike::ApplierCrash { server, skip, step_done, for_ms }
            }
            Fault::Reboot => Strike::Reboot { server, step_done: draws.coin(), for_ms },
            Fault::FlappingProbes => Strike::FlappingProbes { server, per_10_000, for_ms },
            Fault::Halt => {
                self.add(at + for_ms, Strike::Resume);
                Strike::Halt
            }
            Fault::BadRelease => Strike::BadRelease { server },
        };
        self.add(at, what);
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
