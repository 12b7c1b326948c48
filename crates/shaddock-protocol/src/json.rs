//! A JSON validator without allocation and recursion, for bodies that are passed on as text.

use crate::Limits;
use crate::text::utf8_of_client;
use alloc::vec::Vec;
use bytes::Bytes;

/// Why a text is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// Unexpected byte at this position.
    #[error("not JSON at byte {0}")]
    Syntax(usize),
    /// More than [`Limits::MAX_JSON_DEPTH`] levels.
    #[error("JSON nested more than {depth} levels deep", depth = Limits::MAX_JSON_DEPTH)]
    TooDeep,
}

/// Validates that `text` is one JSON value of at most [`Limits::MAX_JSON_DEPTH`] levels. Allocates nothing, never recurses.
///
/// Accepted text has the grammar of JSON; strings are not checked for UTF-8.
///
/// # Errors
///
/// The text is not JSON, or is nested too deep.
pub fn check_json(text: &[u8]) -> Result<(), JsonError> {
    scan(text).map(|_| ())
}

/// Converts JSON from a client to text that any JSON parser accepts: valid UTF-8, no lone surrogate, not even as an escape. Copies nothing
/// if the input already is.
///
/// # Errors
///
/// It is not JSON, or nested too deep.
pub(crate) fn json_of_client(text: Bytes) -> Result<Bytes, JsonError> {
    // Before the text is repaired: a repair changes only non-ASCII bytes, and the grammar is the same before and after.
    let found = scan(&text)?;
    if found.ascii && !found.lone_surrogate {
        return Ok(text);
    }
    Ok(mended(text, found))
}

#[inline(never)]
fn mended(text: Bytes, found: Found) -> Bytes {
    let text = if found.ascii {
        text
    } else {
        utf8_of_client(text)
    };
    if found.lone_surrogate {
        Bytes::from(replace_lone_surrogates(&text))
    } else {
        text
    }
}

/// Findings of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    /// An escape is an unpaired surrogate: JavaScript writes and reads these, other parsers reject them.
    lone_surrogate: bool,
    /// No byte needs a UTF-8 check.
    ascii: bool,
}

fn scan(text: &[u8]) -> Result<Found, JsonError> {
    let mut scanner = Scanner {
        len: text.len(),
        left: text,
        lone: false,
        high: 0,
        nesting: Nesting::default(),
    };
    scanner.document()?;
    Ok(Found {
        lone_surrogate: scanner.lone,
        ascii: scanner.high & HIGHS == 0,
    })
}

struct Scanner<'a> {
    /// The length of the whole text.
    len: usize,
    /// The text that has not been scanned.
    left: &'a [u8],
    lone: bool,
    /// The bytes of strings, combined by OR: a high bit remains for non-ASCII bytes.
    high: u64,
    nesting: Nesting,
}

/// The open arrays and objects: one bit each, 1 for an object.
#[derive(Default)]
struct Nesting {
    bits: u128,
    depth: u32,
}

impl Nesting {
    fn open(&mut self, object: bool) -> Result<(), JsonError> {
        if self.depth == Limits::MAX_JSON_DEPTH {
            return Err(JsonError::TooDeep);
        }
        self.bits = self.bits << 1 | u128::from(object);
        self.depth += 1;
        Ok(())
    }

    fn close(&mut self) {
        self.bits >>= 1;
        self.depth -= 1;
    }

    const fn in_object(&self) -> bool {
        self.bits & 1 == 1
    }
}

