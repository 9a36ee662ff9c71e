//! What rounds of probes add up to over time.
//!
//! Owns the watch over a new version: settle, then soak. Main invariant: inconclusive never passes; the new
//! version is called healthy only by a healthy round at or after the end of the soak, with no more failures in
//! a row before it than the plan allows. Refuses to probe: the shell does.

use std::time::Duration;

use lunar_common::health::{Outcome, Verdict, When};
use lunar_common::ids::ProbeName;
use lunar_common::plan::HealthPlan;
use lunar_common::time::Moment;

/// Between two rounds while a service settles: most start within a second or two, and every second counts as
/// down time.
const SETTLE_ROUND: Duration = Duration::from_millis(500);

/// The watch over a new version, from the switch to the end of its soak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    settle_until: Moment,
    soak_until: Option<Moment>,
    failures_in_a_row: u32,
}

/// What to do after a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// Ask again at this moment.
    Again(Moment),
    /// Healthy for the whole soak.
    Healthy,
    /// Not healthy: go back.
    Sick {
        /// Why.
        cause: String,
    },
}

impl Watch {
    /// Begins right after the switch.
    #[must_use]
    pub fn begin(health: &HealthPlan, now: Moment) -> Self {
        Self {
            settle_until: now.after(Duration::from_secs(health.settle_s.into())),
            soak_until: None,
            failures_in_a_row: 0,
        }
    }

    /// Which probes the next round asks. A plan without soak probes soaks with those for after the switch.
    #[must_use]
    pub fn next_round(&self, health: &HealthPlan) -> When {
        let has_soak = health.probes.iter().any(|probe| probe.when.contains(&When::Soak));
        if self.soak_until.is_some() && has_soak { When::Soak } else { When::After }
    }

    /// Takes in one round.
    pub fn judge(
        &mut self,
        health: &HealthPlan,
        outcomes: &[(ProbeName, Outcome)],
        now: Moment,
    ) -> Judgement {
        let verdict = Verdict::over(outcomes.iter().map(|(_, outcome)| outcome));
        match (verdict, self.soak_until) {
            (Verdict::Healthy, None) if health.soak_s == 0 => Judgement::Healthy,
            (Verdict::Healthy, None) => {
                let end = now.after(Duration::from_secs(health.soak_s.into()));
                self.soak_until = Some(end);
                Judgement::Again(next_soak_round(health, end, now))
            }
            (Verdict::Healthy, Some(end)) if now >= end => Judgement::Healthy,
            (Verdict::Healthy, Some(end)) => {
                self.failures_in_a_row = 0;
                Judgement::Again(next_soak_round(health, end, now))
            }
            (Verdict::Inconclusive | Verdict::Unhealthy, None) => {
                if now >= self.settle_until {
                    let cause = format!("not healthy {} s after the switch: ", health.settle_s);
                    return Judgement::Sick { cause: cause + &complaint(outcomes) };
                }
                Judgement::Again(now.after(SETTLE_ROUND).min(self.settle_until))
            }
            (Verdict::Inconclusive | Verdict::Unhealthy, Some(end)) => {
                self.failures_in_a_row += 1;
                if self.failures_in_a_row > health.failures_allowed {
                    let cause = format!("{} round(s) in a row failed in the soak: ", self.failures_in_a_row);
                    return Judgement::Sick { cause: cause + &complaint(outcomes) };
                }
                Judgement::Again(next_soak_round(health, end, now))
            }
        }
    }
}

/// The soak's last round falls on its end; after that, rounds go on at the interval until one decides.
fn next_soak_round(health: &HealthPlan, end: Moment, now: Moment) -> Moment {
    let next = now.after(Duration::from_secs(health.interval_s.max(1).into()));
    if now < end { next.min(end) } else { next }
}

