//! What a stage of a campaign must show before the stages after it may begin, and what it has shown.
//!
//! Owns [`Evidence`], [`Demand`] and the one comparison between them. Main invariant: integers only, so that anyone
//! can check a decision by hand; what is not known counts against the stage, and no server is no evidence. Refuses
//! to count: the coordinator's core does, from its log.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a stage's servers have shown so far, by one plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// Servers of the stage.
    pub servers: u32,
    /// Of those, written off by a signed reap and not upgraded: they are not waited for.
    pub absent: u32,
    /// Servers on the new version, by their own word.
    pub completed: u32,
    /// Of those, unhealthy or silent now.
    pub unwell: u32,
    /// Attempts that ended on the new version.
    pub succeeded: u32,
    /// Attempts that ended on the old one, or in a lease that an operator had to reap.
    pub failed: u32,
    /// Attempts of which it is not known how they ended, those under way among them.
    pub unknown: u32,
    /// Milliseconds for which all else was met. Time in which no coordinator ran is not among it.
    pub soaked_ms: u64,
}

/// What a gate asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Demand {
    /// Of 10,000 servers, and of 10,000 attempts, how many must succeed.
    pub success_per_10000: u32,
    /// Milliseconds for which that must hold.
    pub soak_ms: u64,
}

/// The first thing that keeps a gate shut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Missing {
    /// The stage has no server, or all were written off: nothing can be learnt from it.
    Servers,
    /// Too few servers are on the new version.
    Completed {
        /// How many are.
        have: u32,
        /// How many must be.
        need: u32,
        /// Of how many.
        of: u32,
    },
    /// Too few attempts ended well; those under way count as if they had not.
    Succeeded {
        /// How many did.
        have: u32,
        /// How many must have, of those made so far.
        need: u32,
        /// Attempts made so far.
        of: u32,
        /// Of those, not known how they ended.
        unknown: u32,
    },
    /// Too many servers that were upgraded are unhealthy or silent now.
    Well {
        /// Upgraded and well.
        have: u32,
        /// How many must be.
        need: u32,
        /// Unhealthy or silent.
        unwell: u32,
    },
    /// All is met, but not for long enough.
    Soak {
        /// Milliseconds so far.
        soaked_ms: u64,
        /// Milliseconds asked for.
        soak_ms: u64,
    },
}

impl Evidence {
    /// What is missing; `None`: the demand is met.
    #[must_use]
    pub fn missing(&self, demand: &Demand) -> Option<Missing> {
        if let Some(missing) = self.missing_outcome(demand) {
            return Some(missing);
        }
        let need = demand.share_of(self.present());
        let have = self.completed.saturating_sub(self.unwell);
        if have < need {
            return Some(Missing::Well { have, need, unwell: self.unwell });
        }
        (self.soaked_ms < demand.soak_ms)
            .then_some(Missing::Soak { soaked_ms: self.soaked_ms, soak_ms: demand.soak_ms })
    }

    /// What is missing of that which the log alone tells: while anything is, nothing soaks.
    #[must_use]
    pub fn missing_outcome(&self, demand: &Demand) -> Option<Missing> {
        let of = self.present();
        if of == 0 {
            return Some(Missing::Servers);
        }
        let need = demand.share_of(of);
        if self.completed < need {
            return Some(Missing::Completed { have: self.completed, need, of });
        }
        let of = self.attempts();
        let need = demand.share_of(of);
        (self.succeeded < need).then_some(Missing::Succeeded {
            have: self.succeeded,
            need,
            of,
            unknown: self.unknown,
        })
    }

    /// Servers that are not written off.
    #[must_use]
    pub fn present(&self) -> u32 {
        self.servers.saturating_sub(self.absent)
    }

    /// Attempts made so far.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.succeeded.saturating_add(self.failed).saturating_add(self.unknown)
    }
}

