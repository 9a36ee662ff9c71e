//! Group commit: what waits is made durable together, then what rests on it is released.
//!
//! Owns the one thread that writes the store. Main invariant: what a batch releases leaves in the order in which
//! it was handed in, and only after every write handed in before it is on the disk. If a commit fails, nothing
//! behind it is ever released and the program ends.
//!
//! While one group is on its way to the disk the next gathers. The log's blocks of a group become one, so that
//! what a commit costs hardly grows with the group.

use std::sync::Arc;
use std::thread;

use lunar_host::store::{Store, StoreError, Write};
use tokio::sync::mpsc;

use crate::event_log::Block;

/// Batches that may wait for the disk. Beyond it, whoever hands in waits: the disk sets the pace.
const WAITING_MAX: usize = 4096;
/// Batches made durable by one commit. Bounds how long the first of them waits for the last.
const GROUP_MAX: usize = 1024;

/// Records gathered in one group, in bytes, beyond which the group is closed. What may follow it into a group is
/// one batch, so a value of the store stays far below its bound.
const GROUP_BYTES_MAX: usize = 1024 * 1024;

/// Some records and other writes, and what may leave once they are durable.
struct Batch<T> {
    block: Option<Block>,
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

    /// Hands in records of the log and other writes, and what may leave once they and everything before them are durable.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn hand_in(&self, block: Option<Block>, writes: Vec<Write>, then: Vec<T>) -> Result<(), Ended> {
        if block.is_none() && writes.is_empty() && then.is_empty() {
            return Ok(());
        }
        self.batches.send(Batch { block, writes, then }).await.map_err(|_| Ended)
    }
}

fn commit_all<T>(
    store: &Store,
    mut waiting: mpsc::Receiver<Batch<T>>,
    release: &mpsc::Sender<Result<Vec<T>, StoreError>>,
) {
    while let Some(mut group) = waiting.blocking_recv() {
        for _ in 1..GROUP_MAX {
            if group.block.as_ref().is_some_and(|block| block.len_bytes() >= GROUP_BYTES_MAX) {
                break;
            }
            let Ok(next) = waiting.try_recv() else { break };
            group.join(next);
        }
        let Batch { block, mut writes, then } = group;
        writes.extend(block.into_iter().flat_map(Block::into_writes));
        let outcome = if writes.is_empty() { Ok(()) } else { store.commit(&writes) };
        let failed = outcome.is_err();
        // Whoever listens has gone, or the disk has: either way this is the end.
        if release.blocking_send(outcome.map(|()| then)).is_err() || failed {
            return;
        }
    }
}

impl<T> Batch<T> {
    fn join(&mut self, next: Self) {
        match (&mut self.block, next.block) {
            (Some(block), Some(next)) => block.join(&next),
            (None, next) => self.block = next,
            (Some(_), None) => {}
        }
        self.writes.extend(next.writes);
        self.then.extend(next.then);
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
            committer.hand_in(None, writes, vec![number]).await.unwrap();
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

        committer.hand_in(None, vec![too_long], vec![1]).await.unwrap();
        // It may have ended already.
        let _ = committer.hand_in(None, vec![Write::put(b"k".to_vec(), b"v".to_vec())], vec![2]).await;

        assert!(released.recv().await.unwrap().is_err());
        assert!(released.recv().await.is_none());
    }
}
