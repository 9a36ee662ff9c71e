//! Who takes a slot, counted in every scope at once.
//!
//! Owns [`Occupancies`]. Main invariant: a server is in each of its scopes once or not at all, for one reason,
//! whatever the number of reasons; the counters are kept by difference and never recounted on the way.

use std::collections::{BTreeMap, BTreeSet};

use lunar_common::ids::ServerId;
use lunar_common::lease::{Holder, LimitScope, Occupancy};

/// The servers that take slots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Occupancies {
    servers: BTreeMap<ServerId, Taken>,
    scopes: BTreeMap<LimitScope, BTreeSet<ServerId>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Taken {
    why: Occupancy,
    scopes: Vec<LimitScope>,
}

impl Occupancies {
    /// Says whether a server takes a slot, and where. Returns the scopes in which it took one and no longer does.
    pub(crate) fn set(
        &mut self,
        server: &ServerId,
        why: Option<Occupancy>,
        scopes: impl Iterator<Item = LimitScope>,
    ) -> Vec<LimitScope> {
        let Some(why) = why else {
            let Some(before) = self.servers.remove(server) else { return Vec::new() };
            self.leave(server, &before.scopes);
            return before.scopes;
        };
        let taken = Taken { why, scopes: scopes.collect() };
        match self.servers.get_mut(server) {
            Some(before) if before.scopes == taken.scopes => {
                before.why = why;
                Vec::new()
            }
            Some(_) | None => {
                let before = self.servers.remove(server).map(|before| before.scopes).unwrap_or_default();
                self.leave(server, &before);
                for scope in &taken.scopes {
                    self.scopes.entry(scope.clone()).or_default().insert(server.clone());
                }
                let left = before.into_iter().filter(|scope| !taken.scopes.contains(scope)).collect();
                self.servers.insert(server.clone(), taken);
                left
            }
        }
    }

    fn leave(&mut self, server: &ServerId, scopes: &[LimitScope]) {
        for scope in scopes {
            if let Some(servers) = self.scopes.get_mut(scope) {
                servers.remove(server);
                if servers.is_empty() {
                    self.scopes.remove(scope);
                }
            }
        }
    }

    /// Slots taken in a scope.
    pub(crate) fn taken(&self, scope: &LimitScope) -> u32 {
        self.scopes.get(scope).map_or(0, |servers| u32::try_from(servers.len()).unwrap_or(u32::MAX))
    }

    /// Why a server takes a slot.
    pub(crate) fn why(&self, server: &ServerId) -> Option<Occupancy> {
        self.servers.get(server).map(|taken| taken.why)
    }

    /// The first `count` servers that take a slot in a scope.
    pub(crate) fn holders(&self, scope: &LimitScope, count: usize) -> Vec<Holder> {
        self.in_scope(scope).take(count).map(|(server, why)| Holder { server: server.clone(), why }).collect()
    }

    /// Every server that takes a slot in a scope.
    pub(crate) fn in_scope(&self, scope: &LimitScope) -> impl Iterator<Item = (&ServerId, Occupancy)> {
        self.scopes
            .get(scope)
            .into_iter()
            .flatten()
            .filter_map(|server| self.servers.get(server).map(|taken| (server, taken.why)))
    }

    /// Every scope in which a slot is taken.
    pub(crate) fn scopes(&self) -> impl Iterator<Item = &LimitScope> {
        self.scopes.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lunar_common::ids::SiteId;
    use lunar_common::limits::Tier;

    fn server(name: &str) -> ServerId {
        ServerId::new(name).unwrap()
    }

    fn site(name: &str) -> LimitScope {
        LimitScope::Site(SiteId::new(name).unwrap())
    }

    #[test]
    fn a_server_counts_once_however_many_reasons_it_has() {
        let mut taken = Occupancies::default();
        let scopes = || [LimitScope::Fleet, LimitScope::Tier(Tier::One)].into_iter();
        assert!(taken.set(&server("a"), Some(Occupancy::Unreachable), scopes()).is_empty());
        assert!(taken.set(&server("a"), Some(Occupancy::Lost), scopes()).is_empty());
        assert_eq!(taken.taken(&LimitScope::Fleet), 1);
        assert_eq!(taken.why(&server("a")), Some(Occupancy::Lost));
        assert_eq!(taken.set(&server("a"), None, scopes()).len(), 2);
        assert_eq!(taken, Occupancies::default());
    }

    #[test]
    fn a_server_that_moves_frees_only_the_scopes_it_left() {
        let mut taken = Occupancies::default();
        taken.set(&server("a"), Some(Occupancy::Active), [LimitScope::Fleet, site("x")].into_iter());
        let left =
            taken.set(&server("a"), Some(Occupancy::Active), [LimitScope::Fleet, site("y")].into_iter());
        assert_eq!(left, [site("x")]);
        assert_eq!((taken.taken(&site("x")), taken.taken(&site("y"))), (0, 1));
        assert_eq!(taken.taken(&LimitScope::Fleet), 1);
    }
}
