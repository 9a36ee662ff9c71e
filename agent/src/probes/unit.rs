//! Probe `unit`: does systemd call it active.
//!
//! Owns the meaning of `systemctl is-active`. Main invariant: only `active` is healthy; a unit on its way
//! (`activating`, `reloading`) is not there yet. A machine without systemd, or one that does not answer, could
//! not be asked. Refuses to look further: whether the service works is another probe's question.

use std::process::Stdio;
use std::time::Duration;

use lunar_common::health::Outcome;
use tokio::process::Command;

use super::{Context, inconclusive, unhealthy};

pub(super) async fn ask(unit: &str, timeout: Duration, context: &Context) -> Outcome {
    ask_by("systemctl", unit, timeout, context).await
}

async fn ask_by(systemctl: &str, unit: &str, timeout: Duration, context: &Context) -> Outcome {
    let unit = match context.expand(unit) {
        Ok(unit) => unit,
        Err(error) => return inconclusive(error.to_string()),
    };
    let output = Command::new(systemctl)
        .args(["is-active", "--", &unit])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(timeout, output).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return inconclusive(format!("cannot run {systemctl}: {error}")),
        Err(_) => return inconclusive(format!("systemd did not answer within {} s", timeout.as_secs())),
    };
    match String::from_utf8_lossy(&output.stdout).trim() {
        "active" => Outcome::Healthy,
        // It prints a state whenever it could ask; nothing on standard output means that it could not.
        "" => {
            inconclusive(format!("systemd could not be asked: {}", String::from_utf8_lossy(&output.stderr)))
        }
        "unknown" => inconclusive(format!("systemd does not know {unit}")),
        state => unhealthy(format!("{unit} is {state}")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::probes::test_context;

    #[tokio::test]
    async fn only_active_is_healthy_and_no_answer_is_no_answer() {
        assert_eq!(said("echo active").await, Outcome::Healthy);
        for state in ["inactive", "failed", "activating", "deactivating", "reloading"] {
            let outcome = said(&format!("echo {state}; exit 3")).await;
            assert_eq!(outcome, unhealthy(format!("web.service is {state}")));
        }
        for silent in ["echo no bus >&2; exit 1", "echo unknown; exit 4"] {
            assert!(matches!(said(silent).await, Outcome::Inconclusive { .. }), "{silent}");
        }
        let none = ask_by("/no/such/systemctl", "a", Duration::from_secs(60), &test_context()).await;
        assert!(matches!(none, Outcome::Inconclusive { .. }));
    }

    /// What the probe makes of a systemctl that says this about the right unit.
    async fn said(script: &str) -> Outcome {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("systemctl");
        let text = format!("#!/bin/sh\n[ \"$*\" = 'is-active -- web.service' ] || exit 99\n{script}\n");
        std::fs::write(&program, text).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        ask_by(program.to_str().unwrap(), "web.service", Duration::from_secs(60), &test_context()).await
    }
}
