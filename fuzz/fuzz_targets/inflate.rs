//! zlib and gzip from outside; what is deflated here can be inflated.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shaddock_fuzz::{Choices, bounded};
use shaddock_protocol::{InflateError, deflate_zlib, inflate, looks_compressed};

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices(data);
    let max = usize::from(choices.short());
    let bytes = choices.rest();
    // Output doubles while it grows; the state of the inflater takes 44 KiB or less.
    match bounded(64 * 1024 + 3 * max, || inflate(bytes, max)) {
        Ok(out) => {
            assert!(out.len() <= max);
            assert_eq!(
                inflate(bytes, out.len()).unwrap(),
                out,
                "the bound is exact"
            );
            if let Some(less) = out.len().checked_sub(1) {
                assert_eq!(inflate(bytes, less), Err(InflateError::TooLarge(less)));
            }
        }
        Err(InflateError::TooLarge(limit)) => assert_eq!(limit, max),
        Err(_) => {}
    }
    // The state of the deflater costs more than all the rest.
    if max & 7 != 7 {
        return;
    }
    let deflated = deflate_zlib(bytes);
    assert!(looks_compressed(&deflated));
    assert_eq!(inflate(&deflated, bytes.len()).unwrap(), bytes);
});
