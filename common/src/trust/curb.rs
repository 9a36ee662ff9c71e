//! Whether people have restrained a campaign or a server, or let the server go again.
//!
//! Owns the check of a [`Curb`]. Main invariant: what only stops takes one key that may halt; what lets go takes the
//! threshold of those who may resume. Refuses to keep any: in which order they came, and what holds now, is the business
//! of the log of those who grant leases.

use std::sync::Arc;

use super::accept::{Reach, bounded, describe_unsigned_as, signed_by};
use super::refusal::Refusal;
use super::root::{RoleName, TrustRole};
use super::signature::Signatures;
use super::state::TrustState;
use crate::curb::Curb;
use crate::document::{Document, Kind, SignedDocument, Verified};
use crate::time::WallTime;

impl TrustState {
    /// Checks a curb. Nothing is kept, so the same one is good again and again.
    ///
    /// # Errors
    /// [`Refusal`] names the reason.
    pub fn curb(&self, document: &SignedDocument, wall: WallTime) -> Result<Arc<Verified<Curb>>, Refusal> {
        bounded(document)?;
        let found = self.ring.check(Kind::Curb, &document.body, &document.signatures);
        // Before it is parsed: whoever made it must have convinced one of those who may.
        let may_be = |role: &TrustRole| matches!(role.name, RoleName::Halt | RoleName::Resume);
        if !self.root().roles.iter().any(|role| may_be(role) && found.counts(role)) {
            return Err(self.not_curbed(&found, Kind::Curb.role()));
        }
        let curb = Curb::parse(&document.body)?;
        self.check_fleet(&curb)?;
        let name = curb.what.role();
        let is_met = |role: &&TrustRole| role.name == name && found.meet(role).is_some();
        let met: Vec<&TrustRole> = self.root().roles.iter().filter(is_met).collect();
        if met.is_empty() {
            return Err(self.not_curbed(&found, name));
        }
        let met = self.still(met, &curb, Reach::Fleet, wall)?;
        let now = self.trusted_time(wall);
        if now > curb.expires {
            return Err(Refusal::Expired { kind: Kind::Curb, expired: curb.expires, now });
        }
        let signers = met.iter().flat_map(|role| found.names_of(role)).collect();
        Ok(Arc::new(signed_by(curb, document, &found, signers)))
    }

    fn not_curbed(&self, found: &Signatures, role: RoleName) -> Refusal {
        Refusal::Unsigned(Box::new(describe_unsigned_as(self.root(), Kind::Curb, role, found)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{HOUR, NOW, at, signed, state};
    use super::*;

    fn text(what: &str) -> String {
        let campaign = if what.contains("srv-7") { "" } else { "campaign = \"web-2\"\n" };
        format!(
            "format = 1\nfleet = \"moon\"\n{campaign}sequence = 1\nissued = \"{}\"\nexpires = \"{}\"\n\
             reason = \"odd noises\"\nwhat = {what}\n",
            at(0),
            at(HOUR)
        )
    }

    fn check(what: &str, keys: &[u8]) -> Result<Arc<Verified<Curb>>, Refusal> {
        state().curb(&signed(Kind::Curb, &text(what), keys), NOW)
    }

    const STOPS: [&str; 4] = [
        "{ pause = { tier = 1 } }",
        "{ quarantine = \"srv-7\" }",
        "{ lower = [{ scope = { tier = 1 }, to = 2 }] }",
        "\"cancel\"",
    ];

    /// Every set of signers: `ann` and `dia` may halt, `ann` and `bob` resume together, `eve` neither.
    #[test]
    fn one_who_may_halt_stops_and_only_all_who_may_resume_let_go() {
        let signers = [1u8, 2, 4, 5];
        for set in 0..1u32 << signers.len() {
            let by: Vec<u8> =
                (0..).zip(signers).filter(|(at, _)| set >> at & 1 == 1).map(|(_, key)| key).collect();
            let has = |key| by.contains(&key);
            for what in STOPS {
                let found = check(what, &by);
                assert_eq!(found.is_ok(), has(1) || has(4), "{what} by {by:?}: {found:?}");
            }
            let found = check("{ release = \"srv-7\" }", &by);
            assert_eq!(found.is_ok(), has(1) && has(2), "by {by:?}: {found:?}");
        }
    }

    #[test]
    fn a_release_that_is_half_signed_says_what_it_takes() {
        let said = check("{ release = \"srv-7\" }", &[1]).unwrap_err().to_string();
        assert!(said.contains("the curb has 1 of 2 signatures") && said.contains("resume role"), "{said}");
    }

    #[test]
    fn a_curb_that_is_late_of_another_fleet_or_made_for_something_else_is_refused() {
        let what = STOPS[0];
        let late = state().curb(&signed(Kind::Curb, &text(what), &[4]), at(HOUR + 1)).unwrap_err();
        assert!(matches!(late, Refusal::Expired { .. }), "{late}");
        let mut other = signed(Kind::Halt, &text(what), &[4]);
        other.kind = Kind::Curb;
        let said = state().curb(&other, NOW).unwrap_err().to_string();
        assert!(said.contains("sign with `-n curb@lunar-upgrade`"), "{said}");
        let mars = state().curb(&signed(Kind::Curb, &text(what).replace("moon", "mars"), &[4]), NOW);
        assert!(matches!(mars.unwrap_err(), Refusal::OtherFleet { .. }));
    }

    #[test]
    fn a_curb_is_never_kept_with_what_everyone_holds() {
        let document = signed(Kind::Curb, &text(STOPS[0]), &[4]);
        assert_eq!(state().accept(&document, NOW).unwrap_err(), Refusal::NotForUs);
    }
}
