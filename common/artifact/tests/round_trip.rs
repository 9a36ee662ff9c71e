//! What goes into an artifact comes out of it.

#![allow(clippy::unwrap_used, reason = "the helpers of tests may, as the tests do")]

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use lunar_artifact::archive::{
    ArchiveError, PathProblem, Refusal, remove_tree, survey, unpack, write_archive,
};
use lunar_artifact::verify::VerifyError;
use lunar_artifact::{PackDirectory, build, compare_tree, measure, unpack_tree, verify_tree};
use proptest::prelude::*;
use support::{Item, Node, make, names, noise, path_of, snapshot};

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => prop::sample::select(vec!["a", "a-b", "a0", "b", "-rf", " ", "new\nline", "ü"])
            .prop_map(|name| name.as_bytes().to_vec()),
        1 => Just(vec![0xff, 0xfe, b'x']),
        1 => (90usize..=255).prop_map(|length| vec![b'n'; length]),
        2 => prop::collection::vec(any::<u8>().prop_filter("no path has these", |b| !matches!(b, 0 | b'/')), 1..20)
            .prop_filter("these mean other places", |name| !matches!(name.as_slice(), b"." | b"..")),
    ]
}

fn target() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(name(), 1..3).prop_map(|parts| parts.join(&b'/')),
        1 => Just(b"./a//b/".to_vec()),
        1 => (101usize..300).prop_map(|length| vec![b't'; length]),
    ]
}

fn node() -> impl Strategy<Value = Node> {
    let size = prop_oneof![Just(0usize), Just(1), Just(511), Just(512), Just(513), 0usize..200_000];
    prop_oneof![
        2 => Just(Node::Directory),
        4 => (size, any::<u64>()).prop_map(|(bytes, seed)| Node::File(noise(bytes, seed))),
        2 => target().prop_map(Node::Symlink),
        2 => any::<usize>().prop_map(Node::HardLink),
    ]
}

fn item() -> impl Strategy<Value = Item> {
    (prop::collection::vec(name(), 1..5), node(), 0u32..=0o7777, 0u32..3_000_000)
        .prop_map(|(path, node, mode, owner)| Item { path, node, mode, owner })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_comes_back_as_it_was_and_has_the_same_id(items in prop::collection::vec(item(), 0..30)) {
        let directory = tempfile::tempdir().unwrap();
        let (before, after) = (directory.path().join("before"), directory.path().join("after"));
        std::fs::create_dir(&before).unwrap();
        make(&before, &items);
        let packs = PackDirectory::open(&directory.path().join("packs")).unwrap();

        let built = build(&before, &packs, |_| {}).unwrap();
        let pack = packs.get_complete(built.id).unwrap();
        let unpacked = unpack_tree(&pack, &after).unwrap();

        prop_assert!(unpacked.ownership_kept);
        prop_assert_eq!(snapshot(&before), snapshot(&after));
        prop_assert_eq!(measure(&after, |_| {}).unwrap().id, built.id);
        prop_assert_eq!(survey(&after).unwrap().entries, unpacked.entries);
        verify_tree(&after, &built.manifest).unwrap();
        compare_tree(&after, &pack).unwrap();
        remove_tree(&after).unwrap();
        prop_assert!(!after.exists());
    }
}

/// A tree with one of everything, and its archive's bytes.
fn small_tree(top: &Path) -> Vec<u8> {
    std::fs::create_dir_all(top.join("bin/empty")).unwrap();
    std::fs::write(top.join("bin/tool"), b"#!/bin/sh\n").unwrap();
    std::fs::set_permissions(top.join("bin/tool"), std::fs::Permissions::from_mode(0o4755)).unwrap();
    std::fs::hard_link(top.join("bin/tool"), top.join("bin/tool2")).unwrap();
    symlink("../bin/tool", top.join("bin/link")).unwrap();
    std::fs::write(top.join("n".repeat(150)), noise(10_000, 3)).unwrap();
    std::fs::write(top.join(path_of(b"\xff")), b"").unwrap();
    archive_of(top).unwrap()
}

