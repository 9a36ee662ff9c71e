//! All the packs of one machine.
//!
//! Owns [`PackDirectory`]: `ID.manifest` beside `ID.pack` (complete) or `ID.part` (not yet). Main invariant: a
//! manifest is durable before its pack is begun, and a `.pack` has every frame on disk before it has that
//! name. Refuses to begin a pack that the disk has no room for.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lunar_common::bounds::MANIFEST_BYTES_MAX;
use lunar_common::ids::ArtifactId;
use lunar_common::manifest::Manifest;
use nix::errno::Errno;
use nix::fcntl::FallocateFlags;

use crate::durable::{self, open_regular};
use crate::pack::{Pack, PackError, PackPaths, rename_durably};

/// A directory of packs.
#[derive(Debug, Clone)]
pub struct PackDirectory {
    path: PathBuf,
}

/// What a directory holds of one artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Which artifact.
    pub id: ArtifactId,
    /// Whether its pack is complete.
    pub complete: bool,
}

impl PackDirectory {
    /// The directory, made if it is not there.
    ///
    /// # Errors
    /// [`PackError::Io`].
    pub fn open(path: &Path) -> Result<Self, PackError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(path)
            .map_err(|source| PackError::Io { what: "make the directory", path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned() })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every artifact with a manifest, in order of id.
    ///
    /// # Errors
    /// [`PackError::Io`].
    pub fn list(&self) -> Result<Vec<Held>, PackError> {
        let failed = |source| self.io("list", &self.path, source);
        let mut held = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".manifest")).map(str::parse);
            if let Some(Ok(id)) = id {
                held.push(Held { id, complete: self.paths(id).complete.is_file() });
            }
        }
        held.sort_by_key(|held| held.id);
        Ok(held)
    }

    /// The manifest of an artifact, if it is here.
    ///
    /// # Errors
    /// [`PackError::Manifest`] if it is damaged, [`PackError::Io`].
    pub fn manifest(&self, id: ArtifactId) -> Result<Option<Manifest>, PackError> {
        Ok(self.manifest_bytes(id)?.map(|(manifest, _)| manifest))
    }

    /// The manifest of an artifact with its bytes as stored, to be passed on as they are.
    ///
    /// # Errors
    /// Like [`PackDirectory::manifest`].
    pub fn manifest_bytes(&self, id: ArtifactId) -> Result<Option<(Manifest, Vec<u8>)>, PackError> {
        let path = self.manifest_path(id);
        // One byte more than a manifest may have: a longer file is damaged, and hashes to something else.
        let bytes = match durable::read_beginning(&path, MANIFEST_BYTES_MAX + 1) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io("read", &path, error)),
        };
        match Manifest::decode(&bytes, id) {
            Ok(manifest) => Ok(Some((manifest, bytes))),
            Err(source) => Err(PackError::Manifest { path, source }),
        }
    }

    /// The pack of an artifact whose manifest is here, complete or not; `None` without a manifest. A
    /// complete pack of the wrong length is taken for a partial one, and what is left of it is kept.
    ///
    /// # Errors
    /// Like [`PackDirectory::create`], and [`PackError::Manifest`].
    pub fn get(&self, id: ArtifactId) -> Result<Option<Pack>, PackError> {
        let Some(manifest) = self.manifest(id)? else { return Ok(None) };
        self.open_or_begin(id, Arc::new(manifest)).map(Some)
    }

    /// A complete pack, for reading only: nothing in the directory is changed, whatever its state.
    ///
    /// # Errors
    /// [`PackError::NotThere`], [`PackError::Incomplete`], [`PackError::Manifest`], [`PackError::Io`].
    pub fn get_complete(&self, id: ArtifactId) -> Result<Pack, PackError> {
        let not_there = || PackError::NotThere { id, directory: self.path.clone() };
        let manifest = Arc::new(self.manifest(id)?.ok_or_else(not_there)?);
        let paths = self.paths(id);
        let chunks = crate::pack::chunk_count(&manifest);
        let incomplete = || PackError::Incomplete { path: paths.complete.clone(), missing: chunks, chunks };
        match open_regular(&paths.complete, false) {
            Ok(file) => Ok(Pack::over(id, manifest, paths, file, true)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(incomplete()),
            Err(error) => Err(self.io("open", &paths.complete, error)),
        }
    }

    /// The pack for a manifest: the one that is there, or a new, preallocated one. The manifest is durable
    /// first. May be repeated at any time.
    ///
    /// # Errors
    /// [`PackError::NoSpace`] before anything is begun, [`PackError::Io`].
    pub fn create(&self, manifest: &Manifest) -> Result<Pack, PackError> {
        let id = self.keep_manifest(manifest)?;
        self.open_or_begin(id, Arc::new(manifest.clone()))
    }

    /// Removes an artifact; says whether there was one. The pack goes first: what is left by a crash is a
    /// manifest that can be removed again.
    ///
    /// # Errors
    /// [`PackError::Io`].
    pub fn remove(&self, id: ArtifactId) -> Result<bool, PackError> {
        let paths = self.paths(id);
        let mut found = false;
        for path in [paths.complete, paths.partial, self.manifest_path(id)] {
            match std::fs::remove_file(&path) {
                Ok(()) => found = true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(self.io("remove", &path, error)),
            }
        }
        durable::sync_directory(&self.path).map_err(|e| self.io("sync", &self.path, e))?;
        Ok(found)
    }

    /// Makes a manifest durable and returns its id.
    pub(crate) fn keep_manifest(&self, manifest: &Manifest) -> Result<ArtifactId, PackError> {
        let path = self.path.clone();
        let bytes = manifest.encode().map_err(|source| PackError::Manifest { path, source })?;
        let id = Manifest::id_of(&bytes);
        // One that is there and whole is left alone; a damaged one is replaced.
        if !matches!(self.manifest(id), Ok(Some(_))) {
            let path = self.manifest_path(id);
            durable::replace(&path, 0o644, |file| file.write_all(&bytes))
                .map_err(|error| self.io("write", &path, error))?;
        }
        Ok(id)
    }

    pub(crate) fn paths(&self, id: ArtifactId) -> PackPaths {
        PackPaths {
            complete: self.path.join(format!("{id}.pack")),
            partial: self.path.join(format!("{id}.part")),
        }
    }

    fn manifest_path(&self, id: ArtifactId) -> PathBuf {
        self.path.join(format!("{id}.manifest"))
    }

    fn open_or_begin(&self, id: ArtifactId, manifest: Arc<Manifest>) -> Result<Pack, PackError> {
        let paths = self.paths(id);
        let length = manifest.frame_bytes();
        match open_regular(&paths.complete, false) {
            Ok(file) => {
                let found = file.metadata().map_err(|e| self.io("read", &paths.complete, e))?.len();
                if found == length {
                    return Ok(Pack::over(id, manifest, paths, file, true));
                }
                rename_durably(&paths.complete, &paths.partial)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(self.io("open", &paths.complete, error)),
        }
        let file = match open_regular(&paths.partial, true) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.begin(&paths.partial, length)?,
            Err(error) => return Err(self.io("open", &paths.partial, error)),
        };
        reserve(&file, &paths.partial, length)?;
        Ok(Pack::over(id, manifest, paths, file, false))
    }

    fn begin(&self, path: &Path, length: u64) -> Result<File, PackError> {
        let free = free_bytes(&self.path).map_err(|e| self.io("ask for the free space of", &self.path, e))?;
        if free < length {
            return Err(PackError::NoSpace { path: path.to_owned(), needed: length, free });
        }
        File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(path)
            .map_err(|e| self.io("make", path, e))
    }

    fn io(&self, what: &'static str, path: &Path, source: io::Error) -> PackError {
        PackError::Io { what, path: path.to_owned(), source }
    }
}

