//! Whether people have approved a batch.
//!
//! Owns the check of an [`Approval`], and who may sign one. Main invariant: the plan's author never counts, under
//! whatever name that key has; an approval is of the plan in force, by its hash, and of one of its stages. Refuses to
//! keep any: which approval counts, in which order they came and whether one was used is the business of the log of
//! those who grant leases.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::accept::{Reach, bounded, describe_unsigned, signed_by};
use super::refusal::Refusal;
use super::root::TrustRole;
use super::signature::Signatures;
use super::state::TrustState;
use crate::document::{Approval, Document, Kind, SignedDocument, Verified};
use crate::ids::KeyName;
use crate::plan::{Plan, Select, Stage};
use crate::time::WallTime;

/// Who may approve, and how many of them must.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Approvers {
    /// Names of the keys that hold the role.
    pub names: BTreeSet<KeyName>,
    /// Distinct keys needed: the least of the role's entries.
    pub need: u32,
    /// The version of the trust root that says so: an approval counts as long as this one is in force.
    pub root: u64,
}

impl TrustState {
    /// Checks an approval, or the withdrawal of one. Nothing is kept, so the same one is good again and again.
    ///
    /// # Errors
    /// [`Refusal`] names the reason.
    pub fn approval(
        &self,
        document: &SignedDocument,
        wall: WallTime,
    ) -> Result<Arc<Verified<Approval>>, Refusal> {
        bounded(document)?;
        let mut found = self.ring.check(Kind::Approval, &document.body, &document.signatures);
        // Before it is parsed: whoever made it must have convinced one of those who may.
        if !self.signing_requirements(Kind::Approval).any(|role| found.counts(role)) {
            return Err(self.not_approved(&found, None));
        }
        let approval = Approval::parse(&document.body)?;
        self.check_fleet(&approval)?;
        let plan = self.plan(&approval.campaign).filter(|plan| plan.hash() == approval.plan);
        let Some(plan) = plan else {
            return Err(Refusal::OtherPlan { campaign: approval.campaign, found: approval.plan });
        };
        let Some(stage) = plan.stages.iter().find(|stage| stage.name == approval.stage) else {
            return Err(Refusal::UnknownStage { campaign: approval.campaign, stage: approval.stage });
        };
        if !approval.withdraw {
            found.leave_out(&plan.author);
        }
        let enough = |role: &TrustRole| {
            if approval.withdraw { found.counts(role) } else { found.meet(role).is_some() }
        };
        let met: Vec<&TrustRole> =
            self.signing_requirements(Kind::Approval).filter(|role| enough(role)).collect();
        if met.is_empty() {
            return Err(self.not_approved(&found, Some(&plan.author)));
        }
        let select = reach(plan, stage);
        let met = self.still(met, &approval, Reach::Selected(&select), wall)?;
        let now = self.trusted_time(wall);
        if now > approval.expires {
            return Err(Refusal::Expired { kind: Kind::Approval, expired: approval.expires, now });
        }
        let signers = met.iter().flat_map(|role| found.names_of(role)).collect();
        Ok(Arc::new(signed_by(approval, document, &found, signers)))
    }

    /// Who may approve by the trust root in force.
    #[must_use]
    pub fn approvers(&self) -> Approvers {
        let roles = || self.signing_requirements(Kind::Approval);
        Approvers {
            names: roles().flat_map(|role| role.keys.iter().cloned()).collect(),
            need: roles().map(|role| role.threshold).min().unwrap_or(1),
            root: self.root().version,
        }
    }

    fn not_approved(&self, found: &Signatures, author: Option<&KeyName>) -> Refusal {
        let mut unsigned = describe_unsigned(self.root(), Kind::Approval, found);
        unsigned.could.retain(|name| Some(name) != author);
        Refusal::Unsigned(Box::new(unsigned))
    }
}

