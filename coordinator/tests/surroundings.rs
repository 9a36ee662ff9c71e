//! A machine that refuses: disks that are full or read-only, under the coordinator's program.
//!
//! Owns the exit code, the words, and that nothing is lost which was answered for. A file-size limit stands in for
//! the full disk: it needs no root, and nobody else feels it.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use lunar_common::document::{Kind, SignedDocument};
use lunar_host::documents;
use support::{Home, Said, signed, wide_plan};

/// Runs what follows it on a disk that takes no file beyond `$0` bytes. Past the limit the kernel sends a signal as
/// well, which would end the process: it is ignored.
const ON_A_FULL_DISK: &str = "trap '' XFSZ; exec prlimit --fsize=$0: \"$@\"";

/// Runs what follows it while the directory `$0` cannot be written.
const READ_ONLY: &str = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"";

/// A command of the program, run by a shell that prepares its surroundings.
fn within(home: &Home, script: &str, with: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script, with, env!("CARGO_BIN_EXE_lunar-coordinator")]).args(arguments);
    command.env("LUNAR_HOME", home.0.path()).env_remove("LUNAR_LOG").stdin(Stdio::null());
    command
}

fn said(mut command: Command) -> Said {
    let output = command.output().unwrap();
    Said {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A plan for another campaign, in the home and signed.
fn plan(home: &Home, campaign: &str) -> String {
    let wide = wide_plan();
    let body = String::from_utf8(wide.body).unwrap().replace("web-2", campaign);
    let document: SignedDocument = signed(Kind::Plan, body, 1);
    let path = home.path(&format!("plans/{campaign}-1.toml"));
    documents::save(&path, &document).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Waits until a coordinator says that it runs. Returns the lines that follow.
fn until_it_runs(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let running = lines.by_ref().find(|line| line.contains("\"listening\""));
    assert!(running.is_some(), "the coordinator ended before it ran");
    lines
}

#[test]
fn a_coordinator_whose_disk_fills_up_stops_with_6_and_has_lost_nothing_that_it_answered_for() {
    let home = Home::founded([7]);
    let (kept, refused) = (plan(&home, "web-2"), plan(&home, "web-3"));
    let serve = ["--log-format", "json", "serve", "--listen", "127.0.0.1:0"];
    let mut command = within(&home, ON_A_FULL_DISK, "100000000", &serve);
    let mut coordinator = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = until_it_runs(&mut coordinator);
    let answered = home.run(&["plan", "publish", &kept]);
    assert_eq!(answered.code, 0, "{}", answered.err);

    let pid = coordinator.id().to_string();
    let full = Command::new("prlimit").args(["--fsize=1:", "--pid", &pid]).status().unwrap();
    assert!(full.success());
    let late = home.run(&["plan", "publish", &refused]);

    assert_ne!(late.code, 0, "it said yes and could not keep it: {}", late.out);
    assert_eq!(coordinator.wait().unwrap().code(), Some(6));
    let told = lines.collect::<Vec<_>>().join("\n");
    let store = home.0.path().to_str().unwrap();
    assert!(told.contains(store) && told.contains("File too large"), "says what and where: {told}");

    let again = home.serve();
    let status = home.run(&["status", "--output", "json"]).json();
    let campaigns: Vec<&str> =
        status["campaigns"].as_array().unwrap().iter().map(|one| one["campaign"].as_str().unwrap()).collect();
    assert!(campaigns.contains(&"web-2"), "{campaigns:?}");
    assert_eq!(home.run(&["audit", "verify", "--output", "json"]).json()["intact"], true);
    assert_eq!(home.run(&["plan", "publish", &refused]).code, 0, "with room it is taken");
    let (code, rest) = again.stop();
    assert_eq!(code, 0, "{}", rest.join("\n"));
}

#[test]
fn an_artifact_that_does_not_fit_on_the_disk_leaves_nothing_half_made() {
    let home = Home::empty();
    let tree = home.path("tree/noise");
    let mut noise = 1u64;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        noise.to_le_bytes()[7]
    })
    .take(4_000_000)
    .collect();
    fs::write(&tree, bytes).unwrap();
    let tree = tree.parent().unwrap().to_str().unwrap().to_owned();
    let add = ["artifact", "add", &tree, "--name", "web", "--version", "1"];

    let full = said(within(&home, ON_A_FULL_DISK, "1000000", &add));

    assert_eq!(full.code, 6, "{}{}", full.out, full.err);
    let place = home.0.path().join("artifacts").display().to_string();
    assert!(full.err.contains(&place) && full.err.contains("next: free some room"), "{}", full.err);
    assert_eq!(home.run(&["artifact", "list", "--output", "json"]).json(), serde_json::json!([]));
    let left: Vec<_> = files_below(&home.0.path().join("artifacts"));
    assert!(left.iter().all(|(_, bytes)| *bytes == 0), "left behind: {left:?}");
    assert_eq!(home.run(&add).code, 0, "with room it is added");
    assert_eq!(home.run(&["artifact", "verify", "web@1"]).code, 0);
}

#[test]
fn every_command_that_writes_says_which_directory_is_read_only() {
    let home = Home::founded([7]);
    let tree = home.path("tree/file");
    fs::write(&tree, "1").unwrap();
    let tree = tree.parent().unwrap().to_str().unwrap().to_owned();
    let place = home.0.path().to_str().unwrap().to_owned();
    for arguments in [
        vec!["serve", "--listen", "127.0.0.1:0"],
        vec!["origin", "--listen", "127.0.0.1:0"],
        vec!["artifact", "add", &tree, "--name", "web", "--version", "1"],
    ] {
        let refused = read_only(&home, &place, &arguments);
        assert_eq!(refused.code, 6, "{arguments:?}: {}{}", refused.out, refused.err);
        assert!(refused.err.contains(&place), "{arguments:?}: {}", refused.err);
        let why = ["Read-only file system", "Permission denied"];
        assert!(why.iter().any(|why| refused.err.contains(why)), "{arguments:?}: {}", refused.err);
    }
}

/// Runs a command while a directory cannot be written. Permissions do not bind root, who gets a read-only mount
/// that nobody else sees.
fn read_only(home: &Home, place: &str, arguments: &[&str]) -> Said {
    if nix::unistd::geteuid().is_root() {
        let mut command = Command::new("unshare");
        let inner = within(home, READ_ONLY, place, arguments);
        command.arg("-m").arg(inner.get_program()).args(inner.get_args());
        command.env("LUNAR_HOME", home.0.path()).stdin(Stdio::null());
        return said(command);
    }
    let allow = |mode| fs::set_permissions(place, fs::Permissions::from_mode(mode)).unwrap();
    allow(0o500);
    let refused = home.run(arguments);
    allow(0o700);
    refused
}

/// Every file below a directory with its length.
fn files_below(directory: &Path) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().map(Result::unwrap) {
            let kind = entry.metadata().unwrap();
            if kind.is_dir() {
                open.push(entry.path());
            } else {
                found.push((entry.path().display().to_string(), kind.len()));
            }
        }
    }
    found
}
