//! `audit`: the event log as evidence.
//!
//! Owns the export formats. Main invariant: a log with a record changed, missing or out of place is never
//! called intact, and exporting it says so.

use std::io::Write as _;

use lunar_common::ids::LogIndex;
use lunar_coordinator_core::event::EventBody;
use lunar_host::exit::{Exit, Failure};

use super::history::{EVENTS_PER_PAGE, tell};
use super::{CommandResult, Common, block_on};
use crate::api::types::{AuditView, EventView, Page};
use crate::client::Client;

/// Checks and exports the audit trail.
#[derive(Debug, clap::Subcommand)]
pub enum AuditCommand {
    /// Checks that every record is there, unchanged and in its place. Exits 1 if not.
    #[command(after_help = "Examples:\n  lunar-coordinator audit verify\n  \
        lunar-coordinator audit verify --head HASH   (a hash noted earlier: tells a log cut short)")]
    Verify {
        /// A head that an earlier verification printed; it must still be in the log.
        #[arg(long, value_name = "HASH")]
        head: Option<lunar_common::ids::RecordHash>,
    },
    /// Prints every record.
    #[command(after_help = "Examples:\n  lunar-coordinator audit export > audit.jsonl\n  \
        lunar-coordinator audit export --format csv > audit.csv")]
    Export {
        /// JSON lines carry everything; CSV is for reading.
        #[arg(long, value_enum, default_value_t)]
        format: ExportFormat,
    },
}

/// How records are exported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    /// One JSON object a line, with everything in it.
    #[default]
    Jsonl,
    /// index, time, hash, and the event in a sentence.
    Csv,
}

impl AuditCommand {
    /// Runs it.
    ///
    /// # Errors
    /// No coordinator answers.
    pub fn run(self, common: &Common) -> CommandResult {
        let client = Client::of(common)?;
        match self {
            Self::Verify { head } => {
                let query = head.map_or(String::new(), |head| format!("?head={head}"));
                let audit: AuditView = block_on(client.get(&format!("/audit{query}")))?;
                common.output.print(&audit, |audit| match &audit.problem {
                    Some(problem) => format!("NOT INTACT: {problem}"),
                    None => format!(
                        "intact: {} records, head {}",
                        audit.records,
                        audit.head.map_or("-".into(), |head| head.to_string())
                    ),
                })?;
                Ok(if audit.intact { Exit::Ok } else { Exit::NotHeld })
            }
            Self::Export { format } => block_on(export(&client, format)),
        }
    }
}

async fn export(client: &Client, format: ExportFormat) -> CommandResult {
    let audit: AuditView = client.get("/audit").await?;
    if let Some(problem) = &audit.problem {
        return Err(Failure::new(Exit::NotHeld, anyhow::anyhow!("the log is not intact: {problem}"))
            .advise("keep a copy of the coordinator's directory as it is, for whoever looks into it"));
    }
    let mut out = std::io::stdout().lock();
    if format == ExportFormat::Csv {
        writeln!(out, "index,time,hash,event")?;
    }
    let mut since = LogIndex(0);
    loop {
        let page: Page<EventView> =
            client.get(&format!("/events?since={since}&limit={EVENTS_PER_PAGE}")).await?;
        let Some(last) = page.items.last() else { return Ok(Exit::Ok) };
        since = last.index.next();
        for event in &page.items {
            let line = match format {
                ExportFormat::Jsonl => {
                    serde_json::to_string(event).map_err(|error| Failure::new(Exit::Internal, error))?
                }
                ExportFormat::Csv => {
                    format!("{},{},{},{}", event.index, event.at, event.hash, quoted(&event.event))
                }
            };
            writeln!(out, "{line}")?;
        }
    }
}

/// A sentence as a CSV field (RFC 4180). A leading `=`, `+`, `-` or `@` would be a formula to a spreadsheet.
fn quoted(event: &EventBody) -> String {
    let text = tell(event).replace('"', "\"\"");
    let guard = if text.starts_with(['=', '+', '-', '@']) { "'" } else { "" };
    format!("\"{guard}{text}\"")
}
