//! The requests that are under way.
//!
//! Owns [`InFlight`]. Main invariant: an item is requested at most twice at once (the second time only in the
//! end-game) and never twice over the Earth link; the counters always equal the table.

use std::collections::BTreeMap;

use lunar_common::ids::{ArtifactId, PeerKey};
use lunar_common::time::Moment;

use super::input::{Item, RequestId};
use super::peers::Class;

/// One request under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flight {
    pub(super) artifact: ArtifactId,
    pub(super) item: Item,
    pub(super) peer: PeerKey,
    pub(super) class: Class,
    pub(super) sent: Moment,
}

/// All requests under way.
#[derive(Debug, Clone, Default)]
pub(super) struct InFlight {
    next: u64,
    flights: BTreeMap<RequestId, Flight>,
    /// By the item first: few items of several artifacts are alike, and an artifact's id takes longer to compare.
    by_item: BTreeMap<(Item, ArtifactId), Vec<RequestId>>,
    of_class: [u32; 3],
}

impl InFlight {
    /// Enters a request.
    pub(super) fn add(&mut self, flight: Flight) -> RequestId {
        let request = RequestId(self.next);
        self.next += 1;
        let same = self.by_item.entry((flight.item, flight.artifact)).or_default();
        assert!(same.len() < 2, "an item is requested at most twice at once");
        same.push(request);
        self.of_class[flight.class as usize] += 1;
        self.flights.insert(request, flight);
        request
    }

    /// Takes a request out.
    pub(super) fn remove(&mut self, request: RequestId) -> Option<Flight> {
        let flight = self.flights.remove(&request)?;
        self.of_class[flight.class as usize] -= 1;
        let key = (flight.item, flight.artifact);
        if let Some(same) = self.by_item.get_mut(&key) {
            same.retain(|other| *other != request);
            if same.is_empty() {
                self.by_item.remove(&key);
            }
        }
        Some(flight)
    }

    /// The requests for an item.
    pub(super) fn of_item(&self, artifact: ArtifactId, item: Item) -> &[RequestId] {
        self.by_item.get(&(item, artifact)).map_or(&[], Vec::as_slice)
    }

    /// The requests of an artifact, oldest first.
    pub(super) fn of_artifact(&self, artifact: ArtifactId) -> Vec<RequestId> {
        let of_this = self.flights.iter().filter(|(_, flight)| flight.artifact == artifact);
        of_this.map(|(request, _)| *request).collect()
    }

    /// The requests to a peer, oldest first.
    pub(super) fn of_peer(&self, peer: &PeerKey) -> Vec<RequestId> {
        self.flights.iter().filter(|(_, flight)| flight.peer == *peer).map(|(request, _)| *request).collect()
    }

    /// One request.
    pub(super) fn get(&self, request: RequestId) -> Option<&Flight> {
        self.flights.get(&request)
    }

    /// How many are under way to peers, the origin not counted.
    pub(super) fn to_peers(&self) -> u32 {
        self.of_class(Class::Site) + self.of_class(Class::Sites)
    }

    /// How many are under way to sources of a class.
    pub(super) fn of_class(&self, class: Class) -> u32 {
        self.of_class[class as usize]
    }
}
