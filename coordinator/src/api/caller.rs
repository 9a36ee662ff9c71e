//! Who asks: a role, from the client's certificate or from the socket that it came by.
//!
//! Owns [`Role`] and [`Caller`]. Main invariant: a role only admits a request. What a document may do follows from its
//! signatures alone, so that a stolen certificate reads, and changes nothing.

use std::fmt;

use x509_parser::prelude::{FromDer, X509Certificate};

/// What a caller may ask for. Later ones may all that earlier ones may.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Looks.
    Viewer,
    /// Hands signed documents over as well.
    Operator,
}

impl Role {
    /// How it stands in a certificate: as an organisation (O) of its subject, as Kubernetes has its groups.
    #[must_use]
    pub fn organisation(self) -> &'static str {
        match self {
            Self::Viewer => "lunar:viewer",
            Self::Operator => "lunar:operator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
        })
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// By what name; for the log.
    pub name: String,
    /// As what; `None`: a certificate that our authority signed for something else.
    pub role: Option<Role>,
}

impl Caller {
    /// Whoever can open the coordinator's own socket: its user, and root.
    #[must_use]
    pub fn local() -> Self {
        Self { name: "local".to_owned(), role: Some(Role::Operator) }
    }

    /// Whoever holds this certificate, which was verified.
    #[must_use]
    pub fn of_certificate(der: &[u8]) -> Self {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            return Self { name: "unreadable".to_owned(), role: None };
        };
        let subject = certificate.subject();
        let name = subject.iter_common_name().find_map(|name| name.as_str().ok()).unwrap_or("nameless");
        let roles =
            subject.iter_organization().filter_map(|organisation| organisation.as_str().ok()).filter_map(
                |text| [Role::Viewer, Role::Operator].into_iter().find(|role| role.organisation() == text),
            );
        Self { name: name.chars().take(NAME_CHARS_MAX).collect(), role: roles.max() }
    }
}

/// Longest name that is put into a log line.
const NAME_CHARS_MAX: usize = 64;
