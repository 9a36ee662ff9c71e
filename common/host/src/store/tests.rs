//! What a store promises, but for power cuts: those have a file of their own.

use super::opening::copy;
use super::pieces::{PIECE_BYTES, ZONE_PIECES, pieces_after_first};
use super::*;

fn some(store: &Store, key: &str) -> Option<Vec<u8>> {
    store.get(key.as_bytes()).unwrap()
}

/// A closed store with enough in it to fill several of sled's segments.
fn filled(directory: &Path) {
    let store = Store::open(directory).unwrap();
    for number in 0u32..200 {
        let value = vec![u8::try_from(number % 251).unwrap(); 5000];
        store.commit(&[Write::put(format!("key-{number:04}"), value)]).unwrap();
    }
    store.close().unwrap();
}

/// Where the store is now.
fn current(directory: &Path) -> PathBuf {
    generation_path(directory, Mark::read(directory).unwrap().unwrap().generation)
}

fn is_damage(result: Result<Store, StoreError>) -> bool {
    match result {
        Err(StoreError::Damaged { .. }) => true,
        Err(other) => panic!("told as something else: {other}"),
        Ok(_) => false,
    }
}

#[test]
fn what_was_committed_is_there_after_reopening_and_is_read_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    store
        .commit(&[
            Write::put("b/2", "two"),
            Write::put("a", "x"),
            Write::put("b/1", "one"),
            Write::put("c", ""),
        ])
        .unwrap();
    store.commit(&[Write::remove("a"), Write::put("c", "late"), Write::remove("c")]).unwrap();
    drop(store);

    let store = Store::open(directory.path()).unwrap();

    assert_eq!(store.commits(), 2);
    assert_eq!((some(&store, "a"), some(&store, "c")), (None, None));
    let all: Vec<_> = store.scan(b"b/").map(Result::unwrap).collect();
    assert_eq!(all, [(b"b/1".to_vec(), b"one".to_vec()), (b"b/2".to_vec(), b"two".to_vec())]);
    let last = store.range(b"", b"\xff").next_back().unwrap().unwrap();
    assert_eq!(last.0, b"b/2");
    assert_eq!(store.range(b"z", b"a").count(), 0);
}

#[test]
fn a_large_value_is_cut_up_put_together_and_replaced_without_remains() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let large: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[0]).collect();
    for length in [large.len(), PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES, 0, large.len()] {
        store.commit(&[Write::put("plan", &large[..length]), Write::put("plan2", "other")]).unwrap();

        assert_eq!(some(&store, "plan").unwrap(), &large[..length]);
        let pieces = store.db().scan_prefix([ZONE_PIECES]).count();
        assert_eq!(pieces, pieces_after_first(length), "{length}");
    }
    store.commit(&[Write::remove("plan")]).unwrap();

    assert_eq!(store.db().scan_prefix([ZONE_PIECES]).count(), 0);
    assert_eq!(some(&store, "plan2").unwrap(), b"other");
    // sled never syncs the files it makes for what does not fit its buffers: there must be none.
    assert_eq!(std::fs::read_dir(store.path().join("blobs")).unwrap().count(), 0);
}

#[test]
fn a_store_that_is_gone_or_empty_is_damage_and_never_a_new_one() {
    for destroy in [
        (|store: &Path| std::fs::remove_dir_all(store).unwrap()) as fn(&Path),
        |store| std::fs::remove_file(store.join("db")).unwrap(),
        |store| std::fs::remove_file(store.join("conf")).unwrap(),
        |store| std::fs::write(store.join("db"), b"").unwrap(),
        |store| {
            std::fs::remove_dir_all(store).unwrap();
            std::fs::create_dir(store).unwrap();
        },
        |store| {
            // A whole, good store, but another one.
            let other = tempfile::tempdir().unwrap();
            filled(other.path());
            std::fs::remove_dir_all(store).unwrap();
            std::fs::rename(current(other.path()), store).unwrap();
        },
        |store| std::fs::remove_file(store.with_extension("mark")).unwrap(),
        |store| std::fs::write(store.with_extension("mark"), b"").unwrap(),
    ] {
        let directory = tempfile::tempdir().unwrap();
        filled(directory.path());
        destroy(&current(directory.path()));

        assert!(is_damage(Store::open(directory.path())));
        assert!(is_damage(Store::open(directory.path())), "a second try must not see a new store either");
    }
}

#[test]
fn a_store_cut_short_anywhere_is_damage() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path());
    let file = current(directory.path()).join("db");
    let whole = std::fs::read(&file).unwrap();
    assert!(whole.len() > 1_000_000, "several segments are needed to cut between them");

    // The file ends with room that nothing has been written to yet.
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let mut length = used - 1;
    while length > 0 {
        std::fs::write(&file, &whole[..length]).unwrap();
        assert!(is_damage(Store::open(directory.path())), "{length} of {used} bytes");
        length = length.saturating_sub(used / 23);
    }
    std::fs::write(&file, &whole[..used]).unwrap();
    assert_eq!(Store::open(directory.path()).unwrap().commits(), 200, "the whole file is whole");
}

#[test]
fn no_changed_bit_changes_a_value_unnoticed() {
    let filled_once = tempfile::tempdir().unwrap();
    filled(filled_once.path());
    let whole = std::fs::read(current(filled_once.path()).join("db")).unwrap();
    let mut noticed = 0;

    for round in 0..40 {
        let at = (round * 7919 * 131 + 4099) % whole.len();
        let mut bent = whole.clone();
        bent[at] ^= 1 << (round % 8);
        let directory = tempfile::tempdir().unwrap();
        copy_all(filled_once.path(), directory.path());
        std::fs::write(current(directory.path()).join("db"), &bent).unwrap();
        let Ok(store) = Store::open(directory.path()) else {
            noticed += 1;
            continue;
        };
        let read: Result<Vec<_>, _> = store.scan(b"").collect();
        match read {
            Err(_) => noticed += 1,
            Ok(all) => {
                assert_eq!(all.len(), 200, "byte {at} made values vanish");
                for (number, (_, value)) in all.iter().enumerate() {
                    assert_eq!(value, &vec![u8::try_from(number % 251).unwrap(); 5000], "byte {at}");
                }
            }
        }
    }
    assert!(noticed > 0, "some of 40 changed bits must hit what is still in use");
}

#[test]
fn two_processes_cannot_have_one_store_and_a_file_in_its_way_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let held = Store::open(directory.path()).unwrap();
    assert!(matches!(Store::open(directory.path()), Err(StoreError::InUse { .. })));
    drop(held);

    let in_the_way = directory.path().join("file");
    std::fs::write(&in_the_way, b"").unwrap();
    let refused = Store::open(&in_the_way).unwrap_err();
    assert!(matches!(refused, StoreError::Open { .. }), "{refused}");
}

#[test]
fn what_is_too_long_is_refused_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let refused = store.commit(&[Write::put("a", "1"), Write::put(vec![b'k'; KEY_BYTES_MAX + 1], "2")]);
    assert!(matches!(refused, Err(StoreError::TooLong { what: "key", .. })));
    assert_eq!(some(&store, "a"), None);
    store.commit(&[Write::put("a", "1")]).unwrap();
    assert_eq!(some(&store, "a").unwrap(), b"1");
}

fn copy_all(from: &Path, to: &Path) {
    let store = current(from);
    copy(&store, &to.join(store.file_name().unwrap())).unwrap();
    std::fs::copy(from.join("store.mark"), to.join("store.mark")).unwrap();
}
