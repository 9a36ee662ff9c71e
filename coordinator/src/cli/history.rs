//! `history`: what happened, from the log.
//!
//! Owns the one-line telling of an event. Main invariant: every kind of event has its line; a new kind does
//! not compile until it has one.

use lunar_common::curb::Measure;
use lunar_common::ids::{CampaignId, LogIndex, ServerId};
use lunar_common::lease::LeaseOutcome;
use lunar_coordinator_core::event::{EventBody, Evidence};
use lunar_host::exit::{Exit, Failure};

use super::{CommandResult, Common, block_on};
use crate::api::types::EventView;
use crate::client::Client;

/// Shows what happened: everything, or one server's life.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  lunar-coordinator history srv-07\n  \
    lunar-coordinator history --since 1200\n  lunar-coordinator --output json history | jq .")]
pub struct HistoryCommand {
    /// Only this server's.
    server: Option<ServerId>,
    /// Only records from this index on.
    #[arg(long, default_value_t = LogIndex(0))]
    since: LogIndex,
}

/// Records asked for at once; the server allows no more.
pub(crate) const EVENTS_PER_PAGE: usize = 1_000;

impl HistoryCommand {
    /// Runs it.
    ///
    /// # Errors
    /// No coordinator answers; no such server.
    pub fn run(self, common: &Common) -> CommandResult {
        let client = Client::of(common)?;
        let events = block_on(self.ask(&client))?;
        common.output.print(&events, |events| {
            if events.is_empty() {
                return "nothing happened yet".to_owned();
            }
            let line =
                |event: &EventView| format!("{:>6}  {}  {}", event.index.0, event.at, tell(&event.event));
            events.iter().map(line).collect::<Vec<_>>().join("\n")
        })?;
        Ok(Exit::Ok)
    }

    async fn ask(&self, client: &Client) -> Result<Vec<EventView>, Failure> {
        let path =
            self.server.as_ref().map_or("/events".to_owned(), |server| format!("/servers/{server}/history"));
        client.get_all(&format!("{path}?since={}&limit={EVENTS_PER_PAGE}", self.since)).await
    }
}

fn curbed(what: &Measure) -> String {
    match what {
        Measure::Pause(scope) => format!("{scope} paused by hand"),
        Measure::Quarantine(server) => format!("{server} put in quarantine"),
        Measure::Release(server) => format!("{server} released from quarantine"),
        Measure::Lower(lowered) => {
            let to = lowered.iter().map(|lower| format!("{} to {}", lower.scope, lower.to));
            format!("limits lowered ({})", to.collect::<Vec<_>>().join(", "))
        }
        Measure::Cancel => "the plan cancelled".to_owned(),
    }
}

fn scope(campaign: Option<&CampaignId>) -> String {
    campaign.map_or("all campaigns".to_owned(), ToString::to_string)
}

