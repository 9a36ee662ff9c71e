//! Group commit: what waits is made durable together, then what rests on it is released.
//!
//! Owns the one thread that writes the store. Main invariant: what a batch releases leaves in the order in which
//! it was handed in, and only after every write handed in before it is on the disk. If a commit fails, nothing
//! behind it is ever released and the program ends.

use std::sync::Arc;
use std::thread;

use lunar_host::store::{Store, StoreError, Write};
use tokio::sync::mpsc;

/// Batches that may wait for the disk. Beyond it, whoever hands in waits: the disk sets the pace.
const WAITING_MAX: usize = 4096;
/// Batches made durable by one commit. Bounds how long the first of them waits for the last.
const GROUP_MAX: usize = 1024;

/// Some writes, and what may leave once they are durable.
struct Batch<T> {
    writes: Vec<Write>,
    then: Vec<T>,
}

/// The way to the committer.
pub struct Committer<T> {
    batches: mpsc::Sender<Batch<T>>,
}

/// What comes back: released effects, in order, or the failure that ends everything.
pub type Released<T> = mpsc::Receiver<Result<Vec<T>, StoreError>>;

/// The committer has ended after a failed commit; the failure is in [`Released`].
#[derive(Debug, thiserror::Error)]
#[error("nothing can be written any more")]
pub struct Ended;

impl<T: Send + 'static> Committer<T> {
    /// Starts the thread.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn start(store: Arc<Store>) -> std::io::Result<(Self, Released<T>)> {
        let (batches, waiting) = mpsc::channel(WAITING_MAX);
        let (release, released) = mpsc::channel(WAITING_MAX);
        thread::Builder::new()
            .name("committer".to_owned())
            .spawn(move || commit_all(&store, waiting, &release))?;
        Ok((Self { batches }, released))
    }

    /// Hands in writes, and what may leave once they and everything before them are durable.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn hand_in(&self, writes: Vec<Write>, then: Vec<T>) -> Result<(), Ended> {
        if writes.is_empty() && then.is_empty() {
            return Ok(());
        }
        self.batches.send(Batch { writes, then }).await.map_err(|_| Ended)
    }
}

fn commit_all<T>(
    store: &Store,
    mut waiting: mpsc::Receiver<Batch<T>>,
    release: &mpsc::Sender<Result<Vec<T>, StoreError>>,
) {
    while let Some(first) = waiting.blocking_recv() {
        let mut writes = first.writes;
        let mut then = first.then;
        for _ in 1..GROUP_MAX {
            let Ok(next) = waiting.try_recv() else { break };
            writes.extend(next.writes);
            then.extend(next.then);
        }
        let outcome = if writes.is_empty() { Ok(()) } else { store.commit(&writes) };
        let failed = outcome.is_err();
        // Whoever listens has gone, or the disk has: either way this is the end.
        if release.blocking_send(outcome.map(|()| then)).is_err() || failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn effects_leave_in_order_and_after_their_writes() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(directory.path()).unwrap());
        let (committer, mut released) = Committer::start(store.clone()).unwrap();

        for number in 0..100u32 {
            let writes = vec![Write::put(number.to_be_bytes(), b"x".to_vec())];
            committer.hand_in(writes, vec![number]).await.unwrap();
        }
        let mut seen = Vec::new();
        while seen.len() < 100 {
            for number in released.recv().await.unwrap().unwrap() {
                assert!(
                    store.get(&number.to_be_bytes()).unwrap().is_some(),
                    "{number} left before its write"
                );
                seen.push(number);
            }
        }

        assert_eq!(seen, (0..100).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn nothing_is_released_after_a_commit_that_failed() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(directory.path()).unwrap());
        let (committer, mut released) = Committer::start(store).unwrap();
        let too_long = Write::put(vec![0; lunar_host::store::KEY_BYTES_MAX + 1], b"x".to_vec());

        committer.hand_in(vec![too_long], vec![1]).await.unwrap();
        // It may have ended already.
        let _ = committer.hand_in(vec![Write::put(b"k".to_vec(), b"v".to_vec())], vec![2]).await;

        assert!(released.recv().await.unwrap().is_err());
        assert!(released.recv().await.is_none());
    }
}
