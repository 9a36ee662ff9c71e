//! A server's disk as its releases see it.
//!
//! Owns [`Disk`]: which releases lie there, whole or not, where the link points and what the service runs. Main
//! invariant: what is here survives every crash; the service alone is as volatile as the machine.

use std::collections::BTreeMap;

use lunar_agent_core::applier::effect::Step;
use lunar_agent_core::applier::input::{Found, Link};
use lunar_common::ids::ArtifactId;

use crate::documents::{NEW, OLD, release_name};

/// A disk.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    /// Releases, and whether each is whole.
    pub(crate) releases: BTreeMap<ArtifactId, bool>,
    /// Where the link points.
    pub(crate) link: Option<ArtifactId>,
    /// What the service was last started with.
    pub(crate) service: Option<ArtifactId>,
    /// Whether the new release was verified since it was written last.
    pub(crate) verified: bool,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self { releases: BTreeMap::from([(OLD, true)]), link: Some(OLD), service: Some(OLD), verified: false }
    }

    /// What the applier finds when it looks.
    pub(crate) fn found(&self) -> Found {
        // A look sees names: whether a release is whole, only the verifying step finds out.
        let releases = self.releases.keys().map(|id| (release_name(), *id)).collect();
        let link = self.link.map(|id| match self.releases.contains_key(&id) {
            true => Link::Release(id),
            false => Link::Strange(format!("a link to {id:.16}, which is not there")),
        });
        Found { links: link.into_iter().map(|link| (release_name(), link)).collect(), releases }
    }

    /// A step begins: what is there while it runs, and if it is cut off.
    pub(crate) fn begin(&mut self, step: &Step) {
        if let Step::Stage(bundle) = step {
            self.releases.entry(bundle.id).or_insert(false);
            self.verified = false;
        }
    }

    /// A step ends, or came to its end unnoticed before a crash. Why it failed, if it did.
    pub(crate) fn end(&mut self, step: &Step) -> Option<String> {
        match step {
            Step::Prune { keep, .. } => {
                // Nothing is spared here that the machine does not name: its own list must be right.
                self.releases.retain(|id, whole| *whole && keep.contains(id));
                None
            }
            Step::Stage(bundle) => {
                self.releases.insert(bundle.id, true);
                None
            }
            Step::Verify(bundle) => {
                let whole = self.releases.get(&bundle.id) == Some(&true);
                self.verified |= whole;
                (!whole).then(|| format!("{:.16} is not whole", bundle.id))
            }
            Step::Switch { to, .. } => {
                self.link = *to;
                None
            }
            Step::Restart { installed, .. } => {
                self.service = if *installed { self.link } else { None };
                None
            }
        }
    }

    /// The mistake that a mutant makes: what was staged is not whole.
    pub(crate) fn spoil(&mut self, step: &Step) {
        if let Step::Stage(bundle) = step {
            self.releases.insert(bundle.id, false);
        }
    }

    /// A bit of a release turns.
    pub(crate) fn spoil_release(&mut self, id: ArtifactId) {
        self.verified = false;
        self.releases.insert(id, false);
    }

    /// The power came back: the service starts with what the link says.
    pub(crate) fn boot(&mut self) {
        self.service = self.link;
    }

    /// Whether exactly one whole version would start now.
    pub(crate) fn is_whole(&self) -> bool {
        self.link.is_some_and(|id| [OLD, NEW].contains(&id) && self.releases.get(&id) == Some(&true))
    }
}
