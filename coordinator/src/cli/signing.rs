//! What all commands for signed documents share: writing one, signing it, handing it over.
//!
//! Owns the flags for keys and for the way a document takes into the mesh. Main invariant: what is handed over
//! passed this directory's own gate first, so that a mistake is told here and not by 10,000 servers.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use lunar_common::document::{ContentError, Document, Kind, SignedDocument};
use lunar_common::ids::{DocumentHash, KeyName};
use lunar_common::time::WallTime;
use lunar_common::trust::{Refusal, SignatureStatus, TrustState, Unsigned};
use lunar_host::exit::{Exit, Failure};
use lunar_host::files::{create_atomically, write_atomically};
use lunar_host::{clock, documents, keys};
use serde::Serialize;

use super::{Common, block_on};
use crate::api::types::{DocumentReply, DocumentUpload};
use crate::client::Client;
use crate::home::{Home, load, refused};

/// With which keys.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SignWith {
    /// Signs with this key: an OpenSSH private key file, or the .pub half of one in ssh-agent or in hardware.
    /// May be given several times.
    #[arg(long = "key", value_name = "FILE")]
    pub key: Vec<PathBuf>,
    /// Signs with the key of this name in the trust root, which ssh-agent holds. May be given several times.
    #[arg(long, value_name = "NAME")]
    pub agent: Vec<KeyName>,
}

impl SignWith {
    /// Whether any key was named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.key.is_empty() && self.agent.is_empty()
    }
}

/// Which way into the mesh.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Via {
    /// Hands the document to this agent's local socket (unix:/run/lunar-agent/agent.sock) instead of the
    /// coordinator: works while every coordinator is dead.
    #[arg(long, value_name = "unix:PATH")]
    pub via: Option<String>,
}

/// What became of a document, as commands print it.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// Its kind.
    pub kind: Kind,
    /// Its file.
    pub file: PathBuf,
    /// The hash of its bytes.
    pub hash: DocumentHash,
    /// Whose signatures count.
    pub signers: Vec<KeyName>,
    /// Whether the threshold is met.
    pub complete: bool,
    /// What happened and what comes next, for people.
    pub message: String,
    /// Whether it was handed over, and to whom it was new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published: Option<DocumentReply>,
    /// The text, where nothing was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl Outcome {
    /// Prints it.
    ///
    /// # Errors
    /// A closed standard output.
    pub fn print(&self, common: &Common) -> Result<(), Failure> {
        common.output.print(self, |outcome| match &outcome.text {
            Some(text) => format!("{text}\n{}", outcome.message),
            None => outcome.message.clone(),
        })
    }
}

/// Writes a new document's file. Refuses to replace one, unless it is an unsigned draft and `replace` is set.
///
/// # Errors
/// The file is there, or cannot be written.
pub fn write_new(path: &Path, text: &str, replace: bool) -> Result<(), Failure> {
    make_parent(path)?;
    if replace {
        write_atomically(path, text.as_bytes(), 0o644).map_err(|error| Failure::new(Exit::Environment, error))
    } else {
        create_atomically(path, text.as_bytes(), 0o644).map_err(|error| {
            let exit = match error {
                lunar_host::files::FileError::Exists { .. } => Exit::BadInput,
                _ => Exit::Environment,
            };
            Failure::new(exit, error).advise("move it away, or raise the number of the new document")
        })
    }
}

/// Makes the directory that a file goes to.
///
/// # Errors
/// It cannot be made.
pub fn make_parent(path: &Path) -> Result<(), Failure> {
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    std::fs::create_dir_all(parent).map_err(|error| {
        Failure::new(Exit::Environment, anyhow!(error).context(format!("cannot make {}", parent.display())))
    })
}

/// Checks a document's contents: what can be told from itself alone.
///
/// # Errors
/// [`Exit::BadInput`] with every place that is wrong.
pub fn check<T: Document>(path: &Path, body: &[u8]) -> Result<T, Failure> {
    T::parse(body).map_err(|error| content_failure(path, error))
}

fn content_failure(path: &Path, error: ContentError) -> Failure {
    Failure::new(Exit::BadInput, anyhow!(error).context(path.display().to_string()))
        .advise("correct the file and check it again; a changed file must be signed again")
}

/// Checks any document's contents by its kind.
///
/// # Errors
/// As for [`check`].
pub fn check_kind(path: &Path, kind: Kind, body: &[u8]) -> Result<(), Failure> {
    use lunar_common::document::{Approval, Halt, Reap, Resume};
    use lunar_common::enrolment::{Enrolment, Revocation};
    match kind {
        Kind::TrustRoot => check::<lunar_common::trust::TrustRoot>(path, body).map(drop),
        Kind::Enrolment => check::<Enrolment>(path, body).map(drop),
        Kind::Revocation => check::<Revocation>(path, body).map(drop),
        Kind::Plan => check::<lunar_common::plan::Plan>(path, body).map(drop),
        Kind::Halt => check::<Halt>(path, body).map(drop),
        Kind::Resume => check::<Resume>(path, body).map(drop),
        Kind::Reap => check::<Reap>(path, body).map(drop),
        Kind::Approval => check::<Approval>(path, body).map(drop),
        Kind::Curb => check::<lunar_common::curb::Curb>(path, body).map(drop),
    }
}

