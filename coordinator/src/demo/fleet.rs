//! The demo's fleet: which servers there are, and what lies where.
//!
//! Owns names, places, ports and directories. Main invariant: everything is below one directory, and two
//! demos on one machine never share a port: each is drawn from the kernel.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use lunar_common::limits::Tier;

/// The campaign's name.
pub const CAMPAIGN: &str = "web-2";
/// The artifact's name.
pub const ARTIFACT: &str = "web";
/// The redundancy group of three.
pub const GROUP: &str = "life-support";
const SITES: [&str; 3] = ["shackleton", "malapert", "peary"];

/// One server of the fleet.
#[derive(Debug, Clone)]
pub struct Server {
    /// Its id.
    pub id: String,
    /// Its site.
    pub site: &'static str,
    /// Its tier.
    pub tier: Tier,
    /// Its redundancy group.
    pub group: Option<&'static str>,
    /// Where its service listens on 127.0.0.1.
    pub port: u16,
    /// Everything of this server's.
    pub directory: PathBuf,
}

impl Server {
    /// The directory below which releases live.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.directory.join("srv")
    }

    /// The link to the running release.
    #[must_use]
    pub fn current(&self) -> PathBuf {
        self.root().join(ARTIFACT).join("current")
    }

    /// The agent's configuration.
    #[must_use]
    pub fn agent_config(&self) -> PathBuf {
        self.directory.join("etc/agent.toml")
    }

    /// The applier's configuration.
    #[must_use]
    pub fn applier_config(&self) -> PathBuf {
        self.directory.join("etc/applier.toml")
    }

    /// The agent's packs.
    #[must_use]
    pub fn packs(&self) -> PathBuf {
        self.directory.join("packs")
    }

    /// The agent's own socket.
    #[must_use]
    pub fn agent_socket(&self) -> PathBuf {
        self.directory.join("run/agent.sock")
    }

    /// The arguments of the command that restarts the service, for this server.
    #[must_use]
    pub fn service_arguments(&self) -> Vec<String> {
        let path = |path: PathBuf| path.to_string_lossy().into_owned();
        [
            "--current".to_owned(),
            path(self.current()),
            "--server".to_owned(),
            self.id.clone(),
            "--port".to_owned(),
            self.port.to_string(),
            "--pid-file".to_owned(),
            path(self.root().join("service.pid")),
            "--log".to_owned(),
            path(self.root().join("service.log")),
        ]
        .into()
    }
}

/// The whole fleet, and what lies where.
#[derive(Debug)]
pub struct Fleet {
    /// Everything of the demo's.
    pub directory: PathBuf,
    /// The servers.
    pub servers: Vec<Server>,
    /// The coordinator's control plane.
    pub coordinator_port: u16,
    /// The origin's control plane.
    pub origin_port: u16,
    /// The origin's data plane.
    pub origin_data_port: u16,
}

impl Fleet {
    /// A fleet of this many servers below a directory, which is made.
    ///
    /// # Errors
    /// A directory that cannot be made, no free port.
    pub fn lay_out(directory: &Path, agents: usize) -> io::Result<Self> {
        let mut servers = Vec::new();
        for number in 0..agents {
            let id = format!("srv-{:02}", number + 1);
            let directory = directory.join(&id);
            for part in ["etc", "state", "run", "packs", "srv", "applier"] {
                fs::create_dir_all(directory.join(part))?;
            }
            servers.push(Server {
                id,
                site: SITES[number % SITES.len()],
                tier: Tier::ALL[number / SITES.len() % Tier::ALL.len()],
                // The first of each site: three members, one a site.
                group: (number < 3).then_some(GROUP),
                port: free_tcp_port()?,
                directory,
            });
        }
        for part in ["coordinator", "keys", "logs"] {
            fs::create_dir_all(directory.join(part))?;
        }
        Ok(Self {
            directory: directory.to_owned(),
            servers,
            coordinator_port: free_udp_port()?,
            origin_port: free_udp_port()?,
            origin_data_port: free_udp_port()?,
        })
    }

    /// The coordinator's directory, and the origin's: both work on the same artifacts.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.directory.join("coordinator")
    }

    /// An operator's private key.
    #[must_use]
    pub fn operator_key(&self, name: &str) -> PathBuf {
        self.directory.join("keys").join(name)
    }

    /// Where a process logs.
    #[must_use]
    pub fn log(&self, process: &str) -> PathBuf {
        self.directory.join("logs").join(format!("{process}.log"))
    }

    /// The server whose release is made to fail: the last of tier 3, or the last of all.
    #[must_use]
    pub fn unlucky(&self) -> Option<&Server> {
        self.servers.iter().rfind(|server| server.tier == Tier::Three).or(self.servers.last())
    }
}

fn free_tcp_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn free_udp_port() -> io::Result<u16> {
    Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
