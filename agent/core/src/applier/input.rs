//! All that the applier can suffer.
//!
//! Owns [`Input`]. Main invariant: nothing else reaches the machine; a step's end repeats the id of its run,
//! so that the end of a run that is no longer wanted is recognised. Refuses nothing by itself.

use std::collections::{BTreeMap, BTreeSet};

use lunar_common::ids::{ArtifactId, ArtifactName};

use super::protocol::Request;
use crate::input::CallId;

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The network half asks for something. Answered by [`super::effect::Effect::Reply`], once.
    Asked {
        /// Whom to answer.
        call: CallId,
        /// What it asks.
        request: Request,
        /// What lies on the disk just now.
        found: Found,
    },
    /// A step that was run is over.
    StepEnded {
        /// Which run.
        run: RunId,
        /// Why it failed, if it did, in words for people.
        failure: Option<String>,
    },
}

/// Names one run of one step; its end repeats it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u64);

/// What is installed and what lies ready, by a look at the disk. Names only: bytes are checked by the steps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// What stands where a release's link belongs.
    pub links: BTreeMap<ArtifactName, Link>,
    /// The releases that were unpacked to their end and are still there.
    pub releases: BTreeSet<(ArtifactName, ArtifactId)>,
}

/// What stands where a release's link belongs. Absent from [`Found::links`]: nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// A link to a release that is there.
    Release(ArtifactId),
    /// Something that the applier did not put there, or a link to nothing.
    Strange(String),
}

impl Found {
    /// What runs under this name.
    ///
    /// # Errors
    /// What stands there instead, for people.
    pub fn running(&self, name: &ArtifactName) -> Result<Option<ArtifactId>, String> {
        match self.links.get(name) {
            None => Ok(None),
            Some(Link::Release(id)) => Ok(Some(*id)),
            Some(Link::Strange(what)) => Err(what.clone()),
        }
    }
}
