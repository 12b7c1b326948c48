//! Signed bodies, keys, and the cut that takes the signature out.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use shaddock_fuzz::{Choices, bounded};
use shaddock_protocol::{HashPolicy, RsaKey, SignatureError};

static VECTORS: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../tests/vectors/crypto.json")).unwrap()
});

static KEY: LazyLock<RsaKey> = LazyLock::new(|| {
    RsaKey::from_handshake(
        VECTORS["rsa"]["rsa_n"].as_str().unwrap(),
        VECTORS["rsa"]["rsa_e"].as_u64().unwrap(),
    )
    .unwrap()
});

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices(data);
    let policy = if choices.flag() {
        HashPolicy::Legacy
    } else {
        HashPolicy::Sha2
    };
    let own_key = choices.flag().then(|| {
        let modulus: String = choices
            .bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let exponent = String::from_utf8_lossy(choices.bytes());
        RsaKey::from_handshake(&modulus, &*exponent)
    });
    let key = match &own_key {
        None => &KEY,
        Some(Ok(key)) => key,
        Some(Err(_)) => return,
    };
    let body = choices.rest();
    match bounded(64 * 1024 + 32 * body.len(), || {
        key.verify_json(body, policy)
    }) {
        Ok(text) => {
            // The member is gone, nothing else is.
            let mut value: Value = serde_json::from_slice(body).unwrap();
            assert!(
                value
                    .as_object_mut()
                    .unwrap()
                    .shift_remove("__crypto__")
                    .is_some()
            );
            assert_eq!(serde_json::from_slice::<Value>(&text).unwrap(), value);
        }
        Err(SignatureError::NotAnObject | SignatureError::NotSigned) => {}
        Err(_) => {
            let value: Value = serde_json::from_slice(body).expect("only an object can be signed");
            assert!(
                value["__crypto__"].is_string()
                    || !matches!(key.verify_json(body, policy), Err(SignatureError::Wrong))
            );
        }
    }
});
