//! Reading an archive that somebody else may have made.
//!
//! Owns [`ArchiveReader`]. Main invariant: it yields an entry only if its bytes are those that the writer would
//! have written, at the place where the writer would have written it; and it ends only where the archive
//! ends. Touches no file system. Memory: one name and one target at a time, and the directories on the way.

use std::io::{self, Read};

use lunar_common::bounds::{ARCHIVE_ATTRIBUTES_BYTES_MAX, ARCHIVE_ENTRIES_MAX, ARCHIVE_PATH_BYTES_MAX};
use tar::{EntryType, Header};

use super::ArchiveError;
use super::attributes::Attributes;
use super::entry::{BLOCK, Before, Entry, Kind, Refusal, foreign_kind, padding_after, path_of};

/// Reads an archive entry by entry.
pub struct ArchiveReader<R> {
    source: R,
    /// Entries so far.
    number: usize,
    /// The stored name of the entry before.
    last: Vec<u8>,
    /// Ends, within `last`, of the directories that the entry before lies in or is.
    open: Vec<usize>,
    /// Bytes of the current body not yet read, and the padding after it.
    body_left: u64,
    padding: usize,
}

impl<R: Read> ArchiveReader<R> {
    /// A reader at the beginning of an archive.
    pub fn new(source: R) -> Self {
        Self { source, number: 0, last: Vec::new(), open: Vec::new(), body_left: 0, padding: 0 }
    }

