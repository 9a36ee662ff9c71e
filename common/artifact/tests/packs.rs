//! Packs under crashes, damage and full disks.

#![allow(clippy::unwrap_used, reason = "the helpers of tests may, as the tests do")]

mod support;

use std::os::unix::fs::FileExt;
use std::path::Path;

use lunar_artifact::frame::{FrameError, FrameMaker};
use lunar_artifact::{Pack, PackDirectory, PackError, PackReader, build, unpack_tree, write_file};
use lunar_common::ids::{ChunkHash, FrameHash};
use lunar_common::manifest::{Chunk, Content, Manifest};
use support::{frames, names, noise, published};

/// Fetches what a pack lacks from another, as the swarm would; returns what was fetched.
fn fetch(pack: &Pack, frames: &[Vec<u8>]) -> Vec<u32> {
    let missing: Vec<u32> = pack.have().missing().collect();
    for index in &missing {
        pack.write_frame(*index, &frames[*index as usize]).unwrap();
    }
    pack.complete().unwrap();
    missing
}

fn content(pack: &Pack) -> Vec<u8> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut PackReader::new(pack).unwrap(), &mut bytes).unwrap();
    bytes
}

#[test]
fn a_pack_opened_again_has_the_frames_that_were_written_wherever_they_lie_and_no_other() {
    let (directory, packs, built) = published(&noise(6_000_000, 5));
    let frames = frames(&packs.get_complete(built.id).unwrap());
    let last = u32::try_from(frames.len() - 1).unwrap();
    assert!(last > 6, "too few chunks to leave gaps");
    for (number, written) in [vec![], vec![0], vec![last], vec![1, 2, 5, last - 1]].into_iter().enumerate() {
        let here = PackDirectory::open(&directory.path().join(format!("here-{number}"))).unwrap();
        let pack = here.create(&built.manifest).unwrap();
        for index in &written {
            pack.write_frame(*index, &frames[*index as usize]).unwrap();
        }
        drop(pack);
        let again = here.get(built.id).unwrap().unwrap();
        assert_eq!(again.have().iter().collect::<Vec<_>>(), written);
    }
}

#[test]
fn a_pack_is_received_completed_and_read() {
    let bytes = noise(3_000_000, 1);
    let (directory, packs, built) = published(&bytes);
    let from = packs.get_complete(built.id).unwrap();
    let here = PackDirectory::open(&directory.path().join("here")).unwrap();

    let pack = here.create(&built.manifest).unwrap();
    assert!(pack.have().count() == 0 && !pack.is_complete());
    assert!(matches!(pack.complete(), Err(PackError::Incomplete { .. })));
    assert!(matches!(here.get_complete(built.id), Err(PackError::Incomplete { .. })));
    assert!(matches!(pack.read_frame(0), Err(PackError::Missing { index: 0 })));
    assert_eq!(fetch(&pack, &frames(&from)).len(), built.chunks);

    assert!(pack.is_complete());
    assert_eq!(content(&pack), bytes);
    assert_eq!(names(here.path()), [format!("{}.manifest", built.id), format!("{}.pack", built.id)]);
    assert!(here.list().unwrap().iter().all(|held| held.id == built.id && held.complete));
    let out = directory.path().join("out");
    write_file(&pack, &out, 0o600).unwrap();
    assert_eq!(std::fs::read(&out).unwrap(), bytes);
    assert!(here.remove(built.id).unwrap() && !here.remove(built.id).unwrap());
    assert!(names(here.path()).is_empty() && here.get(built.id).unwrap().is_none());
}

#[test]
fn other_bytes_are_refused_and_change_nothing() {
    let (directory, packs, built) = published(&noise(1_000_000, 2));
    let from = frames(&packs.get_complete(built.id).unwrap());
    let here = PackDirectory::open(&directory.path().join("here")).unwrap();
    let pack = here.create(&built.manifest).unwrap();
    let mut bent = from[0].clone();
    bent[100] ^= 1;

    for bytes in [&bent[..], &from[1], &from[0][1..], &[]] {
        let refused = pack.write_frame(0, bytes).unwrap_err();
        assert!(matches!(refused, PackError::Refused { index: 0, .. }), "{refused}");
    }
    let none = pack.write_frame(u32::MAX, &bent).unwrap_err();

    assert!(matches!(none, PackError::NoSuchChunk { .. }));
    assert_eq!(pack.have().count(), 0);
    assert!(here.get(built.id).unwrap().unwrap().have().count() == 0);
}

