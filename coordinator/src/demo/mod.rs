//! `demo`: the main job on real processes, with things going wrong.
//!
//! Owns the script: lay out a fleet, found it as operators would, run a campaign, judge the end. Main
//! invariant: exit code 0 only if every expectation held; whatever happens, no process is left behind unless
//! `--keep` asked for it.

mod fleet;
mod found;
mod inject;
mod operator;
mod processes;
mod progress;
mod release;
mod report;
mod service;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use lunar_common::lease::{LeaseOutcome, LimitScope};
use lunar_common::message::BytesBySource;
use lunar_coordinator_core::view::{CampaignView, LeaseView, LimitView, ServerView, StatusView};
use lunar_host::exit::{Exit, Failure};
use lunar_host::supervisor;

pub use service::{ServiceCommand, run as run_service};

use crate::api::types::{AuditView, EventView};
use crate::cli::{CommandResult, Common, Output};
use crate::client::Client;
use fleet::{CAMPAIGN, Fleet, Server};
use found::Founded;
use inject::Injection;
use operator::Operator;
use processes::Processes;
use progress::Progress;
use report::{Expectation, Report, ServerLine};

/// The coordinator's name among the processes.
const COORDINATOR: &str = "coordinator";
/// The origin's name among the processes.
const ORIGIN: &str = "origin";

/// Upgrades a real fleet on this machine's loopback: the main job, end to end.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  lunar-coordinator demo\n  \
    lunar-coordinator demo --inject kill-agent,kill-coordinator,corrupt-pack\n  \
    lunar-coordinator demo --agents 24 --old ./site-1.0 --new ./site-1.1\n  \
    lunar-coordinator demo --keep")]
pub struct DemoCommand {
    /// How many servers. With 3 or more, the first three are one redundancy group.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=200))]
    agents: u16,
    /// A directory of your own as the old version.
    #[arg(long, value_name = "DIR", requires = "new")]
    old: Option<PathBuf>,
    /// A directory of your own as the new version.
    #[arg(long, value_name = "DIR", requires = "old")]
    new: Option<PathBuf>,
    /// What is to go wrong, besides the one server that fails validation.
    #[arg(long, value_enum, value_delimiter = ',')]
    inject: Vec<Injection>,
    /// Leaves the fleet running at the end, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Founds the fleet and leaves it running, with the plan signed but not published, until Ctrl-C.
    #[arg(long, conflicts_with_all = ["keep", "inject"])]
    idle: bool,
    /// The same as `--output json`.
    #[arg(long)]
    json: bool,
    /// Where everything is put; must be empty or not there. Default: a temporary directory, removed at the end
    /// unless something did not hold.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// How often an idle agent reports, in seconds. A real fleet's default is 30; here bars are to move.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=300), value_name = "SECONDS")]
    report_every: u16,
    /// Gives up after this many seconds.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    give_up_s: u32,
}

/// Between two looks at the fleet. Short enough that bars move.
const LOOK_EVERY: Duration = Duration::from_millis(150);

impl DemoCommand {
    /// Runs it.
    ///
    /// # Errors
    /// What kept the demo from running; an expectation that does not hold is exit code 1 instead.
    pub fn run(self, common: &Common) -> CommandResult {
        let output = if self.json { Output::Json } else { common.output };
        let place = Place::make(self.directory.clone())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let _inside = runtime.enter();
        let mut told_to_stop = std::pin::pin!(supervisor::told_to_stop()?);
        let mut demo = Demo::found(&self, &place, output)?;
        let give_up = Duration::from_secs(self.give_up_s.into());
        runtime.block_on(demo.stands(give_up)).inspect_err(|_| place.keep())?;
        if self.idle {
            let founded = Idle { home: demo.fleet.home(), plan: demo.founded.plan.clone() };
            output.print(&founded, |founded| {
                format!(
                    "The fleet stands. Its plan waits: lunar-coordinator plan publish {}",
                    founded.plan.display()
                )
            })?;
            demo.say_how_to_look();
            runtime.block_on(told_to_stop);
            demo.end();
            return Ok(Exit::Ok);
        }
        let report = runtime.block_on(async {
            tokio::select! {
                report = demo.campaign(&self) => report.map(Some),
                () = &mut told_to_stop => Ok(None),
            }
        });
        let Some(report) = report.inspect_err(|_| place.keep())? else {
            demo.end();
            return Err(Failure::new(
                Exit::NotHeld,
                anyhow!("stopped before the end; everything was cleaned up"),
            ));
        };
        output.print(&report, Report::human)?;
        if self.keep {
            demo.say_how_to_look();
            // Ended by Ctrl-C, or by whoever started it.
            runtime.block_on(told_to_stop);
        }
        demo.end();
        if !report.held {
            place.keep();
            return Ok(Exit::NotHeld);
        }
        Ok(Exit::Ok)
    }
}

