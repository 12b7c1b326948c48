//! Signed messages, for Pomelo servers with `useCrypto`.

use std::fmt;
use std::io;
use std::sync::Arc;

use ring::rsa::{KeyPair, PublicKeyComponents};
use ring::signature::RSA_PKCS1_SHA256;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::ser::Formatter;
use shaddock_protocol::Schema;

use crate::EncodeError;

/// The last member of a signed body.
const MEMBER: &str = "\"__crypto__\":\"";
/// The end of a body without a signature.
const UNSIGNED: &str = "\"__crypto__\":\"\"}";

/// Characters for which the original verifies text that is encoded twice.
const CJK: core::ops::RangeInclusive<char> = '\u{4e00}'..='\u{9fa5}';

/// An RSA key pair that signs requests and notifies (RSASSA-PKCS1-v1_5 with SHA-256). Cheap to clone.
///
/// Pomelo servers with `useCrypto`, and shaddock servers that require signatures, drop unsigned messages. Signing takes about a millisecond
/// of the caller's time with a key of 2,048 bits.
///
/// The original server serialises a body again before it verifies: members whose names are whole numbers then move to the front, and the
/// signature is rejected. shaddock servers verify the text that was sent.
#[derive(Clone)]
pub struct SigningKey {
    pair: Arc<KeyPair>,
    modulus: Arc<str>,
    exponent: u64,
}

/// A key that cannot be used: not PKCS#8, not RSA, or not of 2,048 to 4,096 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an RSA key in PKCS#8 with 2,048 to 4,096 bits")]
pub struct SigningKeyError;

impl SigningKey {
    /// Reads a private key in PKCS#8, PEM (`-----BEGIN PRIVATE KEY-----`).
    ///
    /// # Errors
    ///
    /// The text is not such a key.
    pub fn from_pkcs8_pem(pem: &str) -> Result<Self, SigningKeyError> {
        let der =
            PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| SigningKeyError)?;
        Self::from_pkcs8_der(der.secret_pkcs8_der())
    }

    /// Reads a private key in PKCS#8, DER.
    ///
    /// # Errors
    ///
    /// The bytes are not such a key.
    pub fn from_pkcs8_der(der: &[u8]) -> Result<Self, SigningKeyError> {
        let pair = KeyPair::from_pkcs8(der).map_err(|_| SigningKeyError)?;
        let public = PublicKeyComponents::<Vec<u8>>::from(pair.public());
        let exponent = public
            .e
            .iter()
            .try_fold(0_u64, |e, byte| {
                e.checked_mul(256)?.checked_add(u64::from(*byte))
            })
            .ok_or(SigningKeyError)?;
        Ok(Self {
            modulus: hex(&public.n).into(),
            exponent,
            pair: Arc::new(pair),
        })
    }

    /// `rsa_n` of the handshake.
    pub(crate) fn modulus(&self) -> &str {
        &self.modulus
    }

    /// `rsa_e` of the handshake.
    pub(crate) const fn exponent(&self) -> u64 {
        self.exponent
    }

    /// The JSON body with its signature as the last member.
    pub(crate) fn sign_json(&self, json: &[u8]) -> Result<Vec<u8>, EncodeError> {
        let text = std::str::from_utf8(json).map_err(|_| EncodeError::NotAnObject)?;
        let text = text.trim();
        let open = text
            .strip_suffix('}')
            .filter(|text| text.starts_with('{'))
            .ok_or(EncodeError::NotAnObject)?;
        let signature = self.signature(text)?;
        let comma = if open.trim_end() == "{" { "" } else { "," };
        Ok([open, comma, MEMBER, &signature, "\"}"]
            .concat()
            .into_bytes())
    }

    /// The same for a route with a schema, as protobuf. The signed text is the one that the server decodes: fields of the schema only, in
    /// the order of the wire.
    pub(crate) fn sign_protobuf(
        &self,
        schema: &Schema,
        route: &str,
        json: &[u8],
    ) -> Result<Vec<u8>, EncodeError> {
        let text = std::str::from_utf8(json).map_err(|_| EncodeError::NotAnObject)?;
        let open = text
            .trim()
            .strip_suffix('}')
            .ok_or(EncodeError::NotAnObject)?;
        let comma = if open.trim_end() == "{" { "" } else { "," };
        let with_member = [open, comma, UNSIGNED].concat();
        let decoded = schema.decode(route, &schema.encode(route, with_member.as_bytes())?)?;
        let decoded = String::from_utf8(decoded).map_err(|_| EncodeError::NotAnObject)?;
        // A schema without this field cannot carry a signature; the server would drop the message.
        let open = decoded.strip_suffix(UNSIGNED).ok_or(EncodeError::Signing)?;
        let signed = self.sign_json([open.trim_end_matches(','), "}"].concat().as_bytes())?;
        Ok(schema.encode(route, &signed)?)
    }

    fn signature(&self, text: &str) -> Result<String, EncodeError> {
        let twice: String;
        let text = if text.chars().any(|c| CJK.contains(&c)) {
            // Each byte of the UTF-8 form as a Latin-1 character. The original accepts nothing else, shaddock accepts both.
            twice = text.bytes().map(char::from).collect();
            &twice
        } else {
            text
        };
        let mut signature = vec![0; self.pair.public().modulus_len()];
        self.pair
            .sign(
                &RSA_PKCS1_SHA256,
                &ring::rand::SystemRandom::new(),
                text.as_bytes(),
                &mut signature,
            )
            .map_err(|_| EncodeError::Signing)?;
        Ok(hex(&signature))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("bits", &(self.pair.public().modulus_len() * 8))
            .finish_non_exhaustive()
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|nibble| char::from(DIGITS[usize::from(nibble)]))
        .collect()
}

