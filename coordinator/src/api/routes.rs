//! Every resource of the API, in one table.
//!
//! Owns the table: a resource's path, who may ask for it, and what answers. Main invariant: what is not in the table does
//! not exist, and all that people are told of the API is made from it.

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, get, post};

use super::caller::Role;
use super::problem::Failed;
use super::{Api, guard, hand_over, reads};

/// Below which everything is.
pub(crate) const BASE: &str = "/api/v1";

/// One thing that can be asked.
pub(super) struct Route {
    pub(super) path: &'static str,
    pub(super) role: Role,
    handler: MethodRouter<Api>,
}

/// Something to look at.
fn look(path: &'static str, handler: MethodRouter<Api>) -> Route {
    Route { path, role: Role::Viewer, handler }
}

/// All of them. Resources with several methods stand here once for each.
pub(super) fn all() -> Vec<Route> {
    vec![
        look("/health", get(reads::health)),
        look("/status", get(reads::status)),
        look("/halts", get(reads::halts)),
        look("/campaigns", get(reads::campaigns)),
        look("/campaigns/{campaign}", get(reads::campaign)),
        look("/campaigns/{campaign}/plan", get(reads::plan)),
        look("/campaigns/{campaign}/stages", get(reads::stages)),
        look("/campaigns/{campaign}/pauses", get(reads::pauses)),
        look("/campaigns/{campaign}/limits", get(reads::limits)),
        look("/campaigns/{campaign}/batches", get(reads::batches)),
        look("/servers", get(reads::servers)),
        look("/servers/{server}", get(reads::server)),
        look("/servers/{server}/why", get(reads::why)),
        look("/servers/{server}/history", get(reads::history)),
        look("/leases", get(reads::leases)),
        look("/events", get(reads::events)),
        look("/audit", get(reads::audit)),
        look("/documents", get(reads::documents)),
        look("/documents/{hash}", get(reads::document)),
        Route { path: "/documents", role: Role::Operator, handler: post(hand_over::document) },
    ]
}

/// The table at work.
pub(super) fn router(api: Api) -> Router {
    let mut v1 = Router::new();
    for Route { path, role, handler } in all() {
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
