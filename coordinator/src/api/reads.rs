//! The resources that are looked at.
//!
//! Owns a handler a resource. Main invariant: every answer comes from the core, the trust state or the log, and is bounded:
//! what can be long comes in pages. Refuses to decide anything.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use lunar_common::document::SignedDocument;
use lunar_common::ids::{CampaignId, DocumentHash, LogIndex, RecordHash, ServerId};
use lunar_coordinator_core::view::{
    BatchView, CampaignView, HaltView, LeaseView, LimitView, PauseView, ServerView, StageView, StatusView,
    Why,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Api;
use super::problem::{Answer, Asked, Failed, Named};
use super::types::{AuditView, DocumentLine, DocumentUpload, EventView, HealthView, Page};
use crate::event_log::{EVENTS_PER_PAGE_MAX, LogError, LogReader};

/// Servers or leases in one page, unless fewer are asked for: some hundred kilobytes.
const PER_PAGE_MAX: usize = 500;

pub(super) async fn health(State(api): State<Api>) -> Answer<HealthView> {
    let epoch = api.handle.look(|sight| sight.core.status().epoch).await?;
    Ok(Json(HealthView { epoch }))
}

pub(super) async fn status(State(api): State<Api>) -> Answer<StatusView> {
    Ok(Json(api.handle.look(|sight| sight.core.status()).await?))
}

pub(super) async fn halts(State(api): State<Api>) -> Answer<Vec<HaltView>> {
    Ok(Json(api.handle.look(|sight| sight.core.status().halts).await?))
}

pub(super) async fn campaigns(State(api): State<Api>) -> Answer<Vec<CampaignView>> {
    Ok(Json(api.handle.look(|sight| sight.core.campaigns()).await?))
}

pub(super) async fn campaign(State(api): State<Api>, Named(id): Named<CampaignId>) -> Answer<CampaignView> {
    Ok(Json(found_campaign(&api, id).await?))
}

pub(super) async fn stages(State(api): State<Api>, Named(id): Named<CampaignId>) -> Answer<Vec<StageView>> {
    Ok(Json(found_campaign(&api, id).await?.stages))
}

pub(super) async fn pauses(State(api): State<Api>, Named(id): Named<CampaignId>) -> Answer<Vec<PauseView>> {
    Ok(Json(found_campaign(&api, id).await?.pauses))
}

async fn found_campaign(api: &Api, id: CampaignId) -> Result<CampaignView, Failed> {
    let wanted = id.clone();
    let found = api.handle.look(move |sight| sight.core.campaign(&wanted)).await?;
    found.ok_or_else(|| Failed::no_campaign(&id))
}

pub(super) async fn limits(State(api): State<Api>, Named(id): Named<CampaignId>) -> Answer<Vec<LimitView>> {
    let wanted = id.clone();
    let found = api.handle.look(move |sight| sight.core.limits(&wanted)).await?;
    found.map(Json).ok_or_else(|| Failed::no_campaign(&id))
}

pub(super) async fn batches(State(api): State<Api>, Named(id): Named<CampaignId>) -> Answer<Vec<BatchView>> {
    let wanted = id.clone();
    let found = api.handle.look(move |sight| {
        let known = sight.core.campaign(&wanted).is_some();
        known.then(|| sight.core.batches(&wanted, sight.now))
    });
    found.await?.map(Json).ok_or_else(|| Failed::no_campaign(&id))
}

pub(super) async fn plan(State(api): State<Api>, Named(id): Named<CampaignId>) -> Answer<DocumentUpload> {
    let wanted = id.clone();
    let found = api.handle.look(move |sight| sight.trust.plan(&wanted).map(|plan| plan.document().clone()));
    let document = found.await?.ok_or_else(|| Failed::no_campaign(&id))?;
    shown(&document)
}

pub(super) async fn documents(State(api): State<Api>) -> Answer<Vec<DocumentLine>> {
    let listed = api.handle.look(|sight| (sight.trust.hashes(), sight.trust.documents())).await?;
    let (hashes, documents) = listed;
    let line =
        |(hash, document): (DocumentHash, Arc<SignedDocument>)| DocumentLine { hash, kind: document.kind };
    Ok(Json(hashes.into_iter().zip(documents).map(line).collect()))
}

pub(super) async fn document(
    State(api): State<Api>,
    Named(hash): Named<DocumentHash>,
) -> Answer<DocumentUpload> {
    let found = api.handle.look(move |sight| {
        let place = sight.trust.hashes().into_iter().position(|known| known == hash)?;
        sight.trust.documents().into_iter().nth(place)
    });
    let document = found.await?.ok_or_else(|| Failed::no_document(&hash))?;
    shown(&document)
}

fn shown(document: &SignedDocument) -> Answer<DocumentUpload> {
    DocumentUpload::of(document).map(Json).ok_or_else(|| {
        Failed::new(StatusCode::INTERNAL_SERVER_ERROR, "the document is not text", document.kind)
    })
}

/// Which page of a listing by name.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Cursor {
    /// Begins behind this name. Follow `next` instead of making it up.
    cursor: Option<ServerId>,
    /// At most so many.
    limit: Option<usize>,
}

