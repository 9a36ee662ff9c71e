//! The gate on every connection of the mesh, before libp2p sees the connection at all.
//!
//! Owns the exchange of [`Greeting`]s on the connection's first stream. Main invariant: the swarm, and so every
//! protocol of the mesh, only ever gets connections whose other end proved an enrolment in our fleet for the
//! very key that TLS proved. A stranger makes us read at most [`GREETING_BYTES_MAX`] bytes for at most
//! [`ADMISSION_TIMEOUT`]; the side that was dialled says nothing at all until it has admitted the dialler. And a
//! machine's new life never stands beside its old one: gossipsub says what it is subscribed to on a machine's
//! first connection only, so a second one to a program that has forgotten the first would stay deaf for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::AsyncWriteExt;
use libp2p::core::ConnectedPoint;
use libp2p::core::muxing::StreamMuxer;
use libp2p::{PeerId, quic};
use lunar_common::wire::{self, Signed, WireError};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::codec::{read_frame, write_frame};
use super::record::{RECORD_BYTES_MAX, SignedRecord};
use crate::gate::{Admitted, Gate, GateError, HELLO_BYTES_MAX, Life, judge, peer_key};

/// Largest encoded greeting.
pub(crate) const GREETING_BYTES_MAX: usize = HELLO_BYTES_MAX + RECORD_BYTES_MAX + 64;

/// Longest wait for the other side's greeting: over the Earth link it takes one to two round trips of 2.5 s.
pub(crate) const ADMISSION_TIMEOUT: Duration = Duration::from_secs(15);

/// The first thing said on every connection, by both sides.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Greeting {
    /// An encoded [`crate::gate::Hello`].
    pub(super) hello: Vec<u8>,
    /// The sender's signed [`super::record::PeerRecord`]. Absent until it listens somewhere.
    pub(super) record: Option<Signed>,
}

/// A machine that passed the gate.
#[derive(Debug, Clone)]
pub(crate) struct Passed {
    pub(crate) admitted: Admitted,
    pub(crate) record: Option<SignedRecord>,
}

