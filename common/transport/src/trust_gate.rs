//! Who may connect: what both planes see of a program's trust state.
//!
//! Owns [`TrustGate`]. Main invariant: it shows the trust state of the last durable record; the program's main
//! loop is the only one that changes it. Whoever is out by a new state is cut off by showing it: no program has to
//! think of that.

use std::sync::{Arc, Mutex, PoisonError};

use lunar_common::document::{SignedDocument, Verified};
use lunar_common::enrolment::Enrolment;
use lunar_common::trust::{Refusal, TrustState};
use tokio::sync::watch;

use crate::gate::{Gate, Hello, Life};

/// The trust state, shared with the planes.
pub struct TrustGate {
    shown: Mutex<Shown>,
    changes: watch::Sender<u64>,
}

struct Shown {
    trust: Arc<TrustState>,
    hello: Hello,
}

impl TrustGate {
    /// A gate that shows this state and says these first words. Made once in a program's life, which it begins.
    #[must_use]
    pub fn new(trust: TrustState, enrolment: SignedDocument, data_address: String) -> Self {
        let hello = Hello { enrolment, data_address, life: Life::begin() };
        Self { shown: Mutex::new(Shown { trust: Arc::new(trust), hello }), changes: watch::Sender::new(0) }
    }

    /// Shows another state, and another enrolment of this machine. Who is connected and out by it is cut off.
    pub fn show(&self, trust: TrustState, enrolment: SignedDocument) {
        let out = {
            let mut shown = self.lock();
            let out = may_put_out(&shown.trust, &trust);
            shown.trust = Arc::new(trust);
            shown.hello.enrolment = enrolment;
            out
        };
        if out {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// Says from now on where the data plane listens.
    pub fn set_data_address(&self, address: String) {
        self.lock().hello.data_address = address;
    }

    /// The state shown now.
    #[must_use]
    pub fn trust(&self) -> Arc<TrustState> {
        self.lock().trust.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shown> {
        // Nothing in here can panic half-way through a change.
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate for TrustGate {
    fn admit(&self, enrolment: &SignedDocument) -> Result<Arc<Verified<Enrolment>>, Refusal> {
        self.trust().verify_enrolment(enrolment)
    }

    fn hello(&self) -> Hello {
        self.lock().hello.clone()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// Whether a member by one state may be none by the next. Most changes are plans and newcomers, and judging all
/// who are connected costs a signature each.
fn may_put_out(before: &TrustState, after: &TrustState) -> bool {
    let revocation = |trust: &TrustState| trust.revocation().map(|list| list.hash());
    if before.root().hash() != after.root().hash() || revocation(before) != revocation(after) {
        return true;
    }
    // Both are in the order of names.
    let mut now = after.machines().peekable();
    before.machines().any(|machine| {
        while now.next_if(|other| other.server < machine.server).is_some() {}
        now.next_if(|other| other.server == machine.server).is_none_or(|other| other.hash() != machine.hash())
    })
}