/// What `--idle` leaves.
#[derive(Debug, serde::Serialize)]
struct Idle {
    home: PathBuf,
    plan: PathBuf,
}

/// The directory of the demo.
enum Place {
    Given(PathBuf),
    Temporary(std::cell::RefCell<Option<tempfile::TempDir>>, PathBuf),
}

impl Place {
    fn make(given: Option<PathBuf>) -> Result<Self, Failure> {
        let Some(given) = given else {
            let made = tempfile::Builder::new().prefix("lunar-demo-").tempdir()?;
            let path = made.path().to_owned();
            return Ok(Self::Temporary(Some(made).into(), path));
        };
        std::fs::create_dir_all(&given)?;
        if std::fs::read_dir(&given)?.next().is_some() {
            return Err(Failure::new(Exit::BadInput, anyhow!("{} is not empty", given.display()))
                .advise("name a directory that is empty or not there yet"));
        }
        Ok(Self::Given(std::fs::canonicalize(given)?))
    }

    fn path(&self) -> &PathBuf {
        match self {
            Self::Given(path) | Self::Temporary(_, path) => path,
        }
    }

    /// Leaves the directory there, for whoever looks into what went wrong.
    fn keep(&self) {
        if let Self::Temporary(made, _) = self
            && let Some(made) = made.take()
        {
            let _ = writeln!(std::io::stderr(), "logs and state are left in {}", made.keep().display());
        }
    }
}

/// A founded fleet with its processes.
struct Demo {
    fleet: Fleet,
    founded: Founded,
    operator: Operator,
    processes: Processes,
    client: Client,
    progress: Progress,
    ended: bool,
}

impl Demo {
    fn found(command: &DemoCommand, place: &Place, output: Output) -> Result<Self, Failure> {
        let quiet = output == Output::Json;
        let fleet = Fleet::lay_out(place.path(), command.agents.into())?;
        let operator = Operator::new(&fleet.home(), !quiet)?;
        let mut processes = Processes::default();
        let versions = command.old.clone().zip(command.new.clone());
        let founded = found::found(&fleet, &operator, &mut processes, versions, command.report_every)
            .inspect_err(|_| place.keep())?;
        let client = Client::new(&fleet.home());
        let progress = Progress::new(fleet.servers.iter().map(|server| server.id.clone()), quiet);
        Ok(Self { fleet, founded, operator, processes, client, progress, ended: false })
    }

