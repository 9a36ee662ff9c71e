//! A small fleet with real documents, real endpoints on loopback and real packs, for the tests of fetching.
//!
//! Owns the one signer and the machines' keys, all from fixed seeds. Main invariant: the gate is the program's
//! own, over a trust state that verified every signature.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lunar_agent::fetch::{FetchConfig, FetchEvent, Fetcher, KnownPeer};
use lunar_agent_core::swarm;
use lunar_artifact::{Built, Pack, PackDirectory, build};
use lunar_common::document::{Kind, SignedDocument};
use lunar_common::enrolment::Role;
use lunar_common::have_set::HaveSet;
use lunar_common::ids::{ArtifactId, PeerKey};
use lunar_common::message::BytesBySource;
use lunar_common::time::WallTime;
use lunar_common::trust::TrustState;
use lunar_transport::data_plane::{ChunkSource, DataPlane, DataPlaneConfig, Link, PlaneLimits, SourceError};
use lunar_transport::gate::public_key;
use lunar_transport::trust_gate::TrustGate;
use ssh_key::PrivateKey;
use ssh_key::private::Ed25519Keypair;
use tokio::sync::mpsc;

/// How long a whole test may hang before it counts as stuck. Nothing is measured against it.
const STUCK: Duration = Duration::from_secs(120);

/// One machine.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    pub number: u8,
    pub site: &'static str,
    pub role: Role,
}

pub fn agent(number: u8, site: &'static str) -> Machine {
    Machine { number, site, role: Role::Agent }
}

pub fn origin() -> Machine {
    Machine { number: 200, site: "earth", role: Role::Origin }
}

impl Machine {
    pub fn secret(&self) -> [u8; 32] {
        [self.number; 32]
    }

    pub fn key(&self) -> PeerKey {
        public_key(self.secret()).unwrap()
    }

    pub fn enrolment(&self) -> SignedDocument {
        self.enrolled_by(&signer())
    }

    /// The same, by one whom only the first trust root lets enrol.
    pub fn enrolment_by_bob(&self) -> SignedDocument {
        self.enrolled_by(&bob())
    }

    fn enrolled_by(&self, person: &PrivateKey) -> SignedDocument {
        let role = match self.role {
            Role::Agent => "agent",
            Role::Coordinator => "coordinator",
            Role::Origin => "origin",
        };
        let (number, key, site) = (self.number, self.key(), self.site);
        let body = format!(
            "format = 1\nfleet = \"moon\"\nserver = \"srv-{number}\"\nsequence = 1\n\
             issued = \"2026-01-02T00:00:00Z\"\nkey = \"{key}\"\nrole = \"{role}\"\nhostname = \"h{number}\"\n\
             site = \"{site}\"\ncluster = \"main\"\ntier = 3\nservice = \"web\"\n"
        );
        signed_by(person, Kind::Enrolment, body)
    }

    pub fn gate(&self) -> Arc<TrustGate> {
        Arc::new(TrustGate::new(trust(), self.enrolment(), String::new()))
    }

    pub fn known(&self, address: SocketAddr, artifact: ArtifactId) -> KnownPeer {
        KnownPeer {
            key: self.key(),
            site: self.site.parse().unwrap(),
            role: self.role,
            data_address: address.to_string(),
            artifact: (self.role != Role::Origin).then_some(artifact),
        }
    }

    /// A fetcher over a directory of packs.
    pub fn fetcher(&self, packs: &Path) -> (Fetcher, mpsc::Receiver<FetchEvent>) {
        let tuning = swarm::Config { settle_min: Duration::from_millis(300), ..Default::default() };
        Fetcher::start(FetchConfig {
            secret: self.secret(),
            site: self.site.parse().unwrap(),
            gate: self.gate(),
            listen: "127.0.0.1:0".parse().unwrap(),
            packs: PackDirectory::open(packs).unwrap(),
            tuning,
        })
        .unwrap()
    }

    /// A bare data plane that serves some source.
    pub fn plane(&self, source: Arc<dyn ChunkSource>) -> (DataPlane, mpsc::Receiver<Link>) {
        self.plane_behind(self.gate(), "127.0.0.1:0".parse().unwrap(), source)
    }

    /// A bare data plane with this gate, here.
    pub fn plane_behind(
        &self,
        gate: Arc<TrustGate>,
        listen: SocketAddr,
        source: Arc<dyn ChunkSource>,
    ) -> (DataPlane, mpsc::Receiver<Link>) {
        let limits = match self.role {
            Role::Origin => PlaneLimits::origin(None),
            Role::Agent | Role::Coordinator => PlaneLimits::agent(),
        };
        DataPlane::bind(DataPlaneConfig { listen, secret: self.secret(), gate, source, limits }).unwrap()
    }
}

/// What every machine of the fleet trusts.
pub fn trust() -> TrustState {
    TrustState::anchored(&root(1, "\"ann\", \"bob\"")).unwrap()
}

/// What a machine trusts that has the next trust root, by which bob enrols nobody any more.
pub fn trust_without_bob() -> TrustState {
    let mut trust = trust();
    trust.accept(&root(2, "\"ann\""), WallTime(1_800_000_000)).unwrap();
    trust
}

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

