//! `lunar-agent inject`: hands a signed document to the agent on this server.
//!
//! Owns its options. Main invariant: the document goes as it is; the agent's gate judges it, and everyone else's
//! after that.

use std::path::PathBuf;

use lunar_host::documents;
use lunar_host::exit::{Exit, Failure};
use serde::Serialize;

use super::{CommandResult, Common, block_on};
use crate::local_api::{self, LocalRequest, LocalResponse};

/// Hands a signed document to the agent on this server, which passes it on to the whole mesh. A halt given here
/// stops every start, with every coordinator dead.
#[derive(Debug, clap::Args)]
#[command(
    visible_alias = "halt-inject",
    after_help = "Examples:\n  \
    lunar-agent inject /root/halt.toml\n  \
    lunar-agent inject plan-7.toml --output json\n\n\
    The signatures are the files beside it: NAME.toml.sig, NAME.toml.SIGNER.sig."
)]
pub(super) struct InjectCommand {
    /// The document: a halt, resume, plan, trust root or revocation, with its signatures beside it.
    document: PathBuf,
}

#[derive(Serialize)]
struct Injected {
    kind: String,
    hash: String,
    new: bool,
}

impl InjectCommand {
    pub(super) fn run(self, common: &Common) -> CommandResult {
        let socket = common.config()?.agent_socket();
        let document = documents::load_any(&self.document)?;
        let (kind, hash) = (document.kind.to_string(), document.hash().to_string());
        let answer = block_on(async {
            local_api::ask(&socket, &LocalRequest::Inject(document)).await.map_err(|error| {
                Failure::new(Exit::Unreachable, error).advise("is the agent running? see `lunar-agent run`")
            })
        })?;
        match answer {
            LocalResponse::Injected { new } => {
                common.output.print(&Injected { kind, hash, new }, |injected| {
                    let how = if injected.new { "in force and passed on" } else { "known already" };
                    format!("{} {:.16}: {how}", injected.kind, injected.hash)
                })?;
                Ok(Exit::Ok)
            }
            LocalResponse::Refused { reason } => Err(Failure::new(
                Exit::NotTrusted,
                anyhow::anyhow!("{} is refused: {reason}", self.document.display()),
            )),
            LocalResponse::Status(_) => {
                Err(Failure::new(Exit::Internal, anyhow::anyhow!("the agent answered another question")))
            }
        }
    }
}