    /// The next entry; `None` at the end, once it is known that nothing follows. What is left of the body
    /// before is skipped.
    ///
    /// # Errors
    /// [`ArchiveError::Refused`] or [`ArchiveError::Stream`]. The reader is of no use after an error.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        self.finish_body()?;
        self.number += 1;
        let Some(entry) = self.read_header()? else {
            self.read_end()?;
            return Ok(None);
        };
        if self.number > ARCHIVE_ENTRIES_MAX {
            return Err(Refusal::TooMany.into());
        }
        entry.check()?;
        self.place(&entry)?;
        self.body_left = entry.body_bytes();
        self.padding = padding_after(self.body_left);
        Ok(Some(entry))
    }

    /// The current entry's bytes.
    pub fn body(&mut self) -> impl Read + '_ {
        Body(self)
    }

    fn read_header(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let mut raw = Vec::with_capacity(BLOCK);
        let mut before = Before::default();
        // At most attributes, a long name, a long target and the header itself.
        for _ in 0..4 {
            let begin = raw.len();
            self.read_more(&mut raw, BLOCK)?;
            if begin == 0 && raw.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            let header = Header::from_byte_slice(&raw[begin..begin + BLOCK]).clone();
            let long = match header.entry_type() {
                EntryType::GNULongName => &mut before.name,
                EntryType::GNULongLink => &mut before.target,
                EntryType::XHeader => {
                    let records = self.read_before(&mut raw, &header, ARCHIVE_ATTRIBUTES_BYTES_MAX)?;
                    let attributes = Attributes::parse(&raw[records]);
                    let attributes =
                        attributes.ok_or_else(|| self.form("a pax record that we never write"))?;
                    before.attributes = Some(attributes);
                    continue;
                }
                // Everything else is the entry itself; whether it is one of ours, `parse` says.
                _ => return self.accept(&header, before, &raw).map(Some),
            };
            // A directory's slash, and the zero at the end.
            let text = self.read_before(&mut raw, &header, ARCHIVE_PATH_BYTES_MAX + 2)?;
            *long = Some(raw[text.start..text.end - 1].to_vec());
        }
        Err(self.form("more than one long name or target"))
    }

    /// Reads the body of a header that belongs to the entry after it; where it lies in `raw`.
    fn read_before(
        &mut self,
        raw: &mut Vec<u8>,
        header: &Header,
        bound: usize,
    ) -> Result<std::ops::Range<usize>, ArchiveError> {
        let length = header.size().map_err(|_| self.form("the length of a long name is no number"))?;
        let length = usize::try_from(length).ok().filter(|length| (1..=bound).contains(length));
        let length = length.ok_or_else(|| self.form("a name, target or attribute longer than any is"))?;
        let begin = raw.len();
        self.read_more(raw, length + padding_after(length as u64))?;
        Ok(begin..begin + length)
    }

    fn accept(&self, header: &Header, before: Before, raw: &[u8]) -> Result<Entry, ArchiveError> {
        let shown = before.name.clone().unwrap_or_else(|| header.path_bytes().into_owned());
        match Entry::parse(header, before) {
            // A name that is refused is told as such, even where its header is odd as well.
            Some(entry) if entry.check().is_ok() && entry.header() != raw => {
                Err(self.form("its header is not as we write it"))
            }
            Some(entry) => Ok(entry),
            None if header.cksum().ok() != Some(checksum(header)) => {
                Err(self.form("its header's checksum is wrong"))
            }
            None if foreign(header) => {
                Err(Refusal::Kind { path: path_of(&shown), kind: foreign_kind(header) }.into())
            }
            None => Err(self.form("its type, mode, owner or length is not as we write it")),
        }
    }

    /// Checks the entry's place: after the one before, in a directory that is open.
    fn place(&mut self, entry: &Entry) -> Result<(), ArchiveError> {
        let name = entry.stored_name();
        if name <= self.last {
            return Err(Refusal::Order { path: path_of(&entry.path) }.into());
        }
        let last = &self.last;
        self.open.retain(|end| name.starts_with(&last[..*end]));
        let parent = entry.path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        if self.open.last().copied().unwrap_or(0) != parent {
            return Err(Refusal::Parent { path: path_of(&entry.path) }.into());
        }
        if entry.kind == Kind::Directory {
            self.open.push(name.len());
        }
        self.last = name;
        Ok(())
    }

    fn read_end(&mut self) -> Result<(), ArchiveError> {
        let mut block = Vec::new();
        self.read_more(&mut block, BLOCK)?;
        if block.iter().any(|byte| *byte != 0) {
            return Err(self.form("an end marker in the middle"));
        }
        let mut one = [0];
        match read_some(&mut self.source, &mut one).map_err(ArchiveError::Stream)? {
            0 => Ok(()),
            _ => Err(self.form("bytes after the end")),
        }
    }

    fn finish_body(&mut self) -> Result<(), ArchiveError> {
        let left = self.body_left;
        let skipped = io::copy(&mut self.body(), &mut io::sink()).map_err(ArchiveError::Stream)?;
        debug_assert_eq!(left, skipped, "a body that ends early is an error of its own");
        let mut padding = Vec::new();
        self.read_more(&mut padding, self.padding)?;
        self.padding = 0;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(self.form("bytes in the padding"));
        }
        Ok(())
    }

    fn read_more(&mut self, bytes: &mut Vec<u8>, more: usize) -> Result<(), ArchiveError> {
        let begin = bytes.len();
        bytes.resize(begin + more, 0);
        self.source.read_exact(&mut bytes[begin..]).map_err(ArchiveError::Stream)
    }

    fn form(&self, what: &'static str) -> ArchiveError {
        Refusal::Form { number: self.number, what }.into()
    }
}

struct Body<'a, R>(&'a mut ArchiveReader<R>);

impl<R: Read> Read for Body<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.0.body_left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let read = read_some(&mut self.0.source, &mut buffer[..most])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.0.body_left -= read as u64;
        Ok(read)
    }
}

fn read_some(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn foreign(header: &Header) -> bool {
    let ours = [EntryType::Directory, EntryType::Regular, EntryType::Symlink, EntryType::Link];
    !ours.contains(&header.entry_type())
}

fn checksum(header: &Header) -> u32 {
    let mut copy = header.clone();
    copy.set_cksum();
    copy.cksum().unwrap_or(0)
}
