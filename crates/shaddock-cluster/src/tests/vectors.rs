//! The golden data of the cluster's protocol, for unit tests.

use bytes::Bytes;
use serde_json::Value;

pub(crate) fn vectors() -> Value {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/vectors/cluster.json"
    );
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Bytes that are written as hexadecimal digits.
pub(crate) fn hex(text: &str) -> Bytes {
    let digits = |i| u8::from_str_radix(&text[i..i + 2], 16).unwrap();
    (0..text.len())
        .step_by(2)
        .map(digits)
        .collect::<Vec<_>>()
        .into()
}
