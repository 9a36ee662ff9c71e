//! `lunar-agent apply`: the root half.
//!
//! Owns its options. Main invariant: it has a configuration of its own, which the network half cannot write.

use std::path::PathBuf;

use lunar_host::exit::Exit;
use lunar_host::{supervisor, telemetry};

use super::{CommandResult, Common, block_on};
use crate::applier;

/// Runs the applier: installs what signed plans say, and rolls back by itself unless told to keep it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  lunar-agent apply --applier-config /etc/lunar-applier/applier.toml\n\n\
    Keys of the configuration: root, state, packs, trust_root, enrolment, and, if need be, socket, allowed_uid.")]
pub(super) struct ApplyCommand {
    /// The applier's own configuration, where `--config` means something else (in a wrapper that sets it for
    /// both halves) [default: /etc/lunar-applier/applier.toml]
    #[arg(long, env = "LUNAR_APPLIER_CONFIG", value_name = "FILE")]
    applier_config: Option<PathBuf>,
}

/// Where the applier's configuration is, unless the command line says otherwise.
const DEFAULT_PATH: &str = "/etc/lunar-applier/applier.toml";

impl ApplyCommand {
    pub(super) fn run(self, common: &Common) -> CommandResult {
        telemetry::start(common.log_format, "info");
        supervisor::die_with_parent_if_asked();
        let config = self.applier_config.or_else(|| common.config.clone());
        let config = config.unwrap_or_else(|| PathBuf::from(DEFAULT_PATH));
        block_on(Box::pin(applier::run(&config)))?;
        Ok(Exit::Ok)
    }
}

#[cfg(test)]
mod tests {
    use crate::applier::Config;
    use crate::cli::tests::{help_of, known_keys, named_keys};

    #[test]
    fn the_keys_that_help_names_are_those_of_the_configuration() {
        let refused = toml::from_str::<Config>("nonsense = 1").unwrap_err();
        assert_eq!(named_keys(&help_of("apply")), known_keys(&refused));
    }
}
