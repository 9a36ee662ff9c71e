//! The trust root: whose keys may sign what, how many of them, for where, and how long.
//!
//! Owns [`TrustRoot`]. Main invariant: a root that passed its checks can always be replaced (its own role needs
//! no more distinct keys than it has, and never expires), so no typing mistake locks a fleet out.
//!
//! To retire a key, give its role entry a `valid_until`: what was signed before stays good. To cast a stolen key
//! out, remove it: whatever it signed no longer counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use ssh_key::public::KeyData;
use ssh_key::{EcdsaCurve, PublicKey};

use crate::bounds::{TRUST_KEYS_MAX, TRUST_ROLES_MAX};
use crate::document::{Document, Kind, Problem, check_expiry, check_head};
use crate::ids::{FleetId, KeyName, SiteId};
use crate::limits::Tier;
use crate::time::WallTime;

/// The trust root. Signed under `root@` by its own threshold and by its predecessor's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustRoot {
    /// Always 1.
    pub format: u32,
    /// The fleet.
    pub fleet: FleetId,
    /// Counts up by exactly one.
    pub version: u64,
    /// When it was made.
    pub issued: WallTime,
    /// Past this it still verifies, but nothing new starts under it.
    pub expires: WallTime,
    /// Public keys by name, in OpenSSH's one-line form.
    pub keys: BTreeMap<KeyName, String>,
    /// Who may sign what. Several entries of one name are alternatives: one that is met suffices.
    #[serde(rename = "role")]
    pub roles: Vec<TrustRole>,
}

/// One entry of a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustRole {
    /// Which role.
    pub name: RoleName,
    /// The names of the keys that hold it.
    pub keys: BTreeSet<KeyName>,
    /// How many distinct keys must sign. The same key under two names is one.
    pub threshold: u32,
    /// Documents issued earlier are not this entry's to sign. Absent: no such bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_from: Option<WallTime>,
    /// Documents issued later are not this entry's to sign, and past it nothing new starts by its signatures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<WallTime>,
    /// For servers of these tiers only. Empty: all.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tiers: BTreeSet<Tier>,
    /// For servers at these sites only. Empty: all.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub sites: BTreeSet<SiteId>,
}

/// What may be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RoleName {
    /// The next trust root.
    Root,
    /// Campaign plans.
    Plan,
    /// Approvals of batches.
    Approve,
    /// Halts: one key is enough.
    Halt,
    /// Resumes.
    Resume,
    /// Enrolments of machines.
    Enroll,
    /// Revocations of machines.
    Revoke,
    /// Reaps of lost leases.
    Reap,
}

impl RoleName {
    /// All roles.
    pub const ALL: [Self; 8] = [
        Self::Root,
        Self::Plan,
        Self::Approve,
        Self::Halt,
        Self::Resume,
        Self::Enroll,
        Self::Revoke,
        Self::Reap,
    ];

    /// Whether an entry of this role may be bound to tiers and sites. The others act on the whole fleet.
    fn has_scope(self) -> bool {
        match self {
            Self::Plan | Self::Approve | Self::Enroll | Self::Reap => true,
            Self::Root | Self::Halt | Self::Resume | Self::Revoke => false,
        }
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Root => "root",
            Self::Plan => "plan",
            Self::Approve => "approve",
            Self::Halt => "halt",
            Self::Resume => "resume",
            Self::Enroll => "enroll",
            Self::Revoke => "revoke",
            Self::Reap => "reap",
        })
    }
}

impl TrustRole {
    /// Whether it reaches a server of this tier at this site.
    #[must_use]
    pub fn covers(&self, tier: Tier, site: &SiteId) -> bool {
        (self.tiers.is_empty() || self.tiers.contains(&tier))
            && (self.sites.is_empty() || self.sites.contains(site))
    }

    /// Whether a signature by a hardware key must also prove that the key knew its user (PIN, finger): where
    /// tier 1 is in reach, but never for a halt, which must not wait for a PIN.
    #[must_use]
    pub fn needs_user_verified(&self) -> bool {
        self.name != RoleName::Halt && (self.tiers.is_empty() || self.tiers.contains(&Tier::One))
    }
}

impl Document for TrustRoot {
    const KIND: Kind = Kind::TrustRoot;

    fn fleet(&self) -> &FleetId {
        &self.fleet
    }

