//! One tree has one id. A program of its own, because the umask belongs to the whole process.

#![allow(clippy::unwrap_used, reason = "the helpers of tests may, as the tests do")]

mod support;

use std::fs::{File, FileTimes};
use std::path::Path;
use std::time::{Duration, SystemTime};

use lunar_artifact::measure;
use nix::sys::stat::{Mode, umask};
use support::{Item, Node, make, noise};

fn items() -> Vec<Item> {
    let item = |path: &str, node, mode| Item {
        path: path.split('/').map(|part| part.as_bytes().to_vec()).collect(),
        node,
        mode,
        owner: nix::unistd::geteuid().as_raw(),
    };
    let mut items: Vec<Item> = (0..200)
        .map(|number| item(&format!("file{number}"), Node::File(noise(number * 37, 1)), 0o640))
        .collect();
    items.push(item("a-b", Node::File(b"before the slash".to_vec()), 0o755));
    items.push(item("a", Node::Directory, 0o750));
    items.push(item("a/inner", Node::File(noise(700_000, 2)), 0o4711));
    items.push(item("a0", Node::Symlink(b"a/inner".to_vec()), 0o777));
    items.push(item("empty", Node::Directory, 0o1777));
    items
}

fn made(items: &[Item], mask: u32, written: SystemTime) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let before = umask(Mode::from_bits_truncate(mask));
    make(directory.path(), items);
    umask(before);
    let stamp = |path: &Path| {
        let times = FileTimes::new().set_modified(written).set_accessed(written);
        File::options().read(true).open(path).unwrap().set_times(times).unwrap();
    };
    stamp(&directory.path().join("a/inner"));
    stamp(&directory.path().join("a"));
    directory
}

#[test]
fn order_time_umask_and_place_do_not_matter_and_everything_else_does() {
    let mut reversed: Vec<Item> = items().into_iter().rev().collect();
    // A directory must be told before what is in it; all else is the other way round.
    let directory = reversed.iter().position(|item| item.path == [b"a".to_vec()]).unwrap();
    let directory = reversed.remove(directory);
    reversed.insert(0, directory);

    let one = made(&items(), 0o022, SystemTime::UNIX_EPOCH + Duration::from_secs(1));
    let two = made(&reversed, 0o077, SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000));
    let id = measure(one.path(), |_| {}).unwrap().id;
    assert_eq!(measure(two.path(), |_| {}).unwrap().id, id);

    let mut ids = vec![id];
    for change in 0..4 {
        let mut items = items();
        match change {
            0 => items[7].mode = 0o600,
            1 => items[7].node = Node::File(noise(7 * 37, 9)),
            2 => items[7].path = vec![b"renamed".to_vec()],
            _ => drop(items.pop()),
        }
        let changed = made(&items, 0o022, SystemTime::UNIX_EPOCH);
        ids.push(measure(changed.path(), |_| {}).unwrap().id);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 5);
}
