//! The power is cut after every single durable write and every file operation.
//!
//! A real set of two artifacts (one that replaces a version, one installed for the first time) is staged,
//! applied and committed, or taken back. For every number n the power goes after n operations, comes back, goes
//! again during the recovery, and comes back for good, with and without a reboot in between. Main invariant:
//! at every cut each link leads to a whole tree, and at the end the server is whole on exactly one set.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lunar_agent_core::applier::effect::{Effect, Record, Step};
use lunar_agent_core::applier::input::{Found, Input, Link};
use lunar_agent_core::applier::journal::Journal;
use lunar_agent_core::applier::machine::Machine;
use lunar_agent_core::applier::protocol::{Permission, Reply, Request, Task};
use lunar_agent_core::input::{ApplierStage, CallId};
use lunar_artifact::PackDirectory;
use lunar_artifact::verify::compare_tree;
use lunar_common::document::SignedDocument;
use lunar_common::ids::{ArtifactId, ArtifactName, Attempt};
use lunar_common::time::{Moment, Now};

use super::fixture::{self, Wanted};
use super::{Published, packs_of, publish};
use crate::installers::Releases;
use crate::installers::disk::fuse::Fuse;

/// What the network half wants, or does not live to want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Commit,
    RollBack,
    /// It never says anything once the upgrade began.
    Silence,
    /// The new version does not start.
    BrokenRestart,
}

#[test]
fn a_server_is_whole_on_one_version_wherever_the_power_was_cut() {
    let published = Arc::new(Releasable::publish());
    let mut cuts = 0;
    std::thread::scope(|scope| {
        let jobs: Vec<_> = [Wish::Commit, Wish::RollBack, Wish::Silence, Wish::BrokenRestart]
            .map(|wish| {
                let published = Arc::clone(&published);
                scope.spawn(move || cut_everywhere(&published, wish))
            })
            .into_iter()
            .collect();
        cuts = jobs.into_iter().map(|job| job.join().unwrap()).sum::<u32>();
    });
    assert!(cuts > 100, "only {cuts} places to cut were found");
}

/// Cuts the power after n operations, for every n that the whole upgrade has. Returns how many those are.
fn cut_everywhere(published: &Releasable, wish: Wish) -> u32 {
    for cut in 0.. {
        let mut survived = false;
        for reboot in [false, true] {
            let mut server = Server::with_the_old_version(published, wish);
            survived = server.live(Some(cut));
            if survived {
                break;
            }
            server.check_links("at the first cut");
            server.come_back(reboot);
            // Somewhere in the recovery, at another place for each n.
            if !server.live(Some(cut * 5 % 17)) {
                server.check_links("at the second cut");
                server.come_back(false);
                assert!(server.live(None), "no cut, and still cut");
            }
            server.check_end(&format!("{wish:?}, cut after {cut} operations, reboot: {reboot}"));
        }
        if survived {
            return cut;
        }
    }
    unreachable!("the numbers do not end")
}

#[test]
fn without_any_cut_each_wish_is_fulfilled() {
    let published = Releasable::publish();
    for (wish, kept) in
        [(Wish::Commit, true), (Wish::RollBack, false), (Wish::Silence, false), (Wish::BrokenRestart, false)]
    {
        let mut server = Server::with_the_old_version(&published, wish);
        assert!(server.live(None));
        server.check_end("without a cut");
        assert_eq!(server.stage() == ApplierStage::Committed, kept, "{wish:?}: {:?}", server.stage());
    }
}

#[test]
#[should_panic(expected = "the service has no version at all")]
fn the_checker_notices_a_link_that_is_removed_before_it_is_made_anew() {
    let published = Releasable::publish();
    for cut in 0.. {
        let mut server = Server::with_the_old_version(&published, Wish::Commit);
        server.careless = true;
        if server.live(Some(cut)) {
            break;
        }
        server.check_links("with the bug in");
    }
}

#[test]
fn unpacking_comes_before_the_switch_and_every_switch_is_synced() {
    let published = Releasable::publish();
    let mut server = Server::with_the_old_version(&published, Wish::Commit);
    let fuse = Arc::new(Fuse::after(10_000));
    server.fuse = Some(Arc::clone(&fuse));
    server.live(Some(10_000));
    let done = server.fuse.as_ref().unwrap().done();
    let text = done.join(", ");
    let last_unpack = done.iter().rposition(|operation| *operation == "unpack the rest").unwrap();
    let first_link = done.iter().position(|operation| *operation == "link").unwrap();
    assert!(last_unpack < first_link, "{text}");
    assert_eq!(text.matches("remove link, link, rename, sync").count(), 2, "{text}");
    for (at, _) in done.iter().enumerate().filter(|(_, operation)| **operation == "remove link") {
        assert_eq!(done[at - 1], "persist", "a step is journaled before it runs: {text}");
    }
}

/// What can be installed.
struct Releasable {
    home: tempfile::TempDir,
    old: Published,
    new: Published,
    tools: Published,
}

