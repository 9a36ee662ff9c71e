//! Compressing chunks on every core, in order.
//!
//! Owns the threads of a build: the caller's reads and cuts, one a core compresses, one takes the frames in
//! order. Main invariant: what comes out does not depend on the number of threads, and no more chunks are
//! under way than a few a thread. Refuses to go on after the first failure of any of them.

use std::io;
use std::num::NonZero;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use crate::frame::{FrameMaker, Framed};

/// Which end broke.
pub(crate) enum Broken<E> {
    /// What makes the content.
    Source(E),
    /// A compressor.
    Compress(io::Error),
    /// What takes the frames.
    Sink(E),
}

/// A chunk's content, and where its frame is waited for.
type Job = (Vec<u8>, SyncSender<io::Result<Framed>>);

/// Runs `produce`, which hands out chunks, and `consume`, which gets their frames in the same order.
pub(crate) fn frames<E: Send>(
    produce: impl FnOnce(&mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<(), E>,
    mut consume: impl FnMut(Framed) -> Result<(), E> + Send,
) -> Result<(), Broken<E>> {
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get).min(WORKERS_MAX);
    let (jobs, queue) = sync_channel::<Job>(workers);
    let (places, ordered) = sync_channel::<Receiver<io::Result<Framed>>>(2 * workers);
    let queue = Mutex::new(queue);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| compress(&queue));
        }
        let consumer = scope.spawn(move || {
            for place in ordered {
                // A worker answers every job it takes; one that panicked ends the scope with its panic.
                let framed = place.recv().unwrap_or_else(|_| Err(stopped())).map_err(Broken::Compress)?;
                consume(framed).map_err(Broken::Sink)?;
            }
            Ok(())
        });
        let produced = produce(&mut |content| {
            let (answer, place) = sync_channel(1);
            // When the consumer is gone, its own failure is the one that is told.
            places.send(place).map_err(|_| stopped())?;
            jobs.send((content.to_vec(), answer)).map_err(|_| stopped())
        });
        drop((jobs, places));
        let consumed = consumer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        consumed.and(produced.map_err(Broken::Source))
    })
}

fn compress(queue: &Mutex<Receiver<Job>>) {
    let mut maker = FrameMaker::new();
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((content, answer)) = job else { return };
        let framed = match &mut maker {
            Ok(maker) => maker.make(&content),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        // Nobody waits any more when the consumer has failed.
        let _ = answer.send(framed);
    }
}

fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the other end of the build stopped")
}

/// Most threads that compress. The reader feeds about 15 of them at 1 GB/s; beyond that they would wait.
const WORKERS_MAX: usize = 16;
