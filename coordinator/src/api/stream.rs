//! The event log as it grows: server-sent events (SSE), which resume from a record's number.
//!
//! Owns [`Feed`] and the streams. Main invariant: whoever listens is sent every record from where it began, once and in
//! order, and holds no more than one page of them, however slow it is: records are read from the log when the listener has
//! taken the last ones. What is new is read and written out once for all who are up to date.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use lunar_common::ids::LogIndex;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, broadcast, watch};

use super::Api;
use super::problem::{Asked, Failed};
use super::types::EventView;
use crate::event_log::{LogError, LogReader};

/// Records in one piece of a stream.
const RECORDS_PER_PIECE_MAX: usize = 100;

/// Pieces kept for listeners that are a little behind. Whoever is further behind reads the log.
const PIECES_KEPT: usize = 16;

/// Streams at once: what K4 asks for, with room.
pub(super) const STREAMS_MAX: usize = 256;

/// How long what is new is gathered before it is read: one reading for a burst of commits.
const GATHER: Duration = Duration::from_millis(100);

/// A word on an idle stream at least so often, so that both ends notice when the other has gone.
const IDLE: Duration = Duration::from_secs(15);

/// The media type.
const SSE: &str = "text/event-stream";

/// Where a stream begins.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct From {
    /// With this record. Without it: with what happens from now on. `Last-Event-ID` goes before it.
    from: Option<LogIndex>,
}

/// Some records in the form in which they are sent.
#[derive(Debug, Clone)]
struct Piece {
    first: LogIndex,
    /// The record after the last one.
    next: LogIndex,
    text: Bytes,
}

/// What is new in the log, for everyone who listens.
#[derive(Clone)]
pub(super) struct Feed {
    pieces: broadcast::Sender<Piece>,
}

impl Feed {
    /// A feed that nobody feeds yet.
    pub(super) fn new() -> Self {
        Self { pieces: broadcast::channel(PIECES_KEPT).0 }
    }

    /// Feeds until dropped, or until nothing is committed any more. `committed` says that something new is durable.
    pub(super) async fn run(self, log: LogReader, mut committed: watch::Receiver<()>) {
        let mut next = None;
        while committed.changed().await.is_ok() {
            tokio::time::sleep(GATHER).await;
            committed.mark_unchanged();
            if self.pieces.receiver_count() == 0 {
                // Whoever comes begins with the log.
                next = None;
                continue;
            }
            loop {
                match piece(&log, next).await {
                    Ok((piece, more)) => {
                        next = Some(piece.next);
                        if !piece.text.is_empty() {
                            // Nobody may listen any more.
                            let _ = self.pieces.send(piece);
                        }
                        if !more {
                            break;
                        }
                    }
                    Err(error) => {
                        tracing::error!(%error, "the event log cannot be read: look at its disk");
                        break;
                    }
                }
            }
        }
    }
}

