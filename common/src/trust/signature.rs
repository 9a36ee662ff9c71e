//! One OpenSSH signature (SSHSIG) over one document's bytes, and a role's threshold over many.
//!
//! Owns the check of a signature and the counting of distinct keys. Main invariant: a key counts only if it is
//! in the trust root, signed these exact bytes in this kind's namespace and, if it lives in hardware, proved a
//! touch: stock tools do not check that. Refuses every algorithm that the trust root refuses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ssh_key::public::KeyData;
use ssh_key::{Algorithm, HashAlg, PublicKey, SshSig};

use super::root::{RoleName, TrustRole, TrustRoot, parse_key};
use crate::bounds::{SIGNATURE_BYTES_MAX, SIGNATURES_MAX};
use crate::document::Kind;
use crate::ids::KeyName;
use crate::signed_before;

/// Why one signature does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureDefect {
    /// Longer than any signature is.
    #[error("it has {0} bytes; at most {SIGNATURE_BYTES_MAX} are read")]
    TooLong(usize),
    /// Not SSHSIG.
    #[error("it is not an OpenSSH signature: {0}")]
    Malformed(String),
    /// Made for something else.
    #[error("it was made in the namespace {found:?}; sign with `-n {wanted}`")]
    Namespace {
        /// Its namespace.
        found: String,
        /// The one of this kind of document.
        wanted: &'static str,
    },
    /// By nobody we know.
    #[error("its key ({fingerprint}) is not in the trust root")]
    UnknownKey {
        /// The key's fingerprint, as `ssh-keygen -l` prints it.
        fingerprint: String,
    },
    /// By somebody who may sign other things.
    #[error("{name} is in the trust root, but does not hold the {role} role")]
    NotInRole {
        /// Whose key.
        name: KeyName,
        /// The role wanted.
        role: RoleName,
    },
    /// Does not verify.
    #[error(
        "it names {name}'s key, but does not match these bytes: the file was changed after signing, or it is forged"
    )]
    Forged {
        /// Whose key.
        name: KeyName,
    },
    /// A hardware key that nobody touched.
    #[error("{name}'s hardware key signed without a touch: sign again with a key that asks for one")]
    NoTouch {
        /// Whose key.
        name: KeyName,
    },
    /// A hardware key that did not ask who touched it, where tier 1 is in reach.
    #[error(
        "{name}'s hardware key signed without checking its user, which tier 1 needs: make it with `-O verify-required`"
    )]
    NotUserVerified {
        /// Whose key.
        name: KeyName,
    },
    /// Whoever wrote the plan does not approve it.
    #[error("{name} wrote the plan, and may not approve it too: let somebody else sign")]
    Author {
        /// Whose key.
        name: KeyName,
    },
    /// The same key twice.
    #[error("{name} signed already: one key counts once")]
    Repeated {
        /// Whose key.
        name: KeyName,
    },
}

/// A key that signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GoodSignature {
    /// Its names in the trust root.
    pub(super) names: BTreeSet<KeyName>,
    /// The armoured signature, to keep and pass on.
    pub(super) armoured: String,
    /// Whether the key knew its user. Always so for keys that are not in hardware: the person has the file.
    user_verified: bool,
}

/// What the signatures of a document amount to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Signatures {
    pub(super) good: BTreeMap<KeyData, GoodSignature>,
    /// Those that do not count, by their place, counted from 1.
    pub(super) defects: Vec<(usize, SignatureDefect)>,
}

/// The keys of one trust root, parsed once. Copies of a trust state share them.
#[derive(Debug, Clone)]
pub(super) struct KeyRing(Arc<BTreeMap<KeyData, BTreeSet<KeyName>>>);

impl KeyRing {
    /// The keys of a root that passed its checks.
    pub(super) fn of(root: &TrustRoot) -> Self {
        let mut ring: BTreeMap<KeyData, BTreeSet<KeyName>> = BTreeMap::new();
        for (name, line) in &root.keys {
            if let Ok(key) = parse_key(line) {
                ring.entry(key).or_default().insert(name.clone());
            }
        }
        Self(Arc::new(ring))
    }

    /// Checks each signature by itself. At most [`SIGNATURES_MAX`] are looked at.
    pub(super) fn check(&self, kind: Kind, body: &[u8], armoured: &[String]) -> Signatures {
        let mut found = Signatures::default();
        for (index, text) in armoured.iter().take(SIGNATURES_MAX).enumerate() {
            match self.check_one(kind, body, text, &found.good) {
                Ok((key, good)) => drop(found.good.insert(key, good)),
                Err(defect) => found.defects.push((index + 1, defect)),
            }
        }
        found
    }

