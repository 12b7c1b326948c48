//! Signed messages: RSASSA-PKCS1-v1_5 over the text of a body.
//!
//! Clients that must sign add the member `__crypto__` to every body: the signature, in hex, of the body's text without it. Only the public
//! half of RSA is needed, and the key is the client's own; verification is one power and one comparison, without a secret.

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use md5::Md5;
use num_bigint::BigUint;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

use crate::json::check_json;
use crate::members::{Members, string};

const MEMBER: &str = "__crypto__";

/// Each bit of an exponent costs up to two multiplications per message. All libraries generate keys with 65,537 or 3.
const LARGEST_EXPONENT: u32 = 1 << 17;

/// A modulus has 512 to 4096 bits: more bits only cost the server time.
const MODULUS_BITS: core::ops::RangeInclusive<u64> = 512..=4096;

/// The characters from which on the original hashes text that is encoded twice.
const CJK: core::ops::RangeInclusive<char> = '\u{4e00}'..='\u{9fa5}';

/// The public key of a client, from its handshake (`sys.rsa`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RsaKey {
    modulus: BigUint,
    /// Odd, from 3 to [`LARGEST_EXPONENT`].
    exponent: u32,
    bits: u64,
}

/// An exponent in a handshake: a number, or decimal text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RsaExponent<'a> {
    /// A JSON number.
    Number(u64),
    /// A JSON string of decimal digits.
    Text(&'a str),
}

impl From<u64> for RsaExponent<'_> {
    fn from(n: u64) -> Self {
        Self::Number(n)
    }
}

impl<'a> From<&'a str> for RsaExponent<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

/// Which hashes a signature may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum HashPolicy {
    /// SHA-256 and SHA-512.
    #[default]
    Sha2,
    /// SHA-1 and MD5 too, as Pomelo does. Both are broken.
    Legacy,
}

/// Why a key cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The modulus is not an odd hexadecimal number of 512 to 4096 bits.
    #[error("the modulus must be an odd hexadecimal number of 512 to 4096 bits")]
    Modulus,
    /// The exponent is not an odd decimal number from 3 to 2^17.
    #[error("the exponent must be an odd decimal number from 3 to 131072")]
    Exponent,
}

/// Why a signed body is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// The body is not a JSON object.
    #[error("a signed body must be a JSON object")]
    NotAnObject,
    /// `__crypto__` is missing or not a string.
    #[error("the body is not signed")]
    NotSigned,
    /// `__crypto__` occurs more than once.
    #[error("the body is signed more than once")]
    Ambiguous,
    /// The signature has a different number of digits than the key, or is a larger number.
    #[error("the signature does not belong to a key of this size")]
    Size,
    /// The padding is invalid, the hash is unknown or not allowed, or the hash belongs to another text.
    #[error("the signature is wrong")]
    Wrong,
}

impl RsaKey {
    /// Parses modulus (hexadecimal) and exponent (decimal, text or number) of a handshake.
    ///
    /// # Errors
    /// If one of them is not a number, or is too small or too large. Every check is made before any arithmetic.
    pub fn from_handshake<'a>(
        n_hex: &str,
        e: impl Into<RsaExponent<'a>>,
    ) -> Result<Self, KeyError> {
        let digits = n_hex.trim_start_matches('0').as_bytes();
        let longest = MODULUS_BITS.end() / 4;
        if digits.len() as u64 > longest || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(KeyError::Modulus);
        }
        let modulus = BigUint::parse_bytes(digits, 16).ok_or(KeyError::Modulus)?;
        let bits = modulus.bits();
        if !MODULUS_BITS.contains(&bits) || !modulus.bit(0) {
            return Err(KeyError::Modulus);
        }
        let exponent = match e.into() {
            RsaExponent::Number(n) => u32::try_from(n).ok(),
            RsaExponent::Text(text) => text.parse().ok(),
        };
        let exponent = exponent
            .filter(|n| (3..=LARGEST_EXPONENT).contains(n) && n % 2 == 1)
            .ok_or(KeyError::Exponent)?;
        Ok(Self {
            modulus,
            exponent,
            bits,
        })
    }

    /// Size of the modulus.
    pub fn bits(&self) -> u64 {
        self.bits
    }

    /// Removes `__crypto__` and one comma from a JSON object, verifies that it is a signature of the rest, and returns the rest.
    ///
    /// For a body with CJK characters, a signature of its UTF-8 bytes is valid, and so is one of those bytes encoded once more, which the
    /// original requires.
    ///
    /// # Errors
    /// If the body is not an object, is not signed exactly once, or the signature is invalid.
    pub fn verify_json(&self, body: &[u8], policy: HashPolicy) -> Result<Vec<u8>, SignatureError> {
        let body = core::str::from_utf8(body).map_err(|_| SignatureError::NotAnObject)?;
        let signed = find_signature(body)?;
        let text = [&body[..signed.cut.start], &body[signed.cut.end..]].concat();
        let block = self.recover(&signed.signature)?;
        let (hash, digest) = Hash::recover(&block, policy).ok_or(SignatureError::Wrong)?;
        let good = hash.of(text.as_bytes()) == digest
            || (text.chars().any(|c| CJK.contains(&c))
                && hash.of(encode_twice(&text).as_bytes()) == digest);
        if good {
            Ok(text.into_bytes())
        } else {
            Err(SignatureError::Wrong)
        }
    }

    /// The padded block that was signed, as long as the modulus.
    fn recover(&self, signature: &str) -> Result<Vec<u8>, SignatureError> {
        let digits: Vec<u8> = signature.bytes().filter(u8::is_ascii_hexdigit).collect();
        if digits.len() as u64 != self.bits.div_ceil(4) {
            return Err(SignatureError::Size);
        }
        let signature = BigUint::parse_bytes(&digits, 16)
            .filter(|n| *n < self.modulus)
            .ok_or(SignatureError::Size)?;
        let mut block = self.power(&signature).to_bytes_le();
        // At most 512 bytes, by the limit on the modulus.
        block.resize(usize::try_from(self.bits.div_ceil(8)).unwrap_or(0), 0);
        block.reverse();
        Ok(block)
    }

    /// `base` to the power of the exponent, by squaring: for an exponent of 17 bits `modpow` with its tables takes four times as long.
    fn power(&self, base: &BigUint) -> BigUint {
        let below_highest_bit = self.exponent.ilog2();
        let mut result = base.clone();
        for bit in (0..below_highest_bit).rev() {
            result = &result * &result % &self.modulus;
            if self.exponent >> bit & 1 == 1 {
                result = result * base % &self.modulus;
            }
        }
        result
    }
}

