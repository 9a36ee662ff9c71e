//! Stock OpenSSH and we understand one another, both ways.
//!
//! Owns the tests that run the real `ssh-keygen` and `ssh-agent`. Needs openssh-client, which `.ci/run` installs.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lunar_common::document::{Kind, SignedDocument};
use lunar_common::time::WallTime;
use lunar_common::trust::{Accepted, TrustState};
use lunar_host::{documents, keys};

const HALT: &str =
    "format = 1\nfleet = \"moon\"\nsequence = 1\nissued = \"2026-11-21T08:00:00Z\"\nreason = \"smoke\"\n";

/// Runs a program to its end and returns what it printed; fails with its words.
fn run(command: &mut Command, stdin: &str) -> Vec<u8> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error} (install openssh-client)"));
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn keygen(directory: &Path, name: &str, kind: &[&str], passphrase: &str) -> PathBuf {
    let path = directory.join(name);
    run(
        Command::new("ssh-keygen")
            .args(["-q", "-N", passphrase, "-C", name, "-t"])
            .args(kind)
            .arg("-f")
            .arg(&path),
        "",
    );
    path
}

/// A fleet whose halts any of these keys may sign, and whose root the first one signs.
fn trust(keys: &[&Path]) -> TrustState {
    let mut text = String::from(
        "format = 1\nfleet = \"moon\"\nversion = 1\nissued = \"2026-11-21T07:00:00Z\"\n\
         expires = \"2036-11-21T08:00:00Z\"\n[keys]\n",
    );
    let mut names = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        text += &format!("key-{index} = \"{}\"\n", keys::public(key).unwrap().to_openssh().unwrap());
        names.push(format!("\"key-{index}\""));
    }
    for role in ["root", "halt"] {
        text += &format!("[[role]]\nname = \"{role}\"\nkeys = [{}]\nthreshold = 1\n", names.join(", "));
    }
    let signature = keys::sign_document(Kind::TrustRoot, text.as_bytes(), keys[0]).unwrap();
    let root = SignedDocument { kind: Kind::TrustRoot, body: text.into_bytes(), signatures: vec![signature] };
    TrustState::anchored(&root).unwrap()
}

fn is_taken(trust: &TrustState, signature: String) -> bool {
    let document = SignedDocument { kind: Kind::Halt, body: HALT.into(), signatures: vec![signature] };
    matches!(trust.clone().accept(&document, WallTime(0)), Ok(Accepted::Halt(_)))
}

fn sign_with_ssh_keygen(key: &Path, namespace: &str, extra: &[&str]) -> String {
    let output = run(
        Command::new("ssh-keygen").args(["-Y", "sign", "-n", namespace]).args(extra).arg("-f").arg(key),
        HALT,
    );
    String::from_utf8(output).unwrap()
}

#[test]
fn what_ssh_keygen_signed_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let ed25519 = keygen(directory.path(), "ed25519", &["ed25519"], "");
    let ecdsa = keygen(directory.path(), "ecdsa", &["ecdsa", "-b", "256"], "");
    let trust = trust(&[&ed25519, &ecdsa]);
    for key in [&ed25519, &ecdsa] {
        for hash in ["hashalg=sha512", "hashalg=sha256"] {
            let signature = sign_with_ssh_keygen(key, Kind::Halt.namespace(), &["-O", hash]);
            assert!(is_taken(&trust, signature), "{} {hash}", key.display());
        }
        assert!(!is_taken(&trust, sign_with_ssh_keygen(key, "file", &[])));
        assert!(!is_taken(&trust, sign_with_ssh_keygen(key, Kind::Resume.namespace(), &[])));
    }
}

