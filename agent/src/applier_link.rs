//! The core's questions to the applier, one after the other.
//!
//! Owns the task that puts them. Main invariant: before any question the applier has been handed every document
//! in force that it lacks, so that it can judge by itself; a question that cannot be put, or is not answered in
//! time, is answered with "unreachable", never with a guess.

use std::path::PathBuf;
use std::sync::Arc;

use lunar_agent_core::applier::protocol::{Permission, Request, Task};
use lunar_agent_core::effect::ApplierCommand;
use lunar_agent_core::input::{ApplierStatus, AskId, Input};
use lunar_common::ids::ServerId;
use lunar_common::time::Moment;
use lunar_common::trust::TrustState;
use lunar_common::wire::Signed;
use lunar_transport::trust_gate::TrustGate;
use tokio::sync::mpsc;

use crate::applier::client::{Client, ClientError};

/// Questions that may wait: the core asks one at a time, and one beside it.
const QUESTIONS_MAX: usize = 8;

/// A question of the core.
#[derive(Debug)]
pub struct Question {
    /// The answer repeats it.
    pub ask: AskId,
    /// What it is about.
    pub task: Task,
    /// What to do.
    pub command: ApplierCommand,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the coordinator that signed the grant is not known here any more")]
    UnknownCoordinator,
}

/// Starts the task that puts questions to the applier behind a socket.
#[must_use]
pub fn start(
    socket: PathBuf,
    server: ServerId,
    gate: Arc<TrustGate>,
    inputs: mpsc::Sender<Input>,
) -> mpsc::Sender<Question> {
    let (questions, mut waiting) = mpsc::channel::<Question>(QUESTIONS_MAX);
    tokio::spawn(async move {
        let mut link = Link { client: Client::new(socket), server, gate };
        while let Some(question) = waiting.recv().await {
            let ask = question.ask;
            let status = match link.put(question).await {
                Ok(status) => Some(status),
                Err(error) => {
                    tracing::warn!(error = %anyhow::Error::new(error).root_cause(), "the applier gave no answer");
                    None
                }
            };
            if inputs.send(Input::Applier { ask, status }).await.is_err() {
                return;
            }
        }
    });
    questions
}

struct Link {
    client: Client,
    server: ServerId,
    gate: Arc<TrustGate>,
}

impl Link {
    async fn put(&mut self, question: Question) -> Result<ApplierStatus, LinkError> {
        let trust = self.gate.trust();
        for (document, reason) in self.client.pass_on(&trust, &self.server).await? {
            tracing::warn!(%document, %reason, "the applier refuses a document");
        }
        let task = question.task;
        let request = match question.command {
            ApplierCommand::Status => Request::Status(task),
            ApplierCommand::Stage => Request::Stage(task),
            ApplierCommand::Check { grant, claim_sent } => {
                Request::Check(task, permission(&trust, grant, claim_sent)?)
            }
            ApplierCommand::Begin { grant, claim_sent } => {
                Request::Begin(task, permission(&trust, grant, claim_sent)?)
            }
            ApplierCommand::Commit => Request::Commit(task),
            ApplierCommand::RollBack { cause } => Request::RollBack { task, cause },
        };
        Ok(self.client.status(&request).await?)
    }
}

/// What permits a start: the grant, with the enrolment of whoever signed it.
fn permission(trust: &TrustState, grant: Signed, claim_sent: Moment) -> Result<Box<Permission>, LinkError> {
    let coordinator = trust.machine(&grant.signer).ok_or(LinkError::UnknownCoordinator)?;
    let coordinator = (**coordinator.document()).clone();
    Ok(Box::new(Permission { grant, coordinator, claim_sent }))
}
