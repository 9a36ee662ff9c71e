//! Archives that somebody made to do harm, refused one by one.

#![allow(clippy::unwrap_used, reason = "the helpers of tests may, as the tests do")]

mod support;

use lunar_artifact::archive::{ArchiveError, ArchiveReader, PathProblem, Refusal, unpack};
use proptest::prelude::*;
use support::{names, noise};
use tar::{EntryType, Header};

/// A header with any bytes as its name and target, as no library would write them.
fn header(kind: EntryType, name: &[u8], target: &[u8], bytes: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(bytes);
    let linked = kind == EntryType::Link;
    header.set_mode(if kind == EntryType::Symlink {
        0o777
    } else if linked {
        0
    } else {
        0o755
    });
    let own = |id: u32| if linked { 0 } else { u64::from(id) };
    header.set_uid(own(nix::unistd::geteuid().as_raw()));
    header.set_gid(own(nix::unistd::getegid().as_raw()));
    header.set_mtime(0);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.name[..name.len()].copy_from_slice(name);
    gnu.linkname[..target.len()].copy_from_slice(target);
    header.set_cksum();
    header
}

fn block(kind: EntryType, name: &[u8], target: &[u8]) -> Vec<u8> {
    header(kind, name, target, 0).as_bytes().to_vec()
}

fn directory(name: &[u8]) -> Vec<u8> {
    block(EntryType::Directory, name, b"")
}

fn file(name: &[u8], body: &[u8]) -> Vec<u8> {
    with_body(EntryType::Regular, name, body)
}

