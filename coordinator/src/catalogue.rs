//! Which artifacts the coordinator publishes, by name and version.
//!
//! Owns `HOME/artifacts`: the packs, and beside them one `NAME@VERSION.json` a published version. Main
//! invariant: a name and version mean one artifact for as long as they are there; publishing other bytes under
//! them is refused. One small file each, made atomically, so that two who publish at once lose nothing.

use std::path::{Path, PathBuf};

use lunar_artifact::{Built, PackDirectory, PackError};
use lunar_common::ids::{ArtifactId, ArtifactName, Version};
use lunar_common::manifest::Content;
use lunar_common::time::WallTime;
use lunar_host::files::{self, FileError};
use serde::{Deserialize, Serialize};

/// The artifacts of one coordinator.
#[derive(Debug, Clone)]
pub struct Catalogue {
    packs: PackDirectory,
}

/// One published version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Its name.
    pub name: ArtifactName,
    /// Its version.
    pub version: Version,
    /// What it is.
    pub id: ArtifactId,
    /// A tree or a file.
    pub content: Content,
    /// Bytes of its content.
    pub bytes: u64,
    /// Bytes of its frames: what a whole transfer carries.
    pub frame_bytes: u64,
    /// Its chunks.
    pub chunks: usize,
    /// When it was published, by this machine's clock.
    pub added: WallTime,
}

/// What could not be done with the catalogue.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The packs.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// A release's file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The directory cannot be listed, or a file not removed.
    #[error("cannot {what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A release's file says nothing that can be understood, or is another release's.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The name and version mean something else already.
    #[error("{name} {version} is published already, as artifact {id:.16}")]
    Taken {
        /// The name.
        name: ArtifactName,
        /// The version.
        version: Version,
        /// What they mean.
        id: ArtifactId,
    },
}

impl Release {
    /// The release of what was built.
    #[must_use]
    pub fn of(built: &Built, name: ArtifactName, version: Version, added: WallTime) -> Self {
        Self {
            name,
            version,
            id: built.id,
            content: built.manifest.content,
            bytes: built.bytes,
            frame_bytes: built.frame_bytes,
            chunks: built.chunks,
            added,
        }
    }
}

impl Catalogue {
    /// The catalogue in a coordinator's directory, made if it is not there.
    ///
    /// # Errors
    /// [`CatalogueError::Pack`].
    pub fn open(home: &Path) -> Result<Self, CatalogueError> {
        Ok(Self { packs: PackDirectory::open(&home.join("artifacts"))? })
    }

    /// The packs of everything that is published.
    #[must_use]
    pub fn packs(&self) -> &PackDirectory {
        &self.packs
    }

    /// Publishes a release; says whether it is new. The same again does nothing.
    ///
    /// # Errors
    /// [`CatalogueError::Taken`] for other bytes under the same name and version.
    pub fn add(&self, release: &Release) -> Result<bool, CatalogueError> {
        let path = self.path_of(&release.name, &release.version);
        let text = serde_json::to_vec_pretty(release).expect("a release is plain data");
        match files::create_atomically(&path, &text, 0o644) {
            Ok(()) => Ok(true),
            Err(FileError::Exists { .. }) => self.refuse_other(release).map(|()| false),
            Err(error) => Err(error.into()),
        }
    }