impl Scanner<'_> {
    #[inline]
    fn document(&mut self) -> Result<(), JsonError> {
        loop {
            self.value()?;
            // Everything that this value ends.
            loop {
                let token = self.token();
                if self.nesting.depth == 0 {
                    return match token {
                        None => Ok(()),
                        other => self.unexpected(other),
                    };
                }
                let object = self.nesting.in_object();
                match token {
                    Some(b',') => {
                        if object {
                            self.key()?;
                        }
                        break;
                    }
                    Some(b'}') if object => self.nesting.close(),
                    Some(b']') if !object => self.nesting.close(),
                    other => return self.unexpected(other),
                }
            }
        }
    }

    /// A scalar or an empty array or object; or the beginning of a non-empty one, up to its first value.
    #[inline]
    fn value(&mut self) -> Result<(), JsonError> {
        loop {
            match self.token() {
                Some(b'"') => return self.string(),
                Some(b'{') => {
                    self.nesting.open(true)?;
                    match self.token() {
                        Some(b'}') => {
                            self.nesting.close();
                            return Ok(());
                        }
                        Some(b'"') => self.rest_of_key()?,
                        other => return self.unexpected(other),
                    }
                }
                Some(b'[') => {
                    self.nesting.open(false)?;
                    if self.is_next(b']') {
                        self.nesting.close();
                        return Ok(());
                    }
                }
                Some(b'-') => {
                    let first = self.bump();
                    return self.number(first);
                }
                digit @ Some(b'0'..=b'9') => return self.number(digit),
                Some(b't') => return self.literal(b"rue"),
                Some(b'f') => return self.literal(b"alse"),
                Some(b'n') => return self.literal(b"ull"),
                other => return self.unexpected(other),
            }
        }
    }

    #[inline]
    fn key(&mut self) -> Result<(), JsonError> {
        match self.token() {
            Some(b'"') => self.rest_of_key(),
            other => self.unexpected(other),
        }
    }

    /// A key behind its first quote, and the colon.
    #[inline]
    fn rest_of_key(&mut self) -> Result<(), JsonError> {
        self.string()?;
        match self.token() {
            Some(b':') => Ok(()),
            other => self.unexpected(other),
        }
    }

    /// The next byte that is not white space.
    #[inline]
    fn token(&mut self) -> Option<u8> {
        loop {
            let (&byte, left) = self.left.split_first()?;
            self.left = left;
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
        }
    }

    /// Takes this byte, and white space before it, if it is the next one.
    fn is_next(&mut self, byte: u8) -> bool {
        let before = self.left;
        if self.token() == Some(byte) {
            return true;
        }
        self.left = before;
        false
    }

    /// The rest of a string, behind its first quote.
    #[inline]
    fn string(&mut self) -> Result<(), JsonError> {
        // Most keys and many values end within a word.
        if let Some(word) = self.left.first_chunk::<8>() {
            let word = u64::from_le_bytes(*word);
            let stop = stops(word);
            let at = stop.trailing_zeros() as usize / 8;
            if stop != 0 && self.left[at] == b'"' {
                self.high |= word;
                self.left = &self.left[at + 1..];
                return Ok(());
            }
        }
        self.long_string()
    }

    #[inline(never)]
    fn long_string(&mut self) -> Result<(), JsonError> {
        loop {
            let (rest, high) = after_plain(self.left);
            self.left = rest;
            self.high |= high;
            match self.bump() {
                Some(b'"') => return Ok(()),
                Some(b'\\') => self.escape()?,
                other => return self.unexpected(other),
            }
        }
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        match self.bump() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(()),
            Some(b'u') => match escaped_unit(self.left) {
                Some((_, len, whole)) => {
                    self.lone |= !whole;
                    self.left = &self.left[len..];
                    Ok(())
                }
                None => self.wrong(),
            },
            other => self.unexpected(other),
        }
    }

    fn number(&mut self, first: Option<u8>) -> Result<(), JsonError> {
        match first {
            Some(b'0') => {}
            Some(b'1'..=b'9') => self.skip_digits(),
            other => return self.unexpected(other),
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            let _ = self.eat(b'+') || self.eat(b'-');
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.left.len();
        self.skip_digits();
        if self.left.len() == start {
            self.wrong()
        } else {
            Ok(())
        }
    }

    fn skip_digits(&mut self) {
        while let [b'0'..=b'9', left @ ..] = self.left {
            self.left = left;
        }
    }

    fn literal(&mut self, rest: &[u8]) -> Result<(), JsonError> {
        match self.left.strip_prefix(rest) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => self.wrong(),
        }
    }

    #[inline]
    fn bump(&mut self) -> Option<u8> {
        let (&byte, left) = self.left.split_first()?;
        self.left = left;
        Some(byte)
    }

    #[inline]
    fn eat(&mut self, byte: u8) -> bool {
        match self.left {
            [first, left @ ..] if *first == byte => {
                self.left = left;
                true
            }
            _ => false,
        }
    }

    #[cold]
    fn wrong(&self) -> Result<(), JsonError> {
        Err(JsonError::Syntax(self.len - self.left.len()))
    }

    /// The byte that was just consumed is invalid, or the text ended.
    #[cold]
    fn unexpected(&self, taken: Option<u8>) -> Result<(), JsonError> {
        let back = usize::from(taken.is_some());
        Err(JsonError::Syntax(
            (self.len - self.left.len()).saturating_sub(back),
        ))
    }
}

