//! What the coordinator is told, and what it has not acknowledged yet.
//!
//! Owns the timing of reports and releases. Main invariant: a transition or a release is dropped only once a
//! coordinator says that it is durable there; transitions go up in order and without gaps.

use std::time::Duration;

use lunar_common::health::Verdict;
use lunar_common::ids::{Epoch, LeaseId};
use lunar_common::message::{BytesBySource, CampaignStatus, Report, ReportAnswer};
use lunar_common::order::draw_below;
use lunar_common::retry::BackOff;
use lunar_common::time::Now;

use crate::desk::Desk;
use crate::effect::Effect;
use crate::timer::Timer;
use crate::upgrade::Upgrade;

/// Resending what no coordinator answered. Short at first: on a site's own network an answer takes
/// milliseconds; over the Earth link the mesh's own time-out comes before.
const RESEND: BackOff = BackOff { base: Duration::from_millis(500), cap: Duration::from_secs(30) };

/// Transitions in one report: with the longest cause and names, well inside the report's bound.
const TRANSITIONS_PER_REPORT: usize = 96;

/// Campaigns in one report: the one under way and the last ones that ended.
const CAMPAIGNS_PER_REPORT: usize = 16;

/// The most often and the least often a coordinator may ask for reports, in milliseconds.
const REPORT_WITHIN_MS: (u64, u64) = (500, 3_600_000);

/// A new life of a coordinator is reported to within this part of the time between two reports: all of 10,000 servers
/// within half a minute.
const NEW_LIFE_PART: u64 = 10;

/// How far a coordinator's records may be ahead of a journal that was begun anew: at ten transitions an attempt,
/// more attempts than there are.
const TRANSITIONS_AHEAD_MAX: u64 = 1 << 32;

/// What is under way to the coordinator.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reporter {
    number: u64,
    report_sent: Option<u64>,
    /// The last one was not answered: the next one waits for its time.
    report_waits: bool,
    /// In a row.
    report_failures: u32,
    /// Of the coordinator that answered last.
    epoch: Option<Epoch>,
    /// A later life of it that made itself known, and that is to be reported to.
    announced: Option<Epoch>,
    /// The time between two reports, by the last answer.
    every_ms: u64,
    release_sent: Option<LeaseId>,
    release_waits: bool,
    release_failures: u32,
}

/// Which life of its coordinator an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// The one that answered before, or the first heard of.
    Same,
    /// Another one.
    New,
}

impl Reporter {
    /// Sends what is due and not under way.
    pub(crate) fn flush(&mut self, desk: &mut Desk, upgrade: &Upgrade, verdict: Verdict) {
        if self.release_sent.is_none() && !self.release_waits {
            self.send_release(desk);
        }
        if desk.news && self.report_sent.is_none() && !self.report_waits {
            self.send_report(desk, upgrade, verdict);
        }
    }

    /// A coordinator can be reached again: waits are over.
    pub(crate) fn reachable(&mut self, desk: &mut Desk) {
        self.report_failures = 0;
        self.release_failures = 0;
        self.report_waits = false;
        self.release_waits = false;
        desk.news = true;
    }

    /// A coordinator made itself known. If something waits for one (`waits`, or what was not answered), its waits are
    /// over. If it is the life that answered last, it knows all there is to know. A new life is reported to soon: within
    /// a tenth of the time between two reports, so that a large fleet does not speak at once.
    pub(crate) fn announced(&mut self, desk: &mut Desk, epoch: Epoch, waits: bool, now: Now) {
        let unanswered = self.report_failures > 0 || self.release_failures > 0;
        if waits || unanswered || self.epoch.is_none() {
            return self.reachable(desk);
        }
        if self.epoch != Some(epoch) && self.announced != Some(epoch) {
            self.announced = Some(epoch);
            let within_ms = self.every_ms / NEW_LIFE_PART;
            let parts = [desk.me.server.as_str().as_bytes(), &epoch.0.to_le_bytes()];
            let after = Duration::from_millis(draw_below(within_ms, "report-to-new-life", &parts));
            desk.timers.set_sooner(Timer::Report, now.moment.after(after));
        }
    }

    pub(crate) fn report_due(&mut self, desk: &mut Desk) {
        self.report_waits = false;
        desk.news = true;
    }

    pub(crate) fn release_due(&mut self) {
        self.release_waits = false;
    }

    /// The release that was sent and is not answered, and whether the next one waits for its time.
    pub(crate) fn release_under_way(&self) -> (Option<LeaseId>, bool) {
        (self.release_sent, self.release_waits)
    }

    #[cfg(test)]
    pub(crate) fn under_way(&self) -> Option<u64> {
        self.report_sent
    }

    fn send_release(&mut self, desk: &mut Desk) {
        let Some(release) = desk.journal.lease.releases.first().cloned() else { return };
        self.release_sent = Some(release.lease);
        desk.emit(Effect::Release(release));
    }

