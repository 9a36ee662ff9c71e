//! Signed documents as files: `NAME.toml` with `NAME.toml.sig` and `NAME.toml.<signer>.sig` beside it.
//!
//! Owns the naming and the bounded reading. Main invariant: what is loaded are the exact bytes of the files;
//! nothing is parsed, normalised or trusted here. Refuses bodies, signatures and numbers of signatures over
//! their bounds.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use lunar_common::bounds::{DOCUMENT_BYTES_MAX, SIGNATURE_BYTES_MAX, SIGNATURES_MAX};
use lunar_common::document::{Kind, SignedDocument};
use lunar_common::trust::claimed_kind;

use crate::exit::{Exit, Failure};
use crate::files::{FileError, read_bounded, write_atomically};

/// Why a document's files could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DocumentFileError {
    /// One of the files.
    #[error(transparent)]
    File(#[from] FileError),
    /// The directory could not be listed.
    #[error("cannot list {directory}")]
    List {
        /// The directory.
        directory: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A signature file that is not text.
    #[error("{path} is not a signature: it holds bytes that are not text")]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// Too many signature files.
    #[error("{path} has {found} signature files beside it; at most {SIGNATURES_MAX} are read")]
    TooManySignatures {
        /// The document.
        path: PathBuf,
        /// How many there are.
        found: usize,
    },
    /// A name that cannot be part of a file name.
    #[error("{name:?} cannot name a signature file: use letters, digits, '-', '_' and '.'")]
    SignerName {
        /// The name.
        name: String,
    },
    /// No signature tells what kind of document it is.
    #[error("{path} has no signature of a known kind beside it")]
    UnknownKind {
        /// The document.
        path: PathBuf,
    },
}

impl DocumentFileError {
    /// The code to end with: [`FileError::exit`]'s rule, and what is wrong in a file is the file's.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::File(error) => error.exit(),
            Self::List { .. } => Exit::Environment,
            Self::NotText { .. }
            | Self::TooManySignatures { .. }
            | Self::SignerName { .. }
            | Self::UnknownKind { .. } => Exit::BadInput,
        }
    }
}

impl From<DocumentFileError> for Failure {
    fn from(error: DocumentFileError) -> Self {
        Self::new(error.exit(), error)
    }
}

/// A document of a known kind, with all signatures that lie beside it.
///
/// # Errors
/// [`DocumentFileError`].
pub fn load(path: &Path, kind: Kind) -> Result<SignedDocument, DocumentFileError> {
    let body = read_bounded(path, DOCUMENT_BYTES_MAX)?;
    Ok(SignedDocument { kind, body, signatures: signatures(path)? })
}

/// A document of whatever kind its first readable signature was made for. The gate checks that all agree.
///
/// # Errors
/// [`DocumentFileError`]; [`DocumentFileError::UnknownKind`] if there is no readable signature.
pub fn load_any(path: &Path) -> Result<SignedDocument, DocumentFileError> {
    let body = read_bounded(path, DOCUMENT_BYTES_MAX)?;
    let signatures = signatures(path)?;
    let kind = signatures
        .iter()
        .find_map(|signature| claimed_kind(signature))
        .ok_or_else(|| DocumentFileError::UnknownKind { path: path.to_owned() })?;
    Ok(SignedDocument { kind, body, signatures })
}

/// Every `*.toml` document of a kind in a directory, by file name. A missing directory has none.
///
/// # Errors
/// [`DocumentFileError`] of the first one that cannot be read.
pub fn load_directory(
    directory: &Path,
    kind: Kind,
) -> Result<Vec<(PathBuf, SignedDocument)>, DocumentFileError> {
    let mut paths = listed(directory)?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.into_iter().map(|path| load(&path, kind).map(|document| (path, document))).collect()
}

/// Writes a document and its signatures durably, signatures first: a body never lies there without them.
///
/// # Errors
/// [`DocumentFileError`].
pub fn save(path: &Path, document: &SignedDocument) -> Result<(), DocumentFileError> {
    for stale in signature_files(path)? {
        std::fs::remove_file(&stale).map_err(|source| FileError::Write { path: stale.clone(), source })?;
    }
    for (index, signature) in document.signatures.iter().enumerate() {
        let name = if document.signatures.len() == 1 { None } else { Some((index + 1).to_string()) };
        write_atomically(&signature_path(path, name.as_deref()), signature.as_bytes(), 0o644)?;
    }
    Ok(write_atomically(path, &document.body, 0o644)?)
}

/// Adds, or replaces, one signer's signature file. Returns its path.
///
/// # Errors
/// [`DocumentFileError`].
pub fn add_signature(path: &Path, signer: &str, armoured: &str) -> Result<PathBuf, DocumentFileError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if signer.is_empty() || signer.len() > 64 || signer.starts_with('.') || !signer.chars().all(plain) {
        return Err(DocumentFileError::SignerName { name: signer.to_owned() });
    }
    let file = signature_path(path, Some(signer));
    write_atomically(&file, armoured.as_bytes(), 0o644)?;
    Ok(file)
}

