#![no_main]
//! OpenSSH signatures: as text, and as the bytes inside the armour.

use libfuzzer_sys::fuzz_target;
use lunar_common::document::{Kind, SignedDocument};
use lunar_common::trust::{TrustState, claimed_kind};

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let armoured = format!("-----BEGIN SSH SIGNATURE-----\n{text}\n-----END SSH SIGNATURE-----\n");
    for signature in [text, armoured] {
        let _ = claimed_kind(&signature);
        let body = b"format = 1\n".to_vec();
        let document = SignedDocument { kind: Kind::TrustRoot, body, signatures: vec![signature] };
        assert!(TrustState::anchored(&document).is_err());
    }
});
