//! Questions and answers between machines.
//!
//! Owns requests on their way out (reaching the machine first, if need be) and in. Main invariant: every
//! request that a handle made is answered exactly once; every request that came in holds memory only until it
//! is answered, and only up to the bound of [`super::outbox`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use libp2p::PeerId;
use libp2p::request_response::{self, Message, OutboundFailure, OutboundRequestId, ResponseChannel};
use lunar_common::document::SignedDocument;
use lunar_common::ids::{PeerKey, SiteId};
use lunar_common::message::{Request, Response};
use lunar_common::wire;
use tokio::sync::oneshot;

use super::codec::{ANSWER_BYTES_MAX, ASK_BYTES_MAX, Answer, Ask, SAMPLE_MAX};
use super::event::{MeshEvent, Reply};
use super::handle::RequestError;
use super::outbox::Held;
use super::record::SignedRecord;
use super::task::Task;
use crate::gate::peer_key;

/// Requests that wait for a connection or an answer at once; further ones are refused.
const OUTGOING_MAX: usize = 4096;

/// Longest refusal that is kept of what a peer sent: it ends in a log line.
const REASON_BYTES_MAX: usize = 512;

type ReplySender = oneshot::Sender<Result<Response, RequestError>>;

/// An incoming request that the program has answered, or dropped.
pub(super) type Answered = (ResponseChannel<Vec<u8>>, Option<Response>);

/// All that is under way.
#[derive(Default)]
pub(super) struct Requests {
    /// Sent, and not answered yet.
    sent: HashMap<OutboundRequestId, Sent>,
    /// Waiting for a connection.
    waiting: BTreeMap<PeerKey, Vec<Waiting>>,
    waiting_count: usize,
    /// Machines being reached that were already looked up, so that a second failure is final.
    looked_up: BTreeSet<PeerKey>,
    /// Machines that cannot be reached yet, while bootstrap peers are being dialled: one of them may be it, or
    /// know it.
    hoping: BTreeSet<PeerKey>,
    /// With the program.
    answers: FuturesUnordered<Pin<Box<dyn Future<Output = Answered> + Send>>>,
}

enum Sent {
    Program {
        to: PeerKey,
        reply: ReplySender,
    },
    Neighbours {
        to: PeerKey,
    },
    /// A document handed over: nothing depends on the answer.
    Document,
}

struct Waiting {
    bytes: Vec<u8>,
    reply: ReplySender,
}

impl Requests {
    /// The next incoming request that the program is done with.
    pub(super) async fn next_answer(&mut self) -> Option<Answered> {
        self.answers.next().await
    }
}

impl Task {
    /// Sends a request, connecting first if need be.
    pub(super) fn request(&mut self, to: PeerKey, request: &Request, reply: ReplySender) {
        let unreachable = |reason: &str| RequestError::Unreachable { peer: to, reason: reason.to_owned() };
        let refused = if to == self.own {
            Some(unreachable("it is this machine itself"))
        } else if self.requests.sent.len() + self.requests.waiting_count >= OUTGOING_MAX {
            Some(RequestError::Busy)
        } else {
            None
        };
        if let Some(error) = refused {
            // The caller may have gone, here and wherever else a reply is sent.
            let _ = reply.send(Err(error));
            return;
        }
        let Ok(bytes) = wire::encode(&AskRef::Program(request), ASK_BYTES_MAX) else {
            let _ = reply.send(Err(RequestError::TooLarge));
            return;
        };
        if let Some(connected) = self.connected.get(&to) {
            let peer = connected.peer;
            self.send(to, peer, bytes, reply);
            return;
        }
        let first = !self.requests.waiting.contains_key(&to);
        self.requests.waiting.entry(to).or_default().push(Waiting { bytes, reply });
        self.requests.waiting_count += 1;
        if first {
            self.reach(to);
        }
    }

