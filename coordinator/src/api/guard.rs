//! What every request goes through before and after its handler.
//!
//! Owns the bounds on bodies and the entity tags. Main invariant: no handler sees a body that is longer than any document
//! or slower than its bound, and nobody without the route's role reaches a handler at all.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use lunar_common::bounds::MESSAGE_BYTES_MAX;

use super::caller::{Caller, Role};
use super::problem::Failed;

/// Largest body: JSON escapes may double a document's text.
pub(super) const BODY_BYTES_MAX: usize = 2 * MESSAGE_BYTES_MAX;

/// Longest time for a whole body: the largest over a link of 1 Mbit/s.
pub(super) const BODY_WITHIN: Duration = Duration::from_secs(30);

/// Digits of a BLAKE3 hash that make an entity tag: 128 bits, nobody meets two answers with the same.
const TAG_DIGITS: usize = 32;

/// Lets those through who have the role.
pub(super) async fn admit(State(role): State<Role>, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>();
    let (name, has) = caller.map_or(("nobody", None), |caller| (caller.name.as_str(), caller.role));
    if has.is_some_and(|has| has >= role) {
        return next.run(request).await;
    }
    let is = has.map_or("no role here".to_owned(), |has| format!("the role {has}"));
    let detail = format!(
        "{name} has {is}, and this takes {role}: a certificate whose subject has the organisation {:?}",
        role.organisation()
    );
    tracing::info!(caller = name, %role, path = request.uri().path(), "a caller is refused for its role");
    Failed::new(StatusCode::FORBIDDEN, "not for this role", detail).into_response()
}

/// Reads a body in whole before its handler, within its bounds.
pub(super) async fn take_body(request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let failed = match tokio::time::timeout(BODY_WITHIN, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(bytes)) => return next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Ok(Err(error)) if is_too_long(&error) => Failed::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is too long",
            format!("at most {BODY_BYTES_MAX} bytes, which is more than any document needs"),
        ),
        Ok(Err(error)) => Failed::new(StatusCode::BAD_REQUEST, "the body did not arrive", error),
        Err(_) => Failed::new(
            StatusCode::REQUEST_TIMEOUT,
            "the body is too slow",
            format!("all of it must be here within {} s", BODY_WITHIN.as_secs()),
        ),
    };
    let mut response = failed.into_response();
    // What is left of the body would be taken for the next request.
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn is_too_long(error: &axum::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    std::iter::from_fn(|| {
        let this = cause?;
        cause = this.source();
        Some(this)
    })
    .any(|error| error.is::<http_body_util::LengthLimitError>())
}

/// Gives every JSON answer to a GET its entity tag, and answers whoever has it already without a body.
pub(super) async fn tag(request: Request, next: Next) -> Response {
    let known = (*request.method() == Method::GET).then(|| request.headers().clone());
    let response = next.run(request).await;
    let json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    let Some(known) = known.filter(|_| json && response.status() == StatusCode::OK) else { return response };
    let (mut parts, body) = response.into_parts();
    // Our own answer, bounded where it was made.
    let Ok(bytes) = to_bytes(body, usize::MAX).await else {
        return Failed::new(StatusCode::INTERNAL_SERVER_ERROR, "the answer broke off", "").into_response();
    };
    let tag = format!("\"{:.TAG_DIGITS$}\"", blake3::hash(&bytes).to_hex());
    let value = HeaderValue::from_str(&tag).expect("hexadecimal digits in quotes fit a header");
    parts.headers.insert(header::ETAG, value);
    parts.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    if matches_any(&known, &tag) {
        parts.status = StatusCode::NOT_MODIFIED;
        parts.headers.remove(header::CONTENT_TYPE);
        return Response::from_parts(parts, Body::empty());
    }
    Response::from_parts(parts, Body::from(bytes))
}

/// Whether `If-None-Match` names this tag (RFC 9110, 13.1.2: compared weakly).
fn matches_any(headers: &HeaderMap, tag: &str) -> bool {
    let named = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    named
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|named| named == "*" || named.strip_prefix("W/").unwrap_or(named) == tag)
}
