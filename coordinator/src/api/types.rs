//! What the API says and is told, in JSON: shared by the server and the command line's client.
//!
//! Owns the bodies that are not the core's own views (`lunar_coordinator_core::view`). Main invariant: both
//! sides use these very types, so that they cannot disagree.

use lunar_common::document::{Kind, SignedDocument};
use lunar_common::ids::{DocumentHash, Epoch, LogIndex, RecordHash};
use lunar_common::time::WallTime;
use lunar_coordinator_core::event::EventBody;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// That the coordinator runs and its loop turns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HealthView {
    /// Its life.
    pub epoch: Epoch,
}

/// Some of a long listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Page<T> {
    /// In their order.
    pub items: Vec<T>,
    /// What to GET for those that follow; absent: these were the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// One document in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DocumentLine {
    /// The hash of its body, by which it is found.
    pub hash: DocumentHash,
    /// What it is.
    pub kind: Kind,
}

/// One record of the event log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventView {
    /// Its place.
    pub index: LogIndex,
    /// When it was written, by the coordinator's wall clock; for people.
    pub at: WallTime,
    /// Its hash, over its body and its predecessor's hash.
    pub hash: RecordHash,
    /// What happened: one kind of event, with what it carries.
    #[schemars(schema_with = "event_schema")]
    pub event: EventBody,
}

/// Kinds of events come and go with versions, so whoever reads them looks at the kinds that it knows: the description
/// promises their form alone.
fn event_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "description": "One kind of event, by its name, and what it carries. Pass over kinds that are new to you.",
        "minProperties": 1,
        "maxProperties": 1,
    })
}

/// Whether the log is as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditView {
    /// Whether every record is there, unchanged and in its place.
    pub intact: bool,
    /// Records checked.
    pub records: u64,
    /// The last record's hash: note it elsewhere, and a log cut short can be told too.
    pub head: Option<RecordHash>,
    /// What is wrong, and where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A signed document, as it is handed in and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DocumentUpload {
    /// What it says it is.
    pub kind: Kind,
    /// Its exact text: signed TOML is UTF-8.
    pub body: String,
    /// Armoured SSHSIG signatures.
    pub signatures: Vec<String>,
}

impl DocumentUpload {
    /// The upload of a document; `None` if its body is not UTF-8, and so no TOML.
    #[must_use]
    pub fn of(document: &SignedDocument) -> Option<Self> {
        let body = String::from_utf8(document.body.clone()).ok()?;
        Some(Self { kind: document.kind, body, signatures: document.signatures.clone() })
    }
}

impl From<DocumentUpload> for SignedDocument {
    fn from(upload: DocumentUpload) -> Self {
        Self { kind: upload.kind, body: upload.body.into_bytes(), signatures: upload.signatures }
    }
}

/// What became of a document that was handed in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DocumentReply {
    /// The hash of its body.
    pub hash: DocumentHash,
    /// False: it was known already, and nothing changed.
    pub new: bool,
}

/// An error, as the API tells it (RFC 9457, `application/problem+json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// What kind of thing went wrong, in a few words.
    pub title: String,
    /// The HTTP status, again.
    pub status: u16,
    /// What was wrong, where, and what to do next.
    #[serde(default)]
    pub detail: String,
}
