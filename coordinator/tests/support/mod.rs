//! A coordinator's directory, and the program at work on it.
//!
//! Owns what the tests that run the real program share. Main invariant: nothing waits by sleeping: a running
//! coordinator is one that said so on its standard error.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use lunar_common::document::{Kind, SignedDocument};
use lunar_common::ids::PeerKey;
use lunar_common::trust::TrustState;
use lunar_host::{documents, keys};
use lunar_transport::mesh::{Mesh, MeshBounds, MeshConfig, MeshEvent};
use lunar_transport::trust_gate::TrustGate;
use ssh_key::PrivateKey;
use ssh_key::private::Ed25519Keypair;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long a test may hang before it counts as stuck. Nothing is measured against it.
pub const STUCK: Duration = Duration::from_secs(120);

const PROGRAM: &str = env!("CARGO_BIN_EXE_lunar-coordinator");

/// What a command said.
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.code, 0, "{}", self.err);
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

/// A coordinator's directory.
pub struct Home(pub tempfile::TempDir);

impl Home {
    /// One with nothing in it.
    pub fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// One with a trust root of ann's, the coordinator's key and enrolment, and these machines'.
    pub fn founded(machines: impl IntoIterator<Item = u8>) -> Self {
        let home = Self::empty();
        documents::save(&home.path("trust/root-1.toml"), &root(1, "ann")).unwrap();
        let key = keys::create(&home.path("identity.key"), "coordinator").unwrap();
        let own = enrolment("earth-1", keys::peer_key(&key), "coordinator");
        documents::save(&home.path("enrolments/earth-1.toml"), &own).unwrap();
        for number in machines {
            let path = home.path(&format!("enrolments/srv-{number}.toml"));
            documents::save(&path, &machine_enrolment(number)).unwrap();
        }
        home
    }

