//! Chunks over the data plane, verified and written, against a bare quinn stream in the same run.
//!
//! `cargo bench -p lunar-agent --bench data_plane`. Two endpoints in one process on loopback. Three figures: a bare
//! quinn stream of one block again and again, with the plane's certificates, cipher and settings; frames read from a
//! pack, hashed, sent, fetched eight at a time and verified by hash; the same, written to a pack. The share of the
//! bare stream that the second reaches is what counts (at least 85 %). Rounds alternate and shares are taken within a
//! round, so that a busy machine slows both sides. Shares are given by time and by processor seconds, both ends
//! together: these hardly depend on what else the machine does. A name (`bare`, `verified`, `written`) after `--`
//! runs one of the three alone, for a profiler.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark reports to a person")]

#[path = "../tests/fetching/fleet.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests; each uses its own part")]
mod fleet;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleet::{Counting, Published, agent};
use futures::stream::{self, StreamExt};
use lunar_artifact::PackDirectory;
use lunar_transport::data_plane::{Distance, Link, PlaneLimits, quinn_client, quinn_server};
use lunar_transport::gate::keypair;
use nix::time::{ClockId, clock_gettime};

const CONTENT_BYTES: usize = 256 * 1024 * 1024;
const ROUNDS: usize = 9;
const IN_FLIGHT: usize = 8;
const NAMES: [&str; 3] = ["bare", "verified", "written"];

fn main() {
    let only = std::env::args().skip(1).find(|argument| NAMES.contains(&argument.as_str()));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    // Not on the main thread, which the runtime would have to wake for every packet: nor does the agent.
    runtime.block_on(async { tokio::spawn(measure(only)).await.unwrap() });
}

async fn measure(only: Option<String>) {
    let published = Published::new(CONTENT_BYTES);
    let frames = published.built.frame_bytes;
    let source = Counting::new(&published);
    let server = agent(1, "base");
    let (plane, _links) = server.plane(source.clone());
    let (client, _) = agent(2, "base").plane(source);
    let address = plane.address().unwrap().to_string();
    let link = client.connect(server.key(), &address, Distance::Near).await.unwrap();
    let bare = Bare::start(frames).await;

    println!("{} chunks, {:.0} MB of frames, {IN_FLIGHT} in flight", published.chunks(), mega(frames));
    let mut costs: [Vec<Cost>; 3] = Default::default();
    for round in 0..=ROUNDS {
        for (name, costs) in NAMES.into_iter().zip(&mut costs) {
            if only.as_deref().is_some_and(|only| only != name) {
                continue;
            }
            let cost = match name {
                "bare" => Cost::of(frames, bare.receive()).await,
                "verified" => Cost::of(frames, fetch(&link, &published, None)).await,
                _ => Cost::of(frames, fetch(&link, &published, Some(tempfile::tempdir().unwrap()))).await,
            };
            // The first round warms caches and congestion windows.
            if round > 0 {
                costs.push(cost);
            }
        }
    }
    println!("{:10}{:>8}{:>12}{:>14}{:>14}", "", "MB/s", "CPU s/GB", "share, time", "share, CPU");
    for (name, own) in NAMES.into_iter().zip(&costs).filter(|(_, own)| !own.is_empty()) {
        let mega_s = median(own.iter().map(|cost| cost.mega_s));
        let cpu_s_giga = median(own.iter().map(|cost| cost.cpu_s_giga));
        print!("{name:10}{mega_s:8.0}{cpu_s_giga:12.2}");
        if only.is_none() {
            let pairs = || own.iter().zip(&costs[0]);
            let by_time = median(pairs().map(|(own, bare)| own.mega_s / bare.mega_s));
            let by_cpu = median(pairs().map(|(own, bare)| bare.cpu_s_giga / own.cpu_s_giga));
            print!("{:12.0} %{:12.0} %", by_time * 100.0, by_cpu * 100.0);
        }
        println!();
    }
}

/// What moving the artifact once cost.
#[derive(Debug, Clone, Copy)]
struct Cost {
    mega_s: f64,
    cpu_s_giga: f64,
}

impl Cost {
    async fn of(bytes: u64, work: impl Future<Output = ()>) -> Self {
        let (begun, cpu) = (Instant::now(), cpu_seconds());
        work.await;
        Self {
            mega_s: mega(bytes) / begun.elapsed().as_secs_f64(),
            cpu_s_giga: (cpu_seconds() - cpu) / mega(bytes) * 1e3,
        }
    }
}

/// Processor time of this process so far, all threads together.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap();
    Duration::from(time).as_secs_f64()
}

/// Fetches every frame, eight at a time, as the fetcher does; checks each by hash, or writes it to a pack.
async fn fetch(link: &Link, published: &Published, directory: Option<tempfile::TempDir>) {
    let pack = directory.as_ref().map(|directory| {
        Arc::new(PackDirectory::open(directory.path()).unwrap().create(&published.built.manifest).unwrap())
    });
    stream::iter(0..published.chunks())
        .for_each_concurrent(IN_FLIGHT, |index| {
            let (chunk, pack) = (published.built.manifest.chunks[index as usize], pack.clone());
            async move {
                let frame = link.frame(published.id(), index, chunk.frame_bytes).await.unwrap();
                let check = move || match pack {
                    Some(pack) => assert!(!pack.write_frame(index, &frame).unwrap().is_empty()),
                    None => lunar_artifact::frame::check(&chunk, &frame).unwrap(),
                };
                tokio::task::spawn_blocking(check).await.unwrap();
            }
        })
        .await;
}

/// A quinn connection of its own, set up like the plane's to the last option, and one stream of as many bytes.
struct Bare {
    connection: quinn::Connection,
    bytes: u64,
    _endpoint: quinn::Endpoint,
}

impl Bare {
    async fn start(bytes: u64) -> Self {
        let [server_key, client_key] =
            [3, 4].map(|machine| keypair(agent(machine, "base").secret()).unwrap());
        let config = quinn_server(&server_key, &PlaneLimits::agent()).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let server = quinn::Endpoint::server(config, any).unwrap();
        let address = server.local_addr().unwrap();
        tokio::spawn(async move {
            let connection = server.accept().await.unwrap().await.unwrap();
            let block = bytes::Bytes::from(vec![7u8; 256 * 1024]);
            while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                receive.read_to_end(1).await.unwrap();
                let mut left = bytes;
                while left > 0 {
                    let now = left.min(block.len() as u64);
                    send.write_chunk(block.slice(..usize::try_from(now).unwrap())).await.unwrap();
                    left -= now;
                }
                send.finish().unwrap();
            }
        });
        let endpoint = quinn::Endpoint::client(any).unwrap();
        let peer = server_key.public().to_peer_id();
        let config = quinn_client(&client_key, peer, Distance::Near).unwrap();
        let connection = endpoint.connect_with(config, address, "lunar").unwrap().await.unwrap();
        Self { connection, bytes, _endpoint: endpoint }
    }

    async fn receive(&self) {
        let (mut send, mut receive) = self.connection.open_bi().await.unwrap();
        send.write_all(&[1]).await.unwrap();
        send.finish().unwrap();
        let mut got = 0;
        while let Some(chunk) = receive.read_chunk(usize::MAX, true).await.unwrap() {
            got += chunk.bytes.len() as u64;
        }
        assert_eq!(got, self.bytes);
    }
}

fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