impl Demand {
    /// The share of a number that must succeed, rounded up.
    #[must_use]
    pub fn share_of(&self, number: u32) -> u32 {
        let share = (u64::from(number) * u64::from(self.success_per_10000)).div_ceil(10_000);
        u32::try_from(share).unwrap_or(u32::MAX)
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Servers => f.write_str("it has no server, so nothing can be learnt from it"),
            Self::Completed { have, need, of } => {
                write!(f, "{have} of its {of} servers are on the new version, {need} must be")
            }
            Self::Succeeded { have, need, of, unknown } => write!(
                f,
                "{have} of its {of} attempts succeeded, {need} must have ({unknown} have not said how they ended)"
            ),
            Self::Well { have, need, unwell } => write!(
                f,
                "{have} of its upgraded servers are well, {need} must be ({unwell} are unhealthy or silent)"
            ),
            Self::Soak { soaked_ms, soak_ms } => write!(
                f,
                "it has soaked for {} s of {} s, and opens in {} s if nothing fails",
                soaked_ms / 1000,
                soak_ms / 1000,
                soak_ms.saturating_sub(*soaked_ms).div_ceil(1000)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Demand = Demand { success_per_10000: 10_000, soak_ms: 0 };
    const MOST: Demand = Demand { success_per_10000: 9_800, soak_ms: 60_000 };

    fn done(servers: u32) -> Evidence {
        Evidence { servers, completed: servers, succeeded: servers, ..Evidence::default() }
    }

    #[test]
    fn a_stage_without_servers_shows_nothing() {
        assert_eq!(Evidence::default().missing(&ALL), Some(Missing::Servers));
        let absent = Evidence { servers: 2, absent: 2, ..Evidence::default() };
        assert_eq!(absent.missing(&ALL), Some(Missing::Servers));
    }

    #[test]
    fn the_share_is_of_servers_and_of_attempts_and_is_rounded_up() {
        assert_eq!(done(3).missing(&ALL), None);
        let short = Evidence { completed: 48, ..done(49) };
        assert_eq!(short.missing(&MOST), Some(Missing::Completed { have: 48, need: 49, of: 49 }));
        let soaked = Evidence { soaked_ms: 60_000, ..done(50) };
        assert_eq!(Evidence { completed: 49, ..soaked }.missing(&MOST), None);
        // 50 of 52 attempts are 96 %.
        let retried = Evidence { failed: 2, ..soaked };
        let missing = Missing::Succeeded { have: 50, need: 51, of: 52, unknown: 0 };
        assert_eq!(retried.missing(&MOST), Some(missing));
    }

    #[test]
    fn what_is_not_known_counts_as_if_it_had_failed() {
        let under_way = Evidence { servers: 51, completed: 50, succeeded: 50, unknown: 2, ..done(50) };
        let missing = Missing::Succeeded { have: 50, need: 51, of: 52, unknown: 2 };
        assert_eq!(under_way.missing(&MOST), Some(missing));
    }

    #[test]
    fn who_is_unwell_after_the_upgrade_is_no_success_and_the_soak_comes_last() {
        let unwell = Evidence { unwell: 2, ..done(50) };
        assert_eq!(unwell.missing_outcome(&MOST), None);
        assert_eq!(unwell.missing(&MOST), Some(Missing::Well { have: 48, need: 49, unwell: 2 }));
        let soaking = Evidence { soaked_ms: 59_999, ..done(50) };
        assert_eq!(soaking.missing(&MOST), Some(Missing::Soak { soaked_ms: 59_999, soak_ms: 60_000 }));
        assert_eq!(
            soaking.missing(&MOST).unwrap().to_string(),
            "it has soaked for 59 s of 60 s, and opens in 1 s if nothing fails"
        );
    }

    #[test]
    fn who_was_written_off_is_not_waited_for() {
        let evidence = Evidence { servers: 4, absent: 1, completed: 3, succeeded: 3, ..Evidence::default() };
        assert_eq!(evidence.missing(&ALL), None);
    }
}
