//! Probe `command`: a program that knows.
//!
//! Owns the meaning of its end. Main invariant: only exit code 0 is healthy; a program that cannot be started
//! says nothing about the service. Refuses to interpret its output.

use std::time::Duration;

use lunar_common::health::Outcome;

use super::{Context, inconclusive, unhealthy};
use crate::hooks::{self, RunError};

pub(super) async fn ask(command: &[String], timeout: Duration, context: &Context) -> Outcome {
    match hooks::run(command, timeout, context).await {
        Ok(()) => Outcome::Healthy,
        Err(error @ (RunError::Failed { .. } | RunError::TimedOut { .. })) => unhealthy(error.to_string()),
        Err(RunError::Start { program, source }) => inconclusive(format!("cannot run {program}: {source}")),
        Err(error @ (RunError::Expand(_) | RunError::Empty)) => inconclusive(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::test_context;

    #[tokio::test]
    async fn only_a_program_that_ran_and_said_no_is_unhealthy() {
        assert_eq!(asked(&["true"]).await, Outcome::Healthy);
        assert!(matches!(asked(&["false"]).await, Outcome::Unhealthy { .. }));
        assert!(matches!(asked(&["/no/such/program"]).await, Outcome::Inconclusive { .. }));
        assert!(matches!(asked(&["true", "${label.none}"]).await, Outcome::Inconclusive { .. }));
        assert!(matches!(asked(&[]).await, Outcome::Inconclusive { .. }));
    }

    #[tokio::test]
    async fn a_program_that_takes_too_long_is_unhealthy() {
        let words = ["sleep".to_owned(), "1000".to_owned()];
        let outcome = ask(&words, Duration::from_millis(50), &test_context()).await;
        assert!(matches!(outcome, Outcome::Unhealthy { .. }), "{outcome:?}");
    }

    async fn asked(words: &[&str]) -> Outcome {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        ask(&words, Duration::from_secs(60), &test_context()).await
    }
}
