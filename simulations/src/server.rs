//! One server: its two halves, what each made durable, and its disk.
//!
//! Owns [`Server`]. Main invariant: what a half has not persisted dies with it; what belongs to one life of a
//! process is never handed to the next. Refuses to keep what ten thousand servers share.

use lunar_agent_core::applier::effect::Step;
use lunar_agent_core::applier::input::RunId;
use lunar_agent_core::applier::journal::{Journal as ApplierJournal, Progress};
use lunar_agent_core::applier::machine::Machine;
use lunar_agent_core::input::{AskId, CallId};
use lunar_agent_core::journal::Journal;
use lunar_agent_core::node::{Node, Setup};
use lunar_common::ids::{Epoch, Fence, Sequence, ServerId};
use lunar_common::time::{Moment, Now, WallTime};
use lunar_common::trust::{TrustSnapshot, TrustState};

use crate::disk::Disk;
use crate::documents::{Documents, START};
use crate::faults::{Clock, CrashAt, Interval};
use crate::scenario::Seat;

/// Who asked a node whether it is up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker {
    pub(crate) server: usize,
    pub(crate) life: u64,
    pub(crate) call: u64,
    pub(crate) ask: AskId,
}

/// The times at which a half is woken, each of which has one event in the queue. A deadline that moves on leaves its
/// alarm where it was: it wakes the half a little early, and serves for the deadlines after it.
#[derive(Debug)]
pub(crate) struct Alarms {
    /// The first few, where nothing has to be followed to find them; [`NO_ALARM`] where there is none.
    few: [u64; 3],
    more: Vec<u64>,
}

const NO_ALARM: u64 = u64::MAX;

impl Default for Alarms {
    fn default() -> Self {
        Self { few: [NO_ALARM; 3], more: Vec::new() }
    }
}

impl Alarms {
    /// The half wants to be woken at this time: whether an event must be put into the queue for it.
    pub(crate) fn set(&mut self, at_ms: u64) -> bool {
        if self.few.iter().chain(&self.more).any(|set| *set <= at_ms) {
            return false;
        }
        match self.few.iter_mut().find(|set| **set == NO_ALARM) {
            Some(free) => *free = at_ms,
            None => self.more.push(at_ms),
        }
        true
    }

    /// An alarm rings.
    pub(crate) fn rang(&mut self, at_ms: u64) {
        for set in self.few.iter_mut().filter(|set| **set == at_ms) {
            *set = NO_ALARM;
        }
        self.more.retain(|set| *set != at_ms);
    }
}

/// A server.
#[derive(Debug)]
pub(crate) struct Server {
    /// Its number in the fleet.
    pub(crate) number: usize,
    pub(crate) name: ServerId,
    pub(crate) seat: Seat,
    pub(crate) node: Option<Box<Node>>,
    /// Counts the lives of both halves: an answer to an earlier one reaches nobody.
    pub(crate) life: u64,
    pub(crate) journal: Option<Journal>,
    /// What its network half made durable of the trust; `None`: it is as it was installed.
    pub(crate) trust: Option<Box<TrustSnapshot>>,
    pub(crate) applier: Option<Box<Machine>>,
    pub(crate) applier_life: u64,
    pub(crate) applier_journal: ApplierJournal,
    pub(crate) applier_trust: Option<Box<TrustSnapshot>>,
    /// The step that runs.
    pub(crate) step: Option<(RunId, Step)>,
    pub(crate) disk: Disk,
    pub(crate) boot: u64,
    booted_ms: u64,
    pub(crate) clock: Clock,
    /// Until when it hears nobody, and is heard by nobody.
    pub(crate) deaf_until: u64,
    pub(crate) mute_until: u64,
    /// Until when nothing can be written on it.
    pub(crate) disk_full_until: u64,
    /// Its service fails by itself in this time.
    pub(crate) broken_from: u64,
    pub(crate) broken_until: u64,
    /// Its power is gone for good.
    pub(crate) gone: bool,
    /// Since when its power is gone.
    pub(crate) off_since: Option<u64>,
    /// The highest generation of the plan that it was seen to hold.
    pub(crate) generation_seen: u64,
    /// People put it out.
    pub(crate) revoked: bool,
    /// People said by a signed reap, or by putting out what is gone, that it is down and stays so: it counts as
    /// down no more.
    pub(crate) written_off: bool,
    /// It was enrolled into a wrong group.
    pub(crate) group_is_wrong: bool,
    /// The new release does not work here.
    pub(crate) bad_release: bool,
    /// It works here at first, and stops this long after the switch.
    pub(crate) fails_late_ms: Option<u64>,
    /// When its service was last started, and when its first probe can pass.
    pub(crate) restarted_ms: u64,
    pub(crate) ready_ms: u64,
    /// Its halves die at one of their next effects.
    pub(crate) node_crash: Option<CrashAt>,
    pub(crate) applier_crash: Option<CrashAt>,
    /// Some of its probes fail.
    pub(crate) flapping: Interval,
    /// Requests of this life that were not answered.
    pub(crate) pending: Vec<u64>,
    pub(crate) askers: Vec<(CallId, Asker)>,
    /// When its timers are set to ring, whichever life set them.
    pub(crate) node_alarms: Alarms,
    pub(crate) applier_alarms: Alarms,
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
    pub(crate) fn new(number: usize, name: ServerId, seat: Seat) -> Self {
        Self {
            number,
            name,
            seat,
            node: None,
            life: 0,
            journal: None,
            trust: None,
            applier: None,
            applier_life: 0,
            applier_journal: ApplierJournal::default(),
            applier_trust: None,
            step: None,
            disk: Disk::new(),
            boot: 1,
            booted_ms: 0,
            clock: Clock::default(),
            deaf_until: 0,
            mute_until: 0,
            disk_full_until: 0,
            broken_from: 0,
            broken_until: 0,
            gone: false,
            off_since: None,
            generation_seen: 0,
            revoked: false,
            written_off: false,
            group_is_wrong: false,
            bad_release: false,
            fails_late_ms: None,
            restarted_ms: 0,
            ready_ms: 0,
            node_crash: None,
            applier_crash: None,
            flapping: Interval::default(),
            pending: Vec::new(),
            askers: Vec::new(),
            node_alarms: Alarms::default(),
            applier_alarms: Alarms::default(),
            halted: Sequence(0),
            resumed: Sequence(0),
            floors: (Epoch(0), Fence(0)),
            forgotten: None,
        }
    }

