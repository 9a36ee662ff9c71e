#![no_main]
//! The gate itself: snapshots as they lie on disk, and any documents through a trust that was restored from one.

use libfuzzer_sys::fuzz_target;
use lunar_common::bounds::MESSAGE_BYTES_MAX;
use lunar_common::document::SignedDocument;
use lunar_common::time::WallTime;
use lunar_common::trust::{TrustSnapshot, TrustState};
use lunar_common::wire;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(snapshot) = wire::decode::<TrustSnapshot>(bytes, MESSAGE_BYTES_MAX)
        && let Ok(mut trust) = TrustState::restore(snapshot)
    {
        for document in trust.documents() {
            let _ = trust.accept(&document, WallTime(0));
        }
        assert!(TrustState::restore(trust.snapshot()).is_ok(), "a trust does not survive its own snapshot");
    }
    if let Ok(document) = wire::decode::<SignedDocument>(bytes, MESSAGE_BYTES_MAX) {
        let _ = TrustState::anchored(&document);
    }
});
