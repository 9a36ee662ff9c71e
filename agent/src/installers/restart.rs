//! Making a service take up what the links say.
//!
//! Owns restarts. Main invariant: a restart that is not known to have worked is a failure. Where nothing is
//! installed any more (a first installation that went back), a unit is stopped, and a command is run for what
//! it can do: there is no version that it could fail to start. Refuses to judge health: the probes do.

use std::time::Duration;

use lunar_common::plan::Restart;

use crate::hooks::{Context, RunError, run};

/// Longest wait for systemd to restart a unit. Its own default for a start is 90 s, and as much for a stop.
const UNIT_TIMEOUT: Duration = Duration::from_secs(240);

/// Restarts, or stops where nothing is installed.
pub(super) async fn restart(restart: &Restart, installed: bool, context: &Context) -> Result<(), RunError> {
    match restart {
        Restart::Unit(unit) => {
            let verb = if installed { "restart" } else { "stop" };
            let words = ["systemctl", verb, "--", unit].map(str::to_owned);
            run(&words, UNIT_TIMEOUT, context).await
        }
        Restart::Command(hook) => {
            let result = run(&hook.command, Duration::from_secs(hook.timeout_s.into()), context).await;
            match result {
                Err(error) if !installed => {
                    tracing::warn!(%error, "nothing is installed, and the restart command says so");
                    Ok(())
                }
                other => other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use lunar_common::plan::Hook;

    use super::*;

    #[tokio::test]
    async fn a_restart_that_fails_is_a_failure_unless_nothing_is_installed() {
        let context = Context {
            server: "srv-1".into(),
            hostname: "host-1".into(),
            root: "/".into(),
            labels: std::collections::BTreeMap::new(),
        };
        let by = |program: &str| Restart::Command(Hook { command: vec![program.to_owned()], timeout_s: 60 });
        restart(&by("true"), true, &context).await.unwrap();
        assert!(restart(&by("false"), true, &context).await.is_err());
        restart(&by("false"), false, &context).await.unwrap();
    }
}
