//! What a plan says about the order of its servers, in a form the log can hold.
//!
//! Owns [`Rules`]. Main invariant: it says what the signed plan says, place by place; a plan that says nothing of
//! the kind has none, and its log reads as it always did.

use std::collections::{BTreeMap, BTreeSet};

use lunar_common::gate::Demand;
use lunar_common::ids::{GroupId, StageName};
use lunar_common::plan::{OrderRule, Plan, Select, Stage, Within, labels_match};
use serde::{Deserialize, Serialize};

use crate::event::{Member, Selection};

/// A machine's labels, from its enrolment.
pub type Labels = BTreeMap<String, String>;

/// What a plan says beyond its [`crate::event::Terms`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// What a server must match besides the terms' selection.
    pub picks: Picks,
    /// The stages, as written.
    pub stages: Vec<StageTerms>,
    /// Who waits for whom.
    pub order: Vec<OrderTerms>,
}

/// One [`OrderRule`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderTerms {
    /// Only for servers of the same place.
    pub within: Option<Within>,
    /// These wait,
    pub select: Selection,
    /// and which of those,
    pub picks: Picks,
    /// for these,
    pub after: Selection,
    /// and which of those.
    pub after_picks: Picks,
    /// The rule, in words.
    pub told: String,
}

impl From<&OrderRule> for OrderTerms {
    fn from(rule: &OrderRule) -> Self {
        Self {
            within: rule.within,
            select: Selection::from(&rule.select),
            picks: Picks::of(&rule.select),
            after: Selection::from(&rule.after),
            after_picks: Picks::of(&rule.after),
            told: rule.to_string(),
        }
    }
}

/// The part of a [`Select`] that [`Selection`] has no place for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picks {
    /// Redundancy groups; empty: all, and servers without one.
    pub groups: BTreeSet<GroupId>,
    /// Labels, each with the values of which the server's must be one.
    pub labels: BTreeMap<String, BTreeSet<String>>,
}

/// One [`Stage`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageTerms {
    /// Its name.
    pub name: StageName,
    /// Places of the stages that must have passed before it.
    pub after: Vec<u16>,
    /// At most so many of those that it selects.
    pub size: Option<u32>,
    /// The same in percent of them.
    pub percent: Option<u32>,
    /// The largest wave of starts.
    pub wave_max: Option<u32>,
    /// What its gate asks for.
    pub demand: Demand,
    /// Which servers,
    pub select: Selection,
    /// and which of those.
    pub picks: Picks,
}

impl Rules {
    /// The rules of a plan; `None`: it has none.
    #[must_use]
    pub fn of(plan: &Plan) -> Option<Self> {
        let picks = Picks::of(&plan.select);
        if plan.stages.is_empty() && plan.order.is_empty() && picks == Picks::default() {
            return None;
        }
        let order = plan.order.iter().map(OrderTerms::from).collect();
        Some(Self { picks, stages: StageTerms::of(&plan.stages), order })
    }
}

impl Picks {
    fn of(select: &Select) -> Self {
        Self { groups: select.groups.clone(), labels: select.labels.clone() }
    }

    /// Whether a member with these labels is among them.
    #[must_use]
    pub fn matches(&self, member: &Member, labels: &Labels) -> bool {
        let in_group = || member.group.as_ref().is_some_and(|group| self.groups.contains(group));
        (self.groups.is_empty() || in_group()) && labels_match(&self.labels, labels)
    }
}

impl StageTerms {
    /// The terms of a plan's stages. There are fewer than 2^16: the plan was checked.
    #[must_use]
    pub fn of(stages: &[Stage]) -> Vec<Self> {
        let place = |place: usize| u16::try_from(place).expect("a plan's stages are bounded");
        let order = Stage::order(stages);
        let terms = |(stage, after): (&Stage, Vec<usize>)| Self {
            name: stage.name.clone(),
            after: after.into_iter().map(place).collect(),
            size: stage.size,
            percent: stage.percent,
            wave_max: stage.wave_max,
            demand: stage.demand(),
            select: Selection::from(&stage.select),
            picks: Picks::of(&stage.select),
        };
        stages.iter().zip(order).map(terms).collect()
    }

    /// Whether a member with these labels may belong here.
    #[must_use]
    pub fn takes(&self, member: &Member, labels: &Labels) -> bool {
        self.select.matches(member) && self.picks.matches(member, labels)
    }

    /// Most servers here when so many of those that were left match.
    #[must_use]
    pub fn quota(&self, offered: u32) -> u32 {
        let share = |percent: u32| (u64::from(offered) * u64::from(percent)).div_ceil(100);
        let percent =
            self.percent.map_or(offered, |percent| u32::try_from(share(percent)).unwrap_or(u32::MAX));
        self.size.map_or(percent, |size| size.min(offered))
    }
}
