//! The string forms of browser clients, and a JSON check that needs no memory.
//!
//! Browser clients encode and decode UTF-16 units one by one. What they send for a character outside the BMP is CESU-8: two
//! groups of three bytes. What they read from the 4-byte form of UTF-8 is wrong text. So text from clients is repaired and JSON
//! for clients has `\ud83d\ude00` in the place of such characters.

use crate::Limits;
use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::{BufMut, Bytes, BytesMut};
use core::str;

/// Text of a client as valid UTF-8. Copies nothing if it is valid already.
///
/// Surrogate pairs in CESU-8 become one character; lone halves and other invalid bytes become U+FFFD.
pub fn utf8_of_client(bytes: Bytes) -> Bytes {
    if str::from_utf8(&bytes).is_ok() {
        return bytes;
    }
    Bytes::from(repair(&bytes).0.into_bytes())
}

/// The repaired text, and whether something was lost (an U+FFFD put in).
pub(crate) fn repair(bytes: &[u8]) -> (String, bool) {
    let mut text = String::with_capacity(bytes.len());
    let mut lost = false;
    let mut rest = bytes;
    loop {
        let error = match str::from_utf8(rest) {
            Ok(valid) => {
                text.push_str(valid);
                return (text, lost);
            }
            Err(error) => error,
        };
        let (valid, bad) = rest.split_at(error.valid_up_to());
        text.push_str(str::from_utf8(valid).unwrap_or_default());
        let taken = if let Some(character) = cesu_pair(bad) {
            text.push(character);
            6
        } else {
            lost = true;
            text.push(char::REPLACEMENT_CHARACTER);
            match (surrogate(bad), error.error_len()) {
                (Some(_), _) => 3,
                (None, Some(len)) => len,
                (None, None) => bad.len(),
            }
        };
        rest = &bad[taken..];
    }
}

/// The UTF-16 surrogate that the first three bytes encode.
fn surrogate(bytes: &[u8]) -> Option<u16> {
    match *bytes.first_chunk::<3>()? {
        [0xed, second @ 0xa0..=0xbf, third @ 0x80..=0xbf] => {
            Some(0xd000 | u16::from(second & 0x3f) << 6 | u16::from(third & 0x3f))
        }
        _ => None,
    }
}

fn cesu_pair(bytes: &[u8]) -> Option<char> {
    let units = [surrogate(bytes)?, surrogate(&bytes[3..])?];
    char::decode_utf16(units).next()?.ok()
}

/// JSON text with every character outside the BMP written as `\ud83d\ude00`. Borrowed if there is none.
///
/// In JSON text such characters occur inside strings only. Bytes that are not UTF-8 stay as they are.
pub fn escape_non_bmp(json: &[u8]) -> Cow<'_, [u8]> {
    if !has_non_bmp(json) {
        return Cow::Borrowed(json);
    }
    let mut out = Vec::with_capacity(json.len() + 32);
    write_escaped(json, |bytes| out.extend_from_slice(bytes));
    Cow::Owned(out)
}

/// Appends `escape_non_bmp(json)` to `out`.
pub(crate) fn put_escaped(json: &[u8], out: &mut BytesMut) {
    if has_non_bmp(json) {
        write_escaped(json, |bytes| out.put_slice(bytes));
    } else {
        out.put_slice(json);
    }
}

/// Whether a byte can begin a 4-byte character. Blocks without a branch inside are what the compiler makes vectors of.
fn has_non_bmp(json: &[u8]) -> bool {
    json.chunks(64).any(|block| {
        block
            .iter()
            .fold(false, |found, &byte| found | (byte >= 0xf0))
    })
}

fn write_escaped(json: &[u8], mut put: impl FnMut(&[u8])) {
    let mut rest = json;
    while let Some(place) = rest.iter().position(|&byte| byte >= 0xf0) {
        let (before, from) = rest.split_at(place);
        put(before);
        let character = from
            .first_chunk::<4>()
            .and_then(|four| str::from_utf8(four).ok())
            .and_then(|text| text.chars().next());
        rest = if let Some(character) = character {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                put(&unit_escape(*unit));
            }
            &from[4..]
        } else {
            put(&from[..1]);
            &from[1..]
        };
    }
    put(rest);
}

fn unit_escape(unit: u16) -> [u8; 6] {
    let digit = |shift: u16| b"0123456789abcdef"[usize::from(unit >> shift & 15)];
    [b'\\', b'u', digit(12), digit(8), digit(4), digit(0)]
}

/// Why a text is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// Something else was expected at this byte.
    #[error("not JSON at byte {0}")]
    Syntax(usize),
    /// More than [`Limits::MAX_JSON_DEPTH`] levels.
    #[error("JSON nested more than {depth} levels deep", depth = Limits::MAX_JSON_DEPTH)]
    TooDeep,
}

/// Whether `text` is one JSON value of at most [`Limits::MAX_JSON_DEPTH`] levels. Allocates nothing, recurses never.
///
/// # Errors
///
/// It is not.
pub fn check_json(text: &[u8]) -> Result<(), JsonError> {
    serde_json::from_slice::<serde::de::IgnoredAny>(text)
        .map(|_| ())
        .map_err(|e| JsonError::Syntax(e.column()))
}
