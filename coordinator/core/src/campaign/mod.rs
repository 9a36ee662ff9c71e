//! The order of a campaign: who goes first, and what must be shown before the others follow.
//!
//! Owns stages, their gates and their waves, who waits for whom, maintenance windows, batches that people approve, and what
//! pauses all of it. Main invariant: who belongs where, and what was shown, follows from the log alone; a gate's opening is in the log with the
//! evidence for it, before anyone starts behind it. Refuses to decide who starts: the ledger does, and asks here what
//! stands in the way.

pub(crate) mod anomaly;
pub mod approval;
pub mod curb;
pub(crate) mod gate;
pub(crate) mod order;
pub mod rules;
pub(crate) mod stage;
pub mod window;

#[cfg(test)]
mod approval_property;
#[cfg(test)]
mod approval_tests;
#[cfg(test)]
pub(crate) mod crew;
#[cfg(test)]
mod curb_property;
#[cfg(test)]
mod curb_tests;
#[cfg(test)]
mod order_tests;
#[cfg(test)]
mod property;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod window_tests;