impl Cursor {
    fn most(&self) -> usize {
        self.limit.unwrap_or(PER_PAGE_MAX).clamp(1, PER_PAGE_MAX)
    }
}

pub(super) async fn servers(State(api): State<Api>, Asked(asked): Asked<Cursor>) -> Answer<Page<ServerView>> {
    let most = asked.most();
    // One more than the page: is there a next one?
    let look =
        api.handle.look(move |sight| sight.core.servers_behind(asked.cursor.as_ref(), most + 1, sight.now));
    Ok(Json(page(look.await?, most, "/servers", |server| &server.member.server)))
}

pub(super) async fn leases(State(api): State<Api>, Asked(asked): Asked<Cursor>) -> Answer<Page<LeaseView>> {
    let most = asked.most();
    let look =
        api.handle.look(move |sight| sight.core.leases_behind(asked.cursor.as_ref(), most + 1, sight.now));
    Ok(Json(page(look.await?, most, "/leases", |lease| &lease.server)))
}

fn page<T>(mut items: Vec<T>, most: usize, path: &str, name: impl Fn(&T) -> &ServerId) -> Page<T> {
    let more = items.len() > most;
    items.truncate(most);
    let last = items.last().filter(|_| more).map(name);
    let next = last.map(|last| format!("/api/v1{path}?cursor={last}&limit={most}"));
    Page { items, next }
}

pub(super) async fn server(State(api): State<Api>, Named(id): Named<ServerId>) -> Answer<ServerView> {
    let wanted = id.clone();
    let found = api.handle.look(move |sight| sight.core.server(&wanted, sight.now)).await?;
    found.map(Json).ok_or_else(|| Failed::no_server(&id))
}

pub(super) async fn why(State(api): State<Api>, Named(id): Named<ServerId>) -> Answer<Vec<Why>> {
    let wanted = id.clone();
    let found = api.handle.look(move |sight| sight.core.why(&wanted, sight.now)).await?;
    found.map(Json).ok_or_else(|| Failed::no_server(&id))
}

/// Which records.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Records {
    /// From this sequence number on.
    #[serde(default)]
    since: LogIndex,
    /// At most so many.
    limit: Option<usize>,
    /// The last so many instead.
    last: Option<usize>,
}

pub(super) async fn events(State(api): State<Api>, Asked(asked): Asked<Records>) -> Answer<Page<EventView>> {
    let limit = asked.limit.unwrap_or(EVENTS_PER_PAGE_MAX).clamp(1, EVENTS_PER_PAGE_MAX);
    read(&api, move |log| match asked.last {
        Some(count) => Ok(Page { items: log.last(count)?, next: None }),
        None => {
            let (items, next) = log.read(asked.since, limit, |_| true)?;
            Ok(Page { items, next: next.map(|next| format!("/api/v1/events?since={next}&limit={limit}")) })
        }
    })
    .await
}

/// Which records of a server.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct History {
    /// From this sequence number on.
    #[serde(default)]
    since: LogIndex,
    /// At most so many.
    limit: Option<usize>,
}

pub(super) async fn history(
    State(api): State<Api>,
    Named(id): Named<ServerId>,
    Asked(asked): Asked<History>,
) -> Answer<Page<EventView>> {
    let wanted = id.clone();
    let limit = asked.limit.unwrap_or(EVENTS_PER_PAGE_MAX).clamp(1, EVENTS_PER_PAGE_MAX);
    if api.handle.look(move |sight| sight.core.server(&wanted, sight.now).is_none()).await? {
        return Err(Failed::no_server(&id));
    }
    read(&api, move |log| {
        let (items, next) = log.read(asked.since, limit, |event| event.server() == Some(&id))?;
        let next = next.map(|next| format!("/api/v1/servers/{id}/history?since={next}&limit={limit}"));
        Ok(Page { items, next })
    })
    .await
}

/// A head noted earlier.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Noted {
    /// The hash of a record, which must still be there.
    head: Option<RecordHash>,
}

pub(super) async fn audit(State(api): State<Api>, Asked(noted): Asked<Noted>) -> Answer<AuditView> {
    let Ok(_place) = api.audits.try_acquire() else {
        return Err(Failed::busy("the log is being verified for somebody else: ask again in a moment"));
    };
    read(&api, move |log| log.verify(noted.head)).await
}

/// Reads the log on a thread that may wait for the disk.
async fn read<T: Send + 'static>(
    api: &Api,
    reading: impl FnOnce(&LogReader) -> Result<T, LogError> + Send + 'static,
) -> Answer<T> {
    let Ok(place) = api.readings.clone().try_acquire_owned() else {
        return Err(Failed::busy("as many read the log as may: ask again in a moment"));
    };
    let log = api.handle.log.clone();
    let done = tokio::task::spawn_blocking(move || {
        let read = reading(&log);
        drop(place);
        read
    });
    let read = done
        .await
        .map_err(|error| Failed::new(StatusCode::INTERNAL_SERVER_ERROR, "the reading failed", error))?;
    Ok(Json(read?))
}
