//! Reports and releases: what servers say of themselves, and what it proves about leases.
//!
//! Owns the evidence rules (DESIGN 9, rules 2 and 7). Main invariant: a lease ends here only by words that the
//! server can never take back: its signed release, or a floor at or above the lease's fence without the lease
//! held. Since a server's floor never falls and it refuses what lies at or below it, such a word is true in
//! whatever order it arrives. Naming a lease keeps it; silence and time prove nothing.

use std::time::Duration;

use lunar_common::ids::{DocumentHash, PeerKey, ServerId};
use lunar_common::lease::{LeaseState, NO_CLAIM, Release};
use lunar_common::message::{HeldLease, Report, ReportAnswer};
use lunar_common::phase::Phase;
use lunar_common::time::{Now, millis};

use crate::coordinator::Coordinator;
use crate::effect::Answer;
use crate::event::{EventBody, Evidence, Task};
use crate::input::RequestId;
use crate::timers::Timer;

impl Coordinator {
    pub(super) fn report(&mut self, request: RequestId, from: PeerKey, report: &Report, now: Now) {
        if !self.speaks_for(&from, &report.server) {
            return self.answer(request, not_your_server(&report.server));
        }
        let held = report.lease;
        let epoch = report.epoch_seen.max(held.map(|held| held.epoch).unwrap_or_default());
        let fence = report.fence_seen.max(held.map(|held| held.fence).unwrap_or_default());
        let above = match self.is_above(epoch, fence) {
            Err(reason) => return self.answer(request, Answer::Invalid { reason }),
            Ok(above) => above,
        };
        if !self.fleet.is_old(report) {
            if above {
                self.catch_up(&report.server, epoch, fence, now);
            }
            self.take_report(report, now);
        }
        let kept = self.state.servers.get(&report.server).and_then(|server| server.transitions_kept);
        let answer = ReportAnswer {
            epoch: self.state.epoch,
            transitions_kept: kept,
            next_within_ms: millis(self.report_again_after(&report.server)),
        };
        self.answer(request, Answer::Report(answer));
    }

    fn take_report(&mut self, report: &Report, now: Now) {
        let server = &report.server;
        self.fleet.take(report, now.moment, &self.config);
        if self.state.servers.get(server).is_some_and(|record| record.written_off) {
            self.record(EventBody::Returned { server: server.clone() });
        }
        self.weigh(report, now);
        self.keep_transitions(report);
        self.note_arrivals(report);
        self.recount(server);
        // Three reports may be missed, however far apart they were asked for.
        let later = self.report_again_after(server).saturating_sub(self.config.report_every) * 3;
        let silent_at = now.moment.after(self.config.unreachable_after).after(later);
        self.timers.arm(Timer::Silence(server.clone()), silent_at);
    }

    /// When a server is to report again if it has no news. Whoever may be down is watched closely; all others
    /// together make so many reports a second at most.
    fn report_again_after(&self, server: &ServerId) -> Duration {
        let often = self.config.report_every;
        let unwell = self.fleet.seen(server).is_some_and(|seen| seen.is_unwell(&self.config));
        if unwell || self.state.leases.contains_key(server) {
            return often;
        }
        self.quiet_for().max(often)
    }

    /// How long each server may be quiet, so that all together keep to the rate of reports.
    pub(super) fn quiet_for(&self) -> Duration {
        let servers = self.state.servers.len() as u64;
        let shared = Duration::from_millis(servers * 1_000 / u64::from(self.config.reports_per_s.max(1)));
        shared.min(self.config.report_every_max)
    }

    /// A server that runs a plan's version and has no lease open by it says so here and nowhere else: it ran that
    /// version before the plan came, or its release is lost with the lease.
    fn note_arrivals(&mut self, report: &Report) {
        let server = &report.server;
        for status in report.campaigns.iter().filter(|status| status.phase == Phase::Complete) {
            let Some(campaign) = self.state.campaigns.get(&status.campaign) else { continue };
            let stages = campaign.stages.as_ref().is_some_and(|stages| stages.awaits_word(server));
            let order = campaign.order.as_ref().is_some_and(|order| order.awaits_word(server));
            let held = self.state.leases.contains_key(server);
            if campaign.terms.plan == status.plan && (stages || order && !held) {
                let (campaign, plan) = (status.campaign.clone(), status.plan);
                self.record(EventBody::Arrived { server: server.clone(), campaign, plan });
            }
        }
    }

    /// What a report proves about the lease in the ledger, and about one that is not there.
    fn weigh(&mut self, report: &Report, now: Now) {
        let server = &report.server;
        let Some(lease) = self.state.leases.get(server) else {
            return if let Some(held) = report.lease {
                self.adopt(report, held, now);
            };
        };
        let id = lease.id;
        if let Some(held) = report.lease.filter(|held| lease.is_held(held)) {
            match lease.state {
                LeaseState::Lost => {
                    self.record(EventBody::Found {
                        server: server.clone(),
                        lease: id,
                        started: held.started,
                    });
                    self.watch_lease(server, now);
                }
                LeaseState::Granted if held.started => {
                    self.record(EventBody::Started { server: server.clone(), lease: id });
                    self.watch_lease(server, now);
                }
                LeaseState::Granted | LeaseState::Active => {}
            }
            return;
        }
        if report.fence_seen >= lease.fence {
            // It has seen this fence or a higher one and does not hold the lease: it never will again.
            let event = EventBody::Released {
                server: server.clone(),
                lease: id,
                fence: lease.fence,
                task: lease.task.clone(),
                evidence: Evidence::Report,
            };
            self.record(event);
            if let Some(held) = report.lease {
                self.adopt(report, held, now);
            }
        } else if report.lease.is_none() && lease.state == LeaseState::Lost {
            self.call_back(server);
        }
    }