/// Signs a file with each key named. Nothing is written before the contents passed their checks. Returns the
/// signature files written.
///
/// # Errors
/// The contents are wrong, or a key cannot sign.
pub fn sign(
    path: &Path,
    kind: Kind,
    trust: Option<&TrustState>,
    with: &SignWith,
) -> Result<Vec<PathBuf>, Failure> {
    let body = load(path, kind)?.body;
    check_kind(path, kind, &body)?;
    let mut files = Vec::new();
    for key in &with.key {
        let armoured = keys::sign_document(kind, &body, key)?;
        let signer = signer_name(trust, key);
        files.push(documents::add_signature(path, &signer, &armoured)?);
    }
    for name in &with.agent {
        let armoured = sign_with_agent(kind, &body, name, trust)?;
        files.push(documents::add_signature(path, name.as_str(), &armoured)?);
    }
    Ok(files)
}

fn sign_with_agent(
    kind: Kind,
    body: &[u8],
    name: &KeyName,
    trust: Option<&TrustState>,
) -> Result<String, Failure> {
    let line = trust.and_then(|trust| trust.root().keys.get(name)).ok_or_else(|| {
        Failure::new(Exit::BadInput, anyhow!("{name} is not in the trust root's [keys]")).advise(
            "name a key that is listed by `lunar-coordinator trust show`, or give its .pub file with --key",
        )
    })?;
    // ssh-keygen finds the private half in the agent by the public one, which it reads from a file.
    let public = tempfile::Builder::new().prefix("lunar-").suffix(".pub").tempfile()?;
    std::fs::write(public.path(), format!("{}\n", line.trim()))?;
    keys::sign_document(kind, body, public.path()).map_err(|error| {
        Failure::from(error)
            .advise(format!("is {name}'s key in ssh-agent (`ssh-add -l`), and SSH_AUTH_SOCK set?"))
    })
}

/// The name under which a key's signature is kept: its name in the trust root, or its file's.
fn signer_name(trust: Option<&TrustState>, key: &Path) -> String {
    let public = keys::public(key).ok();
    let known = trust.zip(public).and_then(|(trust, public)| {
        let of = |line: &str| ssh_key::PublicKey::from_openssh(line.trim()).ok();
        trust
            .root()
            .keys
            .iter()
            .find(|(_, line)| of(line).is_some_and(|known| known.key_data() == public.key_data()))
            .map(|(name, _)| name.to_string())
    });
    known.unwrap_or_else(|| {
        let stem = key.file_stem().unwrap_or_default().to_string_lossy();
        let plain: String =
            stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(60).collect();
        format!("by-{plain}")
    })
}

/// Whose signatures a file has and needs.
#[must_use]
pub fn told(status: &SignatureStatus, path: &Path, command: &str) -> String {
    let names = |names: &[KeyName]| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let path = path.display();
    if status.complete {
        return format!("{path} is signed by {}", names(&status.have));
    }
    let mut text = format!("{path} has {} of {} signatures", status.have.len(), status.need);
    if !status.have.is_empty() {
        text += &format!(" ({})", names(&status.have));
    }
    for (place, defect) in &status.defects {
        text +=
            &if *place == 0 { format!("\n  {defect}") } else { format!("\n  signature {place}: {defect}") };
    }
    if !status.could.is_empty() {
        text += &format!("\n  next: let {} sign: {command}", names(&status.could));
    }
    text
}

/// Everything after a document's text is there: sign it, say what is missing, hand it over once it is whole.
pub struct Finish<'a> {
    /// Options that every command takes.
    pub common: &'a Common,
    /// The trust as this directory knows it.
    pub trust: &'a TrustState,
    /// The document's file.
    pub path: &'a Path,
    /// Its kind.
    pub kind: Kind,
    /// How another signer signs, for the message.
    pub sign_command: String,
    /// Where it goes once it is whole; `None`: nowhere yet.
    pub publish: Option<&'a Via>,
}

impl Finish<'_> {
    /// Signs, checks, hands over.
    ///
    /// # Errors
    /// A key, the gate or the other side refused; what was written stays, and the command can be repeated.
    pub fn run(&self, with: &SignWith) -> Result<Outcome, Failure> {
        sign(self.path, self.kind, Some(self.trust), with)?;
        let document = load(self.path, self.kind)?;
        let status = match self.kind {
            Kind::Approval => {
                let judged = self.trust.approval(&document, clock::wall());
                self.status_of_word(judged.map(|approval| approval.signers().clone()))?
            }
            Kind::Curb => {
                let judged = self.trust.curb(&document, clock::wall());
                self.status_of_word(judged.map(|curb| curb.signers().clone()))?
            }
            _ => self.trust.signature_status(&document),
        };
        let mut message = told(&status, self.path, &self.sign_command);
        let mut published = None;
        if status.complete {
            if !matches!(self.kind, Kind::Approval | Kind::Curb) {
                self.trust
                    .clone()
                    .accept(&document, clock::wall())
                    .map_err(|refusal| refused(self.path, refusal))?;
            }
            if let Some(via) = self.publish {
                let reply = publish(self.common, via, &document)?;
                message += if reply.new { "\npublished" } else { "\npublished before; nothing changed" };
                published = Some(reply);
            }
        }
        Ok(Outcome {
            kind: self.kind,
            file: self.path.to_owned(),
            hash: document.hash(),
            signers: status.have,
            complete: status.complete,
            message,
            published,
            text: None,
        })
    }
}