/// Removes a document and its signatures, the body first: no signature ever vouches for another's body.
///
/// # Errors
/// [`DocumentFileError`]; a document that is not there is no error.
pub fn remove(path: &Path) -> Result<(), DocumentFileError> {
    for file in std::iter::once(path.to_owned()).chain(signature_files(path)?) {
        match std::fs::remove_file(&file) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(FileError::Write { path: file, source }.into());
            }
            _ => {}
        }
    }
    Ok(())
}

/// The signature files beside a document, in the order of their names.
///
/// # Errors
/// [`DocumentFileError`].
pub fn signature_files(path: &Path) -> Result<Vec<PathBuf>, DocumentFileError> {
    let Some(name) = path.file_name() else { return Ok(Vec::new()) };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut prefix = name.to_owned();
    prefix.push(".");
    let mut found = listed(directory)?;
    found.retain(|path| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        name.starts_with(prefix.as_encoded_bytes()) && name.ends_with(b".sig")
            || name == [prefix.as_encoded_bytes(), b"sig"].concat()
    });
    Ok(found)
}

fn signatures(path: &Path) -> Result<Vec<String>, DocumentFileError> {
    let files = signature_files(path)?;
    if files.len() > SIGNATURES_MAX {
        return Err(DocumentFileError::TooManySignatures { path: path.to_owned(), found: files.len() });
    }
    let read = |file: PathBuf| {
        let bytes = read_bounded(&file, SIGNATURE_BYTES_MAX)?;
        String::from_utf8(bytes).map_err(|_| DocumentFileError::NotText { path: file })
    };
    files.into_iter().map(read).collect()
}

fn signature_path(path: &Path, signer: Option<&str>) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    if let Some(signer) = signer {
        name.push(".");
        name.push(signer);
    }
    name.push(".sig");
    name.into()
}

fn listed(directory: &Path) -> Result<Vec<PathBuf>, DocumentFileError> {
    let failed = |source| DocumentFileError::List { directory: directory.to_owned(), source };
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        // What a crash of `write_atomically` may leave begins with a dot.
        if !path.file_name().unwrap_or_default().as_encoded_bytes().starts_with(b".") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(signatures: usize) -> SignedDocument {
        SignedDocument {
            kind: Kind::Plan,
            body: b"format = 1\n".to_vec(),
            signatures: (0..signatures).map(|n| format!("signature {n}\n")).collect(),
        }
    }

    #[test]
    fn what_is_saved_is_loaded_and_signatures_of_other_documents_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.toml");
        save(&directory.path().join("web.toml2"), &document(1)).unwrap();
        save(&directory.path().join("web2.toml"), &document(2)).unwrap();

        for count in [1, 3, 0] {
            save(&path, &document(count)).unwrap();
            assert_eq!(load(&path, Kind::Plan).unwrap(), document(count));
        }
        add_signature(&path, "alice", "by alice").unwrap();

        assert_eq!(load(&path, Kind::Plan).unwrap().signatures, ["by alice"]);
        assert_eq!(load_directory(directory.path(), Kind::Plan).unwrap().len(), 2);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(signature_files(&path).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(load_directory(&directory.path().join("none"), Kind::Plan).unwrap(), []);
    }

    #[test]
    fn a_signer_cannot_name_a_file_elsewhere() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.toml");
        for name in ["", "../x", "a/b", ".hidden", &"x".repeat(65)] {
            assert!(
                matches!(add_signature(&path, name, ""), Err(DocumentFileError::SignerName { .. })),
                "{name}"
            );
        }
    }

    #[test]
    fn too_many_or_too_long_signatures_and_bodies_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.toml");
        save(&path, &document(SIGNATURES_MAX + 1)).unwrap();
        assert!(matches!(
            load(&path, Kind::Plan),
            Err(DocumentFileError::TooManySignatures { found: 33, .. })
        ));

        save(&path, &document(0)).unwrap();
        let file = add_signature(&path, "long", &"x".repeat(SIGNATURE_BYTES_MAX + 1)).unwrap();
        assert!(matches!(load(&path, Kind::Plan), Err(DocumentFileError::File(FileError::TooLong { .. }))));
        std::fs::write(file, [0xff, 0xfe]).unwrap();
        assert!(matches!(load(&path, Kind::Plan), Err(DocumentFileError::NotText { .. })));

        std::fs::write(&path, vec![b'#'; DOCUMENT_BYTES_MAX + 1]).unwrap();
        assert!(matches!(load(&path, Kind::Plan), Err(DocumentFileError::File(FileError::TooLong { .. }))));
    }
}
