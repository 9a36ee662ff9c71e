//! Probe `http`: a GET of the service's own page.
//!
//! Owns the meaning of an answer. Main invariant: healthy needs the wanted status and, where one is asked for,
//! a text in the first [`BODY_BYTES_MAX`] of the body; once a connection stands, silence and nonsense are the
//! service's failures. Refuses redirects, which are an answer like any other, and https: this is the server's
//! own service.

use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Bytes, Incoming};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use lunar_common::health::Outcome;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::{Context, connect, inconclusive, unhealthy};

/// Bytes of a body that are read at most: a health page has a few hundred.
const BODY_BYTES_MAX: usize = 256 * 1024;

pub(super) async fn ask(
    url: &str,
    status: u16,
    contains: Option<&str>,
    timeout: Duration,
    context: &Context,
) -> Outcome {
    let (url, contains) = match (context.expand(url), contains.map(|text| context.expand(text)).transpose()) {
        (Ok(url), Ok(contains)) => (url, contains),
        (Err(error), _) | (_, Err(error)) => return inconclusive(error.to_string()),
    };
    let target = match Target::parse(&url) {
        Ok(target) => target,
        Err(reason) => return inconclusive(format!("{url}: {reason}")),
    };
    let deadline = Instant::now() + timeout;
    let stream = match timeout_at(deadline, connect(&target.address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(outcome)) => return outcome,
        Err(_) => {
            return inconclusive(format!(
                "no connection to {} within {} s",
                target.address,
                timeout.as_secs()
            ));
        }
    };
    match timeout_at(deadline, answer(stream, &target, status, contains.as_deref())).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => unhealthy(format!("{url}: {error}")),
        Err(_) => unhealthy(format!("{url}: connected, but no whole answer within {} s", timeout.as_secs())),
    }
}

struct Target {
    address: String,
    host: String,
    path: String,
}

impl Target {
    fn parse(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("not a URL: {error}"))?;
        if uri.scheme_str() != Some("http") {
            return Err("only http:// is asked".to_owned());
        }
        let authority = uri.authority().ok_or("no host")?;
        let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self { address, host: authority.as_str().to_owned(), path: path.to_owned() })
    }
}

async fn answer(
    stream: TcpStream,
    target: &Target,
    status: u16,
    contains: Option<&str>,
) -> Result<Outcome, hyper::Error> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(&target.path)
        .header(hyper::header::HOST, &target.host)
        .header(hyper::header::USER_AGENT, "lunar-agent")
        .header(hyper::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new());
    let request = match request {
        Ok(request) => request,
        Err(error) => return Ok(inconclusive(format!("cannot ask for {}: {error}", target.path))),
    };
    let asked = async {
        let response = sender.send_request(request).await?;
        judge(response, status, contains).await
    };
    // The connection is driven only while the answer is waited for, and is dropped with it.
    tokio::pin!(connection, asked);
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            outcome = &mut asked => return outcome,
            ended = &mut connection, if open => match ended {
                // What was received before it closed may still hold the whole answer.
                Ok(()) => open = false,
                Err(error) => return Err(error),
            },
        }
    }
}

async fn judge(
    response: Response<Incoming>,
    status: u16,
    contains: Option<&str>,
) -> Result<Outcome, hyper::Error> {
    let found = response.status();
    if found.as_u16() != status {
        return Ok(unhealthy(format!("status {found}, {status} is wanted")));
    }
    let Some(wanted) = contains else { return Ok(Outcome::Healthy) };
    let body = read_bounded(response.into_body()).await?;
    if body.windows(wanted.len().max(1)).any(|window| window == wanted.as_bytes()) || wanted.is_empty() {
        return Ok(Outcome::Healthy);
    }
    let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
    Ok(unhealthy(format!("the body does not contain {wanted:?}; it begins with {shown:?}")))
}

async fn read_bounded<B: Body<Data = Bytes> + Unpin>(mut body: B) -> Result<Vec<u8>, B::Error> {
    let mut bytes = Vec::new();
    while bytes.len() < BODY_BYTES_MAX {
        let Some(frame) = body.frame().await else { break };
        if let Ok(data) = frame?.into_data() {
            let room = BODY_BYTES_MAX - bytes.len();
            bytes.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::probes::test_context;

    #[tokio::test]
    async fn status_and_text_must_both_be_as_wanted() {
        let page = "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nversion 2.0\n";
        assert_eq!(said(page, 200, Some("version 2.0")).await, Outcome::Healthy);
        assert_eq!(said(page, 200, None).await, Outcome::Healthy);
        for (status, contains) in [(204, None), (200, Some("version 2.1"))] {
            let outcome = said(page, status, contains).await;
            assert!(matches!(outcome, Outcome::Unhealthy { .. }), "{outcome:?}");
        }
        let gone = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
        assert!(matches!(said(gone, 200, None).await, Outcome::Unhealthy { .. }));
        assert_eq!(said(gone, 503, None).await, Outcome::Healthy);
    }

    #[tokio::test]
    async fn a_body_that_ends_with_the_connection_is_read_to_its_end() {
        assert_eq!(said("HTTP/1.1 200 OK\r\n\r\nall is well", 200, Some("well")).await, Outcome::Healthy);
    }

    #[tokio::test]
    async fn nonsense_and_half_answers_are_the_services_failures() {
        for page in ["", "SSH-2.0-x\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf"] {
            let outcome = said(page, 200, Some("whole")).await;
            assert!(matches!(outcome, Outcome::Unhealthy { .. }), "{page:?}: {outcome:?}");
        }
    }

    #[tokio::test]
    async fn a_body_without_end_is_read_to_the_bound_only() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let flood = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            // Ends with an error when the probe has had enough.
            while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
        });
        let outcome = asked(&url, 200, Some("y")).await;
        assert!(matches!(outcome, Outcome::Unhealthy { .. }), "{outcome:?}");
        flood.await.unwrap();
    }

    #[tokio::test]
    async fn silence_after_a_connection_is_unhealthy() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let outcome = ask(&url, 200, None, Duration::from_millis(50), &test_context()).await;
        assert!(matches!(outcome, Outcome::Unhealthy { .. }), "{outcome:?}");
    }

    #[tokio::test]
    async fn nobody_there_is_unhealthy_and_nothing_to_ask_is_inconclusive() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        drop(listener);
        assert!(matches!(asked(&url, 200, None).await, Outcome::Unhealthy { .. }));
        for url in ["https://localhost/", "http://no-such-host.invalid/", "nonsense", "http://${label.x}/"] {
            assert!(matches!(asked(url, 200, None).await, Outcome::Inconclusive { .. }), "{url}");
        }
    }

    async fn asked(url: &str, status: u16, contains: Option<&str>) -> Outcome {
        ask(url, status, contains, Duration::from_secs(60), &test_context()).await
    }

    /// What the probe makes of a service that answers with these bytes and closes.
    async fn said(page: &'static str, status: u16, contains: Option<&str>) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/health?full", listener.local_addr().unwrap());
        let service = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).await.unwrap();
                request.push(byte[0]);
            }
            stream.write_all(page.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            String::from_utf8(request).unwrap()
        });
        let outcome = asked(&url, status, contains).await;
        assert!(service.await.unwrap().starts_with("GET /health?full HTTP/1.1\r\n"));
        outcome
    }
}
