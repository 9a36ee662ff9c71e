//! The applier's process: socket, records, real restarts, and a network half that was taken over.

use std::cell::Cell;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use lunar_agent_core::applier::protocol::{Permission, REQUEST_BYTES_MAX, Reply, Request, Task};
use lunar_agent_core::input::{ApplierStage, ApplierStatus};
use lunar_common::document::SignedDocument;
use lunar_common::enrolment::Role;
use lunar_common::ids::{ArtifactId, Attempt};
use lunar_common::trust::TrustState;
use lunar_host::exit::{Exit, Failure};
use lunar_host::{clock, documents};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::fixture::{self, COORDINATOR, SERVER, Wanted};
use super::{Published, packs_of, publish};
use crate::applier::client::{Client, ClientError};
use crate::applier::{Applier, Config, frames};

#[tokio::test]
async fn an_upgrade_through_the_socket_ends_on_the_new_version_and_is_remembered() {
    let bench = Bench::new();
    let running = bench.start();
    let mut client = bench.client();
    assert_eq!(client.pass_on(&bench.trust(), &fixture::server()).await.unwrap(), []);
    assert_eq!(client.pass_on(&bench.trust(), &fixture::server()).await.unwrap(), []);

    client.ask(&Request::Stage(bench.task())).await.unwrap();
    assert_eq!(bench.settled(&mut client).await.stage, ApplierStage::Staged);
    client.ask(&bench.begin(COORDINATOR)).await.unwrap();
    assert_eq!(bench.settled(&mut client).await.stage, ApplierStage::Applied);
    assert_eq!(bench.service(), "2", "the service was restarted on the new version");
    client.ask(&Request::Commit(bench.task())).await.unwrap();
    let committed = ApplierStatus { running: vec![Some(bench.new.id)], stage: ApplierStage::Committed };
    assert_eq!(bench.settled(&mut client).await, committed);
    stop(running).await;

    let running = bench.start();
    assert_eq!(bench.settled(&mut client).await, committed, "the client connects again by itself");
    stop(running).await;
}

#[tokio::test]
async fn an_applier_that_was_killed_goes_on_and_takes_the_upgrade_back_when_told() {
    let bench = Bench::new();
    let running = bench.start();
    let mut client = bench.client();
    client.pass_on(&bench.trust(), &fixture::server()).await.unwrap();
    client.ask(&Request::Stage(bench.task())).await.unwrap();
    bench.settled(&mut client).await;
    client.ask(&bench.begin(COORDINATOR)).await.unwrap();
    kill(running).await;

    let running = bench.start();
    assert_eq!(bench.settled(&mut client).await.stage, ApplierStage::Applied);
    let cause = "not healthy".to_owned();
    client.ask(&Request::RollBack { task: bench.task(), cause: cause.clone() }).await.unwrap();
    let status = bench.settled(&mut client).await;

    assert_eq!(status.stage, ApplierStage::RolledBack { cause });
    assert_eq!(status.running, [None], "a first installation leaves nothing behind its link");
    stop(running).await;
}

#[tokio::test]
async fn a_network_half_that_was_taken_over_installs_nothing() {
    let bench = Bench::new();
    let running = bench.start();
    let mut client = bench.client();

    // Without a plan, with one that nobody signed, and with one that was changed.
    assert!(refused(&mut client, Request::Stage(bench.task())).await.contains("is not held"));
    let mut unsigned = bench.plan.clone();
    unsigned.signatures.clear();
    assert!(client.document(unsigned).await.unwrap().is_some());
    let mut changed = bench.plan.clone();
    let text = String::from_utf8(changed.body).unwrap();
    changed.body = text.replace("\"web\"", "\"../../etc\"").into_bytes();
    assert!(client.document(changed).await.unwrap().is_some());

    // With the right plan, and another pack's bytes under the right name.
    client.pass_on(&bench.trust(), &fixture::server()).await.unwrap();
    let pack = bench.pack_path(bench.new.id);
    let good = std::fs::read(&pack).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    std::fs::write(&pack, &bad).unwrap();
    assert!(staged(&bench, &mut client).await.contains("cannot unpack web"));
    std::fs::remove_file(&pack).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &pack).unwrap();
    staged(&bench, &mut client).await;
    std::fs::remove_file(&pack).unwrap();
    assert!(staged(&bench, &mut client).await.contains("the pack of web cannot be used"));
    std::fs::write(&pack, &good).unwrap();
    client.ask(&Request::Stage(bench.task())).await.unwrap();
    assert_eq!(bench.settled(&mut client).await.stage, ApplierStage::Staged);

    // With grants that it signed itself, and no coordinator's word.
    assert!(refused(&mut client, bench.begin(SERVER)).await.contains("not by coordinator"));
    assert!(refused(&mut client, Request::Commit(bench.task())).await.contains("does not run yet"));
    assert_eq!(client.document(fixture::halt()).await.unwrap(), None);
    assert!(refused(&mut client, bench.begin(COORDINATOR)).await.contains("smoke in the lab"));
    assert!(!bench.home.path().join("root/web/current").exists());
    stop(running).await;
}

