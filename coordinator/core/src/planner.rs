//! Whether a plan can be done at all: closed-form arithmetic over tiers, sites, clusters and groups.
//!
//! Owns the feasibility check. Main invariant: it refuses only what cannot fit even when every slot is used
//! without a gap, and says with the refusal what would fit. Refuses to promise: what fits here may still be
//! late, for servers wait for each other, for windows and for people.

use std::collections::BTreeMap;
use std::fmt;

use lunar_common::enrolment::{Enrolment, Role};
use lunar_common::lease::LimitScope;
use lunar_common::plan::Plan;
use lunar_common::time::WallTime;
use serde::Serialize;

use crate::event::{LimitTable, Member};

/// What is assumed of one server's upgrade where nothing was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Assumptions {
    /// Seconds a server is down, start to release.
    pub hold_s: u64,
    /// Seconds between a release and the next start in its slot: report, grant, and the checks before a start.
    pub hand_over_s: u64,
    /// Seconds a rollback may take; the last start must leave room for one.
    pub rollback_s: u64,
    /// Servers in ten thousand that roll back once and are tried again.
    pub failures_per_10000: u64,
}

impl Assumptions {
    /// From a plan: the time its service may take to settle, the soak, and a minute for draining, switching
    /// and restarting. Rollback is bounded by five minutes (A3); half a percent of all attempts fail (D6).
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        Self {
            hold_s: u64::from(plan.health.settle_s) + u64::from(plan.health.soak_s) + 60,
            hand_over_s: 5,
            rollback_s: 300,
            failures_per_10000: 50,
        }
    }

    /// Milliseconds that one server takes a slot, with its share of failures: each costs a rollback and the
    /// whole time once more.
    fn slot_ms(&self) -> u64 {
        let once_ms = self.hold_s.saturating_add(self.hand_over_s).saturating_mul(1000);
        let failed_ms = once_ms.saturating_add(self.rollback_s.saturating_mul(1000));
        once_ms.saturating_add(share(failed_ms, self.failures_per_10000)).max(1)
    }

    /// The longest hold whose slot time is at most this.
    fn longest_hold_s(&self, slot_ms: u64) -> u64 {
        let rollbacks_ms = share(self.rollback_s.saturating_mul(1000), self.failures_per_10000);
        let once_ms = u128::from(slot_ms.saturating_sub(rollbacks_ms)) * 10_000
            / u128::from(10_000 + self.failures_per_10000);
        u64::try_from(once_ms / 1000).unwrap_or(u64::MAX).saturating_sub(self.hand_over_s)
    }
}

fn share(of: u64, per_10000: u64) -> u64 {
    u64::try_from(u128::from(of) * u128::from(per_10000) / 10_000).unwrap_or(u64::MAX)
}

/// A plan that fits, and how tightly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Feasible {
    /// Servers selected.
    pub servers: u64,
    /// Seconds from now until the plan expires.
    pub window_s: u64,
    /// What was assumed.
    pub assumed: Assumptions,
    /// Seconds the whole campaign takes at best.
    pub finish_s: u64,
    /// The scope that takes longest.
    pub binding: LimitScope,
}

/// Why a plan cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
pub enum Infeasible {
    /// It selects nobody.
    #[error(
        "select: no enrolled server matches; {agents} servers are enrolled: loosen tiers, sites, clusters, \
         services or servers, or enrol the ones meant"
    )]
    NothingSelected {
        /// Servers that could be selected.
        agents: u64,
    },
    /// Its time is over.
    #[error("expires: {expires} has passed (it is {now}): nothing would start; set a later time")]
    Expired {
        /// The plan's end.
        expires: WallTime,
        /// The time it was checked at.
        now: WallTime,
    },
    /// Every lease would be lost.
    #[error(
        "lease.down_s_max: {down_s_max} s is less than the {hold_s} s a server is expected down \
         (settle_s + soak_s + 60): every lease would be lost; raise it or shorten the soak"
    )]
    LeaseTooShort {
        /// The plan's longest time down.
        down_s_max: u64,
        /// The time expected.
        hold_s: u64,
    },
    /// Some scopes have more work than slots.
    #[error("{}", lines(.0))]
    DoesNotFit(Vec<Shortfall>),
}

fn lines(shortfalls: &[Shortfall]) -> String {
    shortfalls.iter().map(Shortfall::to_string).collect::<Vec<_>>().join("\n")
}