fn with_body(kind: EntryType, name: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = header(kind, name, b"", body.len() as u64).as_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn symlink(name: &[u8], target: &[u8]) -> Vec<u8> {
    block(EntryType::Symlink, name, target)
}

fn hard_link(name: &[u8], target: &[u8]) -> Vec<u8> {
    block(EntryType::Link, name, target)
}

/// The long form of a name, as GNU tar writes it.
fn long(kind: EntryType, text: &[u8]) -> Vec<u8> {
    let mut body = text.to_vec();
    body.push(0);
    extension(kind, b"././@LongLink", &body)
}

/// An entry that speaks of the next one.
fn extension(kind: EntryType, name: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = with_body(kind, name, body);
    let mut header = header(kind, name, b"", body.len() as u64);
    header.set_mode(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    bytes[..512].copy_from_slice(header.as_bytes());
    bytes
}

/// A header whose fields were changed, with a right checksum.
fn changed(name: &[u8], change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut header = header(EntryType::Regular, name, b"", 0);
    change(&mut header);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn end() -> Vec<u8> {
    vec![0; 1024]
}

/// Unpacks an archive that must be refused, and checks that it left nothing anywhere.
fn refused(parts: &[Vec<u8>]) -> ArchiveError {
    let place = tempfile::tempdir().unwrap();
    std::fs::create_dir(place.path().join("inner")).unwrap();
    let destination = place.path().join("inner/out");
    let error = unpack(&parts.concat()[..], &destination).unwrap_err();
    assert_eq!(names(place.path()), ["inner"], "{error}");
    assert!(names(&place.path().join("inner")).is_empty(), "{error}");
    error
}

fn refusal(parts: &[Vec<u8>]) -> Refusal {
    match refused(parts) {
        ArchiveError::Refused(refusal) => refusal,
        other => panic!("refused for another reason: {other}"),
    }
}

#[test]
fn a_well_made_archive_is_taken() {
    let place = tempfile::tempdir().unwrap();
    let parts = [
        directory(b"d/"),
        file(b"d/f", b"text"),
        hard_link(b"d/g", b"d/f"),
        symlink(b"d/up", b"../d"),
        symlink(b"e", b"d/up/f"),
        end(),
    ];
    let unpacked = unpack(&parts.concat()[..], &place.path().join("out")).unwrap();
    assert_eq!(unpacked.entries, 5);
    assert_eq!(std::fs::read(place.path().join("out/e")).unwrap(), b"text");
}

#[test]
fn names_that_could_leave_the_tree_are_refused() {
    let cases: [(&[u8], PathProblem); 9] = [
        (b"/etc/passwd", PathProblem::Absolute),
        (b"//etc", PathProblem::Absolute),
        (b"..", PathProblem::Component),
        (b"../x", PathProblem::Component),
        (b"a/../../x", PathProblem::Component),
        (b"./a", PathProblem::Component),
        (b"a//b", PathProblem::Component),
        (b"a/", PathProblem::Component),
        (b"", PathProblem::Empty),
    ];
    for (name, expected) in cases {
        let refusal = refusal(&[file(name, b"harm"), end()]);
        assert!(matches!(&refusal, Refusal::Path { problem, .. } if *problem == expected), "{refusal}");
    }
    for name in [&b"../"[..], b"a/../", b"/"] {
        assert!(matches!(refusal(&[directory(name), end()]), Refusal::Path { .. }));
    }
    let zero =
        [long(EntryType::GNULongName, &[b"x\0".as_slice(), &[b'y'; 100]].concat()), file(b"x", b""), end()];
    assert!(matches!(refusal(&zero), Refusal::Path { problem: PathProblem::Zero, .. }));
    let long_up =
        [long(EntryType::GNULongName, &[&[b'y'; 100][..], b"/../../../x"].concat()), file(b"x", b""), end()];
    assert!(matches!(refusal(&long_up), Refusal::Path { problem: PathProblem::Component, .. }));
    let deep = [long(EntryType::GNULongName, "d/".repeat(140).as_bytes()), directory(b"d/"), end()];
    assert!(matches!(refusal(&deep), Refusal::Path { problem: PathProblem::TooDeep, .. }));
}

#[test]
fn everything_but_files_directories_and_links_is_refused() {
    let kinds = [
        (EntryType::Char, "a character device"),
        (EntryType::Block, "a block device"),
        (EntryType::Fifo, "a named pipe"),
        (EntryType::Continuous, "a contiguous file"),
        (EntryType::GNUSparse, "a sparse file"),
        (EntryType::XGlobalHeader, "of an unknown kind"),
        (EntryType::new(b'Z'), "of an unknown kind"),
    ];
    for (kind, expected) in kinds {
        let refusal = refusal(&[block(kind, b"bad", b""), end()]);
        assert!(matches!(&refusal, Refusal::Kind { kind, .. } if *kind == expected), "{refusal}");
        assert!(refusal.to_string().contains("bad"), "{refusal}");
    }
}

#[test]
fn symbolic_links_that_lead_out_are_refused() {
    for target in [&b"/etc"[..], b"..", b"../..", b"d/../..", b"./../x", b"d/../x", b"", b"x/.."] {
        let refusal = refusal(&[symlink(b"l", target), end()]);
        assert!(matches!(refusal, Refusal::Symlink { .. }), "{}", target.escape_ascii());
    }
    // Each of these two stays inside if names are only counted; together they would lead out.
    let pair = [directory(b"a/"), symlink(b"a/top", b".."), symlink(b"b", b"a/top/../x"), end()];
    assert!(matches!(refusal(&pair), Refusal::Symlink { .. }));
    let far = [long(EntryType::GNULongLink, "../".repeat(50).as_bytes()), symlink(b"l", &[]), end()];
    assert!(matches!(refusal(&far), Refusal::Symlink { .. } | Refusal::Form { .. }));
}

#[test]
fn nothing_is_unpacked_through_a_link() {
    for target in [&b"."[..], b"d", b"nowhere"] {
        let parts = [directory(b"d/"), symlink(b"l", target), file(b"l/x", b"harm"), end()];
        assert!(matches!(refusal(&parts), Refusal::Parent { .. }));
    }
    // A directory of the link's name: the order allows it, the file system does not.
    let parts = [symlink(b"l", b"."), directory(b"l/"), file(b"l/x", b"harm"), end()];
    assert!(matches!(refusal(&parts), Refusal::Order { .. }));
}

#[test]
fn hard_links_to_anything_but_an_earlier_file_are_refused() {
    let cases = [
        vec![hard_link(b"l", b"none"), end()],
        vec![hard_link(b"b", b"a"), end()],
        vec![hard_link(b"a", b"b"), file(b"b", b""), end()],
        vec![hard_link(b"a", b"a"), end()],
        vec![directory(b"d/"), hard_link(b"e", b"d"), end()],
        vec![symlink(b"a", b"x"), hard_link(b"b", b"a"), end()],
        vec![directory(b"d/"), file(b"d/f", b""), symlink(b"e", b"d"), hard_link(b"g", b"e/f"), end()],
        vec![file(b"a", b""), hard_link(b"b", b"a/x"), end()],
    ];
    for case in cases {
        let refusal = refusal(&case);
        assert!(matches!(refusal, Refusal::HardLink { .. }), "{refusal}");
    }
    for target in [&b"/etc/passwd"[..], b"../x", b""] {
        let refusal = refusal(&[hard_link(b"l", target), end()]);
        assert!(matches!(refusal, Refusal::Path { .. }), "{refusal}");
    }
}

#[test]
fn one_place_has_one_entry_in_its_order_in_a_directory_that_came_before() {
    let twice = [
        vec![file(b"a", b"1"), file(b"a", b"2"), end()],
        vec![directory(b"d/"), directory(b"d/"), end()],
        vec![file(b"d", b""), directory(b"d/"), end()],
        vec![file(b"b", b""), file(b"a", b""), end()],
        vec![directory(b"d/"), file(b"d-", b""), end()],
        vec![directory(b"d/"), file(b"e", b""), file(b"d/x", b""), end()],
    ];
    for case in twice {
        let refusal = refusal(&case);
        assert!(matches!(refusal, Refusal::Order { .. }), "{refusal}");
    }
    let lost = [
        vec![file(b"d/x", b""), end()],
        vec![file(b"d", b""), file(b"d/x", b""), end()],
        vec![directory(b"d/"), file(b"d/e/x", b""), end()],
        vec![directory(b"d/"), directory(b"d/e/"), directory(b"d/f/"), file(b"d/g/x", b""), end()],
    ];
    for case in lost {
        let refusal = refusal(&case);
        assert!(matches!(refusal, Refusal::Parent { .. }), "{refusal}");
    }
}

#[test]
fn what_we_would_have_written_otherwise_is_refused() {
    let mut dirty = file(b"a", b"x");
    *dirty.last_mut().unwrap() = 1;
    let mut bent = file(b"a", b"");
    bent[0] = b'b';
    let cases = [
        ("padding", vec![dirty, end()]),
        ("checksum or header", vec![bent, end()]),
        ("a time", vec![changed(b"a", |h| h.set_mtime(1)), end()]),
        ("a user's name", vec![changed(b"a", |h| h.set_username("root").unwrap()), end()]),
        ("a group's name", vec![changed(b"a", |h| h.set_groupname("root").unwrap()), end()]),
        ("a device", vec![changed(b"a", |h| h.set_device_major(1).unwrap()), end()]),
        ("a mode of a kind", vec![changed(b"a", |h| h.set_mode(0o100_755)), end()]),
        ("an owner beyond 32 bits", vec![changed(b"a", |h| h.set_uid(1 << 40)), end()]),
        (
            "a mode that is no number",
            vec![changed(b"a", |h| h.as_gnu_mut().unwrap().mode = *b"what?\0\0\0"), end()],
        ),
        ("a directory with a body", vec![with_body(EntryType::Directory, b"d/", b"body"), end()]),
        ("a directory without its slash", vec![directory(b"d"), end()]),
        ("a file with a target", vec![block(EntryType::Regular, b"a", b"b"), end()]),
        ("bytes after a name", vec![changed(b"a", |h| h.as_gnu_mut().unwrap().name[50] = b'x'), end()]),
        ("another magic", vec![changed(b"a", |h| h.as_gnu_mut().unwrap().magic = *b"ustar\0"), end()]),
        ("an old header", vec![changed(b"a", |h| h.as_gnu_mut().unwrap().typeflag = [0]), end()]),
        ("a long form of a short name", vec![long(EntryType::GNULongName, b"a"), file(b"a", b""), end()]),
        (
            "two long names",
            vec![
                long(EntryType::GNULongName, &[b'a'; 120]),
                long(EntryType::GNULongName, &[b'a'; 120]),
                file(&[b'a'; 100], b""),
                end(),
            ],
        ),
        (
            "only long names",
            vec![
                long(EntryType::GNULongName, &[b'a'; 120]),
                long(EntryType::GNULongLink, &[b'a'; 120]),
                long(EntryType::GNULongName, &[b'a'; 120]),
                end(),
            ],
        ),
        (
            "a long name and another short one",
            vec![long(EntryType::GNULongName, &[b'a'; 120]), file(b"b", b""), end()],
        ),
        ("an empty long name", vec![with_body(EntryType::GNULongName, b"././@LongLink", b""), end()]),
        (
            "an endless long name",
            vec![
                header(EntryType::GNULongName, b"././@LongLink", b"", u64::MAX / 2).as_bytes().to_vec(),
                end(),
            ],
        ),
        ("bytes after the end", vec![file(b"a", b""), end(), vec![0]]),
        ("an entry after the end", vec![end(), file(b"a", b""), end()]),
        ("an end marker in the middle", vec![vec![0; 512], file(b"a", b""), end()]),
    ];
    for (what, case) in cases {
        let refusal = refusal(&case);
        assert!(matches!(refusal, Refusal::Form { .. }), "{what}: {refusal}");
    }
}

/// A pax header before the entry that it belongs to.
fn pax(records: &[u8]) -> Vec<u8> {
    extension(EntryType::XHeader, b"././@PaxHeader", records)
}

fn record(key: &str, value: &str) -> Vec<u8> {
    let text = format!(" {key}={value}\n");
    let digits = if text.len() + 2 < 100 { 2 } else { 3 };
    format!("{}{text}", text.len() + digits).into_bytes()
}

fn user(name: &str) -> Vec<u8> {
    record(&format!("SCHILY.xattr.user.{name}"), "x")
}

#[test]
fn attributes_that_we_never_write_are_refused() {
    // The same helper makes what is taken: the rest is refused for what it says.
    let taken = [pax(&[user("a"), user("b")].concat()), file(b"f", b""), end()].concat();
    let entry = ArchiveReader::new(&taken[..]).next_entry().unwrap().unwrap();
    assert_eq!(entry.attributes.iter().map(|(name, _)| name).collect::<Vec<_>>(), [b"user.a", b"user.b"]);

    let never_kept = [
        vec![pax(&record("SCHILY.xattr.security.selinux", "x")), file(b"f", b""), end()],
        vec![pax(&record("SCHILY.xattr.trusted.overlay.opaque", "y")), directory(b"d/"), end()],
        vec![pax(&record("SCHILY.xattr.system.posix_acl_access", "x")), file(b"f", b""), end()],
        vec![pax(&record("SCHILY.xattr.security.capability", "x")), directory(b"d/"), end()],
        vec![pax(&record("SCHILY.xattr.user.", "x")), file(b"f", b""), end()],
        vec![pax(&user("a\0b")), file(b"f", b""), end()],
        vec![pax(&user("a")), symlink(b"l", b"f"), end()],
        vec![file(b"f", b""), pax(&user("a")), hard_link(b"g", b"f"), end()],
    ];
    for case in never_kept {
        let refusal = refusal(&case);
        assert!(matches!(refusal, Refusal::Attributes { .. }), "{refusal}");
    }
    let long_name = || [long(EntryType::GNULongName, &[b'a'; 120]), file(&[b'a'; 100], b"")].concat();
    let other_form = [
        ("out of order", vec![pax(&[user("b"), user("a")].concat()), file(b"f", b""), end()]),
        ("one twice", vec![pax(&[user("a"), user("a")].concat()), file(b"f", b""), end()]),
        ("two headers", vec![pax(&user("a")), pax(&user("b")), file(b"f", b""), end()]),
        ("no records", vec![pax(b""), file(b"f", b""), end()]),
        ("another path", vec![pax(&record("path", "../../etc/x")), file(b"f", b""), end()]),
        ("another link", vec![pax(&record("linkpath", "/etc")), symlink(b"l", b"f"), end()]),
        ("another length", vec![pax(&record("size", "100")), file(b"f", b""), end()]),
        ("a time", vec![pax(&record("mtime", "1.5")), file(b"f", b""), end()]),
        ("leading zeros", vec![pax(b"026 SCHILY.xattr.user.a=x\n"), file(b"f", b""), end()]),
        ("a plus sign", vec![pax(b"+26 SCHILY.xattr.user.a=x\n"), file(b"f", b""), end()]),
        ("no line end", vec![pax(b"25 SCHILY.xattr.user.a=xy"), file(b"f", b""), end()]),
        (
            "a name not as we escape it",
            vec![pax(&record("SCHILY.xattr.user.a%41", "x")), file(b"f", b""), end()],
        ),
        ("after a long name", vec![long(EntryType::GNULongName, &[b'a'; 120]), pax(&user("a")), long_name()]),
        ("only attributes", vec![pax(&user("a")), end()]),
        (
            "an endless one",
            vec![header(EntryType::XHeader, b"././@PaxHeader", b"", u64::MAX / 2).as_bytes().to_vec(), end()],
        ),
        (
            "one over the bound",
            vec![pax(&vec![b'1'; lunar_common::bounds::ARCHIVE_ATTRIBUTES_BYTES_MAX + 1]), file(b"f", b"")],
        ),
    ];
    for (what, case) in other_form {
        let refusal = refusal(&case);
        assert!(matches!(refusal, Refusal::Form { .. }), "{what}: {refusal}");
    }
}

#[test]
fn an_archive_that_breaks_off_is_refused() {
    for case in [
        vec![],
        vec![vec![0; 512]],
        vec![vec![0; 1023]],
        vec![file(b"a", b"")],
        vec![directory(b"d/")[..100].to_vec()],
    ] {
        assert!(matches!(refused(&case), ArchiveError::Stream(_)));
    }
}

#[test]
fn lengths_that_lie_cost_nothing() {
    let endless = changed(b"a", |h| h.set_size(u64::MAX / 2));
    assert!(matches!(refusal(&[endless, end()]), Refusal::TooLong { .. }));
    // Inside the bound, but not there: what came is read, and nothing is taken on trust.
    let absent = changed(b"a", |h| h.set_size(60 << 30));
    assert!(matches!(refused(&[absent, end()]), ArchiveError::Stream(_)));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_flipped_bit_in_a_header_is_noticed(bit in 0usize..2 * 512 * 8) {
        let mut bytes = [directory(b"d/"), file(b"d/f", b""), end()].concat();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let place = tempfile::tempdir().unwrap();
        prop_assert!(unpack(&bytes[..], &place.path().join("out")).is_err());
    }

    #[test]
    fn noise_is_refused_without_a_panic(seed in any::<u64>(), blocks in 0usize..8, keep in 0usize..600) {
        let mut bytes = [directory(b"d/"), file(b"d/f", b"text"), end()].concat();
        bytes.truncate(keep);
        bytes.extend(noise(blocks * 512, seed));
        let mut reader = ArchiveReader::new(&bytes[..]);
        while let Ok(Some(_)) = reader.next_entry() {}
    }
}
