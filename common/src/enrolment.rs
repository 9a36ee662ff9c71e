//! Who a machine is: the binding of its key to its place in the fleet.
//!
//! Owns [`Enrolment`] and [`Revocation`]. Main invariant: tier, site and group come from here, signed by an
//! enroller, and never from what a peer says of itself.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bounds::{LABELS_MAX, MACHINES_MAX};
use crate::document::{Document, Kind, Problem, check_expiry, check_head, check_text};
use crate::ids::{ClusterId, FleetId, GroupId, PeerKey, Sequence, ServerId, ServiceId, SiteId};
use crate::limits::Tier;
use crate::time::WallTime;

/// One machine's enrolment. Signed under `enroll@`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolment {
    /// Always 1.
    pub format: u32,
    /// The fleet it belongs to.
    pub fleet: FleetId,
    /// Its name.
    pub server: ServerId,
    /// Order among this server's enrolments: a later one replaces an earlier one.
    pub sequence: Sequence,
    /// When it was made.
    pub issued: WallTime,
    /// Past this, the machine stays a member but starts nothing new. Absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<WallTime>,
    /// The machine's ed25519 public key, 64 hexadecimal digits.
    pub key: PeerKey,
    /// What it may do in the mesh.
    #[serde(default)]
    pub role: Role,
    /// Its host name.
    pub hostname: String,
    /// Its site.
    pub site: SiteId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its tier.
    pub tier: Tier,
    /// What it does.
    pub service: ServiceId,
    /// The servers that stand in for it and it for them. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupId>,
    /// Anything else that plans may use, in `${label.NAME}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What a machine may do in the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A server that upgrades itself.
    #[default]
    Agent,
    /// Grants leases and publishes plans.
    Coordinator,
    /// Serves artifacts from Earth: the last resort among sources.
    Origin,
}

/// Machines that are no longer members. Signed under `revoke@`; a later list replaces an earlier one whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// Always 1.
    pub format: u32,
    /// The fleet.
    pub fleet: FleetId,
    /// Order among revocation lists.
    pub sequence: Sequence,
    /// When it was made.
    pub issued: WallTime,
    /// The keys that are out.
    pub keys: Vec<PeerKey>,
}

impl Document for Enrolment {
    const KIND: Kind = Kind::Enrolment;

    fn fleet(&self) -> &FleetId {
        &self.fleet
    }

    fn issued(&self) -> WallTime {
        self.issued
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        check_head(&mut problems, self.format, ("sequence", self.sequence.0));
        if let Some(expires) = self.expires {
            check_expiry(&mut problems, self.issued, expires);
        }
        if let Some(problem) = host_name_problem(&self.hostname) {
            problems.push(Problem::new("hostname", problem));
        }
        if !is_sound_key(&self.key) {
            problems.push(Problem::new(
                "key",
                "not a sound ed25519 public key: copy it from the machine's .pub file",
            ));
        }
        if self.labels.len() > LABELS_MAX {
            let found = self.labels.len();
            problems.push(Problem::new("labels", format!("has {found} labels; at most {LABELS_MAX}")));
        }
        for (name, value) in self.labels.iter().take(LABELS_MAX) {
            let key = format!("labels.{name}");
            if !is_label_name(name) {
                problems.push(Problem::new(&key, "a label's name has 1 to 64 of a-z, A-Z, 0-9, '-' and '_'"));
            }
            check_text(&mut problems, &key, value, false);
            if value.contains('\n') {
                problems.push(Problem::new(&key, "a label's value is one line"));
            }
        }
        problems
    }
}

impl Document for Revocation {
    const KIND: Kind = Kind::Revocation;

    fn fleet(&self) -> &FleetId {
        &self.fleet
    }

    fn issued(&self) -> WallTime {
        self.issued
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        check_head(&mut problems, self.format, ("sequence", self.sequence.0));
        if self.keys.len() > MACHINES_MAX {
            let found = self.keys.len();
            problems.push(Problem::new("keys", format!("has {found} keys; at most {MACHINES_MAX}")));
        }
        problems
    }
}

/// Whether a text can name a label in `${label.NAME}`.
pub(crate) fn is_label_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

/// A point on the curve, and not one of the few whose signatures anyone can make.
fn is_sound_key(key: &PeerKey) -> bool {
    ed25519_dalek::VerifyingKey::from_bytes(&key.0).is_ok_and(|point| !point.is_weak())
}

fn host_name_problem(name: &str) -> Option<String> {
    const BYTES_MAX: usize = 253;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':');
    if name.is_empty() {
        Some("must not be empty".to_owned())
    } else if name.len() > BYTES_MAX {
        Some(format!("has {} characters; a host name has at most {BYTES_MAX}", name.len()))
    } else if name.starts_with('-') || !name.chars().all(plain) {
        Some(format!(
            "{name:?} is no host name or address: use letters, digits, '-', '.' (and ':' in an address)"
        ))
    } else {
        None
    }
}
