//! Who starts only when others are done: followers before leaders, a database before what uses it.
//!
//! Owns [`OrderRule`] and its checks. Main invariant: rules that passed the checks do not say of the same servers
//! that they wait for each other. Refuses to know the fleet: whether servers that match more than one selector wait
//! for each other after all is told by the planner, on the servers there are.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Select;
use super::check::{Under, check_select};
use super::stage::circle;
use crate::bounds::ORDER_RULES_MAX;

/// Some servers start only when others are done. Who is among both waits for nobody by this rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderRule {
    /// Only for servers of the same place. Absent: all of the campaign.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Within>,
    /// These wait,
    pub select: Select,
    /// until all of these are on the new version, or written off.
    pub after: Select,
}

/// Whose neighbours a server waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Within {
    /// Those of its cluster.
    Cluster,
    /// Those of its redundancy group.
    Group,
    /// Those of its site.
    Site,
}

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cluster => "cluster",
            Self::Group => "group",
            Self::Site => "site",
        })
    }
}

impl fmt::Display for OrderRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} after {}", self.select, self.after)?;
        match self.within {
            Some(within) => write!(f, " of the same {within}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list<T: ToString>(what: &str, items: &BTreeSet<T>) -> Option<String> {
            let items: Vec<String> = items.iter().map(ToString::to_string).collect();
            (!items.is_empty()).then(|| format!("{what} {}", items.join(" or ")))
        }
        let labels = self.labels.iter().filter_map(|(name, values)| list(&format!("{name} ="), values));
        let parts: Vec<String> = [
            list("tier", &self.tiers),
            list("site", &self.sites),
            list("cluster", &self.clusters),
            list("service", &self.services),
            list("group", &self.groups),
            list("server", &self.servers),
            list("not", &self.except),
        ]
        .into_iter()
        .flatten()
        .chain(labels)
        .collect();
        f.write_str(&if parts.is_empty() { "all servers".to_owned() } else { parts.join(", ") })
    }
}

pub(super) fn check(rules: &[OrderRule], under: &mut Under<'_>) {
    under.at_most("", rules.len(), ORDER_RULES_MAX);
    let rules = &rules[..rules.len().min(ORDER_RULES_MAX)];
    let root = under.at.clone();
    for (place, rule) in rules.iter().enumerate() {
        under.at = format!("{root}[{place}].select");
        check_select(under, &rule.select);
        under.at = format!("{root}[{place}].after");
        check_select(under, &rule.after);
        if rule.after == Select::default() {
            under.say("", "selects everyone: nobody would wait; say which servers go first");
        }
    }
    under.at = root;
    let mut nodes: Vec<&Select> = Vec::new();
    for select in rules.iter().flat_map(|rule| [&rule.select, &rule.after]) {
        if !nodes.contains(&select) {
            nodes.push(select);
        }
    }
    let after: Vec<Vec<usize>> = nodes
        .iter()
        .map(|node| {
            let of_node = rules.iter().filter(|rule| rule.select == **node);
            of_node.filter_map(|rule| nodes.iter().position(|other| **other == rule.after)).collect()
        })
        .collect();
    if let Some(circle) = circle(&after) {
        let names: Vec<String> = circle.iter().map(|place| nodes[*place].to_string()).collect();
        under.say(
            "",
            format!(
                "{} → {} wait for each other: none could ever begin; take one of these rules away",
                names.join(" → "),
                names[0]
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Problem;

    fn problems(text: &str) -> Vec<String> {
        #[derive(Deserialize)]
        struct Written {
            order: Vec<OrderRule>,
        }
        let written: Written = toml::from_str(text).unwrap();
        let mut problems: Vec<Problem> = Vec::new();
        check(&written.order, &mut Under::at("order", &mut problems));
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_circle_of_services_is_refused_with_its_members() {
        let rule = |select: &str, after: &str| {
            format!(
                "[[order]]\nselect = {{ services = [\"{select}\"] }}\nafter = {{ services = [\"{after}\"] }}\n"
            )
        };
        assert!(problems(&(rule("web", "db") + &rule("api", "db") + &rule("web", "api"))).is_empty());
        let said = problems(&(rule("web", "db") + &rule("db", "cache") + &rule("cache", "web")));
        let told = "order: service web → service db → service cache → service web wait for each other: none could \
                    ever begin; take one of these rules away";
        assert_eq!(said, [told]);
        assert_eq!(problems(&rule("web", "web")).len(), 1);
    }

    #[test]
    fn a_rule_reads_as_people_say_it_and_one_that_waits_for_everyone_is_refused() {
        let leaders = "[[order]]\nwithin = \"cluster\"\nselect = { labels = { role = [\"leader\"] } }\n\
                       after = { labels = { role = [\"follower\"] } }\n";
        assert!(problems(leaders).is_empty());
        let rule: OrderRule = toml::from_str(&leaders.replace("[[order]]\n", "")).unwrap();
        assert_eq!(rule.to_string(), "role = leader after role = follower of the same cluster");
        let all = problems("[[order]]\nselect = { tiers = [1] }\nafter = {}\n");
        assert_eq!(all.len(), 1);
        assert!(all[0].starts_with("order[0].after: selects everyone"), "{all:?}");
    }
}