const ONES: u64 = u64::MAX / 255;
/// The high bit of every byte of a word.
const HIGHS: u64 = ONES << 7;

/// The text from the first byte on that ends or interrupts a string, and the bytes before it, combined by OR: a high bit remains for non-ASCII
/// bytes, also for a few that follow.
///
/// 32 bytes are looked at in one step, without a branch, which compilers turn into vector instructions (`benches/hot_path.rs` has the numbers).
#[inline]
fn after_plain(mut text: &[u8]) -> (&[u8], u64) {
    let mut non_ascii = 0;
    while let Some((chunk, left)) = text.split_first_chunk::<32>() {
        let (mut stop, mut high) = (0, 0);
        for &byte in chunk {
            stop |= u8::from(byte == b'"') | u8::from(byte == b'\\') | u8::from(byte < 0x20);
            high |= u8::from(!byte.is_ascii());
        }
        if stop != 0 {
            break;
        }
        non_ascii |= high;
        text = left;
    }
    let mut high = if non_ascii == 0 { 0 } else { HIGHS };
    while let Some((word, left)) = text.split_first_chunk::<8>() {
        let word = u64::from_le_bytes(*word);
        high |= word;
        let stop = stops(word);
        if stop != 0 {
            return (&text[stop.trailing_zeros() as usize / 8..], high);
        }
        text = left;
    }
    while let Some((&byte, left)) = text.split_first() {
        if matches!(byte, b'"' | b'\\' | ..0x20) {
            break;
        }
        high |= u64::from(byte);
        text = left;
    }
    (text, high)
}

/// The high bit of the first byte that is a quote, a backslash or a control character; bits of later bytes are undefined. Zero if there is
/// none.
#[inline]
const fn stops(word: u64) -> u64 {
    // With its second bit turned, a quote is 0x20, a control character still less, and everything else more.
    let quote_or_control = (word ^ (ONES * 0x02)).wrapping_sub(ONES * 0x21);
    let backslash = (word ^ (ONES * 0x5c)).wrapping_sub(ONES);
    // Borrows only run upwards, and only from a byte that was found.
    (quote_or_control | backslash) & !word & HIGHS
}

/// Reads the digits after `\u`: the unit, the number of bytes that belong to it (with the second half of a pair, if present), and whether
/// they form a character.
fn escaped_unit(text: &[u8]) -> Option<(u16, usize, bool)> {
    let first = hex_unit(text)?;
    Some(match first {
        0xd800..=0xdbff => {
            let second = text
                .get(4..)
                .and_then(|rest| rest.strip_prefix(b"\\u"))
                .and_then(hex_unit);
            match second {
                Some(0xdc00..=0xdfff) => (first, 10, true),
                _ => (first, 4, false),
            }
        }
        0xdc00..=0xdfff => (first, 4, false),
        _ => (first, 4, true),
    })
}

fn hex_unit(text: &[u8]) -> Option<u16> {
    text.first_chunk::<4>()?.iter().try_fold(0, |unit, &byte| {
        let digit = char::from(byte).to_digit(16)?;
        Some(unit << 4 | u16::try_from(digit).ok()?)
    })
}

