//! The content of a complete pack.
//!
//! Owns reading a pack as the bytes it was made of, and putting them on disk as a tree or a file. Main
//! invariant: not a byte is seen before the frame and the content of its chunk were hashed; a damaged chunk is an error
//! that names it. Memory: one chunk.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use lunar_common::manifest::Content;

use crate::archive::{self, ArchiveError, Unpacked};
use crate::durable;
use crate::frame::FrameOpener;
use crate::pack::{Pack, PackError};

/// Streams a pack's content. An [`io::Error`] from it carries the [`PackError`].
pub struct PackReader<'a> {
    pack: &'a Pack,
    opener: FrameOpener,
    next: u32,
    frame: Vec<u8>,
    content: Vec<u8>,
    position: usize,
}

/// Why a pack's content was not put on disk.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The pack is damaged or incomplete.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The archive in it was refused, or the tree could not be made.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A file was asked for and it holds a tree, or the other way round.
    #[error("the artifact is {found}, and {wanted} was asked for")]
    Kind {
        /// What it is.
        found: &'static str,
        /// What was asked for.
        wanted: &'static str,
    },
    /// The file could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl ContentError {
    /// The chunk that turned out to be damaged, if that is what went wrong: it can be demoted and fetched
    /// again.
    #[must_use]
    pub fn damaged_chunk(&self) -> Option<u32> {
        match self {
            Self::Pack(PackError::Corrupt { index, .. }) => Some(*index),
            Self::Pack(_) | Self::Archive(_) | Self::Kind { .. } | Self::Write { .. } => None,
        }
    }

    /// An error met while the content streamed: the pack's own, if that is what broke off the stream.
    pub(crate) fn streamed(error: ArchiveError) -> Self {
        match error {
            ArchiveError::Stream(error) => match error.downcast::<PackError>() {
                Ok(error) => Self::Pack(error),
                Err(error) => Self::Archive(ArchiveError::Stream(error)),
            },
            error => Self::Archive(error),
        }
    }
}

impl<'a> PackReader<'a> {
    /// A reader at the beginning of the content.
    ///
    /// # Errors
    /// No memory for the decompressor.
    pub fn new(pack: &'a Pack) -> io::Result<Self> {
        let opener = FrameOpener::new()?;
        Ok(Self { pack, opener, next: 0, frame: Vec::new(), content: Vec::new(), position: 0 })
    }

    /// Takes the next chunk in. `false` at the end.
    fn advance(&mut self) -> Result<bool, PackError> {
        self.content.clear();
        self.position = 0;
        let index = self.next;
        if index as usize == self.pack.manifest().chunks.len() {
            return Ok(false);
        }
        self.pack.read_frame_into(index, &mut self.frame)?;
        let chunk = self.pack.chunk(index)?;
        self.opener.open(chunk, &self.frame, &mut self.content).map_err(|source| PackError::Corrupt {
            index,
            path: self.pack.path().to_owned(),
            source,
        })?;
        self.next += 1;
        Ok(true)
    }
}

impl Read for PackReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position == self.content.len() && !self.advance().map_err(io::Error::other)? {
            return Ok(0);
        }
        let read = buffer.len().min(self.content.len() - self.position);
        buffer[..read].copy_from_slice(&self.content[self.position..self.position + read]);
        self.position += read;
        Ok(read)
    }
}

/// Unpacks a tree into a directory that is not there yet. See [`archive::unpack`] for what it promises.
///
/// # Errors
/// [`ContentError`]; there is no destination then.
pub fn unpack_tree(pack: &Pack, destination: &Path) -> Result<Unpacked, ContentError> {
    expect_content(pack, Content::Tree)?;
    let reader = reader(pack)?;
    archive::unpack(reader, destination).map_err(ContentError::streamed)
}

/// Writes a file artifact's bytes, durably, replacing what was there in one step.
///
/// # Errors
/// [`ContentError`]; what was there before is untouched then.
pub fn write_file(pack: &Pack, destination: &Path, mode: u32) -> Result<(), ContentError> {
    expect_content(pack, Content::File)?;
    let mut reader = reader(pack)?;
    let failed = |source| ContentError::Write { path: destination.to_owned(), source };
    let written = durable::replace(destination, mode, |file| io::copy(&mut reader, file).map(|_| ()));
    written.map_err(|error| match error.downcast::<PackError>() {
        Ok(error) => ContentError::Pack(error),
        Err(error) => failed(error),
    })
}

pub(crate) fn reader(pack: &Pack) -> Result<PackReader<'_>, ContentError> {
    PackReader::new(pack).map_err(|error| ArchiveError::Stream(error).into())
}

pub(crate) fn expect_content(pack: &Pack, wanted: Content) -> Result<(), ContentError> {
    let found = pack.manifest().content;
    if found == wanted {
        return Ok(());
    }
    Err(ContentError::Kind { found: name_of(found), wanted: name_of(wanted) })
}

fn name_of(content: Content) -> &'static str {
    match content {
        Content::Tree => "a tree",
        Content::File => "a file",
    }
}