    fn issued(&self) -> WallTime {
        self.issued
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        check_head(&mut problems, self.format, ("version", self.version));
        check_expiry(&mut problems, self.issued, self.expires);
        if self.keys.len() > TRUST_KEYS_MAX {
            problems.push(Problem::new(
                "keys",
                format!("has {} keys; at most {TRUST_KEYS_MAX}", self.keys.len()),
            ));
        }
        if self.roles.len() > TRUST_ROLES_MAX {
            problems.push(Problem::new(
                "role",
                format!("has {} entries; at most {TRUST_ROLES_MAX}", self.roles.len()),
            ));
        }
        if !problems.is_empty() {
            return problems;
        }
        let mut parsed = BTreeMap::new();
        for (name, line) in &self.keys {
            match parse_key(line) {
                Ok(key) => drop(parsed.insert(name, key)),
                Err(problem) => problems.push(Problem::new(format!("keys.{name}"), problem)),
            }
        }
        for (index, role) in self.roles.iter().enumerate() {
            role_problems(&mut problems, &format!("role[{index}]"), role, &self.keys, &parsed);
        }
        if self.roles.iter().filter(|role| role.name == RoleName::Root).count() != 1 {
            problems.push(Problem::new(
                "role",
                "needs exactly one entry named root, or nobody could replace this file",
            ));
        }
        problems
    }
}

fn role_problems(
    problems: &mut Vec<Problem>,
    at: &str,
    role: &TrustRole,
    keys: &BTreeMap<KeyName, String>,
    parsed: &BTreeMap<&KeyName, KeyData>,
) {
    let mut problem = |key: &str, text: String| problems.push(Problem::new(format!("{at}.{key}"), text));
    for name in role.keys.iter().filter(|name| !keys.contains_key(name)) {
        problem("keys", format!("{name} is not in [keys]"));
    }
    let distinct: BTreeSet<&KeyData> = role.keys.iter().filter_map(|name| parsed.get(name)).collect();
    if role.threshold == 0 {
        problem("threshold", "0 would let anyone sign; write at least 1".into());
    } else if usize::try_from(role.threshold).is_ok_and(|threshold| threshold > distinct.len()) {
        let (wanted, have) = (role.threshold, distinct.len());
        problem("threshold", format!("{wanted} can never be met by {have} distinct keys"));
    }
    if role.name == RoleName::Halt && role.threshold > 1 {
        problem("threshold", "a halt needs one key: anyone who sees smoke may stop the fleet".into());
    }
    let scoped = !role.tiers.is_empty() || !role.sites.is_empty();
    if scoped && !role.name.has_scope() {
        problem("tiers", format!("the {} role acts on the whole fleet: remove tiers and sites", role.name));
    }
    if role.name == RoleName::Root && (role.valid_from.is_some() || role.valid_until.is_some()) {
        problem("valid_until", "the root role must not end, or nobody could replace this file".into());
    }
    if let (Some(from), Some(until)) = (role.valid_from, role.valid_until)
        && until <= from
    {
        problem("valid_until", format!("{until} is not after valid_from ({from})"));
    }
}

/// A public key in OpenSSH's one-line form, of a type that we verify.
pub(super) fn parse_key(line: &str) -> Result<KeyData, String> {
    let key = PublicKey::from_openssh(line.trim())
        .map_err(|error| format!("not a public key as in a .pub file (`ssh-ed25519 AAAA… name`): {error}"))?;
    let weak = |bytes: &[u8; 32]| {
        ed25519_dalek::VerifyingKey::from_bytes(bytes).map_or(true, |point| point.is_weak())
    };
    let refused = match key.key_data() {
        KeyData::Ed25519(point) => weak(&point.0).then_some("not a sound ed25519 key: make a new one"),
        KeyData::SkEd25519(sk) => {
            weak(&sk.public_key().0).then_some("not a sound ed25519 key: make a new one")
        }
        KeyData::Ecdsa(point) if point.curve() == EcdsaCurve::NistP256 => None,
        KeyData::SkEcdsaSha2NistP256(_) => None,
        _ => {
            Some("of a type that is not verified here: use ed25519, ed25519-sk, ecdsa (256 bits) or ecdsa-sk")
        }
    };
    match refused {
        Some(why) => Err(why.to_owned()),
        None => Ok(key.key_data().clone()),
    }
}
