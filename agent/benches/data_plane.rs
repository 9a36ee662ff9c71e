//! Chunks over the data plane, verified and written, against a bare quinn stream in the same run.
//!
//! `cargo bench -p lunar-agent --bench data_plane`. Two endpoints in one process on loopback. Three figures: a bare
//! quinn stream; frames fetched eight at a time and verified by hash; the same, written to a pack. The ratio of the
//! second to the first is what counts (at least 85 %); rounds alternate, so that a busy machine slows both. Processor seconds a
//! gigabyte, both ends together, are printed beside: they hardly depend on what else the machine does.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark reports to a person")]

#[path = "../tests/fetching/fleet.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests; each uses its own part")]
mod fleet;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use fleet::{Counting, Published, agent};
use futures::stream::{self, StreamExt};
use lunar_artifact::PackDirectory;
use lunar_transport::data_plane::{Distance, Link};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};

const CONTENT_BYTES: usize = 256 * 1024 * 1024;
const ROUNDS: usize = 5;
const IN_FLIGHT: usize = 8;

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(measure());
}

async fn measure() {
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
    let mut bares = Vec::new();
    let mut verified = Vec::new();
    let mut written = Vec::new();
    for round in 0..=ROUNDS {
        let rates = [
            Cost::of(frames, bare.receive()).await,
            Cost::of(frames, fetch(&link, &published, None)).await,
            Cost::of(frames, fetch(&link, &published, Some(tempfile::tempdir().unwrap()))).await,
        ];
        // The first round warms caches and congestion windows.
        if round > 0 {
            bares.push(rates[0]);
            verified.push(rates[1]);
            written.push(rates[2]);
        }
    }
    let bare = Cost::median(&bares);
    for (name, costs) in
        [("bare quinn stream", bares), ("fetched and verified", verified), ("and written", written)]
    {
        let cost = Cost::median(&costs);
        let share = cost.mega_s / bare.mega_s * 100.0;
        println!("{name:22}{:6.0} MB/s {share:5.0} % of bare {:6.2} CPU s/GB", cost.mega_s, cost.cpu_s_giga);
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

    /// The medians of both figures.
    fn median(costs: &[Self]) -> Self {
        Self {
            mega_s: median(costs.iter().map(|cost| cost.mega_s).collect()),
            cpu_s_giga: median(costs.iter().map(|cost| cost.cpu_s_giga).collect()),
        }
    }
}

/// Processor time of this process so far: fields 14 and 15 of its stat file, in hundredths of a second.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let ticks = after_name.split_whitespace().skip(11).take(2).map(|field| field.parse::<f64>().unwrap());
    ticks.sum::<f64>() / 100.0
}

/// Fetches every frame, eight at a time, as the fetcher does; checks each by hash, or writes it to a pack.
async fn fetch(link: &Link, published: &Published, directory: Option<tempfile::TempDir>) {
    let pack = directory.as_ref().map(|directory| {
        Arc::new(PackDirectory::open(directory.path()).unwrap().create(&published.built.manifest).unwrap())
    });
    stream::iter(published.built.manifest.chunks.iter().enumerate())
        .for_each_concurrent(IN_FLIGHT, |(index, chunk)| {
            let (chunk, pack) = (*chunk, pack.clone());
            async move {
                let index = u32::try_from(index).unwrap();
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

/// A quinn connection of its own with the same certificates, default settings, and one stream of as many bytes.
struct Bare {
    connection: quinn::Connection,
    bytes: u64,
    _endpoint: quinn::Endpoint,
}

impl Bare {
    async fn start(bytes: u64) -> Self {
        let key = |machine: u8| lunar_transport::gate::keypair(agent(machine, "base").secret()).unwrap();
        let tls = libp2p_tls::make_server_config(&key(3)).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
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
        let tls = libp2p_tls::make_client_config(&key(4), None).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
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

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