    fn check_one(
        &self,
        kind: Kind,
        body: &[u8],
        armoured: &str,
        before: &BTreeMap<KeyData, GoodSignature>,
    ) -> Result<(KeyData, GoodSignature), SignatureDefect> {
        if armoured.len() > SIGNATURE_BYTES_MAX {
            return Err(SignatureDefect::TooLong(armoured.len()));
        }
        let malformed = |why: &str| SignatureDefect::Malformed(why.to_owned());
        let signature = SshSig::from_pem(armoured.trim()).map_err(|error| malformed(&error.to_string()))?;
        if signature.version() != SshSig::VERSION || !signature.reserved().is_empty() {
            return Err(malformed("its version or reserved field is from the future"));
        }
        if signature.namespace() != kind.namespace() {
            let found = signature.namespace().chars().take(80).collect();
            return Err(SignatureDefect::Namespace { found, wanted: kind.namespace() });
        }
        let key = signature.public_key();
        let (Some(names), Some(name)) = (self.0.get(key), self.0.get(key).and_then(BTreeSet::first)) else {
            let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
            return Err(SignatureDefect::UnknownKey { fingerprint });
        };
        if before.contains_key(key) {
            return Err(SignatureDefect::Repeated { name: name.clone() });
        }
        if key.algorithm() != signature.algorithm() {
            return Err(SignatureDefect::Forged { name: name.clone() });
        }
        // The armoured text holds the key and the signature.
        let parts: [&[u8]; 4] = [b"document", kind.namespace().as_bytes(), body, armoured.as_bytes()];
        let is_good = signed_before::is_good(&parts, || {
            PublicKey::from(key.clone()).verify(kind.namespace(), body, &signature).is_ok()
        });
        if !is_good {
            return Err(SignatureDefect::Forged { name: name.clone() });
        }
        let user_verified = match hardware_flags(&signature) {
            None => true,
            Some(flags) if flags & USER_PRESENT == 0 => {
                return Err(SignatureDefect::NoTouch { name: name.clone() });
            }
            Some(flags) => flags & USER_VERIFIED != 0,
        };
        let good = GoodSignature { names: names.clone(), armoured: armoured.to_owned(), user_verified };
        Ok((key.clone(), good))
    }
}

/// FIDO's user-presence flag: somebody touched the key.
const USER_PRESENT: u8 = 1;
/// FIDO's user-verified flag: the key knew who, by PIN or finger.
const USER_VERIFIED: u8 = 4;
/// What a hardware key appends to its signature: a byte of flags and a counter of four.
const HARDWARE_TRAILER_BYTES: usize = 5;

/// The flags of a hardware key's signature; `None` for other keys. They are part of what it signed.
fn hardware_flags(signature: &SshSig) -> Option<u8> {
    match signature.algorithm() {
        Algorithm::SkEd25519 | Algorithm::SkEcdsaSha2NistP256 => {
            let bytes = signature.signature_bytes();
            // No trailer cannot have verified; no flags is the strict reading.
            Some(
                bytes
                    .len()
                    .checked_sub(HARDWARE_TRAILER_BYTES)
                    .and_then(|at| bytes.get(at))
                    .copied()
                    .unwrap_or(0),
            )
        }
        _ => None,
    }
}

impl Signatures {
    /// The names of all keys that signed.
    pub(super) fn names(&self) -> BTreeSet<KeyName> {
        self.good.values().flat_map(|good| good.names.iter().cloned()).collect()
    }

    /// Leaves a person's key out, whatever other names it has.
    pub(super) fn leave_out(&mut self, author: &KeyName) {
        let before = self.good.len();
        self.good.retain(|_, good| !good.names.contains(author));
        if self.good.len() < before {
            self.defects.push((0, SignatureDefect::Author { name: author.clone() }));
        }
    }

    /// The names of those of one role entry, if enough distinct keys of it signed.
    pub(super) fn meet(&self, role: &TrustRole) -> Option<BTreeSet<KeyName>> {
        let counted = self.counted(role);
        let enough = usize::try_from(role.threshold).is_ok_and(|threshold| counted.len() >= threshold.max(1));
        enough.then(|| self.names_of(role))
    }

    /// The names of those who signed and hold a role entry, enough or not.
    pub(super) fn names_of(&self, role: &TrustRole) -> BTreeSet<KeyName> {
        self.counted(role).into_iter().flat_map(|good| good.names.intersection(&role.keys).cloned()).collect()
    }

    /// Whether any signature counts for one role entry.
    pub(super) fn counts(&self, role: &TrustRole) -> bool {
        !self.counted(role).is_empty()
    }

    /// The signatures that count for one role entry: one a distinct key.
    pub(super) fn counted(&self, role: &TrustRole) -> Vec<&GoodSignature> {
        self.good
            .values()
            .filter(|good| !good.names.is_disjoint(&role.keys))
            .filter(|good| good.user_verified || !role.needs_user_verified())
            .collect()
    }

    /// Why good signatures do not count for one role entry.
    pub(super) fn uncounted(&self, role: &TrustRole) -> Vec<SignatureDefect> {
        let why = |good: &GoodSignature| {
            let name = good.names.first()?.clone();
            if good.names.is_disjoint(&role.keys) {
                Some(SignatureDefect::NotInRole { name, role: role.name })
            } else if !good.user_verified && role.needs_user_verified() {
                Some(SignatureDefect::NotUserVerified { name })
            } else {
                None
            }
        };
        self.good.values().filter_map(why).collect()
    }
}

/// The kind of document that a signature says it was made for, by its namespace. Proves nothing.
#[must_use]
pub fn claimed_kind(armoured: &str) -> Option<Kind> {
    if armoured.len() > SIGNATURE_BYTES_MAX {
        return None;
    }
    let signature = SshSig::from_pem(armoured.trim()).ok()?;
    Kind::ALL.into_iter().find(|kind| kind.namespace() == signature.namespace())
}
