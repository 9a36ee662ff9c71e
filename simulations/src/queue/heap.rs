//! A binary heap.
//!
//! Owns [`Heap`]. Main invariant: the order is total, so that equal times come out as they were put in.

use std::collections::BinaryHeap;

use super::{Entry, Queue};

/// Events in a binary heap.
#[derive(Debug)]
pub(super) struct Heap<E> {
    events: BinaryHeap<Entry<E>>,
    put: u64,
}

impl<E> Default for Heap<E> {
    fn default() -> Self {
        Self { events: BinaryHeap::new(), put: 0 }
    }
}

impl<E: std::fmt::Debug> Queue<E> for Heap<E> {
    fn put(&mut self, at_us: u64, event: E) {
        self.put += 1;
        self.events.push(Entry { at_us, put: self.put, event });
    }

    fn pop(&mut self) -> Option<(u64, E)> {
        self.events.pop().map(|entry| (entry.at_us, entry.event))
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.events.len()
    }
}
