//! Who may connect: what both planes see of a program's trust state.
//!
//! Owns [`TrustGate`]. Main invariant: it shows the trust state of the last durable record; the program's main
//! loop is the only one that changes it.

use std::sync::{Arc, Mutex, PoisonError};

use lunar_common::document::{SignedDocument, Verified};
use lunar_common::enrolment::Enrolment;
use lunar_common::trust::{Refusal, TrustState};

use crate::gate::{Gate, Hello, Life};

/// The trust state, shared with the planes.
pub struct TrustGate {
    shown: Mutex<Shown>,
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
        Self { shown: Mutex::new(Shown { trust: Arc::new(trust), hello }) }
    }

    /// Shows another state, and another enrolment of this machine.
    pub fn show(&self, trust: TrustState, enrolment: SignedDocument) {
        let mut shown = self.lock();
        shown.trust = Arc::new(trust);
        shown.hello.enrolment = enrolment;
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
}