/// The first thing that was not healthy, for people.
#[must_use]
pub fn complaint(outcomes: &[(ProbeName, Outcome)]) -> String {
    let worst = |wanted: fn(&Outcome) -> bool| outcomes.iter().find(|(_, outcome)| wanted(outcome));
    let found = worst(|outcome| matches!(outcome, Outcome::Unhealthy { .. }))
        .or_else(|| worst(|outcome| matches!(outcome, Outcome::Inconclusive { .. })));
    match found {
        Some((probe, Outcome::Unhealthy { found })) => format!("probe {probe} found {found}"),
        Some((probe, Outcome::Inconclusive { reason })) => format!("probe {probe} could not tell: {reason}"),
        Some((_, Outcome::Healthy)) => "all probes healthy".into(),
        None if outcomes.is_empty() => "there was nothing to probe".into(),
        None => "all probes healthy".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_settles_and_stays_healthy_through_the_soak_passes_at_its_end() {
        let plan = plan(20, 0);
        let mut watch = Watch::begin(&plan, Moment(0));
        assert_eq!(watch.next_round(&plan), When::After);
        assert_eq!(watch.judge(&plan, &[bad()], Moment(100)), Judgement::Again(Moment(600)));
        assert_eq!(watch.judge(&plan, &[good()], Moment(600)), Judgement::Again(Moment(8600)));
        assert_eq!(watch.next_round(&plan), When::Soak);
        assert_eq!(watch.judge(&plan, &[good()], Moment(8600)), Judgement::Again(Moment(16_600)));
        assert_eq!(watch.judge(&plan, &[good()], Moment(16_600)), Judgement::Again(Moment(20_600)));
        assert_eq!(watch.judge(&plan, &[good()], Moment(20_600)), Judgement::Healthy);
    }

    #[test]
    fn inconclusive_is_patience_while_settling_and_sickness_after() {
        let plan = plan(20, 0);
        for outcomes in [vec![unknown()], vec![]] {
            let mut watch = Watch::begin(&plan, Moment(0));
            assert!(matches!(watch.judge(&plan, &outcomes, Moment(9_999)), Judgement::Again(_)));
            assert!(matches!(watch.judge(&plan, &outcomes, Moment(10_000)), Judgement::Sick { .. }));
            let mut watch = Watch::begin(&plan, Moment(0));
            watch.judge(&plan, &[good()], Moment(0));
            assert!(matches!(watch.judge(&plan, &outcomes, Moment(8_000)), Judgement::Sick { .. }));
        }
    }

    #[test]
    fn failures_in_a_row_are_counted_and_a_healthy_round_forgives_them() {
        let plan = plan(60, 1);
        let mut watch = Watch::begin(&plan, Moment(0));
        watch.judge(&plan, &[good()], Moment(0));
        assert!(matches!(watch.judge(&plan, &[bad()], Moment(8_000)), Judgement::Again(_)));
        assert!(matches!(watch.judge(&plan, &[good()], Moment(16_000)), Judgement::Again(_)));
        assert!(matches!(watch.judge(&plan, &[bad()], Moment(24_000)), Judgement::Again(_)));
        let sick = watch.judge(&plan, &[good(), bad()], Moment(32_000));
        assert_eq!(
            sick,
            Judgement::Sick { cause: "2 round(s) in a row failed in the soak: probe http found 503".into() }
        );
    }

    #[test]
    fn a_failure_tolerated_at_the_soaks_end_still_needs_a_healthy_round_to_pass() {
        let plan = plan(8, 1);
        let mut watch = Watch::begin(&plan, Moment(0));
        watch.judge(&plan, &[good()], Moment(0));
        assert_eq!(watch.judge(&plan, &[bad()], Moment(8_000)), Judgement::Again(Moment(16_000)));
        assert_eq!(watch.judge(&plan, &[good()], Moment(16_000)), Judgement::Healthy);
    }

    fn good() -> (ProbeName, Outcome) {
        (ProbeName::new("http").unwrap(), Outcome::Healthy)
    }

    fn bad() -> (ProbeName, Outcome) {
        (ProbeName::new("http").unwrap(), Outcome::Unhealthy { found: "503".into() })
    }

    fn unknown() -> (ProbeName, Outcome) {
        (ProbeName::new("http").unwrap(), Outcome::Inconclusive { reason: "timed out".into() })
    }

    fn plan(soak_s: u32, failures_allowed: u32) -> HealthPlan {
        use lunar_common::health::{Probe, ProbeKind};
        let probe = Probe {
            name: ProbeName::new("http").unwrap(),
            when: vec![When::Before, When::After, When::Soak],
            timeout_s: 1,
            kind: ProbeKind::Unit { unit: "web.service".into() },
        };
        HealthPlan { probes: vec![probe], soak_s, interval_s: 8, settle_s: 10, failures_allowed }
    }
}