    fn send(&mut self, to: PeerKey, peer: PeerId, bytes: Vec<u8>, reply: ReplySender) {
        let now = self.now();
        self.neighbours.used(&to, now);
        let id = self.swarm.behaviour_mut().requests.send_request(&peer, bytes);
        self.requests.sent.insert(id, Sent::Program { to, reply });
    }

    /// Tries to connect to a machine for which requests wait.
    fn reach(&mut self, to: PeerKey) {
        if !self.dial_known(to) && !self.dial_configured(to) {
            self.reach_failed(to, "nothing is known of where it is");
        }
    }

    /// A way to a machine failed: the directories may know another, once.
    pub(super) fn reach_failed(&mut self, to: PeerKey, reason: &str) {
        if !self.requests.waiting.contains_key(&to) {
            return;
        }
        if self.requests.looked_up.insert(to) {
            self.look_up_record(to, None);
        } else if !self.is_looking_up(&to) {
            self.give_up(to, reason);
        }
    }

    /// The directories answered where a machine is, or that they do not know.
    pub(super) fn looked_up_for_requests(&mut self, to: PeerKey, found: bool) {
        if !self.requests.waiting.contains_key(&to) {
            return;
        }
        if !found || !self.dial_known(to) {
            self.give_up(to, "no directory knows where it is, and no known address answers");
        }
    }

    /// Somebody new is connected: who could not be reached before may be now.
    pub(super) fn reach_again(&mut self) {
        for to in std::mem::take(&mut self.requests.hoping) {
            if self.requests.waiting.contains_key(&to) {
                self.reach(to);
            }
        }
    }

    /// No bootstrap peer is being dialled any more: what could not be reached will not be.
    pub(super) fn stop_hoping(&mut self) {
        for to in std::mem::take(&mut self.requests.hoping) {
            self.give_up(to, "no bootstrap peer answers");
        }
    }

    fn give_up(&mut self, to: PeerKey, reason: &str) {
        self.requests.looked_up.remove(&to);
        if self.is_bootstrapping() {
            self.requests.hoping.insert(to);
            return;
        }
        for waiting in self.take_waiting(to) {
            let error = RequestError::Unreachable { peer: to, reason: reason.to_owned() };
            let _ = waiting.reply.send(Err(error));
        }
    }

    /// A machine is connected: what waited for it goes.
    pub(super) fn send_waiting(&mut self, to: PeerKey) {
        self.requests.looked_up.remove(&to);
        for Waiting { bytes, reply } in self.take_waiting(to) {
            match self.connected.get(&to).map(|connected| connected.peer) {
                // Nobody waits any more: its caller's time has run out.
                Some(_) if reply.is_closed() => {}
                Some(peer) => self.send(to, peer, bytes, reply),
                None => {
                    let _ = reply.send(Err(RequestError::Disconnected { peer: to }));
                }
            }
        }
    }

    fn take_waiting(&mut self, to: PeerKey) -> Vec<Waiting> {
        let waiting = self.requests.waiting.remove(&to).unwrap_or_default();
        self.requests.waiting_count -= waiting.len();
        waiting
    }

    /// Asks a connected machine whom else it knows.
    pub(super) fn ask_for_neighbours(&mut self, of: PeerKey) {
        let Some(peer) = self.connected.get(&of).map(|connected| connected.peer) else { return };
        let ask = Ask::Neighbours { site: self.site.clone() };
        match wire::encode(&ask, ASK_BYTES_MAX) {
            Ok(bytes) => {
                let id = self.swarm.behaviour_mut().requests.send_request(&peer, bytes);
                self.requests.sent.insert(id, Sent::Neighbours { to: of });
            }
            Err(error) => tracing::error!(%error, "a site's name cannot be encoded"),
        }
    }

