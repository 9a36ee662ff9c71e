//! The command line's way to a running coordinator: HTTP over its Unix socket.
//!
//! Owns one request at a time. Main invariant: every failure says whether nobody answered, or the answer was
//! no, and what to do next. Refuses to retry: the person at the terminal decides.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use lunar_host::exit::{Exit, Failure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::api::types::Problem;

/// Largest answer taken in: the listing of a fleet of 100,000 servers at half a kilobyte each, with room.
const ANSWER_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Longest wait for an answer. The longest question is the verification of a million records.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// The socket's name in a coordinator's directory.
pub const SOCKET: &str = "coordinator.sock";

/// A client of the coordinator that works on one directory.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// The client for the coordinator of this directory.
    #[must_use]
    pub fn new(home: &Path) -> Self {
        Self { socket: home.join(SOCKET) }
    }

    /// GETs a path below `/api/v1`.
    ///
    /// # Errors
    /// [`Exit::Unreachable`] if nobody answers; otherwise what the answer says.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    /// POSTs JSON to a path below `/api/v1`.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).map_err(|error| Failure::new(Exit::Internal, error))?;
        self.ask(Method::POST, path, body.into()).await
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, Failure> {
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header(HOST, "coordinator")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| Failure::new(Exit::Internal, error))?;
        let (status, answer) = tokio::time::timeout(ANSWER_WITHIN, self.send(request))
            .await
            .map_err(|_| self.unreachable(anyhow!("no answer within {} s", ANSWER_WITHIN.as_secs())))?
            .map_err(|error| self.unreachable(error))?;
        if status.is_success() {
            return serde_json::from_slice(&answer).map_err(|error| {
                Failure::new(Exit::Internal, error)
                    .advise("the coordinator may be of another version than this command line")
            });
        }
        Err(refused(status, &answer))
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> anyhow::Result<(StatusCode, Bytes)> {
        let stream = UnixStream::connect(&self.socket).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let answer = async move {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            anyhow::Ok((status, body.map_err(|error| anyhow!(error))?.to_bytes()))
        };
        let (answer, _) = tokio::join!(answer, connection);
        answer
    }

    fn unreachable(&self, error: anyhow::Error) -> Failure {
        let what = format!("no coordinator answers at {}", self.socket.display());
        Failure::new(Exit::Unreachable, error.context(what)).advise(
            "start it with `lunar-coordinator serve`, or name its directory with --home or LUNAR_HOME",
        )
    }
}

/// The failure that an answer other than success tells.
fn refused(status: StatusCode, answer: &[u8]) -> Failure {
    let problem: Problem = serde_json::from_slice(answer).unwrap_or_else(|_| Problem {
        title: status.to_string(),
        status: status.as_u16(),
        detail: String::from_utf8_lossy(answer).chars().take(500).collect(),
    });
    let exit = match status {
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Exit::NotTrusted,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => Exit::Unreachable,
        StatusCode::INSUFFICIENT_STORAGE => Exit::Environment,
        status if status.is_client_error() => Exit::BadInput,
        _ => Exit::Internal,
    };
    let text = if problem.detail.is_empty() {
        problem.title
    } else {
        format!("{}: {}", problem.title, problem.detail)
    };
    Failure::new(exit, anyhow!(text))
}
