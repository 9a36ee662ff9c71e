//! Logs, set up the same way in every program.
//!
//! Owns the subscriber. Main invariant: logs go to standard error, never to standard output, which belongs to
//! the answer; colours only on a terminal; ERROR means that a person must act.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            other => Err(format!("{other:?} is not a log format: use human or json")),
        }
    }
}

/// Libraries whose warnings tell of single peers and packets, which no person can act on: below an error they are
/// silent unless `LUNAR_LOG` asks for them.
const QUIET: &str = "libp2p_core=error,libp2p_gossipsub=error,libp2p_identify=error,libp2p_kad=error,\
    libp2p_ping=error,libp2p_quic=error,libp2p_request_response=error,libp2p_swarm=error,\
    quinn=error,quinn_proto=error,quinn_udp=error,sled=error";

/// Starts logging. `filter` is in `tracing`'s syntax (`info`, `lunar_agent=debug,warn`); the environment
/// variable `LUNAR_LOG` overrides it. A second call does nothing.
pub fn start(format: LogFormat, filter: &str) {
    let filter = EnvFilter::try_from_env("LUNAR_LOG").unwrap_or_else(|_| EnvFilter::new(quieted(filter)));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second subscriber is refused by tracing; the first one stays, which is what is wanted.
    let _ = match format {
        LogFormat::Human => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_span_list(false).try_init(),
    };
}

fn quieted(filter: &str) -> String {
    // What comes later wins, so a filter that names one of them is obeyed.
    format!("{QUIET},{filter}")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn libraries_speak_of_errors_only_and_the_programs_as_loud_as_asked() {
        assert_eq!(heard("info"), ["ours: told", "kad: must be told"]);
        assert_eq!(heard("info,libp2p_kad=warn"), ["ours: told", "kad: of one peer", "kad: must be told"]);
    }

    fn heard(filter: &str) -> Vec<String> {
        let lines = Lines::default();
        let written = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(quieted(filter)))
            .with_writer(move || written.clone())
            .without_time()
            .with_level(false)
            .with_target(false)
            .with_ansi(false)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("ours: told");
            tracing::warn!(target: "libp2p_kad::behaviour", "kad: of one peer");
            tracing::error!(target: "libp2p_kad::behaviour", "kad: must be told");
        });
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(|line| line.trim().to_owned()).collect()
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
}
