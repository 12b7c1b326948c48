//! Messages: what can be decoded can be encoded and is then the same.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use shaddock_fuzz::bounded;
use shaddock_protocol::Message;

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    // Route and body are slices of the input.
    let Ok(message) = bounded(256, || Message::decode(bytes)) else {
        return;
    };
    let mut out = BytesMut::new();
    message.encode(&mut out).unwrap();
    assert_eq!(Message::decode(out.clone().freeze()).unwrap(), message);
    let mut again = BytesMut::new();
    Message::decode(out.clone().freeze())
        .unwrap()
        .encode(&mut again)
        .unwrap();
    assert_eq!(out, again);
});
