//! The string forms of browser clients.
//!
//! Browser clients encode and decode UTF-16 units one by one. For a character outside the BMP they send CESU-8: two groups of three bytes.
//! They misread the 4-byte form of UTF-8. So text from clients is repaired, and JSON for clients has `\ud83d\ude00` in place of such
//! characters.

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::{BufMut, Bytes, BytesMut};
use core::str;

/// Converts text of a client to valid UTF-8. Copies nothing if it is already valid.
///
/// Surrogate pairs in CESU-8 become one character; lone halves and other invalid bytes become U+FFFD.
pub fn utf8_of_client(bytes: Bytes) -> Bytes {
    if str::from_utf8(&bytes).is_ok() {
        return bytes;
    }
    Bytes::from(repair(&bytes).0.into_bytes())
}

/// The repaired text, and whether information was lost (a U+FFFD was inserted).
pub(crate) fn repair(bytes: &[u8]) -> (String, bool) {
    // Its length comes first: the text can be three times as long, and growing in steps would take twice the memory.
    let mut len = 0;
    let lost = each_repaired(bytes, |part| len += part.len());
    let mut text = String::with_capacity(len);
    each_repaired(bytes, |part| text.push_str(part));
    (text, lost)
}

/// Calls `part` for each part of the repaired text, in order. Returns whether information was lost.
fn each_repaired(bytes: &[u8], mut part: impl FnMut(&str)) -> bool {
    let mut lost = false;
    let mut rest = bytes;
    loop {
        let error = match str::from_utf8(rest) {
            Ok(valid) => {
                part(valid);
                return lost;
            }
            Err(error) => error,
        };
        let (valid, bad) = rest.split_at(error.valid_up_to());
        part(str::from_utf8(valid).unwrap_or_default());
        let (character, taken) = if let Some(character) = cesu_pair(bad) {
            (character, 6)
        } else {
            lost = true;
            let taken = match (surrogate(bad), error.error_len()) {
                (Some(_), _) => 3,
                (None, Some(len)) => len,
                (None, None) => bad.len(),
            };
            (char::REPLACEMENT_CHARACTER, taken)
        };
        part(character.encode_utf8(&mut [0; 4]));
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

/// Whether a byte can begin a 4-byte character. Blocks without branches can be vectorised by the compiler.
fn has_non_bmp(json: &[u8]) -> bool {
    json.chunks(64)
        .any(|block| block.iter().fold(0, |most, &byte| byte.max(most)) >= 0xf0)
}

/// The number of bytes that [`put_utf16`] writes.
pub(crate) fn utf16_len(text: &str) -> usize {
    text.len() + 2 * text.bytes().filter(|&byte| byte >= 0xf0).count()
}

/// Appends `text` for clients that treat every UTF-16 unit as a character: a pair is two groups of three bytes (CESU-8).
pub(crate) fn put_utf16(text: &str, out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(place) = rest.find(|c: char| c > '\u{ffff}') {
        let (before, from) = rest.split_at(place);
        out.extend_from_slice(before.as_bytes());
        let mut characters = from.chars();
        let mut units = [0; 2];
        for unit in characters
            .next()
            .unwrap_or_default()
            .encode_utf16(&mut units)
        {
            let [high, low] = unit.to_be_bytes();
            out.extend_from_slice(&[
                0xe0 | high >> 4,
                0x80 | (high & 15) << 2 | low >> 6,
                0x80 | low & 0x3f,
            ]);
        }
        rest = characters.as_str();
    }
    out.extend_from_slice(rest.as_bytes());
}

/// Whether a string in `json` may have a character outside the BMP, written out or escaped.
pub(crate) fn may_have_non_bmp(json: &[u8]) -> bool {
    has_non_bmp(json) || json.windows(2).any(|two| two == b"\\u")
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

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;
    use proptest::prelude::*;

    /// Encodes a string as a browser client does: every UTF-16 unit on its own.
    fn browser_bytes(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for unit in text.encode_utf16() {
            let [high, low] = unit.to_be_bytes();
            match unit {
                0..=0x7f => bytes.push(low),
                0x80..=0x7ff => bytes.extend([0xc0 | high << 2 | low >> 6, 0x80 | low & 0x3f]),
                _ => bytes.extend([
                    0xe0 | high >> 4,
                    0x80 | (high & 15) << 2 | low >> 6,
                    0x80 | low & 0x3f,
                ]),
            }
        }
        bytes
    }

    #[test]
    fn valid_text_is_not_copied() {
        let sent = Bytes::from("a中😀".as_bytes().to_vec());
        assert_eq!(utf8_of_client(sent.clone()).as_ptr(), sent.as_ptr());
    }

    #[test]
    fn repaired_text_takes_the_memory_of_its_length() {
        let pair_and_halves = [&b"a\xed\xa0\xbd\xed\xb8\x80"[..], &[0xff; 99]].concat();
        for bytes in [&[0x9c; 1000][..], &pair_and_halves] {
            let (text, lost) = repair(bytes);
            assert!(lost);
            assert_eq!(text.capacity(), text.len());
        }
    }

    #[test]
    fn invalid_bytes_become_one_replacement_each() {
        for (sent, read) in [
            (&b"\xff\x80a"[..], "\u{fffd}\u{fffd}a"),
            (b"\xed\xa0\xbdx", "\u{fffd}x"),
            (b"\xed\xa0\xbd\xed\xa0\xbd\xed\xb8\x80", "\u{fffd}😀"),
            (b"\xed\xb8\x80\xed\xa0\xbd", "\u{fffd}\u{fffd}"),
            (b"a\xe4\xb8", "a\u{fffd}"),
            (b"\xed\xa0", "\u{fffd}\u{fffd}"),
            (b"\xed", "\u{fffd}"),
        ] {
            assert_eq!(repair(sent), (read.to_string(), true), "{sent:02x?}");
        }
    }

    #[test]
    fn pairs_are_joined_without_loss() {
        assert_eq!(
            repair(b"\xed\xa0\xbd\xed\xb8\x80"),
            ("😀".to_string(), false)
        );
    }

    #[test]
    fn only_characters_outside_the_bmp_are_escaped() {
        assert_eq!(
            &*escape_non_bmp("{\"m\":\"中😀b\"}".as_bytes()),
            "{\"m\":\"中\\ud83d\\ude00b\"}".as_bytes()
        );
        assert!(matches!(
            escape_non_bmp("é中\u{ffff}".as_bytes()),
            Cow::Borrowed(_)
        ));
        assert_eq!(&*escape_non_bmp(b"\xf0\x9f\xff"), b"\xf0\x9f\xff");
        assert_eq!(&*escape_non_bmp(b"\xf0\x9f"), b"\xf0\x9f");
    }

    proptest! {
        #[test]
        fn browser_text_is_read_back(text in any::<String>()) {
            prop_assert_eq!(utf8_of_client(Bytes::from(browser_bytes(&text))), text.as_bytes());
        }

        #[test]
        fn browsers_read_what_is_written_for_them(text in any::<String>()) {
            let mut written = Vec::new();
            put_utf16(&text, &mut written);
            prop_assert_eq!(written.len(), utf16_len(&text));
            prop_assert_eq!(&written, &browser_bytes(&text));
            let json = serde_json::to_vec(&text).unwrap();
            let is_plain = text.chars().all(|c| c.len_utf8() < 4);
            prop_assert!(is_plain || may_have_non_bmp(&json));
        }

        #[test]
        fn repaired_text_is_utf8(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(str::from_utf8(&utf8_of_client(Bytes::from(bytes))).is_ok());
        }

        #[test]
        fn escaped_json_means_the_same(text in any::<String>()) {
            let json = serde_json::to_vec(&text).unwrap();
            let escaped = escape_non_bmp(&json);
            prop_assert!(escaped.iter().all(|&byte| byte < 0xf0));
            prop_assert_eq!(serde_json::from_slice::<String>(&escaped).unwrap(), text);
        }
    }
}
