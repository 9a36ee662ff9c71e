//! The one place where bytes become machine messages and back: bincode 2, bounded, versioned.
//!
//! Owns the encoding of everything that machines say to each other or keep in their stores. Main invariant:
//! decoding allocates at most the stated bound, refuses trailing bytes and other versions, and never panics.
//! Signed messages carry a context in what is signed, so that no message can stand in for another kind.

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::ids::PeerKey;
use crate::signed_before;

/// Version byte in front of every encoded value.
pub const WIRE_VERSION: u8 = 1;

/// Why bytes were refused, or a value could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// More bytes than this kind of message may have.
    #[error("message of {length} bytes is over the bound of {bound}")]
    TooLong {
        /// Bytes offered.
        length: usize,
        /// Bytes allowed.
        bound: usize,
    },
    /// Not our version.
    #[error("message version {found} is not {WIRE_VERSION}, the one this program speaks")]
    Version {
        /// The version byte found.
        found: u8,
    },
    /// Nothing there.
    #[error("empty message")]
    Empty,
    /// Does not decode as the expected type.
    #[error("malformed message")]
    Decode(#[source] bincode::error::DecodeError),
    /// Bytes after the end of the value.
    #[error("{0} bytes after the end of the message")]
    Trailing(usize),
    /// A value that cannot be encoded.
    #[error("unencodable value")]
    Encode(#[source] bincode::error::EncodeError),
    /// The signature does not match the bytes, or the key is not one.
    #[error("signature by {signer:.16} does not verify")]
    Signature {
        /// Who was said to have signed.
        signer: PeerKey,
    },
}

/// Encodes a value, refusing more than `bound` bytes.
///
/// # Errors
/// [`WireError::TooLong`] or [`WireError::Encode`].
pub fn encode<T: Serialize>(value: &T, bound: usize) -> Result<Vec<u8>, WireError> {
    let mut bytes = Vec::new();
    encode_onto(&mut bytes, value, bound)?;
    Ok(bytes)
}

/// Encodes a value behind what is there already, refusing more than `bound` bytes for it. Many values go into
/// one buffer this way without one of its own for each.
///
/// # Errors
/// [`WireError::TooLong`] or [`WireError::Encode`]; `bytes` is as it was then.
pub fn encode_onto<T: Serialize>(bytes: &mut Vec<u8>, value: &T, bound: usize) -> Result<(), WireError> {
    let start = bytes.len();
    bytes.push(WIRE_VERSION);
    let encoded = bincode::serde::encode_into_writer(value, Onto(&mut *bytes), bincode::config::standard());
    let length = bytes.len() - start;
    let outcome = match encoded {
        Err(error) => Err(WireError::Encode(error)),
        Ok(()) if length > bound => Err(WireError::TooLong { length, bound }),
        Ok(()) => return Ok(()),
    };
    bytes.truncate(start);
    outcome
}

/// bincode's way to a buffer that grows.
struct Onto<'a>(&'a mut Vec<u8>);

impl bincode::enc::write::Writer for Onto<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// Decodes a value from exactly these bytes. bincode itself is told the bound of its size class, so that a
/// length prefix that lies cannot allocate more than the message could have held.
///
/// # Errors
/// Every variant of [`WireError`] but `Encode` and `Signature`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], bound: usize) -> Result<T, WireError> {
    if bytes.len() > bound {
        return Err(WireError::TooLong { length: bytes.len(), bound });
    }
    let (version, body) = bytes.split_first().ok_or(WireError::Empty)?;
    if *version != WIRE_VERSION {
        return Err(WireError::Version { found: *version });
    }
    let (value, used) = decode_body(body)?;
    if used != body.len() {
        return Err(WireError::Trailing(body.len() - used));
    }
    Ok(value)
}

/// bincode's limit is a constant of its type and counts bytes claimed in memory, so the class is chosen by
/// the length at hand: a claim is never more than 64 times the bytes that were really received, rounded up.
fn decode_body<T: DeserializeOwned>(body: &[u8]) -> Result<(T, usize), WireError> {
    const SMALL: usize = 64 * 1024;
    const MEDIUM: usize = 4 * 1024 * 1024;
    const LARGE: usize = 128 * 1024 * 1024;
    let config = bincode::config::standard();
    let decoded = if body.len() <= SMALL / 64 {
        bincode::serde::decode_from_slice(body, config.with_limit::<SMALL>())
    } else if body.len() <= MEDIUM / 64 {
        bincode::serde::decode_from_slice(body, config.with_limit::<MEDIUM>())
    } else {
        bincode::serde::decode_from_slice(body, config.with_limit::<LARGE>())
    };
    decoded.map_err(WireError::Decode)
}

/// A machine message with its sender's signature, as kept or relayed: the exact bytes that were signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// Who signed: an ed25519 machine key.
    pub signer: PeerKey,
    /// The encoded message.
    pub body: Vec<u8>,
    /// ed25519 over the context and the body.
    pub signature: SignatureBytes,
}