    /// Refuses a release whose name and version mean something else already.
    ///
    /// # Errors
    /// [`CatalogueError::Taken`].
    pub fn refuse_other(&self, release: &Release) -> Result<(), CatalogueError> {
        match self.find(&release.name, &release.version)? {
            Some(Release { id, name, version, .. }) if id != release.id => {
                Err(CatalogueError::Taken { name, version, id })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// A release by name and version.
    ///
    /// # Errors
    /// [`CatalogueError::Damaged`], [`CatalogueError::File`].
    pub fn find(&self, name: &ArtifactName, version: &Version) -> Result<Option<Release>, CatalogueError> {
        match read(&self.path_of(name, version)) {
            Ok(release) => Ok(Some(release)),
            Err(CatalogueError::File(error)) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every release, by name, then in the order of publishing.
    ///
    /// # Errors
    /// [`CatalogueError::Damaged`], [`CatalogueError::File`], [`CatalogueError::Io`].
    pub fn list(&self) -> Result<Vec<Release>, CatalogueError> {
        let directory = self.packs.path();
        let failed = |source| CatalogueError::Io { what: "list", path: directory.to_owned(), source };
        let mut releases = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            // The temporary file of one that is being published begins with a dot.
            if name.to_str().is_some_and(|name| name.ends_with(".json") && !name.starts_with('.')) {
                releases.push(read(&entry.path())?);
            }
        }
        releases
            .sort_by(|a: &Release, b| (&a.name, a.added, &a.version).cmp(&(&b.name, b.added, &b.version)));
        Ok(releases)
    }

    /// Takes a release's name and version away; its pack stays.
    ///
    /// # Errors
    /// [`CatalogueError::Io`].
    pub fn forget(&self, release: &Release) -> Result<(), CatalogueError> {
        let path = self.path_of(&release.name, &release.version);
        let removed = std::fs::remove_file(&path).and_then(|()| files::sync_directory(self.packs.path()));
        removed.map_err(|source| CatalogueError::Io { what: "remove", path, source })
    }

    fn path_of(&self, name: &ArtifactName, version: &Version) -> PathBuf {
        // No id has an '@' or a slash: two releases never share a file, and none leaves the directory.
        self.packs.path().join(format!("{name}@{version}.json"))
    }
}

fn read(path: &Path) -> Result<Release, CatalogueError> {
    let bytes = files::read_bounded(path, RELEASE_BYTES_MAX)?;
    let damaged = |reason: String| CatalogueError::Damaged { path: path.to_owned(), reason };
    let release: Release = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    let expected = format!("{}@{}.json", release.name, release.version);
    if path.file_name().and_then(|name| name.to_str()) != Some(expected.as_str()) {
        return Err(damaged(format!("it says that it is {} {}", release.name, release.version)));
    }
    Ok(release)
}

/// Longest file of a release in bytes: two ids of 64, a hash, four numbers and their names are under 500.
const RELEASE_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn release(version: &str, id: u8) -> Release {
        Release {
            name: ArtifactName::new("web").unwrap(),
            version: Version::new(version).unwrap(),
            id: ArtifactId([id; 32]),
            content: Content::Tree,
            bytes: 10,
            frame_bytes: 5,
            chunks: 1,
            added: WallTime(i64::from(id)),
        }
    }

    #[test]
    fn a_name_and_version_mean_one_artifact() {
        let home = tempfile::tempdir().unwrap();
        let catalogue = Catalogue::open(home.path()).unwrap();
        assert!(catalogue.add(&release("1.0", 1)).unwrap());

        assert!(!catalogue.add(&release("1.0", 1)).unwrap());
        let taken = catalogue.add(&release("1.0", 2)).unwrap_err();

        assert!(matches!(taken, CatalogueError::Taken { .. }), "{taken}");
        assert_eq!(catalogue.list().unwrap(), [release("1.0", 1)]);
    }

    #[test]
    fn releases_are_listed_in_the_order_of_publishing_and_can_be_forgotten() {
        let home = tempfile::tempdir().unwrap();
        let catalogue = Catalogue::open(home.path()).unwrap();
        for (version, id) in [("1.10", 2), ("1.9", 1)] {
            catalogue.add(&release(version, id)).unwrap();
        }
        assert_eq!(catalogue.list().unwrap(), [release("1.9", 1), release("1.10", 2)]);

        catalogue.forget(&release("1.9", 1)).unwrap();

        assert_eq!(catalogue.list().unwrap(), [release("1.10", 2)]);
        assert_eq!(catalogue.find(&release("1.9", 1).name, &release("1.9", 1).version).unwrap(), None);
    }

    #[test]
    fn a_damaged_or_renamed_release_is_reported_with_its_file() {
        let home = tempfile::tempdir().unwrap();
        let catalogue = Catalogue::open(home.path()).unwrap();
        catalogue.add(&release("1.0", 1)).unwrap();
        let artifacts = home.path().join("artifacts");
        std::fs::copy(artifacts.join("web@1.0.json"), artifacts.join("web@2.0.json")).unwrap();
        let renamed = catalogue.list().unwrap_err().to_string();
        assert!(renamed.contains("web@2.0.json") && renamed.contains("web 1.0"), "{renamed}");

        std::fs::write(artifacts.join("web@2.0.json"), b"{\"name\":\"web\"").unwrap();
        let truncated = catalogue.list().unwrap_err().to_string();
        assert!(truncated.contains("web@2.0.json is damaged"), "{truncated}");
    }
}
