//! The API's bounds and refusals, on a router without a network: time jumps, nothing sleeps.
//!
//! Owns what no program can show without waiting: slow heads, slow bodies, a loop that does not come round.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use lunar_host::store::Store;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tower::ServiceExt as _;

use super::caller::{Caller, Role};
use super::types::Problem;
use super::{Api, connection, description, routes};
use crate::event_log::LogReader;
use crate::serve::Handle;

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come_ends_the_connection() {
    let mut caller = connected();
    caller.write_all(b"GET /api/v1/health HTT").await.unwrap();

    let mut answer = Vec::new();
    caller.read_to_end(&mut answer).await.unwrap();

    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_a_problem_and_ends_the_connection() {
    let mut caller = connected();
    let head = "POST /api/v1/documents HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
                Content-Length: 100\r\n\r\n{";
    caller.write_all(head.as_bytes()).await.unwrap();

    let mut answer = String::new();
    caller.read_to_string(&mut answer).await.unwrap();

    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(
        answer.contains("application/problem+json") && answer.contains("the body is too slow"),
        "{answer}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_not_kept_for_ever() {
    let mut caller = connected();
    caller.write_all(b"GET /api/v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();

    let mut answer = String::new();
    caller.read_to_string(&mut answer).await.unwrap();

    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn what_a_loop_that_does_not_come_round_cannot_answer_is_refused_with_when_to_ask_again() {
    let (router, _looking) = router();

    for _ in 0..3 {
        let answer = answer(&router, Request::get("/api/v1/status")).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()[header::RETRY_AFTER], "1");
        assert_eq!(problem(answer).await.title, "busy");
    }
}

#[tokio::test]
async fn a_certificate_without_a_role_is_told_what_a_role_is() {
    let (router, _looking) = router();
    let nobody = Caller { name: "eve".to_owned(), role: None };

    let request = Request::get("/api/v1/status").extension(nobody).body(Body::empty()).unwrap();
    let answer = router.oneshot(request).await.unwrap();

    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    let detail = problem(answer).await.detail;
    assert!(
        detail.contains("eve has no role here") && detail.contains(Role::Viewer.organisation()),
        "{detail}"
    );
}

#[tokio::test]
async fn every_route_refuses_whoever_has_no_role_before_anything_else() {
    let (router, _looking) = router();
    for route in routes::all() {
        let path = route.path.replace(['{', '}'], "");
        let method = if route.role == Role::Viewer { "GET" } else { "POST" };
        let request = Request::builder().method(method).uri(format!("/api/v1{path}"));
        let answer = router.clone().oneshot(request.body(Body::from("nonsense")).unwrap()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{method} {path}");
    }
}

#[tokio::test]
async fn the_description_names_every_route_and_each_of_its_references_leads_somewhere() {
    let description = description();
    for route in routes::all() {
        let method = if route.body.is_some() { "post" } else { "get" };
        let described = &description["paths"][route.path][method];
        assert_eq!(described["operationId"], route.id, "{method} {}", route.path);
        assert_eq!(described["x-role"], serde_json::json!(route.role));
    }
    let mut open = vec![&description];
    let mut references = 0;
    while let Some(value) = open.pop() {
        if let Some(reference) = value["$ref"].as_str() {
            references += 1;
            let place = reference.strip_prefix('#').unwrap();
            assert!(description.pointer(place).is_some(), "{reference} leads nowhere");
        }
        open.extend(value.as_object().into_iter().flat_map(|object| object.values()));
        open.extend(value.as_array().into_iter().flatten());
    }
    assert!(references > 50, "{references}");
}

/// The answer to a viewer.
async fn answer(router: &Router, request: axum::http::request::Builder) -> Response<Body> {
    let viewer = Caller { name: "vera".to_owned(), role: Some(Role::Viewer) };
    let request = request.extension(viewer).body(Body::empty()).unwrap();
    router.clone().oneshot(request).await.unwrap()
}

async fn problem(answer: Response<Body>) -> Problem {
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/problem+json");
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&bytes).unwrap()
}

/// A router before a loop that never comes round, and what waits for the loop.
fn router() -> (Router, Waiting) {
    let directory = tempfile::tempdir().unwrap();
    let log = LogReader::new(Arc::new(Store::open(directory.path()).unwrap()));
    let (looks, looking) = mpsc::channel(2);
    let (documents, handed) = mpsc::channel(2);
    let router = routes::router(Api::new(Handle { log, looks, documents }));
    (router, Box::new((directory, looking, handed)))
}

/// Kept so that its ends stay open.
type Waiting = Box<dyn std::any::Any + Send>;

/// A caller's end of a connection that is served.
fn connected() -> DuplexStream {
    let (caller, stream) = tokio::io::duplex(64 * 1024);
    let (router, waiting) = router();
    tokio::spawn(connection::converse(stream, router, Caller::local(), waiting));
    caller
}