/// Numbers as JavaScript writes them: the original server serialises a body again before it verifies.
#[derive(Debug)]
pub(crate) struct JavaScriptNumbers;

impl Formatter for JavaScriptNumbers {
    fn write_f64<W: ?Sized + io::Write>(&mut self, out: &mut W, x: f64) -> io::Result<()> {
        put_number(out, x, x)
    }

    fn write_f32<W: ?Sized + io::Write>(&mut self, out: &mut W, x: f32) -> io::Result<()> {
        put_number(out, x.into(), x)
    }
}

/// Rust writes the same shortest digits as JavaScript; only the exponent differs.
fn put_number<W: ?Sized + io::Write>(
    out: &mut W,
    value: f64,
    number: impl fmt::Display + fmt::LowerExp,
) -> io::Result<()> {
    match value.abs() {
        0.0 => out.write_all(b"0"),
        1e-6..1e21 => write!(out, "{number}"),
        1e21.. => out.write_all(format!("{number:e}").replace('e', "e+").as_bytes()),
        _ => write!(out, "{number:e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Serialize as _;
    use shaddock_protocol::{HashPolicy, RsaKey};

    const PEM: &str = include_str!("../tests/keys/rsa2048.pem");

    fn keys() -> (SigningKey, RsaKey) {
        let key = SigningKey::from_pkcs8_pem(PEM).unwrap();
        let public = RsaKey::from_handshake(key.modulus(), key.exponent()).unwrap();
        (key, public)
    }

    #[test]
    fn a_server_verifies_what_is_signed() {
        let (key, public) = keys();
        assert_eq!((public.bits(), key.exponent()), (2048, 65537));
        for text in [
            "{}",
            r#"{"a":1,"b":"x"}"#,
            r#"{"m":"你好😀"}"#,
            r#"{"m":"é"}"#,
        ] {
            let signed = key.sign_json(text.as_bytes()).unwrap();
            let verified = public.verify_json(&signed, HashPolicy::Sha2).unwrap();
            assert_eq!(String::from_utf8(verified).unwrap(), text);
        }
        for text in ["[]", "1", "", "{", "\"}\""] {
            assert_eq!(
                key.sign_json(text.as_bytes()),
                Err(EncodeError::NotAnObject),
                "{text}"
            );
        }
    }

    #[test]
    fn protobuf_bodies_are_signed_as_the_server_reads_them() {
        let (key, public) = keys();
        let schema = Schema::parse(
            r#"{"r":{"optional string a":1,"optional float f":2,"required string __crypto__":3},"bare":{"optional string a":1}}"#,
        )
        .unwrap();
        for json in [r#"{"f":0.1,"unknown":[1],"a":"x"}"#, "{}"] {
            let bytes = key.sign_protobuf(&schema, "r", json.as_bytes()).unwrap();
            let read = schema.decode("r", &bytes).unwrap();
            let text = public.verify_json(&read, HashPolicy::Sha2).unwrap();
            let expected = if json == "{}" {
                "{}"
            } else {
                r#"{"f":0.10000000149011612,"a":"x"}"#
            };
            assert_eq!(String::from_utf8(text).unwrap(), expected);
        }
        assert_eq!(
            key.sign_protobuf(&schema, "bare", b"{}"),
            Err(EncodeError::Signing)
        );
    }

    #[test]
    fn keys_that_are_none_and_secrets_that_stay() {
        assert!(SigningKey::from_pkcs8_pem("").is_err());
        assert!(SigningKey::from_pkcs8_der(b"\x30\x00").is_err());
        assert_eq!(format!("{:?}", keys().0), "SigningKey { bits: 2048, .. }");
    }

    #[test]
    fn numbers_look_as_in_javascript() {
        let values = [
            0.0, -0.0, 1.0, -2.5, 1e20, 1e21, -1.5e300, 1e-6, 1.5e-7, 0.1,
        ];
        let mut out = Vec::new();
        let mut serializer = serde_json::Serializer::with_formatter(&mut out, JavaScriptNumbers);
        values.serialize(&mut serializer).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "[0,0,1,-2.5,100000000000000000000,1e+21,-1.5e+300,0.000001,1.5e-7,0.1]"
        );
    }
}
