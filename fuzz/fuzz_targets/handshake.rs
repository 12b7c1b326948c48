//! The first thing a client says.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use shaddock_fuzz::{Choices, bounded};
use shaddock_protocol::{
    Dialect, DialectChoice, HandshakeRequest, MAX_TOKEN_LEN, ResumeRequest, RsaKey, utf8_of_client,
};

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices(data);
    let choice = [
        DialectChoice::Auto,
        DialectChoice::Pomelo,
        DialectChoice::Pitaya,
    ][usize::from(choices.below(3))];
    let body = Bytes::copy_from_slice(choices.rest());
    // The repaired text (a byte that is not UTF-8 becomes three), the parser's buffer for a text with escapes (it doubles when it is full, while
    // its old half lives), and the texts in `sys`: each is at most as long as the repaired text.
    let limit = 4096 + 5 * utf8_of_client(body.clone()).len();
    let Ok(request) = bounded(limit, || HandshakeRequest::parse(body, choice)) else {
        return;
    };
    match choice {
        DialectChoice::Pomelo => assert_eq!(request.dialect, Dialect::Pomelo),
        DialectChoice::Pitaya => assert_eq!(request.dialect, Dialect::Pitaya),
        _ => {}
    }
    let raw = std::str::from_utf8(&request.raw).expect("repaired");
    assert!(
        serde_json::from_str::<serde_json::Value>(raw)
            .unwrap()
            .is_object()
    );
    // What was taken can be parsed, and is what a tree of the whole has there.
    let whole: serde_json::Value = serde_json::from_str(raw).unwrap();
    let user = whole.get("user").cloned().unwrap_or_default();
    assert_eq!(request.user(), user);
    assert_eq!(request.user_as::<serde_json::Value>().unwrap(), user);
    if let ResumeRequest::Back(back) = &request.resume {
        let resume = &whole["sys"]["resume"];
        assert!(back.token.len() <= MAX_TOKEN_LEN);
        assert!(back.token.is_empty() || resume["token"] == back.token);
        assert_eq!(resume["received"], back.received);
        assert_eq!(resume["sent"], back.sent);
    }
    if let Some(rsa) = &request.rsa {
        let modulus = rsa.modulus.as_deref().unwrap_or_default();
        if let Ok(key) = RsaKey::from_handshake(modulus, rsa.exponent.unwrap_or_default()) {
            assert!((512..=4096).contains(&key.bits()));
        }
    }
});
