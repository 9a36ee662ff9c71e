//! Explanations for people.
//!
//! Owns the sentences. Main invariant: every sentence says what binds and what would change it. Refuses to
//! decide what the reason is: that comes from the code that grants.

use std::fmt::Write;

use lunar_common::ids::{CampaignId, KeyName, ServerId};
use lunar_common::lease::{Holder, Lapse, LeaseState, Occupancy, WaitReason};

use crate::view::Why;

impl Why {
    /// The reason, with its sentence.
    #[must_use]
    pub(crate) fn new(server: &ServerId, campaign: Option<&CampaignId>, reason: WaitReason) -> Self {
        let text = sentence(server, &reason);
        Self { campaign: campaign.cloned(), reason, text }
    }
}

/// The reason as a sentence about a server.
#[must_use]
pub fn sentence(server: &ServerId, reason: &WaitReason) -> String {
    match reason {
        WaitReason::Limit { scope, limit, taken, holders } => format!(
            "{server} waits: {taken} of {limit} slots of {scope} are taken by {}; it goes on when one is free",
            list(holders, *taken)
        ),
        WaitReason::Behind { ahead: 0 } => format!("nothing keeps {server} back: it is next"),
        WaitReason::Behind { ahead } => {
            format!("{server} waits: the free slot is kept for one of {ahead} that waited longer")
        }
        WaitReason::Halted { why } => {
            format!("{server} waits: a halt is in force ({why}); it goes on after a signed resume")
        }
        WaitReason::PlanExpired => {
            format!("{server} does not start: the plan has expired; sign a new generation of it")
        }
        WaitReason::EnrolmentExpired => {
            format!("{server} does not start: its enrolment has expired; sign a new one")
        }
        WaitReason::NotHealthy { verdict } => {
            format!("{server} waits: its own probes say {verdict}; it goes on when they say healthy")
        }
        WaitReason::Recovering { unheard } => format!(
            "{server} waits: the coordinator was restored from an older state, and {unheard} servers have not \
             reported since; it goes on when all have, or are written off by a signed reap"
        ),
        WaitReason::NotClaimed { phase } => {
            format!("{server} has not asked for a slot: it is {phase} by its own word")
        }
        WaitReason::Unreachable { silent_ms: None } => format!(
            "{server} has not been heard from since the coordinator started; look whether it is up, or write \
             it off with a signed reap"
        ),
        WaitReason::Unreachable { silent_ms: Some(silent_ms) } => format!(
            "{server} has been silent for {} s; look whether it is up, or write it off with a signed reap",
            silent_ms / 1000
        ),
        WaitReason::HoldsLease { lease, state: LeaseState::Granted } => {
            format!("{server} may start: it was granted lease {lease}")
        }
        WaitReason::HoldsLease { lease, state: LeaseState::Active } => {
            format!("{server} is upgrading now, under lease {lease}")
        }
        WaitReason::HoldsLease { lease, state: LeaseState::Lost } => format!(
            "{server} was to give lease {lease} back and has not been heard of; look at it, then wait for its \
             report or sign a reap"
        ),
        WaitReason::Done { phase } => format!("{server} has nothing left to do: it is {phase}"),
        WaitReason::NoCampaign => format!("no campaign selects {server}"),
        WaitReason::Gate { stage, before, demand, evidence } => match evidence.missing(demand) {
            Some(missing) => {
                format!("{server} waits in stage {stage}: stage {before} has not passed: {missing}")
            }
            None => format!("{server} waits in stage {stage}: stage {before} passes now"),
        },
        WaitReason::Wave { stage, size, unknown } => format!(
            "{server} waits in stage {stage}: the {size} starts of this wave are given; it goes on when the \
             {unknown} that have not ended have"
        ),
        WaitReason::Order { rule, pending, first } => {
            let named: Vec<String> = first.iter().map(ToString::to_string).collect();
            let more = (*pending as usize).saturating_sub(named.len());
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!(
                "{server} waits for {}{more} by the plan's order ({rule}); it goes on when they are done",
                named.join(", ")
            )
        }
        WaitReason::Paused { scope, pause, server: last, anomaly } => format!(
            "{server} waits: {scope} is paused by its {}: {anomaly}; the last was {last}; it goes on after a signed \
             resume of pause {pause}",
            anomaly.rule()
        ),
        WaitReason::PausedByHand { scope, pause, why, signers } => format!(
            "{server} waits: {scope} was paused by {}: {why}; it goes on after a signed resume of pause {pause}",
            named(signers)
        ),
        WaitReason::Quarantined { why, signers } => format!(
            "{server} is in quarantine by {}: {why}; it goes on after a signed release",
            named(signers)
        ),
        WaitReason::Cancelled { why, signers } => format!(
            "{server} does not start: the campaign was cancelled by {}: {why}; only a new generation of its plan goes on",
            named(signers)
        ),
        WaitReason::NoStage => format!(
            "{server} does not start: the plan selects it and none of its stages does; sign a new generation \
             with a stage for it"
        ),
        WaitReason::Approval { stage, batch, servers, lapse, need, may } => {
            let names = named(may);
            let is_not = match lapse {
                Lapse::Never => "is not approved".to_owned(),
                Lapse::Withdrawn => "was approved, and that was withdrawn".to_owned(),
                Lapse::Expired(expired) => format!("was approved until {expired}"),
                Lapse::Void => "was approved before the trust root changed or the log was lost".to_owned(),
            };
            format!(
                "{server} waits in stage {stage}: batch {batch} of {servers} servers {is_not}; it takes {need} of {names}"
            )
        }
        WaitReason::OutsideWindow { tier, stage, windows, strict, opens, clock_set_s } => {
            let who = match stage {
                Some(stage) => format!("stage {stage}"),
                None => format!("tier {tier}"),
            };
            let names = windows.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let held = if *strict {
                "starts in its maintenance windows only"
            } else {
                "prefers its maintenance windows and is not behind schedule"
            };
            let next = match opens {
                Some(opens) => format!("the next one opens at {opens}"),
                None => "none that is long enough opens before the plan expires; sign a new generation of it"
                    .into(),
            };
            let clock = match clock_set_s {
                0 => String::new(),
                set_s => format!(
                    "; the coordinator's clock was set by {set_s} s since it started, so windows must be open by the \
                     time before and by the time after: check the clock, then restart the coordinator"
                ),
            };
            format!("{server} waits: {who} {held} ({names}); {next}{clock}")
        }
    }
}

fn list(holders: &[Holder], taken: u32) -> String {
    let mut text = String::new();
    for holder in holders {
        let separator = if text.is_empty() { "" } else { ", " };
        let why = match holder.why {
            Occupancy::Granted => "about to start",
            Occupancy::Active => "upgrading",
            Occupancy::Lost => "lost",
            Occupancy::Unhealthy => "unhealthy",
            Occupancy::Unreachable => "unreachable",
        };
        write!(text, "{separator}{} ({why})", holder.server).expect("a String takes all that is written");
    }
    let named = u32::try_from(holders.len()).unwrap_or(u32::MAX);
    if taken > named {
        write!(text, " and {} more", taken - named).expect("a String takes all that is written");
    }
    text
}

fn named(names: &[KeyName]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
