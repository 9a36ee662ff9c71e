//! The operators' commands for signed documents, as an operator types them.
//!
//! Owns whole flows through the real program: its answers, its exit codes, the files it leaves. Needs
//! openssh-client, as operators have it.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lunar_common::bounds::MESSAGE_BYTES_MAX;
use lunar_common::document::Kind;
use lunar_common::local::{LocalRequest, LocalResponse};
use lunar_common::wire;

/// A directory with three operators' keys, and the program.
struct Desk(tempfile::TempDir);

struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        for name in ["ann", "bob", "eve", "machine"] {
            let made = desk.run(&["enroll", "keygen", &desk.path(name)]);
            assert_eq!(made.code, 0, "{}", made.err);
        }
        desk
    }

    /// One whose trust root is signed.
    fn with_root() -> Self {
        let desk = Self::new();
        let operators =
            ["ann", "bob", "eve"].map(|name| format!("{name}={}", desk.path(&format!("{name}.pub"))));
        let made = desk.run(&[
            "trust",
            "init",
            "--fleet",
            "moon",
            "--operator",
            &operators[0],
            "--operator",
            &operators[1],
            "--operator",
            &operators[2],
            "--role",
            "plan=ann,bob:2",
            "--role",
            "enroll=eve",
            "--key",
            &desk.path("ann"),
            "--key",
            &desk.path("bob"),
        ]);
        assert_eq!(made.code, 0, "{}", made.err);
        assert!(made.out.contains("is signed by ann, bob"), "{}", made.out);
        desk
    }

    /// One that has two artifacts and a plan, not signed yet.
    fn with_plan() -> Self {
        let desk = Self::with_root();
        for version in ["1", "2"] {
            let tree = desk.path(&format!("v{version}"));
            fs::create_dir(&tree).unwrap();
            fs::write(Path::new(&tree).join("index"), version).unwrap();
            let added = desk.run(&["artifact", "add", &tree, "--name", "web", "--version", version]);
            assert_eq!(added.code, 0, "{}", added.err);
        }
        let made = desk.run(&["plan", "new", "web-2", "--author", "ann", "--artifact", "web@2"]);
        assert_eq!(made.code, 0, "{}", made.err);
        desk
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn home(&self, name: &str) -> PathBuf {
        self.0.path().join("home").join(name)
    }

    fn run(&self, arguments: &[&str]) -> Said {
        let output = Command::new(env!("CARGO_BIN_EXE_lunar-coordinator"))
            .args(arguments)
            .env("LUNAR_HOME", self.0.path().join("home"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Said {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

#[test]
fn a_plan_goes_from_a_template_to_signed_by_two_and_says_at_each_step_what_is_missing() {
    let desk = Desk::with_plan();

    let fresh = desk.run(&["plan", "check", "web-2"]);
    assert_eq!(fresh.code, 1);
    assert!(
        fresh.out.contains("has 0 of 2 signatures") && fresh.out.contains("let ann, bob sign"),
        "{}",
        fresh.out
    );

    let one = desk.run(&["plan", "sign", "web-2", "--key", &desk.path("ann")]);
    assert_eq!(one.code, 0, "{}", one.err);
    assert!(one.out.contains("1 of 2 signatures (ann)"), "{}", one.out);
    let early = desk.run(&["plan", "publish", "web-2"]);
    assert_eq!(early.code, 4, "{}", early.out);

    // The second signer uses nothing but OpenSSH.
    let plan = desk.home("plans/web-2-1.toml");
    let signature = Command::new("ssh-keygen")
        .args(["-Y", "sign", "-n", Kind::Plan.namespace(), "-f", &desk.path("bob")])
        .stdin(fs::File::open(&plan).unwrap())
        .output()
        .unwrap();
    fs::write(desk.home("plans/web-2-1.toml.bob.sig"), signature.stdout).unwrap();
    let ready = desk.run(&["--output", "json", "plan", "check", "web-2"]);
    assert_eq!(ready.code, 0, "{}", ready.err);
    let ready: serde_json::Value = serde_json::from_str(&ready.out).unwrap();
    assert_eq!(ready["ready"], true);
    assert_eq!(ready["signers"], serde_json::json!(["ann", "bob"]));

    let nobody = desk.run(&["plan", "publish", "web-2"]);
    assert_eq!(nobody.code, 5);
    assert!(nobody.err.contains("--via unix:"), "{}", nobody.err);
}

#[test]
fn a_plan_that_was_changed_after_signing_or_broken_by_hand_is_told_as_such() {
    let desk = Desk::with_plan();
    for key in ["ann", "bob"] {
        desk.run(&["plan", "sign", "web-2", "--key", &desk.path(key)]);
    }
    let plan = desk.home("plans/web-2-1.toml");
    let text = fs::read_to_string(&plan).unwrap();

    fs::write(&plan, text.replace("soak_s = 60", "soak_s = 61")).unwrap();
    let changed = desk.run(&["plan", "check", "web-2"]);
    assert_eq!(changed.code, 1);
    assert!(changed.out.contains("the file was changed after signing"), "{}", changed.out);

    fs::write(&plan, text.replace("soak_s = 60", "soaks = 60")).unwrap();
    let misspelt = desk.run(&["plan", "check", "web-2"]);
    assert_eq!(misspelt.code, 3);
    assert!(misspelt.err.contains("unknown key `soaks`; did you mean `soak_s`?"), "{}", misspelt.err);
    assert!(misspelt.err.contains("web-2-1.toml") && misspelt.err.contains("next: "), "{}", misspelt.err);
    let signed = desk.run(&["plan", "sign", "web-2", "--key", &desk.path("ann")]);
    assert_eq!(signed.code, 3, "a broken plan was signed");
}

#[test]
fn an_enrolment_is_signed_listed_and_revoked() {
    let desk = Desk::with_root();
    let place = ["--site", "base", "--cluster", "c1", "--tier", "2", "--service", "web", "--machine-key"];
    let key = desk.path("machine.pub");
    let new = |key_file: &str| {
        let mut arguments = vec!["enroll", "new", "srv-1"];
        arguments.extend(place);
        arguments.push(&key);
        arguments.extend(["--key", key_file]);
        desk.run(&arguments)
    };
    let wrong = new(&desk.path("ann"));
    assert!(
        wrong.out.contains("ann is in the trust root, but does not hold the enroll role"),
        "{}",
        wrong.out
    );
    let signed = new(&desk.path("eve"));
    assert!(signed.out.contains("is signed by eve"), "{}{}", signed.out, signed.err);
    let listed = |desk: &Desk| {
        let said = desk.run(&["enroll", "list", "--output", "json"]);
        serde_json::from_str::<serde_json::Value>(&said.out).unwrap()
    };
    assert_eq!(listed(&desk)[0]["problem"], serde_json::Value::Null);
    assert_eq!(listed(&desk)[0]["enrolment"]["sequence"], 2);

    let out = desk.run(&["enroll", "revoke", "srv-1", "--key", &desk.path("ann"), "--no-publish"]);
    assert_eq!(out.code, 0, "{}", out.err);
    assert!(listed(&desk)[0]["problem"].as_str().unwrap().contains("is revoked"));
    let back =
        desk.run(&["enroll", "revoke", "--reinstate", "srv-1", "--key", &desk.path("ann"), "--no-publish"]);
    assert_eq!(back.code, 0, "{}", back.err);
    assert_eq!(listed(&desk)[0]["problem"], serde_json::Value::Null);
}

#[test]
fn a_trust_root_is_rotated_by_both_thresholds() {
    let desk = Desk::with_root();
    let draft = desk.run(&["trust", "rotate", "--remove-key", "eve", "--dry-run"]);
    assert_eq!(draft.code, 3, "the enroll role would have no key left: {}", draft.out);
    let cem = desk.run(&["enroll", "keygen", &desk.path("cem")]);
    assert_eq!(cem.code, 0);
    let named = format!("cem={}", desk.path("cem.pub"));
    assert_eq!(desk.run(&["trust", "add-key", &named, "--role", "enroll", "--role", "root"]).code, 0);
    assert_eq!(desk.run(&["trust", "rotate", "--remove-key", "eve"]).code, 0);

    let one = desk.run(&["trust", "sign", "--key", &desk.path("ann")]);
    assert!(one.out.contains("1 of 2"), "{}", one.out);
    let new_and_old = desk.run(&["trust", "sign", "--key", &desk.path("cem")]);
    assert!(new_and_old.out.contains("1 of 2"), "cem is not in the old root: {}", new_and_old.out);
    let whole = desk.run(&["trust", "sign", "--key", &desk.path("bob")]);
    assert!(whole.out.contains("is signed by"), "{}{}", whole.out, whole.err);
    let shown = desk.run(&["trust", "show", "--output", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!(shown["in_force"]["version"], 2);
    assert_eq!(shown["in_force"]["keys"]["eve"], serde_json::Value::Null);
}

#[test]
fn a_dry_run_writes_nothing() {
    let desk = Desk::with_root();
    let said = desk.run(&["halt", "--all", "--reason", "smoke", "--key", &desk.path("ann"), "--dry-run"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(
        said.out.contains("reason = \"smoke\"") && said.out.contains("nothing was written"),
        "{}",
        said.out
    );
    assert!(!desk.home("documents").exists());
}

#[test]
fn a_halt_goes_to_an_agent_when_there_is_no_coordinator() {
    let desk = Desk::with_root();
    let socket = desk.path("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let agent = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut length = [0u8; 4];
        stream.read_exact(&mut length).unwrap();
        let mut bytes = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
        stream.read_exact(&mut bytes).unwrap();
        let answer = wire::encode(&LocalResponse::<()>::Injected { new: true }, 1024).unwrap();
        stream.write_all(&u32::try_from(answer.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(&answer).unwrap();
        wire::decode::<LocalRequest>(&bytes, MESSAGE_BYTES_MAX).unwrap()
    });

    let via = format!("unix:{socket}");
    let said = desk.run(&["halt", "web-2", "--reason", "smoke", "--key", &desk.path("bob"), "--via", &via]);

    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.out.contains("published"), "{}", said.out);
    let LocalRequest::Inject(document) = agent.join().unwrap() else {
        panic!("the agent was asked something else")
    };
    assert_eq!(document.kind, Kind::Halt);
    let again =
        desk.run(&["halt", "web-2", "--reason", "more smoke", "--key", &desk.path("bob"), "--no-publish"]);
    assert!(again.out.contains("halt-web-2-2.toml"), "{}", again.out);
    let resume =
        desk.run(&["resume", "web-2", "--reason", "out", "--key", &desk.path("ann"), "--no-publish"]);
    assert_eq!(resume.code, 1, "one signature resumes nothing: {}", resume.out);
    let file = desk.home("documents/resume-web-2-3.toml");
    let second =
        desk.run(&["resume", "--sign", file.to_str().unwrap(), "--key", &desk.path("eve"), "--no-publish"]);
    assert_eq!(second.code, 0, "{}{}", second.out, second.err);
}
