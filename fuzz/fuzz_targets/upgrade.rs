//! HTTP heads: a head that arrives in pieces is the head that arrives whole; answers are complete.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use shaddock_fuzz::{Choices, bounded, pieces};
use shaddock_net::UpgradePolicy;
use shaddock_net::fuzzing::{HttpHead, http_head};

/// What the head is, and how many bytes it took.
fn read(pieces: &[&[u8]], policy: &UpgradePolicy, trusted: bool) -> (HttpHead, usize) {
    let mut input = BytesMut::new();
    let mut arrived = 0;
    for piece in pieces {
        input.extend_from_slice(piece);
        arrived += piece.len();
        match http_head(&mut input, policy, trusted) {
            None => assert_eq!(input.len(), arrived, "nothing is taken out yet"),
            Some(Err(answer)) => return (Some(Err(answer)), 0),
            accepted => return (accepted, arrived - input.len()),
        }
    }
    (None, 0)
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices(data);
    let flags = choices.byte();
    let policy = UpgradePolicy {
        origins: if flags & 1 == 1 {
            vec!["https://play.example.com".into()]
        } else {
            Vec::new()
        },
        address_header: (flags & 2 == 2).then(|| "x-forwarded-for".into()),
    };
    let trusted = flags & 4 == 4;
    let sizes = choices.bytes();
    let bytes = choices.rest();
    let whole = bounded(128 * 1024 + 32 * bytes.len(), || {
        read(&[bytes], &policy, trusted)
    });
    match &whole.0 {
        Some(Ok((answer, forwarded_for))) => {
            assert!(answer.starts_with(b"HTTP/1.1 101 ") && answer.ends_with(b"\r\n\r\n"));
            assert!(forwarded_for.is_none() || (trusted && policy.address_header.is_some()));
        }
        Some(Err(answer)) => assert!(answer.starts_with(b"HTTP/1.1 4")),
        None => {}
    }
    // A broken head may be refused when it is whole or before, and a long one by its length; what is accepted is the same.
    let split = read(&pieces(bytes, sizes), &policy, trusted);
    if matches!(whole.0, Some(Ok(_))) || matches!(split.0, Some(Ok(_))) {
        assert_eq!(whole, split);
    }
});
