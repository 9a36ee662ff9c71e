//! A document that one command makes, signs and hands over: halt, resume, reap, revocation.
//!
//! Owns the options that these commands share. Main invariant: what no key signed is handed to nobody.

use std::path::Path;

use anyhow::anyhow;
use lunar_common::document::Kind;
use lunar_common::trust::TrustState;
use lunar_host::exit::{Exit, Failure};

use super::signing::{Finish, Outcome, SignWith, Via, check_kind, would_write, write_new};
use super::{CommandResult, Common};
use crate::home::{Home, load};

/// What every command takes that makes a document, signs it and hands it over.
#[derive(Debug, clap::Args)]
pub struct HandOver {
    /// Its number, if this directory does not know the latest: one above the highest that was ever used.
    #[arg(long, value_name = "N")]
    pub sequence: Option<u64>,
    #[command(flatten)]
    pub with: SignWith,
    #[command(flatten)]
    pub via: Via,
    /// Writes and signs the file, and hands it to nobody.
    #[arg(long)]
    pub no_publish: bool,
    /// Shows the document; writes, signs and hands over nothing.
    #[arg(long)]
    pub dry_run: bool,
}

impl HandOver {
    /// Writes a document, signs it and hands it over.
    ///
    /// # Errors
    /// A key, the gate or the other side refused.
    pub fn carry_out(
        &self,
        common: &Common,
        trust: &TrustState,
        kind: Kind,
        name: &str,
        text: &str,
    ) -> CommandResult {
        let home = Home::new(&common.home);
        let directory = match kind {
            Kind::Approval => home.approvals(),
            Kind::Curb => home.curbs(),
            _ => home.documents(),
        };
        let path = directory.join(name);
        check_kind(&path, kind, text.as_bytes())?;
        if self.dry_run {
            would_write(kind, &path, text).print(common)?;
            return Ok(Exit::Ok);
        }
        if self.with.is_empty() {
            return Err(Failure::new(Exit::Usage, anyhow!("no key to sign the {kind} with"))
                .advise("add --key FILE or --agent NAME"));
        }
        write_new(&path, text, false)?;
        self.sign_and_publish(common, trust, kind, &path).inspect_err(|_| forget_unsigned(&path, kind))
    }

    /// Signs a document that is written, and hands it over once it is whole.
    ///
    /// # Errors
    /// As for [`Self::carry_out`].
    pub fn sign_and_publish(
        &self,
        common: &Common,
        trust: &TrustState,
        kind: Kind,
        path: &Path,
    ) -> CommandResult {
        let finish = Finish {
            common,
            trust,
            path,
            kind,
            sign_command: match kind {
                Kind::Resume => format!("lunar-coordinator resume --sign {} --key FILE", path.display()),
                Kind::Approval => format!("lunar-coordinator approve --sign {} --key FILE", path.display()),
                Kind::Curb => format!("lunar-coordinator quarantine --sign {} --key FILE", path.display()),
                _ => format!("repeat the command with a key that may sign a {kind}"),
            },
            publish: (!self.no_publish).then_some(&self.via),
        };
        let outcome: Outcome = finish.run(&self.with)?;
        let complete = outcome.complete;
        outcome.print(common)?;
        Ok(if complete { Exit::Ok } else { Exit::NotHeld })
    }
}

/// A file that no key signed is of no use, and its number would stay taken.
fn forget_unsigned(path: &Path, kind: Kind) {
    if load(path, kind).is_ok_and(|document| document.signatures.is_empty()) {
        // The failure that led here is the one to tell.
        let _ = std::fs::remove_file(path);
    }
}
