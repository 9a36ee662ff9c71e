#![no_main]
//! The text of every kind of signed document, as if its signatures were good.

use libfuzzer_sys::fuzz_target;
use lunar_common::document::{Approval, Document, Halt, Reap, Resume};
use lunar_common::enrolment::{Enrolment, Revocation};
use lunar_common::plan::Plan;
use lunar_common::trust::TrustRoot;

fn read<T: Document>(bytes: &[u8]) {
    if let Err(error) = T::parse(bytes) {
        assert!(!error.to_string().is_empty(), "a refusal without a reason");
    }
}

fuzz_target!(|bytes: &[u8]| {
    read::<TrustRoot>(bytes);
    read::<Enrolment>(bytes);
    read::<Revocation>(bytes);
    read::<Plan>(bytes);
    read::<Halt>(bytes);
    read::<Resume>(bytes);
    read::<Reap>(bytes);
    read::<Approval>(bytes);
    read::<lunar_common::curb::Curb>(bytes);
});