    /// The time as this machine knows it.
    pub(crate) fn now(&self, at_ms: u64) -> Now {
        Now { moment: self.clock.moment(self.booted_ms, at_ms), wall: self.clock.wall(at_ms) }
    }

    /// When one of this machine's moments comes, in the world's time.
    pub(crate) fn when(&self, moment: Moment) -> u64 {
        self.clock.when((moment.0 + self.booted_ms).saturating_sub(1_000))
    }

    /// The network half starts from what it made durable.
    pub(crate) fn start_node(&mut self, documents: &Documents, at_ms: u64) {
        let trust = durable(self.trust.as_deref(), self.number, documents);
        // One that was put out does not start.
        let Some(me) = trust.machine_named(&self.name).cloned() else { return };
        let setup = Setup { me, machine_boot: self.boot };
        self.off_since = None;
        self.node = Some(Box::new(Node::new(setup, trust, self.journal.clone(), self.now(at_ms))));
    }

    /// The root half starts from what it made durable.
    pub(crate) fn start_applier(&mut self, documents: &Documents, at_ms: u64) {
        let trust = durable(self.applier_trust.as_deref(), self.number, documents);
        let journal = self.applier_journal.clone();
        let name = self.name.clone();
        self.applier = Some(Box::new(Machine::new(name, trust, journal, self.boot, self.now(at_ms))));
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
        self.off_since.get_or_insert(at_ms);
        self.booted_ms = self.clock.elapsed(at_ms);
        self.disk.boot();
    }

    /// Whether it is down by what is durable on it: by the agent's journal, or because the root half has begun
    /// and is not back. The world's truth; nobody else knows it.
    pub(crate) fn is_down(&self) -> bool {
        !self.written_off && (self.phase_is_down() || self.is_switching())
    }

    /// Whether it has come to an end, and nothing of it is left anywhere.
    pub(crate) fn has_ended(&self) -> bool {
        if self.gone {
            return self.revoked;
        }
        if self.revoked {
            return !self.is_switching() && (self.node.is_none() || !self.phase_is_down());
        }
        let Some(journal) = &self.journal else { return false };
        self.node.is_some()
            && self.applier.is_some()
            && journal.active.is_none()
            && !journal.finished.is_empty()
            && journal.lease.held.is_none()
            && journal.lease.releases.is_empty()
            && journal.transitions.is_empty()
            && self.applier_journal.work.as_ref().is_none_or(|work| !work.progress.begun())
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

/// What a gate holds after a start: what was persisted, verified again, or what it was installed with.
fn durable(kept: Option<&TrustSnapshot>, server: usize, documents: &Documents) -> TrustState {
    match kept {
        Some(snapshot) => TrustState::restore(snapshot.clone()).expect("what was persisted verifies again"),
        None => documents.first_trust(server),
    }
}

/// The wall clock, right everywhere.
pub(crate) fn wall(at_ms: u64) -> WallTime {
    WallTime(START.0 + i64::try_from(at_ms / 1000).expect("runs are short"))
}
