//! `lunar-agent init`: this machine's key, and what an enroller needs to know of it.
//!
//! Owns its options. Main invariant: a key that is there is never replaced, and the private half is never
//! printed.

use lunar_host::exit::{Exit, Failure};
use lunar_host::keys;
use serde::Serialize;

use super::{CommandResult, Common};

/// Makes this machine's key, if there is none yet, and prints what an enroller needs.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  lunar-agent init\n  lunar-agent init --output json > enrolment-request.json"
)]
pub(super) struct InitCommand {}

#[derive(Serialize)]
struct EnrolmentRequest {
    hostname: String,
    key: String,
    key_file: String,
}

impl InitCommand {
    #[allow(clippy::unused_self, reason = "every command has the same form")]
    pub(super) fn run(self, common: &Common) -> CommandResult {
        let config = common.config()?;
        if let Some(directory) = config.key.parent() {
            std::fs::create_dir_all(directory).map_err(|source| {
                Failure::new(
                    Exit::Environment,
                    anyhow::anyhow!("cannot make {}: {source}", directory.display()),
                )
            })?;
        }
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map_or_else(|_| "localhost".to_owned(), |name| name.trim().to_owned());
        let key = keys::load_or_create(&config.key, &format!("lunar-agent@{hostname}"))?;
        let request = EnrolmentRequest {
            hostname,
            key: keys::peer_key(&key).to_string(),
            key_file: config.key.display().to_string(),
        };
        common.output.print(&request, |request| {
            format!(
                "key       {}\nhostname  {}\n\nGive both to an enroller, who signs an enrolment with \
                 `lunar-coordinator enroll`. Put what comes back at {}.",
                request.key,
                request.hostname,
                config.enrolment().display()
            )
        })?;
        Ok(Exit::Ok)
    }
}
