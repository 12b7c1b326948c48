//! zlib and gzip, as Pitaya's clients and servers use them.
//!
//! Servers write zlib. Readers accept both formats and detect them by the first bytes. Bytes after a stream are ignored.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_PARSE_ZLIB_HEADER, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// zlib's default, and that of Go's `compress/zlib`.
const LEVEL: u8 = 6;

/// Why a body could not be inflated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InflateError {
    /// Neither zlib nor gzip, damaged, or cut short.
    #[error("broken zlib or gzip stream")]
    Broken,
    /// More bytes than the caller allows.
    #[error("the inflated body is longer than {0} bytes")]
    TooLarge(usize),
}

/// Compresses to zlib (RFC 1950). The state of the compressor, some 300 KiB, is allocated for the call only.
pub fn deflate_zlib(bytes: &[u8]) -> Vec<u8> {
    miniz_oxide::deflate::compress_to_vec_zlib(bytes, LEVEL)
}

/// Inflates zlib or gzip (detected by the first two bytes) to at most `max` bytes. Memory grows with the output, never with an announced
/// length.
///
/// # Errors
/// If the stream is damaged or cut short, its checksum is wrong, or there is more than `max`.
pub fn inflate(bytes: &[u8], max: usize) -> Result<Vec<u8>, InflateError> {
    if !bytes.starts_with(&GZIP_MAGIC) {
        return Ok(inflate_stream(bytes, TINFL_FLAG_PARSE_ZLIB_HEADER, max)?.0);
    }
    let stream = after_gzip_head(bytes).ok_or(InflateError::Broken)?;
    let (out, taken) = inflate_stream(stream, 0, max)?;
    let tail = stream
        .get(taken..)
        .and_then(<[u8]>::first_chunk::<8>)
        .ok_or(InflateError::Broken)?;
    let [c0, c1, c2, c3, l0, l1, l2, l3] = *tail;
    // The length is kept modulo 2^32.
    #[expect(clippy::cast_possible_truncation, reason = "as the format says")]
    let len = out.len() as u32;
    if crc32(&out) == u32::from_le_bytes([c0, c1, c2, c3])
        && len == u32::from_le_bytes([l0, l1, l2, l3])
    {
        Ok(out)
    } else {
        Err(InflateError::Broken)
    }
}

/// Whether a handshake body is compressed, by its first bytes: such bodies have no flag.
pub fn looks_compressed(bytes: &[u8]) -> bool {
    match bytes {
        [0x78, 0x01 | 0x5e | 0x9c | 0xda, _, ..] => true,
        [a, b, _, ..] => [*a, *b] == GZIP_MAGIC,
        _ => false,
    }
}

/// The output, and the length of the stream in bytes.
fn inflate_stream(bytes: &[u8], flags: u32, max: usize) -> Result<(Vec<u8>, usize), InflateError> {
    let flags = flags | TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let mut state = Box::<DecompressorOxide>::default();
    let mut out = vec![0; bytes.len().saturating_mul(3).clamp(64, 1 << 20).min(max)];
    let (mut taken, mut len) = (0, 0);
    loop {
        let (status, read, written) = decompress(&mut state, &bytes[taken..], &mut out, len, flags);
        taken += read;
        len += written;
        match status {
            TINFLStatus::Done => {
                out.truncate(len);
                return Ok((out, taken));
            }
            TINFLStatus::HasMoreOutput if out.len() < max => {
                let room = out.len().saturating_mul(2).min(max);
                out.resize(room, 0);
            }
            TINFLStatus::HasMoreOutput => return Err(InflateError::TooLarge(max)),
            _ => return Err(InflateError::Broken),
        }
    }
}

/// The data after the head of a gzip member (RFC 1952, 2.3).
fn after_gzip_head(bytes: &[u8]) -> Option<&[u8]> {
    const HEAD_CRC: u8 = 2;
    const EXTRA: u8 = 4;
    const NAME: u8 = 8;
    const COMMENT: u8 = 16;
    const RESERVED: u8 = 0xe0;
    let (head, mut rest) = bytes.split_first_chunk::<10>()?;
    let [_, _, method, flags, ..] = *head;
    if method != 8 || flags & RESERVED != 0 {
        return None;
    }
    if flags & EXTRA != 0 {
        let (len, after) = rest.split_first_chunk()?;
        rest = after.get(usize::from(u16::from_le_bytes(*len))..)?;
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            let end = rest.iter().position(|byte| *byte == 0)?;
            rest = &rest[end + 1..];
        }
    }
    if flags & HEAD_CRC != 0 {
        rest = rest.get(2..)?;
    }
    Some(rest)
}

