//! What an idle fleet costs: memory and processor time a process, and how long it takes to join.
//!
//! Owns the harness that starts many real processes and reads `/proc`. By default the processes are bare meshes
//! (this program, started anew); with a command line they are any program that prints a line once it has joined:
//!
//!     cargo bench -p lunar-transport --bench mesh_idle -- --processes 50 --seconds 60
//!     cargo bench -p lunar-transport --bench mesh_idle -- --ready joined -- lunar-agent run --config fleet/{n}.toml
//!
//! With `--at-once` all are started together, as after a power cut. `{n}` in the command line counts the
//! processes. Main invariant: every process it started is ended.

#![allow(clippy::print_stdout, reason = "a benchmark's figures are its output")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use lunar_common::ids::SiteId;
use lunar_transport::mesh::{Mesh, MeshBounds, MeshConfig, MeshEvent, PeerAddress};

#[allow(dead_code, clippy::unwrap_used, reason = "shared with the tests, which use more of it")]
#[path = "../src/fixture.rs"]
mod fixture;

/// What the fixture expects beside it.
mod gate {
    pub(crate) use lunar_transport::gate::{Gate, Hello, Life};
}

/// Longest wait for all processes to join.
const JOIN_TIMEOUT: Duration = Duration::from_secs(300);

/// Sites that bare meshes are spread over.
const SITES: [&str; 3] = ["base", "mine", "orbit"];

/// Tells this program, started anew, which machine it is.
const NODE: &str = "LUNAR_BENCH_NODE";

struct Arguments {
    processes: usize,
    seconds: u64,
    ready: String,
    at_once: bool,
    command: Vec<String>,
}

/// A process under measurement; ended when dropped.
struct Process {
    child: Child,
    started: Instant,
    lines: Receiver<(Instant, String)>,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn main() {
    if let Ok(node) = std::env::var(NODE) {
        run_node(&node);
        return;
    }
    let arguments = arguments();
    let (processes, joins) = start_all(&arguments);
    println!("{} processes joined", processes.len());
    report("start to joined, ms", joins.iter().map(|time| time.as_secs_f64() * 1e3).collect());

    // What starting left to do is not idling: the measurement begins a little later.
    std::thread::sleep(Duration::from_secs(10));
    let before: Vec<f64> = processes.iter().map(|process| cpu_seconds(process.child.id())).collect();
    let begun = Instant::now();
    std::thread::sleep(Duration::from_secs(arguments.seconds));
    let elapsed = begun.elapsed().as_secs_f64();
    let used = processes
        .iter()
        .zip(&before)
        .map(|(process, before)| (cpu_seconds(process.child.id()) - before) / elapsed * 100.0);
    report("idle processor, % of a core", used.collect());
    let pss = processes.iter().map(|process| rollup_kib(process.child.id(), "Pss:") / 1024.0);
    report("memory (PSS), MiB", pss.collect());
    let own = processes.iter().map(|process| {
        let id = process.child.id();
        (rollup_kib(id, "Private_Clean:") + rollup_kib(id, "Private_Dirty:")) / 1024.0
    });
    report("memory of its own, MiB", own.collect());
}

fn arguments() -> Arguments {
    let mut parsed = Arguments {
        processes: 50,
        seconds: 60,
        ready: "joined".to_owned(),
        at_once: false,
        command: Vec::new(),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("every option takes a value");
        match argument.as_str() {
            "--processes" => parsed.processes = value().parse().expect("--processes takes a number"),
            "--seconds" => parsed.seconds = value().parse().expect("--seconds takes a number"),
            "--ready" => parsed.ready = value(),
            "--at-once" => parsed.at_once = true,
            "--" => {
                parsed.command = arguments.collect();
                break;
            }
            // cargo adds --bench.
            _ => {}
        }
    }
    parsed
}

/// Starts them one after the other, each once the one before has joined (the first cannot join before there is
/// a second), or all at once. Returns how long each took.
fn start_all(arguments: &Arguments) -> (Vec<Process>, Vec<Duration>) {
    let mut processes: Vec<Process> = Vec::new();
    let mut joins = Vec::new();
    let joined = |process: &Process| wait_for(process, &arguments.ready) - process.started;
    let mut bootstrap = String::from("-");
    for number in 0..arguments.processes {
        let command = match arguments.command.split_first() {
            Some((program, rest)) => {
                let mut command = Command::new(program);
                command.args(rest.iter().map(|argument| argument.replace("{n}", &number.to_string())));
                command
            }
            None => {
                let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
                command.env(NODE, format!("{number} {bootstrap}"));
                command
            }
        };
        let process = start(command);
        if arguments.command.is_empty() && number == 0 {
            let (_, line) = process.lines.recv_timeout(JOIN_TIMEOUT).expect("the first machine listens");
            bootstrap = line.trim_start_matches("listening ").to_owned();
        }
        if number > 0 && !arguments.at_once {
            joins.push(joined(&process));
        }
        processes.push(process);
    }
    if arguments.at_once {
        joins = processes.iter().skip(1).map(joined).collect();
    }
    (processes, joins)
}

fn start(mut command: Command) -> Process {
    let started = Instant::now();
    let mut child = command
        // Open for as long as this program lives, so that what it started can notice its end.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program can be started");
    let output = child.stdout.take().expect("standard output was asked for as a pipe");
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send((Instant::now(), line)).is_err() {
                return;
            }
        }
    });
    Process { child, started, lines }
}

