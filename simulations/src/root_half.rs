//! The root halves and the link to them.
//!
//! Owns the questions of a node to its applier, and the carrying out of the applier's effects. Main invariant:
//! the applier is handed every document that it lacks before each question, as the link in production does, and
//! everything it does is by its own decision.

use lunar_agent_core::applier::effect::{Effect, Record, Step};
use lunar_agent_core::applier::input::{Input, RunId};
use lunar_agent_core::applier::journal::{Journal, Progress};
use lunar_agent_core::applier::protocol::{Permission, Reply, Request, Task};
use lunar_agent_core::effect::ApplierCommand;
use lunar_agent_core::input::{ApplierStatus, CallId, Input as NodeInput};
use lunar_common::document::SignedDocument;
use lunar_common::time::Moment;
use lunar_common::wire::Signed;

use crate::chance::Purpose;
use crate::event::{Event, ToApplier};
use crate::faults::{CrashAt, ProcessEdge};
use crate::options::Mutant;
use crate::world::World;

impl World {
    pub(crate) fn applier_up(&mut self, server: usize) {
        if self.servers[server].applier.is_some() {
            return;
        }
        self.note_of(server, "applier up");
        self.servers[server].start_applier(&self.documents, self.at_ms);
        self.truth.touched.push(server);
        let _ = self.carry_out_applier(server);
    }

    pub(crate) fn kill_applier(&mut self, server: usize, crash: CrashAt) {
        if self.servers[server].applier.is_none() {
            return;
        }
        self.note_of(server, "applier killed");
        self.servers[server].kill_applier(crash.step_done);
        self.check(server);
        let boot = self.servers[server].boot;
        self.put_in(crash.for_ms, Event::ApplierUp { server, boot });
    }

    /// The node's question reaches the link.
    pub(crate) fn ask_applier(&mut self, server: usize, question: ToApplier) {
        let ToApplier { life, ask, task, command } = question;
        if self.servers[server].life != life {
            return;
        }
        let status = self.put_question(server, task, command);
        let way = self.chance.between(1, 30, server, Purpose::ApplierAnswer);
        let input = Box::new(NodeInput::Applier { ask, status });
        self.put_in(way, Event::Node { server, life, input });
    }

    fn put_question(&mut self, server: usize, task: Task, command: ApplierCommand) -> Option<ApplierStatus> {
        self.pass_on(server)?;
        let request = match command {
            ApplierCommand::Status => Request::Status(task),
            ApplierCommand::Stage => Request::Stage(task),
            ApplierCommand::Check { grant, claim_sent } => {
                Request::Check(task, self.permission(server, grant, claim_sent)?)
            }
            ApplierCommand::Begin { grant, claim_sent } => {
                Request::Begin(task, self.permission(server, grant, claim_sent)?)
            }
            ApplierCommand::Commit => Request::Commit(task),
            ApplierCommand::RollBack { cause } => Request::RollBack { task, cause },
        };
        match self.request_applier(server, request)? {
            Reply::Status(status) => Some(status),
            Reply::Hello { .. } | Reply::Document { .. } | Reply::Unreadable { .. } => None,
        }
    }

    fn permission(&self, server: usize, grant: Signed, claim_sent: Moment) -> Option<Box<Permission>> {
        let trust = self.servers[server].node.as_ref()?.trust();
        let coordinator = (**trust.machine(&grant.signer)?.document()).clone();
        Some(Box::new(Permission { grant, coordinator, claim_sent }))
    }

    fn pass_on(&mut self, server: usize) -> Option<()> {
        let Reply::Hello { documents: mut have, .. } = self.request_applier(server, Request::Hello)? else {
            return None;
        };
        loop {
            let missing: Vec<SignedDocument> =
                self.servers[server].node.as_ref()?.trust().missing_from(&have);
            if missing.is_empty() {
                return Some(());
            }
            for document in missing {
                have.push(document.hash());
                self.request_applier(server, Request::Document(document))?;
            }
        }
    }

    /// Asks, and carries out everything up to the answer; `None` if the applier is not there any more.
    fn request_applier(&mut self, server: usize, request: Request) -> Option<Reply> {
        let at = &mut self.servers[server];
        let now = at.now(self.at_ms);
        let found = at.disk.found();
        at.applier.as_mut()?.handle(Input::Asked { call: CallId(1), request, found }, now);
        self.carry_out_applier(server)
    }

