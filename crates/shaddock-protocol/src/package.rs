//! Packages: the outer layer. One type byte, three length bytes (big-endian), the body.

use alloc::vec::Vec;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Length of a package head in bytes: type, then 24 bits of body length.
pub const HEADER_LEN: usize = 4;

/// Longest body that the 24-bit length can express, in bytes.
pub const MAX_BODY: usize = 0xff_ffff;

/// The purpose of a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PackageType {
    /// First package of either side; the body is JSON.
    Handshake = 1,
    /// The client has received the handshake response. No body.
    HandshakeAck = 2,
    /// Heartbeat. No body.
    Heartbeat = 3,
    /// The body is one [message](crate::Message).
    Data = 4,
    /// Last package of a server before it closes; the body is `{"reason":".."}`.
    Kick = 5,
}

impl TryFrom<u8> for PackageType {
    type Error = PackageError;

    fn try_from(byte: u8) -> Result<Self, PackageError> {
        Ok(match byte {
            1 => Self::Handshake,
            2 => Self::HandshakeAck,
            3 => Self::Heartbeat,
            4 => Self::Data,
            5 => Self::Kick,
            other => return Err(PackageError::UnknownType(other)),
        })
    }
}

/// A complete package. A missing body and an empty one are the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// The type of the package.
    pub kind: PackageType,
    /// The bytes after the head.
    pub body: Bytes,
}

/// Invalid or too long packages. The rest of the stream cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// The first byte of a head is not 1 to 5.
    #[error("unknown package type {0}")]
    UnknownType(u8),
    /// The announced body is longer than the limit.
    #[error("package body of {announced} bytes, at most {limit} allowed")]
    TooLarge {
        /// Body length in the head.
        announced: usize,
        /// The effective limit.
        limit: usize,
    },
}

/// A body longer than the 24-bit length of a package. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("package body of {0} bytes, at most {MAX_BODY} can be sent")]
pub struct PackageTooLarge(pub usize);

/// Encodes one package into its own buffer.
///
/// # Errors
///
/// The body is longer than [`MAX_BODY`].
pub fn encode_package(kind: PackageType, body: &[u8]) -> Result<Bytes, PackageTooLarge> {
    let mut out = BytesMut::with_capacity(HEADER_LEN + body.len().min(MAX_BODY));
    put_package_header(kind, body.len(), &mut out)?;
    out.put_slice(body);
    Ok(out.freeze())
}

/// Appends the head of a package whose body has `body_len` bytes.
///
/// # Errors
///
/// The body is longer than [`MAX_BODY`]; `out` is unchanged.
pub fn put_package_header(
    kind: PackageType,
    body_len: usize,
    out: &mut BytesMut,
) -> Result<(), PackageTooLarge> {
    out.put_slice(&header(kind, body_len)?);
    Ok(())
}

/// The head of a package, for callers that write it in place.
pub(crate) fn header(
    kind: PackageType,
    body_len: usize,
) -> Result<[u8; HEADER_LEN], PackageTooLarge> {
    match u32::try_from(body_len) {
        Ok(len) if body_len <= MAX_BODY => {
            let [_, high, middle, low] = len.to_be_bytes();
            Ok([kind as u8, high, middle, low])
        }
        _ => Err(PackageTooLarge(body_len)),
    }
}

/// Incremental reader of packages.
///
/// A package that lies completely in the input is a slice of it, without a copy. Only a package split over several inputs is assembled in a
/// buffer, which grows with the received bytes and never with the announced length. The reader owns no memory while no package is
/// incomplete.
#[derive(Debug, Default)]
pub struct PackageReader {
    /// Head and body so far of an incomplete package. Empty, without capacity, otherwise.
    partial: Vec<u8>,
}

impl PackageReader {
    /// Creates a reader at the start of a stream.
    pub const fn new() -> Self {
        Self {
            partial: Vec::new(),
        }
    }

    /// Takes the next package from `input`, or all of `input` if no package is complete.
    ///
    /// `max_body` limits the body in bytes; it is checked when the 4 head bytes have arrived and may differ between calls.
    ///
    /// # Errors
    ///
    /// The head is invalid, or announces more than `max_body`. The stream cannot be resynchronised: the reader keeps the bytes and returns
    /// the same error again.
    pub fn next(
        &mut self,
        input: &mut Bytes,
        max_body: usize,
    ) -> Result<Option<Package>, PackageError> {
        if self.partial.is_empty() {
            let Some(&head) = input.first_chunk::<HEADER_LEN>() else {
                self.keep(input, HEADER_LEN);
                return Ok(None);
            };
            let (kind, len) = check_header(head, max_body)?;
            if input.len() - HEADER_LEN < len {
                self.keep(input, HEADER_LEN + len);
                return Ok(None);
            }
            input.advance(HEADER_LEN);
            let body = input.split_to(len);
            return Ok(Some(Package { kind, body }));
        }
        self.resume(input, max_body)
    }

