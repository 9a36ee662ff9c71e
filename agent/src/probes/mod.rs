//! Probes: one file a kind.
//!
//! Owns [`ask`] and [`ask_all`]. Main invariant: a probe answers within its time-out, with bounded memory, and
//! "could not be asked" is never mixed up with "answered, and not as wanted". Refuses to judge a round: that is
//! `Verdict::over`, in the core.
//!
//! Which is which, for every kind:
//!
//! | what happened | outcome |
//! | --- | --- |
//! | as wanted | healthy |
//! | connection refused or reset: the service itself, or its machine, said no | unhealthy |
//! | connected, and then no answer in time; an answer that is not HTTP; closed half-way | unhealthy |
//! | another status, text not found, unit not active, exit code not 0, too little room, too much load | unhealthy |
//! | a command that took too long | unhealthy: it was asked, and healthy ones answer |
//! | no connection in time; no route; name not resolved | inconclusive: nothing was heard from the service |
//! | a program, path, unit or figure that this machine does not have; a placeholder it does not know | inconclusive |

mod command;
mod disk;
mod http;
mod load;
mod memory;
mod tcp;
mod unit;

use std::io;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use lunar_common::health::{Outcome, Probe, ProbeKind, When};
use lunar_common::ids::ProbeName;

pub use crate::hooks::Context;

/// Probes asked at the same time: enough that one slow answer holds no other up, few enough for a small server.
const AT_ONCE: usize = 16;

/// Bytes of a text that a probe found which people are shown.
const FOUND_BYTES_MAX: usize = 512;

/// Asks all probes of a plan that belong to a time, at once, in the plan's order.
pub async fn ask_all(probes: &[Probe], when: When, context: &Context) -> Vec<(ProbeName, Outcome)> {
    // Gathered first: a future over a chain of closures is not known to be `Send` for every lifetime.
    let mut due = Vec::new();
    for probe in probes.iter().filter(|probe| probe.when.contains(&when)) {
        due.push(async move { (probe.name.clone(), ask(probe, context).await) });
    }
    stream::iter(due).buffered(AT_ONCE).collect().await
}

/// Asks one probe.
pub async fn ask(probe: &Probe, context: &Context) -> Outcome {
    let timeout = Duration::from_secs(probe.timeout_s.into());
    let outcome = match &probe.kind {
        ProbeKind::Command { command } => command::ask(command, timeout, context).await,
        ProbeKind::Http { url, status, contains } => {
            http::ask(url, *status, contains.as_deref(), timeout, context).await
        }
        ProbeKind::Tcp { address } => tcp::ask(address, timeout, context).await,
        ProbeKind::Unit { unit } => unit::ask(unit, timeout, context).await,
        ProbeKind::Disk { path, free_bytes_min } => disk::ask(path, *free_bytes_min, timeout, context).await,
        ProbeKind::Memory { available_bytes_min } => memory::ask(*available_bytes_min),
        ProbeKind::Load { per_core_percent_max } => load::ask(*per_core_percent_max),
    };
    match outcome {
        Outcome::Healthy => Outcome::Healthy,
        Outcome::Unhealthy { found } => Outcome::Unhealthy { found: cut(&found) },
        Outcome::Inconclusive { reason } => Outcome::Inconclusive { reason: cut(&reason) },
    }
}

fn unhealthy(found: impl Into<String>) -> Outcome {
    Outcome::Unhealthy { found: found.into() }
}

fn inconclusive(reason: impl Into<String>) -> Outcome {
    Outcome::Inconclusive { reason: reason.into() }
}

/// A text on one line, within the bound. Services answer with anything.
fn cut(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut end = line.len().min(FOUND_BYTES_MAX);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line[..end].trim().to_owned()
}

/// A TCP connection to an expanded `host:port`, or what it means that there is none.
async fn connect(address: &str) -> Result<tokio::net::TcpStream, Outcome> {
    tokio::net::TcpStream::connect(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => {
            unhealthy(format!("{address}: {error}"))
        }
        _ => inconclusive(format!("cannot connect to {address}: {error}")),
    })
}

#[cfg(test)]
fn test_context() -> Context {
    Context {
        server: "srv-1".into(),
        hostname: "localhost".into(),
        root: "/".into(),
        labels: [("port".to_owned(), "1".to_owned())].into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_round_asks_what_is_due_and_answers_in_the_plans_order() {
        let probe = |name: &str, when: &[When], available_bytes_min| Probe {
            name: ProbeName::new(name).unwrap(),
            when: when.to_vec(),
            timeout_s: 60,
            kind: ProbeKind::Memory { available_bytes_min },
        };
        let probes = [
            probe("b", &[When::Before], u64::MAX),
            probe("after", &[When::After, When::Soak], 1),
            probe("a", &[When::Before, When::Soak], 1),
        ];

        let round = ask_all(&probes, When::Before, &test_context()).await;

        let names: Vec<&str> = round.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["b", "a"]);
        assert!(matches!(round[0].1, Outcome::Unhealthy { .. }), "{round:?}");
        assert_eq!(round[1].1, Outcome::Healthy);
    }

    #[test]
    fn what_is_shown_is_one_bounded_line() {
        assert_eq!(cut("a\nb\u{1b}[0m "), "a b [0m");
        assert!(cut(&"é".repeat(1000)).len() <= FOUND_BYTES_MAX);
    }
}