/// An ed25519 signature: 64 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignatureBytes(pub [u8; 64]);

impl Serialize for SignatureBytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.0[..32], &self.0[32..]).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SignatureBytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (front, back) = <(Vec<u8>, Vec<u8>)>::deserialize(deserializer)?;
        let mut bytes = [0u8; 64];
        if front.len() != 32 || back.len() != 32 {
            return Err(serde::de::Error::custom("an ed25519 signature has 64 bytes"));
        }
        bytes[..32].copy_from_slice(&front);
        bytes[32..].copy_from_slice(&back);
        Ok(Self(bytes))
    }
}

/// A message kind that machines sign. The context is part of what is signed.
pub trait SignedMessage: Serialize + DeserializeOwned {
    /// Separates this kind from all others, for ever: `lunar.<kind>.v<n>`.
    const CONTEXT: &'static str;
    /// Largest encoding in bytes.
    const BYTES_MAX: usize;
}

fn signing_input(context: &str, body: &[u8]) -> Vec<u8> {
    let mut input = Vec::with_capacity(context.len() + 1 + body.len());
    input.extend_from_slice(context.as_bytes());
    input.push(0);
    input.extend_from_slice(body);
    input
}

impl Signed {
    /// Signs a message with a machine's key.
    ///
    /// # Errors
    /// [`WireError`] if the message is over its bound.
    pub fn sign<M: SignedMessage>(message: &M, key: &SigningKey) -> Result<Self, WireError> {
        let body = encode(message, M::BYTES_MAX)?;
        let signature = key.sign(&signing_input(M::CONTEXT, &body));
        let signed = Self {
            signer: PeerKey(key.verifying_key().to_bytes()),
            body,
            signature: SignatureBytes(signature.to_bytes()),
        };
        signed_before::was_made(&signed.checked_parts::<M>());
        Ok(signed)
    }

    /// The message, once its signature is known to be by `self.signer`. Whether that signer may say such a
    /// thing is for the caller to decide.
    ///
    /// # Errors
    /// [`WireError`] if the signature or the encoding is wrong.
    pub fn open<M: SignedMessage>(&self) -> Result<M, WireError> {
        let is_good = signed_before::is_good(&self.checked_parts::<M>(), || {
            let signature = ed25519_dalek::Signature::from_bytes(&self.signature.0);
            VerifyingKey::from_bytes(&self.signer.0).is_ok_and(|key| {
                key.verify_strict(&signing_input(M::CONTEXT, &self.body), &signature).is_ok()
            })
        });
        if !is_good {
            return Err(WireError::Signature { signer: self.signer });
        }
        decode(&self.body, M::BYTES_MAX)
    }

    /// All that the check of the signature looks at.
    fn checked_parts<M: SignedMessage>(&self) -> [&[u8]; 5] {
        [b"message", &self.signer.0, M::CONTEXT.as_bytes(), &self.body, &self.signature.0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Ping(u64);
    impl SignedMessage for Ping {
        const CONTEXT: &'static str = "lunar.test-ping.v1";
        const BYTES_MAX: usize = 64;
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Pong(u64);
    impl SignedMessage for Pong {
        const CONTEXT: &'static str = "lunar.test-pong.v1";
        const BYTES_MAX: usize = 64;
    }

    #[test]
    fn a_signed_message_opens_as_its_own_kind_only() {
        let signed = Signed::sign(&Ping(7), &SigningKey::from_bytes(&[1; 32])).unwrap();
        assert_eq!(signed.open::<Ping>().unwrap(), Ping(7));
        assert!(matches!(signed.open::<Pong>(), Err(WireError::Signature { .. })));
        let mut bent = signed.clone();
        bent.body[1] ^= 1;
        assert!(matches!(bent.open::<Ping>(), Err(WireError::Signature { .. })));
    }

    #[test]
    fn what_is_encoded_behind_other_bytes_leaves_them_alone_and_is_taken_back_if_it_is_too_long() {
        let mut bytes = b"before".to_vec();
        encode_onto(&mut bytes, &Ping(7), 16).unwrap();
        assert_eq!(bytes, [b"before", encode(&Ping(7), 16).unwrap().as_slice()].concat());
        let before = bytes.clone();
        let refused = encode_onto(&mut bytes, &[9u8; 16], 16);
        assert!(matches!(refused, Err(WireError::TooLong { length: 17, bound: 16 })), "{refused:?}");
        assert_eq!(bytes, before);
    }

    #[test]
    fn a_lying_length_is_refused_without_allocating() {
        let mut bytes = vec![WIRE_VERSION, 253];
        bytes.extend_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(decode::<Vec<u8>>(&bytes, 1024), Err(WireError::Decode(_))));
        assert!(matches!(decode::<u8>(&[WIRE_VERSION, 1, 2], 16), Err(WireError::Trailing(1))));
        assert!(matches!(decode::<u8>(&[9, 1], 16), Err(WireError::Version { found: 9 })));
        assert!(matches!(decode::<u8>(&[], 16), Err(WireError::Empty)));
    }
}
