//! When a campaign stops by itself: so many failures, rollbacks, silent servers, slow upgrades.
//!
//! Owns [`StopRules`], their defaults and their checks. Main invariant: integers only, written out in the signed plan,
//! so that anyone can check a pause by hand; rules that passed the checks can be met. Refuses to count: the
//! coordinator's core does, from its log.

use serde::{Deserialize, Serialize};

use super::check::Under;
use crate::bounds::{PLAN_DURATION_S_MAX, STOP_STEPS_MAX, STOP_WINDOW_MAX};
use crate::document::Problem;
use crate::enrolment::is_label_name;
use crate::limits::Tier;

/// What pauses a campaign, or a part of it. Only a signed resume goes on from there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StopRules {
    /// The whole campaign, when so many of its servers have failed.
    pub failed: u32,
    /// The label whose value is a server's hardware model. Servers without it have none.
    pub model_label: String,
    /// Each tier.
    pub tier: TierStops,
    /// Each site, and each hardware model.
    pub place: PlaceStop,
    /// The whole campaign, in a storm of rollbacks.
    pub storm: StormStop,
    /// A tier whose servers are down for much longer than they were before.
    pub hold: HoldStop,
}

/// Rules for each tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TierStops {
    /// Tier 1.
    #[serde(rename = "1")]
    pub one: TierStop,
    /// Tier 2.
    #[serde(rename = "2")]
    pub two: TierStop,
    /// Tier 3.
    #[serde(rename = "3")]
    pub three: TierStop,
}

/// What pauses one tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TierStop {
    /// So many of its servers have failed, however many did not.
    pub failed: u32,
    /// A sequential test: place k (from 1) says within how many servers tried k failures are too many; 0: never.
    pub within: Vec<u32>,
    /// So many of its servers went down by their leases and have not been heard of since.
    pub silent: u32,
}

/// What pauses one site, or one hardware model. As for a tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlaceStop {
    /// So many of its servers have failed, however many did not.
    pub failed: u32,
    /// The sequential test.
    pub within: Vec<u32>,
}

/// So many of the last attempts were rolled back, whoever made them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StormStop {
    /// How many were rolled back,
    pub rolled_back: u32,
    /// of how many.
    pub of: u32,
}

/// So many of a tier's last upgrades took much longer than the median of those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldStop {
    /// Longer than so many percent of the median is slow;
    pub percent: u32,
    /// how many were slow,
    pub slow: u32,
    /// of how many;
    pub of: u32,
    /// no median is known before so many were seen;
    pub samples: u32,
    /// and what took no longer than this, in seconds, is never slow.
    pub floor_s: u32,
}

/// Wald's sequential test for tier 2, of 0.1 % against 0.5 % (D6): `within_of` makes it.
pub const TIER_TWO_WITHIN: [u32; 11] = [0, 0, 71, 473, 875, 1277, 1680, 2082, 2484, 2886, 3288];

/// The same for tier 3, of 0.5 % against 2 % (D6).
pub const TIER_THREE_WITHIN: [u32; 24] = [
    0, 0, 0, 69, 161, 253, 346, 438, 530, 622, 715, 807, 899, 991, 1084, 1176, 1268, 1360, 1453, 1545, 1637,
    1729, 1822, 1914,
];

/// The same for a place where nearly everything is wrong, of 0.5 % against 5 %: one site, one hardware model.
pub const PLACE_WITHIN: [u32; 24] = [
    0, 3, 53, 104, 155, 206, 256, 307, 358, 409, 459, 510, 561, 612, 662, 713, 764, 815, 865, 916, 967, 1018,
    1068, 1119,
];

impl Default for StopRules {
    /// Tier 1 at its first failure; tiers 2 and 3 by Wald's sequential test (A. Wald, Sequential Tests of Statistical
    /// Hypotheses, 1945) with a chance of 1 % to stop what is well and of 5 % to let pass what is not, and hard
    /// caps: 0.5 % of 2,500 servers in tier 2, 1 % of them in tier 3, 0.5 % of 10,000 in all (D6).
    ///
    /// A long good history outweighs a late burst in any sequential test, so a storm is looked for by itself: five of
    /// twenty are expected once in 700,000 attempts where 1 % fail. Three upgrades of ten beyond twice the median
    /// are no accident of one server, and five minutes are what a rollback may take anyway (A3).
    fn default() -> Self {
        Self {
            failed: 50,
            tier: TierStops::default(),
            place: PlaceStop { failed: 25, within: PLACE_WITHIN.to_vec() },
            model_label: "model".to_owned(),
            storm: StormStop { rolled_back: 5, of: 20 },
            hold: HoldStop { percent: 200, slow: 3, of: 10, samples: 20, floor_s: 300 },
        }
    }
}

