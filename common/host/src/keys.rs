//! Private keys in OpenSSH's files, and signatures made with them.
//!
//! Owns machine keys (ed25519, one a machine: its identity in the mesh and on the data plane) and people's
//! signing. Main invariant: a private key is readable by its owner alone, from its first byte on disk, and
//! leaves memory wiped. Refuses key files that others can read.
//!
//! People sign with whatever OpenSSH can sign with. A plain ed25519 key file is used directly. Everything
//! else (a key with a passphrase, one in ssh-agent, a FIDO key) is signed with by `ssh-keygen -Y sign`, which
//! knows how to ask for passphrases and touches: so much better tested than anything written here.

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ed25519_dalek::SigningKey;
use lunar_common::bounds::SIGNATURE_BYTES_MAX;
use lunar_common::document::{Kind, armoured_signature};
use lunar_common::ids::PeerKey;
use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{LineEnding, PrivateKey, PublicKey};
use zeroize::Zeroizing;

use crate::exit::{Exit, Failure};
use crate::files::{FileError, create_atomically, read_bounded};

/// Largest key file read: an RSA-16384 private key is under 16 KiB.
const KEY_FILE_BYTES_MAX: usize = 32 * 1024;

/// Why a key could not be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file itself.
    #[error(transparent)]
    File(#[from] FileError),
    /// Others can read it.
    #[error(
        "{path} is open to others (mode {mode:03o}): run `chmod 600 {path}`, and replace the key if others used the machine"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not an OpenSSH key.
    #[error("{path} is not an OpenSSH key file")]
    Format {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ssh_key::Error,
    },
    /// A key with a passphrase where nobody is there to type it.
    #[error("{path} has a passphrase; a machine's key must have none: nobody is there to type it")]
    Encrypted {
        /// The file.
        path: PathBuf,
    },
    /// Not ed25519.
    #[error("{path} holds a key of type {found}; a machine's key must be ed25519")]
    Algorithm {
        /// The file.
        path: PathBuf,
        /// Its type.
        found: String,
    },
    /// No randomness.
    #[error("the system gives no randomness: {0}")]
    Randomness(getrandom::Error),
    /// ssh-keygen is not there.
    #[error(
        "cannot run ssh-keygen, which signs with keys that have a passphrase, are in an agent or in hardware"
    )]
    Program(#[source] io::Error),
    /// ssh-keygen refused.
    #[error("ssh-keygen did not sign with {path}; it said why above")]
    Refused {
        /// The key.
        path: PathBuf,
    },
    /// The key could not sign.
    #[error("cannot sign with {path}")]
    Sign {
        /// The key.
        path: PathBuf,
        /// Why.
        #[source]
        source: ssh_key::Error,
    },
}

impl KeyError {
    /// The code to end with: [`FileError::exit`]'s rule, and a key that must not be used is not trusted.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::File(error) => error.exit(),
            Self::Randomness(_) | Self::Program(_) => Exit::Environment,
            Self::Format { .. } | Self::Algorithm { .. } | Self::Encrypted { .. } => Exit::BadInput,
            Self::Exposed { .. } | Self::Refused { .. } | Self::Sign { .. } => Exit::NotTrusted,
        }
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        Self::new(error.exit(), error)
    }
}

/// The public half, as machines know each other.
#[must_use]
pub fn peer_key(key: &SigningKey) -> PeerKey {
    PeerKey(key.verifying_key().to_bytes())
}

/// Makes a machine's key in a new file, with its public half beside it (`.pub`).
///
/// # Errors
/// [`KeyError`]; a file that is there already is never replaced.
pub fn create(path: &Path, comment: &str) -> Result<SigningKey, KeyError> {
    let mut seed = Zeroizing::new([0u8; 32]);
    getrandom::fill(seed.as_mut()).map_err(KeyError::Randomness)?;
    let wrong = |source| KeyError::Format { path: path.to_owned(), source };
    let key = PrivateKey::new(KeypairData::from(Ed25519Keypair::from_seed(&seed)), comment).map_err(wrong)?;
    let private = key.to_openssh(LineEnding::LF).map_err(wrong)?;
    let public = key.public_key().to_openssh().map_err(wrong)?;
    create_atomically(path, private.as_bytes(), 0o600)?;
    crate::files::write_atomically(&public_path(path), format!("{public}\n").as_bytes(), 0o644)?;
    Ok(SigningKey::from_bytes(&seed))
}

/// A machine's key from its file.
///
/// # Errors
/// [`KeyError`].
pub fn load(path: &Path) -> Result<SigningKey, KeyError> {
    let key = read_private(path)?;
    if key.is_encrypted() {
        return Err(KeyError::Encrypted { path: path.to_owned() });
    }
    match key.key_data() {
        KeypairData::Ed25519(pair) => Ok(SigningKey::from_bytes(&pair.private.to_bytes())),
        _ => Err(KeyError::Algorithm { path: path.to_owned(), found: key.algorithm().to_string() }),
    }
}

