//! How people and configuration files name a peer to begin with.
//!
//! Owns [`PeerAddress`]. Main invariant: a value has a host and a port; whether the host resolves is found out
//! at every dial, because names move. Refuses multiaddresses: machines of this mesh speak QUIC and nothing else.

use std::fmt;
use std::str::FromStr;

use lunar_common::ids::PeerKey;
use serde::{Deserialize, Serialize};

/// Longest `host:port` in bytes: a DNS name has at most 253, a port five digits.
pub(crate) const ADDRESS_BYTES_MAX: usize = 260;

/// Where a peer listens, and who it must be: `host:port`, or `KEY@host:port` with the 64 hexadecimal digits of
/// its key. With a key, anyone else who answers there is refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PeerAddress {
    /// The key that must answer; absent: any enrolled machine will do.
    pub key: Option<PeerKey>,
    /// `host:port`; the host is an IP address (`[…]` around IPv6) or a name.
    pub address: String,
}

/// Why a text is not a peer's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No port, no host, or far too long.
    #[error("{0:?} is not an address: write host:port, or KEY@host:port")]
    Form(String),
    /// The part before `@` is not a key.
    #[error("{0:?} is not a machine's key: expected 64 hexadecimal digits before the @")]
    Key(String),
}

impl FromStr for PeerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (key, address) = match text.split_once('@') {
            Some((key, address)) => {
                let parsed = key.parse().map_err(|_| AddressError::Key(key.chars().take(80).collect()))?;
                (Some(parsed), address)
            }
            None => (None, text),
        };
        if !is_host_and_port(address) {
            return Err(AddressError::Form(address.chars().take(80).collect()));
        }
        Ok(Self { key, address: address.to_owned() })
    }
}

/// Whether a text has the form `host:port`. Addresses that peers tell us pass through here too.
pub(crate) fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    text.len() <= ADDRESS_BYTES_MAX
        && !host.is_empty()
        && (bracketed || !host.contains(':'))
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]%".contains(&byte))
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok()
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key {
            Some(key) => write!(f, "{key}@{}", self.address),
            None => f.write_str(&self.address),
        }
    }
}

impl TryFrom<String> for PeerAddress {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<PeerAddress> for String {
    fn from(address: PeerAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port_and_survives_text() {
        let key = "ab".repeat(32);
        for text in ["10.0.0.1:7000", "[::1]:7000", "base.moon:1", &format!("{key}@10.0.0.1:7000")] {
            assert_eq!(text.parse::<PeerAddress>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_not_an_address_is_refused_by_name() {
        for text in ["", "host", ":1", "host:", "host:70000", "host:+1", "a b:1", "::1:80", "/ip4/1.2.3.4:1"]
        {
            assert!(matches!(text.parse::<PeerAddress>(), Err(AddressError::Form(_))), "{text:?}");
        }
        assert!(matches!("zz@host:1".parse::<PeerAddress>(), Err(AddressError::Key(_))));
        assert!("h:1".repeat(200).parse::<PeerAddress>().is_err());
    }
}
