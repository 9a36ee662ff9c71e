//! Servers that went down by a lease and were not heard of again.
//!
//! Owns [`Silent`]. Main invariant: a server is in it from when its lease was lost and it had fallen silent until there is
//! news of it, or an operator's reap. No data is no success: such an attempt is inconclusive, and that pauses.

use std::collections::BTreeMap;

use lunar_common::ids::ServerId;
use lunar_common::limits::Tier;
use lunar_common::pause::Anomaly;

/// Who is silent, with its tier when it fell silent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Silent {
    servers: BTreeMap<ServerId, Tier>,
}

impl Silent {
    pub(super) fn take(&mut self, server: &ServerId, tier: Tier, stop_at: u32) -> Option<Anomaly> {
        self.servers.insert(server.clone(), tier);
        let silent = super::count(self.servers.values().filter(|of| **of == tier).count());
        (silent >= stop_at).then_some(Anomaly::Silent { silent, stop_at })
    }

    pub(super) fn has(&self, server: &ServerId) -> bool {
        self.servers.contains_key(server)
    }

    pub(super) fn heard(&mut self, server: &ServerId) {
        self.servers.remove(server);
    }
}