/// What a machine trusts that heard of a revocation.
pub fn trust_without(key: &PeerKey) -> TrustState {
    let list = format!(
        "format = 1\nfleet = \"moon\"\nsequence = 1\nissued = \"2026-01-03T00:00:00Z\"\nkeys = [\"{key}\"]\n"
    );
    let mut trust = trust();
    trust.accept(&signed(Kind::Revocation, list), WallTime(1_800_000_000)).unwrap();
    trust
}

fn signer() -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[1; 32]))
}

fn bob() -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[2; 32]))
}

fn signed(kind: Kind, body: String) -> SignedDocument {
    signed_by(&signer(), kind, body)
}

fn signed_by(person: &PrivateKey, kind: Kind, body: String) -> SignedDocument {
    SignedDocument::sign(kind, body, [person]).unwrap()
}

/// An artifact of incompressible bytes in a directory of its own.
pub struct Published {
    pub built: Built,
    pub packs: PathBuf,
    _directory: tempfile::TempDir,
}

impl Published {
    pub fn new(bytes: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("content");
        let mut content = vec![0; bytes];
        let mut word = 0x9e37_79b9_7f4a_7c15u64;
        for byte in &mut content {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            *byte = word.to_le_bytes()[3];
        }
        std::fs::write(&file, content).unwrap();
        let packs = directory.path().join("packs");
        let built = build(&file, &PackDirectory::open(&packs).unwrap(), |_| {}).unwrap();
        Self { built, packs, _directory: directory }
    }

    pub fn id(&self) -> ArtifactId {
        self.built.id
    }

    pub fn chunks(&self) -> u32 {
        u32::try_from(self.built.chunks).unwrap()
    }

    pub fn manifest_bytes(&self) -> u64 {
        self.built.manifest.encode().unwrap().len() as u64
    }

    pub fn pack(&self) -> Pack {
        PackDirectory::open(&self.packs).unwrap().get_complete(self.id()).unwrap()
    }

    /// A directory that holds some chunks of it.
    pub fn partial(&self, chunks: impl Iterator<Item = u32>) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let pack = PackDirectory::open(directory.path()).unwrap().create(&self.built.manifest).unwrap();
        let whole = self.pack();
        for chunk in chunks {
            pack.write_frame(chunk, &whole.read_frame(chunk).unwrap()).unwrap();
        }
        pack.sync().unwrap();
        directory
    }
}

/// A complete source that counts what it hands out, and may bend it.
pub struct Counting {
    pack: Pack,
    pub served: Mutex<BTreeMap<u32, u32>>,
    bend: fn(Vec<u8>) -> Vec<u8>,
}

impl Counting {
    pub fn new(published: &Published) -> Arc<Self> {
        Self::bent(published, |frame| frame)
    }

    pub fn bent(published: &Published, bend: fn(Vec<u8>) -> Vec<u8>) -> Arc<Self> {
        Arc::new(Self { pack: published.pack(), served: Mutex::default(), bend })
    }

    pub fn counts(&self) -> BTreeMap<u32, u32> {
        self.served.lock().unwrap().clone()
    }
}

impl ChunkSource for Counting {
    fn have(&self, artifact: ArtifactId) -> Option<HaveSet> {
        (artifact == self.pack.id()).then(|| self.pack.have())
    }

    fn manifest(&self, artifact: ArtifactId) -> Result<Option<Vec<u8>>, SourceError> {
        Ok((artifact == self.pack.id()).then(|| self.pack.manifest().encode().unwrap()))
    }

    fn frame(&self, artifact: ArtifactId, chunk: u32) -> Result<Option<Vec<u8>>, SourceError> {
        if artifact != self.pack.id() {
            return Ok(None);
        }
        *self.served.lock().unwrap().entry(chunk).or_default() += 1;
        Ok(Some((self.bend)(self.pack.read_frame(chunk)?)))
    }
}

/// Waits until an artifact is complete, and says where its bytes came from.
pub async fn complete(events: &mut mpsc::Receiver<FetchEvent>) -> BytesBySource {
    until(events, |event| match event {
        FetchEvent::Complete { received, .. } => Some(*received),
        FetchEvent::Progress { .. } => None,
        FetchEvent::Failed { reason, .. } => panic!("the fetch failed: {reason}"),
    })
    .await
}

/// Waits for the first event that `wanted` makes something of.
pub async fn until<T>(
    events: &mut mpsc::Receiver<FetchEvent>,
    wanted: impl Fn(&FetchEvent) -> Option<T>,
) -> T {
    let search = async {
        loop {
            let event = events.recv().await.expect("the fetcher is still there");
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    };
    tokio::time::timeout(STUCK, search).await.expect("the fetch is stuck")
}

/// What a directory holds in the end is whole.
pub fn is_whole(packs: &Path, artifact: ArtifactId) {
    let pack = PackDirectory::open(packs).unwrap().get_complete(artifact).unwrap();
    assert_eq!(pack.damaged(|_| {}).unwrap(), Vec::<u32>::new());
}