/// A scope with more work than slots, and what would fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shortfall {
    /// The scope.
    pub scope: LimitScope,
    /// Servers selected in it.
    pub servers: u64,
    /// Its limit.
    pub limit: u64,
    /// Seconds of slots needed.
    pub needed_slot_s: u64,
    /// Seconds of slots there are.
    pub available_slot_s: u64,
    /// Servers that would be done in time.
    pub fit: u64,
    /// Seconds it would really take.
    pub finish_s: u64,
    /// Seconds from now until the plan expires.
    pub window_s: u64,
    /// The hold assumed, in seconds.
    pub hold_s: u64,
    /// The longest hold that fits; 0: none does.
    pub hold_that_fits_s: u64,
    /// The limit that fits; `None`: none does.
    pub limit_that_fits: Option<u64>,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scope, servers, limit, fit, .. } = self;
        write!(
            f,
            "{scope}: {servers} servers of {} down each need {} slot-hours, and {limit} slots for {} have {}: \
             {fit} would be done, all after {}. Any one of these makes it fit: ",
            duration(self.hold_s),
            tenths(self.needed_slot_s),
            duration(self.window_s),
            tenths(self.available_slot_s),
            duration(self.finish_s),
        )?;
        if self.hold_that_fits_s > 0 {
            write!(f, "{} down each; ", duration(self.hold_that_fits_s))?;
        }
        if let Some(slots) = self.limit_that_fits.filter(|slots| slots > limit) {
            write!(f, "a limit of {slots}; ")?;
        }
        write!(f, "an expiry {} from now", duration(self.finish_s))?;
        if *fit > 0 {
            write!(f, "; {fit} servers in this campaign")?;
        }
        Ok(())
    }
}

/// Hours with one decimal, rounded up.
fn tenths(seconds: u64) -> String {
    let tenths = seconds.div_ceil(360);
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// A duration in the largest unit that shows it, with one decimal, rounded to nearest.
fn duration(seconds: u64) -> String {
    let (unit, name) = match seconds {
        0..120 => return format!("{seconds} s"),
        120..7_200 => (60, "min"),
        7_200..172_800 => (3_600, "h"),
        172_800.. => (86_400, "days"),
    };
    let tenths = (seconds * 10 + unit / 2) / unit;
    match tenths % 10 {
        0 => format!("{} {name}", tenths / 10),
        tenth => format!("{}.{tenth} {name}", tenths / 10),
    }
}

/// Checks a plan against the machines enrolled.
///
/// # Errors
/// [`Infeasible`], with the arithmetic and with what would fit.
pub fn check<'a>(
    plan: &Plan,
    machines: impl IntoIterator<Item = &'a Enrolment>,
    assumed: Assumptions,
    now: WallTime,
) -> Result<Feasible, Infeasible> {
    let window_s = u64::try_from(plan.expires.0.saturating_sub(now.0)).unwrap_or(0);
    if window_s == 0 {
        return Err(Infeasible::Expired { expires: plan.expires, now });
    }
    let (mut agents, mut servers) = (0, 0);
    let mut scopes: BTreeMap<LimitScope, u64> = BTreeMap::new();
    for machine in machines {
        agents += u64::from(machine.role == Role::Agent);
        if plan.select.matches(machine) {
            servers += 1;
            for scope in Member::from(machine).scopes() {
                *scopes.entry(scope).or_default() += 1;
            }
        }
    }
    if servers == 0 {
        return Err(Infeasible::NothingSelected { agents });
    }
    let down_s_max = u64::from(plan.lease.down_s_max);
    if down_s_max < assumed.hold_s {
        return Err(Infeasible::LeaseTooShort { down_s_max, hold_s: assumed.hold_s });
    }
    fit(&LimitTable::from(&plan.limits), scopes, servers, window_s, assumed)
}

fn fit(
    limits: &LimitTable,
    scopes: BTreeMap<LimitScope, u64>,
    servers: u64,
    window_s: u64,
    assumed: Assumptions,
) -> Result<Feasible, Infeasible> {
    let mut short = Vec::new();
    let (mut finish_s, mut binding) = (0, LimitScope::Fleet);
    for (scope, count) in scopes {
        let Some(limit) = limits.of(&scope).map(u64::from) else { continue };
        let takes_s = finish(count, limit, assumed);
        if takes_s > window_s {
            short.push(shortfall(scope, count, limit, window_s, assumed));
        } else if takes_s > finish_s {
            (finish_s, binding) = (takes_s, scope);
        }
    }
    if short.is_empty() {
        Ok(Feasible { servers, window_s, assumed, finish_s, binding })
    } else {
        Err(Infeasible::DoesNotFit(short))
    }
}

/// Seconds until the last of `count` servers is done, in rounds of `limit`, with room for a last rollback.
fn finish(count: u64, limit: u64, assumed: Assumptions) -> u64 {
    let rounds = count.div_ceil(limit.max(1));
    rounds.saturating_mul(assumed.slot_ms()).div_ceil(1000).saturating_add(assumed.rollback_s)
}

