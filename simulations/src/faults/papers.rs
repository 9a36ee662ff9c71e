//! What people do while things go wrong: new plans, new keys, mistakes in a list, machines put out.
//!
//! Owns [`Papers`]: the numbers of the documents given out so far, and who signs. Main invariant: every document is
//! signed for real and carries the next number of its kind, as the people's tools write it.

use std::collections::BTreeMap;

use lunar_common::document::{Kind, Reap};
use lunar_common::ids::Sequence;

use crate::documents::{self, Signer};
use crate::options::Mutant;
use crate::world::World;

/// Between two ends of pauses, in milliseconds: nobody looks at evidence faster.
const GO_ON_MS: u64 = 45_000;

/// What people have given out.
#[derive(Debug)]
pub(crate) struct Papers {
    generation: u64,
    root: u64,
    revocations: u64,
    reaps: BTreeMap<usize, u64>,
    /// Servers whose enrolment was given out again.
    pub(crate) enrolments: BTreeMap<usize, u64>,
    /// Ends of pauses, and when the last one was given out, in milliseconds.
    resumes: u64,
    resumed_ms: u64,
    /// Who signs stops: the second person, once a rotation has made the key known.
    pub(crate) signer: Signer,
}

impl Default for Papers {
    fn default() -> Self {
        Self {
            generation: 1,
            root: 1,
            revocations: 0,
            reaps: BTreeMap::new(),
            enrolments: BTreeMap::new(),
            resumes: 0,
            resumed_ms: 0,
            signer: Signer::Ann,
        }
    }
}

impl World {
    /// A new generation of the plan, in mid-plan.
    pub(super) fn publish_plan(&mut self) {
        self.papers.generation += 1;
        let wide = self.options.mutant.is_some_and(Mutant::widens_limits);
        let plan = documents::plan(&self.options.written(), wide, self.papers.generation);
        self.published.retain(|other| other.kind != Kind::Plan);
        self.publish(plan);
        self.sometimes.insert("a plan was replaced in mid-plan");
    }

    /// The next trust root: a second person may sign everything, and signs from now on.
    pub(super) fn rotate_keys(&mut self) {
        self.papers.root += 1;
        self.papers.signer = Signer::Ben;
        self.publish(documents::root(self.papers.root));
        self.sometimes.insert("keys were rotated");
    }

    /// Machines are put out: those named, and those that were before.
    pub(super) fn revoke(&mut self, server: usize) {
        let out = self.servers.iter().filter(|server| server.gone || server.revoked).count();
        if !self.servers[server].gone && out * 10 >= self.servers.len() * 3 {
            return self.mask("most-machines-lost");
        }
        self.servers[server].revoked = true;
        self.lost.insert(server);
        self.truth.touched.push(server);
        self.papers.revocations += 1;
        let keys = self.servers.iter().filter(|server| server.revoked);
        let keys = keys.map(|server| self.documents.servers[server.number].peer).collect();
        let list = documents::revocation(self.papers.revocations, keys);
        self.published.retain(|other| other.kind != Kind::Revocation);
        self.publish(list);
        self.sometimes.insert("a server was revoked");
    }

    /// An enrolment is given out again with another group: the one of the server before it, or none.
    pub(super) fn map_wrongly(&mut self, server: usize) {
        let Some(other) = (0..server).rev().find(|other| self.servers[*other].seat.group.is_some()) else {
            return;
        };
        self.servers[server].group_is_wrong = true;
        self.enrol_again(server, self.servers[other].seat.group);
        self.sometimes.insert("a server was in the wrong group");
    }

    fn enrol_again(&mut self, server: usize, group: Option<usize>) {
        let sequence = self.papers.enrolments.entry(server).or_insert(1);
        *sequence += 1;
        let seat = crate::scenario::Seat { group, ..self.servers[server].seat };
        let sites = self.options.scenario.site_names();
        let old = self.published.clone();
        let replaced = &self.documents.servers[server].enrolment;
        self.published = old.into_iter().filter(|other| **other != *replaced).collect();
        let enrolment = documents::enrolment_again(server, &seat, &sites, *sequence);
        self.documents.servers[server].enrolment = enrolment.clone();
        self.publish(enrolment);
    }

    /// People put right what they had wrong.
    pub(super) fn map_rightly(&mut self) {
        for server in 0..self.servers.len() {
            if self.servers[server].group_is_wrong {
                self.enrol_again(server, self.servers[server].seat.group);
            }
        }
    }

    /// People look at what is paused, and go on. One that a coordinator has lost with its log is given out anew.
    pub(crate) fn go_on_after_pauses(&mut self) {
        let pauses = self.host.ledger.stops.in_force();
        if pauses.is_empty() || self.at_ms < self.papers.resumed_ms + GO_ON_MS {
            return;
        }
        (self.papers.resumes, self.papers.resumed_ms) = (self.papers.resumes + 1, self.at_ms);
        let resume = documents::resume_of_pauses(&pauses, self.papers.resumes, self.papers.signer);
        self.published.retain(|other| !documents::ends_pauses(other));
        self.publish(resume);
    }

    /// Once nothing goes wrong any more, people look after those that will not come back: their leases are
    /// reaped when they are lost, and what is gone for good is put out, so that its group can go on without it.
    pub(crate) fn write_off_the_lost(&mut self) {
        if self.faulty {
            return;
        }
        for server in self.lost.clone() {
            let at = &self.servers[server];
            let (name, gone, revoked) = (at.name.clone(), at.gone, at.revoked);
            let lease = self.host.ledger.held.get(&name).map(|held| held.0);
            if lease.is_none() && gone && !revoked {
                self.revoke(server);
                continue;
            }
            let sequence = self.papers.reaps.get(&server).copied().unwrap_or(0) + 1;
            let reap = Reap {
                format: 1,
                fleet: "moon".parse().expect("a valid name"),
                server: name,
                lease,
                sequence: Sequence(sequence),
                issued: documents::START,
                reason: "its power supply is burnt".to_owned(),
            };
            let useful = self.host.core.as_ref().is_some_and(|core| core.reapable(&reap).is_ok());
            if lease.is_some() && useful {
                self.papers.reaps.insert(server, sequence);
                let text = toml::to_string(&reap).expect("a reap can be written");
                self.publish(documents::signed(Kind::Reap, &text));
                self.sometimes.insert("a lost lease was reaped");
            }
        }
    }
}
