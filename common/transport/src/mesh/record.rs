//! Where a machine says it is: the record that machines leave with the directories and pass on.
//!
//! Owns [`PeerRecord`], its checks, and the keys under which look-ups find things. Main invariant: a record is
//! used only if the machine it speaks of signed it. What it says is still only a hint: whoever answers at the
//! address proves its key and enrolment anew.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use libp2p::Multiaddr;
use libp2p::kad;
use libp2p::multiaddr::Protocol;
use lunar_common::ids::{ArtifactId, FleetId, PeerKey, SiteId};
use lunar_common::wire::{Signed, SignedMessage};
use serde::{Deserialize, Serialize};

use super::address::is_host_and_port;

/// Most addresses in one record: a machine with more networks than this announces the ones that matter
/// (`announce`).
pub(crate) const ADDRESSES_MAX: usize = 8;

/// Largest encoded signed record in bytes: eight addresses, a site, a name and a port, with room.
pub(crate) const RECORD_BYTES_MAX: usize = 2 * 1024;

/// Where a machine is, by its own word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PeerRecord {
    /// Milliseconds since 1970 by the author's own clock: orders records of one machine, nothing else.
    pub(crate) issued_ms: u64,
    /// Its site: guides whom to dial; the enrolment decides once connected.
    pub(crate) site: SiteId,
    /// Whether it keeps others' records.
    pub(crate) directory: bool,
    /// Where its control plane listens.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Where its data plane listens, `host:port`; empty: nowhere.
    pub(crate) data_address: String,
}

impl SignedMessage for PeerRecord {
    const CONTEXT: &'static str = "lunar.peer-record.v1";
    const BYTES_MAX: usize = RECORD_BYTES_MAX - 256;
}

/// A record whose signature and form are good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SignedRecord {
    pub(crate) peer: PeerKey,
    pub(crate) record: PeerRecord,
    /// What to pass on.
    pub(crate) signed: Signed,
}

impl SignedRecord {
    /// Opens a record from anyone: `None` if its signature or its form is wrong.
    pub(crate) fn open(signed: Signed) -> Option<Self> {
        let record = signed.open::<PeerRecord>().ok()?;
        let data = record.data_address.as_str();
        let good = record.addresses.len() <= ADDRESSES_MAX
            && record.addresses.iter().all(|address| address.port() != 0 && !address.ip().is_unspecified())
            && (data.is_empty() || is_host_and_port(data));
        good.then_some(Self { peer: signed.signer, record, signed })
    }

    /// Addresses to dial, as libp2p writes them.
    pub(crate) fn multiaddrs(&self) -> Vec<Multiaddr> {
        self.record.addresses.iter().map(|address| quic_multiaddr(*address)).collect()
    }
}

/// Milliseconds since 1970, by this machine's clock, right or wrong.
pub(crate) fn issued_now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A socket address as libp2p writes it.
pub(crate) fn quic_multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::empty()
        .with(Protocol::from(address.ip()))
        .with(Protocol::Udp(address.port()))
        .with(Protocol::QuicV1)
}

/// The socket address in a QUIC multiaddress; `None` if it is another kind.
pub(crate) fn socket_address(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        // Foreign enum with dozens of variants: every other kind is not ours.
        _ => return None,
    };
    match (parts.next()?, parts.next()?) {
        (Protocol::Udp(port), Protocol::QuicV1) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// The look-up key of a machine's record.
pub(crate) fn record_key(fleet: &FleetId, peer: &PeerKey) -> kad::RecordKey {
    look_up_key("lunar.key.peer.v1", &[fleet.as_str().as_bytes(), &peer.0])
}

/// Which of an artifact's providers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Providing {
    /// Those of one site.
    Site(SiteId),
    /// The origins, whatever their site is called: whoever seeks one need not know.
    Origin,
}

/// The look-up key of some of an artifact's providers.
pub(crate) fn provider_key(fleet: &FleetId, artifact: &ArtifactId, of: &Providing) -> kad::RecordKey {
    let fleet = fleet.as_str().as_bytes();
    match of {
        Providing::Site(site) => {
            look_up_key("lunar.key.providers.v1", &[fleet, &artifact.0, site.as_str().as_bytes()])
        }
        Providing::Origin => look_up_key("lunar.key.origins.v1", &[fleet, &artifact.0]),
    }
}

/// BLAKE3 of length-prefixed parts.
fn look_up_key(purpose: &str, parts: &[&[u8]]) -> kad::RecordKey {
    let mut hasher = blake3::Hasher::new();
    for part in std::iter::once(&purpose.as_bytes()).chain(parts) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    kad::RecordKey::new(hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;

    fn record(addresses: Vec<SocketAddr>, data_address: &str) -> PeerRecord {
        PeerRecord {
            issued_ms: 1,
            site: SiteId::new("base").unwrap(),
            directory: false,
            addresses,
            data_address: data_address.into(),
        }
    }

    fn sign(record: &PeerRecord) -> Signed {
        Signed::sign(record, &SigningKey::from_bytes(&[3; 32])).unwrap()
    }

    #[test]
    fn a_record_opens_only_with_its_own_signature_and_a_sane_form() {
        let address: SocketAddr = "10.1.2.3:7000".parse().unwrap();
        let good = sign(&record(vec![address], "base.moon:7001"));
        assert_eq!(SignedRecord::open(good.clone()).unwrap().record.addresses, [address]);

        let mut bent = good.clone();
        bent.signer = PeerKey(SigningKey::from_bytes(&[4; 32]).verifying_key().to_bytes());
        assert_eq!(SignedRecord::open(bent), None);
        assert_eq!(SignedRecord::open(sign(&record(vec![address; 9], ""))), None);
        assert_eq!(SignedRecord::open(sign(&record(vec!["0.0.0.0:1".parse().unwrap()], ""))), None);
        assert_eq!(SignedRecord::open(sign(&record(vec!["10.0.0.1:0".parse().unwrap()], ""))), None);
        assert_eq!(SignedRecord::open(sign(&record(vec![address], "no port"))), None);
    }

    #[test]
    fn addresses_survive_libp2p_and_other_transports_are_not_ours() {
        for text in ["10.1.2.3:7000", "[2001:db8::1]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(socket_address(&quic_multiaddr(address)), Some(address));
        }
        assert_eq!(socket_address(&"/ip4/10.0.0.1/tcp/80".parse().unwrap()), None);
        assert_eq!(socket_address(&"/dns4/x/udp/1/quic-v1".parse().unwrap()), None);
    }

    #[test]
    fn look_up_keys_differ_by_fleet_site_and_kind() {
        let fleet = |name| FleetId::new(name).unwrap();
        let site = |name| Providing::Site(SiteId::new(name).unwrap());
        let keys = [
            record_key(&fleet("moon"), &PeerKey([1; 32])),
            record_key(&fleet("mars"), &PeerKey([1; 32])),
            provider_key(&fleet("moon"), &ArtifactId([1; 32]), &site("a")),
            provider_key(&fleet("moon"), &ArtifactId([1; 32]), &site("b")),
            provider_key(&fleet("moon"), &ArtifactId([2; 32]), &site("a")),
            provider_key(&fleet("moon"), &ArtifactId([1; 32]), &Providing::Origin),
            provider_key(&fleet("mars"), &ArtifactId([1; 32]), &Providing::Origin),
        ];
        let distinct: std::collections::BTreeSet<_> = keys.iter().map(kad::RecordKey::to_vec).collect();
        assert_eq!(distinct.len(), keys.len());
    }
}
