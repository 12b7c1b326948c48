//! Signed bodies, keys, and the cut that takes the signature out.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use shaddock_fuzz::{Choices, bounded};
use shaddock_protocol::{HashPolicy, RsaKey, SignatureError, check_json};

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
    let verdict = bounded(64 * 1024 + 32 * body.len(), || {
        key.verify_json(body, policy)
    });
    if let Err(SignatureError::NotAnObject) = verdict {
        return;
    }
    check_json(body).expect("only JSON can be signed");
    // A tree refuses some numbers and surrogates that are JSON all the same.
    let Ok(Value::Object(mut members)) = serde_json::from_slice(body) else {
        return;
    };
    let signature = members.shift_remove("__crypto__");
    match verdict {
        // The member is gone, nothing else is.
        Ok(text) => {
            assert!(signature.is_some());
            assert_eq!(
                serde_json::from_slice::<Value>(&text).unwrap(),
                Value::Object(members)
            );
        }
        Err(SignatureError::NotSigned) => assert!(!signature.is_some_and(|hex| hex.is_string())),
        Err(_) => assert!(signature.is_some()),
    }
});