#[test]
fn after_a_kill_at_any_frame_nothing_that_was_written_is_fetched_again() {
    let bytes = noise(2_500_000, 3);
    let (directory, packs, built) = published(&bytes);
    let from = frames(&packs.get_complete(built.id).unwrap());
    for killed_after in 0..=built.chunks {
        let here = PackDirectory::open(&directory.path().join(format!("here{killed_after}"))).unwrap();
        let pack = here.create(&built.manifest).unwrap();
        // From the back, and the one under way at the kill only half written.
        for index in (0..built.chunks).rev().take(killed_after) {
            pack.write_frame(u32::try_from(index).unwrap(), &from[index]).unwrap();
        }
        if let Some(half) = built.chunks.checked_sub(killed_after + 1) {
            let begin: u64 = from[..half].iter().map(|frame| frame.len() as u64).sum();
            let part = std::fs::File::options().write(true).open(pack.path()).unwrap();
            part.write_all_at(&from[half][..from[half].len() / 2], begin).unwrap();
        }
        drop(pack);

        let again = here.get(built.id).unwrap().unwrap();

        assert_eq!(fetch(&again, &from).len(), built.chunks - killed_after);
        assert_eq!(content(&here.get_complete(built.id).unwrap()), bytes);
    }
}

#[test]
fn whatever_a_crash_leaves_is_completed_without_fetching_what_is_there() {
    let (directory, packs, built) = published(&noise(3_000_000, 4));
    let whole = std::fs::read(packs.get_complete(built.id).unwrap().path()).unwrap();
    let from = frames(&packs.get_complete(built.id).unwrap());
    let (half, all) = (whole.len() / 2, whole.len());
    let longer = [whole.as_slice(), b"more"].concat();
    // What is in the partial and in the complete pack, and how many good bytes that leaves.
    type Bytes<'a> = Option<&'a [u8]>;
    let states: [(&str, Bytes<'_>, Bytes<'_>, usize); 8] = [
        ("the manifest alone", None, None, 0),
        ("an empty partial pack", Some(b""), None, 0),
        ("half a partial pack", Some(&whole[..half]), None, half),
        ("all of a partial pack", Some(&whole), None, all),
        ("a partial pack that is too long", Some(&longer), None, all),
        ("both names", Some(b""), Some(&whole), all),
        ("a truncated complete pack", None, Some(&whole[..all - 1]), all - 1),
        ("a complete pack that is too long", None, Some(&longer), all),
    ];
    for (number, (what, partial, complete, good)) in states.into_iter().enumerate() {
        let here = PackDirectory::open(&directory.path().join(format!("here{number}"))).unwrap();
        let put = |ending: &str, bytes: &[u8]| {
            std::fs::write(here.path().join(format!("{}.{ending}", built.id)), bytes).unwrap();
        };
        put("manifest", &built.manifest.encode().unwrap());
        partial.into_iter().for_each(|bytes| put("part", bytes));
        complete.into_iter().for_each(|bytes| put("pack", bytes));
        let mut end = 0;
        let lost = from.iter().filter(|frame| {
            end += frame.len();
            end > good
        });
        let lost = lost.count();

        let pack = here.get(built.id).unwrap().unwrap();

        assert_eq!(fetch(&pack, &from).len(), lost, "{what}");
        assert_eq!(std::fs::read(here.get_complete(built.id).unwrap().path()).unwrap(), whole, "{what}");
    }
}

#[test]
fn a_damaged_frame_is_found_on_reading_and_can_be_fetched_again() {
    let bytes = noise(2_000_000, 5);
    let (directory, packs, built) = published(&bytes);
    let pack = packs.get_complete(built.id).unwrap();
    let good = frames(&pack);
    let file = std::fs::File::options().write(true).open(pack.path()).unwrap();
    file.write_all_at(&[good[0][5] ^ 4], 5).unwrap();

    let pack = packs.get(built.id).unwrap().unwrap();
    assert_eq!(pack.damaged(|_| {}).unwrap(), [0]);
    assert!(matches!(pack.read_frame(0), Err(PackError::Corrupt { index: 0, .. })));
    let stopped = write_file(&pack, &directory.path().join("out"), 0o600).unwrap_err();
    assert_eq!(stopped.damaged_chunk(), Some(0));
    assert!(!directory.path().join("out").exists());

    pack.demote(0).unwrap();
    assert!(!pack.is_complete() && matches!(packs.get_complete(built.id), Err(PackError::Incomplete { .. })));
    assert_eq!(pack.read_frame(1).unwrap(), good[1]);
    assert_eq!(fetch(&pack, &good), [0]);
    assert_eq!(content(&packs.get_complete(built.id).unwrap()), bytes);
}