/// The piece that begins with a record, or the last record there is; and whether there is more.
async fn piece(log: &LogReader, from: Option<LogIndex>) -> Result<(Piece, bool), LogError> {
    let log = log.clone();
    let read = tokio::task::spawn_blocking(move || {
        let (events, more) = match from {
            Some(from) => log.read(from, RECORDS_PER_PIECE_MAX, |_| true)?,
            None => (log.last(1)?, None),
        };
        let first = events.first().map(|event| event.index).or(from).unwrap_or_default();
        let next = events.last().map_or(first, |event| event.index.next());
        Ok((Piece { first, next, text: written(&events) }, more.is_some()))
    });
    read.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// Records as server-sent events.
fn written(events: &[EventView]) -> Bytes {
    let mut text = String::new();
    for event in events {
        let data = serde_json::to_string(event).expect("a record has a form in JSON");
        text.push_str(&format!("id: {}\ndata: {data}\n\n", event.index));
    }
    text.into()
}

/// One listener.
struct Listener {
    log: LogReader,
    pieces: broadcast::Receiver<Piece>,
    next: LogIndex,
    /// Whether the log holds no more that it has not got.
    up_to_date: bool,
    _place: OwnedSemaphorePermit,
}

impl Listener {
    /// What is sent next; `None`: it is over, and the listener may come back with the last number it has.
    async fn advance(&mut self) -> Option<Bytes> {
        loop {
            if !self.up_to_date {
                match piece(&self.log, Some(self.next)).await {
                    Ok((piece, more)) => {
                        (self.next, self.up_to_date) = (piece.next, !more);
                        if !piece.text.is_empty() {
                            return Some(piece.text);
                        }
                    }
                    Err(error) => {
                        tracing::error!(%error, "the event log cannot be read: look at its disk");
                        return None;
                    }
                }
                continue;
            }
            match tokio::time::timeout(IDLE, self.pieces.recv()).await {
                Err(_) => return Some(Bytes::from_static(b": nothing new\n\n")),
                Ok(Ok(piece)) if piece.next <= self.next => {}
                Ok(Ok(piece)) if piece.first == self.next => {
                    self.next = piece.next;
                    return Some(piece.text);
                }
                // Pieces are missing, or some of this one is known: the log has all.
                Ok(Ok(_)) | Ok(Err(broadcast::error::RecvError::Lagged(_))) => self.up_to_date = false,
                Ok(Err(broadcast::error::RecvError::Closed)) => return None,
            }
        }
    }
}

pub(super) async fn events(
    State(api): State<Api>,
    headers: HeaderMap,
    Asked(asked): Asked<From>,
) -> Result<Response, Failed> {
    let Ok(place) = api.streams.clone().try_acquire_owned() else {
        return Err(Failed::busy("as many listen to events as may: ask again in a moment"));
    };
    // Before the log is looked at, so that nothing falls between the two.
    let pieces = api.feed.pieces.subscribe();
    let log = api.handle.log.clone();
    let next = match (last_event_id(&headers)?, asked.from) {
        (Some(last), _) => last.next(),
        (None, Some(from)) => from,
        (None, None) => piece(&log, None).await?.0.next,
    };
    let listener = Listener { log, pieces, next, up_to_date: false, _place: place };
    let pieces = stream::unfold(listener, |mut listener| async move {
        let text = listener.advance().await?;
        Some((Ok::<_, Infallible>(text), listener))
    });
    let mut response = axum::body::Body::from_stream(pieces).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(SSE));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<LogIndex>, Failed> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    let wrong = || Failed::new(StatusCode::BAD_REQUEST, "the Last-Event-ID is no record's number", "");
    number.map(Some).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lunar_common::ids::Epoch;
    use lunar_common::time::WallTime;
    use lunar_coordinator_core::event::EventBody;
    use lunar_host::store::Store;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::event_log::EventLog;

    #[tokio::test(start_paused = true)]
    async fn every_listener_is_sent_every_record_once_however_far_behind_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(directory.path()).unwrap());
        let mut log = EventLog::open(store.clone(), |_| Ok(())).unwrap();
        let reader = log.reader();
        let (committed, watched) = watch::channel(());
        let feed = Feed::new();
        let feeding = tokio::spawn(feed.clone().run(reader.clone(), watched));
        let mut write = |count: u64| {
            let events = (0..count).map(|_| EventBody::CoordinatorStarted { epoch: Epoch(1) }).collect();
            let block = log.append(events, WallTime(0)).unwrap().unwrap();
            store.commit(&block.into_writes()).unwrap();
            committed.send_replace(());
        };
        write(5);
        let (mut early, mut late) = (listener(&feed, &reader, 0), listener(&feed, &reader, 3));

        let mut seen = Vec::new();
        take(&mut early, &mut seen, 5).await;
        // More than is kept for those who are behind.
        for _ in 0..2 * PIECES_KEPT {
            write(RECORDS_PER_PIECE_MAX as u64);
        }
        let all = 5 + 2 * PIECES_KEPT * RECORDS_PER_PIECE_MAX;
        take(&mut early, &mut seen, all).await;
        write(2);
        take(&mut early, &mut seen, all + 2).await;
        let mut seen_late = Vec::new();
        take(&mut late, &mut seen_late, all + 2 - 3).await;

        assert_eq!(seen, (0..all as u64 + 2).collect::<Vec<_>>());
        assert_eq!(seen_late, (3..all as u64 + 2).collect::<Vec<_>>());
        feeding.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_stream_says_so_and_goes_on_with_what_is_new() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(directory.path()).unwrap());
        let mut log = EventLog::open(store.clone(), |_| Ok(())).unwrap();
        let reader = log.reader();
        let (committed, watched) = watch::channel(());
        let feed = Feed::new();
        tokio::spawn(feed.clone().run(reader.clone(), watched));
        let mut listener = listener(&feed, &reader, 0);

        assert_eq!(listener.advance().await.unwrap(), ": nothing new\n\n");

        let event = EventBody::CoordinatorStarted { epoch: Epoch(1) };
        let block = log.append(vec![event], WallTime(0)).unwrap().unwrap();
        store.commit(&block.into_writes()).unwrap();
        committed.send_replace(());
        let text = listener.advance().await.unwrap();
        assert!(text.starts_with(b"id: 0\ndata: {\"index\":0,"), "{text:?}");
    }

    fn listener(feed: &Feed, log: &LogReader, next: u64) -> Listener {
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let (log, next) = (log.clone(), LogIndex(next));
        Listener { log, pieces: feed.pieces.subscribe(), next, up_to_date: false, _place: place }
    }

    /// Listens until so many records were seen.
    async fn take(listener: &mut Listener, seen: &mut Vec<u64>, until: usize) {
        while seen.len() < until {
            let text = listener.advance().await.unwrap();
            let text = std::str::from_utf8(&text).unwrap();
            seen.extend(text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse::<u64>().ok()));
        }
    }
}
