//! The one queue of what happens next.
//!
//! Owns [`Queue`]. Main invariant: events come out by time, and those of one time in the order they were put in.

use std::collections::BTreeMap;

/// Events by time.
#[derive(Debug)]
pub(crate) struct Queue<E> {
    events: BTreeMap<(u64, u64), E>,
    put: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { events: BTreeMap::new(), put: 0 }
    }
}

impl<E> Queue<E> {
    pub(crate) fn put(&mut self, at_ms: u64, event: E) {
        self.put += 1;
        self.events.insert((at_ms, self.put), event);
    }

    pub(crate) fn pop(&mut self) -> Option<(u64, E)> {
        let ((at_ms, _), event) = self.events.pop_first()?;
        Some((at_ms, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_one_time_come_out_as_they_were_put_in() {
        let mut queue = Queue::default();
        for (at, event) in [(5, 'c'), (3, 'a'), (5, 'd'), (3, 'b')] {
            queue.put(at, event);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, [(3, 'a'), (3, 'b'), (5, 'c'), (5, 'd')]);
    }
}