/// An event in one line.
pub(crate) fn tell(event: &EventBody) -> String {
    match event {
        EventBody::CoordinatorStarted { epoch } => format!("coordinator started, epoch {epoch}"),
        EventBody::StateRestored { evidence, epoch, fence } => {
            format!("state found restored ({evidence} has seen more): epoch {epoch}, fence {fence}")
        }
        EventBody::Recovered { epoch } => format!("recovered in epoch {epoch}: grants go on"),
        EventBody::ServerEnrolled { member } => {
            format!("{} enrolled: tier {}, site {}", member.server, member.tier, member.site)
        }
        EventBody::ServerRevoked { server, .. } => format!("{server} revoked"),
        EventBody::PlanAccepted { terms, signers } => {
            let signers: Vec<_> = signers.iter().map(ToString::to_string).collect();
            format!(
                "plan {} generation {} in force, signed by {}",
                terms.campaign,
                terms.generation,
                signers.join(", ")
            )
        }
        EventBody::Halted { campaign, sequence, reason, .. } => {
            format!("HALT {} (sequence {sequence}): {reason}", scope(campaign.as_ref()))
        }
        EventBody::Resumed { campaign, sequence, reason, .. } => {
            format!("resume {} (sequence {sequence}): {reason}", scope(campaign.as_ref()))
        }
        EventBody::Queued { server, task } => format!("{server} waits for a lease ({})", task.campaign),
        EventBody::Granted(lease) => format!("{} granted lease {}", lease.server, lease.lease),
        EventBody::Started { server, lease } => format!("{server} started under lease {lease}"),
        EventBody::Released { server, lease, evidence, .. } => {
            format!("{server} released lease {lease}: {}", ended(evidence))
        }
        EventBody::Lost { server, lease, was } => {
            format!("{server} LOST lease {lease} (was {was}); its slot stays taken")
        }
        EventBody::Found { server, lease, started } => {
            format!("{server} reported its lost lease {lease}{}", if *started { ", started" } else { "" })
        }
        EventBody::Adopted { server, lease, .. } => {
            format!("{server} holds lease {lease}, unknown here: adopted")
        }
        EventBody::Reaped { server, lease, reason, .. } => {
            format!("{server}: lease {lease} reaped: {reason}")
        }
        EventBody::WrittenOff { server, reason, .. } => format!("{server} written off: {reason}"),
        EventBody::ReapSpent { server, why, .. } => format!("{server}: a reap freed nothing: {why}"),
        EventBody::Returned { server } => format!("{server} is back"),
        EventBody::Transition { server, transition } => {
            format!("{server} {} -> {}: {}", transition.from, transition.to, transition.cause)
        }
        EventBody::PlanRules { campaign, rules, .. } => {
            let stages = rules.stages.iter().map(|stage| format!("stage {}", stage.name));
            let told: Vec<_> = stages.chain(rules.order.iter().map(|rule| rule.told.clone())).collect();
            format!("plan {campaign} goes by an order: {}", told.join(", "))
        }
        EventBody::PlanApprovals { campaign, approvals, .. } => {
            format!("plan {campaign} has {} stages whose batches people approve", approvals.stages.len())
        }
        EventBody::Approved { campaign, name, batch, word, .. } => {
            let signers: Vec<_> = word.signers.iter().map(ToString::to_string).collect();
            let what = if word.withdrawn { "is approved no more" } else { "is approved" };
            format!(
                "batch {batch} of stage {name} of {campaign} {what} (sequence {}), signed by {}: {}",
                word.sequence,
                signers.join(", "),
                word.reason
            )
        }
        EventBody::Curbed { campaign, what, by } => {
            let signers: Vec<_> = by.signers.iter().map(ToString::to_string).collect();
            let (signers, why) = (signers.join(", "), &by.reason);
            let of = campaign.as_ref().map_or(String::new(), |campaign| format!(" of {campaign}"));
            format!("{}{of} (sequence {}), signed by {signers}: {why}", curbed(what), by.sequence)
        }
        EventBody::PlanWindows { campaign, windows, .. } => {
            let weekly = windows.windows.weekly.iter().map(|window| window.name.to_string());
            let cron = windows.windows.cron.iter().map(|window| window.name.to_string());
            let names: Vec<_> = weekly.chain(cron).collect();
            format!(
                "plan {campaign} has maintenance windows ({}): {}",
                windows.windows.zone,
                names.join(", ")
            )
        }
        EventBody::Labelled { server, labels } => {
            let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name} = {value}")).collect();
            format!("{server} labelled: {}", labels.join(", "))
        }
        EventBody::Arrived { server, campaign, .. } => format!("{server} runs the version of {campaign}"),
        EventBody::Soaked { campaign, stage, soaked_ms: 0, .. } => {
            format!("stage {stage} of {campaign} shows less than it did: its soak begins anew")
        }
        EventBody::Soaked { campaign, stage, soaked_ms, .. } => {
            format!("stage {stage} of {campaign} has soaked for {} s", soaked_ms / 1000)
        }
        EventBody::GateOpened { campaign, name, evidence, .. } => format!(
            "stage {name} of {campaign} passed: {} of {} servers on the new version, {} of {} attempts succeeded, \
             soaked for {} s",
            evidence.completed,
            evidence.present(),
            evidence.succeeded,
            evidence.attempts(),
            evidence.soaked_ms / 1000
        ),
        EventBody::StopRules { campaign, rules, .. } => format!(
            "plan {campaign} pauses at {} failures in all, and by tier at {}, {} and {}",
            rules.failed, rules.tier.one.failed, rules.tier.two.failed, rules.tier.three.failed
        ),
        EventBody::FellSilent { server, lease } => {
            format!("{server} is silent, and its lease {lease} is lost: nobody knows how it is")
        }
        EventBody::Paused { pause } => format!(
            "PAUSE {} of {}, by its {}: {}; the last was {}; resume it by {}",
            pause.scope,
            pause.campaign,
            pause.anomaly.rule(),
            pause.anomaly,
            pause.server,
            pause.id()
        ),
        EventBody::Unpaused { campaign, scope, pause, reason, .. } => {
            format!("resume {scope} of {campaign} from pause {pause:.16}: {reason}")
        }
    }
}

fn ended(evidence: &Evidence) -> String {
    match evidence {
        Evidence::Release { outcome, down_ms } => match outcome {
            LeaseOutcome::Completed => format!("completed, down {down_ms} ms"),
            LeaseOutcome::RolledBack { cause } => format!("rolled back, down {down_ms} ms: {cause}"),
            LeaseOutcome::NeverStarted { cause } => format!("never started: {cause}"),
        },
        Evidence::Report => "it reported that it holds it no more".to_owned(),
        Evidence::NewerPlan => "it claims by a newer plan".to_owned(),
    }
}
