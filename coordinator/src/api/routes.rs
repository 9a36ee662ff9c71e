//! Every resource of the API, in one table.
//!
//! Owns the table: a resource's path, who may ask for it, and what answers. Main invariant: what is not in the table does
//! not exist, and all that people are told of the API is made from it.

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, get, post};

use lunar_coordinator_core::view::{
    BatchView, CampaignView, HaltView, LeaseView, LimitView, PauseView, ServerView, StageView, StatusView,
    Why,
};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::caller::Role;
use super::problem::Failed;
use super::types::{AuditView, DocumentLine, DocumentReply, DocumentUpload, EventView, HealthView, Page};
use super::{Api, guard, hand_over, openapi, reads, stream};

/// Below which everything is.
pub(crate) const BASE: &str = "/api/v1";

/// One thing that can be asked.
pub(super) struct Route {
    pub(super) path: &'static str,
    pub(super) role: Role,
    /// Its name in the description.
    pub(super) id: &'static str,
    /// What it is, in a sentence.
    pub(super) summary: &'static str,
    /// What its query may say.
    pub(super) query: Option<Describe>,
    /// What its body says; `None`: it is a GET.
    pub(super) body: Option<Describe>,
    pub(super) answer: Answers,
    handler: MethodRouter<Api>,
}

/// The schema of a type.
pub(super) type Describe = fn(&mut SchemaGenerator) -> Schema;

/// What comes back when all is well.
pub(super) enum Answers {
    Json(Describe),
    /// Events, one after the other, for as long as the caller stays.
    Stream,
}

impl Route {
    /// Something to look at, which says a `T`.
    fn look<T: JsonSchema>(
        path: &'static str,
        id: &'static str,
        summary: &'static str,
        handler: MethodRouter<Api>,
    ) -> Self {
        let answer = Answers::Json(SchemaGenerator::subschema_for::<T>);
        Self { path, role: Role::Viewer, id, summary, query: None, body: None, answer, handler }
    }

    /// The same, asked with a query `Q`.
    fn asked<Q: JsonSchema>(mut self) -> Self {
        self.query = Some(|schemas| schemas.root_schema_for::<Q>());
        self
    }
}

/// All of them. Resources with several methods stand here once for each.
#[rustfmt::skip]
pub(super) fn all() -> Vec<Route> {
    vec![
        Route::look::<HealthView>("/health", "getHealth", "Whether the coordinator's loop turns.", get(reads::health)),
        Route::look::<StatusView>("/status", "getStatus", "The coordinator in one look.", get(reads::status)),
        Route::look::<Vec<HaltView>>("/halts", "listHalts", "Halts in force.", get(reads::halts)),
        Route::look::<Vec<CampaignView>>("/campaigns", "listCampaigns", "All campaigns.", get(reads::campaigns)),
        Route::look::<CampaignView>("/campaigns/{campaign}", "getCampaign", "One campaign.", get(reads::campaign)),
        Route::look::<DocumentUpload>("/campaigns/{campaign}/plan", "getPlan",
            "Its plan in force, as people signed it.", get(reads::plan)),
        Route::look::<Vec<StageView>>("/campaigns/{campaign}/stages", "listStages",
            "Its stages, with what their gates have been shown and what is missing.", get(reads::stages)),
        Route::look::<Vec<PauseView>>("/campaigns/{campaign}/pauses", "listPauses",
            "What of it is paused, with the evidence.", get(reads::pauses)),
        Route::look::<Vec<LimitView>>("/campaigns/{campaign}/limits", "listLimits",
            "Its limits, and who takes their slots.", get(reads::limits)),
        Route::look::<Vec<BatchView>>("/campaigns/{campaign}/batches", "listBatches",
            "Its batches that people approve.", get(reads::batches)),
        Route::look::<Page<ServerView>>("/servers", "listServers", "Servers, by name.", get(reads::servers))
            .asked::<reads::Cursor>(),
        Route::look::<ServerView>("/servers/{server}", "getServer", "One server.", get(reads::server)),
        Route::look::<Vec<Why>>("/servers/{server}/why", "explainServer",
            "Why it is not upgrading now, and what would change that.", get(reads::why)),
        Route::look::<Page<EventView>>("/servers/{server}/history", "getServerHistory",
            "What happened to it, from the log.", get(reads::history)).asked::<reads::History>(),
        Route::look::<Page<LeaseView>>("/leases", "listLeases", "Leases that take a slot, by server.",
            get(reads::leases)).asked::<reads::Cursor>(),
        Route::look::<Page<EventView>>("/events", "listEvents", "Records of the event log.", get(reads::events))
            .asked::<reads::Records>(),
        Route {
            answer: Answers::Stream,
            ..Route::look::<()>("/events/stream", "followEvents",
                "The event log as server-sent events, from a record on and as it grows.", get(stream::events))
        }.asked::<stream::From>(),
        Route::look::<AuditView>("/audit", "verifyLog", "Whether the log is as it was written.", get(reads::audit))
            .asked::<reads::Noted>(),
        Route::look::<Vec<DocumentLine>>("/documents", "listDocuments",
            "Documents in force that machines pass on: trust roots, plans, halts, resumes, reaps, revocations.",
            get(reads::documents)),
        Route::look::<DocumentUpload>("/documents/{hash}", "getDocument", "One of them, as people signed it.",
            get(reads::document)),
        Route {
            role: Role::Operator,
            body: Some(SchemaGenerator::subschema_for::<DocumentUpload>),
            ..Route::look::<DocumentReply>("/documents", "handOver",
                "Hands a signed document over: a plan starts or changes a campaign, a halt stops it, a resume goes on, an \
                 approval lets a batch start, a reap frees a slot. What it may do follows from its signatures. Answered \
                 once it is durable, with 201 if it was new and 200 if it was known: its hash is its identity, so handing \
                 it over again is safe.", post(hand_over::document))
        },
        Route::look::<openapi::Description>("/openapi.json", "describe", "This description.", get(openapi::shown)),
    ]
}

/// The table at work.
pub(super) fn router(api: Api) -> Router {
    let mut v1 = Router::new();
    for Route { path, role, handler, .. } in all() {
        v1 = v1.route(path, handler.layer(from_fn_with_state(role, guard::admit)));
    }
    Router::new()
        .nest(BASE, v1.fallback(nowhere))
        .fallback(nowhere)
        .method_not_allowed_fallback(not_so)
        .layer(from_fn(guard::take_body))
        .layer(from_fn(guard::tag))
        .with_state(api)
}

async fn nowhere() -> Failed {
    Failed::nowhere()
}

async fn not_so() -> Failed {
    Failed::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "no such method here",
        "the Allow header names those that there are",
    )
}