/// `\ud83d` without its other half becomes `\ufffd`. The text is known to be JSON, so a backslash begins an escape.
fn replace_lone_surrogates(json: &[u8]) -> Vec<u8> {
    let mut text = json.to_vec();
    let mut at = 0;
    while at < text.len() {
        if text[at] != b'\\' {
            at += 1;
            continue;
        }
        let unit = text[at + 1..].strip_prefix(b"u").and_then(escaped_unit);
        match unit {
            Some((_, len, true)) => at += 2 + len,
            Some((_, _, false)) => {
                text[at + 2..at + 6].copy_from_slice(b"fffd");
                at += 6;
            }
            None => at += 2,
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use proptest::prelude::*;

    fn parses(text: &[u8]) -> bool {
        serde_json::from_slice::<serde_json::Value>(text).is_ok()
    }

    #[test]
    fn accepts_json() {
        for text in [
            "{}",
            "[]",
            "0",
            "-0",
            "1.5e+3",
            "\"\"",
            "null",
            "true",
            "false",
            " [ 1 , { \"a\" : [ ] } ] ",
            "{\"a\":{\"b\":[1,2,{}]},\"c\":\"\\u00e9\\n\"}",
            "12E5",
            "\"\\/\\b\\f\\r\\t\\\\\"",
        ] {
            assert_eq!(check_json(text.as_bytes()), Ok(()), "{text}");
            assert!(parses(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_not_json() {
        for text in [
            "",
            " ",
            "{",
            "}",
            "[1,]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "01",
            "1.",
            ".5",
            "-",
            "+1",
            "1e",
            "nul",
            "tru",
            "\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\u{1}\"",
            "[1 2]",
            "{}{}",
            "[}",
            "{]",
            "'a'",
            "NaN",
            "\u{feff}{}",
        ] {
            assert!(check_json(text.as_bytes()).is_err(), "{text}");
            assert!(!parses(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn errors_name_the_byte() {
        assert_eq!(check_json(b"{\"a\":x}"), Err(JsonError::Syntax(5)));
        assert_eq!(check_json(b"{\"a\":"), Err(JsonError::Syntax(5)));
        assert_eq!(check_json(b"[1}"), Err(JsonError::Syntax(2)));
        assert_eq!(check_json(b"{} x"), Err(JsonError::Syntax(3)));
    }

    #[test]
    fn depth_is_that_of_the_parser_behind() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let nested = |depth: usize| {
                [open.repeat(depth), String::from("1"), close.repeat(depth)].concat()
            };
            let most = Limits::MAX_JSON_DEPTH as usize;
            assert_eq!(check_json(nested(most).as_bytes()), Ok(()));
            assert!(parses(nested(most).as_bytes()));
            assert_eq!(
                check_json(nested(most + 1).as_bytes()),
                Err(JsonError::TooDeep)
            );
            assert!(!parses(nested(most + 1).as_bytes()));
        }
        assert_eq!(
            check_json("[".repeat(1 << 20).as_bytes()),
            Err(JsonError::TooDeep)
        );
    }

    #[test]
    fn lone_surrogate_escapes_are_replaced() {
        let cases = [
            (r#""\ud83d""#, r#""\ufffd""#),
            (r#""\ude00x""#, r#""\ufffdx""#),
            (r#""\ud83d\ude00""#, r#""\ud83d\ude00""#),
            (
                r#""\ud83d\ud83d\ude00\\ud83d""#,
                r#""\ufffd\ud83d\ude00\\ud83d""#,
            ),
            (r#""\ud83dA""#, r#""\ufffdA""#),
        ];
        for (sent, read) in cases {
            let text = json_of_client(Bytes::copy_from_slice(sent.as_bytes())).unwrap();
            assert_eq!(text, read.as_bytes());
            assert!(parses(&text));
        }
    }

    #[test]
    fn plain_bytes_are_counted_exactly() {
        // Chunks, words, and bytes.
        const LEN: usize = 2 * 32 + 3 * 8 + 5;
        for byte in 0..=255_u8 {
            for place in 0..LEN {
                let mut text = [b'a'; LEN];
                text[place] = byte;
                let interrupts = matches!(byte, b'"' | b'\\' | ..0x20);
                let expected = if interrupts { place } else { text.len() };
                let (rest, high) = after_plain(&text);
                assert_eq!(LEN - rest.len(), expected, "{byte:02x} at {place}");
                assert_eq!(high & HIGHS != 0, !byte.is_ascii(), "{byte:02x} at {place}");
            }
        }
    }

    #[test]
    fn clean_text_is_not_copied() {
        let sent = Bytes::from_static(b"{\"a\":\"\\u00e9\"}");
        assert_eq!(
            json_of_client(sent.clone()).unwrap().as_ptr(),
            sent.as_ptr()
        );
    }

    /// The parts of generated texts: quotes, escapes, and UTF-8 that is whole, cut short, or of halves.
    const PARTS: [&[u8]; 15] = [
        b"a",
        b"\"",
        b"{",
        b"}",
        b":",
        b"\\",
        b"\\ud83d",
        b"\xc3\xa9",
        b"\xc3",
        b"\xff",
        b"\xed\xa0\xbd",
        b"\xed\xa0\xbd\xed\xb8\x80",
        b"\xf0\x9f\x98\x80",
        b"\xf0\x9f",
        b"12345678",
    ];

    proptest! {
        /// Bytes close to JSON: the check says yes exactly if the parser does, lone surrogates and huge numbers apart.
        #[test]
        fn agrees_with_the_parser(text in r#"[\[\]{}:,"\\ \t0-9eE.+\-truefalsn a-cu]{0,24}"#) {
            let checked = json_of_client(Bytes::copy_from_slice(text.as_bytes()));
            match serde_json::from_str::<serde_json::Value>(&text) {
                Ok(_) => prop_assert!(checked.is_ok()),
                Err(error) => {
                    use alloc::string::ToString as _;
                    let beyond = error.to_string().contains("number out of range");
                    let lone = error.to_string().contains("surrogate");
                    prop_assert!(checked.is_err() || beyond || lone || parses(&checked.unwrap()));
                }
            }
        }

        #[test]
        fn plain_bytes_end_where_they_should(
            bytes in proptest::collection::vec(prop_oneof![30 => 0x23..0x5c_u8, 1 => any::<u8>()], 0..120),
        ) {
            let naive = bytes.iter().position(|&byte| matches!(byte, b'"' | b'\\' | ..0x20));
            let (rest, high) = after_plain(&bytes);
            prop_assert_eq!(bytes.len() - rest.len(), naive.unwrap_or(bytes.len()));
            let read = naive.unwrap_or(bytes.len());
            prop_assert!(bytes[..read].is_ascii() || high & HIGHS != 0);
        }

        /// The grammar is looked at before the text is mended. That must come to the same as the other way round.
        #[test]
        fn mended_after_the_check_as_before_it(
            parts in proptest::collection::vec(
                proptest::sample::select(&PARTS[..]),
                0..12,
            ),
            quoted in any::<bool>(),
        ) {
            let mut text = parts.concat();
            if quoted {
                text = [b"\"", &text[..], b"\""].concat();
            }
            let text = Bytes::from(text);
            let mended = utf8_of_client(text.clone());
            let expected = check_json(&mended).map(|()| replace_lone_surrogates(&mended)).ok();
            prop_assert_eq!(json_of_client(text).ok().map(Vec::from), expected);
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = json_of_client(Bytes::from(bytes));
        }

        #[test]
        fn accepts_what_the_serialiser_writes(text in ".{0,40}", number in any::<f64>(), flag in any::<bool>()) {
            let value = serde_json::json!({ text.clone(): [text, number, flag, null_value()] });
            prop_assert_eq!(check_json(&serde_json::to_vec(&value).unwrap()), Ok(()));
        }
    }

    fn null_value() -> serde_json::Value {
        serde_json::Value::Null
    }
}
