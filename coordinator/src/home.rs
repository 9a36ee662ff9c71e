//! What lies where in a coordinator's directory, and the trust that its files add up to.
//!
//! Owns the names of files and folders. Main invariant: everything that is read from here passes the gate
//! (`TrustState`): a file alone is believed nothing. Layout:
//!
//! ```text
//! trust/root-<version>.toml          the trust roots, from the anchor on
//! enrolments/<server>.toml           one a machine
//! plans/<campaign>-<generation>.toml plans as they are written and signed
//! documents/<kind>-….toml            halts, resumes, reaps, revocations, published plans
//! approvals/<campaign>-….toml        approvals of batches, and their withdrawals
//! curbs/<campaign>-<n>.toml          pauses by hand, lower limits, cancellations; `_fleet`: servers in quarantine
//! artifacts/                         packs and manifests
//! ```
//!
//! Each `NAME.toml` has its signatures beside it: `NAME.toml.sig`, `NAME.toml.<signer>.sig`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use lunar_common::document::{Kind, SignedDocument};
use lunar_common::time::WallTime;
use lunar_common::trust::{Refusal, TrustState};
use lunar_host::documents;
use lunar_host::exit::{Exit, Failure};

/// A coordinator's directory.
#[derive(Debug, Clone)]
pub struct Home(PathBuf);

impl Home {
    /// The directory at this path. Nothing is read or made yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The trust root of this version.
    #[must_use]
    pub fn root(&self, version: u64) -> PathBuf {
        self.0.join("trust").join(format!("root-{version}.toml"))
    }

    /// Enrolments.
    #[must_use]
    pub fn enrolments(&self) -> PathBuf {
        self.0.join("enrolments")
    }

    /// Plans being written.
    #[must_use]
    pub fn plans(&self) -> PathBuf {
        self.0.join("plans")
    }

    /// Halts, resumes, reaps, revocations and published plans.
    #[must_use]
    pub fn documents(&self) -> PathBuf {
        self.0.join("documents")
    }

    /// Approvals of batches: judged by the plan in force when they are handed over, and kept in the log then.
    #[must_use]
    pub fn approvals(&self) -> PathBuf {
        self.0.join("approvals")
    }

    /// What is restrained by hand: judged when it is handed over, and kept in the log then.
    #[must_use]
    pub fn curbs(&self) -> PathBuf {
        self.0.join("curbs")
    }

    /// Packs and manifests.
    #[must_use]
    pub fn artifacts(&self) -> PathBuf {
        self.0.join("artifacts")
    }

    /// The versions of trust roots for which there is a file, lowest first.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn root_versions(&self) -> Result<Vec<u64>, Failure> {
        let mut versions = Vec::new();
        for name in names(&self.0.join("trust"))? {
            let number = name.to_str().and_then(|name| name.strip_prefix("root-")?.strip_suffix(".toml"));
            // `root-01.toml` would be a second name for the same version.
            versions
                .extend(number.and_then(|text| text.parse().ok().filter(|n: &u64| n.to_string() == text)));
        }
        versions.sort_unstable();
        Ok(versions)
    }

    /// The trust that the roots here add up to: anchored in the lowest version, walked up step by step to the
    /// last one that is signed enough. A later one that is not is a draft.
    ///
    /// # Errors
    /// There is no root, or the first one does not hold.
    pub fn roots(&self) -> Result<TrustState, Failure> {
        let versions = self.root_versions()?;
        let Some((first, later)) = versions.split_first() else {
            let what = anyhow!("{} holds no trust root", self.0.join("trust").display());
            return Err(Failure::new(Exit::NotTrusted, what).advise(
                "make one with `lunar-coordinator trust init`, or name another directory with --home",
            ));
        };
        let path = self.root(*first);
        let document = load(&path, Kind::TrustRoot)?;
        let mut trust = TrustState::anchored(&document).map_err(|refusal| {
            refused(&path, refusal).advise("sign it with `lunar-coordinator trust sign --key FILE`")
        })?;
        for version in later {
            let document = load(&self.root(*version), Kind::TrustRoot)?;
            if trust.accept(&document, lunar_host::clock::wall()).is_err() {
                break;
            }
        }
        Ok(trust)
    }

    /// The trust that all files here add up to. Documents that are refused (drafts, replaced ones, ones signed
    /// by keys that are out) are left out and listed: one bad file must not keep a coordinator from starting.
    ///
    /// # Errors
    /// As for [`Self::roots`], or a directory cannot be read.
    pub fn trust(&self, wall: WallTime) -> Result<(TrustState, Vec<LeftOut>), Failure> {
        let mut trust = self.roots()?;
        let mut left_out = Vec::new();
        let others = toml_files(&self.documents())?;
        let enrolments = toml_files(&self.enrolments())?;
        let named = others.into_iter().map(|path| (path, None));
        let enrolled = enrolments.into_iter().map(|path| (path, Some(Kind::Enrolment)));
        let mut documents = Vec::new();
        for (path, kind) in named.chain(enrolled) {
            match kind.map_or_else(|| documents::load_any(&path), |kind| documents::load(&path, kind)) {
                Ok(document) => documents.push((path, document)),
                Err(error) => left_out.push(LeftOut { path, why: error.to_string() }),
            }
        }
        // By kind, so that a reap finds its machine; and oldest number first, as each kind's names sort.
        documents.sort_by_key(|(_, document)| document.kind);
        for (path, document) in documents {
            match trust.accept(&document, wall) {
                Ok(_) | Err(Refusal::Replayed { .. }) => {}
                Err(refusal) => left_out.push(LeftOut { path, why: refusal.to_string() }),
            }
        }
        Ok((trust, left_out))
    }
}

/// A file that the trust was built without.
#[derive(Debug, Clone)]
pub struct LeftOut {
    /// Which.
    pub path: PathBuf,
    /// Why.
    pub why: String,
}

/// Loads a document's files.
///
/// # Errors
/// [`Exit::BadInput`] or [`Exit::Environment`] with the path.
pub fn load(path: &Path, kind: Kind) -> Result<SignedDocument, Failure> {
    Ok(documents::load(path, kind)?)
}

/// The failure that a refused document amounts to.
#[must_use]
pub fn refused(path: &Path, refusal: Refusal) -> Failure {
    let unreadable =
        matches!(refusal, Refusal::Content(_) | Refusal::TooLong { .. } | Refusal::TooManySignatures { .. });
    let exit = if unreadable { Exit::BadInput } else { Exit::NotTrusted };
    Failure::new(exit, anyhow!(refusal).context(path.display().to_string()))
}

fn toml_files(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let is_toml = |name: &OsString| {
        let hidden = name.as_encoded_bytes().starts_with(b".");
        !hidden && Path::new(name).extension().is_some_and(|extension| extension == "toml")
    };
    Ok(names(directory)?.into_iter().filter(is_toml).map(|name| directory.join(name)).collect())
}

/// The names in a directory, sorted; none if it is not there.
///
/// # Errors
/// It cannot be read.
pub fn names(directory: &Path) -> Result<Vec<OsString>, Failure> {
    let failed = |error: std::io::Error| {
        let what = anyhow!(error).context(format!("cannot list {}", directory.display()));
        Failure::new(Exit::Environment, what)
    };
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let names: Result<Vec<OsString>, _> = entries.map(|entry| entry.map(|entry| entry.file_name())).collect();
    let mut names = names.map_err(failed)?;
    names.sort();
    Ok(names)
}
