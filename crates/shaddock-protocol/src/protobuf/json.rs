//! JSON text in the format of JavaScript's serialiser. Signatures are computed over such text, so the format of numbers matters.

use alloc::vec::Vec;
use core::fmt::Write as _;

/// Appends a whole number.
pub(super) fn put_unsigned(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + low_digit(n);
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends a whole number with its sign.
pub(super) fn put_signed(out: &mut Vec<u8>, n: i64) {
    if n < 0 {
        out.push(b'-');
    }
    put_unsigned(out, n.unsigned_abs());
}

fn low_digit(n: u64) -> u8 {
    (n % 10) as u8
}

/// Whole numbers below this are written as plain digits.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Appends a number: the shortest digits that parse to the same number, in JavaScript's format. NaN becomes `null`, -0 becomes 0.
pub(super) fn put_float(out: &mut Vec<u8>, x: f64) {
    if !x.is_finite() {
        out.extend_from_slice(b"null");
        return;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "saturates, and is compared with the original below"
    )]
    let whole = x as i64;
    #[expect(
        clippy::cast_precision_loss,
        clippy::float_cmp,
        reason = "exact below 2^53, which is asked first"
    )]
    if -EXACT < x && x < EXACT && whole as f64 == x {
        put_signed(out, whole);
        return;
    }
    let mut text = Decimal::default();
    // `Decimal` has room for every number, so this cannot fail.
    let _ = write!(text, "{x:e}");
    text.lay_out(out);
}

/// A number as `-d.ddde-xxx`, split while it is written. At most 17 digits, 2 signs, a point, an `e` and 3 digits.
#[derive(Default)]
struct Decimal {
    negative: bool,
    digits: [u8; 17],
    len: usize,
    in_exponent: bool,
    exponent_negative: bool,
    exponent: i32,
}

impl core::fmt::Write for Decimal {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        for byte in s.bytes() {
            match byte {
                b'-' if self.in_exponent => self.exponent_negative = true,
                b'-' => self.negative = true,
                b'e' => self.in_exponent = true,
                b'0'..=b'9' if self.in_exponent => {
                    self.exponent = self.exponent * 10 + i32::from(byte - b'0');
                }
                b'0'..=b'9' => {
                    *self.digits.get_mut(self.len).ok_or(core::fmt::Error)? = byte;
                    self.len += 1;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Decimal {
    /// `Number::toString` of ECMAScript. `point` is the position of the decimal point, counted from the first digit.
    fn lay_out(&self, out: &mut Vec<u8>) {
        let digits = &self.digits[..self.len];
        let exponent = if self.exponent_negative {
            -self.exponent
        } else {
            self.exponent
        };
        let point = usize::try_from(exponent + 1).unwrap_or(0);
        if self.negative {
            out.push(b'-');
        }
        match exponent {
            0..=20 if point >= digits.len() => {
                out.extend_from_slice(digits);
                out.resize(out.len() + point - digits.len(), b'0');
            }
            0..=20 => {
                out.extend_from_slice(&digits[..point]);
                out.push(b'.');
                out.extend_from_slice(&digits[point..]);
            }
            -6..=-1 => {
                out.extend_from_slice(b"0.");
                out.resize(out.len() + exponent.unsigned_abs() as usize - 1, b'0');
                out.extend_from_slice(digits);
            }
            _ => {
                out.extend_from_slice(&digits[..1]);
                if digits.len() > 1 {
                    out.push(b'.');
                    out.extend_from_slice(&digits[1..]);
                }
                out.extend_from_slice(if exponent < 0 { b"e-" } else { b"e+" });
                put_unsigned(out, u64::from(exponent.unsigned_abs()));
            }
        }
    }
}

/// Appends a string with its quotes.
pub(super) fn put_string(out: &mut Vec<u8>, s: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let bytes = s.as_bytes();
    let mut clean = 0;
    for (i, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[clean..i]);
        clean = i + 1;
        let short = match byte {
            0x08 => b'b',
            0x09 => b't',
            0x0a => b'n',
            0x0c => b'f',
            0x0d => b'r',
            b'"' | b'\\' => byte,
            _ => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', short]);
    }
    out.extend_from_slice(&bytes[clean..]);
    out.push(b'"');
}

/// Appends a string of a client, which may not be UTF-8.
pub(super) fn put_client_string(out: &mut Vec<u8>, bytes: &[u8]) {
    match core::str::from_utf8(bytes) {
        Ok(s) => put_string(out, s),
        Err(_) => put_string(out, &crate::text::repair(bytes).0),
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::String;
    use alloc::vec;

    use super::*;

    fn float(x: f64) -> String {
        let mut out = vec![];
        put_float(&mut out, x);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_look_as_in_javascript() {
        for (x, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (0.1, "0.1"),
            (123.456, "123.456"),
            (100.0, "100"),
            (9_007_199_254_740_991.0, "9007199254740991"),
            (9_007_199_254_740_992.0, "9007199254740992"),
            (-9_007_199_254_740_994.0, "-9007199254740994"),
            (1.234_567_890_123_456_8e20, "123456789012345680000"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (-1.5e21, "-1.5e+21"),
            (0.000_001, "0.000001"),
            (0.000_001_5, "0.0000015"),
            (1e-7, "1e-7"),
            (-1.23e-7, "-1.23e-7"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::from(0.1f32), "0.10000000149011612"),
            (f64::NAN, "null"),
            (f64::INFINITY, "null"),
            (f64::NEG_INFINITY, "null"),
        ] {
            assert_eq!(float(x), text);
        }
    }

    proptest::proptest! {
        #[test]
        fn numbers_read_back_the_same(bits: u64) {
            let x = f64::from_bits(bits);
            let text = float(x);
            if x.is_finite() {
                assert_eq!(text.parse::<f64>().unwrap().to_bits(), if x == 0.0 { 0 } else { bits });
            } else {
                assert_eq!(text, "null");
            }
        }

        #[test]
        fn whole_numbers_read_back_the_same(n: i64, u: u64) {
            let mut out = vec![];
            put_signed(&mut out, n);
            out.push(b' ');
            put_unsigned(&mut out, u);
            assert_eq!(String::from_utf8(out).unwrap(), alloc::format!("{n} {u}"));
        }

        #[test]
        fn strings_are_written_as_serde_json_does(s: String) {
            let mut out = vec![];
            put_string(&mut out, &s);
            assert_eq!(out, serde_json::to_vec(&s).unwrap());
        }
    }
}