    /// Whether a package is incomplete: the end of the stream would truncate it.
    pub fn is_mid_package(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Continues a package that an earlier input began.
    fn resume(
        &mut self,
        input: &mut Bytes,
        max_body: usize,
    ) -> Result<Option<Package>, PackageError> {
        if self.partial.len() < HEADER_LEN {
            let missing = (HEADER_LEN - self.partial.len()).min(input.len());
            self.partial.extend_from_slice(&input.split_to(missing));
        }
        let Some(&head) = self.partial.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let (kind, len) = check_header(head, max_body)?;
        let missing = (HEADER_LEN + len).saturating_sub(self.partial.len());
        if input.len() < missing {
            self.keep(input, HEADER_LEN + len);
            return Ok(None);
        }
        // All bytes have arrived: no further room is needed.
        self.partial.reserve_exact(missing);
        self.partial.extend_from_slice(&input[..missing]);
        input.advance(missing);
        let mut body = Bytes::from(core::mem::take(&mut self.partial));
        body.advance(HEADER_LEN);
        Ok(Some(Package { kind, body }))
    }

    /// Keeps `input`, which is part of a package of `whole` bytes. The buffer doubles as bytes arrive, but never exceeds the package, so
    /// the result has the exact length.
    fn keep(&mut self, input: &mut Bytes, whole: usize) {
        let needed = self.partial.len() + input.len();
        if needed > self.partial.capacity() {
            let room = needed
                .max(2 * self.partial.capacity())
                .min(whole)
                .max(needed);
            self.partial.reserve_exact(room - self.partial.len());
        }
        self.partial.extend_from_slice(input);
        input.clear();
    }
}

fn check_header(
    head: [u8; HEADER_LEN],
    max_body: usize,
) -> Result<(PackageType, usize), PackageError> {
    let kind = PackageType::try_from(head[0])?;
    let announced = usize::from(head[1]) << 16 | usize::from(head[2]) << 8 | usize::from(head[3]);
    if announced > max_body {
        return Err(PackageError::TooLarge {
            announced,
            limit: max_body,
        });
    }
    Ok((kind, announced))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All packages in these chunks, with the bound, and how it ended.
    fn read(chunks: &[&'static [u8]], max_body: usize) -> (usize, Result<bool, PackageError>) {
        let mut reader = PackageReader::new();
        let mut count = 0;
        for chunk in chunks {
            let mut input = Bytes::from_static(chunk);
            loop {
                match reader.next(&mut input, max_body) {
                    Ok(Some(_)) => count += 1,
                    Ok(None) => break,
                    Err(error) => return (count, Err(error)),
                }
            }
        }
        (count, Ok(reader.is_mid_package()))
    }

    #[test]
    fn the_head_is_judged_when_it_is_complete() {
        let unknown = Err(PackageError::UnknownType(9));
        let large = Err(PackageError::TooLarge {
            announced: 6,
            limit: 5,
        });
        for (chunks, expected) in [
            (&[&b"\x09\x00\x00"[..]][..], (0, Ok(true))),
            (&[b"\x09\x00\x00\x00"], (0, unknown)),
            (&[b"\x09\x00", b"\x00\x00"], (0, unknown)),
            (
                &[b"\x03\x00\x00\x00\x00\x00\x00\x00"],
                (1, Err(PackageError::UnknownType(0))),
            ),
            (&[b"\x04\x00\x00\x06"], (0, large)),
            (&[b"\x04\x00\x00", b"\x06"], (0, large)),
            (&[b"\x04\x00\x00\x05"], (0, Ok(true))),
            (&[b"\x04\x00\x00\x05abcd", b"e"], (1, Ok(false))),
            (&[b"\x04\x00\x00\x05abcd", b"e\x03"], (1, Ok(true))),
            (&[b"", b""], (0, Ok(false))),
        ] {
            assert_eq!(read(chunks, 5), expected, "{chunks:02x?}");
        }
    }

    #[test]
    fn an_error_stays() {
        let mut reader = PackageReader::new();
        let mut input = Bytes::from_static(b"\x00\x00\x00\x00\x03\x00\x00\x00");
        for _ in 0..2 {
            assert_eq!(
                reader.next(&mut input, 9),
                Err(PackageError::UnknownType(0))
            );
        }
        assert_eq!(input.len(), 8);
        let mut cut = Bytes::from_static(b"\x00");
        assert_eq!(reader.next(&mut cut, 9), Ok(None));
        for _ in 0..2 {
            assert_eq!(
                reader.next(&mut input, 9),
                Err(PackageError::UnknownType(0))
            );
        }
    }

    #[test]
    fn lengths_are_24_bits() {
        assert_eq!(header(PackageType::Kick, 0x01_02_03), Ok([5, 1, 2, 3]));
        assert_eq!(header(PackageType::Data, MAX_BODY), Ok([4, 255, 255, 255]));
        for len in [MAX_BODY + 1, 1 << 32, usize::MAX] {
            let mut out = BytesMut::new();
            let error = put_package_header(PackageType::Data, len, &mut out);
            assert_eq!((error, out.len()), (Err(PackageTooLarge(len)), 0));
        }
    }
}
