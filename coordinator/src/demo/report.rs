//! How the demo ended: what became of every server, and whether everything held.
//!
//! Owns the expectations. Main invariant: each is judged from evidence after the fact – the links on the
//! servers' disks, their services' answers, the event log – and never from a command's exit code; an
//! expectation without evidence does not hold.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use indicatif::HumanBytes;
use lunar_common::ids::{LeaseId, ServerId};
use lunar_common::lease::{LeaseOutcome, LimitScope};
use lunar_common::message::BytesBySource;
use lunar_coordinator_core::event::{EventBody, Evidence, LeaseNews, LeaseStep, LimitTable, Member};
use serde::Serialize;

use super::progress::add;
use crate::api::types::EventView;
use crate::cli::Table;

/// The whole report.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether every expectation held.
    pub held: bool,
    /// What became of each server.
    pub servers: Vec<ServerLine>,
    /// Bytes received by all, by source.
    pub received: BytesBySource,
    /// Bytes of the new artifact's frames: what crossing the Earth link once costs.
    pub artifact_frame_bytes: u64,
    /// Most servers down at once, by limit.
    pub down_at_once: Vec<DownAtOnce>,
    /// What was expected.
    pub expectations: Vec<Expectation>,
    /// Seconds from the plan's publishing to the last server's end.
    pub seconds: f64,
    /// Where everything lies.
    pub directory: String,
}

/// One server's line.
#[derive(Debug, Clone, Serialize)]
pub struct ServerLine {
    /// Its id.
    pub server: String,
    /// Its site.
    pub site: String,
    /// Its tier.
    pub tier: u8,
    /// The version that ran before.
    pub from: String,
    /// The version that runs now, by the link on its disk.
    pub to: String,
    /// How it ended, in a word.
    pub result: String,
    /// Why, if it did not complete.
    pub cause: String,
    /// Seconds down, over all attempts.
    pub down_s: f64,
    /// Bytes by source.
    pub received: BytesBySource,
}

/// One limit against what happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DownAtOnce {
    /// What it counts over.
    pub scope: String,
    /// The most leases held at once.
    pub most: u32,
    /// The limit.
    pub limit: u32,
}

/// Something that must be true at the end.
#[derive(Debug, Clone, Serialize)]
pub struct Expectation {
    /// What.
    pub what: String,
    /// Whether it is.
    pub held: bool,
    /// What was found.
    pub found: String,
}

impl Expectation {
    /// An expectation, judged.
    pub fn new(what: impl Into<String>, held: bool, found: impl Into<String>) -> Self {
        Self { what: what.into(), held, found: found.into() }
    }
}

/// How each server's leases ended, from the log: the last word, and milliseconds down in all.
#[must_use]
pub fn outcomes(events: &[EventView]) -> BTreeMap<ServerId, (LeaseOutcome, u64)> {
    let mut ends: BTreeMap<ServerId, (LeaseOutcome, u64)> = BTreeMap::new();
    for event in events {
        let EventBody::Released { server, evidence: Evidence::Release { outcome, down_ms }, .. } =
            &event.event
        else {
            continue;
        };
        let before = ends.get(server).map_or(0, |(_, down)| *down);
        ends.insert(server.clone(), (outcome.clone(), before + down_ms));
    }
    ends
}

/// The most leases held at once in every scope that has a limit, replayed from the log. A lost lease counts
/// until it is reaped or its holder is heard.
#[must_use]
pub fn down_at_once(events: &[EventView]) -> Vec<DownAtOnce> {
    let mut members: BTreeMap<&ServerId, &Member> = BTreeMap::new();
    let mut limits: Option<&LimitTable> = None;
    let mut holding: BTreeMap<&ServerId, LeaseId> = BTreeMap::new();
    let mut most: BTreeMap<LimitScope, u32> = BTreeMap::new();
    for event in events {
        if let EventBody::ServerEnrolled { member } = &event.event {
            members.insert(&member.server, member);
        }
        if let EventBody::PlanAccepted { terms, .. } = &event.event {
            limits = Some(&terms.limits);
        }
        if let Some(LeaseNews { server, lease, step }) = event.event.lease_news() {
            match step {
                LeaseStep::Held { .. } => drop(holding.insert(server, lease)),
                // A late word on an earlier lease says nothing of the one that is held.
                LeaseStep::Over if holding.get(server) == Some(&lease) => drop(holding.remove(server)),
                LeaseStep::Over | LeaseStep::Changed => {}
            }
        }
        let mut now: BTreeMap<LimitScope, u32> = BTreeMap::new();
        for scope in
            holding.keys().filter_map(|server| members.get(server)).flat_map(|member| member.scopes())
        {
            *now.entry(scope).or_default() += 1;
        }
        for (scope, count) in now {
            let highest = most.entry(scope).or_default();
            *highest = count.max(*highest);
        }
    }
    let Some(limits) = limits else { return Vec::new() };
    most.into_iter()
        .filter_map(|(scope, most)| {
            Some(DownAtOnce { limit: limits.of(&scope)?, scope: scope.to_string(), most })
        })
        .collect()
}