fn shortfall(scope: LimitScope, servers: u64, limit: u64, window_s: u64, assumed: Assumptions) -> Shortfall {
    let usable_ms = window_s.saturating_sub(assumed.rollback_s).saturating_mul(1000);
    let rounds = usable_ms / assumed.slot_ms();
    // A redundancy group is taken one by one because people's lives hang on it: no larger limit is proposed.
    let raisable = !matches!(scope, LimitScope::Group(_));
    Shortfall {
        servers,
        limit,
        needed_slot_s: servers.saturating_mul(assumed.slot_ms()) / 1000,
        available_slot_s: limit.saturating_mul(usable_ms) / 1000,
        fit: limit.saturating_mul(rounds).min(servers),
        finish_s: finish(servers, limit, assumed),
        window_s,
        hold_s: assumed.hold_s,
        hold_that_fits_s: assumed.longest_hold_s(usable_ms / servers.div_ceil(limit.max(1)).max(1)),
        limit_that_fits: (raisable && rounds > 0).then(|| servers.div_ceil(rounds)),
        scope,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lunar_common::ids::GroupId;
    use lunar_common::limits::{Limits, Tier};

    const WEEK_S: u64 = 7 * 86_400;

    fn twenty_minutes() -> Assumptions {
        Assumptions { hold_s: 1200, hand_over_s: 5, rollback_s: 600, failures_per_10000: 50 }
    }

    fn requirement_fleet() -> BTreeMap<LimitScope, u64> {
        let tiers = [(Tier::One, 5000), (Tier::Two, 2500), (Tier::Three, 2500)];
        let mut scopes: BTreeMap<_, _> =
            tiers.into_iter().map(|(tier, count)| (LimitScope::Tier(tier), count)).collect();
        scopes.insert(LimitScope::Fleet, 10_000);
        scopes
    }

    #[test]
    fn twenty_minutes_in_tier_one_do_not_fit_a_week_and_the_refusal_says_what_would() {
        let limits = LimitTable::from(&Limits::default());
        let refused = fit(&limits, requirement_fleet(), 10_000, WEEK_S, twenty_minutes()).unwrap_err();
        let Infeasible::DoesNotFit(short) = &refused else { panic!("{refused}") };
        // Measured before: 11 slots, at most 9.9 minutes, day 14.1, and about half of the servers.
        assert_eq!(short.len(), 1);
        assert_eq!(short[0].scope, LimitScope::Tier(Tier::One));
        assert_eq!(short[0].limit_that_fits, Some(11));
        assert!((590..=600).contains(&short[0].hold_that_fits_s), "{}", short[0].hold_that_fits_s);
        assert!((2_470..=2_500).contains(&short[0].fit), "{}", short[0].fit);
        assert!((14 * 86_400..=142 * 8_640).contains(&short[0].finish_s), "{}", short[0].finish_s);
        let text = refused.to_string();
        for part in ["tier 1: 5000 servers", "a limit of 11", "from now"] {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
    }

    #[test]
    fn what_the_refusal_proposes_fits() {
        let limits = LimitTable::from(&Limits::default());
        let Err(Infeasible::DoesNotFit(short)) =
            fit(&limits, requirement_fleet(), 10_000, WEEK_S, twenty_minutes())
        else {
            panic!("it must not fit");
        };
        let shorter = Assumptions { hold_s: short[0].hold_that_fits_s, ..twenty_minutes() };
        assert!(fit(&limits, requirement_fleet(), 10_000, WEEK_S, shorter).is_ok());
        let mut raised = limits.clone();
        raised.tiers[0] = u32::try_from(short[0].limit_that_fits.unwrap()).unwrap();
        assert!(fit(&raised, requirement_fleet(), 10_000, WEEK_S, twenty_minutes()).is_ok());
        let later = short[0].finish_s;
        assert!(fit(&limits, requirement_fleet(), 10_000, later, twenty_minutes()).is_ok());
        let mut fewer = requirement_fleet();
        fewer.insert(LimitScope::Tier(Tier::One), short[0].fit);
        assert!(fit(&limits, fewer, 10_000, WEEK_S, twenty_minutes()).is_ok());
    }

    #[test]
    fn a_group_taken_one_by_one_must_fit_too_and_no_larger_limit_is_proposed() {
        let limits = LimitTable::from(&Limits::default());
        let group = LimitScope::Group(GroupId::new("air").unwrap());
        let scopes = BTreeMap::from([(group, 12), (LimitScope::Fleet, 12)]);
        let Err(Infeasible::DoesNotFit(short)) = fit(&limits, scopes, 12, 4 * 3600, twenty_minutes()) else {
            panic!("it must not fit");
        };
        assert_eq!(short.len(), 1);
        assert_eq!((short[0].fit, short[0].limit_that_fits), (11, None));
    }

    #[test]
    fn durations_read_as_people_say_them() {
        assert_eq!(
            [90, 594, 1200, 7_200, 604_800, 1_218_240].map(duration),
            ["90 s", "9.9 min", "20 min", "2 h", "7 days", "14.1 days"]
        );
    }
}
