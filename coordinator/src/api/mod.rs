//! The operator plane: REST under /api/v1, in JSON, on the coordinator's Unix socket.
//!
//! Owns the routes and what their failures look like. Main invariant: every answer comes from the core or the
//! log, every body is bounded before it is read, and every error is problem+json with what to do next.

pub mod types;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use lunar_common::bounds::MESSAGE_BYTES_MAX;
use lunar_common::document::SignedDocument;
use lunar_common::ids::{CampaignId, LogIndex, RecordHash, ServerId};
use lunar_common::trust::Refusal;
use lunar_coordinator_core::Coordinator;
use lunar_coordinator_core::event::EventBody;
use lunar_coordinator_core::view::{
    BatchView, CampaignView, LeaseView, LimitView, ServerView, StatusView, Why,
};
use lunar_host::clock;
use serde::Deserialize;
use tokio::net::UnixListener;

use crate::event_log::{EVENTS_PER_PAGE_MAX, LogError, LogReader};
use crate::serve::{DocumentRefused, Handle, Stopping};
use types::{AuditView, DocumentReply, DocumentUpload, EventView, Problem};

/// Serves until the task is dropped.
pub async fn serve(socket: UnixListener, handle: Handle) {
    if let Err(error) = axum::serve(socket, router(handle)).await {
        tracing::error!(%error, "the operators' socket has failed: restart the coordinator");
    }
}

fn router(handle: Handle) -> Router {
    let v1 = Router::new()
        .route("/status", get(status))
        .route("/campaigns", get(campaigns))
        .route("/campaigns/{campaign}", get(campaign))
        .route("/campaigns/{campaign}/limits", get(limits))
        .route("/campaigns/{campaign}/batches", get(batches))
        .route("/servers", get(servers))
        .route("/servers/{server}", get(server))
        .route("/servers/{server}/why", get(why))
        .route("/servers/{server}/history", get(history))
        .route("/leases", get(leases))
        .route("/events", get(events))
        .route("/audit", get(audit))
        .route("/documents", post(document))
        .fallback(nowhere);
    Router::new()
        .nest("/api/v1", v1)
        .fallback(nowhere)
        // JSON escapes may double a document's text.
        .layer(DefaultBodyLimit::max(2 * MESSAGE_BYTES_MAX))
        .with_state(handle)
}

/// A failed request.
struct Failed(Problem);

impl Failed {
    fn new(status: StatusCode, title: &str, detail: impl ToString) -> Self {
        Self(Problem { title: title.to_owned(), status: status.as_u16(), detail: detail.to_string() })
    }

    fn no_server(server: &ServerId) -> Self {
        let detail = format!(
            "{server} is not enrolled here; `lunar-coordinator status --servers` lists those that are"
        );
        Self::new(StatusCode::NOT_FOUND, "no such server", detail)
    }

    fn no_campaign(campaign: &CampaignId) -> Self {
        let detail =
            format!("no plan of {campaign} was published here; `lunar-coordinator status` lists campaigns");
        Self::new(StatusCode::NOT_FOUND, "no such campaign", detail)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [(header::CONTENT_TYPE, "application/problem+json")], Json(self.0)).into_response()
    }
}

impl From<Stopping> for Failed {
    fn from(stopping: Stopping) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", stopping)
    }
}

impl From<LogError> for Failed {
    fn from(error: LogError) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the event log cannot be read", error)
    }
}

impl From<JsonRejection> for Failed {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), "the body is not what it should be", rejection.body_text())
    }
}

impl From<DocumentRefused> for Failed {
    fn from(refused: DocumentRefused) -> Self {
        match &refused {
            DocumentRefused::Trust(Refusal::Content { .. }) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "the document is wrong", refused)
            }
            DocumentRefused::Trust(_) => Self::new(StatusCode::FORBIDDEN, "the document is refused", refused),
            DocumentRefused::Reap(_) | DocumentRefused::Approval(_) => {
                Self::new(StatusCode::CONFLICT, "the document is refused", refused)
            }
        }
    }
}

type Answer<T> = Result<Json<T>, Failed>;

async fn nowhere() -> Failed {
    Failed::new(StatusCode::NOT_FOUND, "no such resource", "")
}

async fn status(State(handle): State<Handle>) -> Answer<StatusView> {
    Ok(Json(handle.ask(|core| core.status()).await?))
}

async fn campaigns(State(handle): State<Handle>) -> Answer<Vec<CampaignView>> {
    Ok(Json(handle.ask(|core| core.campaigns()).await?))
}

async fn campaign(State(handle): State<Handle>, Path(id): Path<CampaignId>) -> Answer<CampaignView> {
    let wanted = id.clone();
    let found = handle.ask(move |core| core.campaign(&wanted)).await?;
    found.map(Json).ok_or_else(|| Failed::no_campaign(&id))
}

async fn limits(State(handle): State<Handle>, Path(id): Path<CampaignId>) -> Answer<Vec<LimitView>> {
    let wanted = id.clone();
    let found = handle.ask(move |core| core.limits(&wanted)).await?;
    found.map(Json).ok_or_else(|| Failed::no_campaign(&id))
}

