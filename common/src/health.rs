//! What is probed, and what the answers add up to.
//!
//! Owns probe descriptions, outcomes and the tri-state verdict. Main invariant: no data is never success
//! (DESIGN 10): a probe that could not be asked is inconclusive, and inconclusive never passes.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::ProbeName;

/// One probe of a plan. `${server}`, `${hostname}` and `${label.NAME}` in its texts are replaced from the
/// server's signed enrolment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenProbe")]
pub struct Probe {
    /// Unique in its plan.
    pub name: ProbeName,
    /// When it is asked. Absent: before, after, and all through the soak.
    #[serde(skip_serializing_if = "When::is_all")]
    pub when: Vec<When>,
    /// Longest wait for its answer, in seconds.
    pub timeout_s: u32,
    /// What it asks.
    #[serde(flatten)]
    pub kind: ProbeKind,
}

/// Seconds a probe may take where the plan says nothing: longer than any healthy local answer.
fn default_timeout_s() -> u32 {
    10
}

/// A time at which probes are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// Before the server goes down: a failure leaves it untouched.
    Before,
    /// Right after the new version is running.
    After,
    /// Again and again through the soak time.
    Soak,
}

impl When {
    fn all() -> Vec<Self> {
        vec![Self::Before, Self::After, Self::Soak]
    }

    fn is_all(when: &[Self]) -> bool {
        when == Self::all()
    }
}

/// What a probe asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ProbeKind {
    /// Runs a program; healthy if it exits 0.
    Command {
        /// Program and arguments; no shell.
        command: Vec<String>,
    },
    /// GETs a URL (http only: it is this server's own service).
    Http {
        /// `http://host:port/path`.
        url: String,
        /// The status wanted.
        status: u16,
        /// A text the body must contain.
        #[serde(skip_serializing_if = "Option::is_none")]
        contains: Option<String>,
    },
    /// Opens a TCP connection.
    Tcp {
        /// `host:port`.
        address: String,
    },
    /// Asks systemd whether a unit is active.
    Unit {
        /// The unit's name.
        unit: String,
    },
    /// Free space on the file system that holds a path.
    Disk {
        /// Any path on it.
        path: String,
        /// Least free bytes.
        free_bytes_min: u64,
    },
    /// Memory available without swapping.
    Memory {
        /// Least available bytes.
        available_bytes_min: u64,
    },
    /// One-minute load average over the number of cores.
    Load {
        /// Most, in percent of one runnable task a core.
        per_core_percent_max: u32,
    },
}

/// HTTP status wanted where the plan says nothing.
fn default_status() -> u16 {
    200
}

/// A probe as people write it: all keys of all kinds side by side, because a flattened enum would lose both the
/// place of a mistake and the refusal of unknown keys.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenProbe {
    name: ProbeName,
    kind: WrittenKind,
    #[serde(default = "When::all")]
    when: Vec<When>,
    #[serde(default = "default_timeout_s")]
    timeout_s: u32,
    command: Option<Vec<String>>,
    url: Option<String>,
    status: Option<u16>,
    contains: Option<String>,
    address: Option<String>,
    unit: Option<String>,
    path: Option<String>,
    free_bytes_min: Option<u64>,
    available_bytes_min: Option<u64>,
    per_core_percent_max: Option<u32>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WrittenKind {
    Command,
    Http,
    Tcp,
    Unit,
    Disk,
    Memory,
    Load,
}

impl WrittenKind {
    fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Unit => "unit",
            Self::Disk => "disk",
            Self::Memory => "memory",
            Self::Load => "load",
        }
    }
}

impl TryFrom<WrittenProbe> for Probe {
    type Error = String;

