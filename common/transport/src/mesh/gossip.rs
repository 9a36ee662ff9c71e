//! Messages for everyone: out, in, and onwards.
//!
//! Owns what the task does with gossip. Main invariant: nothing is passed on before the program has said so, and
//! a document that passes through while a machine is joining reaches that machine too. Refuses to read what the
//! messages mean.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use libp2p::{PeerId, gossipsub};
use lunar_common::bounds::MESSAGE_BYTES_MAX;
use lunar_common::document::SignedDocument;
use lunar_common::message::Gossip;
use lunar_common::time::Moment;
use lunar_common::wire;
use tokio::sync::mpsc;

use super::behaviour::topic;
use super::event::{Decision, GossipReceipt, MeshEvent, Verdict};
use super::handle::PublishError;
use super::task::Task;
use crate::gate::peer_key;

/// Messages published while nobody was connected, kept for the first who comes.
const UNSENT_MAX: usize = 8;

/// Documents gossiped within [`RECENT_FOR`], handed directly to a machine that joins.
const RECENT_MAX: usize = 8;

/// Longer than it takes from a connection to being heard over it, round trips of 2.5 s and all.
const RECENT_FOR: Duration = Duration::from_secs(20);

/// What is kept of gossip.
pub(super) struct GossipState {
    unsent: VecDeque<Vec<u8>>,
    recent: VecDeque<(Moment, SignedDocument)>,
    /// For receipts; bounded by their number, for each sends once.
    verdicts: mpsc::UnboundedSender<Verdict>,
}

impl GossipState {
    pub(super) fn new(verdicts: mpsc::UnboundedSender<Verdict>) -> Self {
        Self { unsent: VecDeque::new(), recent: VecDeque::new(), verdicts }
    }
}

impl Task {
    pub(super) fn publish(&mut self, message: &Gossip) -> Result<(), PublishError> {
        let data = wire::encode(message, MESSAGE_BYTES_MAX).map_err(|_| PublishError::TooLarge)?;
        if let Some(document) = document_in(message) {
            self.remember(document);
        }
        self.publish_encoded(data)
    }

    fn publish_encoded(&mut self, data: Vec<u8>) -> Result<(), PublishError> {
        let topic = topic(&self.fleet);
        match self.swarm.behaviour_mut().gossip.publish(topic, data.clone()) {
            // Everyone has seen it within the last minute and a half.
            Ok(_) | Err(gossipsub::PublishError::Duplicate) => Ok(()),
            Err(gossipsub::PublishError::NoPeersSubscribedToTopic) => {
                if self.gossip.unsent.len() >= UNSENT_MAX {
                    self.gossip.unsent.pop_front();
                }
                self.gossip.unsent.push_back(data);
                Ok(())
            }
            Err(gossipsub::PublishError::MessageTooLarge) => Err(PublishError::TooLarge),
            Err(error) => {
                tracing::warn!(%error, "a message could not be gossiped");
                Err(PublishError::Busy)
            }
        }
    }

    pub(super) fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message { propagation_source, message_id, message } => {
                self.on_gossiped(propagation_source, message_id, &message);
            }
            gossipsub::Event::Subscribed { peer_id, .. }
            | gossipsub::Event::GossipsubNotSupported { peer_id } => self.on_joined(&peer_id),
            gossipsub::Event::Unsubscribed { .. } | gossipsub::Event::SlowPeer { .. } => {}
        }
    }

    /// A connected machine hears what is gossiped from now on.
    fn on_joined(&mut self, peer: &PeerId) {
        let Some(key) = peer_key(peer) else { return };
        let Some(connected) = self.connected.get_mut(&key).filter(|connected| !connected.joined) else {
            return;
        };
        connected.joined = true;
        let admitted = &connected.passed.admitted;
        let event = MeshEvent::Joined {
            enrolment: Arc::clone(&admitted.enrolment),
            data_address: admitted.data_address.clone(),
        };
        tracing::debug!(peer = %admitted.enrolment.server, "machine joined");
        self.outbox.joined(event);
        for data in std::mem::take(&mut self.gossip.unsent) {
            // Unsent again, it waits again; nobody is told twice.
            let _ = self.publish_encoded(data);
        }
        // It may have asked us for what we know before these came, and heard nothing of them either.
        let since = self.now();
        self.gossip.recent.retain(|(at, _)| since.since(*at) < RECENT_FOR);
        for (_, document) in self.gossip.recent.clone() {
            self.hand_over(key, document);
        }
    }

    /// Remembers a document that passed through here, for machines that are about to join.
    fn remember(&mut self, document: SignedDocument) {
        let now = self.now();
        if self.gossip.recent.len() >= RECENT_MAX {
            self.gossip.recent.pop_front();
        }
        self.gossip.recent.push_back((now, document));
    }

    fn on_gossiped(&mut self, source: PeerId, id: gossipsub::MessageId, message: &gossipsub::Message) {
        let verdict = |decision| Verdict { message: id.clone(), source, decision, document: None };
        let from = peer_key(&source).and_then(|key| self.connected.get(&key));
        let author = message.source.as_ref().and_then(peer_key);
        let (Some(from), Some(author)) = (from, author) else {
            return self.on_verdict(verdict(Decision::Ignore));
        };
        let from = Arc::clone(&from.passed.admitted.enrolment);
        let Ok(gossip) = wire::decode::<Gossip>(&message.data, MESSAGE_BYTES_MAX) else {
            tracing::debug!(peer = %from.server, "malformed gossip");
            return self.on_verdict(verdict(Decision::Reject));
        };
        let held = self.outbox.hold(message.data.len()).filter(|_| !self.evicted.contains(&author));
        let Some(held) = held else {
            return self.on_verdict(verdict(Decision::Ignore));
        };
        let receipt = GossipReceipt {
            verdict: Some(Verdict { document: document_in(&gossip), ..verdict(Decision::Ignore) }),
            verdicts: self.gossip.verdicts.clone(),
            _held: held,
        };
        // Turned away, the receipt is dropped, which ignores the message.
        let _ = self.outbox.offer(MeshEvent::Gossip { author, from, message: gossip, receipt });
    }

    pub(super) fn on_verdict(&mut self, Verdict { message, source, decision, document }: Verdict) {
        let acceptance = match decision {
            Decision::Accept => gossipsub::MessageAcceptance::Accept,
            Decision::Ignore => gossipsub::MessageAcceptance::Ignore,
            Decision::Reject => gossipsub::MessageAcceptance::Reject,
        };
        self.swarm.behaviour_mut().gossip.report_message_validation_result(&message, &source, acceptance);
        if let (Decision::Accept, Some(document)) = (decision, document) {
            self.remember(document);
        }
        if decision == Decision::Reject
            && let Some(peer) = peer_key(&source)
        {
            self.penalise(peer, "its gossip was rejected");
        }
    }
}

fn document_in(message: &Gossip) -> Option<SignedDocument> {
    match message {
        Gossip::Document(document) => Some(document.clone()),
        Gossip::Presence(_) | Gossip::Coordinator { .. } => None,
    }
}
