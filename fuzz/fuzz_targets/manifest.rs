#![no_main]
//! Manifests, under the id that they have.

use libfuzzer_sys::fuzz_target;
use lunar_common::manifest::Manifest;

fuzz_target!(|bytes: &[u8]| {
    let id = Manifest::id_of(bytes);
    if let Ok(manifest) = Manifest::decode(bytes, id) {
        let encoded = manifest.encode().expect("a manifest that was read is consistent");
        assert!(Manifest::decode(&encoded, Manifest::id_of(&encoded)).is_ok());
        let _ = manifest.frame_bytes();
    }
});
