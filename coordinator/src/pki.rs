//! A small certificate authority for the API, for those who have none of their own.
//!
//! Owns what certificates say: P-256 keys, what each is for, how long. Main invariant: a key is written for its owner alone
//! and never replaced, and nobody's certificate is good for both ends. Refuses to issue by an authority that it did not
//! make: one's own signs by its own tools, and names its certificates in the configuration.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use lunar_common::ids::KeyName;
use lunar_common::time::WallTime;
use lunar_host::exit::{Exit, Failure, OrExit};
use lunar_host::files::{create_atomically, read_bounded};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType,
};

use crate::api::caller::Role;
use crate::api::tls::Pem;

/// The folder below a coordinator's directory.
pub const FOLDER: &str = "pki";
/// The authority's certificate.
pub const AUTHORITY: &str = "ca.pem";
/// Its key.
pub const AUTHORITY_KEY: &str = "ca.key";
/// The coordinator's certificate.
pub const SERVER: &str = "server.pem";
/// Its key.
pub const SERVER_KEY: &str = "server.key";
/// Where callers' certificates and keys are, by name.
const CALLERS: &str = "callers";

/// The authority's name: what `issue` finds it by.
const AUTHORITY_NAME: &str = "lunar-coordinator API authority";
/// Days for which the authority is good: as long as a base is planned for.
const AUTHORITY_DAYS: u32 = 3650;
/// Largest file of ours.
const PEM_BYTES_MAX: usize = 64 * 1024;
/// Seconds of a day.
const DAY_S: i64 = 86_400;

/// Where the authority of a coordinator's directory and what it signs lie.
#[derive(Debug, Clone)]
pub struct Pki(PathBuf);

impl Pki {
    /// That of this directory.
    #[must_use]
    pub fn new(home: &Path) -> Self {
        Self(home.join(FOLDER))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Where a caller's certificate and key lie, and those of whom it calls.
    #[must_use]
    pub fn caller(&self, name: &KeyName) -> Pem {
        let file = |kind: &str| self.0.join(CALLERS).join(format!("{name}.{kind}"));
        Pem { authority: self.path(AUTHORITY), certificate: file("pem"), key: file("key") }
    }

    /// Where the coordinator's own lie.
    #[must_use]
    pub fn server(&self) -> Pem {
        Pem { authority: self.path(AUTHORITY), certificate: self.path(SERVER), key: self.path(SERVER_KEY) }
    }

    /// Makes an authority, and the coordinator's certificate for these names and addresses.
    ///
    /// # Errors
    /// There is one already, a name that cannot be one, or the files cannot be written.
    pub fn init(&self, hosts: &[String], days: u32, now: WallTime) -> Result<(), Failure> {
        std::fs::create_dir_all(self.0.join(CALLERS)).or_exit(Exit::Environment)?;
        let server = for_server(hosts)?;
        let key = KeyPair::generate().or_exit(Exit::Internal)?;
        let authority = authority(&key, now)?;
        create(&self.path(AUTHORITY_KEY), &key.serialize_pem(), 0o600)?;
        create(&self.path(AUTHORITY), &authority.pem(), 0o644)?;
        self.sign(server, &self.server(), days, now)
    }

    /// Signs another certificate for the coordinator, where there is none.
    ///
    /// # Errors
    /// As for [`Self::init`]; or the one before is still there.
    pub fn issue_server(&self, hosts: &[String], days: u32, now: WallTime) -> Result<(), Failure> {
        self.sign(for_server(hosts)?, &self.server(), days, now)
    }

    /// Makes a caller's key and certificate.
    ///
    /// # Errors
    /// No authority of ours is here, or there is a caller of this name.
    pub fn issue(&self, name: &KeyName, role: Role, days: u32, now: WallTime) -> Result<Pem, Failure> {
        let mut params = CertificateParams::default();
        params.distinguished_name = called(name.as_str());
        params.distinguished_name.push(DnType::OrganizationName, role.organisation());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let pem = self.caller(name);
        self.sign(params, &pem, days, now)?;
        Ok(pem)
    }

    fn sign(&self, mut params: CertificateParams, to: &Pem, days: u32, now: WallTime) -> Result<(), Failure> {
        let (authority, authority_key) = self.authority(now)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = validity(now, days)?;
        let key = KeyPair::generate().or_exit(Exit::Internal)?;
        let certificate = params.signed_by(&key, &authority, &authority_key).or_exit(Exit::Internal)?;
        // The key first: a key without a certificate is of no use to anybody, and is told by name at the next try.
        create(&to.key, &key.serialize_pem(), 0o600)?;
        create(&to.certificate, &certificate.pem(), 0o644)
    }

    /// The authority, to sign with. What it signs names it by its name and key alone, so that they are all it takes.
    fn authority(&self, now: WallTime) -> Result<(Certificate, KeyPair), Failure> {
        let path = self.path(AUTHORITY_KEY);
        let bytes = read_bounded(&path, PEM_BYTES_MAX).map_err(|error| {
            Failure::from(error).advise(
                "make an authority with `lunar-coordinator pki init`; with one of your own, let it sign: the subject's \
                 organisation is lunar:viewer or lunar:operator",
            )
        })?;
        let wrong =
            |error: anyhow::Error| Failure::new(Exit::BadInput, error.context(path.display().to_string()));
        let text = String::from_utf8(bytes).map_err(|error| wrong(error.into()))?;
        let key = KeyPair::from_pem(&text).map_err(|error| wrong(error.into()))?;
        Ok((authority(&key, now)?, key))
    }
}

fn authority(key: &KeyPair, now: WallTime) -> Result<Certificate, Failure> {
    let mut params = CertificateParams::default();
    params.distinguished_name = called(AUTHORITY_NAME);
    // It signs ends alone.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = validity(now, AUTHORITY_DAYS)?;
    params.self_signed(key).or_exit(Exit::Internal)
}

fn for_server(hosts: &[String]) -> Result<CertificateParams, Failure> {
    let mut params = CertificateParams::default();
    params.distinguished_name = called("lunar-coordinator");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    for host in hosts {
        params.subject_alt_names.push(match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => {
                let wrong =
                    |error| Failure::new(Exit::Usage, anyhow!("{host:?} is no name of a host: {error}"));
                // A name that no client could ask for would only be noticed when nobody can connect.
                rustls::pki_types::DnsName::try_from(host.as_str())
                    .map_err(|error| wrong(error.to_string()))?;
                SanType::DnsName(
                    host.as_str().try_into().map_err(|error: rcgen::Error| wrong(error.to_string()))?,
                )
            }
        });
    }
    Ok(params)
}

fn called(name: &str) -> DistinguishedName {
    let mut called = DistinguishedName::new();
    called.push(DnType::CommonName, name);
    called
}

/// From a day before, because clocks differ, for so many days after.
fn validity(now: WallTime, days: u32) -> Result<(time::OffsetDateTime, time::OffsetDateTime), Failure> {
    Ok((day(now.0 - DAY_S)?, day(now.0.saturating_add(DAY_S * i64::from(days)))?))
}

fn day(at_s: i64) -> Result<time::OffsetDateTime, Failure> {
    time::OffsetDateTime::from_unix_timestamp(at_s).or_exit(Exit::Usage)
}

fn create(path: &Path, pem: &str, mode: u32) -> Result<(), Failure> {
    create_atomically(path, pem.as_bytes(), mode).map_err(|error| {
        Failure::from(error).advise("nothing is replaced: move it away, or choose another name")
    })
}
