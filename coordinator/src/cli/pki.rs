//! `pki`: an authority for the API, and certificates for those who call it.
//!
//! Owns the options and what is told. Main invariant: a key never leaves the directory by itself: people hand it on.

use std::path::PathBuf;

use lunar_common::ids::KeyName;
use lunar_host::clock;
use lunar_host::exit::Exit;
use serde::Serialize;

use super::{CommandResult, Common};
use crate::api::caller::Role;
use crate::api::tls::Pem;
use crate::pki::Pki;

/// Makes an authority for the API, and certificates for the coordinator and its callers.
#[derive(Debug, clap::Subcommand)]
pub enum PkiCommand {
    /// Makes an authority, and the coordinator's certificate, below HOME/pki.
    #[command(after_help = "Examples:\n  lunar-coordinator pki init --host base.example --host 10.0.0.7")]
    Init(ServerOptions),
    /// Makes a key and a certificate for a caller of the API.
    #[command(after_help = "Examples:\n  lunar-coordinator pki issue ann --role operator\n  \
        curl --cacert HOME/pki/ca.pem --cert HOME/pki/callers/ann.pem --key HOME/pki/callers/ann.key \\\n    \
        https://HOST:PORT/api/v1/status")]
    Issue {
        /// The caller.
        name: KeyName,
        /// Viewers look; operators hand signed documents over as well.
        #[arg(long, value_enum)]
        role: Role,
        /// How long it is good.
        #[arg(long, value_name = "DAYS", default_value_t = DAYS, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
    },
    /// Makes another certificate for the coordinator, once the one before was moved away.
    #[command(after_help = "Examples:\n  lunar-coordinator pki server --host base.example")]
    Server(ServerOptions),
}

/// What the coordinator's certificate says.
#[derive(Debug, clap::Args)]
pub struct ServerOptions {
    /// A name or an address under which callers reach it; may be given more than once.
    #[arg(long = "host", value_name = "NAME", default_values = ["localhost", "127.0.0.1", "::1"])]
    hosts: Vec<String>,
    /// How long it is good.
    #[arg(long, value_name = "DAYS", default_value_t = DAYS, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
}

/// A year: as long as people remember where their keys are.
const DAYS: u32 = 365;

/// What was made.
#[derive(Debug, Serialize)]
struct Made {
    authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl PkiCommand {
    /// Runs it.
    ///
    /// # Errors
    /// Something of that name is there, or cannot be written.
    pub fn run(self, common: &Common) -> CommandResult {
        let (pki, now) = (Pki::new(&common.home), clock::wall());
        let Pem { authority, certificate, key } = match self {
            Self::Init(ServerOptions { hosts, days }) => {
                pki.init(&hosts, days, now)?;
                pki.server()
            }
            Self::Server(ServerOptions { hosts, days }) => {
                pki.issue_server(&hosts, days, now)?;
                pki.server()
            }
            Self::Issue { name, role, days } => pki.issue(&name, role, days, now)?,
        };
        let made = Made { authority, certificate, key };
        common.output.print(&made, |made| {
            format!(
                "authority {}\ncertificate {}\nkey {}, for its owner alone",
                made.authority.display(),
                made.certificate.display(),
                made.key.display()
            )
        })?;
        Ok(Exit::Ok)
    }
}
