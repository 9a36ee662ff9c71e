//! Extended attributes: which are kept, how they are stored, and the system calls for them.
//!
//! Owns [`Attributes`]. Main invariant: one set of attributes has one stored form, a pax header with its records
//! in byte order of their names; an entry without attributes has no such header. Kept are `user.*`, which a
//! service may rely on, and `security.capability`, without which a program lacks the rights that it had. Refuses
//! all others: labels and access lists mean something only where they were made.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use lunar_common::bounds::ARCHIVE_ATTRIBUTES_BYTES_MAX;
use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr};
use rustix::io::Errno;

use super::entry::Kind;

/// What a file may do without being root.
const CAPABILITY: &[u8] = b"security.capability";
/// How what belongs to users begins.
const USER: &[u8] = b"user.";
/// Longest name of an attribute in bytes (Linux XATTR_NAME_MAX).
const NAME_BYTES_MAX: usize = 255;
/// How the keys of the records begin, as every tar that knows attributes writes them.
const KEY: &[u8] = b"SCHILY.xattr.";

/// The attributes of one entry that are kept, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes(BTreeMap<Vec<u8>, Vec<u8>>);

/// What was found on a file: what is kept, and the names of what is not.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) kept: Attributes,
    pub(super) not_kept: Vec<Vec<u8>>,
}

impl Attributes {
    /// These attributes, whatever they are: what is not allowed is for [`super::Entry::check`].
    #[must_use]
    pub fn new(attributes: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Self {
        Self(attributes.into_iter().collect())
    }

    /// Names and values, in byte order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Without what only root can give a file.
    #[must_use]
    pub fn of_users(&self) -> Self {
        Self::new(self.0.iter().filter(|(name, _)| !needs_root(name)).map(|(n, v)| (n.clone(), v.clone())))
    }

    /// The records of the pax header; empty for none.
    pub(super) fn records(&self) -> Vec<u8> {
        self.0.iter().flat_map(|(name, value)| record(name, value)).collect()
    }

    /// The attributes that records stand for; `None` if they are not records of attributes. Whether they are as
    /// we write them, the comparison with [`Self::records`] tells.
    pub(super) fn parse(mut records: &[u8]) -> Option<Self> {
        let mut attributes = BTreeMap::new();
        while !records.is_empty() {
            let space = records.iter().position(|byte| *byte == b' ')?;
            let length: usize = std::str::from_utf8(&records[..space]).ok()?.parse().ok()?;
            if length > records.len() || length <= space + 1 {
                return None;
            }
            let (record, rest) = records.split_at(length);
            let text = record[space + 1..].strip_suffix(b"\n")?.strip_prefix(KEY)?;
            let equals = text.iter().position(|byte| *byte == b'=')?;
            attributes.insert(unescaped(&text[..equals]), text[equals + 1..].to_vec());
            records = rest;
        }
        Some(Self(attributes))
    }

    /// Whether an entry of this kind may have them.
    pub(super) fn allowed(&self, kind: &Kind) -> bool {
        self.0.keys().all(|name| is_kept(name, kind))
    }

    /// Whether they are more than an entry may have.
    pub(super) fn too_long(&self) -> bool {
        self.records().len() > ARCHIVE_ATTRIBUTES_BYTES_MAX
    }

    /// What a file or directory has.
    pub(super) fn read(file: impl AsFd, kind: &Kind) -> Result<Found, Errno> {
        let mut found = Found::default();
        for name in names(&file)? {
            if !is_kept(&name, kind) {
                found.not_kept.push(name);
            } else if let Some(value) = value(&file, &name)? {
                found.kept.0.insert(name, value);
            }
        }
        found.not_kept.sort_unstable();
        Ok(found)
    }

    /// Gives them to a file or directory. Says whether all could be given: without root, capabilities cannot.
    pub(super) fn write(&self, file: impl AsFd, root: bool) -> Result<bool, Errno> {
        for (name, value) in &self.0 {
            if root || !needs_root(name) {
                fsetxattr(&file, name.as_slice(), value, XattrFlags::empty())?;
            }
        }
        Ok(root || !self.0.keys().any(|name| needs_root(name)))
    }
}

/// The names on a symbolic link, reached by this path, which is not followed further. None of them is ever kept.
pub(super) fn names_on_link(path: &std::path::Path) -> Vec<Vec<u8>> {
    let mut buffer = vec![0; NAMES_BYTES_MAX];
    // A file system without attributes, or one that does not tell: there is nothing to lose.
    let length = rustix::fs::llistxattr(path, &mut buffer[..]).unwrap_or(0);
    split(&buffer[..length])
}

fn is_kept(name: &[u8], kind: &Kind) -> bool {
    let fits = name.len() <= NAME_BYTES_MAX && !name.contains(&0);
    let user = name.len() > USER.len() && name.starts_with(USER);
    fits && match kind {
        Kind::File { .. } => user || name == CAPABILITY,
        Kind::Directory => user,
        Kind::Symlink { .. } | Kind::HardLink { .. } => false,
    }
}

fn needs_root(name: &[u8]) -> bool {
    !name.starts_with(USER)
}

fn names(file: impl AsFd) -> Result<Vec<Vec<u8>>, Errno> {
    // Most files have none: nothing is allocated for those.
    let mut few = [0; 256];
    match flistxattr(&file, &mut few[..]) {
        Ok(length) => return Ok(split(&few[..length])),
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(Errno::RANGE) => {}
        Err(errno) => return Err(errno),
    }
    let mut buffer = vec![0; NAMES_BYTES_MAX];
    let length = flistxattr(&file, &mut buffer[..])?;
    Ok(split(&buffer[..length]))
}

/// `None`: it was taken away since it was listed.
fn value(file: impl AsFd, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
    let mut buffer = vec![0; VALUE_BYTES_MAX];
    match fgetxattr(&file, name, &mut buffer[..]) {
        Ok(length) => {
            buffer.truncate(length);
            Ok(Some(buffer))
        }
        Err(Errno::NODATA) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn split(names: &[u8]) -> Vec<Vec<u8>> {
    names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()
}

/// `LENGTH SCHILY.xattr.NAME=VALUE\n`, the length in decimal and counting itself.
fn record(name: &[u8], value: &[u8]) -> Vec<u8> {
    let text = [b" ", KEY, &escaped(name), b"=", value, b"\n"].concat();
    let mut digits = 1;
    while (text.len() + digits).to_string().len() > digits {
        digits += 1;
    }
    [(text.len() + digits).to_string().as_bytes(), &text].concat()
}

/// A name in which `=` cannot be taken for the end of it, as GNU tar writes it.
fn escaped(name: &[u8]) -> Vec<u8> {
    name.iter()
        .flat_map(|byte| match byte {
            b'%' => b"%25".to_vec(),
            b'=' => b"%3D".to_vec(),
            other => vec![*other],
        })
        .collect()
}

fn unescaped(name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, after)) = rest.split_first() {
        let (byte, left) = match rest.get(..3) {
            Some(b"%25") => (b'%', &rest[3..]),
            Some(b"%3D") => (b'=', &rest[3..]),
            Some(_) | None => (*first, after),
        };
        plain.push(byte);
        rest = left;
    }
    plain
}

/// Bytes of the list of one file's names, and of one value, at most (Linux XATTR_LIST_MAX and XATTR_SIZE_MAX).
const NAMES_BYTES_MAX: usize = 64 * 1024;
/// See [`NAMES_BYTES_MAX`].
const VALUE_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_those_that_every_tar_reads_and_come_back_as_they_were() {
        let attributes = Attributes::new([
            (b"user.b".to_vec(), b"two\nlines=\0".to_vec()),
            (b"user.a=%3D".to_vec(), Vec::new()),
        ]);
        let records = attributes.records();
        assert_eq!(
            records,
            b"32 SCHILY.xattr.user.a%3D%253D=\n35 SCHILY.xattr.user.b=two\nlines=\0\n".to_vec()
        );
        assert_eq!(Attributes::parse(&records), Some(attributes));
        assert_eq!(Attributes::default().records(), b"");
    }

