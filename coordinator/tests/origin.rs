//! The origin, with real endpoints on loopback: it serves what is complete, finds what is new, cuts off who is out.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use lunar_artifact::{Built, PackDirectory, build, frame};
use lunar_common::document::{Kind, SignedDocument};
use lunar_common::have_set::HaveSet;
use lunar_common::ids::{ArtifactId, PeerKey};
use lunar_common::message::{Request, Response};
use lunar_common::trust::TrustState;
use lunar_coordinator::origin::{Origin, OriginConfig};
use lunar_transport::data_plane::{
    ChunkSource, ConnectError, DataPlane, DataPlaneConfig, Distance, Link, Note, PlaneLimits, SourceError,
};
use lunar_transport::mesh::{Mesh, MeshBounds, MeshConfig, MeshEvent};
use lunar_transport::trust_gate::TrustGate;
use ssh_key::PrivateKey;
use ssh_key::private::Ed25519Keypair;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// How long a test may hang before it counts as stuck. Nothing is measured against it.
const STUCK: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_serves_its_artifacts_and_those_added_while_it_runs() {
    let home = tempfile::tempdir().unwrap();
    let packs = PackDirectory::open(&home.path().join("artifacts")).unwrap();
    let first = publish(&packs, home.path(), 1);
    let origin = Running::start(packs.clone()).await;
    let (_plane, link) = origin.member().await;

    let manifest = link.manifest(first.id, 1024 * 1024).await.unwrap();
    assert_eq!(manifest, first.manifest.encode().unwrap());
    for (index, chunk) in first.manifest.chunks.iter().enumerate() {
        let bytes = link.frame(first.id, u32::try_from(index).unwrap(), chunk.frame_bytes).await.unwrap();
        frame::check(chunk, &bytes).unwrap();
    }
    let second = publish(&packs, home.path(), 2);
    let mut told = link.listen(second.id, false).await.unwrap();
    let found =
        async { while !matches!(told.next().await.unwrap(), Note::HaveSet(have) if have.is_complete()) {} };
    timeout(STUCK, found).await.unwrap();
    let manifest = link.manifest(second.id, 1024 * 1024).await.unwrap();
    assert_eq!(manifest, second.manifest.encode().unwrap());

    origin.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_machine_is_cut_off_and_does_not_come_back() {
    let home = tempfile::tempdir().unwrap();
    let packs = PackDirectory::open(&home.path().join("artifacts")).unwrap();
    let origin = Running::start(packs).await;
    let (plane, link) = origin.member().await;
    let list = format!(
        "format = 1\nfleet = \"moon\"\nsequence = 1\nissued = \"2026-01-03T00:00:00Z\"\nkeys = [\"{}\"]\n",
        key(MEMBER)
    );

    // Another member hands the list over in the mesh.
    let mesh = origin.mesh_member().await;
    let request = Request::Document(signed(Kind::Revocation, list));
    let answer = timeout(STUCK, mesh.request(key(ORIGIN), request)).await.unwrap().unwrap();
    assert_eq!(answer, Response::Done);

    timeout(STUCK, link.closed()).await.unwrap();
    let address = origin.data.clone();
    let refused = plane.connect(key(ORIGIN), &address, Distance::Earth).await.unwrap_err();
    assert!(matches!(refused, ConnectError::RefusedUs), "{refused}");
    origin.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trust_root_that_admits_a_machine_no_more_cuts_it_off_on_both_planes_and_no_other() {
    let home = tempfile::tempdir().unwrap();
    let packs = PackDirectory::open(&home.path().join("artifacts")).unwrap();
    let published = publish(&packs, home.path(), 1);
    let origin = Running::start(packs).await;
    let (_plane, kept) = origin.member().await;
    let by_bob = enrolled_by(&bob(), GOES, "agent", "base");
    let gate = Arc::new(TrustGate::new(trust(), by_bob, String::new()));
    let (plane, cut) = origin.plane_of(GOES, gate.clone()).await;
    let (_mesh, mut events) = origin.mesh_of(GOES, gate).await;

    // Another member hands it over in the mesh. Nobody names the machine.
    let mesh = origin.mesh_member().await;
    let answer = mesh.request(key(ORIGIN), Request::Document(root(2, "\"ann\""))).await.unwrap();
    assert_eq!(answer, Response::Done);

    timeout(STUCK, cut.closed()).await.unwrap();
    let left = async {
        while !matches!(events.recv().await.unwrap(), MeshEvent::Left { peer } if peer == key(ORIGIN)) {}
    };
    timeout(STUCK, left).await.unwrap();
    let refused = plane.connect(key(ORIGIN), &origin.data, Distance::Earth).await.unwrap_err();
    assert!(matches!(refused, ConnectError::RefusedUs), "{refused}");
    kept.manifest(published.id, 1024 * 1024).await.unwrap();
    origin.stop().await;
}

const ORIGIN: u8 = 9;
const MEMBER: u8 = 10;
const OTHER_MEMBER: u8 = 11;
const GOES: u8 = 12;

/// An origin in a task of its own.
struct Running {
    data: String,
    mesh: Vec<String>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start(artifacts: PackDirectory) -> Self {
        let origin = Origin::start(OriginConfig {
            key: secret(ORIGIN),
            enrolment: enrolment(ORIGIN, "origin", "earth"),
            fleet: "moon".parse().unwrap(),
            site: "earth".parse().unwrap(),
            trust: trust(),
            artifacts,
            listen: "127.0.0.1:0".to_owned(),
            data_listen: "127.0.0.1:0".parse().unwrap(),
            data_announce: None,
            bootstrap: Vec::new(),
            rate_bits_s: Some(80_000_000),
        })
        .await
        .unwrap();
        let data = origin.data_address().unwrap().to_string();
        let mesh = origin.mesh_addresses().await;
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(origin.run(async move {
            let _ = stopped.await;
        }));
        Self { data, mesh, stop, task }
    }

    /// A member's data plane, connected.
    async fn member(&self) -> (DataPlane, Link) {
        self.plane_of(MEMBER, gate(MEMBER)).await
    }

    async fn plane_of(&self, number: u8, gate: Arc<TrustGate>) -> (DataPlane, Link) {
        let (plane, _) = DataPlane::bind(DataPlaneConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            secret: secret(number).to_bytes(),
            gate,
            source: Arc::new(Nothing),
            limits: PlaneLimits::agent(),
        })
        .unwrap();
        let link = plane.connect(key(ORIGIN), &self.data, Distance::Earth).await.unwrap();
        (plane, link)
    }

    /// Another member's mesh, which knows where the origin is.
    async fn mesh_member(&self) -> Mesh {
        let (mesh, mut events) = self.mesh_of(OTHER_MEMBER, gate(OTHER_MEMBER)).await;
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        mesh
    }

    async fn mesh_of(&self, number: u8, gate: Arc<TrustGate>) -> (Mesh, mpsc::Receiver<MeshEvent>) {
        let (mesh, mut events) = Mesh::start(MeshConfig {
            key: secret(number),
            fleet: "moon".parse().unwrap(),
            site: "base".parse().unwrap(),
            listen: vec!["127.0.0.1:0".to_owned()],
            announce: Vec::new(),
            bootstrap: vec![self.mesh[0].parse().unwrap()],
            gate,
            directory: false,
            bounds: MeshBounds::agent(),
        })
        .await
        .unwrap();
        let joined = async { while !matches!(events.recv().await, Some(MeshEvent::Joined { .. })) {} };
        timeout(STUCK, joined).await.unwrap();
        (mesh, events)
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        timeout(STUCK, self.task).await.unwrap().unwrap();
    }
}

/// A source with nothing in it.
struct Nothing;

impl ChunkSource for Nothing {
    fn have(&self, _: ArtifactId) -> Option<HaveSet> {
        None
    }

    fn manifest(&self, _: ArtifactId) -> Result<Option<Vec<u8>>, SourceError> {
        Ok(None)
    }

    fn frame(&self, _: ArtifactId, _: u32) -> Result<Option<Vec<u8>>, SourceError> {
        Ok(None)
    }
}

fn publish(packs: &PackDirectory, scratch: &Path, version: u8) -> Built {
    let file = scratch.join("content");
    let content: Vec<u8> = (0..900_000u32)
        .flat_map(|word| word.wrapping_mul(2_654_435_761 + u32::from(version)).to_le_bytes())
        .collect();
    std::fs::write(&file, content).unwrap();
    build(&file, packs, |_| {}).unwrap()
}

fn secret(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn key(number: u8) -> PeerKey {
    PeerKey(secret(number).verifying_key().to_bytes())
}

fn gate(number: u8) -> Arc<TrustGate> {
    Arc::new(TrustGate::new(trust(), enrolment(number, "agent", "base"), String::new()))
}

fn enrolment(number: u8, role: &str, site: &str) -> SignedDocument {
    enrolled_by(&signer(), number, role, site)
}

fn enrolled_by(person: &PrivateKey, number: u8, role: &str, site: &str) -> SignedDocument {
    let key = key(number);
    signed_by(
        person,
        Kind::Enrolment,
        format!(
            "format = 1\nfleet = \"moon\"\nserver = \"srv-{number}\"\nsequence = 1\nissued = \"2026-01-02T00:00:00Z\"\n\
             key = \"{key}\"\nrole = \"{role}\"\nhostname = \"h\"\nsite = \"{site}\"\ncluster = \"main\"\ntier = 3\n\
             service = \"web\"\n"
        ),
    )
}

fn trust() -> TrustState {
    TrustState::anchored(&root(1, "\"ann\", \"bob\"")).unwrap()
}

/// A trust root in which these enrol, and ann does everything else.
fn root(version: u64, enrollers: &str) -> SignedDocument {
    let [ann, bob] = [signer(), bob()].map(|person| person.public_key().to_openssh().unwrap());
    let roles = ["root", "plan", "halt", "resume", "enroll", "revoke", "reap"].map(|role| {
        let keys = if role == "enroll" { enrollers } else { "\"ann\"" };
        format!("[[role]]\nname = \"{role}\"\nkeys = [{keys}]\nthreshold = 1\n")
    });
    let body = format!(
        "format = 1\nfleet = \"moon\"\nversion = {version}\nissued = \"2026-01-0{version}T00:00:00Z\"\n\
         expires = \"2099-01-01T00:00:00Z\"\n[keys]\nann = \"{ann}\"\nbob = \"{bob}\"\n{}",
        roles.concat()
    );
    signed(Kind::TrustRoot, body)
}

fn bob() -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[2; 32]))
}

fn signer() -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[1; 32]))
}

fn signed(kind: Kind, body: String) -> SignedDocument {
    signed_by(&signer(), kind, body)
}

fn signed_by(person: &PrivateKey, kind: Kind, body: String) -> SignedDocument {
    SignedDocument::sign(kind, body, [person]).unwrap()
}
