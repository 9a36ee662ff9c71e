//! Events on their way to the program, and the memory that unanswered ones hold.
//!
//! Owns [`Outbox`] and [`Held`]. Main invariant: a program that is slow, or stuck, can neither stall the mesh
//! nor let peers fill the memory: what would exceed a bound is turned away, but who joined and who left is
//! never lost, only coalesced.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lunar_common::ids::PeerKey;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::event::MeshEvent;

/// Bytes of requests and gossip that may wait for the program's answer at once.
pub(super) const UNANSWERED_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The way to the program.
#[derive(Debug)]
pub(super) struct Outbox {
    events: mpsc::Sender<MeshEvent>,
    /// Joined and Left that found no room, at most one of each for every connected machine.
    backlog: VecDeque<MeshEvent>,
    unanswered_bytes: Arc<AtomicUsize>,
}

/// A share of the memory for what waits to be answered; given back when dropped.
#[derive(Debug)]
pub(super) struct Held {
    bytes: usize,
    total: Arc<AtomicUsize>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Outbox {
    pub(super) fn new(events: mpsc::Sender<MeshEvent>) -> Self {
        Self { events, backlog: VecDeque::new(), unanswered_bytes: Arc::default() }
    }

    /// Room for a message of this size until it is answered; `None` if too much waits already.
    pub(super) fn hold(&self, bytes: usize) -> Option<Held> {
        let total = &self.unanswered_bytes;
        // Only the mesh's task adds, so nothing can slip in between the two calls.
        if total.load(Ordering::Relaxed) + bytes > UNANSWERED_BYTES_MAX {
            return None;
        }
        total.fetch_add(bytes, Ordering::Relaxed);
        Some(Held { bytes, total: Arc::clone(total) })
    }

    /// Hands an event over, or back if there is no room.
    pub(super) fn offer(&mut self, event: MeshEvent) -> Result<(), Box<MeshEvent>> {
        if !self.backlog.is_empty() {
            return Err(Box::new(event));
        }
        self.events.try_send(event).map_err(|error| match error {
            TrySendError::Full(event) | TrySendError::Closed(event) => Box::new(event),
        })
    }

    /// Hands over that somebody came.
    pub(super) fn joined(&mut self, event: MeshEvent) {
        if let Err(event) = self.offer(event)
            && !self.events.is_closed()
        {
            self.backlog.push_back(*event);
        }
    }

    /// Hands over that somebody went. Nobody needs to hear of one who came and went unheard.
    pub(super) fn left(&mut self, peer: PeerKey) {
        let unheard = self.backlog.iter().rposition(|event| match event {
            MeshEvent::Joined { enrolment, .. } => enrolment.key == peer,
            MeshEvent::Left { .. } | MeshEvent::Gossip { .. } | MeshEvent::Request { .. } => false,
        });
        match unheard {
            Some(place) => {
                self.backlog.remove(place);
            }
            None => self.joined(MeshEvent::Left { peer }),
        }
    }

    /// Whether something waits for room.
    pub(super) fn is_waiting(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Waits for room and hands over the oldest that waits.
    pub(super) async fn flush_one(&mut self) {
        match self.events.reserve().await {
            Ok(permit) => {
                if let Some(event) = self.backlog.pop_front() {
                    permit.send(event);
                }
            }
            // The program no longer listens.
            Err(_) => self.backlog.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(number: u8) -> MeshEvent {
        MeshEvent::Left { peer: PeerKey([number; 32]) }
    }

    #[tokio::test]
    async fn what_finds_no_room_waits_in_order_and_the_rest_is_turned_away() {
        let (sender, mut receiver) = mpsc::channel(1);
        let mut outbox = Outbox::new(sender);
        outbox.joined(left(1));
        outbox.joined(left(2));
        assert!(outbox.is_waiting());
        assert!(outbox.offer(left(9)).is_err());
        assert!(matches!(receiver.recv().await, Some(MeshEvent::Left { peer }) if peer.0[0] == 1));
        outbox.flush_one().await;
        assert!(matches!(receiver.recv().await, Some(MeshEvent::Left { peer }) if peer.0[0] == 2));
        assert!(!outbox.is_waiting());
        assert!(outbox.offer(left(9)).is_ok());
    }

    #[test]
    fn memory_is_lent_up_to_the_bound_and_given_back() {
        let outbox = Outbox::new(mpsc::channel(1).0);
        let held = outbox.hold(UNANSWERED_BYTES_MAX - 1).unwrap();
        assert!(outbox.hold(2).is_none());
        drop(held);
        assert!(outbox.hold(UNANSWERED_BYTES_MAX).is_some());
    }
}
