//! One server: its two halves, what each made durable, and its disk.
//!
//! Owns [`Server`]. Main invariant: what a half has not persisted dies with it; what belongs to one life of a
//! process is never handed to the next.

use std::collections::{BTreeMap, BTreeSet};

use lunar_agent_core::applier::effect::Step;
use lunar_agent_core::applier::input::RunId;
use lunar_agent_core::applier::journal::{Journal as ApplierJournal, Progress};
use lunar_agent_core::applier::machine::Machine;
use lunar_agent_core::input::{AskId, CallId};
use lunar_agent_core::journal::Journal;
use lunar_agent_core::node::{Node, Setup};
use lunar_common::ids::{Epoch, Fence, Sequence};
use lunar_common::time::{Moment, Now, WallTime};
use lunar_common::trust::{TrustSnapshot, TrustState};

use crate::disk::Disk;
use crate::documents::{Machine as Enrolled, START};
use crate::faults::{CrashAt, Interval};

/// Who asked a node whether it is up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker {
    pub(crate) server: usize,
    pub(crate) life: u64,
    pub(crate) call: u64,
    pub(crate) ask: AskId,
}

/// A server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) enrolled: Enrolled,
    pub(crate) node: Option<Node>,
    /// Counts the lives of both halves: an answer to an earlier one reaches nobody.
    pub(crate) life: u64,
    pub(crate) journal: Option<Journal>,
    pub(crate) trust: TrustSnapshot,
    pub(crate) applier: Option<Machine>,
    pub(crate) applier_life: u64,
    pub(crate) applier_journal: ApplierJournal,
    pub(crate) applier_trust: TrustSnapshot,
    /// The step that runs.
    pub(crate) step: Option<(RunId, Step)>,
    pub(crate) disk: Disk,
    pub(crate) boot: u64,
    booted_ms: u64,
    pub(crate) partitioned_until: u64,
    /// The new release does not work here.
    pub(crate) bad_release: bool,
    /// Its halves die at one of their next effects.
    pub(crate) node_crash: Option<CrashAt>,
    pub(crate) applier_crash: Option<CrashAt>,
    /// Some of its probes fail.
    pub(crate) flapping: Interval,
    /// Requests of this life that were not answered.
    pub(crate) pending: BTreeSet<u64>,
    pub(crate) askers: BTreeMap<CallId, Asker>,
    /// When its timers are set to ring.
    pub(crate) node_alarm: Option<u64>,
    pub(crate) applier_alarm: Option<u64>,
    /// The newest halt and resume that the node has acknowledged.
    pub(crate) halted: Sequence,
    pub(crate) resumed: Sequence,
    /// Highest numbers ever seen in its durable journal.
    pub(crate) floors: (Epoch, Fence),
    /// Its lease is one that a restored coordinator has forgotten and not been told of yet.
    /// While this is so; the number is the moment before which a grant may still be on its way.
    pub(crate) forgotten: Option<u64>,
}

impl Server {
    pub(crate) fn new(enrolled: Enrolled, anchor: &TrustState) -> Self {
        let mut trust = anchor.clone();
        trust.accept(&enrolled.enrolment, START).expect("the enrolment is genuine");
        Self {
            enrolled,
            node: None,
            life: 0,
            journal: None,
            trust: trust.snapshot(),
            applier: None,
            applier_life: 0,
            applier_journal: ApplierJournal::default(),
            applier_trust: trust.snapshot(),
            step: None,
            disk: Disk::new(),
            boot: 1,
            booted_ms: 0,
            partitioned_until: 0,
            bad_release: false,
            node_crash: None,
            applier_crash: None,
            flapping: Interval::default(),
            pending: BTreeSet::new(),
            askers: BTreeMap::new(),
            node_alarm: None,
            applier_alarm: None,
            halted: Sequence(0),
            resumed: Sequence(0),
            floors: (Epoch(0), Fence(0)),
            forgotten: None,
        }
    }

    /// The time as this machine knows it.
    pub(crate) fn now(&self, at_ms: u64) -> Now {
        let moment = Moment(at_ms - self.booted_ms + 1_000);
        Now { moment, wall: wall(at_ms) }
    }

    /// When one of this machine's moments comes, in the world's time.
    pub(crate) fn when(&self, moment: Moment) -> u64 {
        (moment.0 + self.booted_ms).saturating_sub(1_000)
    }

    /// The network half starts from what it made durable.
    pub(crate) fn start_node(&mut self, at_ms: u64) {
        let trust = TrustState::restore(self.trust.clone()).expect("what was persisted verifies again");
        let me = trust.machine_named(&self.enrolled.server).expect("its own enrolment is there").clone();
        let setup = Setup { me, machine_boot: self.boot };
        self.node = Some(Node::new(setup, trust, self.journal.clone(), self.now(at_ms)));
        self.node_alarm = None;
    }

    /// The root half starts from what it made durable.
    pub(crate) fn start_applier(&mut self, at_ms: u64) {
        let trust =
            TrustState::restore(self.applier_trust.clone()).expect("what was persisted verifies again");
        let journal = self.applier_journal.clone();
        let server = self.enrolled.server.clone();
        self.applier = Some(Machine::new(server, trust, journal, self.boot, self.now(at_ms)));
        self.applier_alarm = None;
    }

    /// The network half dies.
    pub(crate) fn kill_node(&mut self) {
        self.node = None;
        self.life += 1;
        self.pending.clear();
        self.askers.clear();
    }

    /// The root half dies; a step that ran is cut off, after its effect or before it.
    pub(crate) fn kill_applier(&mut self, step_done: bool) {
        self.applier = None;
        self.applier_life += 1;
        if let Some((_, step)) = self.step.take()
            && step_done
        {
            let _ = self.disk.end(&step);
        }
    }

    /// The power goes: both halves are gone, and moments begin anew.
    pub(crate) fn reboot(&mut self, at_ms: u64, step_done: bool) {
        self.kill_node();
        self.kill_applier(step_done);
        self.boot += 1;
        self.booted_ms = at_ms;
        self.disk.boot();
    }

    /// Whether it is down by what is durable on it: by the agent's journal, or because the root half has begun
    /// and is not back. The world's truth; nobody else knows it.
    pub(crate) fn is_down(&self) -> bool {
        self.phase_is_down() || self.is_switching()
    }

    pub(crate) fn phase_is_down(&self) -> bool {
        let active = self.journal.as_ref().and_then(|journal| journal.active.as_ref());
        active.is_some_and(|active| active.state.phase().is_down())
    }

    fn is_switching(&self) -> bool {
        self.applier_journal.work.as_ref().is_some_and(|work| match work.progress {
            Progress::Applying { .. } | Progress::AwaitingCommit { .. } | Progress::RollingBack { .. } => {
                true
            }
            Progress::Staging { .. } | Progress::Staged | Progress::Committing { .. } => false,
        })
    }
}

/// The wall clock, right everywhere.
pub(crate) fn wall(at_ms: u64) -> WallTime {
    WallTime(START.0 + i64::try_from(at_ms / 1000).expect("runs are short"))
}