impl Default for TierStops {
    fn default() -> Self {
        Self {
            one: TierStop { failed: 1, within: Vec::new(), silent: 1 },
            two: TierStop { failed: 12, within: TIER_TWO_WITHIN.to_vec(), silent: 2 },
            three: TierStop { failed: 25, within: TIER_THREE_WITHIN.to_vec(), silent: 3 },
        }
    }
}

impl TierStops {
    /// The rules of one tier.
    #[must_use]
    pub fn of(&self, tier: Tier) -> &TierStop {
        tier.of([&self.one, &self.two, &self.three])
    }
}

impl StopRules {
    /// Everything wrong with them, with keys as in a plan.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        check(self, &mut Under::at("stop", &mut problems));
        problems
    }

    /// Rules that nothing ever meets: for a fleet in which failures are the point.
    #[must_use]
    pub fn never() -> Self {
        let tier = || TierStop { failed: u32::MAX, within: Vec::new(), silent: u32::MAX };
        Self {
            failed: u32::MAX,
            tier: TierStops { one: tier(), two: tier(), three: tier() },
            place: PlaceStop { failed: u32::MAX, within: Vec::new() },
            storm: StormStop { rolled_back: STOP_WINDOW_MAX, of: STOP_WINDOW_MAX },
            hold: HoldStop {
                slow: STOP_WINDOW_MAX,
                of: STOP_WINDOW_MAX,
                floor_s: PLAN_DURATION_S_MAX,
                ..Self::default().hold
            },
            ..Self::default()
        }
    }
}

pub(super) fn check(rules: &StopRules, under: &mut Under<'_>) {
    let root = under.at.clone();
    at_least_one(under, "failed", rules.failed);
    if !is_label_name(&rules.model_label) {
        under.say("model_label", format!("{:?} is no name of a label", rules.model_label));
    }
    for tier in Tier::ALL {
        let stop = rules.tier.of(tier);
        under.at = format!("{root}.tier.{tier}");
        at_least_one(under, "failed", stop.failed);
        at_least_one(under, "silent", stop.silent);
        check_within(under, &stop.within, stop.failed);
    }
    under.at = format!("{root}.place");
    at_least_one(under, "failed", rules.place.failed);
    check_within(under, &rules.place.within, rules.place.failed);
    under.at = format!("{root}.storm");
    check_window(under, ("rolled_back", rules.storm.rolled_back), rules.storm.of);
    under.at = format!("{root}.hold");
    let hold = &rules.hold;
    check_window(under, ("slow", hold.slow), hold.of);
    if hold.percent <= 100 {
        let percent = hold.percent;
        under.say("percent", format!("{percent} % of the median would call every second upgrade slow"));
    }
    if !(1..=STOP_WINDOW_MAX).contains(&hold.samples) {
        under.say("samples", format!("{} is out of range: write 1 to {STOP_WINDOW_MAX}", hold.samples));
    }
    under.seconds("floor_s", hold.floor_s, 0, PLAN_DURATION_S_MAX);
    under.at = root;
}

fn at_least_one(under: &mut Under<'_>, key: &str, found: u32) {
    if found == 0 {
        under.say(key, "0 would pause before anything began: write at least 1");
    }
}

fn check_window(under: &mut Under<'_>, (key, found): (&str, u32), of: u32) {
    at_least_one(under, key, found);
    if !(1..=STOP_WINDOW_MAX).contains(&of) {
        under.say("of", format!("{of} is out of range: write 1 to {STOP_WINDOW_MAX}"));
    } else if found > of {
        under.say(key, format!("{found} of the last {of} can never be"));
    }
}

