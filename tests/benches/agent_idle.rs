//! What an idle agent costs: memory, processor time, and the time from start to joined. Real agents of a real
//! fleet, founded by the demo.
//!
//! Owns the measuring. Main invariant: only figures of the agents' own processes are counted (PSS from
//! smaps_rollup, ticks from stat). Run: `cargo build --release --bins && cargo bench -p lunar-tests --bench
//! agent_idle -- [AGENTS [SECONDS]]`.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Time after founding before figures count: connections settle, caches are given back.
const SETTLE: Duration = Duration::from_secs(30);
/// Agents that are killed and started again to see how long they take to join.
const JOINERS: usize = 5;

fn main() -> Result<()> {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let agents = numbers.first().copied().unwrap_or(50);
    let seconds = numbers.get(1).copied().unwrap_or(60);
    let binaries = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release");
    let place = tempfile::tempdir()?;
    let directory = place.path().join("fleet");
    let mut demo = Command::new(binaries.join("lunar-coordinator"))
        .args(["demo", "--idle", "--output", "json", "--report-every", "30", "--agents", &agents.to_string()])
        .arg("--directory")
        .arg(&directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("build it first: cargo build --release --bins")?;
    let mut out = BufReader::new(demo.stdout.take().context("its output is piped")?);
    // The demo prints one JSON object once the fleet stands.
    let mut line = String::new();
    while !line.trim_end().ends_with('}') {
        ensure!(out.read_line(&mut line)? > 0, "the demo ended before the fleet stood");
    }
    println!("{agents} agents stand; settling for {} s", SETTLE.as_secs());
    sleep(SETTLE);
    let outcome = measure(&directory, &binaries, seconds);
    // SIGTERM, so that it ends its children.
    let told = Command::new("kill").arg(demo.id().to_string()).status()?;
    ensure!(told.success(), "the demo could not be told to end");
    let _ = out.read_to_string(&mut line);
    demo.wait()?;
    outcome
}

fn measure(directory: &Path, binaries: &Path, seconds: u64) -> Result<()> {
    for (name, word) in [("lunar-agent run", "run"), ("lunar-agent apply", "apply")] {
        let pids = processes(directory, word)?;
        ensure!(!pids.is_empty(), "no process of `{name}` runs");
        let before: Vec<u64> = pids.iter().map(|pid| ticks(*pid)).collect::<Result<_>>()?;
        let begun = Instant::now();
        sleep(Duration::from_secs(seconds));
        let elapsed = begun.elapsed().as_secs_f64();
        let after: Vec<u64> = pids.iter().map(|pid| ticks(*pid)).collect::<Result<_>>()?;
        let mut percent: Vec<f64> =
            after.iter().zip(&before).map(|(after, before)| (after - before) as f64 / elapsed).collect();
        let mut memory: Vec<f64> = pids.iter().map(|pid| pss(*pid)).collect::<Result<_>>()?;
        println!(
            "{name}: {} processes; PSS median {:.1} MiB, worst {:.1} MiB; CPU median {:.3} %, worst {:.3} % of a core over {elapsed:.0} s",
            pids.len(),
            median(&mut memory),
            memory.last().copied().unwrap_or_default(),
            median(&mut percent),
            percent.last().copied().unwrap_or_default(),
        );
    }
    joins(directory, binaries)
}

/// Kills some agents, starts them again, and waits until they have a connection.
fn joins(directory: &Path, binaries: &Path) -> Result<()> {
    let mut took = Vec::new();
    let mut started = Vec::new();
    for pid in processes(directory, "run")?.into_iter().take(JOINERS) {
        let config = config_of(pid)?;
        ensure!(Command::new("kill").args(["-9", &pid.to_string()]).status()?.success(), "cannot kill {pid}");
        while Path::new(&format!("/proc/{pid}/smaps_rollup")).exists() && pss(pid).is_ok() {
            sleep(Duration::from_millis(5));
        }
        let begun = Instant::now();
        let agent = Command::new(binaries.join("lunar-agent"))
            .args(["run", "--config"])
            .arg(&config)
            .stderr(Stdio::null())
            .spawn()?;
        started.push(agent);
        while !is_joined(binaries, &config)? {
            ensure!(begun.elapsed() < Duration::from_secs(60), "an agent did not join in a minute");
            sleep(Duration::from_millis(10));
        }
        took.push(begun.elapsed().as_secs_f64());
    }
    println!(
        "start to joined, one at a time: median {:.2} s, worst {:.2} s of {}",
        median(&mut took),
        took.last().copied().unwrap_or_default(),
        took.len()
    );
    for mut agent in started {
        agent.kill()?;
        agent.wait()?;
    }
    Ok(())
}

fn is_joined(binaries: &Path, config: &Path) -> Result<bool> {
    let status = Command::new(binaries.join("lunar-agent"))
        .args(["status", "--output", "json", "--config"])
        .arg(config)
        .output()?;
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
    Ok(status["peers"].as_u64().is_some_and(|peers| peers > 0))
}

/// Our agents' processes: those that run `lunar-agent WORD` with a configuration below the directory.
fn processes(directory: &Path, word: &str) -> Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let words = command_line(pid);
        let is_agent = words.first().is_some_and(|program| program.ends_with("/lunar-agent"));
        let below = words.iter().any(|argument| Path::new(argument).starts_with(directory));
        if is_agent && below && words.get(1).is_some_and(|argument| argument == word) {
            pids.push(pid);
        }
    }
    Ok(pids)
}

fn command_line(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

fn config_of(pid: u32) -> Result<PathBuf> {
    let words = command_line(pid);
    let at = words.iter().position(|word| word == "--config").context("an agent has --config")?;
    Ok(words.get(at + 1).context("--config has a value")?.into())
}

/// User and system time in ticks of 10 ms: fields 14 and 15 of proc(5)'s stat. A tick a second is one per cent.
fn ticks(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    Ok(fields.get(11).context("utime")?.parse::<u64>()? + fields.get(12).context("stime")?.parse::<u64>()?)
}

/// Memory of its own and its share of what is shared, in MiB.
fn pss(pid: u32) -> Result<f64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find(|line| line.starts_with("Pss:")).context("smaps_rollup has Pss")?;
    let kib: f64 = line.split_whitespace().nth(1).context("Pss has a value")?.parse()?;
    Ok(kib / 1024.0)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
