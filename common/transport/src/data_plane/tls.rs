//! TLS of the data plane: libp2p's certificates, with the cipher that the processor has instructions for.
//!
//! Owns the order of ciphers and the judgement of certificates. libp2p-tls puts ChaCha20 first, which costs three
//! times as much as AES where there are instructions for AES, and has no way to say otherwise; so its
//! certificates, their parsing and their signatures are used as they are, and only what ties them to rustls is here.
//! Main invariant: a handshake ends well only with one certificate whose libp2p extension proves the peer's key,
//! on the side that dials the key that was dialled, and with a signature by that certificate. Refuses TLS 1.2.

use std::sync::Arc;

use libp2p::PeerId;
use libp2p::identity::Keypair;
use libp2p_tls::certificate;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    PeerMisbehaved, ServerConfig, SignatureScheme,
};

use super::config::TlsError;

/// Protocol name in the TLS handshake; another version is another name.
const ALPN: &[u8] = b"lunar-data/1";

/// Of a machine that dials this peer.
pub(super) fn client(key: &Keypair, peer: PeerId) -> Result<ClientConfig, TlsError> {
    let theirs = libp2p_tls::make_client_config(key, Some(peer))?;
    let mut tls = ClientConfig::builder_with_provider(Arc::new(ordered(theirs.crypto_provider())))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { dialled: Some(peer) }))
        .with_client_cert_resolver(theirs.client_auth_cert_resolver);
    tls.alpn_protocols = vec![ALPN.to_vec()];
    Ok(tls)
}

/// Of a machine that is dialled.
pub(super) fn server(key: &Keypair) -> Result<ServerConfig, TlsError> {
    let theirs = libp2p_tls::make_server_config(key)?;
    let mut tls = ServerConfig::builder_with_provider(Arc::new(ordered(theirs.crypto_provider())))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(Verifier { dialled: None }))
        .with_cert_resolver(theirs.cert_resolver);
    tls.alpn_protocols = vec![ALPN.to_vec()];
    Ok(tls)
}

/// The provider with its ciphers in our order; which of them are there stays libp2p's choice. The order of the one
/// who dials counts: each machine asks for what is cheap for itself.
fn ordered(provider: &CryptoProvider) -> CryptoProvider {
    let mut provider = provider.clone();
    let last = if aes_is_cheap() { is_chacha } else { is_aes };
    provider.cipher_suites.sort_by_key(|suite| last(suite.suite()));
    provider
}

fn is_chacha(suite: CipherSuite) -> bool {
    suite == CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
}

fn is_aes(suite: CipherSuite) -> bool {
    !is_chacha(suite)
}

