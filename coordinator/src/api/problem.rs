//! What a failed request is answered with: RFC 9457, `application/problem+json`.
//!
//! Owns [`Failed`]. Main invariant: every failure of the API, the ones of routing included, becomes one of these, and
//! says what was wrong, where, and what to do next.

use axum::Json;
use axum::extract::FromRequestParts;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use lunar_common::ids::{CampaignId, DocumentHash, ServerId};
use lunar_common::trust::Refusal;
use serde::de::DeserializeOwned;

use super::types::Problem;
use crate::event_log::LogError;
use crate::serve::{DocumentRefused, NoLook};

/// The media type.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// Seconds after which whoever was turned away may ask again.
const RETRY_AFTER_S: &str = "1";

/// A failed request.
#[derive(Debug)]
pub(super) struct Failed(pub(super) Problem);

/// What a handler answers.
pub(super) type Answer<T> = Result<Json<T>, Failed>;

impl Failed {
    pub(super) fn new(status: StatusCode, title: &str, detail: impl ToString) -> Self {
        Self(Problem { title: title.to_owned(), status: status.as_u16(), detail: detail.to_string() })
    }

    pub(super) fn busy(detail: impl ToString) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail)
    }

    pub(super) fn nowhere() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "no such resource",
            "GET /api/v1/openapi.json lists all that there are",
        )
    }

    pub(super) fn no_server(server: &ServerId) -> Self {
        let detail = format!(
            "{server} is not enrolled here; `lunar-coordinator status --servers` lists those that are"
        );
        Self::new(StatusCode::NOT_FOUND, "no such server", detail)
    }

    pub(super) fn no_campaign(campaign: &CampaignId) -> Self {
        let detail =
            format!("no plan of {campaign} was published here; `lunar-coordinator status` lists campaigns");
        Self::new(StatusCode::NOT_FOUND, "no such campaign", detail)
    }

    pub(super) fn no_document(hash: &DocumentHash) -> Self {
        let detail = format!(
            "no document of hash {hash} is in force here; GET /api/v1/documents lists those that are"
        );
        Self::new(StatusCode::NOT_FOUND, "no such document", detail)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.0)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
        }
        response
    }
}

impl From<NoLook> for Failed {
    fn from(why: NoLook) -> Self {
        match why {
            NoLook::Stopping => Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", why),
            NoLook::Busy => Self::busy(why),
        }
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

impl From<PathRejection> for Failed {
    fn from(rejection: PathRejection) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "the path names nothing that could be", rejection.body_text())
    }
}

impl From<QueryRejection> for Failed {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "the query is not what it should be", rejection.body_text())
    }
}

impl From<DocumentRefused> for Failed {
    fn from(refused: DocumentRefused) -> Self {
        let (status, title) = match &refused {
            DocumentRefused::Trust(Refusal::Content { .. }) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "the document is wrong")
            }
            DocumentRefused::Trust(Refusal::Replayed { .. } | Refusal::Conflict { .. })
            | DocumentRefused::Reap(_)
            | DocumentRefused::Approval(_)
            | DocumentRefused::Curb(_) => (StatusCode::CONFLICT, "the document is refused"),
            DocumentRefused::Trust(_) => (StatusCode::FORBIDDEN, "the document is refused"),
        };
        Self::new(status, title, refused)
    }
}

/// What a path names. What cannot be such a name is a problem like any other.
pub(super) struct Named<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Named<T> {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failed> {
        let axum::extract::Path(name) = axum::extract::Path::from_request_parts(parts, state).await?;
        Ok(Self(name))
    }
}

/// What a query asks. Keys that are not known are a problem, never ignored.
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Asked<T> {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failed> {
        let axum::extract::Query(asked) = axum::extract::Query::from_request_parts(parts, state).await?;
        Ok(Self(asked))
    }
}