/// The tiers and sites that an approval of a stage reaches, as far as the plan names them.
fn reach(plan: &Plan, stage: &Stage) -> Select {
    let tiers = if stage.select.tiers.is_empty() { &plan.select.tiers } else { &stage.select.tiers };
    let sites = if stage.select.sites.is_empty() { &plan.select.sites } else { &stage.select.sites };
    Select { tiers: tiers.clone(), sites: sites.clone(), ..Select::default() }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{HOUR, NOW, at, plan_text, root_text, signed, state_with};
    use super::super::refusal::Unsigned;
    use super::*;

    /// Two of ann, bob, dia and hal approve; `ann` wrote the plan.
    fn state() -> TrustState {
        let role =
            "\n[[role]]\nname = \"approve\"\nkeys = [\"ann\", \"bob\", \"dia\", \"hal\"]\nthreshold = 2\n";
        let mut state = state_with(|text| format!("{text}{role}"));
        state.accept(&plan(1), NOW).unwrap();
        state
    }

    fn plan(generation: u64) -> SignedDocument {
        let text = format!("{}\n[[stages]]\nname = \"all\"\napproval_batch = 5\n", plan_text(generation));
        signed(Kind::Plan, &text, &[1, 2])
    }

    fn text(more: &str) -> String {
        format!(
            "format = 1\nfleet = \"moon\"\ncampaign = \"web-2\"\nplan = \"{}\"\nstage = \"all\"\nbatch = 1\n\
             sequence = 1\nissued = \"{}\"\nexpires = \"{}\"\nreason = \"looked at\"\n{more}",
            plan(1).hash(),
            at(0),
            at(HOUR)
        )
    }

    fn check(text: &str, keys: &[u8]) -> Result<Arc<Verified<Approval>>, Refusal> {
        state().approval(&signed(Kind::Approval, text, keys), NOW)
    }

    fn unsigned(refusal: Refusal) -> Unsigned {
        match refusal {
            Refusal::Unsigned(unsigned) => *unsigned,
            other => panic!("expected too few signatures, found {other}"),
        }
    }

    #[test]
    fn two_others_than_the_author_approve_a_batch() {
        let approval = check(&text(""), &[2, 4]).unwrap();
        let names: Vec<&str> = approval.signers().iter().map(KeyName::as_str).collect();
        assert_eq!((names, approval.batch, approval.withdraw), (vec!["bob", "dia"], 1, false));
    }

    #[test]
    fn the_author_does_not_count_and_is_told_so() {
        let said = unsigned(check(&text(""), &[1, 2]).unwrap_err());
        assert_eq!((said.have.len(), said.need), (1, 2));
        assert!(said.to_string().contains("ann wrote the plan, and may not approve it too"), "{said}");
        assert!(check(&text(""), &[1, 2, 4]).is_ok(), "beside two others, it does no harm");
    }

    #[test]
    fn the_author_does_not_count_under_another_name_either() {
        let role = "\n[[role]]\nname = \"approve\"\nkeys = [\"zoe\", \"bob\"]\nthreshold = 2\n";
        let ann = root_text(1).lines().find(|line| line.starts_with("ann = ")).unwrap().to_owned();
        let twin = ann.replacen("ann", "zoe", 1);
        let mut state = state_with(|text| text.replacen(&ann, &format!("{ann}\n{twin}"), 1) + role);
        state.accept(&plan(1), NOW).unwrap();
        let said = unsigned(state.approval(&signed(Kind::Approval, &text(""), &[1, 2]), NOW).unwrap_err());
        assert_eq!(said.have.len(), 1, "{said}");
    }

    #[test]
    fn one_is_not_enough_and_one_withdraws() {
        let said = unsigned(check(&text(""), &[2]).unwrap_err());
        assert_eq!(said.need, 2);
        assert!(check(&text("withdraw = true\n"), &[2]).unwrap().withdraw);
        assert!(check(&text("withdraw = true\n"), &[5]).is_err(), "eve enrols, and withdraws nothing");
    }

    /// Every set of signers under every threshold. The author holds the role too, and must make no difference.
    #[test]
    fn an_approval_counts_if_and_only_if_enough_of_those_who_may_sign_it_have_signed() {
        let (signers, others) = ([1u8, 2, 3, 4, 8], [2, 4, 8]);
        let text = text("");
        for threshold in 1..=4 {
            let role = format!(
                "\n[[role]]\nname = \"approve\"\nkeys = [\"ann\", \"bob\", \"dia\", \"hal\"]\nthreshold = {threshold}\n"
            );
            let mut state = state_with(|text| format!("{text}{role}"));
            state.accept(&plan(1), NOW).unwrap();
            for set in 0..1u32 << signers.len() {
                let signed_by: Vec<u8> =
                    (0..).zip(signers).filter(|(at, _)| set >> at & 1 == 1).map(|(_, key)| key).collect();
                let counted = signed_by.iter().filter(|key| others.contains(key)).count();
                let found = state.approval(&signed(Kind::Approval, &text, &signed_by), NOW);
                assert_eq!(found.is_ok(), counted >= threshold, "{signed_by:?} of {threshold}: {found:?}");
            }
        }
    }

    #[test]
    fn an_approval_of_another_plan_or_stage_is_refused() {
        let other = text("").replace(&plan(1).hash().to_string(), &"ab".repeat(32));
        assert!(matches!(check(&other, &[2, 4]).unwrap_err(), Refusal::OtherPlan { .. }));
        let mut state = state();
        state.accept(&plan(2), NOW).unwrap();
        let old = state.approval(&signed(Kind::Approval, &text(""), &[2, 4]), NOW).unwrap_err();
        assert!(matches!(old, Refusal::OtherPlan { .. }), "a newer generation was not looked at: {old}");
        let stage = text("").replace("\"all\"", "\"some\"");
        assert!(matches!(check(&stage, &[2, 4]).unwrap_err(), Refusal::UnknownStage { .. }));
    }

    #[test]
    fn an_approval_that_is_late_or_made_for_something_else_is_refused() {
        let late = state().approval(&signed(Kind::Approval, &text(""), &[2, 4]), at(HOUR + 1)).unwrap_err();
        assert!(matches!(late, Refusal::Expired { .. }), "{late}");
        let mut other = signed(Kind::Resume, &text(""), &[2, 4]);
        other.kind = Kind::Approval;
        let said = unsigned(state().approval(&other, NOW).unwrap_err()).to_string();
        assert!(said.contains("sign with `-n approve@lunar-upgrade`"), "{said}");
        let zero = check(&text("").replace("batch = 1", "batch = 0"), &[2, 4]).unwrap_err().to_string();
        assert!(zero.contains("batch: counts from 1"), "{zero}");
        let mars = check(&text("").replace("moon", "mars"), &[2, 4]).unwrap_err();
        assert!(matches!(mars, Refusal::OtherFleet { .. }), "{mars}");
    }

    #[test]
    fn approvers_of_some_tiers_do_not_approve_for_others() {
        let role = |tiers: &str| {
            format!("\n[[role]]\nname = \"approve\"\nkeys = [\"bob\"]\nthreshold = 1\ntiers = [{tiers}]\n")
        };
        for (tiers, fits) in [("1", false), ("2", false), ("2, 3", true)] {
            let mut state = state_with(|text| format!("{text}{}", role(tiers)));
            state.accept(&plan(1), NOW).unwrap();
            let found = state.approval(&signed(Kind::Approval, &text(""), &[2]), NOW);
            assert_eq!(found.is_ok(), fits, "{tiers}: {found:?}");
        }
    }

    #[test]
    fn an_approval_is_never_kept_with_what_everyone_holds() {
        let document = signed(Kind::Approval, &text(""), &[2, 4]);
        assert_eq!(state().accept(&document, NOW).unwrap_err(), Refusal::NotForUs);
    }
}