    /// Hands a connected machine a document that it may have missed.
    pub(super) fn hand_over(&mut self, to: PeerKey, document: SignedDocument) {
        let Some(peer) = self.connected.get(&to).map(|connected| connected.peer) else { return };
        // It came or went as gossip, so it fits.
        if let Ok(bytes) = wire::encode(&Ask::Program(Request::Document(document)), ASK_BYTES_MAX) {
            let id = self.swarm.behaviour_mut().requests.send_request(&peer, bytes);
            self.requests.sent.insert(id, Sent::Document);
        }
    }

    pub(super) fn on_requests_event(&mut self, event: request_response::Event<Vec<u8>, Vec<u8>>) {
        match event {
            request_response::Event::Message { peer, message, .. } => match message {
                Message::Request { request, channel, .. } => self.on_ask(&peer, &request, channel),
                Message::Response { request_id, response } => self.on_answer(request_id, &response),
            },
            request_response::Event::OutboundFailure { request_id, error, .. } => {
                self.on_unanswered(request_id, &error);
            }
            request_response::Event::InboundFailure { peer, error, .. } => {
                tracing::debug!(%peer, %error, "a request could not be answered");
            }
            request_response::Event::ResponseSent { .. } => {}
        }
    }

    fn on_ask(&mut self, peer: &PeerId, bytes: &[u8], channel: ResponseChannel<Vec<u8>>) {
        let now = self.now();
        let Some(key) = peer_key(peer) else { return };
        // Whoever is being dropped is not heard any more.
        let Some(connected) = self.connected.get(&key) else { return };
        let from = Arc::clone(&connected.passed.admitted.enrolment);
        match wire::decode::<Ask>(bytes, ASK_BYTES_MAX) {
            Ok(Ask::Program(request)) => {
                self.neighbours.used(&key, now);
                let Some(held) = self.outbox.hold(bytes.len()) else {
                    return self.answer(channel, &Answer::Program(busy()));
                };
                let (reply, answer) = oneshot::channel();
                let event = MeshEvent::Request { from, request, reply: Reply(reply) };
                match self.outbox.offer(event) {
                    Ok(()) => self.requests.answers.push(answered(channel, answer, held)),
                    Err(_) => self.answer(channel, &Answer::Program(busy())),
                }
            }
            Ok(Ask::Neighbours { site }) => {
                let answer = Answer::Neighbours(self.sample_for(&key, &site));
                self.answer(channel, &answer);
            }
            Err(error) => {
                tracing::debug!(peer = %from.server, %error, "malformed request");
                self.penalise(key, "its request is malformed");
            }
        }
    }

    fn sample_for(&self, asker: &PeerKey, site: &SiteId) -> Vec<wire::Signed> {
        self.book.sample(asker, site).into_iter().map(|record| record.signed.clone()).collect()
    }

    /// The program has answered an incoming request, or dropped it.
    pub(super) fn on_answered(&mut self, (channel, response): Answered) {
        if let Some(response) = response {
            self.answer(channel, &Answer::Program(response));
        }
    }

