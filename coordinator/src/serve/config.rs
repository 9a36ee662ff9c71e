//! What a coordinator is started with: `HOME/coordinator.toml`, all of it optional.
//!
//! Owns [`Config`]. Main invariant: a key that is not known is refused with its line, never ignored.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;
use lunar_coordinator_core::config::Config as Thresholds;
use lunar_host::exit::{Exit, Failure};
use lunar_host::files::read_bounded;
use lunar_transport::mesh::PeerAddress;
use serde::Deserialize;

use crate::api::tls::Pem;
use crate::pki;

/// The file's name.
const FILE: &str = "coordinator.toml";

/// Largest file: a few addresses.
const BYTES_MAX: usize = 64 * 1024;

/// Where the control plane listens if nothing is said.
const LISTEN: &str = "0.0.0.0:7600";

/// What a coordinator is started with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the control plane listens, `ip:port`.
    pub listen: Vec<String>,
    /// Under which addresses others reach it, `ip:port`; empty: those it listens on.
    pub announce: Vec<String>,
    /// Whom it tries first.
    pub bootstrap: Vec<PeerAddress>,
    /// The coordinator's key; absent: `HOME/identity.key`.
    pub key: Option<PathBuf>,
    /// Seconds between an idle server's reports.
    pub report_every_s: Option<u64>,
    /// Seconds of silence after which a server takes a slot.
    pub unreachable_after_s: Option<u64>,
    /// The API over the network.
    pub api: ApiConfig,
}

/// The API over the network. Paths are seen from the coordinator's directory; those that `pki init` makes are the
/// defaults.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiConfig {
    /// Where it listens, `ip:port`; absent: by the coordinator's own socket only.
    pub listen: Option<String>,
    /// The coordinator's certificate for it.
    pub certificate: PathBuf,
    /// The certificate's key.
    pub key: PathBuf,
    /// The authority that signs callers' certificates.
    pub authority: PathBuf,
}

impl Default for ApiConfig {
    fn default() -> Self {
        let file = |name| Path::new(pki::FOLDER).join(name);
        Self {
            listen: None,
            certificate: file(pki::SERVER),
            key: file(pki::SERVER_KEY),
            authority: file(pki::AUTHORITY),
        }
    }
}

impl ApiConfig {
    /// Where the certificates lie.
    #[must_use]
    pub fn pem(&self, home: &Path) -> Pem {
        Pem {
            authority: home.join(&self.authority),
            certificate: home.join(&self.certificate),
            key: home.join(&self.key),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![LISTEN.into()],
            announce: Vec::new(),
            bootstrap: Vec::new(),
            key: None,
            report_every_s: None,
            unreachable_after_s: None,
            api: ApiConfig::default(),
        }
    }
}

impl Config {
    /// The configuration of a directory; the defaults if it has none.
    ///
    /// # Errors
    /// [`Exit::BadInput`] names the file and the line.
    pub fn load(home: &Path) -> Result<Self, Failure> {
        let path = home.join(FILE);
        let bytes = match read_bounded(&path, BYTES_MAX) {
            Err(error) if error.is_not_found() => return Ok(Self::default()),
            other => other?,
        };
        let wrong = |error: anyhow::Error| {
            Failure::new(Exit::BadInput, error.context(path.display().to_string()))
                .advise("`lunar-coordinator serve --help` lists the keys")
        };
        let text = String::from_utf8(bytes).map_err(|_| wrong(anyhow!("it is not text")))?;
        let config: Self = toml::from_str(&text).map_err(|error| wrong(anyhow!("{error}")))?;
        config.check().map_err(|error| wrong(anyhow!(error)))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let thresholds = self.thresholds();
        if thresholds.report_every.is_zero() {
            return Err("report_every_s must be at least 1".into());
        }
        if thresholds.unreachable_after <= thresholds.report_every {
            return Err("unreachable_after_s must be more than report_every_s".into());
        }
        Ok(())
    }

    /// The core's thresholds.
    #[must_use]
    pub fn thresholds(&self) -> Thresholds {
        let defaults = Thresholds::default();
        Thresholds {
            report_every: self.report_every_s.map_or(defaults.report_every, Duration::from_secs),
            unreachable_after: self
                .unreachable_after_s
                .map_or(defaults.unreachable_after, Duration::from_secs),
            ..defaults
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(text: &str) -> Result<Config, Failure> {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join(FILE), text).unwrap();
        Config::load(home.path())
    }

    #[test]
    fn a_missing_file_means_the_defaults_and_a_written_one_is_taken() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(Config::load(home.path()).unwrap(), Config::default());

        let config = loaded("listen = ['127.0.0.1:7000']\nunreachable_after_s = 50\n").unwrap();

        assert_eq!(config.listen, ["127.0.0.1:7000"]);
        assert_eq!(config.thresholds().unreachable_after, Duration::from_secs(50));
    }

    #[test]
    fn an_unknown_key_a_wrong_type_and_an_impossible_value_are_told_with_the_file() {
        for text in ["lissten = []", "listen = 7", "report_every_s = 0", "unreachable_after_s = 3", "= x"] {
            let failure = loaded(text).unwrap_err();
            assert_eq!(failure.exit, Exit::BadInput, "{text}");
            assert!(failure.to_string().contains(FILE), "{failure}");
        }
        assert!(loaded("lissten = []").unwrap_err().to_string().contains("lissten"));
    }
}
