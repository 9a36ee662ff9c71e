//! The power goes at any instant: a recorded run of the store is replayed with unsynced writes lost.
//!
//! A child process commits and acknowledges while strace writes down what it asks of the disk. From that
//! record the disk is rebuilt as it may look after a power cut at many points: what was synced is there; of
//! what was not, each write, each torn 4 KiB of it, and each change of a directory may be there or not, in any
//! order. The store must then open and hold every acknowledged commit whole, and no half of another.

mod disk;
mod trace;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{CACHE_BYTES_SMALL, Options, Store, StoreError, Write};
use disk::{Disk, Draw};
use trace::Call;

const DIRECTORY: &str = "LUNAR_TEST_POWER_CUT";
const FIRST: &str = "LUNAR_TEST_POWER_CUT_FIRST";
const SYNCING: &str = "LUNAR_TEST_POWER_CUT_SYNCING";
const IMAGE: &str = "LUNAR_TEST_POWER_CUT_IMAGE";
const ACKNOWLEDGED: &str = "LUNAR_TEST_POWER_CUT_ACKNOWLEDGED";
const COMMITS_PER_PROCESS: u64 = 120;
const IMAGES: usize = 120;
/// Address space and processor time of one judgement: many times what a whole store needs.
const MEMORY_BYTES_MAX: u64 = 8 << 30;
const CPU_S_MAX: u64 = 60;

#[test]
fn no_power_cut_loses_an_acknowledged_commit_or_shows_half_of_one() {
    let Some(recording) = record(true) else { return };

    let verdict = replay(&recording, IMAGES);

    assert_eq!(verdict.failures, Vec::<String>::new());
    assert!(verdict.images >= IMAGES / 2, "only {} images were tried", verdict.images);
    assert!(verdict.losing > IMAGES / 4, "only {} images lost any unsynced write", verdict.losing);
}

/// Proves the checker: the known bug is a commit that trusts sled's flush and leaves the fdatasync out.
#[test]
fn a_commit_without_its_sync_is_caught() {
    let Some(recording) = record(false) else { return };

    let verdict = replay(&recording, IMAGES);

    assert!(!verdict.failures.is_empty(), "{} images, and no loss was noticed", verdict.images);
}

/// Not a test of its own: what the recorded process does. It ends without closing anything.
#[test]
fn the_recorded_process() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let number = |name: &str| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let options = Options { cache_bytes: CACHE_BYTES_SMALL, syncing: number(SYNCING) == 1 };
    let store = Store::open_as(Path::new(&directory), &options).unwrap();
    let mut out = std::io::stdout().lock();
    for commit in number(FIRST)..number(FIRST) + COMMITS_PER_PROCESS {
        store.commit(&writes_of(commit)).unwrap();
        writeln!(out, "ack {commit}").unwrap();
    }
    std::process::exit(0);
}

/// Not a test of its own: what judges one image, and dies with it if the store's library goes round in circles.
#[test]
fn the_judging_process() {
    use nix::sys::resource::{Resource, setrlimit};
    let Some(image) = std::env::var_os(IMAGE) else { return };
    setrlimit(Resource::RLIMIT_AS, MEMORY_BYTES_MAX, MEMORY_BYTES_MAX).unwrap();
    setrlimit(Resource::RLIMIT_CPU, CPU_S_MAX, CPU_S_MAX).unwrap();
    let acknowledged = std::env::var(ACKNOWLEDGED).unwrap().parse().unwrap();
    let judged = judge(Path::new(&image), acknowledged);
    eprintln!("{judged:?}");
    std::process::exit(i32::from(judged.is_err()));
}

struct Verdict {
    images: usize,
    losing: usize,
    failures: Vec<String>,
}

/// Two lives of a process on one directory, each ended without closing. `None`: there is no strace.
fn record(syncing: bool) -> Option<Recording> {
    let base = tempfile::tempdir().unwrap();
    let directory = base.path().join("disk");
    std::fs::create_dir(&directory).unwrap();
    let mut calls = Vec::new();
    for life in 0..2 {
        let output = base.path().join("trace");
        let run = Command::new("strace")
            .args(["-f", "-xx", "-s", "4000000", "-e", trace::CALLS, "-o"])
            .arg(&output)
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "store::power_cut::the_recorded_process", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, &directory)
            .env(FIRST, (1 + life * COMMITS_PER_PROCESS).to_string())
            .env(SYNCING, if syncing { "1" } else { "0" })
            .output();
        let run = match run {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("SKIPPED: strace is not installed, so no power cut was tried");
                return None;
            }
            other => other.unwrap(),
        };
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        calls.extend(trace::parse(&std::fs::read_to_string(&output).unwrap()));
        calls.push(Call::ProcessEnded);
    }
    Some(Recording { directory, calls, _base: base })
}