    fn answer(&mut self, channel: ResponseChannel<Vec<u8>>, answer: &Answer) {
        let bytes = match wire::encode(answer, ANSWER_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!(%error, "an answer cannot be sent");
                return;
            }
        };
        // The one who asked may have gone.
        let _ = self.swarm.behaviour_mut().requests.send_response(channel, bytes);
    }

    fn on_answer(&mut self, id: OutboundRequestId, bytes: &[u8]) {
        let Some(sent) = self.requests.sent.remove(&id) else { return };
        let answer = wire::decode::<Answer>(bytes, ANSWER_BYTES_MAX);
        match (sent, answer) {
            (Sent::Program { reply, .. }, Ok(Answer::Program(response))) => {
                let _ = reply.send(Ok(shortened(response)));
            }
            (Sent::Neighbours { to }, Ok(Answer::Neighbours(records))) => {
                if records.len() > SAMPLE_MAX {
                    return self.penalise(to, "its sample is over the bound");
                }
                for signed in records {
                    match SignedRecord::open(signed) {
                        Some(record) => self.take_record(record, false),
                        None => return self.penalise(to, "it passes on false records"),
                    }
                }
            }
            (Sent::Program { to, reply }, Ok(Answer::Neighbours(_)) | Err(_)) => {
                let _ = reply.send(Err(RequestError::Malformed { peer: to }));
                self.penalise(to, "its answer is malformed");
            }
            (Sent::Document, _) => {}
            (Sent::Neighbours { to }, Ok(Answer::Program(_)) | Err(_)) => {
                self.penalise(to, "its answer is malformed");
            }
        }
    }

    fn on_unanswered(&mut self, id: OutboundRequestId, error: &OutboundFailure) {
        let Some(Sent::Program { to, reply }) = self.requests.sent.remove(&id) else { return };
        let error = match error {
            OutboundFailure::DialFailure => {
                RequestError::Unreachable { peer: to, reason: "its connection ended just now".to_owned() }
            }
            OutboundFailure::Timeout => {
                // A machine that was killed leaves a connection behind that takes requests and answers none.
                if let Some(connected) = self.connected.get(&to) {
                    let peer = connected.peer;
                    // It may have ended by itself just now.
                    let _ = self.swarm.disconnect_peer_id(peer);
                }
                RequestError::TimedOut { peer: to }
            }
            OutboundFailure::ConnectionClosed => RequestError::Disconnected { peer: to },
            OutboundFailure::UnsupportedProtocols => RequestError::Unreachable {
                peer: to,
                reason: "it does not answer control requests of this fleet and version".to_owned(),
            },
            OutboundFailure::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
                RequestError::Malformed { peer: to }
            }
            OutboundFailure::Io(_) => RequestError::Disconnected { peer: to },
        };
        let _ = reply.send(Err(error));
    }
}

/// [`Ask`] without owning the request: the same bytes on the wire.
#[derive(serde::Serialize)]
enum AskRef<'a> {
    Program(&'a Request),
}

fn busy() -> Response {
    Response::Refused { reason: "busy: try again later".to_owned() }
}

fn answered(
    channel: ResponseChannel<Vec<u8>>,
    answer: oneshot::Receiver<Response>,
    held: Held,
) -> Pin<Box<dyn Future<Output = Answered> + Send>> {
    Box::pin(async move {
        let response = answer.await.ok();
        drop(held);
        (channel, response)
    })
}

/// A refusal's reason is for a log line, whatever the peer made of it.
fn shortened(response: Response) -> Response {
    match response {
        Response::Refused { mut reason } => {
            if reason.len() > REASON_BYTES_MAX {
                let end = (0..=REASON_BYTES_MAX).rev().find(|at| reason.is_char_boundary(*at)).unwrap_or(0);
                reason.truncate(end);
            }
            Response::Refused { reason }
        }
        other @ (Response::Claim(_)
        | Response::Report(_)
        | Response::Group(_)
        | Response::Documents(_)
        | Response::Done) => other,
    }
}

#[cfg(test)]
mod tests {
    use lunar_common::bounds::SMALL_MESSAGE_BYTES_MAX;

    use super::*;

    #[test]
    fn a_borrowed_question_has_the_bytes_of_an_owned_one() {
        let request = Request::Sync { have: Vec::new() };
        let borrowed = wire::encode(&AskRef::Program(&request), SMALL_MESSAGE_BYTES_MAX).unwrap();
        let owned = wire::encode(&Ask::Program(request), SMALL_MESSAGE_BYTES_MAX).unwrap();
        assert_eq!(borrowed, owned);
    }

    #[test]
    fn an_endless_reason_is_cut_at_a_character() {
        let reason = "é".repeat(REASON_BYTES_MAX);
        let Response::Refused { reason } = shortened(Response::Refused { reason }) else { unreachable!() };
        assert_eq!(reason.len(), REASON_BYTES_MAX);
    }
}
