//! The way in over the network: TLS 1.3, with certificates on both sides.
//!
//! Owns the configurations of both ends. Main invariant: nobody without a certificate of the configured authority gets
//! past the handshake, and the command line speaks to nobody whose certificate that authority did not sign.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::anyhow;
use lunar_host::exit::{Exit, Failure};
use lunar_host::files::read_bounded;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// Largest file of certificates or keys: a long chain.
const PEM_BYTES_MAX: usize = 256 * 1024;

/// What is spoken inside.
const ALPN: &[u8] = b"http/1.1";

/// Where one end's certificates lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pem {
    /// The authority that signed the other end's certificate.
    pub authority: PathBuf,
    /// Our own certificate, with the chain up to the authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Pem {
    /// The server's side.
    ///
    /// # Errors
    /// A file that is not there, is none of PEM, or does not fit the others.
    pub fn server(&self) -> Result<Arc<ServerConfig>, Failure> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), provider.clone())
            .build()
            .map_err(|error| wrong(&self.authority, error))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| Failure::new(Exit::Internal, error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain()?, self.secret()?)
            .map_err(|error| wrong(&self.certificate, error))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Arc::new(config))
    }

    /// The command line's side.
    ///
    /// # Errors
    /// As for [`Self::server`].
    pub fn client(&self) -> Result<Arc<ClientConfig>, Failure> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| Failure::new(Exit::Internal, error))?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(self.chain()?, self.secret()?)
            .map_err(|error| wrong(&self.certificate, error))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<RootCertStore, Failure> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.authority)? {
            roots.add(certificate).map_err(|error| wrong(&self.authority, error))?;
        }
        Ok(roots)
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, Failure> {
        certificates(&self.certificate)
    }

    fn secret(&self) -> Result<PrivateKeyDer<'static>, Failure> {
        PrivateKeyDer::from_pem_slice(&read(&self.key)?).map_err(|error| wrong(&self.key, error))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let certificates = read.map_err(|error| wrong(path, error))?;
    if certificates.is_empty() {
        return Err(wrong(path, anyhow!("it holds no certificate")));
    }
    Ok(certificates)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    read_bounded(path, PEM_BYTES_MAX).map_err(|error| {
        Failure::from(error).advise(
            "make an authority and certificates with `lunar-coordinator pki init`, or name your own ones",
        )
    })
}

fn wrong(path: &Path, error: impl Into<anyhow::Error>) -> Failure {
    Failure::new(Exit::BadInput, error.into().context(path.display().to_string()))
}