/// Treats each byte of the UTF-8 form as a Latin-1 character.
fn encode_twice(text: &str) -> String {
    text.bytes().map(char::from).collect()
}

#[derive(Clone, Copy)]
enum Hash {
    Sha256,
    Sha512,
    Sha1,
    Md5,
}

impl Hash {
    /// The bytes between the padding and the digest: the DER head of a DigestInfo (RFC 8017, 9.2).
    fn head(self) -> &'static [u8] {
        match self {
            Self::Sha256 => {
                b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20"
            }
            Self::Sha512 => {
                b"\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00\x04\x40"
            }
            Self::Sha1 => b"\x30\x21\x30\x09\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00\x04\x14",
            Self::Md5 => {
                b"\x30\x20\x30\x0c\x06\x08\x2a\x86\x48\x86\xf7\x0d\x02\x05\x05\x00\x04\x10"
            }
        }
    }

    fn digest_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
            Self::Sha1 => 20,
            Self::Md5 => 16,
        }
    }

    fn of(self, text: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Sha256::digest(text).to_vec(),
            Self::Sha512 => Sha512::digest(text).to_vec(),
            Self::Sha1 => Sha1::digest(text).to_vec(),
            Self::Md5 => Md5::digest(text).to_vec(),
        }
    }

    fn allowed(policy: HashPolicy) -> &'static [Self] {
        match policy {
            HashPolicy::Sha2 => &[Self::Sha256, Self::Sha512],
            HashPolicy::Legacy => &[Self::Sha256, Self::Sha512, Self::Sha1, Self::Md5],
        }
    }

    /// Hash and digest of a block `00 01 ff .. ff 00 head digest`. Every byte is checked: a block with room for other bytes can be forged
    /// if the exponent is small.
    fn recover(block: &[u8], policy: HashPolicy) -> Option<(Self, &[u8])> {
        const LEAST_PADDING: usize = 8;
        let padding = block.strip_prefix(b"\x00\x01")?;
        let len = padding.iter().take_while(|byte| **byte == 0xff).count();
        let info = padding[len..]
            .strip_prefix(b"\x00")
            .filter(|_| len >= LEAST_PADDING)?;
        Self::allowed(policy).iter().find_map(|hash| {
            let digest = info.strip_prefix(hash.head())?;
            (digest.len() == hash.digest_len()).then_some((*hash, digest))
        })
    }
}

/// A signature, and the range of the body that is not part of the signed text.
struct Signed<'a> {
    signature: Cow<'a, str>,
    cut: Range<usize>,
}

fn find_signature(body: &str) -> Result<Signed<'_>, SignatureError> {
    check_json(body.as_bytes()).map_err(|_| SignatureError::NotAnObject)?;
    if !body.trim_ascii_start().starts_with('{') {
        return Err(SignatureError::NotAnObject);
    }
    let mut found = None;
    for member in Members::of(body).filter(|member| member.name == MEMBER) {
        let cut = match (member.comma_before, member.comma_after) {
            (Some(comma), _) => comma..member.value_at.end,
            (None, Some(comma)) => member.at..comma + 1,
            (None, None) => member.at..member.value_at.end,
        };
        if found.replace((member.value, cut)).is_some() {
            return Err(SignatureError::Ambiguous);
        }
    }
    let (value, cut) = found.ok_or(SignatureError::NotSigned)?;
    let signature = string(value).ok_or(SignatureError::NotSigned)?;
    Ok(Signed { signature, cut })
}

#[cfg(test)]
mod tests;
