//! `lunar-agent run`: the network half.
//!
//! Owns its options. Main invariant: `--check` touches nothing.

use lunar_host::exit::Exit;
use lunar_host::{supervisor, telemetry};
use serde::Serialize;

use super::{CommandResult, Common, block_on};
use crate::run;

/// Runs the agent: joins the mesh, fetches, and upgrades this server by the fleet's signed plans.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lunar-agent run\n  \
    lunar-agent run --config /etc/lunar-agent/agent.toml --check\n\n\
    Keys of the configuration, all optional: documents, key, state_dir, packs, run_dir, applier, root, listen,\n\
    data_listen, announce, data_announce, bootstrap, coordinators, directory, log.")]
pub(super) struct RunCommand {
    /// Only checks the configuration, the key and the documents.
    #[arg(long)]
    check: bool,
}

#[derive(Serialize)]
struct Checked {
    server: String,
    site: String,
    tier: u8,
    group: Option<String>,
}

impl RunCommand {
    pub(super) fn run(self, common: &Common) -> CommandResult {
        let config = common.config()?;
        if self.check {
            telemetry::start(common.log_format, "warn");
            let me = run::check(&config)?;
            let checked = Checked {
                server: me.server.to_string(),
                site: me.site.to_string(),
                tier: me.tier.number(),
                group: me.group.as_ref().map(ToString::to_string),
            };
            common.output.print(&checked, |checked| {
                format!("good: {} (site {}, tier {})", checked.server, checked.site, checked.tier)
            })?;
            return Ok(Exit::Ok);
        }
        telemetry::start(common.log_format, &config.log);
        supervisor::die_with_parent_if_asked();
        block_on(Box::pin(run::run(config)))?;
        Ok(Exit::Ok)
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::tests::{help_of, known_keys, named_keys};
    use crate::config::Config;

    #[test]
    fn the_keys_that_help_names_are_those_of_the_configuration() {
        let refused = toml::from_str::<Config>("nonsense = 1").unwrap_err();
        assert_eq!(named_keys(&help_of("run")), known_keys(&refused));
    }
}
