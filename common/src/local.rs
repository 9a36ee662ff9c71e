//! What may be asked of a running agent on its own server, and what it answers.
//!
//! Owns the words of the agent's socket; both programs that speak them take them from here, so that neither can
//! number them otherwise. Main invariant: on the wire each is a big-endian u32 length, then the wire encoding, and
//! the length is bounded before anything is read.

use serde::{Deserialize, Serialize};

use crate::document::SignedDocument;

/// What may be asked of a running agent on its own server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LocalRequest {
    /// How are you?
    Status,
    /// Take this document in and pass it on: a halt reaches the mesh here with every coordinator dead.
    Inject(SignedDocument),
}

/// The answer, with what the agent says of itself as `Status`. Who never asks for it may leave it out (`()`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LocalResponse<Status> {
    /// To `Status`.
    Status(Box<Status>),
    /// To `Inject`: whether it was new here.
    Injected {
        /// False: it was known.
        new: bool,
    },
    /// Not done.
    Refused {
        /// Why.
        reason: String,
    },
}
