//! What strace wrote down, as calls in the order in which they can have reached the disk.
//!
//! Main invariant: a write counts from the moment it was asked for, a sync only once it has returned. Refuses
//! a record it does not understand, rather than replaying less than what happened.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// The calls that must be recorded: all that change a file, a directory, or what a descriptor means.
pub(super) const CALLS: &str = "trace=openat,open,creat,close,mkdir,mkdirat,pwrite64,pwritev,pwritev2,write,\
     writev,lseek,ftruncate,truncate,fallocate,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,\
     unlinkat,rmdir,dup,dup2,dup3,copy_file_range,sendfile";

/// One call that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    Open {
        path: PathBuf,
        descriptor: i32,
        create: bool,
        truncate: bool,
    },
    Close {
        descriptor: i32,
    },
    MakeDirectory {
        path: PathBuf,
    },
    /// `None`: at the descriptor's own place.
    Write {
        descriptor: i32,
        bytes: Vec<u8>,
        at: Option<usize>,
    },
    /// From one descriptor's own place to another's.
    Copy {
        from: i32,
        to: i32,
        length: usize,
    },
    Truncate {
        descriptor: i32,
        length: usize,
    },
    Sync {
        descriptor: i32,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove {
        path: PathBuf,
    },
    ProcessEnded,
}

impl Call {
    /// What was written to standard output.
    pub(super) fn printed(&self) -> Option<&str> {
        match self {
            Self::Write { descriptor: 1, bytes, at: None } => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }
}

pub(super) fn parse(text: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut begun: BTreeMap<&str, String> = BTreeMap::new();
    let mut open = Directories::new();
    for line in text.lines() {
        let (thread, rest) = line.split_once(' ').expect("every line begins with the thread");
        let rest = rest.trim_start();
        if let Some(first) = rest.strip_suffix(" <unfinished ...>") {
            if is_data_write(first) {
                calls.extend(call(&format!("{}) = 0", first.trim_end_matches(',')), &mut open));
            } else {
                begun.insert(thread, first.to_owned());
            }
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let (_, end) = resumed.split_once(" resumed>").expect("a resumed call says so");
            if let Some(first) = begun.remove(thread) {
                calls.extend(call(&format!("{first}{end}"), &mut open));
            }
        } else if !rest.starts_with("+++") && !rest.starts_with("---") {
            calls.extend(call(rest, &mut open));
        }
    }
    calls
}

/// What descriptors name, for calls whose paths begin at one.
type Directories = BTreeMap<i32, PathBuf>;

fn is_data_write(text: &str) -> bool {
    text.starts_with("pwrite64(") || text.starts_with("write(")
}

fn call(text: &str, open: &mut Directories) -> Option<Call> {
    let (name, rest) = text.split_once('(').expect("a call has arguments");
    let (arguments, result) = rest.rsplit_once(" = ").expect("a call has a result");
    if result.starts_with('-') || result.starts_with('?') {
        return None;
    }
    let arguments = arguments.trim_end();
    let arguments: Vec<&str> = arguments.strip_suffix(')').expect("arguments end").split(", ").collect();
    let descriptor = || arguments[0].parse().expect("a descriptor");
    let number = |index: usize| arguments[index].parse::<usize>().expect("a number");
    let path = |index: usize| PathBuf::from(String::from_utf8(bytes(arguments[index])).expect("a text path"));
    let path_at = |index: usize, open: &Directories| match arguments[index].parse::<i32>() {
        // A descriptor that is not known was not opened by its name: none of ours.
        Ok(directory) => open.get(&directory).cloned().unwrap_or_default().join(path(index + 1)),
        Err(_) => path(index + 1),
    };
    Some(match name {
        "openat" => {
            let path = path_at(0, open);
            let opened = result.parse().expect("a descriptor");
            open.insert(opened, path.clone());
            let flags = arguments[2];
            let (create, truncate) = (flags.contains("O_CREAT"), flags.contains("O_TRUNC"));
            Call::Open { path, descriptor: opened, create, truncate }
        }
        "close" => {
            open.remove(&descriptor());
            Call::Close { descriptor: descriptor() }
        }
        "mkdir" => Call::MakeDirectory { path: path(0) },
        "pwrite64" => {
            Call::Write { descriptor: descriptor(), bytes: bytes(arguments[1]), at: Some(number(3)) }
        }
        "write" => Call::Write { descriptor: descriptor(), bytes: bytes(arguments[1]), at: None },
        // Reading moves a descriptor's place; none that is read is then written at its place.
        "lseek" => return None,
        "copy_file_range" => {
            assert!(arguments[1] == "NULL" && arguments[3] == "NULL", "{text}");
            let to = arguments[2].parse().expect("a descriptor");
            Call::Copy { from: descriptor(), to, length: result.parse().expect("a number") }
        }
        "ftruncate" => Call::Truncate { descriptor: descriptor(), length: number(1) },
        "fsync" | "fdatasync" => Call::Sync { descriptor: descriptor() },
        "rename" => Call::Rename { from: path(0), to: path(1) },
        "renameat" | "renameat2" => Call::Rename { from: path_at(0, open), to: path_at(2, open) },
        "unlink" | "rmdir" => Call::Remove { path: path(0) },
        "unlinkat" => Call::Remove { path: path_at(0, open) },
        other => panic!("the store uses {other}, which the replay does not know: {text:.200}"),
    })
}

/// The bytes of a string in strace's `-xx` form.
fn bytes(text: &str) -> Vec<u8> {
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let inner = inner.unwrap_or_else(|| panic!("a string must be whole: {text:.80}"));
    let digit = |c: u8| char::from(c).to_digit(16).expect("hexadecimal");
    inner
        .as_bytes()
        .chunks_exact(4)
        .map(|code| u8::try_from(digit(code[2]) << 4 | digit(code[3])).expect("two digits make a byte"))
        .collect()
}