    fn try_from(mut written: WrittenProbe) -> Result<Self, String> {
        fn take<T>(key: &str, value: &mut Option<T>, kind: WrittenKind) -> Result<T, String> {
            value
                .take()
                .ok_or_else(|| format!("missing key `{key}`: a probe of kind {} needs it", kind.name()))
        }
        let kind = written.kind;
        let asked = match kind {
            WrittenKind::Command => {
                ProbeKind::Command { command: take("command", &mut written.command, kind)? }
            }
            WrittenKind::Http => ProbeKind::Http {
                url: take("url", &mut written.url, kind)?,
                status: written.status.take().unwrap_or_else(default_status),
                contains: written.contains.take(),
            },
            WrittenKind::Tcp => ProbeKind::Tcp { address: take("address", &mut written.address, kind)? },
            WrittenKind::Unit => ProbeKind::Unit { unit: take("unit", &mut written.unit, kind)? },
            WrittenKind::Disk => ProbeKind::Disk {
                path: take("path", &mut written.path, kind)?,
                free_bytes_min: take("free_bytes_min", &mut written.free_bytes_min, kind)?,
            },
            WrittenKind::Memory => ProbeKind::Memory {
                available_bytes_min: take("available_bytes_min", &mut written.available_bytes_min, kind)?,
            },
            WrittenKind::Load => ProbeKind::Load {
                per_core_percent_max: take("per_core_percent_max", &mut written.per_core_percent_max, kind)?,
            },
        };
        let foreign = [
            ("command", written.command.is_some()),
            ("url", written.url.is_some()),
            ("status", written.status.is_some()),
            ("contains", written.contains.is_some()),
            ("address", written.address.is_some()),
            ("unit", written.unit.is_some()),
            ("path", written.path.is_some()),
            ("free_bytes_min", written.free_bytes_min.is_some()),
            ("available_bytes_min", written.available_bytes_min.is_some()),
            ("per_core_percent_max", written.per_core_percent_max.is_some()),
        ];
        match foreign.iter().find(|(_, left)| *left) {
            Some((key, _)) => Err(format!("key `{key}` does not belong to a probe of kind {}", kind.name())),
            None => {
                Ok(Self { name: written.name, when: written.when, timeout_s: written.timeout_s, kind: asked })
            }
        }
    }
}

/// What one probe found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// As wanted.
    Healthy,
    /// It answered, and not as wanted.
    Unhealthy {
        /// What was found, for people.
        found: String,
    },
    /// It could not be asked: nothing is known.
    Inconclusive {
        /// Why, for people.
        reason: String,
    },
}

/// What all probes of one round add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every probe healthy, and there was at least one.
    Healthy,
    /// None unhealthy, but some inconclusive, or no probe at all.
    Inconclusive,
    /// At least one unhealthy.
    Unhealthy,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Healthy => "healthy",
            Self::Inconclusive => "inconclusive",
            Self::Unhealthy => "unhealthy",
        })
    }
}

impl Verdict {
    /// The verdict over a round of outcomes.
    #[must_use]
    pub fn over<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> Self {
        let mut asked = false;
        let mut verdict = Self::Healthy;
        for outcome in outcomes {
            asked = true;
            verdict = verdict.max(match outcome {
                Outcome::Healthy => Self::Healthy,
                Outcome::Inconclusive { .. } => Self::Inconclusive,
                Outcome::Unhealthy { .. } => Self::Unhealthy,
            });
        }
        if asked { verdict } else { Self::Inconclusive }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_data_is_inconclusive_and_the_worst_answer_wins() {
        let bad = Outcome::Unhealthy { found: "503".into() };
        let unknown = Outcome::Inconclusive { reason: "timed out".into() };
        assert_eq!(Verdict::over([]), Verdict::Inconclusive);
        assert_eq!(Verdict::over([&Outcome::Healthy]), Verdict::Healthy);
        assert_eq!(Verdict::over([&Outcome::Healthy, &unknown]), Verdict::Inconclusive);
        assert_eq!(Verdict::over([&bad, &unknown, &Outcome::Healthy]), Verdict::Unhealthy);
    }
}
