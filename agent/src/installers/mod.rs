//! Installers: one file a kind, and what they share.
//!
//! Owns [`Installer`], which runs one step. Main invariant: every step may be repeated after a crash at any
//! point inside it, and says it is done only when what it did survives a power cut. Refuses to decide which
//! step is next: the applier's machine does. There is one kind of installation so far, `release`; another one
//! is another file here and another arm in [`Installer::run`].

pub(crate) mod disk;
pub mod release;
mod restart;

use std::io;
use std::sync::Arc;

use lunar_agent_core::applier::effect::Step;
use lunar_agent_core::applier::input::Found;

pub use release::{ReleaseError, Releases};

use crate::hooks::Context;

/// Runs steps on this server.
#[derive(Debug, Clone)]
pub struct Installer {
    releases: Arc<Releases>,
}

impl Installer {
    /// An installer for the releases of one root directory.
    #[must_use]
    pub fn new(releases: Releases) -> Self {
        Self { releases: Arc::new(releases) }
    }

    /// What the links say now.
    #[must_use]
    pub fn found(&self) -> Found {
        self.releases.found()
    }

    /// Runs a step to its end.
    ///
    /// # Errors
    /// What failed and why, in words for people.
    pub async fn run(&self, step: Step, context: &Context) -> Result<(), String> {
        if let Step::Restart { restart, installed } = &step {
            return restart::restart(restart, *installed, context).await.map_err(|error| chain(&error));
        }
        let releases = Arc::clone(&self.releases);
        let done = tokio::task::spawn_blocking(move || match &step {
            Step::Prune { name, keep } => releases.prune(name, keep),
            Step::Stage(bundle) => releases.stage(bundle),
            Step::Verify(bundle) => releases.verify(bundle),
            Step::Switch { name, to } => releases.switch(name, *to),
            Step::Restart { .. } => Ok(()),
        });
        match done.await {
            Ok(result) => result.map_err(|error| told(&error)),
            Err(panic) => Err(format!("a mistake in this program: {panic}")),
        }
    }
}

/// What failed, why, and where a person can help, what to do.
fn told(error: &ReleaseError) -> String {
    let mut causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    let out_of_room = causes.any(|cause| {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    });
    let next = if out_of_room { "; make room there: bytes (df) or names (df -i)" } else { "" };
    chain(error) + next
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