impl Finish<'_> {
    /// Whose signatures a document has and needs that is judged by what it says: an approval, or a curb.
    fn status_of_word(&self, judged: Result<BTreeSet<KeyName>, Refusal>) -> Result<SignatureStatus, Failure> {
        match judged {
            Ok(signers) => Ok(SignatureStatus {
                complete: true,
                have: signers.into_iter().collect(),
                need: 0,
                could: Vec::new(),
                defects: Vec::new(),
            }),
            Err(Refusal::Unsigned(unsigned)) => {
                let Unsigned { have, need, could, defects, .. } = *unsigned;
                Ok(SignatureStatus { complete: false, have, need, could, defects })
            }
            Err(refusal) => Err(refused(self.path, refusal)),
        }
    }
}

/// What a command with `--dry-run` would write.
#[must_use]
pub fn would_write(kind: Kind, path: &Path, text: &str) -> Outcome {
    Outcome {
        kind,
        file: path.to_owned(),
        hash: DocumentHash(*blake3::hash(text.as_bytes()).as_bytes()),
        signers: Vec::new(),
        complete: false,
        message: format!("nothing was written: without --dry-run this goes to {}", path.display()),
        published: None,
        text: Some(text.to_owned()),
    }
}

/// Hands a document over: to the coordinator of this directory, or to an agent.
///
/// # Errors
/// Nobody answers, or the answer is no.
pub fn publish(common: &Common, via: &Via, document: &SignedDocument) -> Result<DocumentReply, Failure> {
    match via.via.as_deref().map(|via| (via, via.strip_prefix("unix:"))) {
        None => {
            let upload = DocumentUpload::of(document)
                .ok_or_else(|| Failure::new(Exit::BadInput, anyhow!("the {} is not text", document.kind)))?;
            block_on(Client::of(common)?.post("/documents", &upload)).map_err(|failure| match failure.exit {
                Exit::Unreachable => failure.advise(
                    "start it with `lunar-coordinator serve`, name its directory with --home, or hand the document to \
                     an agent instead: --via unix:/path/to/agent.sock",
                ),
                _ => failure,
            })
        }
        Some((_, Some(socket))) => {
            let new = block_on(crate::agent_socket::inject(Path::new(socket), document))?;
            Ok(DocumentReply { hash: document.hash(), new })
        }
        Some((other, None)) => Err(Failure::new(Exit::Usage, anyhow!("{other:?} names no way"))
            .advise("write --via unix:/path/to/agent.sock")),
    }
}

/// The trust of this directory. What was left out is told as warnings.
///
/// # Errors
/// No trust root, or an unreadable directory.
pub fn trust(common: &Common) -> Result<TrustState, Failure> {
    let (trust, left_out) = Home::new(&common.home).trust(clock::wall())?;
    for file in left_out {
        tracing::warn!(file = %file.path.display(), why = %file.why, "left out");
    }
    Ok(trust)
}

/// A new document's text.
///
/// # Errors
/// It cannot be written as TOML, which is a mistake in this program.
pub fn text_of<T: Serialize>(document: &T) -> Result<String, Failure> {
    toml::to_string(document).map_err(|error| Failure::new(Exit::Internal, error))
}

/// A span of time as people write it: `90s`, `30m`, `12h`, `7d`, `4w`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub i64);

impl std::str::FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no span of time: write 90s, 30m, 12h, 7d or 4w");
        let unit = text.chars().last().ok_or_else(wrong)?;
        let seconds: i64 = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return Err(wrong()),
        };
        let number: i64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
        let span = number.checked_mul(seconds).filter(|span| (1..=SPAN_S_MAX).contains(span));
        span.map(Self)
            .ok_or_else(|| format!("{text:?} is out of range: more than nothing, at most 100 years"))
    }
}

/// A hundred years: longer than any document should be good for.
const SPAN_S_MAX: i64 = 100 * 366 * 86_400;

impl Span {
    /// This long after a time.
    #[must_use]
    pub fn after(self, time: WallTime) -> WallTime {
        WallTime(time.0.saturating_add(self.0))
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            s if s % 86_400 == 0 => write!(f, "{}d", s / 86_400),
            s if s % 3600 == 0 => write!(f, "{}h", s / 3600),
            s => write!(f, "{s}s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time_are_read_and_bounded() {
        for (text, seconds) in
            [("90s", 90), ("30m", 1800), ("12h", 43_200), ("7d", 604_800), ("4w", 2_419_200)]
        {
            assert_eq!(text.parse::<Span>().unwrap(), Span(seconds));
        }
        for text in ["", "7", "d", "-1d", "0s", "7y", "99999999999w", "9223372036854775807w", "é"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