impl Releasable {
    fn publish() -> Self {
        let home = tempfile::tempdir().unwrap();
        let old = publish(home.path(), "web", "1");
        let new = publish(home.path(), "web", "2");
        let tools = publish(home.path(), "tools", "1");
        Self { home, old, new, tools }
    }
}

/// A server: its disk, its journal, and the service that runs on it.
struct Server<'a> {
    published: &'a Releasable,
    wish: Wish,
    disk: tempfile::TempDir,
    plan: SignedDocument,
    journal: Journal,
    fuse: Option<Arc<Fuse>>,
    careless: bool,
    machine: Option<Machine>,
    boot: u64,
    now: Now,
    /// What the links said when the service was last started.
    service: BTreeMap<ArtifactName, Link>,
}

impl<'a> Server<'a> {
    fn with_the_old_version(published: &'a Releasable, wish: Wish) -> Self {
        let disk = tempfile::tempdir().unwrap();
        let wanted = [
            Wanted {
                name: "web",
                id: published.new.id,
                bytes: published.new.bytes,
                from: vec![published.old.id],
            },
            Wanted { name: "tools", id: published.tools.id, bytes: published.tools.bytes, from: vec![] },
        ];
        let plan = fixture::plan(1, &wanted, "{ unit = \"web.service\" }");
        let releases = disk.path().join("web/releases");
        std::fs::create_dir_all(&releases).unwrap();
        let packs = PackDirectory::open(&packs_of(published.home.path())).unwrap();
        let old = packs.get_complete(published.old.id).unwrap();
        lunar_artifact::unpack_tree(&old, &releases.join(published.old.id.to_string())).unwrap();
        let target = Path::new("releases").join(published.old.id.to_string());
        std::os::unix::fs::symlink(target, disk.path().join("web/current")).unwrap();
        let mut server = Self {
            published,
            wish,
            disk,
            plan,
            journal: Journal::default(),
            fuse: None,
            careless: false,
            machine: None,
            boot: 1,
            now: fixture::now(1_000),
            service: BTreeMap::new(),
        };
        server.service = server.releases().found().links;
        server
    }

    /// Lives until all is over, or until the power goes after so many operations. Says whether all is over.
    fn live(&mut self, operations: Option<u32>) -> bool {
        self.fuse = operations.map(|operations| Arc::new(Fuse::after(operations).careless(self.careless)));
        let mut trust = fixture::trust();
        trust.accept(&self.plan, fixture::WALL).unwrap();
        let (journal, boot) = (self.journal.clone(), self.boot);
        self.machine = Some(Machine::new(fixture::server(), trust, journal, boot, self.now));
        loop {
            if self.carry_out().is_none() {
                return false;
            }
            let request = match self.stage() {
                ApplierStage::Idle => Request::Stage(self.task()),
                ApplierStage::Staged => Request::Begin(self.task(), Box::new(self.permission())),
                ApplierStage::Applied => match self.wish {
                    Wish::Commit => Request::Commit(self.task()),
                    Wish::RollBack => {
                        Request::RollBack { task: self.task(), cause: "not healthy".to_owned() }
                    }
                    Wish::Silence | Wish::BrokenRestart => {
                        let machine = self.machine.as_mut().unwrap();
                        let moment = machine.poll_timeout().expect("the dead man's switch is armed");
                        self.now = Now { moment, ..self.now };
                        machine.handle_timeout(self.now);
                        continue;
                    }
                },
                ApplierStage::Committed | ApplierStage::RolledBack { .. } => return true,
                other => panic!("stuck at {other:?}"),
            };
            self.ask(request);
        }
    }

    /// The applier is started again after the power cut.
    fn come_back(&mut self, reboot: bool) {
        if reboot {
            self.boot += 1;
            self.now = fixture::now(5);
            // The supervisor starts the service on whatever the links say.
            self.fuse = None;
            self.service = self.releases().found().links;
        } else {
            self.now = Now { moment: Moment(self.now.moment.0 + 100), ..self.now };
        }
    }

    /// Carries effects out until there are none; `None` if the power goes.
    fn carry_out(&mut self) -> Option<()> {
        while let Some(effect) = self.machine.as_mut().unwrap().poll_effect() {
            match effect {
                Effect::Persist(Record::Journal(journal)) => {
                    self.burn("persist")?;
                    self.journal = *journal;
                }
                Effect::Persist(Record::Trust(_)) => panic!("no document is handed over here"),
                Effect::Reply { reply: Reply::Status(status), .. } => {
                    if let ApplierStage::Refused { reason } = status.stage {
                        panic!("refused: {reason}");
                    }
                }
                Effect::Reply { reply, .. } => panic!("{reply:?}"),
                Effect::Run { run, step, .. } => {
                    let result = self.run(&step);
                    if self.fuse.as_ref().is_some_and(|fuse| fuse.blown()) && result.is_err() {
                        return None;
                    }
                    let input = Input::StepEnded { run, failure: result.err() };
                    self.machine.as_mut().unwrap().handle(input, self.now);
                }
                Effect::Log { .. } => {}
            }
        }
        Some(())
    }

