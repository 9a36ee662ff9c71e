//! One connection after another: accepted, bounded, served.
//!
//! Owns the accept loops. Main invariant: whoever is slow or many holds no more than its share: connections are counted
//! apart for each way in and each role, every wait has an end, and nothing is spoken with a stranger beyond the handshake.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower_service::Service as _;

use super::caller::{Caller, Role};
use super::problem::Failed;

/// Connections by the coordinator's own socket at once.
const LOCAL_MAX: usize = 256;

/// Connections of viewers over the network at once: two hundred that listen to events, and others that ask.
const VIEWERS_MAX: usize = 512;

/// Connections of operators over the network at once. Counted apart, so that no crowd of viewers keeps a halt out.
const OPERATORS_MAX: usize = 256;

/// Handshakes under way at once. More wait in the kernel's queue.
const HANDSHAKES_MAX: usize = 64;

/// Longest handshake: four round trips to Earth.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// Longest wait for a request's head, from when the connection is free for it: also how long an idle one is kept.
pub(super) const HEAD_WITHIN: Duration = Duration::from_secs(30);

/// Largest head of a request, with what follows it in one piece.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Most headers of a request.
const HEADERS_MAX: usize = 64;

/// Wait after an accept that failed: out of descriptors, mostly.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves the coordinator's own socket until dropped.
pub(super) async fn serve_local(socket: UnixListener, router: Router) {
    let places = Arc::new(Semaphore::new(LOCAL_MAX));
    let mut conversations = JoinSet::new();
    loop {
        while conversations.try_join_next().is_some() {}
        let Some(place) = place(&places).await else { return };
        match socket.accept().await {
            Ok((stream, _)) => {
                let conversation = converse(stream, router.clone(), Caller::local(), place);
                conversations.spawn(conversation);
            }
            Err(error) => failed_accept(&error).await,
        }
    }
}

/// Serves callers with certificates until dropped.
pub(super) async fn serve_remote(socket: TcpListener, acceptor: TlsAcceptor, router: Router) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let viewers = Arc::new(Semaphore::new(VIEWERS_MAX));
    let operators = Arc::new(Semaphore::new(OPERATORS_MAX));
    let mut conversations = JoinSet::new();
    loop {
        while conversations.try_join_next().is_some() {}
        let Some(handshake) = place(&handshakes).await else { return };
        let (stream, address) = match socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                failed_accept(&error).await;
                continue;
            }
        };
        let (acceptor, router) = (acceptor.clone(), router.clone());
        let (viewers, operators) = (viewers.clone(), operators.clone());
        conversations.spawn(async move {
            // Small answers must not wait for the acknowledgement of the one before.
            let _ = stream.set_nodelay(true);
            let stream = match tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    return tracing::info!(%address, %error, "a caller is refused by its certificate");
                }
                Err(_) => return tracing::info!(%address, "a handshake took too long"),
            };
            let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let Some(caller) = certificate.map(|certificate| Caller::of_certificate(certificate)) else {
                return;
            };
            let places = if caller.role == Some(Role::Operator) { operators } else { viewers };
            drop(handshake);
            match places.try_acquire_owned() {
                Ok(place) => converse(stream, router, caller, place).await,
                Err(_) => turn_away(stream).await,
            }
        });
    }
}

async fn place(places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    places.clone().acquire_owned().await.ok()
}

async fn failed_accept(error: &io::Error) {
    tracing::warn!(%error, "a caller could not be accepted");
    tokio::time::sleep(ACCEPT_AGAIN).await;
}

/// Answers requests on one connection until it ends.
pub(super) async fn converse<S, P>(stream: S, router: Router, caller: Caller, place: P)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        // A router is always ready.
        router.clone().call(request.map(Body::new))
    });
    if let Err(error) = bounded().serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection broke off");
    }
    drop(place);
}

/// Answers one request of a connection that there is no place for.
async fn turn_away<S: AsyncRead + AsyncWrite + Unpin>(stream: S) {
    let service = service_fn(|_: Request<Incoming>| async {
        let detail = "as many connections are open as may be: ask again in a moment, or close others";
        Ok::<_, Infallible>(Failed::busy(detail).into_response())
    });
    let once = bounded().keep_alive(false).serve_connection(TokioIo::new(stream), service);
    let _ = tokio::time::timeout(HANDSHAKE_WITHIN, once).await;
}

fn bounded() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    builder
}
