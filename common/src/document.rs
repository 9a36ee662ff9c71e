//! Documents that people sign: their kinds, their envelope, and the smaller ones' contents.
//!
//! Owns [`SignedDocument`] (exact bytes and detached SSHSIG signatures) and [`Verified`]. Main invariant: a
//! `Verified<T>` exists only if the threshold of its role signed the very bytes it was parsed from.

mod parse;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssh_key::{HashAlg, LineEnding, PrivateKey};

use crate::ids::{
    CampaignId, DocumentHash, FleetId, KeyName, LeaseId, PauseId, Sequence, ServerId, StageName,
};
use crate::time::WallTime;
use crate::trust::RoleName;

pub use parse::{ContentError, Document, Place, Problem, explain_toml, nearest};
pub(crate) use parse::{check_expiry, check_head, check_text};

/// The kinds of signed documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Who may sign what.
    TrustRoot,
    /// Binds a machine's key to its place in the fleet.
    Enrolment,
    /// Machines that are out.
    Revocation,
    /// A campaign's plan.
    Plan,
    /// Stops every start.
    Halt,
    /// Ends a halt.
    Resume,
    /// Frees a lost lease, or writes a silent server off.
    Reap,
    /// Lets a batch of a stage start, or takes that back.
    Approval,
    /// Restrains a campaign or a server by hand, or releases the server.
    Curb,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::TrustRoot,
        Self::Enrolment,
        Self::Revocation,
        Self::Plan,
        Self::Halt,
        Self::Resume,
        Self::Reap,
        Self::Approval,
        Self::Curb,
    ];

    /// The role that signs this kind. To release a server, a curb takes the resume role.
    #[must_use]
    pub fn role(self) -> RoleName {
        match self {
            Self::TrustRoot => RoleName::Root,
            Self::Enrolment => RoleName::Enroll,
            Self::Revocation => RoleName::Revoke,
            Self::Plan => RoleName::Plan,
            Self::Halt => RoleName::Halt,
            Self::Resume => RoleName::Resume,
            Self::Reap => RoleName::Reap,
            Self::Approval => RoleName::Approve,
            Self::Curb => RoleName::Halt,
        }
    }

    /// The SSHSIG namespace of this kind; `ssh-keygen -Y sign -n` takes it as it is.
    #[must_use]
    pub fn namespace(self) -> &'static str {
        match self {
            Self::TrustRoot => "root@lunar-upgrade",
            Self::Enrolment => "enroll@lunar-upgrade",
            Self::Revocation => "revoke@lunar-upgrade",
            Self::Plan => "plan@lunar-upgrade",
            Self::Halt => "halt@lunar-upgrade",
            Self::Resume => "resume@lunar-upgrade",
            Self::Reap => "reap@lunar-upgrade",
            Self::Approval => "approve@lunar-upgrade",
            Self::Curb => "curb@lunar-upgrade",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::TrustRoot => "trust root",
            Self::Enrolment => "enrolment",
            Self::Revocation => "revocation",
            Self::Plan => "plan",
            Self::Halt => "halt",
            Self::Resume => "resume",
            Self::Reap => "reap",
            Self::Approval => "approval",
            Self::Curb => "curb",
        })
    }
}

/// A document as it travels: nothing is known of it yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedDocument {
    /// What it says it is; the signatures' namespace must agree.
    pub kind: Kind,
    /// The exact TOML bytes that were signed.
    pub body: Vec<u8>,
    /// Armoured SSHSIG signatures, one a signer.
    pub signatures: Vec<String>,
}

impl SignedDocument {
    /// A document signed by these keys, which are at hand: `lunar-host` signs with those that are not.
    ///
    /// # Errors
    /// A key that cannot sign by itself: encrypted, in hardware, or of another algorithm than ed25519 and P-256.
    pub fn sign<'a>(
        kind: Kind,
        body: impl Into<Vec<u8>>,
        keys: impl IntoIterator<Item = &'a PrivateKey>,
    ) -> Result<Self, ssh_key::Error> {
        let body = body.into();
        let signatures =
            keys.into_iter().map(|key| armoured_signature(kind, &body, key)).collect::<Result<_, _>>()?;
        Ok(Self { kind, body, signatures })
    }

    /// The BLAKE3 of the body: the same whoever signed.
    #[must_use]
    pub fn hash(&self) -> DocumentHash {
        DocumentHash(*blake3::hash(&self.body).as_bytes())
    }
}