    /// A path in it, whose folder is there.
    pub fn path(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).env("LUNAR_HOME", self.0.path()).env_remove("LUNAR_LOG").stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Said {
        let output = self.command(arguments).output().unwrap();
        Said {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Starts a coordinator here, on a port that the kernel chooses. Returns once it said that it runs.
    pub fn serve(&self) -> Serving {
        self.serve_with(&[])
    }

    /// The same, with more options.
    pub fn serve_with(&self, options: &[&str]) -> Serving {
        let mut child = self
            .command(&["--log-format", "json", "serve", "--listen", "127.0.0.1:0"])
            .args(options)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        let mut api = None;
        let address = loop {
            let Some(line) = lines.next().map(Result::unwrap) else {
                panic!("the coordinator ended: {:?}\n{}", child.wait(), said.join("\n"));
            };
            let told: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            if let Some(address) = told["listening"].as_str() {
                break address.to_owned();
            }
            api = told["api"].as_str().map(str::to_owned).or(api);
            said.push(line);
        };
        // Read on, so that it never waits for a full pipe. Ends with the process.
        let (tell, said) = std::sync::mpsc::channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Serving { child, address, api, said }
    }
}

/// A coordinator at work.
pub struct Serving {
    child: Child,
    pub address: String,
    /// Where its API listens, if over the network.
    pub api: Option<String>,
    said: std::sync::mpsc::Receiver<String>,
}

impl Serving {
    /// Waits until it says this.
    pub fn until(&self, words: &str) {
        while !self.said.recv_timeout(STUCK).expect(words).contains(words) {}
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it as an operator would. Returns its exit code and what it said that was not heard yet.
    pub fn stop(mut self) -> (i32, Vec<String>) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let code = self.child.wait().unwrap().code().unwrap();
        (code, self.said.iter().collect())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Ended already, unless a test failed half-way.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A machine's mesh, connected to a coordinator, and what it hears.
pub async fn member(number: u8, coordinator: &str) -> (Mesh, mpsc::Receiver<MeshEvent>) {
    let trust = TrustState::anchored(&root(1, "ann")).unwrap();
    let (mesh, mut events) = Mesh::start(MeshConfig {
        key: secret(number),
        fleet: "moon".parse().unwrap(),
        site: "base".parse().unwrap(),
        listen: vec!["127.0.0.1:0".to_owned()],
        announce: Vec::new(),
        bootstrap: vec![coordinator.parse().unwrap()],
        gate: Arc::new(TrustGate::new(trust, machine_enrolment(number), String::new())),
        directory: false,
        bounds: MeshBounds::agent(),
    })
    .await
    .unwrap();
    let joined = async { while !matches!(events.recv().await, Some(MeshEvent::Joined { .. })) {} };
    timeout(STUCK, joined).await.expect("the coordinator lets its members in");
    (mesh, events)
}

pub fn secret(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

pub fn key(number: u8) -> PeerKey {
    PeerKey(secret(number).verifying_key().to_bytes())
}

/// A trust root in which one person enrols, and ann does everything else.
pub fn root(version: u64, enroller: &str) -> SignedDocument {
    let mut text = format!(
        "format = 1\nfleet = \"moon\"\nversion = {version}\nissued = \"2026-01-0{version}T00:00:00Z\"\n\
         expires = \"2099-01-01T00:00:00Z\"\n[keys]\nann = \"{}\"\nbob = \"{}\"\n",
        person(1).public_key().to_openssh().unwrap(),
        person(2).public_key().to_openssh().unwrap()
    );
    for role in ["root", "plan", "halt", "resume", "enroll", "revoke", "reap"] {
        let holder = if role == "enroll" { enroller } else { "ann" };
        text += &format!("[[role]]\nname = \"{role}\"\nkeys = [\"{holder}\"]\nthreshold = 1\n");
    }
    signed(Kind::TrustRoot, text, 1)
}

pub fn machine_enrolment(number: u8) -> SignedDocument {
    enrolment(&format!("srv-{number}"), key(number), "agent")
}

fn enrolment(server: &str, key: PeerKey, role: &str) -> SignedDocument {
    signed(Kind::Enrolment, enrolment_text(server, key, role, 1), 1)
}

pub fn enrolment_text(server: &str, key: PeerKey, role: &str, sequence: u64) -> String {
    format!(
        "format = 1\nfleet = \"moon\"\nserver = \"{server}\"\nsequence = {sequence}\n\
         issued = \"2026-01-02T00:00:00Z\"\nkey = \"{key}\"\nrole = \"{role}\"\nhostname = \"h\"\nsite = \"base\"\n\
         cluster = \"main\"\ntier = 3\nservice = \"web\"\n"
    )
}

/// A plan that lets every server down at once.
pub fn wide_plan() -> SignedDocument {
    let text = format!(
        "format = 1\nfleet = \"moon\"\ncampaign = \"web-2\"\ngeneration = 1\nauthor = \"ann\"\n\
         issued = \"2026-01-02T00:00:00Z\"\nexpires = \"2099-01-01T00:00:00Z\"\n[select]\n[limits]\nfleet = 100\n\
         [limits.tier]\n3 = 100\n[limits.site]\ndefault = 100\n[limits.cluster]\ndefault = 100\n[[artifact]]\nname = \"web\"\nversion = \"2\"\nid = \"{}\"\n\
         manifest_bytes = 1000\nbytes = 100000\n[[artifact.from]]\nversion = \"1\"\nid = \"{}\"\n[install]\n\
         kind = \"release\"\nrestart = {{ unit = \"web.service\" }}\n[health]\nsoak_s = 60\n[[health.probe]]\n\
         name = \"up\"\nkind = \"http\"\nurl = \"http://127.0.0.1:8080/health\"\n",
        "22".repeat(32),
        "11".repeat(32)
    );
    signed(Kind::Plan, text, 1)
}

/// The list of machines that are out.
pub fn revocation(numbers: &[u8]) -> SignedDocument {
    let keys: Vec<String> = numbers.iter().map(|number| format!("\"{}\"", key(*number))).collect();
    let text = format!(
        "format = 1\nfleet = \"moon\"\nsequence = 1\nissued = \"2026-01-03T00:00:00Z\"\nkeys = [{}]\n",
        keys.join(", ")
    );
    signed(Kind::Revocation, text, 1)
}

pub fn signed(kind: Kind, body: String, by: u8) -> SignedDocument {
    SignedDocument::sign(kind, body, [&person(by)]).unwrap()
}

fn person(number: u8) -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[number; 32]))
}
