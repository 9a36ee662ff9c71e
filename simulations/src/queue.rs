//! The one queue of what happens next, in two forms that are exchangeable.
//!
//! Owns [`Queue`], a binary heap and a ring of near times over a heap of far ones. Main invariant: events come
//! out by time, and those of one time in the order they were put in, whichever form is used: a run on one equals
//! the run on the other, and that is tested. Refuses events of the past.

mod heap;
mod ring;

use serde::{Deserialize, Serialize};

/// Which form a run uses. Nothing but speed follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QueueKind {
    /// A binary heap: smallest while few events wait.
    Heap,
    /// A ring of buckets for the near future over a heap for the far: as fast with a million events as with ten.
    #[default]
    Ring,
}

/// Events by time, in microseconds.
pub(crate) trait Queue<E>: std::fmt::Debug {
    /// Puts an event in.
    fn put(&mut self, at_us: u64, event: E);

    /// Takes the next one out.
    fn pop(&mut self) -> Option<(u64, E)>;

    /// How many wait.
    #[cfg(test)]
    fn len(&self) -> usize;
}

impl QueueKind {
    pub(crate) fn make<E: std::fmt::Debug + 'static>(self) -> Box<dyn Queue<E>> {
        match self {
            Self::Heap => Box::new(heap::Heap::default()),
            Self::Ring => Box::new(ring::Ring::default()),
        }
    }
}

/// An event that waits. The order is that of time, then of being put in, and turned round: heaps give the greatest.
#[derive(Debug)]
struct Entry<E> {
    at_us: u64,
    put: u64,
    event: E,
}

impl<E> Entry<E> {
    fn key(&self) -> (u64, u64) {
        (self.at_us, self.put)
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.key().cmp(&self.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lunar_common::order::draw_below;

    const KINDS: [QueueKind; 2] = [QueueKind::Heap, QueueKind::Ring];

    #[test]
    fn events_of_one_time_come_out_as_they_were_put_in() {
        for kind in KINDS {
            let mut queue = kind.make();
            for (at, event) in [(5, 'c'), (3, 'a'), (5, 'd'), (3, 'b')] {
                queue.put(at, event);
            }
            let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
            assert_eq!(order, [(3, 'a'), (3, 'b'), (5, 'c'), (5, 'd')]);
        }
    }

    /// Times of every distance: at once, within the same bucket, within the ring, far beyond it.
    fn distance(number: u64) -> u64 {
        let most = [1, 2_000, 1_000_000, 40_000_000, 100_000_000_000][usize::try_from(number % 5).unwrap()];
        draw_below(most, "distance", &[&number.to_le_bytes()])
    }

    #[test]
    fn both_forms_give_the_same_order_while_events_come_and_go() {
        let orders = KINDS.map(|kind| {
            let mut queue = kind.make();
            let mut order = Vec::new();
            (0..200).for_each(|number| queue.put(distance(number), number));
            for number in 200..30_000 {
                let (at, event) = queue.pop().unwrap();
                order.push((at, event));
                queue.put(at + distance(number), number);
                // Waves, so that the ring runs empty now and then and jumps.
                if number % 700 == 0 {
                    order.extend((0..150).filter_map(|_| queue.pop()));
                }
                while queue.len() < 50 {
                    queue.put(order.last().unwrap().0 + distance(number), number);
                }
            }
            order.extend(std::iter::from_fn(|| queue.pop()));
            assert_eq!(queue.len(), 0);
            order
        });
        assert!(orders[0].is_sorted_by_key(|(at, _)| *at));
        assert_eq!(orders[0], orders[1]);
    }
}
