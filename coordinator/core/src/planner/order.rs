//! Whether servers wait for each other for ever, by stages and order together, on the servers there are.
//!
//! Owns that one question. Main invariant: servers are taken away that wait for nobody who is left, again and again;
//! whoever is left then waits in a circle or behind one, and the circle is named. A stage waits for all servers of
//! the stages before it: what a success share would let pass is no reason to sign a plan that needs it.

use std::collections::BTreeMap;

use lunar_common::ids::DocumentHash;
use lunar_common::inventory::InventoryServer;
use lunar_common::plan::{OrderRule, Plan, Within};

use crate::campaign::rules::StageTerms;
use crate::campaign::stage::deal;

/// Members named in one message.
const NAMED_MAX: usize = 8;

/// Something that waits for others: a server, a stage's gate, or a rule at one place.
#[derive(Debug, Default)]
struct Node {
    name: String,
    waits_for: Vec<usize>,
    /// Who waits for it.
    behind: Vec<usize>,
}

#[derive(Debug, Default)]
struct Graph {
    nodes: Vec<Node>,
}

impl Graph {
    fn node(&mut self, name: String) -> usize {
        self.nodes.push(Node { name, ..Node::default() });
        self.nodes.len() - 1
    }

    fn waits(&mut self, who: usize, for_whom: usize) {
        self.nodes[who].waits_for.push(for_whom);
        self.nodes[for_whom].behind.push(who);
    }

    /// Those of one circle, in the order of waiting.
    fn circle(&self) -> Option<Vec<&str>> {
        let mut left: Vec<usize> = self.nodes.iter().map(|node| node.waits_for.len()).collect();
        let mut free: Vec<usize> = (0..self.nodes.len()).filter(|at| left[*at] == 0).collect();
        while let Some(at) = free.pop() {
            for behind in &self.nodes[at].behind {
                left[*behind] -= 1;
                if left[*behind] == 0 {
                    free.push(*behind);
                }
            }
        }
        let mut at = left.iter().position(|left| *left > 0)?;
        let mut way: Vec<usize> = Vec::new();
        loop {
            if let Some(start) = way.iter().position(|seen| *seen == at) {
                return Some(way[start..].iter().map(|at| self.nodes[*at].name.as_str()).collect());
            }
            way.push(at);
            at = *self.nodes[at].waits_for.iter().find(|before| left[**before] > 0)?;
        }
    }
}

/// A circle in which servers would wait for each other, told with its members; `None`: there is none.
pub(super) fn circle(plan: &Plan, selected: &[&InventoryServer]) -> Option<String> {
    if plan.order.is_empty() {
        return None;
    }
    let mut graph = Graph::default();
    let servers: Vec<usize> = selected.iter().map(|server| graph.node(server.server.to_string())).collect();
    let terms = StageTerms::of(&plan.stages);
    let gates: Vec<usize> = terms.iter().map(|stage| graph.node(format!("stage {}", stage.name))).collect();
    let takes =
        |stage: usize, (_, server): &(usize, &InventoryServer)| plan.stages[stage].select.takes(server);
    let all: Vec<(usize, &InventoryServer)> = selected.iter().copied().enumerate().collect();
    let hands = deal(DocumentHash([0; 32]), &terms, all, |(_, server)| &server.server, takes);
    for (stage, hand) in hands.iter().enumerate() {
        for (at, _) in &hand.servers {
            graph.waits(gates[stage], servers[*at]);
            for before in &terms[stage].after {
                graph.waits(servers[*at], gates[usize::from(*before)]);
            }
        }
    }
    for (at, rule) in plan.order.iter().enumerate() {
        let mut places: BTreeMap<&str, usize> = BTreeMap::new();
        for (server, found) in selected.iter().enumerate() {
            let Some(place) = place(rule, found) else { continue };
            let (first, waits) = (rule.after.takes(found), rule.select.takes(found));
            if !first && !waits {
                continue;
            }
            let instance =
                *places.entry(place).or_insert_with(|| graph.node(format!("order[{at}] ({rule})")));
            if first {
                graph.waits(instance, servers[server]);
            } else {
                graph.waits(servers[server], instance);
            }
        }
    }
    let circle = graph.circle()?;
    let more = circle.len().saturating_sub(NAMED_MAX);
    let named = circle[..circle.len() - more].join(" → ");
    let more = if more > 0 { format!(" → … {more} more") } else { String::new() };
    Some(format!("order: {named}{more} → {} wait for each other: none could ever begin", circle[0]))
}

/// The place within which a rule concerns a server; `None`: it does not.
fn place<'a>(rule: &OrderRule, server: &'a InventoryServer) -> Option<&'a str> {
    match rule.within {
        None => Some(""),
        Some(Within::Cluster) => Some(server.cluster.as_str()),
        Some(Within::Group) => server.group.as_ref().map(|group| group.as_str()),
        Some(Within::Site) => Some(server.site.as_str()),
    }
}
