//! Numbers of calls: a cheap hash for tables of them, and their text in reply subjects.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A table of calls by number.
pub(super) type ByNumber<T> = HashMap<u64, T, BuildNumberHasher>;

/// Hashes numbers of calls.
pub(super) type BuildNumberHasher = BuildHasherDefault<OfNumber>;

/// A hash of internal sequence numbers: callers cannot choose them, so they cannot force collisions.
#[derive(Default)]
pub(super) struct OfNumber(u64);

impl Hasher for OfNumber {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0 ^ u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // Fibonacci hashing: the table looks at the highest and the lowest bits.
        self.0 = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// Digits of the largest number.
pub(super) const DIGITS: usize = 20;

/// A number in decimal, without the machinery of `format!`: each call has one.
pub(super) fn decimal(mut number: u64, digits: &mut [u8; DIGITS]) -> &str {
    let mut start = DIGITS;
    loop {
        start -= 1;
        digits[start] = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        if number == 0 {
            break;
        }
    }
    std::str::from_utf8(&digits[start..]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_they_are_read() {
        let powers = (0..20).map(|n| 10_u64.pow(n));
        let around = powers.flat_map(|power| [power - 1, power, power + 1]);
        for number in around.chain([u64::MAX]) {
            let mut digits = [0; DIGITS];
            assert_eq!(decimal(number, &mut digits), number.to_string());
        }
    }
}
