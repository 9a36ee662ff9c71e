#![no_main]
//! Every message that one machine reads from another, and those between its two halves. Decoding must refuse or understand; whatever is
//! understood must encode to something that is understood again.

use libfuzzer_sys::fuzz_target;
use lunar_agent_core::applier::protocol;
use lunar_common::bounds::{MESSAGE_BYTES_MAX, SMALL_MESSAGE_BYTES_MAX};
use lunar_common::lease::{Claim, Grant, GroupAnswer, Release};
use lunar_common::message::{Gossip, Report, Request, Response};
use lunar_common::wire::{self, Signed};

fn there_and_back<T: serde::Serialize + serde::de::DeserializeOwned>(bytes: &[u8], bound: usize) {
    if let Ok(value) = wire::decode::<T>(bytes, bound)
        && let Ok(again) = wire::encode(&value, bound)
    {
        assert!(wire::decode::<T>(&again, bound).is_ok(), "what was encoded does not decode");
    }
}

fuzz_target!(|bytes: &[u8]| {
    there_and_back::<Request>(bytes, MESSAGE_BYTES_MAX);
    there_and_back::<Response>(bytes, MESSAGE_BYTES_MAX);
    there_and_back::<Gossip>(bytes, MESSAGE_BYTES_MAX);
    there_and_back::<Claim>(bytes, SMALL_MESSAGE_BYTES_MAX);
    there_and_back::<Grant>(bytes, SMALL_MESSAGE_BYTES_MAX);
    there_and_back::<Release>(bytes, SMALL_MESSAGE_BYTES_MAX);
    there_and_back::<Report>(bytes, SMALL_MESSAGE_BYTES_MAX);
    there_and_back::<GroupAnswer>(bytes, SMALL_MESSAGE_BYTES_MAX);
    there_and_back::<protocol::Request>(bytes, protocol::REQUEST_BYTES_MAX);
    there_and_back::<protocol::Reply>(bytes, protocol::REPLY_BYTES_MAX);
    if let Ok(signed) = wire::decode::<Signed>(bytes, MESSAGE_BYTES_MAX) {
        assert!(signed.open::<Grant>().is_err(), "a forged signature was taken");
    }
});
