//! How fast the engine is: `cargo bench -p lunar-simulations`, and `-- NAME...` for some of the runs.
//!
//! Owns the figures of docs/PERFORMANCE.md. Main invariant: a figure is of a whole run with every invariant on, in
//! processor time of one core. Refuses to judge: what must be reached stands beside the figures.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench tells people figures and reads a clock"
)]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use lunar_simulations::{Fault, Options, QueueKind, Scenario, World};

/// Seeds of the world of a hundred servers, each with every kind of fault.
const HUNDREDS: u64 = 20;

/// Seconds of processor time of this process so far.
fn cpu_s() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<f64>().ok()).sum();
    ticks / 100.0
}

/// Most memory of this process so far, in megabytes.
fn peak_mb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn scenario(name: &str) -> Arc<Scenario> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(format!("{name}.toml"));
    let text = fs::read_to_string(path).expect("a committed scenario");
    Arc::new(Scenario::parse(&text).expect("a sound scenario"))
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn run(name: &str, options: Options) {
    let before = cpu_s();
    let world = World::new(options);
    let made = cpu_s();
    match world.run() {
        Ok(outcome) => {
            let (makes, takes) = (made - before, cpu_s() - made);
            println!(
                "{name}: {} events in {takes:.2} s (and {makes:.2} s to make it), {:.2} M/s; ends {:.2} d; \
                 {} on the new version, {} back; at most {} MB; {:?}; {:.2} swarm messages a chunk; trace {:016x}",
                outcome.events,
                outcome.events as f64 / takes / 1e6,
                outcome.settled_ms as f64 / 86_400_000.0,
                outcome.completed,
                outcome.back,
                peak_mb(),
                outcome.figures.links,
                outcome.figures.swarm_messages as f64 / outcome.figures.useful_chunks.max(1) as f64,
                outcome.trace,
            );
        }
        Err(violation) => println!("{name}: {violation}"),
    }
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let is_wanted =
        |name: &str| wanted.is_empty() && name != "moon-100k" || wanted.iter().any(|word| word == name);
    if is_wanted("small") {
        let before = cpu_s();
        let count = 100;
        for seed in 1..=count {
            World::new(Options::swarm(seed)).run().expect("the invariants hold");
        }
        println!(
            "small: {:.1} ms a seed",
            (cpu_s() - before) * 1e3 / f64::from(u32::try_from(count).unwrap_or(1))
        );
    }
    if is_wanted("hundred") {
        let hundred = scenario("hundred");
        let before = cpu_s();
        let (mut events, mut broken) = (0, 0);
        for seed in 1..=HUNDREDS {
            match World::new(Options::of(hundred.clone(), seed).with(&Fault::ALL)).run() {
                Ok(outcome) => events += outcome.events,
                Err(violation) => {
                    broken += 1;
                    println!("hundred: seed {seed}: {violation}");
                }
            }
        }
        println!(
            "hundred: {:.1} ms and {} events a seed, {broken} of {HUNDREDS} broken",
            (cpu_s() - before) * 1e3 / f64::from(u32::try_from(HUNDREDS).unwrap_or(1)),
            events / HUNDREDS,
        );
    }
    for name in ["moon-1k", "moon-10k", "thin-link-2gb", "moon-100k"] {
        if is_wanted(name) {
            let options = Options::of(scenario(name), 7);
            run(name, Options { queue: QueueKind::Ring, ..options });
        }
    }
}
