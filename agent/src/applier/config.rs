//! `applier.toml`: what the root half is told by the machine's own administrator.
//!
//! Owns [`Config`]. Main invariant: everything that the applier believes without a signature is in this file,
//! and nothing in it comes from the network half. Refuses unknown keys, relative paths, and a root or state
//! directory that the network half's directory of packs could reach into.

use std::path::{Path, PathBuf};

use lunar_common::enrolment::Enrolment;
use lunar_common::ids::ServerId;
use lunar_host::exit::Exit;
use lunar_host::files::{FileError, read_bounded};
use serde::Deserialize;

/// Largest configuration in bytes.
const CONFIG_BYTES_MAX: usize = 64 * 1024;

/// The applier's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where releases are installed: `ROOT/NAME/current`.
    pub root: PathBuf,
    /// Where the applier keeps its journal.
    pub state: PathBuf,
    /// Where the network half keeps packs: `ID.manifest` and `ID.pack`. Only read, and never believed.
    pub packs: PathBuf,
    /// The Unix socket to listen on.
    #[serde(default = "default_socket")]
    pub socket: PathBuf,
    /// The user that the network half runs as. Absent: only the applier's own user (and root).
    #[serde(default)]
    pub allowed_uid: Option<u32>,
    /// The first trust root, with its signatures beside it.
    pub trust_root: PathBuf,
    /// This server's enrolment, with its signatures beside it.
    pub enrolment: PathBuf,
}

fn default_socket() -> PathBuf {
    PathBuf::from("/run/lunar-applier/applier.sock")
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not text.
    #[error("{path} is not UTF-8 text")]
    Text {
        /// The file.
        path: PathBuf,
    },
    /// Not what it should be.
    #[error("{path}: {problem}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and what, in the parser's words.
        problem: String,
    },
    /// A path that must be absolute.
    #[error("{path}: `{key}` must be an absolute path, not {found}")]
    Relative {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What is there.
        found: PathBuf,
    },
    /// Two directories that must be apart.
    #[error("{path}: `{inner}` lies inside `packs`, which the network half may write: move one of them")]
    Inside {
        /// The file.
        path: PathBuf,
        /// The key.
        inner: &'static str,
    },
}

impl ConfigError {
    /// The code to end with.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::File(error) => error.exit(),
            Self::Text { .. } | Self::Syntax { .. } | Self::Relative { .. } | Self::Inside { .. } => {
                Exit::BadInput
            }
        }
    }
}

impl Config {
    /// The configuration of a file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let bytes = read_bounded(path, CONFIG_BYTES_MAX)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| ConfigError::Text { path: path.to_owned() })?;
        let config: Self = toml::from_str(text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            problem: error.to_string().trim_end().to_owned(),
        })?;
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let all = [
            ("root", &self.root),
            ("state", &self.state),
            ("packs", &self.packs),
            ("socket", &self.socket),
            ("trust_root", &self.trust_root),
            ("enrolment", &self.enrolment),
        ];
        for (key, found) in all {
            let plain = !found.components().any(|part| matches!(part, std::path::Component::ParentDir));
            if !found.is_absolute() || !plain {
                return Err(ConfigError::Relative { path: path.to_owned(), key, found: found.clone() });
            }
        }
        for (inner, found) in all {
            if inner != "packs" && inner != "socket" && found.starts_with(&self.packs) {
                return Err(ConfigError::Inside { path: path.to_owned(), inner });
            }
        }
        Ok(())
    }

    /// Whether a process of this user may talk to the applier.
    #[must_use]
    pub fn admits(&self, uid: u32) -> bool {
        uid == 0 || uid == nix::unistd::geteuid().as_raw() || self.allowed_uid == Some(uid)
    }

    /// What placeholders are replaced with; the labels are the signed enrolment's.
    #[must_use]
    pub fn context(&self, server: &ServerId, enrolment: Option<&Enrolment>) -> crate::hooks::Context {
        match enrolment {
            Some(enrolment) => crate::hooks::Context::new(enrolment, self.root.clone()),
            // Not a member any more; going back must work all the same, as far as it needs no label.
            None => crate::hooks::Context {
                server: server.to_string(),
                hostname: String::new(),
                root: self.root.clone(),
                labels: std::collections::BTreeMap::new(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        root = "/srv/lunar"
        state = "/var/lib/lunar-applier"
        packs = "/var/lib/lunar-agent/packs"
        trust_root = "/etc/lunar-agent/trust-root.toml"
        enrolment = "/etc/lunar-agent/enrolment.toml"
        allowed_uid = 997
    "#;

    #[test]
    fn a_good_configuration_is_taken_and_admits_its_user() {
        let config = loaded(GOOD).unwrap();
        assert_eq!(config.socket, default_socket());
        assert!(config.admits(997) && config.admits(0));
        assert!(!config.admits(998) || nix::unistd::geteuid().as_raw() == 998);
    }

    #[test]
    fn bad_configurations_are_refused_with_the_place() {
        for (from, to, says) in [
            ("root =", "roof =", "roof"),
            ("\"/srv/lunar\"", "7", "line 2"),
            ("\"/srv/lunar\"", "\"srv\"", "`root` must be an absolute path"),
            ("\"/srv/lunar\"", "\"/srv/../etc\"", "`root` must be an absolute path"),
            ("\"/var/lib/lunar-applier\"", "\"/var/lib/lunar-agent/packs/state\"", "`state` lies inside"),
            ("allowed_uid = 997", "allowed_uid = -1", "allowed_uid"),
        ] {
            let error = loaded(&GOOD.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(says), "{from} -> {to}: {error}");
        }
    }

    fn loaded(text: &str) -> Result<Config, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("applier.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&path)
    }
}