fn wait_for(process: &Process, ready: &str) -> Instant {
    loop {
        let (at, line) = process.lines.recv_timeout(JOIN_TIMEOUT).expect("every process joins");
        if line.contains(ready) {
            return at;
        }
    }
}

/// User and system time of a process so far.
fn cpu_seconds(process: u32) -> f64 {
    // Kernels report it in hundredths of a second, whatever their own tick.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("the process lives");
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<f64> = after_name.split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect();
    (fields[11] + fields[12]) / TICKS_PER_SECOND
}

fn rollup_kib(process: u32, key: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).expect("the process lives");
    let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|value| value.parse().ok()).unwrap_or(0.0)
}

fn report(what: &str, mut values: Vec<f64>) {
    values.sort_by(f64::total_cmp);
    let at = |percent: usize| values[(values.len() - 1) * percent / 100];
    println!("{what:30} median {:10.3}   p90 {:10.3}   most {:10.3}", at(50), at(90), at(100));
}

/// One bare mesh: `number bootstrap-address`. Runs until it is killed, or its parent has gone.
fn run_node(node: &str) {
    std::thread::spawn(|| {
        // An error means the same as the end.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        std::process::exit(0);
    });
    let (number, bootstrap) = node.split_once(' ').expect("the parent passes two words");
    let number: usize = number.parse().expect("the parent passes a number");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
    runtime.block_on(async {
        let fleet = fixture::Fleet::new("moon");
        let name = format!("srv-{number}");
        let site = SITES[number % SITES.len()];
        let key = SigningKey::from_bytes(blake3::hash(name.as_bytes()).as_bytes());
        let gate = fleet.gate(fleet.enrol(&name, &key, site), "127.0.0.1:1");
        let directory = number == 0;
        let bootstrap: Vec<PeerAddress> = bootstrap.parse().ok().into_iter().collect();
        let (mesh, mut events) = Mesh::start(MeshConfig {
            key,
            fleet: fleet.id.clone(),
            site: SiteId::new(site).expect("the sites' names are ids"),
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0)).to_string()],
            announce: Vec::new(),
            bootstrap,
            gate: Arc::clone(&gate) as Arc<dyn gate::Gate>,
            directory,
            bounds: if directory { MeshBounds::directory() } else { MeshBounds::agent() },
        })
        .await
        .expect("a free port on loopback");
        if directory {
            tell(&format!("listening {}", mesh.listen_addresses().await[0]));
        }
        let mut told = false;
        while let Some(event) = events.recv().await {
            match event {
                MeshEvent::Joined { .. } if !told => {
                    told = true;
                    tell("joined");
                }
                MeshEvent::Joined { .. } | MeshEvent::Left { .. } => {}
                MeshEvent::Gossip { receipt, .. } => receipt.accept(),
                MeshEvent::Request { reply, .. } => reply.refuse("this machine only idles"),
            }
        }
    });
}

fn tell(line: &str) {
    let mut output = std::io::stdout().lock();
    // A parent that has gone ends this process too.
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}