/// A table of the sequential test: it must be one that the test can walk along.
fn check_within(under: &mut Under<'_>, within: &[u32], failed: u32) {
    under.at_most("within", within.len(), STOP_STEPS_MAX);
    let mut before = 0;
    for (failures, servers) in (1u32..).zip(within.iter().copied().take(STOP_STEPS_MAX)) {
        let key = format!("within[{}]", failures - 1);
        if failures >= failed {
            under.say(&key, format!("is never looked at: {failed} failures pause in any case"));
            return;
        }
        if servers < before {
            under.say(
                &key,
                format!("{servers} is less than {before}, within which fewer failures are too many"),
            );
            return;
        }
        if (1..failures).contains(&servers) {
            under.say(
                &key,
                format!("{failures} failures within {servers} servers can never be: write 0 or more"),
            );
            return;
        }
        before = servers;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    /// Wald's test of `p0` against `p1` in floating point: within how many servers each number of failures is too
    /// many, for a chance `a` to stop what is well and `b` to let pass what is not.
    fn within_of((p0, p1): (f64, f64), (a, b): (f64, f64), steps: u32) -> Vec<u32> {
        let (up, down) = ((p1 / p0).ln(), ((1.0 - p0) / (1.0 - p1)).ln());
        let stop = ((1.0 - b) / a).ln();
        let is_too_many = |failures: u32, servers: u32| {
            f64::from(failures) * up - f64::from(servers - failures) * down >= stop
        };
        let servers =
            |failures| (failures..).take_while(|servers| is_too_many(failures, *servers)).last().unwrap_or(0);
        (1..=steps).map(servers).collect()
    }

    fn problems(text: &str) -> Vec<String> {
        let mut problems: Vec<Problem> = Vec::new();
        check(&toml::from_str(text).unwrap(), &mut Under::at("stop", &mut problems));
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_tables_are_walds_with_one_percent_of_false_stops_and_five_of_missed_ones() {
        let errors = (0.01, 0.05);
        assert_eq!(within_of((0.001, 0.005), errors, 11), TIER_TWO_WITHIN);
        assert_eq!(within_of((0.005, 0.02), errors, 24), TIER_THREE_WITHIN);
        assert_eq!(within_of((0.005, 0.05), errors, 24), PLACE_WITHIN);
    }

    #[test]
    fn each_row_is_the_last_at_which_what_was_seen_is_95_times_as_likely_where_all_is_not_well() {
        // The same inequality multiplied out: (p1/p0)^k × ((1-p1)/(1-p0))^(n-k) ≥ (1-b)/a.
        for (within, p0, p1) in
            [(&TIER_TWO_WITHIN[..], 10, 50), (&TIER_THREE_WITHIN, 50, 200), (&PLACE_WITHIN, 50, 500)]
        {
            for (failures, servers) in
                (1u32..).zip(within.iter().copied()).filter(|(_, servers)| *servers > 0)
            {
                let odds = |servers: u32| {
                    let mut odds = 1.0f64;
                    for _ in 0..failures {
                        odds *= f64::from(p1) / f64::from(p0);
                    }
                    for _ in failures..servers {
                        odds *= f64::from(10_000 - p1) / f64::from(10_000 - p0);
                    }
                    odds
                };
                assert!(odds(servers) >= 95.0 && odds(servers + 1) < 95.0, "{failures} within {servers}");
            }
        }
    }

    #[test]
    fn the_defaults_and_the_rules_that_never_stop_contradict_nothing() {
        for rules in [StopRules::default(), StopRules::never()] {
            assert_eq!(rules.problems(), []);
            let text = toml::to_string(&rules).unwrap();
            assert_eq!(toml::from_str::<StopRules>(&text).unwrap(), rules);
            let bytes = wire::encode(&rules, 4096).unwrap();
            assert_eq!(wire::decode::<StopRules>(&bytes, 4096).unwrap(), rules);
        }
    }

    #[test]
    fn what_is_left_out_is_as_by_default_and_what_is_misspelt_is_refused() {
        let rules: StopRules =
            toml::from_str("failed = 7\n[tier]\n2 = { failed = 3, within = [], silent = 1 }").unwrap();
        assert_eq!(
            (rules.failed, rules.tier.two.failed, &rules.tier.one),
            (7, 3, &StopRules::default().tier.one)
        );
        for text in ["fails = 7", "[tier]\n4 = { failed = 1, within = [], silent = 1 }", "storm = { of = 3 }"]
        {
            assert!(toml::from_str::<StopRules>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn impossible_tables_are_refused_with_their_place_and_the_reason() {
        let said = problems(
            "failed = 0\nmodel_label = \"a b\"\nplace = { failed = 3, within = [0, 5, 9] }\n\
             storm = { rolled_back = 5, of = 4 }\nhold = { percent = 100, slow = 0, of = 0, samples = 0, floor_s = 0 }\n\
             [tier]\n1 = { failed = 9, within = [0, 1], silent = 0 }\n2 = { failed = 9, within = [4, 3], silent = 1 }\n",
        );
        for words in [
            "stop.failed: 0 would pause before anything began",
            "stop.model_label: \"a b\" is no name of a label",
            "stop.tier.1.silent: 0 would pause",
            "stop.tier.1.within[1]: 2 failures within 1 servers can never be",
            "stop.tier.2.within[1]: 3 is less than 4",
            "stop.place.within[2]: is never looked at: 3 failures pause in any case",
            "stop.storm.rolled_back: 5 of the last 4 can never be",
            "stop.hold.slow: 0 would pause",
            "stop.hold.of: 0 is out of range",
            "stop.hold.percent: 100 % of the median",
            "stop.hold.samples: 0 is out of range",
        ] {
            assert!(said.iter().any(|problem| problem.starts_with(words)), "{words}: {said:#?}");
        }
        assert_eq!(said.len(), 11);
    }
}
