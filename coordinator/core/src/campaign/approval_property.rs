//! Approvals under everything at once: words and withdrawals, expiry, joiners, restarts, other trust roots, lost logs.
//!
//! Owns the property of C1: nobody starts but in a batch whose newest word is an approval that counts at that moment, and
//! that named a batch in which that server stood then. The oracle knows the log and the clock alone. Proved by mistakes put
//! in and taken out again: an expiry that is not asked for; a batch that is approved and still takes servers in; a
//! withdrawal that is no word; a trust root that is not compared.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lunar_common::document::Approval;
use lunar_common::ids::{Epoch, Fence, ServerId};
use lunar_common::time::WallTime;
use proptest::prelude::*;

use super::approval::Word;
use super::approval_tests::{FLEET, approvers, name, rig, word};
use super::crew::Crew;
use crate::coordinator::rig::{campaign, id, member};
use crate::event::EventBody;

const JOINERS: [&str; 3] = ["e 1 north n1 -", "f 1 south s1 -", "g 1 south s1 -"];

#[derive(Debug, Clone)]
enum Step {
    Claim(usize),
    End(usize, u8),
    Join(usize),
    Approve { batch: u32, newer: bool, lasts_s: i64 },
    Withdraw { batch: u32 },
    Pass(u64),
    Restart,
    Root(u64),
    LoseLog(usize),
}

fn steps() -> impl Strategy<Value = Step> {
    let server = 0..FLEET.len() + JOINERS.len();
    prop_oneof![
        8 => server.clone().prop_map(Step::Claim),
        4 => (server, 0..3u8).prop_map(|(server, outcome)| Step::End(server, outcome)),
        1 => (0..JOINERS.len()).prop_map(Step::Join),
        6 => (1..5u32, prop::bool::weighted(0.8), 1..200i64)
            .prop_map(|(batch, newer, lasts_s)| Step::Approve { batch, newer, lasts_s }),
        2 => (1..5u32).prop_map(|batch| Step::Withdraw { batch }),
        4 => (1..90u64).prop_map(Step::Pass),
        1 => Just(Step::Restart),
        1 => (1..3u64).prop_map(Step::Root),
        1 => (1..12usize).prop_map(Step::LoseLog),
    ]
}

/// What the log has shown of each batch.
#[derive(Default)]
struct Oracle {
    /// The newest word, and who stood in the batch then.
    words: BTreeMap<u32, (Word, BTreeSet<ServerId>)>,
    read: usize,
    starts: usize,
}

struct World {
    crew: Crew,
    oracle: Oracle,
    sequences: BTreeMap<u32, u64>,
    root: u64,
}

impl World {
    fn new() -> Self {
        let (crew, oracle) = (Crew::new(rig()), Oracle::default());
        Self { crew, oracle, sequences: BTreeMap::new(), root: 1 }
    }

    fn server(at: usize) -> ServerId {
        id(FLEET.iter().chain(&JOINERS).nth(at).unwrap().split(' ').next().unwrap())
    }

    fn members(&self, batch: u32) -> BTreeSet<ServerId> {
        let batches = self.crew.rig.core.batches(&campaign("c"), self.crew.rig.now);
        batches.into_iter().filter(|one| one.batch == batch).flat_map(|one| one.servers).collect()
    }

    fn say(&mut self, batch: u32, newer: bool, lasts_s: i64, withdraw: bool) {
        let last = self.sequences.entry(batch).or_default();
        let sequence = if newer || *last == 0 { *last + 1 } else { *last };
        *last = sequence;
        let expires = WallTime(self.crew.rig.now.wall.0 + lasts_s);
        let approval = Approval { expires, withdraw, ..word(batch, sequence) };
        self.crew.rig.core.take_word(&approval, ["bob", "dia"].map(name).into());
        let effects = self.crew.rig.step();
        self.crew.take(&effects);
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match *step {
            Step::Claim(server) if self.crew.rig.core.state.servers.get(&Self::server(server)).is_some() => {
                self.crew.claim(&Self::server(server));
            }
            Step::Claim(_) => {}
            Step::End(server, outcome) => self.crew.end(&Self::server(server), outcome, 1),
            Step::Join(at) => {
                self.crew.rig.core.enrol(member(JOINERS[at]));
                self.crew.rig.step();
                let report = self.crew.rig.fresh_report(&JOINERS[at][..1]);
                self.crew.rig.report(report);
            }
            Step::Approve { batch, newer, lasts_s } => self.say(batch, newer, lasts_s, false),
            Step::Withdraw { batch } => self.say(batch, true, 1_000, true),
            Step::Pass(seconds) => self.pass(Duration::from_secs(seconds))?,
            Step::Restart => {
                self.crew.rig.restart();
                self.everyone_reports();
            }
            Step::Root(root) => self.root = root,
            Step::LoseLog(events) => self.lose_log(events),
        }
        self.crew.rig.core.approvers = approvers(self.root);
        self.judge()
    }