#[test]
fn a_damaged_pack_never_unpacks() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), noise(2_000_000, 6)).unwrap();
    let packs = PackDirectory::open(&directory.path().join("packs")).unwrap();
    let built = build(&source, &packs, |_| {}).unwrap();
    let pack = packs.get_complete(built.id).unwrap();
    let file = std::fs::File::options().write(true).open(pack.path()).unwrap();
    file.set_len(pack.frame_bytes() - 10).unwrap();

    let stopped = unpack_tree(&pack, &directory.path().join("out")).unwrap_err();

    assert_eq!(stopped.damaged_chunk(), Some(u32::try_from(built.chunks - 1).unwrap()));
    assert_eq!(names(directory.path()), ["packs", "source"]);
    assert!(
        write_file(&pack, &directory.path().join("out"), 0o600).unwrap_err().to_string().contains("a tree")
    );
}

#[test]
fn a_damaged_manifest_is_reported_and_replaced() {
    let (_directory, packs, built) = published(&noise(500_000, 7));
    let path = packs.path().join(format!("{}.manifest", built.id));
    let good = std::fs::read(&path).unwrap();
    for bytes in [&good[..good.len() - 1], b"", &[good.as_slice(), b"x"].concat()] {
        std::fs::write(&path, bytes).unwrap();
        let damaged = packs.get(built.id).unwrap_err();
        assert!(damaged.is_damage() && damaged.to_string().contains(path.to_str().unwrap()), "{damaged}");
        assert!(packs.create(&built.manifest).unwrap().is_complete());
        assert_eq!(std::fs::read(&path).unwrap(), good);
    }
}

#[test]
fn chunks_of_the_version_before_are_not_fetched() {
    let before = noise(4_000_000, 8);
    let mut after = before.clone();
    after.splice(2_000_000..2_000_010, *b"a change");
    let (directory, packs, old) = published(&before);
    let source = directory.path().join("source");
    std::fs::write(&source, &after).unwrap();
    let new = build(&source, &packs, |_| {}).unwrap();
    let here = PackDirectory::open(&directory.path().join("here")).unwrap();
    let pack = here.create(&new.manifest).unwrap();
    let from = packs.get_complete(old.id).unwrap();

    let seeded = pack.seed_from(&from).unwrap();

    assert!(u64::from(seeded.chunks) + 3 >= new.chunks as u64, "{seeded:?} of {}", new.chunks);
    assert_eq!(seeded.chunks, pack.have().count());
    assert_eq!(pack.seed_from(&from).unwrap().chunks, 0);
    fetch(&pack, &frames(&packs.get_complete(new.id).unwrap()));
    assert_eq!(content(&pack), after);
}

#[test]
fn content_that_repeats_itself_is_fetched_once() {
    let frame = FrameMaker::new().unwrap().make(&[7; 100_000]).unwrap();
    let other = FrameMaker::new().unwrap().make(b"other").unwrap();
    let chunks = vec![frame.chunk, other.chunk, frame.chunk, frame.chunk];
    let manifest = Manifest { content: Content::File, bytes: 300_005, chunks };
    let directory = tempfile::tempdir().unwrap();
    let pack = PackDirectory::open(directory.path()).unwrap().create(&manifest).unwrap();

    assert_eq!(pack.write_frame(2, &frame.frame).unwrap(), [0, 2, 3]);
    assert!(pack.write_frame(0, &frame.frame).unwrap().is_empty());
    assert_eq!(pack.write_frame(1, &other.frame).unwrap(), [1]);

    pack.complete().unwrap();
    assert_eq!(content(&pack).len(), 300_005);
}

