//! PROXY heads: a head that arrives in pieces is the head that arrives whole.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use shaddock_fuzz::{Choices, bounded, pieces};
use shaddock_net::{ProxyHead, proxy_head};

fn read(pieces: &[&[u8]]) -> (ProxyHead, usize) {
    let mut input = BytesMut::new();
    let mut taken = 0;
    for piece in pieces {
        input.extend_from_slice(piece);
        taken += piece.len();
        let before = input.len();
        match proxy_head(&mut input) {
            ProxyHead::NeedMore => assert_eq!(input.len(), before, "nothing is taken out yet"),
            ProxyHead::Done(address) => return (ProxyHead::Done(address), taken - input.len()),
            ProxyHead::Bad => return (ProxyHead::Bad, 0),
        }
    }
    (ProxyHead::NeedMore, 0)
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices(data);
    let sizes = choices.bytes();
    let bytes = choices.rest();
    let whole = bounded(16 * 1024 + 16 * bytes.len(), || read(&[bytes]));
    assert_eq!(whole, read(&pieces(bytes, sizes)));
    assert_eq!(whole, read(&pieces(bytes, &[0])));
});
