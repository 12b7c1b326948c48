//! Numbers and parts of the byte format.

use alloc::vec::Vec;

use super::ProtobufError;

/// Wire types, as written into keys. Readers ignore them.
pub(super) const VARINT: u32 = 0;
pub(super) const FIXED64: u32 = 1;
pub(super) const DELIMITED: u32 = 2;
pub(super) const FIXED32: u32 = 5;

/// Appends a base-128 number, lowest group first.
pub(super) fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(low_byte(n) | 0x80);
        n >>= 7;
    }
    out.push(low_byte(n));
}

/// Writes `n` at `at`, where one byte was reserved, and moves the following bytes if it needs more.
pub(super) fn patch_varint(out: &mut Vec<u8>, at: usize, n: usize) {
    let mut n = n as u64;
    let bits = 64 - (n | 1).leading_zeros() as usize;
    let extra = bits.div_ceil(7) - 1;
    if extra > 0 {
        let end = out.len();
        out.resize(end + extra, 0);
        out.copy_within(at + 1..end, at + 1 + extra);
    }
    for byte in &mut out[at..at + extra] {
        *byte = low_byte(n) | 0x80;
        n >>= 7;
    }
    out[at + extra] = low_byte(n);
}

fn low_byte(n: u64) -> u8 {
    (n & 0x7f) as u8
}

/// 0, -1, 1, -2 .. to 0, 1, 2, 3 ..
pub(super) fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)).cast_unsigned()
}

/// The inverse of [`zigzag`].
pub(super) fn unzigzag(n: u64) -> i64 {
    (n >> 1).cast_signed() ^ -(n & 1).cast_signed()
}

/// Reads values from the front of a message. Every length is checked against the remaining bytes.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut n = 0u64;
        for (i, &byte) in self.0.iter().take(10).enumerate() {
            // The tenth byte holds the highest bit alone.
            if i == 9 && byte > 1 {
                return Err(ProtobufError::VarintTooLong);
            }
            n |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                self.0 = &self.0[i + 1..];
                return Ok(n);
            }
        }
        // Ten bytes do not reach this line: the tenth is an error or the last.
        Err(ProtobufError::Truncated)
    }

    /// A count of elements that take at least `least` bytes each: rejected if they cannot fit.
    pub(super) fn count(&mut self, least: usize) -> Result<usize, ProtobufError> {
        let n = usize::try_from(self.varint()?).map_err(|_| ProtobufError::Truncated)?;
        if n > self.0.len() / least {
            Err(ProtobufError::Truncated)
        } else {
            Ok(n)
        }
    }

    pub(super) fn delimited(&mut self) -> Result<&'a [u8], ProtobufError> {
        let n = self.count(1)?;
        let (head, rest) = self.0.split_at(n);
        self.0 = rest;
        Ok(head)
    }

    pub(super) fn float(&mut self) -> Result<f32, ProtobufError> {
        self.fixed().map(f32::from_le_bytes)
    }

    pub(super) fn double(&mut self) -> Result<f64, ProtobufError> {
        self.fixed().map(f64::from_le_bytes)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], ProtobufError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(ProtobufError::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn varints_go_there_and_back() {
        for n in [
            0,
            1,
            127,
            128,
            16_383,
            16_384,
            u64::from(u32::MAX),
            (1 << 53) - 1,
            1 << 63,
            u64::MAX,
        ] {
            let mut out = vec![];
            put_varint(&mut out, n);
            assert_eq!(Reader::new(&out).varint(), Ok(n));
        }
        for n in [0, 1, -1, i64::MAX, i64::MIN] {
            assert_eq!(unzigzag(zigzag(n)), n);
        }
    }

    #[test]
    fn a_varint_has_at_most_64_bits() {
        assert_eq!(
            Reader::new(&[0xff; 9]).varint(),
            Err(ProtobufError::Truncated)
        );
        assert_eq!(
            Reader::new(&[0xff; 10]).varint(),
            Err(ProtobufError::VarintTooLong)
        );
        assert_eq!(
            Reader::new(&[0x80; 20]).varint(),
            Err(ProtobufError::VarintTooLong)
        );
        assert_eq!(
            Reader::new(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0]).varint(),
            Ok(0),
            "padding"
        );
        assert_eq!(
            Reader::new(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 2]).varint(),
            Err(ProtobufError::VarintTooLong)
        );
    }

    #[test]
    fn a_patched_length_makes_room() {
        for n in [0usize, 1, 127, 128, 16_383, 16_384, 1 << 21] {
            let mut out = vec![9, 0];
            out.resize(2 + n, 7);
            patch_varint(&mut out, 1, n);
            let mut expected = vec![9];
            put_varint(&mut expected, n as u64);
            expected.resize(expected.len() + n, 7);
            assert!(out == expected, "{n}");
        }
    }
}