    #[test]
    fn a_length_counts_its_own_digits() {
        for length in 0..2_000 {
            let attributes = Attributes::new([(b"user.a".to_vec(), vec![b'x'; length])]);
            let records = attributes.records();
            let said: usize = std::str::from_utf8(records.split(|byte| *byte == b' ').next().unwrap())
                .unwrap()
                .parse()
                .unwrap();
            assert_eq!(said, records.len());
            assert_eq!(Attributes::parse(&records), Some(attributes));
        }
    }

    #[test]
    fn what_is_no_record_of_an_attribute_is_not_taken_for_one() {
        for bytes in [
            &b"x"[..],
            b"5 a=b",
            b"0 a=b\n",
            b"99 SCHILY.xattr.user.a=\n",
            b"9 mtime=\n",
            b"24 SCHILY.xattr.user.a=x",
            b"-1 SCHILY.xattr.user.a=\n",
            b"21 SCHILY.xattr.user.a\n",
            b"99999999999999999999999999 SCHILY.xattr.user.a=\n",
        ] {
            assert_eq!(Attributes::parse(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn only_what_means_the_same_everywhere_is_kept() {
        let file = Kind::File { bytes: 0 };
        for (name, in_file, in_directory) in [
            (&b"user.a"[..], true, true),
            (b"security.capability", true, false),
            (b"user.", false, false),
            (b"security.selinux", false, false),
            (b"trusted.overlay.opaque", false, false),
            (b"system.posix_acl_access", false, false),
        ] {
            assert_eq!(is_kept(name, &file), in_file);
            assert_eq!(is_kept(name, &Kind::Directory), in_directory);
            assert!(!is_kept(name, &Kind::Symlink { target: Vec::new() }));
        }
    }
}
