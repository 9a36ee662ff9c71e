//! Every bound on what a stranger can make us hold, in one place.
//!
//! Owns the numbers; each says why it is what it is. Everything that decodes, queues or allocates for a
//! peer takes its bound from here.

/// Longest id (server, site, campaign, …) in bytes. A DNS label is 63; one more keeps the number round.
pub const ID_BYTES_MAX: usize = 64;

/// Largest signed document body in bytes. A trust root with 200 keys and a plan with 10,000 named servers
/// (64 bytes each) both fit.
pub const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;

/// Largest armoured SSHSIG in bytes. An RSA-4096 one is under 2 KiB; FIDO ones are under 1 KiB.
pub const SIGNATURE_BYTES_MAX: usize = 4 * 1024;

/// Most signatures beside one document: more signers than any threshold needs.
pub const SIGNATURES_MAX: usize = 32;

/// Largest control message (gossip or request-response): a document with all its signatures, and a frame.
pub const MESSAGE_BYTES_MAX: usize = DOCUMENT_BYTES_MAX + SIGNATURES_MAX * SIGNATURE_BYTES_MAX + 4 * 1024;

/// Largest small control message: everything but document transfer.
pub const SMALL_MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Documents handed over in one answer to a peer that is catching up.
pub const DOCUMENTS_PER_SYNC_MAX: usize = 8;

/// Most documents of all kinds that a machine keeps and offers to others.
pub const DOCUMENTS_KEPT_MAX: usize = 1024;

/// Largest chunk in bytes, uncompressed. FastCDC cuts between a quarter and four times the average.
pub const CHUNK_BYTES_MAX: u32 = 4 * 1024 * 1024;

/// Largest zstd frame of one chunk: zstd's own worst case is chunk + chunk/256 + 64 bytes.
pub const FRAME_BYTES_MAX: u32 = CHUNK_BYTES_MAX + CHUNK_BYTES_MAX / 256 + 64;

/// Most chunks in one artifact: 20 GB at a 256 KiB average is 80,000; this leaves room for finer cuts.
pub const CHUNKS_MAX: usize = 262_144;

/// Most chunks that one announcement names one by one in a list: beside the largest have-set two lists still fit its
/// bound.
pub const CHUNKS_PER_NOTE_MAX: usize = 512;

/// Largest encoded manifest: 80 bytes a chunk and a header.
pub const MANIFEST_BYTES_MAX: usize = CHUNKS_MAX * 80 + 4 * 1024;

/// Largest artifact in bytes, uncompressed.
pub const ARTIFACT_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;

/// Most artifacts in one plan.
pub const ARTIFACTS_PER_PLAN_MAX: usize = 16;

/// Most earlier manifests that one artifact of a plan may replace.
pub const FROM_PER_ARTIFACT_MAX: usize = 64;

/// Most probes in one plan.
pub const PROBES_MAX: usize = 64;

/// Most members of one redundancy group that are asked before a start.
pub const GROUP_MEMBERS_MAX: usize = 64;

/// Most entries in an archive: a JDK has 500, a root file system 200,000.
pub const ARCHIVE_ENTRIES_MAX: usize = 2_000_000;

/// Longest path inside an archive, in bytes (Linux PATH_MAX).
pub const ARCHIVE_PATH_BYTES_MAX: usize = 4096;

/// Most bytes of extended attributes of one entry of an archive: the longest value that Linux has, or all that
/// ext4 keeps of one file many times over.
pub const ARCHIVE_ATTRIBUTES_BYTES_MAX: usize = 64 * 1024 + 512;

/// Deepest directory inside an archive. Unpacking holds every directory on the way open, and a service may
/// have 1,024 files open by default; the deepest trees seen in practice (nested node modules) stay under 60.
pub const ARCHIVE_DEPTH_MAX: usize = 128;

/// How far a generation or sequence may jump past the highest one seen: room for years of operator
/// changes missed while isolated, and never the fast-forward to the maximum that would lock us out.
pub const COUNTER_JUMP_MAX: u64 = 10_000;

/// Longest text for people in a signed document (a reason, a description), in bytes: two screens.
pub const TEXT_BYTES_MAX: usize = 4 * 1024;

/// Most keys in a trust root: every operator of a large organisation, and their spare hardware keys.
pub const TRUST_KEYS_MAX: usize = 256;

/// Most role entries in a trust root: eight roles, for some sites each.
pub const TRUST_ROLES_MAX: usize = 64;

/// Most campaigns whose plans a machine keeps at once; expired ones make room.
pub const CAMPAIGNS_KEPT_MAX: usize = 256;

/// Most scopes (campaigns, and the fleet) whose halts a machine keeps. One key makes a halt, so this is what
/// a thief of it can make us hold; the halt of the whole fleet always fits.
pub const HALT_SCOPES_MAX: usize = 512;

/// Most machines in one fleet: thirteen times what is asked for, and room for a trial of 100,000.
pub const MACHINES_MAX: usize = 131_072;

/// Most labels of one machine.
pub const LABELS_MAX: usize = 64;

/// How far ahead of all that we know a document may be dated and still move trusted time: an operator's clock
/// may be set to another day by mistake, and must not be able to expire everything.
pub const ISSUED_AHEAD_S_MAX: i64 = 24 * 60 * 60;

/// Longest duration in a plan, in seconds: a month. Anything longer is a slip of the pen.
pub const PLAN_DURATION_S_MAX: u32 = 31 * 24 * 60 * 60;

/// Most maintenance windows in one plan: one for each day and tier, with room.
pub const WINDOWS_PER_PLAN_MAX: usize = 32;

/// Longest pattern of a window's openings, in bytes: five fields with every hour listed one by one fit.
pub const CRON_BYTES_MAX: usize = 256;

/// Longest time that one opening of a window lasts, in seconds: a week. More is open most of the time.
pub const WINDOW_OPEN_S_MAX: u32 = 7 * 24 * 60 * 60;

/// Most arguments of one command in a plan.
pub const COMMAND_ARGUMENTS_MAX: usize = 128;

/// Most stages in one plan: one a site, tier and pool of a large fleet.
pub const STAGES_MAX: usize = 64;

/// Most rows in one of a plan's tables of failures: more failures than any tier of a large fleet may have.
pub const STOP_STEPS_MAX: usize = 256;

/// Most attempts that a plan looks back on for a pause.
pub const STOP_WINDOW_MAX: u32 = 1_000;

/// Most pauses that one resume ends: every tier, site and hardware model of a large fleet.
pub const PAUSES_PER_RESUME_MAX: usize = 256;

/// Most rules of order in one plan: a service map of a large base.
pub const ORDER_RULES_MAX: usize = 64;