    /// A lost grant that its server has not seen is called back: it is pushed as the answer to no claim, so that the
    /// server, on whatever clock, starts nothing by it, refuses the grant itself from then on, and gives it back.
    /// That ends the lease by the server's own word. Neither an expired plan nor a halt stops this, since nothing
    /// can start by it: a campaign that is halted for good would else keep a slot that all others need.
    fn call_back(&mut self, server: &ServerId) {
        let Some(lease) = self.state.leases.get(server).filter(|lease| lease.nonce.is_some()) else { return };
        let Some(grant) = lease.grant(server, NO_CLAIM) else { return };
        if !self.state.restored {
            self.push(grant);
        }
    }

    /// A server holds a lease that the ledger does not know. If the server itself gave it back, the report is
    /// old news. If an operator reaped it, it counts again. Otherwise it was granted by a life that the log
    /// has forgotten, which proves that the log was restored.
    fn adopt(&mut self, report: &Report, held: HeldLease, now: Now) {
        let server = &report.server;
        let record = self.state.servers.get(server).expect("the reporter is a member");
        if held.fence <= record.closed {
            return;
        }
        if held.fence > record.reaped && !self.state.restored {
            self.catch_up(server, held.epoch, held.fence, now);
        }
        self.record(EventBody::Adopted {
            server: server.clone(),
            lease: held.lease,
            epoch: held.epoch,
            fence: held.fence,
            started: held.started,
            task: task_of_holder(report),
        });
        self.watch_lease(server, now);
    }

    /// Puts the transitions that the log lacks into it, in order. The first may lie above the next one
    /// expected (what lies between was acknowledged by a life that the log has forgotten); after it, each
    /// follows the one before, or the rest is not taken.
    fn keep_transitions(&mut self, report: &Report) {
        let kept = self.state.servers.get(&report.server).and_then(|server| server.transitions_kept);
        let mut last = None;
        for transition in &report.transitions {
            if kept.is_some_and(|kept| transition.index <= kept) {
                continue;
            }
            if last.is_some_and(|last: u64| transition.index != last.saturating_add(1)) {
                return;
            }
            last = Some(transition.index);
            self.record(EventBody::Transition {
                server: report.server.clone(),
                transition: transition.clone(),
            });
        }
    }

    pub(super) fn release(&mut self, request: RequestId, from: PeerKey, release: &Release, now: Now) {
        let server = &release.server;
        if !self.speaks_for(&from, server) {
            return self.answer(request, not_your_server(server));
        }
        match self.is_above(release.epoch, release.fence) {
            Err(reason) => return self.answer(request, Answer::Invalid { reason }),
            Ok(true) => self.catch_up(server, release.epoch, release.fence, now),
            Ok(false) => {}
        }
        if self.is_news(release) {
            let plan = self.plan_of(release);
            self.record(EventBody::Released {
                server: server.clone(),
                lease: release.lease,
                fence: release.fence,
                task: plan.map(|plan| Task {
                    campaign: release.campaign.clone(),
                    plan,
                    attempt: release.attempt,
                }),
                evidence: Evidence::Release { outcome: release.outcome.clone(), down_ms: release.down_ms },
            });
        }
        self.answer(request, Answer::Done);
    }

    /// Whether a release says something the log does not know: it names the lease that is held, one that a
    /// report ended without saying how, or one that the log never knew or saw reaped. All others are duplicates.
    fn is_news(&self, release: &Release) -> bool {
        let record = self.state.servers.get(&release.server).expect("the releaser is a member");
        let held = self.state.leases.get(&release.server);
        held.is_some_and(|held| held.is(release.lease, release.epoch, release.fence))
            || record.unexplained.contains_key(&release.lease)
            || (release.fence > record.closed && held.is_none_or(|held| held.fence != release.fence))
    }

    /// By which plan a released lease was granted: the lease's own, also if a report ended it before, or the one
    /// in force.
    fn plan_of(&self, release: &Release) -> Option<DocumentHash> {
        let held = self.state.leases.get(&release.server);
        let ended = self.state.servers.get(&release.server);
        let task = held
            .filter(|held| held.is(release.lease, release.epoch, release.fence))
            .and_then(|held| held.task.as_ref())
            .or_else(|| ended.and_then(|record| record.unexplained.get(&release.lease))?.as_ref())
            .filter(|task| task.campaign == release.campaign);
        match task {
            Some(task) => Some(task.plan),
            None => self.state.campaigns.get(&release.campaign).map(|campaign| campaign.terms.plan),
        }
    }

    fn speaks_for(&self, key: &PeerKey, server: &ServerId) -> bool {
        self.state.member(key).is_some_and(|record| record.member.server == *server)
    }
}

fn not_your_server(server: &ServerId) -> Answer {
    Answer::Invalid { reason: format!("this key is not enrolled as {server}") }
}

/// What a held lease is for, as far as its holder's report tells: the campaign in which it is on its way down,
/// down, or on its way back.
fn task_of_holder(report: &Report) -> Option<Task> {
    let under_way = report.campaigns.iter().find(|status| match status.phase {
        Phase::PreCheck | Phase::Draining | Phase::Installing | Phase::Validating | Phase::RollingBack => {
            true
        }
        Phase::Scheduled
        | Phase::Downloading
        | Phase::Staging
        | Phase::Queued
        | Phase::Complete
        | Phase::RolledBack
        | Phase::Failed => false,
    })?;
    Some(Task { campaign: under_way.campaign.clone(), plan: under_way.plan, attempt: under_way.attempt })
}