#[tokio::test]
async fn what_cannot_be_read_is_answered_once_and_the_connection_closed() {
    let bench = Bench::new();
    let running = bench.start();
    let oversized = u32::try_from(REQUEST_BYTES_MAX + 1).unwrap().to_be_bytes().to_vec();
    let nonsense = [[0, 0, 0, 3].as_slice(), b"abc"].concat();
    let wrong_version = [0, 0, 0, 2, 9, 0].to_vec();
    for bytes in [oversized, nonsense, wrong_version, vec![0, 0, 0, 0]] {
        let mut stream = UnixStream::connect(bench.socket()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let reply = frames::read(&mut stream, 65_536).await.unwrap().unwrap();
        assert!(matches!(Reply::decode(&reply).unwrap(), Reply::Unreadable { .. }), "{bytes:?}");
        assert!(frames::read(&mut stream, 65_536).await.unwrap().is_none());
    }
    assert!(bench.client().ask(&Request::Hello).await.is_ok());
    stop(running).await;
}

#[tokio::test]
async fn a_client_that_hangs_locks_nobody_out() {
    let bench = Bench::new();
    let running = bench.start();
    let mut hanging = UnixStream::connect(bench.socket()).await.unwrap();
    hanging.write_all(&[0, 0]).await.unwrap();
    assert!(bench.client().ask(&Request::Hello).await.is_ok());
    stop(running).await;
}

#[tokio::test]
async fn the_socket_is_for_its_owner_only_and_a_second_applier_is_told_who_is_there() {
    let bench = Bench::new();
    let running = bench.start();
    let mode = std::fs::metadata(bench.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let second = bench.applier().map(drop).unwrap_err();

    assert_eq!(second.exit, Exit::Locked, "{second}");
    stop(running).await;
    let gone = bench.client().ask(&Request::Hello).await;
    assert!(matches!(gone, Err(ClientError::Connect { .. })), "{gone:?}");
}

#[tokio::test]
async fn a_document_that_is_refused_is_offered_again_only_when_something_has_changed() {
    let bench = Bench::new();
    let running = bench.start();
    let mut client = bench.client();
    let wanted = [Wanted { name: "web", id: bench.new.id, bytes: bench.new.bytes, from: vec![] }];
    let newer = fixture::plan(2, &wanted, "{ unit = \"web.service\" }");
    assert_eq!(client.document(newer).await.unwrap(), None);
    let (mut trust, server) = (bench.trust(), fixture::server());

    let first = client.pass_on(&trust, &server).await.unwrap();
    let second = client.pass_on(&trust, &server).await.unwrap();
    trust.accept(&fixture::halt(), fixture::WALL).unwrap();
    let changed = client.pass_on(&trust, &server).await.unwrap();
    let unchanged = client.pass_on(&trust, &server).await.unwrap();
    stop(running).await;
    let running = bench.start();
    let restarted = client.pass_on(&trust, &server).await.unwrap();
    stop(running).await;

    let counts = [first, second, changed, unchanged, restarted].map(|refused| refused.len());
    assert_eq!(counts, [1, 0, 1, 0, 1]);
}

#[tokio::test]
async fn an_applier_of_another_server_is_not_talked_to() {
    let bench = Bench::new();
    let running = bench.start();
    let other = "srv-2".parse().unwrap();
    let answer = bench.client().pass_on(&bench.trust(), &other).await;
    assert!(matches!(answer, Err(ClientError::OtherServer(_))), "{answer:?}");
    stop(running).await;
}

#[tokio::test]
async fn an_enrolment_that_nobody_signed_does_not_start() {
    let bench = Bench::new();
    std::fs::remove_file(bench.home.path().join("enrolment.toml.sig")).unwrap();
    let refused = bench.applier().map(drop).unwrap_err();
    assert_eq!(refused.exit, Exit::NotTrusted, "{refused}");
}

/// A server's directories, and what was published for it.
struct Bench {
    home: tempfile::TempDir,
    new: Published,
    plan: SignedDocument,
    /// The attempt under way: a refused one is over.
    attempt: Cell<u64>,
}

impl Bench {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let new = publish(home.path(), "web", "2");
        let wanted = [Wanted { name: "web", id: new.id, bytes: new.bytes, from: vec![] }];
        // "Starting the service" writes down what it was started on.
        let script = format!(
            "cat \"${{root}}/web/current/version\" > {0}/next && mv {0}/next {0}/service",
            home.path().display()
        );
        let restart = format!("{{ command = {{ command = [\"sh\", \"-c\", {script:?}] }} }}");
        let plan = fixture::plan(1, &wanted, &restart);
        documents::save(&home.path().join("root.toml"), &fixture::root()).unwrap();
        let own = fixture::enrolment("srv-1", SERVER, Role::Agent);
        documents::save(&home.path().join("enrolment.toml"), &own).unwrap();
        Self { home, new, plan, attempt: Cell::new(1) }
    }

    fn config(&self) -> Config {
        let at = |name: &str| self.home.path().join(name);
        Config {
            root: at("root"),
            state: at("state"),
            packs: packs_of(self.home.path()),
            socket: self.socket(),
            allowed_uid: None,
            trust_root: at("root.toml"),
            enrolment: at("enrolment.toml"),
        }
    }

    fn socket(&self) -> PathBuf {
        self.home.path().join("applier.sock")
    }

    fn pack_path(&self, id: ArtifactId) -> PathBuf {
        packs_of(self.home.path()).join(format!("{id}.pack"))
    }

    fn service(&self) -> String {
        std::fs::read_to_string(self.home.path().join("service")).unwrap()
    }

    fn applier(&self) -> Result<Applier, Failure> {
        Applier::start(self.config())
    }

    fn start(&self) -> Running {
        let mut applier = self.applier().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            tokio::select! {
                ended = applier.work() => ended.unwrap(),
                _ = stopped => {}
            }
            applier.stop().await.unwrap();
        });
        Running { task, stop }
    }

    fn client(&self) -> Client {
        Client::new(self.socket())
    }

    fn trust(&self) -> TrustState {
        let mut trust = fixture::trust();
        trust.accept(&self.plan, fixture::WALL).unwrap();
        trust
    }

    fn task(&self) -> Task {
        Task { campaign: fixture::campaign(), plan: self.plan.hash(), attempt: Attempt(self.attempt.get()) }
    }

    fn begin(&self, signer: u8) -> Request {
        let grant = fixture::grant(self.plan.hash(), self.attempt.get(), 10);
        let permission = Permission {
            grant: fixture::sign(&grant, signer),
            coordinator: fixture::coordinator(),
            claim_sent: clock::moment(),
        };
        Request::Begin(self.task(), Box::new(permission))
    }

    /// Asks until no step runs any more.
    async fn settled(&self, client: &mut Client) -> ApplierStatus {
        loop {
            let status = client.status(&Request::Status(self.task())).await.unwrap();
            match status.stage {
                ApplierStage::Staging | ApplierStage::Applying | ApplierStage::RollingBack => {
                    tokio::task::yield_now().await;
                }
                _ => return status,
            }
        }
    }
}

struct Running {
    task: JoinHandle<()>,
    stop: tokio::sync::oneshot::Sender<()>,
}

async fn stop(running: Running) {
    let _ = running.stop.send(());
    running.task.await.unwrap();
}

/// Ends the process's loop wherever it is.
async fn kill(running: Running) {
    running.task.abort();
    assert!(running.task.await.unwrap_err().is_cancelled());
}

async fn refused(client: &mut Client, request: Request) -> String {
    match client.status(&request).await.unwrap().stage {
        ApplierStage::Refused { reason } => reason,
        other => panic!("{other:?}"),
    }
}

/// Why staging ended without success. What follows is the next attempt.
async fn staged(bench: &Bench, client: &mut Client) -> String {
    client.ask(&Request::Stage(bench.task())).await.unwrap();
    let stage = bench.settled(client).await.stage;
    bench.attempt.set(bench.attempt.get() + 1);
    match stage {
        ApplierStage::Refused { reason } => reason,
        other => panic!("{other:?}"),
    }
}
