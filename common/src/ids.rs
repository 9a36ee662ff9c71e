//! Names and numbers of things.
//!
//! Owns every id type. Main invariant: an id that exists is well formed (length, alphabet), so it can be put
//! in a path, a log line or a URL as it is.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::bounds::ID_BYTES_MAX;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing at all.
    #[error("an id must not be empty")]
    Empty,
    /// Longer than [`ID_BYTES_MAX`].
    #[error("an id has at most {ID_BYTES_MAX} characters, this one has {0}")]
    TooLong(usize),
    /// A character outside the alphabet, or a leading dot or dash.
    #[error(
        "character {0:?} is not allowed in an id: use a-z, A-Z, 0-9, '-', '_' and '.', \
         beginning with a letter or a digit"
    )]
    Character(char),
    /// A hash or key that is not 64 hexadecimal digits.
    #[error("expected 64 hexadecimal digits, found {0:?}")]
    Hex(String),
}

/// A name, as a pattern: what [`check_name`] lets through, but for its length.
const NAME_PATTERN: &str = "^[a-zA-Z0-9][a-zA-Z0-9._-]*$";

/// A hash or key, as a pattern.
const HEX_PATTERN: &str = "^[0-9a-fA-F]{64}$";

fn check_name(text: &str) -> Result<(), IdError> {
    let first = text.chars().next().ok_or(IdError::Empty)?;
    if text.len() > ID_BYTES_MAX {
        return Err(IdError::TooLong(text.len()));
    }
    if !first.is_ascii_alphanumeric() {
        return Err(IdError::Character(first));
    }
    match text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))) {
        Some(c) => Err(IdError::Character(c)),
        None => Ok(()),
    }
}

/// A name's text, with its first bytes beside the pointer to all of them: names are the keys of large maps, and most of
/// them differ there, so that a look-up follows no pointer. The order is that of the text.
#[derive(Clone)]
struct Name {
    head: u64,
    text: Arc<str>,
}

impl Name {
    fn new(text: &str) -> Self {
        let mut head = [0; HEAD_BYTES];
        for (to, from) in head.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        Self { head: u64::from_be_bytes(head), text: text.into() }
    }

    /// Whether the heads tell all: no name holds the zero byte that fills them up.
    fn are_heads_all(&self, other: &Self) -> bool {
        self.text.len() <= HEAD_BYTES && other.text.len() <= HEAD_BYTES
    }
}

const HEAD_BYTES: usize = size_of::<u64>();

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.head == other.head && (self.are_heads_all(other) || self.text == other.text)
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.head.cmp(&other.head).then_with(|| match self.are_heads_all(other) {
            true => Ordering::Equal,
            false => self.text.cmp(&other.text),
        })
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

macro_rules! name_id {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Name);

        impl $name {
            /// The id from a text, if it is one.
            ///
            /// # Errors
            /// [`IdError`] names what is wrong with the text.
            pub fn new(text: &str) -> Result<Self, IdError> {
                check_name(text)?;
                Ok(Self(Name::new(text)))
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0.text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0.text)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "maxLength": ID_BYTES_MAX, "pattern": NAME_PATTERN })
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.text.as_ref().to_owned()
            }
        }
    )+};
}

name_id! {
    /// A fleet: everything under one trust root.
    FleetId;
    /// One server. Unique in its fleet.
    ServerId;
    /// A place: servers of one site reach each other over a fast network.
    SiteId;
    /// A cluster inside a site.
    ClusterId;
    /// A redundancy group: servers that stand in for one another.
    GroupId;
    /// What a server does (`life-support`, `navigation`, …).
    ServiceId;
    /// One campaign: all generations of one plan.
    CampaignId;
    /// A key's name in the trust root (`alice`, `base-commander`).
    KeyName;
    /// An artifact's or a release's name (`web`, `kernel`).
    ArtifactName;
    /// A version, as people write it. Never compared for order: only manifests decide.
    Version;
    /// A health probe's name in its plan.
    ProbeName;
    /// A stage's name in its plan.
    StageName;
    /// A maintenance window's name in its plan.
    WindowName;
}

macro_rules! bytes_id {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut text = String::with_capacity(64);
                push_hex(&mut text, &self.0);
                f.pad(&text)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self:.8})", stringify!($name))
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": HEX_PATTERN })
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_hex(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
                } else {
                    <[u8; 32]>::deserialize(deserializer).map(Self)
                }
            }
        }
    )+};
}

bytes_id! {
    /// An artifact: the BLAKE3 of its encoded manifest.
    ArtifactId;
    /// A chunk's content: its BLAKE3.
    ChunkHash;
    /// A chunk's zstd frame: its BLAKE3.
    FrameHash;
    /// A signed document's body: its BLAKE3. For a plan, this is the plan's hash.
    DocumentHash;
    /// A record of a hash-chained log: the BLAKE3 of its body and its predecessor's hash.
    RecordHash;
    /// A pause of a campaign: the BLAKE3 of its evidence.
    PauseId;
    /// A machine's ed25519 public key: its identity in the mesh and on the data plane.
    PeerKey;
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

fn parse_hex(text: &str) -> Result<[u8; 32], IdError> {
    let wrong = || IdError::Hex(text.chars().take(80).collect());
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return Err(wrong());
    }
    let mut bytes = [0u8; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16).ok_or_else(wrong)?;
        let low = char::from(pair[1]).to_digit(16).ok_or_else(wrong)?;
        *byte = u8::try_from(high << 4 | low).map_err(|_| wrong())?;
    }
    Ok(bytes)
}

macro_rules! number_id {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The number after this one.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    )+};
}

number_id! {
    /// One life of a coordinator. Persisted before it grants; agents refuse lower ones.
    Epoch;
    /// Order of grants over all epochs. Agents refuse lower ones.
    Fence;
    /// A lease, unique in its fleet.
    LeaseId;
    /// The nth version of a campaign's plan.
    Generation;
    /// Order of halts, resumes, revocations and enrolments.
    Sequence;
    /// A server's nth try at one campaign.
    Attempt;
    /// A record's place in a log.
    LogIndex;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_refuse_what_could_leave_a_path() {
        for text in ["", ".", "..", "a/b", "-x", "a b", "é", &"x".repeat(65)] {
            assert!(ServerId::new(text).is_err(), "{text:?} was accepted");
        }
        assert_eq!(ServerId::new("srv-01.moon_a").unwrap().to_string(), "srv-01.moon_a");
    }

    #[test]
    fn names_are_ordered_as_their_texts_however_long() {
        let texts =
            ["a", "a-", "srv-1", "srv-10", "srv-1000", "srv-10000", "srv-10001", "srv-2", "srv-20000", "z"];
        for (at, one) in texts.iter().enumerate() {
            for (other_at, other) in texts.iter().enumerate() {
                let (one, other) = (ServerId::new(one).unwrap(), ServerId::new(other).unwrap());
                assert_eq!(one.cmp(&other), at.cmp(&other_at), "{one} and {other}");
                assert_eq!(one == other, at == other_at);
            }
        }
    }

    #[test]
    fn hashes_survive_text_and_refuse_other_lengths() {
        let id = ArtifactId(std::array::from_fn(|i| u8::try_from(i).unwrap() * 7));
        assert_eq!(id.to_string().parse::<ArtifactId>().unwrap(), id);
        assert!("abc".parse::<ArtifactId>().is_err());
        assert!("g".repeat(64).parse::<ArtifactId>().is_err());
        assert!("é".repeat(32).parse::<ArtifactId>().is_err());
    }
}
