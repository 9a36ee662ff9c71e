//! `lunar-agent verify`: what is installed, against the manifests that people signed for.
//!
//! Owns its options. Main invariant: it only reads; every release named by a `current` link is compared with its
//! manifest in full, and one whose manifest is not here counts as not verified.

use std::path::{Path, PathBuf};

use lunar_artifact::verify::{VerifyError, compare_tree};
use lunar_artifact::{PackDirectory, verify_file, verify_tree};
use lunar_common::ids::ArtifactId;
use lunar_common::manifest::Content;
use lunar_host::exit::{Exit, Failure, OrExit};
use serde::Serialize;

use super::{CommandResult, Common};

/// Compares what is installed on this server with its manifests: every file, mode, owner and link.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  lunar-agent verify\n  lunar-agent verify web --output json")]
pub(super) struct VerifyCommand {
    /// Releases to verify; all under `root` if none is named.
    names: Vec<String>,
}

#[derive(Serialize)]
struct Verified {
    name: String,
    artifact: Option<ArtifactId>,
    verified: bool,
    detail: String,
}

impl VerifyCommand {
    pub(super) fn run(self, common: &Common) -> CommandResult {
        let config = common.config()?;
        let packs = PackDirectory::open(&config.packs).or_exit(Exit::Environment)?;
        let names = if self.names.is_empty() { installed(&config.root)? } else { self.names };
        if names.is_empty() {
            return Err(Failure::new(
                Exit::NotHeld,
                anyhow::anyhow!("nothing is installed under {}", config.root.display()),
            ));
        }
        let results: Vec<Verified> =
            names.into_iter().map(|name| verify(&config.root, &packs, name)).collect();
        let all = results.iter().all(|result| result.verified);
        common.output.print(&results, |results| {
            let line = |result: &Verified| {
                let word = if result.verified { "good" } else { "NOT VERIFIED" };
                format!("{:<20} {word}  {}\n", result.name, result.detail)
            };
            results.iter().map(line).collect()
        })?;
        Ok(if all { Exit::Ok } else { Exit::NotHeld })
    }
}

/// Everything under the root that has a `current` link.
fn installed(root: &Path) -> Result<Vec<String>, Failure> {
    let entries = std::fs::read_dir(root).map_err(|source| {
        Failure::new(Exit::Environment, anyhow::anyhow!("cannot read {}: {source}", root.display()))
    })?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.path().join("current").is_symlink()
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn verify(root: &Path, packs: &PackDirectory, name: String) -> Verified {
    match compare(root, packs, &name) {
        Ok(artifact) => {
            let detail = format!("{artifact:.16}");
            Verified { name, artifact: Some(artifact), verified: true, detail }
        }
        Err((artifact, detail)) => Verified { name, artifact, verified: false, detail },
    }
}

fn compare(
    root: &Path,
    packs: &PackDirectory,
    name: &str,
) -> Result<ArtifactId, (Option<ArtifactId>, String)> {
    let link = root.join(name).join("current");
    let target =
        std::fs::read_link(&link).map_err(|e| (None, format!("cannot read {}: {e}", link.display())))?;
    let named = target.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
    let id: ArtifactId =
        named.ok_or_else(|| (None, format!("{} does not point to an artifact", link.display())))?;
    let failed = |detail: String| (Some(id), detail);
    let manifest = packs
        .manifest(id)
        .map_err(|error| failed(error.to_string()))?
        .ok_or_else(|| failed(format!("its manifest {id:.16} is not in {}", packs.path().display())))?;
    let release: PathBuf = root.join(name).join("releases").join(id.to_string());
    let compared = match manifest.content {
        // The whole pack says for each entry what was published, and can leave out owners, which only root could
        // have kept. Without it the manifest's hashes are all there is, and they cover owners too.
        Content::Tree => match packs.get_complete(id) {
            Ok(pack) => match compare_tree(&release, &pack) {
                // The pack itself cannot be read: nothing is known of the release yet.
                Err(VerifyError::Content(_)) => verify_tree(&release, &manifest),
                compared => compared,
            },
            Err(_) => verify_tree(&release, &manifest),
        },
        Content::File => verify_file(&release.join(name), &manifest),
    };
    compared.map_err(|error| failed(error.to_string()))?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::applier::tests::{packs_of, publish};

    #[test]
    fn an_installed_release_is_compared_with_its_pack_or_with_its_manifest_alone() {
        let home = tempfile::tempdir().unwrap();
        let published = publish(home.path(), "web", "2");
        let packs = PackDirectory::open(&packs_of(home.path())).unwrap();
        let root = home.path().join("root");
        let release = root.join("web/releases").join(published.id.to_string());
        std::fs::create_dir_all(release.parent().unwrap()).unwrap();
        std::fs::rename(home.path().join("web-2"), &release).unwrap();
        std::os::unix::fs::symlink(
            Path::new("releases").join(published.id.to_string()),
            root.join("web/current"),
        )
        .unwrap();
        let good = || verify(&root, &packs, "web".to_owned()).verified;
        let pack = packs_of(home.path()).join(format!("{}.pack", published.id));
        let bytes = std::fs::read(&pack).unwrap();

        assert!(good());
        std::fs::write(&pack, vec![0; bytes.len()]).unwrap();
        assert!(good(), "a damaged pack says nothing of the release");
        std::fs::remove_file(&pack).unwrap();
        assert!(good(), "the manifest is enough");

        let file = release.join("version");
        std::fs::write(&file, "3").unwrap();
        assert!(!good(), "by the manifest");
        std::fs::write(&pack, &bytes).unwrap();
        let told = verify(&root, &packs, "web".to_owned());
        assert!(!told.verified && told.detail.contains("version"), "{}", told.detail);
    }
}