async fn batches(State(handle): State<Handle>, Path(id): Path<CampaignId>) -> Answer<Vec<BatchView>> {
    let wanted = id.clone();
    let look = move |core: &Coordinator| {
        let known = core.campaign(&wanted).is_some();
        known.then(|| core.batches(&wanted, clock::now()))
    };
    handle.ask(look).await?.map(Json).ok_or_else(|| Failed::no_campaign(&id))
}

async fn servers(State(handle): State<Handle>) -> Answer<Vec<ServerView>> {
    Ok(Json(handle.ask(|core| core.servers(clock::now())).await?))
}

async fn server(State(handle): State<Handle>, Path(id): Path<ServerId>) -> Answer<ServerView> {
    let wanted = id.clone();
    let found = handle.ask(move |core| core.server(&wanted, clock::now())).await?;
    found.map(Json).ok_or_else(|| Failed::no_server(&id))
}

async fn why(State(handle): State<Handle>, Path(id): Path<ServerId>) -> Answer<Vec<Why>> {
    let wanted = id.clone();
    let found = handle.ask(move |core| core.why(&wanted, clock::now())).await?;
    found.map(Json).ok_or_else(|| Failed::no_server(&id))
}

async fn leases(State(handle): State<Handle>) -> Answer<Vec<LeaseView>> {
    Ok(Json(handle.ask(|core| core.leases(clock::now())).await?))
}

/// Which records.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    #[serde(default)]
    since: LogIndex,
    limit: Option<usize>,
    last: Option<usize>,
}

async fn events(State(handle): State<Handle>, Query(page): Query<Page>) -> Answer<Vec<EventView>> {
    read(handle.log, move |log| match page.last {
        Some(count) => log.last(count),
        None => log.read(page.since, page.limit.unwrap_or(EVENTS_PER_PAGE_MAX), |_| true),
    })
    .await
}

async fn history(
    State(handle): State<Handle>,
    Path(id): Path<ServerId>,
    Query(page): Query<Page>,
) -> Answer<Vec<EventView>> {
    let wanted = id.clone();
    if handle.ask(move |core| core.server(&wanted, clock::now()).is_none()).await? {
        return Err(Failed::no_server(&id));
    }
    read(handle.log, move |log| {
        log.read(page.since, page.limit.unwrap_or(EVENTS_PER_PAGE_MAX), |event| server_of(event) == Some(&id))
    })
    .await
}

/// A head noted earlier.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Noted {
    head: Option<RecordHash>,
}

async fn audit(State(handle): State<Handle>, Query(noted): Query<Noted>) -> Answer<AuditView> {
    read(handle.log, move |log| log.verify(noted.head)).await
}

/// Reads the log on a thread that may wait for the disk.
async fn read<T: Send + 'static>(
    log: LogReader,
    reading: impl FnOnce(&LogReader) -> Result<T, LogError> + Send + 'static,
) -> Answer<T> {
    let done = tokio::task::spawn_blocking(move || reading(&log)).await;
    let read =
        done.map_err(|error| Failed::new(StatusCode::INTERNAL_SERVER_ERROR, "the reading failed", error))?;
    Ok(Json(read?))
}

async fn document(
    State(handle): State<Handle>,
    upload: Result<Json<DocumentUpload>, JsonRejection>,
) -> Answer<DocumentReply> {
    let Json(upload) = upload?;
    let document = SignedDocument::from(upload);
    let hash = document.hash();
    let new = handle.document(document).await??;
    Ok(Json(DocumentReply { hash, new }))
}

/// Whose life an event belongs to.
fn server_of(event: &EventBody) -> Option<&ServerId> {
    match event {
        EventBody::ServerEnrolled { member } => Some(&member.server),
        EventBody::Granted(lease) => Some(&lease.server),
        EventBody::StateRestored { evidence, .. } => Some(evidence),
        EventBody::ServerRevoked { server, .. }
        | EventBody::Queued { server, .. }
        | EventBody::Started { server, .. }
        | EventBody::Released { server, .. }
        | EventBody::Lost { server, .. }
        | EventBody::Found { server, .. }
        | EventBody::Adopted { server, .. }
        | EventBody::Reaped { server, .. }
        | EventBody::WrittenOff { server, .. }
        | EventBody::ReapSpent { server, .. }
        | EventBody::Returned { server }
        | EventBody::Transition { server, .. }
        | EventBody::Labelled { server, .. }
        | EventBody::FellSilent { server, .. }
        | EventBody::Arrived { server, .. } => Some(server),
        EventBody::Paused { pause } => Some(&pause.server),
        EventBody::CoordinatorStarted { .. }
        | EventBody::Recovered { .. }
        | EventBody::PlanAccepted { .. }
        | EventBody::Halted { .. }
        | EventBody::Resumed { .. }
        | EventBody::PlanRules { .. }
        | EventBody::PlanWindows { .. }
        | EventBody::PlanApprovals { .. }
        | EventBody::Approved { .. }
        | EventBody::Soaked { .. }
        | EventBody::GateOpened { .. }
        | EventBody::StopRules { .. }
        | EventBody::Unpaused { .. } => None,
    }
}