    /// Timer by timer, because what is granted is held against the time at which it is.
    fn pass(&mut self, duration: Duration) -> Result<(), String> {
        let until = self.crew.rig.now.after(duration);
        loop {
            let now = self.crew.rig.now.moment;
            let next = self.crew.rig.core.poll_timeout().map_or(until.moment, |at| at.min(until.moment));
            let effects = self.crew.rig.pass(next.since(now));
            self.crew.take(&effects);
            self.judge()?;
            if next == until.moment {
                return Ok(());
            }
        }
    }

    /// The last events are gone, but not the plan; a server tells of numbers above ours.
    fn lose_log(&mut self, events: usize) {
        let is_plan = |event: &EventBody| matches!(event, EventBody::PlanAccepted { terms, .. } if terms.generation.0 == 2);
        let first = self.crew.rig.log.iter().position(is_plan).unwrap() + 1;
        let kept = self.crew.rig.log.len().saturating_sub(events).max(first);
        let log = self.crew.rig.log[..kept].to_vec();
        self.crew.rig.restart_from(&log);
        self.crew.held.clear();
        // What the log has forgotten counts no more, whatever it was.
        self.oracle.words.clear();
        self.oracle.read = kept;
        let above = self.crew.rig.core.state.epoch.0 + 5;
        let mut ahead = self.crew.rig.fresh_report("a");
        (ahead.epoch_seen, ahead.fence_seen) = (Epoch(above), Fence(self.crew.rig.core.state.fence.0 + 50));
        self.crew.rig.report(ahead);
        self.everyone_reports();
    }

    fn everyone_reports(&mut self) {
        self.crew.rig.core.approvers = approvers(self.root);
        let held: Vec<_> = self.crew.held.values().cloned().collect();
        self.crew.rig.all_report_held(&held);
    }

    /// Holds what is new in the log against what it showed before.
    fn judge(&mut self) -> Result<(), String> {
        let now = self.crew.rig.now.wall;
        for at in self.oracle.read..self.crew.rig.log.len() {
            match &self.crew.rig.log[at] {
                EventBody::Approved { batch, word, .. } => {
                    let members = self.members(*batch);
                    self.oracle.words.insert(*batch, (word.clone(), members));
                }
                EventBody::Granted(granted) => {
                    let counts = |(word, members): &(Word, BTreeSet<ServerId>)| {
                        members.contains(&granted.server)
                            && !word.withdrawn
                            && word.root == self.root
                            && now <= word.expires
                    };
                    if !self.oracle.words.values().any(counts) {
                        let words = &self.oracle.words;
                        return Err(format!(
                            "{} starts at {now} under root {}: {words:?}",
                            granted.server, self.root
                        ));
                    }
                    self.oracle.starts += 1;
                }
                _ => {}
            }
        }
        self.oracle.read = self.crew.rig.log.len();
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn nobody_starts_without_a_word_on_its_batch_that_counts_then(
        steps in prop::collection::vec(steps(), 1..100)
    ) {
        let mut world = World::new();
        for step in &steps {
            world.step(step).map_err(TestCaseError::fail)?;
        }
        // Then people approve all there is, and all get there.
        for round in 0..6 {
            // A log that was lost holds everything back for a while.
            world.step(&Step::Pass(600)).map_err(TestCaseError::fail)?;
            world.everyone_reports();
            for batch in 1..=8 {
                world.say(batch, true, 10_000, false);
            }
            for server in 0..FLEET.len() {
                world.step(&Step::End(server, 0)).map_err(TestCaseError::fail)?;
                world.step(&Step::Claim(server)).map_err(TestCaseError::fail)?;
            }
            prop_assert!(round < 5 || world.oracle.starts >= FLEET.len());
        }
    }
}