/// CRC-32 of gzip, by half bytes: gzip clients are rare, so a small table is enough.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 16] = {
        let mut table = [0; 16];
        let mut i = 0u32;
        while i < 16 {
            let mut crc = i;
            let mut bit = 0;
            while bit < 4 {
                crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
                bit += 1;
            }
            table[i as usize] = crc;
            i += 1;
        }
        table
    };
    let half = |crc: u32| (crc >> 4) ^ TABLE[(crc & 15) as usize];
    !bytes
        .iter()
        .fold(!0, |crc, byte| half(half(crc ^ u32::from(*byte))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `gzip -9` of "hello", with a name.
    const GZIP: &[u8] =
        b"\x1f\x8b\x08\x08\0\0\0\0\x02\x03a\0\xcbH\xcd\xc9\xc9\x07\0\x86\xa6\x106\x05\0\0\0";

    #[test]
    fn gzip_and_zlib_are_distinguished() {
        assert_eq!(inflate(GZIP, 5).unwrap(), b"hello");
        assert_eq!(inflate(&deflate_zlib(b"hello"), 5).unwrap(), b"hello");
        for head in [
            &b"\x78\x01a"[..],
            b"\x78\x5ea",
            b"\x78\x9ca",
            b"\x78\xdaa",
            b"\x1f\x8ba",
        ] {
            assert!(looks_compressed(head));
            assert!(!looks_compressed(&head[..2]), "longer than two bytes");
        }
        assert!(!looks_compressed(b"{\"code\":200}"));
        assert!(!looks_compressed(b"\x78\x02a"));
    }

    #[test]
    fn all_parts_of_a_gzip_head_are_skipped() {
        let mut bytes =
            b"\x1f\x8b\x08\x1e\0\0\0\0\x02\x03\x03\0xyzname\0comment\0\x12\x34".to_vec();
        bytes.extend_from_slice(&GZIP[12..]);
        assert_eq!(inflate(&bytes, 5).unwrap(), b"hello");
        bytes[3] |= 0x80;
        assert_eq!(inflate(&bytes, 5), Err(InflateError::Broken));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed_or_harmless() {
        let zlib = deflate_zlib(b"hello hello hello hello");
        for stream in [GZIP, &zlib] {
            let whole = inflate(stream, 100).unwrap();
            for end in 0..stream.len() {
                assert_eq!(
                    inflate(&stream[..end], 100),
                    Err(InflateError::Broken),
                    "{end}"
                );
            }
            for bit in 0..stream.len() * 8 {
                let mut bad = stream.to_vec();
                bad[bit / 8] ^= 1 << (bit % 8);
                if let Ok(out) = inflate(&bad, 100) {
                    assert_eq!(out, whole, "{bit}");
                }
            }
        }
    }

    #[test]
    fn the_bound_is_exact() {
        let zeros = vec![0; 1 << 20];
        let bomb = deflate_zlib(&zeros);
        assert!(bomb.len() < 2000);
        assert_eq!(inflate(&bomb, zeros.len()).unwrap(), zeros);
        for max in [0, 1, 1000, zeros.len() - 1] {
            assert_eq!(inflate(&bomb, max), Err(InflateError::TooLarge(max)));
        }
        assert_eq!(inflate(&deflate_zlib(b""), 0).unwrap(), b"");
    }

    #[test]
    fn what_follows_a_stream_is_ignored() {
        let mut bytes = deflate_zlib(b"hello");
        bytes.extend_from_slice(b"tail");
        assert_eq!(inflate(&bytes, 5).unwrap(), b"hello");
    }

    proptest::proptest! {
        #[test]
        fn inflate_undoes_deflate(bytes: Vec<u8>) {
            assert_eq!(inflate(&deflate_zlib(&bytes), bytes.len()).unwrap(), bytes);
        }

        #[test]
        fn any_bytes_are_taken(mut bytes: Vec<u8>, head in 0..3usize) {
            let heads: [&[u8]; 3] = [b"", b"\x78\x9c", b"\x1f\x8b\x08"];
            bytes.splice(0..0, heads[head].iter().copied());
            if let Ok(out) = inflate(&bytes, 1000) {
                assert!(out.len() <= 1000);
            }
        }
    }
}