    fn run(&mut self, step: &Step) -> Result<(), String> {
        let releases = self.releases();
        let failed = |error: crate::installers::ReleaseError| error.to_string();
        match step {
            Step::Prune { name, keep } => releases.prune(name, keep).map_err(failed),
            Step::Stage(bundle) => releases.stage(bundle).map_err(failed),
            Step::Verify(bundle) => releases.verify(bundle).map_err(failed),
            Step::Switch { name, to } => releases.switch(name, *to).map_err(failed),
            Step::Restart { .. } => {
                self.burn("restart").ok_or("the power is gone")?;
                let found = releases.found();
                let new = found.running(&name_of("web")) == Ok(Some(self.published.new.id));
                if new && self.wish == Wish::BrokenRestart {
                    return Err("it does not start".to_owned());
                }
                self.service = found.links;
                Ok(())
            }
        }
    }

    fn burn(&self, operation: &'static str) -> Option<()> {
        self.fuse.as_ref().map_or(Some(()), |fuse| fuse.burn(operation).ok())
    }

    fn ask(&mut self, request: Request) {
        let found = self.releases().found();
        let input = Input::Asked { call: CallId(1), request, found };
        self.machine.as_mut().unwrap().handle(input, self.now);
    }

    /// Where the applier is, without touching anything.
    fn stage(&self) -> ApplierStage {
        let machine = self.machine.as_ref().unwrap();
        let (trust, journal) = (machine.trust().clone(), machine.journal().clone());
        let mut copy = Machine::new(fixture::server(), trust, journal, self.boot, self.now);
        let request = Request::Status(self.task());
        copy.handle(Input::Asked { call: CallId(0), request, found: Found::default() }, self.now);
        std::iter::from_fn(|| copy.poll_effect())
            .find_map(|effect| match effect {
                Effect::Reply { reply: Reply::Status(status), .. } => Some(status.stage),
                _ => None,
            })
            .expect("a status is answered")
    }

    fn releases(&self) -> Releases {
        let releases = Releases::new(self.disk.path().to_owned(), packs_of(self.published.home.path()));
        match &self.fuse {
            Some(fuse) => releases.with_fuse(Arc::clone(fuse)),
            None => releases,
        }
    }

    fn task(&self) -> Task {
        Task { campaign: fixture::campaign(), plan: self.plan.hash(), attempt: Attempt(1) }
    }

    fn permission(&self) -> Permission {
        let grant = fixture::grant(self.plan.hash(), 1, 10);
        Permission {
            grant: fixture::sign(&grant, fixture::COORDINATOR),
            coordinator: fixture::coordinator(),
            claim_sent: Moment(0),
        }
    }

    /// Every link leads to a whole tree.
    fn check_links(&self, when: &str) -> BTreeMap<ArtifactName, ArtifactId> {
        let packs = PackDirectory::open(&packs_of(self.published.home.path())).unwrap();
        let root: PathBuf = self.disk.path().to_owned();
        let found = Releases::new(root.clone(), root.clone()).found();
        let mut links = BTreeMap::new();
        for (name, link) in found.links {
            let Link::Release(id) = link else { panic!("{when}: {name} is {link:?}") };
            let tree = root.join(name.as_str()).join("current").canonicalize().unwrap();
            compare_tree(&tree, &packs.get_complete(id).unwrap())
                .unwrap_or_else(|error| panic!("{when}: {name} is not whole: {error}"));
            links.insert(name, id);
        }
        assert!(links.contains_key(&name_of("web")), "{when}: the service has no version at all");
        links
    }

    fn check_end(&self, when: &str) {
        let links = self.check_links(when);
        let new = BTreeMap::from([
            (name_of("web"), self.published.new.id),
            (name_of("tools"), self.published.tools.id),
        ]);
        let old = BTreeMap::from([(name_of("web"), self.published.old.id)]);
        let end = self.stage();
        match &end {
            ApplierStage::Committed => assert_eq!(links, new, "{when}"),
            ApplierStage::RolledBack { .. } => assert_eq!(links, old, "{when}"),
            other => panic!("{when}: ended as {other:?}"),
        }
        assert!(self.wish == Wish::Commit || end != ApplierStage::Committed, "{when}: nobody committed");
        assert_eq!(self.journal.work, None, "{when}");
        assert_eq!(self.journal, *self.machine.as_ref().unwrap().journal(), "{when}");
        let running: BTreeMap<_, _> = links.into_iter().map(|(n, id)| (n, Link::Release(id))).collect();
        assert_eq!(self.service, running, "{when}: the service runs something else");
        let old_stays = self.disk.path().join("web/releases").join(self.published.old.id.to_string());
        assert!(old_stays.is_dir(), "{when}: the version before was removed");
    }
}

fn name_of(name: &str) -> ArtifactName {
    ArtifactName::new(name).unwrap()
}
