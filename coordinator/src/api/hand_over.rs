//! The one way to change anything: a signed document, handed over.
//!
//! Owns the answer to it. Main invariant: handing the same document over again changes nothing and says so, because its
//! hash is its identity: that is why no `Idempotency-Key` is needed, and one that is sent may be anything. It is known, or,
//! where only the newest word counts (approvals and curbs), refused as no newer than the one that was taken.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use lunar_common::document::SignedDocument;

use super::Api;
use super::problem::Failed;
use super::types::{DocumentReply, DocumentUpload};

pub(super) async fn document(
    State(api): State<Api>,
    upload: Result<Json<DocumentUpload>, JsonRejection>,
) -> Result<(StatusCode, Json<DocumentReply>), Failed> {
    let Json(upload) = upload?;
    let document = SignedDocument::from(upload);
    let hash = document.hash();
    let new = api.handle.document(document).await??;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(DocumentReply { hash, new })))
}
