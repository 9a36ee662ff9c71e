//! S15: what comes a second time changes nothing durable.
//!
//! Reason: the network doubles messages and everyone sends again what was not answered. The cheap form: some
//! inputs are handed in twice in a row, and the second time nothing may be written.

use super::Violation;

pub(super) fn violation(changed: &str, what: &str) -> Violation {
    Violation::new("S15 duplicates", format!("{changed} was changed by the second {what}"))
}
