//! The command line's way to a running coordinator: HTTP over its Unix socket, or over the network with certificates.
//!
//! Owns one request at a time. Every command takes this way, and no other. Main invariant: every failure says whether nobody answered, or the answer was
//! no, and what to do next. Refuses to retry: the person at the terminal decides.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use lunar_common::ids::KeyName;
use lunar_host::exit::{Exit, Failure};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::api::BASE;
use crate::api::tls::Pem;
use crate::api::types::{Page, Problem};
use crate::cli::Common;
use crate::pki::{self, Pki};

/// Largest answer taken in: a page of a thousand records of a few kilobytes each, or one of a few large plans.
const ANSWER_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Longest wait for an answer. The longest question is the verification of a million records.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// The socket's name in a coordinator's directory.
pub const SOCKET: &str = "coordinator.sock";

/// Where the API is.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ApiAt {
    /// Asks the API at this address instead of the socket in HOME: https://HOST:PORT.
    #[arg(long = "api", id = "api", global = true, env = "LUNAR_API", value_name = "URL")]
    pub url: Option<String>,
    /// As whom: a name that `pki issue` made a certificate for, in HOME, or the path of another certificate without
    /// its `.pem`, beside which are its `.key` and the authority's `ca.pem`.
    #[arg(long = "api-as", id = "api_name", global = true, env = "LUNAR_API_AS", value_name = "NAME")]
    pub name: Option<String>,
}

/// A way to a coordinator.
#[derive(Clone)]
enum Way {
    Socket(PathBuf),
    Network { host: String, port: u16, config: Arc<ClientConfig> },
}

/// A client of one coordinator.
#[derive(Clone)]
pub struct Client {
    way: Way,
}

impl Client {
    /// The client for the coordinator of this directory, by its socket.
    #[must_use]
    pub fn new(home: &Path) -> Self {
        Self { way: Way::Socket(home.join(SOCKET)) }
    }

    /// The client for the coordinator that the options name.
    ///
    /// # Errors
    /// What they name is no address, or there is no such certificate.
    pub fn of(common: &Common) -> Result<Self, Failure> {
        let Some(url) = &common.api.url else { return Ok(Self::new(&common.home)) };
        let wrong = || {
            Failure::new(Exit::Usage, anyhow!("{url:?} is no address of an API"))
                .advise("write --api https://HOST:PORT")
        };
        let uri: hyper::Uri = url.parse().map_err(|_| wrong())?;
        if uri.scheme_str() != Some("https")
            || !uri.path().trim_end_matches('/').is_empty()
            || uri.query().is_some()
        {
            return Err(wrong());
        }
        let host = uri.host().ok_or_else(wrong)?.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().ok_or_else(wrong)?;
        let name = common.api.name.as_deref().ok_or_else(|| {
            Failure::new(Exit::Usage, anyhow!("{url} is asked by nobody"))
                .advise("name your certificate with --api-as; `lunar-coordinator pki issue` makes one")
        })?;
        let config = pem_of(&common.home, name)?.client()?;
        Ok(Self { way: Way::Network { host, port, config } })
    }

    /// GETs a path below `/api/v1`.
    ///
    /// # Errors
    /// [`Exit::Unreachable`] if nobody answers; otherwise what the answer says.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask(Method::GET, &format!("{BASE}{path}"), Bytes::new()).await
    }

    /// GETs all pages of a listing.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn get_all<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, Failure> {
        let mut all = Vec::new();
        let mut next = Some(format!("{BASE}{path}"));
        while let Some(path) = next {
            let page: Page<T> = self.ask(Method::GET, &path, Bytes::new()).await?;
            all.extend(page.items);
            next = page.next;
        }
        Ok(all)
    }

    /// POSTs JSON to a path below `/api/v1`.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).map_err(|error| Failure::new(Exit::Internal, error))?;
        self.ask(Method::POST, &format!("{BASE}{path}"), body.into()).await
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, Failure> {
        let request = Request::builder()
            .method(method)
            .uri(path)
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
        match &self.way {
            Way::Socket(socket) => exchange(UnixStream::connect(socket).await?, request).await,
            Way::Network { host, port, config } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                let name = ServerName::try_from(host.clone())?;
                let stream = TlsConnector::from(config.clone()).connect(name, stream).await?;
                exchange(stream, request).await
            }
        }
    }

    fn unreachable(&self, error: anyhow::Error) -> Failure {
        match &self.way {
            Way::Socket(socket) => {
                let what = format!("no coordinator answers at {}", socket.display());
                Failure::new(Exit::Unreachable, error.context(what)).advise(
                    "start it with `lunar-coordinator serve`, or name its directory with --home or LUNAR_HOME",
                )
            }
            Way::Network { host, port, .. } => {
                let what = format!("no coordinator answers at https://{host}:{port}");
                Failure::new(Exit::Unreachable, error.context(what)).advise(
                    "is it up (`serve --api-listen`), its certificate made for that name (`pki init --host`), and yours \
                     signed by its authority (`pki issue`)?",
                )
            }
        }
    }
}

/// The certificate that a person named.
fn pem_of(home: &Path, name: &str) -> Result<Pem, Failure> {
    if let Ok(name) = name.parse::<KeyName>() {
        return Ok(Pki::new(home).caller(&name));
    }
    let path = Path::new(name);
    let folder = path.parent().ok_or_else(|| Failure::new(Exit::Usage, anyhow!("{name:?} names no file")))?;
    let file = |kind: &str| PathBuf::from(format!("{name}.{kind}"));
    Ok(Pem { authority: folder.join(pki::AUTHORITY), certificate: file("pem"), key: file("key") })
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let answer = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        anyhow::Ok((status, body.map_err(|error| anyhow!(error))?.to_bytes()))
    };
    // A connection that ends by an error has told the request of it already.
    let (answer, _) = tokio::join!(answer, connection);
    answer
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