/// Signs exact bytes in OpenSSH's format (`PROTOCOL.sshsig`), in the kind's namespace.
///
/// # Errors
/// As [`SignedDocument::sign`].
pub fn armoured_signature(kind: Kind, body: &[u8], key: &PrivateKey) -> Result<String, ssh_key::Error> {
    key.sign(kind.namespace(), HashAlg::Sha512, body)?.to_pem(LineEnding::LF)
}

/// A value whose document carried enough good signatures. Only [`crate::trust`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T> {
    value: T,
    hash: DocumentHash,
    signers: BTreeSet<KeyName>,
    document: Arc<SignedDocument>,
}

impl<T> Verified<T> {
    pub(crate) fn new(value: T, signers: BTreeSet<KeyName>, document: Arc<SignedDocument>) -> Self {
        Self { value, hash: document.hash(), signers, document }
    }

    /// The hash of the signed bytes.
    #[must_use]
    pub fn hash(&self) -> DocumentHash {
        self.hash
    }

    /// The names of the keys that signed.
    #[must_use]
    pub fn signers(&self) -> &BTreeSet<KeyName> {
        &self.signers
    }

    /// The document, to pass on.
    #[must_use]
    pub fn document(&self) -> &Arc<SignedDocument> {
        &self.document
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// Stops every start. Signed under `halt@` by one key. Never expires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Halt {
    /// Always 1.
    pub format: u32,
    /// The fleet.
    pub fleet: FleetId,
    /// The campaign; absent: all of them, now and later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign: Option<CampaignId>,
    /// Order among the halts and resumes of this scope.
    pub sequence: Sequence,
    /// When it was made.
    pub issued: WallTime,
    /// Why.
    pub reason: String,
}

/// Ends the halts of its scope up to its sequence; or, if it names pauses, those pauses and nothing else. Signed under
/// `resume@` by the role's threshold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// Always 1.
    pub format: u32,
    /// The fleet.
    pub fleet: FleetId,
    /// The scope, as in the halt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign: Option<CampaignId>,
    /// Pauses of the campaign that it ends. A pause's id is the hash of its evidence, so that this is for what its
    /// signers have seen. Empty: it ends halts.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub pauses: BTreeSet<PauseId>,
    /// Higher than the halt's. Resumes that name pauses are numbered by themselves: a halt must never be taken for an
    /// older word than theirs.
    pub sequence: Sequence,
    /// When it was made.
    pub issued: WallTime,
    /// Past this it resumes nothing: a resume kept back must not end a later halt.
    pub expires: WallTime,
    /// Why.
    pub reason: String,
}

/// An operator's word that a lost lease, or a silent server, takes no slot any more. Signed under `reap@`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reap {
    /// Always 1.
    pub format: u32,
    /// The fleet.
    pub fleet: FleetId,
    /// The server.
    pub server: ServerId,
    /// Its lost lease. Absent: the server has none, and is written off until it reports again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseId>,
    /// Order among this server's reaps.
    pub sequence: Sequence,
    /// When it was made.
    pub issued: WallTime,
    /// What a person saw.
    pub reason: String,
}

/// People's word that a batch of a stage may start, or that it may not after all. Signed under `approve@`: by the role's
/// threshold of keys that are not the plan's author's; to withdraw, one of them is enough.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// Always 1.
    pub format: u32,
    /// The fleet.
    pub fleet: FleetId,
    /// The campaign.
    pub campaign: CampaignId,
    /// The hash of the plan that its signers looked at.
    pub plan: DocumentHash,
    /// The stage.
    pub stage: StageName,
    /// The batch, counted from 1.
    pub batch: u32,
    /// Order among the approvals and withdrawals of this batch.
    pub sequence: Sequence,
    /// Takes an approval back: whoever has not started waits again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdraw: bool,
    /// When it was made.
    pub issued: WallTime,
    /// Past this nobody starts by it.
    pub expires: WallTime,
    /// What was looked at, or what is wrong.
    pub reason: String,
}
