//! A ring of buckets for the near future, over a heap for the far.
//!
//! Owns [`Ring`]. Main invariant: every event of the bucket under the cursor is in `current`, sorted; the ring
//! holds the buckets after it, as far as it reaches; the heap holds nothing that the ring could hold. Buckets
//! that ran empty lend their memory to others: what is kept follows from what waits at once.

use std::collections::BinaryHeap;

use super::{Entry, Queue};

/// A bucket's width is 2 to the power of this, in microseconds: about a millisecond.
const WIDTH_BITS: u32 = 10;

/// Buckets: together they reach 67 s ahead, which is most of what servers wait for.
const BUCKETS: usize = 1 << 16;

/// Empty buckets whose memory is kept for others.
const SPARE_MAX: usize = 4_096;

/// Events in buckets by time.
#[derive(Debug)]
pub(super) struct Ring<E> {
    /// The number of the bucket under the cursor.
    cursor: u64,
    /// Its events, the last first.
    current: Vec<Entry<E>>,
    buckets: Vec<Vec<Entry<E>>>,
    /// One bit a bucket that holds something.
    filled: Vec<u64>,
    in_ring: usize,
    far: BinaryHeap<Entry<E>>,
    spare: Vec<Vec<Entry<E>>>,
    put: u64,
}

impl<E> Default for Ring<E> {
    fn default() -> Self {
        Self {
            cursor: 0,
            current: Vec::new(),
            buckets: std::iter::repeat_with(Vec::new).take(BUCKETS).collect(),
            filled: vec![0; BUCKETS / 64],
            in_ring: 0,
            far: BinaryHeap::new(),
            spare: Vec::new(),
            put: 0,
        }
    }
}

/// The place of a bucket in the ring.
fn place(bucket: u64) -> usize {
    usize::try_from(bucket % BUCKETS as u64).expect("below the number of buckets")
}

impl<E> Ring<E> {
    /// The bucket of a time; what is late belongs under the cursor.
    fn bucket(&self, at_us: u64) -> u64 {
        (at_us >> WIDTH_BITS).max(self.cursor)
    }

    fn put_in_ring(&mut self, bucket: u64, entry: Entry<E>) {
        let at = place(bucket);
        let events = &mut self.buckets[at];
        if events.capacity() == 0
            && let Some(spare) = self.spare.pop()
        {
            *events = spare;
        }
        events.push(entry);
        self.filled[at / 64] |= 1 << (at % 64);
        self.in_ring += 1;
    }

    /// Moves the cursor to the next bucket that holds something. `false`: there is none.
    fn advance(&mut self) -> bool {
        let next_in_ring = if self.in_ring > 0 { Some(self.next_filled()) } else { None };
        let next_far = self.far.peek().map(|entry| entry.at_us >> WIDTH_BITS);
        let Some(next) = [next_in_ring, next_far].into_iter().flatten().min() else { return false };
        self.cursor = next;
        let at = place(next);
        if self.filled[at / 64] >> (at % 64) & 1 == 1 {
            let events = std::mem::take(&mut self.buckets[at]);
            self.filled[at / 64] &= !(1 << (at % 64));
            self.in_ring -= events.len();
            let emptied = std::mem::replace(&mut self.current, events);
            if self.spare.len() < SPARE_MAX && emptied.capacity() > 0 {
                self.spare.push(emptied);
            }
        }
        // What the ring reaches now comes out of the heap.
        while let Some(entry) = self.far.peek() {
            let bucket = entry.at_us >> WIDTH_BITS;
            if bucket >= self.cursor + BUCKETS as u64 {
                break;
            }
            let Some(entry) = self.far.pop() else { break };
            if bucket <= self.cursor { self.current.push(entry) } else { self.put_in_ring(bucket, entry) }
        }
        // The order is turned round: the first of all is the greatest, and stands last.
        self.current.sort_unstable();
        true
    }

    /// The first bucket after the cursor that holds something; there is one.
    fn next_filled(&self) -> u64 {
        let start = place(self.cursor + 1);
        let words = self.filled.len();
        for step in 0..=words {
            let word = (start / 64 + step) % words;
            let mut bits = self.filled[word];
            if step == 0 {
                bits &= u64::MAX << (start % 64);
            } else if step == words {
                bits &= (1 << (start % 64)) - 1;
            }
            if bits != 0 {
                let at = word * 64 + bits.trailing_zeros() as usize;
                let ahead = (at + BUCKETS - start) % BUCKETS;
                return self.cursor + 1 + ahead as u64;
            }
        }
        unreachable!("the ring holds something")
    }
}

impl<E: std::fmt::Debug> Queue<E> for Ring<E> {
    fn put(&mut self, at_us: u64, event: E) {
        self.put += 1;
        let entry = Entry { at_us, put: self.put, event };
        let bucket = self.bucket(at_us);
        if bucket == self.cursor {
            let after = self.current.partition_point(|other| *other < entry);
            self.current.insert(after, entry);
        } else if bucket < self.cursor + BUCKETS as u64 {
            self.put_in_ring(bucket, entry);
        } else {
            self.far.push(entry);
        }
    }

    fn pop(&mut self) -> Option<(u64, E)> {
        while self.current.is_empty() {
            if !self.advance() {
                return None;
            }
        }
        self.current.pop().map(|entry| (entry.at_us, entry.event))
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.current.len() + self.in_ring + self.far.len()
    }
}