    /// Waits until the coordinator answers and has heard every server: a loaded machine starts them slowly.
    async fn stands(&self, give_up: Duration) -> Result<(), Failure> {
        let begun = Instant::now();
        loop {
            match self.client.get::<StatusView>("/status").await {
                Ok(status) if status.unheard == 0 => return Ok(()),
                Err(failure) if begun.elapsed() > give_up => return Err(failure),
                Ok(status) if begun.elapsed() > give_up => {
                    let what = anyhow!("{} servers did not report within {give_up:?}", status.unheard);
                    return Err(Failure::new(Exit::Unreachable, what));
                }
                Ok(_) | Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Publishes the plan, follows it to the end, and judges.
    async fn campaign(&mut self, command: &DemoCommand) -> Result<Report, Failure> {
        let begun = Instant::now();
        let mut due: Vec<Injection> = command.inject.clone();
        due.sort_unstable();
        due.dedup();
        if due.contains(&Injection::CorruptPack)
            && let Some(late) = inject::late_comer(&self.fleet)
        {
            self.processes.crash(&late.id)?;
        }
        self.operator.run(["plan", "publish", &self.founded.plan.to_string_lossy()])?;
        let mut expectations = Vec::new();
        let give_up = Duration::from_secs(command.give_up_s.into());
        let mut finished = false;
        while !finished && begun.elapsed() < give_up {
            tokio::time::sleep(LOOK_EVERY).await;
            // A coordinator that was just killed answers nothing for a moment.
            let Ok(servers) = self.client.get_all::<ServerView>("/servers").await else { continue };
            let limits = self.limits().await.unwrap_or_default();
            self.progress.update(&servers, &limits);
            let mut later = Vec::new();
            for injection in due {
                match injection.try_now(&self.fleet, &mut self.processes, &servers)? {
                    Some(done) => {
                        self.progress.say(&format!("  ! {done}"));
                        expectations.push(Expectation::new(injection.describe(), true, done));
                    }
                    None => later.push(injection),
                }
            }
            due = later;
            finished = self.is_over(&servers).await;
        }
        let seconds = begun.elapsed().as_secs_f64();
        self.progress.finish();
        for injection in due {
            expectations.push(Expectation::new(injection.describe(), false, "its moment never came"));
        }
        expectations.insert(
            0,
            Expectation::new("the campaign came to its end", finished, format!("after {seconds:.1} s")),
        );
        self.judge(expectations, seconds).await
    }

    async fn limits(&self) -> Result<Vec<LimitView>, Failure> {
        self.client.get(&format!("/campaigns/{CAMPAIGN}/limits")).await
    }

    /// Every server is at its end, by its own word, and no lease is held.
    async fn is_over(&self, servers: &[ServerView]) -> bool {
        let ended = |server: &Server| {
            servers.iter().any(|view| {
                view.member.server.as_str() == server.id
                    && view
                        .campaigns
                        .iter()
                        .any(|status| status.campaign.as_str() == CAMPAIGN && status.phase.is_final())
            })
        };
        self.fleet.servers.iter().all(ended)
            && self.client.get_all::<LeaseView>("/leases").await.is_ok_and(|leases| leases.is_empty())
    }

    async fn events(&self) -> Result<Vec<EventView>, Failure> {
        self.client.get_all("/events").await
    }

    /// Looks at everything that is left behind, and says what held.
    async fn judge(&mut self, mut expectations: Vec<Expectation>, seconds: f64) -> Result<Report, Failure> {
        let events = self.events().await?;
        let views: Vec<ServerView> = self.client.get_all("/servers").await?;
        let outcomes = report::outcomes(&events);
        let mut lines = Vec::new();
        for server in &self.fleet.servers {
            let runs = self.founded.version_at(server);
            let unlucky = self.founded.unlucky.as_deref() == Some(server.id.as_str());
            let outcome = outcomes.iter().find(|(id, _)| id.as_str() == server.id).map(|(_, end)| end);
            let (result, cause, as_wanted) = match outcome.map(|(outcome, _)| outcome) {
                Some(LeaseOutcome::Completed) => ("complete", "", !unlucky),
                Some(LeaseOutcome::RolledBack { cause }) => ("rolled back", cause.as_str(), unlucky),
                Some(LeaseOutcome::NeverStarted { cause }) => ("never started", cause.as_str(), false),
                None => ("no lease ended", "", false),
            };
            let wanted = if unlucky { found::OLD } else { found::NEW };
            let healthy = service_answers(server.port).await;
            let what = if unlucky {
                format!("{} fails validation and rolls back by itself", server.id)
            } else {
                format!("{} runs the new version", server.id)
            };
            expectations.push(Expectation::new(
                what,
                as_wanted && runs == wanted && healthy,
                format!(
                    "{result}; on disk {runs}; service {}",
                    if healthy { "healthy" } else { "NOT healthy" }
                ),
            ));
            let status = views
                .iter()
                .find(|view| view.member.server.as_str() == server.id)
                .and_then(|view| view.campaigns.iter().find(|status| status.campaign.as_str() == CAMPAIGN));
            lines.push(ServerLine {
                server: server.id.clone(),
                site: server.site.to_owned(),
                tier: server.tier.number(),
                from: found::OLD.to_owned(),
                to: runs,
                result: result.to_owned(),
                cause: cause.to_owned(),
                down_s: outcome.map_or(0.0, |(_, down)| *down as f64 / 1000.0),
                received: status.map_or(BytesBySource::default(), |status| status.received),
            });
        }
        self.judge_fleet(&mut expectations, &events).await?;
        let directory = self.fleet.directory.display().to_string();
        Ok(Report::new(lines, expectations, &events, self.founded.frame_bytes, seconds, directory))
    }

    /// What must hold for the fleet as a whole.
    async fn judge_fleet(
        &mut self,
        expectations: &mut Vec<Expectation>,
        events: &[EventView],
    ) -> Result<(), Failure> {
        let down = report::down_at_once(events);
        let over: Vec<_> = down.iter().filter(|down| down.most > down.limit).collect();
        expectations.push(Expectation::new(
            "never more servers down at once than a limit allows",
            over.is_empty() && !down.is_empty(),
            format!("{} limits replayed from the log, {} exceeded", down.len(), over.len()),
        ));
        if self.fleet.servers.iter().any(|server| server.group.is_some()) {
            let scope = LimitScope::Group(
                fleet::GROUP.parse().map_err(|error| Failure::new(Exit::Internal, anyhow!("{error}")))?,
            );
            let most = down.iter().find(|down| down.scope == scope.to_string()).map_or(0, |down| down.most);
            expectations.push(Expectation::new(
                "never more than one member of the redundancy group down",
                most == 1,
                format!("at most {most} at once"),
            ));
        }
        let leases: Vec<LeaseView> = self.client.get_all("/leases").await?;
        expectations.push(Expectation::new(
            "no lease is left",
            leases.is_empty(),
            format!("{} left", leases.len()),
        ));
        let audit: AuditView = self.client.get("/audit").await?;
        expectations.push(Expectation::new(
            "the audit trail is intact",
            audit.intact && audit.records > 0,
            audit.problem.unwrap_or_else(|| format!("{} records", audit.records)),
        ));
        let campaigns: Vec<CampaignView> = self.client.get("/campaigns").await?;
        let outcomes =
            campaigns.iter().find(|view| view.campaign.as_str() == CAMPAIGN).map(|view| view.outcomes);
        expectations.push(Expectation::new(
            "the coordinator counts the same",
            outcomes.is_some_and(|counts| {
                counts.completed + counts.rolled_back >= self.fleet.servers.len() as u64
                    && counts.rolled_back >= u64::from(self.founded.unlucky.is_some())
            }),
            outcomes.map_or("no such campaign".to_owned(), |counts| {
                format!("{} completed, {} rolled back", counts.completed, counts.rolled_back)
            }),
        ));
        let ended = self.processes.ended();
        expectations.push(Expectation::new(
            "no process ended by itself",
            ended.is_empty(),
            match ended.as_slice() {
                [] => "none did".to_owned(),
                some => some
                    .iter()
                    .map(|(name, status)| format!("{name}: {status}"))
                    .collect::<Vec<_>>()
                    .join(", "),
            },
        ));
        Ok(())
    }

    fn say_how_to_look(&self) {
        let first = &self.fleet.servers[0];
        let _ = writeln!(
            std::io::stderr(),
            "\nThe fleet goes on. In another terminal:\n  \
             export LUNAR_HOME={home}\n  \
             lunar-coordinator status --servers\n  \
             lunar-coordinator why {server}\n  \
             lunar-coordinator history {server}\n  \
             lunar-coordinator halt --all --reason 'a look around' --key {halter} --via unix:{socket}\n\
             Logs are in {logs}. Ctrl-C ends it all.",
            home = self.fleet.home().display(),
            server = first.id,
            halter = self.fleet.operator_key("carol").display(),
            socket = first.agent_socket().display(),
            logs = self.fleet.directory.join("logs").display(),
        );
    }

    /// Ends every process, the services too. Once is enough.
    fn end(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.processes.stop();
        self.operator.be_quiet();
        for server in &self.fleet.servers {
            let stop = ["demo-service", "stop"].map(str::to_owned).into_iter();
            if let Err(failure) = self.operator.run(stop.chain(server.service_arguments())) {
                tracing::warn!(server = server.id, %failure, "its service could not be stopped");
            }
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether a server's service says that it is healthy.
async fn service_answers(port: u16) -> bool {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, port)).await?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.take(4096).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer.starts_with(b"HTTP/1.1 200"))
    };
    tokio::time::timeout(Duration::from_secs(10), ask).await.is_ok_and(|answer| answer.unwrap_or(false))
}
