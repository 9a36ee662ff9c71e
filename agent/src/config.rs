//! The agent's configuration file.
//!
//! Owns [`Config`]. Main invariant: every key is known, every path is absolute, every address is one; a
//! misspelt key is told with the place and the nearest known one. Holds nothing that must be signed: who this
//! server is comes from its enrolment.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use lunar_common::document::explain_toml;
use lunar_host::exit::{Exit, Failure};
use lunar_host::files::read_bounded;
use lunar_transport::mesh::PeerAddress;
use serde::{Deserialize, Serialize};

/// Where the configuration is, unless the command line says otherwise.
pub const DEFAULT_PATH: &str = "/etc/lunar-agent/agent.toml";

/// Where the packaged units put sockets.
const RUN_DIR: &str = "/run/lunar-agent";
const APPLIER_SOCKET: &str = "/run/lunar-applier/applier.sock";

/// The largest configuration file read.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// `agent.toml`. Every key has a default, so that an empty file is a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What people signed for this server: `trust-root.toml` and `enrolment.toml`, with their signatures.
    pub documents: PathBuf,
    /// This machine's private key; made by `lunar-agent init`.
    pub key: PathBuf,
    /// The journal and the lock.
    pub state_dir: PathBuf,
    /// Artifacts. The applier reads them there.
    pub packs: PathBuf,
    /// Sockets.
    pub run_dir: PathBuf,
    /// The applier's socket. Absent: that of the packaged unit, or `applier.sock` in `run_dir` where that is
    /// not the packaged one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applier: Option<PathBuf>,
    /// Where releases live on this server: `${root}` in plans.
    pub root: PathBuf,
    /// Where the control plane listens, `ip:port`.
    pub listen: Vec<String>,
    /// Where the data plane listens, `ip:port`.
    pub data_listen: SocketAddr,
    /// Under which addresses others reach the control plane, `ip:port`. Empty: those it listens on.
    pub announce: Vec<String>,
    /// Under which address others reach the data plane, `host:port`. Absent: where it listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_announce: Option<String>,
    /// Machines to meet first, `host:port` or `KEY@host:port`.
    pub bootstrap: Vec<PeerAddress>,
    /// Coordinators, `KEY@host:port`: asked when the mesh knows none.
    pub coordinators: Vec<PeerAddress>,
    /// Whether this machine keeps others' look-up records and accepts many connections (a seeder).
    pub directory: bool,
    /// What is logged, in tracing's syntax.
    pub log: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            documents: "/etc/lunar-agent".into(),
            key: "/etc/lunar-agent/key".into(),
            state_dir: "/var/lib/lunar-agent".into(),
            packs: "/var/lib/lunar-agent/packs".into(),
            run_dir: RUN_DIR.into(),
            applier: None,
            root: "/srv/lunar".into(),
            listen: vec!["0.0.0.0:7000".into()],
            data_listen: SocketAddr::from(([0, 0, 0, 0], 7001)),
            announce: Vec::new(),
            data_announce: None,
            bootstrap: Vec::new(),
            coordinators: Vec::new(),
            directory: false,
            log: "info".into(),
        }
    }
}

impl Config {
    /// The configuration in a file. Without one, [`DEFAULT_PATH`]; if that is not there either, the defaults.
    ///
    /// # Errors
    /// [`Failure`] names the file, the place and the key.
    pub fn load(path: Option<&Path>) -> Result<Self, Failure> {
        let (path, asked_for) = match path {
            Some(path) => (path, true),
            None => (Path::new(DEFAULT_PATH), false),
        };
        let bytes = match read_bounded(path, FILE_BYTES_MAX) {
            Err(error) if error.is_not_found() && !asked_for => Vec::new(),
            other => other?,
        };
        let text = String::from_utf8(bytes).map_err(|_| wrong(path, "it is not UTF-8 text"))?;
        Self::parse(&text).map_err(|problem| wrong(path, problem))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let (place, problem) = explain_toml(text, &error);
            format!("line {}, column {}: {problem}{place}", place.line, place.column)
        })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let paths = [
            ("documents", &self.documents),
            ("key", &self.key),
            ("state_dir", &self.state_dir),
            ("packs", &self.packs),
            ("run_dir", &self.run_dir),
            ("root", &self.root),
        ];
        for (key, path) in paths.into_iter().chain(self.applier.as_ref().map(|path| ("applier", path))) {
            if !path.is_absolute() {
                return Err(format!("{key}: {} is not an absolute path", path.display()));
            }
        }
        if self.listen.is_empty() {
            return Err("listen: at least one address is needed, for example \"0.0.0.0:7000\"".into());
        }
        if let Some(address) = self.coordinators.iter().find(|address| address.key.is_none()) {
            return Err(format!("coordinators: {address} lacks its key: write KEY@host:port"));
        }
        Ok(())
    }

    /// The applier's socket.
    #[must_use]
    pub fn applier_socket(&self) -> PathBuf {
        match &self.applier {
            Some(socket) => socket.clone(),
            None if self.run_dir == Path::new(RUN_DIR) => APPLIER_SOCKET.into(),
            None => self.run_dir.join("applier.sock"),
        }
    }

    /// This agent's own socket.
    #[must_use]
    pub fn agent_socket(&self) -> PathBuf {
        self.run_dir.join("agent.sock")
    }

    /// The trust root's file.
    #[must_use]
    pub fn trust_root(&self) -> PathBuf {
        self.documents.join("trust-root.toml")
    }

    /// This server's enrolment's file.
    #[must_use]
    pub fn enrolment(&self) -> PathBuf {
        self.documents.join("enrolment.toml")
    }
}

fn wrong(path: &Path, problem: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::BadInput, anyhow::anyhow!("{}: {problem}", path.display()))
        .advise("correct the file; `lunar-agent run --help` names the keys")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_a_configuration_and_what_is_written_is_read_again() {
        let config = Config::parse("").unwrap();
        assert_eq!(config, Config::default());
        assert_eq!(config.agent_socket(), Path::new("/run/lunar-agent/agent.sock"));
        assert_eq!(config.applier_socket(), Path::new(APPLIER_SOCKET));
        let elsewhere = Config::parse("run_dir = \"/tmp/run\"").unwrap();
        assert_eq!(elsewhere.applier_socket(), Path::new("/tmp/run/applier.sock"));
        assert_eq!(Config::parse(&toml::to_string(&config).unwrap()).unwrap(), config);
    }

    #[test]
    fn a_misspelt_key_is_told_with_its_place_and_the_nearest_known_one() {
        let problem = Config::parse("state_dir = \"/x\"\nbootstap = []\n").unwrap_err();
        assert!(problem.contains("line 2") && problem.contains("did you mean `bootstrap`"), "{problem}");
    }

    #[test]
    fn impossible_values_are_refused_by_key() {
        for (text, named) in [
            ("root = \"relative\"", "root:"),
            ("listen = []", "listen:"),
            ("coordinators = [\"10.0.0.1:7000\"]", "coordinators:"),
            ("data_listen = \"nowhere\"", "line 1"),
            ("bootstrap = [\"no-port\"]", "line 1"),
        ] {
            let problem = Config::parse(text).unwrap_err();
            assert!(problem.contains(named), "{text}: {problem}");
        }
    }
}
