//! How fast content is cut, hashed, compressed and checked, on one core.
//!
//! Owns the figures for artifacts in docs/PERFORMANCE.md. Each line is the median of several runs over the same
//! bytes: noise, which FastCDC and BLAKE3 find as hard as anything and zstd cannot shorten, and text, which zstd can.
//! Run with `cargo bench -p lunar-artifact --bench chunking`.

#![allow(clippy::print_stdout, reason = "a benchmark's answer is what it prints")]

use std::hint::black_box;
use std::io::Write;
use std::time::Instant;

use lunar_artifact::chunker::Chunker;
use lunar_artifact::frame::{self, FrameMaker, FrameOpener, Framed};
use lunar_artifact::measure;

fn main() {
    // `cargo test --benches` runs this too: then it only has to work.
    let full = std::env::args().any(|argument| argument == "--bench");
    let (bytes, runs) = if full { (256 << 20, 7) } else { (4 << 20, 1) };
    let noise = noise(bytes);
    let text = text(bytes);
    println!("{} MiB, median of {runs} runs, one core unless said otherwise", bytes >> 20);

    report("BLAKE3 alone, in chunks", bytes, runs, || {
        for chunk in noise.chunks(256 * 1024) {
            black_box(blake3::hash(chunk));
        }
    });
    report("FastCDC alone", bytes, runs, || {
        black_box(cut(&noise, |_| {}));
    });
    report("FastCDC + BLAKE3 (target: 1 GB/s)", bytes, runs, || {
        black_box(cut(&noise, |chunk| {
            black_box(blake3::hash(chunk));
        }));
    });
    for (name, content) in [("noise", &noise), ("text", &text)] {
        let mut frames = Vec::new();
        let mut maker = FrameMaker::new().expect("memory for a compressor");
        report(&format!("making frames of {name}"), bytes, 1, || {
            frames.clear();
            cut(content, |chunk| frames.push(maker.make(chunk).expect("memory for a frame")));
        });
        let frame_bytes: usize = frames.iter().map(|framed| framed.frame.len()).sum();
        println!(
            "  {:<44} {:>8.3}",
            format!("frame bytes a byte of {name}"),
            frame_bytes as f64 / bytes as f64
        );
        report(&format!("checking frames of {name} (frame bytes)"), frame_bytes, runs, || {
            for Framed { chunk, frame } in &frames {
                frame::check(chunk, frame).expect("a frame that was just made");
            }
        });
        report(&format!("opening frames of {name} (content bytes)"), bytes, runs, || open(&frames));
    }

    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), &text).expect("room for a temporary file");
    report("a whole build of text, every core", bytes, 1, || {
        black_box(measure(file.path(), |_| {}).expect("a file that is there"));
    });
}

fn cut(content: &[u8], mut each: impl FnMut(&[u8])) -> usize {
    let mut chunks = 0;
    let mut chunker = Chunker::new(|chunk: &[u8]| {
        chunks += 1;
        each(chunk);
        Ok(())
    });
    chunker.write_all(content).and_then(|()| chunker.finish()).expect("nothing in here fails");
    chunks
}

fn open(frames: &[Framed]) {
    let mut opener = FrameOpener::new().expect("memory for a decompressor");
    let mut content = Vec::new();
    for Framed { chunk, frame } in frames {
        opener.open(chunk, frame, &mut content).expect("a frame that was just made");
        black_box(&content);
    }
}

fn report(what: &str, bytes: usize, runs: usize, mut run: impl FnMut()) {
    let mut seconds: Vec<f64> = (0..runs)
        .map(|_| {
            let begin = Instant::now();
            run();
            begin.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    println!("  {what:<44} {:>8.2} GB/s", bytes as f64 / median / 1e9);
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    noise
}

/// Words drawn by a fixed sequence: about as compressible as a program's text.
fn text(bytes: usize) -> Vec<u8> {
    let words = noise(64 * 1024);
    let mut text = Vec::with_capacity(bytes + 16);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    while text.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let begin = usize::try_from((state >> 40) % 4000).expect("small") * 16;
        let length = usize::try_from(3 + (state >> 33) % 12).expect("small");
        text.extend_from_slice(&words[begin..begin + length]);
    }
    text.truncate(bytes);
    text
}
