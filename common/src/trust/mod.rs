//! Who may sign what, and the one gate through which every signed document passes.
//!
//! Owns [`TrustState`]: everything that a machine holds to be true because people signed it. Main invariant: a
//! [`Verified`](crate::document::Verified) value exists only if the threshold of its role signed its bytes, and no
//! number ever goes back. Refuses to read a clock: the wall's time is handed in, and never trusted backwards.

mod accept;
mod approval;
mod curb;
mod refusal;
mod root;
mod signature;
mod snapshot;
mod state;

pub use approval::Approvers;
pub use refusal::{Counted, Refusal, StartRefusal, Unsigned};
pub use root::{RoleName, TrustRole, TrustRoot};
pub use signature::{SignatureDefect, claimed_kind};
pub use snapshot::TrustSnapshot;
pub use state::{Accepted, SignatureStatus, TrustState};

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod rules;
