//! An end to what has none: sled can go round in circles in a damaged tree, taking memory all the while.
//!
//! Owns [`within`]. Main invariant: the caller gets an answer, whatever a damaged store does to the library. A
//! thread cannot be ended from outside: one that is given up works on until the process ends, with the lock of its
//! directory held, which is why a program that gets this error must end.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long, and at the cost of how much memory, something may go on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) time: Duration,
    pub(super) memory_bytes: u64,
}

/// Between two looks at the memory. The library was seen to take about 100 MB a second when it goes round.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Patience {
    /// Enough for a store of this many bytes on the slowest disk that could still run it, and far less than the
    /// machine has: opening reads everything once and keeps about as much as the file has.
    pub(super) fn for_store(bytes: u64) -> Self {
        const BYTES_A_SECOND_MIN: u64 = 1024 * 1024;
        const AT_LEAST: Duration = Duration::from_secs(180);
        const MEMORY_AT_LEAST: u64 = 1024 * 1024 * 1024;
        Self {
            time: AT_LEAST + Duration::from_secs(bytes / BYTES_A_SECOND_MIN),
            memory_bytes: MEMORY_AT_LEAST.saturating_add(bytes.saturating_mul(8)),
        }
    }
}

/// What some work comes to, or why it was given up.
pub(super) fn within<T: Send + 'static>(
    patience: Patience,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let (tell, told) = channel();
    let before = resident_bytes();
    let begun = Instant::now();
    thread::Builder::new()
        .name("store-opening".into())
        .spawn(move || {
            // Nobody listens any more once it was given up.
            let _ = tell.send(work());
        })
        .map_err(|error| format!("no thread could be started: {error}"))?;
    loop {
        match told.recv_timeout(LOOK_EVERY) {
            Ok(result) => return Ok(result),
            Err(RecvTimeoutError::Disconnected) => return Err("the store's library gave up on it".into()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let taken = resident_bytes().saturating_sub(before);
        if begun.elapsed() > patience.time || taken > patience.memory_bytes {
            return Err(format!(
                "the store's library did not come to an end with it, after {} s and {} MiB of memory",
                begun.elapsed().as_secs(),
                taken / 1024 / 1024
            ));
        }
    }
}

/// The memory that this process has now; 0 where the kernel does not say.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
    pages.saturating_mul(u64::try_from(page).unwrap_or(4096))
}

#[cfg(test)]
mod tests {
    use super::*;

    // The memory is the whole process's: other tests take some at the same time.
    const LONG: Patience = Patience { time: Duration::from_secs(3600), memory_bytes: u64::MAX };
    const NO_TIME: Patience = Patience { time: Duration::ZERO, ..LONG };
    const LITTLE_MEMORY: Patience = Patience { memory_bytes: 64 * 1024 * 1024, ..LONG };

    #[test]
    fn work_that_ends_gives_what_it_came_to() {
        assert_eq!(within(LONG, || 7), Ok(7));
    }

    #[test]
    fn work_that_never_ends_is_given_up() {
        let (_keep, never) = channel::<()>();
        let given_up = within(NO_TIME, move || never.recv()).unwrap_err();
        assert!(given_up.contains("did not come to an end"), "{given_up}");
    }

    #[test]
    fn work_that_takes_ever_more_memory_is_given_up() {
        let (keep, never) = channel::<()>();
        let given_up = within(LITTLE_MEMORY, move || {
            let taken = vec![1u8; 256 * 1024 * 1024];
            let _ = never.recv();
            taken.len()
        });
        drop(keep);
        assert!(given_up.unwrap_err().contains("MiB of memory"));
    }

    #[test]
    fn work_that_panics_is_told() {
        let told = within(LONG, || panic!("as sled does")).unwrap_err();
        assert!(told.contains("gave up on it"), "{told}");
    }
}
