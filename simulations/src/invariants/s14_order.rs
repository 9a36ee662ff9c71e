//! S14: nobody starts in a stage before those that it waits for have passed; and no gate opens before enough is done, and
//! has been for long enough.
//!
//! Reason: stages are how a release that is bad for many is found by few. What people meant is the scenario's; what the
//! plan says that went out, and what the core makes of it, is on trial. Who is in a stage the core draws: what anybody
//! can count without drawing is how many a stage takes at most and at least, and whom it selects. So there are never more
//! servers that have started than the stages that may run take together, each is selected by one of them, and a gate
//! opens only once as many servers durably run the new version as the fewest that its stage can have must, and have done so
//! for its soak. Where people change the plan or an enrolment, stages are drawn again, and it is not looked at.

use std::collections::BTreeSet;

use lunar_common::gate::Demand;
use lunar_common::phase::Phase;
use lunar_common::plan::Stage;
use lunar_coordinator_core::event::EventBody;

use super::Violation;
use crate::documents::Documents;
use crate::faults::Strike;
use crate::options::Options;
use crate::world::World;

/// What is known of the stages. None where a scenario has none.
#[derive(Debug, Default)]
pub(crate) struct Order {
    stages: Vec<Known>,
    /// People change who is in which.
    drawn_again: bool,
    started: BTreeSet<usize>,
    done: BTreeSet<usize>,
}

/// One stage.
#[derive(Debug)]
struct Known {
    name: String,
    /// Places of those that must have passed before.
    after: Vec<usize>,
    /// By server: whether it is selected.
    selects: Vec<bool>,
    /// Servers that it has at most.
    most: usize,
    /// Servers that must be done before its gate opens, at least.
    need: usize,
    soak_ms: u64,
    /// Selected ones that are done.
    done: usize,
    /// When they were enough.
    enough_ms: Option<u64>,
    open: bool,
}

impl Order {
    pub(crate) fn new(options: &Options, documents: &Documents) -> Self {
        let stages = &options.scenario.stages;
        let anew = |strike: &Strike| {
            matches!(strike, Strike::NewPlan | Strike::WrongGroup { .. } | Strike::Revocation { .. })
        };
        let mut before = 0;
        let known = stages.iter().zip(Stage::order(stages)).map(|(stage, after)| {
            let known = Known::new(stage, after, before, documents);
            before += known.most;
            known
        });
        Self {
            stages: known.collect(),
            drawn_again: options.faults.strikes.iter().any(|planned| anew(&planned.what)),
            ..Self::default()
        }
    }

    /// Servers that all stages that may run take together, at most.
    fn most(&self) -> usize {
        self.may_run().map(|stage| stage.most).sum()
    }

    /// Whether a stage that may run, and has not passed, has not begun with everyone that it selects: while all have, they
    /// soak, and nobody can start.
    pub(super) fn has_room(&self) -> bool {
        let waits = |(server, selected): (usize, &bool)| *selected && !self.started.contains(&server);
        let begins = |stage: &Known| !stage.open && stage.selects.iter().enumerate().any(waits);
        let counted = !self.drawn_again && self.started.len() < self.most();
        self.stages.is_empty() || counted && self.may_run().any(begins)
    }

    fn may_run(&self) -> impl Iterator<Item = &Known> {
        self.stages.iter().filter(|stage| stage.after.iter().all(|before| self.stages[*before].open))
    }
}

impl Known {
    /// A stage, of whose servers those before it took at most `before`.
    fn new(stage: &Stage, after: Vec<usize>, before: usize, documents: &Documents) -> Self {
        let machine = |machine: &crate::documents::Machine| documents.all.machine_named(&machine.server);
        let selects: Vec<bool> = documents
            .servers
            .iter()
            .map(|server| machine(server).is_some_and(|enrolment| stage.select.matches(enrolment)))
            .collect();
        let takes = |offered: usize| {
            let percent = |percent: u32| (offered * percent as usize).div_ceil(100);
            let quota = stage.size.map(|size| size as usize).or(stage.percent.map(percent));
            quota.map_or(offered, |quota| quota.min(offered))
        };
        let selected = selects.iter().filter(|selected| **selected).count();
        let Demand { soak_ms, .. } = stage.demand();
        let least = u32::try_from(takes(selected.saturating_sub(before))).unwrap_or(u32::MAX);
        Self {
            name: stage.name.to_string(),
            after,
            most: takes(selected),
            need: stage.demand().share_of(least) as usize,
            selects,
            soak_ms,
            done: 0,
            enough_ms: None,
            open: false,
        }
    }

    fn count(&mut self, at_ms: u64) {
        if self.done >= self.need {
            self.enough_ms.get_or_insert(at_ms);
        }
    }
}

/// Something durable changed on a server.
pub(super) fn follow(world: &mut World, server: usize) {
    if world.order.stages.is_empty() {
        return;
    }
    let journal = world.servers[server].journal.as_ref();
    let done = journal
        .is_some_and(|journal| journal.finished.values().any(|finished| finished.phase == Phase::Complete));
    if done && world.order.done.insert(server) {
        for stage in world.order.stages.iter_mut().filter(|stage| stage.selects[server]) {
            stage.done += 1;
            stage.count(world.at_ms);
        }
    }
}

/// A server has just gone down.
pub(super) fn check(world: &mut World, server: usize) -> Option<Violation> {
    if world.order.stages.is_empty() || world.order.drawn_again {
        return None;
    }
    world.order.started.insert(server);
    let order = &world.order;
    let name = world.name(server);
    if !order.may_run().any(|stage| stage.selects[server]) {
        let what = format!("{name} starts, and no stage that may run selects it");
        return Some(Violation::new("S14 order", what));
    }
    let most = order.most();
    (order.started.len() > most).then(|| {
        let names: Vec<&str> = order.may_run().map(|stage| &*stage.name).collect();
        let what = format!("{name} is server {} to start, and {names:?} take {most}", order.started.len());
        Violation::new("S14 order", what)
    })
}

/// The durable log has grown by this.
pub(super) fn check_log(world: &mut World, event: &EventBody) -> Option<Violation> {
    let EventBody::GateOpened { stage, .. } = event else { return None };
    if world.order.drawn_again {
        return None;
    }
    let at_ms = world.at_ms;
    let stage = world.order.stages.get_mut(usize::from(*stage))?;
    stage.open = true;
    // A stage of which nobody need be there has enough from the start.
    stage.count(if stage.need == 0 { 0 } else { at_ms });
    let Known { name, need, done, soak_ms, enough_ms, .. } = stage;
    let early = match *enough_ms {
        None => format!("{done} servers are done, {need} must be"),
        Some(since) if since + *soak_ms > at_ms => {
            format!("{need} are done since {since} ms, for {soak_ms} ms it must be")
        }
        Some(_) => return None,
    };
    Some(Violation::new("S14 order", format!("the gate of {name} opens, and {early}")))
}