fn archive_of(top: &Path) -> Result<Vec<u8>, ArchiveError> {
    let mut bytes = Vec::new();
    write_archive(top, &mut bytes).map(|()| bytes)
}

#[test]
fn other_programs_read_the_archive_as_we_do() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = small_tree(&directory.path().join("tree"));
    let mut seen = Vec::new();
    for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.header().mtime().unwrap(), 0);
        seen.push(entry.path_bytes().into_owned());
    }
    let long = "n".repeat(150);
    let expected: [&[u8]; 7] =
        [b"bin/", b"bin/empty/", b"bin/link", b"bin/tool", b"bin/tool2", long.as_bytes(), b"\xff"];
    assert_eq!(seen, expected);
    assert_eq!(survey(&directory.path().join("tree")).unwrap().bytes, bytes.len() as u64);
}

#[test]
fn an_archive_that_ends_anywhere_but_at_its_end_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = small_tree(&directory.path().join("tree"));
    let destination = directory.path().join("out");
    for length in (0..bytes.len()).step_by(256) {
        unpack(&bytes[..length], &destination).unwrap_err();
        assert_eq!(names(directory.path()), ["tree"], "after {length} bytes");
    }
    unpack(&bytes[..], &destination).unwrap();
    assert_eq!(snapshot(&destination), snapshot(&directory.path().join("tree")));
}

#[test]
fn a_destination_that_is_there_is_left_alone_and_what_a_crash_left_is_cleared() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = small_tree(&directory.path().join("tree"));
    let destination = directory.path().join("out");
    let left = directory.path().join(".out.unpacking/half");
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("file"), b"of a crash").unwrap();

    unpack(&bytes[..], &destination).unwrap();
    let again = unpack(&bytes[..], &destination).unwrap_err();

    assert!(again.to_string().contains("out"), "{again}");
    assert_eq!(names(directory.path()), ["out", "tree"]);
    std::fs::remove_dir_all(&destination).unwrap();
    symlink("tree", &destination).unwrap();
    unpack(&bytes[..], &destination).unwrap_err();
}

#[test]
fn packing_refuses_what_no_artifact_has_and_names_it() {
    type Make = fn(&Path);
    let refusals: [(&str, Make); 6] = [
        ("a named pipe", |path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap()),
        ("a socket", |path| drop(std::os::unix::net::UnixListener::bind(path).unwrap())),
        ("links to \"/etc/passwd\"", |path| symlink("/etc/passwd", path).unwrap()),
        ("links to \"../../out\"", |path| symlink("../../out", path).unwrap()),
        ("links to \"a/../../../out\"", |path| symlink("a/../../../out", path).unwrap()),
        ("links to \"..\"", |path| {
            symlink("..", path.parent().unwrap().parent().unwrap().join("top")).unwrap();
        }),
    ];
    for (expected, make) in refusals {
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir(tree.path().join("d")).unwrap();
        make(&tree.path().join("d/bad"));
        for refused in [archive_of(tree.path()).unwrap_err(), survey(tree.path()).unwrap_err()] {
            let text = refused.to_string();
            assert!(matches!(refused, ArchiveError::Refused(_)), "{text}");
            assert!(text.contains(expected) && (text.contains("d/bad") || text.contains("top")), "{text}");
        }
    }
}

#[test]
fn a_tree_that_is_too_deep_is_refused() {
    let tree = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(tree.path().join(vec!["d"; 130].join("/"))).unwrap();
    let refused = archive_of(tree.path()).unwrap_err();
    assert!(
        matches!(&refused, ArchiveError::Refused(Refusal::Path { problem: PathProblem::TooDeep, .. })),
        "{refused}"
    );
}

/// Changes a file while its archive is written.
struct Meddler<'a>(&'a Path, &'a [u8]);

impl std::io::Write for Meddler<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        std::fs::write(self.0, self.1)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_an_error() {
    for change in [&b"longer than it was"[..], b"short", b""] {
        let tree = tempfile::tempdir().unwrap();
        let path = tree.path().join("file");
        std::fs::write(&path, b"eleven long").unwrap();
        let error = write_archive(tree.path(), &mut Meddler(&path, change)).unwrap_err();
        assert!(matches!(error, ArchiveError::Changed { .. }), "{error}");
    }
}

