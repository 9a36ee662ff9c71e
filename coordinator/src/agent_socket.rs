//! Handing a document to an agent on this machine: the way a halt takes while every coordinator is dead.
//!
//! Owns one question on an agent's local socket: a big-endian u32 length, then the wire encoding. Main
//! invariant: it ends within a bounded time and reads a bounded answer. The words are
//! `lunar_common::local`'s.

use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use lunar_common::bounds::{MESSAGE_BYTES_MAX, SMALL_MESSAGE_BYTES_MAX};
use lunar_common::document::SignedDocument;
use lunar_common::local::{LocalRequest, LocalResponse};
use lunar_common::wire;
use lunar_host::exit::{Exit, Failure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Longest wait for an answer: the agent makes one durable write.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// An agent's answer. Its status is never asked for from here.
type Answer = LocalResponse<()>;

/// Gives a document to the agent behind a socket. Returns whether it was new there.
///
/// # Errors
/// [`Exit::Unreachable`] if no agent answers, [`Exit::NotTrusted`] if it refuses the document.
pub async fn inject(socket: &Path, document: &SignedDocument) -> Result<bool, Failure> {
    let unreachable = |error: anyhow::Error| {
        Failure::new(Exit::Unreachable, error.context(format!("no agent answers at {}", socket.display())))
            .advise(
                "give the socket of an agent that runs on this machine, or of another server's agent there",
            )
    };
    let answer = tokio::time::timeout(ANSWER_WITHIN, ask(socket, document))
        .await
        .map_err(|_| unreachable(anyhow!("no answer within {} s", ANSWER_WITHIN.as_secs())))?
        .map_err(unreachable)?;
    match answer {
        Answer::Injected { new } => Ok(new),
        Answer::Refused { reason } => {
            Err(Failure::new(Exit::NotTrusted, anyhow!("the agent refused it: {reason}")))
        }
        Answer::Status(_) => {
            Err(Failure::new(Exit::Internal, anyhow!("the agent answered another question")))
        }
    }
}

async fn ask(socket: &Path, document: &SignedDocument) -> anyhow::Result<Answer> {
    let question = wire::encode(&LocalRequest::Inject(document.clone()), MESSAGE_BYTES_MAX)?;
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_u32(u32::try_from(question.len())?).await?;
    stream.write_all(&question).await?;
    stream.flush().await?;
    let length = usize::try_from(stream.read_u32().await?)?;
    anyhow::ensure!(length <= SMALL_MESSAGE_BYTES_MAX, "an answer of {length} bytes is over the bound");
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    Ok(wire::decode(&answer, SMALL_MESSAGE_BYTES_MAX)?)
}