    pub(crate) fn applier_alarm(&mut self, server: usize) {
        let at = &mut self.servers[server];
        at.applier_alarms.rang(self.at_ms);
        let now = at.now(self.at_ms);
        let Some(machine) = &mut at.applier else { return };
        if machine.poll_timeout().is_some_and(|due| due <= now.moment) {
            machine.handle_timeout(now);
        }
        let _ = self.carry_out_applier(server);
    }

    pub(crate) fn step_ended(&mut self, server: usize, life: u64, run: RunId) {
        let at = &mut self.servers[server];
        if at.applier_life != life {
            return;
        }
        let Some((_, step)) = at.step.take_if(|(running, _)| *running == run) else { return };
        let skips = self.options.mutant == Some(Mutant::SkipsVerification) && matches!(step, Step::Verify(_));
        let mut failure = if skips {
            None
        } else if self.has_no_room(server, &step) {
            Some("no space left on the device".to_owned())
        } else {
            self.servers[server].disk.end(&step)
        };
        let at = &mut self.servers[server];
        let restarted = matches!(step, Step::Restart { .. });
        if self.options.mutant == Some(Mutant::HalfStaged) {
            at.disk.spoil(&step);
            failure = None;
        }
        if restarted {
            let settles = self.takes(self.options.scenario.hold.settle_s, server, Purpose::Settle);
            let at = &mut self.servers[server];
            (at.restarted_ms, at.ready_ms) = (self.at_ms, self.at_ms + settles);
        }
        self.check(server);
        let at = &mut self.servers[server];
        let now = at.now(self.at_ms);
        let machine = at.applier.as_mut().expect("a step ends in the life that began it");
        machine.handle(Input::StepEnded { run, failure }, now);
        let _ = self.carry_out_applier(server);
    }

    pub(crate) fn carry_out_applier(&mut self, server: usize) -> Option<Reply> {
        let mut answer = None;
        while let Some(effect) =
            self.servers[server].applier.as_mut().and_then(|machine| machine.poll_effect())
        {
            if let Some(crash) = CrashAt::passes(&mut self.servers[server].applier_crash, ProcessEdge::Effect)
            {
                self.kill_applier(server, crash);
                return None;
            }
            match effect {
                Effect::Persist(record) => self.keep_applier_record(server, record),
                Effect::Reply { reply, .. } => answer = Some(reply),
                Effect::Run { run, step, .. } => self.run_step(server, run, step),
                Effect::Log { text, .. } => {
                    self.note_of(server, &format!("applier: {text}"));
                    if text.contains("not committed within") {
                        self.sometimes.insert("the dead man's switch went off");
                    }
                    if text.contains("the machine restarted before") {
                        self.sometimes.insert("a machine lost its power before the commit");
                    }
                }
            }
        }
        let at = &mut self.servers[server];
        let due = at.applier.as_ref().and_then(|machine| machine.poll_timeout());
        if let Some(when) = due.map(|moment| at.when(moment).max(self.at_ms))
            && at.applier_alarms.set(when)
        {
            self.put_at(when, Event::ApplierAlarm { server });
        }
        answer
    }

    fn keep_applier_record(&mut self, server: usize, record: Record) {
        if self.applier_write_fails(server) {
            return;
        }
        let at = &mut self.servers[server];
        match record {
            Record::Journal(_) if self.options.mutant == Some(Mutant::NoApplierJournal) => {}
            Record::Journal(journal) => {
                let commits = |kept: &Journal| {
                    kept.work
                        .as_ref()
                        .is_some_and(|work| matches!(work.progress, Progress::Committing { .. }))
                };
                let begins = commits(&journal) && !commits(&at.applier_journal);
                at.applier_journal = *journal;
                if begins {
                    self.check_commit(server);
                }
            }
            Record::Trust(trust) => at.applier_trust = Some(trust),
        }
        self.check(server);
        self.applier_written(server);
    }

    fn run_step(&mut self, server: usize, run: RunId, step: Step) {
        let hold = &self.options.scenario.hold;
        let (stage, restart) = (hold.stage_s, hold.restart_s);
        let lasts = match step {
            Step::Stage(_) => self.takes(stage, server, Purpose::Stage),
            Step::Restart { .. } => self.takes(restart, server, Purpose::Restart),
            Step::Prune { .. } | Step::Verify(_) | Step::Switch { .. } => {
                self.chance.between(10, 600, server, Purpose::Step)
            }
        };
        let at = &mut self.servers[server];
        at.disk.begin(&step);
        at.step = Some((run, step));
        let life = at.applier_life;
        self.put_in(lasts, Event::StepEnded { server, life, run });
    }
}