/// A machine's key from its file, made if there is none yet.
///
/// # Errors
/// [`KeyError`].
pub fn load_or_create(path: &Path, comment: &str) -> Result<SigningKey, KeyError> {
    match load(path) {
        Err(KeyError::File(error)) if error.is_not_found() => create(path, comment),
        other => other,
    }
}

/// The public key that belongs to a key file, private or public. A private one with a passphrase tells its
/// public half without it.
///
/// # Errors
/// [`KeyError`].
pub fn public(path: &Path) -> Result<PublicKey, KeyError> {
    let bytes = Zeroizing::new(read_bounded(path, KEY_FILE_BYTES_MAX)?);
    if let Ok(text) = std::str::from_utf8(&bytes)
        && let Ok(public) = PublicKey::from_openssh(text.trim())
    {
        return Ok(public);
    }
    Ok(read_private(path)?.public_key().clone())
}

/// Signs a document's exact bytes in OpenSSH's format, in its kind's namespace. `key` is a private key file,
/// or the public half (`.pub`) of a key in ssh-agent or in hardware. Returns the armoured signature.
///
/// # Errors
/// [`KeyError`].
pub fn sign_document(kind: Kind, body: &[u8], key: &Path) -> Result<String, KeyError> {
    match read_private(key) {
        Ok(private) if !private.is_encrypted() && private.algorithm() == ssh_key::Algorithm::Ed25519 => {
            armoured_signature(kind, body, &private)
                .map_err(|source| KeyError::Sign { path: key.to_owned(), source })
        }
        // A public half, a passphrase or another algorithm: OpenSSH's own business.
        Ok(_) | Err(KeyError::Format { .. }) => sign_with_ssh_keygen(kind, body, key),
        Err(error) => Err(error),
    }
}

fn sign_with_ssh_keygen(kind: Kind, body: &[u8], key: &Path) -> Result<String, KeyError> {
    let mut child = Command::new("ssh-keygen")
        .args(["-Y", "sign", "-n", kind.namespace(), "-f"])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Its words are for the person at the terminal: "touch your key", or what it did not like.
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(KeyError::Program)?;
    let mut stdin = child.stdin.take().expect("standard input was asked for as a pipe");
    // ssh-keygen reads all of its input before it writes, and a refusal closes the pipe: its words tell why.
    let fed = stdin.write_all(body);
    drop(stdin);
    let output = child.wait_with_output().map_err(KeyError::Program)?;
    match String::from_utf8(output.stdout) {
        Ok(signature) if output.status.success() && fed.is_ok() && signature.len() <= SIGNATURE_BYTES_MAX => {
            Ok(signature)
        }
        _ => Err(KeyError::Refused { path: key.to_owned() }),
    }
}

fn read_private(path: &Path) -> Result<PrivateKey, KeyError> {
    let bytes = Zeroizing::new(read_bounded(path, KEY_FILE_BYTES_MAX)?);
    let key = PrivateKey::from_openssh(bytes.as_slice())
        .map_err(|source| KeyError::Format { path: path.to_owned(), source })?;
    let mode = std::fs::metadata(path)
        .map_err(|source| FileError::Read { path: path.to_owned(), source })?
        .permissions()
        .mode()
        & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { path: path.to_owned(), mode });
    }
    Ok(key)
}

fn public_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;

    #[test]
    fn a_key_survives_its_file_and_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");

        let made = create(&path, "srv-1").unwrap();

        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(load(&path).unwrap().to_bytes(), made.to_bytes());
        assert_eq!(load_or_create(&path, "srv-1").unwrap().to_bytes(), made.to_bytes());
        let ssh_key::public::KeyData::Ed25519(from_pub) =
            public(&public_path(&path)).unwrap().key_data().clone()
        else {
            panic!("an ed25519 key was made")
        };
        assert_eq!(PeerKey(from_pub.0), peer_key(&made));
        assert!(matches!(create(&path, "srv-1"), Err(KeyError::File(FileError::Exists { .. }))));
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        create(&path, "srv-1").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();

        let refused = load(&path).unwrap_err();

        assert!(matches!(refused, KeyError::Exposed { mode: 0o640, .. }), "{refused}");
        assert!(matches!(sign_document(Kind::Plan, b"", &path), Err(KeyError::Exposed { .. })));
    }

    #[test]
    fn what_is_no_key_is_refused_with_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, b"-----BEGIN OPENSSH PRIVATE KEY-----\nnope\n").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();

        let refused = load(&path).unwrap_err();

        assert!(refused.to_string().contains(path.to_str().unwrap()), "{refused}");
        assert!(matches!(refused, KeyError::Format { .. }));
    }
}
