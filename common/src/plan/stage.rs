//! The stages of a plan: who goes first, and what must be shown before the others follow.
//!
//! Owns [`Stage`] and its checks. Main invariant: stages that passed the checks can come one after the other: each
//! waits for others that are there, and none for itself by way of others. Refuses to know the fleet: how many
//! servers a stage has is the planner's business.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Select;
use super::check::{Under, check_select};
use crate::bounds::{PLAN_DURATION_S_MAX, STAGES_MAX};
use crate::gate::Demand;
use crate::ids::{StageName, WindowName};

/// A stage of a plan. A server belongs to the first one that selects it and has room for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Its name.
    pub name: StageName,
    /// Stages that must have passed before this one begins. Absent: the one written before it; empty: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Vec<StageName>>,
    /// At most so many of the servers that it selects, drawn by the plan's hash; the others go on to later stages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
    /// The same in percent of those that it selects, rounded up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    /// Starts in waves of 1, 2, 4, … up to this many, each after the last has ended; one that fails makes the next
    /// one start from 1 again. Absent: as many at once as the limits allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave_max: Option<u32>,
    /// Of 10,000 servers, and of 10,000 attempts, how many must succeed before the gate opens.
    #[serde(default = "default_success_per_10000")]
    pub success_per_10000: u32,
    /// How long that must hold, in seconds.
    #[serde(default)]
    pub soak_s: u32,
    /// People approve its servers in batches of so many, before any of a batch starts. Absent: nobody is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval_batch: Option<u32>,
    /// Maintenance windows of the plan, by name: its servers start only while one of them is open, and the windows of
    /// their tier let them. Empty: whenever their tier may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<WindowName>,
    /// Which servers, among those that the plan selects.
    #[serde(default)]
    pub select: Select,
}

/// All of them, where the plan says nothing.
fn default_success_per_10000() -> u32 {
    10_000
}

impl Stage {
    /// What its gate asks for.
    #[must_use]
    pub fn demand(&self) -> Demand {
        Demand { success_per_10000: self.success_per_10000, soak_ms: u64::from(self.soak_s) * 1000 }
    }

    /// For each stage, by place, the places of those that must have passed before it. Names that are not there are
    /// left out: [`crate::plan::Plan::check`] refuses them.
    #[must_use]
    pub fn order(stages: &[Self]) -> Vec<Vec<usize>> {
        let places: BTreeMap<&StageName, usize> =
            stages.iter().enumerate().map(|(place, stage)| (&stage.name, place)).collect();
        let after = |(place, stage): (usize, &Self)| match &stage.after {
            Some(after) => after.iter().filter_map(|name| places.get(name).copied()).collect(),
            None => place.checked_sub(1).into_iter().collect(),
        };
        stages.iter().enumerate().map(after).collect()
    }
}

pub(super) fn check(stages: &[Stage], under: &mut Under<'_>) {
    under.at_most("", stages.len(), STAGES_MAX);
    let stages = &stages[..stages.len().min(STAGES_MAX)];
    let root = under.at.clone();
    let mut names = BTreeMap::new();
    for (place, stage) in stages.iter().enumerate() {
        under.at = format!("{root}[{place}]");
        if let Some(first) = names.insert(&stage.name, place) {
            under.say("name", format!("{} is the name of {root}[{first}] too", stage.name));
        }
        check_numbers(stage, under);
        for name in stage.after.iter().flatten() {
            if !stages.iter().any(|other| other.name == *name) {
                let known: Vec<&str> = stages.iter().map(|stage| stage.name.as_str()).collect();
                under.say("after", format!("{name} is no stage of this plan: use {}", known.join(", ")));
            }
        }
        under.at = format!("{root}[{place}].select");
        check_select(under, &stage.select);
    }
    under.at = root;
    if let Some(circle) = circle(&Stage::order(stages)) {
        let names: Vec<&str> = circle.iter().map(|place| stages[*place].name.as_str()).collect();
        under.say(
            "",
            format!(
                "{} wait for each other ({} → {}): none could ever begin; take one `after` away",
                names.join(" and "),
                names.join(" → "),
                names[0]
            ),
        );
    }
}