#[cfg(target_arch = "x86_64")]
fn aes_is_cheap() -> bool {
    std::env::var_os("XCHACHA").is_none()
        && std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn aes_is_cheap() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn aes_is_cheap() -> bool {
    false
}

/// Judges the other end's certificate as libp2p's specification of TLS says.
#[derive(Debug)]
struct Verifier {
    /// Whom we dialled; `None` on the side that was dialled, where the gate judges who comes.
    dialled: Option<PeerId>,
}

impl Verifier {
    fn judge(&self, certificate: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), Error> {
        if !others.is_empty() {
            return Err(Error::General("a machine shows exactly one certificate".into()));
        }
        // Parsing verifies that the certificate signed itself and that the machine's key signed the certificate's.
        let proved = certificate::parse(certificate)?.peer_id();
        if self.dialled.is_some_and(|dialled| dialled != proved) {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(())
    }

    fn signed(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        certificate::parse(certificate)?.verify_signature(
            signature.scheme,
            message,
            signature.signature(),
        )?;
        Ok(HandshakeSignatureValid::assertion())
    }

    /// libp2p's certificates have keys on elliptic curves.
    fn schemes() -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ED25519,
        ]
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(certificate, others).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::signed(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(certificate, others).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::signed(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use rustls::{ClientConnection, ServerConnection};

    #[test]
    fn machines_that_mean_each_other_speak_aes_where_it_is_cheap() {
        let suite = handshake(client(&key(1), id(2)).unwrap(), server(&key(2)).unwrap()).unwrap();
        assert_eq!(is_aes(suite), aes_is_cheap());
    }

    #[test]
    fn another_machine_than_the_one_that_was_dialled_is_refused() {
        let refused = handshake(client(&key(1), id(3)).unwrap(), server(&key(2)).unwrap()).unwrap_err();
        let wrong = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        assert_eq!(refused, wrong);
    }

    #[test]
    fn one_that_shows_no_certificate_is_refused() {
        let anyone = ClientConfig::builder_with_provider(Arc::new(ordered(
            client(&key(1), id(2)).unwrap().crypto_provider(),
        )))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { dialled: None }));
        let mut anyone = anyone.with_no_client_auth();
        anyone.alpn_protocols = vec![ALPN.to_vec()];
        let refused = handshake(anyone, server(&key(2)).unwrap()).unwrap_err();
        assert_eq!(refused, Error::NoCertificatesPresented);
    }

    #[test]
    fn a_certificate_with_another_beside_it_is_refused() {
        let (certificate, _) = certificate::generate(&key(2)).unwrap();
        let verifier = Verifier { dialled: Some(id(2)) };
        assert_eq!(verifier.judge(&certificate, &[]), Ok(()));
        assert!(verifier.judge(&certificate, std::slice::from_ref(&certificate)).is_err());
    }

    #[test]
    fn a_certificate_that_claims_another_machines_key_is_refused_by_whoever_sees_it() {
        let (certificate, _) = certificate::generate(&key(2)).unwrap();
        let [own, claimed] =
            [2, 3].map(|machine| key(machine).public().try_into_ed25519().unwrap().to_bytes());
        let place = certificate.windows(own.len()).position(|bytes| bytes == own).unwrap();
        let mut bent = certificate.to_vec();
        bent[place..place + own.len()].copy_from_slice(&claimed);
        let bent = CertificateDer::from(bent);
        for dialled in [None, Some(id(2)), Some(id(3))] {
            assert!(Verifier { dialled }.judge(&bent, &[]).is_err());
        }
    }

    #[test]
    fn a_signature_by_another_key_than_the_certificates_is_refused() {
        // The certificate is machine 2's, the key that signs the handshake another's.
        let honest = server(&key(2)).unwrap();
        let (certificate, _) = certificate::generate(&key(2)).unwrap();
        let (_, other_key) = certificate::generate(&key(2)).unwrap();
        let bent = ServerConfig::builder_with_provider(honest.crypto_provider().clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(Arc::new(Verifier { dialled: None }));
        let signing = honest.crypto_provider().key_provider.load_private_key(other_key).unwrap();
        let shown = rustls::sign::CertifiedKey::new(vec![certificate], signing);
        let mut bent = bent.with_cert_resolver(Arc::new(Shows(Arc::new(shown))));
        bent.alpn_protocols = vec![ALPN.to_vec()];
        let refused = handshake(client(&key(1), id(2)).unwrap(), bent).unwrap_err();
        assert_eq!(refused, Error::InvalidCertificate(CertificateError::BadSignature));
    }

    #[derive(Debug)]
    struct Shows(Arc<rustls::sign::CertifiedKey>);

    impl rustls::server::ResolvesServerCert for Shows {
        fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
            Some(self.0.clone())
        }
    }

    fn key(machine: u8) -> Keypair {
        crate::gate::keypair([machine; 32]).unwrap()
    }

    fn id(machine: u8) -> PeerId {
        key(machine).public().to_peer_id()
    }

    /// Both ends in memory, until they agree or one refuses.
    fn handshake(client: ClientConfig, server: ServerConfig) -> Result<CipherSuite, Error> {
        let name = ServerName::try_from("lunar").unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut there = Vec::new();
            client.write_tls(&mut there).unwrap();
            server.read_tls(&mut there.as_slice()).unwrap();
            server.process_new_packets()?;
            let mut back = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut back).unwrap();
            }
            let mut back = back.as_slice();
            while !back.is_empty() {
                client.read_tls(&mut back).unwrap();
                client.process_new_packets()?;
            }
        }
        Ok(client.negotiated_cipher_suite().unwrap().suite())
    }
}
