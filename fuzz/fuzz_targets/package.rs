//! Packages: any split of the bytes gives the same packages and the same error; memory follows what arrived.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use shaddock_fuzz::{Choices, bounded, pieces};
use shaddock_protocol::{HEADER_LEN, Package, PackageError, PackageReader, encode_package};

fn read(pieces: &[&[u8]], max_body: usize) -> (Vec<Package>, Option<PackageError>, bool) {
    let mut reader = PackageReader::new();
    let mut packages = Vec::new();
    for piece in pieces {
        let mut input = Bytes::copy_from_slice(piece);
        loop {
            match reader.next(&mut input, max_body) {
                Ok(Some(package)) => packages.push(package),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(
                        reader.next(&mut input, max_body),
                        Err(error.clone()),
                        "the error stays"
                    );
                    return (packages, Some(error), reader.is_mid_package());
                }
            }
        }
        assert!(input.is_empty(), "no package, but bytes are left");
    }
    (packages, None, reader.is_mid_package())
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices(data);
    let max_body = usize::from(choices.short());
    let sizes = choices.bytes();
    let bytes = choices.rest();
    let (packages, error, mid) = bounded(4096 + 64 * bytes.len(), || read(&[bytes], max_body));
    let split = read(&pieces(bytes, sizes), max_body);
    assert_eq!(packages, split.0);
    assert_eq!(error, split.1);

    // What was read, written again, is what there was.
    let mut again = Vec::new();
    for package in &packages {
        assert!(package.body.len() <= max_body);
        again.extend_from_slice(&encode_package(package.kind, &package.body).unwrap());
    }
    assert!(bytes.starts_with(&again));
    if error.is_none() {
        assert_eq!(mid, again.len() < bytes.len());
        assert_eq!(mid, split.2);
    } else {
        assert!(bytes.len() >= again.len() + HEADER_LEN);
    }
});