impl Report {
    /// A report of these lines and expectations.
    #[must_use]
    pub fn new(
        servers: Vec<ServerLine>,
        expectations: Vec<Expectation>,
        events: &[EventView],
        artifact_frame_bytes: u64,
        seconds: f64,
        directory: String,
    ) -> Self {
        let mut received = BytesBySource::default();
        for line in &servers {
            add(&mut received, &line.received);
        }
        let held = expectations.iter().all(|expectation| expectation.held);
        let down_at_once = down_at_once(events);
        Self { held, servers, received, artifact_frame_bytes, down_at_once, expectations, seconds, directory }
    }

    /// The report for people.
    #[must_use]
    pub fn human(&self) -> String {
        let mut table = Table::new(&[
            "server",
            "site",
            "tier",
            "from",
            "to",
            "result",
            "down",
            "same site",
            "other sites",
            "Earth",
            "local",
        ]);
        for line in &self.servers {
            table.row([
                line.server.clone(),
                line.site.clone(),
                line.tier.to_string(),
                line.from.clone(),
                line.to.clone(),
                line.result.clone(),
                format!("{:.1} s", line.down_s),
                HumanBytes(line.received.site).to_string(),
                HumanBytes(line.received.sites).to_string(),
                HumanBytes(line.received.earth).to_string(),
                HumanBytes(line.received.local).to_string(),
            ]);
        }
        let mut text = format!("{table}\n\n");
        let most: Vec<_> = self
            .down_at_once
            .iter()
            .map(|down| format!("{} {} of {}", down.scope, down.most, down.limit))
            .collect();
        let _ = writeln!(text, "Most down at once: {}.", most.join(", "));
        let earth = self.received.earth as f64 / self.artifact_frame_bytes.max(1) as f64;
        let _ = writeln!(
            text,
            "The Earth link carried {} = {earth:.2} × the artifact. The campaign took {:.1} s.\n",
            HumanBytes(self.received.earth),
            self.seconds
        );
        for expectation in &self.expectations {
            let mark = if expectation.held { "held " } else { "BROKE" };
            let _ = writeln!(text, "  {mark}  {} ({})", expectation.what, expectation.found);
        }
        let _ = write!(text, "\n{}", if self.held { "Everything held." } else { "NOT everything held." });
        text
    }
}

#[cfg(test)]
mod tests {
    use lunar_common::ids::{
        Attempt, CampaignId, DocumentHash, Epoch, Fence, LeaseId, LogIndex, PeerKey, RecordHash, Sequence,
    };
    use lunar_common::limits::Tier;
    use lunar_common::time::WallTime;
    use lunar_coordinator_core::event::{GrantedLease, Task};

    use super::*;

    #[test]
    fn leases_held_together_are_counted_and_released_ones_are_not() {
        let events = [enrolled("a"), enrolled("b"), granted("a", 1), released("a", 1), granted("b", 2)];
        let mut together = events.to_vec();
        together.insert(3, granted("b", 2));

        assert_eq!(most_in_fleet(&events), 1);
        assert_eq!(most_in_fleet(&together), 2);
    }

    fn most_in_fleet(events: &[EventView]) -> u32 {
        let mut events = events.to_vec();
        events.push(plan());
        let all = down_at_once(&events);
        all.iter().find(|down| down.scope == "fleet").unwrap().most
    }

    fn view(event: EventBody) -> EventView {
        EventView { index: LogIndex(0), at: WallTime(0), hash: RecordHash([0; 32]), event }
    }

    fn enrolled(server: &str) -> EventView {
        view(EventBody::ServerEnrolled {
            member: Member {
                server: server.parse().unwrap(),
                key: PeerKey([0; 32]),
                sequence: Sequence(1),
                role: lunar_common::enrolment::Role::Agent,
                hostname: server.into(),
                site: "s".parse().unwrap(),
                cluster: "c".parse().unwrap(),
                tier: Tier::Three,
                service: "web".parse().unwrap(),
                group: None,
                expires: None,
            },
        })
    }

    fn task() -> Task {
        let campaign = CampaignId::new("c").unwrap();
        Task { campaign, plan: DocumentHash([0; 32]), attempt: Attempt(1) }
    }

    fn granted(server: &str, lease: u64) -> EventView {
        view(EventBody::Granted(GrantedLease {
            lease: LeaseId(lease),
            server: server.parse().unwrap(),
            task: task(),
            nonce: 1,
            epoch: Epoch(1),
            fence: Fence(lease),
            start_within_ms: 1,
            down_max_ms: 1,
        }))
    }

    fn released(server: &str, lease: u64) -> EventView {
        view(EventBody::Released {
            server: server.parse().unwrap(),
            lease: LeaseId(lease),
            fence: Fence(lease),
            task: Some(task()),
            evidence: Evidence::Release { outcome: LeaseOutcome::Completed, down_ms: 5 },
        })
    }

    fn plan() -> EventView {
        let text = r#"
            format = 1
            fleet = "f"
            campaign = "c"
            generation = 1
            author = "a"
            issued = "2026-01-01T00:00:00Z"
            expires = "2026-01-02T00:00:00Z"
            artifact = []
            [install]
            kind = "release"
            restart = { unit = "x.service" }
            [health]
            probe = []
        "#;
        let plan: lunar_common::plan::Plan = toml::from_str(text).unwrap();
        let terms = Box::new(lunar_coordinator_core::event::Terms::of(&plan, DocumentHash([0; 32])));
        view(EventBody::PlanAccepted { terms, signers: Default::default() })
    }
}
