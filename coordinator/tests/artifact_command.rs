//! `lunar-coordinator artifact`, as a person or a script meets it: the real program, its answers and exit codes.

#![allow(clippy::unwrap_used, reason = "the helpers of tests may, as the tests do")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// A home and a small tree, and a way to run the command.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir_all(place.path().join("tree/bin")).unwrap();
        std::fs::write(place.path().join("tree/bin/web"), b"#!/bin/sh\n").unwrap();
        place
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_lunar-coordinator"))
            .args(["--home", "home", "artifact"])
            .args(arguments)
            .current_dir(self.path())
            .env_remove("LUNAR_HOME")
            .output()
            .unwrap()
    }

    /// The answer of a command that must end well.
    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--output", "json"]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The exit code and the message of a command that must fail, and say nothing on standard output.
    fn failure(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    fn add(&self, version: &str) -> Value {
        self.json(&["add", "tree", "--name", "web", "--version", version])
    }
}

#[test]
fn a_version_is_published_listed_shown_verified_and_removed() {
    let place = Place::new();
    let added = place.add("1.0");
    assert_eq!((&added["new"], &added["name"]), (&Value::Bool(true), &Value::from("web")));
    assert_eq!(place.add("1.0")["new"], false);

    let id = added["id"].as_str().unwrap();
    assert_eq!(place.json(&["list"])[0]["id"], id);
    assert_eq!(place.json(&["show", "web@1.0"])["id"], id);
    assert_eq!(place.json(&["show", &id[..12]])["names"][0]["version"], "1.0");
    assert_eq!(place.json(&["verify"])[0]["intact"], true);

    assert_eq!(place.json(&["remove", "web@1.0"])["pack"], true);
    assert_eq!(place.json(&["list"]), Value::Array(Vec::new()));
    assert_eq!(std::fs::read_dir(place.path().join("home/artifacts")).unwrap().count(), 0);
}

#[test]
fn a_dry_run_tells_the_id_and_writes_nothing() {
    let place = Place::new();
    let told = place.json(&["add", "tree", "--name", "web", "--version", "1.0", "--dry-run"]);
    assert!(!place.path().join("home").exists());
    assert_eq!(place.add("1.0")["id"], told["id"]);
    assert_eq!(place.json(&["remove", "web@1.0", "--dry-run"])["dry_run"], true);
    assert_eq!(place.json(&["list"])[0]["complete"], true);
}

#[test]
fn a_published_version_never_changes() {
    let place = Place::new();
    let first = place.add("1.0");
    std::fs::write(place.path().join("tree/bin/web"), b"#!/bin/bash\n").unwrap();

    let (code, message) = place.failure(&["add", "tree", "--name", "web", "--version", "1.0"]);

    assert_eq!(code, 3);
    assert!(message.contains("web 1.0 is published already") && message.contains("next:"), "{message}");
    let listed = place.json(&["list"]);
    assert_eq!(listed.as_array().unwrap().len(), 1, "the refused pack is gone again");
    assert_eq!(listed[0]["id"], first["id"]);
}

#[test]
fn bytes_that_two_versions_share_stay_until_the_last_is_removed() {
    let place = Place::new();
    place.add("1.0");
    place.add("1.0-rc1");
    assert_eq!(place.json(&["remove", "web@1.0-rc1"])["pack"], false);
    assert_eq!(place.json(&["verify", "web@1.0"])[0]["intact"], true);
    assert_eq!(place.json(&["remove", "web@1.0"])["pack"], true);
}

#[test]
fn damage_is_found_and_adding_again_repairs_it() {
    let place = Place::new();
    let id = place.add("1.0")["id"].as_str().unwrap().to_owned();
    let pack = place.path().join(format!("home/artifacts/{id}.pack"));
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&pack, bytes).unwrap();

    let verified = place.run(&["verify", "--output", "json"]);
    assert_eq!(verified.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!(answer[0]["damaged"], Value::from(vec![0]));

    place.add("1.0");
    assert_eq!(place.json(&["verify"])[0]["intact"], true);
}

#[test]
fn what_is_wrong_is_told_with_its_place_and_a_code() {
    let place = Place::new();
    std::os::unix::fs::symlink("/etc/shadow", place.path().join("tree/bin/leak")).unwrap();
    let add = |source, name, version| place.failure(&["add", source, "--name", name, "--version", version]);

    let (code, message) = add("tree", "web", "1.0");
    assert!(code == 3 && message.contains("bin/leak") && message.contains("/etc/shadow"), "{message}");
    let (code, message) = add("nowhere", "web", "1.0");
    assert!(code == 3 && message.contains("nowhere") && message.contains("No such file"), "{message}");
    let (code, message) = add("tree", "we/b", "1.0");
    assert!(code == 2 && message.contains("'/'"), "{message}");
    let (code, message) = place.failure(&["show", "web@9"]);
    assert!(code == 3 && message.contains("artifact list"), "{message}");
    std::fs::write(place.path().join("home/artifacts/web@2.json"), b"{").unwrap();
    let (code, message) = place.failure(&["list"]);
    assert!(code == 8 && message.contains("web@2.json"), "{message}");
}