#[test]
fn verification_finds_every_kind_of_change_and_says_where() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 7] = [
        ("its mode is another", |top| {
            std::fs::set_permissions(top.join("bin/tool"), std::fs::Permissions::from_mode(0o755)).unwrap();
        }),
        ("its bytes are others", |top| {
            let path = top.join("n".repeat(150));
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[9_999] ^= 1;
            std::fs::write(path, bytes).unwrap();
        }),
        ("its type, length or target is another", |top| {
            std::fs::remove_file(top.join("bin/link")).unwrap();
            symlink("tool2", top.join("bin/link")).unwrap();
        }),
        ("its type, length or target is another", |top| {
            std::fs::remove_file(top.join("bin/tool2")).unwrap();
            std::fs::write(top.join("bin/tool2"), b"#!/bin/sh\n").unwrap();
        }),
        ("it is missing", |top| std::fs::remove_dir(top.join("bin/empty")).unwrap()),
        ("it is missing", |top| std::fs::remove_file(top.join(path_of(b"\xff"))).unwrap()),
        ("it should not be there", |top| std::fs::write(top.join("extra"), b"").unwrap()),
    ];
    for (expected, change) in changes {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        small_tree(&tree);
        let packs = PackDirectory::open(&directory.path().join("packs")).unwrap();
        let built = build(&tree, &packs, |_| {}).unwrap();
        let pack = packs.get_complete(built.id).unwrap();
        verify_tree(&tree, &built.manifest).unwrap();
        compare_tree(&tree, &pack).unwrap();

        change(&tree);

        assert!(
            matches!(verify_tree(&tree, &built.manifest), Err(VerifyError::Differs { .. })),
            "{expected}"
        );
        let found = compare_tree(&tree, &pack).unwrap_err();
        assert!(
            matches!(&found, VerifyError::Entry { .. }) && found.to_string().contains(expected),
            "{found}"
        );
    }
}

#[test]
fn a_tree_with_closed_directories_is_removed_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree");
    std::fs::create_dir_all(tree.join("closed/inner")).unwrap();
    std::fs::write(tree.join("closed/inner/file"), b"x").unwrap();
    for path in ["closed/inner", "closed"] {
        std::fs::set_permissions(tree.join(path), std::fs::Permissions::from_mode(0o500)).unwrap();
    }
    assert_eq!(tree.join("closed").symlink_metadata().unwrap().mode() & 0o777, 0o500);
    remove_tree(&tree).unwrap();
    remove_tree(&tree).unwrap();
    assert!(names(directory.path()).is_empty());
}

#[test]
fn a_tree_of_many_files_is_unpacked_under_one_barrier() {
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree");
    for number in 0..300 {
        let inner = tree.join(format!("{}", number % 7));
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(inner.join(number.to_string()), number.to_string()).unwrap();
    }
    let unpacked = unpack(&archive_of(&tree).unwrap()[..], &directory.path().join("out")).unwrap();
    assert_eq!(unpacked.entries, 307);
    assert_eq!(snapshot(&tree), snapshot(&directory.path().join("out")));
}

/// Gives an attribute; false where this file system or user may not have it, which is told.
#[allow(clippy::print_stderr, reason = "a test that leaves something out says so")]
fn give(path: &Path, name: &str, value: &[u8]) -> bool {
    use rustix::io::Errno;
    match rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()) {
        Ok(()) => true,
        Err(Errno::NOTSUP | Errno::PERM) => {
            eprintln!("{name} cannot be given here: only the refusals are tested");
            false
        }
        Err(errno) => panic!("{name}: {errno}"),
    }
}

fn value(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 65_536];
    let length = rustix::fs::getxattr(path, name, &mut buffer[..]).ok()?;
    buffer.truncate(length);
    Some(buffer)
}

/// Packs a tree and unpacks it beside; what was made and where it lies now.
fn there_and_back(directory: &Path) -> (lunar_artifact::Built, lunar_artifact::Pack, std::path::PathBuf) {
    let packs = PackDirectory::open(&directory.join("packs")).unwrap();
    let built = build(&directory.join("tree"), &packs, |_| {}).unwrap();
    let pack = packs.get_complete(built.id).unwrap();
    let after = directory.join("after");
    unpack_tree(&pack, &after).unwrap();
    (built, pack, after)
}