/// Takes the room for the whole pack now, so that a disk that others fill cannot stop it half-way. An empty
/// file that got no room is removed again.
fn reserve(file: &File, path: &Path, length: u64) -> Result<(), PackError> {
    let failed = |source| PackError::Io { what: "take room for", path: path.to_owned(), source };
    let found = file.metadata().map_err(failed)?.len();
    if found > length {
        file.set_len(length).map_err(failed)?;
    }
    if length == 0 {
        return Ok(());
    }
    let off_t = i64::try_from(length).map_err(|e| failed(io::Error::other(e)))?;
    match nix::fcntl::fallocate(file, FallocateFlags::empty(), 0, off_t) {
        Ok(()) => Ok(()),
        // Some file systems cannot reserve: there the length alone must do.
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => file.set_len(length).map_err(failed),
        Err(Errno::ENOSPC | Errno::EDQUOT) => {
            if found == 0 {
                // If it stays, it is a partial pack without a frame: true, and found again.
                let _ = std::fs::remove_file(path);
            }
            let free = path.parent().and_then(|parent| free_bytes(parent).ok()).unwrap_or(0);
            Err(PackError::NoSpace { path: path.to_owned(), needed: length, free })
        }
        Err(error) => Err(failed(error.into())),
    }
}

/// Bytes that an unprivileged process may still write on a path's disk.
fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}