fn check_numbers(stage: &Stage, under: &mut Under<'_>) {
    if stage.size.is_some() && stage.percent.is_some() {
        under.say("percent", "and size contradict each other: keep one of them");
    }
    if stage.size == Some(0) {
        under.say("size", "0 servers show nothing: write at least 1, or leave the stage out");
    }
    if let Some(percent) = stage.percent.filter(|percent| !(1..=100).contains(percent)) {
        under.say("percent", format!("{percent} is out of range: write 1 to 100"));
    }
    if stage.wave_max == Some(0) {
        under.say("wave_max", "0 would never start: write at least 1");
    }
    if stage.approval_batch == Some(0) {
        under.say("approval_batch", "0 servers would never be all: write at least 1");
    }
    if !(1..=10_000).contains(&stage.success_per_10000) {
        let found = stage.success_per_10000;
        under.say("success_per_10000", format!("{found} is out of range: write 1 to 10000 (9950 is 99.5 %)"));
    }
    under.seconds("soak_s", stage.soak_s, 0, PLAN_DURATION_S_MAX);
}

/// Places that wait for each other in a circle, in the order of waiting; `None`: there is none.
pub(super) fn circle(after: &[Vec<usize>]) -> Option<Vec<usize>> {
    // Whoever waits for nobody is taken away, again and again; what is left waits for something that is left too.
    let mut left: Vec<bool> = vec![true; after.len()];
    loop {
        let free = (0..after.len()).find(|at| left[*at] && after[*at].iter().all(|before| !left[*before]));
        match free {
            Some(at) => left[at] = false,
            None => break,
        }
    }
    let mut at = left.iter().position(|left| *left)?;
    let mut way = Vec::new();
    loop {
        if let Some(start) = way.iter().position(|seen| *seen == at) {
            return Some(way.split_off(start));
        }
        way.push(at);
        at = *after[at].iter().find(|before| left[**before])?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Problem;

    fn stages(text: &str) -> Vec<Stage> {
        #[derive(Deserialize)]
        struct Written {
            stages: Vec<Stage>,
        }
        toml::from_str::<Written>(text).unwrap().stages
    }

    fn problems(text: &str) -> Vec<String> {
        let mut problems: Vec<Problem> = Vec::new();
        check(&stages(text), &mut Under::at("stages", &mut problems));
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_stage_waits_for_the_one_before_it_unless_it_says_otherwise() {
        let stages = stages(
            "[[stages]]\nname = \"a\"\n[[stages]]\nname = \"b\"\n[[stages]]\nname = \"c\"\nafter = [\"a\"]\n\
             [[stages]]\nname = \"d\"\nafter = []\n",
        );
        assert_eq!(Stage::order(&stages), [vec![], vec![0], vec![0], vec![]]);
        assert_eq!(stages[1].demand(), Demand { success_per_10000: 10_000, soak_ms: 0 });
    }

    #[test]
    fn a_circle_is_refused_with_the_names_of_those_in_it() {
        let said = problems(
            "[[stages]]\nname = \"a\"\nafter = [\"c\"]\n[[stages]]\nname = \"b\"\n[[stages]]\nname = \"c\"\n\
             [[stages]]\nname = \"d\"\n",
        );
        let told = "stages: a and c and b wait for each other (a → c → b → a): none could ever begin; take one \
                    `after` away";
        assert_eq!(said, [told]);
        let own = problems("[[stages]]\nname = \"a\"\nafter = [\"a\"]\n");
        assert_eq!(own.len(), 1, "{own:?}");
    }

    #[test]
    fn every_number_out_of_range_is_told_with_its_key() {
        let said = problems(
            "[[stages]]\nname = \"a\"\nsize = 0\npercent = 101\nwave_max = 0\nsuccess_per_10000 = 0\n\
             soak_s = 99999999\nafter = [\"x\"]\nselect = { labels = { \"b d\" = [] } }\n[[stages]]\nname = \"a\"\n",
        );
        for words in [
            "stages[0].percent: and size contradict each other",
            "stages[0].size: 0 servers show nothing",
            "stages[0].percent: 101 is out of range",
            "stages[0].wave_max: 0 would never start",
            "stages[0].success_per_10000: 0 is out of range",
            "stages[0].soak_s: 99999999 s is out of range",
            "stages[0].after: x is no stage of this plan: use a, a",
            "stages[0].select.labels: \"b d\" is no label",
            "stages[0].select.labels: b d lists no value",
            "stages[1].name: a is the name of stages[0] too",
        ] {
            assert!(said.iter().any(|problem| problem.starts_with(words)), "{words}: {said:?}");
        }
    }
}