/// Why a connection was dropped before anything was spoken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdmissionError {
    #[error("the other side's key is not an ed25519 key")]
    Key,
    #[error("the connection ended before the other side's greeting: it may refuse this machine's enrolment")]
    Read(#[source] io::Error),
    #[error("the greeting could not be sent")]
    Write(#[source] io::Error),
    #[error("the connection ended before its first stream")]
    Stream(#[source] quic::Error),
    #[error("no greeting in time")]
    TimedOut,
    #[error("the other side's greeting is malformed")]
    Malformed(#[source] WireError),
    #[error("the other side's record is malformed, or somebody else's")]
    Record,
    #[error(transparent)]
    Gate(#[from] GateError),
    #[error("our own greeting cannot be encoded")]
    Own(#[source] WireError),
    #[error("it is of life {came}, and one of life {stands} was connected a moment ago")]
    EarlierLife { came: Life, stands: Life },
}

/// What the gate shares with the mesh's task: our own record and who is connected going in, machines that passed
/// and those to disconnect coming out.
pub(crate) struct Reception {
    gate: Arc<dyn Gate>,
    state: Mutex<ReceptionState>,
    /// Told when somebody is to be disconnected.
    outlived: Notify,
    /// Told when somebody is connected no more.
    left: Notify,
}

#[derive(Default)]
struct ReceptionState {
    own_record: Option<Signed>,
    passed: BTreeMap<PeerId, Passed>,
    standing: BTreeMap<PeerId, Standing>,
    outlived: BTreeSet<PeerId>,
}

/// The life that a machine is connected in, and since when.
#[derive(Debug, Clone, Copy)]
struct Standing {
    life: Life,
    since: Instant,
}

/// What becomes of a newcomer.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// It comes in, the first or beside another connection of the same life: two dials have crossed.
    Free,
    /// The connections that stand are dead ones that have not run out yet: they go first.
    Taken,
    /// It is what is left of an earlier life, or its machine's clock went back: it may come again.
    Refused,
}

impl Standing {
    /// Two dials of one life cross within the gate's time-out. Whoever comes later than that, in whichever life,
    /// has lost the connection that we still believe in.
    fn place_for(self, life: Life, now: Instant) -> Place {
        if life > self.life || now.duration_since(self.since) > ADMISSION_TIMEOUT {
            Place::Taken
        } else if life == self.life {
            Place::Free
        } else {
            Place::Refused
        }
    }
}

impl Reception {
    pub(crate) fn new(gate: Arc<dyn Gate>) -> Self {
        Self { gate, state: Mutex::default(), outlived: Notify::new(), left: Notify::new() }
    }

    pub(crate) fn gate(&self) -> &dyn Gate {
        &*self.gate
    }

    /// What later greetings carry.
    pub(crate) fn set_own_record(&self, record: Signed) {
        self.state().own_record = Some(record);
    }

    /// Who a connected machine is.
    pub(crate) fn passed(&self, peer: &PeerId) -> Option<Passed> {
        self.state().passed.get(peer).cloned()
    }

    /// Forgets machines that are neither connected nor about to be.
    pub(crate) fn forget(&self, peer: &PeerId) {
        self.state().passed.remove(peer);
    }

    /// A machine is connected now.
    pub(crate) fn stands(&self, peer: PeerId, life: Life) {
        self.state().standing.insert(peer, Standing { life, since: Instant::now() });
    }

    /// A machine is connected no more.
    pub(crate) fn left(&self, peer: &PeerId) {
        {
            let mut state = self.state();
            state.standing.remove(peer);
            state.outlived.remove(peer);
        }
        self.left.notify_waiters();
    }

    /// The next machine whose connections are those of an earlier life, and must be closed.
    pub(crate) async fn next_outlived(&self) -> PeerId {
        loop {
            if let Some(peer) = self.state().outlived.pop_first() {
                return peer;
            }
            self.outlived.notified().await;
        }
    }

    /// Waits until nothing of an earlier life of a machine is connected.
    async fn make_room(&self, peer: PeerId, life: Life) -> Result<(), AdmissionError> {
        loop {
            let mut left = std::pin::pin!(self.left.notified());
            // From here on nothing is missed, whatever happens between the look and the wait.
            left.as_mut().enable();
            let standing = self.state().standing.get(&peer).copied();
            let Some(standing) = standing else { return Ok(()) };
            match standing.place_for(life, Instant::now()) {
                Place::Free => return Ok(()),
                Place::Refused => {
                    return Err(AdmissionError::EarlierLife { came: life, stands: standing.life });
                }
                Place::Taken => {
                    self.state().outlived.insert(peer);
                    self.outlived.notify_one();
                    left.await;
                }
            }
        }
    }

    /// How many machines are remembered, and a chance to drop those that are not connected: a connection can
    /// be aborted between passing the gate and reaching the swarm, which reports nothing then.
    pub(crate) fn retain_above(&self, count: usize, mut connected: impl FnMut(&PeerId) -> bool) {
        let mut state = self.state();
        if state.passed.len() > count {
            state.passed.retain(|peer, _| connected(peer));
        }
    }

    fn state(&self) -> MutexGuard<'_, ReceptionState> {
        // The state is a plain map, whole after every statement: a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the exchange on a fresh connection; drops the connection unless the other side is admitted.
    pub(crate) async fn receive(
        self: Arc<Self>,
        (peer, connection): (PeerId, quic::Connection),
        point: ConnectedPoint,
    ) -> Result<(PeerId, quic::Connection), AdmissionError> {
        let exchange = self.exchange(peer, connection, point.is_dialer());
        let result = match tokio::time::timeout(ADMISSION_TIMEOUT, exchange).await {
            Ok(result) => result,
            Err(_) => Err(AdmissionError::TimedOut),
        };
        let address = point.get_remote_address();
        match result {
            Ok((connection, passed)) => {
                tracing::trace!(peer = %passed.admitted.enrolment.server, %address, "admitted to the mesh");
                self.state().passed.insert(peer, passed);
                Ok((peer, connection))
            }
            Err(error) => {
                tracing::debug!(
                    %peer, %address, reason = %WithCauses(&error), "connection dropped at the gate"
                );
                Err(error)
            }
        }
    }

    async fn exchange(
        &self,
        peer: PeerId,
        mut connection: quic::Connection,
        dialled: bool,
    ) -> Result<(quic::Connection, Passed), AdmissionError> {
        let proved = peer_key(&peer).ok_or(AdmissionError::Key)?;
        let mut stream = if dialled {
            poll_fn(|cx| Pin::new(&mut connection).poll_outbound(cx)).await
        } else {
            poll_fn(|cx| Pin::new(&mut connection).poll_inbound(cx)).await
        }
        .map_err(AdmissionError::Stream)?;

        if dialled {
            self.say_hello(&mut stream).await?;
        }
        let bytes = read_frame(&mut stream, GREETING_BYTES_MAX).await.map_err(AdmissionError::Read)?;
        let greeting: Greeting =
            wire::decode(&bytes, GREETING_BYTES_MAX).map_err(AdmissionError::Malformed)?;
        let admitted = judge(self.gate(), proved, &greeting.hello)?;
        let record = match greeting.record {
            Some(signed) => {
                let opened = SignedRecord::open(signed).ok_or(AdmissionError::Record)?;
                (opened.peer == proved).then_some(Some(opened)).ok_or(AdmissionError::Record)?
            }
            None => None,
        };
        self.make_room(peer, admitted.life).await?;
        if !dialled {
            self.say_hello(&mut stream).await?;
        }
        Ok((connection, Passed { admitted, record }))
    }

    async fn say_hello(&self, stream: &mut quic::Stream) -> Result<(), AdmissionError> {
        let hello = self.gate.hello().encode().map_err(AdmissionError::Own)?;
        let greeting = Greeting { hello, record: self.state().own_record.clone() };
        let bytes = wire::encode(&greeting, GREETING_BYTES_MAX).map_err(AdmissionError::Own)?;
        write_frame(stream, &bytes).await.map_err(AdmissionError::Write)?;
        stream.flush().await.map_err(AdmissionError::Write)
    }
}

/// An error with its causes, for one log line.
pub(crate) struct WithCauses<'a>(pub(crate) &'a (dyn std::error::Error + 'a));

impl std::fmt::Display for WithCauses<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_life_takes_the_place_at_once_and_an_earlier_one_when_no_dials_can_have_crossed() {
        let since = Instant::now();
        let standing = Standing { life: Life(5), since };
        let late = since + ADMISSION_TIMEOUT + Duration::from_millis(1);
        assert_eq!(standing.place_for(Life(6), since), Place::Taken);
        assert_eq!(standing.place_for(Life(5), since), Place::Free);
        assert_eq!(standing.place_for(Life(4), since), Place::Refused);
        // The machine's clock went back, or it lost a connection that we still believe in.
        assert_eq!(standing.place_for(Life(4), late), Place::Taken);
        assert_eq!(standing.place_for(Life(5), late), Place::Taken);
    }
}
