//! Text of browser clients, and the JSON check against serde_json's parser.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use shaddock_fuzz::bounded;
use shaddock_protocol::{JsonError, check_json, escape_non_bmp, utf8_of_client};

fuzz_target!(|data: &[u8]| {
    let repaired = bounded(4096 + 8 * data.len(), || {
        utf8_of_client(Bytes::copy_from_slice(data))
    });
    let text = std::str::from_utf8(&repaired).expect("repaired");
    assert_eq!(utf8_of_client(repaired.clone()), repaired, "once is enough");
    if std::str::from_utf8(data).is_ok() {
        assert_eq!(repaired, data);
    }

    let check = bounded(1024, || check_json(&repaired));
    let parsed = serde_json::from_str::<Value>(text);
    match (&check, &parsed) {
        (Ok(()), Ok(value)) => {
            let escaped = escape_non_bmp(&repaired);
            assert!(escaped.iter().all(|byte| *byte < 0xf0));
            assert_eq!(serde_json::from_slice::<Value>(&escaped).unwrap(), *value);
        }
        // serde_json refuses more: halves of surrogate pairs, and numbers beyond an f64.
        (Ok(()), Err(error)) => {
            let error = error.to_string();
            assert!(
                error.contains("surrogate")
                    || error.contains("number out of range")
                    || error.contains("hex escape"),
                "{error}: {text}"
            );
        }
        (Err(JsonError::TooDeep), _) => {}
        (Err(error), Ok(_)) => panic!("{error}, but serde_json reads it: {text}"),
        (Err(_), Err(_)) => {}
    }
    let _ = escape_non_bmp(data);
});
