//! `trace`: one server's life, event by event.
//!
//! Owns the telling. Main invariant: looking changes nothing: the run told is the run that `replay` and `run` have.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use lunar_simulations::observe::Observer;
use lunar_simulations::{Options, World};

use super::guard::guarded;
use super::result::Verdict;
use super::{Exit, Refused, run};

/// Tells one server's life.
#[derive(Debug, clap::Args)]
pub(crate) struct TraceCommand {
    /// The server: its name (srv-3) or its number.
    server: String,
    /// The seed of the run.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The scenario. Without one: the small world of `fuzz` and `replay`.
    #[arg(long, value_name = "FILE", conflicts_with = "from")]
    scenario: Option<PathBuf>,
    /// A file that `shrink` or `fuzz` wrote, in place of a seed.
    #[arg(long, value_name = "FILE", conflicts_with = "seed")]
    from: Option<String>,
}

impl TraceCommand {
    pub(crate) fn run(self) -> Result<Exit, Refused> {
        let options = match (&self.scenario, &self.from) {
            (Some(path), _) => Options::of(Arc::new(run::scenario(path)?), self.seed),
            (None, Some(file)) => run::small_or_file(file)?,
            (None, None) => Options::swarm(self.seed),
        };
        let servers = options.scenario.servers();
        let number = self.server.strip_prefix("srv-").unwrap_or(&self.server).parse::<usize>();
        let Some(server) = number.ok().filter(|number| *number < servers) else {
            bail!("there is no server {}: there are srv-0 to srv-{}", self.server, servers - 1);
        };
        let mut life = Life { server };
        let ended = guarded(|| World::new(options).run_with(&mut life));
        Ok(match ended {
            Ok(Ok(_)) => Exit::Held,
            Ok(Err(violation)) => {
                eprintln!(
                    "at {} ms, {} is violated: {}",
                    violation.at_ms, violation.invariant, violation.what
                );
                match run::verdict(&violation) {
                    Verdict::NotConverged => Exit::NotConverged,
                    Verdict::Broke | Verdict::Held => Exit::Broke,
                }
            }
            Err(said) => {
                eprintln!("crashed: {said}");
                Exit::Crashed
            }
        })
    }
}

/// Prints the lines of one server, and those that concern everyone.
struct Life {
    server: usize,
}

impl Observer for Life {
    fn wants(&self, server: Option<usize>) -> bool {
        server.is_none_or(|server| server == self.server)
    }
    fn line(&mut self, server: Option<usize>, at_ms: u64, text: &str) {
        // What is about no server is about all, unless it names another one.
        let names_another = || {
            let me = format!("srv-{}", self.server);
            text.contains("srv-") && !text.split([' ', ',', ':', '"']).any(|word| word == me)
        };
        if server.is_none() && names_another() {
            return;
        }
        let who = if server.is_some() { ' ' } else { '*' };
        println!("{:>9}.{:03} {who} {text}", at_ms / 1_000, at_ms % 1_000);
    }
}