#[test]
fn a_pack_that_the_disk_has_no_room_for_is_not_begun() {
    let memory = Path::new("/dev/shm");
    let directory = tempfile::tempdir_in(if memory.is_dir() { memory } else { Path::new("/tmp") }).unwrap();
    let packs = PackDirectory::open(directory.path()).unwrap();
    let chunk = Chunk { hash: ChunkHash([1; 32]), bytes: 1, frame: FrameHash([2; 32]), frame_bytes: 4 << 20 };
    let manifest = Manifest { content: Content::File, bytes: 262_144, chunks: vec![chunk; 262_144] };

    let refused = packs.create(&manifest).unwrap_err();

    assert!(matches!(refused, PackError::NoSpace { needed, .. } if needed == 1 << 40), "{refused}");
    assert!(refused.to_string().contains(directory.path().to_str().unwrap()), "{refused}");
    assert!(names(directory.path()).iter().all(|name| name.ends_with(".manifest")));
}

#[test]
fn a_pipe_or_a_link_in_a_packs_place_is_refused_without_waiting() {
    let (directory, packs, built) = published(&noise(200_000, 9));
    let path = packs.get_complete(built.id).unwrap().path().to_owned();
    std::fs::rename(&path, directory.path().join("elsewhere")).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(packs.get_complete(built.id), Err(PackError::Io { .. })));
    assert!(matches!(packs.get(built.id), Err(PackError::Io { .. })));

    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(directory.path().join("elsewhere"), &path).unwrap();
    assert!(matches!(packs.get_complete(built.id), Err(PackError::Io { .. })));
}

#[test]
fn building_again_changes_nothing_repairs_damage_and_clears_what_a_kill_left() {
    let (directory, packs, built) = published(&noise(1_500_000, 10));
    let path = packs.get_complete(built.id).unwrap().path().to_owned();
    let good = std::fs::read(&path).unwrap();
    std::fs::write(&path, b"damaged").unwrap();
    std::fs::write(packs.path().join(".build-killed"), b"half").unwrap();
    let mut seen = Vec::new();

    let again = build(&directory.path().join("source"), &packs, |progress| seen.push(progress)).unwrap();

    assert_eq!(again, built);
    assert_eq!(std::fs::read(&path).unwrap(), good);
    assert_eq!(names(packs.path()).len(), 2);
    assert!(seen.windows(2).all(|pair| pair[0].done < pair[1].done));
    assert_eq!(seen.last().map(|progress| (progress.done, progress.total)), Some((1_500_000, 1_500_000)));
}

#[test]
fn a_build_that_fails_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let packs = PackDirectory::open(&directory.path().join("packs")).unwrap();
    let source = directory.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("a"), noise(3_000_000, 11)).unwrap();
    std::os::unix::fs::symlink("/etc", source.join("b")).unwrap();
    build(&source, &packs, |_| {}).unwrap_err();
    build(&directory.path().join("nothing"), &packs, |_| {}).unwrap_err();
    build(Path::new("/dev/null"), &packs, |_| {}).unwrap_err();
    assert!(names(packs.path()).is_empty());
}

#[test]
fn an_empty_file_and_an_empty_directory_are_artifacts() {
    let (directory, packs, built) = published(b"");
    let pack = packs.get_complete(built.id).unwrap();
    assert!(built.chunks == 0 && content(&pack).is_empty());
    let here = PackDirectory::open(&directory.path().join("here")).unwrap();
    here.create(&built.manifest).unwrap().complete().unwrap();
    write_file(&here.get_complete(built.id).unwrap(), &directory.path().join("out"), 0o600).unwrap();

    let empty = directory.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let tree = build(&empty, &packs, |_| {}).unwrap();
    unpack_tree(&packs.get_complete(tree.id).unwrap(), &directory.path().join("tree")).unwrap();
    assert!(names(&directory.path().join("tree")).is_empty());
}

#[test]
fn a_frame_that_lies_about_its_content_is_damage_when_it_is_read() {
    // A manifest is taken by its hash; if its own maker lied in it, that is found before anything is shown.
    let made = FrameMaker::new().unwrap().make(b"honest").unwrap();
    let chunk = Chunk { hash: ChunkHash([0; 32]), ..made.chunk };
    let manifest = Manifest { content: Content::File, bytes: 6, chunks: vec![chunk] };
    let directory = tempfile::tempdir().unwrap();
    let pack = PackDirectory::open(&directory.path().join("packs")).unwrap().create(&manifest).unwrap();
    pack.write_frame(0, &made.frame).unwrap();
    pack.complete().unwrap();

    let stopped = write_file(&pack, &directory.path().join("out"), 0o600).unwrap_err();

    let source = std::error::Error::source(&stopped).unwrap();
    assert!(matches!(source.downcast_ref(), Some(FrameError::Content)), "{stopped}");
    assert!(!directory.path().join("out").exists());
}