#[test]
fn attributes_of_users_come_back_and_are_part_of_the_id() {
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree");
    small_tree(&tree);
    let plain = measure(&tree, |_| {}).unwrap().id;
    let tool = tree.join("bin/tool");
    if !give(&tool, "user.origin", b"built by\nhand\0") {
        return;
    }
    give(&tool, "user.a=b%", b"");
    give(&tree.join("bin"), "user.note", &noise(3_000, 5));
    let long = tree.join("n".repeat(150));
    give(&long, "user.note", b"a long name too");
    std::fs::set_permissions(&long, std::fs::Permissions::from_mode(0o400)).unwrap();

    let (built, pack, after) = there_and_back(directory.path());

    assert_ne!(built.id, plain);
    assert_eq!(value(&after.join("bin/tool"), "user.origin").unwrap(), b"built by\nhand\0");
    assert_eq!(value(&after.join("bin/tool2"), "user.a=b%").unwrap(), b"", "another name of the same file");
    assert_eq!(value(&after.join("bin"), "user.note").unwrap(), noise(3_000, 5));
    assert_eq!(value(&after.join("n".repeat(150)), "user.note").unwrap(), b"a long name too");
    assert_eq!(measure(&after, |_| {}).unwrap().id, built.id);
    verify_tree(&after, &built.manifest).unwrap();
    compare_tree(&after, &pack).unwrap();

    give(&after.join("bin/tool"), "user.origin", b"somebody else");
    let found = compare_tree(&after, &pack).unwrap_err();
    assert!(found.to_string().contains("its extended attributes are others"), "{found}");
    assert!(verify_tree(&after, &built.manifest).is_err());
    rustix::fs::removexattr(after.join("bin/tool"), "user.origin").unwrap();
    assert!(compare_tree(&after, &pack).is_err());
}

#[test]
fn capabilities_come_back_where_root_unpacks() {
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree");
    small_tree(&tree);
    // cap_net_bind_service, permitted and effective.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    if !give(&tree.join("bin/tool"), "security.capability", &capability) {
        return;
    }

    let (built, pack, after) = there_and_back(directory.path());

    assert_eq!(value(&after.join("bin/tool"), "security.capability").unwrap(), capability);
    assert_eq!(after.join("bin/tool").metadata().unwrap().mode() & 0o7777, 0o4755);
    assert_eq!(measure(&after, |_| {}).unwrap().id, built.id);
    compare_tree(&after, &pack).unwrap();
    rustix::fs::removexattr(after.join("bin/tool"), "security.capability").unwrap();
    assert!(compare_tree(&after, &pack).is_err(), "a program without its rights is another one");
}

#[test]
fn attributes_that_are_not_kept_are_named_and_change_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree");
    small_tree(&tree);
    let plain = measure(&tree, |_| {}).unwrap();
    assert_eq!(plain.not_kept.count, 0);
    if !give(&tree.join("bin/tool"), "trusted.label", b"x") {
        return;
    }
    give(&tree.join("bin/empty"), "trusted.label", b"x");
    let link = tree.join("bin/link");
    rustix::fs::lsetxattr(&link, "trusted.label", b"x", rustix::fs::XattrFlags::empty()).unwrap();

    let measured = measure(&tree, |_| {}).unwrap();

    assert_eq!(measured.id, plain.id);
    let label = |path: &str| (path.into(), "trusted.label".to_owned());
    assert_eq!(measured.not_kept.first, [label("bin/empty"), label("bin/link"), label("bin/tool")]);
    assert_eq!(measured.not_kept.count, 3);
    for number in 0..30 {
        std::fs::write(tree.join(format!("file{number}")), b"").unwrap();
        give(&tree.join(format!("file{number}")), "trusted.label", b"x");
    }
    let many = survey(&tree).unwrap().not_kept;
    assert_eq!((many.first.len(), many.count), (20, 33));
}
