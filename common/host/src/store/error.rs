//! Why the store could not do what it was asked.
//!
//! Owns [`StoreError`]. Main invariant: what is damaged is told apart from what the machine refused, since only
//! the first calls for a backup. Refuses to say less than what a person does next.

use std::io;
use std::path::{Path, PathBuf};

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// What is on the disk is not what was put there.
    #[error(
        "the store {path} is damaged: {detail}. Nothing was changed. Keep a copy of the directory, check the \
         disk, and restore the whole directory from a backup"
    )]
    Damaged {
        /// The store.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// Another process has it open.
    #[error("the store {path} is in use by another process")]
    InUse {
        /// The store.
        path: PathBuf,
    },
    /// The machine refused to open or read it.
    #[error("cannot open the store {path}")]
    Open {
        /// The store.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The machine refused a write. Nothing more is written after this one.
    #[error(
        "cannot write the store {path}; what was committed before is safe. Free space on the disk, or make it \
         writable, and start again"
    )]
    Write {
        /// The store.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An earlier write failed, and whether it reached the disk is unknown.
    #[error("the store {path} takes no more writes since one failed: start the program again")]
    Stopped {
        /// The store.
        path: PathBuf,
    },
    /// A key or value over its bound.
    #[error("a {what} of {length} bytes is over the store's bound of {bound}")]
    TooLong {
        /// Key or value.
        what: &'static str,
        /// Its length.
        length: usize,
        /// The bound.
        bound: usize,
    },
}

impl StoreError {
    /// The same, told of the store that is damaged rather than of the copy in which it was found.
    pub(super) fn at(self, store: &Path) -> Self {
        match self {
            Self::Damaged { detail, .. } => Self::Damaged { path: store.to_owned(), detail },
            other => other,
        }
    }
}