    fn send_report(&mut self, desk: &mut Desk, upgrade: &Upgrade, verdict: Verdict) {
        desk.news = false;
        desk.timers.clear(Timer::Report);
        self.number += 1;
        self.report_sent = Some(self.number);
        let journal = &desk.journal;
        let report = Report {
            server: desk.me.server.clone(),
            boot: journal.starts,
            number: self.number,
            verdict,
            campaigns: campaigns(desk, upgrade),
            lease: journal.lease.as_reported(),
            epoch_seen: journal.lease.epoch_seen,
            fence_seen: journal.lease.fence_seen,
            transitions: journal.transitions.iter().take(TRANSITIONS_PER_REPORT).cloned().collect(),
        };
        desk.emit(Effect::Report(Box::new(report)));
    }

    /// A report was answered, or not. In which life of the coordinator, if it was.
    pub(crate) fn report_answered(
        &mut self,
        desk: &mut Desk,
        number: u64,
        answer: Option<&ReportAnswer>,
        now: Now,
    ) -> Option<Life> {
        if self.report_sent != Some(number) {
            return None;
        }
        self.report_sent = None;
        let Some(answer) = answer else {
            let delay = RESEND.delay(self.report_failures, "report", &[desk.me.server.as_str().as_bytes()]);
            self.report_failures = self.report_failures.saturating_add(1);
            self.report_waits = true;
            desk.timers.set(Timer::Report, now.moment.after(delay));
            desk.news = true;
            return None;
        };
        self.report_failures = 0;
        if let Some(kept) = answer.transitions_kept {
            self.transitions_kept(desk, kept);
        }
        if !desk.journal.transitions.is_empty() && desk.journal.transitions.len() > TRANSITIONS_PER_REPORT {
            desk.news = true;
        }
        let next = answer.next_within_ms.clamp(REPORT_WITHIN_MS.0, REPORT_WITHIN_MS.1);
        self.every_ms = next;
        desk.timers.set(Timer::Report, now.moment.after(Duration::from_millis(next)));
        let before = self.epoch.replace(answer.epoch);
        let new = before.is_some_and(|before| before != answer.epoch);
        Some(if new { Life::New } else { Life::Same })
    }

    fn transitions_kept(&mut self, desk: &mut Desk, kept: u64) {
        let journal = &mut desk.journal;
        if kept > journal.transitions_next.saturating_add(TRANSITIONS_AHEAD_MAX) {
            // No journal of this server ever came that far: it is a lie, or a mistake, that would use the
            // numbers up.
            return;
        }
        if kept >= journal.transitions_next {
            // The coordinator has records that this journal never wrote: the journal was lost and begun anew.
            // What it holds now comes after them.
            journal.transitions_next = kept + 1;
            for transition in &mut journal.transitions {
                transition.index = journal.transitions_next;
                journal.transitions_next += 1;
            }
            desk.news = true;
            desk.persist();
            return;
        }
        let before = journal.transitions.len();
        journal.transitions.retain(|transition| transition.index > kept);
        if journal.transitions.len() != before {
            desk.persist();
        }
    }

    /// A release was acknowledged, or not.
    pub(crate) fn release_answered(&mut self, desk: &mut Desk, lease: LeaseId, kept: bool, now: Now) {
        if self.release_sent != Some(lease) {
            return;
        }
        self.release_sent = None;
        if kept {
            self.release_failures = 0;
            if desk.journal.lease.acknowledged(lease) {
                desk.persist();
            }
        } else {
            let delay = RESEND.delay(self.release_failures, "release", &[desk.me.server.as_str().as_bytes()]);
            self.release_failures = self.release_failures.saturating_add(1);
            self.release_waits = true;
            desk.timers.set(Timer::Release, now.moment.after(delay));
        }
    }
}

/// The campaign under way first, then those that ended, the newest plans first.
fn campaigns(desk: &Desk, upgrade: &Upgrade) -> Vec<CampaignStatus> {
    let active = desk.journal.active.as_ref().map(|active| CampaignStatus {
        campaign: active.campaign.clone(),
        plan: active.plan,
        attempt: active.attempt,
        phase: active.state.phase(),
        running: upgrade.running.iter().flatten().copied().collect(),
        chunks: upgrade.progress.chunks,
        received: upgrade.progress.received,
    });
    let last = desk.journal.last_finished.as_ref();
    let mut ended: Vec<_> = desk.journal.finished.iter().collect();
    ended.sort_by_key(|(campaign, _)| {
        let issued = desk.trust.plan(campaign).map(|plan| plan.issued);
        (last != Some(campaign), std::cmp::Reverse(issued))
    });
    let ended = ended.into_iter().map(|(campaign, finished)| {
        // What was fetched is remembered for the campaign that ended last, until another one begins.
        let fresh = desk.journal.active.is_none() && last == Some(campaign);
        CampaignStatus {
            campaign: campaign.clone(),
            plan: finished.plan,
            attempt: finished.attempt,
            phase: finished.phase,
            running: if fresh { upgrade.running.iter().flatten().copied().collect() } else { Vec::new() },
            chunks: if fresh { upgrade.progress.chunks } else { (0, 0) },
            received: if fresh { upgrade.progress.received } else { BytesBySource::default() },
        }
    });
    active.into_iter().chain(ended).take(CAMPAIGNS_PER_REPORT).collect()
}
