//! The operator plane: REST under /api/v1, in JSON, by the coordinator's Unix socket and, with certificates, over the
//! network.
//!
//! Owns what every part of it shares. Main invariant: every answer comes from the core or the log, every body is bounded
//! before it is read, every error is problem+json with what to do next, and nothing is changed but by a signed document.

pub mod caller;
mod connection;
mod guard;
mod hand_over;
mod problem;
mod reads;
mod routes;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod types;

use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::serve::Handle;
pub(crate) use routes::BASE;

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
}

impl Api {
    fn new(handle: Handle) -> Self {
        let places = |most| Arc::new(Semaphore::new(most));
        Self { handle, readings: places(READINGS_MAX), audits: places(AUDITS_MAX) }
    }
}

/// The way in over the network.
pub struct Remote {
    /// Where callers connect.
    pub socket: TcpListener,
    /// How they show who they are.
    pub acceptor: TlsAcceptor,
}

/// Serves until the task is dropped.
pub async fn serve(local: UnixListener, remote: Option<Remote>, handle: Handle) {
    let router = routes::router(Api::new(handle));
    let local = connection::serve_local(local, router.clone());
    match remote {
        Some(Remote { socket, acceptor }) => {
            tokio::join!(local, connection::serve_remote(socket, acceptor, router));
        }
        None => local.await,
    }
}
