//! Probe `tcp`: does something listen.
//!
//! Owns the meaning of a connection. Main invariant: a refusal is an answer, silence is none. Refuses to send
//! a byte.

use std::time::Duration;

use lunar_common::health::Outcome;

use super::{Context, connect, inconclusive};

pub(super) async fn ask(address: &str, timeout: Duration, context: &Context) -> Outcome {
    let address = match context.expand(address) {
        Ok(address) => address,
        Err(error) => return inconclusive(error.to_string()),
    };
    match tokio::time::timeout(timeout, connect(&address)).await {
        Ok(Ok(_)) => Outcome::Healthy,
        Ok(Err(outcome)) => outcome,
        Err(_) => inconclusive(format!("no connection to {address} within {} s", timeout.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::test_context;

    #[tokio::test]
    async fn a_listener_is_healthy_and_a_closed_port_is_not() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert_eq!(asked(&address).await, Outcome::Healthy);
        drop(listener);
        assert!(matches!(asked(&address).await, Outcome::Unhealthy { .. }));
    }

    #[tokio::test]
    async fn an_address_that_cannot_be_asked_is_inconclusive() {
        assert!(matches!(asked("no-such-host.invalid:80").await, Outcome::Inconclusive { .. }));
        assert!(matches!(asked("not an address").await, Outcome::Inconclusive { .. }));
        assert!(matches!(asked("${label.none}:80").await, Outcome::Inconclusive { .. }));
    }

    async fn asked(address: &str) -> Outcome {
        ask(address, Duration::from_secs(60), &test_context()).await
    }
}
