//! The operator plane: REST under /api/v1, in JSON, by the coordinator's Unix socket and, with certificates, over the
//! network.
//!
//! Owns what every part of it shares. Main invariant: every answer comes from the core or the log, every body is bounded
//! before it is read, every error is problem+json with what to do next, and nothing is changed but by a signed document.

pub mod caller;
mod connection;
mod guard;
mod hand_over;
mod openapi;
mod problem;
mod reads;
mod routes;
mod stream;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod types;

use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::serve::Handle;
pub use openapi::description;
pub(crate) use routes::BASE;
use stream::{Feed, STREAMS_MAX};

/// Readings of the log at once: each holds a thread and a page.
const READINGS_MAX: usize = 16;

/// Verifications of the whole log at once.
const AUDITS_MAX: usize = 1;

/// What handlers share.
#[derive(Clone)]
pub(crate) struct Api {
    handle: Handle,
    readings: Arc<Semaphore>,
    audits: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    feed: Feed,
}

impl Api {
    fn new(handle: Handle) -> Self {
        let places = |most| Arc::new(Semaphore::new(most));
        let (readings, audits, streams) = (places(READINGS_MAX), places(AUDITS_MAX), places(STREAMS_MAX));
        Self { handle, readings, audits, streams, feed: Feed::new() }
    }
}

/// The way in over the network.
pub struct Remote {
    /// Where callers connect.
    pub socket: TcpListener,
    /// How they show who they are.
    pub acceptor: TlsAcceptor,
}

/// Serves until the task is dropped. `committed` says that something new of the log is durable.
pub async fn serve(
    local: UnixListener,
    remote: Option<Remote>,
    handle: Handle,
    committed: watch::Receiver<()>,
) {
    let api = Api::new(handle);
    let feeding = api.feed.clone().run(api.handle.log.clone(), committed);
    let router = routes::router(api);
    let local = connection::serve_local(local, router.clone());
    let remote = async {
        if let Some(Remote { socket, acceptor }) = remote {
            connection::serve_remote(socket, acceptor, router).await;
        }
    };
    tokio::join!(local, remote, feeding);
}
