//! HTTP heads: a head that arrives in pieces is the head that arrives whole; answers are complete.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use shaddock_fuzz::{Choices, bounded, pieces};
use shaddock_net::fuzzing::{HttpHead, MAX_HTTP_HEAD, http_head};
use shaddock_net::{AccessPolicy, UpgradePolicy};

/// What the head is, and how many bytes it took.
fn read(
    pieces: &[&[u8]],
    policy: &UpgradePolicy,
    proxies: Option<&AccessPolicy>,
) -> (HttpHead, usize) {
    let mut input = BytesMut::new();
    let mut arrived = 0;
    for piece in pieces {
        input.extend_from_slice(piece);
        arrived += piece.len();
        match http_head(&mut input, policy, proxies) {
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
    let policy = UpgradePolicy::default()
        .origins(if flags & 1 == 1 {
            vec!["https://play.example.com".into()]
        } else {
            Vec::new()
        })
        .address_header((flags & 2 == 2).then(|| "x-forwarded-for".into()))
        .subprotocols(if flags & 8 == 8 {
            vec!["pomelo".into()]
        } else {
            Vec::new()
        });
    let proxies = AccessPolicy::default().trusted_proxies(vec!["10.0.0.0/8".parse().unwrap()]);
    let proxies = (flags & 4 == 4).then_some(&proxies);
    let sizes = choices.bytes();
    let bytes = choices.rest();
    let whole = bounded(128 * 1024 + 32 * bytes.len(), || {
        read(&[bytes], &policy, proxies)
    });
    match &whole.0 {
        Some(Ok((answer, client))) => {
            assert!(answer.starts_with(b"HTTP/1.1 101 ") && answer.ends_with(b"\r\n\r\n"));
            assert!(client.is_none() || (proxies.is_some() && policy.address_header.is_some()));
            assert!(whole.1 <= MAX_HTTP_HEAD);
        }
        Some(Err(answer)) => assert!(answer.starts_with(b"HTTP/1.1 4")),
        None => assert!(bytes.len() < MAX_HTTP_HEAD),
    }
    // Every verdict, and not only that of a good head, is the same however it arrives.
    assert_eq!(whole, read(&pieces(bytes, sizes), &policy, proxies));
});
