//! `origin`: serves the artifacts of a home directory.
//!
//! Owns the command's arguments and the way from files to a running [`Origin`]. Main invariant: nothing
//! listens before the key, its enrolment and the artifacts were found good.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::anyhow;
use lunar_artifact::PackDirectory;
use lunar_common::enrolment::Role;
use lunar_host::exit::{Exit, Failure, OrExit};
use lunar_host::{clock, keys, supervisor};
use lunar_transport::mesh::PeerAddress;

use super::{CommandResult, Common};
use crate::home::Home;
use crate::origin::{Origin, OriginConfig};

/// Serves the artifacts of HOME/artifacts over the data plane, shaped to the link's rate.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  lunar-coordinator origin --rate 30Mbit --data-announce earth.example:7401"
)]
pub(super) struct OriginCommand {
    /// Where the mesh listens.
    #[arg(long, default_value = "0.0.0.0:7400", value_name = "IP:PORT")]
    listen: String,
    /// Where the data plane listens.
    #[arg(long, default_value = "0.0.0.0:7401", value_name = "IP:PORT")]
    data_listen: SocketAddr,
    /// The data plane's address as others reach it. Default: the one it listens on.
    #[arg(long, value_name = "HOST:PORT")]
    data_announce: Option<String>,
    /// A machine of the mesh to connect to first, `KEY@host:port` or `host:port`. May be repeated.
    #[arg(long, value_name = "PEER")]
    bootstrap: Vec<PeerAddress>,
    /// The link's rate, all agents together, headers included (30Mbit, 500kbit, 1Gbit), or `unlimited`.
    #[arg(long, default_value = "30Mbit", value_parser = rate, value_name = "RATE")]
    rate: Rate,
    /// The origin's private key; made if it is not there. Default: HOME/origin.key.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

/// A link's rate in bits a second; `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate(Option<u64>);

impl OriginCommand {
    pub(super) fn run(self, common: &Common) -> CommandResult {
        let home = Home::new(&common.home);
        let key_file = self.key.unwrap_or_else(|| home.path().join("origin.key"));
        let key = keys::load_or_create(&key_file, "lunar origin")?;
        let (trust, _) = home.trust(clock::wall())?;
        let own = keys::peer_key(&key);
        let enrolment = trust.machine(&own).cloned().ok_or_else(|| {
            Failure::new(
                Exit::NotTrusted,
                anyhow!("the origin's key {own} is not enrolled in {}", home.path().display()),
            )
            .advise("enrol it with the role origin: see `lunar-coordinator enroll --help`")
        })?;
        if enrolment.role != Role::Origin {
            let what = anyhow!("{} is enrolled with another role than origin", enrolment.server);
            return Err(Failure::new(Exit::NotTrusted, what).advise("enrol it again with the role origin"));
        }
        let config = OriginConfig {
            key,
            enrolment: (**enrolment.document()).clone(),
            fleet: trust.fleet().clone(),
            site: enrolment.site.clone(),
            trust,
            artifacts: PackDirectory::open(&home.artifacts()).or_exit(Exit::Environment)?,
            listen: self.listen,
            data_listen: self.data_listen,
            data_announce: self.data_announce,
            bootstrap: self.bootstrap,
            rate_bits_s: self.rate.0,
        };
        tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(config))
    }
}

async fn serve(config: OriginConfig) -> CommandResult {
    // Before anything is said to run: whoever reads that may end it at once.
    let told_to_stop = supervisor::told_to_stop()?;
    let origin = Origin::start(config).await.or_exit(Exit::Environment)?;
    let data = origin.data_address()?;
    let mesh = origin.mesh_addresses().await.join(", ");
    tracing::info!(%data, mesh, "the origin serves");
    supervisor::ready(&format!("serving artifacts on {data}"));
    origin.run(told_to_stop).await;
    Ok(Exit::Ok)
}

/// A rate as people write it: a whole number and a unit.
fn rate(text: &str) -> Result<Rate, String> {
    if text == "unlimited" {
        return Ok(Rate(None));
    }
    let wrong = || format!("{text:?} is not a rate: write for example 30Mbit, 500kbit or unlimited");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit: u64 = match &text[digits..] {
        "bit" => 1,
        "kbit" => 1_000,
        "Mbit" => 1_000_000,
        "Gbit" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    match number.checked_mul(unit) {
        Some(bits_s) if bits_s >= 8_000 => Ok(Rate(Some(bits_s))),
        Some(_) | None => Err(format!("{text:?} is no usable rate: from 8kbit on")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_people_write_them_and_nonsense_is_refused() {
        assert_eq!(rate("30Mbit").unwrap(), Rate(Some(30_000_000)));
        assert_eq!(rate("500kbit").unwrap(), Rate(Some(500_000)));
        assert_eq!(rate("unlimited").unwrap(), Rate(None));
        for text in ["", "30", "Mbit", "30MB", "0Mbit", "-3Mbit", "1bit", "99999999999999999999Gbit"] {
            assert!(rate(text).is_err(), "{text:?} was accepted");
        }
    }
}