#[test]
fn what_we_signed_passes_ssh_keygen() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("machine");
    keys::create(&key, "ours").unwrap();
    let public = fs::read_to_string(directory.path().join("machine.pub")).unwrap();
    let allowed = directory.path().join("allowed_signers");
    fs::write(&allowed, format!("ann namespaces=\"{}\" {public}", Kind::Halt.namespace())).unwrap();
    let path = directory.path().join("halt.toml");
    fs::write(&path, HALT).unwrap();

    let armoured = keys::sign_document(Kind::Halt, HALT.as_bytes(), &key).unwrap();
    let signature = documents::add_signature(&path, "ann", &armoured).unwrap();

    let verify = |body: &str, namespace: &str| {
        let mut command = Command::new("ssh-keygen");
        command
            .args(["-Y", "verify", "-I", "ann", "-n", namespace, "-f"])
            .arg(&allowed)
            .arg("-s")
            .arg(&signature);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
        child.wait().unwrap().success()
    };
    assert!(verify(HALT, Kind::Halt.namespace()));
    assert!(!verify(&HALT.replace("smoke", "smoked"), Kind::Halt.namespace()));
    assert!(!verify(HALT, Kind::Plan.namespace()));
}

#[test]
fn key_files_of_ssh_keygen_and_ours_are_the_same_kind_of_file() {
    let directory = tempfile::tempdir().unwrap();
    let theirs = keygen(directory.path(), "theirs", &["ed25519"], "");
    let ours = directory.path().join("ours");
    let made = keys::create(&ours, "ours").unwrap();

    let loaded = keys::load(&theirs).unwrap();

    let printed = |key: &Path| {
        String::from_utf8(run(Command::new("ssh-keygen").arg("-y").arg("-f").arg(key), "")).unwrap()
    };
    let same = |line: &str, key| {
        let public = ssh_key::PublicKey::from_openssh(line.trim()).unwrap();
        assert_eq!(public.key_data().ed25519().unwrap().0, keys::peer_key(key).0);
    };
    same(&printed(&theirs), &loaded);
    same(&printed(&ours), &made);
    assert!(printed(&ours).trim().ends_with("ours"));
}

#[test]
fn a_machines_key_must_be_ed25519_and_without_a_passphrase() {
    let directory = tempfile::tempdir().unwrap();
    let locked = keygen(directory.path(), "locked", &["ed25519"], "secret");
    let ecdsa = keygen(directory.path(), "ecdsa", &["ecdsa", "-b", "256"], "");

    assert!(matches!(keys::load(&locked), Err(keys::KeyError::Encrypted { .. })));
    assert!(matches!(keys::load(&ecdsa), Err(keys::KeyError::Algorithm { .. })));
    // Its public half is readable without the passphrase, so that signatures can be named after it.
    let beside = keys::public(&directory.path().join("locked.pub")).unwrap();
    assert_eq!(keys::public(&locked).unwrap().key_data(), beside.key_data());
}

/// An ssh-agent that ends with the test.
struct Agent {
    socket: PathBuf,
    process: std::process::Child,
}

impl Agent {
    fn start(directory: &Path) -> Self {
        let socket = directory.join("agent.sock");
        // In the foreground, so that it is our child; it says its address once it listens.
        let mut process = Command::new("ssh-agent")
            .arg("-D")
            .arg("-a")
            .arg(&socket)
            .stdout(Stdio::piped())
            .spawn()
            .expect("ssh-agent is part of openssh-client");
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("SSH_AUTH_SOCK"), "{line}");
        Self { socket, process }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs one test of this file in a process of its own, with an environment variable set.
fn again(test: &str, variable: &str, value: &Path) {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(variable, value)
        .env("LUNAR_TEST_DIRECTORY", value.parent().unwrap())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn a_key_that_only_ssh_agent_holds_signs_by_its_public_half() {
    let name = "a_key_that_only_ssh_agent_holds_signs_by_its_public_half";
    if let Some(directory) = std::env::var_os("LUNAR_TEST_DIRECTORY") {
        // The second run: SSH_AUTH_SOCK is set, and the private key's file is gone.
        let public = Path::new(&directory).join("held.pub");
        let signature = keys::sign_document(Kind::Halt, HALT.as_bytes(), &public).unwrap();
        fs::write(Path::new(&directory).join("made.sig"), signature).unwrap();
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let held = keygen(directory.path(), "held", &["ed25519"], "");
    let trust = trust(&[&held]);
    let agent = Agent::start(directory.path());
    run(Command::new("ssh-add").arg("-q").arg(&held).env("SSH_AUTH_SOCK", &agent.socket), "");
    fs::remove_file(&held).unwrap();

    again(name, "SSH_AUTH_SOCK", &agent.socket);

    assert!(is_taken(&trust, fs::read_to_string(directory.path().join("made.sig")).unwrap()));
}
