//! Why a document was refused, or a start.
//!
//! Owns [`Refusal`] and [`StartRefusal`]: one variant a reason. Main invariant: each message says what was
//! wrong, with which document, and what to do next; and [`Refusal::blames_sender`] tells an attack or a broken
//! program from a peer that is merely behind.

use super::root::RoleName;
use super::signature::SignatureDefect;
use crate::document::{ContentError, Kind};
use crate::ids::{CampaignId, DocumentHash, FleetId, KeyName, PeerKey, ServerId, StageName};
use crate::limits::Tier;
use crate::time::WallTime;

/// Why a document was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The body is over its bound.
    #[error("the {kind} has {length} bytes, more than any {kind} may have")]
    TooLong {
        /// Which kind.
        kind: Kind,
        /// Its length.
        length: usize,
    },
    /// More signatures than are looked at.
    #[error("the {kind} carries {count} signatures, more than are looked at")]
    TooManySignatures {
        /// Which kind.
        kind: Kind,
        /// How many.
        count: usize,
    },
    /// Not of this kind's shape, or impossible.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// Not signed enough.
    #[error("{}", .0)]
    Unsigned(Box<Unsigned>),
    /// For another fleet.
    #[error("the {kind} is for fleet {found}; this is fleet {wanted}")]
    OtherFleet {
        /// Which kind.
        kind: Kind,
        /// The fleet it names.
        found: FleetId,
        /// Ours.
        wanted: FleetId,
    },
    /// The signers' role entries do not reach that far.
    #[error(
        "the signers of the {kind} hold the {role} role for some tiers or sites only, and it reaches further; narrow it, or let others sign"
    )]
    OutOfScope {
        /// Which kind.
        kind: Kind,
        /// Which role.
        role: RoleName,
    },
    /// The signers' role entries had not begun or had ended.
    #[error(
        "the {kind} was issued at {issued}, when its signers' {role} role was not valid; sign anew with keys whose role is"
    )]
    OutOfValidity {
        /// Which kind.
        kind: Kind,
        /// Which role.
        role: RoleName,
        /// When it says it was made.
        issued: WallTime,
    },
    /// The author did not sign.
    #[error("the plan says that {author} wrote it, but {author} did not sign it")]
    AuthorDidNotSign {
        /// Who is named.
        author: KeyName,
    },
    /// Lower than the highest seen.
    #[error(
        "{what} number {found} is older than number {highest}, seen before: an old document is never taken again"
    )]
    Replayed {
        /// Which counter.
        what: Counted,
        /// Its number.
        found: u64,
        /// The highest seen.
        highest: u64,
    },
    /// The same number, with other contents.
    #[error(
        "{what} number {number} is known with other contents ({known:.16}); raise the number and sign again"
    )]
    Conflict {
        /// Which counter.
        what: Counted,
        /// Its number.
        number: u64,
        /// The one known.
        known: DocumentHash,
    },
    /// Jumps too far ahead.
    #[error("{what} jumps from number {highest} to {found}, further than is ever needed; count up by one")]
    Jumped {
        /// Which counter.
        what: Counted,
        /// Its number.
        found: u64,
        /// The highest seen.
        highest: u64,
    },
    /// A trust root that is not the next one.
    #[error("trust root version {found} does not follow version {held}: hand over version {} first", held + 1)]
    SkippedRoot {
        /// Its version.
        found: u64,
        /// Ours.
        held: u64,
    },
    /// A resume past its expiry.
    #[error("the resume expired at {expired}; it is {now} now: sign a new one")]
    ResumeExpired {
        /// When.
        expired: WallTime,
        /// Trusted time.
        now: WallTime,
    },
    /// A machine that is out.
    #[error("key {key:.16} of {server} is revoked: enroll the server with a new key")]
    Revoked {
        /// Whose enrolment.
        server: ServerId,
        /// The key.
        key: PeerKey,
    },
    /// A key that belongs to another server.
    #[error("key {key:.16} is enrolled for {holder} already; {server} needs a key of its own")]
    KeyTaken {
        /// The key.
        key: PeerKey,
        /// Who wants it.
        server: ServerId,
        /// Who has it.
        holder: ServerId,
    },
    /// A reap of a server that is not known, by signers who may reap at some places only.
    #[error("{server} is not known here, so that nobody can tell whether its reap was in the signers' reach")]
    UnknownServer {
        /// Which.
        server: ServerId,
    },
    /// An approval of another plan than the one in force.
    #[error(
        "the approval is of plan {found:.16} of {campaign}, which is not the one in force here; look at that one, and \
         approve it"
    )]
    OtherPlan {
        /// The campaign.
        campaign: CampaignId,
        /// The plan that was approved.
        found: DocumentHash,
    },
    /// An approval of a stage that the plan does not have.
    #[error("the plan of {campaign} has no stage {stage}: look at `plan show` for those it has")]
    UnknownStage {
        /// The campaign.
        campaign: CampaignId,
        /// The stage.
        stage: StageName,
    },
    /// An approval or a curb past its expiry.
    #[error("the {kind} expired at {expired}; it is {now} now: sign a new one")]
    Expired {
        /// Which kind.
        kind: Kind,
        /// When.
        expired: WallTime,
        /// Trusted time.
        now: WallTime,
    },
    /// Handed to a machine that does not decide by it.
    #[error("approvals and curbs are judged where leases are granted: hand it to a coordinator")]
    NotForUs,
    /// No room left.
    #[error("no room for another {what}: {max} are kept")]
    Full {
        /// Of what.
        what: &'static str,
        /// The bound.
        max: usize,
    },
}