struct Recording {
    directory: std::path::PathBuf,
    calls: Vec<Call>,
    _base: tempfile::TempDir,
}

fn replay(recording: &Recording, images: usize) -> Verdict {
    let mut disk = Disk::new(&recording.directory);
    let mut verdict = Verdict { images: 0, losing: 0, failures: Vec::new() };
    let mut acknowledged = 0;
    let mut draw = Draw::new(7);
    let touching = recording.calls.iter().filter(|call| disk.concerns(call)).count();
    for (position, call) in recording.calls.iter().enumerate() {
        if let Some(text) = call.printed()
            && let Some(number) = text.trim().strip_prefix("ack ")
        {
            acknowledged = number.parse().unwrap();
        }
        disk.carry_out(call);
        if !disk.concerns(call) || !draw.one_in(touching.div_ceil(images)) {
            continue;
        }
        verdict.images += 1;
        let image = image_directory();
        verdict.losing += usize::from(disk.cut_power(image.path(), &mut draw));
        if let Err(problem) = judged_apart(image.path(), acknowledged) {
            verdict
                .failures
                .push(format!("call {position}, after acknowledgement {acknowledged}: {problem}"));
        }
    }
    assert_eq!(acknowledged, 2 * COMMITS_PER_PROCESS, "the record must be complete");
    verdict
}

/// In memory where there is such a place: what is judged here is what was kept, not how it is kept.
fn image_directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// What [`judge`] says, in a process of its own: a damaged tree can send the store's library round for ever,
/// and a thread cannot be ended.
fn judged_apart(image: &Path, acknowledged: u64) -> Result<(), String> {
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::power_cut::the_judging_process", "--nocapture", "--test-threads=1"])
        .env(IMAGE, image)
        .env(ACKNOWLEDGED, acknowledged.to_string())
        .stdout(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    if ended.status.success() { Ok(()) } else { Err(format!("{}: {said}", ended.status)) }
}

/// Whether a disk holds all that was acknowledged, and of the commit under way all or nothing.
fn judge(image: &Path, acknowledged: u64) -> Result<(), String> {
    let open = || Store::open(image).map_err(|error: StoreError| error.to_string());
    let store = open()?;
    let found: BTreeMap<Vec<u8>, Vec<u8>> =
        store.scan(b"").collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    let reached = (acknowledged..=acknowledged + 1)
        .find(|commit| store.commits() == *commit && found == state_after(*commit))
        .ok_or_else(|| format!("{} commits, which are not what was written", store.commits()))?;
    // It must be good for more than reading.
    store.commit(&writes_of(reached + 1)).map_err(|error| error.to_string())?;
    store.close().map_err(|error| error.to_string())?;
    let found: BTreeMap<_, _> = open()?.scan(b"").map(Result::unwrap).collect();
    if found == state_after(reached + 1) { Ok(()) } else { Err("not good for more".into()) }
}

/// What commit number `commit` changes: a log that is cut at its front, a counter, a few rows, now and then
/// a value of several pieces.
fn writes_of(commit: u64) -> Vec<Write> {
    let mut draw = Draw::new(commit);
    let length = if commit.is_multiple_of(23) { 50_000 } else { draw.below(3000) };
    let byte = u8::try_from(commit % 256).unwrap();
    let mut writes = vec![
        Write::put(format!("log/{commit:06}"), vec![byte; length]),
        Write::put("counter", commit.to_be_bytes()),
        Write::put(format!("row/{}", commit % 17), vec![byte; draw.below(400)]),
    ];
    if commit > 50 {
        writes.push(Write::remove(format!("log/{:06}", commit - 50)));
    }
    writes
}

fn state_after(commit: u64) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut state = BTreeMap::new();
    for write in (1..=commit).flat_map(writes_of) {
        match write {
            Write::Put { key, value } => state.insert(key, value),
            Write::Remove { key } => state.remove(&key),
        };
    }
    state
}
