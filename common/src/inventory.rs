//! A list of servers that nobody signed: what a plan is checked against where no coordinator is at hand.
//!
//! Owns [`Inventory`], as people write it and as planner and simulation use it. Main invariant: an inventory
//! that was read names every server once, with a tier and a place. Refuses to be trusted: it enrols nobody.
//!
//! ```toml
//! format = 1
//! fleet = "moon"          # optional: a plan for another fleet is told apart
//!
//! [[servers]]             # air-1 … air-2000
//! name = "air"
//! count = 2000
//! tier = 1
//! site = "base"
//! cluster_size = 50       # air-c1 … air-c40; or `cluster = "life"`; default: main
//! group_size = 4          # redundancy groups air-g1 … air-g500; or `group = "…"`; default: none
//! service = "air"         # default: the name
//! labels = { pool = "staging" }   # default: none
//!
//! [[servers]]             # without `count`: this one server
//! name = "srv-07"
//! tier = 3
//! site = "base"
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::bounds::{DOCUMENT_BYTES_MAX, MACHINES_MAX};
use crate::document::{Place, explain_toml};
use crate::enrolment::{Enrolment, Role};
use crate::ids::{ClusterId, FleetId, GroupId, ServerId, ServiceId, SiteId};
use crate::lease::LimitScope;
use crate::limits::Tier;

/// The servers of a fleet, in the order in which they were written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Inventory {
    /// The fleet, if it says which.
    pub fleet: Option<FleetId>,
    /// Its servers; no name twice.
    pub servers: Vec<InventoryServer>,
}

/// One server's place in the fleet: all that selectors and limits ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InventoryServer {
    /// Its name.
    pub server: ServerId,
    /// Its tier.
    pub tier: Tier,
    /// Its site.
    pub site: SiteId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// What it does.
    pub service: ServiceId,
    /// Its redundancy group.
    pub group: Option<GroupId>,
    /// Anything else that plans may select by.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl InventoryServer {
    /// An enrolled server's place; `None` for a coordinator or an origin, which no plan upgrades.
    #[must_use]
    pub fn of(machine: &Enrolment) -> Option<Self> {
        (machine.role == Role::Agent).then(|| Self {
            server: machine.server.clone(),
            tier: machine.tier,
            site: machine.site.clone(),
            cluster: machine.cluster.clone(),
            service: machine.service.clone(),
            group: machine.group.clone(),
            labels: machine.labels.clone(),
        })
    }

    /// Every scope in which it counts, the widest first.
    pub fn scopes(&self) -> impl Iterator<Item = LimitScope> + use<> {
        LimitScope::of(self.tier, &self.site, &self.cluster, self.group.as_ref())
    }
}