impl Refusal {
    /// Whether an honest peer that is up to date would not have sent it: the sender is broken or hostile. A
    /// document that is merely old, early or late blames nobody.
    #[must_use]
    pub fn blames_sender(&self) -> bool {
        match self {
            Self::TooLong { .. }
            | Self::TooManySignatures { .. }
            | Self::Content(_)
            | Self::OtherFleet { .. }
            | Self::AuthorDidNotSign { .. }
            | Self::Jumped { .. } => true,
            // Signed under a trust root that one of us does not have yet, or by people who made a mistake.
            Self::Unsigned(_)
            | Self::OutOfScope { .. }
            | Self::OutOfValidity { .. }
            | Self::Replayed { .. }
            | Self::Conflict { .. }
            | Self::SkippedRoot { .. }
            | Self::ResumeExpired { .. }
            | Self::Revoked { .. }
            | Self::KeyTaken { .. }
            | Self::UnknownServer { .. }
            | Self::OtherPlan { .. }
            | Self::UnknownStage { .. }
            | Self::Expired { .. }
            | Self::NotForUs
            | Self::Full { .. } => false,
        }
    }
}

/// A document without enough good signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsigned {
    /// Which kind.
    pub kind: Kind,
    /// Which role was wanted.
    pub role: RoleName,
    /// Under which version of the trust root.
    pub root_version: u64,
    /// Whose signatures count.
    pub have: Vec<KeyName>,
    /// How many distinct keys are needed.
    pub need: u32,
    /// Who could sign as well.
    pub could: Vec<KeyName>,
    /// Why the others do not count, by their place, counted from 1 (0: no place of its own).
    pub defects: Vec<(usize, SignatureDefect)>,
}

impl std::fmt::Display for Unsigned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = |names: &[KeyName]| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let Self { kind, role, root_version, have, need, could, defects } = self;
        let plural = if *need == 1 { "" } else { "s of distinct keys" };
        write!(
            f,
            "the {kind} has {} of {need} signature{plural} that trust root {root_version} asks of the {role} role",
            have.len()
        )?;
        if !have.is_empty() {
            write!(f, " ({})", names(have))?;
        }
        for (place, defect) in defects {
            match place {
                0 => write!(f, "; {defect}")?,
                place => write!(f, "; signature {place}: {defect}")?,
            }
        }
        if could.is_empty() { Ok(()) } else { write!(f, "; {} may sign", names(could)) }
    }
}

/// What a number counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Counted {
    /// Trust roots.
    TrustRoot,
    /// Generations of a campaign's plan.
    Plan(CampaignId),
    /// Halts and resumes of a campaign, or of the whole fleet.
    Stop(Option<CampaignId>),
    /// Enrolments of a server.
    Enrolment(ServerId),
    /// Revocation lists.
    Revocation,
    /// Reaps of a server.
    Reap(ServerId),
    /// Resumes of a campaign's pauses.
    Pauses(CampaignId),
}

impl std::fmt::Display for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TrustRoot => write!(f, "trust root"),
            Self::Plan(campaign) => write!(f, "the plan of {campaign}, generation"),
            Self::Stop(Some(campaign)) => write!(f, "the halt or resume of {campaign}, sequence"),
            Self::Stop(None) => write!(f, "the halt or resume of the whole fleet, sequence"),
            Self::Enrolment(server) => write!(f, "the enrolment of {server}, sequence"),
            Self::Revocation => write!(f, "the revocation list, sequence"),
            Self::Reap(server) => write!(f, "the reap of {server}, sequence"),
            Self::Pauses(campaign) => write!(f, "the resume of pauses of {campaign}, sequence"),
        }
    }
}

/// Why a start is not permitted now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartRefusal {
    /// No plan held.
    #[error("no plan is held for this campaign")]
    UnknownCampaign,
    /// The plan does not select the server.
    #[error("the plan does not select this server")]
    NotSelected,
    /// A halt is in force.
    #[error("halted: {reason}")]
    Halted {
        /// The halter's words.
        reason: String,
    },
    /// Past the plan's `expires`.
    #[error("the plan expired at {expired}")]
    PlanExpired {
        /// When.
        expired: WallTime,
    },
    /// Past the enrolment's `expires`.
    #[error("the enrolment expired at {expired}")]
    EnrolmentExpired {
        /// When.
        expired: WallTime,
    },
    /// Past the trust root's `expires`.
    #[error("the trust root expired at {expired}: sign and hand over the next one")]
    RootExpired {
        /// When.
        expired: WallTime,
    },
    /// The machine is out.
    #[error("this machine's key is revoked")]
    Revoked,
    /// Signed by keys that the trust root in force does not accept any more.
    #[error("the trust root in force does not accept the plan's signers any more: sign its next generation")]
    Withdrawn,
    /// The signers' role does not reach this server, or has ended.
    #[error("the plan's signers hold the plan role for other servers than tier {tier} here, or held it until {}", until.map_or("now".to_owned(), |until| until.to_string()))]
    OutOfReach {
        /// The server's tier.
        tier: Tier,
        /// When the last of their role entries ended, if one did.
        until: Option<WallTime>,
    },
}
