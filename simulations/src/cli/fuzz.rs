//! `fuzz`: small worlds, one after the other, each with its own plan of faults.
//!
//! Owns the search. Main invariant: seeds are taken in order and each is run by exactly one job, so that `--seeds N`
//! runs the same worlds however many jobs there are; the first failing seed by number is the one told.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use lunar_simulations::Options;
use lunar_simulations::seed_file::SeedFile;
use lunar_simulations::shrink::PANIC;

use super::result::Verdict;
use super::words::{count, duration};
use super::{Exit, Refused, run};

/// Runs small worlds until the time is over or one fails.
#[derive(Debug, clap::Args)]
pub(crate) struct FuzzCommand {
    /// For how long.
    #[arg(long, value_name = "N", required_unless_present = "seeds")]
    minutes: Option<u32>,
    /// How many worlds at most.
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// How many at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
    /// The first seed.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    from: u64,
    /// Where the plan of a run that failed is written.
    #[arg(long, value_name = "DIR", default_value = ".")]
    into: PathBuf,
}

/// A world that failed.
struct Failure {
    seed: u64,
    exit: Exit,
    invariant: String,
    said: String,
}

/// What all jobs share.
struct Search {
    next: AtomicU64,
    end: u64,
    until: Option<Instant>,
    over: AtomicBool,
    events: AtomicU64,
    ran: AtomicU64,
    failed: Mutex<Option<Failure>>,
}

impl FuzzCommand {
    pub(crate) fn run(self) -> Result<Exit, Refused> {
        let began = Instant::now();
        let search = Search {
            next: AtomicU64::new(self.from),
            end: self.seeds.map_or(u64::MAX, |seeds| self.from.saturating_add(seeds)),
            until: self.minutes.map(|minutes| began + Duration::from_secs(u64::from(minutes) * 60)),
            over: AtomicBool::new(false),
            events: AtomicU64::new(0),
            ran: AtomicU64::new(0),
            failed: Mutex::new(None),
        };
        std::thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(|| search.job());
            }
        });
        let ran = search.ran.load(Ordering::Relaxed);
        let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let each = took * u64::from(self.jobs) * 100 / ran.max(1);
        eprintln!(
            "{} worlds from seed {} in {}: {}.{:02} ms each, {} events in all",
            count(ran),
            self.from,
            duration(took),
            each / 100,
            each % 100,
            count(search.events.load(Ordering::Relaxed))
        );
        let failed = search.failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(failure) = failed else {
            println!("held: {} worlds", count(ran));
            return Ok(Exit::Held);
        };
        told(&failure, &self.into)?;
        Ok(failure.exit)
    }
}

impl Search {
    fn job(&self) {
        while !self.over.load(Ordering::Relaxed) && self.until.is_none_or(|until| Instant::now() < until) {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            if seed >= self.end {
                return;
            }
            let ended = run::quietly(Options::swarm(seed));
            self.ran.fetch_add(1, Ordering::Relaxed);
            let failure = match ended {
                Ok(Ok(outcome)) => {
                    self.events.fetch_add(outcome.figures.events, Ordering::Relaxed);
                    continue;
                }
                Ok(Err(violation)) => {
                    let exit = match run::verdict(&violation) {
                        Verdict::NotConverged => Exit::NotConverged,
                        Verdict::Broke | Verdict::Held => Exit::Broke,
                    };
                    let invariant = violation.invariant.to_owned();
                    Failure { seed, exit, invariant, said: violation.to_string() }
                }
                Err(said) => {
                    let invariant = PANIC.to_owned();
                    Failure { seed, exit: Exit::Crashed, invariant, said: format!("crashed: {said}") }
                }
            };
            // Others finish the seed that they have: one of theirs may be the earlier failure.
            self.over.store(true, Ordering::Relaxed);
            let mut failed = self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if failed.as_ref().is_none_or(|other| failure.seed < other.seed) {
                *failed = Some(failure);
            }
        }
    }
}

/// Says what failed and how to have it again, and writes its plan.
fn told(failure: &Failure, into: &Path) -> Result<(), Refused> {
    let Failure { seed, invariant, said, .. } = failure;
    let path = into.join(format!("failing-{seed}.toml"));
    let options = Options::swarm(*seed);
    let file = SeedFile::of(&options, invariant, &format!("found by fuzzing, seed {seed}"));
    std::fs::create_dir_all(into)
        .and_then(|()| std::fs::write(&path, file.to_toml()))
        .with_context(|| format!("{} cannot be written", path.display()))?;
    eprintln!("{said}\nits plan of faults:\n{}", options.faults);
    println!("failed: seed {seed} breaks {invariant}; its plan of faults is in {}", path.display());
    println!("  have it again: lunar-simulations replay {seed}");
    println!("  make it small: lunar-simulations shrink {seed}");
    Ok(())
}