/// Why a text is no inventory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InventoryError {
    /// Over the bound; not even looked at.
    #[error("the inventory has {0} bytes; at most {DOCUMENT_BYTES_MAX} are read: write servers by count")]
    TooLong(usize),
    /// Not UTF-8.
    #[error("the inventory is not text: line {0} holds bytes that are not UTF-8")]
    NotText(usize),
    /// Not TOML, not of this shape, or impossible.
    #[error("the inventory is wrong at line {}, column {}: {problem}{place}", place.line, place.column)]
    Wrong {
        /// Where.
        place: Place,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// There is nothing in it.
    #[error("the inventory lists no server: write at least one [[servers]] with name, tier and site")]
    Empty,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: Spanned<u32>,
    fleet: Option<FleetId>,
    #[serde(default)]
    servers: Vec<Spanned<Block>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Block {
    name: Spanned<ServerId>,
    count: Option<Spanned<usize>>,
    tier: Tier,
    site: SiteId,
    cluster: Option<ClusterId>,
    cluster_size: Option<Spanned<usize>>,
    service: Option<ServiceId>,
    group: Option<GroupId>,
    group_size: Option<Spanned<usize>>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

impl Inventory {
    /// The inventory in these bytes.
    ///
    /// # Errors
    /// [`InventoryError`] names the line, and what would be right there.
    pub fn parse(bytes: &[u8]) -> Result<Self, InventoryError> {
        if bytes.len() > DOCUMENT_BYTES_MAX {
            return Err(InventoryError::TooLong(bytes.len()));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            InventoryError::NotText(bytes[..error.valid_up_to()].split(|byte| *byte == b'\n').count())
        })?;
        let written: Written = toml::from_str(text).map_err(|error| {
            let (place, problem) = explain_toml(text, &error);
            InventoryError::Wrong { place, problem }
        })?;
        let Written { format, fleet, servers: blocks } = written;
        if *format.get_ref() != 1 {
            let problem = format!("format {} is not known to this program; write 1", format.get_ref());
            return Err(wrong(text, format.span(), problem));
        }
        let (mut servers, mut names) = (Vec::new(), BTreeSet::new());
        for block in &blocks {
            let (at, block) = (block.span(), block.get_ref());
            for server in block.servers(text)? {
                if servers.len() == MACHINES_MAX {
                    let problem =
                        format!("more than {MACHINES_MAX} servers in all: a fleet has at most that many");
                    return Err(wrong(text, at, problem));
                }
                if !names.insert(server.server.clone()) {
                    let problem =
                        format!("{} is listed already: give these servers another name", server.server);
                    return Err(wrong(text, block.name.span(), problem));
                }
                servers.push(server);
            }
        }
        if servers.is_empty() { Err(InventoryError::Empty) } else { Ok(Self { fleet, servers }) }
    }
}

fn wrong(text: &str, at: Range<usize>, problem: String) -> InventoryError {
    InventoryError::Wrong { place: Place::at(text, at.start), problem }
}

impl Block {
    fn servers(&self, text: &str) -> Result<Vec<InventoryServer>, InventoryError> {
        let count = self.count.as_ref().map_or(1, |count| *count.get_ref());
        if let Some(written) = self.count.as_ref().filter(|_| !(1..=MACHINES_MAX).contains(&count)) {
            let problem = format!("count {count} is out of range: write 1 to {MACHINES_MAX}");
            return Err(wrong(text, written.span(), problem));
        }
        for (size, name, other) in [
            (&self.group_size, "group", self.group.is_some()),
            (&self.cluster_size, "cluster", self.cluster.is_some()),
        ] {
            let Some(size) = size else { continue };
            if other {
                let problem = format!("{name} and {name}_size contradict each other: keep one of them");
                return Err(wrong(text, size.span(), problem));
            }
            if !(1..=count).contains(size.get_ref()) {
                let found = size.get_ref();
                let problem = format!("{name}_size {found} is out of range: write 1 to {count}, the count");
                return Err(wrong(text, size.span(), problem));
            }
        }
        let name = self.name.get_ref().as_str();
        let id =
            |error: crate::ids::IdError| wrong(text, self.name.span(), format!("{name}, numbered: {error}"));
        let part = |index: usize, size: &Option<Spanned<usize>>| {
            size.as_ref().map(|size| index / *size.get_ref() + 1)
        };
        (0..count)
            .map(|index| {
                let server = match self.count {
                    Some(_) => ServerId::new(&format!("{name}-{}", index + 1)).map_err(id)?,
                    None => self.name.get_ref().clone(),
                };
                let cluster = match (part(index, &self.cluster_size), &self.cluster) {
                    (Some(number), _) => ClusterId::new(&format!("{name}-c{number}")),
                    (None, Some(cluster)) => Ok(cluster.clone()),
                    (None, None) => ClusterId::new("main"),
                };
                let group = match (part(index, &self.group_size), &self.group) {
                    (Some(number), _) => Some(GroupId::new(&format!("{name}-g{number}")).map_err(id)?),
                    (None, group) => group.clone(),
                };
                Ok(InventoryServer {
                    server,
                    tier: self.tier,
                    site: self.site.clone(),
                    cluster: cluster.map_err(id)?,
                    service: self.service.clone().map_or_else(|| ServiceId::new(name).map_err(id), Ok)?,
                    group,
                    labels: self.labels.clone(),
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AIR: &str = "format = 1\nfleet = \"moon\"\n\n[[servers]]\nname = \"air\"\ncount = 5\ntier = 1\n\
         site = \"base\"\ngroup_size = 2\ncluster_size = 3\n\n[[servers]]\nname = \"srv-07\"\ntier = 3\nsite = \"rim\"\n";

    fn refused(text: &str) -> String {
        Inventory::parse(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn servers_by_count_are_numbered_and_cut_into_groups_and_clusters() {
        let inventory = Inventory::parse(AIR.as_bytes()).unwrap();
        assert_eq!(inventory.fleet, Some(FleetId::new("moon").unwrap()));
        let told: Vec<String> = inventory
            .servers
            .iter()
            .map(|s| {
                format!(
                    "{} t{} {} {} {:?}",
                    s.server,
                    s.tier,
                    s.cluster,
                    s.service,
                    s.group.as_ref().map(GroupId::as_str)
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                "air-1 t1 air-c1 air Some(\"air-g1\")",
                "air-2 t1 air-c1 air Some(\"air-g1\")",
                "air-3 t1 air-c1 air Some(\"air-g2\")",
                "air-4 t1 air-c2 air Some(\"air-g2\")",
                "air-5 t1 air-c2 air Some(\"air-g3\")",
                "srv-07 t3 main srv-07 None",
            ]
        );
    }

    #[test]
    fn every_mistake_is_told_with_its_line_and_what_would_be_right() {
        for (broken, line, words) in [
            (
                AIR.replace("group_size", "group_sise"),
                9,
                "unknown key `group_sise`; did you mean `group_size`?",
            ),
            (AIR.replace("tier = 1", "tier = 4"), 7, "tier 4 does not exist: use 1, 2 or 3"),
            (
                AIR.replace("count = 5", "count = 0"),
                6,
                &format!("count 0 is out of range: write 1 to {MACHINES_MAX}"),
            ),
            (
                AIR.replace("group_size = 2", "group_size = 6"),
                9,
                "group_size 6 is out of range: write 1 to 5",
            ),
            (AIR.replace("group_size = 2", "group = \"a\"\ngroup_size = 2"), 10, "keep one of them"),
            (AIR.replace("srv-07", "air-2"), 13, "air-2 is listed already"),
            (AIR.replace("format = 1", "format = 2"), 1, "format 2 is not known"),
            (AIR.replace("site = \"rim\"\n", ""), 12, "missing key `site`"),
            (AIR.replace("count = 5", "count = -5"), 6, "invalid value"),
            (AIR.replace("\"air\"", &format!("\"{}\"", "a".repeat(63))), 5, "at most 64 characters"),
            (
                AIR.replace("count = 5", &format!("count = {MACHINES_MAX}")),
                12,
                &format!("more than {MACHINES_MAX} servers in all"),
            ),
        ] {
            let said = refused(&broken);
            assert!(said.contains(&format!("at line {line},")), "{line}: {said}");
            assert!(said.contains(words), "{words:?}: {said}");
        }
    }

    #[test]
    fn what_holds_no_server_no_text_or_too_much_is_refused() {
        assert_eq!(Inventory::parse(b"format = 1\n"), Err(InventoryError::Empty));
        assert_eq!(Inventory::parse(b"format = 1\n\xff"), Err(InventoryError::NotText(2)));
        let long = vec![b'#'; DOCUMENT_BYTES_MAX + 1];
        assert_eq!(Inventory::parse(&long), Err(InventoryError::TooLong(DOCUMENT_BYTES_MAX + 1)));
    }
}
