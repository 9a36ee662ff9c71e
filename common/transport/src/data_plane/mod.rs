//! Bulk between machines: manifests and chunk frames over quinn, on an endpoint of its own.
//!
//! Owns the data plane's connections and the small protocol on them. Main invariants: both ends proved their
//! key and their enrolment before anything else is said; every length is checked before a byte is allocated
//! for it; what a peer may have under way is bounded by the connection itself. Refuses to judge bytes: a frame
//! is verified against its manifest by whoever asked for it.
//!
//! Streams, all bidirectional, all opened by the one who asks. The first on a connection carries both sides'
//! [`crate::gate::Hello`]. On every other the first message is an [`protocol::Ask`]: to listen to what the
//! peer has of an artifact, for its manifest, or for one chunk's frame.

mod config;
mod endpoint;
mod link;
pub mod protocol;
mod serve;
mod shaper;
#[cfg(test)]
mod tests;

pub use config::{DataPlaneConfig, Distance, PlaneLimits, TlsError};
// For whoever measures a bare quinn connection beside the plane's.
pub use config::{client as quinn_client, server as quinn_server};
pub use endpoint::{BindError, ConnectError, DataPlane};
pub use link::{FetchError, Link, Subscription};
pub use protocol::{Note, ReadError};
pub use serve::{ChunkSource, SourceError};
pub use shaper::Shaper;
